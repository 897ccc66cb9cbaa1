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
# Kernels in your own research

You have an idea for a layer. This notebook takes one all the way: a new operation with a
derivative of its own, tests that would catch a wrong one, its use in Flax Linen and in
NNX, a training run with your own model, loss and optimizer, and the same run over eight
devices.

The operation is a **Gaussian blur whose width is learned**, one for each channel. Put in
front of a strided layer it removes what the stride cannot represent (R. Zhang, *Making
Convolutional Networks Shift-Invariant Again*, 2019); there the filter is fixed, here the
network chooses.

**You need** some JAX (`jax.grad`, `jax.jit`) and notebook 1,
[Backpropagation](01_backpropagation.ipynb). Chollet, *Deep Learning with Python*, 2nd
edition, chapter 9 has the networks in which such a layer would stand.

**To run it**, in a checkout of this repository:
`pip install -e ".[notebooks]" jupyterlab`, then open it with `jupyter lab`. It takes about
a minute on two CPU cores.
"""

# %%
import os
import textwrap

# Eight devices on one CPU, to try what will run on many, also where there is a GPU. Must
# be set before JAX starts.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import COLORS, pictures, use_quiet_style
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from sklearn.datasets import load_digits, load_sample_image

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax.analysis.residuals import residual_bytes, residuals
from cnn_jax.testing import assert_adjoint, assert_vjp_matches

use_quiet_style()
SMOKE = bool(os.environ.get("CNN_JAX_SMOKE"))
print(len(jax.devices()), "devices")

# %% [markdown]
r"""
## 1. The operation and its derivative, on paper

A Gaussian on the positions $t = -R, \dots, R$, divided by its sum so that the blur keeps
the mean:

$$ g_t = \frac{e^{-t^2/2\sigma^2}}{\sum_u e^{-u^2/2\sigma^2}} $$

In two dimensions a blur is one along the height and one along the width,
$y = G_h\, G_w\, x$, where $G$ slides $g$ along one axis, with zeros beyond the border.

**By the input.** $y$ is linear in $x$, so $dx = G_w^{\mathsf T} G_h^{\mathsf T}\, dy$.
Transposing a convolution flips its filter; $g$ is symmetric, so $G^{\mathsf T} = G$, and
the two axes commute:

$$ dx = G_h\, G_w\, dy $$

The backward pass *is* the forward pass.

**By the width.** Take the logarithm first:
$\log g_t = -t^2/2\sigma^2 - \log\sum_u e^{-u^2/2\sigma^2}$, so

$$
\frac{\partial \log g_t}{\partial \sigma} = \frac{t^2 - m}{\sigma^3},
\qquad m = \sum_u g_u\, u^2, \qquad
g'_t = \frac{\partial g_t}{\partial\sigma} = g_t\,\frac{t^2 - m}{\sigma^3}
$$

The $m$ comes from the division by the sum; forget it and the gradient is wrong. By the
product rule, with $G'$ sliding $g'$:

$$ d\sigma = \sum dy \odot \bigl(G'_h\, G_w + G_h\, G'_w\bigr)\, x $$

**What to keep.** $x$ and $\sigma$, nothing else: the blurred images in between are cheap to
compute again. JAX, which cannot know that, would keep more.
"""

# %% [markdown]
r"""
## 2. The same in code

Plain functions first. `blur_reference` is the forward pass alone; JAX can differentiate
it, so it is our reference.
"""

# %%
RADIUS = 4
OFFSETS = np.arange(-RADIUS, RADIUS + 1.0)[:, None]


def gaussian(sigma):
    """Returns the filter `(2 RADIUS + 1, c)` of widths `(c,)`."""
    weights = jnp.exp(-(OFFSETS.astype(sigma.dtype) ** 2) / (2 * sigma**2))
    return weights / weights.sum(axis=0)


def gaussian_grad(sigma):
    """Returns the derivative of `gaussian` by the widths."""
    g, squares = gaussian(sigma), OFFSETS.astype(sigma.dtype) ** 2
    m = (g * squares).sum(axis=0)
    return g * (squares - m) / sigma**3


def slide(x, filters, axis):
    """Correlates every channel of `x` with its own filter, along one axis."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (RADIUS, RADIUS)
    padded, size = jnp.pad(x, padding), x.shape[axis]
    shifted = (
        lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(len(filters))
    )
    return sum(taps * view for taps, view in zip(filters, shifted))


