"""Values of the placeholders of `deck.md`: from the registry, the code and records.

A placeholder is `{{words}}`. Its first word says what is meant, or the whole is
`{{MODEL.FIELD}}`. Nothing here is a number of its own: fields are the registry's,
depths and sizes are counted in the traced program, and results on CIFAR-10 are those of
committed records.
"""

from __future__ import annotations

import functools
import html
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import charts
from charts import LANDMARKS, cifar10_rows, short
from drawing import WIDEST, draw_block
from traced import depth, trace

import cnn_jax

HERE = pathlib.Path(__file__).parent
PLACEHOLDER = re.compile(r"\{\{(.+?)\}\}")
REFERENCES_PER_PAGE = 9

TRACED = {"block", "strip", "layer", "numbers", "intensity", "scaling", "table"}
"""First words of placeholders for which a network is traced, which takes seconds."""


def needs_tracing(words: str) -> bool:
    """Returns whether a placeholder's value comes from a traced network."""
    return words.split()[0] in TRACED or ".depth" in words


def resolve(words: str) -> str:
    """Returns the HTML that stands for a placeholder.

    Raises:
      ValueError: If it names no model, field, reference or command.
    """
    first, *rest = words.split()
    if first in COMMANDS:
        value, block = COMMANDS[first](*rest), first in BLOCKS
    else:
        value, block = _field(words), False
    tag = "div" if block else "span"
    return (
        f'<{tag} class="f-{_slug(first)}" data-fact="{html.escape(words)}">'
        f"{value}</{tag}>"
    )


def _slug(word: str) -> str:
    return "value" if "." in word else word


def number(words: str) -> float:
    """Returns a field of a model as a number, such as `resnet50.macs`."""
    name, _, field = words.partition(".")
    if field == "depth":
        return depth(name)
    value = getattr(cnn_jax.model_info(name), field, None)
    if not isinstance(value, int | float):
        raise ValueError(f"{words}: got {value!r}, expected a number of the registry.")
    return value


def _field(words: str) -> str:
    name, _, field = words.partition(".")
    if field == "input":
        return "\u00d7".join(map(str, cnn_jax.model_info(name).input_shape))
    value = number(words)
    if field == "year":
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def _short(words: str) -> str:
    return short(number(words))


def _ratio(above: str, below: str) -> str:
    """Returns a ratio in two digits, from ten on as an integer."""
    value = number(above) / number(below)
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _gain(one: str, other: str) -> str:
    return f"{number(one + '.top1') - number(other + '.top1'):.1f}"


def _count(what: str) -> str:
    if what != "models":
        raise ValueError(f"count: got {what!r}, expected models.")
    return str(len(cnn_jax.list_models()))


@functools.cache
def references() -> dict[str, Mapping[str, Any]]:
    """Returns key -> paper, year and url, by year; the keys of families are theirs."""
    found: dict[str, Mapping[str, Any]] = json.loads(
        (HERE / "references.json").read_text(encoding="utf-8")
    )
    papers = {entry["paper"] for entry in found.values()}
    infos = map(cnn_jax.model_info, cnn_jax.list_models())
    for info in sorted(infos, key=lambda info: len(info.family)):
        if info.paper not in papers:  # else the paper of a family of shorter name
            papers.add(info.paper)
            found[info.family] = {
                "paper": info.paper,
                "year": info.year,
                "url": info.url,
            }
    return dict(
        sorted(found.items(), key=lambda item: (item[1]["year"], item[1]["paper"]))
    )


def _cite(*keys: str) -> str:
    order = list(references())
    unknown = [key for key in keys if key not in order]
    if unknown:
        raise ValueError(f"cite: got {unknown}, expected keys of {order}.")
    numbers = sorted(1 + order.index(key) for key in keys)
    links = [f'<a href="{references()[order[n - 1]]["url"]}">{n}</a>' for n in numbers]
    return "[" + ", ".join(links) + "]"


