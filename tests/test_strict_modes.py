"""Masks are those of the table under every check that JAX can switch on."""

import jax
import pytest
from cases import FIRST
from digests import assert_digests, drawn, fixed_keys
from modes import every_check, x64


@pytest.mark.parametrize(
    "enable_x64",
    [pytest.param(False, id="32", marks=pytest.mark.slow), pytest.param(True, id="64")],
)
def test_masks_and_their_types_in_32_and_64_bit_mode(enable_x64):
    with x64(enable_x64):
        keys = fixed_keys()
        with every_check():
            masks = jax.jit(lambda keys: drawn(FIRST, keys))(keys)
    assert_digests(masks)