def blur_reference(x, sigma):
    """Blurs images `(n, height, width, c)` by widths `(c,)`."""
    g = gaussian(sigma)
    return slide(slide(x, g, 2), g, 1)


# %% [markdown]
r"""
Now the version with our own derivative. `jax.custom_vjp` needs three functions: the
operation, the forward rule, which also returns what to keep, and the backward rule, which
turns that and $dy$ into one gradient for each argument.
"""


# %%
@jax.custom_vjp
def _blur(x, sigma):
    return blur_reference(x, sigma)


def _blur_fwd(x, sigma):
    return blur_reference(x, sigma), (x, sigma)


def _blur_bwd(kept, dy):
    x, sigma = kept
    g, g_prime = gaussian(sigma), gaussian_grad(sigma)
    dx = slide(slide(dy, g, 2), g, 1)
    change = slide(slide(x, g, 2), g_prime, 1) + slide(slide(x, g_prime, 2), g, 1)
    return dx, (dy * change).sum(axis=(0, 1, 2))


_blur.defvjp(_blur_fwd, _blur_bwd)


def blur(x, sigma):
    """Blurs images by a Gaussian of one width for each channel.

    Args:
      x: Images `(n, height, width, c)`.
      sigma: Widths in pixels `(c,)`, positive.

    Returns:
      Images of the same shape, zeros taken beyond the border.

    Raises:
      ValueError: If there is not one width for each channel.
    """
    if sigma.shape != x.shape[-1:]:
        raise ValueError(f"blur: got widths {sigma.shape}, expected {x.shape[-1:]}.")
    # Inside `shard_map` the widths are the same on each device, and the images are not;
    # section 8 says why that must be said.
    axes = jax.typeof(x).manual_axis_type.varying
    missing = axes - jax.typeof(sigma).manual_axis_type.varying
    if missing:
        sigma = lax.pcast(sigma, tuple(sorted(missing)), to="varying")
    return _blur(x, sigma)


# %%
photograph = load_sample_image("flower.jpg")[60:348:2, 180:564:2] / 255
widths = (0.5, 1.0, 2.0)
x = jnp.asarray(photograph, jnp.float32)[None]
blurred = [blur(x, jnp.full(3, width))[0] for width in widths]
pictures(
    [photograph, *(np.clip(image, 0, 1) for image in blurred)],
    ["photograph"] + [f"width {width:g}" for width in widths],
    size=2.2,
)
plt.show()

# %% [markdown]
r"""
And the derivative by the width, as a picture: what happens to each pixel when the blur
grows a little wider. Bright lines darken (blue), dark ones brighten (red), flat areas stay.
The formula's picture equals the difference of two blurs:
"""

# %%
grey = x.mean(axis=-1, keepdims=True)
width, h = jnp.ones(1), 1e-2
g, g_prime = gaussian(width), gaussian_grad(width)
formula = slide(slide(grey, g, 2), g_prime, 1) + slide(slide(grey, g_prime, 2), g, 1)
difference = (blur(grey, width + h) - blur(grey, width - h)) / (2 * h)
# The border, where zeros come in, is left out.
inner = (0, slice(8, -8), slice(8, -8), 0)
pictures(
    [grey[inner], formula[inner], difference[inner]],
    ["grey", "by the formula", "by differences"],
    signed=False,
    size=2.6,
)
figure = plt.gcf()
scale = float(jnp.abs(formula[inner]).max())
for ax in figure.axes[1:]:
    ax.images[0].set(cmap="RdBu_r", clim=(-scale, scale))
plt.show()

# %% [markdown]
r"""
## 3. Test it

`assert_vjp_matches` evaluates both functions and their VJPs with a random cotangent, in
64-bit numbers, and compares output and every gradient to twelve digits. `assert_adjoint`
needs no reference: it checks $\langle A x, y\rangle = \langle x, A^{\mathsf T} y\rangle$,
which holds for a transpose and for nothing else. `check_grads` differentiates twice. These
three lines belong in your test suite.
"""

