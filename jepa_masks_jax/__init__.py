"""Masks for I-JEPA, V-JEPA, MAE and other masked pre-training, sampled inside the jitted step.

Write a function of one key for one sample, and let `jax.vmap` make the batch:

>>> import jax
>>> import jepa_masks_jax as jm
>>> grid = jm.image_grid(224, 16)  # (14, 14): 196 tokens
>>> def sample(key):  # one image
...     mask_key, index_key = jax.random.split(key)
...     context, targets = jm.presets.ijepa(mask_key, grid)
...     return jm.token_indices(context, size=131, key=index_key), targets  # drops 0.1 %
>>> keys = jax.random.split(jax.random.key(0), 256)
>>> seen, targets = jax.jit(jax.vmap(sample))(keys)
>>> seen.indices.shape, seen.valid.shape, targets.shape
((256, 131), (256, 131), (256, 4, 14, 14))

A mask is named after its True tokens: `context` marks what the encoder sees, and `target` what the
predictor has to predict. Strategies that return one mask return the target, and the context is
`~target`.

Options are keyword-only and static: they are part of the compiled program. Only counts, `within`
and `among` may also be traced arrays. An invalid static option raises, with a one-line message,
when the function is called, and inside `jit` while it is traced. Values in arrays cannot be
checked, so they are clamped to the valid range.

## From a mask to tokens and back

    mask           bool[2, 4]   . # # .
                                # . . .
      |  seen = token_indices(mask, size=4)
    seen.indices   int32[4]     1 2 4 8         8 = one past the last token, i.e. padding
    seen.valid     bool[4]      T T T F
      |  take_tokens(tokens, seen)              tokens: [8, D]
    taken          [4, D]       t1 t2 t4 0
      |  network(taken, attention_mask(seen))   keeps padding out of attention
    outputs        [4, D]       y1 y2 y4 ?
      |  put_tokens(outputs, seen, fill=m)      m: a mask token
    placed         [8, D]       m y1 y2 m  y4 m m m

## Lists and rows

The token counts of block masks vary, but an index list has one length: a short one drops tokens,
and a long one computes padding. Rows of several samples do little of either, because `in_rows`
groups samples so that all rows hold about equally many tokens.

>>> draw = lambda key: jm.presets.ijepa(key, grid)
>>> sizes = jm.list_size(draw, per_row=2, group=256)
>>> sizes  # about 99 % of rows of these lengths drop nothing
ContextTargetMasks(context=188, targets=78)
>>> def list_row(context):  # one row: bool[2, 14, 14]
...     seen = jm.token_indices(context, size=sizes.context, per_row=2)
...     return seen, jm.attention_mask(seen)  # each token attends to those of its own sample
>>> masks = jax.jit(jax.vmap(draw))(keys)
>>> context, targets = jm.in_rows(jax.random.key(1), masks, per_row=2)
>>> seen, mask = jax.jit(jax.vmap(list_row))(context)
>>> seen.indices.shape, mask.shape
((128, 188), (128, 188, 188))

A list is a row of one. `seen.sample` says which sample of the row each entry belongs to, and
`seen.place` which token of that sample's grid it is. `.github/ROWS.md` in the repository has
complete steps.

## Functions

- JEPA: `ijepa_masks`, `ijepa_counts`, `vjepa_mask`.
- Random tokens, and tokens by score: `random_mask`, `random_tube_mask`, `top_mask`.
- BEiT, DINOv2 and CAPI: `blockwise_mask`, `inverse_block_mask`.
- Spans of a sequence, of one length or as T5's: `span_mask`, `random_span_mask`. Object slots:
  `object_mask`. Boxes for a strategy of your own: `box_mask`.
- Published settings: `jepa_masks_jax.presets`.
- From masks to tokens: `token_indices`, `take_tokens`, `put_tokens`, `clip_count`,
  `squared_distance`.
- Lengths of lists, and several samples in a row: `list_size`, `in_rows`, `attention_mask`,
  `balanced_order`.
- Grids: `image_grid`, `video_grid`, `inside`.
- On the host: `mask_statistics`, `to_mask_spec`, `to_mask_specs`.
- Ports of jepa-rs: `block_mask`, `spatiotemporal_mask`, `multi_block_mask`.
- Pictures: `jepa_masks_jax.plotting`.

## Samples of different sizes

With `within=sides`, a sample smaller than the grid gets the mask of its own size, in the first rows
and columns. One compilation serves all sizes, and `inside` tells real tokens from padding. With
`among=has_data`, random tokens are chosen only from those that hold data.

## Reproducibility

The same key gives the same mask, bit for bit: eager or under `jit`, `vmap`, `scan` and `shard_map`,
in 32- and 64-bit mode, with typed and legacy keys, on CPU and GPU, with every supported jax. The
tests compare stored hashes, and a change of one is a breaking change.

- Restarts: with the key `jax.random.fold_in(key, step)`, split for the batch, a mask depends only
  on the key, the step, and the sample's place in the batch.
- Devices: shard the keys as you shard the batch. Each device then samples the masks of its own
  samples, without communication. Under a mesh with explicit axes, tokens, index lists and counts
  must carry the same sharding. Do not replicate one key under `shard_map`: every device would
  sample the same masks.
- Hosts: split the key for the global batch, and index the host's part. If each host splits the same
  key for its own batch, all hosts get the same masks.
- Data workers: sample a batch at a time. With `multiprocessing`, choose `spawn`: a process forked
  after a JAX call can hang.
- Other generators: all this holds for threefry keys with `jax_threefry_partitionable` on, both
  JAX's defaults. With it off, the masks differ. Keys such as `rbg` give valid masks, but under
  `vmap` JAX draws the bits of the whole batch from its first key, so the others do not count.
- Exports: a function saved by `jax.export` keeps its masks. A JAX more than six months newer reads
  it only with `jax_export_deserialize_expired_versions` set.
"""

