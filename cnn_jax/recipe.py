"""Recipes: how to train a model on given images, with the reason of each choice.

`choose` is a function of facts alone: it reads no file, compiles nothing and knows no
command line. Its rules and where they come from:

- Size, mean and deviation of images are those that the weights were trained with, else
  those that the model was made for (`cnn_jax.model_info`). Small images that are of one
  size keep it where the model takes them.
- Photographs get the random crops of Szegedy et al. (2015) and mirrored copies, as
  ResNets do; images that live on the devices a shift by an eighth of their side and,
  if they are of colour, mirrored copies (He et al. 2015, section 4.2).
- A batch is at most 32 photographs, or 128 images of up to 64 pixels, so that every
  network here fits an accelerator of 8 GiB; and at most an eighth of the training
  images, so that an epoch has some steps, but not below 8: with fewer, the statistics
  of batch normalisation are too noisy (Wu and He 2018, figure 1).
- The rate is the published one times the batch over its batch: 0.1 for 256 with batch
  normalisation and large images (Goyal et al. 2017) and for 128 with small ones (He et
  al. 2015), 0.01 for 256 without batch normalisation (Simonyan and Zisserman 2014).
  ConvNeXt takes AdamW with 4e-3 for 4,096 (Liu et al. 2022), which goes with the
  square root of the batch (Malladi et al. 2022). A batch below 32 has the rate of 32:
  it is small because there are few images, and the steps would not suffice otherwise.
- Weights that were trained before move at a tenth of it, and a new last layer at all of
  it (Girshick et al. 2014 fine-tune so).
- A rate that falls along a cosine (Loshchilov and Hutter 2017), after a rise over a
  twentieth of the run, at most 5 epochs (Goyal et al. 2017).
- Fine-tuning takes 500 steps (Kolesnikov et al. 2020, for fewer than 20,000 images) and
  at least 5 epochs; random weights 1,000 steps and at least 30 epochs. Neither takes
  more than 100 epochs for it.
- With validation images, training stops when a fifth of the epochs, at least 5, brought
  nothing; without, it goes to the end.
- A checkpoint follows every epoch, or at least 50 steps: writing one takes seconds.
- Labels are smoothed by 0.1 (Szegedy et al. 2016) for random weights alone.

The package is above `training` and `models`, of which it knows both, and beside
`experiment`, which runs what it chooses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cnn_jax.data.prepared import RESIDENT_BYTES
from cnn_jax.models.registry import ModelInfo
from cnn_jax.preprocessing import SMALL_SIDE
from cnn_jax.report.words import count

Method = Literal["fine-tune", "probe"]
"""All layers learn, or a linear classifier on the features of a network that stays as
it is."""

NEW_HEAD = r"(^|/)head/"
"""Pattern of the last layer's parameters, in every registered model."""

REFERENCE_BATCH = 32
"""The batch below which a rate is no longer scaled down."""

FINE_TUNING_FACTOR = 0.1
"""Factor of the rate of weights that were trained before."""

LEAST_BATCH, MOST_LARGE, MOST_SMALL = 8, 32, 128
"""The smallest batch, and the largest of large and of small images."""

MOST_EPOCHS = 100
"""Epochs that a small set is gone through for the sake of steps."""

CHECKPOINT_STEPS = 50
"""Steps between checkpoints at least, beside those of the best and the last epoch."""

