"""Meshes from a specification, and how batches are split over them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
"""The mesh axis along which a batch is split and the state is copied."""

FSDP_AXIS = "fsdp"
"""The mesh axis along which a batch is split, and the state as well."""

SPATIAL_AXIS = "spatial"
"""The mesh axis along which the height of images is split."""

_AXES = (DATA_AXIS, FSDP_AXIS, SPATIAL_AXIS)


def with_automatic_axes(mesh: Mesh) -> Mesh:
    """Returns the mesh with axes of the type that this package's programs are for.

    Args:
      mesh: A mesh, such as `jax.make_mesh` makes it, with explicit axes.
    """
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types)


@contextlib.contextmanager
def own_mesh(mesh: Mesh) -> Iterator[None]:
    """Lets `mesh` take the place of a caller's `jax.set_mesh` with explicit axes.

    Programs that place their arrays by `NamedSharding`s of a mesh of their own cannot
    be traced under another one. Without explicit axes nothing is set.
    """
    context = jax.sharding.get_abstract_mesh()
    is_explicit = not context.empty and bool(context.explicit_axes)
    with jax.set_mesh(mesh) if is_explicit else contextlib.nullcontext():
        yield


def make_mesh(
    devices: Sequence[Any] | None = None,
    specification: str | Mapping[str, int] | None = None,
) -> Mesh:
    """Makes a mesh.

    Its axes' type is `Auto`, under which shardings spread through a program by
    themselves (`jax.make_mesh` would give `Explicit`, where linen's own layers fail).

    Args:
      devices: The devices to use (`jax.Device`, which type checkers cannot see), all
        of the default backend's when None.
      specification: The axes' sizes, as `parse_mesh` reads them; None puts all devices
        on the axis `"data"`.

    Returns:
      The mesh, with the axes of the specification in its order.

    Raises:
      ValueError: If `devices` is empty, the specification is invalid, its sizes do not
        multiply to the number of devices, or jax cannot lay it over their slice.
    """
    devices = jax.devices() if devices is None else list(np.ravel(devices))
    if not devices:
        raise ValueError("devices: got none, expected at least one.")
    sizes = parse_mesh(specification or {DATA_AXIS: len(devices)})
    if math.prod(sizes.values()) != len(devices):
        product = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(
            f"mesh: got {product}, which is {math.prod(sizes.values())} devices, "
            f"expected sizes whose product is the {len(devices)} devices there are."
        )
    # Maps neighbours on the mesh to neighbours in the machine, if JAX knows those.
    try:
        return jax.make_mesh(
            tuple(sizes.values()),
            tuple(sizes),
            axis_types=(AxisType.Auto,) * len(sizes),
            devices=devices,
        )
    except NotImplementedError as error:
        product = ",".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(
            f"mesh: got {product}, which the slice's shape cannot hold; expected axes "
            "whose sizes are products of whole dimensions of the slice."
        ) from error


def parse_mesh(specification: str | Mapping[str, int]) -> dict[str, int]:
    """Reads the sizes of a mesh's axes.

    Args:
      specification: Such as `"data=4,fsdp=2"`, or the mapping that it stands for. The
        axes are `"data"`, `"fsdp"` and `"spatial"`, any of them.

    Returns:
      The mapping.

    Raises:
      ValueError: Listing all that is wrong with the specification.
    """
    if isinstance(specification, str):
        parts = [part.strip() for part in specification.split(",")]
        pairs = [tuple(part.partition("=")[::2]) for part in parts]
    else:
        pairs = [(axis, str(size)) for axis, size in specification.items()]
    sizes: dict[str, int] = {}
    problems = []
    for axis, size in ((axis.strip(), size.strip()) for axis, size in pairs):
        if axis not in _AXES:
            problems.append(f"  {axis!r} is no axis, expected one of {_AXES}")
        elif axis in sizes:
            problems.append(f"  {axis} is given twice")
        if not (size.isascii() and size.isdigit() and int(size) > 0):
            problems.append(f"  {axis}: got {size!r}, expected a number of at least 1")
        else:
            sizes[axis] = int(size)
    if problems or not sizes:
        details = "\n".join(problems or ["  it names no axis"])
        raise ValueError(
            f"mesh: got {specification!r}, expected axes and sizes such as "
            f"'data=4,fsdp=2':\n{details}"
        )
    return sizes


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first dimension over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(_batch_axes(mesh)))


def image_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of images `(n, h, w, c)`, which splits h over `spatial`."""
    if SPATIAL_AXIS not in mesh.shape:
        return batch_sharded(mesh)
    return NamedSharding(mesh, PartitionSpec(_batch_axes(mesh), SPATIAL_AXIS))


def batch_shardings(
    mesh: Mesh, batch: Mapping[str, object]
) -> dict[str, NamedSharding]:
    """Returns the shardings of a batch by name: `"image"`'s, and that of all others.

    Args:
      mesh: The mesh.
      batch: Anything with the batch's names, such as the batch.
    """
    return {
        name: image_sharded(mesh) if name == "image" else batch_sharded(mesh)
        for name in batch
    }


def num_batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in _batch_axes(mesh))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Checks that every part of the mesh gets the same number of examples.

    Raises:
      ValueError: If the mesh's axes `data` and `fsdp` do not divide `batch_size`.
    """
    num_shards = num_batch_shards(mesh)
    if batch_size <= 0 or batch_size % num_shards:
        lower = batch_size - batch_size % num_shards
        near = [size for size in (lower, lower + num_shards) if size > 0]
        raise ValueError(
            f"batch_size: got {batch_size}, expected a positive multiple of the "
            f"{num_shards} devices on the mesh's {' x '.join(_batch_axes(mesh))} "
            f"axes, such as {' or '.join(map(str, near or [num_shards]))}."
        )


def check_image_height(height: int, mesh: Mesh) -> None:
    """Checks that every device along `spatial` gets the same number of rows.

    Raises:
      ValueError: If the mesh's axis `spatial` does not divide `height`.
    """
    num_shards = mesh.shape.get(SPATIAL_AXIS, 1)
    if height % num_shards:
        raise ValueError(
            f"image height: got {height}, expected a multiple of the {num_shards} "
            f"devices on the mesh's {SPATIAL_AXIS!r} axis."
        )


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in (DATA_AXIS, FSDP_AXIS) if axis in mesh.shape)
