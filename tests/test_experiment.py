"""An experiment's handling of its configuration, and its results."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.full_disk import no_space_for
from helpers.quick import nightly_except
from helpers.runs import make_run

import cnn_jax
from cnn_jax import experiment
from cnn_jax.pretrained import ConversionReport, Provenance, load_pretrained
from cnn_jax.report.run_page import write_run_page
from cnn_jax.training import TrainConfig
from cnn_jax.training.config.preset import Preset
from cnn_jax.trees import leaf_specs, named_leaves

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def calls(monkeypatch):
    """Collects what runs would have been started with."""
    found = []

    def fit(model, train, *, config, initial_variables, **options):
        call = types.SimpleNamespace(config=config, variables=initial_variables)
        found.append(call)

    monkeypatch.setattr(experiment, "fit", fit)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of LeNet-5 for three classes, and what it holds."""
    model = cnn_jax.create_model("lenet5", num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    leaves = {
        name: np.full(leaf.shape, 0.5, np.float32)
        for name, leaf in named_leaves(shapes).items()
    }
    path = tmp_path_factory.mktemp("weights") / "lenet5.npz"
    np.savez(path, **leaves)
    return str(path), leaves


def test_a_run_starts_from_pretrained_weights_with_a_new_head(calls, weights, capsys):
    path, leaves = weights
    config = TrainConfig(model="lenet5", pretrained=path, mean=(0.2,), std=(0.4,))
    experiment.run(config)
    assert "initialised afresh: params/head/" in capsys.readouterr().out
    for name, leaf in named_leaves(calls[0].variables).items():
        if name.startswith("params/head/"):
            assert leaf.shape[-1] == 10
        else:
            np.testing.assert_array_equal(leaf, leaves[name])
    assert calls[0].config == config


def test_images_are_normalised_as_the_weights_know_them(calls, weights, monkeypatch):
    path, _ = weights

    def load(*arguments, **options):
        variables, report = load_pretrained(*arguments, **options)
        known = Provenance(path, None, preprocessing={"mean": [0.1], "std": [0.3]})
        return variables, ConversionReport(**{**vars(report), "provenance": known})

    monkeypatch.setattr(experiment, "load_pretrained", load)
    experiment.run(TrainConfig(model="lenet5", pretrained=path))
    assert (calls[0].config.mean, calls[0].config.std) == ((0.1,), (0.3,))
    experiment.run(
        TrainConfig(model="lenet5", pretrained=path, mean=(0.2,), std=(1.0,))
    )
    assert (calls[1].config.mean, calls[1].config.std) == ((0.2,), (1.0,))


def test_a_resumed_run_is_not_normalised_as_its_weights_are_known_by_now(
    calls, tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment, "write_test_scores", lambda *arguments: None)
    network = cnn_jax.create_model("lenet5", num_classes=10)
    run = run_on_noise(tmp_path / "run", network, (32, 32, 1))
    begun = str(tmp_path / "begun")
    config = TrainConfig(
        model="lenet5", pretrained=str(run), run_dir=begun, resume=True
    )
    experiment.run(config)
    assert calls[0].config == config


@pytest.mark.parametrize("model", ["resnet20", "vgg8_cifar", "efficientnet_cifar"])
def test_a_run_on_grey_images_starts_another_on_such(calls, model, tmp_path):
    network = cnn_jax.create_model(model, num_classes=10)
    run = run_on_noise(tmp_path / "run", network, (8, 8, 1))
    experiment.run(TrainConfig(model=model, pretrained=str(run)))
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 32, 32, 1))),
        jax.eval_shape(jax.random.key, 0),
    )
    assert leaf_specs(calls[0].variables) == leaf_specs(shapes)
    assert calls[0].config.mean == (0.4,)


def test_weights_for_other_channels_than_the_datas_are_refused(calls, tmp_path):
    network = cnn_jax.create_model("lenet5", num_classes=10)
    run = run_on_noise(tmp_path / "run", network, (32, 32, 2))
    match = r"run: got weights for images of 2 channels, expected .* 1 channel \(grey\)"
    with pytest.raises(ValueError, match=match):
        experiment.run(TrainConfig(model="lenet5", pretrained=str(run)))
    assert not calls


@pytest.mark.parametrize("in_channels", [None, 1])
def test_rgb_weights_meet_grey_images(calls, in_channels, tmp_path, capsys):
    network = cnn_jax.create_model("lenet5", num_classes=10)
    run = run_on_noise(tmp_path / "run", network, (32, 32, 3))
    experiment.run(
        TrainConfig(model="lenet5", pretrained=str(run), in_channels=in_channels)
    )
    channels = in_channels or 3
    kernel = calls[0].variables["params"]["c1"]["kernel"]
    np.testing.assert_array_equal(kernel, np.full((5, 5, channels, 6), 3 / channels))
    assert len(calls[0].config.mean) == channels
    out = capsys.readouterr().out
    assert ("images: grey, repeated to 3 channels" in out) == (channels == 3)
    assert ("first filters: 3 to 1 channels, summed" in out) == (channels == 1)


