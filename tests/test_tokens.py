"""Counts are exact, and token lists, gathered and put-back tokens are those of plain NumPy."""

import copy
import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

import jepa_masks_jax as jm


def batched(function):
    return jax.jit(jax.vmap(function))


def random_masks(seed, grid, count):
    """Masks of all densities."""
    rng = np.random.default_rng(seed)
    density = rng.random((count, *[1] * len(grid)))
    return rng.random((count, *grid)) < density


def random_words(keys, tokens):
    """The words that `clip_count` draws: one for each token."""
    draw = batched(lambda key: jax.random.bits(key, (tokens,), jnp.uint32))
    return np.asarray(draw(keys))


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ((2,), {"minimum": 1, "maximum": 1}),
        ((4, 9), {"minimum": 12, "maximum": 20}),
        (
            (2, 3, 11),
            {"minimum": 40, "maximum": 50, "among": np.arange(66).reshape(2, 3, 11) % 3 > 0},
        ),
    ],
    ids=["two-tokens", "image", "among"],
)
def test_clip_count_is_its_definition(grid, options):
    keys = jax.random.split(jax.random.key(21), 300)
    masks = random_masks(21, grid, 300)
    clip = functools.partial(jm.clip_count, **options)
    clipped = np.asarray(batched(clip)(keys, masks))
    words = random_words(keys, masks[0].size)
    for i in range(300):
        expected = transcription.clip_count(words[i], masks[i], **options)
        np.testing.assert_array_equal(clipped[i], expected, err_msg=f"key {i}")


@pytest.mark.parametrize("count", [0, 9])
def test_clip_count_reaches_no_tokens_and_all(count):
    masks = random_masks(22, (3, 3), 50)
    clip = functools.partial(jm.clip_count, minimum=count, maximum=count)
    clipped = batched(clip)(jax.random.split(jax.random.key(22), 50), masks)
    np.testing.assert_array_equal(clipped, np.full_like(masks, count > 0))


def test_clip_count_adds_nothing_outside_among_and_stops_when_it_runs_out():
    mask = np.zeros((4, 40), bool)
    mask[0, :3] = True
    among = np.zeros((4, 40), bool)
    among[:, :2] = True
    clip = functools.partial(jm.clip_count, mask=mask, minimum=100, among=among)
    clipped = np.asarray(batched(clip)(jax.random.split(jax.random.key(22), 20)))
    np.testing.assert_array_equal(clipped, np.broadcast_to(mask | among, clipped.shape))


def padded_flatnonzero(mask, size):
    found = np.flatnonzero(mask)[:size]
    return np.pad(found, (0, size - len(found)), constant_values=mask.size)


ALL_MASKS_3X4 = (np.arange(2**12)[:, None] >> np.arange(12) & 1).astype(bool).reshape(-1, 3, 4)


@pytest.mark.parametrize("size", range(1, 13))
def test_token_indices_of_every_3x4_mask(size):
    indices, valid = batched(functools.partial(jm.token_indices, size=size))(ALL_MASKS_3X4)
    assert indices.dtype == jnp.int32
    expected = np.array([padded_flatnonzero(mask, size) for mask in ALL_MASKS_3X4])
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(valid, expected < 12)


LARGE = st.sampled_from(
    [((8, 16, 16), 700), ((8, 16, 16), 1), ((14, 14), 196), ((5, 70), 33), ((2, 3, 1, 16), 96)]
)


