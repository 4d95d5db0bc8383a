"""Masks do not depend on how many devices or processes draw them, and need no communication.

The suite has eight devices. What they draw is drawn under every check that JAX can switch on, with
explicit axes in 64-bit mode and with others in 32-bit mode, so that one program tells of both. For
two processes the test runs this file as a program.
"""

import functools
import os
import re
import sys

import jax
import numpy as np
import pytest
from cases import ALL, FIRST
from digests import assert_digests, drawn, keys_for
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from modes import every_check, run_two_processes, x64

import jepa_masks_jax as jm

PROCESSES = [case for case in ALL if case.name in ("block", "ijepa", "vjepa-long", "random")]
# Before jax 0.8, jax.random does not take explicit axes.
FAST_AXES = "Explicit" if jax.__version_info__ >= (0, 8) else "Auto"
COLLECTIVE = re.compile("all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter")


def draw_by_jit(keys):
    return drawn(FIRST, keys)


def draw_whole_grids_by_jit(keys):
    return drawn([case for case in FIRST if not case.name.startswith("sized")], keys)


def draw_by_shard_map(keys):
    spec = P("data")
    return jax.shard_map(draw_by_jit, in_specs=spec, out_specs=spec)(keys)


@pytest.mark.parametrize(
    ("axes", "draw", "enable_x64"),
    [
        pytest.param("Auto", draw_by_jit, False, id="auto", marks=pytest.mark.slow),
        pytest.param("Auto", draw_by_shard_map, False, id="shard_map", marks=pytest.mark.slow),
        pytest.param(FAST_AXES, draw_by_jit, True, id="explicit", marks=pytest.mark.slow),
        pytest.param(FAST_AXES, draw_whole_grids_by_jit, True, id="explicit-whole"),
    ],
)
def test_eight_devices_draw_the_masks_of_one_without_communication_under_every_check(
    axes, draw, enable_x64
):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType[axes],))
    with x64(enable_x64), jax.set_mesh(mesh):
        keys = jax.device_put(keys_for(8), NamedSharding(mesh, P("data")))
        with every_check():
            program = jax.jit(draw).lower(keys).compile()
            masks = program(keys)
    for mask in jax.tree.leaves(masks):
        assert mask.sharding.shard_shape(mask.shape)[0] == len(keys) // 8
    assert not COLLECTIVE.search(program.as_text())
    assert_digests(masks)


@pytest.mark.skipif(FAST_AXES == "Auto", reason="jax.random needs jax 0.8 for explicit axes")
def test_long_rows_are_traced_with_explicit_axes():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        keys = jax.device_put(keys_for(8), NamedSharding(mesh, P("data")))
        for grid in ((6, 48), (5, 70)):
            draw = jax.vmap(lambda key, grid=grid: jm.ijepa_masks(key, grid))
            for masks in jax.eval_shape(draw, keys):
                assert masks.sharding.spec[0] == "data"


@pytest.mark.slow
def test_two_processes_draw_the_masks_of_one(tmp_path):
    run_two_processes(__file__, tmp_path)
    halves = [dict(np.load(tmp_path / f"{process}.npz")) for process in range(2)]
    leaves = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
    assert all(len(half["block"]) == len(leaves["block"]) // 2 for half in halves)
    leaves["ijepa"] = leaves.pop("ijepa.context"), leaves.pop("ijepa.targets")
    assert_digests(leaves)


def draw_as_one_of_two(folder, address, process):
    jax.distributed.initialize(address, 2, int(process), initialization_timeout=60)
    assert jax.process_count() == jax.device_count() == 2
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    shards = NamedSharding(mesh, P("data"))

    @functools.partial(jax.jit, out_shardings=shards)
    def draw(seed):
        return drawn(PROCESSES, jax.lax.with_sharding_constraint(keys_for(2, seed), shards))

    masks = draw(np.int32(0))
    context, targets = masks.pop("ijepa")
    masks |= {"ijepa.context": context, "ijepa.targets": targets}
    mine = {name: mask.addressable_data(0) for name, mask in masks.items()}
    np.savez(os.path.join(folder, f"{process}.npz"), **mine)
    jax.distributed.shutdown()


if __name__ == "__main__":
    draw_as_one_of_two(*sys.argv[1:])