def run_on_noise(path, model, shape):
    """Writes a run of a model that was trained on images of a shape."""
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, shape[-1]))),
        jax.eval_shape(jax.random.key, 0),
    )
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
    channels = shape[-1]
    images = {"mean": [0.4] * channels, "std": [0.2] * channels}
    images |= {"input_shape": list(shape), "class_names": list("0123456789")}
    name = {"mean": None, "std": None}
    return make_run(path, ones, steps=[1], metadata={"images": images}, **name)


def test_without_weights_a_run_starts_from_its_seed(calls):
    experiment.run(TrainConfig(model="lenet5"))
    assert calls[0].variables is None


class SoftmaxRegression(nn.Module):
    """One dense layer on the pixels: a network that compiles fast."""

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns the logits."""
        return nn.Dense(10)(x.reshape(len(x), -1))


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs an experiment to its end, with further options."""

    def run(*options):
        options += ("--run-dir", str(tmp_path / "run"), "--batch-size", "512")
        experiment.main(TrainConfig(epochs=1), "An experiment.", list(options))

    monkeypatch.setattr(
        experiment, "create_model", lambda *_, **__: SoftmaxRegression()
    )
    return run


def test_a_finished_run_has_a_page_which_resuming_writes(start, tmp_path, capsys):
    run_dir = tmp_path / "run"
    message = r"^OSError: .*No space left.*/report\.html'$"
    with no_space_for("report.html"), pytest.raises(SystemExit, match=message):
        start()
    # The files of the run are whole, and a page of them is that of the resumed one.
    page = write_run_page(run_dir)
    text = page.read_text("utf-8")
    page.unlink()
    start("--resume")
    last_line = f"result in {run_dir}/result.json, report in {run_dir}/report.html"
    assert capsys.readouterr().out.splitlines()[-1] == last_line
    assert page.read_text("utf-8") == text
    accuracy = json.loads((run_dir / "result.json").read_text())["test"]["accuracy"]
    # The network is a test's own, whatever the configuration calls it.
    name = f"{SoftmaxRegression.__module__}.SoftmaxRegression"
    reached = f"{name} reached {100 * accuracy:.2f} % on 355 test"
    assert f"On digits, {reached}" in text


def record(**fields):
    found = {"epoch": 2, "train_loss": 0.5, "test_accuracy": 0.75, "seconds": 3.0}
    return {"event": "epoch", **found, **fields}


def test_an_epochs_line_shows_what_decides_and_the_time_left(capsys):
    # The first epoch's own time counts, later ones' from line to line.
    seconds = iter([100.0, 104.0, 112.0])
    print_epoch = experiment.EpochLines(5, 12, clock=lambda: next(seconds))
    print_epoch(record(), None)
    print_epoch({"event": "step", "loss": 1.0}, None)
    print_epoch(record(epoch=3), None)
    print_epoch(record(epoch=5), None)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2/5: train loss 0.5000, test accuracy 75.00% of 12 images, 3 s, "
        "9 s left",
        "epoch 3/5: train loss 0.5000, test accuracy 75.00%, 3 s, 8 s left",
        "epoch 5/5: train loss 0.5000, test accuracy 75.00%, 3 s",
    ]


def test_an_epochs_line_shows_the_best_validation_accuracy(capsys):
    print_epoch = experiment.EpochLines(3, 1, clock=lambda: 0.0)
    for epoch, accuracy in enumerate((0.5, 0.4, 0.6), start=1):
        print_epoch(record(epoch=epoch, validation_accuracy=accuracy), None)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/3: train loss 0.5000, validation accuracy 50.00% of 1 image, 3 s, "
        "6 s left",
        "epoch 2/3: train loss 0.5000, validation accuracy 40.00% (best 50.00% in "
        "epoch 1), 3 s",
        "epoch 3/3: train loss 0.5000, validation accuracy 60.00%, 3 s",
    ]


