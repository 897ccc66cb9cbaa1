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
# Regularisation

A network with more weights than examples can memorise its whole training set. This
notebook lets one do so, watches it happen, and then tries what is said to help:
dropout, batch norm, early stopping, and in one table weight decay, label smoothing,
mixup and CutMix. Everything is trained here, with several seeds, so that you can tell
an effect from noise.

**You need** a training loop's vocabulary (loss, batch, epoch, learning rate): Géron,
*Hands-On Machine Learning*, 3rd edition, chapter 11 ("Training Deep Neural Networks"),
or Chollet, *Deep Learning with Python*, 2nd edition, chapter 5 ("Fundamentals of
machine learning"). The gradient of batch norm is derived in notebook 1,
[Backpropagation](01_backpropagation.ipynb).

**To run it**, in a checkout of this repository: `pip install -e ".[notebooks]"
jupyterlab`, then open it with `jupyter lab`. It takes about two minutes on two CPU
cores. The images come with scikit-learn: nothing is downloaded.
"""

# %%
import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import COLORS, INK, pictures, use_quiet_style
from scipy import stats
from sklearn.datasets import load_digits

import cnn_jax
from cnn_jax import data, layers
from cnn_jax import kernels as K
from cnn_jax.analysis.residuals import residual_bytes
from cnn_jax.training import StepOptions, TrainState, train_step
from cnn_jax.training.run.early_stopping import RunProgress

use_quiet_style()
SMOKE = bool(os.environ.get("CNN_JAX_SMOKE"))
SEEDS = range(2 if SMOKE else 5)
EPOCHS = 3 if SMOKE else 50

# %% [markdown]
r"""
## 1. The generalisation gap

We minimise the mean loss over the examples that we have, $\hat L(w)$. We want it to be
small over those that we do not have, $L(w)$. The difference is the **generalisation
gap**:

$$ L(w) = \underbrace{\hat L(w)}_{\text{optimisation makes it small}}
 + \underbrace{L(w) - \hat L(w)}_{\text{the gap: regularisation}} $$

$L$ cannot be computed, but a held-out set estimates it without bias, as long as nothing
was decided by looking at that set. So there are three: **training** examples move the
weights, **validation** examples decide (when to stop, which rate), **test** examples
only report.

To make overfitting visible within seconds we take little data, 300 digits, and spoil
part of it: 30 % of the training labels are replaced by a class drawn at random (some
draws hit the right class). Validation and test labels stay right. A network that
believes all of its labels must be wrong somewhere.
"""

# %%
digits = load_digits()
PIXELS = (digits.images / 8 - 1).astype(np.float32)[..., None]


def make_split(seed, num_train=300, noise=0.3):
    """Returns training, validation and test examples, of which the first are spoilt."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(PIXELS))
    train, validation, test = order[:num_train], order[-600:-400], order[-400:]
    true = digits.target[train]
    is_replaced = generator.random(num_train) < noise
    given = np.where(is_replaced, generator.integers(0, 10, num_train), true)
    return {
        "train": (PIXELS[train], given),
        "validation": (PIXELS[validation], digits.target[validation]),
        "test": (PIXELS[test], digits.target[test]),
        "is_wrong": given != true,
    }


split = make_split(seed=0)
images, given = split["train"]
figure = pictures(
    [image[..., 0] + 1 for image in images[:16]],
    [str(label) for label in given[:16]],
    columns=8,
    size=1.0,
)
for ax, is_wrong in zip(figure.axes, split["is_wrong"]):
    ax.title.set(color=COLORS["filter"] if is_wrong else INK, size=12)
figure.suptitle("Training digits and their labels, wrong ones in orange", size=10)
plt.show()
print(f"{split['is_wrong'].sum()} of {len(given)} training labels are wrong")

# %% [markdown]
r"""
The network is a small one, on this package's layers. Its normalisation and its dropout
can be switched on, for later.
"""

# %%
he_normal = nn.initializers.he_normal()


class Net(nn.Module):
    """Two convolutions and a hidden dense layer, on 8×8 pixels."""

    norm: str = "none"
    dropout_rate: float = 0.0

    def normalize(self, x, train, name):
        """Returns `x` normalised as `norm` says."""
        if self.norm == "batch":
            return layers.BatchNorm(use_running_average=not train, name=name)(x)
        if self.norm == "group":
            return layers.GroupNorm(num_groups=4, name=name)(x)
        return x

    @nn.compact
    def __call__(self, images, *, train):
        """Returns logits `(n, 10)`."""
        x = images
        for number, (features, strides) in enumerate([(16, 2), (32, 1)]):
            x = layers.Conv(
                features,
                3,
                strides=strides,
                kernel_init=he_normal,
                name=f"conv{number}",
            )(x)
            x = K.relu(self.normalize(x, train, f"norm{number}"))
        x = x.reshape(len(x), -1)
        x = layers.Dense(64, kernel_init=he_normal, name="hidden")(x)
        x = K.relu(self.normalize(x, train, "norm2"))
        x = layers.Dropout(self.dropout_rate, deterministic=not train)(x)
        return layers.Dense(10, name="head")(x)


PLAIN = Net()
variables = PLAIN.init(jax.random.key(0), images[:1], train=False)
num_weights = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
print(f"{num_weights:,} weights, {len(images)} examples")

# %% [markdown]
r"""
Now the training. `cnn_jax.fit` would do it (section 4 uses it), but here many small
runs follow, so we put the package's `train_step`, a pure function, into two loops of
`lax.scan`, compile once for each kind of network, and measure after each epoch. **All
measurements are taken in evaluation mode**, without dropout and with running
statistics, on the training examples too. (What most loops print as training loss is
measured while training, with dropout and before the update. Compared with a validation
loss it can make the gap look negative.)
"""


# %%
@functools.partial(jax.jit, static_argnames=("net", "options", "mixing"))
def run(net, options, mixing, weight_decay, variables, examples, batches, keys):
    """Trains by AdamW and returns loss and correctness of all examples, each epoch."""
    # Training examples come first; `batches` says which of them each step takes.
    images, labels = examples["images"], examples["labels"]
    optimizer = optax.adamw(2e-3, weight_decay=weight_decay)
    state = TrainState.create(net, optimizer, keys[0], images[:1], variables=variables)

    def step(state, inputs):
        batch, key = inputs
        pixels, targets = images[batch], labels[batch]
        if mixing:
            targets = data.one_hot_targets(targets, 10)
            pixels, targets = data.mixup_or_cutmix(key, pixels, targets, **dict(mixing))
        batch = {"image": pixels, "label": targets}
        return train_step(state, batch, key, options)

    def epoch(state, inputs):
        order, key = inputs
        state, _ = jax.lax.scan(step, state, (order, jax.random.split(key, len(order))))
        logits = net.apply(state.variables, images, train=False)
        losses = K.softmax_cross_entropy(logits, labels)
        return state, (losses, logits.argmax(axis=-1) == labels)

    return jax.lax.scan(epoch, state, (batches, keys))[1]


def train(
    seed,
    net=PLAIN,
    *,
    num_train=300,
    noise=0.3,
    weight_decay=0.0,
    label_smoothing=0.0,
    mixing=(),
):
    """Returns the curves of a run; a seed has its own examples, noise and start."""
    split = make_split(seed, num_train, noise)
    parts = ("train", "validation", "test")
    images, labels = (
        np.concatenate([split[part][k] for part in parts]) for k in range(2)
    )
    generator = np.random.default_rng(seed)
    batches = [generator.permutation(num_train).reshape(-1, 50) for _ in range(EPOCHS)]
    losses, correct = run(
        net,
        StepOptions(label_smoothing=label_smoothing),
        mixing,
        weight_decay,
        make_start(net, seed),
        {"images": images, "labels": labels},
        np.array(batches),
        jax.random.split(jax.random.key(seed), EPOCHS),
    )
    edges = np.cumsum([len(split[part][1]) for part in parts])[:-1]
    curves = {}
    for name, values in {"loss": losses, "accuracy": correct}.items():
        for part, mine in zip(parts, np.split(np.asarray(values), edges, axis=1)):
            curves[f"{part}_{name}"] = mine.mean(axis=1)
    believed = np.asarray(correct)[:, :num_train]
    is_wrong = split["is_wrong"]
    if is_wrong.any():
        curves["wrong_learnt"] = believed[:, is_wrong].mean(axis=1)
        curves["right_learnt"] = believed[:, ~is_wrong].mean(axis=1)
    return curves


@functools.partial(jax.jit, static_argnums=0)
def init(net, key):
    """Returns the variables that a network starts from."""
    return net.init(key, jnp.zeros((1, 8, 8, 1)), train=False)


def make_start(net, seed):
    """Returns the variables that a network starts from, with this seed."""
    if isinstance(net, Net):
        net = Net(norm=net.norm)  # Dropout has no weights: one program less to compile.
    return init(net, jax.random.key(1000 + seed))


def train_all(*args, **kwargs):
    """Returns the curves of all seeds, `(seeds, epochs)`."""
    runs = [train(seed, *args, **kwargs) for seed in SEEDS]
    return {name: np.array([run[name] for run in runs]) for name in runs[0]}


plain = train_all()

# %%
AGE = np.arange(1, EPOCHS + 1)
TRAIN, HELD_OUT = COLORS["input"], COLORS["filter"]


def band(ax, values, label, color, scale=1.0, x=AGE):
    """Draws the mean over seeds, and the range of all seeds as a band."""
    values = scale * np.asarray(values)
    ax.plot(x, values.mean(axis=0), color=color, label=label)
    low, high = values.min(axis=0), values.max(axis=0)
    ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


figure, axes = plt.subplots(1, 3, figsize=(10.5, 3), layout="constrained")
for name, color in {"train": TRAIN, "validation": HELD_OUT}.items():
    label = {"train": "training"}.get(name, name)
    band(axes[0], plain[f"{name}_loss"], label, color)
    band(axes[1], plain[f"{name}_accuracy"], label, color, 100)
band(axes[2], plain["right_learnt"], "right labels", COLORS["output"], 100)
band(axes[2], plain["wrong_learnt"], "wrong labels", COLORS["gradient"], 100)
axes[0].set_title("Loss")
axes[1].set_title("Accuracy / %")
axes[2].set_title("Training labels that it believes / %")
for ax in axes:
    ax.set_xlabel("epoch")
    ax.legend()
plt.show()

# %% [markdown]
r"""
Lines are means over the seeds, bands reach from the lowest to the highest seed. Three
things to see:

- The training loss falls and falls. The validation loss falls, turns, and rises: from
  there on each epoch makes the network better at what it has seen and worse at what it
  has not.
- The right panel says why. **What is common to many examples is learnt first**, so the
  right labels come first; the wrong ones, which must be learnt one by one, later. Between
  the two comes a time when the network knows better than its labels.
- In the end it believes everything.

The validation accuracy may well be the higher one, early on. That is no mistake: of the
training labels a share of about $0.3 \cdot 0.9$ is wrong, the validation labels are all
right. Who knew the truth would score 73 % on the first and 100 % on the second. So a gap
of zero is not what we want *here*; the test accuracy is.

How far can that go? Zhang et al. (2017) gave networks labels that were *all* drawn at
random: there is nothing to learn, and they still reached a training error of zero. The
same network, with three amounts of noise:
"""

# %%
amounts = (0.0, 0.3, 1.0)
by_noise = {n: plain if n == 0.3 else train_all(noise=n) for n in amounts}
figure, axes = plt.subplots(
    1, 3, figsize=(10.5, 2.9), layout="constrained", sharey=True
)
for ax, noise in zip(axes, amounts):
    band(ax, by_noise[noise]["train_accuracy"], "training", TRAIN, 100)
    band(ax, by_noise[noise]["test_accuracy"], "test", HELD_OUT, 100)
    ax.set_title(f"{100 * noise:.0f} % of training labels drawn at random")
    ax.set_xlabel("epoch")
axes[0].set_ylabel("accuracy / %")
axes[0].legend(loc="center right")
plt.show()

print("labels at random   training accuracy   test accuracy       gap")
for noise in amounts:
    last = [
        100 * by_noise[noise][f"{k}_accuracy"][:, -1].mean() for k in ("train", "test")
    ]
    print(
        f"{100 * noise:14.0f} % {last[0]:17.1f} % {last[1]:13.1f} % {last[0] - last[1]:9.1f}"
    )

# %% [markdown]
r"""
The same network, the same optimizer, and compare the ends of the blue curves. So the
number of weights alone cannot say how a network will generalise; the *data* decides as
well. (With random labels the test accuracy is that of guessing, one in ten.) The remedy
that needs no idea is more data:
"""

# %%
sizes = (300,) if SMOKE else (100, 300, 900)
by_size = {n: plain if n == 300 else train_all(num_train=n) for n in sizes}
print(
    "training examples   training loss   test loss    gap   test accuracy, each seed / %"
)
for n, curves in by_size.items():
    trained, tested = (curves[f"{k}_loss"][:, -1].mean() for k in ("train", "test"))
    each = " ".join(f"{100 * a:.0f}" for a in curves["test_accuracy"][:, -1])
    print(f"{n:17} {trained:15.2f} {tested:11.2f} {tested - trained:6.2f}   {each}")

# %% [markdown]
r"""
Each has trained for the same number of epochs, so that the larger sets had more steps
as well. When there is no more data, the rest of this notebook is what one does instead.

## 2. Dropout

Srivastava et al. (2014): in each training step set each entry of a layer's output to
zero with probability $r$, so that no unit can rely on a particular other one. With a
random mask $b \in \{0, 1\}$, drawn anew each time, $P(b = 1) = 1 - r$:

$$ y = m \odot x, \qquad m = \frac{b}{1 - r} $$

The division ("inverted" dropout) is done in training so that evaluation is the
identity. It makes the mean right, and only the mean:

$$ E[m] = \frac{1 - r}{1 - r} = 1, \qquad
 \operatorname{Var}[m] = \frac{1}{1 - r} - 1 = \frac{r}{1 - r} $$

**Backward.** $y$ is linear in $x$, entry by entry: $dx = m \odot dy$, with *the same*
mask. What has to be kept for that? Not $x$. The mask would do. But a mask drawn by
`jax.random` is a pure function of its key, so that the key suffices: the backward pass
draws the mask again. `K.dropout` does so.
"""

# %%
x = jax.random.normal(jax.random.key(1), (6, 8))
dy = jax.random.normal(jax.random.key(2), x.shape)
key, rate = jax.random.key(3), 0.25

mask = K.dropout(jnp.ones_like(x), key, rate) > 0  # what that key drops


def by_hand(x):
    """Drops what the mask says."""
    return jnp.where(mask, x / (1 - rate), 0)


dx_by_formula = jnp.where(mask, dy / (1 - rate), 0)
(dx_of_kernel,) = jax.vjp(lambda x: K.dropout(x, key, rate), x)[1](dy)
dx_of_jax = jax.grad(lambda x: jnp.sum(by_hand(x) * dy))(x)
pairs = {
    "forward: kernel, by hand": (K.dropout(x, key, rate), by_hand(x)),
    "backward: kernel, formula": (dx_of_kernel, dx_by_formula),
    "backward: kernel, jax.grad": (dx_of_kernel, dx_of_jax),
}
for name, (one, other) in pairs.items():
    print(f"{name:28} largest difference {float(jnp.abs(one - other).max()):.1e}")

shape = jax.ShapeDtypeStruct((128, 32, 32, 64), jnp.float32)
kept = residual_bytes(lambda x: K.dropout(x, key, rate), shape)
kept_by_jax = residual_bytes(lambda x: K.autodiff.dropout(x, key, rate), shape)
print(f"\nkept for the backward pass of a batch of {shape.shape}:")
print(f"{kept:,} bytes by the kernel, {kept_by_jax:,} bytes by JAX's own derivative")

# %% [markdown]
r"""
Mean and variance, measured. We drop entries of a long vector of ones:
"""

# %%
print("rate     mean of m    variance of m    r / (1 - r)")
for r in (0.1, 0.25, 0.5, 0.75, 0.9):
    m = K.dropout(jnp.ones(500_000), jax.random.key(0), r)
    print(f"{r:4} {m.mean():12.3f} {m.var():16.3f} {r / (1 - r):14.3f}")

# %% [markdown]
r"""
That variance *is* the regularisation. For a linear model with squared error the
expected loss can be written down, since the mixed terms of independent entries vanish:

$$ E\bigl[(t - \textstyle\sum_i m_i x_i w_i)^2\bigr] = (t - \textstyle\sum_i x_i w_i)^2
 + \frac{r}{1 - r} \sum_i x_i^2 w_i^2 $$

So dropout is weight decay there, with a strength for each weight that follows the size
of its input. (In deep networks it is not so simple, but the picture helps.) Measured:
"""

# %%
x, w = jax.random.normal(jax.random.key(4), (2, 50)) / 5
error = 0.7 - x @ w
masks = K.dropout(jnp.ones((100_000, 50)), jax.random.key(5), 0.5)
measured = jnp.square(0.7 - (masks * x) @ w).mean()
print(f"without dropout           {error**2:.4f}")
print(f"with dropout, measured    {measured:.4f}")
print(f"with dropout, formula     {error**2 + jnp.sum(x**2 * w**2):.4f}")

# %% [markdown]
r"""
### What to drop

Neighbouring pixels of a feature map say nearly the same. Drop one, and its neighbours
tell what it was: plain dropout removes little information from convolutional layers. So
there are relatives that drop more at a time. All scale what they keep; all are in the
package, as a kernel and as a layer.
"""

# %%
ones = jnp.ones((3, 24, 24, 4))
key, rate = jax.random.key(7), 0.3
variants = {
    "dropout": K.dropout(ones, key, rate),
    "spatial_dropout": K.spatial_dropout(ones, key, rate),
    "drop_block": K.drop_block(ones, key, rate, block_size=7),
    "stochastic_depth": K.stochastic_depth(ones, jax.random.key(2), rate),
}
figure, axes = plt.subplots(3, 4, figsize=(10.5, 2.5), layout="constrained")
for column, (name, dropped) in enumerate(variants.items()):
    for example in range(3):
        channels = [np.asarray(dropped[example, ..., c]) > 0 for c in range(4)]
        tiles = [np.pad(c.astype(float), 1, constant_values=0.5) for c in channels]
        ax = axes[example, column]
        ax.imshow(np.hstack(tiles), cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        if column == 0:
            ax.set_ylabel(f"example {example + 1}", size=8)
    axes[0, column].set_title(name, family="monospace")
plt.show()

# %% [markdown]
r"""
White is kept, black is dropped; each row is an example with four channels. Single
entries (Srivastava et al. 2014), whole channels (Tompson et al. 2015), squares (Ghiasi
et al. 2018), or the whole branch of an example, whose skip connection then passes it on
(Huang et al. 2016, also called drop-path).

### The gap over the rate

Dropout on the 64 hidden units, with four rates and the same seeds:
"""

# %%
rates = (0.0, 0.5) if SMOKE else (0.0, 0.25, 0.5, 0.75)
by_rate = {r: train_all(Net(dropout_rate=r)) if r else plain for r in rates}

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3), layout="constrained")
shades = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(rates)))
for r, shade in zip(rates, shades):
    axes[0].plot(
        AGE, by_rate[r]["test_loss"].mean(axis=0), color=shade, label=f"rate {r}"
    )
    axes[1].plot(AGE, 100 * by_rate[r]["wrong_learnt"].mean(axis=0), color=shade)
