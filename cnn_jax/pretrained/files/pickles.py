"""Pickles of PyTorch's state dicts, looked at before PyTorch reads them.

PyTorch's own reader under `weights_only=True` runs no code, but what it does costs as
much as a file wants: a few bytes make tuples that hold each other, whose hash takes
hours, tensors larger than what they are stored in, or a `bytearray` of any length. So
the pickle is followed here, with stand-ins for what it makes.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_BYTES = 2**23
"""The longest pickle: several times what the names of `MAX_ARRAYS` take."""

_MAX_OPCODES = 2**19
_MAX_HASHED = 2**22
"""The most values that may be hashed in all."""
_MAX_DEPTH = 50
"""The most tuples that one may be within."""

_ITEM_SIZES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
    "torch.storage.UntypedStorage": 1,
}

_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")

_PARAMETERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)

_CONTAINERS = (
    *("collections.OrderedDict", "collections.Counter", "builtins.set"),
    *("__builtin__.set",),
)

_SMALL = (
    *("torch.device", "torch.serialization._get_layout", "_codecs.encode"),
    *("builtins.complex", "__builtin__.complex"),
)


def follow(content: bytes, *, num_pickles: int = 1) -> dict[str, int]:
    """Follows successive pickles and checks that reading them is cheap.

    Args:
      content: What begins with them.
      num_pickles: How many there are.

    Returns:
      The key of every storage -> its size in bytes.

    Raises:
      ValueError: If a pickle makes more than a state dict needs: other calls than those
        that make tensors and dictionaries, deep tuples, tensors that are larger than
        their storage.
      Exception: Whatever a damaged pickle makes Python raise.
    """
    stream = io.BytesIO(content[:MAX_BYTES])
    machine = _Machine()
    for _ in range(num_pickles):
        machine.run(stream)
    return machine.storages


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    length: int


@dataclasses.dataclass(frozen=True)
class _Tuple:
    items: Sequence[Any]
    weight: int
    depth: int


@dataclasses.dataclass
class _Box:
    """A list, a dictionary or a set: how many values are in it, in other boxes too."""

    weight: int = 1


class _Other:
    """A value of which nothing else matters."""


_MARK = _Other()


class _Machine:
    """Follows opcodes on a stack of stand-ins: integers and texts stand for themselves.

    Attributes:
      storages: Key -> size in bytes.
    """

    def __init__(self) -> None:
        self.storages: dict[str, int] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._opcodes = 0
        self._hashed = 0

    def run(self, stream: io.BytesIO) -> None:
        self._stack, self._memo = [], {}
        for opcode, argument, _ in pickletools.genops(stream):
            self._opcodes += 1
            if self._opcodes > _MAX_OPCODES:
                raise ValueError(f"a pickle of more than {_MAX_OPCODES:,} steps")
            if opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name](argument))
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "STOP"):
                raise ValueError(f"a pickle with the opcode {opcode.name}")

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def make_tuple(self, items: Sequence[Any]) -> None:
        depth = 1 + max(
            (each.depth for each in items if isinstance(each, _Tuple)), default=0
        )
        if depth > _MAX_DEPTH:
            raise ValueError(f"tuples that are {depth} deep")
        weight = min(1 + sum(map(_weight, items)), 2**62)
        self._stack.append(_Tuple(items, weight, depth))

    def pop(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count:
            raise ValueError("a pickle that takes more than it has put")
        del self._stack[-count:]
        return items

    def pop_to_mark(self) -> list[Any]:
        start = len(self._stack) - 1
        while self._stack[start] is not _MARK:
            start -= 1
        items = self._stack[start + 1 :]
        del self._stack[start:]
        return items

    def add(self, items: Sequence[Any], *, hashed: Sequence[Any] = ()) -> None:
        self._count(hashed)
        box = self._stack[-1]
        if isinstance(box, _Box):
            box.weight = min(box.weight + sum(map(_weight, items)), 2**62)
        else:
            raise ValueError("a pickle that puts items into what is no container")

    def build(self) -> None:
        (state,) = self.pop(1)
        self._count([state])
        if not isinstance(self._stack[-1], _Box):
            raise ValueError("a pickle that sets the state of what is no container")

    def call(self) -> None:
        function, arguments = self.pop(2)
        self._stack.append(self._result(function, arguments))

    def load_storage(self) -> None:
        (found,) = self.pop(1)
        kind, storage, key, _, length = found.items[:5]
        if kind != "storage" or not isinstance(key, str) or not _is_size(length):
            raise ValueError("a reference to what is no storage")
        if storage.name not in _ITEM_SIZES:
            raise ValueError(f"a {storage.name}, which holds no weights")
        size = length * _ITEM_SIZES[storage.name]
        self.storages[key] = max(size, self.storages.get(key, 0))
        self._stack.append(_Storage(length))

    def _result(self, function: Any, arguments: Any) -> Any:
        name, items = function.name, arguments.items
        self._count([arguments])
        if name == "torch._tensor._rebuild_from_type_v2":
            return self._result(items[0], items[2])
        if name in _TENSORS:
            return _tensor(items)
        if name in _PARAMETERS:
            return _Other()
        if name == "torch.Size":
            return items[0]
        if name in _CONTAINERS:
            return _Box(arguments.weight)
        if name in _SMALL:
            return _Other()
        raise ValueError(f"a call of {name}, which makes no weights")

    def _count(self, hashed: Sequence[Any]) -> None:
        self._hashed += sum(map(_weight, hashed))
        if self._hashed > _MAX_HASHED:
            raise ValueError(f"more than {_MAX_HASHED:,} values to hash")


def _tensor(arguments: Sequence[Any]) -> _Other:
    """Checks that a tensor is in its storage: else PyTorch makes that larger."""
    storage, offset, size, strides = arguments[:4]
    sizes, steps = size.items, strides.items
    if not all(map(_is_size, (offset, *sizes, *steps))) or len(sizes) != len(steps):
        raise ValueError("a tensor whose size is none")
    last = offset + sum(
        (each - 1) * step for each, step in zip(sizes, steps, strict=True)
    )
    if 0 not in sizes and last >= storage.length:
        raise ValueError("a tensor that is larger than its storage")
    return _Other()


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _weight(value: Any) -> int:
    return value.weight if isinstance(value, _Tuple | _Box) else 1


def _other(_: Any) -> _Other:
    return _Other()


_CONSTANTS: Mapping[str, Callable[[Any], Any]] = {
    "MARK": lambda _: _MARK,
    "NONE": _other,
    "NEWTRUE": _other,
    "NEWFALSE": _other,
    "BININT": int,
    "BININT1": int,
    "BININT2": int,
    "LONG1": int,
    "BINFLOAT": _other,
    "BINUNICODE": str,
    "SHORT_BINSTRING": str,
    "GLOBAL": lambda argument: _Global(argument.replace(" ", ".")),
    "EMPTY_LIST": lambda _: _Box(),
    "EMPTY_DICT": lambda _: _Box(),
    "EMPTY_SET": lambda _: _Box(),
}

_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "EMPTY_TUPLE": lambda machine, _: machine.make_tuple([]),
    "TUPLE1": lambda machine, _: machine.make_tuple(machine.pop(1)),
    "TUPLE2": lambda machine, _: machine.make_tuple(machine.pop(2)),
    "TUPLE3": lambda machine, _: machine.make_tuple(machine.pop(3)),
    "TUPLE": lambda machine, _: machine.make_tuple(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.add(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.add(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, machine.pop(2)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_to_mark()),
    "BINPERSID": lambda machine, _: machine.load_storage(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}


def _set_items(machine: _Machine, items: Sequence[Any]) -> None:
    machine.add(items, hashed=items[::2])
