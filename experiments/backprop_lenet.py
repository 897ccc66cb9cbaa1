"""LeNet-5 layer by layer: the kernels' gradients called one after another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from backprop_checks import (
    EXACT,
    FLOAT32,
    agrees,
    check,
    num_seeds,
    verdict,
    with_interval,
    wrong,
)
from backprop_lenet_passes import LAYERS, Tree, by_hand, by_jax
from backprop_pictures import grey, packed, picture, signed, unpacked

from cnn_jax import create_model
from cnn_jax import kernels as K
from cnn_jax.data import normalize
from cnn_jax.report import html, table
from cnn_jax.report.statistics import student_interval
from cnn_jax.report.words import count
from cnn_jax.studies import Context, Measurement

NUM_EXAMPLES = 64
RATES = (0.01, 0.1, 1.0)
DRAWN = ("image", "c1 tanh", "s2", "c3 tanh", "s4")


def measure(context: Context) -> dict[str, Any]:
    """Returns every layer's values and gradients, and one update, for each seed."""
    train = context.splits["train"]
    model = create_model("lenet5", num_classes=train.num_classes)
    seeds, checks, rows = [], [], []
    pictures: dict[str, Any] = {}
    # Functions of their own: a kernel that was replaced is traced anew.
    hand_jit = jax.jit(lambda *given: by_hand(*given))
    jax_jit, init = jax.jit(by_jax(model)), jax.jit(model.init)
    loss = jax.jit(functools.partial(_loss, model))
    for seed in range(num_seeds(context)):
        generator = np.random.default_rng(seed)
        chosen = generator.permutation(len(train))[:NUM_EXAMPLES]
        x = normalize(train.images[chosen], *train.channel_statistics)
        labels = np.asarray(train.labels[chosen], np.int32)
        start = init(jax.random.key(seed), x[:1])["params"]
        params, x = jax.tree.map(np.asarray, (start, x))
        found = {}
        for dtype, tolerance in ((np.float64, EXACT), (np.float32, FLOAT32)):
            with jax.enable_x64(dtype is np.float64):
                given = jax.tree.map(lambda a, d=dtype: jnp.asarray(a, d), (params, x))
                hand = hand_jit(*given, labels)
                other = jax_jit(*given, labels)
                name = np.dtype(dtype).name
                found[name] = _compare(hand, other, name, tolerance)
                if name == "float64":
                    seeds.append(_update(loss, *given, labels, hand[2]))
                    if seed == 0:
                        rows = _rows(hand)
                        pictures = _maps(x, hand)
        checks += found["float64"] + found["float32"]
    return {
        "layers": rows,
        "checks": _largest(checks),
        "updates": seeds,
        "maps": pictures,
    }


