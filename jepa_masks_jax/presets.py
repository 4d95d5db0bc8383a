"""Published settings: each preset is a strategy with its options set.

| model | preset | strategy | on its own grid |
|---|---|---|---|
| I-JEPA | `ijepa` | `ijepa_masks` | 4 targets of 0.15 to 0.2, context block of 0.85 to 1 |
| V-JEPA, V-JEPA 2 | `vjepa_short_range` | `vjepa_mask` | 8 blocks of 0.15 of a frame |
| | `vjepa_long_range` | `vjepa_mask` | 2 blocks of 0.7 of a frame |
| V-JEPA 2.1, images | `vjepa21_image` | `vjepa_mask` | 10 blocks of 0.15 |
| MAE | `mae` | `random_mask` | 147 of 14x14 |
| MAE-ST | `mae_st` | `random_mask` | 1,412 of 8x14x14 |
| AudioMAE | `audiomae` | `random_mask` | 410 of 64x8 |
| SimMIM | `simmim` | `random_mask` | 22 of 36 cells, on 48x48 |
| Pixio | `pixio` | `random_mask` | 12 of 16 cells, on 16x16 |
| VideoMAE | `videomae_tube` | `random_tube_mask` | 176 of 14x14, the same in 8 frames |
| BEiT | `beit` | `blockwise_mask` | 75 of 14x14 |
| DINOv2, DINOv3 | `dinov3` | `blockwise_mask` | 26 to 128 of 16x16 |
| CAPI | `capi` | `inverse_block_mask` | 166 of 16x16 |
| wav2vec 2.0 | `wav2vec2` | `span_mask` | spans of 10, nominal ratio 0.65 |
| HuBERT | `hubert` | `span_mask` | spans of 10, nominal ratio 0.8 |
| T5 | `t5` | `random_span_mask` | 77 of 512 in 26 spans |
| C-JEPA | `cjepa` | `object_mask` | 2 of 7 slots |

Other models train on the same masks:

| model | preset |
|---|---|
| data2vec, audio | `wav2vec2` |
| data2vec, images | `beit` with `mask_ratio=120 / 196` |
| iBOT, with blocks | `dinov3` with `min_block=(min(grid) // 3) ** 2` |

Call a preset as you call its strategy. Presets that return one mask return the target:

>>> import jax
>>> import jepa_masks_jax as jm
>>> key, grid = jax.random.key(0), (14, 14)
>>> context, targets = jm.presets.ijepa(key, grid)
>>> context = ~jm.presets.mae(key, grid)

`help(jm.presets.mae)` shows its options and the file they come from. Each preset is a
`functools.partial`: `.func` is the strategy and `.keywords` the options. A call may override them.
To give a count instead of the preset's ratio, also pass `mask_ratio=None`:

>>> jm.presets.vjepa_short_range.keywords["num_blocks"]
8
>>> target = jm.presets.mae(key, grid, mask_ratio=None, num_masked=100)
"""

import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from jepa_masks_jax._strategies.blockwise import blockwise_mask
from jepa_masks_jax._strategies.ijepa import ijepa_masks
from jepa_masks_jax._strategies.inverse_block import inverse_block_mask
from jepa_masks_jax._strategies.random import object_mask, random_mask, random_tube_mask
from jepa_masks_jax._strategies.random_span import random_span_mask
from jepa_masks_jax._strategies.span import span_mask
from jepa_masks_jax._strategies.vjepa import vjepa_mask

_OTHER_NAMES = {"data": ["wav2vec2", "beit"], "ibot": ["dinov3"]}
"""The presets of models whose first letters are those of no preset."""

Masks = TypeVar("Masks")

_OF_ALL_VJEPA = {
    "temporal_scale": (1.0, 1.0),
    "aspect_ratio": (0.75, 1.5),
    "max_temporal_keep": 1.0,
}


class Preset(functools.partial[Masks]):
    """A partial that says its own name: `mae = random_mask(mask_ratio=0.75)`."""

    name: str

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.keywords.items())
        return f"{self.name} = {self.func.__name__}({options})"


