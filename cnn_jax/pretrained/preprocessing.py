"""The preparation of images that loaded weights want."""

from __future__ import annotations

import dataclasses
import statistics
import warnings

from cnn_jax.models import model_info
from cnn_jax.preprocessing import Preprocessing, known_fields
from cnn_jax.pretrained.report import ConversionReport


def preprocessing_of(
    report: ConversionReport, model: str, *, is_run: bool = False
) -> Preprocessing:
    """Returns how images become the input of loaded weights.

    What the weights say comes first (those from the Hub, converted ones and those that
    are known by their origin do; a training run's say what the run recorded, else what
    its configuration says), then the model's entry in the registry.

    Args:
      report: Of the weights, from `load_pretrained`.
      model: The model's name.
      is_run: Whether a training run wrote them, which may have normalised images as
        the registry's entry cannot know.

    Returns:
      The preparation. Mean and deviation are None for a run on floating-point images.

    Warns:
      UserWarning: If mean and deviation are a guess.

    Raises:
      ValueError: If height and width of the input differ.
    """
    provenance = report.provenance
    base, channels = model_info(model).preprocessing, report.input_shape[-1]
    said = known_fields(provenance.preprocessing)
    if "input_shape" in provenance.preprocessing and "size" not in said:
        raise ValueError(
            f"{provenance.location}: got an input shape "
            f"{tuple(provenance.preprocessing['input_shape'])}, expected equal height "
            "and width."
        )
    said["channels"] = channels
    is_said = "mean" in said
    fields = {"mean": base.mean, "std": base.std} | said
    for name in ("mean", "std"):
        if fields[name] is not None and len(fields[name]) != channels:
            fields[name] = (statistics.fmean(fields[name]),) * channels
    if not is_said and (is_run or channels != base.channels):
        who = "the run does" if is_run else "the weights do"
        warnings.warn(
            f"{provenance.location}: {who} not say how it normalised images; {model}'s "
            f"usual mean {fields['mean']} and std {fields['std']} are used. What is "
            "trained with --mean and --std says it.",
            stacklevel=3,
        )
    return dataclasses.replace(base.at(said.get("size", base.size)), **fields)
