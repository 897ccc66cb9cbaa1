#!/usr/bin/env bash
# A Cloud TPU of the types up to v6e, from the queue to its deletion.
#
#   bash experiments/cloud/tpu_vm.sh create             queue, wait, install
#   bash experiments/cloud/tpu_vm.sh train [--FIELD VALUE ...]
#                       on all workers; a preempted slice is queued for and goes on
#   bash experiments/cloud/tpu_vm.sh delete             stops paying; the bucket stays
#   bash experiments/cloud/tpu_vm.sh run COMMAND        on all workers
#   bash experiments/cloud/tpu_vm.sh status
set -euo pipefail

PROJECT=${PROJECT:?"expected PROJECT=ID, a Google Cloud project"}
ZONE=${ZONE:?"expected ZONE=NAME, a zone with TPUs of the type"}
BUCKET=${BUCKET:?"expected BUCKET=gs://NAME, best in the same region"}
PRESET=${PRESET:-v5e_8}
EXPERIMENT=${EXPERIMENT:-imagenet_resnet50}
NAME=${NAME:-cnn-jax-${PRESET//_/-}}
SPOT=${SPOT:-yes}                # no: not preempted, and dearer
POLL_SECONDS=${POLL_SECONDS:-30} # between two looks at the queue
case $PRESET in
v5e_8) default_type=v5litepod-8 default_runtime=v2-alpha-tpuv5-lite ;;
v5e_256) default_type=v5litepod-256 default_runtime=v2-alpha-tpuv5-lite ;;
v4_32) default_type=v4-32 default_runtime=tpu-ubuntu2204-base ;;
*) default_type='' default_runtime='' ;;
esac
TYPE=${TYPE:-${default_type:?"expected TYPE=..., which preset $PRESET does not say"}}
RUNTIME=${RUNTIME:-${default_runtime:?"expected RUNTIME=..., for TYPE $TYPE"}}

here=$(cd "$(dirname "$0")" && pwd)
place=(--project "$PROJECT" --zone "$ZONE")

queued() { gcloud compute tpus queued-resources "$1" "$NAME" "${place[@]}" "${@:2}"; }

look() { # sets `now` to the request's state; a question that fails is asked again
  local attempt
  for attempt in {1..20}; do
    if now=$(queued describe --format 'value(state.state)'); then return; fi
    echo "$NAME: its state is not known ($attempt of 20)" >&2
    sleep "$POLL_SECONDS"
  done
  return 1
}

run() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --quiet --worker all \
    --command "$1"
}

worker() { # a command of worker.sh with what train.sh reads
  local words
  words=$(printf ' %q' "BUCKET=$BUCKET" "EXPERIMENT=$EXPERIMENT" "PRESET=$PRESET" \
    bash experiments/cloud/worker.sh "$@")
  run "cd cnn_jax && env$words"
}

wait_for_slice() {
  local now=
  while look && [ "$now" != ACTIVE ]; do
    case $now in
    FAILED | SUSPENDED | SUSPENDING)
      echo "tpu_vm.sh: the request $NAME is $now; see: tpu_vm.sh status" >&2
      return 1
      ;;
    esac
    echo "$NAME: $now"
    sleep "$POLL_SECONDS"
  done
  [ "$now" = ACTIVE ]
}

create() {
  local options=(--node-id "$NAME" --accelerator-type "$TYPE"
    --runtime-version "$RUNTIME")
  if [ "$SPOT" = yes ]; then options+=(--spot); fi
  queued create "${options[@]}"
  wait_for_slice
  install
}

install() { # what is committed here, on all workers
  local archive
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  archive=$temporary/cnn_jax.tar.gz
  git -C "$here/../.." archive --format tar.gz --output "$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$NAME:" "${place[@]}" --quiet --worker all
  run 'mkdir -p cnn_jax && tar -xzf cnn_jax.tar.gz -C cnn_jax'
  worker install
}

delete() { queued delete --force --quiet; }

train() {
  local status now= ended
  while true; do
    status=0
    worker start "$@" && worker follow || status=$?
    if [ "$status" -eq 0 ]; then return; fi
    look
    if [ "$now" = ACTIVE ]; then
      ended=$(worker ended) || ended=
      if [ -n "$ended" ]; then
        echo "tpu_vm.sh: training ended with an error, on a slice that is there" >&2
        return "$status"
      fi
      echo "$NAME: the connection was lost, training may go on"
      sleep "$POLL_SECONDS"
      continue
    fi
    echo "$NAME: $now, queueing again"
    delete
    create
  done
}

command=${1:?"expected create, train, run, status or delete"}
shift
case $command in
create | delete) "$command" ;;
train) train "$@" ;;
run) run "${1:?"expected a command"}" ;;
status) queued describe ;;
*)
  echo "tpu_vm.sh: got '$command', expected create, train, run, status or delete" >&2
  exit 2
  ;;
esac
