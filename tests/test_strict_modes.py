"""Masks are drawn, and are the same, under every check that JAX can switch on."""

import contextlib

import chex
import jax
import numpy as np
import pytest
from cases import ALL, FIRST, MASKS

SEEDS = np.arange(2)


@contextlib.contextmanager
def every_check():
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
        jax.debug_key_reuse(True),
        jax.checking_leaks(),
        jax.transfer_guard("disallow"),
    ):
        yield


def x64(enable):
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enable)
    return jax.experimental.enable_x64(enable)


@pytest.fixture(scope="module")
def eager():
    keys = jax.vmap(jax.random.key)(SEEDS)
    return {
        case.name: jax.tree.map(lambda *masks: np.stack(masks), *map(case, keys)) for case in ALL
    }


@pytest.mark.parametrize(("enable_x64", "cases"), [(False, FIRST), (True, FIRST)], ids=["32", "64"])
def test_masks_and_their_types_under_every_check_in_32_and_64_bit_mode(enable_x64, cases, eager):
    def draw(keys):
        return {case.name: jax.vmap(case)(jax.random.clone(keys)) for case in cases}

    with x64(enable_x64):
        keys = jax.vmap(jax.random.key)(SEEDS)
        with every_check():
            masks = jax.jit(draw)(keys)
    expected = {case.name: eager[case.name] for case in cases}
    chex.assert_trees_all_equal(masks, expected, strict=True)


@pytest.mark.parametrize("case", MASKS, ids=repr)
def test_an_eager_call_moves_nothing_between_host_and_device(case, eager):
    keys = list(jax.vmap(jax.random.key)(SEEDS))
    with jax.transfer_guard("disallow_explicit"):
        masks = [case(key) for key in keys]
    masks = jax.tree.map(lambda *masks: np.stack(masks), *masks)
    chex.assert_trees_all_equal(masks, eager[case.name])
