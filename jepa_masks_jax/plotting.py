"""Masks as pictures, over an image if there is one. Needs matplotlib: the extra `plot`."""

from typing import Any

import numpy as np

try:
    from matplotlib import cbook, colors
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"jepa_masks_jax.plotting needs matplotlib ({error}): pip install matplotlib"
    ) from error

from jepa_masks_jax._strategies.ijepa import ContextTargetMasks

CONTEXT_COLOR = "#56B4E9"
"""Sky blue: what the context encoder sees."""

TARGET_COLORS = ("#D55E00", "#F0E442", "#0072B2", "#E69F00", "#CC79A7", "#009E73")
"""One colour for each target block, in order; distinct to colour-blind eyes and in grey."""

_HIDDEN_COLOR = "#303030"
_CHANNELS = ((), (3,), (4,))
_PIXELS = 224
_GAP = 8
_STRIP = 16
"""A grid of one row is drawn so many times as long as high."""


def photograph() -> np.ndarray:
    """Returns the photograph that matplotlib ships: uint8[height, width, 3].

    Example:
        >>> photograph().dtype
        dtype('uint8')
    """
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as picture:
        return np.asarray(picture)


def show_mask(
    mask: Any | ContextTargetMasks, *, image: Any | None = None, ax: Axes | None = None
) -> Axes:
    """Draws one mask: the context is clear, each target has its colour, other tokens are dark.

    A video is a row of frames, a sequence is a strip.

    Args:
        mask: bool[*grid], a target whose complement is the context, or the `ContextTargetMasks` of
            one image or sequence. A grid has one axis (a sequence or slots), two (an image) or
            three (a video).
        image: uint8 or float in `[0, 1]`, `[height, width]` or `[height, width, 3 or 4]`, of any
            size; for a video also one for each frame, `[frames, height, width, 3 or 4]`. Cropped to
            the grid's shape. Without it the context has a colour.
        ax: matplotlib axes to draw on; new ones if None.

    Returns:
        The axes.

    Raises:
        TypeError: if a mask is not boolean.
        ValueError: if a mask does not have one to three axes, or the image does not fit it.

    Example:
        >>> import jax
        >>> import jepa_masks_jax as jm
        >>> ax = show_mask(jm.block_mask(jax.random.key(0), (14, 14)), image=photograph())
        >>> len(ax.images)
        1
    """
    context, targets = _as_videos(mask)
    frames, height, width = context.shape
    wide = min(32, max(4, _PIXELS // max(height, width)))
    token = wide if height > 1 else max(4, wide * width // _STRIP), wide
    pictures = _crop_frames(image, frames, (height * token[0], width * token[1]))
    strip = [
        _paint(context[i], targets[:, i], None if pictures is None else pictures[i], token)
        for i in range(frames)
    ]
    gap = np.ones((height * token[0], _GAP, 3))
    canvas = np.concatenate([part for frame in strip for part in (frame, gap)][:-1], axis=1)
    if ax is None:
        ax = Figure().add_subplot()
    ax.imshow(canvas, interpolation="none")
    ax.set_axis_off()
    return ax


def _as_videos(mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns bool[frames, height, width] and bool[num_targets, frames, height, width]."""
    if isinstance(mask, ContextTargetMasks):
        context, targets = np.asarray(mask.context), np.asarray(mask.targets)
    else:
        targets = np.asarray(mask)[None]
        context = ~targets[0] if targets.dtype == np.bool_ else targets[0]
    if context.dtype != np.bool_ or targets.dtype != np.bool_:
        raise TypeError(f"mask must be boolean, got {context.dtype} and {targets.dtype}")
    if not 1 <= context.ndim <= 3 or not context.size or targets.shape[1:] != context.shape:
        raise ValueError(
            "mask must be one mask with one to three axes, which a picture can show, and its "
            "targets of the context's grid; "
            f"got a context of shape {context.shape} and targets of shape {targets.shape}"
        )
    video = (1, 1, *context.shape)[-3:]
    return context.reshape(video), targets.reshape(-1, *video)


def _crop_frames(image: Any | None, frames: int, size: tuple[int, int]) -> np.ndarray | None:
    """Cuts each frame's image to the shape of the grid: float[frames, *size, 3]."""
    if image is None:
        return None
    images = np.asarray(image)
    if images.ndim < 4:
        images = np.broadcast_to(images, (frames, *images.shape))
    channels = images.shape[3:]
    if len(images) != frames or images.ndim < 3 or not images.size or channels not in _CHANNELS:
        raise ValueError(
            f"image must be [height, width] with 3, 4 or no channels, or {frames} of them for the "
            f"frames, got shape {np.shape(image)}"
        )
    if np.issubdtype(images.dtype, np.floating):
        images = (255 * np.clip(images, 0, 1)).astype(np.uint8)
    if images.dtype != np.uint8:
        raise ValueError(f"image must be uint8 or float in [0, 1], got {images.dtype}")
    return np.stack([_crop(Image.fromarray(picture).convert("RGB"), size) for picture in images])


def _crop(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    scale = max(height / picture.height, width / picture.width)
    left = (picture.width - width / scale) / 2
    top = (picture.height - height / scale) / 2
    box = (left, top, left + width / scale, top + height / scale)
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box)) / 255


def _paint(
    context: np.ndarray,
    targets: np.ndarray,
    picture: np.ndarray | None,
    token: tuple[int, int],
) -> np.ndarray:
    """Paints one frame, `token` pixels high and wide for each: float[height, width, 3]."""

    def enlarge(mask: np.ndarray) -> np.ndarray:
        return mask.repeat(token[0], 0).repeat(token[1], 1)

    visible = enlarge(context)[..., None]
    base = np.ones((*visible.shape[:2], 3)) if picture is None else picture
    clear = np.array(colors.to_rgb(CONTEXT_COLOR)) if picture is None else picture
    canvas = np.where(visible, clear, _tint(base, _HIDDEN_COLOR))
    blocks = [enlarge(target) for target in targets]
    target_colors = [TARGET_COLORS[i % len(TARGET_COLORS)] for i in range(len(blocks))]
    for inside, color in zip(blocks, target_colors, strict=True):
        canvas[inside] = _tint(base[inside], color)
    for inside, color in zip(blocks, target_colors, strict=True):
        canvas[inside & ~_shrink(inside)] = colors.to_rgb(color)
    return canvas


def _tint(pixels: np.ndarray, color: str) -> np.ndarray:
    return 0.25 * pixels + 0.75 * np.array(colors.to_rgb(color))


def _shrink(mask: np.ndarray, by: int = 2) -> np.ndarray:
    padded = np.pad(mask, by)
    height, width = mask.shape
    around = [
        padded[by + down : by + down + height, by + right : by + right + width]
        for down, right in ((-by, 0), (by, 0), (0, -by), (0, by))
    ]
    return np.all([mask, *around], axis=0)
