# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# Efficiency and hardware

Two networks with the same number of multiply-adds can differ several times in speed. The
reasons are few, and this notebook takes them one by one: what a layer computes and what it
moves, which of the two a machine is short of, what a compiler merges, what a narrow number
format loses, how a convolution becomes matrix products, what a TPU's matrix unit does with
them, and what a slice of many chips adds. Then it times JAX against PyTorch, after showing
nine ways to get that wrong.

**You need** notebooks [1](01_backpropagation.ipynb) and
[2](02_architecture_principles.ipynb) (Géron, *Hands-On Machine Learning*, 3rd edition,
chapter 14, and chapter 19 for GPUs; Chollet, *Deep Learning with Python*, 2nd edition,
chapter 13, for mixed precision, GPUs and TPUs).

**To run it**, in a checkout of this repository, with Python 3.11 or later:

```sh
python -m venv .venv && source .venv/bin/activate
pip install -e ".[notebooks]" torch==2.13.0 jupyterlab
jupyter lab notebooks/05_efficiency_and_hardware.ipynb
```

It takes about two minutes on two CPU cores. Without PyTorch the notebook runs too, and shows
JAX alone. **What is measured here is measured on a CPU, the one that ran it last**: your
numbers will be others. What is said of TPUs is computed, or estimated by a TPU's compiler.
"""

# %%
import collections
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time

# Also where there is a GPU: the text is about what is measured on a CPU. Must be set before
# JAX starts.
os.environ["JAX_PLATFORMS"] = "cpu"

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import COLORS, INK, Grid, row, use_quiet_style
from jax import lax
from sklearn.datasets import load_digits

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax import layers
from cnn_jax.allocator import keep_memory
from cnn_jax.analysis.summary import summarize
from cnn_jax.analysis.timing import time_interleaved
from cnn_jax.chips import CHIPS
from cnn_jax.kernels.platforms import target_platform
from cnn_jax.planning.hlo import read_instructions

use_quiet_style()
SMOKE = bool(os.environ.get("CNN_JAX_SMOKE"))
RESULTS = pathlib.Path("..") / "experiments" / "results"
HAS_TORCH = importlib.util.find_spec("torch") is not None
# Before the first computation; section 7 says what it is for.
keep_memory()
num_cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
print(f"jax {jax.__version__} on a {jax.default_backend()}, {num_cores} cores")
generator = np.random.default_rng(0)


def random_array(*shape, dtype=jnp.float32):
    """Returns normally distributed numbers."""
    return jnp.asarray(generator.normal(size=shape), dtype)


def prepare_bars(ax, labels, title):
    """Prepares axes for horizontal bars, the first one on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_title(title)


def stack(ax, place, parts, colors):
    """Draws one bar of several parts."""
    left = 0.0
    for name, color in colors.items():
        ax.barh(place, parts[name], left=left, color=color, height=0.75)
        left += parts[name]


def legend_below(figure, colors):
    """Puts names and their colours under a figure."""
    patches = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    place = "outside lower center"
    figure.legend(patches, list(colors), loc=place, ncols=len(colors), fontsize=9)


# %% [markdown]
r"""
## 1. What a layer costs: arithmetic and traffic

A layer computes, and it moves numbers between the memory and the chip that computes. Count
both.

* **Arithmetic.** A convolution with filters of $k \times k$ does, for each of its
  $N H W C_\text{out}$ outputs, $k^2 C_\text{in}/g$ multiply-adds (MACs), with $g$ groups.
  One MAC is two floating-point operations (FLOPs).
* **Traffic.** At the least, every input and every weight is read once and every output
  written once: $\text{bytes} = b\,(N H W C_\text{in} + \text{weights} + N H W
  C_\text{out})$, with $b$ bytes for a number.

Their ratio is the layer's **arithmetic intensity**, in FLOPs per byte. Here are five layers
on the same activations, one image of 56×56 with 64 channels in float32. The MACs come from
`cnn_jax.analysis.summarize`, which counts them from the model; batch norm (with stored
statistics) and ReLU have no MACs by convention, and we count two operations and one for each
number.
"""


# %%
class Alone(nn.Module):
    """Calls one layer as a model is called."""

    layer: object

    def __call__(self, x, *, train):
        """Returns the layer's output."""
        return self.layer(x)


side, channels = 56, 64
five = {
    "3×3": layers.Conv(channels, 3, use_bias=False),
    "1×1": layers.Conv(channels, 1, use_bias=False),
    "depthwise 3×3": layers.Conv(channels, 3, groups=channels, use_bias=False),
    "batch norm": layers.BatchNorm(use_running_average=True),
}
size = side * side * channels
print("layer               MACs   parameters      bytes   FLOPs per byte")
for name, layer in five.items():
    counted = summarize(Alone(layer), (side, side, channels))
    flops = counted.flops or 2 * size
    num_bytes = 4 * (size + counted.parameters) + counted.activation_bytes
    print(
        f"{name:14} {counted.macs:12,} {counted.parameters:9,} {num_bytes:12,}"
        f" {flops / num_bytes:12.2f}"
    )
print(f"{'ReLU':14} {0:12,} {0:9,} {8 * size:12,} {size / (8 * size):12.2f}")

# %% [markdown]
r"""
All five move almost the same bytes. But a 3×3 convolution does nine times the
arithmetic of a 1×1, and that does far more than a depthwise one, which sums over no channels:
every number that it reads takes part in nine MACs and no more.

For a convolution with as many outputs as inputs the intensity is, while the weights are few,
$2 k^2 C / 2b = k^2 C / b$: **it grows with the channels.** And the weights are read once for
the whole batch, so where they are many it grows with the batch:
"""


# %%
@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a network, for one image; `kernel` is the shape of its weights."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    strides: int = 1
    groups: int = 1

    @property
    def flops(self):
        """FLOPs for one image."""
        per_output = {"batch norm": 2, "activation": 1}.get(self.kind)
        return math.prod(self.outputs) * (per_output or 2 * math.prod(self.kernel[:-1]))

    def intensity(self, batch, itemsize):
        """Returns FLOPs per byte, each array read or written once."""
        return batch * self.flops / self.traffic(batch, itemsize)

    def traffic(self, batch, itemsize):
        """Returns the bytes of inputs, outputs and weights."""
        images = batch * (math.prod(self.inputs) + math.prod(self.outputs))
        return itemsize * (images + (math.prod(self.kernel) if self.kernel else 0))


thousand_classes = Layer("dense", (2048,), (1000,), (2048, 1000))
wide = Layer("3×3", (7, 7, 512), (7, 7, 512), (3, 3, 512, 512))
early = Layer("3×3", (56, 56, 64), (56, 56, 64), (3, 3, 64, 64))
batches = 2 ** np.arange(11)
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for layer, name in (
    (early, "3×3, 64 channels, 56×56"),
    (wide, "3×3, 512 channels, 7×7"),
    (thousand_classes, "dense, 2048 to 1000"),
):
    ax.loglog(batches, [layer.intensity(n, 4) for n in batches], "o-", label=name)
ax.set_xscale("log", base=2)
ax.set_xticks(batches, batches)
ax.set_xlabel("images in a batch")
ax.set_title("Arithmetic intensity in float32 / FLOPs per byte")
ax.legend()
plt.show()

# %% [markdown]
r"""
A dense layer with one image reads every weight for one multiply-add: half a FLOP for a byte.
Large batches are for throughput; a service that answers one request at a time pays for its
weights each time.
"""

# %% [markdown]
r"""
## 2. The roofline

A machine has a peak $P$ in FLOP/s and a bandwidth $B$ in bytes per second. A layer of
intensity $I$ can run at no more than

$$ \min(P,\; B \cdot I) $$

Drawn over $I$, with both axes logarithmic, that is a slope that ends in a flat: a roof
(Williams, Waterman and Patterson 2009). The corner is at $I = P/B$, the **ridge**. Left of it
a layer waits for memory, and fewer multiply-adds make it no faster; right of it, it waits for
the arithmetic.

We measure this machine's peak by a large matrix product and its bandwidth by a copy of an
array that fits in no cache, and, in the same rounds, the layers of two networks: every
different convolution of ResNet-50, the depthwise ones of MobileNetV2, and some of their
norms and activations. `intercept_methods` of Flax shows us every layer's call.
"""

# %%
KINDS = {
    "larger": "#8a6500",
    "3×3": COLORS["input"],
    "1×1": COLORS["filter"],
    "depthwise": COLORS["output"],
    "dense": COLORS["plain"],
    "batch norm": COLORS["gradient"],
    "activation": "#2a8fbd",
}


def kind_of(kernel):
    """Returns what a layer is, by the shape of its filters or weights."""
    if len(kernel) == 2:
        return "dense"
    height, width, inputs, _ = kernel
    if inputs == 1 and height > 1:
        return "depthwise"
    return {1: "1×1", 3: "3×3"}.get(max(height, width), "larger")