axes[0].set_title("Test loss, mean of the seeds")
axes[1].set_title("Wrong labels that it believes / %")
axes[0].legend()
for name, color in {"train": TRAIN, "test": HELD_OUT}.items():
    last = np.array([100 * by_rate[r][f"{name}_accuracy"][:, -1] for r in rates])
    label = {"train": "training"}.get(name, name)
    axes[2].plot(rates, last, "o", color=color, markersize=4, alpha=0.5)
    axes[2].plot(rates, last.mean(axis=1), color=color, label=label)
axes[2].set_title("Accuracy at the end, each seed / %")
axes[2].set_xticks(rates)
axes[2].legend()
for ax, label in zip(axes, ("epoch", "epoch", "rate")):
    ax.set_xlabel(label)
plt.show()

print("rate   training accuracy   test accuracy   gap   spread of the gap over seeds")
for r in rates:
    trained, tested = (
        100 * by_rate[r][f"{k}_accuracy"][:, -1] for k in ("train", "test")
    )
    gap = trained - tested
    print(
        f"{r:4} {trained.mean():15.1f} % {tested.mean():13.1f} % {gap.mean():7.1f}"
        f" {gap.std(ddof=1):10.1f}"
    )

# %% [markdown]
r"""
Read the gap beside the spread: a difference smaller than that, between two rates, says
nothing. And read it beside the accuracies: **a small gap alone is no success**. A
network that learns nothing has no gap. Dropout slows the learning of everything; it
pays when it slows the learning of what does not generalise more than of what does.
"""

