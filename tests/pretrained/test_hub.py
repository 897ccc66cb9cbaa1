"""Names on the Hub, out of a cache laid out as `huggingface_hub` does; no network."""

import json
import os
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

import cnn_jax
from cnn_jax.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.files.hub import preprocessing_of
from cnn_jax.pretrained.files.stored import as_said

COMMIT = "767268603ca0cb0bfe326fa87277f19c419566ef"
NAME = "hf-hub:timm/lenet5.some_in1k"
CONFIG = {
    "architecture": "lenet5",
    "num_classes": 10,
    "pretrained_cfg": {
        "input_size": [1, 32, 40],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5],
        "std": [0.25],
        "classifier": "fc",
    },
}


@pytest.fixture
def folder(tmp_path):
    """The cache's folder of one repository, at one commit, which `main` names."""
    root = tmp_path / "models--timm--lenet5.some_in1k"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def hub(folder, tmp_path, lenet_arrays, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    safetensors.numpy.save_file(lenet_arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_weights_and_preprocessing(revision, hub, folder, lenet):
    loaded, report = cnn_jax.load_pretrained("lenet5", NAME + revision)
    chex.assert_trees_all_equal(loaded, lenet)
    provenance = report.provenance
    assert provenance.location == NAME + revision
    assert provenance.revision == COMMIT
    assert provenance.file == folder / "model.safetensors"
    assert provenance.preprocessing == {
        "mean": [0.5],
        "std": [0.25],
        "crop_fraction": 0.95,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "input_shape": [32, 40, 1],
    }
    assert "mean 0.5, std 0.25, crop_fraction 0.95, crop_mode center" in str(report)
    assert "input_shape 32 40 1" in str(report)


def test_settings_at_the_top_of_the_config(hub, folder):
    (folder / "config.json").write_text(json.dumps(CONFIG["pretrained_cfg"]))
    _, report = cnn_jax.load_pretrained("lenet5", NAME)
    assert report.provenance.preprocessing["mean"] == [0.5]


@pytest.fixture
def rewrite(hub, folder):
    """Changes the configuration's settings, and returns what is then loaded."""

    def rewrite(**changed):
        settings = CONFIG["pretrained_cfg"] | {"input_size": [1, 32, 32]} | changed
        content = CONFIG | {"pretrained_cfg": settings}
        (folder / "config.json").write_text(json.dumps(content))
        _, report = cnn_jax.load_pretrained("lenet5", NAME)
        return report.provenance.preprocessing

    return rewrite


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_the_crop_mode(mode, rewrite):
    assert rewrite(crop_mode=mode)["crop_mode"] == mode


def test_evaluation_is_at_the_size_that_timm_takes_by_itself(rewrite):
    found = rewrite(test_input_size=[1, 36, 36], test_crop_pct=1.0)
    assert (found["input_shape"], found["crop_fraction"]) == ([32, 32, 1], 0.95)


def test_what_a_config_leaves_out_is_timms_default():
    defaults = {
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "crop_fraction": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "input_shape": [224, 224, 3],
    }
    half = [0.5, 0.5, 0.5]
    nothing = {"mean": half, "crop_pct": None, "crop_mode": None, "std": None}
    assert preprocessing_of(nothing) == defaults | {"mean": half}
    found = preprocessing_of({"pretrained_cfg": {"input_size": [3, 96, 96]}})
    assert found == defaults | {"input_shape": [96, 96, 3]}
    assert preprocessing_of({"architectures": ["ResNet"], "num_channels": 3}) == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"interpolation": "random"},
            "interpolation: got 'random', expected 'nearest'",
        ),
        ({"interpolation": ["bicubic"]}, "interpolation: got "),
        ({"crop_mode": "corner"}, "crop_mode: got 'corner', expected 'center' or "),
        ({"crop_pct": 1.15}, "crop_pct: got 1.15, expected at most 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_image_can_be_prepared_by(changed, message, rewrite, folder):
    with pytest.raises(ValueError, match=message) as caught:
        rewrite(**changed)
    assert "config.json: " in str(caught.value)
    assert "Pass the path of the model.safetensors beside it" in str(caught.value)
    # As it says.
    _, report = cnn_jax.load_pretrained("lenet5", folder / "model.safetensors")
    assert report.provenance.preprocessing == {}


@pytest.mark.parametrize("content", [None, {"architectures": ["LeNet"]}])
def test_no_config_or_one_without_images_is_said(content, hub, folder):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(json.dumps(content))
    with pytest.warns(
        UserWarning,
        match=r"some_in1k: has no config.json that .* timm's weights of lenet5 "
        "usually get is assumed: 32 x 32 x 1, center crop 1, bilinear, mean 0.1307, "
        "std 0.3081",
    ) as caught:
        _, report = cnn_jax.load_pretrained("lenet5", NAME)
    assert len(caught) == 1
    usual = cnn_jax.model_info("lenet5").preprocessing
    assert report.provenance.preprocessing == as_said(usual)


def test_a_converted_file_without_a_config_has_its_own(hub, folder, tmp_path):
    converted = tmp_path / "converted.safetensors"
    convert(NAME, converted, "lenet5")
    converted.replace(folder / "model.safetensors")
    (folder / "config.json").unlink()
    _, report = cnn_jax.load_pretrained("lenet5", NAME)
    assert report.provenance.preprocessing["mean"] == [0.5]


def test_a_config_with_a_byte_order_mark(hub, folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text, encoding="utf-8-sig")
    _, report = cnn_jax.load_pretrained("lenet5", NAME)
    assert report.provenance.preprocessing["mean"] == [0.5]


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"[]", b'{"mean": 3}', b'{"input_size": [1]}', b'{"a": "\xe9"}'),
        *(b'{"mean": [NaN]}', b'{"std": [0]}', b'{"std": [1e400]}', b'{"mean": {}}'),
        *(b'{"mean": [1' + b"0" * 400 + b"]}", b'{"crop_pct": "nan"}'),
        *(b'{"input_size": [3, -1, 5]}', b'{"input_size": [3, 1e300, 5]}'),
        *(b'{"pretrained_cfg": 3}', b'{"pretrained_cfg": {"mean": "x"}}'),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000),
    ],
    ids=lambda content: str(content[:40]),
)
def test_a_damaged_config(content, hub, folder):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"got a damaged config.json"):
        cnn_jax.load_pretrained("lenet5", NAME)


