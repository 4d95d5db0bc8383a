"""From masks to tokens inside `jit`: exact counts, static index lists, gathering."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _check, _draws, _subsets

_FARTHEST = 2**30
"""Farther than any token of a grid whose distances are added in int32."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("indices", "valid"),
    meta_fields=("num_tokens",),
)
@dataclasses.dataclass(frozen=True, eq=False)
class TokenIndices:
    """The tokens of a mask as a list of static length; unpacks as `indices, valid`."""

    indices: jax.Array
    """int32[size], ascending in row-major order; `num_tokens` where not valid"""
    valid: jax.Array
    """bool[size]"""
    num_tokens: int
    """the number of tokens of the mask's grid, static"""

    def __iter__(self) -> Iterator[jax.Array]:
        return iter((self.indices, self.valid))


def clip_count(
    key: jax.Array,
    mask: jax.Array,
    *,
    minimum: _check.Count = 0,
    maximum: _check.Count | None = None,
    among: jax.Array | None = None,
) -> jax.Array:
    """Removes or adds uniformly random tokens until the count is within bounds.

    Above `maximum`, uniformly random tokens of the mask are removed; below `minimum`, uniformly
    random ones of `among` are added, until it runs out. A mask whose count is within the bounds is
    returned unchanged. With `minimum == maximum` every mask has the same count, as a static shape
    needs it, unless `among` runs out. Every token has a random number of 31 bits, the lowest are
    picked, and ties are broken in row-major order: every subset of the right size is equally likely
    but for ties, and two given numbers are equal once in 2**31.

    Args:
        key: one PRNG key, typed or legacy.
        mask: bool[*grid], of any rank from 1: one mask, since a batch would be taken for a grid.
        minimum: least number of True tokens, from 0 to `maximum`.
        maximum: greatest number of True tokens, from 0 to all tokens; all tokens if None. Either
            bound may be an integer array of shape (), traced or not, and so follow a schedule: it
            is clamped into `[0, tokens]`, and a maximum below the minimum wins.
        among: bool[*grid], the tokens that may be added; any if None.

    Returns:
        bool[*grid].

    Raises:
        TypeError: if `key` is not a key, a mask is not boolean, or a bound is not an integer.
        ValueError: if `key` is a batch of keys, a bound is out of its range, or the shapes differ.

    Example:
        >>> import jepa_masks_jax as jm
        >>> key, key2 = jax.random.split(jax.random.key(0))
        >>> target = jm.block_mask(key, (14, 14))
        >>> context = clip_count(key2, ~target, minimum=144, maximum=144, among=~target)
        >>> int(context.sum())
        144
    """
    key, mask = _check.key(key), _check.mask("mask", mask)
    tokens = mask.size
    most = tokens if maximum is None else _check.any_count("maximum", maximum, 0, tokens)
    least = _check.any_count("minimum", minimum, 0, tokens)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        raise ValueError(f"minimum must be at most maximum, got {least} and {most}")
    if among is not None and _check.mask("among", among).shape != mask.shape:
        raise ValueError(f"among must have the mask's shape {mask.shape}, got {among.shape}")
    return _clip_count(key, mask, among, *_check.part_counts(least, most))


@functools.partial(jax.jit, static_argnums=4)
def _clip_count(
    key: jax.Array,
    mask: jax.Array,
    among: jax.Array | None,
    arrays: tuple[Any, ...],
    numbers: tuple[Any, ...],
) -> jax.Array:
    minimum, maximum = (
        number if array is None else _subsets.clamp_count(array, 0, mask.size)
        for array, number in zip(arrays, numbers, strict=True)
    )
    chosen = mask.reshape(-1)
    others = ~chosen if among is None else among.reshape(-1) & ~chosen
    count = jnp.sum(chosen, dtype=jnp.int32)
    too_many = count > maximum
    pool = jnp.where(too_many, chosen, others)
    most_added = jnp.minimum(jnp.sum(others, dtype=jnp.int32), maximum - count)
    added = jnp.maximum(jnp.minimum(minimum - count, most_added), 0)
    picked = _subsets.random_subset(
        _draws.random_draws(key, mask.size), pool, jnp.where(too_many, maximum, added)
    )
    return jnp.where(too_many, picked, chosen | picked).reshape(mask.shape)