def _references(page: str) -> str:
    first = (int(page) - 1) * REFERENCES_PER_PAGE
    entries = list(references().values())[first : first + REFERENCES_PER_PAGE]
    if not entries:
        raise ValueError(f"references: got page {page}, expected fewer.")
    rows = []
    for position, entry in enumerate(entries, start=first + 1):
        url = html.escape(entry["url"])
        shown = re.sub(r"^https?://", "", url)
        shown = shown if len(shown) < 60 else shown.split("/")[0] + "/…"
        rows.append(
            f"<tr><td>{position}</td><td>{html.escape(entry['paper'])}, "
            f"{entry['year']}. "
            f'<a href="{url}">{shown}</a></td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _numbers(name: str) -> str:
    info = cnn_jax.model_info(name)
    fields = [
        ("parameters", f"short {name}.parameters"),
        ("multiply-adds", f"short {name}.macs"),
    ]
    fields += [("layers", f"{name}.depth")]
    if info.top1 is not None:
        fields.append(("top-1, %", f"{name}.top1"))
    tiles = "".join(
        f"<div><b>{resolve(words)}</b><i>{label}</i></div>" for label, words in fields
    )
    source = f"<p><code>{name}</code> · top-1: {_source(name)}</p>" if info.top1 else ""
    return f'<div class="tiles">{tiles}</div>{source}'


def _source(name: str) -> str:
    return html.escape(cnn_jax.model_info(name).top1_source)


def _percent(interval: Mapping[str, float]) -> str:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} % ({low:.1f} to {high:.1f})"


def _here(name: str) -> str:
    rows = [row for row in cifar10_rows() if row["model"] == name]
    if not rows:
        raise ValueError(
            f"here: got {name!r}, which has no committed result on CIFAR-10."
        )
    words = f"<b>Here, on CIFAR-10:</b> <code>{name}</code> "
    words += f"{_percent(rows[0]['test_accuracy'])} after one epoch"
    longer = charts.RESULTS / f"cifar10_{name}_recipe.json"
    if longer.exists():
        read = json.loads(longer.read_text(encoding="utf-8"))
        words += f", {_percent(read['test_accuracy'])} after {read['config']['epochs']}"
    return words + "."


def _cifar10(what: str) -> str:
    record = charts.RESULTS / "compare_architectures_cifar10.json"
    read = json.loads(record.read_text(encoding="utf-8"))
    config = read["config"]
    return (
        f"Test accuracy after {config['epochs']} epoch with {config['seeds']} seed, "
        f"{config['optimizer']} with a peak learning rate of "
        f"{config['learning_rate']}, batches of {config['batch_size']}. The bars' "
        "ends are 95 % intervals "
        f"({rows_method(read)}). {read['environment']['date'][:10]}, "
        f"jax {read['environment']['versions']['jax']}, on a lossy re-encoding of "
        f"CIFAR-10 {_cite('krizhevsky2009')}. After one epoch the order tells how "
        "fast networks learn, not how far they get: <code>plain20</code> and "
        "<code>resnet20</code> differ by nothing but the shortcuts."
    )


def rows_method(read: Mapping[str, Any]) -> str:
    """Returns how the intervals of a record were made."""
    methods = {row["test_accuracy"]["method"] for row in read["table"]["rows"]}
    return html.escape("; ".join(sorted(methods)))


def _layer(name: str, scope: str, what: str) -> str:
    """Returns sizes of a layer: `from`, `to`, or weights if it shared less."""
    (step,) = (
        s for s in trace(name) if s.scope.endswith(f"/{scope}") and s.kind == "conv"
    )
    side = int(step.text.split("\u00d7")[0])
    window = side * side * step.reads[-1]
    values = {
        "dense": math.prod(step.reads) * math.prod(step.shape),
        "local": window * math.prod(step.shape),
        "shared": window * step.shape[-1],
    }
    if what in values:
        return f"{values[what]:,}"
    return "\u00d7".join(map(str, {"from": step.reads, "to": step.shape}[what]))


