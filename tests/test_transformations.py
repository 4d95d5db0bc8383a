"""Masks are the same numbers whatever transformation they are drawn under."""

import contextlib
import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, FIRST, MASKS
from jax import export, lax

import jepa_masks_jax as jm

SEEDS = range(3)
KEYS = jnp.stack([jax.random.key(seed) for seed in SEEDS])
LEGACY_KEYS = jnp.stack([jax.random.PRNGKey(seed) for seed in SEEDS])


@pytest.fixture(scope="module")
def eager():
    """Every case's masks, stacked over the keys."""
    return {
        case.name: jax.tree.map(lambda *masks: np.stack(masks), *map(case, KEYS)) for case in ALL
    }


@contextlib.contextmanager
def no_trace():
    def fail(event, duration, **details):
        assert event != "/jax/core/compile/jaxpr_trace_duration", f"traced {details}"

    jax.monitoring.register_event_duration_secs_listener(fail)
    try:
        yield
    finally:
        jax.monitoring.clear_event_listeners()


def drawn(cases, keys):
    return {case.name: jax.vmap(case)(keys) for case in cases}


def of(cases, masks):
    return {case.name: masks[case.name] for case in cases}


def test_jit_and_vmap(eager):
    chex.assert_trees_all_equal(jax.jit(lambda keys: drawn(ALL, keys))(KEYS), eager)


def test_legacy_keys_give_the_masks_of_typed_keys(eager):
    masks = jax.jit(lambda keys: drawn(FIRST, keys))(LEGACY_KEYS)
    chex.assert_trees_all_equal(masks, of(FIRST, eager))


@pytest.mark.parametrize("case", MASKS, ids=repr)
def test_vmap_takes_the_grid_unmapped_or_bound_by_name(case):
    _, grid, *_ = inspect.signature(case.function).parameters
    unmapped = jax.vmap(functools.partial(case.function, **case.options), in_axes=(0, None))
    bound = jax.vmap(functools.partial(case.function, **{grid: case.args[0]}, **case.options))
    program = str(jax.make_jaxpr(jax.vmap(case))(KEYS))
    assert str(jax.make_jaxpr(lambda keys: unmapped(keys, *case.args))(KEYS)) == program
    assert str(jax.make_jaxpr(bound)(KEYS)) == program


def test_scan(eager):
    def step(number, key):
        return number + 1, {case.name: case(key) for case in FIRST}

    _, masks = jax.jit(lambda keys: lax.scan(step, 0, keys))(KEYS)
    chex.assert_trees_all_equal(masks, of(FIRST, eager))


def test_shard_map(eager):
    spec = jax.P("data")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    draw = jax.shard_map(lambda keys: drawn(FIRST, keys), mesh=mesh, in_specs=spec, out_specs=spec)
    chex.assert_trees_all_equal(jax.jit(draw)(KEYS), of(FIRST, eager))


def test_export_and_its_round_trip_through_bytes(eager):
    exported = export.export(jax.jit(lambda keys: jax.tree.leaves(drawn(FIRST, keys))))(KEYS)
    loaded = export.deserialize(exported.serialize())
    chex.assert_trees_all_equal(jax.jit(loaded.call)(KEYS), jax.tree.leaves(of(FIRST, eager)))


@pytest.mark.parametrize("case", ALL, ids=repr)
def test_eval_shape(case, eager):
    shapes = jax.eval_shape(case, KEYS[0])
    expected = jax.tree.map(lambda masks: masks[0], eager[case.name])
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, expected)


def test_rbg_keys_give_valid_masks():
    cases = [case for case in FIRST if case in MASKS]
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    masks = jax.tree.map(np.asarray, jax.jit(lambda keys: drawn(cases, keys))(keys))
    context, targets = masks.pop("ijepa")
    assert np.all(targets.any((2, 3)))
    assert np.all(context.sum((1, 2)) >= 10)
    assert not np.any(context & targets.any(1))
    for target in masks.values():
        count = target.reshape(len(keys), -1).sum(1)
        assert np.all((count > 0) & (count < target[0].size))


def test_a_step_on_sequences_traces_once_and_masks_differ():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, number, sequences):
        def loss(key, tokens):
            draw, pick = jax.random.split(key)
            context, targets = jm.ijepa_masks(draw, (1214,))
            seen = jm.token_indices(context, size=200, key=pick)
            hidden = jm.token_indices(targets[0], size=242)
            mean = jnp.sum(jm.take_tokens(tokens, seen), 0) / seen.valid.sum()
            error = (jm.take_tokens(tokens, hidden) - mean) ** 2
            return jnp.mean(error, where=hidden.valid[:, None]), seen.valid.sum()

        keys = jax.random.split(jax.random.fold_in(key, number), len(sequences))
        return jax.vmap(loss)(keys, sequences)

    sequences = np.random.default_rng(0).normal(size=(4, 1214, 3)).astype(np.float32)
    drawn = [step(KEYS[0], number, sequences) for number in range(5)]
    assert np.isfinite([losses for losses, _ in drawn]).all()
    assert len(np.unique([losses for losses, _ in drawn])) == 20
    assert (np.array([seen for _, seen in drawn]) == 200).all()


def test_a_new_trace_would_be_noticed():
    with pytest.raises(AssertionError, match="traced"), no_trace():
        jax.jit(lambda x: x)(KEYS[0])


@pytest.mark.parametrize("case", ALL, ids=repr)
def test_eager_calls_are_traced_once_whatever_the_key(case, eager):
    keys = list(jax.random.split(jax.random.key(1), 10))
    with no_trace():
        for key in keys:
            case(key)


def with_lists(value):
    return list(value) if isinstance(value, tuple) else value


def with_numpy_integers(value):
    if isinstance(value, tuple):
        return tuple(map(with_numpy_integers, value))
    return np.int16(value) if type(value) is int else value


def with_arrays(value):
    return np.array(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("convert", [with_lists, with_numpy_integers, with_arrays])
@pytest.mark.parametrize("case", MASKS, ids=repr)
def test_static_options_of_other_types_give_the_same_masks_without_a_trace(case, convert, eager):
    parameters = inspect.signature(case.function).parameters.values()
    options = {p.name: p.default for p in parameters if p.default is not p.empty} | case.options
    options = {name: convert(value) for name, value in options.items()}
    key = KEYS[0]
    with no_trace():
        masks = case.function(key, convert(case.args[0]), **options)
    chex.assert_trees_all_equal(masks, jax.tree.map(lambda masks: masks[0], eager[case.name]))


def test_a_thousand_steps_trace_the_step_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, number):
        draw, clip = jax.random.split(jax.random.fold_in(key, number))
        context, targets = jm.ijepa_masks(draw, (14, 14))
        context = jm.clip_count(clip, context, minimum=60, maximum=60, among=~targets.any(0))
        return jm.token_indices(context, size=60).indices

    key = jax.random.key(0)
    indices = {tuple(np.asarray(step(key, np.int32(number)))) for number in range(1000)}
    assert len(indices) == 1000