@st.composite
def large_masks(draw):
    """Masks in which stretches of tokens are empty, full or of one density."""
    grid, size = draw(LARGE)
    density = draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stretches = rng.choice([0, density, 1], 1 + np.prod(grid) // 40, p=[0.2, 0.6, 0.2])
    return rng.random(grid) < stretches.repeat(40)[: np.prod(grid)].reshape(grid), size


@given(large_masks())
def test_token_indices_of_large_masks(mask_and_size):
    mask, size = mask_and_size
    indices, valid = jm.token_indices(mask, size=size)
    expected = padded_flatnonzero(mask, size)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(valid, expected < mask.size)


@settings(max_examples=20)
@given(large_masks())
def test_take_tokens_takes_the_tokens_of_the_mask_in_order_then_zeros(mask_and_size):
    mask, size = mask_and_size
    tokens = np.random.default_rng(0).normal(size=(2, mask.size, 3)).astype(np.float32)
    taken = np.asarray(jm.take_tokens(tokens, jm.token_indices(mask, size=size)))
    expected = np.zeros((2, size, 3), np.float32)
    kept = tokens[:, mask.reshape(-1)][:, :size]
    expected[:, : kept.shape[1]] = kept
    np.testing.assert_array_equal(taken, expected)


def test_taken_tokens_scatter_back_to_where_they_were():
    masks = random_masks(23, (3, 14), 100)
    tokens = np.random.default_rng(23).normal(size=(42, 2)).astype(np.float32)

    def there_and_back(mask):
        indices = jm.token_indices(mask, size=42)
        taken = jm.take_tokens(tokens, indices)
        return jnp.zeros_like(tokens).at[indices.indices].set(taken, mode="drop")

    back = batched(there_and_back)(masks)
    np.testing.assert_array_equal(back, tokens * masks.reshape(100, 42, 1))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_padding_leaks_no_token(poison):
    masks = ALL_MASKS_3X4[::7]
    tokens = np.where(masks.reshape(-1, 12, 1), np.float32(1), np.float32(poison))

    def take(tokens, mask):
        return jm.take_tokens(tokens, jm.token_indices(mask, size=12))

    taken = np.asarray(batched(take)(tokens, masks))[..., 0]
    counts = masks.sum(axis=(1, 2))
    np.testing.assert_array_equal(taken, np.arange(12) < counts[:, None])


MASK = np.array([[False, True, True], [False, False, True]])


def test_take_tokens_gradients_are_those_of_finite_differences():
    tokens = np.random.default_rng(24).normal(size=(2, 6, 3)).astype(np.float32)
    indices = jm.token_indices(MASK, size=5)
    check_grads(lambda tokens: jm.take_tokens(tokens, indices), (tokens,), order=1, eps=1e-2)


def test_take_tokens_passes_no_gradient_through_padding():
    weights = np.arange(1, 11, dtype=np.float32).reshape(5, 2)
    indices = jm.token_indices(MASK, size=5)
    gradient = jax.grad(lambda tokens: jnp.sum(weights * jm.take_tokens(tokens, indices)))
    expected = np.zeros((6, 2), np.float32)
    expected[[1, 2, 5]] = weights[:3]
    np.testing.assert_array_equal(gradient(jnp.ones((6, 2))), expected)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_clip_count_takes_the_whole_pool_where_it_has_to(tokens):
    keys = jax.random.split(jax.random.key(7), 20_000)
    nothing = jnp.zeros(tokens, bool)
    masks = jax.jit(jax.vmap(lambda key: jm.clip_count(key, nothing, minimum=tokens)))(keys)
    assert masks.all()


def test_clip_count_takes_all_of_among_where_it_runs_out():
    keys = jax.random.split(jax.random.key(8), 20_000)
    among = jnp.array([False, True, False, True])
    nothing = jnp.zeros(4, bool)
    clip = functools.partial(jm.clip_count, mask=nothing, minimum=3, among=among)
    masks = jax.jit(jax.vmap(clip))(keys)
    assert (masks == among).all()


def test_token_indices_unpack_and_know_the_grid():
    listed = jm.token_indices(MASK, size=4)
    indices, valid = listed
    assert indices is listed.indices
    assert valid is listed.valid
    assert listed.num_tokens == 6
    assert [leaf.shape for leaf in jax.tree.leaves(listed)] == [(4,), (4,)]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_token_indices_survive_a_copy(copied):
    listed = jm.token_indices(MASK, size=4)
    other = copied(listed)
    assert other.num_tokens == 6
    np.testing.assert_array_equal(other.indices, listed.indices)
    np.testing.assert_array_equal(other.valid, listed.valid)


def test_token_indices_of_two_batches_concatenate_as_a_pytree():
    listed = jax.vmap(functools.partial(jm.token_indices, size=4))(np.stack([MASK, ~MASK]))
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), listed, listed)
    assert both.indices.shape == (4, 4)
    assert both.num_tokens == 6


def test_take_tokens_takes_nothing_where_valid_says_so():
    listed = jm.token_indices(MASK, size=3)
    hidden = dataclasses.replace(listed, valid=jnp.array([True, False, True]))
    taken = jm.take_tokens(np.arange(1.0, 7.0, dtype=np.float32)[:, None], hidden)
    assert taken[:, 0].tolist() == [2.0, 0.0, 6.0]


@pytest.mark.parametrize("size", [1, 5, 11, 12])
def test_token_indices_with_a_key_are_those_of_the_clipped_mask(size):
    keys = jax.random.split(jax.random.key(25), len(ALL_MASKS_3X4[::9]))

    def clip_then_list(mask, key):
        return jm.token_indices(jm.clip_count(key, mask, maximum=size), size=size)

    listed = batched(functools.partial(jm.token_indices, size=size))
    got = jax.vmap(functools.partial(jm.token_indices, size=size))(ALL_MASKS_3X4[::9], key=keys)
    expected = batched(clip_then_list)(ALL_MASKS_3X4[::9], keys)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.valid, expected.valid)
    assert (got.valid.sum(1) == listed(ALL_MASKS_3X4[::9]).valid.sum(1)).all()


