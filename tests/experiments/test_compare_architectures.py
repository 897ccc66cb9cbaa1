"""The comparison, small: two networks that compile fast, two seeds, one epoch."""

import contextlib
import dataclasses
import html
import importlib.util
import io
import json
import pathlib
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import scipy.stats
from helpers.page import Page as PlainPage

from cnn_jax import create_model
from cnn_jax.checkpoint import ResumeRefusedError
from cnn_jax.files import FileError
from cnn_jax.layers import Dense, abstract_variables
from cnn_jax.models import Family, Variant, registry
from cnn_jax.training import TrainConfig

RECIPE = ("--epochs", "2", "--batch-size", "64")
MODELS = ("--models", "lenet5", "softmax_regression")


class SoftmaxRegression(nn.Module):
    """A single dense layer on the pixels."""

    num_classes: int = 10
    dtype: object = None
    param_dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        """Returns the logits."""
        logits = Dense(self.num_classes, name="head")(x.reshape(len(x), -1))
        return (logits, {}) if endpoints else logits


class OverflowingRegression(SoftmaxRegression):
    """The same, with logits that are infinite after a step or two."""

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        """Returns the logits."""
        logits = 1e30 * super().__call__(x)
        return (logits, {}) if endpoints else logits


FAMILY = Family(
    name="softmax_regression",
    module=SoftmaxRegression,
    paper="Cox, The Regression Analysis of Binary Sequences",
    year=1958,
    url="https://example.org",
    num_classes=10,
    input_shape=(32, 32, 1),
    mean=(0.0,),
    std=(1.0,),
    variants={"softmax_regression": Variant(10_250, 10_240)},
)


OVERFLOWING = dataclasses.replace(
    FAMILY,
    name="overflowing_regression",
    module=OverflowingRegression,
    variants={"overflowing_regression": Variant(10_250, 10_240)},
)


@pytest.fixture(scope="module", autouse=True)
def small_models():
    """Registers two networks for this file's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._FAMILY_OF, "softmax_regression", FAMILY)
        patch.setitem(registry._FAMILY_OF, "overflowing_regression", OVERFLOWING)
        yield


@pytest.fixture(scope="module")
def compare(load_experiment) -> types.ModuleType:
    return load_experiment("compare_architectures")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished comparison: where it is, what it printed and returned."""

    run_dir: pathlib.Path
    status: int
    out: str

    @property
    def page(self) -> str:
        return (self.run_dir / "report.html").read_text("utf-8")

    @property
    def content(self) -> dict:
        return json.loads((self.run_dir / "results.json").read_text("utf-8"))


def start(compare, run_dir: pathlib.Path, *arguments: str) -> Finished:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", "100")
        argv = [*MODELS, *RECIPE, "--run-dir", str(run_dir), *arguments]
        patch.setattr("sys.argv", ["experiments/compare_architectures.py", *argv])
        status = compare.main(argv)
    return Finished(run_dir, status, out.getvalue())


@pytest.fixture(scope="module")
def finished(compare, tmp_path_factory) -> Finished:
    return start(compare, tmp_path_factory.mktemp("runs") / "first", "--seeds", "2")


class Page(PlainPage):
    """Collects the rows of every table's body, too."""

    def __init__(self, text: str):
        self.tables = []
        super().__init__(text)

    @property
    def num_charts(self) -> int:
        """The number of SVG pictures."""
        return self.tags.count("svg")

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        if tag == "tbody":
            self.tables.append([])
        if "tbody" in self.open and tag == "tr":
            self.tables[-1].append([])
        if "tbody" in self.open and tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        super().handle_data(data)
        if "tbody" in self.open and {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.mark.slow
def test_it_ends_by_saying_where_the_report_is(finished):
    assert finished.status == 0
    last = finished.out.splitlines()[-1]
    assert last == f"Report: {finished.run_dir / 'report.html'}"
    assert finished.page.startswith("<!DOCTYPE html>")
    progress = [line for line in finished.out.splitlines() if line.startswith("[")]
    assert [line[:5] for line in progress] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert ["left" in line for line in progress] == [True, True, True, False]


@pytest.mark.slow
def test_each_run_has_a_page_of_its_own(finished):
    pages = sorted((finished.run_dir / "runs").glob("*/*/report.html"))
    assert len(pages) == len(list((finished.run_dir / "runs").glob("*/*/result.json")))
    assert "lenet5 on digits" in pages[0].read_text("utf-8")


@pytest.mark.slow
def test_page_terminal_and_json_show_the_same_numbers(finished):
    texts = finished.content["table"]["texts"]
    page = Page(finished.page)
    assert page.tables[0] == texts
    for row in texts:
        line = next(
            line for line in finished.out.splitlines() if line.startswith(row[0] + " ")
        )
        assert re.split(r"\s{2,}", line.strip()) == row
    summary = finished.content["summary"]
    assert html.escape(summary) in finished.page
    assert summary in " ".join(finished.out.split())


@pytest.mark.slow
def test_page_is_self_contained(finished):
    page = Page(finished.page)
    assert page.num_charts == 4
    loaded = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith("#") for value in loaded)
    assert "http" not in finished.page
    assert "@import" not in finished.page
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.slow
def test_nothing_says_where_it_was_made(finished):
    for text in (finished.page, json.dumps(finished.content)):
        assert str(finished.run_dir.parent) not in text
    assert "--seeds 2" in finished.content["command"]
    assert "--seeds 2" in finished.page