def test_a_run_that_stopped_early_says_so(start, capsys, tmp_path):
    # Nothing is a gain of 0.9 on the first epoch, so the third is one too many.
    start(
        *("--epochs", "6", "--patience", "2", "--validation-fraction", "0.3"),
        *("--minimum-gain", "0.9", "--learning-rate", "1e-9"),
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"every option as it is: {tmp_path / 'run'}/config.json"
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert all("validation accuracy" in line and "test" not in line for line in epochs)
    assert 2 <= len(epochs) < 6
    held = cnn_jax.data.load_dataset("digits", "train").split_off(0.3)[1]
    assert f" of {len(held)} images" in epochs[0]
    assert not any(" images" in line for line in epochs[1:])
    stopped = f"stopped early after epoch {len(epochs)}: no gain in validation accuracy"
    assert any(line.startswith(stopped) for line in lines)


@pytest.mark.parametrize("arguments", [("--seed", "4294967296"), ("--epochs", "0")])
def test_an_error_stands_alone(arguments, capsys):
    with pytest.raises(SystemExit, match="The configuration is invalid"):
        experiment.main(TrainConfig(), "", list(arguments))
    assert capsys.readouterr().out == ""


def test_output_that_cannot_be_written_does_not_end_a_run(start, tmp_path, monkeypatch):
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        start()
        start("--resume")
    assert (tmp_path / "run" / "report.html").exists()


def test_a_signal_behind_the_run_says_that_it_is_saved(start, monkeypatch, capsys):
    def interrupt(run_dir):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "write_run_page", interrupt)
        with pytest.raises(SystemExit) as error:
            start()
    assert error.value.code == 75
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("SIGTERM: the run in ")
    assert "--resume" in last_line
    start("--resume")


def test_a_preset_is_what_the_run_has(monkeypatch):
    found = []
    monkeypatch.setattr(experiment, "run", found.append)
    monkeypatch.setattr(experiment, "conclude", lambda result: None)
    presets = {"small": Preset("a small machine", {"batch_size": 8, "epochs": 3})}
    options = ["--preset", "small", "--epochs", "2"]
    experiment.main(TrainConfig(), "An experiment.", options, presets=presets)
    assert found == [TrainConfig(batch_size=8, epochs=2)]
    # It is checked as every configuration is.
    presets = {"small": Preset("a small machine", {"batch_size": 0})}
    with pytest.raises(SystemExit, match="batch_size: got 0"):
        experiment.main(TrainConfig(), "", ["--preset", "small"], presets=presets)


@pytest.mark.parametrize("place", ["gs://bucket/programs", "programs"])
def test_compiled_programs_are_kept_where_they_are_said_to_be(
    monkeypatch, tmp_path, place
):
    found = {}
    settings = types.SimpleNamespace(
        jax_compilation_cache_dir=None, update=found.__setitem__
    )
    monkeypatch.setattr(jax, "config", settings)
    monkeypatch.chdir(tmp_path)
    experiment.use_compilation_cache(place)
    expected = place if "://" in place else str(tmp_path / place)
    assert found == {"jax_compilation_cache_dir": expected}


def test_errors_are_escaped(start, tmp_path):
    with pytest.raises(SystemExit, match=r"FileNotFoundError: .*a\\x1b\[31mb"):
        start("--dataset", f"folder:{tmp_path}/a\x1b[31mb")


RUN = ("--model", "lenet5", "--dataset", "digits", "--epochs", "2")


def start_program(run_dir, *options, redirection=""):
    """Starts an experiment in a group of its own, where Ctrl-C is heard."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv[0] = 'experiments/cifar10_resnet20.py'; import runpy; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = ["-c", code, *RUN, "--run-dir", str(run_dir), *options]
    command = f'{sys.executable} "$@" {redirection}'
    return subprocess.Popen(
        [
            "bash",
            "-c",
            f"exec {command}" if not redirection else command,
            *("", *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection",
    nightly_except(
        [">/dev/full 2>/dev/full", "2>&1 | true; exit ${PIPESTATUS[0]}"],
        [
            ">/dev/full",
            ">/dev/full 2>/dev/full",
            "| head -1; exit ${PIPESTATUS[0]}",
            "2>&1 | true; exit ${PIPESTATUS[0]}",
            "2>&-",
            "<&- >&- 2>&-",
        ],
    ),
)
def test_a_run_whose_reader_is_gone_is_saved(tmp_path, redirection):
    process = start_program(tmp_path / "run", redirection=redirection)
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, error
    for name in ("result.json", "report.html", "checkpoints/22/MANIFEST"):
        assert (tmp_path / "run" / name).exists()
    for path in (tmp_path / "run").iterdir():
        assert path.is_dir() or b"test accuracy 9" not in path.read_bytes()[:200]


@pytest.mark.slow
@pytest.mark.parametrize("seed", nightly_except(range(1), range(12)))
def test_a_signal_at_any_time_while_it_starts(tmp_path, seed):
    generator = random.Random(seed)
    process = start_program(tmp_path / "run")
    time.sleep(generator.uniform(0.4, 5))
    if process.poll() is None:
        # Ctrl-C reaches every process of a terminal's group.
        os.killpg(process.pid, generator.choice([signal.SIGTERM, signal.SIGINT]))
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode in (75, 0), error
    assert "Traceback" not in error
    if process.returncode == 75:
        options = ["--resume"] if "--resume" in error else []
        process = start_program(tmp_path / "run", *options)
        error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, error
    assert (tmp_path / "run" / "result.json").exists()
