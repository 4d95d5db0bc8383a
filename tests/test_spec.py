"""Index lists on the host are those of the mask, compare and copy by value, and are checked."""

import copy
import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow
from hypothesis import given
from hypothesis.extra import numpy as hnp

import jepa_masks_jax as jm
from jepa_masks_jax import _check

SPEC = jm.MaskSpec([0, 1, 3], [2, 4], 6)


def boolean_arrays(min_dims, max_dims):
    return hnp.arrays(bool, hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=9))


def has_both_sides(mask):
    return mask.any() and not mask.all()


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, jnp.array, lambda values: np.array(values, np.uint8)]
)
def test_specs_of_equal_values_are_equal_and_hash_alike(make):
    other = jm.MaskSpec(make([0, 1, 3]), make([2, 4]), np.int64(6))
    assert other == SPEC
    assert hash(other) == hash(SPEC)
    assert len({other, SPEC}) == 1


@pytest.mark.parametrize(
    "other",
    [
        jm.MaskSpec([0, 1, 5], [2, 4], 6),
        jm.MaskSpec([0, 1, 3], [2, 5], 6),
        jm.MaskSpec([0, 1, 3], [2, 4], 7),
        jm.MaskSpec([0, 1], [3, 2, 4], 6),
        jm.MaskSpec([1, 0, 3], [2, 4], 6),
        ([0, 1, 3], [2, 4], 6),
    ],
    ids=repr,
)
def test_specs_of_other_values_differ(other):
    assert other != SPEC


