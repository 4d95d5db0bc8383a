"""Rows of several samples: whose each entry is, and what attends to what."""

import copy
import dataclasses
import pickle
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from modes import every_check, x64

import jepa_masks_jax as jm

DATA = Path(__file__).parent / "data"
KEY = jax.random.key(0)
FOREIGN = types.SimpleNamespace(dtype="torch.float32", shape=(4, 2))


def contexts(*masks):
    return jnp.array([[token == "#" for token in mask] for mask in masks])


# Whose each entry is


@pytest.mark.parametrize("size", [1, 4, 7, 12])
def test_sample_and_place_are_those_of_a_loop(size):
    masks = np.random.default_rng(0).random((40, 3, 2, 2)) < 0.5

    @jax.jit
    @jax.vmap
    def listed(row):
        seen = jm.token_indices(row, size=size, per_row=3)
        return seen, seen.sample, seen.place

    seen, sample, place = listed(masks)
    assert (seen.per_row, seen.num_tokens) == (3, 12)
    assert sample.dtype == place.dtype == jnp.int32
    for row, of_sample, of_place in zip(masks, sample, place, strict=True):
        entries = [divmod(int(i), 4) for i in np.flatnonzero(row)][:size]
        entries += [(3, 0)] * (size - len(entries))
        assert list(zip(of_sample.tolist(), of_place.tolist(), strict=True)) == entries


def test_entries_that_are_no_longer_valid_belong_to_no_sample():
    seen = jm.token_indices(contexts("##.", ".##"), size=5, per_row=2)
    fewer = dataclasses.replace(seen, valid=jnp.array([True, False, True, True, False]))
    assert fewer.sample.tolist() == [0, 2, 1, 1, 2]
    assert fewer.place.tolist() == [0, 0, 1, 2, 0]


def test_a_list_is_a_row_of_one():
    mask = contexts("#.##")
    alone, row = jm.token_indices(mask[0], size=4), jm.token_indices(mask, size=4, per_row=1)
    assert alone.per_row == row.per_row == 1
    assert alone.sample.tolist() == row.sample.tolist() == [0, 0, 0, 1]
    assert alone.place.tolist() == row.place.tolist() == [0, 2, 3, 0]


def test_a_row_of_another_count_of_samples_is_refused():
    for shape, per_row in [((14, 14), 2), ((4,), 4), ((3, 4), 2), ((2, 3, 4), 3)]:
        with pytest.raises(ValueError, match=rf"bool\[{per_row}, \*grid\] for per_row={per_row}"):
            jm.token_indices(jnp.ones(shape, bool), size=2, per_row=per_row)


