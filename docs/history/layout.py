"""Boxes of a drawing from the traced steps of a network: what joins, and what is where.

Boxes stand in rows, by their distance from the input, and in lanes: a branch keeps its
lane, and a shortcut passes in one of its own on the right.
"""

from __future__ import annotations

import dataclasses

from traced import WEIGHTED, Step

CIRCLES = ("add", "multiply")
BARS = ("concat", "input")

TITLE_SIZE, DETAIL_SIZE = 17, 15
BOX_HEIGHT, LINE_HEIGHT, GAP, LANE_GAP, RADIUS = 34, 19, 20, 16, 15


@dataclasses.dataclass
class Box:
    """One box of a drawing: a layer with what belongs to it, or a point of joining.

    Attributes:
      kind: The kind of its main step.
      title: Its main step's text.
      details: Smaller lines, above the title where `first` says so.
      inputs: The numbers of the boxes that it reads.
      first: Whether the details come before the main step.
      row: Its row, from the top.
      lane: Its lane, from the left.
    """

    kind: str
    title: str
    details: list[str]
    inputs: list[int]
    first: bool = False
    row: int = 0
    lane: int = 0

    @property
    def height(self) -> float:
        """The height in pixels."""
        if self.kind in CIRCLES:
            return 2 * RADIUS
        if self.kind in ("concat", "input"):
            return 28
        return BOX_HEIGHT + LINE_HEIGHT * len(self.details)

    @property
    def width(self) -> float:
        """The width in pixels that its text needs."""
        if self.kind in CIRCLES:
            return 2 * RADIUS
        lengths = [len(self.title) * TITLE_SIZE * 0.56]
        lengths += [len(line) * DETAIL_SIZE * 0.52 for line in self.details]
        return max(90, max(lengths) + 24)


@dataclasses.dataclass
class Edge:
    """An arrow from one box to another, in a lane."""

    source: int
    target: int
    lane: int


def merge(steps: tuple[Step, ...], chosen: range, pre_activation: bool) -> list[Box]:
    """Returns boxes of the steps, of which small ones join a neighbour."""
    shape = steps[chosen[0]].reads
    boxes = [Box("input", "input: " + sizes(shape), [], [])]
    box_of: dict[int, int] = {}
    uses = [source for number in chosen for source in steps[number].inputs]
    waiting: list[str] = []
    for number in chosen:
        step = steps[number]
        inputs = [box_of.get(source, 0) for source in step.inputs]
        small = step.kind in ("norm", "activation")
        alone = uses.count(step.inputs[0]) == 1 and step.inputs[0] in box_of
        last = boxes[inputs[0]]
        if small and pre_activation and uses.count(number) == 1:
            waiting.append(step.text)
            box_of[number] = inputs[0]
        elif small and alone and (last.kind in WEIGHTED) and not last.first:
            last.details = _joined(last.details, step.text)
            box_of[number] = inputs[0]
        else:
            box = Box(step.kind, step.text, [], list(dict.fromkeys(inputs)))
            if waiting:
                box.details, box.first = _joined([], ", ".join(waiting)), True
                waiting = []
            if len(box.inputs) < len(inputs):  # both sides from one box
                box.inputs = inputs
            boxes.append(box)
            box_of[number] = len(boxes) - 1
    return boxes


def _joined(details: list[str], text: str) -> list[str]:
    if details and len(details[-1]) + len(text) < 24:
        return [*details[:-1], f"{details[-1]}, {text}"]
    return [*details, text]


def sizes(shape: tuple[int, ...]) -> str:
    """Returns a shape as it is written in a drawing."""
    return "\u00d7".join(str(side) for side in shape)


def place(boxes: list[Box]) -> list[Edge]:
    """Sets rows and lanes, and returns the arrows with theirs."""
    for box in boxes[1:]:
        box.row = 1 + max(boxes[source].row for source in box.inputs)
    edges = [
        Edge(source, target, -1)
        for target, box in enumerate(boxes)
        for source in box.inputs
    ]
    for number, box in enumerate(boxes):
        incoming = [edge.lane for edge in edges if edge.target == number]
        box.lane = min((lane for lane in incoming if lane >= 0), default=box.lane)
        outgoing = [edge for edge in edges if edge.source == number]
        direct = [edge for edge in outgoing if not _is_shortcut(edge, outgoing, boxes)]
        taken = [
            (edge.lane, boxes[edge.source].row, boxes[edge.target].row)
            for edge in edges
            if edge.lane >= 0
        ]
        lane = box.lane
        for edge in direct:
            span = (box.row, boxes[edge.target].row)
            while any(
                lane == other and span[0] < end and begin < span[1]
                for other, begin, end in taken
            ):
                lane += 1
            edge.lane = lane
            lane += 1
    _place_shortcuts(boxes, edges)
    return edges


def _is_shortcut(edge: Edge, outgoing: list[Edge], boxes: list[Box]) -> bool:
    target = boxes[edge.target]
    spans = target.row - boxes[edge.source].row > 1
    return len(outgoing) > 1 and len(target.inputs) > 1 and spans


def _place_shortcuts(boxes: list[Box], edges: list[Edge]) -> None:
    """Gives each shortcut the next lane on the right that is free, short ones first."""
    waiting = [edge for edge in edges if edge.lane < 0]
    waiting.sort(key=lambda edge: boxes[edge.target].row - boxes[edge.source].row)
    for edge in waiting:
        first, last = boxes[edge.source].row, boxes[edge.target].row
        lane = max(box.lane for box in boxes if first <= box.row <= last) + 1
        while any(
            other.lane == lane
            and boxes[other.source].row < last
            and first < boxes[other.target].row
            for other in edges
        ):
            lane += 1
        edge.lane = lane
