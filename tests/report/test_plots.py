"""Charts are drawn where the numbers say, and can be read without being seen."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from cnn_jax.report import labels, plots
from cnn_jax.report.statistics import SINGLE, STUDENT, Interval

NAMES = ("one", "two_2", "<b>&c", "four", "$five$")


def interval(mean: float, half: float) -> Interval:
    return Interval(mean, mean - half, mean + half, STUDENT, 3)


def curves(num_epochs: int = 4) -> list[plots.Curve]:
    return [
        plots.Curve(
            name,
            range(1, num_epochs + 1),
            [interval(0.5 + 0.01 * epoch, 0.2) for epoch in range(num_epochs)],
            style,
        )
        for style, name in enumerate(NAMES)
    ]


def draw_lines(num_epochs: int = 4, title: str = "Lines") -> ElementTree.Element:
    svg = plots.line_chart(
        curves(num_epochs),
        title=title,
        description="Five & more",
        x_label="epoch",
        y_label="accuracy, %",
        scale=100,
        bounds=(0, 1),
    )
    return ElementTree.fromstring(svg)


def draw_points(factor: float = 10, title: str = "Points") -> ElementTree.Element:
    points = [
        plots.Point(name, factor**style * 30_000, interval(0.9, 0.01), style)
        for style, name in enumerate(NAMES)
    ]
    svg = plots.scatter_chart(
        points,
        title=title,
        description="Five points",
        x_label="parameters",
        y_label="accuracy, %",
        scale=100,
    )
    return ElementTree.fromstring(svg)


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text for element in root.iter("text")]


@pytest.fixture(scope="module")
def lines() -> ElementTree.Element:
    return draw_lines()


@pytest.fixture(scope="module")
def crowd() -> ElementTree.Element:
    return draw_points(factor=1.1, title="Crowd")


@pytest.fixture(scope="module")
def points() -> ElementTree.Element:
    return draw_points()


@pytest.mark.parametrize("chart", ["lines", "points"])
def test_chart_is_accessible_and_text_is_text(chart, request):
    root = request.getfixturevalue(chart)
    by_id = {element.get("id"): element for element in root.iter()}
    assert root.get("role") == "img"
    named = [by_id[name].text for name in root.get("aria-labelledby").split()]
    assert named[0] == chart.capitalize()
    assert named[1].startswith("Five")
    assert set(NAMES) <= set(texts(root))


@pytest.mark.parametrize("chart", ["lines", "points"])
def test_chart_refers_to_nothing_outside_itself(chart, request):
    root = request.getfixturevalue(chart)
    text = ElementTree.tostring(root, encoding="unicode")
    assert "http" not in text
    assert "xlink" not in text
    assert "DejaVu" not in text
    known = {element.get("id") for element in root.iter()}
    used = set(re.findall(r"url\(#([^)]*)\)", text))
    used |= {element.get("href")[1:] for element in root.iter() if element.get("href")}
    assert used
    assert used <= known


def test_two_charts_in_one_page_share_no_identifier(lines, points):
    names = [
        element.get("id")
        for root in (lines, points)
        for element in root.iter()
        if element.get("id")
    ]
    assert len(names) == len(set(names))


def test_the_same_numbers_give_the_same_bytes(lines):
    assert ElementTree.tostring(draw_lines()) == ElementTree.tostring(lines)


def series_of(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [group for group in root.iter("g") if group.get("class") == "series"]


@pytest.mark.parametrize("chart", ["lines", "points"])
def test_all_of_a_series_is_one_group(chart, request):
    """So that the pointer on its line, a point or its label makes the others pale."""
    root = request.getfixturevalue(chart)
    groups = series_of(root)
    assert [texts(group) for group in groups] == [[name] for name in NAMES]
    markers = {"lines": 4, "points": 1}[chart]
    for group in groups:
        assert len(list(group.iter("circle"))) == markers
        assert len(list(group.iter("path"))) >= 3  # a line, a band or bar, a leader
    outside = {*root.iter()} - {part for group in groups for part in group.iter()}
    assert not any("series" in part.get("id", "") for part in outside)


@pytest.mark.parametrize("single", [False, True])
def test_points_tell_their_numbers(single):
    values = [0.5, 0.625]
    band = [
        Interval(v, v, v, SINGLE, 1) if single else interval(v, 0.5) for v in values
    ]
    svg = plots.line_chart(
        [plots.Curve("a < b", [10, 100], band)],
        title="Told",
        description="",
        x_label="rate",
        y_label="",
        scale=100,
        bounds=(0, 1),
        ticks={10: "ten", 100: "100"},
    )
    root = ElementTree.fromstring(svg)
    told = [circle.find("title").text for circle in root.iter("circle")]
    low, high = ("", "") if single else (" (0 to 100)", " (12.5 to 100)")
    assert told == [f"a < b, rate 100: 62.5{high}", f"a < b, rate ten: 50{low}"]
    assert "<title>a &lt; b, rate" in svg


def test_points_are_found_where_they_are_drawn(points):
    for group in series_of(points):
        (circle,) = group.iter("circle")
        mark = next(use for use in group.iter("use") if "mark" in parent_id(group, use))
        for axis in "xy":
            drawn, found = float(mark.get(axis)), float(circle.get(f"c{axis}"))
            assert drawn == pytest.approx(found, abs=0.01)


def parent_id(root: ElementTree.Element, element: ElementTree.Element) -> str:
    """Returns the identifier of the part of a series that an element is in."""
    return next(part.get("id") or "" for part in root if element in part.iter())


def test_of_many_points_some_tell_their_numbers_and_the_last_does():
    told = [
        [circle.find("title").text for circle in group.iter("circle")]
        for group in series_of(draw_lines(num_epochs=1000))
    ]
    assert all(30 <= len(texts) <= 60 and "epoch 1000:" in texts[0] for texts in told)


def label_boxes(root: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, upper, right and lower ends of each name, a character being 5 by 9."""
    boxes = []
    for element in root.iter("text"):
        if element.text in NAMES:
            where = element.get("transform") or ""
            found = re.search(r"translate\(([\d.-]+)[ ,]+([\d.-]+)\)", where)
            x, y = (
                map(float, found.groups())
                if found
                else (float(element.get("x")), float(element.get("y")))
            )
            boxes.append((x, y, x + 5 * len(element.text), y + 9))
    return boxes


