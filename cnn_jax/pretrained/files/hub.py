"""Names on the Hugging Face Hub, fetched once into that library's own cache."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from cnn_jax.files import read_bytes, reading
from cnn_jax.pretrained.files.own_weights import check_preprocessing
from cnn_jax.pretrained.files.stored import Provenance

PREFIX = "hf-hub:"

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_MAX_CONFIG = 2**22  # bytes


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
        preprocessing = preprocessing_of(
            json.loads(read_bytes(config, max_bytes=_MAX_CONFIG))
        )
        check_preprocessing(preprocessing)
    return Provenance(name, path, revision=commit, preprocessing=preprocessing)


def preprocessing_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a timm `config.json` says of the images; see `Provenance`."""
    config = config.get("pretrained_cfg") or config
    found: dict[str, Any] = {}
    for name in ("mean", "std"):
        if name in config:
            found[name] = [float(value) for value in config[name]]
    if "crop_pct" in config:
        found["crop_fraction"] = float(config["crop_pct"])
    if "interpolation" in config:
        found["interpolation"] = str(config["interpolation"])
    if "input_size" in config:
        channels, height, width = map(int, config["input_size"])
        found["input_shape"] = [height, width, channels]
    return found
