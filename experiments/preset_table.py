"""The presets of all ImageNet recipes, a row for each: what a planner needs to know.

python experiments/preset_table.py
python experiments/preset_table.py --json
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import imagenet_efficientnet_b0
import imagenet_resnet50
import imagenet_resnet50_sam

from cnn_jax import messages
from cnn_jax.report.table import Column, Table, print_table
from cnn_jax.training import TrainConfig
from cnn_jax.training.config.preset import Preset

RECIPES: dict[str, tuple[TrainConfig, dict[str, Preset]]] = {
    module.__name__: (module.CONFIG, module.PRESETS)
    for module in (imagenet_resnet50, imagenet_resnet50_sam, imagenet_efficientnet_b0)
}
"""The name of an experiment -> its configuration and its presets."""

FIELDS = (
    *("model", "image_size", "batch_size", "mesh", "parallel", "batch_norm_scope"),
    *("dtype", "optimizer", "sam_radius", "ema_decay", "learning_rate", "epochs"),
)
"""Fields that decide a step's program, or are worth comparing."""


def configured(experiment: str, preset: str) -> TrainConfig:
    """Returns the configuration of an experiment with one of its presets."""
    config, presets = RECIPES[experiment]
    return presets[preset].applied_to(config)


def rows() -> list[dict[str, Any]]:
    """Returns `experiment`, `preset`, `topology` and `FIELDS` of every preset.

    `topology` is None where there is no slice to compile for; `batch_size` is that of
    the whole slice.
    """
    return [
        {
            "experiment": experiment,
            "preset": name,
            "topology": preset.topology,
            **{field: getattr(configured(experiment, name), field) for field in FIELDS},
        }
        for experiment, (_, presets) in RECIPES.items()
        for name, preset in presets.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="as JSON")
    if parser.parse_args().json:
        messages.say(json.dumps(rows(), indent=2))
        return
    names = ("experiment", "preset", "topology", *FIELDS)
    columns = [Column(name, name.replace("_", " ")) for name in names]
    table = Table("Presets", columns, rows())
    print_table(table)


if __name__ == "__main__":
    main()
