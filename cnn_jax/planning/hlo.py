"""The text of an optimised program: its instructions, in the order in which they run.

The text is XLA's HLO ("High Level Operations"): a computation for each function and one
called ENTRY, a line for each instruction. TPU's compiler writes beside an instruction
for how many cycles it plans with.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping

ITEM_BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "s16": 16,
    "u16": 16,
    "f16": 16,
    "bf16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
    "c64": 64,
    "c128": 128,
}
"""Bits of an entry by the dtype's name in HLO; what has none, tokens, takes none."""

VIEWS = ("bitcast", "get-tuple-element", "tuple", "optimization-barrier")
"""Instructions whose result is memory that is there already."""

_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'\bop_name="([^"]*)"')
_OPERAND = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a program.

    Attributes:
      name: Its name, the only one in the program.
      opcode: What it does: `"fusion"`, `"all-reduce"`.
      type: The shapes, dtypes and layouts of its result.
      operands: The names of the instructions that it reads.
      attributes: What else stands in its line.
      cycles: The compiler's estimate; None where it gives none.
      op_name: The operation that it comes from, with the names of the scopes around it.
        A fusion has the name of its last operation; one operation that the compiler
        made of several has all their names, separated by `;`. Empty if there is none.
      is_entry: Whether it stands in the program itself and not in a function of it.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    cycles: int | None
    op_name: str
    is_entry: bool


def read_instructions(text: str) -> list[Instruction]:
    """Returns the instructions of a program's text, in its order."""
    return list(_instructions(text))


def sum_cycles(text: str) -> tuple[int, int]:
    """Sums what the TPU compiler wrote beside each instruction of a program.

    Returns:
      The sum of its estimates, and how many windowed reductions stand without one, as
      those in bfloat16 mostly do.
    """
    entry = text[text.find("ENTRY") :].splitlines()
    num_unknown = sum(
        " reduce-window(" in line and "estimated_cycles" not in line for line in entry
    )
    return sum(map(int, _CYCLES.findall(text))), num_unknown


def array_bytes(type_text: str, *, padded: bool = False) -> int:
    """Returns the bytes of the arrays of a result, summed.

    Args:
      type_text: As `Instruction.type`; several arrays in parentheses.
      padded: Whether to count what a layout pads them to, and no array outside the main
        memory; `T(8,128)` are tiles of 8 x 128 entries, `S(1)` is another memory.
    """
    total = 0
    for dtype, sides, layout in _ARRAY.findall(type_text):
        if padded and re.search(r"S\([1-9]", layout):
            continue
        shape = [int(side.lstrip("<=")) for side in sides.split(",") if side]
        if padded:
            shape = _tiled(shape, layout)
        total += math.ceil(math.prod(shape) * ITEM_BITS.get(dtype, 0) / 8)
    return total


def activation_bytes(instructions: list[Instruction], passes: Mapping[str, str]) -> int:
    """Returns the bytes that the forward pass leaves in memory for the backward pass.

    They are the arrays that its instructions make and the backward pass's read, as many
    as are there at the same time: some are made again later, by the compiler's choice.

    Args:
      instructions: Those of a program.
      passes: `"forward"`, `"backward"` or another name by an instruction's name.
    """
    made_by: dict[str, str] = {}  # a part of a result -> the instruction behind it
    roots: dict[str, frozenset[str]] = {}  # a name -> the memory that it stands for
    sizes: dict[str, int] = {}
    made_at: dict[str, int] = {}
    last_read: dict[str, int] = {}  # by the backward pass
    for number, each in enumerate(instructions):
        if not each.is_entry or each.opcode == "parameter":
            continue
        below = frozenset[str]().union(
            *(roots.get(name, frozenset()) for name in each.operands)
        )
        is_part = each.opcode == "get-tuple-element" and below == set(each.operands)
        is_view = each.opcode in VIEWS or each.opcode.endswith("-done")
        roots[each.name] = below if is_view and not is_part else frozenset({each.name})
        made_by[each.name] = made_by[each.operands[0]] if is_part else each.name
        sizes[each.name] = array_bytes(each.type, padded=True)
        made_at[each.name] = number
        if passes.get(each.name) == "backward" and not is_view:
            last_read |= {
                name: number for name in below if passes.get(made_by[name]) == "forward"
            }
    changes = [(made_at[name], sizes[name]) for name in last_read]
    changes += [(number, -sizes[name]) for name, number in last_read.items()]
    # At one instruction, what is made comes after what is no longer needed.
    changes.sort()
    return max(itertools.accumulate(size for _, size in changes), default=0)


def _instructions(text: str) -> Iterator[Instruction]:
    is_entry = False
    for line in text.splitlines():
        if line.endswith("{") and (begin := _COMPUTATION.match(line)):
            is_entry = begin[1] is not None
            continue
        found = _LINE.match(line)
        if found is None:
            continue
        name, rest = found[1], found[2]
        end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
        opened = rest.find("(", end)
        if end <= 0 or opened < 0:
            continue
        closed = _closing(rest, opened)
        attributes = rest[closed + 1 :]
        cycles, op_name = _CYCLES.search(attributes), _OP_NAME.search(attributes)
        yield Instruction(
            name=name,
            opcode=rest[end:opened].strip(),
            type=rest[:end],
            operands=tuple(_OPERAND.findall(rest[opened:closed])),
            attributes=attributes,
            cycles=None if cycles is None else int(cycles[1]),
            op_name="" if op_name is None else op_name[1],
            is_entry=is_entry,
        )


def _closing(text: str, opened: int) -> int:
    """Returns where the parenthesis that opens at a place is closed."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opened):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text) - 1


def _tiled(shape: list[int], layout: str) -> list[int]:
    """Returns a shape padded to whole tiles of its layout."""
    order, _, rest = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", rest)
    if tile is None or not shape:
        return shape
    padded = list(shape)
    places = [int(place) for place in order.split(",") if place]
    sides = [int(side) for side in tile[1].split(",")]
    # The last side of a tile is along the dimension whose entries are neighbours.
    for place, side in zip(places, reversed(sides), strict=False):
        padded[place] = math.ceil(padded[place] / side) * side
    return padded
