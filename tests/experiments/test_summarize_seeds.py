"""Runs that differ in their seed become one summary, and no others do."""

import json
import pathlib

import pytest


@pytest.fixture
def summarize(load_experiment):
    return load_experiment("summarize_seeds")


@pytest.fixture
def leave_run(tmp_path):
    """Writes what a run of one epoch leaves behind; returns its directory."""

    def leave(seed, accuracy, *, jax="1.0", **fields):
        directory = tmp_path / f"run{seed}{''.join(fields)}"
        directory.mkdir()
        config = {"seed": seed, "run_dir": str(directory), "epochs": 2, "resume": False}
        about = {
            "config": {**config, "data_dir": "/home/someone/data", **fields},
            "dataset": {"train": "aa"},
            "versions": {"jax": jax},
        }
        test = {"accuracy": accuracy, "loss": 0.5, "calibration_error": 0.02}
        result = {
            "best_epoch": 2,
            "test": test,
            "history": [
                {"epoch": epoch, "train_accuracy": epoch / 4} for epoch in (1, 2)
            ],
            "train_seconds": 100.0,
            "compile_seconds": 20.0,
            "step_seconds_median": 0.25,
        }
        (directory / "config.json").write_text(json.dumps(about))
        (directory / "result.json").write_text(json.dumps(result))
        return str(directory)

    return leave


def test_the_mean_and_every_seed_are_in_both_files(
    summarize, leave_run, tmp_path, capsys
):
    # By hand: mean 0.81, deviation 0.01, Student's t for 2 degrees of freedom 4.303.
    runs = [leave_run(seed, 0.80 + 0.01 * seed) for seed in (2, 0, 1)]
    out = tmp_path / "results" / "seeds"
    command = ["--title", "Three", "--command", "python x.py", "--hardware", "2 cores."]
    assert summarize.main([*runs, *command, "--out", str(out)]) == 0
    outcome = "Test accuracy 81.00%, mean of 3 seeds (95 %: 78.52% to 83.48%); 6 min"
    assert outcome in capsys.readouterr().out
    page = out.with_suffix(".md").read_text()
    assert page.startswith("# Three\n\n```sh\npython x.py\n```\n\nTest accuracy 81.00%")
    assert "| 1 | 2 | 50.00 | 81.00 | 0.500 | 2.0 | 2.0 | 250 |" in page
    assert page.endswith("2 cores. jax 1.0.\n")
    summary = json.loads(out.with_suffix(".json").read_text())
    assert [row["seed"] for row in summary["seeds"]] == [0, 1, 2]
    assert summary["test_accuracy"]["mean"] == pytest.approx(0.81)
    assert summary["config"] == {"epochs": 2, "data_dir": "data"}
    assert [len(history) for history in summary["histories"]] == [2, 2, 2]


def test_one_seed_has_no_interval(summarize, leave_run, capsys):
    assert summarize.main([leave_run(0, 0.8)]) == 0
    assert "Test accuracy 80.00%, one seed; " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "seeds 0 and 1 differ in epochs"),
        ({"jax": "2.0"}, "seeds 0 and 1 differ in versions"),
    ],
)
def test_other_runs_are_refused(
    summarize, leave_run, capsys, tmp_path, change, message
):
    runs = [leave_run(0, 0.8), leave_run(1, 0.9, **change)]
    assert summarize.main([*runs, "--out", str(tmp_path / "summary")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("summary*"))


def test_a_seed_counts_once_and_a_run_must_be_finished(
    summarize, leave_run, capsys, tmp_path
):
    run = leave_run(0, 0.8)
    assert summarize.main([run, run]) == 2
    assert "expected each once" in capsys.readouterr().err
    assert summarize.main([run, str(tmp_path / "missing")]) == 2
    assert "missing holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"config": 3}', '{"history": [{}]}', "[" * 100_000),
        '{"config": {"seed": "x"}, "dataset": {}, "versions": []}',
    ],
)
def test_files_of_something_else_are_one_sentence(
    summarize, leave_run, capsys, name, content
):
    run = leave_run(0, 0.8)
    pathlib.Path(run, name).write_text(content)
    assert summarize.main([run]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{run} holds no finished run: {run}")
