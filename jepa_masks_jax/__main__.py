"""The command `python -m jepa_masks_jax`: masks as text, pictures and files."""

import argparse
import ast
import difflib
import functools
import inspect
import json
import math
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

import jepa_masks_jax as jm
from jepa_masks_jax._grids import as_video

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image, ImageOps

    from jepa_masks_jax import plotting

    HAS_MATPLOTLIB = True
except ModuleNotFoundError:
    HAS_MATPLOTLIB = False

IMAGE, VIDEO, SEQUENCE = (14, 14), (8, 14, 14), (70,)


class Strategy(NamedTuple):
    """A row of the table: a tile of the picture and its default grid."""

    function: Callable[..., Any]
    method: str
    """The method that draws such masks: the title of the tile."""
    grid: tuple[int, ...] = IMAGE


def top_mask(key: jax.Array, grid: tuple[int, ...], *, num_masked: int = 60) -> jax.Array:
    """Masks the tokens nearest to a random one, because nearness needs no model for its scores."""
    nearness = -jm.squared_distance(jm.random_mask(key, grid, num_masked=1))
    return jm.top_mask(nearness, num_masked=num_masked)


STRATEGIES = {
    "ijepa_masks": Strategy(jm.ijepa_masks, "I-JEPA"),
    "vjepa_mask": Strategy(jm.vjepa_mask, "V-JEPA", VIDEO),
    "random_mask": Strategy(jm.presets.mae, "MAE"),
    "random_tube_mask": Strategy(jm.presets.videomae_tube, "VideoMAE", VIDEO),
    "top_mask": Strategy(top_mask, "by score"),
    "blockwise_mask": Strategy(jm.presets.beit, "BEiT"),
    "inverse_block_mask": Strategy(jm.presets.capi, "CAPI"),
    "span_mask": Strategy(jm.presets.wav2vec2, "wav2vec 2.0", SEQUENCE),
    "random_span_mask": Strategy(jm.presets.t5, "T5", SEQUENCE),
    "object_mask": Strategy(jm.object_mask, "C-JEPA", (7,)),
    "box_mask": Strategy(
        functools.partial(jm.box_mask, num_boxes=4, extent=((2, 6), (2, 6))), "boxes"
    ),
    "block_mask": Strategy(jm.block_mask, "jepa-rs"),
    "spatiotemporal_mask": Strategy(jm.spatiotemporal_mask, "jepa-rs", VIDEO),
    "multi_block_mask": Strategy(jm.multi_block_mask, "jepa-rs"),
}
"""A strategy that needs options has those of a preset."""
PRESETS = {name: getattr(jm.presets, name) for name in jm.presets.__all__}
GRIDS = {
    **dict.fromkeys(["vjepa21_image", "pixio", "dinov3", "capi"], (16, 16)),
    "mae_st": VIDEO,
    "audiomae": (64, 8),
    "simmim": (48, 48),
}
"""Default grids of presets; one that is not named has its strategy's."""
MAX_BATCH_TOKENS = 2**27
"""A batch of more tokens may not fit in memory."""

REFUSALS = ValueError, TypeError, OverflowError, OSError, MemoryError, jax.errors.JaxRuntimeError
"""Errors that one line explains: wrong options, unwritable files, too little memory."""