# %%
with jax.enable_x64(True):
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.normal(size=(2, 9, 7, 3)))
    sigma = jnp.asarray([0.6, 1.0, 1.7])

    assert_vjp_matches(
        jax.jit(blur), jax.jit(blur_reference), images, sigma, rtol=1e-12
    )
    assert_adjoint(
        jax.jit(lambda x: blur(x, sigma)),
        jax.jit(lambda y: jax.vjp(lambda x: blur(x, sigma), images)[1](y)[0]),
        images,
    )
    check_grads(jax.jit(blur), (images, sigma), order=2, modes=("rev",))

    # It works inside JAX's other transformations, too.
    loss_fn = lambda x, sigma: jnp.sum(blur(x, sigma) ** 2)  # noqa: E731
    batched = jax.vmap(jax.grad(loss_fn, argnums=1), in_axes=(0, None))
    each = jax.jit(batched)(images[:, None], sigma)
    together = jax.jit(jax.grad(loss_fn, argnums=1))(images, sigma)
    chex.assert_trees_all_close(each.sum(axis=0), together, rtol=1e-12)
print("all passed")

# %% [markdown]
r"""
### Would the test have found a mistake?

A test that cannot fail proves nothing. So break the derivative on purpose, in the ways one
would by accident, and see whether it is found.
"""


# %%
def without_normalisation(sigma):
    """Returns the filter's derivative without `m`: the division by the sum forgotten."""
    return gaussian(sigma) * OFFSETS**2 / sigma**3


def broken_blur(dx_factor=1.0, filter_grad=gaussian_grad):
    """Returns the blur with a mistake in its backward pass."""

    @jax.custom_vjp
    def broken(x, sigma):
        return blur_reference(x, sigma)

    def bwd(kept, dy):
        x, sigma = kept
        g, g_prime = gaussian(sigma), filter_grad(sigma)
        dx = dx_factor * slide(slide(dy, g, 2), g, 1)
        change = slide(slide(x, g, 2), g_prime, 1) + slide(slide(x, g_prime, 2), g, 1)
        return dx, (dy * change).sum(axis=(0, 1, 2))

    broken.defvjp(_blur_fwd, bwd)
    return jax.jit(broken)


with jax.enable_x64(True):
    try:
        wrong = broken_blur(filter_grad=without_normalisation)
        assert_vjp_matches(wrong, jax.jit(blur_reference), images, sigma)
    except AssertionError as error:
        message = " ".join(str(error).split())
        found = message[message.index("gradient of") :]
        print(textwrap.fill(found.rstrip("]"), 80))

# %% [markdown]
r"""
The message names the argument and says by how much. A weaker test would let mistakes
through. `chex.assert_numerical_grads` compares with finite differences, with a tolerance
that grows with the size of the input; so a gradient that is 5 % too large can pass it:
"""

# %%
large = jnp.asarray(generator.normal(size=(4, 16, 16, 3)), jnp.float32)
sigma = jnp.asarray([0.6, 1.0, 1.7], jnp.float32)
cases = {
    "right": jax.jit(blur),
    "dx 5 % too large": broken_blur(dx_factor=1.05),
    "m forgotten": broken_blur(filter_grad=without_normalisation),
}


def verdict(check):
    """Returns whether a check lets a function pass."""
    try:
        check()
    except AssertionError:
        return "refused"
    return "passed"


print("derivative          assert_vjp_matches   chex.assert_numerical_grads")
for name, fn in cases.items():
    exact = verdict(
        lambda fn=fn: assert_vjp_matches(
            fn, jax.jit(blur_reference), large, sigma, rtol=1e-5
        )
    )
    numerical = verdict(
        lambda fn=fn: chex.assert_numerical_grads(
            fn, (large, sigma), order=1, modes=("rev",), atol=1e-2
        )
    )
    print(f"{name:20}{exact:21}{numerical}")

# %% [markdown]
r"""
### What it keeps in memory

`residuals` lists the arrays that the forward pass keeps for the backward pass, without
running anything.
"""

# %%
shape = jax.ShapeDtypeStruct((32, 56, 56, 64), jnp.float32)
per_channel = jax.ShapeDtypeStruct((64,), jnp.float32)
megabytes = {
    "x itself": 32 * 56 * 56 * 64 * 4 / 1e6,
    "own derivative": residual_bytes(blur, shape, per_channel) / 1e6,
    "JAX's derivative": residual_bytes(blur_reference, shape, per_channel) / 1e6,
}
print(len(residuals(blur, shape, per_channel)), "arrays kept by the own derivative,")
print(len(residuals(blur_reference, shape, per_channel)), "by JAX's")

