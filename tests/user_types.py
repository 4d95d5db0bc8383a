"""A program as a user with `mypy --strict` writes it: every public function, every kind of value.

mypy reads it in the lint step, and test_api.py runs it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jepa_masks_jax as jm


def check_grids() -> None:
    sides: list[int] = [4, 6]
    assert jm.image_grid(np.int64(64), np.array([16, 16])) == (4, 4)
    assert jm.image_grid([64, 96], 16) == jm.image_grid((64, 96), [16, 16]) == (4, 6)
    assert jm.video_grid(np.int64(8), 64, [16, 16], np.int64(2)) == (4, 4, 4)
    assert jm.inside(sides, [2, np.int64(3)]).sum() == 6
    assert jm.inside(np.array(sides), np.array([2, 3])).sum() == 6
    assert jm.inside((np.int64(4), 6), (np.array(2), jnp.int32(3))).sum() == 6
    counts: jm.IjepaCounts = jm.ijepa_counts(
        [8, 8], num_targets=np.int64(1), target_scale=[0.1, np.float32(0.2)], min_keep=np.int64(4)
    )
    assert counts.min_keep >= 4


@jax.jit
def draw(key: jax.Array) -> dict[str, jax.Array]:
    some = np.arange(16).reshape(4, 4) < 12
    scores = np.arange(16, dtype=np.float32).reshape(4, 4)
    masks: jm.ContextTargetMasks = jm.ijepa_masks(
        key,
        [8, 8],
        num_targets=np.int64(1),
        target_scale=np.array([0.1, 0.2]),
        target_aspect_ratio=[1, 1],
        context_scale=[np.float64(0.9), 1],
        min_keep=np.int64(4),
        within=jnp.array([6, 7]),
    )
    context, targets = masks
    one: jax.Array = jm.presets.mae(key, [4, 4])
    pair: jm.ContextTargetMasks = jm.presets.ijepa(key, (8, 8), num_targets=np.int64(1))
    return {
        "context": context,
        "target": targets[0],
        "preset": one,
        "preset context": pair.context,
        "vjepa": jm.vjepa_mask(
            key,
            [2, 4, 4],
            num_blocks=np.int64(2),
            spatial_scale=[0.2, 0.4],
            within=[2, 3, np.array(3)],
        ),
        "ratio": jm.random_mask(key, [4, 4], mask_ratio=np.float32(0.25)),
        "ratios": jm.random_mask(key, (4, 4), mask_ratio=[0.25, np.float32(0.25)]),
        "count": jm.random_mask(key, [16], num_masked=np.int64(4)),
        "array": jm.random_mask(key, np.array([4, 4]), num_masked=np.array(4), among=some),
        "counts": jm.random_mask(key, (4, 4), num_masked=[4, np.int64(4)], cell=[1, 1]),
        "tubes": jm.random_tube_mask(key, [2, 4, 2], mask_ratio=np.float32(0.25)),
        "top": jm.top_mask(scores, num_masked=np.array(4), among=jnp.asarray(some), key=key),
        "jax top": jm.top_mask(jnp.asarray(scores), num_masked=np.int64(4)),
        "blockwise": jm.blockwise_mask(
            key, [4, 4], num_masked=np.array(4), min_block=np.int64(1), aspect_ratio=[0.5, 2]
        ),
        "inverse": jm.inverse_block_mask(key, [4, 4], num_masked=np.int64(4)),
        "spans": jm.span_mask(
            key, [20], mask_ratio=np.float32(0.25), span=np.int64(4), within=[np.int64(16)]
        ),
        "random spans": jm.random_span_mask(
            key, [20], num_masked=np.array(6), num_spans=np.int64(2), within=[np.int64(16)]
        ),
        "slots": jm.object_mask(key, np.int64(7), num_masked=np.array(4), among=np.ones(7, bool)),
        "boxes": jm.box_mask(
            key, [4, 4], num_boxes=np.int64(1), extent=[[2, np.int64(2)], np.array([2, 2])]
        ),
        "lengths": jm.box_mask(key, [16], num_boxes=1, extent=np.array([4]), within=np.array([9])),
        "block": jm.block_mask(key, [4, 4], num_targets=np.int64(1), target_scale=[0.25, 0.25]),
        "tube": jm.spatiotemporal_mask(
            key, [4, 4, 4], num_targets=np.int64(1), temporal_extent=np.array([1, 1])
        ),
        "squares": jm.multi_block_mask(key, [4, 4], mask_ratio=np.float32(0.5), num_blocks=2),
        "clipped": jm.clip_count(key, some, exactly=np.array(4)),
        "bounds": jm.clip_count(
            key, jnp.asarray(some), minimum=np.int64(4), maximum=np.array(4), among=some
        ),
    }


def check_tokens(key: jax.Array) -> None:
    mask = np.array([[False, True], [True, True]])
    listed: jm.TokenIndices = jm.token_indices(mask, size=np.int64(2), key=key)
    indices, valid = listed
    assert (listed.num_tokens, indices.shape, valid.dtype) == (4, (2,), np.dtype(bool))
    for tokens in (np.ones((4, 3), np.float32), jnp.ones((4, 3))):
        taken: jax.Array = jm.take_tokens(tokens, listed, fill=np.float32(7))
        placed = jm.put_tokens(taken, listed, fill=jnp.zeros(3))
        assert placed.sum() == jm.put_tokens(np.asarray(taken), listed).sum() == 6
    batch = jax.vmap(functools.partial(jm.token_indices, size=4))(np.stack([mask, ~mask]))
    assert batch.valid.sum(1).tolist() == [3, 1]
    assert jm.squared_distance(mask)[0, 0] == jm.squared_distance(jnp.asarray(mask))[0, 0] == 1
    order = jm.balanced_order(key, np.array([1, 2, 3, 4]), rows=np.int64(2))
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def check_rows(key: jax.Array) -> None:
    masks = np.arange(4) < np.array([[1], [3], [2], [4]])
    rows, numbers = jm.in_rows(key, (masks, jnp.arange(4)), per_row=np.int64(2))
    row: jm.TokenIndices = jm.token_indices(rows[0], size=6, per_row=np.int64(2))
    attention: jax.Array = jm.attention_mask(row)
    pair = jm.attention_mask((row, row), keys=row)
    assert (attention.shape, pair.shape, row.per_row) == ((6, 6), (12, 6), 2)
    assert (row.sample.shape, row.place.shape, numbers.shape) == ((6,), (6,), (2, 2))
    grid = (np.int64(4), np.int64(4))
    sizes: jm.ContextTargetMasks = jm.list_size(
        lambda key: jm.presets.ijepa(key, grid, num_targets=1, min_keep=1), multiple=np.int64(8)
    )
    assert sizes.context == 16


def check_the_host() -> None:
    masks = np.array([[True, False, False], [False, True, True]])
    statistics: jm.MaskStatistics = jm.mask_statistics(jnp.asarray(masks))
    assert statistics.quantiles[0.95] == statistics.max == 2
    spec: jm.MaskSpec = jm.to_mask_spec(masks[0])
    assert spec == jm.to_mask_specs(masks)[0] == jm.MaskSpec([1, 2], np.array([0]), np.int64(3))
    assert spec.to_mask([np.int64(3)]).tolist() == masks[0].tolist()
    errors: list[type[jm.MaskError]] = [jm.EmptyContextError, jm.EmptyTargetError]
    errors += [jm.IndexOutOfBoundsError, jm.DuplicateIndexError]
    assert all(issubclass(error, ValueError) for error in errors)


def main() -> None:
    check_grids()
    key = jax.random.key(0)
    counts = {name: int(mask.sum()) for name, mask in draw(key).items()}
    fours = ["ratio", "ratios", "count", "array", "counts", "tubes", "top", "jax top", "blockwise"]
    fours += ["inverse", "spans", "slots", "boxes", "lengths", "block", "clipped", "bounds"]
    assert {name: counts[name] for name in fours} == dict.fromkeys(fours, 4)
    assert counts["preset"] == 12
    assert min(counts.values()) > 0
    check_tokens(key)
    check_rows(key)
    check_the_host()


if __name__ == "__main__":
    main()
