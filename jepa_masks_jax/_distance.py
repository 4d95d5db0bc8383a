"""The distance of every token to the nearest one of a mask."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _check, _tracing
from jepa_masks_jax._check import Array

_FARTHEST = 2**30
"""A distance beyond every grid. The square of a side can be added to it in int32."""

_LONGEST_AT_ONCE = 32
"""The longest side for which XLA never holds all pairs of places in a CPU's memory."""


def squared_distance(mask: Array) -> jax.Array:
    """Measures every token's squared distance to the nearest True one, in whole token units.

    V-JEPA 2.1 weights the loss on its context tokens by one over the root of the distance:
    `jnp.maximum(squared_distance(target), 1).astype(jnp.float32) ** -0.25`. The distance is 0 at
    the targets: it is clipped at 1 to avoid infinite weights there. With one option of its code the
    distance is first divided by `height // 16`, which multiplies the weights by the root of that.

    Args:
        mask: bool[*grid], of any rank from 1.

    Returns:
        int32[*grid], 0 at the True tokens; `2**30` everywhere if the mask is empty.

    Raises:
        TypeError: if `mask` is not a boolean array.
        ValueError: if `mask` has no axis or the diagonal of the grid reaches 2**15 tokens.

    Example:
        >>> squared_distance(jnp.array([[True, False, False], [False, False, False]])).tolist()
        [[0, 1, 4], [1, 2, 5]]
    """
    mask = _check.mask("mask", mask)
    if sum((side - 1) ** 2 for side in mask.shape) >= _FARTHEST:
        raise ValueError(f"mask must have a diagonal of less than 2**15 tokens, got {mask.shape}")

    @_tracing.jit
    def measured(mask: jax.Array) -> jax.Array:
        nearest = jnp.where(mask, 0, jnp.int32(_FARTHEST))
        for axis, side in enumerate(mask.shape):
            at_once = functools.partial(_nearest_along, axis=axis)
            by_place = functools.partial(_nearest_along_by_place, axis=axis)
            on_cpu = by_place if side > _LONGEST_AT_ONCE else at_once
            nearest = lax.platform_dependent(nearest, cpu=on_cpu, default=at_once)
            nearest = jnp.minimum(nearest, _FARTHEST)
        return nearest

    return measured(mask)


def _nearest_along(nearest: jax.Array, axis: int) -> jax.Array:
    """Takes in the squared distances along one axis, all pairs of its places at once."""
    side = nearest.shape[axis]
    at = lax.iota(jnp.int32, side)
    apart = ((at[:, None] - at[None]) ** 2).reshape(*[1] * (nearest.ndim - 1), side, side)
    lines = jnp.moveaxis(nearest, axis, -1)
    return jnp.moveaxis(jnp.min(lines[..., None, :] + apart, axis=-1), -1, axis)


def _nearest_along_by_place(nearest: jax.Array, axis: int) -> jax.Array:
    """Gives what `_nearest_along` gives, in the memory of one array of the mask's shape."""
    side = nearest.shape[axis]
    shape = [side if i == axis else 1 for i in range(nearest.ndim)]
    at = lax.broadcasted_iota(jnp.int32, shape, axis)

    def take_in(found: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        there = lax.dynamic_index_in_dim(nearest, place, axis)
        return jnp.minimum(found, there + (at - place) ** 2), None

    return lax.scan(take_in, nearest, lax.iota(jnp.int32, side))[0]