def test_damaged_weights(hub, folder):
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged safetensors"):
        cnn_jax.load_pretrained("lenet5", NAME)


@pytest.mark.parametrize("name", [f"{NAME}x", f"{NAME}@other"])
def test_what_the_cache_has_not_got_is_not_fetched_offline(name, hub):
    with pytest.raises(FileNotFoundError, match=r"cannot get .*OFFLINE unset"):
        cnn_jax.load_pretrained("lenet5", name)


def test_the_environment_says_where_and_whether(hub, folder, tmp_path):
    """In a process of its own: that library reads the variables when imported."""
    script = (
        "import sys, cnn_jax\n"
        "_, report = cnn_jax.load_pretrained('lenet5', sys.argv[1])\n"
        "print(report.provenance.file)\n"
        "cnn_jax.load_pretrained('lenet5', 'hf-hub:timm/absent')\n"
    )
    environment = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, NAME],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(folder / "model.safetensors")
    assert "FileNotFoundError: hf-hub:timm/absent: cannot get" in done.stderr


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:timm", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:a/b c"]
)
def test_names_that_cannot_be_meant(name):
    with pytest.raises(ValueError, match="expected hf-hub:OWNER/NAME or"):
        cnn_jax.load_pretrained("lenet5", name)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'cnn_jax\[hub\]'"):
        cnn_jax.load_pretrained("lenet5", NAME)


def test_a_new_last_layer(hub):
    loaded, report = cnn_jax.load_pretrained(
        "lenet5", NAME, num_classes=3, key=jax.random.key(0)
    )
    assert loaded["params"]["head"]["bias"].shape == (3,)
    assert np.all(np.isfinite(loaded["params"]["head"]["kernel"]))
    assert len(report.initialized) == 2
