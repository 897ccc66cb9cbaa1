"""The commands, code, links and figures of README and the pages under docs/."""

import configparser
import dataclasses
import importlib.util
import json
import pathlib
import re
import statistics

import pytest

import cnn_jax
from cnn_jax import cli
from cnn_jax.studies import StudyConfig
from cnn_jax.training import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
RESULTS = ROOT / "experiments" / "results"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
LINKING = [
    *PAGES,
    *(ROOT / "docs" / "reference").glob("*.md"),
    *(ROOT / "experiments").rglob("*.md"),
    *(ROOT / "notebooks").glob("*.md"),
    *(ROOT / "notebooks").glob("*.ipynb"),
]
"""Every page whose links lead into the repository, those that are not tested too."""

PENDING_COMMANDS = {}
"""Subcommands of `cnn-jax` that are not there yet -> the options that pages name."""

SLOW_CODE = {
    ("README.md", "cnn_jax.fit("): "compiles and trains a ResNet-20",
    ("training.md", "cnn_jax.fit("): "compiles and trains a ResNet-20",
}
"""(page, part of a Python block) -> why the block runs with `-m slow` only."""


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL
    )


def is_slow(page, block):
    return any(page.name == name and part in block for name, part in SLOW_CODE)


def pages_with_python():
    """Yields each page with Python, and once more with its slow blocks."""
    for page in PAGES:
        code = blocks(read(page), "python")
        if code:
            yield pytest.param(page, False, id=page.name)
        if any(is_slow(page, block) for block in code):
            yield pytest.param(
                page, True, id=f"{page.name}-slow", marks=pytest.mark.slow
            )


@pytest.mark.parametrize(("page", "with_slow"), list(pages_with_python()))
def test_python_blocks_run(page, with_slow, monkeypatch, tmp_path):
    """In their order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(blocks(read(page), "python")):
        if is_slow(page, block) and not with_slow:
            continue
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def test_what_was_pending_is_not_there_yet():
    arrived = [name for name in PENDING_COMMANDS if name in cli_options()]
    assert not arrived, "take these out of PENDING_COMMANDS"


def test_the_lists_of_blocks_name_blocks_that_are_there():
    for name, part in SLOW_CODE:
        (page,) = (page for page in PAGES if page.name == name)
        assert any(part in block for block in blocks(read(page), "python"))


def test_readme_is_short():
    assert len(read(README).splitlines()) <= 150


def test_ci_finds_the_test_command():
    """`.ci/run` runs the first line of README with this in it."""
    line = next(
        line for line in read(README).splitlines() if "python -m pytest" in line
    )
    assert line in "\n".join(blocks(read(README), "sh")).splitlines()


def test_citation_names_this_version():
    citation = read(ROOT / "CITATION.cff")
    assert f"\nversion: {cnn_jax.__version__}\n" in citation


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
    assert model_table() in read(ROOT / "docs" / "models.md")
    assert f"**{len(cnn_jax.list_models())} networks**" in read(README)


def contract(name):
    """Returns the levels of one of import-linter's contracts, the lowest first."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser[f"importlinter:contract:{name}"]["layers"].split("\n")
    levels = [line.replace("cnn_jax.", "").split(" | ") for line in lines if line]
    return [{name.strip() for name in level} for level in reversed(levels)]


@pytest.mark.parametrize(
    ("name", "prefix"), [("levels", ""), ("training", "training.")]
)
def test_architecture_page_lists_the_packages(name, prefix):
    page = read(ROOT / "docs" / "architecture.md")
    rows = re.findall(r"^\| (\d+) \| `([\w.]+)` \| .+ \|$", page, flags=re.MULTILINE)
    found = {}
    for level, package in rows:
        if ("." in package) == bool(prefix):
            found.setdefault(int(level), set()).add(package)
    assert found == dict(enumerate(contract(name)))
    folder = ROOT / "cnn_jax" / prefix.rstrip(".")
    there = {
        prefix + path.stem
        for path in folder.iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py")
    }
    assert set().union(*found.values()) == there


def newest_steps(load):
    """Returns the newest record of each network's step, in each strategy."""
    newest = {}
    for name in (
        "v5e",
        "v5e_256_before",
        "v5e_64",
        "v5e_mobilenet",
        "v5e_efficientnet",
        "v5e_256",
    ):
        for step in load(f"steps_tpu_{name}")["records"]:
            newest[step["model"], step["strategy"]] = step
    return newest.values()


