"""Activations: elementwise, each saving the fewest bytes that give its derivative.

With y = f(x) elementwise, dx = f'(x) dy. Where f' takes two values, one boolean an
entry is saved; elsewhere one array of x's dtype, x or y, and f' is computed again.

One rule for the corners: a clamp such as relu has derivative 0 where it bends, and
what is built from a clamp follows by the rules of calculus. A clamp's derivative is 0
at NaN, too; every value at NaN is NaN. The derivative at plus or minus infinity is its
limit. silu, gelu and hard_swish have no value at minus infinity (NaN, from x times 0).

relu and relu6 are exact in every dtype, hard_sigmoid is computed in x's; the others in
float32 or wider, and rounded once.
"""

from cnn_jax.kernels.activation.piecewise import (
    hard_sigmoid,
    hard_swish,
    relu,
    relu6,
)
from cnn_jax.kernels.activation.smooth import gelu, sigmoid, silu

__all__ = [
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
]
