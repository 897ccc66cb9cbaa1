"""Mutations of a file's content, drawn from a generator.

A `Mutation` takes bytes and a `random.Random` and returns other bytes. Those of bytes
know no format. Those that are made by `of_json`, `of_zip` and the like take the content
apart, mutate what is inside and put it together again, so that checksums and lengths
fit and the reader gets to see it.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pathlib
import random
import socket
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

_INTEGERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
_INTEGERS += (2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3.5, -0.0, 1e-300, 1e308),
    *(2**31, 2**53, 2**63, -(2**63), 2**64, 2**200),
    *(float("nan"), float("inf"), float("-inf")),
    *("", "x", "0", "nan", "../../x", "/dev/zero", "\x1b[31m", "\x00", "\ud800", "ä"),
    *("x" * 100_000, [], {}, [[]], [None], {"": None}, [1, "x", None], {"a": {"b": 1}}),
    *("os", "os.system", "builtins.eval", "file:///etc/passwd", "http://localhost:1/x"),
)

# What `json.dumps` cannot write is put in place of a mark afterwards.
_RAW = {
    "@deep list@": "[" * 100_000 + "]" * 100_000,
    "@deep list, rather@": "[" * 900 + "]" * 900,
    "@deep object@": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "@deep object, rather@": '{"a":' * 900 + "1" + "}" * 900,
    "@long integer@": "9" * 5_000,
    "@long exponent@": "1e999999999",
    "@long list@": "[" + "0," * 100_000 + "0]",
}


def mutate(
    content: bytes, generator: random.Random, structured: Sequence[Mutation] = ()
) -> bytes:
    """Returns a mutated content: half of the time by a structured mutation, if any."""
    if structured and generator.random() < 0.5:
        mutation = generator.choice(structured)
        for _ in range(generator.choice((1, 1, 1, 2))):
            content = mutation(content, generator)
        return content
    return of_bytes(content, generator)


def of_bytes(content: bytes, generator: random.Random) -> bytes:
    """Applies one to three mutations that know no format."""
    for _ in range(generator.choice((1, 1, 2, 3))):
        content = generator.choice(_BYTES)(content, generator)
    return content


def of_json(content: bytes, generator: random.Random) -> bytes:
    """Changes one to three values, keys or types in a JSON document."""
    try:
        tree = [json.loads(content)]
    except (ValueError, RecursionError):
        return of_bytes(content, generator)
    try:
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            _change_json(tree, generator)
        text = json.dumps(tree[0], indent=generator.choice((None, 1)))
    except RecursionError:  # a deep one, mutated before
        return of_bytes(content, generator)
    for mark, raw in _RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode("utf-8", "surrogatepass")


def of_lines(mutation: Mutation) -> Mutation:
    """Returns the mutation of one line, or of which lines there are."""

    def mutated(content: bytes, generator: random.Random) -> bytes:
        lines = content.split(b"\n")
        index = generator.randrange(len(lines))
        kind = generator.random()
        if kind < 0.6:
            lines[index] = mutation(lines[index], generator)
        elif kind < 0.75:
            lines.insert(index, generator.choice(lines))
        elif kind < 0.9:
            del lines[index]
        else:
            generator.shuffle(lines)
        return b"\n".join(lines)

    return mutated


def of_zip(member: Mutation) -> Mutation:
    """Returns the mutation of a zip file's members and of its directory.

    Args:
      member: The mutation of one member's content.
    """

    def mutated(content: bytes, generator: random.Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [(each, archive.read(each)) for each in archive.infolist()]
        except Exception:  # mutated before
            return of_bytes(content, generator)
        if not members:
            return of_bytes(content, generator)
        kind = generator.randrange(8)
        index = generator.randrange(len(members))
        entry, data = members[index]
        compressed, compression = -1, zipfile.ZIP_STORED
        if kind < 4:
            members[index] = entry, member(data, generator)
        elif kind == 4:
            name = generator.choice(
                (entry.filename + "x", "", "/", "../x", "a/" * 3000 + "x", "\x1b[31m")
            )
            members[index] = zipfile.ZipInfo(name), data
        elif kind == 5:
            members *= generator.choice((2, 2, 10))
        elif kind == 6:
            del members[index]
        if members and generator.random() < 0.3:
            compressed = generator.randrange(len(members))
            compression = generator.choice(
                (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            )
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for number, (each, data) in enumerate(members):
                copied = zipfile.ZipInfo(each.filename, each.date_time)
                method = compression if number == compressed else zipfile.ZIP_STORED
                archive.writestr(copied, data, method)
        content = out.getvalue()
        if kind == 7 or generator.random() < 0.2:
            content = _change_zip_directory(content, generator)
        return content

    return mutated


def of_parts(
    split: Callable[[bytes], Sequence[bytes]],
    join: Callable[[Sequence[bytes]], bytes],
    mutation: Mutation,
) -> Mutation:
    """Returns the mutation of the first of the parts that a content is made of.

    Args:
      split: Takes a content apart; it may raise if that was mutated before.
      join: Puts it together, with lengths and sums that fit.
      mutation: The mutation of the first part.
    """

    def mutated(content: bytes, generator: random.Random) -> bytes:
        try:
            first, *others = split(content)
        except Exception:  # mutated before
            return of_bytes(content, generator)
        return join([mutation(first, generator), *others])

    return mutated


def replace_by_special(path: pathlib.Path, generator: random.Random) -> str:
    """Puts something that is no regular file in a file's place; returns what."""
    kind = generator.choice(tuple(_SPECIAL))
    path.unlink()
    _SPECIAL[kind](path)
    return kind