def quoted_figures():
    """Yields (page, text): figures of the committed results, as the page has them."""

    def load(name):
        return json.loads(read(RESULTS / f"{name}.json"))

    results = ROOT / "docs" / "results.md"
    for step in newest_steps(load):
        scope = {"global": "global", "device": "each device's"}[step["scope"]]
        assert step["ours_all_reduces"] == step["stock_all_reduces"]
        yield (
            results,
            f"| `{step['model']}` | `{step['strategy']}` | {scope} | "
            f"{step['batch']} | {step['cycles_ratio']:.3f} | "
            f"{step['bytes_ratio']:.3f} | {step['temporaries_ratio']:.3f} | "
            f"{step['ours_all_reduces']} |",
        )
    found = load("backpropagation_digits")["found"]
    for panel, figure in (
        ("sobel", "32 (95 % interval 30 to 34, 10 seeds)"),
        ("sobel", "376 (95 % interval 312 to 440, 10 seeds)"),
        ("sobel", "in 0 of 10 runs of 2,000 steps"),
        ("lenet", "1.5e-15"),
    ):
        assert any(figure in sentence for sentence in found[panel]["sentences"])
        yield results, figure
    for name in ("steps_tpu_trials", "steps_tpu_trials_efficientnet"):
        for trial in load(name)["records"]:
            yield (
                results,
                f"| `{trial['model']}` | `{trial['variant']}` | "
                f"{trial['cycles'] / 1e6:.2f} M | {trial['bytes'] / 1e9:.2f} GB | "
                f"{trial['temporaries'] / 2**30:.2f} GiB |",
            )
    step = load("steps_tpu_v5e_256")["records"][0]
    yield README, f"{step['cycles_ratio']:.3f} of stock Flax's cycles"

    groups = ("depthwise convolution", "grouped convolution")
    for name, key in (("0.12", "autodiff_seconds"), ("0.10", "torch_seconds")):
        records = load(f"kernels_cpu_jax_{name}")["records"]
        mean = statistics.geometric_mean(
            record[key] / record["ours_seconds"]
            for record in records
            if record["group"] in groups
        )
        yield README, f"{mean:.{1 if mean > 10 else 2}f} times as fast"
    records = load("kernels_cpu_onednn_bfloat16")["records"]
    dense = [r["ratio"] for r in records if r["group"] == "dense convolution"]
    mean = statistics.geometric_mean(dense)
    yield results, f"over {len(dense)} dense convolution layers they are {mean:.1f}"

    for name, text in (
        ("cifar10_resnet20_recipe", "86.60"),
        ("cifar10_resnet20_fine_tuned", "87.82"),
    ):
        accuracy = load(name)["test_accuracy"]
        mean, *ends = (f"{100 * accuracy[key]:.2f}" for key in ("mean", "low", "high"))
        assert mean == text
        yield results, f"{mean} ({' to '.join(ends)})"
        yield README, mean
    sweep = load("kill_sweep")
    assert not sweep["unequal"]
    yield README, f"{sweep['runs']} runs killed {sweep['kills']} times"
    yield ROOT / "docs" / "checkpoints.md", f"{sweep['during_a_save']} of them"
    rows = load("linear_probing_cifar10")["rows"]
    for name in ("probe on features, sgd", "probe from end to end", "fine-tuning"):
        accuracy, seconds = rows[name]["accuracy"], rows[name]["train_seconds"]
        yield results, f"| {100 * accuracy:.2f} | {seconds:.0f} |"
    epoch = load("epoch_cpu_jax_0.10")["records"][0]
    yield results, f"takes {epoch['ratio']:.3f} times as long"
    save = load("checkpoints_cpu")["records"][0]
    yield results, f"at most {100 * save['most']:.1f} % of the time"
    for name in ("plan_resnet50_v5e_max_batch", "plan_resnet50_v5e_max_batch_remat"):
        for plan in load(name)["plans"]:
            settings, speed = plan["settings"], plan["speed"]["images_per_second"]
            remat = "yes" if settings["remat"] else "no"
            memory = f"{plan['memory']['total'] / 1e9:.2f} GB | {speed or 0:,.0f}"
            yield (
                results,
                f"| {settings['batch_size']:,} | {remat} | "
                f"{memory if plan['fits'] else 'does not fit |'} |",
            )
    for chips in (8, 64, 256, 2048):
        (plan,) = load(f"plan_resnet50_v5p_{chips}")["plans"]
        speed = plan["speed"]
        yield (
            results,
            f"| {chips:,} | `{plan['settings']['topology']}` | "
            f"{speed['images_per_second']:,.0f} | "
            f"{100 * speed['collective_share']:.1f} % |",
        )
    for plan in load("collectives_cpu")["records"]:
        if plan["name"] == "jit, fsdp" and plan["scope"] == "global":
            text = f"| {plan['all_reduces']} | not compiled | "
            yield (
                ROOT / "docs" / "sharding.md",
                text + f"{plan['kept_bytes'] / 1e6:.0f} |",
            )


def test_figures_are_those_of_the_committed_results():
    words = {page: re.sub(r"\s+", " ", read(page)) for page in PAGES}
    figures = list(quoted_figures())
    assert figures
    missing = [(page.name, text) for page, text in figures if text not in words[page]]
    assert not missing


