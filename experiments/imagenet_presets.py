"""The machines that the ImageNet recipes are set up for: `--preset NAME`.

A preset says what differs between machines and nothing else: how many images each
device takes, the learning rate that goes with the whole batch, the mesh, who shares
the statistics of batch normalisation, the processes that decode. What the network
learns by is the recipe's own. A field given on the command line wins over its preset;
the learning rate does not follow a `--batch-size` that is given.

None of them has been run on its machine here. The tests of each night compile the
programs of those for a TPU, by `cnn_jax.planning.plan.make_plan`, without one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cnn_jax.training.config.parallel import BatchNormScope
from cnn_jax.training.config.preset import Preset

EXAMPLES = 1_281_167
"""Images of ImageNet's training split."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """One kind of machine.

    Attributes:
      description: Its name in its cloud, for people.
      devices: How many chips or GPUs.
      workers: Processes that decode, for each process of the run: those of TPUs have a
        host, of which some cores are left to the run itself.
      hosts: How many hosts.
      topology: Of a TPU slice, in chips.
    """

    description: str
    devices: int
    workers: int
    hosts: int = 1
    topology: str | None = None


MACHINES = {
    "v5e_8": Machine("v5litepod-8, one host of 224 vCPUs", 8, 128, 1, "v5e:2x4"),
    "v5e_256": Machine(
        "v5litepod-256, 64 hosts of 112 vCPUs", 256, 80, 64, "v5e:16x16"
    ),
    # The type counts cores, two a chip.
    "v4_32": Machine("v4-32, four hosts of 240 vCPUs", 16, 128, 4, "v4:2x2x4"),
    "gpu_8": Machine("8 GPUs of at least 40 GB in one host", 8, 64),
}

SMOKE = Preset(
    "two cores and a few made-up images; proves that everything works together",
    {
        "image_size": 32,
        "batch_size": 16,
        "epochs": 3,
        "warmup_epochs": 1.0,
        "learning_rate": 0.01,
        "dtype": "float32",
        "num_workers": 1,
        "checkpoint_every_steps": 3,
        "log_every_steps": 1,
    },
)


def make_presets(
    images_per_device: Mapping[str, int],
    rate_for_256: float,
    batch_norm_scope: Mapping[str, BatchNormScope],
) -> dict[str, Preset]:
    """Returns the presets of a recipe, and `smoke`.

    Args:
      images_per_device: Machine -> images of a batch on each device.
      rate_for_256: The learning rate of a batch of 256, to which it is proportional
        (Goyal et al. 2017, section 2.1).
      batch_norm_scope: Machine -> whose images share batch statistics.
    """
    presets = {}
    for name, machine in MACHINES.items():
        batch_size = images_per_device[name] * machine.devices
        fields = {
            "batch_size": batch_size,
            "learning_rate": rate_for_256 * batch_size / 256,
            "mesh": f"data={machine.devices}",
            "parallel": "shard_map",
            "batch_norm_scope": batch_norm_scope[name],
            "dtype": "bfloat16",
            "num_workers": machine.workers,
        }
        if machine.hosts > 1:
            fields["coordinator_address"] = "auto"
        if name == "v5e_256":
            # Five epochs: one is short on so many chips.
            fields["checkpoint_every_steps"] = 5 * (EXAMPLES // batch_size)
        presets[name] = Preset(machine.description, fields, machine.topology)
    return {**presets, "smoke": SMOKE}