def _preset(
    strategy: Callable[..., Masks], **options: Any
) -> Callable[[Callable[[], None]], Preset[Masks]]:
    """Makes a preset of a strategy: its name and docstring are those of the decorated function."""

    def decorate(described: Callable[[], None]) -> Preset[Masks]:
        doc = inspect.cleandoc(described.__doc__ or "")  # Python's -OO leaves none.
        about, _, source = doc.partition("\n\nSource:\n")
        lines = "\n".join(f"    {name}={value!r}" for name, value in options.items())
        preset = Preset(strategy, **options)
        preset.name = described.__name__
        preset.__doc__ = (
            f"{about}\n\nThe options of `{strategy.__name__}` that are set, and may be overridden:"
            f"\n\n{lines}\n\nSource:\n{source}\n"
        )
        return preset

    return decorate


@_preset(
    ijepa_masks,
    num_targets=4,
    target_scale=(0.15, 0.2),
    target_aspect_ratio=(0.75, 1.5),
    context_scale=(0.85, 1.0),
    min_keep=10,
    allow_overlap=False,
)
def ijepa() -> None:
    """Samples I-JEPA's context and targets, with the settings of all four released models.

    Those models were trained with the sampling that `"reference"` follows. The preset uses the
    default, `"independent"`, whose blocks reach every token.

    Source:
        github.com/facebookresearch/ijepa, `configs/in1k_vith14_ep300.yaml`,
        `in1k_vith16-448_ep300.yaml`, `in22k_vith14_ep66.yaml` and `in22k_vitg16_ep44.yaml`
    """


@_preset(vjepa_mask, num_blocks=8, spatial_scale=(0.15, 0.15), **_OF_ALL_VJEPA)
def vjepa_short_range() -> None:
    """Samples the first of V-JEPA's two targets of a clip: many small blocks.

    V-JEPA 2 uses the same pair.

    Source:
        github.com/facebookresearch/jepa, `configs/pretrain/vitl16.yaml`, `vith16.yaml` and
        `vith16_384.yaml`; github.com/facebookresearch/vjepa2,
        `configs/train/vitl16/pretrain-256px-16f.yaml`
    """


@_preset(vjepa_mask, num_blocks=2, spatial_scale=(0.7, 0.7), **_OF_ALL_VJEPA)
def vjepa_long_range() -> None:
    """Samples the second of V-JEPA's two targets of a clip: two large blocks.

    V-JEPA 2 uses the same pair.

    Source:
        the files of `vjepa_short_range`
    """


@_preset(vjepa_mask, num_blocks=10, spatial_scale=(0.15, 0.15), **_OF_ALL_VJEPA)
def vjepa21_image() -> None:
    """Samples V-JEPA 2.1's target of an image, on 16x16. An image has only this one.

    For clips, V-JEPA 2.1 uses V-JEPA 2's pair. The values come from a fork.

    Source:
        github.com/khwstolle/vjepa2, `configs/train_2_1/vitl16/pretrain-256px-16f.yaml`;
        the code that reads them: github.com/facebookresearch/vjepa2, `app/vjepa_2_1/train.py`
    """


@_preset(random_mask, mask_ratio=0.75)
def mae() -> None:
    """Samples MAE's target. The context is `~mae(key, grid)`.

    Source:
        github.com/facebookresearch/mae, `main_pretrain.py`, the default of `--mask_ratio`
    """


@_preset(random_mask, mask_ratio=1412 / 1568)
def mae_st() -> None:
    """Samples MAE-ST's target: on its grid of 8x14x14, 1,412 tokens of 1,568.

    Its authors round the count of kept tokens down, to 156, which `mask_ratio=0.9` does not.

    Source:
        github.com/facebookresearch/mae_st, `PRETRAIN.md`, `--mask_ratio 0.9`, and `models_mae.py`
    """


@_preset(random_mask, mask_ratio=0.8)
def audiomae() -> None:
    """Samples AudioMAE's target, on spectrograms of 64x8 patches.

    Source:
        github.com/facebookresearch/AudioMAE, `main_pretrain.py`, the default of `--mask_ratio`
    """


@_preset(random_mask, mask_ratio=0.6, cell=(8, 8))
def simmim() -> None:
    """Samples SimMIM's target, of cells of 32x32 pixels in patches of 4 pixels: 22 of 36 on 48x48.

    Its authors round the count up, and `mask_ratio` rounds to the nearest. That is the same on
    48x48, but on 56x56, 64x64 and 96x96 their counts are 30, 39 and 87 cells, and the preset's 29,
    38 and 86. For theirs pass `mask_ratio=None, num_masked=math.ceil(0.6 * cells)`.

    Source:
        github.com/microsoft/SimMIM, `data/data_simmim.py` and
        `configs/swin_base__800ep/simmim_pretrain__swin_base__img192_window6__800ep.yaml`
    """