def _intensity() -> str:
    """Returns multiply-adds for each byte of two layers, in bfloat16."""
    found = []
    for name, scope in (
        ("resnet50", "stage1_block1/conv2/conv"),
        ("mobilenet_v2", "stage2_block2/depthwise/conv"),
    ):
        (step,) = (s for s in trace(name) if s.scope.endswith(scope))
        side = int(step.text.split("\u00d7")[0])
        channels = 1 if step.kind == "depthwise" else step.reads[-1]
        weights = side * side * channels * step.shape[-1]
        macs = weights * math.prod(step.shape[:2])
        moved = 2 * (math.prod(step.reads) + math.prod(step.shape) + weights)
        found.append((step.text, step.shape[0], macs / moved))
    (full, size, much), (thin, other, little) = found
    return (
        f"<p>{full} on {size}\u00d7{size}: <b>{much:.0f}</b> multiply-adds for each "
        f"byte that must move. {thin} on {other}\u00d7{other}: <b>{little:.1f}</b>. "
        "(16-bit numbers, every tensor moved once.)</p>"
    )


def _scaling() -> str:
    rows = [
        "<tr><th></th><th>input</th><th>layers</th><th>parameters</th>"
        "<th>multiply-adds</th><th>top-1, %</th></tr>"
    ]
    for name in cnn_jax.list_models("efficientnet_b?"):
        size = cnn_jax.model_info(name).input_shape[0]
        rows.append(
            f"<tr><td>{name[-2:].upper()}</td><td>{size}</td><td>{depth(name)}</td>"
            f"<td>{resolve(f'short {name}.parameters')}</td>"
            f"<td>{resolve(f'short {name}.macs')}</td>"
            f"<td>{resolve(name + '.top1')}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _table(*names: str) -> str:
    texts = json.loads((HERE / "landmarks.json").read_text(encoding="utf-8"))
    rows = [
        "<tr><th>year</th><th>network</th><th>params</th><th>MACs</th><th>layers</th>"
        "<th>top-1</th><th>fixed</th><th>cost</th></tr>"
    ]
    for name in names:
        info = cnn_jax.model_info(name)
        fixed, cost = texts[name]
        star = "" if info.top1_source.startswith("ImageNet") else " *"
        rows.append(
            f"<tr><td>{resolve(name + '.year')}</td><td>{LANDMARKS[name]}</td>"
            f"<td>{resolve(f'short {name}.parameters')}</td>"
            f"<td>{resolve(f'short {name}.macs')}</td>"
            f"<td>{depth(name)}</td><td>{resolve(name + '.top1')}{star}</td>"
            f"<td>{fixed}</td><td>{cost}</td></tr>"
        )
    note = "<p>* on MNIST</p>" if "lenet5" in names else ""
    return f"<table>{''.join(rows)}</table>{note}"


WIDTHS = {"broad": 650, "half": 262}
"""Pixels of the drawings on slides that are divided otherwise."""


def _block(name: str, scopes: str, *options: str) -> str:
    widths = [WIDTHS[option] for option in options if option in WIDTHS]
    return draw_block(
        name,
        scopes,
        pre_activation="pre" in options,
        open_gates="open" in options,
        widest=widths[0] if widths else WIDEST,
    )


CHARTS: Mapping[str, Callable[[], str]] = {
    "timeline": charts.timeline,
    "macs": functools.partial(charts.accuracy_chart, "macs"),
    "parameters": functools.partial(charts.accuracy_chart, "parameters"),
    "cifar10": charts.cifar10_chart,
    "legend": charts.legend,
}

COMMANDS: Mapping[str, Callable[..., str]] = {
    "short": _short,
    "ratio": _ratio,
    "gain": _gain,
    "count": _count,
    "cite": _cite,
    "references": _references,
    "numbers": _numbers,
    "source": _source,
    "here": _here,
    "cifar10": _cifar10,
    "layer": _layer,
    "intensity": _intensity,
    "scaling": _scaling,
    "table": _table,
    "block": _block,
    "strip": charts.strip,
    "chart": lambda name: CHARTS[name](),
}
"""First word of a placeholder -> what makes its HTML."""

BLOCKS = {
    "references",
    "numbers",
    "here",
    "cifar10",
    "intensity",
    "scaling",
    "table",
    "block",
    "strip",
    "chart",
}
"""Those that are a block of their own, not part of a line."""
