"""What other platforms compile draws the masks of the table, however it is transformed or sharded.

A random subset and an index list are computed in one way on CPUs and in another way elsewhere. Here
the way of TPUs is forced.
"""

import itertools

import jax
import numpy as np
import pytest
from cases import CLIPS, FIELD, FIRST, RANDOM, TOKENS, slow
from digests import assert_digests, drawn, fixed_keys, stack
from jax import export, lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from modes import code_of, every_check, x64
from transcription import random_subset

from jepa_masks_jax import _subsets

CASES = RANDOM + FIELD + CLIPS + TOKENS
# A call of each function that has a choice, where no other function makes it.
_CHOOSING = ("random", "blockwise", "span", "clip-down", "token-indices")
FAST = [case for case in CASES if case.name in _CHOOSING]
OTHERS = [case for case in CASES if case not in FAST]
FIRST_CASES = [case for case in CASES if case in FIRST]


@pytest.fixture(scope="module")
def forced():
    with code_of("tpu") as choices:
        yield
    assert choices


@pytest.mark.parametrize("platform", ["tpu", slow("cpu")])
def test_shard_map_over_eight_devices_with_each_input_sharded_or_replicated(platform):
    """Each device picks from its own part of what is sharded, and all of what is replicated."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    words = rng.integers(0, 12, (8, 20), dtype=np.uint32)  # many equal words
    pools = rng.random((8, 20)) < 0.8
    counts = np.minimum(rng.integers(0, 20, 8, dtype=np.int32), pools.sum(1).min(), dtype=np.int32)
    arrays = words, pools, counts
    choices = list(itertools.product([False, True], repeat=3))
    inputs = [[a if s else a[:1] for a, s in zip(arrays, c, strict=True)] for c in choices]

    def pick(sharded, inputs):
        return jax.shard_map(
            lambda *a: _subsets.random_subset(*(x[0] for x in a))[None],
            mesh=mesh,
            in_specs=tuple(P("data") if s else P() for s in sharded),
            out_specs=P("data") if any(sharded) else P(),
        )(*inputs)

    with code_of(platform):
        got = jax.jit(lambda inputs: list(map(pick, choices, inputs)))(inputs)
    for sharded, masks in zip(choices, got, strict=True):
        for i in range(8 if any(sharded) else 1):
            one = [a[i] if s else a[0] for a, s in zip(arrays, sharded, strict=True)]
            np.testing.assert_array_equal(masks[i], random_subset(*one), err_msg=str(sharded))


@pytest.mark.parametrize("case", [*FAST, *map(slow, OTHERS)], ids=repr)
def test_eager(case, forced):
    assert_digests({case.name: stack([case(key) for key in fixed_keys()])})


@pytest.mark.slow
def test_scan(forced):
    def step(number, key):
        return number + 1, {case.name: case(key) for case in FIRST_CASES}

    _, masks = jax.jit(lambda keys: lax.scan(step, 0, keys))(fixed_keys())
    assert_digests(masks)


@pytest.mark.slow
def test_every_check_in_64_bit_mode(forced):
    with x64(True):
        keys = fixed_keys()
        with every_check():
            masks = jax.jit(lambda keys: drawn(FIRST_CASES, keys))(keys)
    assert_digests(masks)


@pytest.mark.slow
def test_one_export_for_cpu_cuda_and_tpu_holds_the_masks(forced):
    draw = jax.jit(lambda keys: jax.tree.leaves(drawn(FIRST_CASES, keys)))
    tree = jax.tree.structure(jax.eval_shape(lambda keys: drawn(FIRST_CASES, keys), fixed_keys()))
    exported = export.export(draw, platforms=("cpu", "cuda", "tpu"))(fixed_keys())
    masks = jax.jit(export.deserialize(exported.serialize()).call)(fixed_keys())
    assert_digests(jax.tree.unflatten(tree, masks))
