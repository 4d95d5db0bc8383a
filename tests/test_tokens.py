"""Counts are exact, and token lists, gathered and put-back tokens are those of plain NumPy."""

import contextlib
import dataclasses
import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from modes import code_of, x64
from sampling import random_masks

import jepa_masks_jax as jm
from jepa_masks_jax import _types


def batched(function):
    return jax.jit(jax.vmap(function))


def padded_flatnonzero(mask, size):
    found = np.flatnonzero(mask)[:size]
    return np.pad(found, (0, size - len(found)), constant_values=mask.size)


ALL_MASKS_3X4 = (np.arange(2**12)[:, None] >> np.arange(12) & 1).astype(bool).reshape(-1, 3, 4)


@pytest.mark.parametrize("size", [1, 7, 12, slow(2), slow(11)])
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


@settings(max_examples=30)
@given(large_masks())
def test_token_indices_of_large_masks(mask_and_size):
    mask, size = mask_and_size
    indices, valid = jm.token_indices(mask, size=size)
    expected = padded_flatnonzero(mask, size)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(valid, expected < mask.size)


@settings(max_examples=15)
@given(large_masks())
def test_take_tokens_takes_the_tokens_of_the_mask_in_order_then_zeros(mask_and_size):
    mask, size = mask_and_size
    tokens = np.random.default_rng(0).normal(size=(2, mask.size, 3)).astype(np.float32)
    taken = np.asarray(jm.take_tokens(tokens, jm.token_indices(mask, size=size)))
    expected = np.zeros((2, size, 3), np.float32)
    kept = tokens[:, mask.reshape(-1)][:, :size]
    expected[:, : kept.shape[1]] = kept
    np.testing.assert_array_equal(taken, expected)


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


def test_take_tokens_passes_no_gradient_through_padding():
    weights = np.arange(1, 11, dtype=np.float32).reshape(5, 2)
    indices = jm.token_indices(MASK, size=5)
    gradient = jax.grad(lambda tokens: jnp.sum(weights * jm.take_tokens(tokens, indices)))
    expected = np.zeros((6, 2), np.float32)
    expected[[1, 2, 5]] = weights[:3]
    np.testing.assert_array_equal(gradient(jnp.ones((6, 2))), expected)


def test_a_list_with_padding_on_a_tpu():
    with code_of("tpu") as choices:
        indices, valid = jm.token_indices(np.array([False, True, False, True]), size=3)
        assert indices.tolist() == [1, 3, 4]
        assert valid.tolist() == [True, True, False]
    assert any("tpu" in platforms for platforms in choices)


def test_an_index_list_is_frozen():
    indices = jm.token_indices(MASK, size=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        indices.valid = indices.valid


def test_token_indices_unpack_and_know_the_grid():
    listed = jm.token_indices(MASK, size=4)
    indices, valid = listed
    assert indices is listed.indices
    assert valid is listed.valid
    assert listed.num_tokens == 6
    assert [leaf.shape for leaf in jax.tree.leaves(listed)] == [(4,), (4,)]


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


@pytest.mark.parametrize("size", [5, 12])
def test_token_indices_with_a_key_are_those_of_the_clipped_mask(size):
    masks = ALL_MASKS_3X4[::9]
    keys = jax.random.split(jax.random.key(25), len(masks))
    clipped = batched(lambda key, mask: jm.clip_count(key, mask, maximum=size))(keys, masks)
    indices, valid = batched(lambda key, mask: jm.token_indices(mask, size=size, key=key))(
        keys, masks
    )
    expected = np.array([padded_flatnonzero(mask, size) for mask in np.asarray(clipped)])
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(valid.sum(1), np.minimum(masks.sum((1, 2)), size))


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


LISTED = jm.TokenIndices(np.array([2, 0, 4], np.int32), np.array([True, True, False]), 4)


def filled(dtype, fill):
    """What stands in padding and in places without a token, which must be one value."""
    taken = np.asarray(jm.take_tokens(np.ones((4, 2), dtype), LISTED, fill=fill))
    put = np.asarray(jm.put_tokens(np.ones((3, 2), dtype), LISTED, fill=fill))
    assert taken.dtype == put.dtype == jnp.dtype(dtype)
    assert [*taken[:2].ravel(), *put[[0, 2]].ravel()] == [1] * 8
    fills = np.concatenate([taken[2], put[1], put[3]])
    assert len({value.tobytes() for value in fills}) == 1
    return fills[0]


@pytest.mark.parametrize(
    ("dtype", "fill", "expected"),
    [
        (np.float32, 0.0, 0.0),
        (np.float32, 2**33, 2.0**33),
        (np.float32, -(2**31), -(2.0**31)),
        (np.float32, np.float64(0.1), np.float32(0.1)),
        (np.float32, -math.inf, -math.inf),
        (np.uint32, 2**32 - 1, 2**32 - 1),
        (np.int32, -(2**31), -(2**31)),
        (np.int8, 5.0, 5),
        (np.int8, np.uint8(127), 127),
        (np.float16, 65_504, 65_504),
        (jnp.bfloat16, 0.1, 0.10009765625),
        (np.complex64, 2 - 3j, 2 - 3j),
        (np.complex64, 4, 4),
        (np.bool_, True, True),
    ],
)
def test_a_number_fills_as_the_dtype_of_the_tokens_holds_it(dtype, fill, expected):
    assert filled(dtype, fill) == expected


def test_a_fill_keeps_the_sign_of_zero():
    signs = [np.signbit(filled(np.float32, fill)) for fill in (0.0, -0.0, 0.0, 0)]
    assert signs == [False, True, False, False]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.complex64])