@pytest.mark.slow
def test_numbers_follow_from_the_runs(finished):
    content = finished.content
    rows = {row["model"]: row for row in content["table"]["rows"]}
    for model in ("lenet5", "softmax_regression"):
        runs = [run for run in content["runs"] if run["model"] == model]
        accuracies = [run["test"]["accuracy"] for run in runs]
        low, high = scipy.stats.t.interval(
            0.95, 1, loc=sum(accuracies) / 2, scale=scipy.stats.sem(accuracies)
        )
        assert rows[model]["test_accuracy"]["low"] == pytest.approx(low)
        assert rows[model]["test_accuracy"]["high"] == pytest.approx(high)
        assert rows[model]["train_seconds"] == pytest.approx(
            sum(run["train_seconds"] for run in runs) / 2
        )
        variables = abstract_variables(
            create_model(model), jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
        )
        counted = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert rows[model]["parameters"] == counted
        assert rows[model]["step_memory"] > 4 * counted
    assert min(accuracies) > 0.3


@pytest.mark.slow
def test_seeds_differ_and_share_one_compilation(finished):
    runs = finished.content["runs"]
    assert [(run["model"], run["seed"]) for run in runs] == [
        ("lenet5", 0),
        ("lenet5", 1),
        ("softmax_regression", 0),
        ("softmax_regression", 1),
    ]
    first, second = runs[:2]
    assert first["state_digest"] != second["state_digest"]
    assert first["compile_seconds"] == second["compile_seconds"] > 0


@pytest.mark.slow
def test_early_stopping_never_sees_the_test_split(finished):
    sizes = {
        name: split["num_examples"]
        for name, split in finished.content["dataset"].items()
    }
    assert sizes["train"] + sizes["validation"] + sizes["test"] == 1797
    assert sizes["validation"] == pytest.approx(144, abs=5)
    for run in finished.content["runs"]:
        validation = [entry["validation_accuracy"] for entry in run["history"]]
        assert run["best_epoch"] == 1 + validation.index(max(validation))
        chosen = run["history"][run["best_epoch"] - 1]
        assert run["test"]["accuracy"] == pytest.approx(chosen["test_accuracy"])
        assert run["test"]["num_examples"] == sizes["test"]


