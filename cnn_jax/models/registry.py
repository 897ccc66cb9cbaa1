"""Models by name: which there are, what is known of each, and how to make one.

A family's file describes itself as data, a `Family` with its `Variant`s, and
`register` adds it. Parameters and multiply-adds are stored beside each variant so
that listing the models costs nothing; the tests compare them with the traced model.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping
from typing import Any, TypedDict

import flax.linen as nn
import jax.numpy as jnp

from cnn_jax.models.fields import check_fields
from cnn_jax.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SMALL_SIDE,
    Preprocessing,
)
from cnn_jax.ranges import shown

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Mean of CIFAR-10's red, green and blue over the training split, in [0, 1]."""

CIFAR10_STD = (0.2470, 0.2435, 0.2616)
"""Standard deviation of CIFAR-10's red, green and blue, likewise."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named network of a family.

    Attributes:
      parameters: The number of trained parameters, at the family's input and classes.
      macs: The number of multiply-adds for one image, likewise.
      fields: What the family's module is made with.
      top1: The published top-1 accuracy in percent, or None where nobody published
        one; the family says where.
      input_shape: (height, width, channels) of the image it was sized for; None for
        the family's.
      preprocessing: Fields of its `Preprocessing` that are not the family's, as its
        reference evaluates it (tests/references/table.py).
      preprocessing_by_source: Library -> fields that its weights want otherwise.
    """

    parameters: int
    macs: int
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    top1: float | None = None
    input_shape: tuple[int, int, int] | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing_by_source: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )


class Paper(TypedDict):
    """Fields of `Family` that families of one paper share."""

    paper: str
    year: int
    url: str


class PaperAndModule(Paper):
    """Fields of `Family` that families of one paper and one module share."""

    module: type[nn.Module]


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks that share a paper and a module.

    Attributes:
      name: The family's name.
      module: The linen module class; it has the fields `num_classes`, `dtype` and
        `param_dtype`, those here also `in_channels` (see `interface.ImageNetwork`), and
        the call `(x, *, train=False, endpoints=False)`.
      paper: Authors and title.
      year: The year of publication.
      url: Where the paper is.
      variants: The networks by name.
      top1_source: Data set and source of the variants' `top1`.
      num_classes: The number of classes they were sized for.
      input_shape: (height, width, channels) of the image they were sized for.
      mean: The mean that is subtracted from each channel of an image in [0, 1].
      std: What each channel is then divided by.
      preprocessing: Other fields of their `Preprocessing`. Without them its size is
        the input's, and 0.875 of images over `SMALL_SIDE` is kept, all of smaller ones.
      preprocessing_by_source: Library -> fields that its weights want otherwise.
    """

    name: str
    module: type[nn.Module]
    paper: str
    year: int
    url: str
    variants: Mapping[str, Variant]
    top1_source: str = ""
    num_classes: int = 1000
    input_shape: tuple[int, int, int] = (224, 224, 3)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing_by_source: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Metadata of a registered model.

    Attributes:
      name: The model's name.
      family: The family's name.
      paper: Authors and title.
      year: The year of publication.
      url: Where the paper is.
      parameters: The number of trained parameters, at `input_shape` and `num_classes`.
      macs: The number of multiply-adds for one image of `input_shape`.
      input_shape: (height, width, channels) of the image it was sized for. Other
        heights and widths are accepted where the family's docstring says so.
      num_classes: The number of classes it was sized for.
      top1: The published top-1 accuracy in percent, or None.
      top1_source: Data set and source of `top1`.
      preprocessing: How images become its input where its weights say nothing else. Its
        size is that of `input_shape`, unless the implementation that the model is
        compared with evaluates it on larger images.
      preprocessing_by_source: Library -> how images become the input of its weights,
        where this is not `preprocessing`.
    """

    name: str
    family: str
    paper: str
    year: int
    url: str
    parameters: int
    macs: int
    input_shape: tuple[int, int, int]
    num_classes: int
    top1: float | None
    top1_source: str
    preprocessing: Preprocessing
    preprocessing_by_source: Mapping[str, Preprocessing] = dataclasses.field(
        default_factory=dict, hash=False
    )

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean that is subtracted from each channel of an image in [0, 1]."""
        mean = self.preprocessing.mean
        assert mean is not None  # no family is for images that are prepared already
        return mean

    @property
    def std(self) -> tuple[float, ...]:
        """The divisor of each channel after that."""
        std = self.preprocessing.std
        assert std is not None
        return std

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the image it was sized for."""
        return self.input_shape[:2]

    @property
    def flops(self) -> int:
        """Floating-point operations for one image: two for each multiply-add."""
        return 2 * self.macs


_FAMILY_OF: dict[str, Family] = {}

_MADE_APART = ("parent", "name", "num_classes", "dtype", "param_dtype")
"""Fields of modules that are no overrides of `create_model`."""


def register(family: Family) -> None:
    """Adds a family's variants to the models that can be made by name.

    Raises:
      ValueError: If one of the names is taken.
    """
    taken = sorted(set(family.variants) & set(_FAMILY_OF))
    if taken:
        raise ValueError(
            f"family {family.name!r}: got variants {taken}, which other families "
            "already register; expected new names."
        )
    _FAMILY_OF.update(dict.fromkeys(family.variants, family))


def list_models(pattern: str = "*") -> list[str]:
    """Returns the sorted names that match a shell pattern, such as `"resnet*"`."""
    return sorted(fnmatch.filter(_FAMILY_OF, pattern))


