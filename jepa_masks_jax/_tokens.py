"""From masks to tokens inside `jit`: static index lists, taking tokens, putting them back."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from jepa_masks_jax import _check, _subsets, _tracing
from jepa_masks_jax._types import TokenIndices


def token_indices(
    mask: _check.Array, *, size: _check.Int, key: jax.Array | None = None
) -> TokenIndices:
    """Lists a mask's tokens in an index list of static length.

    ```
    mask  . # # .     size=4:  indices 1 2 4 8   valid T T T F   (8 = padding)
          # . . .     size=2:  indices 1 2 (first two; with a key, a random two)
    ```

    If the mask has more than `size` tokens and `key` is given, a random subset of `size` tokens is
    kept, every subset with equal probability: the result is
    `token_indices(clip_count(key, mask, maximum=size), size=size)` to the bit. Without `key`,
    tokens beyond the first `size` in row-major order are dropped.

    For a batch, every mask needs its own key:
    `jax.vmap(lambda mask, key: token_indices(mask, size=64, key=key))(masks, keys)`. If all masks
    share one key, their choices are correlated.

    True tokens are listed, so the context of a masked model is `token_indices(~target, ...)`. With
    `within`, `~target` includes padding of the grid: list `inside(grid, within) & ~target`.

    Args:
        mask: bool[*grid], of any rank from 1: one mask, since a batch would be taken for a grid.
        size: length of the list, from 1 to all tokens.
        key: one PRNG key, typed or legacy; None drops the last tokens of a mask that is too large.

    Returns:
        TokenIndices: `indices` int32[size], ascending in row-major order, then padding, which holds
        the token count and so points at no token; `valid` bool[size], False at the padding;
        `num_tokens` int, static. After `jax.vmap`: int32[B, size] and bool[B, size].

    Raises:
        TypeError: if `mask` is not a boolean array, `size` is not a static integer, or `key` is
            neither a key nor None.
        ValueError: if `mask` has no axis, `size` is out of its range, or `key` is a batch of keys.

    Example:
        >>> mask = jnp.array([[False, True, True, False], [True, False, False, False]])
        >>> random_two = token_indices(mask, size=2, key=jax.random.key(0))
        >>> random_two.indices.tolist()
        [2, 4]
        >>> indices, valid = token_indices(mask, size=4)
        >>> indices.tolist(), valid.tolist()
        ([1, 2, 4, 8], [True, True, True, False])
    """
    mask = _check.mask("mask", mask)
    size = _check.integer("size", size, 1, mask.size)

    @_tracing.jit
    def listed(mask: jax.Array, key: jax.Array | None) -> TokenIndices:
        if key is not None:
            mask = _subsets.clip(key, mask, None, 0, size)
        indices = lax.platform_dependent(
            mask.reshape(-1),
            tpu=lambda flat: _sorted_indices(flat)[:size],
            default=lambda flat: _counted_indices(flat, size),
        )
        return TokenIndices(indices, indices < mask.size, mask.size)

    return listed(mask, None if key is None else _check.key(key))


def _sorted_indices(flat: jax.Array) -> jax.Array:
    index = lax.iota(jnp.int32, flat.size)
    return lax.sort(jnp.where(flat, index, flat.size))


def _counted_indices(flat: jax.Array, size: int) -> jax.Array:
    place = jnp.cumsum(flat, dtype=jnp.int32) - 1
    place = jnp.where(flat & (place < size), place, size)
    return _inverse(place, size)


def _inverse(places: jax.Array, size: int) -> jax.Array:
    """Lists which entry of `places` each place stands in: int32[size], `len(places)` if in none.

    Any number of entries may be `size`, which is no place.
    """
    entries = lax.iota(jnp.int32, places.size)
    found = jnp.full(size + 1, places.size, jnp.int32)
    return found.at[places].set(entries, mode="promise_in_bounds")[:size]


def take_tokens(tokens: ArrayLike, indices: TokenIndices, *, fill: Any = 0) -> jax.Array:
    """Gathers one sample's tokens by an index list.

    For a batch: `jax.vmap(take_tokens)(tokens, indices)`. If
    several lists share the tokens, such as positions or the targets of one sample:
    `jax.vmap(take_tokens, in_axes=(None, 0))(positions, indices)`.

    `fill` can mark what a loss ignores: `take_tokens(labels[:, None], indices, fill=-100)[:, 0]`.

    A loss that divides by a token's norm, such as a cosine distance, has NaN gradients at zeros,
    even if `valid` masks it afterwards. Use `fill=1` there, or add an epsilon under the square root
    of the norm.

    Args:
        tokens: `[..., N, D]`, of any dtype, with the `N` tokens of the mask's grid in row-major
            order and no class token.
        indices: what `token_indices` returns for one mask.
        fill: what padding gathers, a static number that the tokens' dtype can hold. 0 is the
            zero of any dtype, PRNG keys included.

    Returns:
        `[..., size, D]` of the tokens' dtype, `fill` where not valid. Gradients flow to the valid
        tokens only.

    Raises:
        TypeError: if `indices` is not a `TokenIndices` of int32 and bool, `tokens` is not an array,
            or `fill` is not a number, or complex for real tokens.
        ValueError: if `tokens` has fewer than two axes or another `N` than the mask, `indices` are
            those of a batch, or the tokens' dtype cannot hold `fill`.

    Example:
        >>> key, labels = jax.random.key(0), jnp.array([7, 8, 9])
        >>> indices = token_indices(jnp.array([True, False, True]), size=3, key=key)
        >>> take_tokens(labels[:, None], indices, fill=-100)[:, 0].tolist()
        [7, 9, -100]
        >>> take_tokens(jnp.arange(6.0).reshape(3, 2), indices).tolist()
        [[0.0, 1.0], [4.0, 5.0], [0.0, 0.0]]
    """
    _check_indices(indices)
    _check_tokens(
        tokens,
        indices.num_tokens,
        "tokens have a row for each token of the mask: drop a class token, reshape a map [H, W, D] "
        "to [H * W, D], and use jax.vmap for a batch of masks",
    )
    return _take_tokens(tokens, indices, _static_number(fill, tokens))


@_tracing.jit
def _take_tokens(tokens: Any, indices: TokenIndices, fill: bytes | None) -> jax.Array:
    return _rows_or_fill(jnp.asarray(tokens), _places(indices), fill)


def put_tokens(tokens: ArrayLike, indices: TokenIndices, *, fill: Any = 0) -> jax.Array:
    """Puts tokens back where `take_tokens` took them from.

    For a batch, with one mask token for all:
    `jax.vmap(lambda tokens, indices: put_tokens(tokens, indices, fill=mask_token))(tokens,
    indices)`.

    Args:
        tokens: `[..., size, D]`, of any dtype, in the order of `indices`.
        indices: what `token_indices` returns for one mask.
        fill: what stands where no token is put: a static number that the tokens' dtype can hold,
            or an array, cast to that dtype: a scalar, or a mask token of shape `[D]` or
            `[1, ..., D]`.

    Returns:
        `[..., num_tokens, D]` of the tokens' dtype. Gradients flow to the valid tokens and to an
        array `fill`.

    Raises:
        TypeError: if `indices` is not a `TokenIndices` of int32 and bool, `tokens` is not an array,
            `fill` is neither a number nor an array, or `fill` is complex for real tokens.
        ValueError: if `tokens` has fewer than two axes or another size than the list, `fill` has
            another shape, `indices` are those of a batch, or the tokens' dtype cannot hold `fill`.

    Example:
        >>> key, mask = jax.random.key(0), jnp.array([False, True, True])
        >>> indices = token_indices(mask, size=2, key=key)
        >>> put_tokens(jnp.array([[1.0], [2.0]]), indices, fill=-1).tolist()
        [[-1.0], [1.0], [2.0]]
    """
    _check_indices(indices)
    _check_tokens(
        tokens,
        indices.indices.shape[0],
        "tokens have a row for each entry of the index list; use jax.vmap for a batch",
    )
    if _check.is_array(fill):
        _check_fill_array(fill, tokens)
    else:
        fill = _static_number(fill, tokens)
    return _put_tokens(tokens, indices, fill)


@_tracing.jit
def _put_tokens(tokens: Any, indices: TokenIndices, fill: Any) -> jax.Array:
    rows = _inverse(_places(indices), indices.num_tokens)
    return _rows_or_fill(jnp.asarray(tokens), rows, fill)


def _places(indices: TokenIndices) -> jax.Array:
    """Returns the place of each entry, `num_tokens` for padding whatever stood there."""
    return jnp.where(indices.valid, indices.indices, indices.num_tokens)


def _rows_or_fill(tokens: jax.Array, rows: jax.Array, fill: Any) -> jax.Array:
    """Gathers rows of tokens, and `fill` for a row after the last: `[..., len(rows), D]`."""
    last, batch = tokens.shape[-2] - 1, (None,) * (tokens.ndim - 2)
    # A gather out of bounds, even one that is filled, is an error to checkify.
    gathered = tokens.at[..., jnp.minimum(rows, last), :].get(
        mode="promise_in_bounds", out_sharding=_explicit_sharding(tokens, rows)
    )
    if fill is None:
        fill = jnp.zeros((), tokens.dtype)
    elif isinstance(fill, bytes):
        fill = np.frombuffer(fill, tokens.dtype)[0]
    else:
        fill = jnp.asarray(fill).astype(tokens.dtype)
        if fill.ndim:
            fill = jnp.squeeze(fill, range(fill.ndim - 1))[*batch, None]
    return jnp.where((rows <= last)[*batch, :, None], gathered, fill)


def _explicit_sharding(tokens: jax.Array, rows: jax.Array) -> NamedSharding | None:
    """Returns how rows of tokens are sharded, which explicit axes of a mesh need to be told."""
    of_tokens, of_rows = (jax.typeof(array).sharding for array in (tokens, rows))
    # Tokens from NumPy have no mesh.
    mesh = of_rows.mesh if of_tokens.mesh.empty else of_tokens.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return None
    *batch, _, depth = of_tokens.spec
    return NamedSharding(mesh, P(*batch, None, depth))  # type: ignore[no-untyped-call]


def _check_indices(indices: TokenIndices) -> None:
    got: Any = _check.brief(indices)
    if isinstance(indices, TokenIndices):
        got = [getattr(part, "dtype", type(part).__name__) for part in indices]
    if got != [jnp.int32, jnp.bool_]:
        raise TypeError(
            "indices must be the TokenIndices that token_indices(mask, size=K) returns, whole and "
            f"not unpacked, of int32 and bool, got {got}"
        )
    shapes = [part.shape for part in indices]
    if len(shapes[0]) != 1 or shapes[1] != shapes[0]:
        raise ValueError(
            f"indices must be those of one mask, int32[size], got {shapes[0]}; use jax.vmap for a "
            "batch"
        )


def _check_tokens(tokens: Any, rows: int, advice: str) -> None:
    if not _check.is_array(tokens):
        raise TypeError(f"tokens must be an array of shape [..., {rows}, D], got {tokens!r}")
    if len(tokens.shape) < 2 or tokens.shape[-2] != rows:
        raise ValueError(f"tokens must have shape [..., {rows}, D], got {tokens.shape}; {advice}")


def _check_fill_array(fill: Any, tokens: Any) -> None:
    if jnp.issubdtype(fill.dtype, np.complexfloating):
        _refuse_real(tokens.dtype, fill)
    shape, depth = fill.shape, tokens.shape[-1]
    if shape and shape != (1,) * (len(shape) - 1) + (depth,):
        raise ValueError(
            f"fill must be a number or of shape ({depth},) or (1, ..., {depth}), got shape {shape}"
        )


def _refuse_real(dtype: Any, fill: Any) -> None:
    if not jnp.issubdtype(dtype, np.complexfloating):
        raise TypeError(f"fill must be real for {dtype} tokens, got {_check.brief(fill)}")


def _static_number(fill: Any, tokens: Any) -> bytes | None:
    """Returns a number as its bytes in the tokens' dtype, and None for 0, the zero of any dtype.

    As a static argument, bytes are equal for two NaNs, and differ for 0.0 and -0.0.
    """
    _check.refuse_tracer("fill", fill)
    is_no_number = isinstance(fill, np.flexible | np.datetime64 | np.timedelta64)
    if is_no_number or not isinstance(fill, numbers.Complex | np.generic):
        raise TypeError(f"fill must be a number, got {_check.brief(fill)}")
    if isinstance(fill, complex | np.complexfloating):
        _refuse_real(tokens.dtype, fill)
    dtype = jnp.result_type(tokens)  # NumPy's 64 bits may be 32 inside jit.
    if isinstance(fill, int) and fill == 0:
        return None
    held = _as_held(fill, dtype)
    if held is None:
        raise ValueError(f"fill must be a number that {dtype} tokens can hold, got {fill!r}")
    return held.tobytes()


def _as_held(fill: Any, dtype: Any) -> np.ndarray | None:
    """Returns a number in a dtype, or None if the dtype cannot hold it."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return None
    is_complex, is_float = (jnp.issubdtype(dtype, of) for of in (np.complexfloating, np.floating))
    kind = complex if is_complex else float if is_float else int
    try:
        value = kind(fill)
        with np.errstate(over="ignore"):
            held = np.asarray(value).astype(dtype)
        back = kind(held)
    except (OverflowError, ValueError):  # float(10**400), int(nan)
        return None
    if back == fill or (back != back and value != value):
        return held
    if kind is int:
        return None
    # Rounding is fine, but not to infinity or down to the largest number.
    limits = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    return held if abs(value) < float(limits.max) * (1 + float(limits.eps) / 4) else None