def _flip_bits(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _set_bytes(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 4, 16))):
        if changed:
            changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def _set_integer(content: bytes, generator: random.Random) -> bytes:
    size = generator.choice((1, 2, 4, 8))
    value = generator.choice(_INTEGERS) % 256**size
    number = value.to_bytes(size, generator.choice(("little", "big")))
    start = generator.randrange(len(content) + 1)
    return content[:start] + number + content[start + size :]


def _truncate(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content) + 1)]


def _cut_start(content: bytes, generator: random.Random) -> bytes:
    return content[generator.randrange(len(content) + 1) :]


def _insert(content: bytes, generator: random.Random) -> bytes:
    start = generator.randrange(len(content) + 1)
    length = generator.choice((1, 2, 8, 100, 10_000))
    return content[:start] + generator.randbytes(length) + content[start:]


def _delete(content: bytes, generator: random.Random) -> bytes:
    start, end = _slice(content, generator)
    return content[:start] + content[end:]


def _repeat(content: bytes, generator: random.Random) -> bytes:
    start, end = _slice(content, generator)
    times = generator.choice((1, 1, 2, 100))
    if (end - start) * times > 2**20:
        times = 1
    return content[:end] + content[start:end] * times + content[end:]


def _fill(content: bytes, generator: random.Random) -> bytes:
    start, end = _slice(content, generator)
    value = generator.choice((0, 0, 255, 32, 128))
    return content[:start] + bytes([value]) * (end - start) + content[end:]


def _splice(content: bytes, generator: random.Random) -> bytes:
    start, end = _slice(content, generator)
    target = generator.randrange(len(content) + 1)
    return content[:target] + content[start:end] + content[target + end - start :]


def _append(content: bytes, generator: random.Random) -> bytes:
    return content + generator.choice((b"\0" * 10_000, content, b"PK\x05\x06", b"}"))


_BYTES: tuple[Mutation, ...] = (
    *(_flip_bits, _flip_bits, _set_bytes, _set_integer, _set_integer),
    *(_truncate, _cut_start, _insert, _delete, _repeat, _fill, _splice, _append),
)


def _slice(content: bytes, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(content) + 1)
    longest = generator.choice((1, 4, 32, 512, len(content)))
    return start, min(len(content), start + generator.randint(0, longest))


