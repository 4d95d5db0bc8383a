"""How many tokens are masked: read from the options, planned for a size, sampled."""

import functools
from typing import Any

import jax
import numpy as np

from jepa_masks_jax import _check, _draws, _tracing

_COUNT_INSTEAD = (
    ", or give num_masked=jnp.round(ratio * tokens).astype(int), which may be traced, and "
    "mask_ratio=None if a preset has bound it"
)

_NONE_OR_ALL = "; clip_count(key, jnp.zeros(grid, bool), exactly=n) masks none or all tokens, too"


def masked(mask_ratio: Any, num_masked: Any, tokens: int) -> Any:
    """Reads how many of the tokens are masked, from a ratio or a count, each one or a pair.

    Returns:
        A pair of ratios, which are floats, or of counts, which are ints; or an array.
    """
    _check.exactly_one(mask_ratio=mask_ratio, num_masked=num_masked)
    if num_masked is None:
        ratio = functools.partial(_check.fraction, instead=_COUNT_INSTEAD, hint=_NONE_OR_ALL)
        return _check.one_or_pair("mask_ratio", mask_ratio, ratio)
    _check.refuse_foreign("num_masked", num_masked)
    if _check.is_array(num_masked):
        return _check.count("num_masked", num_masked)
    count = functools.partial(_check.integer, high=tokens - 1, hint=_NONE_OR_ALL)
    return _check.one_or_pair("num_masked", num_masked, count)


def masked_range(tokens: Any, masked: Any) -> tuple[Any, Any]:
    """Plans the minimum and the maximum of the count among so many tokens: one at least stays.

    A ratio is rounded half to even, and masks at least one token if there are two.

    Args:
        tokens: how many there are to mask from, or an array of such counts.
        masked: what `masked` returns.
    """
    limit = np.maximum(tokens - 1, 0)
    if _check.is_array(masked):
        return np.minimum(1, limit), limit
    low, high = (
        end if isinstance(end, int) else np.maximum(np.rint(end * tokens), 1) for end in masked
    )
    return np.minimum(low, limit), np.minimum(high, limit)


def sample_masked(word: jax.Array, tokens: Any, masked: Any, *, largest: int = 0) -> jax.Array:
    """Samples the count in `masked_range`, or clamps an array into it: uint32[] to int32[].

    `tokens` is an int, or int32[] of at most `largest`.
    """
    minimum, maximum = _tracing.planned(masked_range, tokens, masked, largest=largest)
    if _check.is_array(masked):
        return _check.clamp(masked, minimum, maximum)
    return _draws.between(word, minimum, maximum)
