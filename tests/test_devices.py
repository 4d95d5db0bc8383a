"""Masks do not depend on how many devices or processes draw them, and need no communication.

The tests run this file as a program: with eight host devices, or as one of two processes.
"""

import functools
import math
import os
import re
import socket
import sys

import chex
import jax
import numpy as np
import pytest
from cases import ALL, FIRST, Case
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import finish, start

import jepa_masks_jax as jm


def take_and_put(key, grid):
    """Tokens of each sample's own, which explicit axes shard as the keys are."""
    tokens = jax.random.uniform(jax.random.clone(key), (math.prod(grid), 2))
    indices = jm.token_indices(jm.block_mask(key, grid), size=40)
    taken = jm.take_tokens(tokens, indices)
    return taken, jm.put_tokens(taken, indices, fill=-1)


OWN_TOKENS = Case("own-tokens", take_and_put, ((14, 14),), {})
CASES = {
    "auto": FIRST,
    "shard_map": FIRST,
    # Explicit axes refuse to gather from tokens that the batch shares.
    "explicit": [
        *(case for case in FIRST if case.name not in ("take-tokens", "put-tokens")),
        OWN_TOKENS,
    ],
    "processes": [case for case in ALL if case.name in ("block", "ijepa", "vjepa-long", "random")],
}
BATCH = 16
STEP = 5
COLLECTIVE = re.compile("all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter")
EXPLICIT_AXES = jax.__version_info__ >= (0, 8)  # before, no random bits can be drawn under them


def flat(masks):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(masks)}


def drawn(cases, keys):
    return {case.name: jax.vmap(case)(keys) for case in cases}


def drawing(name):
    return lambda keys: flat(drawn(CASES[name], keys))


def step_keys(step):
    return jax.random.split(jax.random.fold_in(jax.random.key(0), step), BATCH)


def draw_on_eight_devices(folder):
    auto, explicit = (
        jax.make_mesh((8,), ("data",), axis_types=(kind,))
        for kind in (AxisType.Auto, AxisType.Explicit)
    )
    sharded = P("data")
    programs = {
        "auto": (auto, drawing("auto")),
        "shard_map": (
            auto,
            jax.shard_map(drawing("shard_map"), mesh=auto, in_specs=sharded, out_specs=sharded),
        ),
    }
    if EXPLICIT_AXES:
        programs["explicit"] = (explicit, drawing("explicit"))
    for name, (mesh, function) in programs.items():
        keys = jax.device_put(step_keys(STEP), NamedSharding(mesh, sharded))
        with jax.set_mesh(mesh):
            program = jax.jit(function).lower(keys).compile()
            masks = program(keys)
        with open(os.path.join(folder, f"{name}.txt"), "w") as file:
            file.write(program.as_text())
        assert all(
            mask.sharding.shard_shape(mask.shape)[0] == BATCH // 8 for mask in masks.values()
        )
        np.savez(os.path.join(folder, f"{name}.npz"), **masks)


def draw_as_one_of_two(folder, address, process):
    jax.distributed.initialize(address, 2, int(process), initialization_timeout=60)
    assert jax.process_count() == jax.device_count() == 2
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    shards = NamedSharding(mesh, P("data"))

    @functools.partial(jax.jit, out_shardings=shards)
    def draw_step(step):
        return drawing("processes")(jax.lax.with_sharding_constraint(step_keys(step), shards))

    masks = draw_step(np.int32(STEP))
    mine = {name: mask.addressable_data(0) for name, mask in masks.items()}
    np.savez(os.path.join(folder, f"{process}.npz"), **mine)
    jax.distributed.shutdown()


@pytest.fixture(scope="module")
def one_device():
    used = [case for case in [*ALL, OWN_TOKENS] if any(case in cases for cases in CASES.values())]
    masks = jax.jit(lambda keys: drawn(used, keys))(step_keys(STEP))
    return lambda name: flat({case.name: masks[case.name] for case in CASES[name]})


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    finish(start(__file__, "eight", folder, num_devices=8))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "auto",
        "shard_map",
        pytest.param(
            "explicit",
            marks=pytest.mark.skipif(not EXPLICIT_AXES, reason="jax.random needs jax 0.8 for them"),
        ),
    ],
)
def test_eight_devices_draw_the_masks_of_one_without_communication(name, eight_devices, one_device):
    with np.load(eight_devices / f"{name}.npz") as masks:
        chex.assert_trees_all_equal(dict(masks), one_device(name))
    assert not COLLECTIVE.search((eight_devices / f"{name}.txt").read_text())


def test_two_processes_draw_the_masks_of_one(tmp_path, one_device):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    address = f"{host}:{port}"
    finish(
        *(start(__file__, "two", tmp_path, address, number, num_devices=1) for number in range(2))
    )
    first, second = (dict(np.load(tmp_path / f"{process}.npz")) for process in range(2))
    assert all(len(masks) == BATCH // 2 for masks in first.values())
    together = jax.tree.map(lambda *halves: np.concatenate(halves), first, second)
    chex.assert_trees_all_equal(together, one_device("processes"))


if __name__ == "__main__":
    {"eight": draw_on_eight_devices, "two": draw_as_one_of_two}[sys.argv[1]](*sys.argv[2:])