class Batch(NamedTuple):
    """The masks of one strategy: bool[batch, *grid] and bool[batch, num_targets, *grid]."""

    name: str
    grid: tuple[int, ...]
    context: np.ndarray
    targets: np.ndarray
    separate: bool
    """Whether the strategy returns each target, as ijepa_masks does."""
    within: tuple[int, ...] | None


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends with status 2."""
        short = textwrap.shorten(message, 360, placeholder=" ...")
        self.exit(2, f"{self.prog}: error: {short}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Samples the masks, writes the file and prints the text."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        find_strategy(args)
        check_args(args)
        names = STRATEGIES if args.strategy == "all" else [args.strategy]
        batches = [sample(name, args) for name in names]
        done = write(batches, args)
        text = summarize(batches) if args.strategy == "all" else describe(batches[0])
        print(f"{text}\n\n{done}", flush=True)
    except BrokenPipeError:
        # Python flushes stdout again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except REFUSALS as error:
        parser.error(cause(error))


def cause(error: Exception) -> str:
    """Returns what an error says, or its name if it says nothing, as MemoryError does."""
    return str(error) or type(error).__name__


def make_parser() -> Parser:
    """Makes the parser; its help lists the strategies and presets."""
    parser = Parser(
        prog="python -m jepa_masks_jax",
        description="Sample a batch of masks; print one and the token counts;\n"
        "save a picture or the masks.",
        epilog=list_strategies(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("strategy", nargs="?", metavar="STRATEGY", help="a strategy or preset (default: all)")
    add("--grid", type=sides, help="sides of the grid, such as 14x14 or 8x14x14")
    add("--batch", type=int, default=256, metavar="N", help="count of masks (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the key (default: %(default)s)")
    add("--image", type=image, metavar="PATH", help="image under the masks (default: a photograph)")
    kinds = (
        "picture (.png), boolean masks (.npz) or index lists (.json); default: %(default)s; "
        "without a STRATEGY, chain.png beside it shows how the encoder gets its tokens"
    )
    add("--out", type=Path, default="masks.png", metavar="FILE", help=kinds)
    options = "options of the strategy, such as num_targets=2 target_scale=0.1,0.15"
    # A STRATEGY that follows the last OPTION=VALUE is read as one of them: see find_strategy.
    several: Any = {"type": assignment, "nargs": "+", "action": "extend", "default": []}
    add("--set", metavar="OPTION=VALUE", help=options, **several)
    return parser


def list_strategies() -> str:
    """Lists the strategies with their grids and options, and what the presets bind."""
    lines = ["strategies:", f"  {'name':<19}  default grid  options"]
    columns = shutil.get_terminal_size().columns
    for name, strategy in STRATEGIES.items():
        parameters = inspect.signature(strategy.function).parameters.values()
        options = [f"{p.name}={written(p.default)}" for p in parameters if p.kind is p.KEYWORD_ONLY]
        line = f"  {name:<19}  {by(default_grid(name)):<12}  {' '.join(options)}"
        lines += textwrap.wrap(line, columns, subsequent_indent=" " * 37)
    lines += ["", "presets:"]
    for name, preset in PRESETS.items():
        bound = [f"{option}={value}" for option, value in preset.keywords.items()]
        call = f"{preset.func.__name__}({', '.join(bound)})"
        line = f"  {name} = {call} on {by(default_grid(name))}"
        lines += textwrap.wrap(line, columns, subsequent_indent=" " * 6)
    return "\n".join(lines)


def default_grid(name: str) -> tuple[int, ...]:
    """Returns the grid of a strategy or preset if none is given."""
    strategy = PRESETS[name].func.__name__ if name in PRESETS else name
    return GRIDS.get(name, STRATEGIES[strategy].grid)


def written(value: Any) -> str:
    """Writes a value as `--set` takes it, 0.15,0.2, with four digits at most."""
    if isinstance(value, tuple):
        value = [float(f"{one:.4g}") if isinstance(one, float) else one for one in value]
        return ",".join(map(str, value)).replace(" ", "")
    return str(value)


def by(grid: tuple[int, ...]) -> str:
    """Writes a grid as `--grid` takes it: 14x14."""
    return "x".join(map(str, grid))


def sides(text: str) -> tuple[int, ...]:
    """Reads a grid."""
    try:
        return tuple(map(int, text.split("x")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be sides such as 14x14, got {text}") from error


def assignment(text: str) -> tuple[str, Any] | str:
    """Reads OPTION=VALUE; a value that is not a Python literal is a string.

    A word without "=" is returned as it is, because it may be the STRATEGY.
    """
    option, equals, value = text.partition("=")
    if not equals:
        return text
    if not option.isidentifier():
        raise argparse.ArgumentTypeError(f"must be OPTION=VALUE, got {text}")
    try:
        return option, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return option, value


def image(path: str) -> np.ndarray:
    """Reads an image of any format that Pillow knows."""
    if not HAS_MATPLOTLIB:
        raise argparse.ArgumentTypeError("pip install 'jepa_masks_jax[plot]'")
    try:
        # Pillow warns of damage that it could mend, and of pictures that are only rather large.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            # Pillow would clip 16-bit and float pixels; show_mask checks them.
            return np.asarray(picture if picture.mode[0] in "IF" else picture.convert("RGBA"))
    except Exception as error:  # Each format has its own errors for a broken file.
        message = f"cannot read {path}: {cause(error)}"
        raise argparse.ArgumentTypeError(message) from error


def find_strategy(args: argparse.Namespace) -> None:
    """Sets the strategy, which `--set` has taken if it follows the last OPTION=VALUE."""
    words = [given for given in args.set if isinstance(given, str)]
    if args.strategy is None:
        args.strategy = words.pop() if words else "all"
    if words:
        raise ValueError(f"--set must be OPTION=VALUE, got {words[0]}")
    args.set = [given for given in args.set if not isinstance(given, str)]
    names = ["all", *STRATEGIES, *PRESETS]
    if args.strategy not in names:
        word = args.strategy.lower().replace("-", "_")
        close = [name for name in names if word in name] or difflib.get_close_matches(word, names)
        likely = " or ".join(sorted(close, key=len)[:4])
        got = f"{args.strategy}, did you mean {likely}?" if word and close else args.strategy
        raise ValueError(f"STRATEGY must be one of those that --help lists, got {got}")


def check_args(args: argparse.Namespace) -> None:
    """Refuses what fits no strategy, before anything is sampled."""
    if args.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {args.batch}")
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed must have 64 bits, got {args.seed}")
    if args.out.suffix not in (".png", ".npz", ".json"):
        raise ValueError(f"--out must end in .png, .npz or .json, got {args.out}")
    if args.image is not None and args.out.suffix != ".png":
        raise ValueError(f"--image needs an --out that ends in .png, got {args.out}")
    if args.strategy == "all" and (args.grid or args.set or args.out.suffix != ".png"):
        raise ValueError("--grid, --set, and --out with .npz or .json, need one STRATEGY")
    if args.strategy == "all" and args.out.name == "chain.png":
        raise ValueError("--out must not be chain.png, the name of the other picture")
    given = [option for option, _ in args.set]
    if len(set(given)) < len(given):
        raise ValueError(f"--set takes each option once, got {', '.join(given)}")


def sample(name: str, args: argparse.Namespace) -> Batch:
    """Samples a batch of one strategy's masks in one jitted call."""
    function = STRATEGIES[name].function if name in STRATEGIES else PRESETS[name]
    grid = args.grid or default_grid(name)
    if args.batch * math.prod(grid) > MAX_BATCH_TOKENS:
        limit = f"--batch times the tokens of --grid must be at most {MAX_BATCH_TOKENS}"
        raise ValueError(f"{limit}, got {args.batch} times {by(grid)}")
    if args.image is not None and args.strategy == name and len(grid) == 1:
        raise ValueError(f"--image needs the grid of an image or a video, got {by(grid)}")
    # Slots have a count instead of a grid.
    shape = grid[0] if name in ("object_mask", "cjepa") and len(grid) == 1 else grid
    options = dict(args.set)
    keys = jax.random.split(jax.random.key(args.seed), args.batch)
    masks = jax.jit(jax.vmap(lambda key: function(key, shape, **options)))(keys)
    within = options.get("within")
    separate = isinstance(masks, jm.ContextTargetMasks)
    masks = jax.tree.map(np.asarray, masks)
    context, targets = masks if separate else (real_part(grid, within) & ~masks, masks[:, None])
    return Batch(name, grid, context, targets, separate, within)


