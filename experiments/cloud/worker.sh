#!/usr/bin/env bash
# What tpu_vm.sh has each TPU VM do.
#
#   bash experiments/cloud/worker.sh install   Python, this project, libtpu
#   bash experiments/cloud/worker.sh start     train.sh, detached, again after status 75
#   bash experiments/cloud/worker.sh follow    shows the log; ends with train.sh's status
#   bash experiments/cloud/worker.sh ended     says that status, once there is one
set -euo pipefail

PYTHON_VERSION=${PYTHON_VERSION:-3.12} # the images' own is too old
EXTRAS=${EXTRAS:-tpu,report}
RETRY_SECONDS=${RETRY_SECONDS:-10} # before starting again

cd "$(dirname "$0")/../.."
self=$PWD/experiments/cloud/worker.sh
log=$PWD/train.log status_file=$PWD/train.status
lock=$PWD/train.lock pid_file=$PWD/train.pid

install() {
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --allow-existing --python "$PYTHON_VERSION" .venv
  python3 -m uv pip install --quiet --python .venv/bin/python -e ".[$EXTRAS]" gcsfs
}

run_until_done() {
  exec 9>"$lock"
  flock --nonblock 9 || return 0 # it is running already
  rm -f "$status_file"
  echo $$ >"$pid_file"
  local status=75
  while [ "$status" -eq 75 ]; do
    status=0
    # The lock is this script's, not what outlives it.
    PYTHON=$PWD/.venv/bin/python bash experiments/cloud/train.sh "$@" 9>&- || status=$?
    [ "$status" -ne 75 ] || sleep "$RETRY_SECONDS"
  done
  echo "$status" >"$status_file"
}

start() {
  flock --nonblock "$lock" rm -f "$pid_file" || return 0 # it is running already
  nohup setsid bash "$self" run "$@" </dev/null >>"$log" 2>&1 &
  until [ -s "$pid_file" ]; do sleep 0.1; done
}

follow() {
  tail --lines=+1 --follow=name --pid="$(cat "$pid_file")" "$log" || true
  exit "$(cat "$status_file")"
}

ended() {
  if [ -e "$status_file" ]; then echo "train.sh ended with $(cat "$status_file")"; fi
}

command=${1:?"expected install, start, follow or ended"}
shift
case $command in
install) install ;;
start) start "$@" ;;
run) run_until_done "$@" ;;
follow) follow ;;
ended) ended ;;
*)
  echo "worker.sh: got '$command', expected install, start, follow or ended" >&2
  exit 2
  ;;
esac