@pytest.mark.parametrize("chart", ["lines", "points", "crowd"])
def test_labels_neither_cover_each_other_nor_leave_the_chart(chart, request):
    root = request.getfixturevalue(chart)
    boxes = label_boxes(root)
    assert len(boxes) == len(NAMES)
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            assert labels._shared(one, other) == 0
    _, _, width, height = map(float, root.get("viewBox").split())
    for left, bottom, right, top in boxes:
        assert left >= 0
        assert right <= width
        assert bottom >= 0
        assert top <= height + 9


def drawn_at(root: ElementTree.Element, style: int) -> list[tuple[float, float]]:
    """Returns the markers of a style in the chart's units, y upwards."""
    color = plots.COLORS[style]
    found = [
        (float(element.get("x")), -float(element.get("y")))
        for element in root.iter("use")
        if f"fill: {color}" in element.get("style", "")
        and "fill-opacity" not in element.get("style")  # the band
    ]
    return list(dict.fromkeys(found))


def test_points_lie_where_their_numbers_say(points):
    spots = []
    for style in range(len(NAMES)):
        # The point and the two ends of its error bar, one above the other.
        spot = sorted(drawn_at(points, style), key=lambda place: place[1])
        assert len(spot) == 3
        assert spot[1][1] == pytest.approx((spot[0][1] + spot[2][1]) / 2, abs=1e-3)
        spots.append(spot[1])
    steps = [after[0] - before[0] for before, after in itertools.pairwise(spots)]
    assert steps == pytest.approx([steps[0]] * 4, abs=1e-3)
    assert steps[0] > 30
    assert {round(y, 3) for _, y in spots} == {round(spots[0][1], 3)}


def test_points_may_lie_above_each_other():
    value = interval(0.5, 0.1)
    points = [plots.Point(name, 10240, value) for name in ("one", "other")]
    for some in (points[:1], points):
        svg = plots.scatter_chart(
            some, title="a", description="b", x_label="c", y_label="d"
        )
        assert svg.count(">one<") == 1


