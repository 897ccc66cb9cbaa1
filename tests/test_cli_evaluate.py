"""`cnn-jax evaluate`: the scores are the model's own, and files appear whole."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
from helpers.drawn_lenet import draw_lenet5
from helpers.full_disk import no_space_for
from helpers.page import Page

import cnn_jax
from cnn_jax import cli, data
from cnn_jax.evaluation import evaluate, results
from cnn_jax.evaluation.results import record_of, write_results
from cnn_jax.prediction import predict
from cnn_jax.report.statistics import wilson_interval
from cnn_jax.trees import named_leaves

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(os.environ.get("CNN_JAX_DATA") or ROOT / ".." / "shared")
WEIGHTS = SHARED / "weights" / "cifar10_resnet20.safetensors"
FILES = {"evaluation.json", "evaluation.html"}
CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "jay", "<owl> & kin"]


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def network():
    return draw_lenet5(1 / 4)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """Weights, and two grey images for each of ten classes."""
    folder = tmp_path_factory.mktemp("evaluate")
    arrays = named_leaves(network[1])
    safetensors.numpy.save_file(arrays, folder / "weights.safetensors")
    generator = np.random.default_rng(1)
    for name in CLASSES:
        (folder / "photos" / "test" / name).mkdir(parents=True)
        for number in range(2):
            pixels = generator.integers(0, 256, (4, 4), np.uint8).repeat(8, 0)
            path = folder / "photos" / "test" / name / f"{number}.png"
            PIL.Image.fromarray(pixels.repeat(8, 1)).save(path)
    return folder


@pytest.fixture
def arguments(folder):
    return [
        folder / "weights.safetensors",
        *("--model", "lenet5", "--dataset", f"folder:{folder / 'photos'}"),
    ]


def names_in(directory):
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def test_scores_of_a_folder_are_what_predict_says_of_its_files(
    capsys, folder, arguments
):
    status, out, err = run(capsys, *arguments, "--json", "--batch-size", 8)
    assert (status, err) == (0, "")
    record = json.loads(out)
    scores = record["scores"]
    paths = sorted((folder / "photos" / "test").glob("*/*.png"))
    found = predict(folder / "weights.safetensors", paths, model="lenet5", top=10)
    names = sorted(CLASSES)
    labels = [names.index(path.parent.name) for path in paths]
    right = [
        each.classes[0] == label for each, label in zip(found, labels, strict=True)
    ]
    losses = [
        -np.log(each.probabilities[each.classes.index(label)])
        for each, label in zip(found, labels, strict=True)
    ]
    assert (scores["num_correct"], scores["num_examples"]) == (sum(right), 20)
    assert 0 < sum(right) < 20
    assert {each["num_examples"] for each in scores["classes"]} == {2}
    assert scores["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    interval = wilson_interval(sum(right) / 20, 20)
    assert scores["accuracy"]["low"] == interval.low
    surest = scores["mistakes"][0]
    assert found[surest["index"]].probabilities[0] == pytest.approx(
        surest["probability"], rel=1e-5
    )
    assert scores["class_names"] == names
    assert {"ant", "<owl> & kin"} <= {each["name"] for each in scores["classes"]}


def test_names_in_another_order_are_scored_by_name(folder, arguments, evaluation):
    names = sorted(CLASSES)[3:] + sorted(CLASSES)[:3]
    found = evaluate(
        arguments[0], dataset=arguments[-1], model="lenet5", class_names=names
    )
    paths = sorted((folder / "photos" / "test").glob("*/*.png"))
    said = predict(arguments[0], paths, model="lenet5", class_names=names, top=1)
    right = [
        each.names[0] == path.parent.name
        for each, path in zip(said, paths, strict=True)
    ]
    assert found.scores.class_names == tuple(names)
    assert found.scores.num_correct == sum(right)
    assert abs(found.scores.loss - evaluation.scores.loss) > 1e-3


def test_a_folder_without_splits_is_evaluated_whole(capsys, folder, arguments):
    _, whole, _ = run(capsys, *arguments, "--json")
    inner = [*arguments[:-1], f"folder:{folder / 'photos' / 'test'}"]
    status, found, _ = run(capsys, *inner, "--json")
    assert status == 0
    assert json.loads(found)["scores"] == json.loads(whole)["scores"]
    status, _, err = run(capsys, *inner, "--split", "test")
    assert status == 2
    assert "there are no splits" in err


def test_a_split_that_is_missing_is_no_other(capsys, folder, tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"")
    weights = [folder / "weights.safetensors", "--model", "lenet5"]
    status, _, err = run(capsys, *weights, "--dataset", f"folder:{tmp_path}")
    assert status == 2
    assert "['train']" in err


def test_the_record_says_what_the_scores_follow_from(capsys, folder, arguments):
    _, out, _ = run(capsys, *arguments, "--json")
    record = json.loads(out)
    content = (folder / "weights.safetensors").read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["digest"] is None
    photos = data.Folder(folder / "photos", "test")
    assert record["fingerprint"] == photos.fingerprint
    info = cnn_jax.model_info("lenet5")
    assert record["preprocessing"]["size"] == 32
    assert record["preprocessing"]["mean"] == list(info.mean)
    assert record["environment"]["versions"]["jax"] == jax.__version__
    assert record["environment"]["cpu"]
    assert record["environment"]["date"]
    assert record["published"] is None
    assert str(folder) not in out


def test_weights_in_a_directory_have_a_digest(capsys, folder, arguments, tmp_path):
    cnn_jax.pretrained.convert(arguments[0], tmp_path / "own", "lenet5")
    evaluation = evaluate(tmp_path / "own", dataset=arguments[-1])
    assert evaluation.sha256 is None
    assert len(evaluation.digest) == 64
    assert evaluation.model == "lenet5"


def test_a_set_in_memory_has_the_same_scores_as_its_files(network, folder, tmp_path):
    digits = data.load_dataset("digits", "test", image_size=32).take_per_class(5)
    for number, (image, label) in enumerate(
        zip(digits.images, digits.labels, strict=True)
    ):
        path = tmp_path / "test" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image[..., 0]).save(path)
    weights = folder / "weights.safetensors"
    resident, streamed = (
        evaluate(weights, dataset=dataset, model="lenet5", num_mistakes=3)
        for dataset in (digits, f"folder:{tmp_path}")
    )
    assert resident.scores.num_correct == streamed.scores.num_correct
    assert resident.scores.loss == pytest.approx(streamed.scores.loss, rel=1e-5)
    assert resident.scores.confusions == streamed.scores.confusions
    pictures = [each.picture for each in resident.scores.mistakes]
    assert all(each.startswith("data:image/png;base64,") for each in pictures)


def test_the_page_shows_the_scores_and_is_whole(capsys, arguments, tmp_path):
    out = tmp_path / "new" / "out"
    status, said, _ = run(capsys, *arguments, "--out", out)
    assert status == 0
    assert names_in(out) == FILES
    assert "evaluation.html" in said
    record = json.loads((out / "evaluation.json").read_text())
    text = (out / "evaluation.html").read_text()
    page = Page(text)
    visible = " ".join(page.texts)
    scores = record["scores"]
    assert f"{scores['num_correct']} of 20 examples" in visible
    assert f"{scores['accuracy']['mean']:.2%}" in visible
    assert record["sha256"] in visible
    assert record["fingerprint"] in visible
    assert "<owl> & kin" in visible
    assert "<owl>" not in text
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == len(scores["mistakes"])
    assert all(each.startswith("data:image/png;base64,") for each in sources)
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert str(tmp_path) not in text


def test_results_from_before_are_replaced_and_nothing_else(capsys, arguments, tmp_path):
    assert run(capsys, *arguments, "--out", tmp_path)[0] == 0
    before = (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.html.new").write_text("what a killed process left")
    assert run(capsys, *arguments, "--out", tmp_path, "--mistakes", 1)[0] == 0
    assert names_in(tmp_path) == FILES
    assert len((tmp_path / "evaluation.json").read_text()) < len(before)
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = run(capsys, "no such weights", *arguments[1:], "--out", tmp_path)
    assert status == 2
    assert "notes.txt" in err
    assert err.count("\n") == 1
    assert names_in(tmp_path) == FILES | {"notes.txt"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_that_name_that_is_none_of_its_own_stays(
    capsys, arguments, tmp_path, name
):
    (tmp_path / name).write_text('{"kind": "another"}')
    status, _, err = run(capsys, *arguments, "--out", tmp_path)
    assert status == 2
    assert name in err
    assert (tmp_path / name).read_text() == '{"kind": "another"}'


def test_a_file_in_place_of_the_directory(capsys, arguments, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        status, _, err = run(capsys, *arguments, "--out", out)
        assert status == 2
        assert err.count("\n") == 1
    assert names_in(tmp_path) == {"file"}


@pytest.fixture(scope="module")
def evaluation(folder):
    return evaluate(
        folder / "weights.safetensors",
        dataset=f"folder:{folder / 'photos'}",
        model="lenet5",
    )


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_full_disk_leaves_what_was_there(evaluation, tmp_path, name):
    out = tmp_path / "out"
    with no_space_for(name), pytest.raises(OSError, match="No space left"):
        write_results(out, evaluation)
    assert not out.exists()
    write_results(out, evaluation)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with no_space_for(name), pytest.raises(OSError, match="No space left"):
        write_results(out, dataclasses.replace(evaluation, model="another"))
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_the_directory_may_be_named_from_the_home(evaluation, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert write_results("~/out", evaluation) == tmp_path / "out" / "evaluation.html"
    assert names_in(tmp_path / "out") == FILES


def test_a_full_disk_is_one_sentence(capsys, arguments, tmp_path):
    with no_space_for("evaluation.html"):
        status, out, err = run(capsys, *arguments, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert "No space left" in err
    assert err.count("\n") == 1
    assert names_in(tmp_path) == set()


class Interrupting:
    """Interrupts one call of those that write, as it begins or as it returns."""

    def __init__(self, number, moment):
        self.number, self.moment, self.made = number, moment, 0

    def wrap(self, call):
        def wrapper(*args, **kwargs):
            self.made += 1
            is_this = self.made == self.number
            if is_this and self.moment == "begins":
                raise KeyboardInterrupt
            try:
                return call(*args, **kwargs)
            finally:
                if is_this:
                    raise KeyboardInterrupt

        return wrapper


def models_in(directory):
    """Returns of which evaluation each file of a directory is."""
    return [
        "another" if "another" in (directory / name).read_text() else "first"
        for name in sorted(names_in(directory))
    ]


@pytest.mark.parametrize("moment", ["begins", "returns"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "replaced"])
def test_an_interrupt_of_any_call_leaves_both_files_or_neither(
    evaluation, tmp_path, monkeypatch, is_new, moment
):
    another = dataclasses.replace(evaluation, model="another")
    # Drawn before: what drawing imports must not be interrupted, and takes time.
    pages = {
        each.model: results.render(record_of(each)) for each in (evaluation, another)
    }
    monkeypatch.setattr(results, "render", lambda record: pages[record["model"]])
    left = []
    for number in itertools.count(1):
        out = tmp_path / f"out{number}"
        if not is_new:
            write_results(out, evaluation)
        interrupting = Interrupting(number, moment)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "fsync", "replace", "unlink"):
                patch.setattr(os, name, interrupting.wrap(getattr(os, name)))
            try:
                write_results(out, another)
                break  # it makes fewer calls
            except KeyboardInterrupt:
                left.append(models_in(out))
        assert out.exists() is bool(left[-1] or not is_new)
    assert number > 8
    assert left[0] == [] if is_new else ["first"] * 2
    assert all(each in ([], ["first"] * 2, ["another"] * 2) for each in left), left
    assert left[-1] == ["another"] * 2


def test_unreadable_images_are_named_or_left_out(capsys, folder, arguments, tmp_path):
    for name in CLASSES:
        target = tmp_path / "photos" / "test" / name
        target.mkdir(parents=True)
        for path in (folder / "photos" / "test" / name).iterdir():
            (target / path.name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "test" / "cat" / "0.png").write_bytes(b"no image")
    arguments = [*arguments[:-1], f"folder:{tmp_path / 'photos'}", "--json"]
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert "cat/0.png" in err
    assert out == ""
    status, out, _ = run(capsys, *arguments, "--max-bad-images", 1)
    record = json.loads(out)
    assert status == 0
    assert record["scores"]["num_examples"] == 19
    classes = record["scores"]["classes"]
    counts = {each["name"]: each["num_examples"] for each in classes}
    assert counts == {name: 1 if name == "cat" else 2 for name in CLASSES}
    origins = [each["origin"] for each in record["bad_images"]]
    assert origins == ["test/cat/0.png"]


def test_other_classes_are_refused_before_any_image_is_read(capsys, folder, tmp_path):
    weights = [folder / "weights.safetensors", "--model", "lenet5"]
    for name in ("left", "right"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.png").write_bytes(b"no image")
    status, out, err = run(capsys, *weights, "--dataset", f"folder:{tmp_path}")
    assert (status, out) == (2, "")
    assert "got 2 classes ('left', 'right'), expected" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--dataset"),
        (["--dataset", "folder:/nowhere"], "/nowhere"),
        (["--dataset", "digits", "--split", "tests"], "tests"),
        (["--dataset", "digits", "--batch-size", "0"], "--batch-size"),
        (["--dataset", "digits", "--batch-size", "7"], "batch"),
        (["--dataset", "digits", "--mistakes", "-1"], "--mistakes"),
        (["--dataset", "digits", "--model", "lenet6"], "lenet6"),
    ],
    ids=["no data", "no folder", "no split", "zero", "7", "below zero", "no model"],
)
def test_invalid_options_are_one_sentence(capsys, folder, options, said):
    arguments = [folder / "weights.safetensors", *options]
    if "--model" not in options:
        arguments += ["--model", "lenet5"]
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


# It says when it listens to signals. A background job of a shell ignores SIGINT, and so
# would its children.
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cnn_jax import cli
run = cli._run

def say_and_run(arguments):
    print("listening", flush=True)
    return run(arguments)

cli._run = say_and_run
sys.exit(cli.main())
"""


