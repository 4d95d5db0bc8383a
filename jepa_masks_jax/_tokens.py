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
from jepa_masks_jax._check import Array, Int
from jepa_masks_jax._types import TokenIndices


def token_indices(
    mask: Array, *, size: Int, key: jax.Array | None = None, per_row: Int | None = None
) -> TokenIndices:
    """Lists the tokens of a mask, or of a row of masks, in an index list of static length.

    ```
    mask  . # # .     size=4:  indices 1 2 4 8   valid T T T F   (8 = padding)
          # . . .     size=2:  indices 1 2 (first two; with a key, a random two)
    ```

    If the mask has more than `size` tokens and `key` is given, a random subset of `size` tokens is
    kept, every subset with equal probability: the result is
    `token_indices(clip_count(key, mask, maximum=size), size=size)` to the bit. Without `key`,
    tokens beyond the first `size` in row-major order are dropped.

    In a batch, give every mask its own key, because choices by the same key are correlated:
    `jax.vmap(lambda mask, key: token_indices(mask, size=64, key=key))(masks, keys)`.

    With `per_row=G`, the masks of `G` samples share one list, a row: `sample` says which of them
    each entry belongs to, and `place` which of its tokens that is. `in_rows` groups the samples of
    a batch, `list_size` finds the length of a row, and `attention_mask` keeps its samples apart.

    True tokens are listed, so the context of a masked model is `token_indices(~target, ...)`. With
    `within`, `~target` includes padding of the grid, so list `inside(grid, within) & ~target`.

    Args:
        mask: bool[*grid], of any rank from 1: one mask, since a batch would be taken for a grid.
            With `per_row=G`, a row of masks, bool[G, *grid].
        size: length of the list, from 1 to all tokens of the mask.
        key: one PRNG key, typed or legacy; None drops the last tokens of a mask that is too large.
        per_row: how many samples share the list: the length of the mask's first axis. Without it a
            row is one sample, whose images attend to each other, and nothing raises. A list for
            all samples of a batch has `per_row=B`. Default None: the mask is that of one sample.

    Returns:
        TokenIndices: `indices` int32[size], ascending in row-major order, then padding, which holds
        the token count and so points at no token; `valid` bool[size], False at the padding;
        `num_tokens` and `per_row`, static ints. After `jax.vmap`: int32[B, size] and bool[B, size].

    Raises:
        TypeError: if `mask` is not a boolean array, `size` or `per_row` is not a static integer, or
            `key` is neither a key nor None.
        ValueError: if `mask` has no axis, its first axis is not `per_row` long, `size` is out of
            its range, or `key` is a batch of keys.

    Example:
        >>> mask = jnp.array([[False, True, True, False], [True, False, False, False]])
        >>> random_two = token_indices(mask, size=2, key=jax.random.key(0))
        >>> random_two.indices.tolist()
        [2, 4]
        >>> indices, valid = token_indices(mask, size=4)
        >>> indices.tolist(), valid.tolist()
        ([1, 2, 4, 8], [True, True, True, False])

        The same as a row of two samples of four tokens each:

        >>> row = token_indices(mask, size=4, per_row=2)
        >>> row.sample.tolist(), row.place.tolist()
        ([0, 0, 1, 2], [1, 2, 0, 0])
    """
    mask = _check.mask("mask", mask)
    size = _check.integer("size", size, 1, mask.size)
    samples = 1 if per_row is None else _check.integer("per_row", per_row)
    if per_row is not None and (mask.ndim < 2 or len(mask) != samples):
        raise ValueError(
            f"mask must be a row of masks, bool[{samples}, *grid] for per_row={samples}, got shape "
            f"{mask.shape}; in_rows makes rows of a batch, and jax.vmap lists each of them"
        )

    @_tracing.jit
    def listed(mask: jax.Array, key: jax.Array | None) -> TokenIndices:
        if key is not None:
            mask = _subsets.clip(key, mask, None, 0, size)

        def by_sorting(flat: jax.Array) -> jax.Array:
            return lax.sort(jnp.where(flat, lax.iota(jnp.int32, flat.size), flat.size))[:size]

        def by_counting(flat: jax.Array) -> jax.Array:
            place = jnp.cumsum(flat, dtype=jnp.int32) - 1
            return _inverse(jnp.where(flat & (place < size), place, size), size)

        indices = lax.platform_dependent(mask.reshape(-1), tpu=by_sorting, default=by_counting)
        return TokenIndices(indices, indices < mask.size, mask.size, samples)

    return listed(mask, None if key is None else _check.key(key))


