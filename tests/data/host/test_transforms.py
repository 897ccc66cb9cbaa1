"""Host transforms beside independent formulas."""

import colorsys
import dataclasses
import importlib.util
import pickle
import re

import numpy as np
import pytest
from PIL import Image
from references import libraries

from cnn_jax.data import eval_transform, train_transform
from cnn_jax.data.host import (
    POLICIES,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    RandAugment,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
)
from cnn_jax.data.host.color import turn_hue
from cnn_jax.data.host.learned import AUTO_AUGMENT, RAND_AUGMENT
from cnn_jax.data.host.operations import OPERATIONS
from cnn_jax.preprocessing import Preprocessing


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def pixels(generator):
    return generator.integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def image(pixels):
    return Image.fromarray(pixels)


def apply(name, image, strength, direction=1):
    return np.asarray(OPERATIONS[name](image, strength, direction))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(1, 1), (4000, 1), (1, 400), (37, 21)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_policy_gives_one_size_for_any_image(policy, size, mode):
    transform = train_transform(policy, 16)
    image = Image.effect_noise(size, 60).convert(mode)
    for seed in range(5):
        result = transform(image, rng(seed))
        assert (result.size, result.mode) == ((16, 16), mode)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_follow_their_generator_and_can_be_sent_to_a_process(policy, image):
    transform = train_transform(policy, 16)
    again = pickle.loads(pickle.dumps(transform))
    assert again == transform
    results = [np.asarray(transform(image, rng(seed))) for seed in range(6)]
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(again(image, rng(seed)), result)
    num_different = len({result.tobytes() for result in results})
    assert num_different == (1 if policy == "none" else 6)


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'randaugment'"):
        train_transform("randaugmnt", 16)


def test_a_crop_of_everything_is_a_resize(image):
    crop = RandomResizedCrop(16, scale=(1, 1), ratio=(32 / 24, 32 / 24))
    expected = image.resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(crop(image, rng()), expected)


