"""The preparation of images for weights that say nothing of it, by their source."""

from __future__ import annotations

import dataclasses
import warnings

import flax.linen as nn

from cnn_jax.models import model_info
from cnn_jax.models.registry import registered_as
from cnn_jax.pretrained.files import Provenance
from cnn_jax.pretrained.files.hub import PREFIX
from cnn_jax.pretrained.files.stored import as_said
from cnn_jax.pretrained.rules import Origin


def with_preprocessing(
    provenance: Provenance, model: nn.Module, source: Origin, channels: int
) -> Provenance:
    """Returns where weights come from, with the preparation that their source implies.

    Where weights do not say it, they get that of the registry for the library that has
    such names, if it has one of its own; for all others the model's entry stands.

    Args:
      provenance: As the reader of the weights has it.
      model: The model that they are loaded into.
      source: Whose names they have.
      channels: Of the images that they are for.

    Warns:
      UserWarning: If they come from the Hub, without the `config.json` that says it.
    """
    is_from_hub = provenance.location.startswith(PREFIX)
    if provenance.preprocessing or (source == "cnn_jax" and not is_from_hub):
        return provenance
    # On the Hub names tell less: timm's ResNets have torchvision's.
    is_timms = provenance.location.startswith(f"{PREFIX}timm/")
    library = "timm" if is_timms else source
    found = registered_as(model)
    info = None if found is None else model_info(found[0])
    preprocessing = None
    if info is not None:
        usual = info.preprocessing if is_from_hub else None
        preprocessing = info.preprocessing_by_source.get(library, usual)
    if preprocessing is not None and preprocessing.channels != channels:
        preprocessing = None
    if is_from_hub:
        assumed = (
            f"what {library}'s weights of {info.name} usually get is assumed: "
            f"{preprocessing}"
            if info is not None and preprocessing is not None
            else "nothing is known of it"
        )
        warnings.warn(
            f"{provenance.location}: has no config.json that says how images are "
            f"prepared; {assumed}.",
            stacklevel=1,  # from one line, so that it is said once
        )
    if preprocessing is None:
        return provenance
    return dataclasses.replace(provenance, preprocessing=as_said(preprocessing))