def slug(heading):
    """Returns the anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.strip().replace(" ", "-")


def markdown_of(page):
    """Returns a page's text without its code, or that of a notebook's text cells."""
    text = read(page)
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = [c["source"] for c in cells if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(source) for source in sources)
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://)([^)]+)\)", markdown_of(page))
    assert targets or page != README
    problems = []
    for target in targets:
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists():
            problems.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", markdown_of(path), flags=re.MULTILINE)
            if anchor not in map(slug, headings):
                problems.append(target)
    assert not problems


def test_every_page_is_linked_from_readme():
    """Except for the site's first page, whose lists of pages are Sphinx's."""
    pages = [page.name for page in DOCS if page.name != "index.md"]
    missing = [name for name in pages if f"(docs/{name})" not in read(README)]
    assert not missing


def test_pictures_are_small():
    pictures = re.findall(r"!\[.+?\]\(([^)]+)\)", read(README))
    assert pictures
    assert all((ROOT / picture).stat().st_size < 200_000 for picture in pictures)


@each_page
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:cnn_jax|experiments|tests|docs)/[\w./]+)`", read(page))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@each_page
def test_python_names_that_are_named_exist(page):
    """`cnn_jax.package.name` in a sentence can be imported."""
    problems = []
    for name in sorted(set(re.findall(r"`(cnn_jax(?:\.\w+)+)`", read(page)))):
        found, *rest = cnn_jax, *name.split(".")[1:]
        for number, part in enumerate(rest):
            module = ".".join(["cnn_jax", *rest[: number + 1]])
            if not hasattr(found, part) and not _is_module(module):
                problems.append(name)
                break
            found = getattr(found, part, None) or importlib.import_module(module)
    assert not problems


def _is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def commands(text):
    """Yields the commands in a page's shell blocks and in its sentences."""
    for block in blocks(text, "sh"):
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


def config_options():
    """Returns the options of a `TrainConfig`: of a switch both."""
    names = {
        field.name.replace("_", "-"): field.type
        for field in dataclasses.fields(TrainConfig)
    }
    return {"--" + name for name in names} | {
        "--no-" + name for name, kind in names.items() if kind == "bool"
    }


def script_options(path):
    """Returns a script's options, by its source: importing it may take seconds."""
    source = path.read_text("utf-8")
    found = set(re.findall(r"\"(--[a-z][a-z0-9-]*)\"", source))
    fields = re.findall(r"^    (\w+): [^=\n]+(?: = .*)?$", source, flags=re.MULTILINE)
    if "main(CONFIG" in source or "experiment import main" in source:
        found |= config_options()
    if "main(STUDY" in source:
        fields += [field.name for field in dataclasses.fields(StudyConfig)]
    if "presets=" in source:
        fields.append("preset")
    return found | {"--" + field.replace("_", "-") for field in fields}


SCRIPTS = {
    str(path.relative_to(ROOT)): script_options(path)
    for folder in ("experiments", "tests")
    for path in (ROOT / folder).rglob("*.py")
}
EXPERIMENTS = [options for path, options in SCRIPTS.items() if "experiments/" in path]
OPTION = re.compile(r"(?<![\w=-])--(?!xla_)[a-z][a-z0-9-]*")


@each_page
def test_options_that_are_named_exist(page):
    """Those of a command in its parser, others in one of the parsers."""
    known_of = {**PENDING_COMMANDS, **cli_options()}
    anywhere = config_options().union(*known_of.values(), *EXPERIMENTS)
    problems = []
    for line in commands(read(page)):
        line = re.sub(r"\w+=(\"[^\"]*\"|\S+) ", "", line)  # the environment
        script = re.search(r"python ((?:experiments|tests)/\S+\.py)", line)
        module = re.search(r"python -m ((?:faults|references)\.\S+)", line)
        command = re.search(r"cnn-jax ([a-z]+)", line)
        if script or module:
            name = script[1] if script else f"tests/{module[1].replace('.', '/')}.py"
            if name not in SCRIPTS:
                problems.append(f"{line}: no such file")
                continue
            known = SCRIPTS[name]
        elif command:
            if command[1] not in known_of:
                problems.append(f"{line}: no such command")
                continue
            known = known_of[command[1]]
        elif re.match(r"(pip|git|python -m|pre-commit|-)", line) and (
            not line.startswith("--")
        ):
            continue
        else:
            known = anywhere
        unknown = set(OPTION.findall(line)) - known
        problems += [f"{line}: {option}" for option in sorted(unknown)]
    assert not problems


@each_page
def test_extras_that_are_named_exist(page):
    parser = configparser.RawConfigParser()
    parser.read(ROOT / "setup.cfg")
    named = re.findall(r"\"\.\[([\w,-]+)\]\"", read(page))
    named += re.findall(r"extra `([\w-]+)`", read(page))
    extras = {extra for names in named for extra in names.split(",")}
    assert extras <= set(parser["options.extras_require"])
