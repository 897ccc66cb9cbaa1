"""Signals: whenever one comes, the run is saved, and continues bitwise equal."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.quick import slow_except
from helpers.run_files import read_metrics, without_clock

from cnn_jax import trees
from cnn_jax.checkpoint import Checkpointer, points
from cnn_jax.training import TrainConfig
from cnn_jax.training.run import feeds
from cnn_jax.training.run.compiled import CompiledRun
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.stopping import RunStoppedError, StopSignals

ROOT = pathlib.Path(__file__).parents[3]


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def left_alone(tiny_net, digits, tmp_path_factory):
    """A run of three epochs of ten steps that validates, and its result."""
    config = TrainConfig(
        model="tiny",
        image_size=8,
        epochs=3,
        batch_size=32,
        learning_rate=0.2,
        crop_padding=1,
        validation_fraction=0.1,
        log_every_steps=3,
        run_dir=str(tmp_path_factory.mktemp("alone") / "run"),
    )
    return config, fit(
        tiny_net(), digits[0], test=digits[1], config=config, progress=False
    )


# Each of these has a signal sent in a phase of a run, and says where it then stops.


def while_compiling(monkeypatch):
    compile_ = CompiledRun._compile

    def compile_and_send(self, function, *arguments, **options):
        if options.get("donate") == 0:  # the training step
            send()
        return compile_(self, function, *arguments, **options)

    monkeypatch.setattr(CompiledRun, "_compile", compile_and_send)
    return 0


def in_a_step(monkeypatch):
    step = CompiledRun.step

    def step_and_send(self, carry, inputs, key):
        carry = step(self, carry, inputs, key)
        if int(carry["state"].step) == 14:
            send()
        return carry

    monkeypatch.setattr(CompiledRun, "step", step_and_send)
    return 14


def in_an_evaluation(monkeypatch):
    batches, passes = feeds.ResidentEvaluation.batches, []

    def batches_and_send(self):
        passes.append(None)
        found = list(batches(self))
        yield from found[:1]
        if len(passes) == 4:  # the second of the second epoch
            send()
        yield from found[1:]

    monkeypatch.setattr(feeds.ResidentEvaluation, "batches", batches_and_send)
    return 20


def in_the_last_evaluation(monkeypatch):
    batches, passes = feeds.ResidentEvaluation.batches, []

    def batches_and_send(self):
        passes.append(None)
        if len(passes) == 7:  # behind two for each epoch
            send()
        return batches(self)

    monkeypatch.setattr(feeds.ResidentEvaluation, "batches", batches_and_send)
    return 30


def waiting_for_data(monkeypatch):
    inputs = feeds.ResidentFeed.inputs

    def inputs_and_wait(self, step):
        if step == 16:
            threading.Timer(0.2, send).start()
            time.sleep(100)  # data that never comes
        return inputs(self, step)

    monkeypatch.setattr(feeds.ResidentFeed, "inputs", inputs_and_wait)
    return 16


def during_a_save(monkeypatch):
    seen = []

    def on_reach(point):
        if point == "arrays_written":
            seen.append(None)
            if len(seen) == 2:  # of epoch 2, while its steps go on
                send()
                time.sleep(0.3)

    monkeypatch.setattr(points, "on_reach", on_reach)
    return None


PHASES = (
    while_compiling,
    in_a_step,
    in_an_evaluation,
    in_the_last_evaluation,
    waiting_for_data,
    during_a_save,
)


@pytest.mark.parametrize(
    "phase", slow_except((while_compiling, in_a_step, during_a_save), PHASES)
)
def test_a_signal_in_any_phase_saves_and_the_run_resumes_bitwise(
    tiny_net, digits, left_alone, tmp_path, monkeypatch, capfd, phase
):
    alone, expected = left_alone
    stopped = dataclasses.replace(alone, run_dir=str(tmp_path / "run"))
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        step = phase(patched)
        with pytest.raises(RunStoppedError, match="SIGTERM: stopped and saved") as stop:
            fit(tiny_net(), digits[0], test=digits[1], config=stopped, progress=False)
    assert "SIGTERM: saving at the next safe point" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stop-signals" not in {thread.name for thread in threading.enumerate()}
    assert step is None or stop.value.step == step
    with Checkpointer(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step == stop.value.step

    resumed = dataclasses.replace(stopped, resume=True)
    result = fit(tiny_net(), digits[0], test=digits[1], config=resumed, progress=False)
    assert result.state_digest == expected.state_digest
    assert trees.digest(result.best_variables) == trees.digest(expected.best_variables)
    assert result.test == expected.test
    assert without_clock(result.history) == without_clock(expected.history)
    assert read_metrics(stopped.run_dir) == read_metrics(alone.run_dir)


@pytest.mark.slow
def test_a_run_stopped_again_and_again_gets_to_its_end(
    tiny_net, digits, left_alone, tmp_path, monkeypatch
):
    alone, expected = left_alone
    config = dataclasses.replace(alone, run_dir=str(tmp_path / "run"))
    evaluate, calls = CompiledRun.evaluate, []

    def evaluate_and_send(self, state, batches):
        calls.append(batches)
        if len(calls) in (1, 2, 4, 8):
            send(signal.SIGINT)
        return evaluate(self, state, batches)

    monkeypatch.setattr(CompiledRun, "evaluate", evaluate_and_send)
    stops = 0
    while True:
        try:
            result = fit(
                tiny_net(), digits[0], test=digits[1], config=config, progress=False
            )
            break
        except RunStoppedError:
            stops += 1
            config = dataclasses.replace(config, resume=True)
    assert stops == 4
    assert result.state_digest == expected.state_digest
    assert result.best_epoch == expected.best_epoch
    assert read_metrics(config.run_dir) == read_metrics(alone.run_dir)


@pytest.fixture
def pythons_own_handler():
    """Of SIGINT, which a shell has its background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_own_handler")
