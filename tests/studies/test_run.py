"""A whole study on the digits, small: its runs, its resume, its files."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import pytest
from helpers.browser import WIDTHS, assert_pages_fit, needs_chromium
from helpers.page import Page

from cnn_jax import load_pretrained
from cnn_jax.checkpoint import ResumeRefusedError
from cnn_jax.data import load_dataset, normalize
from cnn_jax.report.environment import Environment
from cnn_jax.studies import StudyConfig, page, run_study

pytestmark = pytest.mark.slow

SEEDS = 2


def run(study, directory, **fields):
    return run_study(study, StudyConfig(run_dir=str(directory), seeds=SEEDS, **fields))


def runs_of(results, variant):
    return [run for run in results["runs"] if run["variant"] == variant]


@pytest.fixture(scope="module")
def directory(study, tmp_path_factory):
    """The directory of the whole study, finished."""
    path = tmp_path_factory.mktemp("study")
    run(study, path)
    return path


@pytest.fixture(scope="module")
def results(directory):
    return json.loads((directory / "results.json").read_text())


@pytest.fixture
def copy(directory, tmp_path):
    """A copy that may be changed, in the place of the original."""
    kept = tmp_path / "kept"
    shutil.copytree(directory, kept)
    yield directory
    shutil.rmtree(directory)
    shutil.copytree(kept, directory)


def test_every_variant_is_trained_with_every_seed(results):
    names = ("linear", "hidden", "linear, half", "overflowing", "stopped")
    assert [(run["variant"], run["seed"]) for run in results["runs"]] == [
        (name, seed) for name in names for seed in range(SEEDS)
    ]
    whole, half = runs_of(results, "linear")[0], runs_of(results, "linear, half")[0]
    assert (whole["train_examples"], half["train_examples"]) == (200, 100)
    # As many steps: half of the examples, twice as often.
    assert (whole["epochs_run"], half["epochs_run"]) == (2, 4)
    assert whole["gap"] == whole["train_accuracy"] - whole["test_accuracy"]
    assert whole["history"][-1]["test_accuracy"] == whole["test_accuracy"]


def test_the_training_score_is_that_of_the_training_examples(study, directory, results):
    train = load_dataset("digits", "train").take_per_class(20)
    model = study.panels[0].variants[0].model(num_classes=10, dtype="float32")
    variables, _ = load_pretrained(model, directory / "runs" / "linear" / "seed0")
    x = normalize(train.images, *train.channel_statistics)
    guesses = jnp.argmax(model.apply(variables, x), axis=1)
    expected = float(jnp.mean(guesses == train.labels))
    assert runs_of(results, "linear")[0]["train_accuracy"] == pytest.approx(expected)


def test_a_study_that_is_resumed_trains_what_is_missing(study, copy, results, calls):
    kept = copy / "runs" / "linear" / "seed0" / "study.json"
    written = kept.stat().st_mtime_ns
    shutil.rmtree(copy / "runs" / "hidden" / "seed1")
    calls.clear()
    again = run(study, copy, panel=("networks",), resume=True)
    assert kept.stat().st_mtime_ns == written
    assert calls == []
    before, after = (runs_of(found, "hidden")[1] for found in (results, again))
    same = ("test_accuracy", "train_loss", "history")
    assert [before[key] for key in same] == [after[key] for key in same]
    assert again["panels"] == ["networks"]


def test_a_study_is_continued_by_its_own_command_alone(study, copy):
    with pytest.raises(FileExistsError, match="already holds a study"):
        run(study, copy)
    with pytest.raises(ResumeRefusedError, match="epochs"):
        run(study, copy, epochs=1, resume=True)


def test_a_run_whose_loss_is_not_finite_is_said_and_in_no_mean(study, results):
    assert all("failed_at_step" in run for run in runs_of(results, "overflowing"))
    assert len(page.failures(study, results)) == SEEDS
    sentence = results["found"]["failures"]["sentences"][0]
    assert "The loss of overflowing was not finite with 2 seeds." in sentence
    # What is measured is measured of the runs that finished.
    assert results["measurements"]["failures"]["count"]["runs"] == SEEDS


def test_early_stopping_holds_out_the_same_examples_for_every_seed(directory, results):
    for each in runs_of(results, "stopped"):
        assert each["train_examples"] == 160
        assert each["epochs_run"] < 4
    fingerprints = {
        json.loads(path.read_text())["dataset"]["validation"]
        for path in directory.glob("runs/stopped/*/config.json")
    }
    assert len(fingerprints) == 1


def test_the_page_and_the_summary_say_what_was_found(directory, results):
    text = (directory / "report.html").read_text()
    shown = "".join(Page(text).texts)
    summary = (directory / "summary.md").read_text()
    for found in results["found"].values():
        for sentence in found["sentences"]:
            assert sentence in shown
            assert f"- {sentence}" in summary
    assert "200 examples shown" in shown
    assert "Trained on 200 examples of digits for 2 epochs with 2 seeds" in summary
    assert "## Networks" in summary
    assert str(directory) not in text


def test_the_page_follows_from_the_results_alone(study, directory, results):
    assert page.tables_in_json(study, results) == results["found"]
    where = Environment(**results["environment"])
    expected = (directory / "report.html").read_text()
    assert page.render(study, results, where) == expected


def test_a_measurement_that_fails_is_a_failure_of_the_study(study, results):
    measured = {**results["measurements"], "networks": {"count": {"runs": 0}}}
    assert "No run." in page.failures(study, {**results, "measurements": measured})


def test_a_smoke_run_says_that_its_numbers_mean_nothing(study, tmp_path):
    results = run(study, tmp_path, panel=("networks",), smoke=True)
    assert {run["variant"] for run in results["runs"]} == {"linear", "linear, half"}
    assert "its numbers mean nothing" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"panel": ("depth",)}, "got depth, expected some of networks, failures and"),
        ({"smoke": True, "full": True}, "expected one size at most"),
        ({"seeds": 0}, "seeds: got 0, expected at least 1"),
        ({"epochs": -1}, "epochs: got -1, expected at least 1"),
        ({"train_per_class": -5}, "train_per_class: got -5, expected a number"),
        ({"train_per_class": 2}, "batch_size of 'linear': got 32, expected at most"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    study, tmp_path, fields, message
):
    config = StudyConfig(run_dir=str(tmp_path / "study"), **fields)
    with pytest.raises(ValueError, match=message):
        run_study(study, config)
    assert not (tmp_path / "study").exists()


def test_resume_needs_a_directory(study):
    with pytest.raises(ValueError, match="resume: got no run_dir"):
        run_study(study, StudyConfig(resume=True))
    assert not pathlib.Path("None").exists()


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_in_a_browser(directory, width, tmp_path):
    pages = {"study": directory / "report.html"}
    assert_pages_fit(pages, width, tmp_path, parts="main *")
