"""Studies: named panels of training runs and measurements, and one page of results.

    study = Study(
        name="skip", title="Skip connections",
        panels=(
            Panel(
                name="depth", title="Depth", question="Does depth help?",
                variants=(Variant("plain20", network("plain20")), ...),
                effects=(Effect("Plain networks degrade", "plain56", "plain20",
                                "train_loss", "higher"),),
            ),
        ),
        recipe={"learning_rate": 0.1}, sizes={"smoke": Size(...), "default": ...},
    )
    sys.exit(main(study, description=__doc__))

panel.py     what a study consists of: variants, effects, charts, measurements
metrics.py   what is compared: accuracies, losses, times, counts
config.py    the command line: data, size, seeds, directory
training.py  trains every variant with every seed, and keeps what is finished
effects.py   paired comparisons over the seeds, and the sentences that they support
page.py      tables, charts, page and summary, from the results alone
run.py       the whole study
"""

from cnn_jax.studies.config import StudyConfig
from cnn_jax.studies.panel import (
    Context,
    Effect,
    LineChart,
    Measurement,
    Panel,
    ScatterChart,
    Size,
    Study,
    Variant,
    network,
)
from cnn_jax.studies.run import main, run_study

__all__ = [
    "Context",
    "Effect",
    "LineChart",
    "Measurement",
    "Panel",
    "ScatterChart",
    "Size",
    "Study",
    "StudyConfig",
    "Variant",
    "main",
    "network",
    "run_study",
]
