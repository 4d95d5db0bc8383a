"""Masks for Joint-Embedding Predictive Architectures, drawn inside the jitted step."""

from jepa_masks_jax._grids import image_grid, video_grid
from jepa_masks_jax._strategies import block_mask, multi_block_mask, spatiotemporal_mask

__version__ = "0.1.0"

__all__ = [
    "block_mask",
    "image_grid",
    "multi_block_mask",
    "spatiotemporal_mask",
    "video_grid",
]