@functools.cache
def layers_of(name):
    """Returns the layers of a network in the order of their calls, by shapes alone."""
    model, found = cnn_jax.create_model(name), []
    image = jax.ShapeDtypeStruct(
        (1, *cnn_jax.model_info(name).input_shape), jnp.float32
    )

    def record(call, args, options, context):
        y = call(*args, **options)
        layer = context.module
        if context.method_name == "__call__" and hasattr(y, "shape"):
            shapes = (args[0].shape[1:], y.shape[1:])
            if layer.has_variable("params", "kernel"):
                kernel = layer.get_variable("params", "kernel").shape
                geometry = (getattr(layer, "strides", 1), getattr(layer, "groups", 1))
                found.append(Layer(kind_of(kernel), *shapes, kernel, *geometry))
            elif isinstance(layer, layers.BatchNorm):
                found.append(Layer("batch norm", *shapes))
                if options.get("activation") is not None:
                    found.append(Layer("activation", *shapes))
        return y

    variables = layers.abstract_variables(model, image)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    return found


for name in ("resnet50", "mobilenet_v2"):
    macs = sum(layer.flops for layer in layers_of(name) if layer.kernel) // 2
    print(f"{name:13} {macs:,} MACs, by the registry {cnn_jax.model_info(name).macs:,}")


# %%
def call_of(layer, batch):
    """Returns a function of no arguments that runs a layer on random numbers."""
    x = random_array(batch, *layer.inputs)
    if layer.kind == "activation":
        compute, arguments = K.relu, (x,)
    elif layer.kind == "batch norm":
        channels = layer.inputs[-1]
        arguments = (x, *jnp.abs(random_array(4, channels)))
        compute = functools.partial(K.batch_norm_inference, epsilon=1e-5)
    else:
        w = random_array(*layer.kernel)
        compute, arguments = K.dense, (x, w)
        if layer.kind != "dense":
            options = {"strides": layer.strides, "groups": layer.groups}
            compute, arguments = functools.partial(K.conv, **options), (x, w)
    compiled = jax.jit(compute).lower(*arguments).compile()
    return lambda: compiled(*arguments)


def different(found, *kinds):
    """Returns one of each different layer of some kinds."""
    return list(dict.fromkeys(layer for layer in found if layer.kind in kinds))


batch = 2 if SMOKE else 8
resnet50, mobilenet = layers_of("resnet50"), layers_of("mobilenet_v2")
chosen = different(resnet50, "larger", "3×3", "1×1")
chosen += different(mobilenet, "depthwise")
chosen += different(resnet50, "batch norm")[:4] + different(resnet50, "activation")[:4]
chosen.append(thousand_classes)
chosen = chosen[::6] if SMOKE else chosen

order = 512 if SMOKE else 1536
matrix, large = random_array(order, order), jnp.ones(2**20 if SMOKE else 2**25)
multiply, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
functions = {"peak": lambda: multiply(matrix, matrix), "copy": lambda: copy(large)}
functions |= {layer: call_of(layer, batch) for layer in chosen}
timings = time_interleaved(functions, repeats=7, max_seconds=8, min_seconds=0.001)
peak = 2 * order**3 / timings["peak"].minimum
bandwidth = 2 * large.nbytes / timings["copy"].minimum
print(f"peak      {peak / 1e9:7.1f} GFLOP/s\nbandwidth {bandwidth / 1e9:7.1f} GB/s")
print(f"ridge     {peak / bandwidth:7.1f} FLOPs per byte")

# %% [markdown]
r"""
Here the fastest round counts, for the roof as for the layers: a roof is what is possible.
"""

# %%
figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
intensities = np.logspace(-1.2, 2.8, 200)
roof = np.minimum(peak, bandwidth * intensities)
ax.loglog(intensities, roof / 1e9, color=INK, linewidth=1.5)
ax.axvline(peak / bandwidth, color=INK, linewidth=0.8, linestyle=":")
ax.text(peak / bandwidth, 0.012 * peak / 1e9, " ridge", size=9)
reached = collections.defaultdict(list)
for layer in chosen:
    speed = batch * layer.flops / timings[layer].minimum
    intensity = layer.intensity(batch, 4)
    share = speed / min(peak, bandwidth * intensity)
    reached[layer.kind].append((intensity, speed / 1e9, share))
for kind, points in reached.items():
    x, y, _ = zip(*points)
    ax.plot(x, y, "o", color=KINDS[kind], label=kind, markersize=6, alpha=0.8)
ax.set_xlabel("arithmetic intensity / FLOPs per byte")
ax.set_title(f"Speed of layers on this CPU, {batch} images / GFLOP/s (measured)")
ax.legend(loc="lower right")
plt.show()
print("kind         layers   left of ridge     GFLOP/s, median   of the roof")
for kind, points in reached.items():
    x, y, shares = np.transpose(points)
    print(
        f"{kind:10} {len(points):8} {np.sum(x < peak / bandwidth):15}"
        f" {np.median(y):19.1f} {np.median(shares):13.0%}"
    )

# %% [markdown]
r"""
Read the figure from left to right: activations, norms, depthwise convolutions, dense ones.
What stands left of the ridge is **bound by memory**: it could not come near the peak whatever
the code. What stands right of it is bound by arithmetic. Points above the slope are no error:
the roof assumes that each array comes from main memory, and what fits in a cache of this CPU
does not. A point far below the roof says that something else is in the way, such as a filter
whose shape does not suit the form of the computation: section 5.

The same layers on other chips. `cnn_jax.chips` holds peaks, bandwidths and their sources.
Below, **computed and not measured**, each layer of the two networks stands on the roof of
each chip at its intensity in bfloat16.
"""

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for ax, name in zip(axes, ("resnet50", "mobilenet_v2")):
    for chip in (CHIPS["v3"], CHIPS["v5e"], CHIPS["v6e"]):
        x = np.logspace(-1, 3.5, 200)
        roof = np.minimum(chip.peak_flops, chip.hbm_bandwidth * x)
        ax.loglog(x, roof / 1e12, color=COLORS["plain"], linewidth=0.9)
        ax.text(3300, chip.peak_flops / 1e12, f" {chip.name}", size=9, va="center")
        for layer in different(layers_of(name), *KINDS):
            x = layer.intensity(256, 2)
            speed = min(chip.peak_flops, chip.hbm_bandwidth * x) / 1e12
            ax.plot(x, speed, "o", color=KINDS[layer.kind], markersize=5, alpha=0.6)
    ax.set_xlim(0.15, 8000)
    ax.set_xlabel("arithmetic intensity / FLOPs per byte")
    ax.set_title(name)
axes[0].set_title("resnet50: highest possible TFLOP/s (computed)")
legend_below(figure, KINDS)
plt.show()
print("FLOPs per byte at the ridge:")
print(", ".join(f"{chip.name} {chip.ridge:.0f}" for chip in CHIPS.values()))

# %% [markdown]
r"""
The more arithmetic a chip has for its bandwidth, the further right is its ridge: a layer that
keeps one chip busy may leave another waiting.

Multiply-adds alone say little then. Add up, for a whole forward pass of 256 images on v5e, the
least time that each layer can take, $\max(\text{FLOPs}/P, \text{bytes}/B)$, first with every
layer's arrays going through memory, then with norms and activations merged into the
convolutions before them, so that they move nothing of their own:
"""


# %%
def least_time(layer, chip=CHIPS["v5e"]):
    """Returns the seconds that a layer needs at least, for 256 images in bfloat16."""
    arithmetic = 256 * layer.flops / chip.peak_flops
    return max(arithmetic, layer.traffic(256, 2) / chip.hbm_bandwidth)


def by_kind(name, measure, kinds=tuple(KINDS)):
    """Returns the sum of a measure over a network's layers, for each kind."""
    sums = dict.fromkeys(KINDS, 0.0)
    for layer in layers_of(name):
        sums[layer.kind] += measure(layer) if layer.kind in kinds else 0.0
    return sums


networks = ("vgg16_bn", "resnet50", "mobilenet_v2")
with_weights = [kind for kind in KINDS if kind not in ("batch norm", "activation")]
labels, totals = [], {}
figure, ax = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
for name in networks:
    for label, sums in (
        (f"{name}: MACs", by_kind(name, lambda layer: layer.flops, with_weights)),
        ("least time, layer by layer", by_kind(name, least_time)),
        ("least time, merged", by_kind(name, least_time, with_weights)),
    ):
        total = totals[name, label] = sum(sums.values())
        shares = {kind: 100 * part / total for kind, part in sums.items()}
        stack(ax, len(labels), shares, KINDS)
        if "MACs" not in label:
            ax.text(101, len(labels), f"{1e3 * total:.1f} ms", va="center")
        labels.append(label)
prepare_bars(ax, labels, "Share of the whole / % (computed for v5e)")
for place in (2.5, 5.5):
    ax.axhline(place, color=INK, linewidth=0.6)
ax.set_xlim(0, 110)
legend_below(figure, KINDS)
plt.show()
small = cnn_jax.model_info("mobilenet_v2").macs
for name in networks[:2]:
    macs = cnn_jax.model_info(name).macs / small
    times = [totals[each, "least time, layer by layer"] for each in (name, networks[2])]
    print(
        f"{name} has {macs:.0f} times the MACs of mobilenet_v2, and "
        f"{times[0] / times[1]:.1f} times its least time, layer by layer"
    )

