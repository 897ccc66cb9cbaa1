"""Type checkers on the package, and on a user's file that calls all of it.

`python -m pip install -e ".[types]"` brings the checkers; without them these tests are
skipped. They look the package up where this environment finds it, as a user's would.
"""

import ast
import functools
import importlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import typing

import pytest

from cnn_jax import data, geometry, training
from cnn_jax.data.host import learned
from cnn_jax.pretrained import key_maps, rules

ROOT = pathlib.Path(__file__).parents[1]
USER_CODE = ROOT / "tests/fixtures/user_code.py"

# Those that README and docstrings import.
PUBLIC = (
    "cnn_jax",
    "cnn_jax.analysis",
    "cnn_jax.analysis.gradcheck",
    "cnn_jax.analysis.residuals",
    "cnn_jax.analysis.timing",
    "cnn_jax.checkpoint",
    "cnn_jax.data",
    "cnn_jax.data.device",
    "cnn_jax.data.host",
    "cnn_jax.geometry",
    "cnn_jax.kernels",
    "cnn_jax.kernels.autodiff",
    "cnn_jax.kernels.textbook",
    "cnn_jax.layers",
    "cnn_jax.models",
    "cnn_jax.pretrained",
    "cnn_jax.sharding",
    "cnn_jax.testing",
    "cnn_jax.training",
    "cnn_jax.training.run.result",
    "cnn_jax.training.devices.spread",
    "cnn_jax.transfer.probe",
    "cnn_jax.transfer.policies",
    "cnn_jax.trees",
)
# They are made to be called by those that are used, by networks, or by the tests.
NOT_CALLED = {
    "cnn_jax.analysis.gradcheck.draw_like",
    "cnn_jax.analysis.gradcheck.pull_back",
    "cnn_jax.layers.layer_factories",
}


def public_names(module):
    """`__all__`, or what a package imports to export it, or what a file defines."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    path = pathlib.Path(module.__file__)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if path.name == "__init__.py":
        imports = (node for node in body if isinstance(node, ast.ImportFrom))
        return {alias.asname for node in imports for alias in node.names} - {None}
    definitions = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for node in body if isinstance(node, definitions)}
    return {name for name in names if not name.startswith("_")}


@functools.cache
def used_names():
    """The names of the package that the user's file uses, each by its full path."""
    tree = ast.parse(USER_CODE.read_text(encoding="utf-8"))
    modules = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                modules[alias.asname or alias.name] = full
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            found.add(f"{modules.get(first, first)}.{rest}")
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_user_code_uses_every_public_name(name):
    module = importlib.import_module(name)
    names = public_names(module)
    assert names
    missing = {f"{name}.{each}" for each in names} - used_names()
    # A module is used where anything in it is.
    assert not missing - NOT_CALLED - set(PUBLIC)


def run(checker, *arguments, cwd):
    """Runs a checker outside of the checkout."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f'{checker} is not installed: pip install -e ".[types]"')
    environment = {
        **os.environ,
        # pyright finds packages by the first Python on the path.
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])),
        # Whatever is put in front of what is installed; mypy has a name of its own.
        "MYPYPATH": os.environ.get("PYTHONPATH", ""),
    }

    def start(*options):
        return subprocess.run(
            [sys.executable, "-m", checker, *options],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    if checker == "pyright" and start("--version").returncode:
        pytest.skip(
            "pyright cannot fetch itself here, which it does when it first runs"
        )
    done = start(*arguments)
    print(done.stdout + done.stderr)  # what a failure shows
    return done


def copied(path, folder):
    copy = folder / path.name
    copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return copy


@pytest.mark.slow
def test_mypy_accepts_user_code(tmp_path):
    path = copied(USER_CODE, tmp_path)
    done = run("mypy", "--strict", "--follow-imports=silent", path, cwd=tmp_path)
    assert done.returncode == 0


@pytest.mark.slow
def test_pyright_accepts_user_code(tmp_path):
    path = copied(USER_CODE, tmp_path)  # it sets the strictness itself
    assert run("pyright", path, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_mypy_finds_nothing_in_the_package(tmp_path):
    cache = ("--cache-dir", tmp_path)
    assert run("mypy", "--config-file", "setup.cfg", *cache, cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_every_public_name_has_a_type(tmp_path):
    options = ("--verifytypes", "cnn_jax", "--ignoreexternal")
    assert run("pyright", *options, cwd=tmp_path).returncode == 0


def test_words_have_one_source():
    """A signature's words are those that are accepted when it runs."""
    fields = typing.get_type_hints(training.TrainConfig)
    assert data.opening.Path == fields["data_path"]
    assert set(learned.AUTO_AUGMENT) == set(typing.get_args(learned.LearnedPolicy))
    known = {"cnn_jax"}.union(*key_maps.KEY_MAPS.values())
    assert known == set(typing.get_args(rules.Origin))


def test_padding_takes_the_words_of_its_type():
    words, *_ = typing.get_args(geometry.Padding)
    for word in typing.get_args(words):
        sizes = ((7, 8), (3, 3), (2, 2), (1, 1))
        upper = geometry.explicit_padding(word, *sizes)
        assert geometry.explicit_padding(word.lower(), *sizes) == upper
