"""Splits whose images get another number of channels."""

import io

import numpy as np
import PIL.Image
import pytest

from cnn_jax import data
from cnn_jax.preprocessing import Preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 1), np.uint8)
LABELS = np.arange(6) % 2


class Files:
    """Grey images, as pixels or as files."""

    name, split, class_names, fingerprint = "files", "train", ("a", "b"), "f"

    def __init__(self, *, encoded, channels=1, pixels=PIXELS):
        self.pixels = pixels
        self.features = data.Features((None, None, channels), encoded=encoded)

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        image = self.pixels[index]
        if self.features.encoded:
            file = io.BytesIO()
            PIL.Image.fromarray(image[..., 0]).save(file, "PNG")
            image = file.getvalue()
        return data.Example(image, int(LABELS[index]), str(index))


def images_of(split):
    """Returns a source's images as evaluation reads them, in batches of all six."""
    transform = data.eval_transform(Preprocessing(8, crop_fraction=1.0))
    stream = data.EvalStream(split, batch_size=6, transform=transform)
    (batch,) = stream.batches()
    return batch["image"]


@pytest.mark.parametrize("encoded", [True, False])
def test_grey_images_of_a_source_are_repeated(encoded):
    grey = Files(encoded=encoded)
    rgb = data.with_channels(grey, 3)
    assert data.num_channels(rgb) == 3
    assert (rgb.name, rgb.split, rgb.class_names) == ("files", "train", ("a", "b"))
    assert (len(rgb), rgb.fingerprint != grey.fingerprint) == (6, True)
    np.testing.assert_array_equal(images_of(rgb), images_of(grey).repeat(3, axis=-1))
    assert data.with_channels(rgb, 3) is rgb
    assert data.with_channels(grey, 1) is grey


def test_files_are_decoded_to_grey():
    rgb = Files(encoded=True, channels=3)
    grey = data.with_channels(rgb, 1)
    np.testing.assert_array_equal(images_of(grey), images_of(rgb)[..., :1])


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "stream"])
def test_pixels_in_colour_become_grey_as_by_pillow(is_whole):
    colour = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), np.uint8)
    dataset = data.Dataset("mine", "train", colour, LABELS, ("a", "b"))
    stream = Files(encoded=False, channels=3, pixels=colour)
    grey = data.with_channels(dataset if is_whole else stream, 1)
    for index, pixels in enumerate(colour):
        expected = np.asarray(PIL.Image.fromarray(pixels).convert("L"))
        np.testing.assert_array_equal(grey[index].image[..., 0], expected)


def test_grey_images_in_memory_and_in_batches_are_repeated():
    dataset = data.Dataset("digits", "train", PIXELS, LABELS, ("a", "b"))
    found = data.with_channels(dataset, 3)
    np.testing.assert_array_equal(found.images, PIXELS.repeat(3, axis=-1))
    pairs = [(PIXELS[:4], LABELS[:4]), (PIXELS[4:], LABELS[4:])]
    batches = data.Batches(pairs, split="train", class_names=("a", "b"))
    repeated = data.with_channels(batches, 3)
    assert (repeated.image_shape, batches.image_shape) == ((8, 10, 3), (8, 10, 1))
    assert repeated.fingerprint != batches.fingerprint
    for split, copies in ((repeated, 3), (batches, 1)):
        (first, second) = split.read(0)
        read = np.concatenate([first["image"], second["image"]])
        np.testing.assert_array_equal(read, PIXELS.repeat(copies, axis=-1))


@pytest.mark.parametrize(("found", "wanted"), [(2, 3), (1, 2), (1, 5), (4, 3), (3, 4)])
def test_nothing_else_is_guessed(found, wanted):
    images = PIXELS.repeat(found, axis=-1)
    dataset = data.Dataset("mine", "train", images, LABELS, ("a", "b"))
    batches = data.Batches(
        [(images, LABELS)], split="train", name="mine", class_names=("a", "b")
    )
    message = rf"^channels: got images of {found} in 'mine' for a network of {wanted}, "
    for split in (dataset, batches):
        with pytest.raises(ValueError, match=message):
            data.with_channels(split, wanted)