# %% [markdown]
r"""
Depthwise convolutions, norms and activations have next to no multiply-adds, and take most of
MobileNetV2's least time. That is why the next section exists: **the cheapest traffic is the one
that never happens.** (The residual additions and the pooling are left out of this picture.)
"""

# %% [markdown]
r"""
## 3. Fusion: read once, write once

Run operation by operation, as NumPy does and as JAX does outside of `jit`, each of the
following writes an array to memory for the next one to read. Under `jit`, XLA compiles the
whole function and **fuses** what is elementwise into one loop: it reads each number once,
keeps what is in between in registers, and writes the result.
"""

# %%
STEPS = {
    "add the bias": lambda y, shortcut, p: y + p["bias"],
    "subtract the mean": lambda y, shortcut, p: y - p["mean"],
    "divide by the deviation": lambda y, shortcut, p: y * lax.rsqrt(p["var"] + 1e-5),
    "scale": lambda y, shortcut, p: y * p["scale"],
    "shift": lambda y, shortcut, p: y + p["shift"],
    "ReLU": lambda y, shortcut, p: jnp.maximum(y, 0),
    "add the shortcut": lambda y, shortcut, p: y + shortcut,
}
compiled_steps = {name: jax.jit(step) for name, step in STEPS.items()}


def run_steps(steps, y, shortcut, p):
    """Returns the result of one step after another."""
    for step in steps:
        y = step(y, shortcut, p)
    return y


y, shortcut = random_array(2, 4 if SMOKE else 32, 56, 56, 64)
names = ("bias", "mean", "var", "scale", "shift")
p = {name: jnp.abs(random_array(64)) for name in names}
fused = jax.jit(functools.partial(run_steps, STEPS.values())).lower(y, shortcut, p)
fused = fused.compile()


def accessed(compiled):
    """Returns the bytes that a program reads and writes, by XLA's count."""
    return compiled.cost_analysis()["bytes accessed"]


one_by_one = {
    name: accessed(step.lower(y, shortcut, p).compile())
    for name, step in compiled_steps.items()
}
for name, num_bytes in one_by_one.items():
    print(f"{name:25} {num_bytes / 1e6:7.1f} MB")
print(f"{'together':25} {sum(one_by_one.values()) / 1e6:7.1f} MB")
print(f"{'as one program':25} {accessed(fused) / 1e6:7.1f} MB")

# %% [markdown]
r"""
The compiled program's text says so. Every line is an instruction; the functions that fusions
call are left out. `read_instructions` of `cnn_jax.planning` takes it apart.
"""

# %%
instructions = read_instructions(fused.as_text())
entry = [each for each in instructions if each.is_entry and each.opcode != "parameter"]
for instruction in entry:
    print(f"{instruction.opcode} -> {instruction.type}")
inside = collections.Counter(each.opcode for each in instructions if not each.is_entry)
print("\ninside of fusions:", dict(inside))

timings = time_interleaved(
    {
        "op by op": lambda: run_steps(compiled_steps.values(), y, shortcut, p),
        "one program": lambda: fused(y, shortcut, p),
    },
    repeats=21,
    max_seconds=1 if SMOKE else 5,
)
ratio_of_bytes = sum(one_by_one.values()) / accessed(fused)
ratio_of_times = timings["op by op"].median / timings["one program"].median
print(f"\nbytes, op by op over one program: {ratio_of_bytes:.1f}")
print(f"time,  op by op over one program: {ratio_of_times:.1f}")

# %% [markdown]
r"""
**What stops a fusion?** A sum over everything. In training, batch norm needs the batch's mean
before it can subtract it from the first number: the activations must be read once for the
statistics and once more to be normalised. Inference, with stored statistics, needs one
reading; and there a batch norm behind a convolution can even be multiplied into its filters.
"""

# %%
for name, normalise in {
    "inference": lambda x: K.batch_norm_inference(
        x, p["mean"], p["var"], p["scale"], p["shift"], epsilon=1e-5
    ),
    "training": lambda x: K.batch_norm(x, p["scale"], p["shift"], epsilon=1e-5)[0],
}.items():
    compiled = jax.jit(lambda x, f=normalise: jnp.maximum(f(x), 0)).lower(y).compile()
    entry = [each for each in read_instructions(compiled.as_text()) if each.is_entry]
    counts = collections.Counter(each.opcode for each in entry)
    times = accessed(compiled) / y.nbytes
    print(
        f"{name:9}: {counts['fusion']} fusions, {times:.1f} times the activations' bytes"
    )

# %% [markdown]
r"""
The convolution itself stays an instruction of its own on this CPU. On a TPU, XLA puts what
follows a convolution into the same fusion; on a GPU it hands a convolution with bias and
activation to cuDNN as one call where cuDNN has such a one.
"""

# %% [markdown]
r"""
## 4. Precision: fewer bits, fewer bytes

Half the bytes double every slope of the roofline, and matrix units multiply narrow numbers
several times as fast. What do they cost?
"""

# %%
print("dtype      bits  largest     smallest normal  step at 1")
for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
    info = jnp.finfo(dtype)
    print(
        f"{info.dtype!s:10} {info.bits:4}  {float(info.max):8.2e}    "
        f"{float(info.tiny):8.2e}       {float(info.eps):8.2e}"
    )

# %% [markdown]
r"""
bfloat16 is float32 with the last 16 bits cut off: the same range, two to three decimal
digits. float16 has three to four digits and a small range. Three experiments, each in plain
JAX:

* **A long sum**: add $0.1$ again and again. Once the sum is so large that $0.1$ is less than
  half a step, nothing is added any more.
* **The sum inside a convolution**, over $9\,C_\text{in}$ products: inputs in bfloat16, and
  the sum kept in bfloat16 or in float32.
* **A weight** that starts at 1 and is to fall by $10^{-3}$ in each of a thousand steps.
"""


# %%
@functools.partial(jax.jit, static_argnames="dtype")
def running_sums(terms, dtype):
    """Returns the sums of the first 1, 2, ... terms, added in their order in a dtype."""

    def add(total, term):
        total = (total + term.astype(dtype)).astype(dtype)
        return total, total

    return lax.scan(add, jnp.zeros(terms.shape[1:], dtype), terms)[1]


DTYPES = {
    "float32": (jnp.float32, COLORS["input"]),
    "bfloat16": (jnp.bfloat16, COLORS["filter"]),
    "float16": (jnp.float16, COLORS["output"]),
}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
count = np.arange(1, 20_001)
for name, (dtype, color) in DTYPES.items():
    sums = running_sums(jnp.full(len(count), 0.1), dtype)
    axes[0].loglog(count, np.asarray(sums, np.float64), color=color, label=name)
axes[0].plot(count, 0.1 * count, "--", color=INK, linewidth=0.8, label="exact")
axes[0].set_title("Sum of so many times 0.1")
axes[0].set_xlabel("terms")
axes[0].legend(fontsize=9)

terms = 9 * 512
inputs = jnp.maximum(random_array(terms, 64), 0).astype(jnp.bfloat16)
weights = random_array(terms, 64).astype(jnp.bfloat16)
products = inputs.astype(jnp.float32) * weights.astype(jnp.float32)
exact = np.cumsum(np.asarray(products, np.float64), axis=0)
scale = np.sqrt((exact**2).mean(axis=1))
for name in ("float32", "bfloat16"):
    dtype, color = DTYPES[name]
    difference = np.asarray(running_sums(products, dtype), np.float64) - exact
    error = np.sqrt((difference**2).mean(axis=1)) / scale
    axes[1].loglog(error, color=color, label=f"sum in {name}")
rounded = np.sqrt(np.square(exact.astype(jnp.bfloat16) - exact).mean(axis=1)) / scale
axes[1].loglog(rounded, "--", color=INK, linewidth=0.8, label="rounded at the end")
axes[1].set_ylim(1e-9, 1)
axes[1].set_title("Error of a convolution's sum, relative")
axes[1].set_xlabel("terms")
axes[1].legend(fontsize=9, loc="center right")

for name, (dtype, color) in DTYPES.items():
    decrements = jnp.concatenate([jnp.ones(1), jnp.full(1000, -1e-3)])
    axes[2].plot(running_sums(decrements, dtype), color=color, label=name)
axes[2].set_title("A weight, 1,000 updates of −0.001")
axes[2].set_xlabel("update")
plt.show()

# %% [markdown]
r"""
Left and right: where an update is less than half a step, nothing happens, and where it is a
little more, it is rounded to a whole one. In the middle, a sum kept in bfloat16 gets worse as
it gets longer, while one kept in float32 and rounded once at the end has the dashed line's
error, however long it is. So **mixed precision** (Micikevicius et al. 2018) multiplies in 16
bits, adds in float32, and keeps in float32 whatever small changes are added to. Matrix units
do the first two in hardware. This package's kernels do so too:
"""

# %%
x = jnp.maximum(random_array(2, 14, 14, 512), 0).astype(jnp.bfloat16)
w = (random_array(3, 3, 512, 64) / 68).astype(jnp.bfloat16)
with jax.enable_x64(True):
    reference = np.asarray(K.conv(x.astype(jnp.float64), w.astype(jnp.float64)))
