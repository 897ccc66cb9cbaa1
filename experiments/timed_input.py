"""The way of a batch to the device: from its memory, from the host's, from JPEGs."""

from __future__ import annotations

import io
from typing import Any

import jax
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image
from timed import Call

from cnn_jax.data import normalize
from cnn_jax.data.host.decode import decode_image

RESIDENT, HOST, ENCODED = "on the device", "in the host's memory", "JPEGs"


def ways(is_smoke: bool) -> dict[str, Call]:
    """Returns three ways to a normalised batch on the device."""
    batch, side = (4, 32) if is_smoke else (64, 128)
    pieces = _pieces(batch, side)
    encoded = [_as_jpeg(piece) for piece in pieces]
    resident, order = jax.device_put(pieces), np.arange(batch)[::-1].copy()

    @jax.jit
    def prepare(images: jax.Array) -> jax.Array:
        return normalize(images, (0.5,) * 3, (0.25,) * 3)

    gather = jax.jit(lambda images, order: prepare(images[order]))

    def decoded() -> Any:
        images = [decode_image(encoded[index], origin="a piece") for index in order]
        return prepare(np.stack(images))

    return {
        RESIDENT: Call(lambda: gather(resident, order), batch),
        HOST: Call(lambda: prepare(pieces[order]), batch),
        ENCODED: Call(decoded, batch),
    }


def _pieces(count: int, side: int) -> np.ndarray:
    """Returns random pieces of a photograph, `(count, side, side, 3)`, uint8."""
    photograph = load_sample_image("china.jpg")
    generator = np.random.default_rng(0)
    height, width = (size - side for size in photograph.shape[:2])
    corners = zip(
        generator.integers(0, height, count),
        generator.integers(0, width, count),
        strict=True,
    )
    return np.stack(
        [photograph[top : top + side, left : left + side] for top, left in corners]
    )


def _as_jpeg(piece: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(piece).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
