"""One table, defined once, written for the terminal, HTML, JSON and Markdown.

A `Table` holds raw values (fractions, seconds, bytes); each `Column` formats its
values. The text of a cell is made in one place, so that all four forms
show the same digits; JSON and the `data-value` of an HTML cell keep the raw value.
"""

from __future__ import annotations

import dataclasses
import html
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from cnn_jax.files import json_value
from cnn_jax.messages import printable
from cnn_jax.report.statistics import Interval

if TYPE_CHECKING:
    import rich.console
    import rich.table

MISSING = "-"
"""The text of an absent value (`None` or NaN)."""

COLUMN_GAPS = (2, 1)
"""Characters between two columns in the terminal: the first that lets all fit."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column's meaning and the format of its values.

    Attributes:
      key: The name of its value in a row, and in JSON.
      header: The name that people read.
      unit: The unit of the number shown (after scaling); empty if there is none.
      format_spec: The format specification of its numbers; empty for text.
      scale: What a raw value is multiplied by before it is shown: 100 shows a
        fraction as a percentage.
      best: Which of its numbers is the best, to be emphasised, if any.
      note: What was measured, in one sentence; shown under the HTML table.
    """

    key: str
    header: str
    unit: str = ""
    format_spec: str = ""
    scale: float = 1
    best: Literal["highest", "lowest"] | None = None
    note: str = ""

    @property
    def is_numeric(self) -> bool:
        """Returns whether the column holds numbers, which are aligned to the right."""
        return bool(self.format_spec)

    def text(self, value: Any) -> str:
        """Returns how `value` is shown.

        Args:
          value: A string, a number, an `Interval`, or `None` where there is none.
        """
        if isinstance(value, Interval):
            return self._interval_text(value)
        if not self.is_numeric:
            return MISSING if value is None else str(value)
        if value is None or math.isnan(value):
            return MISSING
        return format(value * self.scale, self.format_spec)

    def _interval_text(self, interval: Interval) -> str:
        mean, below, above = (
            self.text(part)
            for part in (
                interval.mean,
                interval.mean - interval.low,
                interval.high - interval.mean,
            )
        )
        if interval.low == interval.high == interval.mean and interval.num_samples < 2:
            return mean
        if below == above:
            return f"{mean} ± {below}"
        return f"{mean} ({self.text(interval.low)}-{self.text(interval.high)})"


@dataclasses.dataclass(frozen=True)
class Table:
    """Typed columns and rows of raw values.

    Attributes:
      title: What the table shows.
      columns: The columns, the first of which names the row.
      rows: One mapping from column key to raw value for each row; a missing key is
        a missing value.
      notes: Sentences to be read with the table, in every form of it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if not keys or len(set(keys)) != len(keys):
            raise ValueError(
                f"columns: got keys {keys}, expected one or more, all different."
            )
        unknown = sorted({key for row in self.rows for key in row} - set(keys))
        if unknown:
            raise ValueError(
                f"rows: got values for {unknown}, expected only {keys}: add a column "
                "or drop the value."
            )

    def texts(self) -> list[list[str]]:
        """Returns the text of every cell, row by row."""
        return [
            [column.text(row.get(column.key)) for column in self.columns]
            for row in self.rows
        ]

    def best_rows(self, column: Column) -> set[int]:
        """Returns the rows whose shown number is the best of `column`.

        Rows that show the same digits are equally good; with fewer than two rows that
        have a number nothing is emphasised.
        """
        found = {
            index: _number(row.get(column.key)) for index, row in enumerate(self.rows)
        }
        numbers = {index: n for index, n in found.items() if n is not None}
        if column.best is None or len(numbers) < 2:
            return set()
        pick = max if column.best == "highest" else min
        shown = column.text(pick(numbers.values()))
        return {index for index, n in numbers.items() if column.text(n) == shown}


def table_of(
    title: str,
    columns: Sequence[Column],
    entries: Sequence[Mapping[str, Any]],
    **other: Any,
) -> Table:
    """Returns a table of those columns that any entry has a value for."""
    kept = [
        column
        for column in columns
        if any(entry.get(column.key) is not None for entry in entries)
    ]
    rows = [{c.key: entry.get(c.key) for c in kept} for entry in entries]
    return Table(title, kept, rows, **other)


def to_json(table: Table) -> dict[str, Any]:
    """Returns the table as plain JSON values: the raw values and the shown texts."""
    columns = []
    for column in table.columns:
        fields = {"key": column.key, "header": column.header, "unit": column.unit}
        columns.append(fields | {"scale": column.scale, "note": column.note})
    return {
        "title": table.title,
        "columns": columns,
        "rows": [
            {column.key: json_value(row.get(column.key)) for column in table.columns}
            for row in table.rows
        ],
        "texts": table.texts(),
        "notes": list(table.notes),
    }


def to_html(table: Table) -> str:
    """Returns the table as an HTML fragment: a box that scrolls if it is too wide."""
    head = "".join(_header_cell(column) for column in table.columns)
    best = [table.best_rows(column) for column in table.columns]
    body = []
    for index, (row, texts) in enumerate(zip(table.rows, table.texts(), strict=True)):
        cells = []
        for place, (column, text) in enumerate(zip(table.columns, texts, strict=True)):
            attributes = _cell_attributes(column, row.get(column.key))
            content = html.escape(text)
            if index in best[place]:
                content = f"<strong>{content}</strong>"
            tag = 'th scope="row"' if place == 0 else "td"
            cells.append(f"<{tag}{attributes}>{content}</{tag[:2]}>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = html.escape(table.title)
    parts = [
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">',
        f"<table><caption>{title}</caption>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody></table></div>",
    ]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in table.notes]
    explained = [column for column in table.columns if column.note]
    if explained:
        terms = "".join(
            f"<dt>{html.escape(column.header)}</dt><dd>{html.escape(column.note)}</dd>"
            for column in explained
        )
        parts.append(f'<dl class="columns">{terms}</dl>')
    return "\n".join(parts)


def to_markdown(table: Table) -> str:
    """Returns the table in GitHub's Markdown, under its title in bold."""
    heads = [
        column.header + (f" ({column.unit})" if column.unit else "")
        for column in table.columns
    ]
    rules = ["---:" if column.is_numeric else "---" for column in table.columns]
    lines = [f"**{_markdown(table.title)}**", ""]
    lines += [_markdown_row(heads), "| " + " | ".join(rules) + " |"]
    lines += [_markdown_row(texts) for texts in table.texts()]
    for note in table.notes:
        lines += ["", _markdown(note)]
    return "\n".join(lines) + "\n"


