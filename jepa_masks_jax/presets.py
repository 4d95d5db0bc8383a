"""The published settings, each a strategy with its options bound: `presets.ijepa(key, grid)`.

Each is a `functools.partial`; `.keywords` holds the options, and a call may override them.

Example:
    >>> import jax
    >>> context, targets = ijepa(jax.random.key(0), (14, 14))
    >>> vjepa_short_range.keywords["num_blocks"]
    8
"""

import functools

from jepa_masks_jax._strategies.ijepa import ijepa_masks
from jepa_masks_jax._strategies.random import object_mask, random_mask, random_tube_mask
from jepa_masks_jax._strategies.vjepa import vjepa_mask

ijepa = functools.partial(
    ijepa_masks,
    num_targets=4,
    target_scale=(0.15, 0.2),
    target_aspect_ratio=(0.75, 1.5),
    context_scale=(0.85, 1.0),
    min_keep=10,
    allow_overlap=False,
)
"""I-JEPA, all four released models: github.com/facebookresearch/ijepa,
`configs/in1k_vith14_ep300.yaml`, `in1k_vith16-448_ep300.yaml`, `in22k_vith14_ep66.yaml` and
`in22k_vitg16_ep44.yaml`."""

vjepa_short_range = functools.partial(
    vjepa_mask,
    num_blocks=8,
    spatial_scale=(0.15, 0.15),
    temporal_scale=(1.0, 1.0),
    aspect_ratio=(0.75, 1.5),
    max_temporal_keep=1.0,
)
"""The first of V-JEPA's two masks of a clip: github.com/facebookresearch/jepa,
`configs/pretrain/vitl16.yaml`, `vith16.yaml` and `vith16_384.yaml`; V-JEPA 2 keeps the pair:
github.com/facebookresearch/vjepa2, `configs/train/vitl16/pretrain-256px-16f.yaml`."""

vjepa_long_range = functools.partial(
    vjepa_mask,
    num_blocks=2,
    spatial_scale=(0.7, 0.7),
    temporal_scale=(1.0, 1.0),
    aspect_ratio=(0.75, 1.5),
    max_temporal_keep=1.0,
)
"""The second of V-JEPA's two masks of a clip, from the same files as `vjepa_short_range`."""

mae = functools.partial(random_mask, mask_ratio=0.75)
"""MAE: github.com/facebookresearch/mae, `main_pretrain.py`, the default of `--mask_ratio`."""

videomae_tube = functools.partial(random_tube_mask, mask_ratio=0.9)
"""VideoMAE: github.com/MCG-NJU/VideoMAE, `PRETRAIN.md`, `--mask_type tube --mask_ratio 0.9`."""

cjepa = functools.partial(object_mask, num_masked=2)
"""C-JEPA on CLEVRER, 7 slots: github.com/galilai-group/cjepa, `config/data/clevrer.yaml`. On Push-T
it masks 1 slot of 4 (`config/data/pusht.yaml`)."""
