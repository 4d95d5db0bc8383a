"""How many tokens are masked: planned for a size, sampled, clamped."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _check, _draws, _tracing


def clamp(value: Any, low: Any, high: Any) -> jax.Array:
    """Clamps an integer of any width into `[low, high]`, within 0 and 2**31 - 1: int32[]."""
    array = jnp.asarray(value)
    held = jnp.iinfo(array.dtype)  # type: ignore[no-untyped-call]
    narrow = jnp.clip(array, max(held.min, -1), min(held.max, _check.INT32_MAX)).astype(jnp.int32)
    return jnp.clip(narrow, low, high)


def masked_range(tokens: Any, masked: Any) -> tuple[Any, Any]:
    """Plans the minimum and the maximum of the count among so many tokens: one at least stays.

    A ratio is rounded half to even, and masks at least one token if there are two.

    Args:
        tokens: how many there are to mask from, or an array of such counts.
        masked: a pair of ratios, a pair of counts, or an array, from `_check.masked`.
    """
    largest = np.maximum(tokens - 1, 0)
    if _check.is_array(masked):
        return np.minimum(1, largest), largest
    low, high = (
        end if isinstance(end, int) else np.maximum(np.rint(end * tokens), 1) for end in masked
    )
    return np.minimum(low, largest), np.minimum(high, largest)


def sample_masked(word: jax.Array, tokens: Any, masked: Any, *, largest: int = 0) -> jax.Array:
    """Samples the count in `masked_range`, or clamps an array into it: uint32[] to int32[].

    `tokens` is an int, or int32[] of at most `largest`.
    """
    minimum, maximum = _tracing.planned(masked_range, tokens, masked, largest=largest)
    if _check.is_array(masked):
        return clamp(masked, minimum, maximum)
    return _draws.between(word, minimum, maximum)
