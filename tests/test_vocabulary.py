"""One vocabulary, the field's: no private terms, and docstrings that open with a verb.

Quick, and without JAX.
"""

import ast
import functools
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

UNSEARCHED = ("CHANGELOG.md", "LICENSE", "tests/test_vocabulary.py")

SUFFIXES = {".cfg", ".css", ".md", ".py", ".toml", ".txt", ".yaml", ".yml", ""}
"""Of text that people write. Results of runs quote what older versions printed."""

TERMS = {
    # Prose, in whole words.
    r"\bvoices?\b": "implementation",
    r"\bopponents?\b": "baseline",
    r"\bhouse\b": "architecture",
    r"\brooms?\b": "package",
    r"\bfloors\b": "level",
    r"\bdoors?\b": "public API",
    r"\bcannot be meant\b": "is invalid",
    r"\bha(?:s|ve) mistakes\b": "is invalid",
    r"\bon (?:the|its|their) way back\b": "in the backward pass",
    r"\bworked off in parts\b": "split into microbatches",
    r"\blets? others in\b": "releases the lock",
    # Identifiers, also inside longer ones.
    r"(?<![a-z])lies(?![a-z])": "carry_shardings, or is placed",
    r"(?<![a-z])anatomy(?![a-z])": "ParameterRoles",
    r"in_a_hurry": "fast_compile_options",
    r"(?<![a-z])uphill": "perturbed_params",
    r"(?<![a-z])needy": "requires_roles",
    r"read_again": "cpu_optimization_barrier",
    r"_sum_of_nothing": "_zero_gradient",
    r"(?<![a-z])_judge(?![a-z])": "_update_best",
    r"(?<![a-z])_clocked(?![a-z])": "_epoch_timing",
    r"_refuse_numbers": "_raise_non_finite",
    # Modules and directories, whose names alone are plain English.
    r"\b(?:training|devices)[./]reduction\b": "collectives",
    r"\bimport reduction\b": "collectives",
    r"\b(?:training|optimizers)[./]updates\b": "transforms",
    r"\bimport updates\b": "transforms",
    r"\bkernels[./]lowering\b": "platforms",
    r"\bimport lowering\b": "platforms",
    r"\b(?:kernels|autodiff|textbook|cases)[./]norm\b": "batch_norm",
    r"\b(?:models|references)[./]golden\b": "parameter_trees, recorded_outputs",
    r"\b(?:make|test)_golden\b": "record_outputs, test_recorded_outputs",
}
"""A regular expression for what is not to be written -> the term for it."""

QUESTIONS = re.compile(r"(What|How|Whether|Which|Where)\b")


def find_terms(text):
    """Yields `(line, found, term)` for everything in a text that has another term.

    Between words may be the end of a line, with the marks of a comment or a string.
    """
    for pattern, term in compiled_terms():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match.group(), term


@functools.cache
def compiled_terms():
    return [
        (re.compile(pattern.replace(" ", r"""[\s#"']+"""), re.IGNORECASE), term)
        for pattern, term in TERMS.items()
    ]


def find_questions(source):
    """Yields the lines on which docstrings begin with a question word.

    Those of modules, classes and functions, and of attributes and constants.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(ast.Constant(str(text))) if QUESTIONS.match(text):
                yield node.lineno


@pytest.fixture(scope="module")
def texts():
    """Returns path -> text of all tracked files that are searched."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a Git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if is_searched(name)]
    assert len(names) > 100
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


def is_searched(name):
    """Returns whether a path is of text and not left out."""
    path = ROOT / name
    return (
        path.is_file()
        and path.suffix in SUFFIXES
        and not name.startswith("tests/fixtures/checkpoint_v1/")
        and name not in UNSEARCHED
    )


def test_no_private_terms(texts):
    found = [
        f"{name}:{line}: {found!r}, expected {term!r}"
        for name, text in texts.items()
        for line, found, term in find_terms(text)
    ]
    assert not found, "\n".join(found)


def test_docstrings_open_with_what_code_does(texts):
    found = [
        f"{name}:{line}"
        for name, text in texts.items()
        if name.endswith(".py")
        for line in find_questions(text)
    ]
    assert not found, "expected a verb or a noun first at " + ", ".join(found)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb Lies there", [2]),
        ("carry_lies = 1", [1]),
        ("families, flies and replies to warehouses indoors", []),
        ("kept on the way back", [1]),
        ("\n    # kept on the way\n    # back", [2]),
        ('"kept on the "\n    "way back"', [1]),
        ("from cnn_jax.kernels import lowering", [1]),
        ("before lowering, kernels.normalize", []),
    ],
)
def test_terms_are_found_as_whole_words_and_across_lines(text, lines):
    assert [line for line, _, _ in find_terms(text)] == lines


def test_questions_are_found_in_every_docstring():
    source = (
        '"""How."""\n'
        "x = 1\n"
        '"""Which one."""\n'
        "def f():\n"
        '    """Whether."""\n'
        "class C:\n"
        '    """Whatever is good."""\n'
    )
    assert sorted(find_questions(source)) == [1, 3, 5]
