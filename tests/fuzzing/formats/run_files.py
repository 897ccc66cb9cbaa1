"""The files of a finished run, as its page is made of them; names of classes."""

from __future__ import annotations

import json
import pathlib

from fuzzing.formats import Format
from fuzzing.mutations import of_bytes, of_json, of_lines


def _make(directory: pathlib.Path) -> None:
    from cnn_jax.training import TrainConfig

    test = {"loss": 0.5, "accuracy": 0.75, "num_examples": 64}
    test |= {"calibration_error": 0.03125, "top5_accuracy": 0.875}
    history = [
        {"epoch": number, "step": 4 * number, "train_loss": 2.5 - number}
        | {"train_accuracy": 0.25 * number, "train_skipped_steps": 0}
        | {f"validation_{name}": value for name, value in test.items()}
        | {"learning_rate": 0.125, "seconds": 1.5, "images_per_second": 40.5}
        for number in (1, 2)
    ]
    about = {
        "config": TrainConfig(run_dir="runs/x").to_dict(),
        "dataset": {"train": "abc", "test": "def"},
        "random": {"generator": "threefry2x32", "seed": [1, 2]},
        "versions": {"python": "3.12.1", "jax": "0.10.5"},
    }
    result = {
        "best_epoch": 2,
        "test": test,
        "history": history,
        "stopped_early": False,
        "compile_seconds": 9.0,
        "train_seconds": 3.0,
        "step_seconds_median": 0.25,
        "images_per_second": 40.5,
        "flops_utilization": None,
        "bad_images": [],
        "state_digest": "0123456789",
        "run_dir": "runs/x",
    }
    steps = [
        {"event": "step", "step": step, "epoch": 1 + step // 5, "loss": 1.5}
        | {"accuracy": 0.5, "learning_rate": 0.125}
        for step in range(1, 9)
    ]
    lines = [*steps, *({"event": "epoch", **each} for each in history)]
    (directory / "config.json").write_text(json.dumps(about))
    (directory / "result.json").write_text(json.dumps(result))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text)


def _write_page(directory: pathlib.Path) -> None:
    from cnn_jax.report.run_page import write_run_page

    write_run_page(directory)


def _make_names(directory: pathlib.Path) -> None:
    names = "\n".join(f"class {number}" for number in range(30))
    (directory / "utf8.txt").write_text(names + "\n", encoding="utf-8-sig")
    (directory / "utf16.txt").write_text(names, encoding="utf-16")


def _read_names(directory: pathlib.Path) -> None:
    from cnn_jax.data.class_names import read_class_names

    for path in (directory / "utf8.txt", directory / "utf16.txt"):
        read_class_names(path)


FORMATS = (
    Format(
        "run-page",
        _make,
        _write_page,
        {"*.json": (of_json,), "*.jsonl": (of_lines(of_json),)},
        allowed_imports=("encodings",),  # of JSON in UTF-16 or UTF-32
    ),
    Format(
        "class-names",
        _make_names,
        _read_names,
        {"*": (of_lines(of_bytes),)},
        allowed_imports=("encodings",),
    ),
)
