"""The page of verified weights is that of the committed evaluations."""

import json
import pathlib

import pytest

from cnn_jax.files import FileError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def summarize(load_experiment):
    return load_experiment("summarize_weights")


def test_the_page_is_of_the_committed_evaluations(summarize, tmp_path, capsys):
    summarize.main(["--out", str(tmp_path / "weights.md")])
    assert "1 evaluation" in capsys.readouterr().out
    made = (tmp_path / "weights.md").read_text()
    assert made == (ROOT / "docs" / "weights.md").read_text()


def test_another_record_changes_the_page(summarize, tmp_path):
    (path,) = summarize.RECORDS.glob("*.json")
    record = json.loads(path.read_text())
    record["published"] = {"top1": 0.9125, "source": "somebody's table 6"}
    record["scores"]["num_correct"] = 8104
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(record))
    page = summarize.summarize([changed])
    assert "8,104 of 10,000" in page
    assert "| 91.25 |" in page
    assert "somebody's table 6" in page
    assert record["sha256"] in page
    assert record["command"] in page


@pytest.mark.parametrize(
    "content", ["{}", '{"kind": "cnn_jax.evaluation"}'], ids=["another", "damaged"]
)
def test_another_file_is_refused_by_name(summarize, tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(FileError, match=r"other\.json"):
        summarize.summarize([tmp_path / "other.json"])
