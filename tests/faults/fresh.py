"""One whole training run in a process of its own, from its first import on.

    python fresh.py PLAN

Says on standard output that it has begun; the plan is that of a tiny run, as in `runs`.
"""

import signal

from cnn_jax import program

if __name__ == "__main__":
    # A shell has its background jobs ignore SIGINT, and they their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program.begin()
    print("begun", flush=True)

import json
import sys


def main():
    plan = json.loads(sys.argv[1])
    try:
        with program.signals(is_run=True):
            from cnn_jax.training.run.stopping import RunStoppedError
            from faults.runs import train

            try:
                train(plan["variant"], plan["run_dir"], resume=plan["resume"])
            except RunStoppedError as error:
                print(error, file=sys.stderr)
                sys.exit(program.STOPPED_EXIT_CODE)
    except program.Stopped as stopped:
        sys.exit(program.status_of(stopped, is_run=True))


if __name__ == "__main__":
    main()