error = np.asarray(K.conv(x, w), np.float64) - reference
print(f"K.conv in bfloat16, relative error: {np.std(error) / np.std(reference):.1e}")
rounding = reference.astype(jnp.bfloat16).astype(np.float64) - reference
relative = np.std(rounding) / np.std(reference)
print(f"of rounding the exact result alone: {relative:.1e}\n")

model = cnn_jax.create_model("resnet20", dtype=jnp.bfloat16)
images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
variables = layers.abstract_variables(model, images)
logits, activations = jax.eval_shape(
    lambda v, x: model.apply(v, x, train=False, endpoints=True), variables, images
)
for name, tree in {
    "parameters": variables["params"],
    "running statistics": variables["batch_stats"],
    "optimizer's momentum": jax.eval_shape(
        optax.sgd(0.1, momentum=0.9).init, variables["params"]
    ),
    "activations": {k: v for k, v in activations.items() if k.startswith("stage")},
    "logits": logits,
}.items():
    found = {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}
    print(f"resnet20 in bfloat16: {name:21} {', '.join(sorted(found))}")

# %% [markdown]
r"""
**And the loss scale?** float16's problem is its range. Gradients of activations are small:
the loss is a mean over the batch, and many positions share it. Here are those of six
convolutions with batch norm in their first step, computed in float32, by powers of two.
Whatever is in the darker part is zero in float16. Multiplying the *loss* by $2^{k}$ moves
the whole picture by $k$ to the right for the price of one multiplication; the gradients are
divided by it again, in float32, before the update. bfloat16 reaches further left than the
figure is wide, and needs none of this.
"""

# %%
num_images, width = 16 if SMOKE else 128, 16
digits = load_digits()
digit_images = jnp.asarray(digits.images[:num_images] / 8 - 1, jnp.float32)
digit_images = digit_images.repeat(4, 1).repeat(4, 2)[..., None]
targets = jnp.asarray(digits.target[:num_images])
filters = [random_array(3, 3, 1, width) / 3]
filters += [random_array(3, 3, width, width) / 12 for _ in range(5)]
head = random_array(width, 10) / 4


def loss_of(offsets, filters, head, y):
    """Returns the loss, with an offset added to the output of every convolution."""
    for w, offset in zip(filters, offsets):
        scale, bias = jnp.ones(width), jnp.zeros(width)
        y = K.conv(y, w) + offset
        y, _, _ = K.batch_norm(y, scale, bias, epsilon=1e-5, activation=K.relu)
    logits = K.dense(K.global_avg_pool(y), head)
    return K.softmax_cross_entropy(logits, targets).mean()


zeros = [jnp.zeros((num_images, 32, 32, width))] * len(filters)
gradients = jax.jit(jax.grad(loss_of))(zeros, filters, head, digit_images)
values = np.concatenate([np.abs(np.ravel(grad)) for grad in jax.tree.leaves(gradients)])
values = values[values > 0]
figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
bins = np.arange(-45, 1)
ax.hist(np.log2(values), bins, weights=np.full(len(values), 100 / len(values)))
ax.axvspan(-45, -25, color=COLORS["filter"], alpha=0.15, linewidth=0)
ax.axvspan(-25, -14, color=COLORS["filter"], alpha=0.05, linewidth=0)
top = 1.15 * ax.get_ylim()[1]
ax.set_ylim(0, top)
ax.text(-35, 0.9 * top, "zero in float16", ha="center", color=COLORS["filter"])
ax.text(-19.5, 0.9 * top, "fewer digits", ha="center", color=COLORS["filter"])
ax.set_xlim(-45, 0)
ax.set_xlabel("exponent of two")
ax.set_title("Gradients of the activations that are not zero in float32 / %")
plt.show()
for exponent in (0, 4, 8, 12, 16):
    scaled = (values * 2.0**exponent).astype(np.float16)
    print(
        f"loss times 2^{exponent:<2}: {np.mean(scaled == 0):7.2%} of them become zero, "
        f"{np.mean(np.isinf(scaled)):.2%} infinite"
    )

# %% [markdown]
r"""
`TrainConfig` in float16 finds the factor itself: it doubles after many good steps, and halves
after one whose gradients overflowed, which is then skipped
([loss_scale.py](../cnn_jax/training/step/loss_scale.py)).
"""

# %% [markdown]
r"""
## 5. From a convolution to a chip

Chips have units that multiply matrices; none has one that convolves. So somebody turns the
convolution into something else. The oldest way is **im2col**: write the patch under each
output as one row. Then the convolution is a matrix product:
"""

# %%
image = np.array([[1, 2, 0], [0, 1, 3], [2, 1, 0]])
filters = np.array([[1, -1], [2, 0]])
patches = np.lib.stride_tricks.sliding_window_view(image, (2, 2)).reshape(4, 4)
row(
    Grid(image, "image", "input", marked=[(0, 0), (0, 1), (1, 0), (1, 1)]),
    "→",
    Grid(patches, "one row for each output", "input", marked=np.ndindex(1, 4)),
    "·",
    Grid(filters.reshape(4, 1), "filter", "filter"),
    "=",
    Grid(patches @ filters.reshape(4, 1), "outputs", "output"),
)
plt.show()

# %% [markdown]
r"""
With many channels a row has $k^2 C_\text{in}$ entries, and the filters are a matrix with
$C_\text{out}$ columns. The price: every pixel is written $k^2$ times. Good libraries build
those rows block by block in fast memory and never store them all (Chetlur et al. 2014, the
paper on cuDNN, calls it an *implicit* product).

Two more ways save multiplications. **Winograd's** (Lavin and Gray 2016) computes 2×2 outputs
of a 3×3 filter from a 4×4 patch: transform patch and filter, multiply the 16 pairs, transform
back, $16$ multiplications in place of $4 \cdot 9 = 36$. **The FFT** turns a convolution into
one product for each frequency, whatever the size of the filter. Here is each in a few lines:
"""

