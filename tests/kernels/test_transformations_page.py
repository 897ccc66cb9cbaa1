"""The table in docs/transformations.md is what the kernels do.

After an intended change, rewrite the page with

    PYTHONPATH=tests python tests/kernels/test_transformations_page.py
"""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from helpers.quick import nightly_except
from helpers.transformations import (
    REASONS,
    TRANSFORMATIONS,
    WORKS,
    first_cases,
    render_page,
    render_row,
    try_transformations,
)

from cnn_jax import kernels

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "transformations.md"
COMMAND = "PYTHONPATH=tests python tests/kernels/test_transformations_page.py"
CASES = first_cases()
# The rows that are tried by default; each takes seconds, nearly all of it compiling.
BY_DEFAULT = ("conv", "max_pool", "batch_norm", "dropout")
ROWS = nightly_except(BY_DEFAULT, CASES)


@pytest.mark.parametrize("kernel", ROWS)
def test_the_page_says_what_the_kernel_does(kernel):
    row = try_transformations(CASES[kernel])
    unexplained = {
        name: cell
        for name, cell in row.items()
        if cell != WORKS and cell not in REASONS
    }
    assert not unexplained
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert render_row(kernel, row) in lines, f"run `{COMMAND}` to rewrite {PAGE}"


def test_the_page_has_every_kernel_and_is_otherwise_as_generated():
    text = PAGE.read_text(encoding="utf-8")
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            kernel, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
            rows[kernel] = dict(zip(TRANSFORMATIONS, cells, strict=True))
    assert list(rows) == list(CASES), f"run `{COMMAND}` to rewrite {PAGE}"
    assert render_page(rows, COMMAND) == text, f"run `{COMMAND}` to rewrite {PAGE}"


@jax.custom_vjp
def overstated(x):
    return jax.nn.relu(x)


# 1 % too large.
overstated.defvjp(
    lambda x: (jax.nn.relu(x), x > 0),
    lambda mask, dy: (jnp.where(mask, jnp.asarray(1.01, dy.dtype) * dy, 0),),
)


@jax.custom_vjp
def with_a_rule_inside(x):
    return jax.nn.relu(x)


# A backward pass must not call a function that has a rule of its own.
with_a_rule_inside.defvjp(
    lambda x: (jax.nn.relu(x), x),
    lambda x, dy: (jnp.where(x > 0, kernels.relu(dy) - kernels.relu(-dy), 0),),
)


def test_a_wrong_gradient_shows_wherever_there_is_one():
    row = try_transformations(CASES["relu"], overstated)
    assert row["jit"] == row["vmap"] == WORKS
    assert row["grad"].startswith("off by 1.0e-02")
    # A hundredth is a rounding in bfloat16, and no more.
    of_the_value = {"jit", "vmap", "jvp", "bfloat16"}
    for name in set(TRANSFORMATIONS) - of_the_value:
        assert row[name].startswith("off by "), name


def test_what_fails_has_a_reason_and_the_rest_is_still_compared():
    row = try_transformations(CASES["relu"], with_a_rule_inside)
    failing = {name for name, cell in row.items() if cell != WORKS}
    assert failing == {"jvp", "jvp(grad)", "hessian"}
    assert {row[name] for name in failing} == {"reverse only"}

    def rejecting(x):
        if x.dtype == jnp.float16:
            raise ValueError("rejecting: got float16.")
        return kernels.relu(x)

    row = try_transformations(CASES["relu"], rejecting)
    assert row["float16"] == "ValueError: rejecting: got float16."
    assert row["float16"] not in REASONS
    assert row["bfloat16"] == row["shard_map"] == WORKS


def write_page():
    rows = {kernel: try_transformations(case) for kernel, case in CASES.items()}
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render_page(rows, COMMAND), encoding="utf-8")


if __name__ == "__main__":
    # The tests' climate, see tests/conftest.py.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    write_page()
