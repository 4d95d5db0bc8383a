"""Random tokens, an exact number of them."""

import functools
import math

import jax
import jax.numpy as jnp

from jepa_masks_jax._checks import (
    MAX_TOKENS,
    Grid,
    check_count,
    check_count_range,
    check_fraction,
    check_grid,
    check_key,
    is_sequence,
)
from jepa_masks_jax._draws import random_draws, whole_below
from jepa_masks_jax._subsets import random_subset


def random_mask(key: jax.Array, grid: Grid, *, mask_ratio: float) -> jax.Array:
    """Draws an exact number of target tokens, uniform without replacement.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(height, width)` or `(frames, height, width)`, at least two tokens.
        mask_ratio: fraction of tokens in the target, in `(0, 1)`.

    Returns:
        bool[*grid] with exactly `round(mask_ratio * tokens)` targets (half to even, as Python
        rounds), but at least 1 and at most `tokens - 1`.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        He et al. (2022), "Masked Autoencoders Are Scalable Vision Learners", section 3.

    Example:
        >>> mask = random_mask(jax.random.key(0), (14, 14), mask_ratio=0.75)
        >>> mask.shape, int(mask.sum())
        ((14, 14), 147)
    """
    key, grid = check_key(key), check_grid(grid)
    count = _exact_count(mask_ratio, math.prod(grid))
    return _random_mask(key, grid, grid, count, count)


def random_tube_mask(key: jax.Array, grid: Grid, *, mask_ratio: float) -> jax.Array:
    """Draws one random spatial mask that all frames share.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(frames, height, width)`, at least two tokens in a frame.
        mask_ratio: fraction of a frame's tokens in the target, in `(0, 1)`.

    Returns:
        bool[*grid] with exactly `round(mask_ratio * height * width)` targets in every frame (half
        to even, as Python rounds), but at least 1 and at most `height * width - 1`.

    Raises:
        TypeError: if `key` is not a key or an option is not a static number.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        Tong et al. (2022), "VideoMAE: Masked Autoencoders are Data-Efficient Learners for
        Self-Supervised Video Pre-Training", section 3.2.

    Example:
        >>> mask = random_tube_mask(jax.random.key(0), (8, 14, 14), mask_ratio=0.9)
        >>> mask.shape, int(mask.sum())
        ((8, 14, 14), 1408)
    """
    key, grid = check_key(key), check_grid(grid, ranks=(3,), whole_frames=True)
    frame = grid[1:]
    count = _exact_count(mask_ratio, math.prod(frame))
    return _random_mask(key, frame, grid, count, count)


def object_mask(
    key: jax.Array, num_slots: int, *, num_masked: int | tuple[int, int] = 2
) -> jax.Array:
    """Draws a uniformly random subset of object slots.

    The slots of a history, `bool[frames, slots]`, have the masked slots hidden in every frame but
    the first: `jnp.broadcast_to(mask, (frames, num_slots)).at[0].set(False)`.

    Args:
        key: one PRNG key, typed or legacy.
        num_slots: number of slots, from 2 to 2**24.
        num_masked: number of masked slots, or an inclusive pair `(min, max)` from which it is drawn
            uniformly, from 1 to `num_slots - 1`.

    Returns:
        bool[num_slots], True at the masked slots.

    Raises:
        TypeError: if `key` is not a key or a number is not a static integer.
        ValueError: if `key` is a batch of keys or a number is out of its range.

    Source:
        C-JEPA, github.com/galilai-group/cjepa.

    Example:
        >>> mask = object_mask(jax.random.key(0), 7, num_masked=2)
        >>> mask.shape, int(mask.sum())
        ((7,), 2)
    """
    key, num_slots = check_key(key), check_count("num_slots", num_slots, 2, MAX_TOKENS)
    if is_sequence(num_masked):
        least, most = check_count_range("num_masked", num_masked, num_slots - 1)
    else:
        least = most = check_count("num_masked", num_masked, 1, num_slots - 1)
    return _random_mask(key, (num_slots,), (num_slots,), least, most)


def _exact_count(mask_ratio: float, tokens: int) -> int:
    return min(max(round(check_fraction("mask_ratio", mask_ratio) * tokens), 1), tokens - 1)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _random_mask(
    key: jax.Array, drawn: tuple[int, ...], grid: tuple[int, ...], least: int, most: int
) -> jax.Array:
    """Draws `least` to `most` targets on the last axes of the grid, the same along the others."""
    tokens = math.prod(drawn)
    draws = random_draws(key, tokens + 1)
    count = least + whole_below(draws[-1], most - least + 1)
    mask = random_subset(draws[:-1], jnp.ones(tokens, bool), count)
    return jnp.broadcast_to(mask.reshape(drawn), grid)
