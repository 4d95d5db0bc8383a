"""Grids of tokens from the sizes of images and videos."""

from __future__ import annotations

import math
from typing import Any

from jepa_masks_jax import _check
from jepa_masks_jax._check import Grid, Int


def image_grid(image_size: Int | Grid, patch_size: Int | Grid) -> tuple[int, int]:
    """Returns the grid `(height, width)` of the patches of an image.

    Args:
        image_size: pixels of the image, an int for a square or `(height, width)`.
        patch_size: pixels of a patch, an int for a square or `(height, width)`.

    Returns:
        The count of patches along each side, as Python ints.

    Raises:
        TypeError: if a size is not an integer or a pair of integers.
        ValueError: if a size is below 1, or if the patches do not divide the image.

    Example:
        >>> image_grid(224, 16)
        (14, 14)
        >>> image_grid((128, 256), 16)
        (8, 16)
    """
    image, patch = _pair("image_size", image_size), _pair("patch_size", patch_size)
    height = _divide("image_size", image[0], "patch_size", patch[0])
    width = _divide("image_size", image[1], "patch_size", patch[1])
    return height, width


def video_grid(
    num_frames: Int, image_size: Int | Grid, patch_size: Int | Grid, tubelet_size: Int = 2
) -> tuple[int, int, int]:
    """Returns the grid `(frames, height, width)` of the tubelets of a video.

    Args:
        num_frames: frames of the clip, at least 1.
        image_size: pixels of a frame, an int for a square or `(height, width)`.
        patch_size: pixels of a patch, an int for a square or `(height, width)`.
        tubelet_size: frames of the clip in one token, at least 1.

    Returns:
        The count of tubelets along each axis, as Python ints.

    Raises:
        TypeError: if a size is not an integer (or, for images and patches, a pair of integers).
        ValueError: if a size is below 1, or if the tubelets do not divide the clip.

    Example:
        >>> video_grid(16, 224, 16)
        (8, 14, 14)
    """
    clip = _check.integer("num_frames", num_frames)
    tubelet = _check.integer("tubelet_size", tubelet_size)
    frames = _divide("num_frames", clip, "tubelet_size", tubelet)
    return frames, *image_grid(image_size, patch_size)


def as_video(grid: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns frames, height and width: all axes but the last two count frames."""
    height, width = (1, *grid)[-2:]
    return math.prod(grid[:-2]), height, width


def _pair(name: str, value: Any) -> tuple[int, int]:
    meaning = "an integer or a pair (height, width)"
    is_pair = _check.is_sequence(value)
    pair = _check.sequence(name, value, (2,), meaning) if is_pair else (value,) * 2
    height, width = (_check.integer(name, side) for side in pair)
    return height, width


def _divide(name: str, whole: int, part_name: str, part: int) -> int:
    if whole % part:
        raise ValueError(f"{name} must be a multiple of {part_name}, got {whole} and {part}")
    return whole // part
