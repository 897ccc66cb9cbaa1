"""Processes that can be killed cheaply: a program imports once, then forks.

A program of this folder calls `serve`; a test talks to it through a `Server`. For every
plan, a line of JSON, the program forks a child before JAX has started a thread, and
answers how the child ended: a kill costs the time of a run, not of an import.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from cnn_jax.checkpoint import points

ROOT = pathlib.Path(__file__).parents[2]
HUNG = "hung"


def serve(carry_out):
    """Has a child carry out every plan on the input and answers its exit status.

    A plan is a mapping. Of its keys, `seconds` is when to kill the child, `timeout`
    when to give it up, and `output` the file that gets what it prints.
    """
    for line in sys.stdin:
        plan = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            break
        print(json.dumps([child, _status(child, plan)]), flush=True)
    else:
        return
    # Below here is the child, which ends as any program does, in a group of its own.
    os.setpgid(0, 0)
    if "output" in plan:
        output = os.open(plan["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, sys.stderr.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    carry_out(plan)


def _status(child, plan):
    if "seconds" in plan:
        time.sleep(plan["seconds"])
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + plan.get("timeout", 120)
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HUNG


def at_point(point, save, function):
    """Has a function called when this process's saves reach a point.

    Args:
      point: One of `points.POINTS`.
      save: The number of the first save that counts, from 1.
      function: Called in the thread that is there, every time.
    """
    begun = []

    def on_reach(reached):
        begun.extend([None] * (reached == "save_begins"))
        if reached == point and len(begun) >= save:
            function()

    points.on_reach = on_reach


def kill_self(*, group=False):
    """Ends this process as `kill -9` does, perhaps with its workers at once."""
    if group:
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def environment(**others):
    """Returns the variables of a process that runs what is in this folder."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
        + " --xla_force_host_platform_device_count=1",
        **others,
    }


class Server:
    """A program that serves, and the plans that it is given.

    Args:
      program: The program, a file of this folder.
      wrapper: The command that it is started under.
      variables: Those that it gets beside this process's.

    Attributes:
      environment: All of its variables.
      pids: The processes that carried out the plans.
    """

    def __init__(self, program, *, wrapper=(), **variables):
        self.pids = []
        self.environment = environment(**variables)
        self.process = subprocess.Popen(
            [
                *(*wrapper, sys.executable, "-W", "ignore::DeprecationWarning"),
                *("-W", "ignore::RuntimeWarning"),  # of forking beside threads
                ROOT / "tests" / "faults" / program,
            ],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, **plan):
        """Has a plan carried out; returns the exit status, or `HUNG`."""
        self.process.stdin.write(json.dumps(plan) + "\n")
        self.process.stdin.flush()
        pid, status = json.loads(self.process.stdout.readline())
        self.pids.append(pid)
        return status

    def close(self):
        """Ends the program."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
