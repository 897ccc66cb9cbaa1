"""The table of cases that every test and gradient check of the kernels runs over.

A row names a kernel, says how to draw its arguments and which options to pass. The
gradient check runs over it on a user's machine, and so do the project's own tests: a
new kernel is a new row, in the file named as the kernel's own.
"""

from cnn_jax.analysis.cases import (
    activation,
    adaptive_pool,
    batch_norm,
    conv,
    conv_general,
    conv_transpose,
    dense,
    dropout,
    group_norm,
    layer_norm,
    local_response_norm,
    loss,
    pool,
    squeeze_excite,
)
from cnn_jax.analysis.cases.case import (
    Case,
    among,
    classes,
    is_floating,
    normal,
    positive,
    random_key,
    spaced,
    tied,
)

CASES = (
    *conv.CASES,
    *conv_transpose.CASES,
    *conv_general.CASES,
    *pool.CASES,
    *dense.CASES,
    *activation.CASES,
    *batch_norm.CASES,
    *layer_norm.CASES,
    *group_norm.CASES,
    *dropout.CASES,
    *loss.CASES,
    *squeeze_excite.CASES,
    *adaptive_pool.CASES,
    *local_response_norm.CASES,
)
"""Every kernel, named gradients included."""

__all__ = [
    "CASES",
    "Case",
    "among",
    "classes",
    "is_floating",
    "normal",
    "positive",
    "random_key",
    "spaced",
    "tied",
]
