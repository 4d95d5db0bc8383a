"""From masks to tokens inside `jit`: exact counts, static index lists, gathering."""

import cmath
import dataclasses
import functools
import numbers
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jepa_masks_jax import _check, _counts, _draws, _exports, _subsets, _tracing

_FARTHEST = 2**30
"""A distance beyond every grid. The square of a side can be added to it in int32."""

_LONGEST_AT_ONCE = 32
"""The longest side for which XLA never holds all pairs of places in a CPU's memory."""


@_exports.storable
@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("indices", "valid"),
    meta_fields=("num_tokens",),
)
@dataclasses.dataclass(frozen=True, eq=False)
class TokenIndices:
    """An index list: the tokens of a mask, padded to a static length.

    ```
    mask -> token_indices -> take_tokens -> network -> put_tokens
            list K tokens    [N, D] -> [K, D]          [K, D] -> [N, D]
    ```

    Unpacks as `indices, valid`. After `jax.vmap` the fields have a leading batch axis, such as
    `indices: int32[B, size]`, and `num_tokens` is still one int.
    """

    indices: jax.Array
    """int32[size], ascending in row-major order; padding entries equal `num_tokens`"""
    valid: jax.Array
    """bool[size], False at the padding"""
    num_tokens: int
    """the token count of the mask's grid, static"""

    def __iter__(self) -> Iterator[jax.Array]:
        return iter((self.indices, self.valid))


def clip_count(
    key: jax.Array,
    mask: jax.Array,
    *,
    exactly: _counts.Count | None = None,
    minimum: _counts.Count = 0,
    maximum: _counts.Count | None = None,
    among: jax.Array | None = None,
) -> jax.Array:
    """Adds or removes random tokens, so that the count of True tokens is exact or within bounds.

        count > maximum    remove random tokens of the mask
        count < minimum    add random tokens of `among`, until none are left
        otherwise          return the mask unchanged

    Every subset of the right size is equally likely to be removed or added.

    Args:
        key: a single PRNG key.
        mask: bool[*grid] with one axis or more. One mask: a batch would be read as a grid.
        exactly: both bounds at once, from 0 to all tokens; excludes `minimum` and `maximum`.
        minimum: minimum of True tokens, from 0 to `maximum`.
        maximum: maximum of True tokens, from 0 to all tokens; all tokens if None. Each bound may be
            an integer array of shape (), traced or not, and so follow a schedule: it is clamped
            into `[0, tokens]`, and if `maximum < minimum`, `maximum` applies.
        among: bool[*grid], the tokens that may be added; any if None. For a context give
            `~targets.any(0)`, otherwise target tokens may be added. For samples of different sizes
            give `inside(grid, within)`; otherwise padding may be added.

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
        if maximum is not None or not (isinstance(minimum, int) and minimum == 0):
            raise TypeError("exactly must not be given together with minimum or maximum")
        minimum = maximum = _counts.check("exactly", exactly, 0, mask.size)
    if maximum is None:
        maximum = mask.size
    maximum = _counts.check("maximum", maximum, 0, mask.size)
    minimum = _counts.check("minimum", minimum, 0, mask.size)
    if isinstance(minimum, int) and isinstance(maximum, int) and minimum > maximum:
        raise ValueError(f"minimum must be at most maximum, got {minimum} and {maximum}")
    return _clip_count(key, mask, _check.among(among, mask.shape), minimum, maximum)


@_tracing.jit
def _clip_count(
    key: jax.Array, mask: jax.Array, among: jax.Array | None, minimum: Any, maximum: Any
) -> jax.Array:
    minimum, maximum = (
        _counts.clamp(jnp.asarray(bound), 0, mask.size) for bound in (minimum, maximum)
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
    """Lists a mask's tokens in an index list of static length.

    ```
    mask  . # # .     size=4:  indices 1 2 4 8   valid T T T F   (8 = padding)
          # . . .     size=2:  indices 1 2 (first two; with a key, a random two)
    ```

    If the mask has more than `size` tokens and `key` is given, a random subset of `size` tokens is
    kept, every subset with equal probability: the result is
    `token_indices(clip_count(key, mask, maximum=size), size=size)` to the bit. Without `key`,
    tokens beyond the first `size` in raster order are dropped.

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
    size = _check.whole("size", size, 1, mask.size)
    return _token_indices(mask, size, None if key is None else _check.key(key))


@_tracing.jit
def _token_indices(mask: jax.Array, size: int, key: jax.Array | None) -> TokenIndices:
    if key is not None:
        mask = _clip_count(key, mask, None, 0, size)
    indices = lax.platform_dependent(
        mask.reshape(-1),
        tpu=lambda flat: _sorted_indices(flat)[:size],
        default=lambda flat: _counted_indices(flat, size),
    )
    return TokenIndices(indices, indices < mask.size, mask.size)


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


