"""Samples in rows: the order is balanced and fair."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from modes import x64

import jepa_masks_jax as jm

KEY = jax.random.key(0)


# The order


def transcribed(row_words, place_words, counts):
    """Reads a word for each row, then one for each sample as it is dealt out."""
    rows, samples = len(row_words), len(counts)
    dealt = [[] for _ in range(rows)]
    row, forward = 0, True
    by_count = sorted(range(samples), key=lambda sample: (counts[sample], sample))
    for sample, word in zip(by_count, place_words, strict=True):
        dealt[row].append((word, sample))
        at_the_end = row == (rows - 1 if forward else 0)
        forward = forward != at_the_end
        row += 0 if at_the_end else 1 if forward else -1
    in_order = sorted(range(rows), key=lambda row: (row_words[row], row))
    return [sample for row in in_order for _, sample in sorted(dealt[row])]


def words_of(key, rows, samples):
    words = np.asarray(jax.random.bits(key, (max(rows + samples, 16),), jnp.uint32)).tolist()
    return words[:rows], words[rows : rows + samples]


def order_by_definition(key, counts, rows):
    return transcribed(*words_of(key, rows, len(counts)), np.asarray(counts).tolist())


@pytest.mark.parametrize(
    ("samples", "rows"),
    [
        (30, 6),
        (6, 1),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in [(30, 10), (6, 6), (1, 1), (16, 8)]),
    ],
)
def test_the_order_equals_its_definition(samples, rows):
    keys = jax.random.split(KEY, 20)
    counts = np.random.default_rng(0).integers(0, 9, (20, samples), np.int32)  # many equal
    orders = jax.jit(jax.vmap(lambda key, c: jm.balanced_order(key, c, rows=rows)))(keys, counts)
    assert orders.dtype == jnp.int32
    for key, count, order in zip(keys, counts, orders, strict=True):
        assert order.tolist() == order_by_definition(key, count, rows)


def test_six_samples_by_hand():
    counts = np.array([50, 90, 20, 70, 80, 40])
    order = np.asarray(jm.balanced_order(KEY, counts, rows=3)).reshape(3, 2)
    assert {frozenset(row) for row in order.tolist()} == {
        frozenset(row) for row in [(2, 1), (5, 4), (0, 3)]
    }


def test_pairs_of_equally_spaced_counts_have_equal_totals():
    order = jm.balanced_order(KEY, np.arange(200), per_row=2)
    assert set(np.arange(200)[order].reshape(100, 2).sum(1).tolist()) == {199}


@pytest.mark.parametrize("enable_x64", [pytest.param(False, marks=pytest.mark.slow), True])
def test_integers_of_every_type_eager_and_traced_with_every_kind_of_key(enable_x64):
    values = [5, 0, 7, 3, 3, 6]
    expected = order_by_definition(KEY, values, 3)
    types = [jnp.int4, jnp.uint4, jnp.int8, jnp.uint8, jnp.int16, jnp.uint32, jnp.int64]
    with x64(enable_x64):
        for dtype in types[: 7 if enable_x64 else 6]:
            assert jm.balanced_order(KEY, jnp.array(values, dtype), rows=3).tolist() == expected
        for dtype in types:
            counts = np.array(values).astype(dtype)
            assert jm.balanced_order(KEY, counts, rows=np.int8(3)).tolist() == expected
        order = jm.balanced_order(jax.random.key_data(KEY), jnp.array(values), rows=3)
        assert (order.tolist(), order.dtype) == (expected, jnp.int32)


@pytest.mark.parametrize("enable_x64", [False, True])
def test_large_and_negative_numbers_keep_their_order(enable_x64):
    with x64(enable_x64):
        wide = np.array([2**40, -(2**40), 2**40 + 1, 7, -1, 2**32])
        assert jm.balanced_order(KEY, wide, rows=2).tolist() == order_by_definition(KEY, wide, 2)
        wide = np.array([2**64 - 1, 2**63, 2**32, 0], np.uint64)
        assert jm.balanced_order(KEY, wide, rows=2).tolist() == order_by_definition(KEY, wide, 2)
        high = jnp.array([2**31, 2**32 - 1, 5, 2**31 - 1], jnp.uint32)
        assert jm.balanced_order(KEY, high, rows=2).tolist() == order_by_definition(KEY, high, 2)


@pytest.mark.parametrize(("samples", "rows"), [(4, 2), (6, 2), (6, 3), (3, 3)])
def test_every_place_gets_every_sample_equally_often_over_all_orders_of_the_words(samples, rows):
    """Equal words aside, which come up with a chance below 1e-6 in 64 rows of 4 samples."""
    places = samples // rows
    there_and_back = [*range(rows), *reversed(range(rows))]  # the rows as they are dealt to
    row_of = np.resize(there_and_back, samples)
    by_row_first = np.argsort(row_of, kind="stable")
    times = np.zeros((samples, samples), int)
    for row_words in itertools.permutations(range(rows)):
        for in_each in itertools.product(itertools.permutations(range(places)), repeat=rows):
            words = np.empty(samples, int)
            words[by_row_first] = np.ravel(in_each)
            order = transcribed(row_words, words.tolist(), [3, 1, 1, 2, 5, 0][:samples])
            times[np.arange(samples), order] += 1
    assert len(np.unique(times)) == 1


def test_rows_of_ijepa_compute_and_drop_little():
    @jax.jit
    @jax.vmap
    def totals(key):
        mask_key, order_key = jax.random.split(key)
        draw = jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)).context.sum())
        counts = draw(jax.random.split(mask_key, 256))
        orders = [jm.balanced_order(order_key, counts, per_row=per_row) for per_row in (2, 4)]
        return [counts[order] for order in orders]

    counts = totals(jax.random.split(KEY, 16))
    for per_row, computed, of_rows in zip((2, 4), (1.06, 1.05), counts, strict=True):
        total = np.asarray(of_rows).reshape(-1, per_row).sum(1)
        length = np.quantile(total, 0.99, method="inverted_cdf")
        assert length * total.size / total.sum() < computed
        assert np.maximum(total - length, 0).sum() / total.sum() < 0.001


@pytest.mark.parametrize(
    ("counts", "rows", "error", "message"),
    [
        (np.ones(6), 3, TypeError, r"counts must be an integer array, got float64\[6\]"),
        (np.ones(6, bool), 3, TypeError, r"counts must be an integer array, got bool\[6\]"),
        ([1, 2, 3, 4], 2, TypeError, r"counts must be an integer array, got \[1, 2, 3, 4\]"),
        (4, 2, TypeError, "counts must be an integer array, got 4"),
        (np.array(4), 1, ValueError, r"counts must have shape \(B,\).*use jax\.vmap for groups"),
        (np.ones((2, 3), int), 3, ValueError, r"counts .*got shape \(2, 3\); use jax\.vmap"),
        (np.ones(0, int), 1, ValueError, r"counts must have shape .*got shape \(0,\)"),
        (np.ones(6, int), 4, ValueError, "rows must divide the 6 samples, got 4"),
        (np.ones(6, int), 0, ValueError, r"rows must be in \[1, 6\], got 0"),
        (np.ones(6, int), 12, ValueError, r"rows must be in \[1, 6\], got 12"),
        (np.ones(6, int), 2.0, TypeError, "rows must be an integer, got 2.0"),
        (np.ones(6, int), True, TypeError, "rows must be an integer, got True"),
    ],
)
def test_bad_input_is_refused_by_name(counts, rows, error, message):
    with pytest.raises(error, match=message):
        jm.balanced_order(KEY, counts, rows=rows)
    if isinstance(counts, np.ndarray):
        with pytest.raises(error, match=message.replace("float64", "float32")):
            jax.eval_shape(lambda counts: jm.balanced_order(KEY, counts, rows=rows), counts)


def test_traced_rows_and_keys_of_a_batch_are_refused():
    counts = jnp.arange(6)
    with pytest.raises(TypeError, match="rows is traced; close over it or make it static"):
        jax.eval_shape(lambda rows: jm.balanced_order(KEY, counts, rows=rows), 3)
    with pytest.raises(ValueError, match=r"key must be a single key"):
        jm.balanced_order(jax.random.split(KEY), counts, rows=3)


# Devices


@pytest.mark.parametrize("sharded", [(True, False), (False, True)], ids=["key", "counts"])
def test_shard_map_with_one_input_sharded_and_the_other_replicated(sharded):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    keys = jax.random.split(KEY, 8)
    counts = np.random.default_rng(0).integers(0, 9, (8, 12), np.int32)
    inputs = [x if s else x[:1] for x, s in zip((keys, counts), sharded, strict=True)]
    specs = tuple(P("data") if s else P() for s in sharded)

    def order(out_specs):
        one = lambda key, counts: jm.balanced_order(key[0], counts[0], rows=3)[None]  # noqa: E731
        return jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=out_specs)

    orders = jax.jit(order(P("data")))(*inputs)
    for i in range(8):
        key, count = (x[i if s else 0] for x, s in zip((keys, counts), sharded, strict=True))
        assert orders[i].tolist() == order_by_definition(key, count, 3)
    with pytest.raises(ValueError, match="out_specs"):  # it is not the same on every device
        jax.eval_shape(order(P()), *inputs)
