"""Token counts and coverage of a batch of masks, in NumPy, for code outside jit."""

from typing import Any, NamedTuple

import numpy as np

from jepa_masks_jax import _check


class MaskStatistics(NamedTuple):
    """Token counts of a batch of masks, and how often each token is set."""

    min: int
    """the least count of the batch"""
    mean: float
    """the mean count"""
    max: int
    """the greatest count"""
    quantiles: dict[float, int]
    """for each fraction, the least count that as large a part of the masks does not exceed"""
    coverage: np.ndarray
    """float64[*grid], the fraction of the masks in which each token is set"""


def mask_statistics(masks: Any) -> MaskStatistics:
    """Counts the True tokens of a batch of masks.

    Args:
        masks: bool[batch, *grid], a NumPy or JAX array with exactly one batch axis and at least one
            mask.

    Returns:
        MaskStatistics: `min`, `mean` and `max` of the counts, their `quantiles` at 1, 5, 25, 50,
        75, 95 and 99 % (keys 0.01 to 0.99), and the per-token `coverage` float64[*grid].

    Raises:
        TypeError: if `masks` is traced or not a boolean array.
        ValueError: if there is no mask, or no grid behind the batch axis.

    Example:
        >>> stats = mask_statistics(np.array([[True, False], [True, True]]))
        >>> stats.min, stats.mean, stats.max, stats.coverage.tolist()
        (1, 1.5, 2, [1.0, 0.5])
    """
    batch = _check.host_mask("masks", masks, batch=True)
    counts = batch.reshape(len(batch), -1).sum(axis=1)
    fractions = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    quantiles = np.quantile(counts, fractions, method="inverted_cdf")
    return MaskStatistics(
        min=int(counts.min()),
        mean=float(counts.mean()),
        max=int(counts.max()),
        quantiles=dict(zip(fractions, quantiles.tolist(), strict=True)),
        coverage=batch.mean(axis=0),
    )
