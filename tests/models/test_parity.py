"""Every model beside its reference, run here; needs the extra `parity`.

python -m pytest -m parity tests/models
python -m pytest -m "parity and not nightly" tests/models  # small ones
"""

import functools
import importlib.util

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import nightly_except, smallest_of_each_family
from references import libraries, ours
from references.table import REFERENCES, TIMMS_NAMES
from references.weights import images

import cnn_jax
from cnn_jax.trees import named_leaves

pytestmark = pytest.mark.parity

SMALLEST = smallest_of_each_family()
# Files of up to half a gigabyte. The slow tests hold AlexNet's recorded outputs; the
# others are the code of a network that is compared.
LARGE = {"alexnet", "resnext50_32x4d", "vgg11", "wide_resnet50_2", "zfnet"}
# What both libraries compute a training step of in seconds.
STEPS = {
    *("efficientnet_cifar", "efficientnet_lite0", "lenet5", "mobilenet_v2"),
    *("mobilenet_v3_small", "nin", "nin_cifar", "plain20", "resnet18", "resnetv2_18"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "vgg8_cifar"),
}


@pytest.fixture(autouse=True)
def libraries_at_hand():
    for library in ("torch", "torchvision", "timm", "keras"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: see the extra `parity`")


def relative_distance(ours, theirs):
    """Returns the norm of the difference of two trees over the norm of the second."""
    ours, theirs = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (ours, theirs)
    )
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def through_files(name, arrays, directory):
    """Yields the variables out of each kind of file that the reference's library has.

    The files are written as that library's users do, with the arrays of a reference in
    32 bits, and with what else such files hold. They are deleted at once: all networks'
    together would be 30 GB.
    """
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    if REFERENCES[name].library == "keras":
        paths = [libraries.save_keras(REFERENCES[name], arrays, directory)]
    else:
        paths = libraries.save_torch(arrays, directory)
    for path in paths:
        loaded, report = cnn_jax.load_pretrained(name, path)
        path.unlink()
        assert set(report.loaded) == set(arrays)
        yield loaded


@pytest.mark.parametrize("name", nightly_except({*SMALLEST} - LARGE, REFERENCES))
def test_weights_give_the_same_logits(name, x64, tmp_path):
    """In float32 here, in float64 there; the recorded outputs hold the same numbers."""
    info = cnn_jax.model_info(name)
    computed = libraries.compute(
        REFERENCES[name],
        num_classes=info.num_classes,
        channels=info.input_shape[-1],
    )
    variables, _ = cnn_jax.load_pretrained(name, computed.arrays)
    # What the files hold is compared with the variables, bit by bit, and the logits of
    # these against the reference: so the networks are compiled once and not thrice.
    for loaded in through_files(name, computed.arrays, tmp_path):
        chex.assert_trees_all_equal(loaded, variables)
    x, _ = ours.example(name)
    logits_fn = ours.logits_fn(cnn_jax.create_model(name))
    logits = np.asarray(logits_fn(variables, x.astype("float32")))
    assert logits.dtype == np.float32
    worst = np.abs(logits - computed.logits).max() / np.abs(computed.logits).max()
    assert worst < 1e-4


@pytest.mark.parametrize(
    "name", nightly_except(["mobilenet_v2", "resnet18"], TIMMS_NAMES)
)
def test_timms_names_give_the_same_logits(name, x64):
    """Of models that have torchvision's implementation as their reference."""
    reference = TIMMS_NAMES[name]
    computed = libraries.compute(reference, num_classes=1000)
    # timm leaves out what only training needs.
    fields = {"aux_heads": False} if name == "inception_v3" else {}
    model = cnn_jax.create_model(name, **fields)
    variables, _ = cnn_jax.load_pretrained(model, computed.arrays, source="timm")
    x = jnp.asarray(images(reference.size, 3), "float32")
    logits = np.asarray(ours.logits_fn(model)(variables, x))
    worst = np.abs(logits - computed.logits).max() / np.abs(computed.logits).max()
    assert worst < 1e-4


@pytest.mark.parametrize("name", nightly_except(STEPS, SMALLEST))
def test_one_training_step_is_the_same(name, x64):
    """Loss, gradients and running statistics, in float64, nothing dropped."""
    info, count = cnn_jax.model_info(name), 4
    computed = libraries.compute(
        REFERENCES[name],
        num_classes=info.num_classes,
        channels=info.input_shape[-1],
        train=True,
        count=count,
    )
    model = cnn_jax.create_model(
        name, param_dtype="float64", **ours.without_dropping(name)
    )
    variables, _ = cnn_jax.load_pretrained(model, computed.arrays)
    # What came out of the step has the names of what went in.
    expected, _ = cnn_jax.load_pretrained(
        model, {**computed.gradients, **computed.statistics}
    )
    step = ours.step_fn(model, train=True)
    (loss, (logits, updates)), gradients = step(
        variables, *ours.example(name, count=count)
    )
    assert np.abs(logits - computed.logits).max() < 1e-6 * np.abs(computed.logits).max()
    assert float(loss) == pytest.approx(computed.loss, rel=1e-6)
    assert relative_distance(gradients, expected["params"]) < 1e-3
    total = np.linalg.norm(
        [np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradients)]
    )
    for path, gradient in named_leaves(gradients).items():
        theirs = named_leaves(expected["params"])[path]
        # A shift right before a normalisation has no gradient but roundings.
        if max(np.linalg.norm(gradient), np.linalg.norm(theirs)) > 1e-10 * total:
            assert relative_distance(gradient, theirs) < 1e-3, path
    if updates:
        moved, old = expected["batch_stats"], variables["batch_stats"]
        assert relative_distance(updates["batch_stats"], moved) < 1e-3
        # The step itself, not only the sum that its old part dominates.
        step_of = functools.partial(jax.tree.map, np.subtract)
        assert (
            relative_distance(step_of(updates["batch_stats"], old), step_of(moved, old))
            < 1e-3
        )
