"""Several samples in one row: which share it, and which tokens of it attend to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _draws, _tracing
from jepa_masks_jax._check import Array, Int
from jepa_masks_jax._tokens import check_indices
from jepa_masks_jax._types import TokenIndices


def in_rows(key: jax.Array, masks: Any, *, per_row: Int) -> Any:
    """Puts the samples of a batch into rows that hold about equally many tokens.

    A row is an index list that several samples share. One list a sample has to be as long as the
    largest mask, but samples can be grouped so that their totals hardly vary:

    ```
    one list each        a a a a a a a a a . . . .      nine tokens and four of padding
                         b b b . . . . . . . . . .
                         c c c c c . . . . . . . .
                         d d d d d d d . . . . . .
    rows of two          a a a a a a a a a b b b        in_rows puts a with b, c with d
                         c c c c c d d d d d d d
    ```

    `balanced_order` finds the order from the counts of the first array, and every array of `masks`
    is put into that order. If masks do not depend on their images, as I-JEPA's, the images can stay
    where they are: any image can take any mask. If masks do depend on their images, as with
    `within`, pass what belongs to an image too:
    `in_rows(key, (context, patches, sides), per_row=2)`.

    The samples of a call are one group. Keep each group on one device. `.github/ROWS.md` has
    complete steps, and pools for small batches.

    Args:
        key: a single PRNG key.
        masks: arrays with a leading batch axis, `[B, ...]`, or a pytree of them, such as a
            `ContextTargetMasks` or a tuple. The first, in a dict that of the first key in sorted
            order, is a batch of masks, bool[B, *grid].
        per_row: how many samples share a row, `G`, from 1 to `B`, a divisor of `B`.

    Returns:
        `masks` with arrays `[B / G, G, ...]`. Each `row` of the first array is a row of masks for
        `token_indices(row, size=..., per_row=G)`. Targets bool[B, M, *grid] become
        bool[B / G, G, M, *grid]: list the `m`-th of every sample with a `jax.vmap` over the axis
        of `M`, as in the example.

    Raises:
        TypeError: if `key` is not a key, `masks` does not begin with a boolean array, or `per_row`
            is not a static integer.
        ValueError: if the arrays differ in their batch axis, or `per_row` does not divide it.

    Example:
        >>> import jepa_masks_jax as jm
        >>> keys = jax.random.split(jax.random.key(0), 64)
        >>> masks = jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)))(keys)
        >>> context, targets = jm.in_rows(jax.random.key(1), masks, per_row=2)
        >>> context.shape, targets.shape
        ((32, 2, 14, 14), (32, 2, 4, 14, 14))

        The lists of one row: its contexts, and each of the four targets of both samples.

        >>> seen = jm.token_indices(context[0], size=192, per_row=2)
        >>> list_targets = lambda row: jm.token_indices(row, size=84, per_row=2)
        >>> predicted = jax.vmap(list_targets, in_axes=1)(targets[0])
        >>> seen.sample.shape, predicted.sample.shape
        ((192,), (4, 84))
    """
    key, leaves = _check.key(key), jax.tree.leaves(masks)
    first = _check.mask("the first array of masks", leaves[0] if leaves else masks)
    for leaf in leaves:
        _check.refuse_foreign("masks", leaf)
        if not _check.is_array(leaf):
            raise TypeError(f"masks must be arrays with a batch axis, got {_check.brief(leaf)}")
        if first.ndim < 2 or leaf.shape[:1] != first.shape[:1]:
            raise ValueError(
                "masks must begin with bool[B, *grid], and all have the same batch axis B, got "
                f"shapes {first.shape} and {leaf.shape}"
            )
    per_row = _divisor("per_row", per_row, len(first))

    @_tracing.jit
    def sample(key: jax.Array, masks: Any) -> Any:
        first = jnp.asarray(jax.tree.leaves(masks)[0])
        counts = jnp.sum(first, axis=range(1, first.ndim), dtype=jnp.int32)
        rows = balanced_order(key, counts, per_row=per_row).reshape(-1, per_row)
        return jax.tree.map(lambda array: jnp.asarray(array)[rows], masks)

    return sample(key, masks)


def balanced_order(
    key: jax.Array, counts: Array, *, per_row: Int | None = None, rows: Int | None = None
) -> jax.Array:
    """Orders a group of samples, so that rows of consecutive samples have about equal totals.

    `in_rows` applies it to a batch of masks. For a group of `B` samples with `G` samples to a row,
    there are `R = B / G` rows:

    ```
    counts of B = 6 samples      50 90 20 70 80 40
    order for per_row=2          2 1 | 5 4 | 3 0
    counts in this order         20 90 | 40 80 | 70 50
    totals of the rows           110 | 120 | 120
    ```

    The samples are sorted by count and dealt out to the rows in a snake: to rows `1, ..., R`, then
    to `R, ..., 1`, and so on. Then the rows are shuffled, and so is the order within each row. So
    every position is equally likely to get each sample. Which samples share a row, however, follows
    from the counts alone.

    A larger group is better balanced. Keep each group on one device, so that devices need not
    communicate: use `jax.vmap` over groups whose keys are sharded, or a pool, which every device
    orders for itself (`.github/ROWS.md`). On explicit axes of a mesh, the `counts` of a group must
    not be sharded. The order depends on the size of a group: keep that size when the number of
    devices changes, and the rows stay the same.

    Args:
        key: a single PRNG key.
        counts: integer[B] of any type, traced or not: the token count of each sample, such as
            `context.sum((1, 2))`.
        per_row: how many samples share a row, `G`, from 1 to `B`, a divisor of `B`.
        rows: the count of rows `R` instead, from 1 to `B`, a divisor of `B`. Exactly one of
            `per_row` and `rows` is given.

    Returns:
        int32[B], a permutation of the samples. Samples `order[r * G]` to `order[r * G + G - 1]`
        share row `r`.

    Raises:
        TypeError: if `key` is not a key, `counts` is not an integer array, `per_row` or `rows` is
            not a static integer, or both or neither of them are given.
        ValueError: if `counts` has another rank or no entry, or if `per_row` or `rows` does not
            divide `B`.

    Example:
        >>> counts = jnp.array([50, 90, 20, 70, 80, 40])
        >>> order = balanced_order(jax.random.key(0), counts, per_row=2)
        >>> sorted(counts[order].reshape(3, 2).sum(1).tolist())
        [110, 120, 120]
    """
    key, counts = _check.key(key), _check_counts(counts)
    _check.exactly_one(per_row=per_row, rows=rows)
    if per_row is not None:
        rows = counts.size // _divisor("per_row", per_row, counts.size)
    rows = _divisor("rows", rows, counts.size)

    @_tracing.jit
    def sample(key: jax.Array, counts: Any) -> jax.Array:
        samples = counts.size
        # XLA does not sort an int2.
        if jnp.iinfo(counts.dtype).bits < 32:  # type: ignore[no-untyped-call]
            counts = counts.astype(jnp.int32)
        _, by_count = lax.sort((counts, lax.iota(jnp.int32, samples)), num_keys=2)
        turn, column = (lax.broadcasted_iota(jnp.int32, (samples // rows, rows), i) for i in (0, 1))
        goes_back = turn % 2 == 1
        words = _draws.random_words(key, rows + samples)
        row_words, place_words = words[None, :rows], words[rows:]
        row = jnp.where(goes_back, rows - 1 - column, column).reshape(-1)
        row_word = jnp.where(goes_back, row_words[:, ::-1], row_words).reshape(-1)
        *_, order = lax.sort((row_word, row, place_words, by_count), num_keys=4)
        return order

    return sample(key, counts)


def attention_mask(
    queries: TokenIndices | Sequence[TokenIndices],
    keys: TokenIndices | Sequence[TokenIndices] | None = None,
) -> jax.Array:
    """Marks which keys each query may attend to: those of its own sample.

    ```
    row of two samples, size=6    a a a b b .      . padding

    keys      a a a b b .
    query a   # # # . . .
    query b   . . . # # .
    padding   . . . . . #
    ```

    A query without a key attends to all keys, so that no softmax is over nothing: that would make
    the gradients of every parameter NaN if an attention writes `-inf` where the mask is False.
    Padding is such a query if the keys have no padding, and that is harmless. A sample without
    context has such queries, too: their outputs are finite but not right, since they see the other
    samples, so leave it out of the loss.

    For a batch of rows: `jax.vmap(attention_mask)(queries, keys)`. In a `jax.lax.scan` over layers
    pass a bias that is made once outside, `jnp.where(mask, 0, jnp.finfo(dtype).min / 2)`: XLA keeps
    a mask for the gradient as it is broadcast to the heads, about the logits of one layer.

    For one list of a whole batch the mask would be large. Use a kernel for sequences of unequal
    length there, which takes their offsets instead (`.github/MODELS.md`).

    Args:
        queries: an index list or row, or a tuple of those that the model concatenates, in that
            order.
        keys: the same for the keys. Default None: the queries.

    Returns:
        bool[queries, keys], True where a query may attend. Add the axis of the heads for most
        libraries: `mask[None]`.

    Raises:
        TypeError: if one of the lists is not a `TokenIndices` of int32 and bool.
        ValueError: if the lists have unequal `per_row`, if there is no list, or if one is that of a
            batch.

    Example:
        The places of a target attend to the context, which has two samples in a row:

        >>> import jepa_masks_jax as jm
        >>> context = jnp.array([[True, False, True], [False, True, False]])
        >>> seen = jm.token_indices(context, size=3, per_row=2)
        >>> at = jm.token_indices(~context, size=4, per_row=2)
        >>> attention_mask(at, seen).astype(int).tolist()
        [[1, 1, 0], [0, 0, 1], [0, 0, 1], [1, 1, 1]]

        A predictor that reads both, one after the other:

        >>> attention_mask((seen, at)).shape
        (7, 7)
    """
    queries = _lists("queries", queries)
    keys = queries if keys is None else _lists("keys", keys)
    if len({listed.per_row for listed in (*queries, *keys)}) > 1:
        got = " and ".join(str([listed.per_row for listed in lists]) for lists in (queries, keys))
        raise ValueError(f"queries and keys must have one per_row, got {got}")

    @_tracing.jit
    def same_sample(queries: Any, keys: Any) -> jax.Array:
        of_query, of_key = (
            jnp.concatenate([listed.sample for listed in lists]) for lists in (queries, keys)
        )
        mask = of_query[:, None] == of_key[None]
        return mask | ~jnp.any(mask, axis=1, keepdims=True)

    return same_sample(queries, keys)


def _lists(name: str, lists: Any) -> tuple[TokenIndices, ...]:
    """Returns one list or several as a tuple."""
    several = isinstance(lists, tuple | list)
    for i, listed in enumerate(lists if several else [lists]):
        check_indices(f"{name}[{i}]" if several else name, listed)
    if several and not lists:
        raise ValueError(f"{name} must have at least one index list, got {lists}")
    return tuple(lists) if several else (lists,)


def _divisor(name: str, value: Any, samples: int) -> int:
    """Returns how many samples a row has, or how many rows there are."""
    divisor = _check.integer(name, value, 1, samples)
    if samples % divisor:
        raise ValueError(f"{name} must divide the {samples} samples, got {divisor}")
    return divisor


def _check_counts(counts: Any) -> Any:
    """Returns counts that JAX sorts as they are: integer[B]."""
    _check.refuse_foreign("counts", counts)
    dtype, shape = getattr(counts, "dtype", None), getattr(counts, "shape", ())
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"counts must be an integer array, got {_check.brief(counts)}")
    if len(shape) != 1 or 0 in shape:
        raise ValueError(
            "counts must have shape (B,), a count for each sample of one group, got shape "
            f"{shape}; use jax.vmap for groups"
        )
    if isinstance(counts, np.ndarray):  # JAX would drop high bits; ranks keep the order.
        return np.unique(counts, return_inverse=True)[1].astype(np.int32)
    return counts