figure, ax = plt.subplots(figsize=(7, 1.8), layout="constrained")
bars = ax.barh(
    list(megabytes)[::-1],
    list(megabytes.values())[::-1],
    color=[COLORS["filter"], COLORS["output"], COLORS["plain"]],
)
ax.bar_label(bars, fmt=" %.0f MB")
ax.set_title("Kept for the backward pass, a batch of 32 maps of 56×56×64")
ax.grid(axis="y", visible=False)
ax.set_xlim(0, 1.15 * max(megabytes.values()))
plt.show()

# %% [markdown]
r"""
JAX keeps all the shifted copies of both passes, because each is a factor of a product
whose other factor, the filter, is differentiated too. That is JAX's list before the
compiler; XLA may compute some of them again. With a rule of our own it need not be hoped
for.
"""

# %% [markdown]
r"""
## 4. As a layer in Flax

A layer is the function plus its parameters. Widths must be positive, so the parameter is
their logarithm.
"""


# %%
class Blur(nn.Module):
    """Blurs each channel by a learned width, then keeps every `stride`-th pixel."""

    stride: int = 2
    initial_width: float = 0.7

    @nn.compact
    def __call__(self, x):
        """Returns `(n, height / stride, width / stride, c)`."""
        start = nn.initializers.constant(np.log(self.initial_width))
        log_width = self.param("log_width", start, (x.shape[-1],))
        y = blur(x, jnp.exp(log_width))
        return y[:, :: self.stride, :: self.stride]


layer = Blur()
variables = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
print(jax.tree.map(jnp.shape, variables))
print(layer.apply(variables, jnp.zeros((1, 8, 8, 4))).shape)

# %% [markdown]
r"""
### The kernels in other people's layers

Often one wants the opposite: not a new layer, but a well-known one with another
derivative. `nn.Conv` takes the function that convolves as an argument, so the whole layer
stays as it is, its parameters too:
"""

# %%
plain = nn.Conv(16, (3, 3), feature_group_count=8)
ours = nn.Conv(
    16, (3, 3), feature_group_count=8, conv_general_dilated=K.conv_general_dilated
)
maps = jax.random.normal(jax.random.key(1), (4, 14, 14, 8))
conv_variables = plain.init(jax.random.key(0), maps)


def squares(module):
    """Returns a loss of the layer's parameters."""
    return lambda variables: jnp.sum(module.apply(variables, maps) ** 2)


chex.assert_trees_all_close(
    jax.jit(jax.grad(squares(ours)))(conv_variables),
    jax.jit(jax.grad(squares(plain)))(conv_variables),
    rtol=1e-4,
)
print("the same parameters, and the same gradients, by our VJP")

# %% [markdown]
r"""
### In NNX

Flax's newer interface, NNX, keeps parameters inside objects. `ToNNX` wraps a Linen
module, and it stays differentiable by our rule.
"""

# %%
wrapped = nnx.bridge.ToNNX(Blur(), rngs=nnx.Rngs(0)).lazy_init(maps)
gradient = nnx.grad(lambda module: jnp.sum(module(maps) ** 2))(wrapped)
in_linen = jax.grad(lambda v: jnp.sum(Blur().apply(v, maps) ** 2))(
    Blur().init(jax.random.key(0), maps)
)
chex.assert_trees_all_close(
    gradient["log_width"][...], in_linen["params"]["log_width"], rtol=1e-5
)
print("NNX and Linen have the same gradient:")
print(np.asarray(gradient["log_width"][...]).round())

# %% [markdown]
r"""
## 5. Train with it: your own model, loss, optimizer and arrays

`cnn_jax.fit` takes a Linen module that is called as `model(images, train=...)`, arrays, any
Optax optimizer and any loss that returns one number for each example. Here are two
networks that differ in one thing: how they go from
20×20 pixels to 10×10 and to 5×5.
"""


# %%
class Net(nn.Module):
    """Three convolutions with a downsampling layer between them."""

    learned_blur: bool
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, *, train):
        """Returns logits `(n, num_classes)`."""
        x = images
        for stage, features in enumerate((16, 32, 64)):
            if stage and self.learned_blur:
                x = Blur(name=f"blur{stage}")(x)
            elif stage:
                x = x[:, ::2, ::2]
            x = nn.Conv(
                features,
                (3, 3),
                use_bias=False,
                conv_general_dilated=K.conv_general_dilated,
                name=f"conv{stage}",
            )(x)
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
            x = K.relu(norm(x))
        return nn.Dense(self.num_classes, name="head")(K.global_avg_pool(x))