def test_put_tokens_is_the_inverse_of_take_tokens_for_every_3x4_mask():
    tokens = np.random.default_rng(26).normal(size=(12, 2)).astype(np.float32)
    fill = np.array([7.0, 8.0], np.float32)

    def there_and_back(mask):
        indices = jm.token_indices(mask, size=12)
        return jm.put_tokens(jm.take_tokens(tokens, indices), indices, fill=fill)

    back = batched(there_and_back)(ALL_MASKS_3X4)
    expected = np.where(ALL_MASKS_3X4.reshape(-1, 12, 1), tokens, fill)
    np.testing.assert_array_equal(back, expected)


def test_put_tokens_passes_gradients_to_the_tokens_and_to_the_fill():
    indices = jm.token_indices(MASK, size=5)  # 3 valid, 2 padding
    tokens, fill = np.ones((2, 5, 3), np.float32), np.ones(3, np.float32)
    weights = np.arange(1, 37, dtype=np.float32).reshape(2, 6, 3)

    def total(tokens, fill):
        return jnp.sum(weights * jm.put_tokens(tokens, indices, fill=fill))

    to_tokens, to_fill = jax.grad(total, (0, 1))(tokens, fill)
    expected = np.zeros((2, 5, 3), np.float32)
    expected[:, :3] = weights[:, [1, 2, 5]]
    np.testing.assert_array_equal(to_tokens, expected)
    np.testing.assert_array_equal(to_fill, weights[:, [0, 3, 4]].sum((0, 1)))


@pytest.mark.parametrize(
    ("tokens", "fill", "message"),
    [
        (np.ones((4, 3)), 0, r"tokens must have shape \[\.\.\., 5, D\], got \(4, 3\)"),
        (np.ones(5), 0, "tokens must have shape"),
        (
            np.ones((5, 3)),
            np.ones(2),
            r"fill must be a number or of shape \(3,\), got shape \(2,\)",
        ),
    ],
)
def test_put_tokens_refuses_other_shapes(tokens, fill, message):
    with pytest.raises(ValueError, match=message):
        jm.put_tokens(tokens, jm.token_indices(MASK, size=5), fill=fill)


def brute_force_distance(mask):
    """The least squared distance of every token to a True one."""
    at = np.stack(np.unravel_index(np.arange(mask.size), mask.shape), 1)
    apart = ((at[:, None] - at[mask.reshape(-1)]) ** 2).sum(2)
    return apart.min(1).reshape(mask.shape)


@pytest.mark.parametrize("grid", [(2, 5), (2, 2, 2)])
def test_squared_distance_of_every_small_mask(grid):
    tokens = int(np.prod(grid))
    masks = (np.arange(1, 2**tokens)[:, None] >> np.arange(tokens) & 1).astype(bool)
    masks = masks.reshape(-1, *grid)
    distance = batched(jm.squared_distance)(masks)
    assert distance.dtype == jnp.int32
    np.testing.assert_array_equal(distance, [brute_force_distance(mask) for mask in masks])


@pytest.mark.parametrize("grid", [(50,), (9, 17), (4, 7, 9), (3, 4, 5, 2)])
def test_squared_distance_of_random_masks(grid):
    rng = np.random.default_rng(27)
    masks = rng.random((20, *grid)) < rng.uniform(0.01, 0.2, (20, *[1] * len(grid)))
    masks[:, *[0] * len(grid)] = True
    distance = batched(jm.squared_distance)(masks)
    np.testing.assert_array_equal(distance, [brute_force_distance(mask) for mask in masks])


def test_squared_distance_of_an_empty_mask_and_of_a_grid_too_long():
    assert (jm.squared_distance(np.zeros((2, 3), bool)) == 2**30).all()
    with pytest.raises(ValueError, match="diagonal"):
        jm.squared_distance(np.zeros(2**16, bool))


def test_the_longest_sequence_whose_distances_fit_in_32_bits():
    shapes = [jax.ShapeDtypeStruct((length,), jnp.bool_) for length in (2**15, 2**15 + 1)]
    assert jax.eval_shape(jm.squared_distance, shapes[0]).dtype == jnp.int32
    with pytest.raises(ValueError, match=r"mask must have a diagonal of less than 2\*\*15 tokens"):
        jax.eval_shape(jm.squared_distance, shapes[1])