def _inverse(places: jax.Array, size: int) -> jax.Array:
    """Lists where each place stands in `places`: int32[size], `len(places)` if nowhere.

    Any number of `places` may be `size`, which is no place.
    """
    entries = lax.iota(jnp.int32, places.size)
    found = jnp.full(size + 1, places.size, jnp.int32)
    return found.at[places].set(entries, mode="promise_in_bounds")[:size]


def take_tokens(tokens: ArrayLike, indices: TokenIndices, *, fill: Any = 0) -> jax.Array:
    """Gathers the tokens of an index list or a row.

    For a batch: `jax.vmap(take_tokens)(tokens, indices)`. If several lists share the tokens, such
    as positions or the targets of one sample:
    `jax.vmap(take_tokens, in_axes=(None, 0))(positions, indices)`.

    A row takes the tokens of all its samples, one after the other: reshape `[G, N, D]` to
    `[G * N, D]`. What all samples share, such as positions, is `positions[row.place]`.

    `fill` can mark what a loss ignores: `take_tokens(labels[:, None], indices, fill=-100)[:, 0]`.

    A mean over valid tokens is `jnp.mean(error, where=indices.valid)`. A product with `valid` is
    not enough, because infinity times 0 is NaN. A loss that divides by a token's norm, such as a
    cosine distance, has NaN gradients at zeros in either case: use `fill=1` there, or add an
    epsilon under the square root of the norm.

    Args:
        tokens: `[..., N, D]`, of any dtype, with the `N` tokens of the mask's grid in row-major
            order and no class token.
        indices: what `token_indices` returns for one mask or one row.
        fill: what padding gathers, a static number that the tokens' dtype can hold. 0 is what
            `jnp.zeros` gives in any dtype, PRNG keys included.

    Returns:
        `[..., size, D]` of the tokens' dtype, `fill` where not valid. Gradients flow to the valid
        tokens only.

    Raises:
        TypeError: if `indices` is not a `TokenIndices` of int32 and bool, `tokens` is not an array,
            or `fill` is not a number, or complex for real tokens.
        ValueError: if `tokens` has fewer than two axes or another `N` than the mask or the row,
            `indices` are those of a batch, or the tokens' dtype cannot hold `fill`.

    Example:
        >>> key, labels = jax.random.key(0), jnp.array([7, 8, 9])
        >>> indices = token_indices(jnp.array([True, False, True]), size=3, key=key)
        >>> take_tokens(labels[:, None], indices, fill=-100)[:, 0].tolist()
        [7, 9, -100]
        >>> take_tokens(jnp.arange(6.0).reshape(3, 2), indices).tolist()
        [[0.0, 1.0], [4.0, 5.0], [0.0, 0.0]]
    """
    check_indices("indices", indices)
    samples, tokens_each = indices.per_row, indices.num_tokens // indices.per_row
    advice = (
        "drop a class token, reshape a map [H, W, D] to [H * W, D], and use jax.vmap for a batch"
    )
    if samples > 1:
        advice = (
            f"reshape the [{samples}, {tokens_each}, D] of a row of {samples} samples, and "
            f"jnp.tile(x, ({samples}, 1)) the [{tokens_each}, D] that its samples share"
        )
    _check_tokens(tokens, indices.num_tokens, f"one for each token of the mask: {advice}")
    number = _static_number(fill, tokens)

    @_tracing.jit
    def take(tokens: Any, indices: TokenIndices) -> jax.Array:
        return _entries_or_fill(jnp.asarray(tokens), _places(indices), number)

    return take(tokens, indices)