# %% [markdown]
r"""
## 3. Batch norm

Ioffe and Szegedy (2015): for each channel subtract the mean and divide by the standard
deviation, over **all examples and positions of the batch**, then let the network choose
scale and bias:

$$ y = \gamma\,\frac{x - \mu}{\sqrt{v + \varepsilon}} + \beta, \qquad
 \mu = \operatorname{mean}_{n,h,w}(x), \quad v = \operatorname{var}_{n,h,w}(x) $$

Below are four channels of a convolution's output, before and after:
"""

# %%
clean = make_split(seed=0, num_train=1150, noise=0.0)
clean_images, clean_labels = map(jnp.asarray, clean["train"])
kernel = jax.random.normal(jax.random.key(0), (3, 3, 1, 4)) * np.sqrt(2 / 9)
maps = K.conv(clean_images, kernel, strides=2)
normalized, mean, var = K.batch_norm(maps, jnp.ones(4), jnp.zeros(4), epsilon=1e-5)

figure, axes = plt.subplots(1, 2, figsize=(10.5, 2.6), layout="constrained")
for ax, values, name in zip(axes, (maps, normalized), ("before", "after")):
    for channel in range(4):
        entries = np.asarray(values[..., channel]).ravel()
        bins = np.linspace(-7, 7, 71)
        ax.hist(
            entries, bins, histtype="step", linewidth=1.4, label=f"channel {channel}"
        )
    ax.set_title(f"Entries of four channels, {name} batch norm")
    ax.set_xlabel("value")
    ax.set_ylabel("count")