def focal_loss(logits, labels):
    """Returns a loss that counts hard examples more (Lin et al., 2017)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (1 - jnp.exp(-losses)) ** 2 * losses


digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.images))
small = jax.image.resize(
    jnp.asarray(digits.images / 16, jnp.float32)[..., None], (1797, 12, 12, 1), "linear"
)
# A black border, so that a digit can be shifted without leaving the image.
images = np.pad(np.asarray(small), ((0, 0), (4, 4), (4, 4), (0, 0)))[order]
labels = digits.target[order]
train_data, test_data = (images[:1408], labels[:1408]), (images[1408:], labels[1408:])
config = cnn_jax.TrainConfig(epochs=1 if SMOKE else 8, batch_size=64, seed=0)
one_device = jax.make_mesh(
    (1,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
)


def train(learned_blur, mesh):
    """Returns the result of a run."""
    return cnn_jax.fit(
        Net(learned_blur),
        train_data,
        test=test_data,
        config=config,
        optimizer=optax.adamw(3e-3, weight_decay=1e-3),
        loss_fn=focal_loss,
        mesh=mesh,
        progress=False,
    )


results = {
    name: train(name == "learned blur", one_device)
    for name in ("stride alone", "learned blur")
}
for name, result in results.items():
    print(f"{name}: test accuracy {100 * result.test['accuracy']:.1f} %")

# %% [markdown]
r"""
## 6. What the network chose

The widths started at 0.7 pixels. The gradient $d\sigma$ that we derived has moved each
channel its own way:
"""

# %%
learned = results["learned blur"].best_variables["params"]
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained", sharey=True)
for ax, name in zip(axes, ("blur1", "blur2")):
    found = np.sort(np.exp(learned[name]["log_width"]))
    ax.bar(np.arange(len(found)), found, color=COLORS["filter"])
    ax.axhline(0.7, color=COLORS["plain"], linewidth=1, linestyle="--", label="start")
    ax.set_ylim(0.5, None)
    ax.set_title(f"{name}: width / pixels")
    ax.set_xlabel("channel, sorted")
    ax.legend(loc="upper left")
    ax.grid(axis="x", visible=False)
plt.show()

# %% [markdown]
r"""
## 7. Does it do what it was made for?

The claim was that blurring before a stride makes a network less sensitive to shifts. So
shift the test digits by up to four pixels and count how often the prediction stays what
it was.
"""


# %%
def make_predict(name):
    """Returns a function from images to predicted classes."""
    net, variables = Net(name == "learned blur"), results[name].best_variables
    return jax.jit(
        lambda images: net.apply(variables, images, train=False).argmax(axis=-1)
    )


shifts = range(-4, 5)
figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
for name, marker in zip(results, "so"):
    predict = make_predict(name)
    still = predict(test_data[0])
    same = [
        100 * float(np.mean(predict(np.roll(test_data[0], shift, axis=2)) == still))
        for shift in shifts
    ]
    ax.plot(shifts, same, marker=marker, markersize=4, label=name)
    print(f"{name}: {np.mean([s for s, d in zip(same, shifts) if d]):.1f} % on average")
ax.set_xlabel("shift / pixels")
ax.set_title("Test digits whose prediction stays the same / %")
ax.legend(loc="lower center")
plt.show()

# %% [markdown]
r"""
It does: predictions change much less often. (With the stride alone, a shift of four pixels
is harmless again: four is the product of the strides, so the network sees the same pixels.)
It is not free: the network with the blur
scores lower on the digits where they are, since it has thrown fine detail away. Both
figures are of one run each, on small images: enough to see that the layer trains and does
what it should, not enough for a claim. For that, repeat with several seeds
(`TrainConfig(seed=...)`) and report the spread, as [Results](../docs/results.md) does.
"""

# %% [markdown]
r"""
## 8. Scale it over a mesh

