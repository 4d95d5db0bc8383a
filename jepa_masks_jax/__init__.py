"""Masks for Joint-Embedding Predictive Architectures, drawn inside the jitted step."""

from jepa_masks_jax._grids import image_grid, video_grid
from jepa_masks_jax._host import (
    DuplicateIndexError,
    EmptyContextError,
    EmptyTargetError,
    IndexOutOfBoundsError,
    MaskError,
    MaskSpec,
    MaskStatistics,
    mask_statistics,
    to_mask_spec,
    to_mask_specs,
)
from jepa_masks_jax._strategies import block_mask, multi_block_mask, spatiotemporal_mask

__version__ = "0.1.0"

__all__ = [
    "DuplicateIndexError",
    "EmptyContextError",
    "EmptyTargetError",
    "IndexOutOfBoundsError",
    "MaskError",
    "MaskSpec",
    "MaskStatistics",
    "block_mask",
    "image_grid",
    "mask_statistics",
    "multi_block_mask",
    "spatiotemporal_mask",
    "to_mask_spec",
    "to_mask_specs",
    "video_grid",
]
