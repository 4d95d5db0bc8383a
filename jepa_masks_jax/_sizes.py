"""Block sizes: which ones a setting can reach (static Python), and drawing one (traced).

A range of real numbers is drawn as a whole number of small steps, and `round(sqrt(x))` is found by
comparing integers, so that the same bits give the same size on every backend.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax._bits import below

_INT32_BITS = 31
_COARSEST = 64


class Uniform(NamedTuple):
    """A number drawn uniformly as `base + below(bits, span)` steps of `1 / unit`."""

    base: int
    span: int
    unit: int

    @property
    def last(self) -> int:
        """The largest number of steps that is drawn."""
        return self.base + max(self.span - 1, 0)


def uniform(low: float, high: float, unit: int) -> Uniform:
    """Returns the draw from `[low, high)`, or of `low` where both are the same."""
    base = math.floor(low * unit)
    return Uniform(base, math.floor(high * unit) - base, unit)


def floor_uniform(low: float, high: float) -> Uniform:
    """Returns the draw for `draw_floor`, in the finest steps that fit 32 bits."""
    return uniform(low, high, 1 << (_INT32_BITS - (math.floor(high) + 1).bit_length()))


def draw_floor(bits: jax.Array, number: Uniform) -> jax.Array:
    """Draws a number from `floor_uniform` and rounds it down."""
    return (number.base + below(bits, number.span)) >> (number.unit.bit_length() - 1)


class BlockSizes(NamedTuple):
    """How a block's size is drawn: a count of tokens, and an aspect ratio of height over width.

    With `half_even` the sides are `round(sqrt(count * aspect))` and `round(sqrt(count / aspect))`,
    half to even (I-JEPA, V-JEPA). Without it the height is rounded half away from zero and the
    width is `max(count // height, 1)` (the definition of `block_mask`).
    """

    counts: Uniform
    aspects: Uniform
    half_even: bool
    low: tuple[int, int]
    """No height and no width is less; a side of 0 stands for one of 1."""
    widest: tuple[tuple[int, int], ...]
    """Every height with its greatest width, at least one token each."""

    @property
    def high(self) -> tuple[int, int]:
        """The greatest height and the greatest width."""
        heights, widths = zip(*self.widest, strict=True)
        return max(heights), max(widths)


@functools.lru_cache(maxsize=1024)
def block_sizes(
    name: str, count: Uniform, aspect_ratio: tuple[float, float], *, half_even: bool
) -> BlockSizes:
    """Plans the draw of block sizes; `name` is that of the aspect ratio's option."""
    low, high = aspect_ratio
    fewest, most = count.base // count.unit, count.last // count.unit
    unit = int(2**_INT32_BITS // (4 * max(most, 1) * max(high, high / low, 1) + 1))
    if unit * min(low, 1) < _COARSEST:
        raise ValueError(
            f"{name} is too wide a range for blocks of up to {most} tokens, got {aspect_ratio}"
        )
    if unit > 1000:
        unit -= unit % 1000  # makes 0.8 exact, and so sqrt(5 / 0.8) the tie that it is
    aspect = uniform(low, high, unit)

    def height_of(count: int, aspect: int) -> int:
        return _rounded_sqrt(4 * count * aspect, unit, half_even)

    def width_of(count: int, aspect: int, height: int) -> int:
        if half_even:
            return _rounded_sqrt(4 * count * unit, aspect, half_even)
        return max(count // height, 1) if height else 1

    lowest, highest = height_of(fewest, aspect.base), height_of(most, aspect.last)
    widest = []
    for height in range(lowest, highest + 1):
        # A height is widest with the most tokens that reach no further at the least aspect ratio.
        tokens = min(most, (_threshold(height + 1, unit, half_even) - 1) // (4 * aspect.base))
        first = -(-_threshold(height, unit, half_even) // max(4 * tokens, 1))
        if first <= aspect.last:
            width = width_of(tokens, max(first, aspect.base), height)
            widest.append((max(height, 1), max(width, 1)))
    narrowest = width_of(fewest, aspect.last, highest)
    return BlockSizes(count, aspect, half_even, (lowest, narrowest), tuple(widest))


def draw_block(
    count_bits: jax.Array, aspect_bits: jax.Array, sizes: BlockSizes
) -> tuple[jax.Array, jax.Array]:
    """Draws one height and width, not yet clamped to the grid: uint32[] bits, int32[] sides."""
    count = draw_floor(count_bits, sizes.counts)
    aspect = sizes.aspects.base + below(aspect_bits, sizes.aspects.span)
    (least, narrowest), (most, widest) = sizes.low, sizes.high
    tall = _candidates(least, most)
    height = least + _number_true(
        _threshold(tall, sizes.aspects.unit, sizes.half_even) <= 4 * count * aspect
    )
    wide = _candidates(narrowest, widest)
    if sizes.half_even:
        area = (4 * count * sizes.aspects.unit).astype(jnp.uint32)
        # One bit more than int32 has: rounding widens the range of aspects a little.
        fits = _threshold(wide.astype(np.uint32), aspect.astype(jnp.uint32), True) <= area
    else:
        fits = (wide * height <= count) & (height > 0)
    return height, narrowest + _number_true(fits)


def square_sides(count: Uniform) -> tuple[int, int]:
    """The least and the greatest side that `draw_square_side` draws."""
    ends = count.base // count.unit, count.last // count.unit
    least, most = (_rounded_sqrt(4 * end, 1, False) for end in ends)
    return least, most


def draw_square_side(count_bits: jax.Array, count: Uniform) -> jax.Array:
    """Draws a count of tokens and returns `round(sqrt(count))`: uint32[] bits, int32[] side."""
    least, most = square_sides(count)
    reached = _threshold(_candidates(least, most), 1, False) <= 4 * draw_floor(count_bits, count)
    return least + _number_true(reached)


def _threshold(side: Any, divisor: Any, half_even: bool) -> Any:
    """The least whole `4 * x` for which `round(sqrt(x / divisor))` is `side` or more."""
    return (2 * side - 1) ** 2 * (side > 0) * divisor + (side % 2 if half_even else 0)


def _rounded_sqrt(four_x: int, divisor: int, half_even: bool) -> int:
    """`round(sqrt(x / divisor))`."""
    side = (math.isqrt(four_x // divisor) + 1) // 2
    return side - 1 if _threshold(side, divisor, half_even) > four_x else side


def _candidates(low: int, high: int) -> np.ndarray:
    return np.arange(low + 1, high + 1, dtype=np.int32)


def _number_true(conditions: jax.Array) -> jax.Array:
    return jnp.sum(conditions, dtype=jnp.int32)
