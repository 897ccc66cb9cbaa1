"""`cnn-jax train`: from photographs in a folder to a network that classifies them."""

import argparse
import contextlib
import io
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.photographs import CLASSES, write_photographs
from helpers.quick import nightly_except
from PIL import Image

from cnn_jax import cli, data, experiment, recipe
from cnn_jax.checkpoint.lock import DirectoryLock
from cnn_jax.cli import evaluate, train_setup
from cnn_jax.cli.train_setup import class_counts
from cnn_jax.pretrained.files import describe_own
from cnn_jax.training import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]

OTHER_CLASSES = {
    "coal": (40, 40, 45),
    "leaf": (40, 110, 60),
    "rose": (220, 80, 120),
    "sand": (200, 180, 120),
}


EPOCHS = 12
"""Of a run here: the rule would have a hundred."""


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def predict_command(out):
    """The arguments of the line that the command ends with."""
    words = shlex.split(out.splitlines()[-1])
    assert words[:2] == ["cnn-jax", "predict"]
    return words[1:]


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    """Runs of the same programs compile them once."""
    import jax

    before = jax.config.jax_compilation_cache_dir
    path = tmp_path_factory.mktemp("programs")
    jax.config.update("jax_compilation_cache_dir", str(path))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes of 20, of any sizes and modes."""
    return write_photographs(tmp_path_factory.mktemp("data") / "my photos", 20, side=40)


@pytest.fixture(scope="module")
def first(photographs, tmp_path_factory):
    """The run directory and the output of the first try, with nothing but a folder."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        out = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        patch.setattr(recipe, "MOST_EPOCHS", EPOCHS)
        assert cli.main(["train", "lenet5", "--data", f"folder:{photographs}"]) == 0
        return pathlib.Path.cwd() / "runs" / "lenet5-my-photos", out.getvalue()


@pytest.fixture(scope="module")
def trained(first):
    """The run directory of LeNet-5 on the photographs."""
    return first[0]


def result_of(directory):
    return json.loads((directory / "result.json").read_text())


def test_photographs_become_a_classifier_at_the_first_try(
    capsys, photographs, first, monkeypatch
):
    directory, out = first
    lines = out.splitlines()
    # What went where, what was chosen and why: before the first epoch.
    first_epoch = next(i for i, line in enumerate(lines) if line.startswith("epoch 1"))
    before = "\n".join(lines[:first_epoch])
    for name in CLASSES:
        row = next(line.split() for line in lines if line.startswith(name))
        assert row == [name, "16", "4"]
    for words in ("32 x 32", "batch size", "learning rate", "0.00125"):
        assert words in before
    assert first_epoch < 30
    assert sum(line.startswith("epoch ") for line in lines) == EPOCHS
    assert result_of(directory)["test"]["accuracy"] > 0.6
    assert "lenet5 on folder:" in (directory / "report.html").read_text("utf-8")
    config = json.loads((directory / "config.json").read_text())["config"]
    assert (config["batch_size"], config["image_size"]) == (8, 32)
    assert config["dataset"] == f"folder:{photographs}"
    command = predict_command(out)
    assert command[1] == "runs/lenet5-my-photos"
    monkeypatch.chdir(directory.parents[1])
    status, out, err = run(capsys, *command, "--json")
    assert (status, err) == (0, "")
    (entry,) = json.loads(out)
    assert sorted(entry["names"]) == sorted(CLASSES)


@pytest.mark.parametrize("place", ["", "checkpoints"])
def test_scores_on_training_images_are_said_to_be(capsys, photographs, trained, place):
    weights = trained / place
    arguments = ["evaluate", weights, "--json", "--data", f"folder:{photographs}"]
    status, out, err = run(capsys, *arguments)
    assert (status, json.loads(out)["scores"]["num_examples"]) == (0, 60)
    assert err.splitlines() == [
        f"{weights}: the run was trained on 48 of these images, and scores higher on "
        "them than on new ones."
    ]


