"""A folder of photographs, none alike, that are quick to decode."""

import numpy as np
import pytest
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def write_folder(root, counts, size=(16, 12)):
    """Writes `root/SPLIT/CLASS/NUMBER.png` with the numbers in the pixels."""
    number = 0
    for split, count in counts.items():
        for index in range(count):
            name = CLASSES[index % len(CLASSES)]
            directory = root / split / name
            directory.mkdir(parents=True, exist_ok=True)
            pixels = np.full((*size, 3), number % 256, np.uint8)
            Image.fromarray(pixels).save(directory / f"{index:04}.png")
            number += 1
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A training split of 23 images of three classes and a test split of 7."""
    return write_folder(tmp_path_factory.mktemp("folder"), {"train": 23, "test": 7})