def print_table(table: Table, console: rich.console.Console | None = None) -> None:
    """Prints the table to the terminal, in as many blocks as its width requires.

    Args:
      table: What to print. Cells are never cut: columns that do not fit follow in
        another block, which starts with the first column again. Texts are escaped: they
        may come from a file.
      console: Where to print; standard output if not given.
    """
    import rich.console
    import rich.text

    table = _escaped(table)
    console = console or rich.console.Console(highlight=False)
    console.print(rich.text.Text(table.title, style="bold"))
    blocks, gap = _column_blocks(table, console.width)
    for block in blocks:
        # A terminal narrower than two columns breaks the lines itself.
        width = max(console.width, _block_width(table, block, gap))
        console.print(_rich_table(table, block, gap), width=width, crop=False)
    for note in table.notes:
        console.print(rich.text.Text(note, style="dim"))


def _escaped(table: Table) -> Table:
    rows = [
        {
            key: printable(value) if isinstance(value, str) else value
            for key, value in row.items()
        }
        for row in table.rows
    ]
    return dataclasses.replace(
        table,
        title=printable(table.title),
        columns=[
            dataclasses.replace(column, header=printable(column.header))
            for column in table.columns
        ],
        rows=rows,
        notes=[printable(note, keep="\n") for note in table.notes],
    )


def _rich_table(table: Table, block: Sequence[int], gap: int) -> rich.table.Table:
    import rich.box
    import rich.table
    import rich.text

    grid = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),  # the box adds one character itself
        pad_edge=False,
        show_edge=False,
    )
    texts = table.texts()
    for place in block:
        column = table.columns[place]
        grid.add_column(
            rich.text.Text("\n".join(filter(None, (column.header, column.unit)))),
            justify="right" if column.is_numeric else "left",
            no_wrap=True,
            min_width=_width(table, place),
        )
    best = {place: table.best_rows(table.columns[place]) for place in block}
    for index in range(len(table.rows)):
        grid.add_row(
            *(
                rich.text.Text(
                    texts[index][place], style="bold" if index in best[place] else ""
                )
                for place in block
            )
        )
    return grid


def _column_blocks(table: Table, width: int) -> tuple[list[list[int]], int]:
    """Groups the columns so that every group fits into `width` characters.

    Returns:
      The groups, which all start with the first column, and the gap between columns.
    """
    for gap in COLUMN_GAPS:
        blocks = [[0]]
        for place in range(1, len(table.columns)):
            needed = _block_width(table, [*blocks[-1], place], gap)
            if len(blocks[-1]) > 1 and needed > width:
                blocks.append([0])
            blocks[-1].append(place)
        if len(blocks) == 1:
            break
    return blocks, gap


def _block_width(table: Table, block: Sequence[int], gap: int) -> int:
    return sum(_width(table, place) for place in block) + gap * (len(block) - 1)


def _width(table: Table, place: int) -> int:
    column = table.columns[place]
    shown = [column.header, column.unit]
    return max(map(len, shown + [texts[place] for texts in table.texts()]))


def _header_cell(column: Column) -> str:
    unit = f'<span class="unit">{html.escape(column.unit)}</span>'
    kind = ' class="number"' if column.is_numeric else ""
    content = html.escape(column.header) + (unit if column.unit else "")
    return f'<th scope="col"{kind}>{content}</th>'


def _cell_attributes(column: Column, value: Any) -> str:
    attributes = ' class="number"' if column.is_numeric else ""
    number = _number(value)
    if number is not None:
        attributes += f' data-value="{html.escape(repr(number))}"'
    return attributes


def _number(value: Any) -> float | int | None:
    """Returns the number behind a cell, if it has a finite one."""
    if isinstance(value, Interval):
        value = value.mean
    if isinstance(value, str | bool | None) or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _markdown(text: str) -> str:
    for character in "\\|*_`<":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, cells)) + " |"
