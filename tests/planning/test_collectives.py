"""Collectives: between whom, how much, and for how long."""

import importlib.util
import os
import pathlib

import jax
import pytest
from planning.test_hlo import TEXT

from cnn_jax.planning.collectives import (
    axes_of,
    count_collectives,
    find_collectives,
    first_group,
    total_seconds,
)
from cnn_jax.planning.hlo import read_instructions

MESH = {"data": 4, "fsdp": 2}


@pytest.mark.parametrize(
    ("attributes", "group", "axes"),
    [
        ("replica_groups=mesh['data'=4,'fsdp'=2] {'data'}", (0, 2, 4, 6), "data"),
        ("replica_groups=mesh['data'=4,'fsdp'=2] {'fsdp'}", (0, 1), "fsdp"),
        (
            "replica_groups=mesh['data'=4,'fsdp'=2] {'data','fsdp'}",
            tuple(range(8)),
            "data+fsdp",
        ),
        ("replica_groups={{0,2,4,6},{1,3,5,7}}, x", (0, 2, 4, 6), "data"),
        ("replica_groups={}, x", tuple(range(8)), "data+fsdp"),
        ("replica_groups=[4,2]<=[8], x", (0, 1), "fsdp"),
        ("replica_groups=[2,4]<=[4,2]T(1,0), x", (0, 2, 4, 6), "data"),
        ("source_target_pairs={{0,2},{2,4}}, x", (0, 2), "data"),
    ],
)
def test_finds_the_group_and_its_axes(attributes, group, axes):
    found = first_group(attributes, 8)
    assert found == group
    assert axes_of(found, MESH) == axes


PROGRAM = """
ENTRY %m (p: f32[1000]) -> f32[1000] {
  %p = f32[1000]{0} parameter(0)
  %s = f32[500]{0} slice(%p), slice={[0:500]}
  %r = f32[1000]{0} all-reduce(%p), replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%a
  %t = (f32[500]{0}, f32[1000]{0}) all-gather-start(%s), replica_groups=[4,2]<=[8]
  %d = f32[1000]{0} all-gather-done(%t)
  %c = f32[500]{0} reduce-scatter(%p), replica_groups=[4,2]<=[8], to_apply=%a
  %x = f32[1000]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
  %o = f32[1000]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3}}, to_apply=%a
}
"""


def test_counts_what_is_sent():
    found = find_collectives(read_instructions(PROGRAM), MESH, bandwidth=1e9)
    by_kind = {each.kind: each for each in found}
    # The last all-reduce is of one device alone.
    assert len(found) == len(by_kind) == 4
    sent = {kind: each.sent_bytes for kind, each in by_kind.items()}
    assert sent == {
        "all-reduce": 2 * 4000 * 3 // 4,
        "all-gather": 2000,
        "reduce-scatter": 2000,
        "collective-permute": 4000,
    }
    assert by_kind["all-reduce"].axes == "data"
    assert by_kind["all-gather"].payload_bytes == 2000
    # 6 us by bandwidth, 4 us by hops: 2 there and 2 back.
    assert by_kind["all-reduce"].seconds == pytest.approx(6e-6)
    assert total_seconds(found) == pytest.approx(6e-6 + 2e-6 + 2e-6 + 4e-6)


def test_small_messages_take_their_hops():
    found = find_collectives(
        read_instructions(PROGRAM), {"data": 8}, bandwidth=1e15, shape=(2, 4)
    )
    reduce = next(each for each in found if each.kind == "all-reduce")
    assert reduce.seconds == pytest.approx(4e-6)


def test_without_a_bandwidth_no_time_is_known():
    found = find_collectives(read_instructions(PROGRAM), MESH, bandwidth=None)
    assert {each.seconds for each in found} == {None}
    assert total_seconds(found) is None
    assert total_seconds([]) == 0


def test_a_recorded_program():
    (found,) = find_collectives(
        read_instructions(TEXT), {"data": 4}, bandwidth=200e9, shape=(2, 2)
    )
    assert (found.kind, found.axes, found.group_size) == ("all-reduce", "data", 4)
    # The gradients of 61,706 parameters, those of filters in bfloat16, and metrics.
    assert 2 * 61_706 <= found.payload_bytes <= 4 * 61_710


def test_starts_count_and_ends_and_uses_do_not():
    text = """
  %all-reduce.1 = f32[8]{0} all-reduce(%p), channel_id=1, to_apply=%add
  %ar = (f32[8]{0}, /*index=1*/f32[2]{0}) all-reduce-start(%p, %q), channel_id=2
  %done = (f32[8]{0}, f32[2]{0}) all-reduce-done(%ar)
  %g = bf16[8,4]{1,0} all-gather(%p), dimensions={0}
  %x = f32[8]{0} add(%all-reduce.1, %all-reduce.1)
"""
    counts = count_collectives(text)
    assert {kind: n for kind, n in counts.items() if n} == {
        "all-reduce": 2,
        "all-gather": 1,
    }


def test_the_benchmark_compiles_on_cpus_whatever_jax_read_before(monkeypatch):
    path = pathlib.Path(__file__).parents[2] / "experiments/benchmarks/collectives.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_collectives", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(benchmark.slices, "prepare_environment", lambda: None)
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *pair: updates.append(pair))
    benchmark.prepare_platform(benchmark.parse([]))
    assert ("jax_platforms", "cpu") in updates
