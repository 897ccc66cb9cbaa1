"""The page of a run says what its files say, and nothing of this machine."""

import json
import math
import os
import pathlib
import re
import sys

import pytest
from helpers.browser import WIDTHS, assert_pages_fit, needs_chromium
from helpers.full_disk import no_space_for
from helpers.page import EVIL
from helpers.page import Page as PlainPage

from cnn_jax.checkpoint import DirectoryInUseError
from cnn_jax.checkpoint.lock import DirectoryLock
from cnn_jax.files import FileError
from cnn_jax.report.learning_curves import MAX_POINTS
from cnn_jax.report.run_page import write_run_page
from cnn_jax.training import TrainConfig


class Page(PlainPage):
    """Collects the rows of tables, too."""

    def __init__(self, text: str):
        self.rows, self.raw = [], text
        super().__init__(text)

    @property
    def text(self) -> str:
        """All that is visible."""
        return " ".join(self.texts)

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data):
        super().handle_data(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        """Returns the cells behind a row's name."""
        (cells,) = (cells for name_, *cells in self.rows if name_ == name)
        return cells

    def fact(self, name: str) -> str:
        """Returns the value of a name in a list of definitions."""
        return re.search(rf"<dt>{re.escape(name)}</dt><dd>(.*?)</dd>", self.raw)[1]


def epoch(number: int, **changes) -> dict:
    return {
        "epoch": number,
        "step": 10 * number,
        "train_loss": 2.0 / number,
        "train_accuracy": 1 - 0.5 / number,
        "test_loss": 2.5 / number,
        "test_accuracy": 1 - 0.75 / number,
        "test_calibration_error": 0.125,
        "test_top5_accuracy": 0.875,
        "learning_rate": 0.25,
        "seconds": 12.5,
        "images_per_second": 1234.5,
        "waiting_share": 0.0,
        **changes,
    }


def write_files(run_dir, history, *, steps=None, config=None, result=None):
    """Writes what a finished run leaves behind; returns the directory."""
    run_dir.mkdir(exist_ok=True)
    about = {
        "config": TrainConfig(run_dir=str(run_dir), **(config or {})).to_dict(),
        "dataset": {"train": "abc", "test": "def"},
        "random": {"generator": "threefry2x32", "seed": [1, 2]},
        "versions": {"python": "3.12.1", "jax": "0.10.5"},
    }
    last = history[-1]
    content = {
        "best_epoch": last["epoch"],
        "test": {
            "loss": 0.5,
            "accuracy": 0.8686,
            "calibration_error": 0.03125,
            "num_examples": 10_000,
            "top5_accuracy": 0.9942,
        },
        "history": history,
        "stopped_early": False,
        "compile_seconds": 9.0,
        "train_seconds": 1915.0,
        "step_seconds_median": 0.25,
        "images_per_second": 390.6,
        "flops_utilization": None,
        "bad_images": [],
        "state_digest": "0123456789",
        "run_dir": str(run_dir),
        **(result or {}),
    }
    if steps is None:
        steps = [
            {"step": each["step"], "epoch": each["epoch"], "loss": 1.5, "accuracy": 0.5}
            | {"learning_rate": 0.125}
            for each in history
        ]
    lines = [{"event": "step", **each} for each in steps]
    lines += [{"event": "epoch", **each} for each in history]
    (run_dir / "config.json").write_text(json.dumps(about))
    (run_dir / "result.json").write_text(json.dumps(content))
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return run_dir


def page_of(run_dir, *arguments, **changes) -> Page:
    path = write_run_page(write_files(run_dir, *arguments, **changes))
    assert path == run_dir / "report.html"
    return Page(path.read_text("utf-8"))


def test_its_numbers_are_those_of_the_files(tmp_path):
    config = {"model": "resnet20", "dataset": "cifar10", "learning_rate": 0.25}
    page = page_of(tmp_path / "run", [epoch(1), epoch(2)], config=config)
    assert "<h1>resnet20 on cifar10</h1>" in page.raw
    assert (
        "On cifar10, resnet20 reached 86.86 % on 10,000 test examples with the weights "
        "of epoch 2 of 2; training took 32 min. That epoch is the last"
    ) in page.text
    assert page.row("Training") == ["75.00", "-", "1.0000", "-", "-"]
    assert page.row("Test") == [
        "86.86 (86.18-87.51)",
        "99.42",
        "0.5000",
        "3.1",
        "10,000",
    ]
    assert page.row("1") == [
        *("2.0000", "50.00", "2.5000", "25.00", "87.50", "12.5"),
        *("0.250", "12.5", "1,234"),
    ]
    assert page.row("2")[:4] == ["1.0000", "75.00", "1.2500", "62.50"]
    assert page.tags.count("svg") == 4
    for ends in ("training 1; test 1.25", "training 75; test 62.5"):
        assert f"by epoch. Last values: {ends}." in page.text
    assert "Last values: loss 1.5." in page.text
    assert page.fact("Versions") == "python 3.12.1, jax 0.10.5"
    assert page.fact("Fingerprints") == "train abc, test def"


def test_scores_of_the_test_split_are_shown_if_they_are_the_results(tmp_path):
    run_dir = write_files(tmp_path / "run", [epoch(1)])
    counts = {"index": 0, "name": "a cat", "num_examples": 4, "num_correct": 3}
    scores = {
        "state_digest": "0123456789",
        "bins": [{"low": 0.9, "high": 1.0, "accuracy": 0.75, "num_examples": 4}],
        "class_names": ["a cat", "a dog"],
        "classes": [counts],
        "confusions": [{"label": 0, "predicted": 1, "num_examples": 1}],
        "mistakes": [],
    }
    (run_dir / "scores.json").write_text(json.dumps(scores))
    page = Page(write_run_page(run_dir).read_text())
    assert "Confusions on the test split" in page.text
    assert ["a cat", "4", "75.0 (30.1-95.4)"] in page.rows
    assert page.tags.count("svg") == 6
    changed = scores | {"state_digest": "of other weights"}
    (run_dir / "scores.json").write_text(json.dumps(changed))
    assert "Confusions" not in Page(write_run_page(run_dir).read_text()).text
    (run_dir / "scores.json").write_text('{"state_digest": "0123456789"}')
    with pytest.raises(FileError, match="the files of a finished run"):
        write_run_page(run_dir)


def test_it_lists_the_fields_that_differ_and_folds_the_others(tmp_path):
    config = {"learning_rate": 0.25, "decayed_parameters": ("bias",)}
    page = page_of(tmp_path / "run", [epoch(1)], config=config)
    assert page.row("learning_rate") == ["0.25", str(TrainConfig().learning_rate)]
    assert page.row("decayed_parameters") == ["['bias']", "['(^|/)kernel$']"]
    assert not any(row[0] == "optimizer" for row in page.rows)
    assert page.fact("optimizer") == "sgd"
    folded = page.raw[page.raw.index("fields as TrainConfig has them") :]
    assert "<dt>optimizer</dt>" in folded[: folded.index("</details>")]


def test_a_configuration_of_defaults_has_no_table(tmp_path):
    page = page_of(tmp_path / "run", [epoch(1)])
    assert "Every field has its default." in page.text
    assert ["Field", "This run", "Default"] not in page.rows


def test_it_loads_nothing_and_everything_is_escaped(tmp_path):
    run_dir = write_files(tmp_path / "run", [epoch(1), epoch(2)])
    about = json.loads((run_dir / "config.json").read_text())
    about["config"] |= dict.fromkeys(("model", "dataset", EVIL), EVIL)
    about["versions"] = about["dataset"] = {EVIL: EVIL}
    about["random"]["generator"] = EVIL
    (run_dir / "config.json").write_text(json.dumps(about))
    page = Page(write_run_page(run_dir).read_text("utf-8"))
    assert page.row(EVIL) == [EVIL, "-"]
    assert not {"script", "link", "img"} & set(page.tags)
    references = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith("#") for value in references)
    assert "http" not in page.raw.replace("https://example.org/x.js", "")
    assert "@import" not in page.raw


