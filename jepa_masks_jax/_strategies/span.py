"""Spans of a sequence: the masks of wav2vec 2.0 and HuBERT."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jepa_masks_jax import _check, _draws, _sizes, _subsets


def span_mask(key: jax.Array, grid: _check.Grid, *, mask_ratio: float, span: int) -> jax.Array:
    """Draws a target of equally long spans of a sequence.

    There are `floor(mask_ratio * length / span + u)` spans, with `u` uniform in `[0, 1)`, but at
    least one. Their starts are distinct and uniform over every start that keeps a span inside.
    Spans overlap, so the realised ratio is below `mask_ratio`; `clip_count` makes it exact.

    Args:
        key: one PRNG key, typed or legacy.
        grid: `(length,)`, at least two tokens.
        mask_ratio: fraction of the tokens that the spans would hold without overlap, in `(0, 1)`.
        span: tokens of a span, from 1 to `length - 1`.

    Returns:
        bool[length], True at the target tokens. Neither it nor its complement, the context, is
        empty.

    Raises:
        TypeError: if `key` is not a key or an option is of the wrong type.
        ValueError: if `key` is a batch of keys, an option is out of its range, or so many spans
            may be drawn that they can cover the sequence.

    Source:
        Baevski et al. (2020), "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
        Representations", section 3.1; `compute_mask_indices` of
        `fairseq/data/data_utils.py` of github.com/facebookresearch/fairseq, where no span reaches
        the last token, and all masks of a batch are cut to the shortest.

    Example:
        >>> mask = span_mask(jax.random.key(0), (100,), mask_ratio=0.65, span=10)
        >>> mask.shape, mask.dtype
        ((100,), dtype('bool'))
    """
    key, grid = _check.key(key), _check.grid(grid, ranks=(1,))
    mask_ratio = _check.fraction("mask_ratio", mask_ratio)
    (length,) = grid
    span = _check.count("span", span, 1, length - 1)
    spans = mask_ratio * length / span
    plan = _Plan(span, _sizes.whole_steps(spans, spans + 1))
    _, most = _sizes.least_and_most(plan.counts)
    if most * span >= length:
        raise ValueError(
            f"mask_ratio must be lower, or span: {most} spans of {span} tokens can be drawn, which "
            f"can cover all {length} tokens; got {mask_ratio}"
        )
    return _span_mask(key, grid, plan)


class _Plan(NamedTuple):
    span: int
    counts: _sizes.Steps
    """Of the spans, before the number is rounded down."""


@functools.partial(jax.jit, static_argnums=(1, 2))
def _span_mask(key: jax.Array, grid: tuple[int, ...], plan: _Plan) -> jax.Array:
    num_starts = math.prod(grid) - plan.span + 1
    draws = _draws.random_draws(key, num_starts + 1)
    count = jnp.maximum(_sizes.draw_whole(draws[-1], plan.counts), 1)
    starts = _subsets.random_subset(draws[:-1], jnp.ones(num_starts, bool), count)
    # A token is masked where a span starts at it or up to `span - 1` tokens before.
    reach = plan.span - 1
    return lax.reduce_window(starts, False, lax.bitwise_or, (plan.span,), (1,), ((reach, reach),))
