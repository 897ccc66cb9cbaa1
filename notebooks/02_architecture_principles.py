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
# Architecture principles

From LeNet to EfficientNet, five ideas return again and again: the 1×1 convolution, the
bottleneck, the receptive field, the skip connection, and scaling depth, width and
resolution together. This notebook shows each of them on the networks of this package. All
numbers are counted from the code of [`cnn_jax/models`](../cnn_jax/models), or computed
here; published accuracies are those of the package's registry, with their sources in
[Models](../docs/models.md).

**You need** to know what convolution and pooling layers are (Géron, *Hands-On Machine
Learning*, 3rd edition, chapter 14, whose section on CNN architectures names the same
networks; Chollet, *Deep Learning with Python*, 2nd edition, chapter 9). Section 3 uses
gradients, from notebook 1, [Backpropagation](01_backpropagation.ipynb).

**To run it**, in a checkout of this repository:
`pip install -e ".[notebooks]" jupyterlab`, then open it with `jupyter lab`. It takes about
two minutes on two CPU cores.
"""

# %%
import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from drawing import COLORS, INK, use_quiet_style
from matplotlib.patches import Rectangle

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax import layers
from cnn_jax.analysis.summary import summarize
from cnn_jax.models.efficientnet import scaled_stages

use_quiet_style()
SMOKE = bool(os.environ.get("CNN_JAX_SMOKE"))

# %% [markdown]
r"""
## 1. The 1×1 convolution: a dense layer at every pixel

A filter of one pixel sees no neighbours. What is left is the sum over channels,

$$ y_{pq,o} = \sum_i x_{pq,i}\, w_{i,o} $$

the same small dense layer applied at every position: **it mixes channels, and changes their
number, at the lowest price.** A $k \times k$ convolution costs

$$ \text{multiply-adds} = H\,W \cdot k^2 \cdot C_{\text{in}} \cdot C_{\text{out}} $$

so 3×3 costs nine times as much as 1×1, and 5×5 twenty-five times. Lin et al. introduced it
in *Network in Network* (2013).
"""

# %%
generator = np.random.default_rng(0)
x = jnp.asarray(generator.normal(size=(2, 14, 14, 64)), jnp.float32)
w = jnp.asarray(generator.normal(size=(1, 1, 64, 16)), jnp.float32)

as_convolution = K.conv(x, w)
as_dense_layer = (x.reshape(-1, 64) @ w[0, 0]).reshape(2, 14, 14, 16)
print("largest difference:", float(jnp.abs(as_convolution - as_dense_layer).max()))

# %% [markdown]
r"""
How did networks spend their multiply-adds over the years? `trace_layers` runs a model on
shapes alone and reports every layer, so the following is counted from the models'
code, for one image of the size that each was made for.
"""


# %%
def kind_of(kernel, output_shape):
    """Returns what a layer is, by the shapes of its filter and of its output."""
    if len(kernel) == 2:
        # Some models write a 1×1 convolution as what it is: a dense layer at each pixel.
        return "1×1" if len(output_shape) == 3 else "dense"
    height, width, channels_in, _ = kernel
    if channels_in == 1 and height > 1:
        return "depthwise"
    if height == width == 1:
        return "1×1"
    return "3×3" if height == width == 3 else "larger"


def macs_by_kind(name):
    """Returns kind -> multiply-adds of one image."""
    info, model = cnn_jax.model_info(name), cnn_jax.create_model(name)
    image = jax.ShapeDtypeStruct((1, *info.input_shape), jnp.float32)
    calls = layers.trace_layers(model, image, train=False)
    kernels = {call.path: call.parameters.get("kernel") for call in calls}
    found = dict.fromkeys(("larger", "3×3", "1×1", "depthwise", "dense"), 0)
    for layer in summarize(model, info.input_shape).layers:
        if layer.macs:
            found[kind_of(kernels[layer.path], layer.output_shape)] += layer.macs
    assert sum(found.values()) == info.macs  # as the registry says
    return found


names = ["alexnet", "vgg16", "googlenet", "resnet18", "resnet50", "mobilenet_v1"]
names += ["mobilenet_v2", "efficientnet_b0", "convnext_tiny"]
names = [name for name in names if name in cnn_jax.list_models()]
names = names[2:4] if SMOKE else names
shares = {name: macs_by_kind(name) for name in names}

palette = ("#0072b2", "#2a8fbd", "#d55e00", "#007a5a", "#57606a")
figure, ax = plt.subplots(figsize=(8, 0.38 * len(names) + 1), layout="constrained")
left = np.zeros(len(names))
for kind, color in zip(next(iter(shares.values())), palette):
    totals = [sum(macs.values()) for macs in shares.values()]
    part = np.array([100 * macs[kind] for macs in shares.values()]) / totals
    ax.barh(range(len(names)), part, left=left, color=color, label=kind)
    left += part
labels = [
    f"{name}, {cnn_jax.model_info(name).year}: {total / 1e9:.2f} G"
    for name, total in zip(names, totals)
]
ax.set_yticks(range(len(names)), labels)
ax.invert_yaxis()
ax.set_xlim(0, 100)
ax.set_title("Multiply-adds by kind of layer / %")
ax.grid(axis="y", visible=False)
ax.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.4, -0.12), fontsize=9)
plt.show()

# %% [markdown]
r"""
Spatial filtering, blue, went from nearly everything to nearly nothing: depthwise
convolutions, green, filter each channel on its own, and 1×1 convolutions, orange, do the
rest. Modern networks are mostly dense layers at every pixel.
"""

# %% [markdown]
r"""
## 2. Bottlenecks: narrow where it is expensive

