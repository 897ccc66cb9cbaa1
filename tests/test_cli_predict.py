"""`cnn-jax predict`: what it says of images equals the model's own word."""

import json
import os
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
from helpers.drawn_lenet import draw_lenet5

import cnn_jax
from cnn_jax import cli
from cnn_jax.analysis.overlay import overlay
from cnn_jax.analysis.saliency import grad_cam
from cnn_jax.checkpoint import DirectoryInUseError
from cnn_jax.cli.predict import names_in_folder
from cnn_jax.data import load_dataset
from cnn_jax.pretrained import convert
from cnn_jax.report.images import MARGIN
from cnn_jax.trees import named_leaves

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(os.environ.get("CNN_JAX_DATA") or ROOT / ".." / "shared")
WEIGHTS = SHARED / "weights" / "cifar10_resnet20.safetensors"

INFO = cnn_jax.model_info("lenet5")
NAMES = [f"digit {number}" for number in range(10)]


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def network():
    return draw_lenet5(1 / 3)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """Weights, two gray images of the input's size, and the classes' names."""
    folder = tmp_path_factory.mktemp("predict")
    arrays = named_leaves(network[1])
    safetensors.numpy.save_file(arrays, folder / "weights.safetensors")
    generator = np.random.default_rng(1)
    (folder / "other").mkdir()
    for name in ("one.png", "other/one.png"):
        pixels = generator.integers(0, 256, (32, 32), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    return folder


def prepared(pixels):
    mean, std = np.float32(INFO.mean[0]), np.float32(INFO.std[0])
    return ((pixels.astype(np.float32) / 255 - mean) / std)[None, ..., None]


def expected_probabilities(network, pixels):
    model, variables = network
    logits = np.asarray(model.apply(variables, prepared(pixels), train=False))[0]
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def pixels_of(path):
    return np.asarray(PIL.Image.open(path))


def test_the_most_probable_classes_in_order(capsys, folder, network):
    images = [folder / "one.png", folder / "other/one.png"]
    arguments = [folder / "weights.safetensors", *images, "--model", "lenet5"]
    arguments += ["--classes", folder / "names.txt", "--top", 3]
    status, out, err = run(capsys, "predict", *arguments, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert [entry["image"] for entry in found] == list(map(str, images))
    for entry, path in zip(found, images, strict=True):
        expected = expected_probabilities(network, pixels_of(path))
        order = np.argsort(-expected)[:3].tolist()
        assert entry["classes"] == order
        assert entry["names"] == [NAMES[index] for index in order]
        np.testing.assert_allclose(entry["probabilities"], expected[order], rtol=1e-4)
        assert entry["picture"] is None
    status, table, _ = run(capsys, "predict", *arguments)
    assert status == 0
    for entry in found:
        assert f"{100 * entry['probabilities'][0]:.1f}" in table
        assert entry["names"][2] in table
    # All columns are in one block, and the folder of long names is said below it.
    assert table.count("Class") == 1
    assert f"Imagesin{folder}." in "".join(table.split())


def test_names_in_the_table():
    """Short ones as they are; of long ones what the images' common folder leaves."""
    short, long = "a/b.jpg", "photographs" * 4
    for images, expected in (
        ([short, f"/{short}"], (None, [short, f"/{short}"])),
        ([f"/{long}/{short}"], (f"/{long}/a", ["b.jpg"])),
        ([f"{long}/{short}", f"{long}/c.jpg"], (long, [short, "c.jpg"])),
        ([f"{long}/{short}", "c.jpg"], (None, [f"{long}/{short}", "c.jpg"])),
        ([f"/{long}/{short}", "c.jpg"], (None, [f"/{long}/{short}", "c.jpg"])),
        ([f"{long}.jpg"], (None, [f"{long}.jpg"])),
    ):
        assert names_in_folder(images) == expected


@pytest.mark.parametrize(
    "form",
    [
        "--weights W --model lenet5 A B",
        "A --weights W B --model lenet5",
        "A B --model lenet5 --weights W",
        "W --model lenet5 A B",
    ],
)
def test_weights_by_name_or_by_position(capsys, folder, form):
    paths = {
        "W": folder / "weights.safetensors",
        "A": folder / "one.png",
        "B": folder / "other/one.png",
    }
    words = [paths.get(word, word) for word in form.split()]
    status, out, _ = run(capsys, "predict", *words, "--json")
    assert status == 0
    found = [entry["image"] for entry in json.loads(out)]
    assert found == [str(paths["A"]), str(paths["B"])]
    status, out, err = run(capsys, "predict", "--weights", paths["W"])
    assert (status, out) == (2, "")
    assert err == "cnn-jax: error: IMAGE: got none, expected at least one.\n"
    status, _, err = run(capsys, "predict", paths["W"])
    assert "required: IMAGE" in err


def test_the_middle_of_an_image_is_brought_to_size(capsys, folder, network, tmp_path):
    """Of a small network's images the whole shorter side."""
    generator = np.random.default_rng(2)
    wide = generator.integers(0, 256, (64, 100), np.uint8)
    PIL.Image.fromarray(wide).save(tmp_path / "wide.bmp")
    middle = PIL.Image.fromarray(np.ascontiguousarray(wide[:, 18:82]))
    pixels = np.asarray(middle.resize((32, 32), PIL.Image.Resampling.BILINEAR))
    expected = expected_probabilities(network, pixels)
    _, out, _ = run(
        capsys,
        "predict",
        folder / "weights.safetensors",
        tmp_path / "wide.bmp",
        *("--model", "lenet5", "--top", 99, "--json"),
    )
    (entry,) = json.loads(out)
    assert len(entry["classes"]) == 10
    assert entry["names"][0] == f"class {np.argmax(expected)}"
    probabilities = np.zeros(10)
    probabilities[entry["classes"]] = entry["probabilities"]
    # Not exactly: resized at once, pixels beyond the edges contribute.
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)
    whole = PIL.Image.fromarray(wide).resize((32, 32), PIL.Image.Resampling.BILINEAR)
    squeezed = expected_probabilities(network, np.asarray(whole))
    assert np.abs(squeezed - expected).max() > 0.02


def test_pictures_show_the_map(capsys, folder, network, tmp_path):
    images = [folder / "one.png", folder / "other/one.png"]
    arguments = [folder / "weights.safetensors", *images, "--model", "lenet5"]
    arguments += ["--cam", tmp_path / "new" / "cam", "--endpoint", "stage1"]
    status, out, _ = run(capsys, "predict", *arguments, "--json")
    assert status == 0
    pictures = [entry["picture"] for entry in json.loads(out)]
    assert [pathlib.Path(path).name for path in pictures] == [
        "one_cam.png",
        "one_2_cam.png",
    ]
    model, variables = network
    for path, picture in zip(images, pictures, strict=True):
        pixels = pixels_of(path)
        maps = grad_cam(model, variables, prepared(pixels), endpoint="stage1")
        large = pixels.repeat(10, axis=0).repeat(10, axis=1)
        covered = overlay(large[None, ..., None], np.asarray(maps))[0]
        drawn = pixels_of(picture)
        body = drawn[:320]
        left = (drawn.shape[1] - 2 * 320 - MARGIN) // 2
        np.testing.assert_array_equal(body[:, left : left + 320, 0], large)
        right = left + 320 + MARGIN
        difference = body[:, right : right + 320].astype(int) - covered
        assert np.abs(difference).max() <= 2
        assert (drawn[320:] < 128).any()
    _, table, _ = run(capsys, "predict", *arguments)
    assert "map of class" in table


def test_a_bare_cam_writes_here(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [folder / "weights.safetensors", folder / "one.png"]
    arguments += ["--model", "lenet5", "--json", "--endpoint", "stage1", "--cam"]
    status, out, err = run(capsys, "predict", *arguments)
    assert (status, err) == (0, "")
    assert json.loads(out)[0]["picture"] == "one_cam.png"
    assert [path.name for path in tmp_path.iterdir()] == ["one_cam.png"]
    status, out, _ = run(capsys, "predict", "--cam=there", *arguments[:-1])
    assert json.loads(out)[0]["picture"] == os.path.join("there", "one_cam.png")


def test_pictures_replace_nothing_but_such_pictures(capsys, folder, tmp_path):
    image, weights = tmp_path / "one.png", folder / "weights.safetensors"
    image.write_bytes((folder / "one.png").read_bytes())
    place = tmp_path / "one_cam.png"
    arguments = ["predict", weights, image, "--model", "lenet5", "--endpoint", "stage1"]
    arguments += ["--cam", tmp_path]
    assert run(capsys, *arguments)[0] == 0
    first = place.read_bytes()
    place.write_bytes(first[:-1])
    assert run(capsys, *arguments)[0] == 0  # what was one is replaced
    assert place.read_bytes() == first
    # A picture of before, classified itself; another's file; a link to another's file.
    status, _, err = run(capsys, *arguments[:2], place, *arguments[2:])
    assert (status, "an output that is an input" in err) == (2, True)
    for content in (image.read_bytes(), b"notes"):
        place.write_bytes(content)
        status, _, err = run(capsys, *arguments)
        assert (status, "did not write" in err) == (2, True)
        assert place.read_bytes() == content
    place.rename(tmp_path / "target")
    (tmp_path / "target").write_bytes(first)
    place.symlink_to(tmp_path / "target")
    assert run(capsys, *arguments)[0] == 2
    assert place.is_symlink()
    place.unlink()
    place.symlink_to(tmp_path / "nothing")
    assert run(capsys, *arguments)[0] == 2
    assert not (tmp_path / "nothing").exists()


def test_names_of_no_encoding(capsys, folder, tmp_path):
    image = tmp_path / os.fsdecode(b"one\xff\x1b[31m.png")
    image.write_bytes((folder / "one.png").read_bytes())
    arguments = ["predict", folder / "weights.safetensors", image, "--model", "lenet5"]
    arguments += ["--cam", tmp_path, "--endpoint", "stage1"]
    status, out, _ = run(capsys, *arguments)
    assert (status, "one\\udcff\\x1b[31m.png" in out) == (0, True)
    status, out, _ = run(capsys, *arguments, "--json")
    assert os.path.exists(json.loads(out)[0]["picture"])


def test_what_is_wrong_with_a_checkpoint_is_one_sentence(capsys, folder, monkeypatch):
    def fail(*arguments, **keywords):
        raise DirectoryInUseError("weights: another run writes here.")

    monkeypatch.setattr("cnn_jax.prediction.predict", fail)
    status, out, err = run(capsys, "predict", folder, folder / "one.png")
    assert (status, out) == (2, "")
    assert err == "cnn-jax: error: weights: another run writes here.\n"


def test_a_directory_without_weights_is_one_sentence(capsys, folder):
    status, out, err = run(capsys, "predict", folder, folder / "one.png")
    assert (status, out) == (2, "")
    assert err == f"cnn-jax: error: {folder}: expected a checkpoint, found none.\n"


def test_a_converted_checkpoint_knows_its_model_and_classes(capsys, folder, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    convert(
        folder / "weights.safetensors",
        checkpoint,
        "lenet5",
        num_classes=4,
        key=jax.random.key(0),
    )
    arguments = ["predict", checkpoint, folder / "one.png", "--json"]
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    (entry,) = json.loads(out)
    assert sorted(entry["classes"]) == [0, 1, 2, 3]
    assert sum(entry["probabilities"]) == pytest.approx(1, rel=1e-5)
    status, _, err = run(capsys, *arguments, "--classes", folder / "names.txt")
    assert status == 2
    assert "class names: got 10, expected 4" in err


def test_all_bad_images_are_named(capsys, folder, tmp_path):
    good = folder / "one.png"
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(good.read_bytes()[:300])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    missing = tmp_path / "missing.png"
    status, out, err = run(
        capsys,
        *("predict", folder / "weights.safetensors"),
        *(truncated, good, text, missing, tmp_path),
        *("--model", "lenet5"),
    )
    assert (status, out) == (2, "")
    assert err.startswith("cnn-jax: error: 4 bad images:")
    assert "Traceback" not in err
    for path in (truncated, text, missing, tmp_path):
        assert f"  {path}: " in err
    assert str(good) not in err
    assert "No such file" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "lenet6"], ["unknown name 'lenet6'", "'lenet5'"]),
        ([], ["does not say which model's", "name the model"]),
        (["--model", "resnet20"], ["fit"]),
        (["--model", "lenet5", "--top", "0"], ["top 0"]),
        (["--model", "lenet5", "--num-classes", "7"], ["10 classes"]),
        (["--model", "lenet5", "--classes", "NONE"], ["NONE"]),
        (["--model", "lenet5", "--cam", "X", "--endpoint", "stage8"], ["'stage8'"]),
        (["--model", "lenet5", "--cam", "X", "--endpoint", "features"], ["(n, h, w"]),
    ],
)
def test_mistakes_exit_with_2(capsys, folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(
        capsys,
        "predict",
        folder / "weights.safetensors",
        folder / "one.png",
        *arguments,
    )
    assert (status, out) == (2, "")
    assert err.startswith("cnn-jax: error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_is_a_bad_image(capsys, folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    images = [tmp_path / name for name in ("pipe.png", "endless.png")]
    weights = folder / "weights.safetensors"
    options = ("--model", "lenet5")
    status, _, errors = run(capsys, "predict", weights, *images, *options)
    assert status == 2
    assert "2 bad images:" in errors
    assert "pipe.png: got a named pipe, expected a regular file." in errors
    assert "endless.png: got a device, expected a regular file." in errors


def test_files_of_names(capsys, folder, tmp_path):
    path = tmp_path / "names.txt"
    arguments = [folder / "weights.safetensors", folder / "one.png", "--json"]
    arguments += ["--model", "lenet5", "--top", 10, "--classes", path]
    path.write_text("\n".join(NAMES) + "\n", encoding="utf-8-sig")
    status, out, _ = run(capsys, "predict", *arguments)
    assert status == 0
    assert sorted(json.loads(out)[0]["names"]) == sorted(NAMES)
    for content, reason in (
        (b"a\n\nb\n\n\n", "an empty line 2"),
        ("z\xe9ro\nun\n".encode("latin-1"), "bytes that are not utf-8 in line 1"),
    ):
        path.write_bytes(content)
        status, _, err = run(capsys, "predict", *arguments)
        assert status == 2
        assert err.startswith(f"cnn-jax: error: {path}: got {reason}")


@pytest.mark.slow
def test_a_trained_network_names_what_is_there(capsys, tmp_path):
    if not WEIGHTS.is_file() or not (SHARED / "tfds" / "cifar10").is_dir():
        pytest.skip(f"no {WEIGHTS} or no tfds/cifar10 beside it; set CNN_JAX_DATA")
    test = load_dataset("cifar10", "test", data_dir=SHARED / "tfds", progress=False)
    (tmp_path / "names.txt").write_text("\n".join(test.class_names))
    paths = [tmp_path / f"{index}.png" for index in range(60)]
    for path, pixels in zip(paths, test.images, strict=False):
        PIL.Image.fromarray(pixels).save(path)
    arguments = ["--model", "resnet20", "--classes", tmp_path / "names.txt", "--json"]
    arguments += ["--cam", tmp_path / "cam"]
    status, out, _ = run(capsys, "predict", WEIGHTS, *paths, *arguments)
    assert status == 0
    found = json.loads(out)
    right = [
        entry["names"][0] == test.class_names[label]
        for entry, label in zip(found, test.labels, strict=False)
    ]
    # 81 % of the whole split are right.
    assert sum(right) >= 42
    assert all(pathlib.Path(entry["picture"]).is_file() for entry in found)
