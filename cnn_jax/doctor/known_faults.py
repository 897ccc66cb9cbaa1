"""The known faults of JAX: who has them, what they do here, and the remedy.

One table. A fault with a probe is judged by what the probe computes on this machine;
the versions say only where it was seen. `docs/numerics.md` tells more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cnn_jax.doctor.child import Answer
from cnn_jax.doctor.computations import ABORTING, TOLERANCE
from cnn_jax.doctor.finding import Finding, ok, warning

YNN_OFF = "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type="
"""Switches off the fusions that are computed wrongly."""


MOST_ERROR = 1e3
"""Beyond this a result is what happened to be in memory."""


@dataclasses.dataclass(frozen=True)
class KnownFault:
    """A fault of JAX or XLA.

    Attributes:
      name: What is computed wrongly.
      effect: What happens.
      versions: Of jax, in which it was seen.
      platforms: Those that have it.
      here: What it means for this package.
      remedy: What to do.
      source: Where it is reported or measured.
      probe: The computation of `computations.PROBES` that shows it.
    """

    name: str
    effect: str
    versions: str
    platforms: tuple[str, ...]
    here: str
    remedy: str
    source: str
    probe: str


KNOWN_FAULTS = (
    KnownFault(
        name="fused product of many rows",
        effect="vmap(lambda row: sum((matrix @ row) ** 2)) is wrong beyond 32,768 rows",
        versions="0.10.2",
        platforms=("cpu",),
        here="No kernel of cnn_jax was found to be affected; code of your own may be.",
        remedy=f"Set {YNN_OFF}, or use Python 3.12 and a newer jax.",
        source="https://github.com/jax-ml/jax/issues/39103",
        probe="fused_product",
    ),
    KnownFault(
        name="convolution cropped in front, padded behind",
        effect="a convolution with padding such as (-5, 1) reads outside of its input",
        versions="0.10.0 to 0.10.2",
        platforms=("cpu",),
        here="cnn_jax is not affected, its kernels crop first; jax.lax and Flax are.",
        remedy="Use cnn_jax's convolutions, or Python 3.12 and a newer jax; "
        f"{YNN_OFF} does not help.",
        source="https://github.com/openxla/xla/issues/48713",
        probe="shifted_convolution",
    ),
    KnownFault(
        name="window behind a crop",
        effect="a cropping lax.pad that also dilates, before lax.reduce_window, takes "
        "in what it cropped",
        versions="0.10.2",
        platforms=("cpu", "gpu", "tpu"),
        here="cnn_jax is not affected, no kernel pools what such a pad returns.",
        remedy="Crop by slicing, or use Python 3.12 and a newer jax.",
        source="https://github.com/openxla/xla/issues/48715",
        probe="cropped_window",
    ),
    KnownFault(
        name="window of one element that crops",
        effect="lax.reduce_window by a window of one, with padding that only crops, "
        "ends the process",
        versions="up to 0.12",
        platforms=("cpu",),
        here="cnn_jax is not affected, its pooling crops first.",
        remedy="Crop by slicing.",
        source="tests/kernels/test_fatal_checks.py",
        probe="window_of_one",
    ),
)
"""All of them. That 0.10.0 and 0.10.1 end the process in attention models (jax issue
39264) is not among them: the package does not install beside those."""


def judge_known_faults(
    version: str,
    platform: str | None,
    answer: Answer,
) -> Iterator[Finding]:
    """Yields a finding for each known fault.

    Args:
      version: Of jax.
      platform: That computes; None if there is none.
      answer: What the process found that tried them.
    """
    for each in KNOWN_FAULTS:
        name = f"known fault: {each.name}"
        if platform is not None and platform not in each.platforms:
            yield ok(name, f"seen on {', '.join(each.platforms)} only, not {platform}.")
        elif each.probe == answer.unfinished and not answer.is_late:
            yield _present(
                each, name, version, "the process that tried it here was ended"
            )
        elif each.probe not in answer.found:
            yield warning(
                name,
                f"not tried: {_reason(each, platform, answer)}. Seen in jax "
                f"{each.versions}: {each.effect} ({each.source}).",
                each.remedy,
            )
        else:
            yield _judged(each, name, version, answer.found[each.probe])


def _reason(each: KnownFault, platform: str | None, answer: Answer) -> str:
    """Returns why a fault was not tried."""
    if answer.problem:
        return answer.problem
    if "error" in (answer.found.get("join") or {}):
        return "the processes were not connected"
    if platform is not None and each.probe in ABORTING:
        return "it might end the group"
    return "there is no device"


def _judged(
    each: KnownFault, name: str, version: str, outcome: Mapping[str, Any]
) -> Finding:
    if "error" in outcome:
        return warning(name, f"could not be tried: {outcome['error']}", each.remedy)
    error = outcome["result"]
    if error > TOLERANCE:
        by = (
            "its result here is arbitrary"
            if error > MOST_ERROR
            else f"tried here, it is off by {error:.2g} times its result"
        )
        return _present(each, name, version, by)
    return ok(name, f"jax {version} computes it right here (error {error:.0e}).")


def _present(each: KnownFault, name: str, version: str, how: str) -> Finding:
    return warning(
        name,
        f"jax {version} has it ({how}): {each.effect}. {each.here} See {each.source}",
        each.remedy,
    )
