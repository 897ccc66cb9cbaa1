"""Parameters selected by name: regular expressions on '/'-joined paths.

A leaf of `{"params": {"stem": {"kernel": ...}}}` is called `params/stem/kernel`. Every
part of this project that picks some parameters and not others (weight decay, freezing,
sharding, loading) says so with patterns on these names, searched anywhere in the name
unless anchored: `kernel$` takes every kernel, `^params/head/` takes one module.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Patterns = str | Sequence[str]
"""One regular expression, or several of which any may match."""


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their '/'-joined path, in the tree's order.

    Keys of mappings, fields of dataclasses and named tuples, and indices of sequences
    all become parts of the path; `None` is no leaf.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_join(path): leaf for path, leaf in leaves}


def path_mask(tree: Any, patterns: Patterns, *, allow_unmatched: bool = False) -> Any:
    """Marks the leaves whose path a pattern matches.

    Args:
      tree: Any tree.
      patterns: Regular expressions, tried with `re.search` on each leaf's path.
      allow_unmatched: Whether a pattern may match nothing: for parts of a tree whose
        whole was checked.

    Returns:
      A tree of the same structure with a Python bool for each leaf.

    Raises:
      ValueError: If a pattern is no regular expression or matches no leaf, which is
        nearly always a misspelled name.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    names = list(named_leaves(tree))
    matches = [_matching(pattern, names, allow_unmatched) for pattern in patterns]
    chosen = frozenset().union(*matches)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _join(path) in chosen, tree
    )


def choose_by_path(
    tree: Any,
    choices: Sequence[tuple[str, Any]],
    default: Any,
    *,
    allow_unmatched: bool = False,
) -> Any:
    """Gives every leaf the value of the first pattern that matches its path.

    Args:
      tree: Any tree.
      choices: Pairs of a pattern and a value.
      default: The value where none matches.
      allow_unmatched: As for `path_mask`.

    Returns:
      A tree of the same structure.

    Raises:
      ValueError: As `path_mask`.
    """
    chosen = jax.tree.map(lambda _: default, tree)
    # From the last to the first, so that the first that matches counts.
    for pattern, value in reversed(tuple(choices)):
        matches = path_mask(tree, pattern, allow_unmatched=allow_unmatched)
        chosen = jax.tree.map(
            lambda match, old, value=value: value if match else old, matches, chosen
        )
    return chosen


def leaf_specs(tree: Any) -> dict[str, str]:
    """Returns `path -> "float32[3,3,16,16]"` for every leaf, abstract ones included."""
    return {name: _spec(leaf) for name, leaf in named_leaves(tree).items()}


def arrange_like(
    template: Any, tree: Any, *, name: str, allow_unknown: bool = False
) -> Any:
    """Returns the leaves of a tree in the structure of another.

    Args:
      template: The structure, with the shape and dtype of every leaf; leaves may be
        abstract.
      tree: The leaves, at the same paths; dictionaries may stand for dataclasses and
        named tuples.
      name: What the tree is called in the message.
      allow_unknown: Whether leaves that the template does not have are left out.

    Raises:
      ValueError: Listing every leaf that is missing, unknown or of another shape or
        dtype.
    """
    expected, found = leaf_specs(template), leaf_specs(tree)
    paths = expected.keys() if allow_unknown else expected.keys() | found.keys()
    problems = [
        f"  {path}: got {found.get(path, 'nothing')}, expected "
        f"{expected.get(path, 'no such leaf')}"
        for path in sorted(paths)
        if expected.get(path) != found.get(path)
    ]
    if problems:
        raise ValueError(
            f"{name}: got others than the model's:\n" + "\n".join(problems)
        )
    leaves = named_leaves(tree)
    return jax.tree.unflatten(
        jax.tree.structure(template), [leaves[path] for path in expected]
    )


def digest(tree: Any) -> str:
    """Returns a sha256 over every leaf's path, dtype, shape and bytes.

    Two trees have the same digest exactly when they are bitwise equal, NaNs and the
    signs of zeros included. Keys of `jax.random` count by their data.
    """
    total = hashlib.sha256()
    for name, leaf in sorted(named_leaves(tree).items()):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        # The separators keep ("ab", "c") and ("a", "bc") apart.
        total.update(f"{name}\0{_spec(array)}\0".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def is_narrow(leaf: Any) -> bool:
    """Returns whether an array is of floating-point numbers narrower than float32."""
    return jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4


def wide(tree: Any) -> Any:
    """Returns a tree of arrays whose floating-point leaves are float32 at least.

    Parameters may be narrow (a model's `param_dtype`), but whatever adds up many small
    steps, such as moments, averages or microbatches' gradients, is to be wide: in
    bfloat16 a thousandth of a number added to it changes nothing.
    """
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if is_narrow(leaf) else leaf, tree
    )


def as_dtypes_of(like: Any, tree: Any) -> Any:
    """Returns a tree of arrays in the dtypes of another one, if it has leaves."""
    if not jax.tree.leaves(tree):
        return tree
    return jax.tree.map(
        lambda model, leaf: (
            leaf if leaf.dtype == model.dtype else leaf.astype(model.dtype)
        ),
        like,
        tree,
    )


def first_bad_leaf(tree: Any) -> jax.Array:
    """Returns which leaf is the first with an infinity or a NaN in it.

    Args:
      tree: A tree of arrays.

    Returns:
      Its place among the tree's leaves, int32; -1 if all numbers are finite.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.full((), -1, jnp.int32)
    bad = jnp.stack([~jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
    return jnp.where(jnp.any(bad), jnp.argmax(bad), -1).astype(jnp.int32)


def _join(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _matching(
    pattern: str, names: Sequence[str], allow_unmatched: bool
) -> frozenset[str]:
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ValueError(
            f"pattern: got {pattern!r}, which is no regular expression: {error}."
        ) from None
    found = frozenset(name for name in names if search(name))
    if not found and not allow_unmatched:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
        raise ValueError(
            f"pattern: {pattern!r} matches none of the {len(names)} paths, such as "
            f"{near}. Patterns are searched in '/'-joined paths."
        )
    return found