import importlib
import typing

from jepa_masks_jax import presets
from jepa_masks_jax._distance import squared_distance
from jepa_masks_jax._grids import image_grid, video_grid
from jepa_masks_jax._rows import attention_mask, balanced_order, in_rows
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
from jepa_masks_jax._statistics import MaskStatistics, list_size, mask_statistics
from jepa_masks_jax._strategies.block import block_mask
from jepa_masks_jax._strategies.blockwise import blockwise_mask
from jepa_masks_jax._strategies.box import box_mask
from jepa_masks_jax._strategies.ijepa import IjepaCounts, ijepa_counts, ijepa_masks
from jepa_masks_jax._strategies.inverse_block import inverse_block_mask
from jepa_masks_jax._strategies.multi_block import multi_block_mask
from jepa_masks_jax._strategies.random import object_mask, random_mask, random_tube_mask
from jepa_masks_jax._strategies.random_span import random_span_mask
from jepa_masks_jax._strategies.span import span_mask
from jepa_masks_jax._strategies.spatiotemporal import spatiotemporal_mask
from jepa_masks_jax._strategies.top import top_mask
from jepa_masks_jax._strategies.vjepa import vjepa_mask
from jepa_masks_jax._subsets import clip_count
from jepa_masks_jax._tokens import put_tokens, take_tokens, token_indices
from jepa_masks_jax._types import ContextTargetMasks, TokenIndices
from jepa_masks_jax._within import inside

__version__ = "0.5.0"

# JEPA
__all__ = ["ijepa_masks", "ContextTargetMasks", "ijepa_counts", "IjepaCounts", "vjepa_mask"]
# Random tokens
__all__ += ["random_mask", "random_tube_mask", "top_mask"]
# BEiT, DINO, CAPI
__all__ += ["blockwise_mask", "inverse_block_mask"]
# Spans of a sequence, object slots, boxes
__all__ += ["span_mask", "random_span_mask", "object_mask", "box_mask"]
# Published settings
__all__ += ["presets"]
# From masks to tokens
__all__ += ["token_indices", "TokenIndices", "take_tokens", "put_tokens"]
__all__ += ["clip_count", "squared_distance"]
# Several samples in a row
__all__ += ["list_size", "in_rows", "attention_mask", "balanced_order"]
# Grids
__all__ += ["image_grid", "video_grid", "inside"]
# On the host
__all__ += ["mask_statistics", "MaskStatistics", "to_mask_spec", "to_mask_specs", "MaskSpec"]
__all__ += ["MaskError", "EmptyContextError", "EmptyTargetError"]
__all__ += ["IndexOutOfBoundsError", "DuplicateIndexError"]
# Ports of jepa-rs
__all__ += ["block_mask", "spatiotemporal_mask", "multi_block_mask"]

if typing.TYPE_CHECKING:
    from jepa_masks_jax import plotting as plotting
else:

    def __getattr__(name):
        """Loads `plotting` at its first use, because it needs matplotlib."""
        if name != "plotting":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return importlib.import_module("jepa_masks_jax.plotting")
        except ModuleNotFoundError as error:
            raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    return [*__all__, "plotting", "__version__"]