def test_per_row_survives_every_transformation():
    rows = contexts("##..", ".#.#", "#...", "..##").reshape(2, 2, 4)
    listed = jax.vmap(lambda row: jm.token_indices(row, size=3, per_row=2))
    one_by_one = jax.lax.scan(lambda _, row: (0, jm.token_indices(row, size=3, per_row=2)), 0, rows)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.jit(jax.shard_map(listed, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
    one = listed(rows)
    copies = copy.deepcopy(one), pickle.loads(pickle.dumps(one)), jax.tree.map(jnp.copy, one)
    for seen in (one, one_by_one[1], sharded(rows), *copies):
        assert (seen.per_row, seen.num_tokens) == (2, 8)
        assert seen.sample.tolist() == [[0, 0, 1], [0, 1, 1]]
        assert seen.place.tolist() == [[0, 1, 1], [0, 2, 3]]
    stored = export.export(jax.jit(listed))(rows).serialize()
    assert export.deserialize(stored).call(rows).sample.tolist() == [[0, 0, 1], [0, 1, 1]]


@pytest.mark.filterwarnings("ignore:Exported being deserialized seems to be older")
def test_what_version_0_4_stored_is_a_row_of_one():
    """`data/token_indices.*` hold a list of `.##.#...` that version 0.4.0 made under jax 0.7.1."""
    loaded = pickle.loads((DATA / "token_indices.pickle").read_bytes())
    expired = "jax_export_deserialize_expired_versions"
    if hasattr(jax.config, expired):
        jax.config.update(expired, True)
    try:
        program = export.deserialize(bytearray((DATA / "token_indices.export").read_bytes()))
    finally:
        if hasattr(jax.config, expired):
            jax.config.update(expired, False)
    for seen in (loaded, program.call(contexts(".##.", "#..."))):
        assert seen.indices.tolist() == [1, 2, 4, 8]
        assert (seen.per_row, seen.num_tokens) == (1, 8)
        assert seen.sample.tolist() == [0, 0, 0, 1]
        assert jax.tree.structure(seen) == jax.tree.structure(loaded)


# What attends to what


def attends_by_definition(queries, keys):
    mask = np.array([[q == k for k in keys] for q in queries])
    return np.where(mask.any(1, keepdims=True), mask, True)


@pytest.mark.parametrize("sizes", [(3, 3), (9, 4), (8, 9)])
def test_the_attention_mask_is_that_of_a_loop(sizes):
    masks = np.random.default_rng(1).random((2, 60, 3, 4)) < 0.4  # some samples have no token

    def both(one, other):
        return [
            jm.token_indices(row, size=size, per_row=3)
            for row, size in zip((one, other), sizes, strict=True)
        ]

    @jax.jit
    @jax.vmap
    def attention(one, other):
        queries, keys = both(one, other)
        return jm.attention_mask(queries, keys), jm.attention_mask((keys, queries))

    crossed, joined = attention(*masks)
    for i, (one, other) in enumerate(zip(*masks, strict=True)):
        queries, keys = (
            ([*np.flatnonzero(row)[:size] // 4] + [3] * size)[:size]
            for row, size in zip((one, other), sizes, strict=True)
        )
        np.testing.assert_array_equal(crossed[i], attends_by_definition(queries, keys))
        together = [*keys, *queries]
        np.testing.assert_array_equal(joined[i], attends_by_definition(together, together))


def test_lists_of_samples_of_unequal_grids_share_a_mask():
    """A class token in front of each context, and none in front of the places of the target."""
    context = contexts("#.#", ".##")
    with_class = jnp.pad(context, ((0, 0), (1, 0)), constant_values=True)
    seen = jm.token_indices(with_class, size=6, per_row=2)
    at = jm.token_indices(~context, size=2, per_row=2)
    assert seen.place.tolist() == [0, 1, 3, 0, 2, 3]
    expected = [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert jm.attention_mask(at, seen).astype(int).tolist() == expected


def test_the_mask_holds_under_every_check_and_in_64_bits():
    context = contexts("##.", "..#")
    for enable in (False, True):
        with x64(enable):
            seen = jm.token_indices(context, size=4, per_row=2)
            with every_check():
                mask, sample = jm.attention_mask(seen), seen.sample
        assert mask.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        assert sample.dtype == jnp.int32


def test_masks_of_rows_over_explicit_axes():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    masks = np.random.default_rng(2).random((8, 2, 4)) < 0.5

    @jax.jit
    @jax.vmap
    def attention(row):
        seen = jm.token_indices(row, size=5, per_row=2)
        return jm.attention_mask(seen), seen.place

    expected = attention(masks)
    if jax.__version_info__ < (0, 8):
        return
    with jax.set_mesh(mesh):
        over_devices = attention(jax.device_put(masks, NamedSharding(mesh, P("data"))))
    jax.tree.map(np.testing.assert_array_equal, expected, over_devices)


@pytest.mark.parametrize(
    ("queries", "keys", "error", "message"),
    [
        (contexts("#."), None, TypeError, "queries must be the TokenIndices .*got bool"),
        ((), None, ValueError, "queries must have at least one index list"),
        ("list", contexts("#."), TypeError, "keys must be the TokenIndices"),
        (("list", 3), None, TypeError, r"queries\[1\] must be the TokenIndices .*got 3"),
        ("row", "list", ValueError, r"one per_row, got \[2\] and \[1\]"),
        ("shapes", None, TypeError, "queries must be the TokenIndices .*got .'ShapeDtypeStruct'"),
        ("batch", None, ValueError, r"queries must be one index list or row.*use jax\.vmap"),
    ],
)
def test_what_is_no_list_is_refused_by_name(queries, keys, error, message):
    of = {
        "list": jm.token_indices(contexts("#.")[0], size=2),
        "row": jm.token_indices(contexts("#.", "##"), size=2, per_row=2),
        "shapes": jax.eval_shape(lambda: jm.token_indices(contexts("#.")[0], size=2)),
        "batch": jax.vmap(lambda mask: jm.token_indices(mask, size=2))(contexts("#.", "##")),
    }

    def read(x):
        return tuple(map(read, x)) if isinstance(x, tuple) else of[x] if isinstance(x, str) else x

    with pytest.raises(error, match=message):
        jm.attention_mask(read(queries), read(keys))


# Attention that writes -inf


def attend(weight, queries, tokens, mask):
    """One head of a user's own, which has NaN gradients where a query has no key."""
    scores = jnp.where(mask, (weight * queries) @ tokens.T, -jnp.inf)
    return jax.nn.softmax(scores) @ (weight * tokens)


def row_loss(weight, x, context, size):
    """Each place of the targets, from the context of its sample: one row of all samples."""
    samples = len(context)
    seen = jm.token_indices(context, size=size[0], per_row=samples)
    at = jm.token_indices(~context, size=size[1], per_row=samples)
    tokens, places = jm.take_tokens(x, seen), jm.take_tokens(x, at)
    encoded = attend(weight, tokens, tokens, jm.attention_mask(seen))
    y = attend(weight, places, encoded, jm.attention_mask(at, seen))
    error = jnp.sum((y - places) ** 2, where=at.valid[:, None])
    return error / at.valid.sum(dtype=error.dtype)


def test_a_query_without_a_key_has_a_gradient():
    """Both contexts fill the list, so that padding of the targets has no key in it."""
    x = jnp.array([[1.0, 2], [3, 4], [5, 6], [7, 9]]) / 4

    def loss(weight, size):
        context = contexts("#.", ".#")
        seen = jm.token_indices(context, size=2, per_row=2)
        at = jm.token_indices(~context, size=size, per_row=2)
        keys, queries = weight * jm.take_tokens(x, seen), jm.take_tokens(x, at)
        scores = jnp.where(jm.attention_mask(at, seen), queries @ keys.T, -jnp.inf)
        error = jnp.mean((jax.nn.softmax(scores) @ keys - queries) ** 2, -1)
        return jnp.mean(error, where=at.valid)

    both = jax.jit(lambda weight: [jax.value_and_grad(loss)(weight, size) for size in (2, 3)])
    np.testing.assert_allclose(both(0.5), [(0.30859, -1.01562)] * 2, atol=1e-5)


ROWS = contexts("##.#..", "#.....", "...###", "##.#.#").reshape(2, 2, 6)


@pytest.mark.parametrize("dtype", [jnp.float32, slow(jnp.float16), slow(jnp.bfloat16)])
def test_rows_have_the_loss_and_the_gradients_of_lists(dtype):
    x = jax.random.normal(KEY, (2, 12, 3)).astype(dtype)
    lists = x.reshape(4, 6, 3), ROWS.reshape(4, 1, 6)
    count = lambda rows: (~rows).sum((1, 2)).astype(dtype)  # noqa: E731

    @jax.jit
    def of_rows(weight):
        def loss(weight, size):
            losses = jax.vmap(lambda x, row: row_loss(weight, x, row, size))(x, ROWS)
            return jnp.mean(losses * count(ROWS))

        dropping, full, padded = (4, 5), (7, 8), (9, 11)
        return [jax.value_and_grad(loss)(weight, size) for size in (dropping, full, padded)]

    @jax.jit
    @jax.value_and_grad
    def of_lists(weight):
        losses = jax.vmap(lambda x, row: row_loss(weight, x, row, (6, 6)))(*lists)
        return jnp.sum(losses * count(lists[1])) / 2

    weight = jnp.asarray(0.7, dtype)
    expected = np.array(of_lists(weight), float)
    dropping, *others = np.array(of_rows(weight), float)
    assert np.isfinite(dropping).all()
    for got in others:
        np.testing.assert_allclose(got, expected, rtol=30 * float(jnp.finfo(dtype).eps))


def test_a_sample_without_context_leaves_the_others_as_they_are_and_everything_finite():
    context = contexts("##.#", "....", ".##.")
    x = jax.random.normal(KEY, (12, 2))

    def loss(weight, x):
        seen = jm.token_indices(context, size=5, per_row=3)
        at = jm.token_indices(~context, size=8, per_row=3)
        tokens, places = jm.take_tokens(x, seen), jm.take_tokens(x, at)
        encoded = attend(weight, tokens, tokens, jm.attention_mask(seen))
        y = attend(weight, places, encoded, jm.attention_mask(at, seen))
        has_context = jm.take_tokens(jnp.repeat(context.any(1), 4)[:, None], at)
        return jnp.sum(y**2, where=has_context), y

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (total, y), slope = value_and_grad(0.5, x)
    assert np.isfinite([total, slope]).all()
    assert np.isfinite(y).all()
    others = np.float32(np.arange(12)[:, None] // 4 == 1)
    (moved, _), _ = value_and_grad(0.5, x + others)
    np.testing.assert_allclose(total, moved, rtol=1e-6)


# Rows of a batch


@pytest.mark.parametrize("per_row", [1, 2, 4])
def test_rows_of_a_batch_keep_what_belongs_together(per_row):
    def draw(key):
        context, *targets = jax.random.bernoulli(key, 0.5, (5, 8, 8))
        return jm.ContextTargetMasks(context, jnp.stack(targets))

    keys = jax.random.split(KEY, 8)
    masks = jax.vmap(draw)(keys)
    batch = (masks, {"number": np.arange(8), "key": keys, "patches": jnp.ones((8, 64, 3))})
    (rows, others), order = jax.jit(
        lambda key, batch: (
            jm.in_rows(key, batch, per_row=per_row),
            jm.balanced_order(key, batch[0].context.sum((1, 2)), per_row=per_row),
        )
    )(KEY, batch)
    assert others["number"].reshape(-1).tolist() == order.tolist()
    assert sorted(order.tolist()) == list(range(8))
    assert rows.context.shape == (8 // per_row, per_row, 8, 8)
    assert rows.targets.shape == (8 // per_row, per_row, 4, 8, 8)
    assert others["patches"].shape == (8 // per_row, per_row, 64, 3)
    by_hand = np.asarray(masks.targets)[np.asarray(order)]
    np.testing.assert_array_equal(rows.targets.reshape(8, 4, 8, 8), by_hand)
    drawn_again = draw(others["key"][-1, -1]).context
    np.testing.assert_array_equal(rows.context[-1, -1], drawn_again)


@pytest.mark.parametrize(
    ("masks", "per_row", "error", "message"),
    [
        (jnp.ones((4, 3)), 2, TypeError, "first array of masks must be a boolean array"),
        ((), 2, TypeError, "first array of masks must be a boolean array"),
        (jnp.ones(4, bool), 2, ValueError, r"begin with bool\[B, \*grid\].*got shapes \(4,\)"),
        ((jnp.ones((4, 3), bool), jnp.ones(3)), 2, ValueError, r"shapes \(4, 3\) and \(3,\)"),
        ((jnp.ones((4, 3), bool), jnp.float32(3)), 2, ValueError, r"shapes \(4, 3\) and \(\)"),
        ((jnp.ones((4, 3), bool), 5), 2, TypeError, "arrays with a batch axis, got 5"),
        ((jnp.ones((4, 3), bool), np.array([*"abcd"])), 2, TypeError, "numbers, got <U1"),
        ((jnp.ones((4, 3), bool), FOREIGN), 2, TypeError, r"pass np\.asarray\(masks\)"),
        (jnp.ones((4, 3), bool), 3, ValueError, "per_row must divide the 4 samples, got 3"),
        (jnp.ones((4, 3), bool), 5, ValueError, r"per_row must be in \[1, 4\], got 5"),
        (jnp.ones((4, 3), bool), 2.0, TypeError, "per_row must be an integer"),
    ],
)
def test_what_has_no_rows_is_refused(masks, per_row, error, message):
    with pytest.raises(error, match=message):
        jm.in_rows(KEY, masks, per_row=per_row)


def test_an_order_needs_one_of_two_counts():
    counts = np.array([3, 1, 2, 5, 4, 9])
    assert (
        jm.balanced_order(KEY, counts, per_row=2).tolist()
        == jm.balanced_order(KEY, counts, rows=3).tolist()
    )
    for options in ({}, {"rows": 3, "per_row": 2}):
        with pytest.raises(TypeError, match="exactly one of per_row and rows"):
            jm.balanced_order(KEY, counts, **options)
    with pytest.raises(ValueError, match="per_row must divide the 6 samples, got 4"):
        jm.balanced_order(KEY, counts, per_row=4)


@pytest.mark.parametrize("name", ["int2", "uint2"])
def test_counts_of_two_bits_have_an_order(name):
    if hasattr(jnp, name):
        counts = jnp.array([1, 0, 1, 0], getattr(jnp, name))
        order = jm.balanced_order(KEY, counts, per_row=2)
        assert counts[order].astype(int).reshape(2, 2).sum(1).tolist() == [1, 1]


# What stands where nothing is put


def test_a_token_for_each_place_stays_where_nothing_is_put():
    mask = contexts(".#.#")[0]
    at = jm.token_indices(mask, size=3)
    stay = jnp.arange(8.0).reshape(4, 2)
    put = jm.put_tokens(jnp.full((3, 2), -1.0), at, fill=stay)
    assert put.tolist() == [[0, 1], [-1, -1], [4, 5], [-1, -1]]
    batch = jm.put_tokens(jnp.full((5, 3, 2), -1, jnp.bfloat16), at, fill=stay.astype(jnp.int8))
    assert batch.dtype == jnp.bfloat16
    np.testing.assert_array_equal(batch, np.broadcast_to(put, (5, 4, 2)))
    assert jm.put_tokens(jnp.ones((3, 0)), at, fill=jnp.ones((4, 0))).shape == (4, 0)
    slope = jax.grad(lambda stay: jm.put_tokens(jnp.ones((3, 2)), at, fill=stay).sum())(stay)
    assert slope.tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("tokens", "fill"),
    [
        ("bfloat16", "float32"),
        ("float32", "int32"),
        ("int8", "float32"),
        ("float16", "bfloat16"),
        ("float32", "complex64"),
    ],
)
def test_tokens_of_a_wider_type_are_refused(tokens, fill):
    at = jm.token_indices(jnp.array([True, False, True]), size=2)
    tokens, fill = jnp.zeros((2, 4), tokens), jnp.zeros((3, 4), fill)
    with pytest.raises(TypeError, match=f"fill must be .*{tokens.dtype}.*{fill.dtype}"):
        jm.put_tokens(tokens, at, fill=fill)


def test_keys_fill_keys_only():
    at, keys = jm.token_indices(jnp.array([True, False, True]), size=2), jax.random.split(KEY, 3)
    put = jm.put_tokens(keys[:2, None], at, fill=keys[2])
    assert jax.random.key_data(put[1, 0]).tolist() == jax.random.key_data(keys[2]).tolist()
    zero = jm.put_tokens(keys[:2, None], at, fill=np.int64(0))
    assert jax.random.key_data(zero[1, 0]).tolist() == [0, 0]
    for tokens, fill in [(jnp.ones((2, 1)), keys[2]), (keys[:2, None], jnp.ones(()))]:
        with pytest.raises(TypeError, match="fill must be of the tokens' dtype"):
            jm.put_tokens(tokens, at, fill=fill)


def test_a_fill_of_another_library_is_told_to_be_converted():
    at = jm.token_indices(jnp.array([True, False, True]), size=2)
    with pytest.raises(TypeError, match=r"pass np\.asarray\(fill\)"):
        jm.put_tokens(jnp.ones((2, 4)), at, fill=FOREIGN)


def test_tokens_of_one_sample_for_a_row_are_told_how_to_tile():
    seen = jm.token_indices(contexts("#.#", "##."), size=4, per_row=2)
    with pytest.raises(
        ValueError, match=r"\[\.\.\., 6, D\], got \(3, 5\).*jnp\.tile\(x, \(2, 1\)\)"
    ):
        jm.take_tokens(jnp.ones((3, 5)), seen)
    with pytest.raises(ValueError, match=r"got \(2, 3, 5\); .*reshape the \[2, 3, D\]"):
        jm.take_tokens(jnp.ones((2, 3, 5)), seen)
