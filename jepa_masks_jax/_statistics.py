"""How many tokens masks have, and how long their lists must be, on the host, outside jit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa_masks_jax import _check
from jepa_masks_jax._check import Int, Real
from jepa_masks_jax._rows import balanced_order

_MASKS = 10_240
"""`list_size` samples so many masks or a few more,"""

_TOKENS = 2**30
"""but about so many tokens at most, which takes seconds,"""

_TOKENS_AT_ONCE = 2**22
"""and so many at once, which takes little memory."""


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
    counts: np.ndarray
    """int64[batch], the count of each mask."""

    def dropped(self, size: Int) -> float:
        """Returns the fraction of all tokens that lists of a length drop."""
        return float((self.counts.sum() - self._kept(size)) / max(self.counts.sum(), 1))

    def computed(self, size: Int) -> float:
        """Returns how many entries lists of a length have for each token that they keep."""
        kept = self._kept(size)
        return float(int(size) * len(self.counts) / kept) if kept else math.inf

    def _kept(self, size: Int) -> Any:
        return np.minimum(self.counts, _check.integer("size", size)).sum()

    def __repr__(self) -> str:
        fields = {name: _check.brief(value) for name, value in self._asdict().items()}
        return f"MaskStatistics({', '.join(f'{name}={text}' for name, text in fields.items())})"


def mask_statistics(masks: Any) -> MaskStatistics:
    """Counts the True tokens of a batch of masks, to judge the length of index lists.

    `list_size` finds the length of lists and rows. For any length, `dropped` says which fraction of
    the tokens is lost, and `computed` how many entries a model computes for each token kept.

    Args:
        masks: bool[batch, *grid], a NumPy or JAX array with one batch axis and at least one mask. A
            single mask would be taken for a batch of its rows.
            For several targets per sample, flatten them into the batch:
            `targets.reshape(-1, *grid)`. If samples are smaller than the grid, the context of a
            target is `inside & ~target`. A batch of rows is bool[batch, G, *grid].

    Returns:
        MaskStatistics: `min`, `mean` and `max` of the counts, their `quantiles` at 1, 5, 25, 50,
        75, 95 and 99 % (keys 0.01 to 0.99), the `coverage` of each token, float64[*grid], and the
        `counts`, int64[batch].

    Raises:
        TypeError: if `masks` is traced or not a boolean array.
        ValueError: if there is no mask, or no grid behind the batch axis.

    Example:
        >>> import jepa_masks_jax as jm
        >>> sample = lambda key: jm.presets.ijepa(key, (14, 14)).context
        >>> contexts = jax.vmap(sample)(jax.random.split(jax.random.key(0), 1000))
        >>> stats = jm.mask_statistics(contexts)
        >>> stats.quantiles[0.5], stats.coverage.shape
        (91, (14, 14))
        >>> f"{stats.dropped(64):.1%} dropped, {stats.computed(64):.2f} computed for each kept"
        '30.2% dropped, 1.01 computed for each kept'
        >>> f"{stats.dropped(131):.1%} dropped, {stats.computed(131):.2f} computed for each kept"
        '0.1% dropped, 1.44 computed for each kept'
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
        counts=counts,
    )


