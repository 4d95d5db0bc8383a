"""The command `python -m jepa_masks_jax`: masks as text, pictures and files."""

import argparse
import ast
import functools
import inspect
import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

import jepa_masks_jax as jm

try:
    from matplotlib.figure import Figure
    from PIL import Image, ImageOps

    from jepa_masks_jax import plotting

    HAS_MATPLOTLIB = True
except ModuleNotFoundError:
    HAS_MATPLOTLIB = False

STRATEGIES: dict[str, Callable[..., Any]] = {
    "ijepa_masks": jm.ijepa_masks,
    "vjepa_mask": jm.vjepa_mask,
    "random_mask": jm.presets.mae,
    "random_tube_mask": jm.presets.videomae_tube,
    "blockwise_mask": jm.presets.beit,
    "inverse_block_mask": jm.presets.capi,
    "span_mask": jm.presets.wav2vec2,
    "object_mask": jm.object_mask,
    "box_mask": functools.partial(jm.box_mask, num_boxes=4, extent=((2, 6), (2, 6))),
    "block_mask": jm.block_mask,
    "spatiotemporal_mask": jm.spatiotemporal_mask,
    "multi_block_mask": jm.multi_block_mask,
}
"""A strategy that needs options has those of a preset."""
PRESETS = {name: getattr(jm.presets, name) for name in jm.presets.__all__}
GRIDS = {
    **dict.fromkeys(["vjepa_mask", "random_tube_mask", "spatiotemporal_mask"], (8, 14, 14)),
    **dict.fromkeys(["vjepa21_image", "pixio", "dinov3", "capi"], (16, 16)),
    "mae_st": (8, 14, 14),
    "audiomae": (64, 8),
    "simmim": (48, 48),
    "span_mask": (70,),
    "object_mask": (7,),
}
"""Default grids; a preset that is not named has its strategy's, and all others have 14x14."""
MAX_TOKENS = 2**27
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
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Samples the masks, writes the file and prints the text."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
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
        parser.error(str(error))


