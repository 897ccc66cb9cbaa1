"""Sliding-window geometry: output sizes and padding, in plain Python integers.

Everything here is arithmetic on shapes, done before any array exists. One
spatial dimension obeys four numbers: the window's size `k`, its stride `s`, its
dilation `d` and the padding `(lo, hi)`. A dilated window covers
`(k - 1) * d + 1` positions, and over an input of size `n` it fits

    out = (lo + n + hi - (k - 1) * d - 1) // s + 1

times, or not at all when the padded input is smaller than the window: then the
output is empty, as in XLA.

A transposed convolution puts `s - 1` zeros between the entries of its input, pads the
result by `(lo, hi)` and slides the window over it at stride 1:

    out = max(lo + (n - 1) * s + 1 + hi - (k - 1) * d, 0)        for n > 0
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, SupportsIndex, TypeGuard

Padding = Literal["SAME", "VALID"] | int | Sequence[int | Sequence[int]]
"""`"SAME"`, `"VALID"`, one integer for all sides, or one entry per dimension:
an integer for both sides or a `(low, high)` pair. Negative amounts crop. The words are
accepted in lower case, too, but only capitals type-check."""

GeneralPadding = Literal["SAME", "SAME_LOWER", "VALID"] | Sequence[tuple[int, int]]
"""Padding of `conv_general_dilated`, as in lax: a word, or one `(low, high)` pair per
dimension. With `"SAME_LOWER"` an odd total puts the extra element in front."""

MAX_RANK = 3
"""The most spatial dimensions a window may have."""


def per_dimension(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """Spreads an integer over `rank` dimensions, or checks a sequence of them.

    Args:
      value: One positive integer, or `rank` of them.
      rank: The number of spatial dimensions.
      name: What the value is called in the error message.

    Returns:
      A tuple of `rank` positive integers.

    Raises:
      ValueError: If an entry is not a positive integer or the length is not `rank`.
    """
    entries = (value,) * rank if is_integer(value) else value
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        raise ValueError(
            f"{name}: got {value!r}, expected an integer or a sequence of {rank}."
        )
    if len(entries) != rank:
        raise ValueError(
            f"{name}: got {len(entries)} entries {tuple(entries)}, expected {rank}, "
            "one for each spatial dimension."
        )
    if not all(is_integer(entry) and operator.index(entry) > 0 for entry in entries):
        raise ValueError(f"{name}: got {tuple(entries)}, expected positive integers.")
    return tuple(operator.index(entry) for entry in entries)


def dilated_size(size: int, dilation: int) -> int:
    """Returns how many positions a window of `size` covers at `dilation`."""
    return (size - 1) * dilation + 1 if size > 0 else 0


def output_size(
    input_size: int,
    window: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> int:
    """Returns how often a window fits along one dimension (0 if it never does)."""
    free = input_size + sum(padding) - dilated_size(window, dilation)
    return free // stride + 1 if free >= 0 else 0


def same_padding(
    input_size: int, window: int, stride: int = 1, dilation: int = 1
) -> tuple[int, int]:
    """Returns the padding for which the output has `ceil(input_size / stride)` entries.

    An odd total puts the extra element behind, as TensorFlow and XLA do. (PyTorch's
    `padding=(k - 1) // 2` differs for even inputs at stride 2: pass it explicitly.)
    """
    wanted = -(-input_size // stride)
    total = max((wanted - 1) * stride + dilated_size(window, dilation) - input_size, 0)
    return total // 2, total - total // 2


def explicit_padding(
    padding: Padding,
    input_sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Resolves any accepted `padding` to one `(low, high)` pair per dimension.

    Raises:
      ValueError: If `padding` is of no accepted form.
    """
    rank = len(input_sizes)
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return ((0, 0),) * rank
        if padding.upper() == "SAME":
            return tuple(
                same_padding(*dimension)
                for dimension in zip(
                    input_sizes, window, strides, dilation, strict=True
                )
            )
        raise ValueError(
            f"padding: got {padding!r}, expected 'SAME', 'VALID', an integer or one "
            "entry for each spatial dimension."
        )
    entries = (padding,) * rank if is_integer(padding) else padding
    if not isinstance(entries, Sequence) or len(entries) != rank:
        raise ValueError(
            f"padding: got {padding!r}, expected {rank} entries, one for each spatial "
            "dimension: an integer or a (low, high) pair."
        )
    return tuple(_padding_pair(entry) for entry in entries)


