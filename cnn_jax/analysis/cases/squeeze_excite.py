"""Cases of squeeze-and-excite."""

from __future__ import annotations

from cnn_jax import kernels
from cnn_jax.analysis.cases.case import Case, normal


def _case(label: str, shape: tuple[int, ...], squeezed: int, **options) -> Case:
    channels = shape[-1]
    arguments = {
        "x": normal(*shape),
        "squeeze_w": normal(channels, squeezed),
        "squeeze_b": normal(squeezed),
        "expand_w": normal(squeezed, channels),
        "expand_b": normal(channels),
    }
    # By default there is a relu inside, whose corner a draw may come near.
    has_corners = options.get("activation", kernels.relu) is kernels.relu
    return Case("squeeze_excite", label, arguments, options, has_corners)


CASES = (
    _case("silu", (2, 3, 2, 3), 2, activation=kernels.silu),
    _case("images", (3, 4, 3, 5), 2),
    _case("1-d", (3, 4, 3), 4),
    _case("volumes", (2, 2, 3, 2, 4), 2, activation=kernels.silu),
    _case("gated by silu", (2, 3, 3, 4), 3, gate=kernels.silu),
    _case("one position", (4, 1, 1, 3), 2, activation=kernels.sigmoid),
)