If 3×3 is dear and 1×1 is cheap, then let a 1×1 reduce the channels, filter the few that
are left, and let another 1×1 restore them. For 256 channels:

$$
\begin{aligned}
\text{basic block:} \quad & 2 \cdot 9 \cdot 256^2 = 1{,}179{,}648 \text{ weights} \\
\text{bottleneck:} \quad & 256 \cdot 64 + 9 \cdot 64^2 + 64 \cdot 256 = 69{,}632
\text{ weights}
\end{aligned}
$$

Seventeen times fewer, and one nonlinearity more. MobileNetV2 turned it around: the
**inverted bottleneck** is wide *inside*, where a depthwise filter costs little, and narrow
*outside*, where the skip connection keeps activations in memory. These are the package's
own blocks:
"""

# %%
norm = functools.partial(layers.BatchNorm, use_running_average=True)
blocks = {
    "basic (ResNet-18)": layers.BasicBlock(256, norm=norm),
    "bottleneck (ResNet-50)": layers.Bottleneck(256, norm=norm),
    "grouped (ResNeXt)": layers.Bottleneck(256, inner_ratio=0.5, groups=32, norm=norm),
    "separable (MobileNetV1)": layers.DepthwiseSeparable(256, strides=1, norm=norm),
    "inverted (MobileNetV2)": layers.InvertedBottleneck(64, 384, norm=norm),
}


class Alone(nn.Module):
    """Calls a block as a model is called."""

    block: object

    def __call__(self, x, *, train):
        """Returns the block's output."""
        return self.block(x)


figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.6), layout="constrained", sharey=True)
summaries = {
    name: summarize(Alone(block), (14, 14, 64 if "inverted" in name else 256))
    for name, block in blocks.items()
}
for ax, title, values in (
    (
        axes[0],
        "Parameters / thousands",
        [s.parameters / 1e3 for s in summaries.values()],
    ),
    (
        axes[1],
        "Multiply-adds at 14×14 / millions",
        [s.macs / 1e6 for s in summaries.values()],
    ),
):
    bars = ax.barh(list(summaries), values, color=COLORS["filter"])
    ax.bar_label(bars, fmt=" %.0f", fontsize=9)
    ax.set_xlim(0, 1.2 * max(values))
    ax.set_title(title)
    ax.grid(axis="y", visible=False)
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
r"""
All blocks take and return 256 channels, the inverted one 64, with 384 inside. Let us see
one as a picture: each box is a layer, as wide as it has channels, and says what it costs.
"""

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
shown = ("basic (ResNet-18)", "bottleneck (ResNet-50)", "inverted (MobileNetV2)")
for ax, name in zip(axes, shown):
    convolutions = [layer for layer in summaries[name].layers if layer.macs]
    channels = [summaries[name].input_shape[-1]]
    channels += [layer.output_shape[-1] for layer in convolutions]
    for level, width in enumerate(channels):
        box = Rectangle((-width / 2, -2.0 * level), width, 0.8, color=COLORS["input"])
        ax.add_patch(box)
        ax.text(0, 0.4 - 2 * level, width, ha="center", va="center", color="white")
    for level, layer in enumerate(convolutions):
        title = layer.path.removeprefix("block/").removesuffix("/conv")
        ax.text(
            0,
            -0.6 - 2 * level,
            f"{title}: {layer.macs / 1e6:.1f} M",
            ha="center",
            va="center",
            size=9,
            color=COLORS["filter"],
        )
    bottom = 0.4 - 2 * len(convolutions)
    ax.annotate(
        "",
        (205, bottom),
        (205, 0.4),
        arrowprops={
            "arrowstyle": "-|>",
            "color": COLORS["output"],
            "connectionstyle": "bar,fraction=-0.06",
        },
    )
    ax.set_xlim(-240, 290)
    ax.set_ylim(-6.3, 1.1)
    ax.set_title(name, loc="center")
    ax.set_axis_off()
figure.suptitle(
    "Channels (blue), multiply-adds (orange), skip connection (green)", size=10
)
plt.show()

# %% [markdown]
r"""
## 3. Receptive fields: what a unit can see, and what it does see

The **receptive field** of a unit is the part of the image that can influence it. Going
through the layers with kernel $k_l$ and stride $s_l$, it grows by

$$ r_l = r_{l-1} + (k_l - 1)\prod_{m<l} s_m $$

Two 3×3 layers see 5×5, three see 7×7, with 18 and 27 weights for each pair of channels in
place of 25 and 49, and more nonlinearities: that was VGG's argument (2014). A stride
doubles what every later layer adds.
"""


# %%
def receptive_field(stack):
    """Returns the receptive field's side after each `(kernel, stride)`."""
    side, jump, sides = 1, 1, []
    for kernel, stride in stack:
        side, jump = side + (kernel - 1) * jump, jump * stride
        sides.append(side)
    return sides


vgg16 = [(3, 1), (3, 1), (2, 2)] * 2 + [(3, 1), (3, 1), (3, 1), (2, 2)] * 3
alexnet = [(11, 4), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1), (3, 2)]
resnet18 = [(7, 2), (3, 2)] + [(3, 1)] * 4
for _ in range(3):
    resnet18 += [(3, 2)] + [(3, 1)] * 3
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for name, stack in {
    "3×3, no stride": [(3, 1)] * 18,
    "AlexNet": alexnet,
    "VGG-16": vgg16,
    "ResNet-18": resnet18,
}.items():
    sides = receptive_field(stack)
    va = "top" if name == "VGG-16" else "center"
    ax.plot(range(1, len(sides) + 1), sides, "o-", markersize=3, label=name)
    ax.annotate(f" {name}: {sides[-1]}", (len(sides), sides[-1]), size=9, va=va)
ax.axhline(224, color=INK, linewidth=0.8, linestyle="--")
ax.text(1, 230, "side of the image", size=9)
ax.set_xlim(0, 24)
ax.set_xlabel("convolution or pooling layer")
ax.set_title("Side of the receptive field / pixels")
plt.show()