def test_nan_fills_with_one_compilation(dtype):
    assert np.isnan(filled(dtype, math.nan))
    with compilations() as compiled:
        filled(dtype, float("nan"))
        filled(dtype, np.float32("nan"))
        assert compiled == []
        filled(dtype, 0.375)
        assert len(compiled) == 2  # of take_tokens and of put_tokens


def test_valid_counts_in_a_list_of_any_order():
    unordered = jm.TokenIndices(np.array([2, 0, 1], np.int32), np.array([True, False, True]), 4)
    put = jm.put_tokens(np.array([[1], [2], [3]], np.float32), unordered)
    assert put[:, 0].tolist() == [0, 3, 1, 0]


PADDED = jm.TokenIndices(np.array([1, 4], np.int32), np.array([True, False]), 4)


@pytest.mark.parametrize("enable", [False, True], ids=["32", "64"])
def test_a_fill_of_float64_is_what_jax_makes_of_it(enable):
    with x64(enable):
        taken = jm.take_tokens(np.ones((4, 2)), PADDED, fill=0.1)
        put = jm.put_tokens(np.ones((2, 2)), PADDED, fill=-1)
        assert taken.dtype == put.dtype == (np.float64 if enable else np.float32)
        np.testing.assert_array_equal(taken, np.array([[1, 1], [0.1, 0.1]], taken.dtype))
        np.testing.assert_array_equal(put, [[-1, -1], [1, 1], [-1, -1], [-1, -1]])


class JaxArray:
    """What libraries wrap parameters in."""

    def __init__(self, value):
        self.value = jnp.float32(value)
        self.dtype, self.shape = self.value.dtype, self.value.shape

    def __jax_array__(self):
        return self.value


def test_a_wrapped_fill_is_read_at_every_call():
    for value in (7.0, 8.0):
        put = jm.put_tokens(np.ones((2, 2), np.float32), PADDED, fill=JaxArray(value))
        assert put[0].tolist() == [value, value]


def test_keys_are_tokens():
    keys = jax.random.split(jax.random.key(0), 4)
    taken = jm.take_tokens(keys[:, None], PADDED)
    put = jm.put_tokens(taken, PADDED)
    bits = np.asarray(jax.random.key_data(keys))
    np.testing.assert_array_equal(jax.random.key_data(taken)[0, 0], bits[1])
    np.testing.assert_array_equal(jax.random.key_data(put)[1, 0], bits[1])
    assert not jax.random.key_data(put)[np.array([0, 2, 3])].any()
    with pytest.raises(ValueError, match="fill must be a number that key<fry> tokens can hold"):
        jm.take_tokens(keys[:, None], PADDED, fill=1)


def test_powers_of_two_are_tokens():
    tokens = np.array([[1], [4], [2], [8]], jnp.float8_e8m0fnu)
    taken = jm.take_tokens(tokens, PADDED)
    assert taken.dtype == tokens.dtype
    assert taken[0].astype(np.float32) == 4
    put = jm.put_tokens(taken, PADDED, fill=2)
    assert put[:, 0].astype(np.float32).tolist() == [2, 4, 2, 2]


