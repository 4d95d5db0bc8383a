"""Counts may be traced: exact for every value, clamped beyond the range, compiled once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow
from jax import lax
from jax.sharding import PartitionSpec as P

import jepa_masks_jax as jm

GRID = (3, 4)
KEY = jax.random.key(0)
CHECKERBOARD = np.indices(GRID).sum(0) % 2 == 0


def drawn(key, count):
    return jm.random_mask(key, GRID, num_masked=count)


def clipped(key, count):
    return jm.clip_count(key, CHECKERBOARD, minimum=count, maximum=count)


def in_blocks(key, count):
    return jm.blockwise_mask(key, GRID, num_masked=count, min_block=1)


@pytest.mark.parametrize("dtype", [jnp.int8, slow(jnp.uint32)])
def test_every_value_from_below_0_to_above_all_tokens_is_exact_or_clamped(dtype):
    values = np.arange(-3 if jnp.issubdtype(dtype, jnp.signedinteger) else 0, 127).astype(dtype)
    keys = jax.random.split(KEY, len(values))
    draw = jax.vmap(lambda *args: [function(*args) for function in (drawn, in_blocks, clipped)])
    random, blocks, clip = jax.jit(draw)(keys, values)
    np.testing.assert_array_equal(random.sum((1, 2)), np.clip(values.astype(int), 1, 11))
    np.testing.assert_array_equal(blocks.sum((1, 2)), np.clip(values.astype(int), 1, 11))
    np.testing.assert_array_equal(clip.sum((1, 2)), np.clip(values.astype(int), 0, 12))


@pytest.mark.parametrize("function", [drawn, clipped])
def test_a_traced_count_draws_the_mask_of_an_int(function):
    counts = [1, 4, 11]
    expected = jax.jit(lambda key: [function(key, count) for count in counts])(KEY)
    traced = jax.jit(jax.vmap(function, (None, 0)))(KEY, np.array(counts))
    np.testing.assert_array_equal(traced, expected)
    np.testing.assert_array_equal(function(KEY, jnp.int16(4)), expected[1])


def test_a_thousand_values_of_a_schedule_compile_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, progress):
        count = jnp.round(2 + 8 * progress).astype(jnp.int32)
        return drawn(key, count).sum(), clipped(key, count).sum()

    for progress in np.linspace(0, 1, 1000, dtype=np.float32):
        counts = step(KEY, progress)
        assert counts[0] == counts[1] == np.round(2 + 8 * progress)


def test_a_count_for_each_sample_under_scan():
    keys, counts = jax.random.split(KEY, 11), jnp.arange(1, 12, dtype=jnp.int32)
    expected = jax.jit(jax.vmap(drawn))(keys, counts)
    _, scanned = jax.jit(lambda *xs: lax.scan(lambda c, x: (c, drawn(*x)), 0, xs))(keys, counts)
    np.testing.assert_array_equal(scanned, expected)


@pytest.mark.slow
def test_counts_and_keys_that_are_sharded_or_the_same_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def draw(keys, counts):
        return jm.blockwise_mask(keys[0], (6, 7), num_masked=counts[0], min_block=2)[None]

    alone = jax.jit(draw)
    keys, counts = jax.random.split(KEY, 8), jnp.arange(5, 13, dtype=jnp.int32)
    for sharded in ((True, False), (False, True), (True, True)):
        specs = tuple(P("data") if s else P() for s in sharded)
        args = [a if s else a[:1] for a, s in zip((keys, counts), sharded, strict=True)]
        mapped = jax.shard_map(draw, mesh=mesh, in_specs=specs, out_specs=P("data"))
        got = np.asarray(jax.jit(mapped)(*args))
        for i in range(8):
            one = [a[i : i + 1] if s else a for a, s in zip(args, sharded, strict=True)]
            np.testing.assert_array_equal(got[i], alone(*one)[0], err_msg=str((sharded, i)))


def test_a_maximum_below_the_minimum_wins():
    clip = jax.jit(lambda low, high: jm.clip_count(KEY, CHECKERBOARD, minimum=low, maximum=high))
    assert clip(jnp.int32(9), jnp.int32(4)).sum() == 4
    assert clip(jnp.int32(9), jnp.int32(8)).sum() == 8
    assert jm.clip_count(KEY, CHECKERBOARD, minimum=9, maximum=jnp.int32(7)).sum() == 7


def test_a_pair_of_ratios_draws_every_count_between():
    keys = jax.random.split(KEY, 2000)
    draw = functools.partial(jm.random_mask, grid=(10,), mask_ratio=(0.2, 0.5))
    counts = jax.jit(jax.vmap(draw))(keys).sum(1)
    assert np.bincount(counts).tolist()[:2] == [0, 0]
    assert (np.bincount(counts)[2:] > 400).all()
    assert counts.max() == 5


@pytest.mark.parametrize(
    ("grid", "cell", "count"),
    [
        ((6, 6), (2, 3), 2),
        ((4, 2, 6), (4, 1, 1), 5),
        ((8,), (2,), 3),
        ((2, 3, 4, 2), (1, 3, 2, 2), 1),
    ],
)
def test_whole_cells_are_masked_and_counted(grid, cell, count):
    masks = jax.vmap(lambda key: jm.random_mask(key, grid, num_masked=count, cell=cell))(
        jax.random.split(KEY, 20)
    )
    cells = np.asarray(masks)
    for axis, part in enumerate(cell, 1):
        shape = cells.shape
        split = cells.reshape(*shape[:axis], shape[axis] // part, part, *shape[axis + 1 :])
        assert (split == split.take([0], axis + 1)).all()
        cells = split.take(0, axis + 1)
    assert (cells.reshape(20, -1).sum(1) == count).all()
