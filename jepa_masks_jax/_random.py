"""Uniformly random subsets of an exact size, and the strategies that are no more than that."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax._bits import below, count_set, first_tokens, lanes, random_words, unpack
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

_ROUNDS = 3
"""Random planes are drawn in so many rounds: fewer are faster and take more memory."""

_Search = tuple[jax.Array, jax.Array, jax.Array]
"""What may still be picked, what is, and how many are missing."""


def random_subset(key: jax.Array, pool: jax.Array, size: jax.Array, tokens: int) -> jax.Array:
    """Picks uniformly random set bits of the pool.

    Each token has a random number, of which one bit at a time is used, as a plane of packed words;
    the lowest numbers are picked, the search for the boundary halving the pool at each plane. The
    numbers have at least ten bits more than the tokens need, so that three are level at the
    boundary in less than one draw of a million. Level tokens are told apart by the bits of their
    token number under one random flip, which is fair to two.

    Args:
        key: one PRNG key.
        pool: uint32[words], the packed tokens to pick from.
        size: int32[], at most the pool's count.
        tokens: the number of tokens that the words pack.

    Returns:
        uint32[words].
    """
    round_planes = -(-((tokens - 1).bit_length() + 10) // _ROUNDS)
    token_planes = _token_number_planes(tokens)
    flip_bits = jax.random.bits(jax.random.fold_in(key, _ROUNDS), (), jnp.uint32)
    flips = -(flip_bits >> np.arange(len(token_planes), dtype=np.uint32) & 1)

    def narrow(carry: _Search, plane: jax.Array) -> tuple[_Search, None]:
        pool, picked, size = carry
        low = pool & ~plane
        num_low = count_set(low)
        fits = num_low <= size
        pool = jnp.where(fits, pool & plane, low)
        picked = jnp.where(fits, picked | low, picked)
        return (pool, picked, jnp.where(fits, size - num_low, size)), None

    def narrow_at_random(carry: _Search, i: jax.Array) -> tuple[_Search, None]:
        words = random_words(jax.random.fold_in(key, i), round_planes * pool.size)
        return lax.scan(narrow, carry, words.reshape(round_planes, pool.size))

    none = jnp.zeros_like(pool) + (flip_bits & 0)  # varies as the key does, for shard_map's sake
    search = (pool | none, none, size + none[0].astype(jnp.int32))
    search, _ = lax.scan(narrow_at_random, search, jnp.arange(_ROUNDS, dtype=jnp.uint32))
    (pool, picked, missing), _ = lax.scan(narrow, search, flips[:, None] ^ token_planes)
    return jnp.where(missing > 0, picked | pool, picked)  # a lone highest number is never "low"


def _token_number_planes(tokens: int) -> np.ndarray:
    """The bits of every token's number, highest first, packed: uint32[bits, words]."""
    words, per_word = lanes(tokens)
    numbers = np.arange(words * per_word, dtype=np.uint32).reshape(words, per_word)
    highest_first = np.arange((tokens - 1).bit_length(), dtype=np.uint32)[::-1, None, None]
    bits = numbers >> highest_first & 1
    packed = bits << np.arange(per_word, dtype=np.uint32)
    return np.asarray(np.sum(packed, axis=-1, dtype=np.uint32))


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
    size_key, subset_key = jax.random.split(key)
    size = least + below(jax.random.bits(size_key, (), jnp.uint32), most - least + 1)
    words = random_subset(subset_key, first_tokens(tokens, tokens), size, tokens)
    return jnp.broadcast_to(unpack(words, tokens).reshape(drawn), grid)
