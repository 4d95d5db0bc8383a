"""Block sizes: which ones a setting can reach (plain Python), and drawing one (traced).

A side is `round(sqrt(x))` of a real number `x`. It is found in whole numbers, so that the same
draws give the same side on every backend, from one identity: for a whole number `s` of at least 1

    round(sqrt(x)) >= s    exactly where    4 * x >= (2 * s - 1) ** 2

since `round(y) >= s` says `y >= s - 1/2`. Where both sides are equal `y` is halfway between two
whole numbers: half away from zero goes up to `s`, half to even goes up only if `s` is even.

The real numbers themselves are drawn as a whole number of small steps.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _draws

_INT32_BITS = 31

_COARSEST = 64
"""A step is at most 1/64 of the aspect ratio; what would need coarser ones is refused."""

_DECIMAL = 1000
"""An aspect ratio has a multiple of 1000 steps to one where they fit: 0.8 is then exactly 4/5, and
`sqrt(5 / 0.8)` the tie that it is."""


_THINNEST = 0.4
"""A grid is too thin where the largest block has a smaller part of the least count drawn."""

JEPA_ASPECT_RATIO = (0.75, 1.5)
"""Of the blocks of all published runs."""


class Steps(NamedTuple):
    """A real number drawn uniformly: `first + whole_below(draw, number)` steps of `1 / unit`."""

    first: int
    number: int
    unit: int

    @property
    def last(self) -> int:
        """The largest number of steps that is drawn."""
        return self.first + max(self.number - 1, 0)


def steps(low: Any, high: Any, unit: int) -> Steps:
    """Returns the draw from `[low, high)`, or of `low` where both are the same."""
    first = math.floor(low * unit)
    return Steps(first, math.floor(high * unit) - first, unit)


def whole_steps(low: float, high: float) -> Steps:
    """Returns the draw of a number that is then rounded down: the finest in 32 bits."""
    return steps(low, high, 1 << (_INT32_BITS - (math.floor(high) + 1).bit_length()))


def draw_steps(draws: jax.Array, real_range: Steps) -> jax.Array:
    """Draws a real number, in steps."""
    return real_range.first + _draws.whole_below(draws, real_range.number)


def draw_whole(draws: jax.Array, real_range: Steps) -> jax.Array:
    """Draws a number, rounded down."""
    return lax.div(draw_steps(draws, real_range), jnp.int32(real_range.unit))


def least_and_most(real_range: Steps) -> tuple[int, int]:
    """The least and the greatest number that `draw_whole` draws."""
    return real_range.first // real_range.unit, real_range.last // real_range.unit


def aspect_unit(name: str, aspect_ratio: tuple[float, float], most: int, per_token: float) -> int:
    """Returns the steps to one of an aspect ratio, for blocks of up to `most` tokens.

    They are as fine as leaves `most * per_token` of them within int32.

    Raises:
        ValueError: naming the option `name`, if they would be too coarse.
    """
    low, high = aspect_ratio
    unit = int(2**_INT32_BITS // (per_token * max(most, 1) + 1))
    if unit * min(low, 1) < _COARSEST:
        coarsest = math.ceil(_COARSEST / max(min(low, 1), 1e-300))
        limit = max(int((2**_INT32_BITS / coarsest - 1) / per_token), 0)
        raise ValueError(
            f"{name} from {low:g} to {high:g} leaves 32-bit arithmetic room for blocks of up to "
            f"{limit} tokens, and here a block may have {most}"
        )
    return unit


def aspect_range(name: str, aspect_ratio: tuple[float, float], most: int) -> Steps:
    """Returns the draw of an aspect ratio for blocks of up to `most` tokens.

    `4 * count * aspect` and `4 * count / aspect` stay within int32. A decimal is what its digits
    say, and where both ends are the same it is drawn exactly.
    """
    low, high = aspect_ratio
    unit = aspect_unit(name, aspect_ratio, most, 4 * max(high, high / low, 1))
    exact_low, exact_high = Fraction(str(low)), Fraction(str(high))
    grains = [_DECIMAL, 1]
    if low == high:
        grains = [math.lcm(_DECIMAL, exact_low.denominator), exact_low.denominator, 1]
    unit -= unit % next(grain for grain in grains if grain <= unit)
    return steps(exact_low, exact_high, unit)


def log_uniform(low: float, high: float) -> np.ndarray:
    """Returns equally likely numbers for one that is log-uniform: float64[1024].

    They are the middles of equal parts; from 0.3 to 1 / 0.3 they are 0.24 % apart.
    """
    return np.clip(np.geomspace(low, high, 2 * 1024 + 1)[1::2], low, high)


class JepaSizes(NamedTuple):
    """Sizes of `round(sqrt(n * aspect))` by `round(sqrt(n / aspect))`, half to even.

    On a sequence a block is `n` tokens long.
    """

    counts: Steps
    aspects: Steps | None
    """None on a sequence."""
    widest: tuple[tuple[int, ...], ...]
    """Every height that can be drawn with its greatest width, at least one token each."""

    def largest_area(self, room: Sequence[int]) -> int:
        """The most tokens that a block has once it is clamped to a room."""
        return max(math.prod(map(min, size, room)) for size in self.widest)


@functools.lru_cache(maxsize=1024)
def jepa_sizes(name: str, counts: Steps, aspect_ratio: tuple[float, float], rank: int) -> JepaSizes:
    """Plans the sizes of I-JEPA's and V-JEPA's blocks; cached for eager calls.

    Args:
        name: of the aspect ratio's option, for errors.
        counts: tokens of a block, before they are rounded down.
        aspect_ratio: `(min, max)`, the default on a sequence.
        rank: 1 for a sequence, 2 for an image or a frame.
    """
    fewest, most = least_and_most(counts)
    if rank == 1:
        if aspect_ratio != JEPA_ASPECT_RATIO:
            raise ValueError(
                f"{name} has no meaning on a sequence and must be {JEPA_ASPECT_RATIO}, "
                f"got {aspect_ratio}"
            )
        return JepaSizes(counts, None, ((max(most, 1),),))
    aspects = aspect_range(name, aspect_ratio, most)
    unit = aspects.unit
    lowest, highest = (
        rounded_sqrt(4 * count * aspect, unit, half_even=True)
        for count, aspect in ((fewest, aspects.first), (most, aspects.last))
    )
    widest = []
    for height in range(lowest, highest + 1):
        # The widest block of a height has the most tokens that are no higher at the lowest aspect
        # ratio, and the lowest aspect ratio at which they are as high.
        count = min(most, (_least_four_x(height + 1, unit) - 1) // (4 * aspects.first))
        aspect = max(-(-_least_four_x(height, unit) // max(4 * count, 1)), aspects.first)
        if aspect <= aspects.last:
            width = rounded_sqrt(4 * count * unit, aspect, half_even=True)
            widest.append((max(height, 1), max(width, 1)))
    return JepaSizes(counts, aspects, tuple(widest))


def refuse_thin_grid(
    grid: Sequence[int], frame: Sequence[int], sizes: JepaSizes, scale: str, aspect: str
) -> None:
    """Raises if no block that the sizes draw keeps `_THINNEST` of its tokens on a frame.

    Args:
        grid: for the error.
        frame: the sides to which blocks are clamped.
        sizes: the plan.
        scale: the name of the scale's option.
        aspect: the name of the aspect ratio's option.
    """
    fewest = max(least_and_most(sizes.counts)[0], 1)
    largest = sizes.largest_area(frame)
    if largest < _THINNEST * fewest:
        raise ValueError(
            f"grid {tuple(grid)} is too thin: {scale} asks for blocks of at least {fewest} tokens, "
            f"and the largest block of this {aspect} holds {largest} there; take the grid "
            f"(length,) for a sequence, or another {aspect}"
        )


def draw_jepa_size(
    count_draws: jax.Array, aspect_draws: jax.Array, sizes: JepaSizes
) -> tuple[jax.Array, ...]:
    """Draws the sides of blocks, not yet clamped to the grid: uint32 draws, int32 sides."""
    count = draw_whole(count_draws, sizes.counts)
    if sizes.aspects is None:
        return (count,)
    return traced_sides(count, draw_steps(aspect_draws, sizes.aspects), sizes.aspects.unit)


def traced_sides(
    count: jax.Array, aspect: jax.Array, unit: int, parts: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Returns `round(sqrt(n * a))` and `round(sqrt(n / a))`, half to even.

    Args:
        count: int32, `n` in `parts` to a token.
        aspect: int32, `a` in steps of `1 / unit`.
        unit: steps to one.
        parts: parts to a token.
    """
    return (
        traced_rounded_sqrt(4 * count * aspect, jnp.int32(parts * unit), half_even=True),
        traced_rounded_sqrt(4 * count * unit, parts * aspect, half_even=True),
    )


