"""Index lists for code that gathers with plain indexing: no padding, so counts must be exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepa_masks_jax as jm

GRID, TOKENS = (14, 14), 196
KEYS = jax.random.split(jax.random.key(0), 64)


@functools.cache
def ijepa_batch():
    return jax.vmap(jm.presets.ijepa, in_axes=(0, None))(KEYS, GRID)


def overlap(context, targets):
    return (context[:, None] & targets).sum((1, 2, 3))


class TestPaddingInPlainIndexing:
    @pytest.fixture
    def padded(self):
        mask = jnp.zeros(GRID, bool).at[3, 5].set(True)
        indices, valid = jm.token_indices(mask, size=3)
        assert valid.tolist() == [True, False, False]
        return indices

    def test_brackets_gather_the_last_token(self, padded):
        tokens = jnp.arange(1.0, TOKENS + 1)
        assert tokens[padded].tolist() == [48.0, TOKENS, TOKENS]

    @pytest.mark.parametrize("gather", [jnp.take, jnp.take_along_axis])
    def test_take_gathers_nan(self, padded, gather):
        tokens = jnp.arange(1.0, TOKENS + 1)
        np.testing.assert_array_equal(gather(tokens, padded, axis=0), [48.0, np.nan, np.nan])

    def test_take_tokens_gathers_zeros(self):
        mask = jnp.zeros(GRID, bool).at[3, 5].set(True)
        tokens = jnp.arange(1.0, TOKENS + 1)[:, None]
        taken = jm.take_tokens(tokens, jm.token_indices(mask, size=3))
        assert taken[:, 0].tolist() == [48.0, 0.0, 0.0]


class TestExactTargets:
    def test_one_scale_and_aspect_is_one_size(self):
        draw = functools.partial(
            jm.ijepa_masks, grid=GRID, target_scale=(0.18, 0.18), target_aspect_ratio=(1.0, 1.0)
        )
        _, targets = jax.vmap(draw)(KEYS)
        for target in np.asarray(targets).reshape(-1, *GRID):
            rows, columns = np.nonzero(target)
            assert (np.ptp(rows) + 1, np.ptp(columns) + 1, target.sum()) == (6, 6, 36)

    def test_clip_count_and_token_indices_keep_the_least_count(self):
        _, targets = ijepa_batch()
        counts = targets.sum((2, 3))
        least = int(counts.min())
        keys = jax.vmap(functools.partial(jax.random.split, num=4))(KEYS)
        clip = functools.partial(jm.clip_count, maximum=least)
        clipped = jax.vmap(jax.vmap(clip))(keys, targets)
        assert (clipped.sum((2, 3)) == least).all()
        assert not (clipped & ~targets).any()
        listed = jax.vmap(jax.vmap(functools.partial(jm.token_indices, size=least)))
        kept = listed(targets, key=keys)
        assert kept.valid.all()
        np.testing.assert_array_equal(kept.indices, listed(clipped).indices)
        assert (counts > least).any()

    def test_filling_up_from_anywhere_puts_context_into_targets(self):
        context, targets = ijepa_batch()
        assert not overlap(context, targets).any()
        keys = jax.vmap(functools.partial(jax.random.split, num=4))(KEYS)
        fill = jax.vmap(functools.partial(jm.clip_count, exactly=42))
        filled = jax.vmap(fill)(keys, targets)
        assert (filled.sum((2, 3)) == 42).all()
        assert overlap(context, filled).mean() > 10

    def test_filling_up_among_what_is_not_context_does_not(self):
        context, targets = ijepa_batch()

        def fill(key, targets, context):
            clip = functools.partial(jm.clip_count, exactly=42, among=~context)
            return jax.vmap(clip)(jax.random.split(key, 4), targets)

        filled = jax.vmap(fill)(KEYS, targets, context)
        assert (filled.sum((2, 3)) == 42).all()
        assert not overlap(context, filled).any()


class TestExactContexts:
    def test_min_keep_guarantees_as_many(self):
        draw = functools.partial(jm.ijepa_masks, grid=GRID, min_keep=28)
        context, _ = jax.vmap(draw)(KEYS)
        kept = jax.vmap(functools.partial(jm.token_indices, size=28))(context, key=KEYS)
        assert kept.valid.all()
        assert (context.sum((1, 2)) > 28).any()

    def test_exact_targets_leave_an_exact_context(self):
        """With one mask a picture, filling up takes from the complement, which is the context."""
        target = jax.vmap(functools.partial(jm.presets.vjepa_short_range, grid=(4, 8, 8)))(KEYS)
        clip = functools.partial(jm.clip_count, exactly=128)
        target = jax.vmap(clip)(KEYS, target)
        context = jax.vmap(functools.partial(jm.token_indices, size=128))(~target)
        assert context.valid.all()