def model_info(name: str) -> ModelInfo:
    """Returns what is known of a model.

    Raises:
      ValueError: If there is no model of that name.
    """
    family = _find(name)
    variant = family.variants[name]
    sources = {**family.preprocessing_by_source, **variant.preprocessing_by_source}
    return ModelInfo(
        name=name,
        family=family.name,
        paper=family.paper,
        year=family.year,
        url=family.url,
        parameters=variant.parameters,
        macs=variant.macs,
        input_shape=variant.input_shape or family.input_shape,
        num_classes=family.num_classes,
        top1=variant.top1,
        top1_source=family.top1_source,
        preprocessing=_preprocessing(family, variant),
        preprocessing_by_source={
            source: _preprocessing(family, variant, source) for source in sources
        },
    )


def _preprocessing(
    family: Family, variant: Variant, source: str | None = None
) -> Preprocessing:
    """Returns how images become a model's input, for weights of a library if given."""
    height, _, channels = variant.input_shape or family.input_shape
    fields = {
        "size": height,
        "mean": family.mean,
        "std": family.std,
        "crop_fraction": 1.0 if height <= SMALL_SIDE else 0.875,
        "channels": channels,
        **family.preprocessing,
        **variant.preprocessing,
    }
    if source is not None:
        fields |= family.preprocessing_by_source.get(source, {})
        fields |= variant.preprocessing_by_source.get(source, {})
    return Preprocessing(**fields)


def sized_for(model: nn.Module) -> tuple[int, int, int]:
    """Returns an input shape (height, width, channels) that a model accepts.

    That of the registered variant that it is most like, with the model's `in_channels`
    if it has any; ImageNet's for a module that no family has.
    """
    found = registered_as(model)
    shape = Family.input_shape if found is None else model_info(found[0]).input_shape
    return (*shape[:2], in_channels_of(model) or shape[2])


def in_channels_of(model: Any) -> int | None:
    """Returns the number of channels that a model insists on; None for any number."""
    return getattr(model, "in_channels", None)


def registered_as(
    model: Any, *, prefer: str | None = None
) -> tuple[str, dict[str, Any]] | None:
    """Returns which registered model a module is, and what is changed in it.

    Args:
      model: A module, or anything else.
      prefer: Of several that it is equally near to, the name to take.

    Returns:
      The name of the nearest variant and the fields that differ from it, without
      `num_classes` and the dtypes; None if no family has such a module.
    """
    found = []
    for name, family in _FAMILY_OF.items():
        if type(model) is not family.module:
            continue
        variant = create_model(name, num_classes=1)
        changed = {
            field.name: getattr(model, field.name)
            for field in dataclasses.fields(family.module)
            if field.name not in _MADE_APART
            and getattr(model, field.name) != getattr(variant, field.name)
        }
        found.append((len(changed), name != prefer, name, changed))
    if not found:
        return None
    _, _, name, changed = min(found, key=lambda each: each[:3])
    return name, changed


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    **overrides: Any,
) -> nn.Module:
    """Makes a model; its parameters are made by `model.init(key, x, train=False)`.

    Args:
      name: One of `list_models()`.
      num_classes: The number of logits; 0 for the features that the last layer would
        see; None for the number that the model was sized for.
      in_channels: The number of channels of the images, at most
        `cnn_jax.preprocessing.MAX_CHANNELS`; others are then refused. None for that of
        the images that the parameters are made with.
      dtype: The dtype of the computation, such as `jnp.bfloat16`; None takes the one
        that inputs and parameters promote to. Logits are never narrower than float32.
      param_dtype: The dtype in which the parameters are stored.
      **overrides: Other fields of the model, in place of the variant's.

    Returns:
      A linen module, called as `model.apply(variables, x, train=False,
      endpoints=False)` with normalised images `x` `(n, height, width, channels)`.

    Raises:
      ValueError: If there is no such model or field, the value of one is of another
        type or outside its range (see `cnn_jax.models.fields`), or a dtype is not one
        of floating-point numbers.
    """
    family = _find(name)
    if num_classes is None:
        num_classes = family.num_classes
    fields = {field.name for field in dataclasses.fields(family.module)}
    fields -= set(_MADE_APART)
    if in_channels is not None:
        overrides["in_channels"] = in_channels
    unknown = sorted(set(overrides) - fields)
    if unknown:
        raise ValueError(
            f"{name}: got unknown fields {unknown}, expected some of {sorted(fields)}."
        )
    changed = {**family.variants[name].fields, **overrides}
    check_fields(name, family.module, {**changed, "num_classes": num_classes})
    return family.module(
        **changed,
        num_classes=num_classes,
        dtype=None if dtype is None else _floating(dtype, "dtype"),
        param_dtype=_floating(param_dtype, "param_dtype"),
    )


def _find(name: str) -> Family:
    if isinstance(name, str) and name in _FAMILY_OF:
        return _FAMILY_OF[name]
    nearest = difflib.get_close_matches(str(name)[:100], _FAMILY_OF, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(map(repr, nearest))}?"
        if nearest
        else f"expected one of {list_models()}."
    )
    raise ValueError(f"model: got unknown name {shown(name)}; {hint}")


def _floating(dtype: Any, name: str) -> jnp.dtype:
    try:
        resolved = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(
            f"{name}: got {dtype!r}, expected a floating-point dtype."
        ) from error
    if not jnp.issubdtype(resolved, jnp.floating):
        raise ValueError(f"{name}: got {resolved}, expected a floating-point dtype.")
    return resolved