@contextlib.contextmanager
def compilations():
    """Records what is compiled."""
    compiled = []

    class Handler(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("Compiling"):
                compiled.append(record.getMessage())

    logger, handler = logging.getLogger("jax"), Handler()
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield compiled
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (1, 1, 3), (1, 1, 1, 1, 3)])
@pytest.mark.parametrize("lead", [(2,), slow(())])
def test_a_mask_token_with_leading_axes_fills_and_takes_the_dtype_of_the_tokens(shape, lead):
    fill = np.linspace(0.1, 0.3, 3, dtype=np.float32)[: 3 if shape else 1].reshape(shape)
    tokens = jnp.ones((*lead, 3, 3), jnp.bfloat16)
    put = jm.put_tokens(tokens, LISTED, fill=jnp.asarray(fill))
    assert put.dtype == jnp.bfloat16
    expected = np.ones((*lead, 4, 3), jnp.bfloat16)
    expected[..., [1, 3], :] = fill.astype(jnp.bfloat16).reshape(-1)
    np.testing.assert_array_equal(put, expected)


def test_a_complex_mask_token_is_refused_for_real_tokens():
    fill = np.ones(2, np.complex64)
    with pytest.raises(TypeError, match="fill must be real for float32 tokens"):
        jm.put_tokens(np.ones((3, 2), np.float32), LISTED, fill=fill)
    assert jm.put_tokens(np.ones((3, 2), np.complex64), LISTED, fill=fill * 1j)[1, 0] == 1j


def test_eager_calls_with_number_fills_move_nothing_to_the_device():
    indices = jm.token_indices(MASK, size=4)
    tokens = jnp.ones((6, 2), jnp.bfloat16)
    with jax.transfer_guard("disallow"):
        for fill in (0, 0.3, math.nan, np.float32(7)):
            jm.put_tokens(jm.take_tokens(tokens, indices, fill=fill), indices, fill=fill)


@pytest.mark.parametrize("size", [1, 6])
def test_index_checks_find_nothing_out_of_bounds(size):
    def train(tokens, mask):
        indices = jm.token_indices(mask, size=size)
        return jnp.sum(jm.put_tokens(jm.take_tokens(tokens, indices), indices) ** 2)

    tokens = np.arange(1, 13, dtype=np.float32).reshape(6, 2)
    checked = checkify.checkify(jax.value_and_grad(train), errors=checkify.index_checks)
    error, (total, gradient) = jax.jit(checked)(tokens, MASK)
    assert error.get() is None
    kept = np.isin(np.arange(6), [1, 2, 5][:size])[:, None]
    assert total == (kept * tokens**2).sum()
    np.testing.assert_array_equal(gradient, 2 * kept * tokens)


def test_index_checks_find_nothing_out_of_bounds_in_a_batch_of_taken_tokens():
    lists = jax.vmap(lambda mask: jm.token_indices(mask, size=6))(np.stack([MASK, ~MASK]))
    take = jax.vmap(jm.take_tokens, in_axes=(None, 0))
    error, taken = checkify.checkify(take, errors=checkify.index_checks)(jnp.ones((6, 1)), lists)
    assert error.get() is None
    np.testing.assert_array_equal(taken.sum((1, 2)), [3, 3])


def test_an_exported_function_that_returns_index_lists_is_serialised():
    listed = jax.jit(lambda mask: {"context": jm.token_indices(mask, size=4)})
    stored = export.export(listed)(MASK).serialize()
    indices = export.deserialize(stored).call(MASK)["context"]
    assert isinstance(indices, jm.TokenIndices)
    assert indices.num_tokens == 6
    assert indices.indices.tolist() == [1, 2, 5, 6]


def test_an_exported_function_that_takes_index_lists_is_serialised():
    indices, tokens = jm.token_indices(MASK, size=4), jnp.arange(6.0)[:, None]
    stored = export.export(jax.jit(jm.take_tokens))(tokens, indices).serialize()
    taken = export.deserialize(stored).call(tokens, indices)
    assert taken[:, 0].tolist() == [1, 2, 5, 0]


