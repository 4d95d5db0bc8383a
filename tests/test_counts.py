"""Counts may be traced: exact for every value, clamped beyond the range, compiled once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow
from jax import lax
from jax.sharding import PartitionSpec as P
from modes import no_trace

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


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int4, slow(jnp.uint32)])
def test_every_value_from_below_0_to_above_all_tokens_is_exact_or_clamped(dtype):
    limits = jnp.iinfo(dtype)
    values = np.arange(max(limits.min, -3), min(limits.max, 126) + 1).astype(dtype)
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
        return count, drawn(key, count).sum(), clipped(key, count).sum()

    progress = np.linspace(0, 1, 1000, dtype=np.float32)
    counts = np.array([step(KEY, done) for done in progress])
    np.testing.assert_array_equal(counts, np.round(2 + 8 * progress)[:, None].repeat(3, 1))


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


def test_counts_are_sharded_and_the_key_is_not():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def sample(count):
        return jm.random_mask(KEY, (4, 5), num_masked=count[0])[None]

    sharded = jax.jit(jax.shard_map(sample, mesh=mesh, in_specs=P("x"), out_specs=P("x")))
    masks = sharded(jnp.arange(1, 9, dtype=jnp.int32))
    assert masks.sum((1, 2)).tolist() == list(range(1, 9))


def test_a_maximum_below_the_minimum_wins():
    clip = jax.jit(lambda low, high: jm.clip_count(KEY, CHECKERBOARD, minimum=low, maximum=high))
    assert clip(jnp.int32(9), jnp.int32(4)).sum() == 4
    assert clip(jnp.int32(9), jnp.int32(8)).sum() == 8
    assert jm.clip_count(KEY, CHECKERBOARD, minimum=9, maximum=jnp.int32(7)).sum() == 7


FIRST_FIVE = np.arange(12).reshape(GRID) < 5
SCORES = FIRST_FIVE.astype(np.float32)
COUNTED = {
    "random_mask": (lambda n: drawn(KEY, n), 1, 11),
    "object_mask": (lambda n: jm.object_mask(KEY, 7, num_masked=n), 1, 6),
    "blockwise_mask": (lambda n: in_blocks(KEY, n), 1, 11),
    "top_mask": (lambda n: jm.top_mask(SCORES, num_masked=n), 0, 12),
    "random_span_mask": (
        lambda n: jm.random_span_mask(KEY, (12,), num_masked=n, num_spans=1),
        1,
        11,
    ),
    "exactly": (lambda n: jm.clip_count(KEY, FIRST_FIVE, exactly=n), 0, 12),
    "minimum": (lambda n: jm.clip_count(KEY, FIRST_FIVE, minimum=n), 5, 12),
    "maximum": (lambda n: jm.clip_count(KEY, FIRST_FIVE, maximum=n), 0, 5),
}


@pytest.mark.parametrize(("function", "low", "high"), COUNTED.values(), ids=COUNTED)
def test_every_array_of_numpy_is_clamped_and_compiles_once(function, low, high):
    values = [np.array(n) for n in (-(2**40), 0, 3, 5, 9, 2**40)]
    values += [np.array(6, np.uint8), np.array(2**64 - 1, np.uint64), np.array(-3, jnp.int4)]
    function(np.array(1))
    with no_trace():
        got = [int(np.asarray(function(value)).sum()) for value in values]
    assert got == [min(max(int(value), low), high) for value in values]


@pytest.mark.parametrize(
    ("grid", "count", "expected"),
    [
        ((14, 14), jnp.int8(100), 100),  # of 195 at most, which int8 does not hold
        (GRID, jnp.uint32(2**32 - 1), 11),  # -1 as int32
    ],
)
def test_a_count_in_an_integer_narrower_or_wider_than_the_tokens(grid, count, expected):
    assert jm.random_mask(KEY, grid, num_masked=count).sum() == expected
