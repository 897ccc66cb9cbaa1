"""Sums over batches, and what they say of a split, against NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import eval_step, evaluation_metrics, zero_sums


class Given:
    """A state whose network returns the images, which are the logits."""

    evaluated_variables = None

    @staticmethod
    def apply_fn(variables, images, *, train):
        assert not train
        return images


@pytest.fixture
def outcome(generator):
    """Logits of 200 examples, often right, and the labels."""
    labels = generator.integers(0, 10, 200)
    logits = generator.normal(size=(200, 10)) * 2
    logits[np.arange(200), labels] += 4
    return logits.astype(np.float32), labels


def summed(batches, num_classes):
    sums = zero_sums(num_classes)
    step = jax.jit(lambda batch: eval_step(Given, batch))
    for batch in batches:
        sums = jax.tree.map(jnp.add, sums, step(batch))
    return jax.device_get(sums)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return exponentials / exponentials.sum(-1, keepdims=True)


def calibration_error(probabilities, labels, num_bins=15):
    """Guo et al.'s equation 3, bin by bin."""
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == labels
    edges = np.linspace(0, 1, num_bins + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            total += inside.mean() * gap
    return total


def test_the_metrics_of_a_split_equal_numpy(outcome):
    logits, labels = outcome
    mask = np.ones(60, np.float32)
    mask[20:] = 0
    last = np.full((60, 10), np.nan, np.float32)
    last[:20] = logits[180:]
    batches = [
        {"image": logits[:90], "label": labels[:90]},
        {"image": logits[90:180], "label": labels[90:180]},
        {"image": last, "label": np.resize(labels[180:], 60), "mask": mask},
    ]
    found = evaluation_metrics(summed(batches, 10))
    probabilities = softmax(logits)
    places = (-logits).argsort(-1)
    expected = {
        "loss": -np.log(probabilities[np.arange(200), labels]).mean(),
        "accuracy": (places[:, 0] == labels).mean(),
        "top5_accuracy": (places[:, :5] == labels[:, None]).any(-1).mean(),
        "calibration_error": calibration_error(probabilities, labels),
        "num_examples": 200,
    }
    assert 0.5 < expected["accuracy"] < expected["top5_accuracy"] < 1
    assert expected["calibration_error"] > 0.02
    assert found == pytest.approx(expected, rel=1e-5)


def test_probabilities_count_as_their_likeliest_class(outcome):
    logits, labels = outcome
    soft = 0.6 * np.eye(10)[labels] + 0.04
    of_classes, of_probabilities = (
        summed([{"image": logits, "label": jnp.asarray(each)}], 10)
        for each in (labels, soft.astype(np.float32))
    )
    for name in of_classes.keys() - {"loss"}:
        np.testing.assert_array_equal(of_classes[name], of_probabilities[name])


def test_few_classes_have_no_top_five():
    logits = np.float32([[2.0, 0, 0, 0], [0, 1, 0, 0]])
    found = evaluation_metrics(
        summed([{"image": logits, "label": np.int32([0, 2])}], 4)
    )
    assert found["accuracy"] == 0.5
    assert "top5_accuracy" not in found


def test_a_constant_network_guesses_five_of_ten():
    logits = np.zeros((10, 10), np.float32)
    sums = summed([{"image": logits, "label": np.arange(10)}], 10)
    assert sums["top5_correct"] == 5
    assert sums["correct"] == 1


@pytest.mark.parametrize(("confidence", "index"), [(1.0, 14), (0.5, 7), (0.8, 11)])
def test_a_bin_holds_its_upper_end(confidence, index):
    logits = np.log(np.float32([[confidence, 1 - confidence]]) + 1e-30)
    sums = summed([{"image": logits, "label": np.int32([0])}], 2)
    expected = np.eye(15)[index]
    np.testing.assert_array_equal(sums["bin_count"], expected)
    np.testing.assert_array_equal(sums["bin_correct"], expected)
    np.testing.assert_allclose(sums["bin_confidence"], expected * confidence, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_labels_of_any_width_count_the_same(generator, dtype):
    # More classes than a byte counts, of which the labels are the first.
    logits = generator.normal(size=(50, 300)).astype(np.float32)
    labels = generator.integers(0, 128, 50)
    logits[np.arange(50), labels] += 3
    wide, narrow = (
        summed([{"image": logits, "label": labels.astype(each)}], 300)
        for each in (np.int32, dtype)
    )
    assert 0 < wide["correct"] < wide["top5_correct"] < 50
    jax.tree.map(np.testing.assert_array_equal, narrow, wide)


def test_a_split_beyond_what_a_float32_counts_is_counted():
    batch = {"image": jnp.eye(6)[:3], "label": jnp.asarray([0, 1, 0])}
    sums = zero_sums(6)
    counted = {"count", "correct", "top5_correct", "bin_count", "bin_correct"}
    assert {name for name in sums if sums[name].dtype == jnp.int32} == counted
    sums = {**sums, "count": jnp.int32(2**24), "correct": jnp.int32(2**24)}
    sums = jax.tree.map(jnp.add, sums, jax.jit(lambda b: eval_step(Given, b))(batch))
    assert (int(sums["count"]), int(sums["correct"])) == (2**24 + 3, 2**24 + 2)
    assert evaluation_metrics(sums)["num_examples"] == 2**24 + 3


@pytest.mark.parametrize("dtype", [bool, np.uint8, jnp.bfloat16, np.float32])
def test_a_mask_of_any_dtype_counts(dtype):
    images = jnp.zeros((700, 3))
    mask = (np.arange(700) < 601).astype(dtype)
    batch = {"image": images, "label": np.zeros(700, np.int32), "mask": mask}
    found = summed([batch], 3)
    assert (found["count"], found["correct"]) == (601, 601)
    assert found["loss"] == pytest.approx(601 * np.log(3), rel=1e-5)
