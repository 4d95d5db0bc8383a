"""Boxes of any size: what a strategy of one's own starts from."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax

from jepa_masks_jax import _boxes, _check, _draws


def box_mask(
    key: jax.Array,
    grid: _check.Grid,
    *,
    num_boxes: int,
    extent: Sequence[int | tuple[int, int] | None],
    placement: Literal["inside", "centred"] = "inside",
) -> jax.Array:
    """Draws a union of boxes, each of its own size: spans, strips, cubes.

    Args:
        key: one PRNG key, typed or legacy.
        grid: one to four sides, at least two tokens.
        num_boxes: number of boxes, from 1 to 2**16; they may overlap.
        extent: for every axis an int, an inclusive pair `(min, max)` from which each box draws its
            own, or None for the whole axis; numbers from 1 to 2**24, clamped to the axis. One entry
            for each axis: `((2, 4),)` on a sequence, `(2, 4)` is 2 high and 4 wide on an image.
        placement: `"inside"` draws the corner uniformly over every position that keeps the box
            inside. `"centred"` draws the centre uniformly over all tokens, starts the box at
            `centre - size // 2`, and cuts it off at the edges.

    Returns:
        bool[*grid], True at the target tokens. Neither it nor its complement, the context, is
        empty: of boxes that cover everything one uniformly random token is left out.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if `key` is a batch of keys or an option is out of its range.

    Source:
        This library's own; the block strategies are unions of such boxes.

    Example:
        >>> mask = box_mask(jax.random.key(0), (64, 8), num_boxes=2, extent=(4, None))
        >>> mask.shape, bool((mask.any(1) == mask.all(1)).all())
        ((64, 8), True)
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(1, 2, 3, 4))
    num_boxes = _check.block_count("num_boxes", num_boxes)
    if not isinstance(placement, str) or placement not in ("inside", "centred"):
        raise ValueError(f"placement must be 'inside' or 'centred', got {placement!r}")
    plan = _Plan(num_boxes, _check_extent(extent, grid), placement == "centred")
    return _box_mask(key, grid, plan)


class _Plan(NamedTuple):
    num_boxes: int
    extent: tuple[tuple[int, int], ...]
    """The least and the most tokens of a box along each axis."""
    centred: bool


def _check_extent(extent: Any, grid: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    meaning = f"one entry for each axis, {len(grid)} in all, such as ((2, 4),) on a sequence"
    if not _check.is_sequence(extent) and getattr(extent, "ndim", 0) != 2:
        raise TypeError(f"extent must have {meaning}, got {extent!r}")
    if len(extent) != len(grid):
        raise ValueError(f"extent must have {meaning}, got {extent!r}")

    def pair(i: int) -> tuple[int, int]:
        part = extent[i]
        if part is None:
            return grid[i], grid[i]
        if _check.is_sequence(part):
            return _check.count_range(f"extent[{i}]", part, _check.MAX_TOKENS)
        return (_check.count(f"extent[{i}]", part, 1, _check.MAX_TOKENS),) * 2

    return tuple(pair(i) for i in range(len(grid)))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _box_mask(key: jax.Array, grid: tuple[int, ...], plan: _Plan) -> jax.Array:
    def draw_size(*draws: jax.Array) -> list[jax.Array]:
        return [
            _draws.whole_between(draw, *pair) for draw, pair in zip(draws, plan.extent, strict=True)
        ]

    return _boxes.random_union(
        key,
        grid,
        draw_size,
        num_boxes=plan.num_boxes,
        size_draws=len(grid),
        largest=[most for _, most in plan.extent],
        draw_start=_place_centred if plan.centred else _boxes.place,
    )


def _place_centred(
    draws: _boxes.PerAxis, size: _boxes.PerAxis, grid: tuple[int, ...]
) -> list[jax.Array]:
    """Draws centres uniformly over all tokens, and returns the starts."""
    centre = _boxes.place(draws, (1,) * len(grid), grid)
    return [at - part // 2 for at, part in zip(centre, size, strict=True)]
