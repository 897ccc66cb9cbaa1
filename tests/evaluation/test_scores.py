"""Scores of logits and labels, beside scikit-learn's and sums by hand."""

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss

from cnn_jax.evaluation.scores import Guesses, score_batch, scores_of
from cnn_jax.report.statistics import wilson_interval

NUM_CLASSES, NUM_EXAMPLES = 7, 200
NAMES = [f"class {number}" for number in range(NUM_CLASSES)]


def examples():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(NUM_EXAMPLES, NUM_CLASSES)).astype(np.float32) * 2
    labels = generator.integers(0, NUM_CLASSES - 1, NUM_EXAMPLES).astype(np.int32)
    logits[np.arange(NUM_EXAMPLES), labels] += 2
    return logits, labels


def scored(logits, labels, mask=None, **options):
    mask = np.ones(len(labels), np.float32) if mask is None else mask
    sums, guesses = jax.jit(score_batch)(logits, labels, mask)
    kept = np.flatnonzero(mask)
    arrays = {name: np.asarray(array)[kept] for name, array in guesses.items()}
    return scores_of(sums, Guesses(index=kept, **arrays), NAMES, **options)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_accuracies_and_loss():
    logits, labels = examples()
    found = scored(logits, labels)
    order = np.argsort(-logits, axis=-1)
    right = int((order[:, 0] == labels).sum())
    in_five = float((order[:, :5] == labels[:, None]).any(-1).mean())
    assert (found.num_examples, found.num_correct) == (NUM_EXAMPLES, right)
    assert found.accuracy == wilson_interval(right / NUM_EXAMPLES, NUM_EXAMPLES)
    assert found.top5_accuracy == wilson_interval(in_five, NUM_EXAMPLES)
    expected = log_loss(labels, softmax(logits), labels=range(NUM_CLASSES))
    assert found.loss == pytest.approx(expected, rel=1e-5)


def test_the_calibration_error_is_the_mean_gap_over_15_bins():
    logits, labels = examples()
    found = scored(logits, labels)
    probabilities = softmax(logits)
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    gap = 0.0
    assert len(found.bins) == 15
    for each in found.bins:
        inside = (confidence > each.low) & (confidence <= each.high)
        assert each.num_examples == inside.sum()
        if inside.any():
            assert each.accuracy == pytest.approx(right[inside].mean())
            assert each.confidence == pytest.approx(confidence[inside].mean(), rel=1e-5)
            gap += abs(each.accuracy - each.confidence) * inside.sum()
        else:
            assert each.accuracy is None
            assert each.confidence is None
    assert found.calibration_error == pytest.approx(gap / NUM_EXAMPLES, rel=1e-5)


def test_classes_and_confusions_are_scikit_learns_matrix():
    logits, labels = examples()
    found = scored(logits, labels)
    matrix = confusion_matrix(labels, logits.argmax(-1), labels=range(NUM_CLASSES))
    ours = np.zeros_like(matrix)
    for each in found.classes:
        assert each.name == NAMES[each.index]
        assert each.num_examples == matrix[each.index].sum()
        ours[each.index, each.index] = each.num_correct
    for each in found.confusions:
        ours[each.label, each.predicted] = each.num_examples
    np.testing.assert_array_equal(ours, matrix)
    # The last class has no example, and so no accuracy.
    assert [each.index for each in found.classes] == list(range(NUM_CLASSES - 1))
    counts = [each.num_examples for each in found.confusions]
    assert counts == sorted(counts, reverse=True)


def test_the_surest_mistakes_come_first():
    logits, labels = examples()
    found = scored(logits, labels, num_mistakes=5).mistakes
    probabilities = softmax(logits)
    wrong = np.flatnonzero(probabilities.argmax(-1) != labels)
    order = wrong[np.argsort(-probabilities[wrong].max(-1))][:5]
    assert [each.index for each in found] == order.tolist()
    for each in found:
        assert each.label == labels[each.index] != each.predicted
        row = probabilities[each.index]
        assert each.probability == pytest.approx(row.max(), rel=1e-5)
        assert each.label_probability == pytest.approx(row[each.label], rel=1e-4)
    assert scored(logits, labels, num_mistakes=0).mistakes == ()


def test_masked_examples_count_nowhere():
    logits, labels = examples()
    mask = (np.arange(NUM_EXAMPLES) % 3 > 0).astype(np.float32)
    kept = mask > 0
    broken = np.where(kept[:, None], logits, np.nan)
    found, expected = scored(broken, labels, mask), scored(logits[kept], labels[kept])
    assert found.num_correct == expected.num_correct
    assert found.classes == expected.classes
    assert found.confusions == expected.confusions
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    indices = np.flatnonzero(kept)
    assert [each.index for each in found.mistakes] == [
        indices[each.index] for each in expected.mistakes
    ]


def test_fewer_than_five_classes_have_no_top_five():
    logits, labels = examples()
    assert scored(logits[:, :4], labels % 4).top5_accuracy is None


def test_all_right_is_no_confusion():
    _, labels = examples()
    found = scored(np.eye(NUM_CLASSES, dtype=np.float32)[labels] * 9, labels)
    assert found.accuracy.mean == 1.0
    assert found.confusions == ()
    assert found.mistakes == ()


def test_no_example_is_an_error():
    logits, labels = examples()
    with pytest.raises(ValueError, match="no example that can be read"):
        scored(logits, labels, np.zeros(NUM_EXAMPLES, np.float32))