def evaluation_process(directory, *more):
    command = [sys.executable, "-c", LISTENING, "evaluate", str(WEIGHTS)]
    command += ["--model", "resnet20", "--dataset", "cifar10", "--out", str(directory)]
    command += ["--data-dir", str(SHARED / "tfds"), *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def require_cifar10():
    if not WEIGHTS.is_file() or not (SHARED / "tfds" / "cifar10").is_dir():
        pytest.skip(f"no {WEIGHTS} or no tfds/cifar10 beside it; set CNN_JAX_DATA")


@pytest.mark.slow
def test_the_public_resnet20_is_right_on_8103_of_cifar10(tmp_path):
    require_cifar10()
    process = evaluation_process(tmp_path, "--split", "test")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "8,103 of 10,000" in out
    scores = json.loads((tmp_path / "evaluation.json").read_text())["scores"]
    assert (scores["num_correct"], scores["num_examples"]) == (8103, 10_000)


@pytest.mark.nightly
@pytest.mark.parametrize("repeats", [1, 4])
def test_an_evaluation_that_is_ended_leaves_nothing(repeats, tmp_path):
    require_cifar10()
    process = evaluation_process(tmp_path / "whole")
    process.stdout.readline()
    started = time.monotonic()
    process.communicate(timeout=600)
    seconds = time.monotonic() - started
    assert names_in(tmp_path / "whole") == FILES
    draw = random.Random(0)
    statuses = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    for attempt, (number, expected) in enumerate([*statuses.items()] * repeats):
        out = tmp_path / f"out{attempt}"
        process = evaluation_process(out)
        process.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.8) * seconds)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:  # it was faster than before
            assert names_in(out) == FILES
            continue
        assert process.returncode == expected, err
        if number == signal.SIGKILL:
            # What it leaves is one of these, complete, and what was not yet.
            assert "evaluation.html" not in names_in(out) or names_in(out) >= FILES
            continue
        assert err.count("\n") == 1
        # It may have come when the results were written and not yet printed.
        assert not out.exists() or names_in(out) == FILES
