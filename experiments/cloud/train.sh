#!/usr/bin/env bash
# Trains one of the experiments on this machine, with its checkpoints and its compiled
# programs in a bucket: what a TPU VM, a pod and a SkyPilot task all run. Started again,
# here or elsewhere, it goes on from the newest checkpoint.
#
#   BUCKET=gs://NAME PRESET=v5e_8 bash experiments/cloud/train.sh [--FIELD VALUE ...]
#
# It ends with the experiment's exit status: 75 means "start me again".
set -euo pipefail

BUCKET=${BUCKET:?"expected BUCKET=gs://NAME, where data, checkpoints and programs are"}
EXPERIMENT=${EXPERIMENT:-imagenet_resnet50} # a file of experiments/
PRESET=${PRESET:-v5e_8}                     # what its --help lists
RUN=${RUN:-$EXPERIMENT-$PRESET}             # the run's name in the bucket
DATA_DIR=${DATA_DIR:-$BUCKET/tfds}          # a local copy is faster to read
RUN_DIR=${RUN_DIR:-${HOME:-/tmp}/runs/$RUN} # local: logs, metrics, the report
PYTHON=${PYTHON:-python}

cd "$(dirname "$0")/../.."
# JAX's own variable: programs that one machine compiled are read by the next.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR-$BUCKET/programs}

# The first process of a container is the only one that is told to end, and passes it
# on. Elsewhere all processes are told, and a second signal would end the run unsaved.
# shellcheck disable=SC2329 # the trap calls it
stop() {
  if [ $$ -eq 1 ] && [ -n "${!:-}" ]; then kill -TERM "$!" || true; fi
}
trap stop TERM

"$PYTHON" "experiments/$EXPERIMENT.py" --preset "$PRESET" --data-dir "$DATA_DIR" \
  --run-dir "$RUN_DIR" --checkpoint-dir "$BUCKET/runs/$RUN/checkpoints" \
  --resume "$@" &
child=$!
wait "$child" || true
while kill -0 "$child" 2>/dev/null; do # a signal ends the waiting, not the child
  wait "$child" || true
done
# It may have ended before the loop looked; bash keeps its status.
status=0
wait "$child" || status=$?

# Only the first process of a run has written files.
if [ -e "$RUN_DIR/config.json" ]; then
  "$PYTHON" -c 'if True:
    import sys, fsspec
    system, path = fsspec.core.url_to_fs(sys.argv[2])
    system.put(sys.argv[1] + "/", path, recursive=True)
  ' "$RUN_DIR" "$BUCKET/runs/$RUN/files/" ||
    echo "train.sh: the files of $RUN_DIR could not be copied to $BUCKET" >&2
fi
exit "$status"
