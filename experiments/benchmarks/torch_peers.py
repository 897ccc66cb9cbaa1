"""The same layers in PyTorch, with its autograd, where torch can be imported.

An array `(n, *spatial, c)` becomes a tensor `(n, c, *spatial)` over the same order of
numbers in memory: what torch calls channels-last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
import torch
import torch.nn.functional as F
from kernel_suite import Layer

from cnn_jax.geometry import explicit_padding, per_dimension


def passes(layer: Layer, arguments: Mapping[str, jax.Array], dy) -> dict[str, Callable]:
    """Returns what to time for each pass of a layer.

    Args:
      layer: The row.
      arguments: The layer's arguments, name -> array.
      dy: The output's cotangent.

    Returns:
      Pass -> a function of no arguments; empty where torch has no like operation.
    """
    if layer.case.kernel not in _FORWARD:
        return {}
    forward = functools.partial(_FORWARD[layer.case.kernel], layer.case.options)
    tensors = {
        name: _tensor(name, value) for name, value in arguments.items() if name != "key"
    }
    cotangent = _images(to_torch(jax.tree.leaves(dy)[0]))
    timed = {}
    for name, by in layer.passes.items():
        if by is not None and layer.case.kernel == "batch_norm_inference":
            by = ("x", "scale", "bias")  # torch differentiates by these alone
        local = {
            key: tensor.detach().requires_grad_(key in (by or ()))
            for key, tensor in tensors.items()
        }
        moving = [local[key] for key in by or ()]
        if by is None:
            call = torch.no_grad()(functools.partial(forward, local))
        elif name == "both":
            call = functools.partial(_both, forward, local, moving, cotangent)
        else:
            call = functools.partial(_backward, forward(local), moving, cotangent)
        timed[name] = finished(call)
    return timed


def _backward(y, moving, dy):
    return torch.autograd.grad(y, moving, dy.reshape(y.shape), retain_graph=True)


def _both(forward, local, moving, dy):
    y = forward(local)
    return y, torch.autograd.grad(y, moving, dy.reshape(y.shape))


def finished(call: Callable) -> Callable:
    """Makes a call wait for its work on the device."""

    def call_and_wait():
        result = call()
        if torch_device() == "cuda":
            torch.cuda.synchronize()
        return result

    return call_and_wait


def torch_device() -> str:
    """Returns the device that torch shares with JAX."""
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"


def to_torch(array: jax.Array) -> torch.Tensor:
    """Copies an array, in its layout."""
    if array.dtype == jax.numpy.bfloat16:  # NumPy's is not torch's
        wide = np.array(array.astype(np.float32))
        return torch.from_numpy(wide).to(torch_device(), torch.bfloat16)
    return torch.from_numpy(np.array(array)).to(torch_device())


def images_to_torch(images: jax.Array) -> torch.Tensor:
    """Copies images `(n, *spatial, c)` to `(n, c, *spatial)`, channels-last."""
    return _images(to_torch(images))


def _images(tensor: torch.Tensor) -> torch.Tensor:
    """Views `(n, *spatial, c)` as `(n, c, *spatial)`, channels-last in memory."""
    return torch.movedim(tensor, -1, 1) if tensor.ndim > 2 else tensor


def _tensor(name: str, array: jax.Array) -> torch.Tensor:
    tensor = to_torch(array)
    if name == "labels":
        return tensor.long()
    if name == "w" and tensor.ndim > 2:  # (*spatial, i, o) to (o, i, *spatial)
        tensor = torch.movedim(tensor, (-1, -2), (0, 1))
        return tensor.contiguous(memory_format=torch.channels_last)
    return _images(tensor) if name == "x" else tensor


def _padded(options, x, sizes) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Returns x and torch's padding, x padded beforehand where sides differ."""
    rank = x.ndim - 2
    strides = options.get("strides", 1)
    pairs = explicit_padding(
        options.get("padding", "SAME"),
        x.shape[2:],
        per_dimension(sizes, rank, "window"),
        per_dimension(strides, rank, "strides"),
        per_dimension(options.get("dilation", 1), rank, "dilation"),
    )
    if any(low != high for low, high in pairs):
        sides = [side for pair in reversed(pairs) for side in pair]
        return F.pad(x, sides), (0,) * rank
    return x, tuple(low for low, _ in pairs)


