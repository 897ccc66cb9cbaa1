"""Mixup, CutMix and erasing, each beside NumPy given the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.device import (
    cutmix,
    mixup,
    mixup_or_cutmix,
    one_hot_targets,
    random_erasing,
)
from cnn_jax.data.device.erase import AREA, draw_rectangles
from cnn_jax.data.device.mix import draw_box, draw_share

SHAPE = (6, 9, 13, 3)
KEYS = [jax.random.key(seed) for seed in range(20)]


@pytest.fixture
def images(generator):
    return generator.normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def targets():
    return one_hot_targets(jnp.asarray([0, 1, 2, 3, 4, 4]), 5)


def numpy_mixup(images, targets, share):
    mixed = np.empty_like(images), np.empty_like(targets)
    for n in range(len(images)):
        for whole, result in zip((images, targets), mixed, strict=True):
            result[n] = share * whole[n] + (1 - share) * whole[len(whole) - 1 - n]
    return mixed


def numpy_cutmix(images, targets, box):
    top, bottom, left, right = map(int, box)
    pasted, mixed = images.copy(), np.empty_like(targets)
    area = (bottom - top) * (right - left) / (images.shape[1] * images.shape[2])
    for n in range(len(images)):
        other = len(images) - 1 - n
        pasted[n, top:bottom, left:right] = images[other, top:bottom, left:right]
        mixed[n] = (1 - area) * targets[n] + area * targets[other]
    return pasted, mixed


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_is_numpys(images, targets, alpha):
    apply = jax.jit(mixup, static_argnums=3)
    for key in KEYS:
        expected = numpy_mixup(images, np.asarray(targets), draw_share(key, alpha))
        found = apply(key, images, targets, alpha)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_cutmix_is_numpys(images, targets, alpha):
    apply = jax.jit(cutmix, static_argnums=3)
    changed = 0
    for key in KEYS:
        share_key, box_key = jax.random.split(key)
        box = draw_box(box_key, *SHAPE[1:3], draw_share(share_key, alpha))
        expected = numpy_cutmix(images, np.asarray(targets), box)
        found = apply(key, images, targets, alpha)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)
        changed += not np.array_equal(found[0], images)
    assert changed > 5


@pytest.mark.parametrize("alphas", [(0.3, 0.0), (0.0, 1.0), (0.3, 1.0)])
def test_labels_sum_to_one(images, targets, alphas):
    apply = jax.jit(
        lambda key: mixup_or_cutmix(
            key, images, targets, mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
        )
    )
    for seed in range(100):
        mixed = np.asarray(apply(jax.random.key(seed))[1])
        np.testing.assert_allclose(mixed.sum(-1), 1, rtol=1e-6)
        assert mixed.min() >= 0


def test_cutmix_boxes_hold_the_drawn_area_unless_cut_off():
    share, sizes = jnp.float32(0.75), []
    draw = jax.jit(lambda key: draw_box(key, 64, 48, share))
    for seed in range(300):
        top, bottom, left, right = map(int, draw(jax.random.key(seed)))
        assert 0 <= top <= bottom <= 64
        assert 0 <= left <= right <= 48
        sizes.append((bottom - top, right - left))
    # Half of each side; the most frequent size is the whole box.
    assert max(set(sizes), key=sizes.count) == (32, 24)
    assert min(sizes) < (32, 24)


def test_both_get_their_turn(images, targets):
    apply = jax.jit(
        lambda key: mixup_or_cutmix(
            key, images, targets, mixup_alpha=1.0, cutmix_alpha=1.0
        )[0]
    )
    # CutMix copies pixels, mixup makes new ones.
    pasted = [
        bool(np.isin(np.asarray(apply(jax.random.key(seed))), images).all())
        for seed in range(60)
    ]
    assert 15 < sum(pasted) < 45


def test_without_alphas_nothing_changes(images, targets):
    found = mixup_or_cutmix(KEYS[0], images, targets, mixup_alpha=0.0, cutmix_alpha=0.0)
    assert found[0] is images
    assert found[1] is targets


def test_shares_follow_the_beta_distribution():
    draw = jax.jit(jax.vmap(lambda key: draw_share(key, 0.4)))
    shares = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    # Var Beta(a, a) = 1 / (4 (2 a + 1)).
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * 1.8)) < 0.01


@pytest.mark.parametrize("function", [mixup, cutmix])
@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_is_positive(images, targets, function, alpha):
    with pytest.raises(ValueError, match=f"alpha: got {alpha}"):
        function(KEYS[0], images, targets, alpha)


def test_mixup_wants_floats(images, targets):
    with pytest.raises(ValueError, match="images: got uint8"):
        mixup(KEYS[0], images.astype(np.uint8), targets, 1.0)


def test_bfloat16_images_stay_bfloat16(images, targets):
    for function in (mixup, cutmix):
        found = function(KEYS[0], jnp.asarray(images, jnp.bfloat16), targets, 1.0)
        assert (found[0].dtype, found[1].dtype) == (jnp.bfloat16, jnp.float32)


def test_erasing_is_numpys(images):
    erase = jax.jit(random_erasing, static_argnums=2)
    num_erased = 0
    for key in KEYS:
        draw_key, noise_key = jax.random.split(key)
        rectangles = draw_rectangles(draw_key, *SHAPE[:3], 0.5)
        noise = np.asarray(jax.random.normal(noise_key, SHAPE))
        expected = images.copy()
        for n, (top, bottom, left, right) in enumerate(zip(*rectangles, strict=True)):
            part = (n, slice(int(top), int(bottom)), slice(int(left), int(right)))
            expected[part] = noise[part]
            num_erased += int(bottom) > int(top)
        np.testing.assert_array_equal(erase(key, images, 0.5), expected)
    assert 0.35 < num_erased / (len(KEYS) * SHAPE[0]) < 0.65


def test_rectangles_lie_inside_and_have_the_area_asked_for():
    top, bottom, left, right = (
        np.asarray(edge)
        for edge in draw_rectangles(jax.random.key(1), 2000, 64, 64, 1.0)
    )
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (bottom <= 64).all()
    assert (right <= 64).all()
    height, width = bottom - top, right - left
    share = height * width / 64**2
    # Rounding aside; a side that would be longer than the image shortens the area.
    assert share.max() < AREA[1] + 0.03
    assert 0.15 < share.mean() < 0.22
    assert (height > width).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_probability_is_one(images, probability):
    with pytest.raises(ValueError, match=f"probability: got {probability}"):
        random_erasing(KEYS[0], images, probability)


def test_erasing_nothing_returns_the_images(images):
    assert random_erasing(KEYS[0], images, 0.0) is images
    with pytest.raises(ValueError, match="images: got uint8"):
        random_erasing(KEYS[0], images.astype(np.uint8), 0.5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_targets_of_labels_of_any_width(dtype):
    labels = np.asarray([0, 5, 44, 127])
    found = one_hot_targets(labels.astype(dtype), 300)
    np.testing.assert_array_equal(found, np.eye(300)[labels])


@pytest.mark.parametrize("labels", [np.ones(3, bool), np.ones(3, np.float32)])
def test_targets_are_made_of_integers_alone(labels):
    with pytest.raises(ValueError, match=f"labels: got {labels.dtype}, expected an in"):
        one_hot_targets(labels, 5)


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8])
def test_targets_that_a_share_would_be_rounded_in_are_refused(
    images, targets, mix, dtype
):
    with pytest.raises(ValueError, match=r"targets: got .*, expected floating prob"):
        mix(KEYS[0], images, np.asarray(targets).astype(dtype), 1.0)
    with pytest.raises(ValueError, match=r"targets: got float32\[6\], expected"):
        mix(KEYS[0], images, np.ones(6, np.float32), 1.0)
