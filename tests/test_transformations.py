"""Masks are those of the table whatever transformation they are drawn under."""

import functools
import inspect

import chex
import jax
import numpy as np
import pytest
from cases import (
    ALL,
    FIRST,
    MASKS,
    SIZES,
    first_of_each_fast,
    first_of_each_function,
    slow,
)
from digests import assert_digests, drawn, fixed_keys, stack
from jax import export, lax
from modes import no_trace

import jepa_masks_jax as jm

KEY = jax.random.key(0)


@pytest.mark.slow
def test_jit_and_vmap():
    cases = [case for case in ALL if case not in FIRST]  # test_devices.py draws the first ones
    assert_digests(jax.jit(lambda keys: drawn(cases, keys))(fixed_keys()))


@pytest.mark.slow
def test_scan_over_legacy_keys():
    def step(number, key):
        return number + 1, {case.name: case(key) for case in FIRST}

    keys = jax.random.key_data(fixed_keys())
    _, masks = jax.jit(lambda keys: lax.scan(step, 0, keys))(keys)
    assert_digests(masks)


@pytest.mark.slow
def test_export_and_its_round_trip_through_bytes():
    draw = jax.jit(lambda keys: drawn(FIRST, keys))
    leaves, tree = jax.tree.flatten(jax.eval_shape(draw, fixed_keys()))
    exported = export.export(jax.jit(lambda keys: jax.tree.leaves(draw(keys))))(fixed_keys())
    loaded = export.deserialize(exported.serialize())
    masks = jax.jit(loaded.call)(fixed_keys())
    assert len(masks) == len(leaves)
    assert_digests(jax.tree.unflatten(tree, masks))


# Eager calls with sizes are in test_within.py, and what these cases call is called by others.
_CALLED_ELSEWHERE = [case for case in ALL if case.name in ("traced-counts", "own-tokens")] + SIZES
_EAGER = [case for case in ALL if case not in _CALLED_ELSEWHERE]


@pytest.mark.parametrize(
    "case", [*first_of_each_fast(_EAGER), *map(slow, _CALLED_ELSEWHERE)], ids=repr
)
def test_eager_calls_are_traced_once_and_a_strategy_moves_nothing_to_the_device(case):
    first, *others = fixed_keys()
    masks = [case(first)]
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(case, first), masks[0])
    guard = "disallow_explicit" if case in MASKS else "allow"  # other cases hold NumPy arrays
    with no_trace(), jax.transfer_guard(guard):
        masks += [case(key) for key in others]
    assert_digests({case.name: stack(masks)})


def with_lists(value):
    return list(value) if isinstance(value, tuple) else value


def with_numpy_integers(value):
    if isinstance(value, tuple):
        return tuple(map(with_numpy_integers, value))
    return np.int16(value) if type(value) is int else value


def grid_as_array(grid):
    return np.array(grid) if isinstance(grid, tuple) else grid


def with_arrays(value):
    is_real = isinstance(value, tuple) and all(isinstance(one, float) for one in value)
    return np.array(value) if is_real else value


@pytest.mark.parametrize("case", first_of_each_fast(MASKS), ids=repr)
def test_static_options_of_other_types_give_the_same_masks_without_a_trace(case):
    parameters = inspect.signature(case.function).parameters.values()
    options = {p.name: p.default for p in parameters if p.default is not p.empty} | case.options
    expected = case(KEY)
    for convert in (with_lists, with_numpy_integers, with_arrays):
        converted = {name: convert(value) for name, value in options.items()}
        with no_trace():
            masks = case.function(KEY, grid_as_array(case.args[0]), **converted)
        chex.assert_trees_all_equal(masks, expected)


@pytest.mark.parametrize("case", first_of_each_function(MASKS), ids=repr)
def test_vmap_takes_the_grid_unmapped_or_bound_by_name(case):
    _, grid, *_ = inspect.signature(case.function).parameters
    unmapped = jax.vmap(functools.partial(case.function, **case.options), in_axes=(0, None))
    bound = jax.vmap(functools.partial(case.function, **{grid: case.args[0]}, **case.options))
    program = str(jax.make_jaxpr(jax.vmap(case))(fixed_keys()))
    assert str(jax.make_jaxpr(lambda keys: unmapped(keys, *case.args))(fixed_keys())) == program
    assert str(jax.make_jaxpr(bound)(fixed_keys())) == program


@pytest.mark.slow
def test_rbg_keys_give_valid_masks():
    cases = first_of_each_function(MASKS)
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    masks = jax.tree.map(np.asarray, jax.jit(lambda keys: drawn(cases, keys))(keys))
    context, targets = masks.pop("ijepa")
    assert np.all(targets.any((2, 3)))
    assert np.all(context.sum((1, 2)) >= 10)
    assert not np.any(context & targets.any(1))
    for target in masks.values():
        count = target.reshape(len(keys), -1).sum(1)
        assert np.all((count > 0) & (count < target[0].size))


def test_a_new_trace_would_be_noticed():
    with pytest.raises(AssertionError, match="traced"), no_trace():
        jax.jit(lambda x: x)(KEY)


def test_a_thousand_steps_trace_the_step_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, number):
        draw, clip = jax.random.split(jax.random.fold_in(key, number))
        context, targets = jm.ijepa_masks(draw, (14, 14))
        context = jm.clip_count(clip, context, minimum=60, maximum=60, among=~targets.any(0))
        return jm.token_indices(context, size=60).indices

    indices = {tuple(np.asarray(step(KEY, np.int32(number)))) for number in range(1000)}
    assert len(indices) == 1000
