"""The command `python -m jepa_masks_jax`: masks as text, pictures and files."""

import argparse
import ast
import contextlib
import functools
import importlib.util
import inspect
import io
import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

import jepa_masks_jax as jm

Strategy = tuple[Callable[..., Any], tuple[int, ...]]
IMAGE, VIDEO, SLOTS, SEQUENCE = (14, 14), (8, 14, 14), (7,), (70,)
MAX_BATCH = 2**17
ROWS, COLUMNS = 2, 7
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None

STRATEGIES: dict[str, Strategy] = {
    "block_mask": (jm.block_mask, IMAGE),
    "spatiotemporal_mask": (jm.spatiotemporal_mask, VIDEO),
    "multi_block_mask": (jm.multi_block_mask, IMAGE),
    "ijepa_masks": (jm.ijepa_masks, IMAGE),
    "vjepa_mask": (jm.vjepa_mask, VIDEO),
    "box_mask": (functools.partial(jm.box_mask, num_boxes=4, extent=((2, 6), (2, 6))), IMAGE),
    "blockwise_mask": (jm.presets.beit, IMAGE),
    "inverse_block_mask": (jm.presets.capi, IMAGE),
    "span_mask": (jm.presets.wav2vec2, SEQUENCE),
    "random_mask": (jm.presets.mae, IMAGE),
    "random_tube_mask": (jm.presets.videomae_tube, VIDEO),
    "object_mask": (jm.object_mask, SLOTS),
}
PRESETS: dict[str, Strategy] = {
    "ijepa": (jm.presets.ijepa, IMAGE),
    "vjepa_short_range": (jm.presets.vjepa_short_range, VIDEO),
    "vjepa_long_range": (jm.presets.vjepa_long_range, VIDEO),
    "vjepa21_image": (jm.presets.vjepa21_image, (16, 16)),
    "mae": (jm.presets.mae, IMAGE),
    "mae_st": (jm.presets.mae_st, VIDEO),
    "audiomae": (jm.presets.audiomae, (64, 8)),
    "simmim": (jm.presets.simmim, (48, 48)),
    "pixio": (jm.presets.pixio, (16, 16)),
    "videomae_tube": (jm.presets.videomae_tube, VIDEO),
    "beit": (jm.presets.beit, IMAGE),
    "dinov3": (jm.presets.dinov3, (16, 16)),
    "capi": (jm.presets.capi, (16, 16)),
    "wav2vec2": (jm.presets.wav2vec2, SEQUENCE),
    "hubert": (jm.presets.hubert, SEQUENCE),
    "cjepa": (jm.presets.cjepa, SLOTS),
}


class Batch(NamedTuple):
    """The masks of one strategy: bool[batch, *grid] and bool[batch, num_targets, *grid]."""

    strategy: str
    grid: tuple[int, ...]
    context: Any
    targets: Any
    separate: bool
    """Whether the strategy returns each target, as ijepa_masks."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def print_help(self, file: Any = None) -> None:
        """Prints the help."""
        say(self.format_help())


def main(argv: Sequence[str] | None = None) -> None:
    """Draws the masks, writes the file and prints the text."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = make_parser()
    try:
        args = parser.parse_args(argv)
        check_args(args)
        image = None if args.image is None else read_image(args.image)
        names = STRATEGIES if args.strategy == "all" else [args.strategy]
        batches = [draw(name, args) for name in names]
        if args.out.suffix == ".png" and not HAS_MATPLOTLIB:
            done = "No picture: it needs matplotlib, which `pip install matplotlib` brings."
        else:
            contents = make_file(batches, image, args)
            with naming("--out"):
                args.out.write_bytes(contents)
            done = f"Wrote {args.out}"
        say("\n".join([*map(describe, batches), done, ""]), done)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, TypeError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        parser.error(str(error) or repr(error))