axes[0].legend()
plt.show()
print(
    "mean before",
    np.asarray(mean).round(2),
    "  after",
    np.asarray(normalized.mean((0, 1, 2))).round(2) + 0.0,
)
print(
    "variance before",
    np.asarray(var).round(2),
    "  after",
    np.asarray(normalized.var((0, 1, 2))).round(2),
)

# %% [markdown]
r"""
The channels are moved and stretched to mean 0 and variance 1; their *shape* stays.

### Two modes

In training the output for one digit depends on which other digits share its batch. That
cannot be wanted in use. So the layer also keeps **running statistics**, moved a little
at each training step (here with momentum $\alpha = 0.9$, the weight of the old value),

$$ \bar\mu \leftarrow \alpha\,\bar\mu + (1 - \alpha)\,\mu_{\text{batch}} $$

and in evaluation mode takes those in place of the batch's. The layer computes, and
beside it the formula:
"""

# %%
layer = layers.BatchNorm(momentum=0.9)
apply = jax.jit(
    functools.partial(layer.apply, use_running_average=False, mutable=["batch_stats"])
)
layer_variables = layer.init(jax.random.key(0), maps[:2], use_running_average=True)
generator = np.random.default_rng(0)
by_layer, formula, of_batches = [], [0.0], []
for _ in range(60):
    batch = maps[generator.choice(len(maps), 8, replace=False)]
    _, updated = apply(layer_variables, batch)
    layer_variables = {**layer_variables, **updated}
    of_batches.append(float(batch[..., 0].mean()))
    formula.append(0.9 * formula[-1] + 0.1 * of_batches[-1])
    by_layer.append(float(updated["batch_stats"]["mean"][0]))
formula = formula[1:]
difference = np.abs(np.subtract(by_layer, formula)).max()
print(f"largest difference between layer and formula: {difference:.1e}")

figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
steps = np.arange(1, 61)
ax.plot(
    steps,
    of_batches,
    "o",
    markersize=3.5,
    color=COLORS["plain"],
    label="mean of a batch of 8",
)
ax.plot(steps, by_layer, color=COLORS["input"], label="running mean")
ax.axhline(float(mean[0]), color=COLORS["filter"], linestyle="--", label="mean of all")
ax.set_xlabel("training step")
ax.set_title("The mean of one channel")
ax.legend(ncols=3)
plt.show()

