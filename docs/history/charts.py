"""Charts of the deck, from the registry and from the records of runs: inline SVG."""

from __future__ import annotations

import html
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from drawing import COLOURS
from labels import place, total_distance
from traced import layers

import cnn_jax

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"

LANDMARKS = {
    "lenet5": "LeNet-5",
    "alexnet": "AlexNet",
    "nin": "Network in Network",
    "zfnet": "ZFNet",
    "vgg16": "VGG-16",
    "googlenet": "GoogLeNet",
    "inception_v3": "Inception v3",
    "resnet50": "ResNet-50",
    "resnetv2_50": "ResNet v2",
    "wide_resnet50_2": "Wide ResNet",
    "resnext50_32x4d": "ResNeXt-50",
    "densenet121": "DenseNet-121",
    "squeezenet1_1": "SqueezeNet",
    "xception": "Xception",
    "mobilenet_v1": "MobileNet",
    "seresnet50": "SE-ResNet-50",
    "mobilenet_v2": "MobileNet v2",
    "shufflenet_v2_x1_0": "ShuffleNet v2",
    "mnasnet1_0": "MnasNet",
    "mobilenet_v3_large": "MobileNet v3",
    "efficientnet_b0": "EfficientNet-B0",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_v2_s": "EfficientNetV2-S",
    "convnext_tiny": "ConvNeXt-T",
}
"""Name in the registry -> name on the slides."""

EXTREMES = {"efficientnet_b7": "EfficientNet-B7", "convnext_large": "ConvNeXt-L"}
"""Other networks that the charts name."""

UNNAMED = ("resnetv2_50", "resnext50_32x4d", "seresnet50")
"""Landmarks that stand where ResNet-50 does, too close to be named beside it."""

ERAS = ((2012, "#66727f"), (2014, "#2f6db5"), (2016, "#7a4aa3"), (2018, "#c2691a"))
"""Last year of an era -> its colour; later ones are green."""

LATEST = "#1c7f6b"