def test_exported_pairs_of_masks_and_lists_keep_their_public_names():
    def sample(key):
        masks = jm.ijepa_masks(key, (8, 8), num_targets=1, min_keep=1)
        return masks, jm.token_indices(masks.context, size=9)

    key = jax.random.key(0)
    stored = export.export(jax.jit(sample))(key).serialize()
    for name in (b"jepa_masks_jax.ContextTargetMasks", b"jepa_masks_jax.TokenIndices"):
        assert name in stored
    masks, listed = export.deserialize(stored).call(key)
    expected, expected_list = jax.jit(sample)(key)
    np.testing.assert_array_equal(masks.targets, expected.targets)
    np.testing.assert_array_equal(masks.context, expected.context)
    np.testing.assert_array_equal(listed.indices, expected_list.indices)


def test_two_lists_compare_as_one_bool():
    one, other = (jm.token_indices(MASK, size=3) for _ in range(2))
    assert ((one == one), (one == other), (one != other)) == (True, False, True)
    assert len({one, other}) == 2


def test_a_reloaded_module_registers_its_types_again():
    reloaded = type("TokenIndices", (), {})
    assert _types._storable(reloaded) is reloaded
    assert _types._storable(jm.TokenIndices) is jm.TokenIndices


BATCH, GRID_TOKENS, SIZE, DEPTH = 8, 12, 5, 4


@pytest.fixture
def explicit_mesh():
    if jax.device_count() < 8:
        pytest.skip("needs eight devices")
    if jax.__version_info__ < (0, 8):
        pytest.skip("jax.random needs jax 0.8 for explicit axes")
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        yield lambda array, *spec: jax.device_put(array, NamedSharding(mesh, P(*spec)))


def some_lists():
    masks = random_masks(28, (GRID_TOKENS,), BATCH)
    lists = jax.vmap(lambda mask: jm.token_indices(mask, size=SIZE))(masks)
    return masks, jax.tree.map(np.asarray, lists)


def plain_take(tokens, masks):
    taken = np.zeros((BATCH, SIZE, DEPTH), np.float32)
    for out, own, mask in zip(taken, np.broadcast_to(tokens, (BATCH, 12, 4)), masks, strict=True):
        kept = own[mask][:SIZE]
        out[: len(kept)] = kept
    return taken


@pytest.mark.parametrize(
    ("shared", "spec"),
    [
        (True, ()),
        (True, (None, "model")),
        (False, ("data",)),
        (False, ("data", None, "model")),
        (False, ("data", "model")),
    ],
)
def test_take_tokens_and_its_gradient_over_explicit_axes(shared, spec, explicit_mesh):
    masks, lists = some_lists()
    shape = (GRID_TOKENS, DEPTH) if shared else (BATCH, GRID_TOKENS, DEPTH)
    tokens = np.random.default_rng(28).normal(size=shape).astype(np.float32)
    take = jax.vmap(jm.take_tokens, in_axes=(None if shared else 0, 0))

    def half_square(tokens, lists):
        taken = take(tokens, lists)
        return jnp.sum(taken**2) / 2, taken

    step = jax.jit(jax.grad(half_square, has_aux=True))
    on_devices = jax.tree.map(lambda array: explicit_mesh(array, "data"), lists)
    gradient, taken = step(explicit_mesh(tokens, *spec), on_devices)
    np.testing.assert_array_equal(taken, plain_take(tokens, masks))
    assert taken.sharding.spec == P("data", None, spec[-1] if len(spec) == len(shape) else None)
    first = masks & (masks.cumsum(1) <= SIZE)
    expected = first[..., None] * tokens  # the gradient of half the square is what was taken
    np.testing.assert_allclose(gradient, expected.sum(0) if shared else expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "fill_spec"),
    [
        (("data",), None),
        (("data",), ()),
        (("data", None, "model"), None),
        (("data", None, "model"), ()),
        (("data", None, "model"), ("model",)),
    ],
)
def test_put_tokens_and_its_gradients_over_explicit_axes(spec, fill_spec, explicit_mesh):
    masks, lists = some_lists()
    rng = np.random.default_rng(29)
    tokens = rng.normal(size=(BATCH, SIZE, DEPTH)).astype(np.float32)
    fill = rng.normal(size=DEPTH).astype(np.float32)

    def half_square(tokens, fill, lists):
        chosen = 3.0 if fill_spec is None else fill
        put = jax.vmap(lambda tokens, indices: jm.put_tokens(tokens, indices, fill=chosen))
        put = put(tokens, lists)
        return jnp.sum(put**2) / 2, put

    step = jax.jit(jax.grad(half_square, (0, 1), has_aux=True))
    on_devices = jax.tree.map(lambda array: explicit_mesh(array, "data"), lists)
    (to_tokens, to_fill), put = step(
        explicit_mesh(tokens, *spec), explicit_mesh(fill, *(fill_spec or ())), on_devices
    )
    expected = np.empty((BATCH, GRID_TOKENS, DEPTH), np.float32)
    expected[:] = 3.0 if fill_spec is None else fill
    put_there = masks & (masks.cumsum(1) <= SIZE)
    for out, own, there in zip(expected, tokens, put_there, strict=True):
        out[there] = own[: there.sum()]
    np.testing.assert_array_equal(put, expected)
    assert put.sharding.spec == P("data", None, spec[2] if len(spec) > 2 else None)
    valid = np.arange(SIZE) < put_there.sum(1)[:, None]
    np.testing.assert_allclose(to_tokens, tokens * valid[..., None], rtol=1e-6)
    filled = 0 if fill_spec is None else (~put_there).sum() * fill
    np.testing.assert_allclose(to_fill, np.broadcast_to(filled, DEPTH), rtol=1e-5)