The same call trains on eight devices: leave out `mesh`, and `fit` takes all there are and
splits every batch over them. Parameters stay whole on each device. Batch norm's statistics
are those of the whole batch, so the run must give the numbers of one device, up to the
order in which sums are taken: a difference in the seventh digit at first, which training
enlarges from step to step.
"""

# %%
eight = train(learned_blur=True, mesh=None)
one = results["learned blur"]
on_one = [epoch["train_loss"] for epoch in one.history]
on_eight = [epoch["train_loss"] for epoch in eight.history]
print("epoch   training loss on 1 device   on 8 devices")
for epoch, (a, b) in enumerate(zip(on_one, on_eight), start=1):
    print(f"{epoch:5}   {a:25.6f}   {b:12.6f}")

# %% [markdown]
r"""
For your own parallel code, `jax.shard_map` shows each device only its part. Then JAX must
know which arrays are the same everywhere and which are not. The images *vary* over the
mesh axis `data`; the widths do not; yet each device computes another $d\sigma$, from its
own images. Used bare, `_blur` is refused:
"""

# %%
mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
batch = jnp.asarray(generator.normal(size=(16, 8, 8, 3)), jnp.float32)


def sigma_grad(blur_fn):
    """Returns a function for the gradient by the widths, over the mesh."""

    def on_one_device(x, sigma):
        def loss(sigma):
            return jnp.sum(blur_fn(x, sigma) ** 2)

        return jax.grad(loss)(sigma)

    return jax.jit(
        jax.shard_map(
            on_one_device, mesh=mesh, in_specs=(P("data"), P()), out_specs=P()
        )
    )


try:
    sigma_grad(_blur)(batch, sigma)
except Exception as error:
    sentence = str(error).split(" Specifically")[0].split("\n")[0]
    print(textwrap.fill(f"{type(error).__name__}: {sentence}", 80))

# %% [markdown]
r"""
The public function `blur` says it with `lax.pcast(sigma, ..., to="varying")`: treat the
widths as each device's own from here on. The transpose of that cast is the **sum over
devices**, so the gradient comes out whole:
"""

# %%
over_mesh = sigma_grad(blur)(batch, sigma)
whole_grad = jax.jit(jax.grad(lambda sigma, x: jnp.sum(blur(x, sigma) ** 2)))
on_one = whole_grad(sigma, batch)
chex.assert_trees_all_close(over_mesh, on_one, rtol=1e-5)
print("8 devices:", over_mesh)
print("1 device: ", on_one)

# %%
parts = [batch[2 * device : 2 * device + 2] for device in range(8)]
partial = np.stack([whole_grad(sigma, part) for part in parts])
# As shares of the whole, since the three gradients differ in size.
partial = 100 * partial / np.asarray(over_mesh)
figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
bottom = np.zeros(3)
for device, share in enumerate(partial):
    ax.bar(
        range(3),
        share,
        0.55,
        bottom=bottom,
        color=plt.get_cmap("Purples")(0.25 + 0.08 * device),
        edgecolor="white",
        label=f"device {device}",
    )
    bottom = bottom + share
ax.axhline(100, color="#24292f", linewidth=1)
ax.set_xticks(range(3), [f"width {value:g}" for value in np.round(sigma, 1)])
ax.set_title("What each device adds to dσ of three channels / % of shard_map's")
ax.grid(axis="x", visible=False)
ax.legend(ncols=1, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
plt.show()

# %% [markdown]
r"""
## What to keep

1. Derive on paper; the backward pass of a linear map is its transpose.
2. Keep little: what is cheap, compute again.
3. Write the plain version too, and let `assert_vjp_matches` compare them in 64 bits. Break
   the derivative once on purpose, and see the test fail.
4. Call only plain JAX inside the rules; then second derivatives, `vmap` and `jit` work.
5. Align operands in the public function (`lax.pcast`); then `shard_map` works.
6. `cnn_jax.fit` takes your parts as they are, on one device or many.

**Try it yourself.** Give the layer two widths for each channel, one for each axis, and
derive both gradients. Or write Swish, $y = x\,\mathrm{sigmoid}(\beta x)$ with a learned
$\beta$, and keep only $x$ and $\beta$.

**Read on.** [Kernels](../docs/kernels.md), [Custom parts](../docs/custom_parts.md),
[Testing](../docs/testing.md), [Sharding](../docs/sharding.md); JAX's own page on custom
derivatives,
<https://docs.jax.dev/en/latest/notebooks/Custom_derivative_rules_for_Python_code.html>;
R. Zhang, *Making Convolutional Networks Shift-Invariant Again*, 2019,
<https://arxiv.org/abs/1904.11486>; T.-Y. Lin et al., *Focal Loss for Dense Object
Detection*, 2017, <https://arxiv.org/abs/1708.02002>.
"""