def era_colour(year: int) -> str:
    """Returns the colour of a year's networks."""
    return next((colour for last, colour in ERAS if year <= last), LATEST)


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """Returns a line of text at a point, as SVG."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" '
        f'text-anchor="{anchor}">{html.escape(words)}</text>'
    )


def svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    """Returns a chart of that size."""
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{html.escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def timeline() -> str:
    """Returns every landmark at its year, above and below a line in turn."""
    width, height, axis, row = 1170, 450, 150, 36
    years: dict[int, list[str]] = {}
    for name, shown in LANDMARKS.items():
        years.setdefault(cnn_jax.model_info(name).year, []).append(shown)
    first, *others = sorted(years)
    span = range(min(others), max(others) + 1)
    step = (width - 290) / (len(span) - 1)
    xs = {first: 46.0} | {year: 168 + step * (year - min(others)) for year in span}
    middle = (xs[first] + xs[min(others)]) / 2
    parts = [
        f'<path d="M6 {axis}H{width - 6}" class="a"/>',
        f'<path d="M{middle - 8:.0f} {axis + 8}l6 -16m4 16l6 -16" class="a"/>',
    ]
    for year, x in xs.items():
        names, colour = years.get(year, []), era_colour(year)
        down = 1 if year % 2 == 0 else -1
        end = axis + down * (42 + row * max(0, len(names) - 1) + 12)
        if names:
            parts.append(
                f'<path d="M{x - 20:.1f} {axis}V{end}" stroke="{colour}" class="g"/>'
            )
        parts.append(
            f'<rect x="{x - 30:.1f}" y="{axis - 16}" width="60" height="32" rx="6" '
            f'fill="{colour}"/>'
        )
        parts.append(text(x, axis + 7, str(year), "y", "middle"))
        for number, shown in enumerate(names if down > 0 else reversed(names)):
            y = axis + down * (42 + row * number) + 6
            parts.append(text(x - 12, y, shown, "i"))
    return svg(width, height, parts, "Landmarks by year")


def accuracy_chart(field: str) -> str:
    """Returns published ImageNet accuracies against parameters or multiply-adds.

    Args:
      field: "parameters" or "macs".
    """
    infos = [cnn_jax.model_info(name) for name in cnn_jax.list_models()]
    infos = [i for i in infos if i.top1 and i.top1_source.startswith("ImageNet")]
    width, height = 1170, 500
    box = (70, 14, width - 20, height - 58)
    values = [getattr(info, field) for info in infos]
    low, high = math.log10(min(values) * 0.8), math.log10(max(values) * 1.5)
    bottom, top = 48.0, 88.0

    def locate(info: Any) -> tuple[float, float]:
        x = (math.log10(getattr(info, field)) - low) / (high - low)
        y = (info.top1 - bottom) / (top - bottom)
        return box[0] + x * (box[2] - box[0]), box[3] - y * (box[3] - box[1])

    parts = _axes(box, low, high, bottom, top, field)
    points = [locate(info) for info in infos]
    named = {**LANDMARKS, **EXTREMES}
    named = {name: named[name] for name in named if name not in UNNAMED}
    for i in sorted(range(len(infos)), key=lambda i: infos[i].name in named):
        x, y = points[i]
        radius = 7 if infos[i].name in named else 4
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" '
            f'fill="{era_colour(infos[i].year)}" class="p"/>'
        )
    labelled = [
        (named[i.name], p)
        for i, p in zip(infos, points, strict=True)
        if i.name in named
    ]
    parts += _labels(labelled, points, box)
    parts += _era_legend(box)
    return svg(width, height, parts, f"Top-1 accuracy against {field}")


def _axes(
    box: tuple[int, int, int, int],
    low: float,
    high: float,
    bottom: float,
    top: float,
    field: str,
) -> list[str]:
    parts = []
    for percent in range(int(bottom) + 2, int(top) + 1, 10):
        y = box[3] - (percent - bottom) / (top - bottom) * (box[3] - box[1])
        parts.append(f'<path d="M{box[0]} {y:.1f}H{box[2]}" class="r"/>')
        parts.append(text(box[0] - 10, y + 6, f"{percent} %", "x", "end"))
    for power in range(math.floor(low), math.ceil(high)):
        for lead in (1, 3):
            value = lead * 10**power
            if not low <= math.log10(value) <= high:
                continue
            x = box[0] + (math.log10(value) - low) / (high - low) * (box[2] - box[0])
            parts.append(f'<path d="M{x:.1f} {box[1]}V{box[3]}" class="r"/>')
            parts.append(text(x, box[3] + 24, short(value), "x", "middle"))
    words = {"parameters": "parameters", "macs": "multiply-adds for one image"}[field]
    parts.append(text((box[0] + box[2]) / 2, box[3] + 50, words, "x", "middle"))
    return parts


def _labels(
    labelled: list[tuple[str, tuple[float, float]]],
    points: list[tuple[float, float]],
    box: tuple[int, int, int, int],
) -> list[str]:
    """Returns each label at a free place near its point.

    They are placed one after the other, from each of the four sides, and the placing
    with the shortest distances is taken.
    """
    orders = [lambda p: p[1], lambda p: (-p[1][0], p[1][1]), lambda p: p[1][::-1]]
    orders.append(lambda p: (-p[1][1], p[1][0]))
    found = [place(sorted(labelled, key=o), points, box) for o in orders]
    parts = []
    for words, (x, y), (left, top, right, bottom) in min(found, key=total_distance):
        near = (min(max(x, left), right), top if y < top else bottom)
        if abs((top + bottom) / 2 - y) > 20:
            line = f"M{x:.1f} {y:.1f}L{near[0]:.1f} {near[1]:.1f}"
            parts.append(f'<path d="{line}" class="w"/>')
        middle = (left + right) / 2
        parts.append(text(middle, (top + bottom) / 2 + 5, words, "e", "middle"))
    return parts


def _era_legend(box: tuple[int, int, int, int]) -> list[str]:
    parts, first = [], 2012
    rows = [*ERAS, (2022, LATEST)]
    for number, (last, colour) in enumerate(rows):
        y = box[3] - 126 + 26 * number
        parts.append(f'<circle cx="{box[2] - 140}" cy="{y}" r="7" fill="{colour}"/>')
        years = f"{first} to {last}" if last > first else str(first)
        parts.append(text(box[2] - 124, y + 6, years, "e"))
        first = last + 1
    return parts


def short(value: float) -> str:
    """Returns a count in thousands (k), millions (M) or billions (G)."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            scaled = value / size
            digits = 0 if scaled >= 100 or scaled == round(scaled) else 1
            digits = 2 if scaled < 10 and scaled != round(scaled) else digits
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:.0f}"