@pytest.mark.parametrize("kind", ["", "folder:"])
def test_it_tells_no_paths_of_the_machine(tmp_path, kind):
    place = tmp_path / "lr=0.1" / "secret:home"
    config = {
        "data_dir": f"{place}/tfds",
        "dataset": f"{kind}{place}/flowers",
        "pretrained": f"{place}/weights.npz",
        "compilation_cache": f"{place}/programs",
        "checkpoint_dir": "gs://secret/run",
        "coordinator_address": "secret-host:1234",
    }
    page = page_of(tmp_path / "run", [epoch(1)], config=config)
    assert "secret" not in page.raw
    assert str(tmp_path) not in page.raw
    assert f"On {kind}flowers, lenet5 reached" in page.text
    assert page.row("pretrained") == ["weights.npz", "None"]


def test_one_epoch_is_a_page_with_charts(tmp_path):
    page = page_of(tmp_path / "run", [epoch(1)])
    assert "epoch 1 of 1" in page.text
    assert page.tags.count("svg") == 4


def test_without_matplotlib_the_page_says_what_brings_the_charts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = page_of(tmp_path / "run", [epoch(1), epoch(2)])
    assert "svg" not in page.tags
    assert "pip install 'cnn_jax[report]'" in page.text
    assert page.row("2")[0] == "1.0000"


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_numbers_that_are_not_finite_are_left_out(tmp_path, value):
    history = [
        epoch(1),
        epoch(2, train_loss=value, test_loss=value),
        epoch(3),
        epoch(4, train_loss=value),
    ]
    steps = [
        {"step": 1, "epoch": 1, "loss": value, "learning_rate": 0.5},
        {"step": 2, "epoch": 1, "loss": 7.5, "learning_rate": 0.5},
    ]
    page = page_of(
        tmp_path / "run", history, steps=steps, result={"test": bad_test(value)}
    )
    assert page.row("2")[:4] == ["-", "75.00", "-", "62.50"]
    assert "Last values: training 0.667; test 0.625." in page.text
    assert "Epochs without a finite number have no point." in page.text
    assert "From the 1 line of metrics.jsonl" in page.text
    assert page.row("Test") == ["10.00 (9.43-10.60)", "10,000"]
    assert not re.search(r"\b(nan|inf)\b", page.raw, re.IGNORECASE)


