"""One definition, four forms: the same digits in the same places."""

import html.parser
import io
import json

import numpy as np
import pytest
import rich.console

from cnn_jax.report import table
from cnn_jax.report.statistics import Interval

COLUMNS = (
    table.Column("name", "Name"),
    table.Column("accuracy", "Accuracy", "%", ".1f", 100, "highest", "On the test."),
    table.Column("size", "Size", "", ",d", 1, "lowest"),
    table.Column("seconds", "Time", "ms", ".2f", 1e3),
)
ROWS = (
    {
        "name": "small <b>&",
        "accuracy": Interval(0.9, 0.88, 0.92, "t", 3),
        "size": 1234567,
        "seconds": 0.0123,
    },
    {
        "name": "large|net_2",
        "accuracy": Interval(0.8, 0.7, 0.85, "w", 100),
        "size": 20_000_000,
        "seconds": None,
    },
    {"name": "lost", "seconds": float("nan")},
)
TABLE = table.Table("A & B", COLUMNS, ROWS, ["Read <this>."])
TEXTS = [
    ["small <b>&", "90.0 ± 2.0", "1,234,567", "12.30"],
    ["large|net_2", "80.0 (70.0-85.0)", "20,000,000", "-"],
    ["lost", "-", "-", "-"],
]


def printed(shown: table.Table, width: int) -> str:
    console = rich.console.Console(
        file=io.StringIO(), width=width, highlight=False, color_system=None
    )
    table.print_table(shown, console)
    return console.file.getvalue()


class Cells(html.parser.HTMLParser):
    """The text and the `data-value` of every cell of the body."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.values, self.strong = [], [], []
        self._in_body = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._in_body |= tag == "tbody"
        if self._in_body and tag == "tr":
            self.rows.append([])
            self.values.append([])
        if self._in_body and tag in ("th", "td"):
            self.rows[-1].append("")
            self.values[-1].append(dict(attributes).get("data-value"))
        if tag == "strong":
            self.strong.append((len(self.rows) - 1, len(self.rows[-1]) - 1))

    def handle_endtag(self, tag):
        self._in_body &= tag != "tbody"

    def handle_data(self, data):
        if self._in_body and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_texts():
    assert TABLE.texts() == TEXTS


def test_html_shows_the_texts_and_keeps_the_raw_values():
    cells = Cells(table.to_html(TABLE))
    assert cells.rows == TEXTS
    assert cells.values == [
        [None, "0.9", "1234567", "0.0123"],
        [None, "0.8", "20000000", None],
        [None, None, None, None],
    ]
    assert cells.strong == [(0, 1), (0, 2)]


def test_html_escapes_what_it_is_given():
    text = table.to_html(TABLE)
    assert "<b>" not in text
    assert "<this>" not in text
    assert "A & B" not in text
    assert "small &lt;b&gt;&amp;" in text
    assert "A &amp; B" in text


def test_json_holds_raw_values_and_texts():
    content = json.loads(json.dumps(table.to_json(TABLE), allow_nan=False))
    assert content["texts"] == TEXTS
    assert content["rows"][0]["accuracy"]["high"] == 0.92
    assert content["rows"][0]["seconds"] == 0.0123
    assert content["rows"][2] == {
        "name": "lost",
        "accuracy": None,
        "size": None,
        "seconds": None,
    }
    assert [column["key"] for column in content["columns"]] == [
        "name",
        "accuracy",
        "size",
        "seconds",
    ]


def test_json_value_takes_numpy_numbers_and_refuses_none_of_them():
    found = table.json_value(
        {1: np.int64(3), "x": (np.float32(0.5), np.nan, float("inf"), True, "a")}
    )
    assert json.dumps(found) == '{"1": 3, "x": [0.5, null, null, true, "a"]}'


def test_markdown_escapes_bars_and_underscores():
    lines = table.to_markdown(TABLE).splitlines()
    assert lines[0] == "**A & B**"
    assert lines[2] == "| Name | Accuracy (%) | Size | Time (ms) |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[5].startswith("| large\\|net\\_2 | 80.0 (70.0-85.0) |")


@pytest.mark.parametrize("width", [200, 80, 40, 20])
def test_terminal_shows_every_text_whole(width):
    text = printed(TABLE, width)
    for row in TEXTS:
        for cell in row:
            assert cell in text
    assert "Read <this>." in text


@pytest.mark.parametrize("width", [80, 60, 36])
def test_terminal_keeps_to_its_width_and_repeats_the_first_column(width):
    lines = printed(TABLE, width).splitlines()
    assert max(map(len, lines)) <= width
    needed = printed(TABLE, 200).splitlines()
    blocks = sum("lost" in line for line in lines)
    assert blocks == (1 if width >= max(map(len, needed)) else 2)


def test_terminal_closes_up_columns_before_it_splits_them():
    widths = [table._width(TABLE, place) for place in range(4)]
    tight = sum(widths) + 3
    assert printed(TABLE, tight).count("lost") == 1
    assert printed(TABLE, tight - 1).count("lost") == 2


def test_equal_digits_are_equally_good():
    column = table.Column("x", "X", format_spec=".1f", best="lowest")
    rows = [{"x": 1.01}, {"x": 1.04}, {"x": 2.0}, {"x": None}]
    shown = table.Table("t", [column], rows)
    assert shown.best_rows(column) == {0, 1}
    assert table.Table("t", [column], rows[:1]).best_rows(column) == set()


def test_infinite_numbers_are_shown_and_nan_is_missing():
    column = table.Column("x", "X", format_spec=".1f")
    assert [column.text(float(x)) for x in ("inf", "nan")] == ["inf", "-"]


def test_unknown_and_doubled_keys_are_refused():
    with pytest.raises(ValueError, match=r"\['sise'\]"):
        table.Table("t", COLUMNS, [{"sise": 1}])
    with pytest.raises(ValueError, match="all different"):
        table.Table("t", [COLUMNS[0]] * 2, [])
