"""What the benchmark of training steps measures where: batches, and parts of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

PRECISIONS = ("float32", "bfloat16", "float16")
FRAMEWORKS = ("ours", "stock", "torch", "torch_compile")
"""This project; the same networks on stock Flax layers; PyTorch without and with
`torch.compile`."""


@dataclasses.dataclass(frozen=True)
class Group:
    """What is measured side by side: one network, one precision, one batch.

    Attributes:
      model: Its name here and in `torch_networks`.
      precision: The dtype of activations and images; parameters are float32.
      batch_size: Images a step.
      image_size: Their height and width.
    """

    model: str
    precision: str
    batch_size: int
    image_size: int

    def __str__(self) -> str:
        size = f"{self.image_size}x{self.image_size}"
        return f"{self.model} {self.precision}, {self.batch_size} images of {size}"


@dataclasses.dataclass(frozen=True)
class Suite:
    """A set of groups that fits one kind of device.

    Attributes:
      batches: Model -> images a step, and their height and width.
      parts: What one run measures each: (model, precision), in order.
      frameworks: Those measured unless others are asked for.
      repeats: Rounds of a group, at most.
      max_seconds: Seconds after which a group starts no other round.
      budget_seconds: Seconds after which a part starts no other group.
    """

    batches: Mapping[str, tuple[int, int]]
    parts: Sequence[Sequence[tuple[str, str]]]
    frameworks: Sequence[str]
    repeats: int
    max_seconds: float
    budget_seconds: float

    def groups(self, parts: Sequence[int]) -> list[Group]:
        """Returns what the parts of these numbers measure; the first is 1."""
        return [
            Group(model, precision, *self.batches[model])
            for part in parts
            for model, precision in self.parts[part - 1]
        ]


SUITES = {
    "gpu": Suite(
        batches={
            "resnet50": (256, 224),
            "vgg16_bn": (128, 224),
            "efficientnet_b0": (256, 224),
            "convnext_tiny": (128, 224),
            "resnet20": (1024, 32),
        },
        # A group compiles four programs, which takes most of its time.
        parts=(
            (("resnet50", "bfloat16"), ("resnet50", "float32")),
            (("resnet50", "float16"), ("resnet20", "bfloat16")),
            (("efficientnet_b0", "bfloat16"), ("efficientnet_b0", "float32")),
            (("efficientnet_b0", "float16"), ("resnet20", "float32")),
            (("convnext_tiny", "bfloat16"), ("convnext_tiny", "float32")),
            (("convnext_tiny", "float16"), ("resnet20", "float16")),
            (("vgg16_bn", "bfloat16"), ("vgg16_bn", "float32")),
            (("vgg16_bn", "float16"),),
        ),
        frameworks=FRAMEWORKS,
        repeats=15,
        max_seconds=30,
        budget_seconds=330,
    ),
    "cpu": Suite(
        batches={
            "resnet50": (4, 224),
            "vgg16_bn": (2, 224),
            "efficientnet_b0": (8, 224),
            "convnext_tiny": (2, 224),
            "resnet20": (128, 32),
        },
        parts=tuple(
            tuple(
                (model, precision)
                for model in (
                    "resnet20",
                    "resnet50",
                    "efficientnet_b0",
                    "convnext_tiny",
                    "vgg16_bn",
                )
            )
            for precision in PRECISIONS
        ),
        frameworks=("ours", "stock", "torch"),
        repeats=7,
        max_seconds=25,
        budget_seconds=480,
    ),
}
