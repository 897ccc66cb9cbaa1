"""The study of efficiency: what it says of rounds, and a small run of its panels."""

import json
import math

import numpy as np
import pytest

from cnn_jax.report.html import Section, render_page


@pytest.fixture(scope="module")
def study(load_experiment, experiments_directory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(experiments_directory))
        yield load_experiment("efficiency")


@pytest.fixture(scope="module")
def timed(study):
    import timed

    return timed


def found(**seconds):
    """Returns what was measured of calls, from their rounds."""
    return {
        name: {"seconds": rounds, "first_seconds": 1.0, "images": 8}
        for name, rounds in seconds.items()
    }


@pytest.mark.parametrize(
    ("slow", "fast", "head"),
    [
        ([2.0, 2.2, 1.8], [1.0, 1.0, 1.0], "Seen: It is so."),
        ([1.0, 1.0, 1.0], [2.0, 2.2, 1.8], "The opposite was seen of: It is so."),
        ([1.0, 1.2, 0.9], [1.1, 1.0, 1.0], "Not told apart: It is so."),
        ([2.0], [1.0], "No verdict on: It is so."),
    ],
)
def test_a_claim_is_judged_by_the_interval_of_the_ratio(timed, slow, fast, head):
    claim = timed.Slower("It is so", "slow", "fast")
    sentence = timed.ratio_sentence(claim, found(slow=slow, fast=fast))
    assert sentence.startswith(head)
    mean = math.exp(np.mean(np.log(np.divide(slow, fast))))
    assert f"is {mean:.3g} times that of fast" in sentence
    assert ("95 % interval" in sentence) == (len(slow) > 1)


def test_a_drift_of_the_machine_falls_on_both(timed):
    """The rounds are paired: each is slower than the one before, by as much."""
    drift = np.array([1.0, 2.0, 4.0, 8.0])
    rounds = found(slow=list(1.1 * drift), fast=list(drift))
    sentence = timed.ratio_sentence(timed.Slower("It is so", "slow", "fast"), rounds)
    assert sentence.startswith("Seen")
    assert "(95 % interval 1.1 to 1.1, 4 rounds)" in sentence


def test_times_of_an_image_are_compared_where_batches_differ(timed):
    rounds = found(one=[1.0, 1.0], many=[2.0, 2.0])
    rounds["many"]["images"] = 64
    claim = timed.Slower("It is so", "one", "many", per_image=True)
    assert "is 4 times that of many for an image" in timed.ratio_sentence(claim, rounds)


def test_what_is_not_there_is_said(timed):
    claim = timed.Slower("PyTorch takes longer", "PyTorch", "ours")
    sentence = timed.ratio_sentence(claim, found(ours=[1.0, 1.0]))
    assert sentence == "No verdict on: PyTorch takes longer. PyTorch was not there."


def test_the_table_has_what_is_known(timed):
    rounds = found(ours=[1.0, 3.0, 2.0], theirs=[4.0, 4.0, 4.0])
    rounds["ours"]["temporaries"] = 5e6
    rounds["theirs"]["images"] = None
    table = timed.times_table("Times", rounds)
    assert [column.key for column in table.columns] == [
        *("call", "median", "low", "high", "first", "speed", "temporaries"),
    ]
    ours, theirs = table.rows
    assert (ours["median"], ours["low"], ours["high"]) == (2.0, 1.5, 2.5)
    assert (ours["speed"], ours["temporaries"]) == (4.0, 5e6)
    assert "speed" not in theirs


def test_of_different_batches_the_smallest_step_is_not_the_best(timed):
    rounds = found(one=[1.0, 1.0], many=[2.0, 2.0])
    assert timed.times_table("Times", rounds).columns[1].best == "lowest"
    rounds["many"]["images"] = 64
    assert timed.times_table("Times", rounds).columns[1].best is None


def test_the_steps_compiled_for_a_tpu_are_those_of_the_records(study):
    (panel,) = [each for each in study.STUDY.panels if each.name == "tpu"]
    (measurement,) = panel.measurements
    measured = measurement.measure(None)
    steps = measured["steps"]
    assert {step["model"] for step in steps} >= {"resnet50", "efficientnet_b0"}
    assert all(0 < step["ratio"] < 1.1 and step["cycles"] > 1e6 for step in steps)
    blocks = measurement.show(measured)
    page = render_page("Steps", "", [Section("Steps", blocks)], kicker="")
    assert all(f"{step['ratio']:.3f}" in page for step in steps)
    assert page.count("steps_tpu.py") == len(measured["commands"])
    assert "nothing of this page ran on a GPU" in page


SQUARE = ("conv", (4, 4, 4, 8), {"w": (3, 3, 8, 8)})
"""A batch as large as its images are wide."""


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", ["square", "dense", "depthwise", "max_pool", "batch_norm"]
)
def test_pytorch_computes_what_the_kernels_compute(study, name):
    layers = study.layers
    if name == "square":
        conv = lambda torch, x, w: torch.conv2d(x, w, padding=1)  # noqa: E731
        calls = layers.layer(*SQUARE, conv, padding="SAME")(False)
    else:
        (made,) = [each for each in study.IMPLEMENTATIONS if each.name == name]
        calls = made.measure.args[0](True)
    y, gradients = calls[layers.OWN].run()
    theirs, others = calls[layers.TORCH].run()
    pairs = [(y, theirs, (0, 2, 3, 1)), (gradients[0], others[0], (0, 2, 3, 1))]
    for own, other in zip(gradients[1:], others[1:], strict=True):
        pairs.append((own, other, (2, 3, 1, 0) if own.ndim == 4 else (0,)))
    for own, other, axes in pairs:
        other = other.detach().numpy().transpose(axes)
        scale = np.abs(own).max()
        np.testing.assert_allclose(own, other, atol=1e-4 * scale, rtol=0)


@pytest.mark.nightly
def test_every_panel_runs(study, tmp_path, capsys):
    run_dir = tmp_path / "study"
    arguments = ["--smoke", "--run-dir", str(run_dir)]
    assert study.main(study.STUDY, arguments) == 0
    capsys.readouterr()
    results = json.loads((run_dir / "results.json").read_text())
    assert list(results["found"]) == [panel.name for panel in study.STUDY.panels]
    measured = results["measurements"]
    for panel in study.STUDY.panels:
        for measurement in panel.measurements:
            rows = measured[panel.name][measurement.name]
            for row in rows.values() if panel.name != "tpu" else ():
                assert all(seconds > 0 for seconds in row["seconds"])
    # Their sizes are known without a clock.
    memory = measured["memory"]
    assert memory["donation"]["donated"]["held"] < memory["donation"]["copied"]["held"]
    assert len(measured["implementations"]["depthwise"]) >= 2
    # No data are used, so none are named.
    assert (run_dir / "summary.md").read_text().startswith("# Where the time goes\n")
    first = (run_dir / "results.json").read_bytes()
    assert study.main(study.STUDY, [*arguments, "--resume"]) == 0
    assert "kept" in capsys.readouterr().out
    again = json.loads((run_dir / "results.json").read_bytes())
    assert again["measurements"] == json.loads(first)["measurements"]