def strip(name: str) -> str:
    """Returns all layers with weights as bars: the height is the map's side."""
    found = layers(name)
    width, height = 1160, 84
    step = min(26.0, width / len(found))
    largest = math.log2(2 * cnn_jax.model_info(name).input_shape[0])
    parts = []
    for number, (kind, side) in enumerate(found):
        tall = 6 + (height - 10) * math.log2(2 * side) / largest
        parts.append(
            f'<rect x="{number * step:.2f}" y="{height - tall:.1f}" '
            f'width="{step - min(2.0, step / 5):.2f}" height="{tall:.1f}" '
            f'fill="{COLOURS[kind][1]}"/>'
        )
    return svg(width, height, parts, f"All layers of {name}").replace(
        "chart", "strip", 1
    )


def legend() -> str:
    """Returns what the colours of boxes and bars stand for."""
    words = {
        "conv": "convolution, k\u00d7k",
        "pointwise": "1\u00d71 convolution",
        "depthwise": "depthwise convolution",
        "grouped": "grouped convolution",
        "dense": "dense layer",
        "pool": "pooling",
        "gate": "squeeze-and-excite gate",
    }
    parts = []
    for number, (kind, shown) in enumerate(words.items()):
        fill, line = COLOURS[kind]
        y = 6 + 42 * number
        parts.append(
            f'<rect x="2" y="{y}" width="40" height="26" rx="5" fill="{fill}" '
            f'stroke="{line}"/>'
            f'<rect x="50" y="{y}" width="13" height="26" fill="{line}"/>'
        )
        parts.append(text(80, y + 20, shown, "n"))
    return svg(330, 300, parts, "Colours")


def cifar10_rows() -> list[Mapping[str, Any]]:
    """Returns the rows of the committed comparison on CIFAR-10."""
    record = RESULTS / "compare_architectures_cifar10.json"
    rows: list[Mapping[str, Any]] = json.loads(record.read_text())["table"]["rows"]
    return rows


def cifar10_chart() -> str:
    """Returns the comparison's test accuracies with their intervals."""
    rows = sorted(cifar10_rows(), key=lambda row: row["test_accuracy"]["mean"])
    width, height, left = 1170, 60 + 66 * len(rows), 230
    highest = max(row["test_accuracy"]["high"] for row in rows)
    scale = (width - left - 530) / highest
    parts = []
    for number, row in enumerate(rows):
        found = row["test_accuracy"]
        y = 20 + 66 * number
        x = left + found["mean"] * scale
        parts.append(text(left - 14, y + 26, row["model"], "m", "end"))
        parts.append(
            f'<rect x="{left}" y="{y}" width="{x - left:.1f}" height="38" '
            f'fill="{COLOURS["conv"][0]}" stroke="{COLOURS["conv"][1]}"/>'
        )
        low, high = left + found["low"] * scale, left + found["high"] * scale
        parts.append(
            f'<path d="M{low:.1f} {y + 19}H{high:.1f}M{low:.1f} {y + 11}v16'
            f'M{high:.1f} {y + 11}v16" class="a"/>'
        )
        words = f"{100 * found['mean']:.1f} % · {short(row['parameters'])} parameters, "
        words += f"{short(row['macs'])} multiply-adds"
        parts.append(text(max(x, high) + 12, y + 26, words, "n"))
    return svg(width, height, parts, "Accuracy on CIFAR-10")