PROBE_L2 = 1e-3
"""Coefficient of a probe's penalty, as in `experiments/transfer.py`."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts that the choice depends on.

    Attributes:
      model: The registry's entry.
      num_train: The number of training images.
      image_shape: `(height, width, channels)` of the images; None for sides that vary.
      takes_images: Whether the model takes images of that shape as they are.
      has_batch_norm: Whether the model keeps running statistics.
      has_validation: Whether there is a validation part.
      num_shards: What the batch must be a multiple of.
      is_pretrained: Whether the run starts from weights.
      has_new_head: Whether the last layer starts anew all the same.
      preprocessing: What the weights say of their images, see `pretrained.Provenance`.
      in_channels: Channels of the images that the model gets, grey ones repeated; None
        for those of `image_shape`.
    """

    model: ModelInfo
    num_train: int
    image_shape: tuple[int | None, int | None, int]
    takes_images: bool = True
    has_batch_norm: bool = True
    has_validation: bool = False
    num_shards: int = 1
    is_pretrained: bool = False
    has_new_head: bool = True
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    in_channels: int | None = None

    @property
    def channels(self) -> int:
        """Channels of the images that the model gets."""
        return self.in_channels or self.image_shape[2]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One decision.

    Attributes:
      name: What is decided.
      fields: Fields of `TrainConfig` and their values.
      text: The decision, as it is shown.
      reason: Why.
    """

    name: str
    fields: Mapping[str, Any]
    text: str
    reason: str


GIVEN = "given"
"""The reason of what was not chosen."""


def choose(
    facts: Facts,
    given: Mapping[str, Any] | None = None,
    *,
    method: Method = "fine-tune",
) -> list[Choice]:
    """Chooses how to train.

    Args:
      facts: About the model, the weights and the images.
      given: Fields of `TrainConfig` that are decided already; others follow from them
        where they depend on them.
      method: What learns.

    Returns:
      The decisions, in the order in which they follow from each other. Their fields,
      and those given, are arguments of `TrainConfig`.

    Raises:
      ValueError: If there are fewer training images than devices, or an optimizer is
        given for which there is no rule of the rate.
    """
    given = dict(given or {})
    decided: dict[str, Any] = dict(given)
    choices = []
    for name, rule in RULES[method].items():
        fields, reason = rule(facts, decided)
        if fields.keys() & given.keys():
            fields = {**fields, **{key: given[key] for key in fields if key in given}}
            reason = GIVEN
        decided.update(fields)
        choices.append(Choice(name, fields, _TEXTS[name](facts, decided), reason))
    return choices


Rule = Callable[[Facts, Mapping[str, Any]], tuple[dict[str, Any], str]]
"""From the facts, and the fields that are decided so far, to some more and the reason.
"""


def _images(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    height, width, _ = facts.image_shape
    known = facts.preprocessing.get("input_shape")
    side = height if height is not None and height == width else None
    if known is not None:
        size, reason = int(known[0]), "what the weights were trained on"
    elif side is not None and side <= SMALL_SIDE and facts.takes_images:
        size, reason = side, "the images' own"
    else:
        size, reason = facts.model.input_shape[0], f"{facts.model.name} is made for it"
    size = decided.get("image_size", size)
    is_one_size = height is not None and width is not None
    # Larger ones lose less by random crops, which are cut out on the host.
    fits = is_one_size and max(height or 0, width or 0) <= size
    fits = fits and facts.num_train * size * size * facts.channels <= RESIDENT_BYTES
    fits = fits and decided.get("augmentation", "none") == "none"
    return {"image_size": size, "data_path": "resident" if fits else "stream"}, reason


def _augmentation(
    facts: Facts, decided: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    if decided["data_path"] == "stream":
        return {"augmentation": "inception"}, "photographs: Szegedy et al. (2015)"
    shift, flip = decided["image_size"] // 8, facts.image_shape[2] == 3
    reason = "small images: He et al. (2015)" if flip else "grey: not mirrored"
    return {"crop_padding": shift, "flip": flip}, reason


def _normalization(
    facts: Facts, decided: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    known, info = facts.preprocessing, facts.model
    if None not in (known.get("mean"), known.get("std")):
        mean, std, reason = known["mean"], known["std"], "as the weights know images"
    elif len(info.mean) == facts.channels:
        mean, std, reason = info.mean, info.std, f"{info.name}'s usual"
    else:
        channels = count(len(info.mean), "channel")
        return {"mean": None, "std": None}, f"{info.name}'s usual is for {channels}"
    fields = {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    return fields, reason


def _batch(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    shards, num_train = facts.num_shards, facts.num_train
    if num_train < shards:
        raise ValueError(
            f"batch_size: got {count(num_train, 'training image')} for {shards} "
            "devices, expected at least one for each."
        )
    most = MOST_SMALL if decided["image_size"] <= SMALL_SIDE else MOST_LARGE
    wanted = min(most, max(LEAST_BATCH, num_train // 8))
    size = 2 ** int(math.log2(min(wanted, num_train)))
    size = max(shards, size - size % shards)
    if wanted == most:
        return {"batch_size": size}, f"for images of {decided['image_size']} pixels"
    return {"batch_size": size}, f"an eighth of the images, at least {LEAST_BATCH}"


def _features_batch(
    facts: Facts, decided: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    shards = facts.num_shards
    return {"batch_size": max(shards, MOST_LARGE - MOST_LARGE % shards)}, "for features"


def _optimizer(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if facts.model.family == "convnext":
        return {"optimizer": "adamw", "weight_decay": 0.05}, "Liu et al. (2022)"
    if facts.has_batch_norm:
        return {"optimizer": "sgd", "weight_decay": 1e-4}, "He et al. (2015)"
    fields = {"optimizer": "sgd", "weight_decay": 5e-4}
    return fields, "Simonyan and Zisserman (2014)"


def _learning_rate(
    facts: Facts, decided: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    optimizer, power = decided["optimizer"], 1.0
    if optimizer == "adamw":
        published, at, power = 4e-3, 4096, 0.5
    elif optimizer != "sgd" and "learning_rate" not in decided:
        raise ValueError(
            f"learning_rate: got none for the optimizer {optimizer!r}, for which there "
            "is no rule; expected one to be given."
        )
    elif not facts.has_batch_norm:
        published, at = 0.01, 256
    elif decided["image_size"] <= SMALL_SIDE:
        published, at = 0.1, 128
    else:
        published, at = 0.1, 256
    counted = max(decided["batch_size"], REFERENCE_BATCH)
    rate = published * (counted / at) ** power
    reason = f"{published:g} for a batch of {at:,}, here for {counted}"
    if not facts.is_pretrained:
        return {"learning_rate": rate}, reason
    groups = ((NEW_HEAD, 1 / FINE_TUNING_FACTOR),) if facts.has_new_head else ()
    fields = {
        "learning_rate": rate * FINE_TUNING_FACTOR,
        "learning_rate_groups": groups,
    }
    return fields, f"a tenth of {reason}"


def _epochs(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    steps, least = (500, 5) if facts.is_pretrained else (1000, 30)
    needed = math.ceil(steps / _steps_per_epoch(facts, decided))
    number = min(MOST_EPOCHS, max(least, needed))
    reason = f"{steps:,} steps, but {least} to {MOST_EPOCHS} epochs"
    return {"epochs": number}, reason


def _schedule(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    warmup = round(min(5.0, decided["epochs"] / 20), 2)
    fields = {"schedule": "cosine", "warmup_epochs": warmup}
    return fields, "Loshchilov and Hutter (2017)"


def _smoothing(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if facts.is_pretrained:
        return {"label_smoothing": 0.0}, "fine-tuning"
    return {"label_smoothing": 0.1}, "Szegedy et al. (2016)"


def _stopping(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if not facts.has_validation:
        return {"patience": None}, "no validation images to decide by"
    patience = max(5, decided["epochs"] // 5)
    return {"patience": patience}, "a fifth of the epochs"


def _checkpoints(
    facts: Facts, decided: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    per_epoch = _steps_per_epoch(facts, decided)
    if per_epoch >= CHECKPOINT_STEPS:
        return {"checkpoint_every_steps": 0}, "the default"
    every = math.ceil(CHECKPOINT_STEPS / per_epoch) * per_epoch
    return {"checkpoint_every_steps": every}, "epochs are short"


def _penalty(facts: Facts, decided: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    return {"weight_decay": PROBE_L2}, "of the linear classifier"


RULES: Mapping[Method, Mapping[str, Rule]] = {
    "fine-tune": {
        "images": _images,
        "augmentation": _augmentation,
        "mean / deviation": _normalization,
        "batch size": _batch,
        "optimizer": _optimizer,
        "learning rate": _learning_rate,
        "epochs": _epochs,
        "schedule": _schedule,
        "label smoothing": _smoothing,
        "stopping": _stopping,
        "checkpoints": _checkpoints,
    },
    "probe": {
        "images": _images,
        "mean / deviation": _normalization,
        "batch size": _features_batch,
        "penalty": _penalty,
    },
}
"""The rules of each method, in the order in which they read each other's fields."""


