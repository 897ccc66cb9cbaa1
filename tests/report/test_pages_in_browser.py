"""Pages in a browser as wide as a desk's and a phone's: whole, and loading nothing."""

import pathlib

import pytest
from helpers.browser import WIDTHS, assert_pages_fit, needs_chromium

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.mark.parametrize("width", WIDTHS)
def test_committed_pages_fit(width, tmp_path):
    pages = {page.name: page for page in RESULTS.rglob("*.html")}
    assert_pages_fit(pages, width, tmp_path, parts="main *")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<div style="width: 500px">wide</div>', "is 5"),
        (
            '<p><svg width="90"><text x="80">label</text></svg></p>',
            '"label" is cut off',
        ),
        ("<script>console.error('failed')</script>", "failed"),
        ('<img src="https://example.invalid/picture.png" alt="">', "example.invalid"),
    ],
)
def test_a_page_that_does_not_fit_is_named(body, problem, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body><main>{body}</main></body>", "utf-8")
    with pytest.raises(AssertionError) as failure:
        assert_pages_fit({"a page": page}, 400, tmp_path, parts="main *")
    assert problem in str(failure.value)
