"""The README's commands and code, run."""

import dataclasses
import pathlib
import re

import pytest

import cnn_jax
from cnn_jax import cli
from cnn_jax.training import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_runs(number):
    exec(compile(BLOCKS[number], f"{README.name}, block {number}", "exec"), {})


def model_table():
    """One row for each family: its paper, its models, parameters and accuracies."""
    families = {}
    for info in map(cnn_jax.model_info, cnn_jax.list_models()):
        families.setdefault((info.year, info.family), []).append(info)
    lines = ["| year | models | parameters | top-1 |", "|---|---|---|---|"]
    for (year, _), infos in sorted(families.items()):
        infos.sort(key=lambda info: info.parameters)
        names = " ".join(f"`{info.name}`" for info in infos)
        sizes = [f"{info.parameters / 1e6:.2f}" for info in (infos[0], infos[-1])]
        accuracies = [info.top1 for info in infos if info.top1 is not None]
        span = (
            [f"{top1:.1f}" for top1 in (min(accuracies), max(accuracies))]
            if (accuracies)
            else ["-"]
        )
        cells = (names, f"{_span(sizes)} M", _span(span))
        lines.append(f"| {year} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _span(texts):
    return " to ".join(dict.fromkeys(texts))


def test_model_table_is_the_registry():
    assert model_table() in TEXT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_file_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", page.read_text("utf-8"))
    assert targets or page != README
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    named = re.findall(
        r"`((?:cnn_jax|experiments|tests|docs)/[\w./]+)`", page.read_text("utf-8")
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def commands(text):
    """Yields the commands in a page's shell blocks and in its sentences."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`]+)`", prose)


def cli_options():
    """Returns the options of each command of `cnn-jax`."""
    parser = cli._make_parser()
    (commands,) = (
        action.choices for action in parser._actions if hasattr(action, "add_parser")
    )
    return {
        name: set(command._option_string_actions) for name, command in commands.items()
    }


def script_options(path):
    """Returns a script's options, by its source: importing it may take seconds."""
    source = path.read_text("utf-8")
    found = set(re.findall(r"\"(--[a-z][a-z0-9-]*)\"", source))
    fields = re.findall(r"^    (\w+): [^=\n]+(?: = .*)?$", source, flags=re.MULTILINE)
    if "main(CONFIG" in source or "experiment import main" in source:
        fields += [field.name for field in dataclasses.fields(TrainConfig)]
    return found | {"--" + field.replace("_", "-") for field in fields}


SCRIPTS = {
    str(path.relative_to(ROOT)): script_options(path)
    for path in (ROOT / "experiments").rglob("*.py")
}
OPTION = re.compile(r"(?<![\w=-])--(?!xla_)[a-z][a-z0-9-]*")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_exist(page):
    """Those of a command in its parser, others in one of the parsers."""
    known_of = cli_options()
    config = {f.name.replace("_", "-") for f in dataclasses.fields(TrainConfig)}
    anywhere = {"--" + name for name in config}.union(
        *known_of.values(), *SCRIPTS.values()
    )
    problems = []
    for line in commands(page.read_text("utf-8")):
        line = re.sub(r"\w+=(\"[^\"]*\"|\S+) ", "", line)  # the environment
        script = re.search(r"python (experiments/\S+\.py)", line)
        command = re.search(r"cnn-jax ([a-z]+)", line)
        if script:
            if script[1] not in SCRIPTS:
                problems.append(f"{line}: no such file")
                continue
            known = SCRIPTS[script[1]]
        elif command:
            if command[1] not in known_of:
                problems.append(f"{line}: no such command")
                continue
            known = known_of[command[1]]
        elif re.match(r"(pip|git|python -m|pre-commit|PYTHONPATH|-)", line) and (
            not line.startswith("--")
        ):
            continue
        else:
            known = anywhere
        unknown = set(OPTION.findall(line)) - known
        problems += [f"{line}: {option}" for option in sorted(unknown)]
    assert not problems
