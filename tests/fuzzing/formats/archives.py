"""Archives of the publishers, as `cnn-jax prepare` reads them."""

from __future__ import annotations

import functools
import gzip
import io
import pathlib
import random
import struct
import tarfile
from collections.abc import Mapping

import numpy as np
from PIL import Image

from fuzzing.formats import Format
from fuzzing.mutations import Mutation, of_bytes

_BLOCK = 512

# Of a header: name, mode, size, checksum, kind, name of the link, magic, prefix.
_FIELDS = ((0, 100), (100, 8), (124, 12), (124, 12), (148, 8), (156, 1), (156, 1))
_FIELDS += ((157, 100), (257, 8), (345, 155))

_VALUES = (b"L", b"K", b"x", b"g", b"S", b"1", b"2", b"5", b"\x80" + b"\xff" * 11)
_VALUES += (b"\xff" * 12, b"77777777777\0", b"../../x\0", b"/etc/x\0", b"\xff\xfe\0")
_VALUES += (b"\x80\0\0\0\x7f" + b"\xff" * 7, b"\x1b[31m\0", b"\0", b"00000000000\0")


def _of_tar(content: bytes, generator: random.Random) -> bytes:
    """Changes fields of headers, with sums that fit, or chains some."""
    blocks = [content[at : at + _BLOCK] for at in range(0, len(content), _BLOCK)]
    headers = [index for index, each in enumerate(blocks) if each[257:262] == b"ustar"]
    if not headers:
        return of_bytes(content, generator)
    index = generator.choice(headers)
    header = bytearray(blocks[index].ljust(_BLOCK, b"\0"))
    for _ in range(generator.choice((1, 1, 2, 3))):
        start, size = generator.choice(_FIELDS)
        if generator.random() < 0.6:
            value = generator.choice(_VALUES)[:size].ljust(size, b"\0")
        else:
            value = of_bytes(bytes(header[start : start + size]), generator)
            value = value[:size].ljust(size, b"\0")
        header[start : start + size] = value
    if generator.random() < 0.9:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    times = generator.choice((1, 1, 1, 1, 2, 2000))
    blocks[index : index + 1] = [bytes(header)] * times
    if generator.random() < 0.1:
        del blocks[generator.randrange(len(blocks))]
    return b"".join(blocks)


def _of_gzip(mutation: Mutation) -> Mutation:
    def mutated(content: bytes, generator: random.Random) -> bytes:
        try:
            inside = gzip.decompress(content)
        except Exception:  # mutated before
            return of_bytes(content, generator)
        return gzip.compress(mutation(inside, generator), 1)

    return mutated


def _of_idx(content: bytes, generator: random.Random) -> bytes:
    return of_bytes(content[:16], generator) + content[16:]


def _tar(members: Mapping[str, bytes], mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{mode}") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def make_cifar(directory: pathlib.Path) -> None:
    names = "\n".join(f"class {number}" for number in range(10)).encode()
    row = bytes([3]) + bytes(range(256)) * 12
    members = {f"cifar/data_batch_{number}.bin": row for number in range(1, 6)}
    members |= {"cifar/batches.meta.txt": names, "cifar/test_batch.bin": 2 * row}
    (directory / "cifar-10-binary.tar.gz").write_bytes(_tar(members, "gz"))


def _make_mnist(directory: pathlib.Path) -> None:
    def idx(array: np.ndarray) -> bytes:
        shape = struct.pack(f">{array.ndim}I", *array.shape)
        return gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())

    for prefix, count in (("train", 3), ("t10k", 2)):
        images = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        images = idx(images.reshape(count, 28, 28))
        (directory / f"{prefix}-images-idx3-ubyte.gz").write_bytes(images)
        labels = idx(np.arange(count, dtype=np.uint8))
        (directory / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(labels)


def _make_imagenet(directory: pathlib.Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 2, 3)).save(file, "JPEG")
    image = file.getvalue()
    classes = {
        f"{name}.tar": _tar({f"{name}_{number}.JPEG": image for number in (1, 2)}, "")
        for name in ("n01440764", "n01443537")
    }
    (directory / "ILSVRC2012_img_train.tar").write_bytes(_tar(classes, ""))
    images = {f"ILSVRC2012_val_{number:08}.JPEG": image for number in (1, 2)}
    (directory / "ILSVRC2012_img_val.tar").write_bytes(_tar(images, ""))


def prepare_from(name: str, directory: pathlib.Path) -> None:
    from cnn_jax.data.prepare import prepare

    prepare(
        name, directory, directory / "tfds", check=False, overwrite=True, progress=False
    )


_NEEDS = ("tensorflow_datasets", "array_record")

FORMATS = (
    Format(
        "cifar-archive",
        make_cifar,
        functools.partial(prepare_from, "cifar10"),
        {"*": (_of_gzip(_of_tar), _of_gzip(_of_tar), _of_gzip(of_bytes))},
        ("*.gz",),
        needs=_NEEDS,
    ),
    Format(
        "mnist-archives",
        _make_mnist,
        functools.partial(prepare_from, "mnist"),
        {"*": (_of_gzip(_of_idx), _of_gzip(of_bytes))},
        ("*.gz",),
        needs=_NEEDS,
    ),
    Format(
        "imagenet-archives",
        _make_imagenet,
        functools.partial(prepare_from, "imagenet2012"),
        {"*": (_of_tar,)},
        ("*.tar",),
        needs=_NEEDS,
    ),
)
