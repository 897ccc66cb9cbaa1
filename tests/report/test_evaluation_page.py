"""The blocks of a network's scores show the numbers that they are made of."""

import html as html_module
import re

import pytest
from helpers.browser import WIDTHS, assert_pages_fit, needs_chromium
from helpers.page import EVIL, Page

from cnn_jax.report import html
from cnn_jax.report.evaluation_page import (
    MAX_BARS,
    MAX_GRID,
    MAX_PAIRS,
    class_table,
    mistake_table,
    score_blocks,
    score_table,
)

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def interval(mean, low, high):
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "method": "Wilson, over test examples",
        "num_samples": 100,
    }


def record(num_classes=3, *, shown=None, **changes):
    """Scores of which class k has k + 2 examples: one right, the rest the next's."""
    shown = range(num_classes) if shown is None else shown
    names = [f"class {number}" for number in range(num_classes)]
    bins = [
        {
            "low": number / 15,
            "high": (number + 1) / 15,
            "num_examples": number,
            "accuracy": number / 20 if number else None,
            "confidence": number / 15 if number else None,
        }
        for number in range(15)
    ]
    return {
        "num_examples": 1234,
        "num_correct": 617,
        "accuracy": interval(0.5, 0.4721, 0.5279),
        "top5_accuracy": interval(0.75, 0.7251, 0.7734),
        "loss": 1.25,
        "calibration_error": 0.0625,
        "bins": bins,
        "class_names": names,
        "classes": [
            {"index": k, "name": names[k], "num_examples": k + 2, "num_correct": 1}
            for k in shown
        ],
        "confusions": [
            {"label": k, "predicted": (k + 1) % num_classes, "num_examples": k + 1}
            for k in reversed(shown)
        ],
        "mistakes": [
            {
                "index": 17,
                "label": 0,
                "predicted": 1,
                "probability": 0.9875,
                "label_probability": 0.0025,
                "picture": PICTURE,
            }
        ],
        **changes,
    }


def page_of(scores):
    text = html.render_page("title", "summary", score_blocks(scores))
    return Page(text), text


def visible(page):
    return " ".join(" ".join(page.texts).split())


def test_the_table_has_intervals_and_the_published_figure_beside():
    table = score_table(record(), {"top1": 0.7613, "source": "somebody"})
    assert table.texts()[0] == [
        "Top-1 accuracy",
        "50.00%",
        "47.21 - 52.79%",
        "76.13%",
    ]
    assert table.texts()[1][:3] == ["Top-5 accuracy", "75.00%", "72.51 - 77.34%"]
    assert [row[1] for row in table.texts()[2:]] == ["1.2500", "6.25%"]
    assert "617 of 1,234 examples" in table.notes[0]
    assert "somebody" in table.notes[1]
    assert len(table.notes) == 2


def test_a_part_of_the_classes_is_said_beside_the_published_figure():
    scores = record(1000, shown=range(3))
    notes = score_table(scores, {"top1": 0.7613, "source": "somebody"}).notes
    assert "all 1,000 classes; these data have examples of 3." in notes[2]


def test_without_a_published_figure_there_is_no_column():
    headers = [column.header for column in score_table(record()).columns]
    assert "Published" not in headers


def test_what_is_not_finite_is_a_dash():
    scores = record(loss=None, calibration_error=None)
    assert [row[1] for row in score_table(scores).texts()[2:]] == ["-", "-"]


def test_classes_are_listed_from_the_lowest():
    table = class_table(record(), 2)
    assert [row[0] for row in table.texts()] == ["class 2", "class 1"]
    assert table.rows[0]["accuracy"].mean == 0.25
    assert "2 of 3" in table.title


def test_few_classes_have_a_matrix():
    page, text = page_of(record())
    cells = re.findall(r"<td(?: style=\"[^\"]*\")?>(\d+)</td>", text)
    assert list(map(int, cells[:9])) == [1, 1, 0, 0, 1, 2, 3, 0, 1]
    assert "Confusion matrix" in visible(page)
    assert "rgb(0 114 178/0.75)" in text  # 3 of the 4 examples of the last class


def test_a_few_of_many_classes_have_a_column_for_the_others():
    _, text = page_of(record(1000, shown=[0, 1, 500]))
    (grid,) = re.findall(r'<table class="grid">.*?</table>', text, flags=re.DOTALL)
    assert "another class" in grid
    rows = re.findall(r"<tr>(.*?)</tr>", grid, flags=re.DOTALL)[1:]
    numbers = [list(map(int, re.findall(r">(\d+)</td>", row))) for row in rows]
    assert numbers == [[1, 1, 0, 0], [0, 1, 0, 2], [0, 0, 1, 501]]


def test_many_classes_have_the_most_frequent_confusions():
    page, text = page_of(record(MAX_GRID + 1))
    assert 'class="grid"' not in text
    words = visible(page)
    assert "The most frequent confusions" in words
    body = text[text.index("The most frequent confusions") :]
    assert body[: body.index("</table>")].count("<tr>") == MAX_PAIRS + 1
    assert f"The {MAX_BARS} classes with the lowest accuracy" in words


def test_mistakes_are_pictures_with_both_classes():
    page, _ = page_of(record())
    words = visible(page)
    assert "class 0 taken for class 1, 98.8%; own class 0.2%; example 17" in words
    assert ("src", PICTURE) in page.attributes
    assert mistake_table(record()).texts()[0][:3] == ["17", "class 0", "class 1"]


def test_mistakes_without_pictures_are_a_table():
    scores = record()
    del scores["mistakes"][0]["picture"]
    page, _ = page_of(scores)
    assert "img" not in page.tags
    assert "Predicted as" in visible(page)


def test_no_mistake_is_said():
    page, _ = page_of(record(confusions=[], mistakes=[]))
    assert "No example of one class was taken for another." in visible(page)
    assert "There are none to show." in visible(page)


@pytest.mark.parametrize("number", [3, MAX_GRID + 1])
def test_names_of_classes_are_text(number):
    scores = record(number)
    scores["class_names"] = [f"{EVIL}{name}" for name in scores["class_names"]]
    for entry in scores["classes"]:
        entry["name"] = scores["class_names"][entry["index"]]
    page, text = page_of(scores)
    assert "script" not in page.tags
    assert html_module.escape(EVIL) in text or EVIL in visible(page)


def test_confidences_that_are_no_numbers_have_no_chart():
    scores = record()
    for entry in scores["bins"]:
        entry["accuracy"] = None
    page, _ = page_of(scores)
    assert "Accuracy by confidence" not in visible(page)
    assert "Accuracy by class" in visible(page)


def test_without_matplotlib_the_page_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    page, _ = page_of(record())
    assert "cnn_jax[report]" in visible(page)
    assert "svg" not in page.tags


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_in_a_browser(width, tmp_path):
    """For few classes, whose confusions are a matrix, and for many, with long names."""
    pages = {}
    for number in (2, 10, 1000):
        names = [f"a class of a long name, {k}, and no end" for k in range(number)]
        pages[str(number)] = tmp_path / f"{number}.html"
        text = page_of(record(number, class_names=names))[1]
        pages[str(number)].write_text(text, "utf-8")
    assert_pages_fit(pages, width, tmp_path, parts="main *")
