"""Token counts and coverage of a batch of masks, in NumPy, outside jit."""

from typing import Any, NamedTuple

import numpy as np

from jepa_masks_jax import _check


class MaskStatistics(NamedTuple):
    """Token counts of a batch of masks, and how often each token is set."""

    min: int
    """The minimum of the counts."""
    mean: float
    """The mean of the counts."""
    max: int
    """The maximum of the counts."""
    quantiles: dict[float, int]
    """`quantiles[q]` is the smallest count that at least a fraction `q` of the masks do not
    exceed."""
    coverage: np.ndarray
    """float64[*grid], the fraction of the masks in which each token is True."""


def mask_statistics(masks: Any) -> MaskStatistics:
    """Counts the True tokens of a batch of masks, to choose the size of index lists.

    With `token_indices(size=K)`, a larger `K` drops fewer tokens and pads more masks. `K` at the
    5 % quantile pads at most one mask in twenty.

    Args:
        masks: bool[batch, *grid], a NumPy or JAX array with one batch axis and at least one mask.
            For several targets per sample, flatten them into the batch:
            `targets.reshape(-1, *grid)`. If samples are smaller than the grid, the context of a
            target is `inside & ~target`. A batch of rows is bool[batch, G, *grid].

    Returns:
        MaskStatistics: `min`, `mean` and `max` of the counts, their `quantiles` at 1, 5, 25, 50,
        75, 95 and 99 % (keys 0.01 to 0.99), and the `coverage` of each token, float64[*grid].

    Raises:
        TypeError: if `masks` is traced or not a boolean array.
        ValueError: if there is no mask, or no grid behind the batch axis.

    Example:
        >>> import jax
        >>> import jepa_masks_jax as jm
        >>> sample = lambda key: jm.presets.ijepa(key, (14, 14)).context
        >>> contexts = jax.vmap(sample)(jax.random.split(jax.random.key(0), 1000))
        >>> stats = jm.mask_statistics(contexts)
        >>> print(f"size={stats.quantiles[0.05]} pads at most 5 % of the contexts")
        size=60 pads at most 5 % of the contexts
        >>> stats.coverage.shape
        (14, 14)
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
