"""What accelerators compile draws the same masks, under every transformation and sharding.

A random subset and a token list are computed one way on CPUs and another way elsewhere. Here the
other way is forced. The tests run this file as a program with eight host devices.
"""

import contextlib
import itertools
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CLIPS, FIELD, RANDOM, TOKENS
from jax import export, lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from programs import finish, start
from test_strict_modes import every_check, x64
from transcription import random_subset

from jepa_masks_jax import _subsets

CASES = RANDOM + FIELD + CLIPS + TOKENS
KEYS = jnp.stack([jax.random.key(seed) for seed in range(3)])


def drawn(keys):
    return {case.name: jax.vmap(case)(jax.random.clone(keys)) for case in CASES}


@contextlib.contextmanager
def default_branch():
    """Compiles what accelerators would, and notes how often it was asked for."""
    original, calls = lax.platform_dependent, []

    def forced(*args, default, cpu):
        calls.append(cpu)
        return default(*args)

    lax.platform_dependent = forced
    jax.clear_caches()
    try:
        yield calls
    finally:
        lax.platform_dependent = original
        jax.clear_caches()


@pytest.fixture(scope="module")
def on_the_cpu():
    return jax.tree.map(np.asarray, jax.jit(drawn)(KEYS))


@pytest.fixture(scope="module", autouse=True)
def forced(on_the_cpu):
    with default_branch() as calls:
        yield
    assert calls


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_eager(case, on_the_cpu):
    expected = jax.tree.map(lambda masks: masks[1], on_the_cpu[case.name])
    chex.assert_trees_all_equal(case(KEYS[1]), expected)


def test_scan(on_the_cpu):
    def step(number, key):
        return number + 1, {case.name: case(key) for case in CASES}

    _, masks = jax.jit(lambda keys: lax.scan(step, 0, keys))(KEYS)
    chex.assert_trees_all_equal(masks, on_the_cpu)


@pytest.mark.parametrize("enable_x64", [False, True], ids=["32", "64"])
def test_every_check_in_32_and_64_bit_mode(enable_x64, on_the_cpu):
    with x64(enable_x64):
        keys = jnp.stack([jax.random.key(seed) for seed in range(3)])
        with every_check():
            masks = jax.jit(drawn)(keys)
    chex.assert_trees_all_equal(masks, on_the_cpu, strict=True)


def test_one_export_for_cpu_cuda_and_tpu_holds_the_masks(on_the_cpu):
    draw = jax.jit(lambda keys: jax.tree.leaves(drawn(keys)))
    exported = export.export(draw, platforms=("cpu", "cuda", "tpu"))(KEYS)
    masks = jax.jit(export.deserialize(exported.serialize()).call)(KEYS)
    chex.assert_trees_all_equal(masks, jax.tree.leaves(on_the_cpu))


def check_on_eight_devices():
    """Each device picks from its own part of what is sharded, and all of what is replicated."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 12, (8, 20), dtype=np.uint32)  # many equal words
    pools = rng.random((8, 20)) < 0.8
    counts = np.minimum(rng.integers(0, 20, 8, dtype=np.int32), pools.sum(1).min(), dtype=np.int32)
    arrays = draws, pools, counts
    for sharded in itertools.product([False, True], repeat=3):
        inputs = [a if s else a[:1] for a, s in zip(arrays, sharded, strict=True)]
        specs = tuple(P("data") if s else P() for s in sharded)
        out = P("data") if any(sharded) else P()
        pick = jax.shard_map(
            lambda *a: _subsets.random_subset(*(x[0] for x in a))[None],
            mesh=mesh,
            in_specs=specs,
            out_specs=out,
        )
        got = np.asarray(jax.jit(pick)(*inputs))
        for i in range(8 if any(sharded) else 1):
            one = [a[i] if s else a[0] for a, s in zip(arrays, sharded, strict=True)]
            np.testing.assert_array_equal(got[i], random_subset(*one), err_msg=str(sharded))


@pytest.mark.parametrize("branch", ["cpu", "default"])
def test_shard_map_over_eight_devices_with_each_input_sharded_or_replicated(branch):
    finish(start(__file__, branch, num_devices=8))


if __name__ == "__main__":
    with default_branch() if sys.argv[1] == "default" else contextlib.nullcontext():
        check_on_eight_devices()
