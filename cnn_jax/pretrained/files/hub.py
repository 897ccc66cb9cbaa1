"""Names on the Hugging Face Hub, fetched once into that library's own cache."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, get_args

from cnn_jax.files import FileError, read_bytes, reading
from cnn_jax.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
)
from cnn_jax.pretrained.files.stored import Provenance, as_said
from cnn_jax.ranges import shown

PREFIX = "hf-hub:"

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_MAX_CONFIG = 2**22  # bytes

_DEFAULTS: Mapping[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
}
"""The values that timm takes where a configuration has none."""

_CHOICES = {
    "crop_mode": ("center", "squash", "border"),
    "interpolation": get_args(Interpolation),
}
"""The values that images can be prepared by, of those that timm has."""


def fetch(name: str) -> Provenance:
    """Fetches a repository's weights, unless the cache has them.

    Args:
      name: `hf-hub:OWNER/NAME`, or `hf-hub:OWNER/NAME@REVISION` for a branch, tag or
        commit. The cache, its place, the token and `HF_HUB_OFFLINE` are
        `huggingface_hub`'s.

    Returns:
      The path of `model.safetensors` in the cache, of which commit it is, and what
      `config.json` says of the preprocessing.

    Raises:
      FileNotFoundError: If the Hub has no such file, or cannot be reached and the cache
        has not got it.
      ImportError: If huggingface_hub is not installed.
      ValueError: If the name is no such name, or `config.json` is damaged.
    """
    match = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if match is None:
        raise ValueError(
            f"got {name!r}, expected hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION."
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ImportError(
            f"{name}: huggingface_hub is not installed: pip install 'cnn_jax[hub]', or "
            f"fetch {_WEIGHTS} yourself and pass its path."
        )
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    repository, revision = match.groups()
    try:
        path = pathlib.Path(
            huggingface_hub.hf_hub_download(repository, _WEIGHTS, revision=revision)
        )
    except (EntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"{name}: cannot get {_WEIGHTS} ({reason}). Check the name, or fetch it "
            "once with HF_HUB_OFFLINE unset."
        ) from error
    # The cache has a folder for each commit; the branch may have moved on since.
    commit = path.parent.name
    try:
        config = huggingface_hub.hf_hub_download(repository, _CONFIG, revision=commit)
    except (EntryNotFoundError, OSError):
        return Provenance(name, path, revision=commit)
    with reading(
        name,
        f"what timm writes; delete {config} to fetch it again",
        found=f"a damaged {_CONFIG}",
    ):
        content = json.loads(read_bytes(config, max_bytes=_MAX_CONFIG))
        _check_supported(content, config)
        preprocessing = preprocessing_of(content)
    return Provenance(name, path, revision=commit, preprocessing=preprocessing)


def preprocessing_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a timm `config.json` says of the images; see `Provenance`.

    What a configuration that says anything of them leaves out is timm's default. Size
    and crop are `input_size` and `crop_pct`, as in `timm.data.resolve_data_config`: the
    larger `test_input_size` with its `test_crop_pct` is taken there on request alone.
    Height and width may differ, for networks that are given arrays.

    Args:
      config: The content of the file.

    Raises:
      Exception: Of any kind, for values of another type or out of range.
    """
    said = _said_in(config)
    if not said:
        return {}
    values = {**_DEFAULTS, **said}
    channels, height, width = map(int, values["input_size"])
    found = [
        Preprocessing(
            size,
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            float(values["crop_pct"]),
            values["crop_mode"],
            values["interpolation"],
            channels,
        )
        for size in (height, width)
    ]
    return as_said(found[0]) | {"input_shape": [height, width, channels]}


def _said_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values about images in a configuration."""
    config = config.get("pretrained_cfg") or config
    return {name: config[name] for name in _DEFAULTS if config.get(name) is not None}


def _check_supported(config: Mapping[str, Any], path: str) -> None:
    """Raises FileError for what timm may write and no image can be prepared by here.

    These are a `crop_pct` above 1, which adds a black border, and filters and crops of
    other names, such as `"random"`, a filter for training.
    """
    said = _said_in(config)
    expected = {
        name: " or ".join(map(repr, choices))
        for name, choices in _CHOICES.items()
        if said.get(name, choices[0]) not in choices
    }
    if isinstance(said.get("crop_pct"), int | float) and said["crop_pct"] > 1:
        expected["crop_pct"] = "at most 1"
    for name, text in expected.items():
        raise FileError(
            f"{path}: {name}: got {shown(said[name])}, expected {text}. Pass the path "
            f"of the {_WEIGHTS} beside it, and images are prepared as its model's "
            "usually are."
        )