def rounded_sqrt(four_x: int, divisor: int = 1, *, half_even: bool = False) -> int:
    """Returns `round(sqrt(x / divisor))`, half away from zero or half to even."""
    side = (math.isqrt(four_x // divisor) + 1) // 2
    is_odd_tie = half_even and side % 2 and (2 * side - 1) ** 2 * divisor == four_x
    return side - 1 if is_odd_tie else side


def traced_rounded_sqrt(
    four_x: jax.Array, divisor: jax.Array, *, half_even: bool = False
) -> jax.Array:
    """Returns `round(sqrt(x / divisor))` of int32 numbers, at most 2**30 after the division.

    The float floor can be one off only next to a whole number, and the test in whole numbers gives
    that number from both.
    """
    floor = (jnp.sqrt(lax.div(four_x, divisor).astype(jnp.float32)) / 2).astype(jnp.int32)
    up = floor + 1
    if half_even:
        four_x = four_x - up % 2  # a tie must not reach an odd side
    return floor + ((2 * up - 1) ** 2 <= lax.div(four_x, divisor)).astype(jnp.int32)


def _least_four_x(side: int, divisor: int) -> int:
    """The least whole `4 * x` for which `round(sqrt(x / divisor))`, half to even, is `side`."""
    return (2 * side - 1) ** 2 * divisor + side % 2 if side > 0 else 0
