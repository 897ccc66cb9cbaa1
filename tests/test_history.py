"""The history of the CNN as a deck: its sources, its numbers and the built page."""

import html
import html.parser
import importlib
import os
import pathlib
import re
import sys
import types

import pytest
from helpers.browser import measure, needs_chromium

import cnn_jax

ROOT = pathlib.Path(__file__).parents[1]
HISTORY = ROOT / "docs" / "history"
COMMITTED = HISTORY / "history.html"
BUILT = pathlib.Path(os.environ.get("CNN_JAX_DECK", COMMITTED))
"""The committed file, or one that was just built."""

MEASURE = ROOT / "tests" / "helpers" / "measure_slides.js"
MODULES = ("build", "charts", "drawing", "facts", "labels", "layout", "traced")
VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def deck():
    """The modules that build the deck; they import each other as the script does."""
    sys.path.insert(0, str(HISTORY))
    try:
        yield types.SimpleNamespace(
            **{name: importlib.import_module(name) for name in MODULES}
        )
    finally:
        sys.path.remove(str(HISTORY))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def source():
    return (HISTORY / "deck.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page():
    return BUILT.read_text(encoding="utf-8")


class Facts(html.parser.HTMLParser):
    """Collects the text of every element with a `data-fact`, and where it is nested."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag in VOID:
            return
        words = dict(attributes).get("data-fact")
        if words is not None:
            nested = any(fact is not None for _, fact in self.open)
            self.found.append([words, "", nested])
            words = self.found[-1]
        self.open.append((tag, words))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, fact in self.open:
            if fact is not None:
                fact[1] += data


def text_of(fragment):
    """Returns the text of the first fact in a fragment, its spaces made one."""
    return squeezed(Facts(fragment).found[0][1])


def squeezed(text):
    return " ".join(text.split())


def test_there_are_enough_slides(source, page):
    slides = re.split(r"^---$", source, flags=re.MULTILINE)[2:]
    assert len(slides) >= 25
    assert len(re.findall(r"<section\b", page)) == len(slides)


def test_the_built_page_is_of_these_sources(deck, page):
    expected = f'<meta name="sources" content="{deck.build.digest()}">'
    assert expected in page, "run `python docs/history/build.py` and commit its result"


def test_the_built_page_has_the_placeholders_of_the_source(deck, source, page):
    expected = deck.facts.PLACEHOLDER.findall(source)
    assert len(expected) > 200
    assert [words for words, _, nested in Facts(page).found if not nested] == expected


def test_what_the_registry_and_the_records_say_is_what_the_page_says(deck, page):
    """Parameters, multiply-adds, years, accuracies, ratios, charts and references."""
    facts = deck.facts
    found = [(w, squeezed(t)) for w, t, _ in Facts(page).found]
    quick = [(words, text) for words, text in found if not facts.needs_tracing(words)]
    assert len(quick) > 200
    wrong = [
        f"{words}: {text!r}, expected {expected!r}"
        for words, text in quick
        if (expected := text_of(facts.resolve(words))) != text
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(BUILT == COMMITTED, reason="no other was built")
def test_the_committed_page_says_what_the_one_just_built_says(page):
    """Depths, drawings and strips of the traced networks among it."""
    committed = COMMITTED.read_text(encoding="utf-8")
    told, expected = (
        [(words, squeezed(text)) for words, text, _ in Facts(each).found]
        for each in (committed, page)
    )
    assert told == expected
    assert len(rectangles(page)) > 100
    assert rectangles(committed) == rectangles(page)


@pytest.mark.nightly
def test_what_the_traced_networks_say_is_what_the_page_says(deck, page):
    """The same where nothing can be built; tracing all the networks takes minutes."""
    facts = deck.facts
    found = [(w, squeezed(t)) for w, t, _ in Facts(page).found]
    traced = [(words, text) for words, text in found if facts.needs_tracing(words)]
    assert len(traced) > 60
    for words, text in traced:
        drawn = facts.resolve(words)
        assert text_of(drawn) == text, words
        if words.startswith(("block", "strip")):
            assert page.count("<rect") > 100
            assert rectangles(drawn) == rectangles(part_of(page, words)), words


def rectangles(fragment):
    return re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([-\d.]+)"', fragment)


def part_of(page, words):
    start = page.index(f'data-fact="{html.escape(words)}"')
    return page[start : page.index("</svg>", start)]


def test_traced_placeholders_name_models(deck, source):
    models = set(cnn_jax.list_models())
    for words in deck.facts.PLACEHOLDER.findall(source):
        first, *rest = words.split()
        if first in ("block", "strip", "layer", "numbers"):
            assert rest[0] in models, words
        if first == "table":
            assert set(rest) <= models, words


def test_each_reference_is_cited_and_has_its_source(deck, source):
    shown = re.findall(r"\{\{references (\d)\}\}", source)
    pages = -(-len(deck.facts.references()) // deck.facts.REFERENCES_PER_PAGE)
    assert shown == [str(page) for page in range(1, pages + 1)]
    cited = set()
    for words in deck.facts.PLACEHOLDER.findall(source):
        if words.startswith("cite "):
            cited.update(words.split()[1:])
    references = deck.facts.references()
    # The study's own slide cites its data set from the code.
    assert set(references) == cited | {"krizhevsky2009"}
    for entry in references.values():
        assert entry["url"].startswith("http")
        assert 1900 < entry["year"] < 2100
    papers = {i.paper for i in map(cnn_jax.model_info, cnn_jax.list_models())}
    assert papers <= {entry["paper"] for entry in references.values()}


def test_landmarks_have_their_parts(source):
    slides = re.split(r"^---$", source, flags=re.MULTILINE)[2:]
    landmarks = [slide for slide in slides if "_class: landmark" in slide]
    assert len(landmarks) >= 20
    for slide in landmarks:
        for part in ("**Idea.**", "**Fixed.**", "**Cost.**", "{{cite ", "{{numbers "):
            assert part in slide, slide[:80]
        assert "{{block " in slide
        assert "{{strip " in slide


def test_nothing_is_loaded_when_the_page_is_opened(page):
    loaded = re.findall(r"<(?:script|img|iframe|source|video|audio)[^>]*\ssrc=", page)
    loaded += re.findall(r"<link\b[^>]*>", page)
    loaded += re.findall(r"@import[^;]*;", page)
    urls = re.findall(r"url\(\s*[\"']?([^)\"']*)", page)
    loaded += [url for url in urls if not url.startswith(("data:", "#"))]
    assert not loaded
    assert BUILT.stat().st_size < 2_000_000


def test_networks_are_read_from_their_program(deck):
    assert deck.traced.depth("lenet5") == 5
    assert deck.traced.depth("resnet20") == 20
    svg = deck.drawing.draw_block("resnet20", "stage1_block2")
    texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)<", svg)]
    conv = "3\u00d73 conv, 16"
    size = "32\u00d732\u00d716"
    expected = [f"output: {size}", f"input: {size}"]
    expected += [conv, "batch norm, ReLU", conv, "batch norm", "+", "ReLU"]
    assert sorted(texts) == sorted(expected)
    # Input to first, first to second, second to sum, shortcut, sum to ReLU, output.
    assert svg.count("<polygon") == 6


def test_drawings_that_do_not_fit_are_refused(deck):
    with pytest.raises(ValueError, match="choose fewer steps"):
        deck.drawing.draw_block("resnet20", "stage")
    with pytest.raises(ValueError, match="which no step's scope matches"):
        deck.drawing.draw_block("lenet5", "nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{resnet50.colour}}", r"\{\{resnet50.colour\}\}: .*expected a number"),
        ("{{resnet51.macs}}", "resnet51"),
        ("{{cite nobody}}", "nobody"),
        ("{{here alexnet}}", "no committed result"),
        ("{{gain}}", "gain"),
    ],
)
def test_placeholders_that_stand_for_nothing_are_named(deck, text, message):
    with pytest.raises(ValueError, match=message):
        deck.build.fill(text)


def test_without_marp_nothing_is_built(deck, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(deck.build, "HERE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "deck.html"
    assert deck.build.main(["--output", str(output)]) == 2
    assert "run `npm install`" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("family", ["Liberation Sans", "DejaVu Sans"])
def test_no_slide_overflows_in_a_browser(page, family, tmp_path):
    """No text too small, no console message and no request either.

    DejaVu is the widest of the fonts that a system may put in the place of Arial.
    """
    assert "Liberation Sans" in page
    page = page.replace("Liberation Sans", family)
    values, console = measure(page, MEASURE.read_text(encoding="utf-8"), tmp_path)
    assert not console
    assert values["slides"] >= 25
    assert values["requests"] == []
    assert not values["problems"], "\n".join(values["problems"])