def make_parser() -> Parser:
    """Makes the parser; its help lists the strategies and presets."""
    parser = Parser(
        prog="python -m jepa_masks_jax",
        description="Sample a batch of masks; print one and the token counts;\n"
        "save a picture or the masks.",
        epilog=list_strategies(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, names = parser.add_argument, ["all", *STRATEGIES, *PRESETS]
    about = "a strategy or preset (default: all strategies)"
    add("strategy", nargs="?", default="all", choices=names, metavar="STRATEGY", help=about)
    add("--grid", type=sides, help="sides of the grid, such as 14x14 or 8x14x14")
    add("--batch", type=int, default=256, metavar="N", help="count of masks (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the key (default: %(default)s)")
    add("--image", type=image, metavar="PATH", help="image under the masks (default: a photograph)")
    about = "picture (.png), boolean masks (.npz) or index lists (.json); default: %(default)s"
    add("--out", type=Path, default="masks.png", metavar="FILE", help=about)
    about = "options of the strategy, such as num_targets=2 target_scale=0.1,0.15"
    pairs: Any = {"type": assignment, "nargs": "+", "action": "extend", "default": []}
    add("--set", metavar="OPTION=VALUE", help=about, **pairs)
    return parser


def list_strategies() -> str:
    """Lists the strategies with their grids and options, and what the presets bind."""
    lines = ["strategies:", f"  {'name':<19}  default grid  options"]
    columns = shutil.get_terminal_size().columns
    for name, function in STRATEGIES.items():
        parameters = inspect.signature(function).parameters.values()
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
    return GRIDS.get(name, GRIDS.get(strategy, (14, 14)))


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
    return tuple(map(int, text.split("x")))


def assignment(text: str) -> tuple[str, Any]:
    """Reads OPTION=VALUE; a value that is not a Python literal is a string."""
    option, value = text.split("=", 1)
    try:
        return option, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return option, value


def image(path: str) -> np.ndarray:
    """Reads an image of any format that Pillow knows."""
    if not HAS_MATPLOTLIB:
        raise argparse.ArgumentTypeError("install matplotlib")
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            # Pillow would clip 16-bit and float pixels; show_mask checks them.
            return np.asarray(picture if picture.mode[0] in "IF" else picture.convert("RGBA"))
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_args(args: argparse.Namespace) -> None:
    """Refuses what fits no strategy, before anything is sampled."""
    if args.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {args.batch}")
    if args.out.suffix not in (".png", ".npz", ".json"):
        raise ValueError(f"--out must end in .png, .npz or .json, got {args.out}")
    if args.image is not None and args.out.suffix != ".png":
        raise ValueError(f"--image needs an --out that ends in .png, got {args.out}")
    if args.strategy == "all" and (args.grid or args.set or args.out.suffix != ".png"):
        raise ValueError("--grid, --set, and --out with .npz or .json, need one STRATEGY")
    given = [option for option, _ in args.set]
    if len(set(given)) < len(given):
        raise ValueError(f"--set takes each option once, got {', '.join(given)}")


def sample(name: str, args: argparse.Namespace) -> Batch:
    """Samples a batch of one strategy's masks in one jitted call."""
    function, grid = (STRATEGIES | PRESETS)[name], args.grid or default_grid(name)
    if args.batch * math.prod(grid) > MAX_TOKENS:
        limit = f"--batch times the tokens of --grid must be at most {MAX_TOKENS}"
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
    context, targets = masks if separate else (true_part(grid, within) & ~masks, masks[:, None])
    return Batch(name, grid, np.asarray(context), np.asarray(targets), separate, within)


def true_part(grid: tuple[int, ...], within: tuple[int, ...] | None) -> np.ndarray:
    """Returns the tokens of the sample: bool[*grid]."""
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
    tokens = len(batch.targets) * true_part(batch.grid, batch.within).sum()
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
    """Writes the first mask in characters: of a video, evenly spaced frames that fit in a line."""
    video = math.prod(batch.grid[:-2]), *(1, *batch.grid)[-2:]
    frames, height, width = video
    characters = np.full(video, " ")
    characters[batch.context[0].reshape(video)] = "."
    for i, target in enumerate(batch.targets[0].reshape(-1, *video)):
        characters[target] = str(i % 9 + 1) if batch.separate else "#"
    fitting = min(frames, max(1, (shutil.get_terminal_size().columns + 2) // (width + 2)))
    shown = np.linspace(0, frames - 1, fitting).astype(int)
    legend = [".: context", "#: target"]
    if batch.separate:
        legend = [".: context", "1-9: target (later ones on top)", "blank: unused"]
    if frames > 1:
        legend.append(f"frames: {', '.join(map(str, shown))}")
    rows = ["  ".join("".join(characters[i, row]) for i in shown) for row in range(height)]
    return ["   ".join(legend), *rows]


def write(batches: list[Batch], args: argparse.Namespace) -> str:
    """Writes the file: a picture, or the masks of the only batch. Returns a line that says so."""
    batch, suffix = batches[0], args.out.suffix
    if suffix == ".png" and not HAS_MATPLOTLIB:
        return "No picture written: install matplotlib."
    try:
        if suffix == ".png":
            under = plotting.photograph() if args.image is None else args.image
            figure = plot_all(batches, under) if args.strategy == "all" else plot_one(batch, under)
            figure.savefig(args.out)
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


def index_lists(batch: Batch) -> list[dict[str, Any]]:
    """Lists the tokens of each mask under the names of `MaskSpec`."""
    masks: list[dict[str, Any]] = []
    for context, targets in zip(batch.context, batch.targets, strict=True):
        seen, *blocks = [np.flatnonzero(mask).tolist() for mask in (context, *targets)]
        mask = {"context_indices": seen, "target_indices": blocks if batch.separate else blocks[0]}
        masks.append(mask | {"total_tokens": context.size})
    return masks


def plot_all(batches: list[Batch], photograph: np.ndarray) -> "Figure":
    """Plots one mask of each strategy, six in a row; three frames stand for a video."""
    rows = math.ceil(len(batches) / 6)
    figure = Figure(figsize=(7.7, 1.5 * rows), dpi=100)
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.92, wspace=0.06, hspace=0.16)
    for tile, batch in zip(figure.subplots(rows, 6).flat, batches, strict=False):
        tile.set_title(batch.name, fontsize=8)
        tile.set(box_aspect=1)
        tile.set_axis_off()
        context, targets = batch.context[0], batch.targets[0]
        under = photograph if context.ndim > 1 else None
        parts: list[tuple[Any, Any]] = [
            (..., (0, 0, 1, 1) if context.ndim > 1 else (0, 0.3, 1, 0.4))
        ]
        if context.ndim == 3:  # The first frame is in front.
            frames = [(-1, 0.28), (len(context) // 2, 0.14), (0, 0)]
            parts = [(frame, (at, at, 0.72, 0.72)) for frame, at in frames]
        for part, place in parts:
            ax = tile.inset_axes(place)
            mask = jm.ContextTargetMasks(context[part], targets[:, part])
            plotting.show_mask(mask, image=under, ax=ax)
            ax.set(aspect="auto", xticks=[], yticks=[])
            ax.set_axis_on()
            ax.spines[:].set_color("white")
    return figure


def plot_one(batch: Batch, photograph: np.ndarray) -> "Figure":
    """Plots masks of one strategy: two rows of images, or two videos or sequences."""
    under = photograph if len(batch.grid) > 1 else None
    columns = 7 if len(batch.grid) == 2 else 1
    figure = Figure(dpi=100)
    axes = figure.subplots(2, columns, squeeze=False)
    for ax, *mask in zip(axes.flat, batch.context, batch.targets, strict=False):
        plotting.show_mask(jm.ContextTargetMasks(*mask), image=under, within=batch.within, ax=ax)
    for ax in axes.flat:
        ax.set_axis_off()
    axes[0, 0].set_title(f"{batch.name} {by(batch.grid)}", fontsize=9, loc="left")
    high, wide, _ = axes[0, 0].images[0].get_array().shape
    row = min(3, 7.7 / columns * high / wide)
    height = 2 * row + 0.5
    figure.set_size_inches(7.7, height)
    figure.subplots_adjust(0.01, 0.1 / height, 0.99, 1 - 0.3 / height, 0.06, 0.1 / row)
    return figure


if __name__ == "__main__":
    main()
