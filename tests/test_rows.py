"""Samples in rows: the order is balanced and fair, and a packed model gives what each sample alone
gives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from modes import x64
from scipy import stats
from test_devices import COLLECTIVE

import jepa_masks_jax as jm

CHANCE = 1e-6
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


def test_every_place_is_equally_likely_to_get_each_sample():
    samples, keys = 12, jax.random.split(KEY, 20_000)
    counts = jnp.array([9, 3, 3, 3, 0, 70, 8, 2, 1, 1, 5, 30])
    draw = jax.jit(jax.vmap(lambda key: jm.balanced_order(key, counts, rows=4)))
    orders = np.asarray(draw(keys))
    for sample in range(samples):
        frequency = (orders == sample).sum(0)
        assert frequency.sum() == len(keys)
        assert stats.chisquare(frequency).pvalue > CHANCE / samples


@pytest.mark.parametrize(("per_row", "computed", "dropped"), [(2, 1.06, 0.001), (4, 1.05, 0.001)])
def test_rows_of_ijepa_compute_and_drop_little(per_row, computed, dropped):
    rows = 256 // per_row

    def totals(key):
        mask_key, order_key = jax.random.split(key)
        draw = jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)).context.sum())
        counts = draw(jax.random.split(mask_key, 256))
        order = jm.balanced_order(order_key, counts, rows=rows)
        return counts[order].reshape(rows, per_row).sum(1)

    totals = np.asarray(jax.jit(jax.vmap(totals))(jax.random.split(KEY, 16))).reshape(-1)
    length = np.quantile(totals, 0.99, method="inverted_cdf")
    assert length * totals.size / totals.sum() < computed
    assert np.maximum(totals - length, 0).sum() / totals.sum() < dropped


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


def group_rows(key):
    """The packed contexts of a group of 16 samples: index lists of 8 rows, and their tokens."""
    mask_key, order_key, row_key, token_key = jax.random.split(key, 4)
    draw = jax.vmap(lambda key: ~jm.random_mask(key, (4, 5), num_masked=(2, 18)))
    context = draw(jax.random.split(mask_key, 16))
    order = jm.balanced_order(order_key, context.sum((1, 2)), rows=8)
    rows = jnp.take_along_axis(context, order[:, None, None], axis=0).reshape(8, 2, 4, 5)
    draw = jax.vmap(lambda row, key: jm.token_indices(row, size=20, key=key))
    seen = draw(rows, jax.random.split(row_key, 8))
    tokens = jax.random.normal(token_key, (8, 40, 3), np.float32)
    return order, seen, jax.vmap(jm.take_tokens)(tokens, seen)


def test_groups_over_eight_devices_equal_one_device_without_communication():
    keys = jax.random.split(KEY, 16)
    expected = jax.jit(jax.vmap(group_rows))(keys)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(keys, NamedSharding(mesh, P("data")))
    program = jax.jit(jax.vmap(group_rows)).lower(sharded).compile()
    assert not COLLECTIVE.search(program.as_text())
    got = program(sharded)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.sharding.shard_shape(one.shape)[0] == 2
        np.testing.assert_array_equal(one, other)


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


# A packed encoder

N, PER_ROW, LENGTH, WIDTH, HEADS = 20, 3, 36, 16, 2
COUNTS = {
    "full": (20, 10, 6),
    "padding": (9, 12, 5),
    "drops": (20, 18, 15),
    "a sample with no token": (0, 14, 9),
    "no token at all": (0, 0, 0),
}


def block(params, x, mask):
    """A transformer block: x float[..., tokens, width], mask bool[..., queries, keys]."""

    def normalize(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)

    heads = (normalize(x) @ params["qkv"]).reshape(*x.shape[:-1], 3, HEADS, WIDTH // HEADS)
    q, k, v = (heads[..., i, :, :] for i in range(3))
    logits = jnp.einsum("...qhd,...khd->...hqk", q, k) / (WIDTH // HEADS) ** 0.5
    logits = jnp.where(mask[..., None, :, :], logits, -1e30)
    mixed = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(logits), v).reshape(x.shape)
    x = x + mixed @ params["out"]
    return x + jax.nn.gelu(normalize(x) @ params["up"]) @ params["down"]


def block_params(dtype):
    rng = np.random.default_rng(0)
    sides = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
    return {
        name: rng.normal(size=(WIDTH * a, WIDTH * b)).astype(dtype) / WIDTH**0.5
        for name, (a, b) in sides.items()
    }


def masks_with(counts, rng):
    """Random masks of 4x5 tokens with given counts."""
    ranks = rng.permuted(np.tile(np.arange(N), (counts.size, 1)), axis=1)
    return (ranks < counts.reshape(-1, 1)).reshape(*counts.shape, 4, 5)


def encode_rows(params, patches, masks, keys):
    """float[R, G, N, width] and bool[R, G, 4, 5]: the outputs, 0 at tokens that are in no list."""

    def encode_row(patches, masks, key):
        seen = jm.token_indices(masks, size=LENGTH, key=key, per_row=PER_ROW)
        x = jm.take_tokens(patches.reshape(-1, WIDTH), seen)
        outputs = block(params, x, jm.attention_mask(seen))
        kept = jm.put_tokens(seen.valid[:, None], seen)
        return jm.put_tokens(outputs, seen).reshape(patches.shape), kept.reshape(masks.shape)

    return jax.vmap(encode_row)(patches, masks, keys)


def encode_alone(params, patches, kept):
    """The same of each sample alone, whose tokens attend to those of its own that are kept."""
    kept = kept.reshape(*patches.shape[:2], N)
    outputs = block(params, patches, kept[:, :, None])
    return jnp.where(kept[..., None], outputs, 0)


def assert_close(got, expected, tolerance):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(np.float32, 1e-5, id="32"),
        pytest.param(np.float64, 1e-12, id="64", marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_of_a_packed_encoder_equal_those_of_each_sample_alone(
    dtype, tolerance
):
    rng = np.random.default_rng(1)
    counts = np.array(list(COUNTS.values()))
    masks, shape = masks_with(counts, rng), (*counts.shape, N, WIDTH)
    patches, weights = rng.normal(size=(2, *shape)).astype(dtype)
    params = block_params(dtype)
    with x64(dtype == np.float64):

        @jax.jit
        def packed(params, patches):
            def loss(params, patches):
                outputs, kept = encode_rows(params, patches, masks, keys)
                return (weights * outputs**2).sum(), (outputs, kept)

            keys = jax.random.split(KEY, len(counts))
            return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, patches)

        @jax.jit
        def alone(params, patches, kept):
            def loss(params, patches):
                outputs = encode_alone(params, patches, kept)
                return (weights * outputs**2).sum(), outputs

            return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, patches)

        gradients, (outputs, kept) = packed(params, patches)
        expected_gradients, expected = alone(params, patches, kept)
    kept = np.asarray(kept)
    assert not (kept & ~masks).any()
    assert kept.sum((1, 2, 3)).tolist() == [min(sum(row), LENGTH) for row in COUNTS.values()]
    assert outputs.dtype == dtype
    assert_close(outputs, expected, tolerance)
    assert_close(gradients, expected_gradients, tolerance)