# %% [markdown]
r"""
That is what a unit *can* see. What it *does* see is a gradient: differentiate one output by
every input pixel. Below, stacks of 3×3 convolutions with ReLU and random filters; the
frame is the theoretical field. Each picture is the mean magnitude of the gradient over
many random networks.
"""

# %%
SIZE = 45


@functools.partial(jax.jit, static_argnames="depth")
def influence(key, depth):
    """Returns the gradient's magnitude of the middle output by every pixel."""
    image_key, *keys = jax.random.split(key, depth + 1)

    def middle_output(image):
        x = image
        for layer_key in keys:
            fan_in = 9 * x.shape[-1]
            w = jax.random.normal(layer_key, (3, 3, x.shape[-1], 8))
            x = K.relu(K.conv(x, w * np.sqrt(2 / fan_in)))
        return x[0, SIZE // 2, SIZE // 2].sum()

    image = jax.random.normal(image_key, (1, SIZE, SIZE, 3))
    return jnp.abs(jax.grad(middle_output)(image))[0].sum(axis=-1)


depths = (2, 5) if SMOKE else (2, 5, 10, 20)
keys = jax.random.split(jax.random.key(0), 4 if SMOKE else 40)
figure, axes = plt.subplots(1, len(depths), figsize=(9, 2.6), layout="constrained")
for ax, depth in zip(axes, depths):
    field = np.mean([influence(key, depth) for key in keys], axis=0)
    ax.imshow(field, cmap="magma")
    side = receptive_field([(3, 1)] * depth)[-1]
    corner = SIZE // 2 - side // 2 - 0.5
    ax.add_patch(Rectangle((corner, corner), side, side, fill=False, edgecolor="white"))
    ax.set_title(f"{depth} layers: {side}×{side}", loc="center")
    ax.set_axis_off()
    cumulated = np.sort(field, axis=None)[::-1].cumsum() / field.sum()
    pixels = int(np.searchsorted(cumulated, 0.9)) + 1
    share = 100 * pixels / side**2
    print(
        f"{depth:2} layers: 90 % of the gradient in {share:.0f} % of the field's pixels"
    )
plt.show()

# %% [markdown]
r"""
The field fills only its middle. The reason is counting: many paths lead from the middle
pixel to the unit, and a single one from a corner. Along each axis a path is a sum of
independent steps of -1, 0 and 1, so the effective field tends to a Gaussian whose width
grows with the *square root* of the depth (Luo et al., 2016). Strides, dilation and large kernels (ConvNeXt's 7×7) are
ways to see further.
"""

# %% [markdown]
r"""
## 4. Skip connections: a gradient that survives depth

A block with a skip connection computes $y = x + F(x)$. Its backward pass is

$$ dx = dy + \left(\frac{\partial F}{\partial x}\right)^{\mathsf T} dy $$

**The gradient passes unchanged beside the block**, whatever $F$ does to it. Without the
skip it is a product of many matrices. Products of many random matrices shrink, grow, or,
with batch norm holding their size, turn into *noise*: two inputs that are close get
gradients that have nothing to do with each other (Balduzzi et al., *The Shattered Gradients
Problem*, 2017). Gradient descent needs gradients that stay valid for the length of a step.

We measure that. Walk in small steps from one random image to another, compute the gradient
of one logit by the pixels at each step, and compare the gradients with each other. The
networks are the package's CIFAR networks at their initial weights: `plain20` and `plain56`
without skip connections, and `resnet56` with them, otherwise like `plain56`.
"""

# %%
NUM_STEPS = 8 if SMOKE else 24


def gradients_along_a_line(name):
    """Returns the gradient by the pixels at each step of a line, as rows."""
    model = cnn_jax.create_model(name)
    first, second, *others = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    variables = jax.jit(lambda key, x: model.init(key, x, train=False))(
        jax.random.key(0), first[None]
    )

    @jax.jit
    def gradient(t):
        # Others complete the batch that batch norm needs, and stay the same.
        def logit(image):
            batch = jnp.stack([image, *others])
            logits, _ = model.apply(variables, batch, train=True, mutable="batch_stats")
            return logits[0, 0]

        return jax.grad(logit)((1 - t) * first + t * second).ravel()

    return np.array([gradient(t) for t in np.linspace(0, 0.5, NUM_STEPS)])


networks = ("plain20", "plain56", "resnet56")[: 2 if SMOKE else 3]
figure, axes = plt.subplots(1, len(networks), figsize=(9, 2.7), layout="constrained")
for ax, name in zip(axes, networks):
    rows = gradients_along_a_line(name)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T
    picture = ax.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_title(name, loc="center")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    neighbours = float(np.diag(similarity, 1).mean())
    print(f"{name:9} mean similarity of neighbouring steps: {neighbours:.2f}")
figure.colorbar(picture, ax=axes, shrink=0.8)
figure.suptitle("Cosine similarity of the gradients at two points of a line", size=10)
plt.show()

# %% [markdown]
r"""
Red far from the diagonal means that the gradient here still tells something about the
gradient there. Without skip connections, depth destroys that; with them, much of it
survives. It is one explanation of a famous observation: plain networks get *worse* with
depth, on the training set too, and residual ones better (He et al., 2015).
"""

# %% [markdown]
r"""
## 5. Compound scaling: depth, width and resolution together

Given twice the compute, where should it go? Multiply-adds grow linearly with depth $d$, and
with the square of width $w$ and of resolution $r$. Tan and Le (2019) fixed

$$ d = 1.2^\varphi, \qquad w = 1.1^\varphi, \qquad r = 1.15^\varphi, \qquad
   d\, w^2 r^2 \approx 2^\varphi $$

so that one step of $\varphi$ doubles the cost, and found that all three together gain more
accuracy than any one alone. Count it on real networks: scale EfficientNet-B0 by one factor
at a time.
"""


# %%
@functools.cache
def macs_of(depth=1.0, width=1.0, resolution=1.0):
    """Returns the multiply-adds of a scaled EfficientNet-B0."""
    model = cnn_jax.create_model(
        "efficientnet_b0",
        stages=scaled_stages(width, depth),
        stem_features=layers.round_channels(32 * width),
        head_features=4 * layers.round_channels(320 * width),
    )
    side = round(224 * resolution)
    return summarize(model, (side, side, 3)).macs


phis = (0, 1) if SMOKE else (0, 2, 4)
counted = {
    "depth": [macs_of(depth=1.2**phi) for phi in phis],
    "width": [macs_of(width=1.1**phi) for phi in phis],
    "resolution": [macs_of(resolution=1.15**phi) for phi in phis],
    "all three": [macs_of(1.2**phi, 1.1**phi, 1.15**phi) for phi in phis],
}
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for (name, macs), marker in zip(counted.items(), "o^sD"):
    ax.plot(phis, np.array(macs) / macs[0], marker=marker, markersize=4, label=name)
ax.plot(phis, [2.0**phi for phi in phis], "--", color=COLORS["plain"], label="2^φ")
ax.set_yscale("log", base=2)
ax.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
ax.set_xticks(list(phis))
ax.set_xlabel("φ")
ax.set_title("Multiply-adds, as multiples of EfficientNet-B0's")
ax.legend()
plt.show()

# %% [markdown]
r"""
Channels are rounded to multiples of eight and blocks to whole numbers, so the count only
follows the rule approximately.
"""

# %% [markdown]
r"""
## 6. Ten years in one picture

Every network of the package that has a published ImageNet accuracy. A family is one line,
from its smallest to its largest member. Up and to the left is better.
"""

# %%
families = {}
for name in cnn_jax.list_models():
    info = cnn_jax.model_info(name)
    if info.top1 is not None and info.num_classes == 1000 and info.macs:
        families.setdefault((info.year, info.family), []).append(info)

labelled = {"alexnet": "AlexNet", "vgg": "VGG", "googlenet": "GoogLeNet"}
labelled |= {"resnet": "ResNet", "mobilenet_v2": "MobileNetV2"}
labelled |= {"efficientnet": "EfficientNet", "convnext": "ConvNeXt"}
years = [year for year, _ in families]
colors = plt.get_cmap("viridis_r")
figure, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
for (year, family), infos in sorted(families.items()):
    infos.sort(key=lambda info: info.macs)
    macs = [info.macs / 1e9 for info in infos]
    top1 = [info.top1 for info in infos]
    color = colors(0.1 + 0.9 * (year - min(years)) / (max(years) - min(years)))
    ax.plot(macs, top1, "o-", color=color, markersize=4, linewidth=1)
    if family in labelled:
        ax.annotate(
            f"{labelled[family]}, {year}",
            (macs[-1], top1[-1]),
            xytext=(6, {"convnext": 3, "efficientnet": -12}.get(family, -3)),
            textcoords="offset points",
            size=9,
        )
ax.set_xscale("log")
ax.set_xlim(0.03, 150)
ax.set_xlabel("multiply-adds of one image / 10⁹")
ax.set_title("Published top-1 accuracy on ImageNet / %, darker is newer")
plt.show()
total = sum(map(len, families.values()))
print(f"{total} networks of {len(families)} families")

# %% [markdown]
r"""
Published accuracies also differ in how the networks were *trained*: newer recipes lift old
architectures by several points. For a comparison under one recipe see the study
[`experiments/compare_architectures.py`](../experiments/compare_architectures.py) and
[Results](../docs/results.md).

## What to keep

| principle | what it does | made known by | in the code |
|---|---|---|---|
| 1×1 convolution | mixes channels at each pixel, cheaply | Network in Network, 2013 | [code](../cnn_jax/models/nin.py) |
| small kernels, deep | the same field with fewer weights | VGG, 2014 | [code](../cnn_jax/models/vgg.py) |
| skip connection | the gradient passes beside the block | ResNet, 2015 | [code](../cnn_jax/layers/residual.py) |
| bottleneck | filters few channels | ResNet-50, 2015 | [code](../cnn_jax/layers/residual.py) |
| depthwise separable | filters and mixes apart | Xception, 2016; MobileNet, 2017 | [code](../cnn_jax/layers/depthwise_separable.py) |
| inverted bottleneck | wide inside, narrow outside | MobileNetV2, 2018 | [code](../cnn_jax/layers/inverted_bottleneck.py) |
| compound scaling | one factor for three sizes | EfficientNet, 2019 | [code](../cnn_jax/models/efficientnet.py) |

**Try it yourself.**

1. Add a stride of 2 to the middle of section 3's stacks. How does the effective field
   change, and why is it no longer smooth?
2. Repeat section 4 with `resnet110`, and with `train=False`. Which of the two differences
   comes from batch norm?
3. Find $d$, $w$ and $r$ with $d\,w^2 r^2 = 2$ that scale the depth less and the
   resolution more than EfficientNet's, and count the parameters as well.

**Read on.** M. Lin et al., *Network in Network*, 2013, <https://arxiv.org/abs/1312.4400>.
K. Simonyan and A. Zisserman, *Very Deep Convolutional Networks*, 2014,
<https://arxiv.org/abs/1409.1556>. K. He et al., *Deep Residual Learning*, 2015,
<https://arxiv.org/abs/1512.03385>. W. Luo et al., *Understanding the Effective Receptive
Field*, 2016, <https://arxiv.org/abs/1701.04128>. D. Balduzzi et al., *The Shattered Gradients
Problem*, 2017, <https://arxiv.org/abs/1702.08591>. M. Sandler et al., *MobileNetV2*, 2018,
<https://arxiv.org/abs/1801.04381>. M. Tan and Q. Le, *EfficientNet*, 2019,
<https://arxiv.org/abs/1905.11946>.
"""
