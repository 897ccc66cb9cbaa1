"""A page is well formed, escaped, and loads nothing."""

import pytest
from helpers.page import EVIL, Page

from cnn_jax.report import html as pages
from cnn_jax.report.table import Column, Table


def evil_page() -> str:
    blocks = [
        pages.Paragraph(EVIL),
        pages.Bullets([EVIL]),
        Table(EVIL, [Column("a", EVIL, EVIL, note=EVIL)], [{"a": EVIL}], [EVIL]),
        pages.Charts([pages.Chart("<svg></svg>", EVIL, EVIL)]),
        pages.Charts([pages.Picture(f"data:image/png;{EVIL}", EVIL, EVIL)]),
        pages.Facts({EVIL: EVIL}),
        pages.Code(EVIL),
        pages.Details(EVIL, [pages.Paragraph(EVIL)]),
    ]
    return pages.render_page(EVIL, EVIL, [pages.Section(EVIL, blocks)], kicker=EVIL)


def test_page_is_well_formed_and_everything_is_escaped():
    page = Page(evil_page())
    assert "script" not in page.tags
    references = [value for name, value in page.attributes if name in ("src", "href")]
    assert references == [f"data:image/png;{EVIL}"]
    assert sum(EVIL in text for text in page.texts) == 23


def test_page_holds_its_style_and_loads_nothing():
    text = pages.render_page("t", "s", [])
    assert "<style>" in text
    assert "@media print" in text
    assert "link" not in Page(text).tags
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text


def test_page_is_readable_on_a_phone():
    text = pages.render_page("t", "s", [])
    assert '<meta name="viewport" content="width=device-width' in text


def test_unknown_block_is_refused():
    with pytest.raises(TypeError, match="got str, expected a Table or a block"):
        pages.render_block("text")


@pytest.mark.parametrize(
    "uri", ["https://example.org/x.png", "x.png", "data:text/html"]
)
def test_pictures_are_part_of_the_page(uri):
    with pytest.raises(ValueError, match="uri: got"):
        pages.Picture(uri, "t", "c")