def bad_test(value):
    return {
        "loss": value,
        "accuracy": 0.1,
        "calibration_error": value,
        "num_examples": 10_000,
    }


def test_where_no_number_is_finite_there_is_no_chart(tmp_path):
    missing = dict.fromkeys(epoch(1), math.nan)
    history = [{**missing, "epoch": number} for number in (1, 2)]
    page = page_of(tmp_path / "run", history, steps=[])
    assert "No epoch and no step has a finite number to draw." in page.text
    assert page.row("2") == []


def test_a_history_may_lack_fields(tmp_path):
    history = [epoch(1), {"epoch": 2, "test_accuracy": 0.5}, {"epoch": 3}]
    page = page_of(tmp_path / "run", history, steps=[])
    assert page.row("2") == ["-", "-", "-", "50.00", *"-----"]
    assert page.row("3") == [*"---------"]
    assert page.tags.count("svg") == 2
    # The result is of an epoch of which nothing else is known.
    assert not any(row[0] == "Training" for row in page.rows)


def test_a_run_that_stopped_early_says_which_epoch_counts(tmp_path):
    history = [
        epoch(number, validation_loss=0.5, validation_accuracy=accuracy)
        for number, accuracy in ((1, 0.5), (2, 0.75), (3, 0.625))
    ]
    page = page_of(
        tmp_path / "run",
        history,
        config={"epochs": 30, "patience": 1, "validation_fraction": 0.1},
        result={"best_epoch": 2, "stopped_early": True},
    )
    assert "with the weights of epoch 2 of 3; training" in page.text
    assert "That epoch's validation accuracy is the best of all." in page.text
    assert "stopped early, before epoch 4 of 30" in page.text
    assert page.row("Validation") == ["75.00", "-", "0.5000", "-", "-"]
    assert "<strong>75.00</strong>" in page.raw
    assert page.raw.count("<strong>") == 1
    assert "training 83.3; validation 62.5; test 75." in page.text


def test_columns_of_zeros_are_left_out_until_there_is_something_to_tell(tmp_path):
    def heads(**changes):
        page = page_of(tmp_path / "run", [epoch(1), epoch(2, **changes)])
        (heads,) = (row for row in page.rows if row[0] == "Epoch")
        return " ".join(heads)

    assert not re.search("Waiting|Skipped", heads(train_skipped_steps=0))
    assert re.search(
        "Skipped.*Waiting", heads(train_skipped_steps=1, waiting_share=0.5)
    )


def test_a_long_run_has_few_points_in_its_curves(tmp_path):
    steps = [
        {"step": step, "epoch": 1, "loss": float(step % 2), "learning_rate": 1.0}
        for step in range(1, 10 * MAX_POINTS + 2)
    ]
    page = page_of(tmp_path / "run", [epoch(1)], steps=steps)
    assert f"From the {len(steps):,} lines" in page.text
    assert "each point is the mean of up to 11." in page.text
    assert len(page.raw) < 100_000


def test_a_finished_run_that_is_resumed_has_the_same_page(tmp_path):
    history = [epoch(1), epoch(2)]
    first = page_of(tmp_path / "run", history)
    again = page_of(
        tmp_path / "run",
        history,
        config={"resume": True},
        result={"compile_seconds": 1.0, "step_seconds_median": None},
    )
    assert again.raw == first.raw


