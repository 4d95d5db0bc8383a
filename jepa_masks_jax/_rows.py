"""Several samples in one row: an order of the samples in which all rows are about equally long."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jepa_masks_jax import _check, _draws, _tracing


def balanced_order(key: jax.Array, counts: _check.Array, *, rows: _check.Int) -> jax.Array:
    """Orders a group of samples, so that rows of consecutive samples have about equal totals.

    A row is an index list that holds the tokens of several samples. For a group of `B` samples
    and `R` rows, each row has `G = B / R` samples:

    ```
    counts of B = 6 samples      50 90 20 70 80 40
    order for R = 3 rows         2 1 | 5 4 | 3 0
    counts in this order         20 90 | 40 80 | 70 50
    totals of the rows           110 | 120 | 120
    ```

    The samples are sorted by count and dealt out to the rows in a snake: to rows `1, ..., R`, then
    to `R, ..., 1`, and so on. Then the rows are shuffled, and the places in each row. So every
    place is equally likely to get each sample, although samples of equal counts do not meet in a
    row as often as by chance.

    If masks do not depend on their images, reorder the masks alone: `context[order]`,
    `targets[order]`. If they do, as with `within`, put the images in the same order.

    A row of masks, bool[G, *grid], is one mask to `token_indices`. With `N` tokens to a grid,
    `indices // N` is the sample of each token in its row, and `G` for padding.

    A group may be smaller than the batch. A larger group is better balanced, but for data
    parallelism each group should stay on one device, so that devices need not communicate: use
    `jax.vmap` over the groups, as in the example. On explicit axes of a mesh, `counts` of a group
    must not be sharded. The order depends on the size of a group, so keep that size when the number
    of devices changes, and the rows stay the same.

    Args:
        key: a single PRNG key.
        counts: integer[B] of any type, traced or not: the token count of each sample, such as
            `context.sum((1, 2))`.
        rows: the count of rows `R`, from 1 to `B`, a divisor of `B`.

    Returns:
        int32[B], a permutation of the samples. Samples `order[r * G]` to `order[r * G + G - 1]`
        share row `r`.

    Raises:
        TypeError: if `key` is not a key, `counts` is not an integer array, or `rows` is not a
            static integer.
        ValueError: if `counts` has another rank or no entry, or if `rows` does not divide `B`.

    Example:
        Pairs of I-JEPA's contexts in rows of 192, in a batch of two groups of 64 samples:

        >>> import jepa_masks_jax as jm
        >>> def pairs(key):  # of one group
        ...     mask_key, order_key, row_key = jax.random.split(key, 3)
        ...     mask_keys = jax.random.split(mask_key, 64)
        ...     context = jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14)).context)(mask_keys)
        ...     order = jm.balanced_order(order_key, context.sum((1, 2)), rows=32)
        ...     rows = context[order].reshape(32, 2, 14, 14)
        ...     list_row = lambda row, key: jm.token_indices(row, size=192, key=key)
        ...     return jax.vmap(list_row)(rows, jax.random.split(row_key, 32))
        >>> keys = jax.random.split(jax.random.key(0), 2)  # shard them over the devices
        >>> seen = jax.jit(jax.vmap(pairs))(keys)
        >>> seen.indices.shape, seen.num_tokens
        ((2, 32, 192), 392)
        >>> sample = seen.indices // 196  # of each token, in its row
        >>> f"{seen.valid.mean():.0%} of the entries are tokens"
        '94% of the entries are tokens'
    """
    key, counts = _check.key(key), _check_counts(counts)
    rows = _check.integer("rows", rows, 1, counts.size)
    if counts.size % rows:
        raise ValueError(f"rows must divide the {counts.size} samples of counts, got {rows}")

    @_tracing.jit
    def sample(key: jax.Array, counts: Any) -> jax.Array:
        samples = counts.size
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


def _check_counts(counts: Any) -> Any:
    """Returns counts that JAX sorts as they are: integer[B]."""
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
