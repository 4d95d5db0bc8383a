"""The published settings, each a strategy with its options bound: `presets.ijepa(key, grid)`.

Each is a `functools.partial`; `.keywords` holds the options, and a call may override them.

Example:
    >>> import jax
    >>> context, targets = ijepa(jax.random.key(0), (14, 14))
    >>> vjepa_short_range.keywords["num_blocks"]
    8
"""

import functools

from jepa_masks_jax._strategies.blockwise import blockwise_mask
from jepa_masks_jax._strategies.ijepa import ijepa_masks
from jepa_masks_jax._strategies.inverse_block import inverse_block_mask
from jepa_masks_jax._strategies.random import object_mask, random_mask, random_tube_mask
from jepa_masks_jax._strategies.span import span_mask
from jepa_masks_jax._strategies.vjepa import vjepa_mask

__all__ = [
    "audiomae",
    "beit",
    "capi",
    "cjepa",
    "dinov3",
    "hubert",
    "ijepa",
    "mae",
    "mae_st",
    "pixio",
    "simmim",
    "videomae_tube",
    "vjepa21_image",
    "vjepa_long_range",
    "vjepa_short_range",
    "wav2vec2",
]

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

vjepa21_image = functools.partial(
    vjepa_mask,
    num_blocks=10,
    spatial_scale=(0.15, 0.15),
    temporal_scale=(1.0, 1.0),
    aspect_ratio=(0.75, 1.5),
    max_temporal_keep=1.0,
)
"""V-JEPA 2.1's one mask of an image, on 16x16. Its clips have the pair of V-JEPA 2. The numbers
were seen in a fork only: github.com/khwstolle/vjepa2,
`configs/train_2_1/vitl16/pretrain-256px-16f.yaml`. The code that reads them is in
github.com/facebookresearch/vjepa2, `app/vjepa_2_1/train.py`."""

mae = functools.partial(random_mask, mask_ratio=0.75)
"""MAE: github.com/facebookresearch/mae, `main_pretrain.py`, the default of `--mask_ratio`."""

mae_st = functools.partial(random_mask, mask_ratio=1412 / 1568)
"""MAE-ST on 8x14x14, for which the number is bound: 156 tokens of a clip are kept.
github.com/facebookresearch/mae_st, `PRETRAIN.md`, `--mask_ratio 0.9`, and `models_mae.py`, which
rounds the kept tokens down."""

audiomae = functools.partial(random_mask, mask_ratio=0.8)
"""AudioMAE, on spectrograms of 64x8 patches: github.com/facebookresearch/AudioMAE,
`main_pretrain.py`, the default of `--mask_ratio`."""

simmim = functools.partial(random_mask, mask_ratio=0.6, cell=(8, 8))
"""SimMIM with Swin, on 48x48 patches of 4 pixels: cells of 32 pixels, of which 22 of 36 are masked.
github.com/microsoft/SimMIM, `data/data_simmim.py` and
`configs/swin_base__800ep/simmim_pretrain__swin_base__img192_window6__800ep.yaml`."""

pixio = functools.partial(random_mask, mask_ratio=0.75, cell=(4, 4))
"""Pixio, on 16x16: cells of 4x4 tokens. github.com/facebookresearch/pixio,
`pretraining/main_pretrain.py`."""

videomae_tube = functools.partial(random_tube_mask, mask_ratio=0.9)
"""VideoMAE: github.com/MCG-NJU/VideoMAE, `PRETRAIN.md`, `--mask_type tube --mask_ratio 0.9`."""

cjepa = functools.partial(object_mask, num_masked=2)
"""C-JEPA on CLEVRER, 7 slots: github.com/galilai-group/cjepa, `config/data/clevrer.yaml`. On Push-T
it masks 1 slot of 4 (`config/data/pusht.yaml`)."""

beit = functools.partial(blockwise_mask, mask_ratio=75 / 196, min_block=16)
"""BEiT on 14x14, for which the number is bound: github.com/microsoft/unilm,
`beit/run_beit_pretraining.py`, the defaults of `--num_mask_patches` and
`--min_mask_patches_per_block`."""

dinov3 = functools.partial(blockwise_mask, mask_ratio=(0.1, 0.5), min_block=4)
"""DINOv2 and DINOv3, the masked half of the crops: github.com/facebookresearch/dinov3,
`dinov3/configs/train/dinov3_vit7b16_pretrain.yaml` and `dinov3/data/masking.py`. There the ratios
of a batch are evenly spaced, see `blockwise_mask`; here each is drawn."""

capi = functools.partial(inverse_block_mask, mask_ratio=0.65, aspect_ratio=(0.5, 2.0), roll=True)
"""CAPI, on 16x16: github.com/facebookresearch/capi, `default_pretrain_config.yaml`. Its loss is on
8 random ones of the 166 masked tokens: `clip_count(key, mask, maximum=8)`."""

wav2vec2 = functools.partial(span_mask, mask_ratio=0.65, span=10)
"""wav2vec 2.0: github.com/facebookresearch/fairseq, `fairseq/models/wav2vec/wav2vec2.py`."""

hubert = functools.partial(span_mask, mask_ratio=0.8, span=10)
"""HuBERT: github.com/facebookresearch/fairseq,
`examples/hubert/config/pretrain/hubert_base_librispeech.yaml` and
`fairseq/models/hubert/hubert.py`."""