def list_size(
    draw: Callable[[jax.Array], Any],
    *,
    per_row: Int = 1,
    group: Int | None = None,
    quantile: Real = 0.99,
    multiple: Int = 1,
) -> Any:
    """Finds the length of index lists or rows: the `size` for `token_indices`.

    The length is the `quantile` of the token counts of many masks. With `per_row=G` the masks are
    put into rows as `in_rows` does for a batch of `group` samples, and the counts are the totals of
    the rows.

    The masks are sampled from a fixed threefry key: 10,240 of them, or a few more to fill the last
    group. If the masks of one sample together have more than 100,000 tokens, fewer are sampled,
    because 10,240 would take too long: 3,276 for I-JEPA on 256x256. `list_size` may also be called
    inside `jit`, while the step is traced.

    Args:
        draw: a function of a key that returns the mask of one sample, bool[*grid], or a pytree of
            masks: `lambda key: jm.presets.ijepa(key, grid)`. Rows are balanced by the first of
            them. An array with more leading axes than the first, such as I-JEPA's targets, holds
            several masks, and they share a size.
        per_row: how many samples share a row, from 1.
        group: how many samples `in_rows` or `balanced_order` gets at once: those of one device, or
            of a pool. A multiple of `per_row`. It must be given if `per_row` is above 1.
        quantile: the fraction of lists that drop nothing, in `(0, 1]`.
        multiple: the size is rounded up to a multiple of this integer, such as 128 on a TPU, but
            not beyond all tokens of the row.

    Returns:
        int, at least 1; or the pytree of `draw` with an int for each array.

    Raises:
        TypeError: if `draw` is no function of a key, closes over a traced array, or returns
            anything but boolean arrays with axes, an option is of the wrong type, or `group` is
            missing.
        ValueError: if an option is out of its range, or `per_row` does not divide `group`.

    Example:
        >>> import jepa_masks_jax as jm
        >>> draw = lambda key: jm.presets.ijepa(key, (14, 14))
        >>> list_size(draw)
        ContextTargetMasks(context=131, targets=42)
        >>> list_size(draw, per_row=2, group=256, multiple=8)
        ContextTargetMasks(context=192, targets=80)
    """
    if not callable(draw):
        raise TypeError(f"draw must be a function of a key, got {_check.brief(draw)}")
    per_row = _check.integer("per_row", per_row)
    if group is None and per_row > 1:
        raise TypeError("group, how many samples are put into rows together, must be given")
    group = 1 if group is None else _check.integer("group", group)
    if group % per_row:
        raise ValueError(f"group must be a multiple of per_row={per_row}, got {group}")
    quantile = _check.scale("quantile", quantile)
    multiple = _check.integer("multiple", multiple)

    def key(seed: int) -> jax.Array:
        return jax.random.key(seed, impl="threefry2x32")

    traced, drawn = jax.make_jaxpr(lambda: draw(key(0)), return_shape=True)()
    if any(isinstance(const, jax.core.Tracer) for const in traced.consts):
        raise TypeError("draw must not close over traced arrays: its masks are sampled beforehand")
    _check_masks(drawn)
    shapes, structure = [mask.shape for mask in jax.tree.leaves(drawn)], jax.tree.structure(drawn)
    tokens = sum(map(math.prod, shapes))
    tokens_each = [math.prod(shape[-len(shapes[0]) :]) for shape in shapes]
    groups = max(1, min(-(-_MASKS // group), _TOKENS // (tokens * group)))
    at_once = max(1, min(groups * group, _TOKENS_AT_ONCE // tokens))

    def count(key: jax.Array) -> list[jax.Array]:
        masks = zip(jax.tree.leaves(draw(key)), tokens_each, strict=True)
        return [jnp.sum(mask.reshape(-1, n), axis=1, dtype=jnp.int32) for mask, n in masks]

    def totals_of_group(key: jax.Array, counts: list[jax.Array]) -> list[jax.Array]:
        order = balanced_order(key, jnp.sum(counts[0], axis=1), per_row=per_row)
        rows = order.reshape(-1, per_row)
        return [jnp.sum(of_one[rows], axis=1, dtype=jnp.int32) for of_one in counts]

    def totals() -> list[jax.Array]:
        keys = jax.random.split(key(0), (-(-groups * group // at_once), at_once))
        counts = [
            jnp.concatenate(parts)[: groups * group].reshape(groups, group, -1)
            for parts in jax.lax.map(jax.vmap(count), keys)
        ]
        return jax.vmap(totals_of_group)(jax.random.split(key(1), groups), counts)

    def size(totals: jax.Array, tokens: int) -> int:
        needed = max(int(np.quantile(totals, quantile, method="inverted_cdf")), 1)
        return min(-(-needed // multiple) * multiple, per_row * tokens)

    # Compiled ahead of time, a program without arguments also runs while any other is traced.
    with jax.disable_jit(False):
        found = jax.jit(totals).lower().compile()()
    return jax.tree.unflatten(structure, map(size, found, tokens_each))


def _check_masks(drawn: Any) -> None:
    """Refuses what `draw` returns if it is anything but masks."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(drawn) or [((), drawn)]:
        if getattr(leaf, "dtype", None) != np.bool_ or 0 in (leaf.shape or (0,)):
            where = jax.tree_util.keystr(path)
            raise TypeError(
                "draw must return a mask or a pytree of masks, boolean arrays with axes, none of "
                f"length 0, got {_check.brief(leaf)}{where and f' at {where}'}"
            )