def test_a_batch_of_tokens_and_one_list_over_explicit_axes(explicit_mesh):
    tokens = np.arange(BATCH * GRID_TOKENS * DEPTH, dtype=np.float32).reshape(BATCH, -1, DEPTH)
    listed = jm.TokenIndices(jnp.array([2, 7, 12], jnp.int32), jnp.array([True, True, False]), 12)
    taken = jax.jit(jm.take_tokens)(explicit_mesh(tokens, "data"), listed)
    assert taken.sharding.spec == P("data", None, None)
    expected = tokens[:, [2, 7, 0]] * np.float32([[1], [1], [0]])
    np.testing.assert_array_equal(taken, expected)


def test_tokens_of_numpy_and_lists_over_explicit_axes(explicit_mesh):
    masks, lists = some_lists()
    tokens = np.random.default_rng(30).normal(size=(GRID_TOKENS, DEPTH)).astype(np.float32)
    on_devices = jax.tree.map(lambda array: explicit_mesh(array, "data"), lists)
    taken = jax.jit(jax.vmap(functools.partial(jm.take_tokens, tokens)))(on_devices)
    assert taken.sharding.spec == P("data", None, None)
    np.testing.assert_array_equal(taken, plain_take(tokens, masks))


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


@pytest.mark.parametrize("grid", [(50,), (2, 35, 3), (3, 4, 5, 2), slow((9, 17)), slow((40, 33))])
def test_squared_distance_of_random_masks(grid):
    rng = np.random.default_rng(27)
    masks = rng.random((20, *grid)) < rng.uniform(0.01, 0.2, (20, *[1] * len(grid)))
    masks[:, *[0] * len(grid)] = True
    distance = batched(jm.squared_distance)(masks)
    np.testing.assert_array_equal(distance, [brute_force_distance(mask) for mask in masks])


def test_squared_distance_holds_no_pairs_of_places_on_a_cpu():
    masks = jax.ShapeDtypeStruct((16, 1500), jnp.bool_)
    held = batched(jm.squared_distance).lower(masks).compile().memory_analysis()
    assert held.temp_size_in_bytes < 16 * 1500 * 4 * 10  # all pairs are 16 * 1500**2 * 4


def test_squared_distance_of_an_empty_mask_and_of_a_grid_too_long():
    for grid in ((2, 3), (2, 40)):
        assert (jm.squared_distance(np.zeros(grid, bool)) == 2**30).all()
    with pytest.raises(ValueError, match="diagonal"):
        jm.squared_distance(np.zeros(2**16, bool))


def test_the_longest_sequence_whose_distances_fit_in_32_bits():
    shapes = [jax.ShapeDtypeStruct((length,), jnp.bool_) for length in (2**15, 2**15 + 1)]
    assert jax.eval_shape(jm.squared_distance, shapes[0]).dtype == jnp.int32
    with pytest.raises(ValueError, match=r"mask must have a diagonal of less than 2\*\*15 tokens"):
        jax.eval_shape(jm.squared_distance, shapes[1])
