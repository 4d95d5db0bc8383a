"""The grid of an image or a video is its sizes divided by those of a patch."""

import numpy as np
import pytest

import jepa_masks_jax as jm


@pytest.mark.parametrize(
    ("image_size", "patch_size", "grid"),
    [
        (224, 16, (14, 14)),
        (224, 14, (16, 16)),
        (448, 16, (28, 28)),
        ((128, 256), 16, (8, 16)),
        ((256, 128), 16, (16, 8)),
        ((96, 96), (16, 8), (6, 12)),
        (96, (8, 16), (12, 6)),
        ([128, 256], [32, 16], (4, 16)),
        (np.array([128, 256]), np.array([32, 16]), (4, 16)),
        (np.int64(224), np.int32(16), (14, 14)),
        (16, 16, (1, 1)),
        (5, 1, (5, 5)),
    ],
)
def test_image_grid(image_size, patch_size, grid):
    result = jm.image_grid(image_size, patch_size)
    assert result == grid
    assert isinstance(result, tuple)
    assert [type(side) for side in result] == [int, int]


@pytest.mark.parametrize(
    ("sizes", "grid"),
    [
        ((16, 224, 16), (8, 14, 14)),
        ((64, 256, 16), (32, 16, 16)),
        ((16, 224, 16, 4), (4, 14, 14)),
        ((3, 224, 16, 1), (3, 14, 14)),
        ((16, (128, 256), (16, 32)), (8, 8, 8)),
        ((8, [32, 64], 16), (4, 2, 4)),
        ((np.int64(16), np.int64(32), np.int64(16), np.int64(2)), (8, 2, 2)),
        ((2, 16, 16), (1, 1, 1)),
    ],
)
def test_video_grid(sizes, grid):
    result = jm.video_grid(*sizes)
    assert result == grid
    assert isinstance(result, tuple)
    assert [type(side) for side in result] == [int, int, int]


def test_tubelet_size_by_name():
    assert jm.video_grid(num_frames=12, image_size=64, patch_size=16, tubelet_size=3) == (4, 4, 4)