def _largest(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns of all seeds' comparisons of one gradient and method the worst."""
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for each in checks:
        kept = worst.setdefault((each["gradient"], each["method"]), each)
        pair = (each["difference"], kept["difference"])
        sizes = [np.inf if size is None else size for size in pair]
        if sizes[0] > sizes[1]:
            worst[each["gradient"], each["method"]] = each
    return list(worst.values())


def _compare(
    hand: tuple[Any, ...], other: tuple[Any, ...], dtype: str, tolerance: float
) -> list[dict[str, Any]]:
    _, (_, flow), grads, dx = hand
    lax_grads, lax_dx, lax_flow, model_grads = other
    method = f"jax.grad of plain lax, {dtype}"
    checks = [check("image", method, dx, lax_dx, tolerance)]
    for name, _ in LAYERS:
        checks.append(check(name, method, flow[name], lax_flow[name], tolerance))
        for part, own in grads.get(name, {}).items():
            key = f"{name} {part}"
            checks += [
                check(key, method, own, lax_grads[name][part], tolerance),
                check(
                    *(key, f"jax.grad of the model, {dtype}", own),
                    *(model_grads[name][part], tolerance),
                ),
            ]
    return checks


def _rows(hand: tuple[Any, ...]) -> list[dict[str, Any]]:
    _, (values, flow), grads, _ = hand
    return [
        {
            "layer": name,
            "shape": list(values[name].shape),
            "value": float(jnp.linalg.norm(values[name])),
            "gradient": float(jnp.linalg.norm(flow[name])),
        }
        | {key: float(jnp.linalg.norm(g)) for key, g in grads.get(name, {}).items()}
        for name, _ in LAYERS
    ]


def _maps(x: np.ndarray, hand: tuple[Any, ...]) -> dict[str, Any]:
    """Returns one channel of one image's values and gradients."""
    _, (values, flow), _, dx = hand
    pairs = {name: (values[name], flow[name]) for name in DRAWN[1:]}
    pairs["image"] = (x, dx)
    maps = {}
    for name in DRAWN:
        value, gradient = (np.asarray(each)[0] for each in pairs[name])
        channel = int(np.abs(gradient).sum(axis=(0, 1)).argmax())
        strongest = float(np.abs(gradient[..., channel]).max()) or 1.0
        maps[name] = {
            "value": packed(value[..., channel]),
            "gradient": packed(gradient[..., channel] / strongest),
        }
    return maps


def _loss(model: Any, params: Tree, x: jax.Array, labels: Any) -> jax.Array:
    logits = model.apply({"params": params}, x)
    return K.softmax_cross_entropy(logits, labels).mean()


def _update(
    loss: Callable[..., Any], params: Tree, x: jax.Array, labels: Any, grads: Tree
) -> dict[str, Any]:
    """Returns the loss before one step of SGD by these gradients, and after it."""
    after = {}
    for rate in RATES:
        moved = jax.tree.map(lambda p, g, r=rate: p - r * g, params, grads)
        after[str(rate)] = float(loss(moved, x, labels))
    square = sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
    before = float(loss(params, x, labels))
    return {"before": before, "after": after, "squared_norm": square}


def sentences(found: Mapping[str, Any]) -> Sequence[str]:
    """Returns whether all layers agree, and what one update does."""
    updates = found["updates"]
    said = verdict(
        f"LeNet by hand, layer by layer, the worst of {count(len(updates), 'seed')}",
        found["checks"],
    )
    for rate in RATES:
        change = [each["after"][str(rate)] - each["before"] for each in updates]
        first = [-rate * each["squared_norm"] for each in updates]
        said.append(
            f"One step of SGD at a rate of {rate:g} changes the loss on its own batch "
            f"by {with_interval(change, '+.4f')}; -rate times the squared norm of the "
            f"gradient, to first order, is {with_interval(first, '+.4f')}."
        )
    return said


def show(found: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the maps, the layers and the updates."""
    maps = [
        picture(
            [grey(unpacked(each["value"])), signed(unpacked(each["gradient"]))],
            name,
            "value, gradient",
        )
        for name, each in found["maps"].items()
    ]
    return [
        html.Paragraph(
            "One image and the channel with the strongest gradient: above, the values; "
            "below, the gradient of the loss by them (red raises the loss), each map "
            "on its own scale."
        ),
        html.Pictures(maps),
        _layers_table(found),
        _updates_table(found),
    ]


def _layers_table(found: Mapping[str, Any]) -> table.Table:
    rows = []
    for row in found["layers"]:
        names = (row["layer"], f"{row['layer']} kernel", f"{row['layer']} bias")
        own = [c for c in found["checks"] if c["gradient"] in names]
        shown = row | {"shape": "x".join(map(str, row["shape"]))}
        for dtype in ("float64", "float32"):
            differences = [c["difference"] for c in own if c["method"].endswith(dtype)]
            shown[dtype] = None if None in differences else max(differences)
        rows.append(shown | {"verdict": "agrees" if all(map(agrees, own)) else "WRONG"})
    form = ("", ".3g")
    return table.Table(
        "LeNet, layer by layer",
        [
            table.Column("layer", "Layer"),
            table.Column("shape", "Output"),
            table.Column("value", "Values", *form, note="Norm of the output, seed 0."),
            table.Column("gradient", "Gradient", *form, note="Norm of dL/d output."),
            table.Column("kernel", "dw", *form, note="Norm of the filter's gradient."),
            table.Column("bias", "db", *form, note="Norm of the bias's gradient."),
            table.Column(
                *("float64", "float64", "", ".1e"),
                note="Largest difference of the layer's gradients from jax.grad, over "
                "all seeds, relative to the largest entry.",
            ),
            table.Column("float32", "float32", "", ".1e", note="The same in float32."),
            table.Column("verdict", "Verdict"),
        ],
        rows,
        [f"Agreement is up to {EXACT:.0e} in float64, {FLOAT32:.0e} in float32."],
    )


def _updates_table(found: Mapping[str, Any]) -> table.Table:
    updates = found["updates"]
    before = student_interval([each["before"] for each in updates])
    return table.Table(
        "One step of SGD",
        [
            table.Column("rate", "Rate"),
            table.Column("before", "Loss before", "", ".4f"),
            table.Column("after", "Loss after", "", ".4f"),
        ],
        [
            {
                "rate": f"{rate:g}",
                "before": before,
                "after": student_interval([u["after"][str(rate)] for u in updates]),
            }
            for rate in RATES
        ],
        [f"Means and 95 % intervals over {count(len(updates), 'seed')}, same batch."],
    )


LENET = Measurement(
    "by_hand", measure, show, sentences, cost=2e10, failures=wrong(sentences)
)
