"""The exact random subset.

Every token has one random lot of 31 bits. Of a pool of tokens the `count` lowest lots are picked,
equal lots in row-major order. Two ways give the same subset, to the bit: two sorts, which are few
kernels on an accelerator, and a bisection, which is ten times as fast as sorting pairs on a CPU.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _draws

_OUTSIDE = 0xFFFFFFFF
"""Higher than any lot of 31 bits."""


def clamp_count(array: jax.Array, low: int, high: int) -> jax.Array:
    """Clamps an integer of any width into `[low, high]`: int32[]."""
    widest = jnp.iinfo(array.dtype).max  # type: ignore[no-untyped-call]
    return jnp.clip(array, low, min(high, int(widest))).astype(jnp.int32)


def clamp_or_draw_count(
    draw: jax.Array, number: jax.Array | None, count_range: tuple[int, int]
) -> jax.Array:
    """Clamps a number into its range, or draws one from it if there is none: int32[]."""
    least, most = count_range
    if number is None:
        return _draws.whole_between(draw, least, most)
    return clamp_count(number, least, most)


def random_subset(draws: jax.Array, pool: jax.Array, count: jax.Array) -> jax.Array:
    """Picks uniformly random tokens of a pool.

    Args:
        draws: uint32[tokens], a random lot for each.
        pool: bool[tokens], the tokens to pick from.
        count: int32[], at most the pool's.

    Returns:
        bool[tokens].
    """
    lots = jnp.where(pool, draws >> 1, jnp.uint32(_OUTSIDE))
    return lax.platform_dependent(lots, count, cpu=lowest_by_bisection, default=lowest_by_sorting)


def lowest_by_sorting(lots: jax.Array, count: jax.Array) -> jax.Array:
    """Ranks all lots by two stable sorts."""
    # Made of the lots, because shard_map takes a sort's constant operand for the same on every
    # device, and then the ranks too.
    number = lax.iota(jnp.int32, lots.size) + (lots & 0).astype(jnp.int32)
    _, order = lax.sort((lots, number), num_keys=1, is_stable=True)
    _, rank = lax.sort((order, number), num_keys=1)
    return rank < count


def lowest_by_bisection(lots: jax.Array, count: jax.Array) -> jax.Array:
    """Finds the lot up to which all are picked, then among equal lots the token."""
    threshold = _threshold(lots, count, bits=31)
    below = lots < threshold
    missing = count - jnp.sum(below, dtype=jnp.int32)
    number = lax.iota(jnp.uint32, lots.size)
    equal = jnp.where(lots == threshold, number, jnp.uint32(_OUTSIDE))
    return below | (equal < _threshold(equal, missing, bits=lots.size.bit_length()))


def _threshold(numbers: jax.Array, count: jax.Array, *, bits: int) -> jax.Array:
    """Finds, bit by bit, the greatest number below which there are at most `count`: uint32[]."""
    # A CPU adds up floats in half the time, and they hold whole numbers up to 2**24.
    dtype = jnp.float32 if numbers.size <= 2**24 else jnp.int32

    def try_bit(threshold: jax.Array, bit: jax.Array) -> tuple[jax.Array, None]:
        higher = threshold | bit
        fits = jnp.sum(numbers < higher, dtype=dtype) <= count.astype(dtype)
        return jnp.where(fits, higher, threshold), None

    # Varies as the numbers and the count do, which shard_map asks of a carry.
    zero = numbers[0] & 0 | (count & 0).astype(jnp.uint32)
    highest_first = jnp.uint32(1) << lax.iota(jnp.uint32, bits)[::-1]
    threshold, _ = lax.scan(try_bit, zero, highest_first)
    return threshold