def make_parser() -> Parser:
    """Makes the parser; its help lists the strategies and presets."""
    parser = Parser(
        prog="python -m jepa_masks_jax",
        description="Draws a batch of JEPA masks, prints one, counts all, and saves them.",
        epilog=f"strategies:\n{table(STRATEGIES)}\n\npresets:\n{table(PRESETS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, names = parser.add_argument, ["all", *STRATEGIES, *PRESETS]
    about = "a strategy or preset (default: all strategies)"
    add("strategy", nargs="?", default="all", choices=names, metavar="STRATEGY", help=about)
    add("--grid", type=sides, help="sides of the grid, such as 14x14 or 8x14x14")
    add("--batch", type=int, default=256, metavar="N", help="masks to draw (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the key (default: %(default)s)")
    add("--image", metavar="PATH", help="photograph under the masks")
    about = "picture (.png), boolean masks (.npz) or index lists (.json); default: %(default)s"
    add("--out", type=Path, default="masks.png", metavar="FILE", help=about)
    about = "options of the strategy, such as num_targets=2 target_scale=0.1,0.15"
    pairs: Any = {"type": assignment, "nargs": "+", "action": "extend", "default": []}
    add("--set", metavar="OPTION=VALUE", help=about, **pairs)
    return parser


def table(strategies: dict[str, Strategy]) -> str:
    """Lists names, default grids and options, as the command takes them."""
    rows = []
    for name, (function, grid) in strategies.items():
        options = [
            f"{option}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for option, value in options_of(function).items()
        ]
        options = [option.replace(" ", "") for option in options]
        row = f"  {name:<19}  {by(grid):<7}  {' '.join(options)}"
        rows += textwrap.wrap(row, shutil.get_terminal_size().columns, subsequent_indent=" " * 32)
    return "\n".join(rows)


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the options of a strategy and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def by(grid: tuple[int, ...]) -> str:
    """Writes a grid as `--grid` takes it: 14x14."""
    return "x".join(map(str, grid))


def sides(text: str) -> tuple[int, ...]:
    """Reads a grid."""
    try:
        return tuple(map(int, text.split("x")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"write its sides as 14x14, not {text}") from error


def assignment(text: str) -> tuple[str, Any]:
    """Reads OPTION=VALUE; a value that is not a Python literal is a string."""
    option, value = text.split("=", 1)
    try:
        return option, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return option, value


def check_args(args: argparse.Namespace) -> None:
    """Refuses what no strategy could work with, before anything is drawn."""
    suffix = args.out.suffix
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed must be in [0, {2**32}), got {args.seed}")
    if not 1 <= args.batch <= MAX_BATCH:
        raise ValueError(f"--batch must be in [1, {MAX_BATCH}], got {args.batch}")
    if suffix not in (".png", ".npz", ".json"):
        raise ValueError(f"--out must end in .png, .npz or .json, got {args.out}")
    if args.strategy == "all" and (args.grid or args.set or suffix != ".png"):
        raise ValueError("--grid, --set, and --out with .npz or .json, need one STRATEGY")
    if args.image is not None and (suffix != ".png" or not HAS_MATPLOTLIB):
        raise ValueError("--image needs matplotlib (pip install matplotlib) and an --out .png")
    with naming("--out"):
        args.out.parent.stat()


def read_image(path: str) -> np.ndarray:
    """Reads a picture of any format that Pillow knows: uint8 RGB, or float grey in [0, 1]."""
    from PIL import Image, ImageOps

    with naming("--image"), Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if not picture.mode.startswith(("I", "F")):
            return np.asarray(picture.convert("RGBA").convert("RGB"))
        grey = np.asarray(picture)
        return grey / max(grey.max(), 1 if picture.mode == "F" else 2**16 - 1)


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """Puts the flag before the message of an error."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{flag}: {error}") from error


def draw(name: str, args: argparse.Namespace) -> Batch:
    """Draws a batch of one strategy's masks in one jitted call."""
    function, default = (STRATEGIES | PRESETS)[name]
    grid, options, known = args.grid or default, dict(args.set), options_of(function)
    if not options.keys() <= known.keys():
        raise ValueError(f"--set: the options of {name} are {', '.join(known)}; got {[*options]}")
    if args.image is not None and args.strategy == name and len(grid) == 1:
        raise ValueError(f"--image needs the grid of an image or a video, not {by(grid)}")
    if args.out.suffix == ".png" and len(grid) > 3:
        raise ValueError(f"--out .png shows grids of one to three sides, not {by(grid)}")
    shape = grid[0] if default is SLOTS and len(grid) == 1 else grid
    keys = jax.random.split(jax.random.key(args.seed), args.batch)
    masks = jax.jit(jax.vmap(lambda key: function(key, shape, **options)))(keys)
    if isinstance(masks, jm.ContextTargetMasks):
        return Batch(name, grid, np.asarray(masks.context), np.asarray(masks.targets), True)
    target = np.asarray(masks)
    return Batch(name, grid, ~target, target[:, None], False)


def describe(batch: Batch) -> str:
    """Shows the first mask as text, and the counts of all."""
    target = batch.targets.any(axis=1)
    counts = {"context": batch.context, "target": target}
    if batch.separate:
        counts["each target"] = batch.targets.reshape(-1, *batch.grid)
    title = f"{batch.strategy} {by(batch.grid)}, {len(target)} mask{'s' * (len(target) > 1)}"
    lines = [title, *text_picture(batch), "", f"{'tokens':>12} {'min':>6} {'mean':>8} {'max':>6}"]
    for side, masks in counts.items():
        stats = jm.mask_statistics(masks)
        lines.append(f"{side:>12} {stats.min:6} {stats.mean:8.1f} {stats.max:6}")
    return "\n".join([*lines, f"ratio {target.mean():.3f} of the tokens are targets", ""])


def text_picture(batch: Batch) -> list[str]:
    """Draws the first mask in characters: of a video, evenly spaced frames that fit in a line."""
    video = math.prod(batch.grid[:-2]), *(1, *batch.grid)[-2:]
    frames, height, width = video
    characters = np.full(video, " ")
    characters[batch.context[0].reshape(video)] = "."
    for i, target in enumerate(batch.targets[0].reshape(-1, *video)):
        characters[target] = "123456789"[i % 9] if batch.separate else "#"
    columns = shutil.get_terminal_size().columns
    fitting = min(frames, max(1, (columns + 2) // (width + 2)))
    shown = np.linspace(0, frames - 1, fitting).astype(int)
    rows = ["  ".join("".join(characters[f, row]) for f in shown) for row in range(height)]
    names = "1-9 a target, the last on top  blank neither" if batch.separate else "# target"
    legend = f". context  {names}"
    if frames > 1:
        legend += f"  (frames {', '.join(map(str, shown))})"
    if width > columns:
        legend += f"  ({columns - 1} of {width} columns)"
        rows = [row[: columns - 1] + ">" for row in rows]
    return [legend, *rows]


def make_file(batches: list[Batch], image: np.ndarray | None, args: argparse.Namespace) -> bytes:
    """Returns the contents of the file: a picture, or the masks of the only batch."""
    if args.out.suffix == ".png":
        return make_picture(batches, image)
    (batch,) = batches
    if args.out.suffix == ".npz":
        file = io.BytesIO()
        arrays = {"targets": batch.targets} if batch.separate else {"target": batch.targets[:, 0]}
        np.savez_compressed(file, context=batch.context, **arrays)
        return file.getvalue()
    masks: list[Any] = []
    for context, targets in zip(batch.context, batch.targets, strict=True):
        seen, *blocks = [np.flatnonzero(mask).tolist() for mask in (context, *targets)]
        mask = {"context_indices": seen, "target_indices": blocks if batch.separate else blocks[0]}
        masks.append(mask | {"total_tokens": context.size})
    fields = {"strategy": batch.strategy, "grid": batch.grid, "seed": args.seed, "masks": masks}
    return json.dumps(fields).encode()


def make_picture(batches: list[Batch], image: np.ndarray | None) -> bytes:
    """Lays the first masks of each batch over a photograph: a row of images, or one video."""
    from matplotlib.figure import Figure
    from PIL import Image

    from jepa_masks_jax import plotting

    photograph = plotting.photograph() if image is None else image
    rows = [(batch, row) for batch in batches for row in range(ROWS if len(batches) == 1 else 1)]
    figure = Figure(figsize=(COLUMNS * 1.1, len(rows) * 1.35), dpi=100, layout="constrained")
    grid = figure.add_gridspec(len(rows), COLUMNS)
    for i, (batch, row) in enumerate(rows):
        one_per_row = len(batch.grid) != 2
        samples = [row] if one_per_row else range(row * COLUMNS, (row + 1) * COLUMNS)
        for column, sample in enumerate(s for s in samples if s < len(batch.context)):
            ax = figure.add_subplot(grid[i, :] if one_per_row else grid[i, column])
            under = None if len(batch.grid) == 1 else photograph
            mask = jm.ContextTargetMasks(batch.context[sample], batch.targets[sample])
            plotting.show_mask(mask, image=under, ax=ax)
            if column == 0 and row == 0:
                ax.set_title(f"{batch.strategy} {by(batch.grid)}", fontsize=9, loc="left")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    small = io.BytesIO()
    Image.open(file).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def say(text: str, done: str = "nothing was written") -> None:
    """Prints the text; where that fails, the error says what was done before."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # Python flushes stdout again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OSError(f"cannot print the text: {error.strerror}; {done}") from error


if __name__ == "__main__":
    main()