def real_part(grid: tuple[int, ...], within: tuple[int, ...] | None) -> np.ndarray:
    """Returns the tokens that are not padding: bool[*grid]."""
    return np.ones(grid, bool) if within is None else np.asarray(jm.inside(grid, within))


def summarize(batches: list[Batch]) -> str:
    """Counts the masks of all strategies, a line each."""
    lines = [
        f"Context tokens at batch size {len(batches[0].context)}, and the share of masked tokens:",
        f"{'strategy':<19}  {'grid':<7}  {'min':>5}  {'mean':>6}  {'max':>5}  masked",
    ]
    for batch in batches:
        stats = jm.mask_statistics(batch.context)
        counts = f"{stats.min:5}  {stats.mean:6.1f}  {stats.max:5}  {100 * share(batch):4.1f} %"
        lines.append(f"{batch.name:<19}  {by(batch.grid):<7}  {counts}")
    return "\n".join(lines)


def share(batch: Batch) -> float:
    """Returns the share of the tokens that targets cover."""
    tokens = len(batch.targets) * real_part(batch.grid, batch.within).sum()
    return float(batch.targets.any(axis=1).sum() / tokens)


def describe(batch: Batch) -> str:
    """Shows the first mask as text, and the counts of all."""
    counts = {"context": batch.context, "target": batch.targets.any(axis=1)}
    if batch.separate:
        counts["each target"] = batch.targets.reshape(-1, *batch.grid)
    count = len(batch.context)
    lines = [f"{batch.name} {by(batch.grid)}, {count} mask{'s' * (count > 1)}"]
    lines += [*text_picture(batch), "", f"{'tokens':>12} {'min':>6} {'mean':>8} {'max':>6}"]
    for name, masks in counts.items():
        stats = jm.mask_statistics(masks)
        lines.append(f"{name:>12} {stats.min:6} {stats.mean:8.1f} {stats.max:6}")
    return "\n".join([*lines, f"targets cover {100 * share(batch):.1f} % of the tokens"])