def _steps_per_epoch(facts: Facts, decided: Mapping[str, Any]) -> int:
    return max(1, facts.num_train // decided["batch_size"])


def _images_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    size = decided["image_size"]
    is_resident = decided["data_path"] == "resident"
    kept = "on the devices" if is_resident else "read while training"
    return f"{size} x {size}, {kept}"


def _augmentation_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    if decided["data_path"] == "stream":
        policy = decided["augmentation"]
        return "random crops, mirrored" if policy == "inception" else policy
    mirrored = ", mirrored" if decided["flip"] else ""
    return f"shifted by up to {decided['crop_padding']}{mirrored}"


def _normalization_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    if decided["mean"] is None:
        return "as the training images"
    return f"{_numbers(decided['mean'])} / {_numbers(decided['std'])}"


def _learning_rate_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    rate = decided["learning_rate"]
    groups = dict(decided.get("learning_rate_groups", ()))
    head = f", new head {rate * groups[NEW_HEAD]:.3g}" if NEW_HEAD in groups else ""
    return f"{rate:.3g}{head}"


def _epochs_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    steps = decided["epochs"] * _steps_per_epoch(facts, decided)
    return f"{decided['epochs']}, {count(steps, 'step')}"


def _schedule_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    warmup = decided["warmup_epochs"]
    rise = f", warm-up of {warmup:g} epochs" if warmup else ""
    return f"{decided['schedule']}{rise}"


def _stopping_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    patience = decided["patience"]
    if patience is None:
        return "after the last epoch"
    return f"after {count(patience, 'epoch')} without gain"


def _checkpoints_text(facts: Facts, decided: Mapping[str, Any]) -> str:
    every = decided["checkpoint_every_steps"]
    return f"every {every} steps" if every else "every epoch"


_TEXTS: Mapping[str, Callable[[Facts, Mapping[str, Any]], str]] = {
    "images": _images_text,
    "augmentation": _augmentation_text,
    "mean / deviation": _normalization_text,
    "batch size": lambda facts, decided: str(decided["batch_size"]),
    "optimizer": lambda facts, decided: (
        f"{decided['optimizer']}, weight decay {decided['weight_decay']:g}"
    ),
    "learning rate": _learning_rate_text,
    "epochs": _epochs_text,
    "schedule": _schedule_text,
    "label smoothing": lambda facts, decided: f"{decided['label_smoothing']:g}",
    "stopping": _stopping_text,
    "checkpoints": _checkpoints_text,
    "penalty": lambda facts, decided: f"{decided['weight_decay']:g} / 2 |W|^2",
}


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