# %% [markdown]
r"""
The running mean starts at 0 and arrives slowly: after 22 steps a tenth of the start is
left, since $0.9^{22} \approx 0.1$. Evaluate too early, and the network looks broken. The same happens where training and evaluation see
different images (notebook 4 meets it as batch norm's trap in transfer learning).

### Stability: which learning rates train?

Now what batch norm is mostly used for. A stack of six convolutions, plain SGD without
momentum, and learning rates over four powers of ten. We note the training loss, as a
mean over the last ten steps; a run whose loss is not finite counts as its worst.
"""


# %%
class Stack(nn.Module):
    """Six convolutions on 4×4 maps, with or without batch norm."""

    norm: bool
    depth: int = 4 if SMOKE else 6

    @nn.compact
    def __call__(self, images, *, train):
        """Returns logits `(n, 10)`."""
        x = images
        for number in range(self.depth):
            strides = 2 if number == 0 else 1
            name = f"conv{number}"
            conv = layers.Conv(16, 3, strides=strides, kernel_init=he_normal, name=name)
            x = conv(x)
            if self.norm:
                norm = layers.BatchNorm(
                    use_running_average=not train, name=f"norm{number}"
                )
                x = norm(x)
            x = K.relu(x)
        return layers.Dense(10, name="head")(x.reshape(len(x), -1))


def batch_loss(net, params, images, labels):
    """Returns the loss of a batch in training mode."""
    stats = {"batch_stats": STATS[net]} if net.norm else {}
    logits, _ = net.apply(
        {"params": params, **stats}, images, train=True, mutable=["batch_stats"]
    )
    return K.softmax_cross_entropy(logits, labels).mean()


@functools.partial(jax.jit, static_argnames=("net", "num_probes"))
def descend(net, params, learning_rate, batches, num_probes=0):
    """Takes steps of SGD; returns losses, gradient norms and, along them, probes."""
    factors = jnp.linspace(0.5, 4.0, max(num_probes, 1))

    def step(params, batch):
        loss_and_grad = jax.value_and_grad(
            lambda p: batch_loss(net, p, clean_images[batch], clean_labels[batch])
        )
        loss, grad = loss_and_grad(params)

        def move(factor):
            return jax.tree.map(
                lambda w, g: w - factor * learning_rate * g, params, grad
            )

        def probe(factor):
            there, grad_there = loss_and_grad(move(factor))
            change = jax.tree.map(jnp.subtract, grad_there, grad)
            return there, optax.global_norm(change) / optax.global_norm(grad)

        probes = jax.lax.map(probe, factors) if num_probes else ()
        return move(1.0), (loss, optax.global_norm(grad), probes)

    return jax.lax.scan(step, params, batches)[1]


STACKS = {"without batch norm": Stack(norm=False), "with batch norm": Stack(norm=True)}
# What the running statistics are does not matter in training mode.
STATS = {net: make_start(net, 0).get("batch_stats") for net in STACKS.values()}
NUM_STEPS = 20 if SMOKE else 60
LEARNING_RATES = np.logspace(-2.5, 1.5, 3 if SMOKE else 9)


def sgd_batches(seed, size=50):
    """Returns the numbers of the examples of each step."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, len(clean_images), (NUM_STEPS, size))


final = {}
for name, net in STACKS.items():
    losses = np.array(
        [
            [
                descend(net, make_start(net, seed)["params"], rate, sgd_batches(seed))[
                    0
                ]
                for rate in LEARNING_RATES.astype(np.float32)
            ]
            for seed in SEEDS[:3]
        ]
    )
    losses = np.where(np.isfinite(losses), losses, np.inf)
    final[name] = losses[..., -10:].mean(axis=-1)

# %%
figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
guess, top = np.log(10), 4.0
for (name, losses), color in zip(final.items(), (COLORS["filter"], COLORS["input"])):
    shown = np.minimum(losses, top)
    ax.plot(LEARNING_RATES, shown.T, "o", markersize=4, color=color, alpha=0.5)
    ax.plot(LEARNING_RATES, np.median(shown, axis=0), color=color, label=name)
ax.axhline(guess, color=COLORS["plain"], linestyle="--", linewidth=1)
ax.text(LEARNING_RATES[0], guess + 0.06, "guessing: log 10", color=COLORS["plain"])
ax.set_xscale("log")
ax.set_ylim(0, top + 0.15)
ax.set_xlabel("learning rate")
ax.set_title(
    f"Training loss after {NUM_STEPS} steps (worse than {top:g} is shown as {top:g})"
)
ax.legend(loc="upper left", bbox_to_anchor=(0, 0.95))
plt.show()

print("learning rates whose loss is below half of guessing's, with all seeds:")
for name, losses in final.items():
    good = LEARNING_RATES[(losses < guess / 2).all(axis=0)]
    print(f"{name:20}", "  ".join(f"{rate:.3g}" for rate in good) or "none")

# %% [markdown]
r"""
Points are seeds, the line is their median. Compare how wide the valleys are: the largest
rate that trains, over the smallest. A wide valley is what makes batch norm convenient:
the rate need not be searched so finely. (Where a curve is on the dashed line, the
network has not blown up, but it has not learnt either.) One part of the explanation can be
computed: scale all weights of a convolution before batch norm by $a$, and the output
stays the same, since mean and deviation scale too. Then the gradient by the weights
scales by $1/a$: a step that was far too large leaves large weights behind, and thereby
small gradients. The network brakes itself.
"""

# %%
net = STACKS["with batch norm"]
params = make_start(net, 0)["params"]
print("weights of conv3 times a:      loss   norm of their gradient   times a")
for a in (0.1, 1.0, 10.0):
    scaled = {**params, "conv3": jax.tree.map(lambda w, a=a: a * w, params["conv3"])}
    loss, grad = jax.value_and_grad(
        lambda p: batch_loss(net, p, clean_images[:200], clean_labels[:200])
    )(scaled)
    norm = float(jnp.linalg.norm(grad["conv3"]["kernel"]))
    print(f"{a:20} {loss:18.4f} {norm:18.5f} {a * norm:15.5f}")

# %% [markdown]
r"""
(Not to the last digit, because of $\varepsilon$: the smaller the weights, the more it
weighs.)