def token_indices(mask: jax.Array, *, size: int, key: jax.Array | None = None) -> TokenIndices:
    """Lists a mask's tokens in a list of static length.

    Of a mask of more than `size` tokens a key keeps a uniformly random `size`, and so favours no
    part of the image: the result is `token_indices(clip_count(key, mask, maximum=size), size=size)`
    to the bit. Without a key the last ones in row-major order are lost, always the same end of the
    grid.

    For a batch, `jax.vmap(functools.partial(token_indices, size=K))(masks, key=keys)` gives every
    mask its own key. A key that is closed over would keep the same part of each.

    Args:
        mask: bool[*grid], of any rank from 1: one mask, since a batch would be taken for a grid.
        size: length of the list, from 1 to all tokens.
        key: one PRNG key, typed or legacy, or None.

    Returns:
        TokenIndices: `indices` int32[size], ascending in row-major order, then padding, which holds
        the number of tokens and so points at no token; `valid` bool[size], False at the padding;
        `num_tokens` int, static.

    Raises:
        TypeError: if `mask` is not a boolean array, `size` is not a static integer, or `key` is
            neither a key nor None.
        ValueError: if `mask` has no axis, `size` is out of its range, or `key` is a batch of keys.

    Example:
        >>> indices, valid = token_indices(jnp.array([[True, False], [True, True]]), size=4)
        >>> indices.tolist(), valid.tolist()
        ([0, 2, 3, 4], [True, True, True, False])
    """
    mask = _check.mask("mask", mask)
    size = _check.count("size", size, 1, mask.size)
    if key is not None:
        mask = clip_count(key, mask, maximum=size)
    return _token_indices(mask, size)


@functools.partial(jax.jit, static_argnums=1)
def _token_indices(mask: jax.Array, size: int) -> TokenIndices:
    indices = lax.platform_dependent(
        mask.reshape(-1),
        cpu=lambda flat: jnp.nonzero(flat, size=size, fill_value=flat.size)[0].astype(jnp.int32),
        default=lambda flat: _sorted_numbers(flat)[:size],
    )
    return TokenIndices(indices, indices < mask.size, mask.size)


def _sorted_numbers(flat: jax.Array) -> jax.Array:
    number = lax.iota(jnp.int32, flat.size)
    return lax.sort(jnp.where(flat, number, flat.size))


def take_tokens(tokens: jax.Array, indices: TokenIndices) -> jax.Array:
    """Gathers one sample's tokens by their indices.

    For a batch: `jax.vmap(take_tokens)(tokens, indices)`; for several masks of one sample, such as
    the targets of `ijepa_masks`: `jax.vmap(take_tokens, in_axes=(None, 0))(tokens, indices)`.

    Args:
        tokens: `[..., N, D]`, of any dtype, with the `N` tokens of the mask's grid in row-major
            order and no class token.
        indices: what `token_indices` returns for one mask.

    Returns:
        `[..., size, D]` of the tokens' dtype, zeros where not valid. Gradients flow to the valid
        tokens only.

    Raises:
        TypeError: if `indices` is not a `TokenIndices` of int32 and bool, or `tokens` is not an
            array.
        ValueError: if `tokens` has fewer than two axes or another `N` than the mask, or `indices`
            are those of a batch.

    Example:
        >>> tokens = jnp.arange(8.0).reshape(4, 2)
        >>> indices = token_indices(jnp.array([False, True, False, False]), size=2)
        >>> take_tokens(tokens, indices).tolist()
        [[2.0, 3.0], [0.0, 0.0]]
    """
    _check_indices(indices)
    shape = getattr(tokens, "shape", None)
    if shape is None:
        raise TypeError(f"tokens must be an array of shape [..., N, D], got {tokens!r}")
    if len(shape) < 2 or shape[-2] != indices.num_tokens:
        raise ValueError(
            f"tokens must have shape [..., {indices.num_tokens}, D], a row for each token of the "
            f"mask that indices are of, got {shape}; drop a class token, reshape a map "
            "[H, W, D] to [H * W, D], and use jax.vmap for a batch of masks"
        )
    return _take_tokens(tokens, indices)


def _check_indices(indices: TokenIndices) -> None:
    if not isinstance(indices, TokenIndices):
        raise TypeError(
            "indices must be the TokenIndices that token_indices(mask, size=K) returns, got "
            f"{_check.brief(indices)}"
        )
    index, valid = indices
    dtypes = [getattr(part, "dtype", type(part).__name__) for part in indices]
    if dtypes != [jnp.int32, jnp.bool_]:
        raise TypeError(
            "indices must be the TokenIndices of token_indices, int32 and bool, "
            f"got {dtypes[0]} and {dtypes[1]}"
        )
    if index.ndim != 1 or valid.shape != index.shape:
        raise ValueError(
            f"indices must be those of one mask, int32[size], got {index.shape}; use jax.vmap for "
            "a batch"
        )


