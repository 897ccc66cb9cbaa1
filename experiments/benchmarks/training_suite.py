"""Batches and parts of the benchmark of training steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

PRECISIONS = ("float32", "bfloat16", "float16")
FRAMEWORKS = ("ours", "stock", "torch", "torch_compile")
"""This project; the same networks on stock Flax layers; PyTorch without and with
`torch.compile`."""

TORCH = ("torch", "torch_compile")
"""Those that need torch."""


@dataclasses.dataclass(frozen=True)
class Group:
    """A group measured side by side: one network, one precision, one batch.

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
class Part:
    """The groups that one run measures, in this order.

    Attributes:
      groups: (model, precision).
      frameworks: The default frameworks.
    """

    groups: Sequence[tuple[str, str]]
    frameworks: Sequence[str] = FRAMEWORKS


@dataclasses.dataclass(frozen=True)
class Suite:
    """Parts that fit one kind of device.

    Attributes:
      batches: Model -> images a step, and their height and width.
      parts: The first has the number 1.
      repeats: Rounds of a group, at most.
      max_seconds: Seconds after which a group starts no other round.
      budget_seconds: Seconds after which a run starts no other group.
    """

    batches: Mapping[str, tuple[int, int]]
    parts: Sequence[Part]
    repeats: int
    max_seconds: float
    budget_seconds: float

    def group(self, model: str, precision: str) -> Group:
        return Group(model, precision, *self.batches[model])


_CPU_MODELS = (
    "resnet20",
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
    "vgg16_bn",
)

SUITES = {
    "gpu": Suite(
        batches={
            "resnet50": (256, 224),
            "vgg16_bn": (128, 224),
            "efficientnet_b0": (256, 224),
            "convnext_tiny": (128, 224),
            "resnet20": (1024, 32),
        },
        # A group compiles three programs, which takes most of its time.
        parts=(
            Part((("resnet50", "bfloat16"), ("resnet50", "float32"))),
            Part((("resnet50", "float16"), ("resnet20", "bfloat16"))),
            Part((("efficientnet_b0", "bfloat16"), ("efficientnet_b0", "float32"))),
            Part((("efficientnet_b0", "float16"), ("resnet20", "float32"))),
            Part((("convnext_tiny", "bfloat16"), ("convnext_tiny", "float32"))),
            Part((("convnext_tiny", "float16"), ("resnet20", "float16"))),
            Part((("vgg16_bn", "bfloat16"), ("vgg16_bn", "float32"))),
            Part((("vgg16_bn", "float16"),)),
        ),
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
            Part(tuple((model, precision) for model in _CPU_MODELS), frameworks)
            for precision, frameworks in (
                ("float32", ("ours", "stock", "torch")),
                ("bfloat16", ("ours", "stock", "torch")),
                # PyTorch takes minutes for a step in float16 on a CPU.
                ("float16", ("ours", "stock")),
            )
        ),
        repeats=7,
        max_seconds=25,
        budget_seconds=400,
    ),
}
