"""From masks to tokens inside `jit`: exact counts, static index lists, gathering."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax._checks import check_count, check_key, check_mask
from jepa_masks_jax._draws import random_draws
from jepa_masks_jax._subsets import random_subset


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
    minimum: int = 0,
    maximum: int | None = None,
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
        maximum: greatest number of True tokens, from 0 to all tokens; all tokens if None.
        among: bool[*grid], the tokens that may be added; any if None.

    Returns:
        bool[*grid].

    Raises:
        TypeError: if `key` is not a key, a mask is not boolean, or a bound is not a static integer.
        ValueError: if `key` is a batch of keys, a bound is out of its range, or the shapes differ.

    Example:
        >>> import jepa_masks_jax as jm
        >>> key, key2 = jax.random.split(jax.random.key(0))
        >>> target = jm.block_mask(key, (14, 14))
        >>> context = clip_count(key2, ~target, minimum=144, maximum=144, among=~target)
        >>> int(context.sum())
        144
    """
    key, mask = check_key(key), check_mask("mask", mask)
    tokens = mask.size
    maximum = tokens if maximum is None else check_count("maximum", maximum, 0, tokens)
    minimum = check_count("minimum", minimum, 0, tokens)
    if minimum > maximum:
        raise ValueError(f"minimum must be at most maximum, got {minimum} and {maximum}")
    if among is not None and check_mask("among", among).shape != mask.shape:
        raise ValueError(f"among must have the mask's shape {mask.shape}, got {among.shape}")
    return _clip_count(key, mask, among, minimum, maximum)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _clip_count(
    key: jax.Array, mask: jax.Array, among: jax.Array | None, minimum: int, maximum: int
) -> jax.Array:
    chosen = mask.reshape(-1)
    others = ~chosen if among is None else among.reshape(-1) & ~chosen
    count = jnp.sum(chosen, dtype=jnp.int32)
    too_many = count > maximum
    pool = jnp.where(too_many, chosen, others)
    added = jnp.clip(minimum - count, 0, jnp.sum(others, dtype=jnp.int32))
    picked = random_subset(random_draws(key, mask.size), pool, jnp.where(too_many, maximum, added))
    return jnp.where(too_many, picked, chosen | picked).reshape(mask.shape)


def token_indices(mask: jax.Array, *, size: int) -> TokenIndices:
    """Lists a mask's tokens in a list of static length.

    A mask of more than `size` tokens loses the last ones in row-major order, always the same end of
    the grid: `clip_count` removes uniformly random ones instead, and so no part of the image is
    favoured.

    Args:
        mask: bool[*grid], of any rank from 1: one mask, since a batch would be taken for a grid.
        size: length of the list, from 1 to all tokens.

    Returns:
        TokenIndices: `indices` int32[size], ascending in row-major order, then padding, which holds
        the number of tokens and so points at no token; `valid` bool[size], False at the padding;
        `num_tokens` int, static.

    Raises:
        TypeError: if `mask` is not a boolean array or `size` is not a static integer.
        ValueError: if `mask` has no axis or `size` is out of its range.

    Example:
        >>> indices, valid = token_indices(jnp.array([[True, False], [True, True]]), size=4)
        >>> indices.tolist(), valid.tolist()
        ([0, 2, 3, 4], [True, True, True, False])
    """
    mask = check_mask("mask", mask)
    return _token_indices(mask, check_count("size", size, 1, mask.size))


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
        raise TypeError(f"indices must be the TokenIndices of token_indices, got {indices!r}")
    index, valid = indices
    if index.dtype != jnp.int32 or valid.dtype != jnp.bool_:
        raise TypeError(
            "indices must be the TokenIndices of token_indices, int32 and bool, "
            f"got {index.dtype} and {valid.dtype}"
        )
    if index.ndim != 1 or valid.shape != index.shape:
        raise ValueError(
            f"indices must be those of one mask, int32[size], got {index.shape}; use "
            "jax.vmap(take_tokens) for a batch, with in_axes=(None, 0) for one sample's targets"
        )


@jax.jit
def _take_tokens(tokens: jax.Array, indices: TokenIndices) -> jax.Array:
    index = jnp.where(indices.valid, indices.indices, indices.num_tokens)
    return jnp.take(tokens, index, axis=-2, mode="fill", fill_value=0)
