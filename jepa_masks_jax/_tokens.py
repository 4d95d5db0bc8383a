"""From masks to tokens inside `jit`: exact counts, static index lists, gathering."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _check, _counts, _draws, _subsets, _tracing

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
    exactly: _counts.Count | None = None,
    minimum: _counts.Count | None = None,
    maximum: _counts.Count | None = None,
    among: jax.Array | None = None,
) -> jax.Array:
    """Brings the count of True tokens to an exact number, or within bounds, by random tokens.

        count > maximum    remove random tokens of the mask
        count < minimum    add random tokens of `among`, until none are left
        otherwise          return the mask unchanged

    Every subset of the right size is equally likely to be removed or added.

    Args:
        key: a single PRNG key.
        mask: bool[*grid] with one axis or more. One mask: a batch would be read as a grid.
        exactly: both bounds at once, from 0 to all tokens; excludes `minimum` and `maximum`.
        minimum: minimum of True tokens, from 0 to `maximum`; 0 if None.
        maximum: maximum of True tokens, from 0 to all tokens; all tokens if None. Each bound may be
            an integer array of shape (), traced or not, and so follow a schedule: it is clamped
            into `[0, tokens]`, and if `maximum < minimum`, `maximum` applies.
        among: bool[*grid], the tokens that may be added; any if None. For a context give
            `~targets.any(0)`, or tokens of the targets may be added; for samples of different sizes
            give `inside(grid, within)`, or padding may be.

    Returns:
        bool[*grid].

    Raises:
        TypeError: if `key` is not a key, a mask is not boolean, a bound is not an integer, or
            `exactly` is given with another bound.
        ValueError: if a bound is out of its range, or if the shapes differ.

    Example:
        >>> import jepa_masks_jax as jm
        >>> mask_key, clip_key = jax.random.split(jax.random.key(0))
        >>> context, targets = jm.ijepa_masks(mask_key, (14, 14))
        >>> context = jm.clip_count(clip_key, context, exactly=64, among=~targets.any(0))
        >>> int(context.sum())
        64

        A context, a target and tokens in neither: 60 random tokens, then 80 of the others.

        >>> nothing = jnp.zeros((14, 14), bool)
        >>> context = jm.clip_count(mask_key, nothing, exactly=60)
        >>> target = jm.clip_count(clip_key, nothing, exactly=80, among=~context)
        >>> int(context.sum()), int(target.sum()), bool((context & target).any())
        (60, 80, False)
    """
    key, mask = _check.key(key), _check.mask("mask", mask)
    if exactly is not None:
        if minimum is not None or maximum is not None:
            raise TypeError("exactly must not be given together with minimum or maximum")
        minimum = maximum = _counts.check("exactly", exactly, 0, mask.size)
    least = 0 if minimum is None else _counts.check("minimum", minimum, 0, mask.size)
    most = mask.size if maximum is None else _counts.check("maximum", maximum, 0, mask.size)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        raise ValueError(f"minimum must be at most maximum, got {least} and {most}")
    return _clip_count(key, mask, _check.among(among, mask.shape), least, most)


@_tracing.jit
def _clip_count(
    key: jax.Array, mask: jax.Array, among: jax.Array | None, minimum: Any, maximum: Any
) -> jax.Array:
    minimum, maximum = (
        bound if isinstance(bound, int) else _counts.clamp(bound, 0, mask.size)
        for bound in (minimum, maximum)
    )
    chosen = mask.reshape(-1)
    others = ~chosen if among is None else among.reshape(-1) & ~chosen
    count = jnp.sum(chosen, dtype=jnp.int32)
    too_many = count > maximum
    pool = jnp.where(too_many, chosen, others)
    most_added = jnp.minimum(jnp.sum(others, dtype=jnp.int32), maximum - count)
    added = jnp.maximum(jnp.minimum(minimum - count, most_added), 0)
    picked = _subsets.random_subset(
        _draws.random_words(key, mask.size), pool, jnp.where(too_many, maximum, added)
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
    size = _check.whole("size", size, 1, mask.size)
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
