"""`package:NAME`: the weight file of an installed package, which is never run."""

import hashlib
import json
import os
import pathlib
import sys

import chex
import pytest
import safetensors.numpy
from PIL import Image

import cnn_jax
from cnn_jax import cli, experiment
from cnn_jax.cli import train_setup
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.files import check_exists, describe_own, open_weights

NAME = "package:mine_weights"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory on `sys.path`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def package(site, lenet_arrays):
    """A package with weights, which says so when it is run."""
    folder = site / "mine_weights"
    (folder / "models" / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it was imported')\n")
    safetensors.numpy.save_file(lenet_arrays, folder / "models/deep/a.safetensors")
    (folder / "models" / "README.md").write_text("no weights\n")
    return folder


def one_sentence(error):
    """Returns an error's message, which must be one sentence about its source."""
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    return message


@pytest.mark.parametrize("name", [NAME, "package:mine-weights"])
def test_the_one_file_is_read_and_nothing_is_run(name, package, lenet):
    loaded, report = cnn_jax.load_pretrained("lenet5", name)
    chex.assert_trees_all_equal(loaded, lenet)
    provenance = report.provenance
    assert provenance.location == name
    assert provenance.file == package / "models/deep/a.safetensors"
    assert provenance.revision is None
    assert provenance.preprocessing == {}
    assert provenance.class_names is None
    assert "mine_weights" not in sys.modules
    check_exists(name)
    assert describe_own(name) is None


def test_the_version_is_recorded(package, site, tmp_path):
    info = site / "mine_weights-1.25.dist-info"
    info.mkdir()
    metadata = "Metadata-Version: 2.1\nName: mine-weights\nVersion: 1.25\n"
    (info / "METADATA").write_text(metadata)
    _, metadata = convert(NAME, tmp_path / "converted.npz", "lenet5")
    assert (metadata["location"], metadata["revision"]) == (NAME, "1.25")
    weights = (package / "models/deep/a.safetensors").read_bytes()
    assert metadata["sha256"] == hashlib.sha256(weights).hexdigest()
    assert metadata["class_names"] is None


def test_converted_weights_in_a_package_name_their_model(package, lenet, tmp_path):
    plain = package / "models/deep/a.safetensors"
    convert(plain, package / "models/own.npz", "lenet5")
    plain.unlink()
    assert describe_own(NAME).model == "lenet5"
    _, report = cnn_jax.load_pretrained("lenet5", NAME)
    assert report.source == "cnn_jax"


def test_no_weights(package):
    (package / "models/deep/a.safetensors").unlink()
    with pytest.raises(FileNotFoundError) as error:
        cnn_jax.load_pretrained("lenet5", NAME)
    assert f"{NAME}: got a package without weights" in one_sentence(error)


def test_several_weights(package):
    (package / "b.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match="got 2 files of weights") as error:
        cnn_jax.load_pretrained("lenet5", NAME)
    message = one_sentence(error)
    assert str(package / "b.pth") in message
    assert "a.safetensors" in message
    for number in range(5):
        (package / f"c{number}.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"got 7 files .*, \.\.\.\), expected one"):
        describe_own(NAME)


def test_directories_and_links_to_them_are_no_weight_files(package, tmp_path):
    (package / "folder.pth").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.pth").write_bytes(b"x")
    (package / "linked").symlink_to(tmp_path / "elsewhere")
    (package / "dangling.pth").symlink_to(tmp_path / "nothing")
    with open_weights(NAME) as weights:
        assert weights.provenance.file == package / "models/deep/a.safetensors"


def test_a_namespace_package(package):
    (package / "__init__.py").unlink()
    with pytest.raises(ValueError, match="got a namespace package") as error:
        check_exists(NAME)
    one_sentence(error)


def test_a_module_in_one_file(site):
    (site / "mine_weights.py").write_text("raise RuntimeError('it was imported')\n")
    with pytest.raises(FileNotFoundError, match="without weights"):
        check_exists(NAME)


def test_nothing_installed():
    for function in (check_exists, describe_own):
        with pytest.raises(FileNotFoundError, match="no installed package") as error:
            function("package:no_such_package_anywhere")
        one_sentence(error)


def test_what_is_built_in_is_not_installed():
    with pytest.raises(FileNotFoundError, match="no installed package"):
        check_exists("package:sys")


def test_a_package_installed_since_the_last_look(site, lenet_arrays):
    with pytest.raises(FileNotFoundError):
        check_exists(NAME)
    status = site.stat()
    (site / "mine_weights").mkdir()
    (site / "mine_weights" / "__init__.py").touch()
    safetensors.numpy.save_file(lenet_arrays, site / "mine_weights/a.safetensors")
    # As on a file system that counts in seconds, which Python's own look-up trusts.
    os.utime(site, ns=(status.st_atime_ns, status.st_mtime_ns))
    check_exists(NAME)


@pytest.mark.parametrize(
    ("top_level", "expected"),
    [("other", r"package:other\."), ("a\nb\n", r"a or package:b\."), (None, "import")],
)
def test_the_name_of_a_distribution(top_level, expected, site):
    info = site / "mine_weights-1.25.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: mine-weights\nVersion: 1.25\n")
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)
    with pytest.raises(FileNotFoundError, match=expected) as error:
        check_exists("package:mine-weights")
    assert "got the name of a distribution" in one_sentence(error)


@pytest.mark.parametrize(
    "name", ["", "a.b", "a/b", "../a", "/a", "-a", "3a", "a b", "a\n", "é", "a==1"]
)
def test_invalid_names(name):
    with pytest.raises(ValueError, match="expected package:NAME") as error:
        cnn_jax.load_pretrained("lenet5", f"package:{name}")
    assert "\n" not in str(error.value)


def test_a_file_with_such_a_name_is_opened_as_a_path(
    package, lenet_arrays, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path(NAME + ".safetensors")
    safetensors.numpy.save_file(lenet_arrays, path)
    _, report = cnn_jax.load_pretrained("lenet5", path)
    assert report.provenance.file == path


def test_predict_and_convert_take_it(package, tmp_path, capsys):
    Image.new("L", (40, 32), 99).save(tmp_path / "grey.png")
    arguments = ["--model", "lenet5", str(tmp_path / "grey.png"), "--json"]
    assert cli.main(["predict", "--weights", NAME, *arguments]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    out = tmp_path / "out.safetensors"
    assert cli.main(["convert", NAME, str(out), "--model", "lenet5"]) == 0
    capsys.readouterr()
    assert cli.main(["predict", str(out), *arguments[2:]]) == 0
    assert json.loads(capsys.readouterr().out) == [found]
    assert cli.main(["predict", "package:absent", *arguments]) == 2
    assert "package:absent: got no installed package" in capsys.readouterr().err


def set_up(name, directory):
    options = ["train", "lenet5", "--data", "digits", "--pretrained", name]
    parser = cli._make_parser()
    options = parser.parse_args([*options, "--run-dir", str(directory)])
    return train_setup.set_up(options, {})


def test_training_starts_from_it(package, lenet, tmp_path):
    ready = set_up(NAME, tmp_path / "run")
    assert ready.config.pretrained == NAME
    _, variables = experiment._load_pretrained(
        ready.config, cnn_jax.create_model("lenet5"), ready.parts["train"]
    )
    chex.assert_trees_all_equal(variables, lenet)
    with pytest.raises(FileNotFoundError, match="no installed package"):
        set_up("package:absent", tmp_path / "run")
