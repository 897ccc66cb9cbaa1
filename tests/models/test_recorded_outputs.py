"""Every model with its reference's weights: the same logits, the same gradient.

`references.record_outputs` recorded what the references compute, so that nothing but
this project is needed here.
"""

import chex
import jax
import numpy as np
import pytest
from helpers.quick import LONG, NAMES, QUICK, nightly_except
from references import ours
from references.record_outputs import shown_logits
from references.table import REFERENCES

import cnn_jax
from cnn_jax.trees import named_leaves

GRADIENT_TOLERANCE = {"plain110": 2e-2}
"""Exceptions to 1e-3: through 110 layers without a skip, moving an image by 1e-7 moves
the gradient's norm by 0.9 % in float32."""


SECONDS = {"alexnet", "efficientnet_cifar", "mobilenet_v1_0_25", "shufflenet_v2_x0_5"}
"""Networks whose gradient takes 3 seconds or more to compile."""


def test_every_model_has_a_reference():
    assert sorted(REFERENCES) == NAMES
    assert sorted(path.stem for path in ours.RECORDED.glob("*.json")) == NAMES


@pytest.mark.parametrize(
    "name",
    [
        *nightly_except({*QUICK} - LONG - SECONDS, sorted({*NAMES} - {"alexnet"})),
        # The parity tests of every change have no network of its module.
        pytest.param("alexnet", marks=pytest.mark.slow),
    ],
)
def test_equals_its_reference(name):
    recorded, info = ours.read_recorded(name), cnn_jax.model_info(name)
    assert recorded["parameters"] == info.parameters
    variables, report = cnn_jax.load_pretrained(name, ours.reference_arrays(name))
    assert not report.initialized

    x, labels = ours.example(name)
    model = cnn_jax.create_model(name)
    (loss, (logits, _)), gradients = ours.step_fn(model)(variables, x, labels)
    logits = np.asarray(logits, np.float64)
    expected = np.asarray(recorded["logits"])
    worst = np.abs(shown_logits(logits) - expected).max() / np.abs(expected).max()
    assert worst < 1e-4
    chex.assert_trees_all_close(
        (np.linalg.norm(logits), float(loss)),
        (recorded["logits_norm"], recorded["loss"]),
        rtol=1e-4,
    )
    norm = np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradients)])
    tolerance = GRADIENT_TOLERANCE.get(name, 1e-3)
    assert norm == pytest.approx(recorded["gradient_norm"], rel=tolerance)
    # Logits of order 1, else the comparison would be of noise or of one class.
    assert 0.05 < np.std(expected) < 20
    assert all(np.isfinite(leaf).all() for leaf in named_leaves(variables).values())


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_sees_the_image(name):
    """If biases drown the image, logits prove nothing of the layers in front."""
    first, second = np.asarray(ours.read_recorded(name)["logits"])
    assert np.linalg.norm(first - second) > 0.01 * np.linalg.norm(first)


@pytest.mark.parametrize("name", NAMES)
def test_macs_equal_the_reference_and_the_published_figure(name):
    reference, recorded = REFERENCES[name], ours.read_recorded(name)
    macs = cnn_jax.model_info(name).macs
    if recorded["macs"] is not None:
        assert macs == recorded["macs"]
    if reference.published_macs is not None:
        assert macs == pytest.approx(1e6 * reference.published_macs, rel=0.01)
    assert recorded["macs"] is not None or reference.published_macs is not None