def test_a_unit_stands_behind_the_numbers_of_the_axis():
    svg = plots.scatter_chart(
        [
            plots.Point(name, x, interval(0.5, 0.1))
            for name, x in (("a", 0.03), ("b", 9))
        ],
        title="Units",
        description="d",
        x_label="time",
        y_label="y",
        x_unit="s",
    )
    assert {"100 ms", "1 s", "10 s"} <= set(texts(ElementTree.fromstring(svg)))


def test_labels_with_room_stand_beside_their_points(points):
    for style, (left, baseline, _, _) in enumerate(label_boxes(points)):
        x, y = sorted(drawn_at(points, style), key=lambda place: place[1])[1]
        assert 8 < left - x < 14
        assert abs(-baseline - y) < 6


def test_lines_rise_as_their_numbers_do(lines):
    spots = drawn_at(lines, 0)
    assert len(spots) == 4
    for axis in (0, 1):
        values = [spot[axis] for spot in spots]
        steps = [after - before for before, after in itertools.pairwise(values)]
        assert steps == pytest.approx([steps[0]] * 3, abs=1e-3)
        assert steps[0] > 1


def test_bands_end_where_values_must():
    inside, outside = (
        plots.line_chart(
            [plots.Curve("x", [1, 2], [Interval(0.9, low, high, STUDENT, 3)] * 2)],
            title="Band",
            description="d",
            x_label="epoch",
            y_label="accuracy",
            bounds=(0, 1),
        )
        for low, high in ((0.0, 1.0), (-3.0, 4.0))
    )
    assert inside == outside


def test_one_epoch_is_a_point(generator):
    root = draw_lines(num_epochs=1, title="One epoch")
    assert "1" in texts(root)
    assert "0.5" not in texts(root)


def test_marked_positions_are_logarithmic_and_say_what_they_are_told():
    def draw(ticks):
        return plots.line_chart(
            [plots.Curve("x", [5, 50, 500], [interval(v, 0.1) for v in (1, 2, 3)])],
            title="Marked",
            description="d",
            x_label="examples",
            y_label="accuracy",
            ticks=ticks,
        )

    root = ElementTree.fromstring(draw({5: "5", 50: "50", 500: "all"}))
    spots = drawn_at(root, 0)
    steps = [after[0] - before[0] for before, after in itertools.pairwise(spots)]
    assert steps == pytest.approx([steps[0]] * 2, abs=1e-3)
    assert {"5", "50", "all"} < set(texts(root))
    assert not {"500", "10"} & set(texts(root))
    with pytest.raises(ValueError, match=r"ticks: got \[0\], expected positive"):
        draw({0: "none"})


def test_one_marked_position_is_a_point():
    svg = plots.line_chart(
        [plots.Curve("x", [5], [interval(0.00005, 0.00001)])],
        title="One",
        description="d",
        x_label="examples",
        y_label="rate",
        ticks={5: "5"},
    )
    assert "5" in texts(ElementTree.fromstring(svg))


def test_labels_are_spread_little_and_in_order():
    placed = labels._spread([10.0, 11.0, 50.0], gap=15, low=0, high=100)
    assert placed == pytest.approx([3.0, 18.0, 50.0], abs=0.1)
    placed = labels._spread([99.0, 99.0], gap=15, low=0, high=100)
    assert placed[1] - placed[0] == pytest.approx(15, abs=0.1)
    assert max(placed) <= 100


def test_every_style_differs():
    styles = [tuple(plots._line_style(index).values()) for index in range(16)]
    assert len(set(styles)) == 16


def test_single_observations_have_no_band():
    svg = plots.line_chart(
        [plots.Curve("x", [1, 2], [Interval(v, v, v, SINGLE, 1) for v in (1, 2)])],
        title="Single",
        description="d",
        x_label="epoch",
        y_label="loss",
        bounds=(0, math.inf),
    )
    assert "inf" not in svg
    assert "nan" not in svg.lower()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="curve 'x': got 1 positions and 0 values"):
        plots.line_chart(
            [plots.Curve("x", [1], [])],
            title="t",
            description="d",
            x_label="x",
            y_label="y",
        )
    with pytest.raises(ValueError, match="point 'x': got x 0"):
        plots.scatter_chart(
            [plots.Point("x", 0, interval(1, 1))],
            title="t",
            description="d",
            x_label="x",
            y_label="y",
        )
