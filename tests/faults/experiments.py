"""An experiment as a user starts it, in a process that may be disturbed."""

from helpers.run_files import read_end

from cnn_jax.checkpoint import Checkpointer

NUM_STEPS = 30  # in three epochs
STEPS = (4, 8, 10, 12, 16, 20, 24, 28, 30)
"""The steps that are saved. Digits are learned fast: both epochs that end before the
last are the best by then, so that 10 is saved, too."""

ARGUMENTS = (
    *("--model", "lenet5", "--dataset", "digits", "--batch-size", "128"),
    *("--epochs", "3", "--learning-rate", "0.02", "--validation-fraction", "0.05"),
    *("--checkpoint-every-steps", "4", "--log-every-steps", "1", "--ema-decay", "0.9"),
)


class Experiment:
    """An experiment in a run directory of its own.

    Attributes:
      run_dir: The directory.
      output: What the last process of it printed.
    """

    def __init__(self, server, run_dir):
        self._server = server
        self.run_dir = run_dir
        self.output = ""

    def start(self, *options, **plan):
        """Runs it, or resumes it with `--resume`; returns the exit status.

        Args:
          *options: Further options of the command line.
          **plan: What befalls it, see `faults.runs`.
        """
        log = self.run_dir.parent / "log"
        arguments = [*ARGUMENTS, "--run-dir", str(self.run_dir), *options]
        status = self._server(arguments=arguments, output=str(log), **plan)
        self.output = log.read_text()
        return status

    @property
    def last_line(self):
        """The last line that was printed."""
        return self.output.splitlines()[-1]

    @property
    def steps(self):
        """The checkpoints that count."""
        with Checkpointer(self.run_dir / "checkpoints", read_only=True) as reader:
            return reader.steps


def assert_goes_on(experiment, undisturbed, step):
    """Has it resumed; it must go on from a step and end as if nothing had happened."""
    assert experiment.start("--resume") == 0, experiment.output
    assert f"Resuming at step {step} of {NUM_STEPS}." in experiment.output
    assert read_end(experiment.run_dir) == undisturbed
