"""The scores of a run's test split are those that its result has."""

import dataclasses
import json
import pathlib

import pytest
from helpers.full_disk import no_space_for

from cnn_jax.evaluation import of_run
from cnn_jax.evaluation.of_run import write_test_scores
from cnn_jax.report.run_page import write_run_page
from cnn_jax.training.run.fit import fit


def test_scores_are_the_results_and_on_the_page(
    tiny_net, digits, with_run, monkeypatch
):
    train, test = digits
    config, model = with_run(epochs=1), tiny_net()
    result = fit(model, train, test=test, config=config)
    scored, score_split = [], of_run.score_split

    def score_once(*arguments, **options):
        scored[:] = scored or [score_split(*arguments, **options)]
        return scored[0]

    monkeypatch.setattr(of_run, "score_split", score_once)
    run_dir = pathlib.Path(result.run_dir)
    with no_space_for("scores.json"), pytest.raises(OSError, match="No space left"):
        write_test_scores(model, result, test, config)
    assert not (run_dir / "scores.json").exists()
    write_test_scores(model, result, test, config)
    path = run_dir / "scores.json"
    scores = json.loads(path.read_text())
    assert scores["num_examples"] == result.test["num_examples"] == len(test)
    assert scores["accuracy"]["mean"] == result.test["accuracy"]
    assert scores["top5_accuracy"]["mean"] == result.test["top5_accuracy"]
    for name in ("loss", "calibration_error"):
        assert scores[name] == pytest.approx(result.test[name], rel=1e-5)
    assert scores["mistakes"][0]["picture"].startswith("data:image/png;base64,")
    assert "Surest mistakes" in write_run_page(run_dir).read_text()
    # A run that is resumed at its end has them, and makes no other pass.
    before = path.stat().st_mtime_ns
    write_test_scores(None, result, test, config)
    assert path.stat().st_mtime_ns == before
    # A damaged file is written again; a directory may be named from the home.
    whole = path.read_bytes()
    monkeypatch.setenv("HOME", str(run_dir.parent))
    at_home = dataclasses.replace(result, run_dir=f"~/{run_dir.name}")
    for damaged in ("", "[]", json.dumps({"state_digest": result.state_digest})):
        path.write_text(damaged)
        write_test_scores(model, at_home, test, config)
        assert path.read_bytes() == whole
    # Another result has other scores.
    changed = dataclasses.replace(result, state_digest="of other weights")
    write_test_scores(model, changed, test, config)
    assert json.loads(path.read_text())["state_digest"] == "of other weights"


def test_without_a_directory_or_a_test_split_nothing_is_done(
    tiny_net, digits, config, tmp_path
):
    train, test = digits
    result = fit(tiny_net(), train, config=dataclasses.replace(config, epochs=1))
    assert result.test is None
    write_test_scores(None, result, test, config)
    in_directory = dataclasses.replace(result, run_dir=str(tmp_path))
    write_test_scores(None, in_directory, test, config)
    assert list(tmp_path.iterdir()) == []