def _conv(options, a):
    x, padding = _padded(options, a["x"], a["w"].shape[2:])
    return F.conv2d(
        x,
        a["w"],
        stride=options.get("strides", 1),
        padding=padding,
        dilation=options.get("dilation", 1),
        groups=options.get("groups", 1),
    )


def _conv_transpose(options, a):
    # SAME of a transposed convolution: the output is the input times the stride.
    size, stride = a["w"].shape[-1], options["strides"]
    w = a["w"].transpose(0, 1).flip(2, 3)  # torch's is the gradient, lax's is not
    return F.conv_transpose2d(a["x"], w, stride=stride, padding=(size - stride) // 2)


def _max_pool(options, a):
    x, padding = _padded(options, a["x"], options["window"])
    return F.max_pool2d(x, options["window"], options["strides"], padding)


def _avg_pool(options, a):
    x, padding = _padded(options, a["x"], options["window"])
    return F.avg_pool2d(
        x,
        options["window"],
        options["strides"],
        padding,
        count_include_pad=options.get("count_include_pad", True),
    )


_ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": functools.partial(F.gelu, approximate="tanh"),
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
}


def _activate(options, y, key="activation"):
    activation = options.get(key)
    return y if activation is None else _ACTIVATIONS[activation.__name__](y)


def _batch_norm(options, a):
    y = F.batch_norm(
        a["x"],
        None,
        None,
        a["scale"],
        a["bias"],
        training=True,
        eps=options["epsilon"],
    )
    return _activate(options, y)


def _batch_norm_inference(options, a):
    y = F.batch_norm(
        a["x"], a["mean"], a["var"], a["scale"], a["bias"], eps=options["epsilon"]
    )
    return _activate(options, y)


def _layer_norm(options, a):
    x = torch.movedim(a["x"], 1, -1)
    y = F.layer_norm(x, x.shape[-1:], a["scale"], a["bias"], options["epsilon"])
    return torch.movedim(y, -1, 1)


def _group_norm(options, a):
    return F.group_norm(
        a["x"], options["num_groups"], a["scale"], a["bias"], options["epsilon"]
    )


def _squeeze_excite(options, a):
    s = a["x"].mean(dim=(2, 3))
    h = s @ a["squeeze_w"] + a["squeeze_b"]
    h = _activate({"activation": F.relu, **options}, h)
    gate = torch.sigmoid(h @ a["expand_w"] + a["expand_b"])
    return a["x"] * gate[:, :, None, None]


def _local_response_norm(options, a):
    size = options.get("size", 5)
    # PyTorch takes the mean of the squares, the paper and we their sum.
    alpha = size * options.get("alpha", 1e-4)
    beta, k = options.get("beta", 0.75), options.get("k", 2.0)
    return F.local_response_norm(a["x"], size, alpha, beta, k)


def _cross_entropy(options, a):
    return F.cross_entropy(
        a["logits"],
        a["labels"],
        reduction="none",
        label_smoothing=options.get("label_smoothing", 0.0),
    )


_FORWARD: dict[str, Callable] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "global_avg_pool": lambda options, a: a["x"].mean(dim=(2, 3)),
    "adaptive_avg_pool": lambda options, a: F.adaptive_avg_pool2d(
        a["x"], options["output_size"]
    ),
    "local_response_norm": _local_response_norm,
    "batch_norm": _batch_norm,
    "batch_norm_inference": _batch_norm_inference,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "dense": lambda options, a: a["x"] @ a["w"],
    "squeeze_excite": _squeeze_excite,
    "dropout": lambda options, a: F.dropout(a["x"], options["rate"]),
    "softmax_cross_entropy": _cross_entropy,
    **{
        name: functools.partial(lambda fn, options, a: fn(a["x"]), fn)
        for name, fn in _ACTIVATIONS.items()
    },
}
