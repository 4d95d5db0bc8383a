"""Masks as pictures, over an image if one is given. Needs matplotlib: the extra `plot`."""

import io
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

try:
    from matplotlib import cbook, colors
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from PIL import Image, ImageOps
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"jepa_masks_jax.plotting needs matplotlib ({error}): pip install matplotlib"
    ) from error

from jepa_masks_jax import _check, _grids
from jepa_masks_jax._types import ContextTargetMasks, TokenIndices

CONTEXT_COLOR = "#56B4E9"
"""The color of context tokens if there is no image."""

TARGET_COLORS = ("#D55E00", "#F0E442", "#009E73", "#CC79A7", "#0072B2", "#E69F00")
"""The colors of the target blocks, in turn; readers who are color-blind can tell them apart."""

_UNUSED_COLOR = "#303030"
"""The tint of tokens in neither set, nearly black."""

_PAGE, _IMAGE, _MARGIN, _TITLE = 10, 2.3, 0.12, 0.34
"""Inches: the widest figure, the side of an image, the gap between masks, the line of a title."""

_LEGEND = 6, 0.23
"""The size of a legend in inches."""


class _Figure(Figure):
    """A figure without a window: a notebook shows it when it is displayed, pyplot never does."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def photograph() -> np.ndarray:
    """Returns the photograph that comes with matplotlib: uint8[height, width, 3].

    Example:
        >>> photograph().dtype
        dtype('uint8')
    """
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as picture:
        return np.asarray(picture)


def show_mask(
    mask: Any | ContextTargetMasks,
    *,
    image: Any | None = None,
    within: Any | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots one mask, over an image if one is given.

    Context tokens show the image, or `CONTEXT_COLOR` without one. The image is gray under all other
    tokens: each target block is tinted in its own color, and unused tokens are dark. Later target
    blocks are on top. A video is a row of frames, and a sequence is a bar. A frame has at most
    2,048 pixels a side; on longer grids some tokens are left out.

    Args:
        mask: bool[*grid], a target whose complement is the context, or the `ContextTargetMasks` of
            one sample. The grid has one axis (a sequence or slots), two (an image) or three (a
            video).
        image: uint8 or float in `[0, 1]`, `[height, width]` or `[height, width, 3 or 4]`, of any
            size; for a video also one image a frame, `[frames, height, width, 3 or 4]`. It is
            cropped at its center to the shape of the grid. Default None.
        within: the real sides of the sample, one integer for each axis of the grid, clamped into
            `[1, side]`. The image covers the real part, tokens outside it are white, and the
            context of a single target is the rest of the real part. Default None, the whole grid.
        ax: matplotlib axes to plot on. Default None, which makes a pyplot figure. In a loop,
            close the figures or pass `ax`, because pyplot warns when more than 20 are open.

    Returns:
        Axes: the axes plotted on.

    Raises:
        TypeError: if the mask is not boolean, or the sides are not integers.
        ValueError: if the mask does not have one to three axes, or if `image` or `within` does not
            fit it.

    Example:
        >>> import jax
        >>> import jepa_masks_jax as jm
        >>> masks = jm.ijepa_masks(jax.random.key(0), (14, 14))
        >>> ax = show_mask(masks, image=photograph())
        >>> len(ax.images)
        1
    """
    (frames, height, width), context, targets = _read_mask(mask, within)
    high, wide, gap = _frame_size(frames, height, width)
    real_frames, real_height, real_width = context.shape
    size = math.ceil(high * real_height / height), math.ceil(wide * real_width / width)
    pictures = [None] * real_frames if image is None else _fit(image, real_frames, size)
    canvas = np.ones((high, frames * (wide + gap) - gap, 3), np.float32)
    for i, picture in enumerate(pictures):
        left = i * (wide + gap)
        frame = _paint(context[i], targets[:, i], picture, size)
        canvas[: size[0], left : left + size[1]] = frame
    if ax is None:
        ax = plt.figure().add_subplot()
    ax.imshow(canvas)
    ax.set_axis_off()
    return ax