def test_a_full_disk_leaves_the_old_page_and_is_named(tmp_path):
    run_dir = write_files(tmp_path / "run", [epoch(1)])
    old = write_run_page(run_dir).read_text("utf-8")
    write_files(run_dir, [epoch(1), epoch(2)])
    with (
        no_space_for("report.html"),
        pytest.raises(OSError, match=r"No space left on device: .*/report.html'"),
    ):
        write_run_page(run_dir)
    assert (run_dir / "report.html").read_text("utf-8") == old
    assert {path.name for path in run_dir.iterdir()} == {
        *("config.json", "metrics.jsonl", "result.json", "report.html")
    }


def test_no_page_is_written_where_a_run_writes(tmp_path):
    run_dir = write_files(tmp_path / "run", [epoch(1)])
    lock = DirectoryLock(run_dir)
    with pytest.raises(DirectoryInUseError, match="another run writes here"):
        write_run_page(run_dir)
    lock.release()
    write_run_page(run_dir)


def test_a_run_that_is_not_finished_has_no_page(tmp_path):
    run_dir = write_files(tmp_path / "run", [epoch(1)])
    (run_dir / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"run/result\.json"):
        write_run_page(run_dir)
    assert not (run_dir / "report.html").exists()


def test_a_damaged_file_is_named(tmp_path):
    run_dir = write_files(tmp_path / "run", [epoch(1)])
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"event": "st')
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl: got a damaged file \(JSONDec"
    ):
        write_run_page(run_dir)


DEEP = b'{"config":' * 900 + b"1" + b"}" * 900


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("metrics.jsonl", line)
            for line in (b"{}", b"[]", b"3", b"\xff", b"[" * 9999)
        ),
        ("metrics.jsonl", DEEP),
        *(("config.json", text) for text in (b"", b"[]", b"{}", DEEP, b"[" * 100_000)),
        *(("config.json", text) for text in (b'{"config": 5}', b'{"config": {}}')),
        *(("result.json", text) for text in (b"", b"{}", DEEP, b'{"history": 5}')),
        *(("scores.json", text) for text in (b"", b"[]", DEEP)),
        ("scores.json", b'{"state_digest": "0123456789"}'),
    ],
)
def test_files_of_something_else_are_one_sentence(tmp_path, name, content):
    run_dir = write_files(tmp_path / "run", [epoch(1)])
    (run_dir / name).write_bytes(content + b"\n")
    with pytest.raises(FileError, match=rf"^{run_dir}(/{name})?: got "):
        write_run_page(run_dir)
    assert not (run_dir / "report.html").exists()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json"])
def test_a_pipe_in_the_place_of_a_file(tmp_path, name):
    run_dir = write_files(tmp_path / "run", [epoch(1)])
    (run_dir / name).unlink()
    os.mkfifo(run_dir / name)
    with pytest.raises(FileError, match=rf"{name}: got a named pipe"):
        write_run_page(run_dir)


def test_names_that_are_not_utf8_are_written_escaped(tmp_path):
    run_dir = write_files(
        tmp_path / "run", [epoch(1)], config={"dataset": "folder:/caf\udce9"}
    )
    assert r"caf\udce9" in write_run_page(run_dir).read_text("utf-8")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json"])
def test_files_that_an_editor_saved(tmp_path, name):
    path = write_files(tmp_path / "run", [epoch(1)]) / name
    page = write_run_page(tmp_path / "run").read_bytes()
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert write_run_page(tmp_path / "run").read_bytes() == page
    path.write_bytes(text.replace("e", "\xe9").encode("latin-1"))
    with pytest.raises(ValueError, match=rf"run/{name}: got a damaged file .*utf-8"):
        write_run_page(tmp_path / "run")


def test_the_home_directory_may_be_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "run", [epoch(1)])
    assert write_run_page("~/run") == pathlib.Path(tmp_path / "run" / "report.html")


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_in_a_browser(width, tmp_path):
    """A rate of many digits and a long name, too."""
    steps = [
        {"step": step, "epoch": 1, "loss": 1 / step, "accuracy": 0.5}
        | {"learning_rate": 0.000123456789 / step}
        for step in range(1, 40)
    ]
    history = [epoch(number) for number in range(1, 13)]
    config = {"dataset": "folder:" + "photographs-of-plants" * 8}
    run_dir = write_files(tmp_path / "run", history, steps=steps, config=config)
    pages = {"run": write_run_page(run_dir)}
    assert_pages_fit(pages, width, tmp_path, parts="main *")