def text_picture(batch: Batch) -> list[str]:
    """Writes the first mask in characters.

    A video is a row of evenly spaced frames. Only the frames and columns that fit in a line of the
    terminal are shown.
    """
    frames, height, width = video = as_video(batch.grid)
    characters = np.full(video, " ")
    characters[batch.context[0].reshape(video)] = "."
    for i, target in enumerate(batch.targets[0].reshape(-1, *video)):
        characters[target] = str(i % 9 + 1) if batch.separate else "#"
    line = shutil.get_terminal_size().columns
    fitting = min(frames, max(1, (line + 2) // (width + 2)))
    shown = np.linspace(0, frames - 1, fitting).astype(int)
    legend = [".: context", "#: target"]
    if batch.separate:
        legend = [".: context", "1-9: target (later ones on top)", "blank: unused"]
    if frames > 1:
        legend.append(f"frames: {', '.join(map(str, shown))}")
    if width > line:
        legend.append(f"columns: 0-{line - 1} of {width}")
    cut = characters[..., :line]
    rows = ["  ".join("".join(cut[i, row]) for i in shown) for row in range(height)]
    return ["   ".join(legend), *rows]


def write(batches: list[Batch], args: argparse.Namespace) -> str:
    """Writes the file: a picture, or the masks of the only batch. Returns a line that says so."""
    batch, suffix = batches[0], args.out.suffix
    if suffix == ".png" and not HAS_MATPLOTLIB:
        return "No picture written: pip install 'jepa_masks_jax[plot]'"
    try:
        if suffix == ".png":
            under = plotting.photograph() if args.image is None else args.image
            if args.strategy == "all":
                chain = args.out.with_name("chain.png")
                save(plot_chain(under, args.seed), chain)
                save(plot_all(batches, under), args.out)
                return f"Wrote {chain} and {args.out}"
            save(plot_one(batch, under), args.out)
        elif suffix == ".json":
            fields = {"strategy": batch.name, "grid": batch.grid, "seed": args.seed}
            args.out.write_text(json.dumps(fields | {"masks": index_lists(batch)}))
        elif batch.separate:
            np.savez_compressed(args.out, context=batch.context, targets=batch.targets)
        else:
            np.savez_compressed(args.out, context=batch.context, target=batch.targets[:, 0])
    except OSError as error:
        raise ValueError(f"--out: {error}") from error
    return f"Wrote {args.out}"


def save(figure: "Figure", path: Path) -> None:
    """Writes the picture in 256 colors, which makes photographs a quarter as large."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    few = Image.fromarray(pixels[::3, ::3].copy())  # Colors of all pixels would take seconds.
    palette = few.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
    picture = Image.fromarray(pixels.copy())
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def index_lists(batch: Batch) -> list[dict[str, Any]]:
    """Lists the tokens of each mask under the names of `MaskSpec`."""
    masks: list[dict[str, Any]] = []
    for context, targets in zip(batch.context, batch.targets, strict=True):
        seen, *blocks = [np.flatnonzero(mask).tolist() for mask in (context, *targets)]
        mask = {"context_indices": seen, "target_indices": blocks if batch.separate else blocks[0]}
        masks.append(mask | {"total_tokens": context.size})
    return masks


def plot_chain(photograph: np.ndarray, seed: int) -> "Figure":
    """Plots how the encoder gets the tokens of one image."""
    # With seed 0, this key has tokens in neither set, and padding.
    key = jax.random.fold_in(jax.random.key(seed), 127)
    masks = jm.ijepa_masks(key, (6, 6), num_targets=3, min_keep=9)
    figure = plotting.show_chain(masks, jm.token_indices(masks.context, size=14), image=photograph)
    figure.set_dpi(300)
    return figure


def plot_all(batches: list[Batch], photograph: np.ndarray) -> "Figure":
    """Plots a tile for each strategy, titled by its method; three frames stand for a video."""
    columns, across, down = 5, 1.325, 1.68
    rows = math.ceil((len(batches) + 1) / columns)
    figure = Figure(figsize=(columns * across + 0.04, rows * down), dpi=300)

    lefts = [0.04 + column * across for column in range(columns)]
    bottoms = [row * down + 0.05 for row in reversed(range(rows))]
    side = across - 0.06
    tiles = [plotting._axes_in(figure, x, y, side, side) for y in bottoms for x in lefts]
    for tile in tiles:
        tile.set_axis_off()
    for tile, batch in zip(tiles, batches, strict=False):
        tile.set_title(STRATEGIES[batch.name].method, loc="left", fontsize=9, weight="bold", pad=11)
        tile.text(0, 1.025, batch.name, fontsize=7, transform=tile.transAxes)
        context, targets = batch.context[0], batch.targets[0]
        parts: list[tuple[Any, Any]] = [(..., (0, 0, 1, 1))]
        if context.ndim == 1:
            parts = [(..., (0, 0.3, 1, 0.4))]
        elif context.ndim == 3:  # The first frame is in front.
            frames = [(-1, 0.28), (len(context) // 2, 0.14), (0, 0)]
            parts = [(frame, (at, at, 0.72, 0.72)) for frame, at in frames]
        for part, place in parts:
            mask = jm.ContextTargetMasks(context[part], targets[:, part])
            under = photograph if context.ndim > 1 else None
            ax = plotting.show_mask(mask, image=under, ax=tile.inset_axes(place))
            ax.set(aspect="auto", xticks=[], yticks=[])
            ax.set_axis_on()
            ax.spines[:].set_color("white")
    plotting.show_legend(image=photograph, num_targets=4, ax=tiles[len(batches)])
    return figure


def plot_one(batch: Batch, photograph: np.ndarray) -> "Figure":
    """Plots masks of one strategy: two rows of images, or two videos or sequences."""
    count, within = 8 if len(batch.grid) == 2 else 2, batch.within
    parts: list[Any] = [batch.context[:count], batch.targets[:count]]
    if (rank := len(batch.grid)) > 3:
        video, within = as_video(batch.grid), None
        parts = [part.reshape(*part.shape[:-rank], *video) for part in parts]
    shown = jm.ContextTargetMasks(*parts)
    titles = [f"{batch.name} {by(batch.grid)}"] + [""] * (len(parts[0]) - 1)
    under = photograph if len(batch.grid) > 1 else None
    figure = plotting.show_masks(shown, image=under, within=within, titles=titles)
    figure.set_dpi(150)
    return figure


if __name__ == "__main__":
    main()