def show_masks(
    masks: Any | ContextTargetMasks,
    *,
    image: Any | None = None,
    within: Any | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Plots the masks of a batch, each as `show_mask` does, above a legend.

    Four square images stand side by side. A wider mask has more room, so a video or a sequence has
    a row of its own.

    Args:
        masks: bool[batch, *grid], or the `ContextTargetMasks` of a batch, as `jax.vmap` of a
            strategy returns them.
        image: the image under every mask, as in `show_mask`, or a list of one image for each mask.
            Default None.
        within: the real sides of all samples, one integer for each axis of the grid, or of each
            sample, `[batch, axes]`. Default None, the whole grid.
        titles: a title for each mask. Default None.

    Returns:
        Figure: at most ten inches wide, and not one of pyplot's: a notebook shows it as the last
            value of a cell or by `display`, and its `savefig` saves it. The first axes are those of
            the masks, in order.

    Raises:
        TypeError: if the masks are not boolean.
        ValueError: if `masks` is not a batch of at least one mask, if there is another number of
            titles, images or sides, or if `show_mask` refuses a mask.

    Example:
        >>> import jax
        >>> import jepa_masks_jax as jm
        >>> keys = jax.random.split(jax.random.key(0), 8)
        >>> masks = jax.vmap(lambda key: jm.presets.mae(key, (14, 14)))(keys)
        >>> figure = show_masks(masks, titles=[f"image {i}" for i in range(8)])
        >>> figure.axes[7].get_title(loc="left")
        'image 7'
    """
    if not isinstance(masks, ContextTargetMasks):
        masks = np.asarray(masks)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(masks)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) > 1 or sizes & {(), (0,)}:
        raise ValueError(
            f"masks must be a batch of at least one mask, got {' and '.join(map(str, shapes))}"
        )
    ((count,),) = sizes
    one_by_one = [jax.tree.map(operator.itemgetter(i), masks) for i in range(count)]
    images = image if isinstance(image, list) else [image] * count
    sides: Any = [within] * count if within is None or np.ndim(within) < 2 else list(within)
    names = [""] * count if titles is None else titles
    for name, given in {"image": images, "within": sides, "titles": names}.items():
        if len(given) != count:
            raise ValueError(f"{name} must have one for each of {count} masks, got {len(given)}")
    parts = [_read_mask(*one) for one in zip(one_by_one, sides, strict=True)]
    grid, _, targets = parts[0]
    high, wide, gap = _frame_size(*grid)
    shape = (grid[0] * (wide + gap) - gap) / high

    # A tall mask is narrow, and a wide one is as wide as the page.
    title = 0.0 if titles is None else _TITLE
    tile = min(_IMAGE / min(shape, 1), 2 * _IMAGE, (_PAGE - 2 * _MARGIN) / shape)
    across, down = tile * shape + _MARGIN, tile + title + _MARGIN
    columns = min(count, max(1, int((_PAGE - _MARGIN) / across)))
    width = max(_LEGEND[0] + _MARGIN, columns * across) + _MARGIN
    height = math.ceil(count / columns) * down + _LEGEND[1] + 2 * _MARGIN
    figure = _Figure(figsize=(width, height))
    for i, (mask, one, side) in enumerate(zip(one_by_one, images, sides, strict=True)):
        row, column = divmod(i, columns)
        left, bottom = _MARGIN + column * across, height - (row + 1) * down
        ax = _axes_in(figure, left, bottom, tile * shape, tile)
        show_mask(mask, image=one, within=side, ax=ax)
        ax.set_title(names[i], loc="left", parse_math=False)
    neither = not all((seen | blocks.any(axis=0)).all() for _, seen, blocks in parts)
    under: Any = next((one for one in images if one is not None), None)
    under = under[0] if np.ndim(under) == 4 else under  # of the frames of a video
    legend = _axes_in(figure, _MARGIN, _MARGIN, *_LEGEND)
    show_legend(image=under, num_targets=len(targets), neither=neither, ax=legend)
    return figure


def show_chain(mask: Any | ContextTargetMasks, indices: TokenIndices, *, image: Any) -> Figure:
    """Plots how the encoder gets the tokens of one image, from the mask to the patches.

    Five pictures: the image, its mask with the numbers of the listed tokens, the index list, the
    patches that it takes, and these patches put back in their places. The lists are wrapped like
    text, and their padding is hatched.

    Args:
        mask: the mask of one image, as in `show_mask`, of a grid `(height, width)`.
        indices: the index list of its context, as `token_indices` returns it: `int32[size]` and
            `bool[size]`.
        image: the image, as in `show_mask`.

    Returns:
        Figure: with axes for the five pictures, in order, and the legend. It is shown and saved
            like that of `show_masks`.

    Raises:
        TypeError: if the mask is not boolean, or `indices` is not a `TokenIndices`.
        ValueError: if `mask` is not the mask of one image, `indices` is not one index list of its
            tokens, or `image` does not fit.

    Example:
        >>> import jax
        >>> import jepa_masks_jax as jm
        >>> target = jm.random_mask(jax.random.key(0), (6, 6), mask_ratio=0.75)
        >>> figure = show_chain(target, jm.token_indices(~target, size=9), image=photograph())
        >>> figure.axes[2].get_title(loc="left")
        '3  token_indices(size=9)'
    """
    (_, rows, columns), context, targets = _read_mask(mask, None)
    if not isinstance(indices, TokenIndices):
        raise TypeError(f"indices must be what token_indices returns, got {type(indices).__name__}")
    grid = np.shape(mask.context if isinstance(mask, ContextTargetMasks) else mask)
    numbers, valid = np.asarray(indices.indices), np.asarray(indices.valid)
    one_list = numbers.ndim == 1 == indices.per_row and numbers.shape == valid.shape
    if len(grid) != 2 or not one_list or indices.num_tokens != rows * columns:
        raise ValueError(
            "mask must be that of one image, and indices one list of its tokens; got a grid "
            f"{grid}, and indices {numbers.shape} of {indices.num_tokens} tokens"
        )
    listed = numbers[valid]
    wrong = listed[(listed < 0) | (listed >= rows * columns)]
    if wrong.size:
        raise ValueError(f"indices must be in [0, {rows * columns}) where valid, got {wrong[0]}")
    side = max(1, 432 // max(rows, columns))  # pixels of a patch
    whole = np.asarray(_fit(image, 1, (rows * side, columns * side))[0])
    is_listed = np.isin(np.arange(rows * columns), listed).reshape(rows, columns)
    is_shown = is_listed.repeat(side, axis=0).repeat(side, axis=1)[..., None]
    back = np.where(is_shown, whole, np.uint8(255))

    figure = _Figure(figsize=(5.34, 3.86), layout="compressed")
    axes: Any = figure.subplots(2, 3).ravel()
    image_ax, mask_ax, list_ax, patches_ax, back_ax, legend = axes
    titles = ["image", "masks", f"token_indices(size={len(numbers)})"]
    titles += ["patches: take_tokens", "put back: put_tokens"]
    for i, (ax, title) in enumerate(zip(axes, titles, strict=False), 1):
        ax.set_title(f"{i}  {title}", loc="left", fontsize=9, pad=3)
        ax.set_anchor("NW")
    image_ax.imshow(whole)
    show_mask(mask, image=whole, ax=mask_ax).set_axis_on()
    back_ax.imshow(back)
    for ax in (image_ax, mask_ax, back_ax):
        ax.images[0].set_extent((0, columns, rows, 0))
        ax.set_xticks(range(columns + 1), [])
        ax.set_yticks(range(rows + 1), [])
        ax.tick_params(length=0)
        ax.grid(color="0.75", linewidth=0.5)
    across = math.ceil(math.sqrt(len(numbers)))
    number: Any = {"ha": "center", "va": "center", "bbox": dict(fc="white", ec="none", pad=0.8)}
    number["fontsize"] = min(8, 48 / max(rows, columns, across))
    for i, (n, real) in enumerate(zip(numbers, valid, strict=True)):
        top, left = divmod(i, across)
        for ax in (list_ax, patches_ax):
            frame: Any = {"fill": False, "ec": "0.4", "lw": 0.5, "hatch": None if real else "////"}
            ax.add_patch(Rectangle((left, top), 0.94, 0.94, **frame))
        list_ax.text(left + 0.47, top + 0.47, str(n), **number)
        if real:
            y, x = divmod(n, columns)
            mask_ax.text(x + 0.5, y + 0.5, str(n), **number)
            patch = whole[y * side : (y + 1) * side, x * side : (x + 1) * side]
            patches_ax.imshow(patch, extent=(left, left + 0.94, top + 0.94, top))
    for ax in (list_ax, patches_ax):
        ax.set(xlim=(-0.02, across), ylim=(across, -0.02), aspect="equal")
        ax.set_axis_off()
    neither = not (context | targets.any(axis=0)).all()
    show_legend(image=whole, num_targets=len(targets), neither=neither, ax=legend)
    if not valid.all():
        legend.text(0, 0.93 - len(legend.texts) / 5, "hatched: padding", va="center", fontsize=8)
    return figure


def show_legend(
    *, image: Any | None = None, num_targets: int = 1, neither: bool = True, ax: Axes | None = None
) -> Axes:
    """Plots what the colors of `show_mask` mean: in a line, or in a column if there is no room.

    Args:
        image: the image under the masks, as in `show_mask`, for one frame. Default None.
        num_targets: how many target blocks have a color of their own. Default 1.
        neither: whether there are tokens in neither set. Default True.
        ax: matplotlib axes to plot on, low and wide for a line. Default None, which makes a
            pyplot figure, as `show_mask` does.

    Returns:
        Axes: the axes plotted on.

    Raises:
        TypeError: if `num_targets` is not an integer.
        ValueError: if `num_targets` is below 1 or `image` is not the image of one frame.

    Example:
        >>> ax = show_legend(num_targets=4)
        >>> [text.get_text() for text in ax.texts]
        ['context: seen', 'target: predicted', 'neither']
    """
    if image is not None:
        _fit(image, 1, (1, 1))  # An image that is refused leaves no empty figure behind.
    num_targets = _check.integer("num_targets", num_targets)
    blocks: Any = np.eye(num_targets, dtype=bool)[:, None]
    nothing: Any = np.zeros((1, 1), bool)
    parts = {
        "context: seen": ContextTargetMasks(~nothing, nothing[None]),
        "target: predicted": ContextTargetMasks(~blocks.any(axis=0), blocks),
        "neither": ContextTargetMasks(nothing, nothing[None]),
    }
    if ax is None:
        ax = plt.figure(figsize=_LEGEND).add_axes((0, 0, 1, 1))
    room = ax.get_window_extent()
    in_a_line = room.width > 4 * room.height
    for i, (text, mask) in enumerate([*parts.items()][: 2 + bool(neither)]):
        place = (i / 3, 0, 0.05, 1) if in_a_line else (0, 0.86 - i / 5, 0.18, 0.14)
        swatch = show_mask(mask, image=image, ax=ax.inset_axes(place))
        swatch.set_aspect("auto")
        font: Any = {"va": "center", "fontsize": 10 if in_a_line else 8}
        ax.annotate(text, (1.2, 0.45), xycoords=swatch, **font)
    ax.set_axis_off()
    return ax


def _axes_in(figure: Figure, left: float, bottom: float, wide: float, high: float) -> Axes:
    """Adds axes at a place in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, wide / width, high / height))


