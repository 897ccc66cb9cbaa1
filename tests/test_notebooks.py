"""The notebooks: each committed one is its source, executed without an error.

That they still run is a slow test, which needs the extra `notebooks`.
"""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
TEXT_CELL = re.compile(
    r'^# %% \[markdown\]\nr?"""\n(.*?)^"""', flags=re.MULTILINE | re.DOTALL
)
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def execute():
    """The script, imported from its file: `notebooks` is no package."""
    pytest.importorskip("jupytext", reason="needs jupytext, of the extra notebooks")
    specification = importlib.util.spec_from_file_location(
        "notebooks_execute", FOLDER / "execute.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nbformat():
    return pytest.importorskip("nbformat", reason="needs nbformat, of jupytext")


def test_each_notebook_has_a_source_and_each_source_a_notebook():
    assert SOURCES
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {
        path.stem for path in SOURCES
    }


@each_source
def test_notebook_is_its_source_executed(execute, source):
    assert execute.problems_of(source) == []


@each_source
def test_notebook_has_pictures_and_is_valid(nbformat, source):
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@each_source
def test_notebook_is_in_the_table(source):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"({source.stem}.ipynb)" in readme
    assert f"({source.name})" in readme


def slug(heading):
    """Returns the anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.strip().replace(" ", "-")


def dead_links(text, folder):
    """Returns the targets inside the repository that a text links and are not there."""
    problems = []
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (folder / file).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            problems.append(target)
        elif anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            if anchor not in map(slug, headings):
                problems.append(target)
    return problems


@pytest.mark.parametrize(
    "page", [*SOURCES, FOLDER / "README.md"], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        text = "".join(re.findall(TEXT_CELL, text))
    assert "](" in text
    assert dead_links(text, FOLDER) == []


def test_dead_links_are_found():
    text = "[a](README.md) [b](../docs/kernels.md#testing) [c](nowhere.md) [d](/etc)"
    assert dead_links(text, FOLDER) == [
        "../docs/kernels.md#testing",
        "nowhere.md",
        "/etc",
    ]


def cell(nbformat, *outputs, count=1):
    return nbformat.v4.new_code_cell(
        "1", outputs=list(outputs), execution_count=count, id="cell-000"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("5 / 2 and docs/kernels.md and https://a.org/tmp/x", None),
        ("/home/me/cnn_jax", "shows a path of one machine: '/home/'"),
        (r"in C:\\Users\\me", "shows a path of one machine"),
        ("lib/site-packages/jax", "shows a path of one machine: 'site-packages'"),
        ("<function f at 0x7f3a5c0d1e10>", "shows an address of one machine"),
        ("x" * 30_000, "printed 30000 characters"),
    ],
)
def test_what_belongs_to_one_machine_is_found(execute, nbformat, text, problem):
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    found = execute.output_problems(cell(nbformat, output))
    assert found == [] if problem is None else found[0].startswith(problem)
    result = nbformat.v4.new_output("execute_result", data={"text/plain": text})
    assert execute.output_problems(cell(nbformat, result)) == found


def test_errors_and_warnings_are_found(execute, nbformat):
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="x")
    warning = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: old")
    assert execute.output_problems(cell(nbformat, error)) == ["ended with ValueError"]
    (found,) = execute.output_problems(cell(nbformat, warning))
    assert found.startswith("printed to standard error")
    assert execute.output_problems(cell(nbformat, count=None)) == ["was not executed"]


@pytest.fixture
def copied(execute, nbformat, tmp_path, monkeypatch):
    """A folder with one small notebook that is as its source."""
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    source = tmp_path / "01_small.py"
    source.write_text('# %% [markdown]\n"""\nText.\n"""\n\n# %%\nx = 1\n')
    notebook = execute.read_source(source)
    notebook.cells[1].execution_count = 1
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    return source


def test_check_accepts_a_notebook_that_is_as_its_source(execute, copied, capsys):
    assert execute.main(["--check"]) == 0
    assert "1 notebooks are as their sources" in capsys.readouterr().out


@pytest.mark.parametrize(("old", "new"), [("x = 1", "x = 2"), ("Text.", "Texts.")])
def test_check_finds_a_stale_notebook(execute, copied, capsys, old, new):
    copied.write_text(copied.read_text().replace(old, new))
    assert execute.main(["--check"]) == 1
    assert "01_small.ipynb is not the notebook of 01_small.py" in (
        capsys.readouterr().out
    )


def test_check_finds_a_missing_and_a_large_notebook(execute, copied, monkeypatch):
    monkeypatch.setattr(execute, "LARGEST", 10)
    (problem,) = execute.problems_of(copied)
    assert "expected at most 10" in problem
    copied.with_suffix(".ipynb").unlink()
    (problem,) = execute.problems_of(copied)
    assert problem.startswith("01_small.ipynb is missing")


def test_an_unknown_name_is_one_sentence(execute, copied, capsys):
    with pytest.raises(SystemExit) as stopped:
        execute.main(["07"])
    assert stopped.value.code == 2
    assert "got '07', expected the beginning of one of 01_small." in (
        capsys.readouterr().err
    )


@pytest.mark.slow
@each_source
def test_notebook_runs_at_smoke_size(source):
    """In a process of its own, which has its own number of devices."""
    for name in ("jupytext", "nbclient", "ipykernel", "matplotlib"):
        pytest.importorskip(name, reason=f"needs {name}, of the extra notebooks")
    before = source.with_suffix(".ipynb").read_bytes()
    command = [sys.executable, FOLDER / "execute.py", "--smoke", source.stem]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{source.name}: starting" in done.stdout
    assert source.with_suffix(".ipynb").read_bytes() == before
