"""Masks for Joint-Embedding Predictive Architectures, drawn inside the jitted step.

- Blocks: `ijepa_masks`, `vjepa_mask`, `blockwise_mask`, `inverse_block_mask`, `block_mask`,
  `spatiotemporal_mask`, `multi_block_mask`.
- Spans of a sequence: `span_mask`.
- Boxes for a strategy of your own: `box_mask`.
- Random tokens: `random_mask`, `random_tube_mask`, `object_mask`.
- Published settings: `jepa_masks_jax.presets`.
- Grids of images and videos: `image_grid`, `video_grid`.
- From masks to tokens: `clip_count`, `token_indices`, `take_tokens`, `put_tokens`,
  `squared_distance`.
- On the host: `mask_statistics`, `to_mask_spec`, `to_mask_specs` and their `MaskSpec`.
- Pictures: `jepa_masks_jax.plotting`.
"""

from jepa_masks_jax import presets
from jepa_masks_jax._grids import image_grid, video_grid
from jepa_masks_jax._spec import (
    DuplicateIndexError,
    EmptyContextError,
    EmptyTargetError,
    IndexOutOfBoundsError,
    MaskError,
    MaskSpec,
    to_mask_spec,
    to_mask_specs,
)
from jepa_masks_jax._statistics import MaskStatistics, mask_statistics
from jepa_masks_jax._strategies.block import block_mask
from jepa_masks_jax._strategies.blockwise import blockwise_mask
from jepa_masks_jax._strategies.box import box_mask
from jepa_masks_jax._strategies.ijepa import (
    ContextTargetMasks,
    IjepaCounts,
    ijepa_counts,
    ijepa_masks,
)
from jepa_masks_jax._strategies.inverse_block import inverse_block_mask
from jepa_masks_jax._strategies.multi_block import multi_block_mask
from jepa_masks_jax._strategies.random import object_mask, random_mask, random_tube_mask
from jepa_masks_jax._strategies.span import span_mask
from jepa_masks_jax._strategies.spatiotemporal import spatiotemporal_mask
from jepa_masks_jax._strategies.top import top_mask
from jepa_masks_jax._strategies.vjepa import vjepa_mask
from jepa_masks_jax._tokens import (
    TokenIndices,
    clip_count,
    put_tokens,
    squared_distance,
    take_tokens,
    token_indices,
)
from jepa_masks_jax._within import inside

__version__ = "0.3.0"

__all__ = [
    # JEPA
    "ijepa_masks",
    "ContextTargetMasks",
    "ijepa_counts",
    "IjepaCounts",
    "vjepa_mask",
    # Random tokens
    "random_mask",
    "random_tube_mask",
    "top_mask",
    # BEiT, DINO, CAPI
    "blockwise_mask",
    "inverse_block_mask",
    # Spans of a sequence, object slots, boxes
    "span_mask",
    "object_mask",
    "box_mask",
    # Published settings
    "presets",
    # From masks to tokens
    "token_indices",
    "TokenIndices",
    "take_tokens",
    "put_tokens",
    "clip_count",
    "squared_distance",
    # Grids
    "image_grid",
    "video_grid",
    "inside",
    # On the host
    "mask_statistics",
    "MaskStatistics",
    "to_mask_spec",
    "to_mask_specs",
    "MaskSpec",
    "MaskError",
    "EmptyContextError",
    "EmptyTargetError",
    "IndexOutOfBoundsError",
    "DuplicateIndexError",
    # Ports of jepa-rs
    "block_mask",
    "spatiotemporal_mask",
    "multi_block_mask",
]