FULL = jm.MaskSpec([0, 1, 3, 5], [2, 4], 6)
MADE = {
    "by hand": lambda: FULL,
    "converted": lambda: jm.to_mask_spec(FULL.to_mask((2, 3))),
    "of JAX arrays": lambda: jm.MaskSpec(jnp.array([0, 1, 3, 5]), jnp.array([2, 4]), 6),
    "pickled": lambda: pickle.loads(pickle.dumps(FULL)),
    "copied": lambda: copy.deepcopy(FULL),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_indices_are_read_only_int32_arrays_however_made_and_copied(make):
    spec = make()
    assert spec == FULL
    for indices in (spec.context_indices, spec.target_indices):
        assert isinstance(indices, np.ndarray)
        assert indices.dtype == np.int32
        with pytest.raises(ValueError, match="read-only"):
            indices[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.total_tokens = 7


def test_a_spec_keeps_its_values_when_the_arrays_it_was_given_change():
    context = np.array([0, 1], np.int32)
    spec = jm.MaskSpec(context, [2], 4)
    context[0] = 3
    assert spec == jm.MaskSpec([0, 1], [2], 4)


@pytest.mark.parametrize(
    ("indices", "error"),
    [
        ([0.5], TypeError),
        (np.array([0.0, 1.0]), TypeError),
        ([True], TypeError),
        ([True, 2], TypeError),
        ([2, np.True_], TypeError),
        (np.array([True, False]), TypeError),
        (np.array([0, True], object), TypeError),
        (jnp.array([True, False]), TypeError),
        (["0"], TypeError),
        ("01", TypeError),
        (np.array(["0"]), TypeError),
        (np.array([], bool), TypeError),
        (np.array([], str), TypeError),
        ([None], TypeError),
        (np.ma.array([0, 1], mask=[False, True]), TypeError),
        (list(np.ma.array([0, 1], mask=[False, True])), TypeError),
        (np.array([0, 1], "timedelta64[ns]"), TypeError),
        ([np.timedelta64(0, "ns"), 1], TypeError),
        (np.array([0, 1], "datetime64[ns]"), TypeError),
        ([[0, 1]], ValueError),
        ([[0], [1, 2]], TypeError),
        ([np.zeros((2, 3)), np.zeros((2, 4))], TypeError),
        (np.zeros((2, 1), int), ValueError),
        (0, ValueError),
        ({0, 1}, TypeError),
    ],
    ids=repr,
)
def test_indices_that_are_not_a_list_of_integers_are_refused(indices, error):
    with pytest.raises(error, match="context_indices"):
        jm.MaskSpec(indices, [2], 4)
    with pytest.raises(error, match="target_indices"):
        jm.MaskSpec([2], indices, 4)


@pytest.mark.parametrize("wrap", [lambda index: index[None], lambda index: [0, index]])
def test_traced_indices_are_refused(wrap):
    with pytest.raises(TypeError, match="target_indices"):
        jax.jit(lambda index: jm.MaskSpec([2], wrap(index), 4))(1)


@pytest.mark.parametrize(
    "index", [2**31, 2**33, 2**63, 2**64, 10**30, -(2**31) - 1, -(2**40), -(10**30)]
)
def test_an_index_beyond_int32_is_refused_and_named(index):
    for indices in ([0, index, 1], (index,), np.array([index])):
        with pytest.raises(ValueError, match=rf"context_indices .* {index}$"):
            jm.MaskSpec(indices, [2], 4)
        with pytest.raises(ValueError, match=rf"target_indices .* {index}$"):
            jm.MaskSpec([2], indices, 4)


def test_an_index_beyond_int64_is_refused_beside_a_negative_one():
    with pytest.raises(ValueError, match=f"context_indices .* {2**63}$"):
        jm.MaskSpec([-1, 2**63], [2], 4)


@pytest.mark.parametrize("index", [2**31 - 1, -(2**31)])
@pytest.mark.parametrize("make", [list, np.array])
def test_any_index_of_int32_is_kept_for_validate(make, index):
    spec = jm.MaskSpec(make([0, index]), [2], 4)
    assert spec.context_indices.tolist() == [0, index]
    with pytest.raises(jm.IndexOutOfBoundsError, match=f"index {index} is not in"):
        spec.validate()


@pytest.mark.parametrize(
    "indices",
    [
        range(3),
        list(np.arange(3, dtype=np.uint8)),
        [np.int32(0), np.uint64(1), 2],
        list(jnp.arange(3)),
        np.array([0, 1, 2], ">i8"),
        np.array([0, 1, 2], object),
    ],
    ids=repr,
)
def test_any_sequence_of_integers_is_taken(indices):
    spec = jm.MaskSpec(indices, [3], 4)
    assert spec.context_indices.dtype == np.int32
    assert spec.context_indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("make", [list, tuple, np.array, jnp.array])
def test_an_empty_list_is_kept_for_validate(make):
    spec = jm.MaskSpec(make([]), [2], 4)
    assert spec == jm.MaskSpec(np.zeros(0, np.int32), [2], 4)
    assert spec.context_indices.dtype == np.int32


@pytest.mark.parametrize(("total", "error"), [(0, ValueError), (4.0, TypeError), (True, TypeError)])
def test_a_total_that_is_not_a_count_is_refused(total, error):
    with pytest.raises(error, match="total_tokens"):
        jm.MaskSpec([0], [1], total)


@pytest.mark.parametrize(
    ("context", "target"),
    [([0, 1, 3], [2]), ([3], [0]), ([3, 0], [2, 1])],
    ids=["all tokens", "two tokens in neither set", "any order"],
)
def test_validate_accepts(context, target):
    jm.MaskSpec(context, target, 4).validate()


@pytest.mark.parametrize(
    ("context", "target", "error", "message"),
    [
        ([], [1], jm.EmptyContextError, "context"),
        ([1], [], jm.EmptyTargetError, "target"),
        ([0, 4], [1], jm.IndexOutOfBoundsError, r"index 4 .*\[0, 4\)"),
        ([0], [-1], jm.IndexOutOfBoundsError, "index -1 "),
        ([0, 1, 0], [2], jm.DuplicateIndexError, "index 0 "),
        ([0], [2, 3, 3], jm.DuplicateIndexError, "index 3 "),
        ([0, 1], [1, 2], jm.DuplicateIndexError, "index 1 "),
    ],
)
def test_validate_and_to_mask_refuse(context, target, error, message):
    spec = jm.MaskSpec(context, target, 4)
    with pytest.raises(error, match=message):
        spec.validate()
    with pytest.raises(error, match=message):
        spec.to_mask((2, 2))


def test_every_mask_error_is_a_value_error():
    errors = (
        jm.EmptyContextError,
        jm.EmptyTargetError,
        jm.IndexOutOfBoundsError,
        jm.DuplicateIndexError,
    )
    assert all(issubclass(error, jm.MaskError) for error in errors)
    assert issubclass(jm.MaskError, ValueError)
    assert len(set(errors)) == 4


def test_mask_ratio_counts_the_targets_among_all_tokens():
    assert jm.MaskSpec([0], [1, 2, 3], 8).mask_ratio == 0.375


@given(boolean_arrays(1, 3).filter(has_both_sides))
def test_to_mask_is_the_inverse_of_to_mask_spec(mask):
    spec = jm.to_mask_spec(mask)
    np.testing.assert_array_equal(spec.to_mask(mask.shape), mask, strict=True)
    assert jm.to_mask_spec(spec.to_mask(mask.shape)) == spec


def test_to_mask_of_a_spec_with_tokens_in_neither_set():
    mask = jm.MaskSpec([5], [4, 1], 6).to_mask((2, 3))
    np.testing.assert_array_equal(mask, [[False, True, False], [False, True, False]])


def test_to_mask_refuses_a_grid_of_other_tokens():
    with pytest.raises(ValueError, match="6 tokens"):
        SPEC.to_mask((2, 2))


def test_to_dict_goes_through_json():
    text = json.dumps(SPEC.to_dict())
    assert json.loads(text) == {
        "context_indices": [0, 1, 3],
        "target_indices": [2, 4],
        "total_tokens": 6,
    }
    assert jm.MaskSpec(**json.loads(text)) == SPEC


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_to_mask_spec_numbers_tokens_row_major(asarray):
    mask = np.zeros((2, 3, 4), bool)
    mask[0, 0, 3] = mask[0, 2, 1] = mask[1, 0, 0] = True
    spec = jm.to_mask_spec(asarray(mask))
    assert spec.target_indices.tolist() == [3, 9, 12]
    assert spec.context_indices.tolist() == sorted(set(range(24)) - {3, 9, 12})
    assert spec.total_tokens == 24


def assert_specs_are_flatnonzero(specs, masks):
    assert len(specs) == len(masks)
    for spec, mask in zip(specs, masks, strict=True):
        assert np.array_equal(spec.target_indices, np.flatnonzero(mask))
        assert np.array_equal(spec.context_indices, np.flatnonzero(~mask))
        assert spec.total_tokens == mask.size


@given(boolean_arrays(2, 4).filter(lambda masks: all(map(has_both_sides, masks))))
def test_to_mask_specs_is_flatnonzero_of_each_mask(masks):
    specs = jm.to_mask_specs(masks)
    assert_specs_are_flatnonzero(specs, masks)
    assert specs == [jm.to_mask_spec(mask) for mask in masks]


def large_batch():
    rng = np.random.default_rng(0)
    masks = rng.random((16_384, 14, 14)) < rng.random((16_384, 1, 1))
    masks[:, 0, 0], masks[:, 13, 13] = True, False
    return masks


@pytest.mark.parametrize("asarray", [np.asarray, slow(jnp.asarray)])
def test_to_mask_specs_of_a_large_batch(asarray):
    masks = large_batch()
    assert_specs_are_flatnonzero(jm.to_mask_specs(asarray(masks)), masks)


def test_to_mask_specs_of_an_array_that_is_not_contiguous():
    masks = large_batch()[:64, :5].transpose(0, 2, 1)[::-2]
    assert_specs_are_flatnonzero(jm.to_mask_specs(masks), masks)


def test_the_lists_of_one_batch_are_read_only_views_of_one_array():
    specs = jm.to_mask_specs(large_batch()[:3])
    for name in ("context_indices", "target_indices"):
        lists = [getattr(spec, name) for spec in specs]
        assert lists[0].base is not None
        assert all(indices.base is lists[0].base for indices in lists)
        assert not any(indices.flags.writeable for indices in [*lists, lists[0].base])


def test_masks_of_a_cpu_device_are_read_where_they_lie():
    masks = jax.device_put(large_batch(), jax.devices("cpu")[0])
    assert _check.host_mask("masks", masks).ctypes.data == masks.unsafe_buffer_pointer()


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(
    ("empty_side", "error"), [(True, jm.EmptyContextError), (False, jm.EmptyTargetError)]
)
def test_a_mask_with_an_empty_side_is_refused(asarray, empty_side, error):
    mask = np.full((2, 3), empty_side)
    with pytest.raises(error, match="context" if empty_side else "target"):
        jm.to_mask_spec(asarray(mask))
    batch = np.stack([SPEC.to_mask((2, 3)), mask, mask])
    with pytest.raises(error, match="mask 1 of the batch"):
        jm.to_mask_specs(asarray(batch))