def _change_json(tree: list[Any], generator: random.Random) -> None:
    holder, key = generator.choice(_places(tree))
    kind = generator.randrange(8)
    value = holder[key]
    if kind <= 2:
        holder[key] = copy.deepcopy(generator.choice((*_VALUES, *_RAW)))
    elif kind == 3 and holder is not tree:
        del holder[key]
    elif kind == 4 and isinstance(holder, dict):
        new = generator.choice((f"{key}x", "", "__class__", "ä", key.upper()))
        holder[new] = holder.pop(key) if generator.random() < 0.7 else value
    elif kind == 5 and isinstance(value, list | dict):
        if isinstance(value, list):
            holder[key] = value * generator.choice((2, 2, 100))
        else:
            name = generator.choice(("unknown", "x", ""))
            value[name] = copy.deepcopy(generator.choice(_VALUES))
    elif kind == 6:
        other, place = generator.choice(_places(tree))
        # A copy, since a tree that holds itself is no JSON.
        holder[key] = copy.deepcopy(other[place])
    elif isinstance(value, bool | int | float):
        holder[key] = generator.choice((-value, value + 1, value * 1000, str(value)))
    elif isinstance(value, str):
        holder[key] = of_bytes(value.encode("utf-8", "replace"), generator).decode(
            "utf-8", "replace"
        )
    else:
        holder[key] = generator.choice(([value], {"x": value}, str(value)[:1000]))


def _places(tree: list[Any]) -> list[tuple[Any, Any]]:
    """Returns (holder, key) of every value of a document, whose root is in a list."""
    found, ahead = [], [tree]
    while ahead:
        holder = ahead.pop()
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, value in entries:
            found.append((holder, key))
            if isinstance(value, dict | list):
                ahead.append(value)
    return found


# Of a member in a zip file's directory: flags, method, sum, both sizes (twice), lengths
# of the name, of what follows it and of the comment, and the offset (twice).
_DIRECTORY_FIELDS = (
    *((8, "H"), (10, "H"), (16, "I"), (20, "I"), (24, "I"), (20, "I"), (24, "I")),
    *((28, "H"), (30, "H"), (32, "H"), (42, "I"), (42, "I")),
)


def _change_zip_directory(content: bytes, generator: random.Random) -> bytes:
    """Changes a field of a member in the directory at a zip file's end."""
    starts = []
    start = content.find(b"PK\x01\x02")
    while start >= 0:
        starts.append(start)
        start = content.find(b"PK\x01\x02", start + 1)
    if not starts:
        return of_bytes(content, generator)
    changed = bytearray(content)
    for start in generator.sample(starts, min(len(starts), generator.choice((1, 3)))):
        offset, form = generator.choice(_DIRECTORY_FIELDS)
        if start + 46 <= len(changed):
            limit = 256 ** struct.calcsize(f"<{form}")
            value = generator.choice((*_INTEGERS, generator.randrange(limit))) % limit
            if offset == 42 and generator.random() < 0.5:  # another member's data
                other = generator.choice(starts)
                if other + 46 <= len(changed):
                    (value,) = struct.unpack_from("<I", changed, other + 42)
            struct.pack_into(f"<{form}", changed, start + offset, value)
    return bytes(changed)


def _make_socket(path: pathlib.Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    try:
        os.chdir(path.parent)  # the names of sockets are short
        server.bind(path.name[:100])
    finally:
        os.chdir(here)
        server.close()


_SPECIAL: dict[str, Callable[[pathlib.Path], Any]] = {
    "a pipe": os.mkfifo,
    "a socket": _make_socket,
    "a directory": os.mkdir,
    "nothing": lambda path: None,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/full": lambda path: path.symlink_to("/dev/full"),
    "a link to /proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("missing"),
    "a link to a directory": lambda path: path.symlink_to("."),
    "an unending pipe": lambda path: path.symlink_to("/proc/self/pagemap"),
}
