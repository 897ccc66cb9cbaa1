"""The reader of optimised programs, on a recorded text and on a compiled one."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.planning import hlo

TEXT = (
    pathlib.Path(__file__).parent / "fixtures" / "lenet5_v5e_2x2.hlo.txt"
).read_text()


def test_reads_every_line_of_a_recorded_program():
    """libtpu 0.0.50.1's program of LeNet-5's step on v5e:2x2, trimmed."""
    found = hlo.read_instructions(TEXT)
    assert len(found) == sum(" = " in line for line in TEXT.splitlines())
    assert all(each.is_entry and each.opcode and each.type for each in found)
    names = {each.name for each in found}
    assert len(names) == len(found)
    assert all(set(each.operands) <= names for each in found)
    cycles = [each.cycles for each in found if each.cycles is not None]
    assert sum(cycles) == hlo.sum_cycles(TEXT)[0] == 160_649
    kernels = {each.opcode for each in found}
    assert {"fusion", "all-reduce", "parameter", "get-tuple-element"} <= kernels


def test_reads_a_compiled_program():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) ** 2)

    shape = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    text = jax.jit(jax.grad(loss)).lower(shape, shape).compile().as_text()
    found = hlo.read_instructions(text)
    entry = [each for each in found if each.is_entry]
    assert sum(each.opcode == "parameter" for each in entry) == 2
    assert len(found) > len(entry)  # those of its fusions or reductions
    assert all(each.cycles is None for each in found)
    assert any("transpose(jvp" in each.op_name for each in found)


@pytest.mark.parametrize(
    ("text", "plain", "padded"),
    [
        ("f32[]", 4, 4),
        ("f32[10]{0:T(128)}", 40, 512),
        ("bf16[3,5]{1,0}", 30, 30),
        # The dimension whose entries are neighbours is the first one named.
        ("bf16[4,32,32,3]{0,3,2,1:T(8,128)(2,1)}", 24576, 32 * 32 * 8 * 128 * 2),
        ("(f32[2,2]{1,0:T(2,128)}, pred[7]{0})", 23, 2 * 128 * 4 + 7),
        ("f32[64]{0:T(128)S(1)}", 256, 0),  # not in the main memory
        ("s4[3]{0}", 2, 2),
        ("token[]", 0, 0),
    ],
)
def test_counts_bytes(text, plain, padded):
    assert hlo.array_bytes(text) == plain
    assert hlo.array_bytes(text, padded=True) == padded


PROGRAM = """
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %a = f32[8]{0} fusion(%p), kind=kLoop, calls=%f1
  %b = (f32[16]{0}, f32[4]{0}) fusion(%a), kind=kLoop, calls=%f2
  %b0 = f32[16]{0} get-tuple-element(%b), index=0
  %b1 = f32[4]{0} get-tuple-element(%b), index=1
  %view = f32[4,4]{1,0} bitcast(%b0)
  %c = f32[8]{0} fusion(%b1), kind=kLoop, calls=%f3
  %d = f32[8]{0} fusion(%view, %p), kind=kLoop, calls=%f4
  ROOT %e = f32[8]{0} fusion(%d, %c), kind=kLoop, calls=%f5
}
"""


def test_activations_are_what_the_backward_pass_reads_of_the_forward_pass():
    instructions = hlo.read_instructions(PROGRAM)
    passes = dict.fromkeys(("a", "b", "b0", "b1", "view", "c"), "forward")
    passes |= dict.fromkeys(("d", "e"), "backward")
    # `b0` through a view, and `c`; not `b1`, `a` and the parameter.
    assert hlo.activation_bytes(instructions, passes) == 16 * 4 + 8 * 4
    assert hlo.activation_bytes(instructions, {}) == 0


def test_windowed_reductions_without_an_estimate_are_counted():
    text = (
        "ENTRY %m (p: f32[]) -> f32[] {\n  %r = f32[] reduce-window(%p), window={}\n}"
    )
    assert hlo.sum_cycles(text) == (0, 1)


def test_a_parenthesis_in_a_layout_does_not_end_a_type():
    (found,) = hlo.read_instructions(
        "ENTRY %m (p: f32[]) -> f32[] {\n"
        "  %x = (f32[2]{0:T(8,128)(2,1)S(1)}, s32[]) custom-call(%y, %z), target=q\n}"
    )
    assert found.type == "(f32[2]{0:T(8,128)(2,1)S(1)}, s32[])"
    assert (found.opcode, found.operands) == ("custom-call", ("y", "z"))
    assert re.match(r", target=q", found.attributes)