def _read_mask(mask: Any, within: Any) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Returns the grid as that of a video, and the real part of the context and of each target."""
    if isinstance(mask, ContextTargetMasks):
        context, targets = np.asarray(mask.context), np.asarray(mask.targets)
    else:
        targets = np.asarray(mask)[None]
        context = ~targets[0] if targets.dtype == np.bool_ else targets[0]
    if context.dtype != np.bool_ or targets.dtype != np.bool_:
        raise TypeError(f"mask must be boolean, got {context.dtype} and {targets.dtype}")
    if not 1 <= context.ndim <= 3 or not context.size or targets.shape[1:] != context.shape:
        raise ValueError(
            "mask must be one mask with one to three axes, and each target must have the shape of "
            f"the context; got a context {context.shape} and targets {targets.shape}"
        )
    sides = context.shape if within is None else _check.within(within, context.shape)
    real = tuple(slice(max(1, int(side))) for side in sides)
    grid, part = (_grids.as_video(array.shape) for array in (context, context[real]))
    return grid, context[real].reshape(part), targets[:, *real].reshape(-1, *part)


def _frame_size(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Returns how many pixels high and wide a frame is, and the gap between two frames.

    The longer side of a frame has about 224 pixels, and a token 4 to 32. A sequence has eight times
    as many, because it is plotted as wide as a page. Tokens are smaller if the picture would be
    longer than 2,048 pixels.
    """
    token = min(32, max(4, 224 // max(height, width))) * (8 if height == 1 else 1)
    token = min(token, max(1, 2048 // max(height, frames * width)))
    high, wide = min(2048, height * token), min(2048, width * token)
    # The bar of a sequence is at least a sixteenth as high as long.
    return (max(high, wide // 16) if height == 1 else high), wide, max(1, wide // 28)


def _fit(image: Any, frames: int, size: tuple[int, int]) -> list[Image.Image]:
    """Crops each frame's image at its center, and resizes it."""
    images = np.asarray(image)
    if images.ndim < 4:
        images = np.broadcast_to(images, (frames, *images.shape))
    has_pixels = images.size and (images.ndim == 3 or images.shape[3:] in [(3,), (4,)])
    if len(images) != frames or not has_pixels:
        raise ValueError(
            f"image must be [height, width] with 3, 4 or no channels, or {frames} of them for the "
            f"frames, got shape {np.shape(image)}"
        )
    if images.dtype.kind == "f" and np.all((images >= 0) & (images <= 1)):
        images = np.round(255 * images).astype(np.uint8)
    if images.dtype != np.uint8:
        values = f"{images.dtype} in [{images.min()}, {images.max()}]"
        raise ValueError(f"image must be uint8 or float in [0, 1], got {values}")
    pictures = [Image.fromarray(pixels).convert("RGB") for pixels in images]
    return [ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS) for picture in pictures]


def _paint(
    context: np.ndarray, targets: np.ndarray, picture: Image.Image | None, size: tuple[int, int]
) -> np.ndarray:
    """Paints the masks bool[height, width] of one frame: float32[*size, 3]."""
    rows, columns = (np.arange(n) * side // n for n, side in zip(size, context.shape, strict=True))

    def enlarge(mask: np.ndarray) -> np.ndarray:
        return mask[rows][:, columns]

    shown, grey = _rgb(CONTEXT_COLOR), _rgb("white")
    if picture is not None:
        shown = np.asarray(picture, np.float32) / 255
        grey = np.asarray(picture.convert("L").convert("RGB"), np.float32) / 255
    grey = np.broadcast_to(grey, (*size, 3))
    canvas = np.where(enlarge(context)[..., None], shown, _tint(grey, _UNUSED_COLOR))
    token = min(n // side for n, side in zip(size, context.shape, strict=True))
    blocks = list(zip(map(enlarge, targets), itertools.cycle(TARGET_COLORS)))
    for block, color in blocks:
        canvas[block] = _tint(grey[block], color)
    # Edges come last, so that no other block hides them.
    for block, color in blocks:
        canvas[_edge(block, max(1, min(2, token // 8)))] = _rgb(color)
    return canvas


def _edge(block: np.ndarray, pixels: int) -> np.ndarray:
    """Returns the outermost pixels of a block, bool[high, wide]."""
    inner = np.pad(block, 1)
    for _ in range(pixels):
        moved = [np.roll(inner, step, axis) for axis in (0, 1) for step in (1, -1)]
        inner = np.logical_and.reduce([inner, *moved])
    return block & ~inner[1:-1, 1:-1]


def _tint(pixels: np.ndarray, color: str) -> np.ndarray:
    return 0.15 * pixels + 0.85 * _rgb(color)


def _rgb(color: str) -> np.ndarray:
    return np.array(colors.to_rgb(color), np.float32)
