"""The studies of design and of regularisation: their panels, and small runs of them."""

import json
import pathlib

import jax
import pytest

from cnn_jax import sharding
from cnn_jax.analysis.summary import summarize
from cnn_jax.data import load_dataset
from cnn_jax.report.environment import Environment
from cnn_jax.studies import page
from cnn_jax.studies.training import make_job

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"

STUDIES = ("design_principles", "regularization")


@pytest.fixture(scope="module")
def load_study(load_experiment, experiments_directory):
    def load(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(experiments_directory))
            return load_experiment(name)

    return load


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_can_be_trained(load_study, name, tmp_path, monkeypatch):
    one = sharding.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda: one)
    study = load_study(name).STUDY
    size = study.sizes["default"]
    counts = {"train": size.train_per_class, "test": size.test_per_class}
    splits = {
        split: load_dataset("digits", split).take_per_class(per_class)
        for split, per_class in counts.items()
    }
    for panel in study.panels:
        for variant in panel.variants:
            # Raises if a network or a configuration is invalid.
            job = make_job(variant, size, study.recipe, splits, tmp_path)
            assert job.configs[0].epochs >= size.epochs


@pytest.mark.parametrize("name", ["backpropagation_digits"])
def test_committed_pages_follow_from_the_committed_results(load_study, name):
    study = load_study(name.rsplit("_", 1)[0]).STUDY
    results = json.loads((RESULTS / f"{name}.json").read_text())
    assert page.tables_in_json(study, results) == results["found"]
    where = Environment(**results["environment"])
    assert page.render(study, results, where) == (RESULTS / f"{name}.html").read_text()
    summary = page.summary_in_markdown(study, results, f"{name}.html")
    assert summary == (RESULTS / f"{name}.md").read_text()
    assert page.failures(study, results) == []


@pytest.fixture(scope="module")
def costs(load_study):
    """Parameters and multiply-adds of the networks of a panel, on CIFAR-10's images."""

    def of(panel):
        panels = {
            each.name: each for each in load_study("design_principles").STUDY.panels
        }
        return {
            variant.name: summarize(variant.model(num_classes=10), (32, 32, 3))
            for variant in panels[panel].variants
        }

    return of


def test_bottlenecks_cost_what_their_panel_says(costs):
    found = {name: summary.macs for name, summary in costs("bottlenecks").items()}
    basic = found["basic blocks"]
    assert found["bottlenecks"] < basic / 4
    assert found["bottlenecks, 4x wide"] == pytest.approx(basic, rel=0.35)


def test_scaled_networks_take_twice_the_multiply_adds(costs):
    found = {name: summary.macs for name, summary in costs("scaling").items()}
    base = found.pop("base")
    for name, macs in found.items():
        assert macs == pytest.approx(2 * base, rel=0.12), name


def test_large_filters_have_more_parameters(costs):
    found = {
        name: summary.parameters for name, summary in costs("filter_sizes").items()
    }
    assert found["six 3x3"] < found["three 5x5"] < found["two 7x7"]


def test_separable_convolutions_take_fewer_multiply_adds(costs):
    found = {name: summary.macs for name, summary in costs("separable").items()}
    assert found["separable"] < found["separable, 2x wide"] < found["full"]


@pytest.mark.nightly
def test_a_panel_runs_from_its_command_line(load_study, tmp_path, capsys):
    experiment = load_study("design_principles")
    arguments = ["--smoke", "--panel", "heads", "--run-dir", str(tmp_path / "study")]
    assert experiment.main(experiment.STUDY, arguments) == 0
    assert "4/4" in capsys.readouterr().out
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert len(results["runs"]) == 4
    assert (tmp_path / "study" / "report.html").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("name", STUDIES)
def test_all_panels_run(load_study, name, tmp_path):
    experiment = load_study(name)
    run_dir = tmp_path / "study"
    assert (
        experiment.main(experiment.STUDY, ["--smoke", "--run-dir", str(run_dir)]) == 0
    )
    results = json.loads((run_dir / "results.json").read_text())
    assert list(results["found"]) == [panel.name for panel in experiment.STUDY.panels]
    assert results["measurements"]