def put_tokens(tokens: ArrayLike, indices: TokenIndices, *, fill: Any = 0) -> jax.Array:
    """Puts tokens back where `take_tokens` took them from.

    For a batch that shares one mask token:
    `jax.vmap(lambda tokens, indices: put_tokens(tokens, indices, fill=mask_token))(tokens,
    indices)`.

    Args:
        tokens: `[..., size, D]`, of any dtype, in the order of `indices`.
        indices: what `token_indices` returns for one mask or one row.
        fill: what stands where no token is put: a static number that the tokens' dtype can hold; an
            array cast to that dtype, a scalar or a mask token of shape `[D]` or `[1, ..., D]`; or
            one token for each place, `[num_tokens, D]`, of a dtype that the tokens' dtype holds
            without loss.

    Returns:
        `[..., num_tokens, D]` of the tokens' dtype. Gradients flow to the valid tokens and to an
        array `fill`.

    Raises:
        TypeError: if `indices` is not a `TokenIndices` of int32 and bool, `tokens` is not an array,
            `fill` is neither a number nor an array, `fill` is complex for real tokens, or a
            `[num_tokens, D]` of a wider dtype.
        ValueError: if `tokens` has fewer than two axes or another size than the list, `fill` has
            another shape, `indices` are those of a batch, or the tokens' dtype cannot hold `fill`.

    Example:
        >>> key, mask = jax.random.key(0), jnp.array([False, True, True])
        >>> indices = token_indices(mask, size=2, key=key)
        >>> put_tokens(jnp.array([[1.0], [2.0]]), indices, fill=-1).tolist()
        [[-1.0], [1.0], [2.0]]

        Only some tokens pass a layer, and the others stay as they are:

        >>> x = jnp.array([[5.0], [6.0], [7.0]])
        >>> put_tokens(10 * take_tokens(x, indices), indices, fill=x).tolist()
        [[5.0], [60.0], [70.0]]
    """
    check_indices("indices", indices)
    advice = "one for each entry of the index list; use jax.vmap for a batch"
    _check_tokens(tokens, indices.indices.size, advice)
    _check.refuse_foreign("fill", fill)
    if _check.is_array(fill):
        _check_fill_array(fill, tokens, indices.num_tokens)
    else:
        fill = _static_number(fill, tokens)

    @_tracing.jit
    def put(tokens: Any, indices: TokenIndices, fill: Any) -> jax.Array:
        entries = _inverse(_places(indices), indices.num_tokens)
        return _entries_or_fill(jnp.asarray(tokens), entries, fill)

    return put(tokens, indices, fill)


def _places(indices: TokenIndices) -> jax.Array:
    """Returns the place of each entry, `num_tokens` for padding whatever stood there."""
    return jnp.where(indices.valid, indices.indices, indices.num_tokens)


def _entries_or_fill(tokens: jax.Array, entries: jax.Array, fill: Any) -> jax.Array:
    """Gathers entries of tokens, and `fill` for one after the last: `[..., len(entries), D]`."""
    last, batch = tokens.shape[-2] - 1, (None,) * (tokens.ndim - 2)
    # A gather out of bounds, even one that is filled, is an error to checkify.
    gathered = tokens.at[..., jnp.minimum(entries, last), :].get(
        mode="promise_in_bounds", out_sharding=_explicit_sharding(tokens, entries)
    )
    if fill is None:
        fill = jnp.zeros((), tokens.dtype)
    elif isinstance(fill, bytes):
        fill = np.frombuffer(fill, tokens.dtype)[0]
    else:
        fill = jnp.asarray(fill).astype(tokens.dtype)
        if fill.ndim:
            one_or_each = fill.reshape(fill.shape[-2:])
            fill = jnp.broadcast_to(one_or_each, (len(entries), fill.shape[-1]))[*batch]
    return jnp.where((entries <= last)[*batch, :, None], gathered, fill)