def test_crops_have_the_areas_ratios_and_places_asked_for():
    crop, random = RandomResizedCrop(8), rng()
    boxes = np.asarray([crop.draw((300, 200), random) for _ in range(3000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 300
    assert bottom.max() <= 200
    width, height = right - left, bottom - top
    share, ratio = width * height / 60000, width / height
    assert 0.075 < share.min() < 0.1
    assert 0.85 < share.max() < 0.89  # 200 x 267 pixels at most
    assert 0.73 < ratio.min() < 0.78
    assert 1.30 < ratio.max() < 1.36
    # Uniform in area, log-uniform in ratio, without the parts that do not fit.
    areas = np.linspace(0.08, 1, 500)[:, None] * 60000
    ratios = np.geomspace(3 / 4, 4 / 3, 500)[None]
    fits = (np.sqrt(areas * ratios) <= 300) & (np.sqrt(areas / ratios) <= 200)
    expected = (fits * areas).sum() / fits.sum() / 60000
    assert share.mean() == pytest.approx(expected, abs=0.015)  # four deviations
    # Small parts are anywhere.
    small = share < 0.2
    assert left[small].mean() == pytest.approx((300 - width[small]).mean() / 2, rel=0.1)


@pytest.mark.parametrize(
    ("size", "box"), [((400, 10), (13, 10)), ((10, 400), (10, 13))]
)
def test_the_fallback_is_the_largest_centred_part(size, box):
    crop = RandomResizedCrop(8, scale=(0.9, 1.0))
    left, top, right, bottom = crop.draw(size, rng())
    assert (right - left, bottom - top) == box
    assert abs(left + right - size[0]) <= 1
    assert abs(top + bottom - size[1]) <= 1


def test_the_centre_crop_shows_the_middle():
    rows, columns = np.mgrid[:64, :96].astype(np.uint8)
    image = Image.fromarray(np.stack([rows, columns, rows], -1))
    whole = np.asarray(CenterCrop(64, fraction=1.0)(image))
    np.testing.assert_array_equal(whole, np.asarray(image)[:, 16:80])
    half = np.asarray(CenterCrop(32, fraction=0.5)(image))
    np.testing.assert_array_equal(half, np.asarray(image)[16:48, 32:64])


def test_evaluation_is_resize_then_crop(image):
    smooth = Image.effect_mandelbrot((512, 384), (-2, -1, 1, 1), 50).convert("RGB")
    found = np.asarray(eval_transform(Preprocessing(224))(smooth)).astype(float)
    resized = smooth.resize((341, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((58, 16, 58 + 224, 16 + 224))).astype(float)
    # One resampling instead of two; a shift by half a pixel would double it.
    assert np.abs(found - expected).mean() < 3


def test_flips(image, pixels):
    np.testing.assert_array_equal(RandomFlip(1.0)(image, rng()), pixels[:, ::-1])
    assert RandomFlip(0.0)(image, rng()) is image
    flipped = sum(RandomFlip()(image, rng(seed)) is not image for seed in range(400))
    assert 160 < flipped < 240


def grey(pixels):
    """The luma of ITU-R 601, as images are converted to grey."""
    return np.asarray(Image.fromarray(pixels).convert("L")).astype(float)


def blend(first, second, factor):
    return np.clip(first + factor * (second.astype(float) - first), 0, 255)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("direction", [-1, 1])
def test_enhancements_blend_with_black_grey_and_mean(
    image, pixels, strength, direction
):
    factor = 1 + 0.9 * direction * strength
    mean = np.full_like(pixels, int(grey(pixels).mean() + 0.5))
    for name, base in (
        ("brightness", np.zeros_like(pixels)),
        ("contrast", mean),
        ("color", np.repeat(grey(pixels)[..., None], 3, -1)),
    ):
        expected = blend(base, pixels, factor)
        found = apply(name, image, strength, direction).astype(float)
        assert np.abs(found - expected).max() <= 1, name


def test_sharpness_blends_with_a_smoothed_image(image, pixels):
    kernel = np.asarray([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = pixels.astype(float).copy()
    inner = sum(
        kernel[i, j] * pixels[i : 22 + i, j : 30 + j]
        for i in range(3)
        for j in range(3)
    )
    smooth[1:-1, 1:-1] = inner
    for direction in (-1, 1):
        expected = blend(smooth, pixels, 1 + 0.9 * direction * 0.6)
        found = apply("sharpness", image, 0.6, direction)
        assert np.abs(found - expected).max() <= 2


def test_operations_on_values(image, pixels):
    np.testing.assert_array_equal(apply("invert", image, 0.0), 255 - pixels)
    np.testing.assert_array_equal(apply("identity", image, 1.0), pixels)
    for strength, threshold in ((0.0, 255), (3 / 9, 170), (0.4, 153), (1.0, 0)):
        expected = np.where(pixels >= threshold, 255 - pixels, pixels)
        np.testing.assert_array_equal(apply("solarize", image, strength), expected)
    for strength, bits in ((0.0, 8), (0.5, 6), (1.0, 4)):
        expected = pixels & (256 - 2 ** (8 - bits))
        np.testing.assert_array_equal(apply("posterize", image, strength), expected)


def test_autocontrast_and_equalize(generator):
    pixels = generator.integers(50, 180, (40, 40, 3), np.uint8)
    image = Image.fromarray(pixels)
    stretched = apply("autocontrast", image, 0.0)
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    expected = (pixels.astype(float) - low) * (255 / (high - low).astype(float))
    assert np.abs(stretched - expected).max() <= 1
    skewed = Image.fromarray((pixels.astype(float) ** 2 / 255).astype(np.uint8))
    equal = apply("equalize", skewed, 0.0)
    shares = np.histogram(equal[..., 0], 4, (0, 256))[0] / 1600
    assert np.abs(shares - 0.25).max() < 0.05


@pytest.mark.parametrize("direction", [-1, 1])
def test_translations(image, pixels, direction):
    shift = direction * round(0.5 * 150 / 331 * 32)
    moved = apply("translate_x", image, 0.5, direction)
    expected = np.full_like(pixels, 128)
    if shift > 0:
        expected[:, :-shift] = pixels[:, shift:]
    else:
        expected[:, -shift:] = pixels[:, :shift]
    np.testing.assert_array_equal(moved, expected)
    upright = image.transpose(Image.Transpose.TRANSPOSE)
    np.testing.assert_array_equal(
        apply("translate_y", upright, 0.5, direction).swapaxes(0, 1), expected
    )


@pytest.mark.parametrize("direction", [-1, 1])
def test_shears(direction):
    # A vertical edge: each row y shows it 0.3 y further to one side.
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 255
    sheared = apply("shear_x", Image.fromarray(pixels), 1.0, direction)
    edges = [int(np.argmax(row > 200)) for row in sheared[:, 15:45, 0]]
    expected = 30 - 15 - direction * 0.3 * (np.arange(40) + 0.5)
    assert np.abs(np.asarray(edges) - expected).max() <= 1
    upright = Image.fromarray(pixels.swapaxes(0, 1).copy())
    transposed = apply("shear_y", upright, 1.0, direction).swapaxes(0, 1)
    np.testing.assert_array_equal(transposed, sheared)


def test_rotation_turns_about_the_centre():
    pixels = np.zeros((41, 41, 3), np.uint8)
    pixels[20, 36] = 255  # 16 pixels to the right of the centre
    turned = apply("rotate", Image.fromarray(pixels), 1.0, 1)
    (row,), (column,) = np.nonzero(turned[..., 0] == 255)
    # By 30 degrees against the clock: up.
    assert abs(row - (20 - 16 * 0.5)) <= 1
    assert abs(column - (20 + 16 * 0.866)) <= 1


def test_hue_turns_as_colorsys_does(pixels):
    small = pixels[:6, :6]
    turned = np.asarray(turn_hue(Image.fromarray(small), 0.25)) / 255
    for colour, found in zip(small.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(colour / 255))
        expected = colorsys.hsv_to_rgb((h + 0.25) % 1, s, v)
        assert np.abs(np.asarray(expected) - found).max() < 0.05
    gray = Image.fromarray(pixels[..., 0])
    assert turn_hue(gray, 0.25) is gray


def test_jitter_of_one_property_is_that_enhancement(image, pixels):
    found = np.asarray(ColorJitter(brightness=0.4)(image, rng(3))).astype(float)
    factor = rng(3).uniform(0.6, 1.4)
    assert np.abs(found - blend(np.zeros_like(pixels), pixels, factor)).max() <= 1
    np.testing.assert_array_equal(ColorJitter()(image, rng()), pixels)


def test_jitter_takes_its_changes_in_any_order(image):
    jitter = ColorJitter(brightness=0.9, contrast=0.9)
    random = rng(0)
    factors = [random.uniform(max(0, 1 - s), 1 + s) for s in (0.9, 0.9, 0.0)]
    assert len(set(factors)) == 3
    results = {np.asarray(jitter(image, rng(seed))).tobytes() for seed in range(30)}
    assert len(results) == 30


def test_erasing_replaces_one_rectangle_by_noise(image, pixels):
    for seed in range(20):
        result = np.asarray(RandomErasing(1.0)(image, rng(seed)))
        changed = (result != pixels).any(-1)
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        # A noise pixel equals the old one once in 2^24 times.
        assert changed.sum() == area
        assert 0.01 < area / changed.size < 0.45
    assert RandomErasing(0.0)(image, rng()) is image
    num_erased = sum(RandomErasing()(image, rng(s)) is not image for s in range(300))
    assert 120 < num_erased < 180


def test_erased_rectangles_reach_every_edge():
    image, reached = Image.new("RGB", (8, 8)), np.zeros(4, int)
    for seed in range(300):
        erased = np.asarray(RandomErasing(1.0)(image, rng(seed))).any(-1)
        rows, columns = erased.any(1), erased.any(0)
        reached += rows[0], rows[-1], columns[0], columns[-1]
    assert reached.min() > 0.5 * reached.max()


def test_randaugment_draws_all_operations_and_no_inversion():
    assert len(RAND_AUGMENT) == 14
    assert "invert" not in RAND_AUGMENT

    class Draws:
        """Stands in for a generator and says which operations were drawn."""

        def __init__(self):
            self.random_generator, self.drawn = rng(), []

        def integers(self, *arguments, **options):
            self.drawn.append(self.random_generator.integers(*arguments, **options))
            return self.drawn[-1]

        def random(self):
            return self.random_generator.random()

    draws, image = Draws(), Image.new("RGB", (8, 8))
    for _ in range(300):
        RandAugment(3)(image, draws)
    counts = np.bincount(np.concatenate(draws.drawn), minlength=14)
    assert len(counts) == 14
    assert counts.min() > 0.5 * counts.mean()


def test_strength_zero_of_randaugment_changes_geometry_nowhere(image, pixels):
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        np.testing.assert_array_equal(apply(name, image, 0.0), pixels)


def test_autoaugment_applies_steps_as_often_as_its_policy_says(monkeypatch, image):
    calls = []
    recorded = {
        name: lambda image, strength, direction, name=name: (
            calls.append((name, strength)) or image
        )
        for name in OPERATIONS
    }
    monkeypatch.setattr("cnn_jax.data.host.learned.OPERATIONS", recorded)
    augment, random = AutoAugment("cifar10"), rng()
    num_images = 6000
    for _ in range(num_images):
        augment(image, random)
    for wanted in (("translate_y", 1.0), ("invert", 0.0), ("equalize", 0.0)):
        expected = sum(
            probability
            for pair in AUTO_AUGMENT["cifar10"]
            for name, probability, level in pair
            if (name, level / 9) == wanted
        )
        assert calls.count(wanted) / num_images == pytest.approx(
            expected / 25, rel=0.1, abs=0.004
        ), wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoAugment("svhn2"), "policy: got 'svhn2'"),
        (lambda: RandAugment(0), "num_operations, magnitude: got 0"),
        (lambda: RandAugment(2, 31), "0 to 30"),
        (lambda: RandomResizedCrop(0), "size: got 0"),
        (lambda: RandomResizedCrop(8, scale=(1.0, 0.1)), "scale: got (1.0, 0.1)"),
        (lambda: RandomResizedCrop(8, scale=(0.1, 1.1)), "scale: got (0.1, 1.1)"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), "ratio: got (0.0, 1.0)"),
        (lambda: CenterCrop(-1), "size: got -1"),
        (lambda: CenterCrop(8, fraction=0), "fraction: got 0"),
        (lambda: RandomFlip(1.5), "probability: got 1.5"),
        (lambda: ColorJitter(brightness=-0.1), "brightness: got -0.1"),
        (lambda: ColorJitter(hue=0.6), "hue: got 0.6"),
        (lambda: RandomErasing(-0.5), "probability: got -0.5"),
        (lambda: RandomErasing(area=(0.5, 0.2)), "area: got (0.5, 0.2)"),
        (lambda: RandomErasing(ratio=0), "ratio: got 0"),
        (lambda: RandomErasing(ratio=2.0), "ratio: got 2.0"),
    ],
)
def test_what_cannot_be_meant(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_transforms_are_plain_values():
    assert RandAugment(2, 5) == RandAugment(2, 5) != RandAugment(2, 6)
    assert dataclasses.asdict(RandomFlip()) == {"probability": 0.5}


@pytest.fixture
def torchvision_autoaugment():
    """torchvision's module; its compiled part is not needed beside a CPU torch."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    libraries.import_torchvision()
    return pytest.importorskip("torchvision.transforms.autoaugment")


def plain(name):
    return name.lower().replace("_", "")


@pytest.mark.parity
def test_policies_are_torchvisions(torchvision_autoaugment):
    for ours, theirs in (("imagenet", "IMAGENET"), ("cifar10", "CIFAR10")):
        policy = getattr(torchvision_autoaugment.AutoAugmentPolicy, theirs)
        expected = [
            tuple((plain(name), p, level or 0) for name, p, level in pair)
            for pair in torchvision_autoaugment.AutoAugment(policy).policies
        ]
        found = [
            tuple((plain(name), p, level) for name, p, level in pair)
            for pair in AUTO_AUGMENT[ours]
        ]
        assert found == expected
    space = torchvision_autoaugment.RandAugment()._augmentation_space(31, (331, 331))
    assert {plain(name) for name in space} == set(map(plain, RAND_AUGMENT))


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(torchvision_autoaugment, generator, name, mode):
    side = 100
    pixels = generator.integers(0, 256, (side, side, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    space = torchvision_autoaugment.AutoAugment()._augmentation_space(10, (side, side))
    theirs = {plain(other): other for other in space} | {"identity": "Identity"}
    magnitudes, signed = space.get(theirs[plain(name)], (np.zeros(()), False))
    # They move an image by an offset, ours looks a pixel up at one.
    turn = -1 if name.startswith("translate") else 1
    for level in range(10) if magnitudes.ndim else (0,):
        magnitude = float(magnitudes[level] if magnitudes.ndim else magnitudes)
        if turn == -1:
            magnitude = round(magnitude)  # where they truncate
        for direction in (-1, 1) if signed else (1,):
            expected = torchvision_autoaugment._apply_op(
                image,
                theirs[plain(name)],
                turn * direction * magnitude,
                interpolation=torchvision_autoaugment.InterpolationMode.NEAREST,
                fill=[128] * len(image.getbands()),
            )
            found = apply(name, image, level / 9, direction).astype(int)
            # Factors are rounded to float32 there: one grey level at the most.
            exact = name not in ("brightness", "color", "contrast", "sharpness")
            difference = np.abs(found - np.asarray(expected)).max()
            assert difference <= (0 if exact else 1), (level, direction)
