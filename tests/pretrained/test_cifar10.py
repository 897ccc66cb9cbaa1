"""Weights that others trained, and the accuracy that they are known to have."""

import os
import pathlib

import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax.data import load_dataset, normalize

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("CNN_JAX_DATA") or ROOT / ".." / "shared")
WEIGHTS = SHARED / "weights" / "cifar10_resnet20.safetensors"


@pytest.mark.slow
def test_resnet20_classifies_as_many_of_cifar10_as_its_authors_say():
    if not WEIGHTS.is_file() or not (SHARED / "tfds" / "cifar10").is_dir():
        pytest.skip(f"no {WEIGHTS} or no tfds/cifar10 beside it; set CNN_JAX_DATA")
    variables, report = cnn_jax.load_pretrained("resnet20", WEIGHTS)
    assert len(report.loaded) == 97
    assert not report.cast
    model = cnn_jax.create_model("resnet20")
    info = cnn_jax.model_info("resnet50")  # ImageNet's mean and deviation

    @jax.jit
    def num_right(images, labels):
        logits = model.apply(
            variables, normalize(images, info.mean, info.std), train=False
        )
        return (logits.argmax(-1) == labels).sum()

    test = load_dataset("cifar10", "test", data_dir=SHARED / "tfds", progress=False)
    batches = zip(np.split(test.images, 10), np.split(test.labels, 10), strict=True)
    assert sum(int(num_right(*batch)) for batch in batches) == 8103