def _explicit_sharding(tokens: jax.Array, entries: jax.Array) -> NamedSharding | None:
    """Returns how gathered tokens are sharded, which explicit axes of a mesh need to be told."""
    of_tokens, of_entries = (jax.typeof(array).sharding for array in (tokens, entries))
    # Tokens from NumPy have no mesh.
    mesh = of_entries.mesh if of_tokens.mesh.empty else of_tokens.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return None
    *batch, _, depth = of_tokens.spec
    return NamedSharding(mesh, P(*batch, None, depth))  # type: ignore[no-untyped-call]


def check_indices(name: str, indices: Any) -> None:
    """Refuses what is not one index list or row."""
    got: Any = _check.brief(indices)
    if isinstance(indices, TokenIndices):
        got = [part.dtype if _check.is_array(part) else type(part).__name__ for part in indices]
    if got != [jnp.int32, jnp.bool_]:
        raise TypeError(
            f"{name} must be the TokenIndices that token_indices(mask, size=K) returns, whole and "
            f"not unpacked, of int32 and bool, got {got}"
        )
    shapes = [part.shape for part in indices]
    if len(shapes[0]) != 1 or shapes[1] != shapes[0]:
        raise ValueError(
            f"{name} must be one index list or row, int32[size], got {shapes[0]}; use jax.vmap for "
            "a batch"
        )


def _check_tokens(tokens: Any, count: int, advice: str) -> None:
    _check.refuse_foreign("tokens", tokens)
    if not _check.is_array(tokens):
        raise TypeError(
            f"tokens must be an array of shape [..., {count}, D], got {_check.brief(tokens)}"
        )
    if len(tokens.shape) < 2 or tokens.shape[-2] != count:
        raise ValueError(f"tokens must have shape [..., {count}, D], got {tokens.shape}; {advice}")


def _check_fill_array(fill: Any, tokens: Any, num_tokens: int) -> None:
    held, of_fill = (jnp.result_type(array) for array in (tokens, fill))
    are_keys = [jnp.issubdtype(dtype, jax.dtypes.prng_key) for dtype in (held, of_fill)]
    if any(are_keys) and held != of_fill:
        raise TypeError(f"fill must be of the tokens' dtype {held}, got {_check.brief(fill)}")
    _refuse_complex(of_fill, held, fill)
    shape, depth = fill.shape, tokens.shape[-1]
    if not shape or shape == (1,) * (len(shape) - 1) + (depth,):
        return
    if shape != (num_tokens, depth):
        raise ValueError(
            f"fill must be a number or of shape ({depth},), (1, ..., {depth}) or "
            f"({num_tokens}, {depth}), got shape {shape}"
        )
    if held != of_fill and not np.can_cast(of_fill, held):
        raise TypeError(
            f"fill must be of a dtype that {held} tokens hold without loss, got "
            f"{_check.brief(fill)}; use .astype({held})"
        )


def _refuse_complex(of_fill: Any, held: Any, fill: Any) -> None:
    is_complex, fits = (jnp.issubdtype(of, np.complexfloating) for of in (of_fill, held))
    if is_complex and not fits:
        raise TypeError(f"fill must be real for {held} tokens, got {_check.brief(fill)}")


def _static_number(fill: Any, tokens: Any) -> bytes | None:
    """Returns a number as its bytes in the tokens' dtype, and None for 0, the zero of any dtype.

    As a static argument, bytes are equal for two NaNs, and differ for 0.0 and -0.0.
    """
    _check.refuse_tracer("fill", fill)
    is_no_number = isinstance(fill, np.flexible | np.datetime64 | np.timedelta64)
    if is_no_number or not isinstance(fill, numbers.Complex | np.generic):
        raise TypeError(f"fill must be a number, got {_check.brief(fill)}")
    dtype = jnp.result_type(tokens)  # NumPy's 64 bits may be 32 inside jit.
    _refuse_complex(np.asarray(fill).dtype, dtype, fill)
    if isinstance(fill, numbers.Integral) and fill == 0:
        return None
    held = _as_held(fill, dtype)
    if held is None:
        raise ValueError(
            f"fill must be a number that {dtype} tokens can hold, got {_check.brief(fill)}"
        )
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
