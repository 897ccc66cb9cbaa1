"""A made-up ImageNet, in archives laid out as the publishers' own."""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")
"""WordNet numbers of four of the thousand classes."""


def write_imagenet(
    directory: pathlib.Path, *, num_train: int = 16, num_validation: int = 16
) -> None:
    """Writes `ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar`.

    The first is an archive of archives, one for each class; each class has a colour.

    Args:
      directory: Where to.
      num_train: Training images of each class.
      num_validation: Validation images of all; their labels are the real list's.
    """
    generator = np.random.default_rng(0)
    with tarfile.open(directory / "ILSVRC2012_img_train.tar", "w") as outer:
        for number, label in enumerate(CLASSES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for index in range(num_train):
                    name = f"{label}_{index}.JPEG"
                    _add(archive, name, _photograph(generator, number))
            _add(outer, f"{label}.tar", inner.getvalue())
    with tarfile.open(directory / "ILSVRC2012_img_val.tar", "w") as archive:
        for index in range(1, num_validation + 1):
            content = _photograph(generator, index % len(CLASSES))
            _add(archive, f"ILSVRC2012_val_{index:08}.JPEG", content)


def _photograph(generator: np.random.Generator, number: int) -> bytes:
    """Returns a JPEG of 90 x 75 pixels: noise over a class's own colour."""
    base = np.asarray([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 40]])
    pixels = base[number] + generator.integers(-50, 51, (75, 90, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
