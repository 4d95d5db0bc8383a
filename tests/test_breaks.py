"""Right values that breaks of the code, made on purpose, once left unnoticed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from modes import code_of

import jepa_masks_jax as jm
from jepa_masks_jax import __main__ as command

KEY = jax.random.key(0)


def many(function, count):
    return np.asarray(jax.jit(jax.vmap(function))(jax.random.split(KEY, count)))


def test_a_list_with_padding_on_a_tpu():
    with code_of("tpu") as choices:
        indices, valid = jm.token_indices(np.array([False, True, False, True]), size=3)
        assert indices.tolist() == [1, 3, 4]
        assert valid.tolist() == [True, True, False]
    assert any("tpu" in platforms for platforms in choices)


def test_pairs_of_twenty_tied_tokens_are_masked_together_equally_often():
    masks = many(lambda key: jm.top_mask(jnp.zeros(20), num_masked=10, key=key), 20_000)
    together = masks.astype(int).T @ masks / len(masks)
    chance, pairs = 9 / 38, ~np.eye(20, dtype=bool)
    # Five and a half standard deviations: 190 pairs stay within them with error 1e-5.
    error = 5.5 * np.sqrt(chance * (1 - chance) / len(masks))
    np.testing.assert_allclose(together[pairs], chance, atol=error)


def test_pairs_of_equally_spaced_counts_have_equal_totals():
    order = jm.balanced_order(KEY, np.arange(200), per_row=2)
    assert set(np.arange(200)[order].reshape(100, 2).sum(1).tolist()) == {199}


def test_a_mean_span_of_one_makes_every_span_a_single_token():
    masks = many(lambda key: jm.random_span_mask(key, (9,), num_masked=3, mean_span=1), 50)
    assert (masks.sum(1) == 3).all()
    assert not (masks[:, 1:] & masks[:, :-1]).any()


@pytest.mark.slow
def test_a_count_is_exact_beyond_what_float32_counts():
    tokens = 2**24 + 64
    clipped = jm.clip_count(KEY, np.zeros(tokens, bool), exactly=2**24 + 3)
    assert np.asarray(clipped).sum() == 2**24 + 3  # 2**24 + 4 in float32


def test_t5_is_bound_to_its_published_setting():
    assert jm.presets.t5.func is jm.random_span_mask
    assert jm.presets.t5.keywords == {"mask_ratio": 0.15, "mean_span": 3, "ends": "t5"}


def test_counts_are_sharded_and_the_key_is_not():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    def sample(count):
        return jm.random_mask(KEY, (4, 5), num_masked=count[0])[None]

    sharded = jax.jit(jax.shard_map(sample, mesh=mesh, in_specs=P("x"), out_specs=P("x")))
    masks = sharded(jnp.arange(1, 9, dtype=jnp.int32))
    assert masks.sum((1, 2)).tolist() == list(range(1, 9))


def test_a_list_of_two_equal_counts_is_a_pair():
    assert jm.random_mask(KEY, (3, 4), num_masked=[2, 2]).sum() == 2


def test_a_block_as_large_as_the_grid_does_not_overflow():
    """No block is placed, so the eight masked tokens are random ones."""
    masks = many(
        lambda key: jm.blockwise_mask(key, (64, 64), num_masked=8, min_block=4096), 100
    ).astype(int)
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    around = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    assert masks.sum() == 800
    assert (around[masks == 1] == 0).mean() > 0.95


def test_an_index_list_is_frozen():
    indices = jm.token_indices(np.eye(3, dtype=bool), size=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        indices.valid = indices.valid


def test_a_batch_of_as_many_tokens_as_are_allowed(monkeypatch, tmp_path, capsys):
    assert command.MAX_BATCH_TOKENS == 2**27
    monkeypatch.setattr(command, "MAX_BATCH_TOKENS", 3 * 16)
    out = tmp_path / "masks.json"
    call = ["mae", "--grid", "4x4", "--out", str(out), "--batch"]
    command.main([*call, "3"])
    assert len(json.loads(out.read_text())["masks"]) == 3
    with pytest.raises(SystemExit):
        command.main([*call, "4"])
    assert "must be at most 48, got 4 times 4x4" in capsys.readouterr().err
