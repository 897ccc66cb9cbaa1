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


def test_model_table_is_the_registry():
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| ([\d,]+) \| ([\d,]+) \|$", TEXT, flags=re.MULTILINE
    )
    shown = {name: (parameters, macs) for name, parameters, macs in rows}
    infos = map(cnn_jax.model_info, cnn_jax.list_models())
    known = {info.name: (f"{info.parameters:,}", f"{info.macs:,}") for info in infos}
    assert shown == known


def test_file_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", TEXT)
    assert targets
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert not missing