def test_without_a_directory_signals_do_what_they_do(tiny_net, digits, config):
    def interrupt(record, state):
        send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(
            tiny_net(),
            digits[0],
            test=digits[1],
            config=config,
            progress=False,
            callbacks=[interrupt],
        )


def test_another_thread_hears_nothing():
    before = signal.getsignal(signal.SIGTERM)
    heard = []

    def listen():
        with StopSignals() as signals:
            heard.append(signal.getsignal(signal.SIGTERM))
            signals.check()

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [before]


SECOND = """
import hashlib, os, signal, sys
from cnn_jax.training.run.stopping import StopSignals
with StopSignals():
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    # No instruction of Python's runs for a minute: a compilation is like that.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
    sys.stdout.write("late")
"""


def test_a_second_signal_ends_at_once_even_a_compilation():
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", SECOND],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 128 + signal.SIGINT
    assert ended.stdout == ""
    assert ended.stderr.startswith("SIGTERM: saving")
    assert time.monotonic() - started < 60


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_experiment_exits_with_75_and_resumes(tmp_path, number):
    command = [
        *(sys.executable, "experiments/cifar10_resnet20.py", "--model", "lenet5"),
        *("--dataset", "synthetic:40x36x1", "--train-split", "train"),
        *("--data-path", "stream", "--image-size", "32", "--epochs", "8"),
        *("--augmentation", "inception", "--crop-padding", "0", "--num-workers", "2"),
        *("--log-every-steps", "1", "--run-dir", str(tmp_path / "run")),
    ]
    start = {
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        "stderr": subprocess.PIPE,
        "text": True,
        # A terminal's Ctrl-C goes to the workers as well.
        "start_new_session": True,
    }
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = subprocess.Popen(command, **start)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") > 3:
            os.killpg(process.pid, number)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert f"{signal.Signals(number).name}: stopped and saved at step" in errors
    resumed = subprocess.run([*command, "--resume"], **start, check=False, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming at step" in resumed.stderr