### The landscape along the gradient

Why else? Ioffe and Szegedy thought of the distribution of each layer's inputs.
Santurkar et al. (2018) disturbed these distributions on purpose, behind batch norm, and
it trained as well. What they found instead is that batch norm makes the loss **smoother
along the gradient**. Their measurement, repeated: at each step walk along the gradient,
from half of the step that is taken to four times as far, and note the loss, and how far
the gradient has turned away from the one that we follow, $\lVert g(w') - g(w) \rVert /
\lVert g(w) \rVert$. The smaller, the longer one may trust a gradient. Both networks
take the same learning rate.
"""

# %%
shared_rate = np.float32(0.1)
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.1), layout="constrained")
steps = np.arange(1, NUM_STEPS + 1)
turned = {}
for (name, net), color in zip(STACKS.items(), (COLORS["filter"], COLORS["input"])):
    start = make_start(net, 0)["params"]
    probed = descend(net, start, shared_rate, sgd_batches(0), num_probes=6)
    loss, norm, (there, change) = jax.tree.map(np.asarray, probed)
    turned[name] = np.median(change)
    axes[0].fill_between(
        steps, there.min(1), there.max(1), color=color, alpha=0.3, linewidth=0
    )
    axes[0].plot(steps, loss, color=color, linewidth=1, label=name)
    axes[1].fill_between(
        steps, change.min(1), change.max(1), color=color, alpha=0.3, linewidth=0
    )
    axes[1].plot(steps, np.median(change, axis=1), color=color, linewidth=1)
    axes[2].plot(steps, norm, color=color, linewidth=1)
axes[0].set_title("Loss, and its range along the gradient")
axes[1].set_title("Relative change of the gradient")
axes[2].set_title("Norm of the gradient")
for ax in axes:
    ax.set_yscale("log")
    ax.set_xlabel("step")
axes[0].legend(loc="lower left")
plt.show()
for name, value in turned.items():
    print(f"{name:20} median relative change of the gradient {value:.2f}")

# %% [markdown]
r"""
The bands are the ranges over the walk. This is one run of one small network at one
rate: change `shared_rate` and see how far the picture depends on it.

### Its weak spot: small batches

Statistics of few entries are noisy. Take one hidden unit of a dense layer: batch norm
has just $n$ numbers to estimate mean and deviation from, and with $n = 2$ what it
normalises to is $\pm 1$, whatever the numbers were: only their order is left. **Group norm** (Wu and He,
2018) takes mean and variance over groups of channels of *one* example, so the batch
does not matter, and training and evaluation are the same. First the noise: one digit,
and random others as its batch.
"""

# %%
net = Net(norm="batch")
start = make_start(net, 0)
in_training = jax.jit(
    lambda batch: net.apply(start, batch, train=True, mutable=["batch_stats"])[0]
)
net_by_groups = Net(norm="group")
groups_start = make_start(net_by_groups, 0)
by_groups = jax.jit(lambda batch: net_by_groups.apply(groups_start, batch, train=True))
batch_sizes = (2, 4, 32)
generator = np.random.default_rng(0)
print("standard deviation of a digit's logits over 40 random batches around it")
print("batch size    batch norm    group norm")
for size in batch_sizes:
    others = [
        generator.choice(np.arange(1, 1150), size - 1, replace=False) for _ in range(40)
    ]
    batches = [clean_images[np.r_[0, other]] for other in others]
    spread = [
        float(np.std([f(batch)[0] for batch in batches], axis=0).mean())
        for f in (in_training, by_groups)
    ]
    print(f"{size:10} {spread[0]:13.3f} {spread[1]:13.3f}")

# %% [markdown]
r"""
(What is left in group norm's column, if anything, is rounding.) And training: 576 clean
digits, four epochs for each batch size, SGD whose learning rate is proportional to the
batch size.
"""


# %%
@functools.partial(jax.jit, static_argnames="net")
def sgd_accuracy(net, variables, learning_rate, batches, key):
    """Returns the test accuracy after training by SGD with momentum."""
    optimizer = optax.sgd(learning_rate, momentum=0.9)
    state = TrainState.create(
        net, optimizer, key, clean_images[:1], variables=variables
    )

    def step(state, batch):
        batch = {"image": clean_images[batch], "label": clean_labels[batch]}
        return train_step(state, batch, key)[0], None

    state, _ = jax.lax.scan(step, state, batches)
    test_images, test_labels = clean["test"]
    logits = net.apply(state.variables, test_images, train=False)
    return (logits.argmax(axis=-1) == test_labels).mean()


num_epochs = 1 if SMOKE else 4
by_batch = {}
for norm in ("batch", "group"):
    for size in batch_sizes[-1 if SMOKE else 0 :]:
        net = Net(norm=norm)
        by_batch[norm, size] = []
        for seed in SEEDS:
            generator = np.random.default_rng(seed)
            orders = [
                generator.permutation(576).reshape(-1, size) for _ in range(num_epochs)
            ]
            accuracy = sgd_accuracy(
                net,
                make_start(net, seed),
                np.float32(0.01 * size / 32),
                np.concatenate(orders),
                jax.random.key(seed),
            )
            by_batch[norm, size].append(100 * float(accuracy))

figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for norm, color in {"batch": COLORS["input"], "group": COLORS["output"]}.items():
    used = [size for kind, size in by_batch if kind == norm]
    values = np.array([by_batch[norm, size] for size in used])
    ax.plot(used, values, "o", color=color, markersize=4, alpha=0.5)
    ax.plot(used, values.mean(axis=1), color=color, label=f"{norm} norm")
ax.set_xscale("log", base=2)
ax.set_xticks(used, [str(size) for size in used])
ax.set_xlabel("batch size")
ax.set_title("Test accuracy, each seed / %")
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
r"""
Look at the left end. The noise of batch statistics also has a good side: at moderate
batch sizes it is said to act like a mild dropout, which is why batch norm is counted among the
regularisers. How much that is worth here, section 5 measures.
"""

# %% [markdown]
r"""
## 4. Early stopping

Section 1 showed a time when the network knew better than its labels. Stop there! The
rule (Prechelt, 1998, compares many): after each epoch evaluate on the validation split;
keep the weights of the best epoch; stop when there was no gain for `patience` epochs.
In `cnn_jax.fit` it is one field of the configuration. Twice the same run, without it
and with it:
"""

# %%
split = make_split(seed=0)


def fit(patience):
    """Returns a run of `cnn_jax.fit` on the spoilt digits."""
    config = cnn_jax.TrainConfig(
        epochs=EPOCHS,
        batch_size=50,
        optimizer="adamw",
        learning_rate=2e-3,
        schedule="constant",
        weight_decay=0.0,
        patience=patience,
        seed=0,
    )
    return cnn_jax.fit(
        Net(),
        split["train"],
        validation=split["validation"],
        test=split["test"],
        config=config,
        progress=False,
    )


PATIENCE = 8
whole, stopped = fit(None), fit(PATIENCE)
for name, result in {"no patience": whole, f"patience {PATIENCE}": stopped}.items():
    last = result.history[-1]
    print(
        f"{name:12} trained {len(result.history):2} epochs, best was {result.best_epoch:2}: "
        f"test accuracy {100 * result.test['accuracy']:.1f} % there, "
        f"{100 * last['test_accuracy']:.1f} % at the last"
    )
same = [
    a["validation_loss"] == b["validation_loss"]
    for a, b in zip(whole.history, stopped.history)
]
print(f"epochs of both that are equal to the last bit: {sum(same)} of {len(same)}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.2), layout="constrained")
for ax, name, scale in zip(axes, ("loss", "accuracy"), (1, 100)):
    for part, color in {
        "train": TRAIN,
        "validation": HELD_OUT,
        "test": COLORS["output"],
    }.items():
        values = [scale * epoch[f"{part}_{name}"] for epoch in whole.history]
        ax.plot(AGE, values, color=color, label={"train": "training"}.get(part, part))
    ax.axvline(stopped.best_epoch, color=INK, linewidth=1.2, label="kept")
    ax.axvline(
        len(stopped.history), color=INK, linewidth=1.2, linestyle=":", label="stopped"
    )
    ax.axvspan(
        len(stopped.history),
        max(EPOCHS, len(stopped.history) + 0.1),
        color=COLORS["plain"],
        alpha=0.1,
        linewidth=0,
    )
    ax.set_xlabel("epoch")
    ax.set_title("Loss" if name == "loss" else "Accuracy / %")
axes[1].legend(loc="lower right", ncols=2)
plt.show()

# %% [markdown]
r"""
Grey is what need not have been computed. `fit` goes by validation *accuracy*; the loss
may turn at another epoch. Its training curve is the usual one, measured while training.
`fit` returns the best epoch's weights with and without patience, as long as there is a
validation split: **patience does not choose the weights, it saves time**, at the risk
of stopping before a better epoch. What does it cost? Apply `fit`'s own rule to the
curves of section 1, with every patience.
"""


# %%
def stop(accuracies, patience):
    """Returns the epochs trained and the best of them, from 1."""
    progress = RunProgress()
    for epoch, accuracy in enumerate(accuracies, start=1):
        progress.update_best(
            accuracy, epoch=epoch, step=epoch, minimum_gain=0.0, patience=patience
        )
        if progress.stopped_early:
            break
    return epoch, progress.best_epoch


patiences = np.arange(1, min(EPOCHS, 21))
trained, scores = np.zeros((2, len(SEEDS), len(patiences)))
for seed in SEEDS:
    for column, patience in enumerate(patiences):
        epochs, best = stop(plain["validation_accuracy"][seed], patience)
        trained[seed, column] = epochs
        scores[seed, column] = 100 * plain["test_accuracy"][seed, best - 1]

figure, axes = plt.subplots(1, 2, figsize=(10.5, 3), layout="constrained")
for ax, values, color in zip(
    axes, (trained, scores), (COLORS["input"], COLORS["output"])
):
    ax.plot(patiences, values.T, color=color, alpha=0.35, linewidth=1)
    ax.plot(patiences, values.mean(axis=0), color=color, linewidth=2.2)
    ax.set_xlabel("patience / epochs")
    ax.set_xticks(patiences[4::5] if len(patiences) > 4 else patiences)
axes[0].set_title("Epochs trained")
axes[1].set_title("Test accuracy of the kept weights / %")
at_the_end = 100 * plain["test_accuracy"][:, -1].mean()
axes[1].axhline(at_the_end, color=COLORS["plain"], linestyle="--", linewidth=1)
axes[1].text(
    patiences[-1],
    at_the_end,
    "last epoch, mean",
    ha="right",
    va="bottom",
    color=COLORS["plain"],
)
plt.show()

# %% [markdown]
r"""
Thin lines are seeds, the thick line is their mean. A patience of one or two can fall
for the first unlucky epoch; beyond some value more of it only costs time. And note what
the validation accuracy of the kept epoch is: the *largest of many* noisy numbers, so it
is too high on average (a few seeds need not show it). That is why the test split exists.
"""

# %%
kept = [stop(plain["validation_accuracy"][seed], None)[1] for seed in SEEDS]
chosen = [
    plain["validation_accuracy"][seed, best - 1] for seed, best in zip(SEEDS, kept)
]
reported = [plain["test_accuracy"][seed, best - 1] for seed, best in zip(SEEDS, kept)]
print("seed   validation accuracy (decided by)   test accuracy (reported)")
for seed, one, other in zip(SEEDS, chosen, reported):
    print(f"{seed:4} {100 * one:27.1f} % {100 * other:27.1f} %")

# %% [markdown]
r"""
## 5. Side by side

The other regularisers in a sentence each. **Weight decay** pulls each weight towards
zero at each step. **Label smoothing** gives part of the target's probability to all
classes, so that no logit has to grow without bound. **Mixup** (Zhang et al., 2018) adds
two images, and their targets, with random shares; **CutMix** (Yun et al., 2019) pastes
a box of one image into another and shares the target by area. All are fields of
`TrainConfig` (`weight_decay`, `label_smoothing`, `mixup_alpha`, `cutmix_alpha`).

Same seeds, that is the same examples, wrong labels, and order, for each. So we can
compare in pairs: the *difference* from the plain run with the same seed, in which
what a seed's examples make easy or hard for both cancels. The interval is Student's 95 %
interval of the mean difference.
"""

# %%
settings = {
    "batch norm": {"net": Net(norm="batch")},
    "weight decay 0.5": {"weight_decay": 0.5},
    "label smoothing 0.2": {"label_smoothing": 0.2},
    "mixup, alpha 1": {"mixing": (("mixup_alpha", 1.0), ("cutmix_alpha", 0.0))},
    "CutMix, alpha 1": {"mixing": (("mixup_alpha", 0.0), ("cutmix_alpha", 1.0))},
}
methods = {"plain": plain, "dropout 0.5": by_rate[0.5]}
for name in list(settings)[: 2 if SMOKE else None]:
    methods[name] = train_all(**settings[name])
if not SMOKE:
    methods["three times the data"] = by_size[900]
table = {
    name: [100 * curves[f"{part}_accuracy"][:, -1] for part in ("train", "test")]
    for name, curves in methods.items()
}
best = np.array(kept) - 1
table["early stopping"] = [
    100 * plain[f"{part}_accuracy"][SEEDS, best] for part in ("train", "test")
]


def interval(values):
    """Returns the mean of a few values and half of its 95 % interval."""
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return values.mean(), quantile * values.std(ddof=1) / np.sqrt(len(values))


print(f"Accuracies / %, mean and standard deviation of {len(SEEDS)} seeds\n")
print(
    "method                  training         test      gap   test less plain's, 95 %"
)
differences = {}
for name, (trained, tested) in table.items():
    line = f"{name:21} {trained.mean():6.1f} ± {trained.std(ddof=1):3.1f}"
    line += f" {tested.mean():6.1f} ± {tested.std(ddof=1):3.1f} {(trained - tested).mean():6.1f}"
    if name != "plain":
        center, half = differences[name] = interval(tested - table["plain"][1])
        clear = "" if abs(center) > half else "   within noise"
        line += f" {center:+11.1f} ± {half:4.1f}{clear}"
    print(line)

# %%
figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
for row, (name, (center, half)) in enumerate(list(differences.items())[::-1]):
    color = COLORS["output"] if center - half > 0 else COLORS["plain"]
    ax.errorbar(center, row, xerr=half, fmt="o", color=color, capsize=3)
    each = table[name][1] - table["plain"][1]
    ax.plot(each, np.full(len(each), row), "|", color=color, markersize=9, alpha=0.6)
ax.axvline(0, color=INK, linewidth=1)
ax.set_yticks(range(len(differences)), list(differences)[::-1])
ax.set_xlabel("percentage points")
ax.set_title("Test accuracy less that of the plain run with the same seed")
ax.grid(axis="y", visible=False)
plt.show()

# %% [markdown]
r"""
Points are means with their intervals, ticks are seeds; green intervals lie wholly above
zero.

**What this table does not say.** It is about one small network, 300 images with 8×8
pixels, labels spoilt in one way, a fixed number of epochs and one strength of each
method, which nobody has tuned. Eight comparisons with a few seeds each: of so many intervals
one may miss its mark by chance. "Within noise" means *not shown*, not *no effect*.
"Early stopping" has used 200 right labels that the others have not; "three times the
data" has had three times the steps. Methods also overlap: two that help alone may not
add up. For another task, the *way* of comparing carries over (same seeds, pairs,
intervals, a test split that decided nothing). The ranking need not. The package's
studies compare so on more data, see [Results](../docs/results.md).

## What to keep

| method | acts on | in training | in evaluation | in the package |
|---|---|---|---|---|
| more data | the gap itself | | | [Data](../docs/data.md) |
| dropout | activations | multiplies by a random mask, mean 1 | identity | `K.dropout`, `dropout_rate` |
| batch norm | activations | statistics of the batch | running statistics | `K.batch_norm`, `layers.BatchNorm` |
| group norm | activations | statistics of the example | the same | `K.group_norm`, `layers.GroupNorm` |
| early stopping | the number of steps | stops without gain | weights of the best epoch | `patience` |
| weight decay | weights | pulls towards zero | nothing | `weight_decay` |
| label smoothing | targets | spreads part of the probability | nothing | `label_smoothing` |
| mixup, CutMix | images and targets | mixes pairs | nothing | `mixup_alpha`, `cutmix_alpha` |

**Try it yourself.**

1. Set `noise=0` in section 5. Which methods still help, and which now cost accuracy?
2. Keep dropout on in evaluation, and average the probabilities of 30 passes for each
   test digit. Does the mean beat the single pass without dropout, and is its entropy
   larger where it is wrong?
3. Put dropout *before* a batch norm layer. Compare the variance of its input in the two
   modes with section 2's formula: why do the two methods not get along?
4. Set the momentum of `layers.BatchNorm` to 0.99 in section 1's loop. How many epochs
   does the test accuracy need until it can be trusted?
5. Repeat section 3's sweep of learning rates with group norm. Is it the batch that
   makes the valley wide, or the normalising?
6. Spoil the *validation* labels too. How much noise does early stopping stand?

**Read on.** N. Srivastava et al., *Dropout: A Simple Way to Prevent Neural Networks
from Overfitting*, 2014, <https://jmlr.org/papers/v15/srivastava14a.html>. S. Ioffe and
C. Szegedy, *Batch Normalization*, 2015, <https://arxiv.org/abs/1502.03167>. S.
Santurkar et al., *How Does Batch Normalization Help Optimization?*, 2018,
<https://arxiv.org/abs/1805.11604>. Y. Wu and K. He, *Group Normalization*, 2018,
<https://arxiv.org/abs/1803.08494>. C. Zhang et al., *Understanding Deep Learning
Requires Rethinking Generalization*, 2017, <https://arxiv.org/abs/1611.03530>. L.
Prechelt, *Early Stopping - But When?*, 1998, <https://doi.org/10.1007/3-540-49430-8_3>.
H. Zhang et al., *mixup*, 2018, <https://arxiv.org/abs/1710.09412>. S. Yun et al.,
*CutMix*, 2019, <https://arxiv.org/abs/1905.04899>. J. Tompson et al., 2015,
<https://arxiv.org/abs/1411.4280>. G. Huang et al., *Deep Networks with Stochastic
Depth*, 2016, <https://arxiv.org/abs/1603.09382>. G. Ghiasi et al., *DropBlock*, 2018,
<https://arxiv.org/abs/1810.12890>. Here: [Training](../docs/training.md),
[Kernels](../docs/kernels.md), and the [other notebooks](README.md).
"""
