"""A count of tokens: read from options, sampled, clamped."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _check, _draws

Count = int | jax.Array
"""A Python or NumPy integer, or an integer array of shape (), traced or not."""

_TRACED_INSTEAD = (
    ", or give num_masked=jnp.round(ratio * tokens).astype(int), which may be traced, and "
    "mask_ratio=None if a preset has bound it"
)


_INT32_MAX = 2**31 - 1


def check(name: str, value: Any, low: float = 1, high: int | None = None) -> Any:
    """Returns an int in `[low, high]`, or an integer array of shape () for `clamp`."""
    if not isinstance(value, jax.Array | np.ndarray):
        return _check.whole(name, value, low, high)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} must be an integer, got {value.dtype}; use .astype(int)")
    if value.shape:
        raise ValueError(
            f"{name} must be one integer, got shape {value.shape}; use jax.vmap for a batch"
        )
    return in_int32(value)


def in_int32(array: Any) -> Any:
    """Clamps NumPy's integers into int32, of which JAX would drop the high bits in 32-bit mode."""
    if isinstance(array, np.ndarray):
        held = np.iinfo(array.dtype)
        narrow = np.clip(array, max(held.min, -1), min(held.max, _INT32_MAX))
        return narrow.astype(np.int32)
    return array


def clamp(array: jax.Array, low: Any, high: Any = _INT32_MAX) -> jax.Array:
    """Clamps an integer of any width into `[low, high]`, which are in int32: int32[]."""
    widest = jnp.iinfo(array.dtype)  # type: ignore[no-untyped-call]
    narrow = jnp.clip(array, max(widest.min, -1), min(widest.max, _INT32_MAX)).astype(jnp.int32)
    return jnp.clip(narrow, low, high)


class Masked(NamedTuple):
    """How many tokens are masked: a pair of ratios, or else a pair of counts."""

    ratios: tuple[float, float] | None
    counts: tuple[int, int] | None


class CountRange(NamedTuple):
    """A count is sampled between the two, or a given array is clamped into them."""

    minimum: Any
    maximum: Any

    def sample_or_clamp(self, word: jax.Array, array: jax.Array | None) -> jax.Array:
        """Clamps the array, or samples a count if there is none: uint32[] to int32[]."""
        if array is None:
            return _draws.between(word, self.minimum, self.maximum)
        return clamp(array, self.minimum, self.maximum)


def check_masked(mask_ratio: Any, num_masked: Any, tokens: int) -> tuple[Any, Masked]:
    """Reads how many of the tokens are masked, from a ratio or a count, each one or a pair.

    Returns:
        The count if it is an array, else None; and the static part of the options.
    """
    if (mask_ratio is None) == (num_masked is None):
        raise TypeError(
            "exactly one of mask_ratio and num_masked must be given, got "
            f"{mask_ratio!r} and {num_masked!r}; if a preset has bound one, pass "
            "mask_ratio=None or num_masked=None"
        )
    if isinstance(num_masked, tuple | list):
        return None, Masked(None, _check.count_range("num_masked", num_masked, tokens - 1))
    if num_masked is not None:
        count = check("num_masked", num_masked, 1, tokens - 1)
        if isinstance(count, int):
            return None, Masked(None, (count, count))
        return count, Masked(None, (1, tokens - 1))
    if _check.is_sequence(mask_ratio):
        pair = _check.sequence("mask_ratio", mask_ratio, (2,), "a pair (min, max)")
        low, high = (
            _check.fraction(f"mask_ratio[{i}]", ratio, instead=_TRACED_INSTEAD)
            for i, ratio in enumerate(pair)
        )
        if low > high:
            raise ValueError(f"mask_ratio must satisfy min <= max, got {mask_ratio!r}")
        return None, Masked((low, high), None)
    ratio = _check.fraction("mask_ratio", mask_ratio, instead=_TRACED_INSTEAD)
    return None, Masked((ratio, ratio), None)


def plan(tokens: np.ndarray, masked: Masked) -> CountRange:
    """Returns the range of the count among so many tokens, of which one at least stays.

    A ratio is rounded half to even, and masks at least one token if there are two.
    """
    largest = np.maximum(tokens - 1, 0)
    low, high = masked.counts or (np.maximum(np.rint(r * tokens), 1) for r in masked.ratios or ())
    return CountRange(np.minimum(low, largest), np.minimum(high, largest))