@_preset(random_mask, mask_ratio=0.75, cell=(4, 4))
def pixio() -> None:
    """Samples Pixio's target: 12 of the 16 cells of 16x16.

    Source:
        github.com/facebookresearch/pixio, `pretraining/main_pretrain.py`
    """


@_preset(random_tube_mask, mask_ratio=0.9)
def videomae_tube() -> None:
    """Samples VideoMAE's target: the same tokens in every frame.

    Source:
        github.com/MCG-NJU/VideoMAE, `PRETRAIN.md`, `--mask_type tube --mask_ratio 0.9`
    """


@_preset(object_mask, num_masked=2)
def cjepa() -> None:
    """Samples C-JEPA's masked slots, on CLEVRER 2 of 7.

    On Push-T it masks 1 of 4: `num_masked=1`.

    Source:
        github.com/galilai-group/cjepa, `config/data/clevrer.yaml` and `config/data/pusht.yaml`
    """


@_preset(blockwise_mask, mask_ratio=75 / 196, min_block=16)
def beit() -> None:
    """Samples BEiT's target: on its grid of 14x14, 75 tokens.

    Source:
        github.com/microsoft/unilm, `beit/run_beit_pretraining.py`, the defaults of
        `--num_mask_patches` and `--min_mask_patches_per_block`
    """


@_preset(blockwise_mask, mask_ratio=(0.1, 0.5), min_block=4)
def dinov3() -> None:
    """Samples the target of one masked crop of DINOv2 or DINOv3, with a random ratio.

    DINO itself spaces the ratios evenly over a batch, and leaves half of the crops unmasked. A
    recipe has such a batch and its loss: `.github/RECIPES.md`, "DINOv2 and DINOv3".

    Source:
        github.com/facebookresearch/dinov3, `dinov3/configs/train/dinov3_vit7b16_pretrain.yaml` and
        `dinov3/data/masking.py`
    """


@_preset(inverse_block_mask, mask_ratio=0.65, aspect_ratio=(0.5, 2.0), roll=True)
def capi() -> None:
    """Samples CAPI's target: on its grid of 16x16, 166 tokens.

    Its loss uses a random 8 of them: `clip_count(key, mask, maximum=8)`.

    Source:
        github.com/facebookresearch/capi, `default_pretrain_config.yaml`
    """


@_preset(span_mask, mask_ratio=0.65, span=10)
def wav2vec2() -> None:
    """Samples the target of wav2vec 2.0, about half of the tokens, because spans overlap.

    For padded speech, pass `within`. On short sequences fairseq takes more spans: see `hubert`.

    Source:
        github.com/facebookresearch/fairseq, `fairseq/models/wav2vec/wav2vec2.py`
    """


@_preset(span_mask, mask_ratio=0.8, span=10)
def hubert() -> None:
    """Samples HuBERT's target. For padded speech, pass `within`.

    fairseq takes at least two spans, and this preset at least one. On sequences of 11 to 20 tokens
    fairseq masks 97 to 68 % of them, and this preset 91 to 50 %. From 31 tokens on, the two agree
    within a percentage point.

    Source:
        github.com/facebookresearch/fairseq,
        `examples/hubert/config/pretrain/hubert_base_librispeech.yaml` and
        `fairseq/models/hubert/hubert.py`
    """


@_preset(random_span_mask, mask_ratio=0.15, mean_span=3.0, ends="t5")
def t5() -> None:
    """Samples T5's target: on 512 tokens, 77 tokens in 26 spans.

    A recipe has its inputs and targets, and UL2's settings: `.github/RECIPES.md`, "T5 and UL2".

    Source:
        github.com/google-research/text-to-text-transfer-transformer, `t5/data/preprocessors.py`,
        `random_spans_noise_mask`
    """


__all__ = sorted(name for name, value in globals().items() if isinstance(value, Preset))


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # A type checker would take every name for a preset.

    def __getattr__(name: str) -> NoReturn:
        """Refuses a name, and says which presets begin with its first letters or are similar."""
        word = name.lower()
        letters = re.split("[^a-z]", word)[0]
        meant = [preset for preset in __all__ if letters and preset.startswith(letters)]
        meant = meant or _OTHER_NAMES.get(letters) or difflib.get_close_matches(word, __all__, n=1)
        hint = f", see {' or '.join(meant)}" if meant else ""
        raise AttributeError(f"{__name__} has no preset {name}{hint}")