@pytest.mark.parametrize(
    ("changed", "split", "share"),
    [
        ({"train_split": "even"}, "even", ""),
        ({"train_split": "even", "validation_fraction": 0.1}, "even", "most of "),
        ({"train_split": "even"}, "train", None),
        ({"train_split": "even"}, "test", None),
        ({"dataset": "of another name"}, "odd", None),
        ({"dataset": "of another name", "fingerprint": "theirs"}, "odd", ""),
        ({"validation_fraction": 0.1, "fingerprint": "theirs"}, "train", ""),
    ],
)
@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/3"])
def test_training_images_are_known_by_name_or_content(
    capsys, tmp_path, changed, split, share, place
):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    content = {
        "dataset": {"train": changed.get("fingerprint", "ours")},
        "config": {"dataset": "digits", **changed},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    options = argparse.Namespace(weights=str(tmp_path / place), dataset="digits")
    evaluate._warn_of_training_images(options, split, "theirs")
    said = capsys.readouterr().err
    expected = f"{tmp_path / place}: the run was trained on {share}these images"
    assert said.startswith(expected) if share is not None else not said


@pytest.mark.parametrize("name", ["config.json", "split.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "damaged", '{"config": "x"}', None])
def test_where_the_training_images_are_unknown_nothing_is_said(
    capsys, photographs, trained, tmp_path, name, content
):
    directory = tmp_path / "run"
    directory.mkdir()
    for each in ("config.json", "split.json"):
        shutil.copy(trained / each, directory)
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_text(content)
    options = argparse.Namespace(
        weights=str(directory), dataset=f"folder:{photographs}"
    )
    evaluate._warn_of_training_images(options, "train", "unknown")
    said = capsys.readouterr().err
    # Without its file, the split is taken to be the whole.
    assert ("these images" in said) == ((name, content) == ("split.json", None))
    options.dataset = "digits"
    evaluate._warn_of_training_images(options, "train", "unknown")
    assert capsys.readouterr().err == ""


def test_the_split_is_written_down(photographs, trained):
    content = json.loads((trained / "split.json").read_text())
    found = content["files"]
    every = sorted(name for names in found.values() for name in names)
    paths = [path.relative_to(photographs) for path in photographs.glob("*/*.*")]
    assert every == sorted(map(str, paths))
    assert content["seed"] == 0
    expected = data.split_folder(photographs)
    for name, part in expected.items():
        assert len(found[name]) == len(part)
        origin = part[0].origin
        assert str(pathlib.Path(origin).relative_to(photographs)) == found[name][0]


def test_a_run_that_is_stopped_says_how_to_go_on(
    capsys, photographs, trained, tmp_path, monkeypatch
):
    class Interrupting(experiment.EpochLines):
        def __call__(self, record, state):
            super().__call__(record, state)
            if record["event"] == "epoch" and record["epoch"] == 4:
                os.kill(os.getpid(), signal.SIGINT)

    directory = tmp_path / "stopped"
    arguments = ["train", "lenet5", "--data", f"folder:{photographs}"]
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "EpochLines", Interrupting)
        patch.setattr(recipe, "MOST_EPOCHS", EPOCHS)
        status, out, err = run(capsys, *arguments, "--run-dir", directory)
    assert status == 75
    assert f"SIGINT: stopped and saved at step 24 of {6 * EPOCHS}" in err
    assert "classify" not in out
    words = shlex.split(err.splitlines()[-1])
    assert words == ["cnn-jax", "train", "--resume", "--run-dir", str(directory)]
    status, out, _ = run(capsys, *words[1:])
    assert status == 0
    assert f"epoch 5/{EPOCHS}" in out
    assert f"epoch 4/{EPOCHS}" not in out
    assert result_of(directory)["state_digest"] == result_of(trained)["state_digest"]
    predict_command(out)


def test_a_run_directory_may_be_named_from_the_home(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = TrainConfig(run_dir="~")
    train_setup.Setup(config, {}, shares={"seed": 0}).write_split()
    assert json.loads((tmp_path / "split.json").read_text()) == {"seed": 0, "files": {}}
    (tmp_path / "config.json").write_text("{}")
    status, _, err = run(capsys, "train", "--resume", "--run-dir=~")
    assert (status, f"{tmp_path}: got files that no training" in err) == (2, True)


def test_a_resumed_run_is_the_same_run(capsys, photographs, trained, tmp_path):
    resume = ["train", "--resume", "--run-dir", trained]
    for arguments, words in (
        (["--epochs", 9], f"epochs: got 9, the run has {EPOCHS}"),
        (["--data", "folder:/other"], "data: got 'folder:/other', the run has"),
    ):
        status, _, err = run(capsys, *resume, *arguments)
        assert status == 2
        assert words in err
    status, _, err = run(capsys, "train", "--resume", "--run-dir", tmp_path)
    assert status == 2
    assert f"{tmp_path}: got no run that cnn-jax train has started" in err
    # The options that it was started with are no contradiction, and it has ended.
    again = ["lenet5", "--data", f"folder:{photographs}", "--epochs", EPOCHS]
    assert run(capsys, *resume, *again)[0] == 0


@pytest.mark.parametrize("name", ["config.json", "split.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"7",
        b"{}",
        b'{"config": 7}',
        b'{"config": {"epochs": "3"}}',
        b'{"config": {"epochs": 1e999, "mean": {"a": [[]]}}}',
        b'{"config": {"dataset": 7}}',
        b'{"config": {"mesh": [], "run_dir": 3}}',
        b'{"test_share": {}, "validation_share": 0, "seed": 0}',
        b'{"test_share": 0.1, "validation_share": 0.1, "seed": "x"}',
        None,
    ],
)
def test_files_that_no_run_wrote_are_not_resumed(
    capsys, trained, tmp_path, name, content
):
    directory = tmp_path / "run"
    directory.mkdir()
    for each in ("config.json", "split.json"):
        (directory / each).write_bytes((trained / each).read_bytes())
    if content is None:
        (directory / name).unlink()
        os.mkfifo(directory / name)
    else:
        (directory / name).write_bytes(content)
    status, out, err = run(capsys, "train", "--resume", "--run-dir", directory)
    assert (status, out) == (2, "")
    assert err.startswith(f"cnn-jax: error: {directory}: got files that no training")
    assert "Traceback" not in err


def test_a_directory_that_another_run_writes_into_is_left_alone(
    capsys, photographs, tmp_path
):
    lock = DirectoryLock(tmp_path)
    arguments = ["lenet5", "--data", f"folder:{photographs}", "--run-dir", tmp_path]
    status, _, err = run(capsys, "train", *arguments)
    lock.release()
    assert (status, "another run writes here" in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run directory of LeNet-5 on photographs of other classes."""
    root = tmp_path_factory.mktemp("other")
    write_photographs(root / "data", 12, classes=OTHER_CLASSES, seed=5, side=40)
    arguments = ["train", "lenet5", "--data", f"folder:{root / 'data'}"]
    arguments += ["--epochs", "8", "--run-dir", str(root / "run")]
    assert cli.main(arguments) == 0
    return root / "run"


@pytest.mark.slow
def test_weights_of_another_task_are_tuned(capsys, photographs, other, tmp_path):
    status, out, _ = run(
        *(capsys, "train", "lenet5", "--data", f"folder:{photographs}"),
        *("--pretrained", other, "--epochs", 8, "--run-dir", tmp_path / "run"),
    )
    assert status == 0
    assert "a tenth of" in out
    assert "initialised afresh: params/head/" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["learning_rate_groups"] == [["(^|/)head/", 10.0]]
    known = json.loads((other / "config.json").read_text())["images"]
    assert config["mean"] == known["mean"]
    assert result_of(tmp_path / "run")["test"]["accuracy"] > 0.7


@pytest.mark.slow
def test_a_probe_leaves_what_predicts(capsys, photographs, trained, tmp_path):
    directory = tmp_path / "probe"
    arguments = ["train", "lenet5", "--data", f"folder:{photographs}"]
    arguments += ["--method", "probe", "--run-dir", directory]
    status, out, err = run(capsys, *arguments, "--pretrained", trained)
    assert (status, err) == (0, "")
    result = result_of(directory)
    assert result["test"]["accuracy"] > 0.6
    assert f"test accuracy {result['test']['accuracy']:.2%} on 12 examples" in out
    page = (directory / "report.html").read_text("utf-8")
    assert "linear probe" in page
    assert "Surest mistakes on the test split" in page
    scores = json.loads((directory / "scores.json").read_text())
    assert scores["accuracy"]["mean"] == pytest.approx(result["test"]["accuracy"])
    assert f"{100 * result['test']['accuracy']:.2f}" in page
    said = describe_own(directory)
    assert (said.model, said.class_names) == ("lenet5", tuple(CLASSES))
    # The network's own answers are those that were scored.
    test = data.split_folder(photographs)["test"]
    paths = [test[index].origin for index in range(len(test))]
    command = predict_command(out)
    assert command[2] == paths[0]
    status, out, _ = run(capsys, *command[:2], *paths, "--json")
    right = [
        entry["names"][0] == pathlib.Path(entry["image"]).parent.name
        for entry in json.loads(out)
    ]
    assert np.mean(right) == pytest.approx(result["test"]["accuracy"])
    status, _, err = run(capsys, "train", "--resume", "--run-dir", directory)
    assert (status, "got a probe, which is not resumed" in err) == (2, True)
    status, _, err = run(capsys, *arguments)
    assert (status, "--method probe: got no --pretrained" in err) == (2, True)


@pytest.fixture
def started(monkeypatch):
    """Collects what runs would have been started with, and ends the command there."""
    found = []

    def start(config, splits):
        found.append((config, splits))
        raise ValueError("started")

    monkeypatch.setattr(experiment, "run", start)
    return found


def test_other_datasets_are_opened_by_the_run(capsys, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "lenet5-digits").mkdir(parents=True)
    run(capsys, "train", "lenet5", "--data", "digits")
    ((config, splits),) = started
    assert splits is None
    assert (config.dataset, config.validation_fraction) == ("digits", 0.15)
    assert (config.data_path, config.flip, config.patience) == ("resident", False, 20)
    assert config.run_dir == "runs/lenet5-digits-2"


def test_results_as_json(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "run", lambda config, splits: FakeResult())
    monkeypatch.setattr(experiment, "conclude", lambda result: print("concluded"))
    arguments = ["train", "lenet5", "--data", "digits", "--run-dir", tmp_path / "run"]
    status, out, err = run(capsys, *arguments, "--json")
    assert status == 0
    assert json.loads(out) == {"run_dir": str(tmp_path / "run"), "result": {"a": None}}
    # What is for people is on the other stream.
    assert "batch size" in err
    assert "concluded" in err
    assert err.splitlines()[-1].endswith(f"predict {tmp_path / 'run'} IMAGE")


def test_a_signal_while_the_page_is_written_says_that_the_run_is_over(
    capsys, monkeypatch, tmp_path
):
    def stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    test = {"accuracy": 0.5, "num_examples": 360}
    result = SimpleNamespace(run_dir=str(tmp_path / "run"), test=test, best_epoch=1)
    result.stopped_early = False
    result.step_seconds_median = result.train_seconds = result.compile_seconds = 1.0
    monkeypatch.setattr(experiment, "run", lambda config, splits: result)
    monkeypatch.setattr(experiment, "write_run_page", stop)
    arguments = ["train", "lenet5", "--data", "digits", "--run-dir", tmp_path / "run"]
    status, _, err = run(capsys, *arguments)
    assert status == 75
    assert err == (
        f"SIGTERM: the run in {tmp_path / 'run'} is over and saved, but its page is "
        "not written. Resume it with --resume to write it.\n"
    )


# Its page is never finished. A background job of a shell ignores SIGINT, and so would
# its children.
CONCLUDING = """
import hashlib, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from cnn_jax import cli, experiment

def render(run_dir):
    threading.Timer(0.5, print, ["concluding"], {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

experiment.write_run_page = render
sys.exit(cli.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", nightly_except([signal.SIGTERM], [signal.SIGTERM, signal.SIGINT])
)
def test_a_signal_while_a_library_writes_the_page_is_the_same(tmp_path, number):
    """No instruction of Python's runs, so that no handler does."""
    directory = tmp_path / "run"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", CONCLUDING, "train", "lenet5", "--data", "digits"),
            *("--epochs", "1", "--run-dir", str(directory)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line == "concluding\n":
            process.send_signal(number)
            break
    _, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    last_line = error.splitlines()[-1]
    assert last_line.startswith(f"{number.name}: the run in {directory} is over")
    assert "Traceback" not in error


class FakeResult:
    """A run's result, of which a part is no number."""

    def summary(self):
        """Returns what `FitResult.summary` is for."""
        return {"a": float("nan")}


@pytest.mark.parametrize(
    ("error", "status"),
    [(ArithmeticError("x"), 1), (OSError("x"), 1), (ValueError("x"), 2)],
)
def test_what_ends_a_run_is_one_sentence(capsys, monkeypatch, tmp_path, error, status):
    def fail(config, splits):
        raise error

    monkeypatch.setattr(experiment, "run", fail)
    found, _, err = run(
        *(capsys, "train", "lenet5", "--data", "digits"),
        *("--run-dir", tmp_path / "run"),
    )
    assert (found, err) == (status, "cnn-jax: error: x\n")


def test_an_interrupt_before_training_is_no_traceback(capsys, monkeypatch, tmp_path):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "split_folder", interrupt)
    status, _, err = run(capsys, "train", "lenet5", "--data", f"folder:{tmp_path}")
    assert (status, err) == (130, "Interrupted before there was anything to save.\n")


def write_squares(root, count, side):
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.mark.parametrize(
    ("side", "size", "is_resident"), [(40, 40, True), (32, 32, True), (80, 32, False)]
)
def test_images_of_one_size_live_on_the_devices(
    capsys, started, tmp_path, side, size, is_resident
):
    root = write_squares(tmp_path / "squares", 10, side)
    run(
        *(capsys, "train", "resnet20", "--data", f"folder:{root}"),
        *("--run-dir", tmp_path / "run"),
    )
    ((config, splits),) = started
    assert config.image_size == size
    assert (config.data_path == "resident") == is_resident
    assert all(
        isinstance(part, data.Dataset) == is_resident for part in splits.values()
    )
    if is_resident:
        counts = np.bincount(splits["train"].labels)
        assert counts.tolist() == [8, 8]
        assert splits["train"].images.shape == (16, size, size, 3)


def test_directories_of_splits_are_taken_as_they_are(capsys, started, tmp_path):
    for split, count in (("train", 9), ("val", 3), ("test", 4)):
        write_photographs(tmp_path / "data" / split, count, side=40)
    status, out, _ = run(
        *(capsys, "train", "lenet5", "--data", f"folder:{tmp_path / 'data'}"),
        *("--run-dir", tmp_path / "run"),
    )
    assert status == 2  # the run was not started, as the fixture has it
    ((config, splits),) = started
    counts = {name: class_counts(part).tolist() for name, part in splits.items()}
    assert counts == {"train": [9] * 3, "validation": [3] * 3, "test": [4] * 3}
    assert config.patience == 20
    assert config.validation_fraction == 0
    assert "Split by" not in out


def test_what_is_given_is_kept(capsys, started, photographs, tmp_path):
    run(
        *(capsys, "train", "resnet18", "--data", f"folder:{photographs}"),
        *("--batch-size", 16, "--learning-rate", 0.5, "--optimizer", "adamw"),
        *("--image-size", 96, "--mean", 0.5, 0.5, 0.5, "--std", 1, 1, 1),
        *("--no-flip", "--validation-share", 0.25, "--test-share", 0.25),
        *("--run-dir", tmp_path / "run"),
    )
    ((config, splits),) = started
    assert (config.batch_size, config.learning_rate) == (16, 0.5)
    assert (config.optimizer, config.image_size) == ("adamw", 96)
    assert (config.mean, config.std) == ((0.5,) * 3, (1.0,) * 3)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 30,
        "validation": 15,
        "test": 15,
    }


def test_what_is_left_out_of_a_folder_is_said(capsys, started, tmp_path):
    root = write_photographs(tmp_path / "data", 4, side=40)
    (root / "brick" / "movie.mp4").write_bytes(b"x")
    _, _, err = run(
        *(capsys, "train", "lenet5", "--data", f"folder:{root}"),
        *("--run-dir", tmp_path / "run"),
    )
    assert "left out 1 .mp4 file" in err
    assert "UserWarning" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet5"], ["--data: got none", "folder:PATH"]),
        (["--data", "digits"], ["MODEL: got none"]),
        (["lenet5", "--data", "folder:"], ["expected folder:PATH"]),
        (["lenet5", "--data", "folder:nowhere"], ["nowhere", "expected a directory"]),
        (["lenet6", "--data", "PHOTOS"], ["'lenet6'", "did you mean 'lenet5'"]),
        (["lenet5", "--data", "PHOTOS/brick"], ["got no directory in it"]),
        (["lenet5", "--data", "folder:one"], ["got one class, 'ant'"]),
        (["lenet5", "--data", "folder:few"], ["got 1 image(s) of 'bee'"]),
        (
            ["lenet5", "--data", "PHOTOS", "--pretrained", "no.npz"],
            ["no.npz", "no such"],
        ),
        (
            ["resnet20", "--data", "PHOTOS", "--pretrained", "TRAINED"],
            ["got weights of lenet5", "expected those of resnet20"],
        ),
        (["lenet5", "--data", "PHOTOS", "--epochs", "0"], ["epochs: got 0"]),
        (["lenet5", "--data", "digits", "--mean", "nan", "--std", "1"], ["mean: got"]),
        (["lenet5", "--data", "digits", "--mean", "0", "--std", "inf"], ["std: got"]),
        (["lenet5", "--data", "digits", "--image-size", "100000"], ["1 to 32,768"]),
        (["lenet5", "--data", "digits", "--test-share", "nan"], ["share: got 'nan'"]),
        (["lenet5", "--data", "digits", "--validation-share", "inf"], ["got 'inf'"]),
        (
            ["lenet5", "--data", "digits", "--crop-padding", "1000000000"],
            ["crop_padding: got 1000000000, expected a whole number of 0 to"],
        ),
        (["lenet5", "--data", "digits", "--crop-padding", "32"], ["less than image_s"]),
        (
            ["lenet5", "--data", "digits", "--mean", ".5", ".5", "--std", ".5", ".5"],
            ["mean: got 2 numbers for images of 1 channels"],
        ),
        (["lenet5", "--data", "PHOTOS", "--batch-size", "80"], ["expected 1 to 48"]),
        (["lenet5", "--data", "PHOTOS", "--batch-size", "9"], ["multiple of the 8"]),
        (["lenet5", "--data", "PHOTOS", "--image-size", "8"], ["at least 32 x 32"]),
        (["lenet5", "--data", "PHOTOS", "--augmentation", "x"], ["augmentation: got"]),
        (["lenet5", "--data", "PHOTOS", "--optimizer", "lars"], ["there is no rule"]),
        (["lenet5", "--data", "PHOTOS", "--test-share", "1"], ["1.0, 0.0 to hold out"]),
        (
            ["lenet5", "--data", "PHOTOS", "--run-dir", "TRAINED"],
            ["holds a run already"],
        ),
        (["lenet5", "--data", "PHOTOS", "--test-split", "x"], ["got one for a folder"]),
        (["lenet5", "--data", "PHOTOS", "--run-dir", ""], ["run_dir: got ''"]),
        (["--resume", "--run-dir", ""], ["run_dir: got ''"]),
        (["--resume", "--run-dir", "TRAINED", "--allow-changed", "x"], ["allow_chan"]),
        (["lenet5", "--resume"], ["neither --run-dir nor MODEL and --data"]),
        (["lenet5", "--data", "PHOTOS", "--resume"], ["got no run in runs/lenet5-my"]),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(
    capsys, photographs, trained, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "few", 3, 8)
    for path in list((tmp_path / "few" / "bee").iterdir())[1:]:
        path.unlink()
    write_squares(tmp_path / "one", 3, 8)
    for path in [*(tmp_path / "one" / "bee").iterdir(), tmp_path / "one" / "bee"]:
        path.rmdir() if path.is_dir() else path.unlink()
    names = {"PHOTOS": f"folder:{photographs}", "TRAINED": str(trained)}
    for short, long in names.items():
        arguments = [argument.replace(short, long) for argument in arguments]
    status, out, err = run(capsys, "train", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("cnn-jax: error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (tmp_path / "runs").exists()


def test_help_is_short_and_in_groups(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 75
    for group in ("images:", "what is learned:", "the run:", "choices:", "machine:"):
        assert f"\n{group}\n" in out


@pytest.mark.nightly
def test_a_residual_network_transfers_at_the_first_try(capsys, tmp_path):
    """With nothing but the weights and the folder; chance is a third."""
    classes = {**OTHER_CLASSES, "sky": (120, 170, 230)}
    write_photographs(tmp_path / "other", 60, classes=classes, seed=7, side=60)
    first = ["train", "resnet20", "--data", f"folder:{tmp_path / 'other'}"]
    assert run(capsys, *first, "--epochs", 8, "--run-dir", tmp_path / "pre")[0] == 0
    photographs = write_photographs(tmp_path / "photos", 20, side=200)
    status, _, _ = run(
        *(capsys, "train", "resnet20", "--data", f"folder:{photographs}"),
        *("--pretrained", tmp_path / "pre", "--run-dir", tmp_path / "run"),
    )
    assert status == 0
    assert result_of(tmp_path / "run")["test"]["accuracy"] > 0.8