def take_tokens(tokens: jax.Array, indices: TokenIndices, *, fill: Any = 0) -> jax.Array:
    """Gathers one sample's tokens by an index list.

    `TokenIndices` shows the whole chain. For a batch: `jax.vmap(take_tokens)(tokens, indices)`. If
    several lists share the tokens, such as positions or the targets of one sample:
    `jax.vmap(take_tokens, in_axes=(None, 0))(positions, indices)`.

    `fill` marks what a loss ignores: `take_tokens(labels[:, None], indices, fill=-100)[:, 0]`.

    Args:
        tokens: `[..., N, D]`, of any dtype, with the `N` tokens of the mask's grid in row-major
            order and no class token.
        indices: what `token_indices` returns for one mask.
        fill: what padding gathers, a static number that the tokens' dtype can hold.

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
    return _take_tokens(tokens, indices, _number_bytes(fill, tokens))


@_tracing.jit
def _take_tokens(tokens: jax.Array, indices: TokenIndices, fill: bytes) -> jax.Array:
    return _rows_or_fill(jnp.asarray(tokens), _places(indices), fill)


def put_tokens(tokens: jax.Array, indices: TokenIndices, *, fill: Any = 0) -> jax.Array:
    """Puts tokens back where `take_tokens` took them from.

    `TokenIndices` shows the whole chain. For a batch, with one mask token for all:
    `jax.vmap(lambda tokens, indices: put_tokens(tokens, indices, fill=mask_token))(tokens,
    indices)`.

    Args:
        tokens: `[..., size, D]`, of any dtype, in the order of `indices`.
        indices: what `token_indices` returns for one mask.
        fill: what stands where no token is put. Either a static number that the tokens' dtype can
            hold, or an array, cast to that dtype: a number, or a mask token `[D]` or `[1, ..., D]`.

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
    if _is_array(fill):
        _check_fill_array(fill, tokens)
        return _put_tokens(tokens, indices, fill)
    return _put_tokens(tokens, indices, _number_bytes(fill, tokens))


@_tracing.jit
def _put_tokens(tokens: jax.Array, indices: TokenIndices, fill: Any) -> jax.Array:
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
    if isinstance(fill, bytes):
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


def _check_tokens(tokens: Any, rows: int, advice: str) -> None:
    if not _is_array(tokens):
        raise TypeError(f"tokens must be an array of shape [..., {rows}, D], got {tokens!r}")
    if len(tokens.shape) < 2 or tokens.shape[-2] != rows:
        raise ValueError(f"tokens must have shape [..., {rows}, D], got {tokens.shape}; {advice}")


def _check_fill_array(fill: Any, tokens: jax.Array) -> None:
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


def _number_bytes(fill: Any, tokens: jax.Array) -> bytes:
    """Returns a number as its bytes in the tokens' dtype.

    As a static argument they are equal for two NaNs, and differ for 0.0 and -0.0.
    """
    _check.refuse_tracer("fill", fill)
    if not isinstance(fill, numbers.Complex | np.generic):
        raise TypeError(f"fill must be a number, got {_check.brief(fill)}")
    if isinstance(fill, complex | np.complexfloating):
        _refuse_real(tokens.dtype, fill)
    dtype = jnp.result_type(tokens)  # NumPy's 64 bits may be 32 inside jit.
    is_complex, is_float = (jnp.issubdtype(dtype, of) for of in (np.complexfloating, np.floating))
    kind = complex if is_complex else float if is_float else int
    try:
        value = kind(fill)  # type: ignore[arg-type]
        with np.errstate(over="ignore"):
            held = np.asarray(value).astype(dtype)
        if kind is int:
            is_held = int(held) == fill
        else:  # Rounding is fine, but not to infinity or from it to NaN.
            is_held = all(of(kind(held)) == of(value) for of in (cmath.isinf, cmath.isnan))
    except (OverflowError, ValueError):  # float(10**400), int(nan)
        is_held = False
    if not is_held:
        raise ValueError(f"fill must be a number that {dtype} tokens can hold, got {fill!r}")
    return held.tobytes()


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray) or hasattr(value, "__jax_array__")


def squared_distance(mask: jax.Array) -> jax.Array:
    """Measures every token's squared distance to the nearest True one, in whole token units.

    V-JEPA 2.1 weights the loss on its context tokens by one over the root of the distance:
    `jnp.maximum(squared_distance(target), 1).astype(jnp.float32) ** -0.25`. The distance is 0 at
    the targets: it is clipped at 1 to avoid infinite weights there.

    Args:
        mask: bool[*grid], of any rank from 1.

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


@_tracing.jit
def _squared_distance(mask: jax.Array) -> jax.Array:
    nearest = jnp.where(mask, 0, jnp.int32(_FARTHEST))
    for axis, side in enumerate(mask.shape):
        at_once = functools.partial(_nearest_along, axis=axis)
        if side > _LONGEST_AT_ONCE:
            by_place = functools.partial(_nearest_along_by_place, axis=axis)
            nearest = lax.platform_dependent(nearest, cpu=by_place, default=at_once)
        else:
            nearest = at_once(nearest)
        nearest = jnp.minimum(nearest, _FARTHEST)
    return nearest


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
