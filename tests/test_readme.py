"""What the README shows is what the code does."""

import pathlib
import re

import pytest

import cnn_jax

README = pathlib.Path(__file__).parents[1] / "README.md"
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


def test_file_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", TEXT)
    assert targets
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert not missing
