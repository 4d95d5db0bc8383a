"""Published settings: each preset is a strategy with its options set.

Call a preset as you call its strategy. Presets that return one mask return the target:

>>> import jax
>>> import jax.numpy as jnp
>>> import numpy as np
>>> import jepa_masks_jax as jm
>>> key, grid = jax.random.key(0), (14, 14)
>>> context, targets = jm.presets.ijepa(key, grid)
>>> context = ~jm.presets.mae(key, grid)

Each is a `functools.partial`: `.func` is the strategy and `.keywords` the options. A call may
override them. To give a count instead of the preset's ratio, also pass `mask_ratio=None`:

>>> jm.presets.vjepa_short_range.keywords["num_blocks"]
8
>>> target = jm.presets.mae(key, grid, mask_ratio=None, num_masked=100)

Other models train on the same masks:

| model | masks |
|---|---|
| V-JEPA 2 | `vjepa_short_range` and `vjepa_long_range`, as V-JEPA |
| DINOv2 | `dinov3` |
| iBOT, with blocks | `dinov3` with `min_block=(min(grid) // 3) ** 2` |
| data2vec, audio | `wav2vec2` |
| data2vec, images | `beit` with `mask_ratio=120 / 196` |

## Padded speech

`within` gives each utterance the spans of its own length, and no span in the padding:

>>> def sample(key, length):
...     target = jm.presets.wav2vec2(key, (200,), within=(length,))
...     return jm.inside((200,), (length,)) & ~target, target
>>> lengths = jnp.array([200, 75, 30])
>>> context, target = jax.vmap(sample)(jax.random.split(key, 3), lengths)
>>> (context | target).sum(1).tolist()
[200, 75, 30]

## A batch of DINOv2 or DINOv3

Half of the crops are masked, with evenly spaced ratios in random order. The other half has no
target, so the loss is averaged over the crops that have one:

>>> ratios = np.linspace(0.1, 0.5, 5)[1:]  # for 4 of 8 crops
>>> counts = np.append(256 * ratios, np.zeros(4)).astype(np.int32)
>>> count_key, mask_key, error_key = jax.random.split(key, 3)
>>> counts = jax.random.permutation(count_key, counts)
>>> def crop(key, count):
...     mask = jm.presets.dinov3(key, (16, 16), mask_ratio=None, num_masked=count)
...     return mask & (count > 0)
>>> masks = jax.vmap(crop)(jax.random.split(mask_key, 8), counts)
>>> sorted(masks.sum((1, 2)).tolist())
[0, 0, 0, 0, 51, 76, 102, 128]
>>> error = jax.random.uniform(error_key, (8, 16, 16))  # of each token
>>> crop_loss = (error * masks).sum((1, 2)) / jnp.maximum(masks.sum((1, 2)), 1)
>>> loss = crop_loss.sum() / jnp.maximum((counts > 0).sum(), 1)
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
"""I-JEPA, all four released models. They were trained with what `sampling="reference"` does; the
preset uses the default, `"independent"`. github.com/facebookresearch/ijepa,
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
"""The first of V-JEPA's two masks of a clip. github.com/facebookresearch/jepa,
`configs/pretrain/vitl16.yaml`, `vith16.yaml` and `vith16_384.yaml`. V-JEPA 2 uses the same pair:
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
"""V-JEPA 2.1's only mask of an image, on 16x16. Its clips have V-JEPA 2's pair. The values come
from a fork: github.com/khwstolle/vjepa2, `configs/train_2_1/vitl16/pretrain-256px-16f.yaml`. The
code that reads them is in github.com/facebookresearch/vjepa2, `app/vjepa_2_1/train.py`."""

mae = functools.partial(random_mask, mask_ratio=0.75)
"""MAE. The mask is the target, so `context = ~mae(key, grid)`. github.com/facebookresearch/mae,
`main_pretrain.py`, the default of `--mask_ratio`."""

mae_st = functools.partial(random_mask, mask_ratio=1412 / 1568)
"""MAE-ST. On its grid of 8x14x14 it masks 1,412 tokens and keeps 156.
github.com/facebookresearch/mae_st, `PRETRAIN.md`, `--mask_ratio 0.9`, and `models_mae.py`, which
rounds the count of kept tokens down."""

audiomae = functools.partial(random_mask, mask_ratio=0.8)
"""AudioMAE, on spectrograms of 64x8 patches. github.com/facebookresearch/AudioMAE,
`main_pretrain.py`, the default of `--mask_ratio`."""

simmim = functools.partial(random_mask, mask_ratio=0.6, cell=(8, 8))
"""SimMIM with Swin, on 48x48 patches of 4 pixels. It masks 22 of 36 cells of 32x32 pixels.
github.com/microsoft/SimMIM, `data/data_simmim.py` and
`configs/swin_base__800ep/simmim_pretrain__swin_base__img192_window6__800ep.yaml`."""

pixio = functools.partial(random_mask, mask_ratio=0.75, cell=(4, 4))
"""Pixio, on 16x16, with cells of 4x4 tokens. github.com/facebookresearch/pixio,
`pretraining/main_pretrain.py`."""

videomae_tube = functools.partial(random_tube_mask, mask_ratio=0.9)
"""VideoMAE. github.com/MCG-NJU/VideoMAE, `PRETRAIN.md`, `--mask_type tube --mask_ratio 0.9`."""

cjepa = functools.partial(object_mask, num_masked=2)
"""C-JEPA on CLEVRER, with 7 slots. github.com/galilai-group/cjepa, `config/data/clevrer.yaml`. On
Push-T it masks 1 of 4 slots (`config/data/pusht.yaml`)."""

beit = functools.partial(blockwise_mask, mask_ratio=75 / 196, min_block=16)
"""BEiT. On its grid of 14x14 it masks 75 tokens. github.com/microsoft/unilm,
`beit/run_beit_pretraining.py`, the defaults of `--num_mask_patches` and
`--min_mask_patches_per_block`."""

dinov3 = functools.partial(blockwise_mask, mask_ratio=(0.1, 0.5), min_block=4)
"""One masked crop of DINOv2 or DINOv3. Its ratio is sampled. Over a batch their ratios are evenly
spaced, and half of the crops are not masked: see the recipe on top.
github.com/facebookresearch/dinov3, `dinov3/configs/train/dinov3_vit7b16_pretrain.yaml` and
`dinov3/data/masking.py`."""

capi = functools.partial(inverse_block_mask, mask_ratio=0.65, aspect_ratio=(0.5, 2.0), roll=True)
"""CAPI, on 16x16, where it masks 166 tokens. Its loss uses 8 random ones of them:
`clip_count(key, mask, maximum=8)`. github.com/facebookresearch/capi,
`default_pretrain_config.yaml`."""

wav2vec2 = functools.partial(span_mask, mask_ratio=0.65, span=10)
"""wav2vec 2.0. For padded speech, see the recipe on top. On short sequences fairseq takes more
spans, see `hubert`. github.com/facebookresearch/fairseq,
`fairseq/models/wav2vec/wav2vec2.py`."""

hubert = functools.partial(span_mask, mask_ratio=0.8, span=10)
"""HuBERT. fairseq takes at least two spans, and this preset at least one. On sequences of 11 to 20
tokens fairseq masks 0.97 to 0.68, and this preset 0.91 to 0.50. From 31 tokens on, the ratios agree
within 0.01. github.com/facebookresearch/fairseq,
`examples/hubert/config/pretrain/hubert_base_librispeech.yaml` and
`fairseq/models/hubert/hubert.py`."""