def ceil_padding(
    size: int, window: int, stride: int, padding: int = 0
) -> tuple[int, int]:
    """Returns the `(low, high)` padding under which no input is left over.

    PyTorch's `ceil_mode=True`: the number of placements is rounded up instead of down,
    but the last one must start inside the input or its lower padding.

    Args:
      size: The length of the input, at least 1.
      window: The window's length.
      stride: The step between two placements.
      padding: What is added on both sides before anything is rounded.
    """
    total = size + 2 * padding
    out = -(-(total - window) // stride) + 1
    if (out - 1) * stride >= size + padding:
        out -= 1
    return padding, padding + max((out - 1) * stride + window - total, 0)


def spread_size(size: int, stride: int) -> int:
    """Returns the length of `size` entries with `stride - 1` zeros between them."""
    return (size - 1) * stride + 1 if size > 0 else 0


def crop_padding(
    size: int, stride: int, padding: tuple[int, int]
) -> tuple[int, int, tuple[int, int]]:
    """Splits padding into a crop of the input and what is left to be padded.

    Args:
      size: The number of entries, before they are spread.
      stride: The step between two entries once they are spread.
      padding: `(low, high)`, added to the spread entries; negative amounts crop.

    Returns:
      `(start, limit, (low, high))`: which entries stay, and how the spread rest is
      padded to the same positions, never by a negative amount while entries stay.
      Where none stays, `start == limit`.
    """
    low, high = padding
    start = -(-max(-low, 0) // stride)
    limit = size - -(-max(-high, 0) // stride)
    if start >= limit:
        return 0, 0, (max(low + high + spread_size(size, stride), 0), 0)
    return start, limit, (low + start * stride, high + (size - limit) * stride)


def transposed_output_size(
    input_size: int,
    window: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> int:
    """Returns the size of a transposed convolution's output along one dimension.

    Args:
      input_size: The number of entries before they are spread.
      window: The filter's size.
      stride: The step between two spread entries.
      padding: What is added to the spread input.
      dilation: The step between two elements of the filter.
    """
    return output_size(spread_size(input_size, stride), window, 1, padding, dilation)


def transposed_same_padding(
    window: int, stride: int = 1, dilation: int = 1
) -> tuple[int, int]:
    """Returns the padding for which the output has `input_size * stride` entries.

    The split is that of `jax.lax.conv_transpose`: an odd total puts the extra element
    in front, and where the stride reaches beyond the window the padding in front is
    the window's reach, so that the first entry begins the output.
    """
    extent = dilated_size(window, dilation)
    total = extent + stride - 2
    low = extent - 1 if stride >= extent else -(-total // 2)
    return low, total - low


def transposed_valid_padding(
    window: int, stride: int = 1, dilation: int = 1
) -> tuple[int, int]:
    """Returns the padding under which the whole filter lands at every entry.

    The output has `input_size * stride + max(extent - stride, 0)` entries, where
    `extent` is the dilated window: the shortest input from which a "VALID" convolution
    makes `input_size` entries, but never less than `input_size * stride`.
    """
    extent = dilated_size(window, dilation)
    return extent - 1, max(extent, stride) - 1


def explicit_transposed_padding(
    padding: Padding,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Resolves a transposed convolution's `padding` to one pair per dimension.

    Amounts are added to the spread input; "SAME" and "VALID" mean the padding of the
    convolution that this one transposes.

    Raises:
      ValueError: If `padding` is of no accepted form.
    """
    rules = {"SAME": transposed_same_padding, "VALID": transposed_valid_padding}
    if isinstance(padding, str) and padding.upper() in rules:
        return tuple(map(rules[padding.upper()], window, strides, dilation))
    # The sizes matter to "SAME" alone.
    return explicit_padding(padding, window, window, strides, dilation)


class MaxPool(NamedTuple):
    """The arguments of a max-pooling that is a part of another function.

    Attributes:
      window: Size of the window, one integer or one per dimension.
      strides: Step between two placements; None means the window's size.
      padding: As for a convolution.
    """

    window: int | Sequence[int]
    strides: int | Sequence[int] | None = None
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class Window:
    """A window sliding over an input: every size resolved, hashable, all integers.

    Attributes:
      input_sizes: The spatial sizes of the input.
      sizes: The window's (filter's) sizes, before dilation.
      strides: The step between two placements.
      padding: One `(low, high)` pair per dimension.
      dilation: The step between two elements inside the window.
    """

    input_sizes: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @classmethod
    def resolve(
        cls,
        input_sizes: Sequence[int],
        sizes: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "VALID",
        dilation: int | Sequence[int] = 1,
    ) -> Window:
        """Checks and resolves the public arguments of a convolution or a pooling.

        Raises:
          ValueError: If the rank is not 1 to 3 or an argument has no accepted form.
        """
        rank = _spatial_rank(input_sizes)
        sizes = per_dimension(sizes, rank, "window")
        strides = per_dimension(strides, rank, "strides")
        dilation = per_dimension(dilation, rank, "dilation")
        pairs = explicit_padding(padding, input_sizes, sizes, strides, dilation)
        for size, pair in zip(input_sizes, pairs, strict=True):
            _require_enough_to_crop("input", size, pair)
        return cls(tuple(input_sizes), sizes, strides, pairs, dilation)

    @classmethod
    def resolve_transposed(
        cls,
        input_sizes: Sequence[int],
        sizes: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "SAME",
        dilation: int | Sequence[int] = 1,
    ) -> Window:
        """Checks a transposed convolution's arguments, returns what it transposes.

        That is an ordinary window which slides over the transposed convolution's
        output, `input_sizes` here, and fits as often as the transposed convolution's
        input is long, `output_sizes` here. Its padding in front is the window's reach
        less that of the spread input, and so it is behind, but for the positions that
        the stride never reaches: with them it is as near to 0 as it can be.

        Raises:
          ValueError: If the rank is not 1 to 3 or an argument has no accepted form.
        """
        rank = _spatial_rank(input_sizes)
        sizes = per_dimension(sizes, rank, "window")
        strides = per_dimension(strides, rank, "strides")
        dilation = per_dimension(dilation, rank, "dilation")
        pairs = explicit_transposed_padding(padding, sizes, strides, dilation)
        outputs, windows = [], []
        for size, window, stride, pair, step in zip(
            input_sizes, sizes, strides, pairs, dilation, strict=True
        ):
            spread = spread_size(size, stride)
            _require_enough_to_crop("spread input", spread, pair)
            out = transposed_output_size(size, window, stride, pair, step)
            reach = dilated_size(window, step) - 1
            low = reach - pair[0]
            # Not `reach - pair[1]`, which is wrong where the output is empty.
            high = spread + reach - out - low
            farthest = high + stride - 1 if size > 0 else high
            outputs.append(out)
            windows.append((low, max(high, min(farthest, 0))))
        return cls(tuple(outputs), sizes, strides, tuple(windows), dilation)

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.input_sizes)

    @property
    def dilated_sizes(self) -> tuple[int, ...]:
        """The number of positions the window covers in each dimension."""
        return tuple(map(dilated_size, self.sizes, self.dilation))

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """The number of placements of the window in each dimension."""
        return tuple(
            map(
                output_size,
                self.input_sizes,
                self.sizes,
                self.strides,
                self.padding,
                self.dilation,
            )
        )

    @property
    def is_pointwise(self) -> bool:
        """Returns whether each output reads one input position, without padding."""
        return all(size == 1 for size in self.sizes) and all(
            pair == (0, 0) for pair in self.padding
        )

    @property
    def input_grad_padding(self) -> tuple[tuple[int, int], ...]:
        """Padding under which the flipped window maps the output back to the input.

        The output's gradient, with `s - 1` zeros between its elements, is padded by
        `reach - lo` in front (`reach = (k - 1) * d`), and behind by as much as brings
        the result to the input's size.
        """
        pairs = []
        for size, out, extent, stride, (low, _) in zip(
            self.input_sizes,
            self.output_sizes,
            self.dilated_sizes,
            self.strides,
            self.padding,
            strict=True,
        ):
            front = extent - 1 - low
            spread = spread_size(out, stride)
            pairs.append((front, size + extent - 1 - front - spread))
        return tuple(pairs)

    @property
    def filter_grad_padding(self) -> tuple[tuple[int, int], ...]:
        """Padding under which the input, seen through dy, gives the filter's size.

        The filter's gradient is the input correlated with dy spread by the stride, so
        dy takes the filter's place: the padding in front stays `lo`, and the one behind
        is trimmed by the positions that the stride never reached.
        """
        pairs = []
        for size, out, extent, stride, (low, _) in zip(
            self.input_sizes,
            self.output_sizes,
            self.dilated_sizes,
            self.strides,
            self.padding,
            strict=True,
        ):
            spread = spread_size(out, stride)
            pairs.append((low, extent + spread - 1 - low - size))
        return tuple(pairs)


def _spatial_rank(input_sizes: Sequence[int]) -> int:
    rank = len(input_sizes)
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(
            f"input: got {rank} spatial dimensions, expected 1 to {MAX_RANK} "
            "between the batch and the channel dimension."
        )
    return rank


def _require_enough_to_crop(what: str, size: int, padding: tuple[int, int]) -> None:
    if size + min(padding[0], 0) + min(padding[1], 0) < 0:
        raise ValueError(
            f"padding: got {padding}, which crops more than the {what}'s {size} "
            "positions."
        )


def is_integer(value: object) -> TypeGuard[SupportsIndex]:
    """Returns whether a value is an integer (NumPy's too), but not a boolean."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]  # whether it can is the question
    except TypeError:
        return False
    return True


def layout_hint(
    shape: Sequence[int],
    channels: int,
    name: str = "x",
    *,
    fits: Callable[[tuple[int, ...]], bool] = lambda moved: True,
) -> str:
    """Says how to put the channels last, where that is what is wrong with an array.

    Args:
      shape: The array's shape, whose last axis should be the channels.
      channels: How many there should be.
      name: The array's name.
      fits: Whether the call takes the array in the shape that it then has.

    Returns:
      What to append to an error; "" where the channels are not before the other axes,
      or the array would not fit then, either.
    """
    shape = tuple(shape)
    spatial = "DHW"[5 - len(shape) :] if 3 <= len(shape) <= 5 else ""
    if not spatial or shape[-1] == channels:
        return ""
    if shape[1] == channels and fits((shape[0], *shape[2:], channels)):
        return (
            f"; the last axis is channels (N{spatial}C); {name} looks like NC{spatial}"
            f": jnp.moveaxis({name}, 1, -1)"
        )
    if shape[0] == channels and len(shape) == 3 and fits((1, *shape[1:], channels)):
        return (
            f"; the last axis is channels (NHWC); {name} looks like CHW, one example: "
            f"jnp.moveaxis({name}, 0, -1)[None]"
        )
    return ""


MOST_IMAGE_CHANNELS = 4
"""The most channels of an image, for distinguishing layouts."""

_SHORTEST_IMAGE_SIDE = 8


def looks_like_images_channels_first(shape: Sequence[int]) -> bool:
    """Returns whether an array looks like a batch of images `(n, c, *spatial)`.

    The sides of images are longer than those of maps that a window may well not fit.
    """
    return (
        shape[1] <= MOST_IMAGE_CHANNELS
        and looks_channels_first(shape)
        and min(shape[2:]) >= _SHORTEST_IMAGE_SIDE
    )


def looks_channels_first(shape: Sequence[int]) -> bool:
    """Returns whether axes 2 and beyond look like sides of an image, unlike axis 1.

    So they do where all are longer than it and no side is four times another.
    """
    channels, *sides = shape[1:]
    return (
        len(sides) >= 2
        and min(sides) >= 5
        and min(sides) > channels
        and max(sides) < 4 * min(sides)
    )


def _padding_pair(entry: SupportsIndex | Sequence[int]) -> tuple[int, int]:
    if is_integer(entry):
        return operator.index(entry), operator.index(entry)
    if (
        isinstance(entry, Sequence)
        and len(entry) == 2
        and all(is_integer(side) for side in entry)
    ):
        return operator.index(entry[0]), operator.index(entry[1])
    raise ValueError(
        f"padding: got entry {entry!r}, expected an integer or a (low, high) pair."
    )