@jax.jit
def _take_tokens(tokens: jax.Array, indices: TokenIndices) -> jax.Array:
    return jnp.take(tokens, _padded(indices), axis=-2, mode="fill", fill_value=0)


def _padded(indices: TokenIndices) -> jax.Array:
    """Returns the indices with padding out of range, whatever stood there: int32[size]."""
    return jnp.where(indices.valid, indices.indices, indices.num_tokens)


def put_tokens(tokens: jax.Array, indices: TokenIndices, *, fill: Any = 0) -> jax.Array:
    """Puts tokens back where `take_tokens` took them from.

    For a batch: `jax.vmap(functools.partial(put_tokens, fill=mask_token))(tokens, indices)`.

    Args:
        tokens: `[..., size, D]`, of any dtype, in the order of `indices`.
        indices: what `token_indices` returns for one mask.
        fill: a number, or `[D]` such as a mask token, where no token is put; cast to the tokens'
            dtype. A Python number is static.

    Returns:
        `[..., num_tokens, D]` of the tokens' dtype. Gradients flow to the valid tokens and to
        `fill`.

    Raises:
        TypeError: if `indices` is not a `TokenIndices` of int32 and bool, or `tokens` is not an
            array.
        ValueError: if `tokens` has fewer than two axes or another size than the list, `fill` is
            neither a number nor `[D]`, or `indices` are those of a batch.

    Example:
        >>> indices = token_indices(jnp.array([False, True, True]), size=2)
        >>> put_tokens(jnp.array([[1.0], [2.0]]), indices, fill=-1).tolist()
        [[-1.0], [1.0], [2.0]]
    """
    _check_indices(indices)
    shape, size = getattr(tokens, "shape", None), indices.indices.shape[0]
    if shape is None:
        raise TypeError(f"tokens must be an array of shape [..., size, D], got {tokens!r}")
    if len(shape) < 2 or shape[-2] != size:
        raise ValueError(f"tokens must have shape [..., {size}, D], got {shape}")
    is_number = isinstance(fill, int | float)
    if not is_number and not hasattr(fill, "dtype"):
        raise TypeError(f"fill must be a number or an array, got {fill!r}")
    if jnp.shape(fill) not in ((), shape[-1:]):
        raise ValueError(
            f"fill must be a number or of shape {shape[-1:]}, got shape {jnp.shape(fill)}"
        )
    if is_number:
        # Traced, each call would move it to the device.
        return _put_tokens(tokens, indices, None, fill)
    return _put_tokens(tokens, indices, fill, None)


@functools.partial(jax.jit, static_argnums=3)
def _put_tokens(
    tokens: jax.Array, indices: TokenIndices, fill: Any, static_fill: float | None
) -> jax.Array:
    *batch, _, depth = tokens.shape
    fill = static_fill if fill is None else fill
    filled = jnp.broadcast_to(
        jnp.broadcast_to(jnp.asarray(fill).astype(tokens.dtype), (depth,)),
        (*batch, indices.num_tokens, depth),
    )
    return filled.at[..., _padded(indices), :].set(tokens, mode="drop")


def squared_distance(mask: jax.Array) -> jax.Array:
    """Measures every token's squared distance to the nearest True one, in whole token units.

    V-JEPA 2.1 weights the loss on its context tokens by one over the root of the distance:
    `squared_distance(target).astype(jnp.float32) ** -0.25`, which is infinite at the targets, where
    the distance is 0: put `jnp.maximum(…, 1)` around the distance if the loss is masked there.

    Args:
        mask: bool[*grid], of any rank from 1, with at least one True token.

    Returns:
        int32[*grid], 0 at the True tokens; `2**30` everywhere if there is none.

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
    return _squared_distance(mask)


@jax.jit
def _squared_distance(mask: jax.Array) -> jax.Array:
    nearest = jnp.where(mask, 0, jnp.int32(_FARTHEST))
    for axis, side in enumerate(mask.shape):
        at = lax.iota(jnp.int32, side)
        apart = (at[:, None] - at[None]) ** 2
        lines = jnp.moveaxis(nearest, axis, -1)
        apart = apart.reshape(*[1] * (lines.ndim - 1), side, side)
        lines = jnp.min(lines[..., None, :] + apart, axis=-1)
        nearest = jnp.minimum(jnp.moveaxis(lines, -1, axis), _FARTHEST)
    return nearest
