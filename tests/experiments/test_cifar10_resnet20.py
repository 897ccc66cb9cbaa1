"""The command line of the CIFAR-10 experiment."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*options):
    return subprocess.run(
        [sys.executable, "experiments/cifar10_resnet20.py", *options],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_unknown_option_exits_with_2_and_names_the_nearest():
    done = run("--learnin-rate", "0.1")
    assert done.returncode == 2
    assert "Unrecognized options: --learnin-rate" in done.stderr
    assert "--learning-rate" in done.stderr


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--epoch", "3"], "--epochs"),
        (["--epochs", "three"], "int"),
        (["--optimizer", "sdg"], "'sgd'"),
    ],
)
def test_a_wrong_option_says_what_was_meant(capsys, options, hint):
    path = ROOT / "experiments" / "cifar10_resnet20.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    experiment = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(experiment)
    with pytest.raises(SystemExit) as error:
        experiment.main(experiment.CONFIG, experiment.__doc__, options)
    assert error.value.code == 2
    assert hint in capsys.readouterr().err


def test_a_missing_dataset_exits_with_one_sentence(tmp_path):
    done = run("--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"cnn-jax prepare cifar10 --from PATH --data-dir {tmp_path}" in done.stderr
    assert not (tmp_path / "run").exists()
