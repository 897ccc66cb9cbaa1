"""A study of two networks that compile in a moment."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import pytest

from cnn_jax.layers import Dense
from cnn_jax.report import html
from cnn_jax.studies import (
    Effect,
    LineChart,
    Measurement,
    Panel,
    ScatterChart,
    Size,
    Study,
    Variant,
)


class Pixels(nn.Module):
    """Dense layers on the pixels.

    Attributes:
      num_classes: The number of logits.
      features: The features of a hidden layer; 0 for none.
      scale: What the logits are multiplied by.
      dtype: The dtype of the computation.
    """

    num_classes: int
    features: int = 0
    scale: float = 1.0
    dtype: object = None
    param_dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns the logits."""
        x = x.reshape(len(x), -1)
        if self.features:
            x = nn.relu(Dense(self.features, name="hidden")(x))
        return self.scale * Dense(self.num_classes, name="head")(x)


def make(**fields):
    return functools.partial(Pixels, **fields)


LINEAR = Variant("linear", make(), series="linear", position=1.0)
HIDDEN = Variant("hidden", make(features=16), series="hidden", position=1.0)
FEW = Variant("linear, half", make(), share=0.5, series="linear", position=0.5)
STOPPED = Variant(
    "stopped",
    make(features=16),
    {"validation_fraction": 0.2, "patience": 1, "learning_rate": 1e-6, "epochs": 4},
)
OVERFLOWING = Variant("overflowing", make(scale=1e30))


@pytest.fixture(scope="module")
def calls():
    """Contexts that the study's measurement was called with."""
    return []


@pytest.fixture(scope="module")
def study(calls):
    """A study of three panels: one that trains, one that fails, one that measures."""

    def measure(context):
        calls.append(context)
        return {"examples": len(context.splits["train"]), "runs": len(context.runs)}

    count = Measurement(
        "count",
        measure,
        lambda found: [html.Paragraph(f"{found['examples']} examples shown")],
        lambda found: [f"There are {found['examples']} examples."],
        failures=lambda found: ["No run."] if not found["runs"] else [],
    )
    return Study(
        name="pixels",
        title="Pixels",
        panels=(
            Panel(
                "networks",
                "Networks",
                "Which?",
                variants=(LINEAR, HIDDEN, FEW),
                effects=(
                    Effect("A: B", "hidden", "linear", "train_loss", "lower"),
                    Effect("C", "linear", "linear, half", "test_accuracy", "higher"),
                ),
                charts=(
                    LineChart("Lines", "test_accuracy", "share", is_log=True),
                    ScatterChart("Points"),
                ),
                measurements=(count,),
            ),
            Panel(
                "failures",
                "Failures",
                "What if?",
                variants=(LINEAR, OVERFLOWING),
                effects=(Effect("D", "overflowing", "linear", "gap", "higher"),),
                measurements=(count,),
            ),
            Panel("stopping", "Stopping", "When?", variants=(STOPPED,)),
        ),
        recipe={"batch_size": 32, "learning_rate": 0.05},
        sizes={
            "smoke": Size(16, 8, 1, 2),
            "default": Size(20, 10, 2, 3),
            "results": Size(50, 20, 2, 3),
            "full": Size(0, 0, 2, 3),
        },
    )