@pytest.mark.slow
def test_resume_keeps_finished_runs(compare, finished, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a finished run was trained again")

    before = finished.content
    monkeypatch.setattr(compare, "fit", refuse)
    again = start(compare, finished.run_dir, "--seeds", "2", "--resume")
    assert again.status == 0
    assert again.out.count(", kept\n") == 4
    assert again.content["table"] == before["table"]
    assert again.content["runs"] == before["runs"]


def test_the_result_of_another_run_is_not_kept(compare, tmp_path):
    split = types.SimpleNamespace(fingerprint="of the data")
    config = TrainConfig(run_dir=str(tmp_path), seed=3)
    described = {"config": config.to_dict(), "dataset": {"test": "of the data"}}
    assert not compare._is_finished(config, {"test": split})
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "result.json").write_text("{}")
    assert compare._is_finished(config, {"test": split})
    other = dataclasses.replace(config, seed=4)
    with pytest.raises(ResumeRefusedError, match="seed: saved 3, now 4"):
        compare._is_finished(other, {"test": split})
    split.fingerprint = "of other data"
    with pytest.raises(ResumeRefusedError, match="test: saved 'of the data'"):
        compare._is_finished(config, {"test": split})


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": 3}', "[" * 100_000])
def test_a_damaged_run_is_one_sentence(compare, tmp_path, content):
    config = TrainConfig(run_dir=str(tmp_path))
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(FileError, match=rf"^{tmp_path}(/config\.json)?: got "):
        compare._is_finished(config, {})


@pytest.mark.slow
def test_resume_with_another_recipe_is_refused(compare, finished, capsys):
    arguments = ("--seeds", "2", "--resume", "--learning-rate", "0.07")
    assert start(compare, finished.run_dir, *arguments).status == 2
    error = capsys.readouterr().err
    assert "made with another config:\n  learning_rate: saved" in error
    assert "now 0.07" in error


@pytest.mark.slow
def test_a_directory_with_a_comparison_is_not_overwritten(compare, finished, capsys):
    assert start(compare, finished.run_dir, "--seeds", "2").status == 2
    assert "already holds a comparison" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "resnet21"], ["unknown name 'resnet21'", "'resnet20'"]),
        (["--models", "lenet5", "lenet5"], ["models: got", "all different"]),
        (["--seeds", "0"], ["seeds: got 0"]),
        (["--batch-size", "30"], ["batch_size: got 30", "24 or 32"]),
        (["--epochs", "0"], ["epochs: got 0"]),
        (["--validation-fraction", "0"], ["validation_fraction: got 0"]),
        (["--dataset", "digit", "--data-dir", "."], ["dataset 'digit'", "'digits'"]),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    compare, tmp_path, capsys, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    found = start(compare, tmp_path / "runs", *arguments)
    assert (found.status, found.out) == (2, "")
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert not (tmp_path / "runs").exists()


def test_resume_needs_a_directory(compare, capsys):
    assert compare.main(["--resume"]) == 2
    assert "resume: got no run_dir" in capsys.readouterr().err


def test_unknown_field_exits_with_2_and_names_the_nearest(compare, capsys):
    with pytest.raises(SystemExit) as error:
        compare.main(["--epoch", "3"])
    assert error.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_missing_matplotlib_is_said_at_the_start(compare, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "matplotlib" else find(name, *rest),
    )
    assert compare.main(["--epochs", "1"]) == 2
    assert "pip install 'cnn_jax[report]'" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_reported_and_the_rest_goes_on(compare, tmp_path):
    arguments = ("--models", "overflowing_regression", "--seeds", "2")
    found = start(compare, tmp_path / "runs", *arguments)
    assert found.status == 1
    assert found.out.count("failed at step") == 2
    assert len(found.content["failures"]) == 2
    assert found.content["table"]["rows"][0]["test_accuracy"] is None
    assert "Not finished: overflowing_regression, seed 1" in found.page
    assert found.out.splitlines()[-1].startswith("Report: ")


def results_of(compare, accuracies: dict[str, list[float]]):
    """Results with given test accuracies; only what the summary reads."""
    runs = [
        compare.Run(model, seed, {"test": {"accuracy": value, "num_examples": 100}})
        for model, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    config = compare.Comparison(
        models=tuple(accuracies), seeds=len(next(iter(accuracies.values())))
    )
    counts = types.SimpleNamespace(parameters=10, macs=1_000_000)
    shape = types.SimpleNamespace(image_shape=(32, 32, 1))
    summaries = dict.fromkeys(accuracies, counts)
    return compare.Results(config, {"train": shape}, summaries, runs, [], "", None)


def test_summary_is_computed_from_the_numbers(compare):
    apart = results_of(compare, {"a": [0.8, 0.801], "b": [0.9, 0.902]})
    text = compare.summarize_results(apart)
    assert "b was the most accurate of 2 networks: 90.1 ± 1.3 %" in text
    assert "No other network's 95 % interval reaches into its own." in text
    assert "fewest" not in text
    near = results_of(compare, {"a": [0.8, 0.9], "b": [0.85, 0.87], "c": [0.1, 0.11]})
    text = compare.summarize_results(near)
    assert "b was the most accurate of 3 networks" in text
    assert "overlaps with that of a, so" in text
    single = compare.summarize_results(results_of(compare, {"a": [0.95]}))
    assert "a reached 95.0 (88.8-97.8) %" in single


def test_curves_end_where_the_first_seed_stopped(compare):
    results = results_of(compare, {"a": [0.8, 0.9]})
    lengths = (3, 2)
    for run, length in zip(results.runs, lengths, strict=True):
        run.result["history"] = [{"train_loss": run.seed + 2.0}] * length
    curve = compare._curve(results, "a", "train_loss")
    assert curve.x == [1, 2]
    assert [value.mean for value in curve.values] == [2.5, 2.5]
    assert curve.values[0].num_samples == 2