# %%
INPUT = np.float32([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
FILTER = np.float32([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
OUTPUT = np.float32([[1, 1, 1, 0], [0, 1, -1, -1]])


def direct(x, w):
    """Convolves as the platform's own convolution does, with padding SAME."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dimensions)


def windows(x, size, step):
    """Returns the patches `(n, rows, columns, size, size, c)` of a padded image."""
    n, height, width, c = x.shape
    rows, columns = (height - size) // step + 1, (width - size) // step + 1
    slices = [
        x[:, i::step, j::step][:, :rows, :columns]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.stack(slices, axis=3).reshape(n, rows, columns, size, size, c)


def im2col(x, w):
    """Convolves by one matrix product, with padding SAME, for odd filters."""
    k = len(w)
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    matrix = windows(padded, k, 1).reshape(math.prod(x.shape[:3]), -1)
    return (matrix @ w.reshape(-1, w.shape[-1])).reshape(*x.shape[:3], -1)


def winograd(x, w):
    """Convolves by 3×3 filters, two rows and two columns of outputs at a time."""
    n, height, width, _ = x.shape
    patches = windows(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 4, 2)
    inputs = jnp.einsum("ai,nhwijc,bj->abnhwc", INPUT, patches, INPUT)
    filters = jnp.einsum("ai,ijco,bj->abco", FILTER, w, FILTER)
    products = jnp.einsum("abnhwc,abco->abnhwo", inputs, filters)
    outputs = jnp.einsum("pa,abnhwo,qb->nhpwqo", OUTPUT, products, OUTPUT)
    return outputs.reshape(n, height, width, -1)


def by_fft(x, w):
    """Convolves by a product for each frequency, with padding SAME, for odd filters."""
    k, sides = len(w), (x.shape[1] + len(w) - 1, x.shape[2] + len(w) - 1)
    spectrum = jnp.fft.rfft2(x, s=sides, axes=(1, 2))
    filters = jnp.fft.rfft2(jnp.flip(w, (0, 1)), s=sides, axes=(0, 1))
    product = jnp.einsum("nhwc,hwco->nhwo", spectrum, filters)
    full = jnp.fft.irfft2(product, s=sides, axes=(1, 2))
    start = k // 2
    return full[:, start : start + x.shape[1], start : start + x.shape[2]]


ALGORITHMS = {"direct": direct, "im2col": im2col, "Winograd": winograd, "FFT": by_fft}
c = 16 if SMOKE else 64
x = random_array(8, 28, 28, c)
print("filter   algorithm   temporaries   from the direct         time")
for k in (3, 15):
    w, functions = random_array(k, k, c, c), {}
    for name, algorithm in ALGORITHMS.items():
        if k == 3 or name in ("direct", "FFT"):
            program = jax.jit(algorithm).lower(x, w).compile()
            functions[name] = functools.partial(program, x, w)
    timings = time_interleaved(functions, repeats=9, max_seconds=1 if SMOKE else 3)
    exact = functions["direct"]()
    for name, function in functions.items():
        difference = jnp.abs(function() - exact).max() / jnp.abs(exact).max()
        temporaries = function.func.memory_analysis().temp_size_in_bytes / 1e6
        print(
            f"{f'{k}×{k}':8} {name:10} {temporaries:11.1f} MB {difference:17.0e}"
            f" {1e3 * timings[name].median:12.2f} ms"
        )

# %% [markdown]
r"""
All compute the same convolution, up to rounding, and all but the direct one pay in memory
(im2col would take $15^2$ times the input for the larger filter). Fewer multiplications are
not faster by themselves: the transforms must be written as well as the products are, and ours
are not. That is what libraries are for. The FFT's case is the large filter, whose size it
hardly feels.

### GPUs: cuDNN chooses

On NVIDIA's GPUs these algorithms are in **cuDNN**: direct and implicit products in many tile
sizes, Winograd, FFT, each for several layouts and dtypes. Which is fastest depends on the
shape, so it is tried: XLA compiles a convolution to a call of cuDNN, *times the candidates on
your GPU while it compiles* (autotuning), and keeps the best. Two consequences. The first step
is slow, and the choice, and with it the last digits, may differ from run to run unless you ask
for determinism ([Kernels](../docs/kernels.md#deterministic-on-a-gpu)). And a layer may use
memory for its algorithm that no array of yours explains.

### TPUs: a systolic array

A TPU's **matrix unit** (MXU) is a square of multiply-adders: 128×128 from v2 to v5, 256×256
since v6e and on the very first (Jouppi et al. 2017). It is *systolic*: weights stay in
their cells, inputs enter at the left, one row of cells later each, and partial sums move down
a cell a cycle. No cell reads a memory; each hands on what it has. Here is one of 4×4, with
the number of the input that each cell works on:
"""


# %%
def systolic(x, w):
    """Multiplies as a systolic array does, cycle by cycle.

    Args:
      x: Inputs `(m, k)`.
      w: Weights `(k, n)`, one in each cell.

    Returns:
      The product `(m, n)`, and what cells work on: `(cycles, k, n)`, an input's number
      from 1, or 0 for nothing.
    """
    (m, k), n = x.shape, w.shape[1]
    cycles = m + k + n - 2
    moving, sums = np.zeros((k, n)), np.zeros((k, n))
    result, busy = np.zeros((m, n)), np.zeros((cycles, k, n), int)
    for cycle in range(cycles):
        # Inputs move one cell to the right; cell row i gets its next one i cycles late.
        number = cycle - np.arange(k)
        there = (number >= 0) & (number < m)
        entering = np.where(there, x[number.clip(0, m - 1), np.arange(k)], 0)
        moving = np.column_stack([entering, moving[:, :-1]])
        # Sums move down, and each cell adds its product.
        sums = np.vstack([np.zeros(n), sums[:-1]]) + moving * w
        works_on = cycle - np.add.outer(np.arange(k), np.arange(n))
        busy[cycle] = np.where((works_on >= 0) & (works_on < m), works_on + 1, 0)
        for column in range(n):
            if 0 <= works_on[-1, column] < m:
                result[works_on[-1, column], column] = sums[-1, column]
    return result, busy


x, w = generator.normal(size=(6, 4)), generator.normal(size=(4, 4))
product, busy = systolic(x, w)
print("largest difference from x @ w:", f"{np.abs(product - x @ w).max():.0e}")
shown = (0, 2, 5, 8, 11)
row(
    *(
        Grid(busy[cycle], f"cycle {cycle + 1}", "filter", faint=busy[cycle] == 0)
        for cycle in shown
        if cycle < len(busy)
    )
)
plt.show()
for m in (6, 60, 600):
    _, busy = systolic(generator.normal(size=(m, 4)), w)
    print(f"{m:4} inputs: {np.mean(busy > 0):.0%} of cells and cycles do work")

# %% [markdown]
r"""
A long stream hides the filling and draining, and a convolution has one: every position of
every image is a row of the stream. What nothing hides are **cells without a weight**. The
array has one row for each entry of a patch and one column for each output channel; a layer
with 96 outputs leaves a quarter of 128 columns idle, and one with 130 needs two passes, the
second nearly empty.
"""


# %%
def utilization(rows, columns, size):
    """Returns the share of cells that hold a weight, over all passes."""
    passes = math.ceil(rows / size) * math.ceil(columns / size)
    return rows * columns / (passes * size**2)


def network_utilization(name, size):
    """Returns a network's multiply-adds by those that full arrays would have done."""
    useful = spent = 0.0
    for layer in layers_of(name):
        if layer.kernel and layer.kind != "depthwise":
            rows, columns = math.prod(layer.kernel[:-1]), layer.kernel[-1]
            useful += layer.flops
            spent += layer.flops / utilization(rows, columns, size)
    return useful / spent


figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.4), layout="constrained", width_ratios=(3, 2)
)
counts = np.arange(8, 641, 8)
names = ("vgg16_bn", "resnet50", "mobilenet_v2", "efficientnet_b0")
for offset, size, color in ((-0.19, 128, "input"), (0.19, 256, "filter")):
    used = [100 * utilization(n, n, size) for n in counts]
    left.plot(counts, used, color=COLORS[color], label=f"{size}×{size} cells")
    used = [100 * network_utilization(name, size) for name in names]
    places = np.arange(len(names)) + offset
    bars = right.barh(places, used, height=0.36, color=COLORS[color])
    right.bar_label(bars, fmt=" %.0f", fontsize=9)
left.set_xticks(range(0, 641, 128))
left.set_xlabel("channels in and out of a 1×1 convolution")
left.set_title("Cells that hold a weight / % (computed)")
left.legend(loc="lower right")
prepare_bars(right, names, "The same for networks, without depthwise layers")
right.set_xlim(0, 100)
plt.show()
for size in (128, 256):
    share = utilization(9, 1, size)
    print(f"a depthwise 3×3 layer on {size}×{size} cells: {share:.3%}")

# %% [markdown]
r"""
The teeth are at multiples of the array's side, which is why networks for TPUs have channels
in multiples of 128, and why a larger array is no gain for narrow layers. A depthwise
convolution has 9 rows and *one* column for each channel: on this unit nearly every cell would
be idle. The figure is a model of the unit alone, with a row for each entry of a patch. A
compiler has other choices, one of them to leave such a layer to the vector unit.

### What this package does

For each kind of layer and each platform it picks the form that is faster there
([Kernels](../docs/kernels.md#what-runs-on-which-platform)). Nothing need be run to see it:
JAX lowers a program for platforms that are not there. Counted below are the operations of a
layer, forward and backward, in the program that XLA gets:
"""

# %%
spatial, c = 28, 32 if SMOKE else 96
x = random_array(8, spatial, spatial, c)
LAYERS = {
    "3×3": (K.conv, K.autodiff.conv, {}, (3, 3, c, c)),
    "1×1": (K.conv, K.autodiff.conv, {}, (1, 1, c, c)),
    "depthwise 3×3": (K.conv, K.autodiff.conv, {"groups": c}, (3, 3, 1, c)),
}
SHOWN = ("convolution", "dot_general", "multiply", "reduce")


def with_gradients(function, options):
    """Returns a function of `(x, w, dy)`: the output, and both gradients."""

    def compute(x, w, dy):
        y, pull_back = jax.vjp(lambda x, w: function(x, w, **options), x, w)
        return y, *pull_back(dy)

    return compute


print("layer           platform   " + "  ".join(f"{name:>11}" for name in SHOWN))
for name, (ours, _, options, shape) in LAYERS.items():
    for platform in ("cpu", "tpu"):
        with target_platform(platform):
            traced = jax.jit(with_gradients(ours, options)).trace(x, jnp.ones(shape), x)
            text = traced.lower(lowering_platforms=(platform,)).as_text()
        counts = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
        numbers = "  ".join(f"{counts[operation]:11}" for operation in SHOWN)
        print(f"{name:15} {platform:8}   {numbers}")

# %% [markdown]
r"""
On a CPU a 1×1 convolution is a matrix product, and a depthwise one is nine shifted
multiply-adds, with no convolution left; for a TPU all are XLA's own. What is it worth here?
`K.autodiff` has the same layers in XLA's form, differentiated by JAX. Every round times both,
and each gives one ratio; below are their median and quartiles.
"""


# %%
def ratios(timings, slow, fast):
    """Returns the quartiles of the rounds' ratios: how many times `slow` takes."""
    pairs = zip(timings[slow].seconds, timings[fast].seconds)
    return np.percentile([one / other for one, other in pairs], (25, 50, 75))


programs = {}
for name, (ours, stock, options, shape) in LAYERS.items():
    arguments = x, random_array(*shape), random_array(*x.shape)
    for form, function in {"this package": ours, "XLA's form": stock}.items():
        program = jax.jit(with_gradients(function, options)).lower(*arguments).compile()
        programs[name, form] = functools.partial(program, *arguments)
figure, ax = plt.subplots(figsize=(7.5, 2.4), layout="constrained")
for place, name in enumerate(LAYERS):
    functions = {form: f for (layer, form), f in programs.items() if layer == name}
    results = [function() for function in functions.values()]
    same = [np.allclose(a, b, rtol=1e-2, atol=1e-2) for a, b in zip(*results)]
    timings = time_interleaved(functions, repeats=15, max_seconds=1 if SMOKE else 3)
    low, middle, high = ratios(timings, "XLA's form", "this package")
    ax.plot([low, high], [place, place], color=COLORS["output"], linewidth=4, alpha=0.4)
    ax.plot(middle, place, "o", color=COLORS["output"])
    ax.text(middle, place - 0.18, f"{middle:.1f}", ha="center", va="bottom", size=9)
    medians = [f"{form} {1e3 * t.median:.2f} ms" for form, t in timings.items()]
    print(f"{name:15} same numbers: {all(same)};   {', '.join(medians)}")
title = "Time of XLA's form over ours, forward and backward (measured on this CPU)"
prepare_bars(ax, list(LAYERS), title)
ax.axvline(1, color=INK, linewidth=0.8)
ax.set_xscale("log")
ax.set_ylim(len(LAYERS) - 0.5, -0.7)
plt.show()

# %% [markdown]
r"""
All layers and passes, over two versions of JAX and against PyTorch, are in
[Results](../docs/results.md#kernels-on-a-cpu); 1 is a draw.
"""

# %% [markdown]
r"""
## 6. Planning a TPU slice

Before one rents 256 chips one wants to know: does it fit, what takes the time, and do the
chips wait for each other? The compiler can say, without any chip: `cnn-jax plan` compiles the
training step for a slice that need not be there ([Planning](../docs/planning.md)). Each of
these compilations takes minutes, so we read records that are committed in this repository.
**Every number of this section is an estimate by the TPU's compiler, or computed from the
published bandwidth of the links. Nothing was run.**
"""

# %%
PARTS = {
    "parameters": COLORS["input"],
    "optimizer": "#2a8fbd",
    "batch": COLORS["output"],
    "activations": COLORS["filter"],
    "temporaries": COLORS["gradient"],
    "other": COLORS["plain"],
}


def plans_of(name):
    """Returns the plans of a committed record."""
    file = RESULTS / f"plan_resnet50_{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))["plans"]


plans = plans_of("v5e_max_batch") + plans_of("v5e_max_batch_remat")
figure, ax = plt.subplots(figsize=(8.5, 2.7), layout="constrained")
available = plans[0]["memory"]["available"] / 2**30
labels = []
for place, plan in enumerate(plans):
    memory, says = plan["memory"], "does not fit"
    if plan["fits"]:
        parts = {name: memory[name] / 2**30 for name in PARTS if name != "other"}
        parts["other"] = memory["total"] / 2**30 - sum(parts.values())
        stack(ax, place, parts, PARTS)
        says = f"{plan['speed']['images_per_second']:,.0f} images/s"
    else:
        total = memory["total"] / 2**30
        ax.barh(place, total, fill=False, edgecolor=INK, hatch="//", height=0.75)
    ax.text(28, place, says, va="center", size=9)
    recomputed = ", recomputed" if plan["settings"]["remat"] else ""
    labels.append(f"{plan['devices']['images']:,} images a chip{recomputed}")
title = "GiB of memory of a v5e chip, ResNet-50 in bfloat16 (the compiler's plan)"
prepare_bars(ax, labels, title)
ax.axvline(available, color=INK, linewidth=1)
ax.text(available, -0.6, " memory of the chip", size=9)
ax.set_ylim(len(plans) - 0.5, -1)
ax.set_xlim(0, 36)
legend_below(figure, PARTS)
plt.show()

# %% [markdown]
r"""
Memory is activations: what the forward pass must keep for the backward pass, and it grows
with the batch. Parameters and optimizer are slivers. *Recomputed* plans keep only the blocks'
inputs and compute the rest once more in the backward pass: a larger batch fits, and each image
costs more. The most that fits need not be the fastest.

**Many chips.** In weak scaling each chip keeps its 256 images, and chips are added. The step
then grows by what chips send each other: the gradients are summed over all of them
(all-reduce), and so are the batch norms' statistics where those are global.
"""

# %%
scaling = [plans_of(f"v5p_{count}")[0] for count in (8, 64, 256, 2048)]
chips = [plan["devices"]["count"] for plan in scaling]
print("chips   topology      cycles of a step   collectives   share   images/s")
for plan in scaling:
    speed = plan["speed"]
    print(
        f"{plan['devices']['count']:5}   {plan['settings']['topology']:11} "
        f"{plan['cycles']:18,} {1e3 * speed['collective_seconds']:10.2f} ms"
        f" {speed['collective_share']:7.1%} {speed['images_per_second']:10,.0f}"
    )
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
share = [100 * plan["speed"]["collective_share"] for plan in scaling]
left.semilogx(chips, share, "o-", color=COLORS["filter"], base=2)
left.set_ylim(0, None)
left.set_title("Collectives' share of a step / % (estimate)")
images = np.array([plan["speed"]["images_per_second"] for plan in scaling])
right.loglog(chips, images, "o-", color=COLORS["input"], label="by the plans")
ideal = images[0] * np.array(chips) / chips[0]
right.loglog(chips, ideal, "--", color=INK, linewidth=0.8, label="without collectives")
right.set_xscale("log", base=2)
right.set_title("Images per second (estimate)")
right.legend()
for ax in (left, right):
    ax.set_xticks(chips, chips)
    ax.set_xlabel("chips of v5p, 256 images each")
plt.show()

# %% [markdown]
r"""
A chip's cycles do not change. What grows is the exchange, and here hardly because of bytes: in
a ring each chip sends about twice the gradients however many take part, but the message passes
more chips, at about a microsecond each, and each batch norm asks for messages of its own:
"""

# %%
for plan in (scaling[0], scaling[-1]):
    for message in plan["collectives"]:
        print(
            f"{plan['devices']['count']:5} chips: {message['count']} x "
            f"{message['kind']}, {message['payload_bytes'] / 1e6:.1f} MB of one chip, "
            f"which sends {message['sent_bytes'] / 1e6:.1f} MB"
        )

# %% [markdown]
r"""
**Multiply-adds and cycles.** Last, whole training steps of five networks as compiled for v5e.
A step has about three forward passes' arithmetic, so the share of the peak that the plan
reaches is $6 \cdot \text{MACs} \cdot \text{images} / (\text{cycles} \cdot \text{FLOPs of a
cycle})$.
"""

# %%
records = []
for file in ("steps_tpu_v5e.json", "steps_tpu_v5e_256.json"):
    found = json.loads((RESULTS / file).read_text(encoding="utf-8"))["records"]
    records += [record for record in found if record["strategy"] == "jit"]
records.sort(key=lambda record: cnn_jax.model_info(record["model"]).macs)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 2.8), layout="constrained", sharey=True
)
names = [record["model"] for record in records]
macs = np.array([cnn_jax.model_info(name).macs for name in names])
cycles = np.array([record["ours_cycles"] / record["batch"] for record in records])
used = 100 * 6 * macs / (cycles * CHIPS["v5e"].flops_per_cycle)
places = np.arange(len(names))
for shift, values, color, label in (
    (-0.19, macs, COLORS["plain"], "multiply-adds"),
    (0.19, cycles, COLORS["filter"], "cycles"),
):
    left.barh(places + shift, values / values[0], height=0.36, color=color, label=label)
left.legend(loc="upper right", fontsize=9)
bars = right.barh(places, used, color=COLORS["input"], height=0.6)
right.bar_label(bars, fmt=" %.0f", fontsize=9)
right.set_xlim(0, 1.15 * used.max())
prepare_bars(left, names, f"An image, relative to {names[0]}")
right.set_title("Share of the peak in training / % (estimate)")
right.grid(axis="y", visible=False)
plt.show()

# %% [markdown]
r"""
Multiply-adds differ far more than cycles do. Networks that were designed to have few of them
leave the matrix unit waiting: for memory (section 2), or for cells with a weight (section 5).
Choose a network by its time on *your* hardware, not by its MACs.
"""

# %% [markdown]
r"""
## 7. A fair timing

Measure wrongly and you get a number, not an error. Below are nine ways, each beside the right
one. The function is a small training step: loss and gradients of two convolutions.
"""

# %%
n, c = (8, 16) if SMOKE else (32, 32)
x = random_array(n, 32, 32, c)
w = random_array(2, 3, 3, c, c) / (3 * math.sqrt(c))


def loss_and_gradient(w, x):
    """Returns a loss of two convolutions, and its gradient by the filters."""

    def loss(w):
        return jnp.mean(jnp.square(K.conv(K.relu(K.conv(x, w[0])), w[1])))

    return jax.value_and_grad(loss)(w)


step = jax.jit(loss_and_gradient)
only_loss = jax.jit(lambda w, x: loss_and_gradient(w, x)[0])
in_memory = np.asarray(x)
rounds = {"repeats": 5 if SMOKE else 15, "max_seconds": 4}
timings = time_interleaved(
    {
        "right": lambda: step(w, x),
        "backward pass removed": lambda: only_loss(w, x),
        "jit in the loop": lambda: jax.jit(lambda w, x: loss_and_gradient(w, x))(w, x),
        "arrays of NumPy": lambda: step(w, in_memory),
    },
    **rounds,
)
right = timings["right"].median
wrong = {
    "1. compilation inside the clock": timings["right"].first_call_seconds,
    "2. a new jit in every call": timings["jit in the loop"].median,
    "3. a part of the result is thrown away": timings["backward pass removed"].median,
    "4. data copied from NumPy in every call": timings["arrays of NumPy"].median,
}

dispatches = []
for _ in range(rounds["repeats"]):
    start = time.perf_counter()
    result = step(w, x)
    dispatches.append(time.perf_counter() - start)
    jax.block_until_ready(result)
wrong["5. nobody waits for the result"] = float(np.median(dispatches))

with jax.enable_x64(True):
    wide = (w.astype(jnp.float64), x.astype(jnp.float64))
    jax.block_until_ready(wide)
    timings = time_interleaved(
        {"float64": lambda: step(*wide), "float32": lambda: step(w, x)}, **rounds
    )
double, single = timings["float64"].median, timings["float32"].median
wrong["6. float64 by accident"] = right * double / single

# %% [markdown]
r"""
1. The first call compiles; a benchmark warms up first, and says how long it took.
2. `jax.jit` of a new function is a new program: it is compiled again in every call.
3. XLA removes what nobody asked for. Return the loss alone, and there is no backward pass in
   the program. Return everything that you time.
4. Arrays of NumPy are handed over in every call. On a CPU that is a copy within memory, or
   none; to a GPU or TPU it crosses a bus and can be most of the time.
5. JAX returns as soon as the work is *queued* (asynchronous dispatch). `block_until_ready`
   waits; PyTorch on a GPU needs `torch.cuda.synchronize`.
6. NumPy's numbers are float64 unless one says otherwise. JAX makes float32 of them, other
   libraries do not. On a GPU, TensorFloat-32 is a like trap.

**7. Another process.** It comes and goes, and clocks and temperatures drift. Time *A* first
and *B* after, and you compare two moments as much as two functions. Here *A* and *B* are the
same function, so the right answer is 1, and in the middle a neighbour starts that keeps every
core busy. Interleaved, with either of them first in turn, it disturbs both alike.

**8. Too few repetitions.** Each round of the second experiment, by itself, is a measurement
with one repetition.
"""


# %%
def seconds_of(function):
    """Returns the seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(function(w, x))
    return time.perf_counter() - start


@contextlib.contextmanager
def busy_neighbour():
    """Keeps every core busy in other processes."""
    command = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(command) for _ in range(num_cores)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for process in neighbours:
            process.kill()
            process.wait()


def times_of_pairs(count):
    """Returns the seconds of A and of B, each of them first in every other pair."""
    pairs = [(seconds_of(step), seconds_of(step)) for _ in range(count)]
    return [pair[:: 1 - 2 * (number % 2)] for number, pair in enumerate(pairs)]


count = 6 if SMOKE else 30
first = [seconds_of(step) for _ in range(count)]
pairs = times_of_pairs(count // 2)
with busy_neighbour():
    second = [seconds_of(step) for _ in range(count)]
    pairs += times_of_pairs(count // 2)
of_a, of_b = np.transpose(pairs)
sequential = np.median(second) / np.median(first)
interleaved = np.median(of_b) / np.median(of_a)
singles = np.sort(of_b / of_a)
wrong["7. A first, then B"] = right * sequential
wrong["8. one repetition, the worst of them"] = right * max(singles[-1], 1 / singles[0])
print(f"A first, then B, medians:      B takes {sequential:.2f} times as long as A")
print(f"A and B interleaved, medians:  B takes {interleaved:.2f} times as long as A")
print(f"A and B once:                  from {singles[0]:.2f} to {singles[-1]:.2f}")

# %%
figure, (left, right_axes) = plt.subplots(
    1, 2, figsize=(10, 2.9), layout="constrained", sharey=True
)
left.plot(1e3 * np.array(first), "o", markersize=4, label="A")
left.plot(
    count + np.arange(count), 1e3 * np.array(second), "s", markersize=4, label="B"
)
left.axvspan(count - 0.5, 2 * count, color=COLORS["plain"], alpha=0.12, linewidth=0)
left.set_title("A first, then B: time of a call / ms (measured)")
right_axes.plot(1e3 * of_a, "o", markersize=4)
right_axes.plot(1e3 * of_b, "s", markersize=4)
middle = count // 2 - 0.5
right_axes.axvspan(middle, count, color=COLORS["plain"], alpha=0.12, linewidth=0)
right_axes.set_title("interleaved; grey: the neighbour runs")
left.set_ylim(0, None)
left.legend()
left.set_xlabel("call")
right_axes.set_xlabel("pair of calls")
plt.show()

# %% [markdown]
r"""
**9. Memory that is touched for the first time.** An allocation costs nothing until it is
used: then the system hands out every page of it, filled with zeros (a *page fault*). XLA's
CPU client allocates a step's temporaries anew in each step, and the C library gives large
blocks back when they are freed. So a step pays for all of them again, unless the process keeps
its memory. That must be chosen before JAX starts its threads, so each way runs in a process of
its own, and three variables of glibc choose it. From inside of a process
`cnn_jax.allocator.keep_memory` asks for the same, as this notebook did at its start, for JAX
and PyTorch alike; training runs do so by themselves.
"""

# %%
PROGRAM = """
import json, resource, statistics, sys, time
import jax, jax.numpy as jnp
from cnn_jax import kernels as K
n = int(sys.argv[1])
x, w = jnp.ones((n, 32, 32, 32)), jnp.ones((3, 3, 32, 32)) / 288
def loss(w, y):
    for _ in range(3):
        y = K.relu(K.conv(y, w))
    return y.mean()
step, seconds = jax.jit(jax.grad(loss)), []
for _ in range(12):
    step(w, x).block_until_ready()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(9):
    start = time.perf_counter()
    step(w, x).block_until_ready()
    seconds.append(time.perf_counter() - start)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
print(json.dumps([faults / 9, statistics.median(seconds)]))
"""
paths = [str(pathlib.Path(cnn_jax.__file__).parents[1]), os.environ.get("PYTHONPATH")]
environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
# One arena, no block mapped by itself, and nothing given back: see mallopt(3).
keeping = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0"}
keeping["MALLOC_TRIM_THRESHOLD_"] = "-1"
seconds = {}
for name in ("given back", "kept") if sys.platform == "linux" else ():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "8" if SMOKE else "64"],
        env=environment | (keeping if name == "kept" else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    faults, seconds[name] = json.loads(done.stdout)
    milliseconds = 1e3 * seconds[name]
    print(f"{name:10} {faults:8,.0f} page faults a step, {milliseconds:7.1f} ms")
if seconds:
    ratio = seconds["given back"] / seconds["kept"]
    wrong["9. memory given back in every step"] = right * ratio

# %% [markdown]
r"""
All nine beside the right number. A point left of the line flatters, one right of it slanders.
"""

# %%
figure, ax = plt.subplots(figsize=(8.5, 3.4), layout="constrained")
for place, found in enumerate(wrong.values()):
    ratio = found / right
    ax.plot([1, ratio], [place, place], color=COLORS["filter"], linewidth=1)
    ax.plot(ratio, place, "o", color=COLORS["filter"])
    ha, shift = ("left", 1.15) if ratio >= 1 else ("right", 1 / 1.15)
    ax.text(ratio * shift, place, f"{ratio:.3g}", ha=ha, va="center", size=9)
ax.axvline(1, color=INK, linewidth=0.8)
ax.set_xscale("log")
low, high = ax.get_xlim()
ax.set_xlim(low / 8, high * 8)
title = f"Wrong time over right time; the right one is {1e3 * right:.2f} ms (measured)"
prepare_bars(ax, list(wrong), title)
plt.show()

# %% [markdown]
r"""
`cnn_jax.analysis.timing.time_interleaved` does the right thing: it calls each function once
before it measures, waits for what was returned, times all of them in every round, every other
round in reverse order, repeats quick functions within a round, and returns each round's
seconds. The comparisons of sections 2 to 5 were made with it.

### JAX against PyTorch

Two frameworks invite unfairness of their own. Both must compute **the same thing** (the same
network, loss, optimizer and numbers: check it), in the **same dtype**, on the **same
threads**, each in **the layout that it likes** (JAX: channels last; PyTorch: channels first
by default, and faster on many machines with `channels_last`), both **compiled or both not, or
say so**, with **data already on the device**, waiting for the **result**, interleaved. First
the layers of section 5, forward and backward, with PyTorch in three settings:
"""

# %%
if HAS_TORCH:
    import torch
    import torch.nn.functional as F

    threads = torch.get_num_threads()
    print(f"PyTorch {torch.__version__}, {threads} threads; JAX {jax.__version__}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"processes that want a core, mean of the last minute: {load:.1f}")
else:
    print(
        "PyTorch is not installed: pip install torch==2.13.0. What follows is JAX alone."
    )


def to_torch(array, *, last=True):
    """Returns a tensor of the same numbers, images and filters channels first."""
    tensor = torch.from_numpy(np.array(array))
    if tensor.ndim != 4:
        return tensor
    is_filter = array.shape[0] == array.shape[1] <= 7
    tensor = tensor.permute((3, 2, 0, 1) if is_filter else (0, 3, 1, 2))
    layout = torch.channels_last if last else torch.contiguous_format
    return tensor.contiguous(memory_format=layout)


def torch_layer(x, w, dy, *, groups=1, last=True):
    """Returns a function that runs a convolution forward and backward in PyTorch."""
    x, w, dy = (to_torch(array, last=last) for array in (x, w, dy))
    for tensor in (x, w):
        tensor.requires_grad_()

    def call():
        y = F.conv2d(x, w, padding="same", groups=groups)
        return y, *torch.autograd.grad(y, (x, w), dy)

    return call


def on_one_thread(function):
    """Returns a function that lets PyTorch use one thread for a call."""

    def call():
        torch.set_num_threads(1)
        try:
            return function()
        finally:
            torch.set_num_threads(threads)

    return call


compared = {}
for name, (_, _, options, _) in LAYERS.items():
    functions = {f"JAX, {form}": f for (k, form), f in programs.items() if k == name}
    ours = functions["JAX, this package"]
    if HAS_TORCH:
        functions["PyTorch"] = torch_layer(*ours.args, **options)
        first = torch_layer(*ours.args, **options, last=False)
        functions["PyTorch, channels first"] = first
        functions["PyTorch, one thread"] = on_one_thread(functions["PyTorch"])
        dw = functions["PyTorch"]()[2].permute(2, 3, 1, 0).numpy()
        error = np.abs(dw - ours()[2]).max() / np.abs(dw).max()
        print(f"{name:15} largest difference of dw, relative: {error:.0e}")
    compared[name] = time_interleaved(
        functions, repeats=11, min_seconds=0.02, max_seconds=1 if SMOKE else 3
    )

figure, axes = plt.subplots(1, 3, figsize=(10.5, 2.5), layout="constrained")
for ax, (name, timings) in zip(axes, compared.items()):
    for place, (form, timing) in enumerate(timings.items()):
        color = COLORS["input" if form.startswith("JAX") else "filter"]
        ax.barh(place, 1e3 * timing.median, color=color, height=0.65)
        ax.plot(1e3 * np.array(timing.quartiles), [place] * 2, color=INK, linewidth=1.5)
    labels = list(timings) if ax is axes[0] else [""] * len(timings)
    prepare_bars(ax, labels, f"{name} / ms")
figure.suptitle("Forward and backward: medians and quartiles (measured)", size=10)
plt.show()

# %% [markdown]
r"""
Now a training step: three convolutions with batch norm and ReLU, global pooling, a dense
layer, SGD with momentum. The same initial numbers go into both, and before anything is timed,
both take three steps and must report the same losses.
"""

# %%
n, side = (16, 16) if SMOKE else (64, 32)
widths, strides = (3, 32, 64, 64), (1, 2, 2)
start = {"dense/w": random_array(64, 10) / 8, "dense/b": jnp.zeros(10)}
for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
    start[f"{number}/w"] = random_array(3, 3, inputs, outputs) / math.sqrt(9 * inputs)
    start[f"{number}/scale"] = jnp.ones(outputs)
    start[f"{number}/bias"] = jnp.zeros(outputs)
images = random_array(n, side, side, 3)
labels = jnp.asarray(generator.integers(0, 10, n))
optimizer = optax.sgd(0.05, momentum=0.9)


def loss_in_jax(params, x):
    """Returns the mean loss of the network."""
    for number, stride in enumerate(strides):
        padding = [(1, 1), (1, 1)]
        x = K.conv(x, params[f"{number}/w"], strides=stride, padding=padding)
        scale, bias = params[f"{number}/scale"], params[f"{number}/bias"]
        x, _, _ = K.batch_norm(x, scale, bias, epsilon=1e-5, activation=K.relu)
    logits = K.dense(K.global_avg_pool(x), params["dense/w"]) + params["dense/b"]
    return K.softmax_cross_entropy(logits, labels).mean()


@functools.partial(jax.jit, donate_argnums=(0, 1))
def step_in_jax(params, state, x):
    """Takes a step and returns the loss before it."""
    loss, gradient = jax.value_and_grad(loss_in_jax)(params, x)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


class InJax:
    """The network and its optimizer in JAX."""

    def __init__(self):
        self.params = jax.tree.map(jnp.copy, start)
        self.state = optimizer.init(self.params)

    def step(self):
        """Takes a step and returns the loss."""
        self.params, self.state, loss = step_in_jax(self.params, self.state, images)
        return self.params, loss


class InTorch:
    """The same in PyTorch."""

    def __init__(self):
        self.p = {key: to_torch(value).requires_grad_() for key, value in start.items()}
        self.optimizer = torch.optim.SGD(self.p.values(), 0.05, momentum=0.9)
        self.images, self.labels = to_torch(images), to_torch(labels).long()

    def step(self):
        """Takes a step and returns the loss."""
        x, p = self.images, self.p
        for number, stride in enumerate(strides):
            x = F.conv2d(x, p[f"{number}/w"], stride=stride, padding=1)
            norm = p[f"{number}/scale"], p[f"{number}/bias"]
            x = F.relu(F.batch_norm(x, None, None, *norm, training=True, eps=1e-5))
        logits = x.mean(dim=(2, 3)) @ p["dense/w"] + p["dense/b"]
        loss = F.cross_entropy(logits, self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return p, loss.detach()


runs = {"JAX": InJax()} | ({"PyTorch": InTorch()} if HAS_TORCH else {})
for name, run in runs.items():
    losses = [float(run.step()[1]) for _ in range(3)]
    print(f"{name:8} losses: " + "  ".join(f"{loss:.5f}" for loss in losses))

# %%
functions = {name: run.step for name, run in runs.items()}
if HAS_TORCH:
    functions["PyTorch, one thread"] = on_one_thread(InTorch().step)
timings = time_interleaved(functions, repeats=31, max_seconds=1 if SMOKE else 8)
for name, timing in timings.items():
    low, high = (1e3 * value for value in timing.quartiles)
    median = f"median {1e3 * timing.median:.2f} ms"
    print(f"{name:19} {median}, quartiles {low:.2f} to {high:.2f} ms")
for name in list(functions)[1:]:
    low, middle, high = ratios(timings, name, "JAX")
    faster = "JAX" if low > 1 else name if high < 1 else "neither"
    print(f"\n{name} over JAX: {middle:.2f}, quartiles {low:.2f} to {high:.2f}")
    print(f"faster in three rounds of four or more: {faster}")


# %% [markdown]
r"""
**Look at the row with one thread.** Where it is as fast as all threads or faster, the work was
too small to be shared, or the cores were not free: PyTorch's threads wait for each other at
the end of every loop, so that a neighbour who takes one core holds up all of them. Interleaving
shares a disturbance out evenly; it does not help where one side suffers more from it. Then the
only fair thing is to repeat it on a quiet machine.

What this does and does not say: *this* network, batch and dtype, *these* versions, *this* CPU,
with eager PyTorch against compiled JAX, which is how most people use them (`torch.compile`
needs a C++ compiler). It says nothing of a GPU. The benchmarks of this repository have whole
networks and `torch.compile` ([Results](../docs/results.md)).
"""

# %% [markdown]
r"""
## What to keep

| question | answer |
|---|---|
| What bounds a layer? | FLOPs per byte against the machine's ridge: below it memory, above it arithmetic |
| What does a depthwise convolution save? | multiply-adds, and hardly any traffic |
| What does fusion save? | traffic of elementwise operations; sums over a batch end a fusion |
| Where may 16 bits be used? | for activations and products; not for sums, weights or statistics |
| bfloat16 or float16? | bfloat16 has the range, float16 the digits and needs a loss scale |
| How does a chip convolve? | as matrix products; full tiles count, so channels in multiples of 128 |
| What limits many chips? | first memory for activations, then messages, which grow with the chips |
| How is a time measured? | warmed up, waited for, interleaved, repeated, with its spread |

**Try it yourself.**

1. Section 1: at which batch does a dense layer reach your machine's ridge?
2. Section 2: place a grouped 3×3 convolution with 32 groups on the roofline. Which kind is it
   next to?
3. Section 3: multiply a batch norm's scale and deviation into the filters of the convolution
   before it, and check the result. What is left to fuse?
4. Section 4: add the terms in pairs, then pairs of pairs, in bfloat16. How does the error grow?
5. Section 5: give the matrix unit of 128×128 a convolution with 3 input channels and filters
   of 7×7. Then move 2×2 pixels into the channels first (`cnn_jax.layers` has
   `SpaceToDepthConv`).
6. Section 7: find a tenth way.

**Read on.** S. Williams, A. Waterman and D. Patterson, *Roofline: An Insightful Visual
Performance Model for Multicore Architectures*, 2009,
<https://doi.org/10.1145/1498765.1498785>. N. Jouppi et al., *In-Datacenter Performance
Analysis of a Tensor Processing Unit*, 2017, <https://arxiv.org/abs/1704.04760>. S. Chetlur et
al., *cuDNN: Efficient Primitives for Deep Learning*, 2014, <https://arxiv.org/abs/1410.0759>.
A. Lavin and S. Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016,
<https://arxiv.org/abs/1509.09308>. P. Micikevicius et al., *Mixed Precision Training*, 2018,
<https://arxiv.org/abs/1710.03740>. Here: [Kernels](../docs/kernels.md),
[Planning](../docs/planning.md), [Results](../docs/results.md), and the
[other notebooks](README.md).
"""
