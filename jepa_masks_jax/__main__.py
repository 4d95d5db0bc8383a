"""The command `python -m jepa_masks_jax`: masks as text, pictures and files."""

import argparse
import importlib.util
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

import jepa_masks_jax as jm

IMAGE, VIDEO, SLOTS = (14, 14), (8, 14, 14), (7,)
MAX_BATCH = 2**17
LINE = 80
ROWS, COLUMNS = 2, 7

STRATEGIES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "block_mask": (jm.block_mask, IMAGE),
    "spatiotemporal_mask": (jm.spatiotemporal_mask, VIDEO),
    "multi_block_mask": (jm.multi_block_mask, IMAGE),
    "ijepa_masks": (jm.ijepa_masks, IMAGE),
    "vjepa_mask": (jm.vjepa_mask, VIDEO),
    "random_mask": (jm.presets.mae, IMAGE),
    "random_tube_mask": (jm.presets.videomae_tube, VIDEO),
    "object_mask": (jm.object_mask, SLOTS),
}
PRESETS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "ijepa": (jm.presets.ijepa, IMAGE),
    "vjepa_short_range": (jm.presets.vjepa_short_range, VIDEO),
    "vjepa_long_range": (jm.presets.vjepa_long_range, VIDEO),
    "mae": (jm.presets.mae, IMAGE),
    "videomae_tube": (jm.presets.videomae_tube, VIDEO),
    "cjepa": (jm.presets.cjepa, SLOTS),
}


class Batch(NamedTuple):
    """The masks of one strategy, on the host, with a leading batch axis."""

    strategy: str
    grid: tuple[int, ...]
    context: np.ndarray
    """bool[batch, *grid]"""
    target: np.ndarray
    """bool[batch, *grid], or bool[batch, num_targets, *grid] of ijepa_masks"""

    @property
    def separate(self) -> bool:
        """Whether each mask has several targets."""
        return self.target.ndim > self.context.ndim

    def sample(self, i: int) -> jm.ContextTargetMasks:
        """One mask of the batch."""
        context: Any = self.context[i]
        targets: Any = self.target[i] if self.separate else self.target[i : i + 1]
        return jm.ContextTargetMasks(context, targets)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends with status 2."""
        self.exit(2, f"python -m jepa_masks_jax: error: {message}; see --help\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["all", *arguments]
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        check_args(args)
        batches = [draw(name, args) for name in args.names]
        if args.out.suffix == ".png" and not has_matplotlib():
            done = "No picture: it needs matplotlib, which `pip install matplotlib` brings."
        else:
            replace_file(args.out, make_file(batches, args))
            done = f"Wrote {args.out}"
        print(*map(describe, batches), done, sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        parser.error(" ".join(str(error).split()))


def make_parser() -> Parser:
    """Makes a parser with one command for each strategy and preset, its options the function's."""
    common = Parser(add_help=False)
    common.add_argument("--batch", type=int, default=256, help="masks to draw (default 256)")
    common.add_argument("--seed", type=int, default=0, help="seed of the key (default 0)")
    common.add_argument("--image", metavar="PATH", help="photograph under the masks")
    common.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("masks.png"),
        help="picture (.png), boolean masks (.npz) or index lists (.json); default %(default)s",
    )
    parser = Parser(
        prog="python -m jepa_masks_jax",
        description="Draws a batch of JEPA masks, prints one, counts all, and saves them.",
        epilog="Without a strategy, every one. STRATEGY --help lists the options of one.",
    )
    commands = parser.add_subparsers(metavar="STRATEGY", required=True)
    every = commands.add_parser("all", parents=[common], help="Draws every strategy (the default).")
    every.set_defaults(names=list(STRATEGIES), options=[])
    for name, (function, grid) in (STRATEGIES | PRESETS).items():
        documented = getattr(function, "func", function)
        summary = (inspect.getdoc(documented) or "").partition("\n")[0]
        short = re.sub("_masks?$", "", name).replace("_", "-")
        command = commands.add_parser(
            name,
            aliases=[] if short in PRESETS else [short],
            parents=[common],
            help=f"Preset of {documented.__name__}." if name in PRESETS else summary,
            description=summary,
        )
        command.add_argument(
            "--grid", default=by(grid), help="sides of the grid (default %(default)s)"
        )
        parameters = inspect.signature(function).parameters.values()
        options = [option for option in parameters if option.kind is option.KEYWORD_ONLY]
        for option in options:
            add_option(command, option, documented)
        command.set_defaults(names=[name], options=[option.name for option in options])
    return parser


def add_option(command: Parser, option: inspect.Parameter, function: Callable[..., Any]) -> None:
    """Adds a strategy's option, its type that of the default and its help from the docstring."""
    found = re.search(
        rf"^    {option.name}: (.*?)(?=^    \w+: |^\w|\Z)",
        inspect.getdoc(function) or "",
        re.M | re.S,
    )
    text = " ".join(found[1].replace("`", "").replace("%", "%%").split()) if found else ""
    flag, default = "--" + option.name.replace("_", "-"), option.default
    if isinstance(default, bool):
        command.add_argument(flag, action="store_true", help=text)
    elif isinstance(default, tuple):
        command.add_argument(
            flag,
            type=type(default[0]),
            nargs=2,
            metavar=("MIN", "MAX"),
            default=default,
            help=f"{text} Default {default[0]} {default[1]}.",
        )
    else:
        command.add_argument(
            flag,
            type=type(default),
            nargs="+" if "or an inclusive pair" in text else None,
            metavar=type(default).__name__.upper(),
            default=default,
            help=f"{text} Default {default}.",
        )


def draw(name: str, args: argparse.Namespace) -> Batch:
    """Draws a batch of one strategy's masks in one jitted call."""
    function, grid = (STRATEGIES | PRESETS)[name]
    if "grid" in args:
        if not re.fullmatch(r"\d+(x\d+)*", args.grid):
            raise ValueError(f"--grid must be sides such as 14x14 or 8x14x14, got {args.grid}")
        grid = tuple(int(side) for side in args.grid.split("x"))
    slots = function in (jm.object_mask, jm.presets.cjepa)
    if slots and len(grid) != 1:
        raise ValueError(f"--grid must be a number of slots such as 7, got {args.grid}")
    options = {option: getattr(args, option) for option in args.options}
    options = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in options.items()}
    shape = grid[0] if slots else grid
    keys = jax.random.split(jax.random.key(args.seed), args.batch)
    masks = jax.jit(jax.vmap(lambda key: function(key, shape, **options)))(keys)
    if isinstance(masks, jm.ContextTargetMasks):
        return Batch(name, grid, np.asarray(masks.context), np.asarray(masks.targets))
    target = np.asarray(masks)
    return Batch(name, grid, ~target, target)


def describe(batch: Batch) -> str:
    """Shows the first mask as text, and the counts of all."""
    target = np.asarray(batch.target.any(axis=1)) if batch.separate else batch.target
    counts = {"context": batch.context, "target": target}
    if batch.separate:
        counts["each target"] = batch.target.reshape(-1, *batch.grid)
    title = f"{batch.strategy} {by(batch.grid)}, {len(target)} mask{'s' * (len(target) > 1)}"
    lines = [title, *text_picture(batch), ""]
    lines.append(f"{'tokens':>12} {'min':>6} {'mean':>8} {'max':>6}")
    for side, masks in counts.items():
        stats = jm.mask_statistics(masks)
        lines.append(f"{side:>12} {stats.min:6} {stats.mean:8.1f} {stats.max:6}")
    lines.append(f"ratio {target.mean():.3f} of the tokens are targets")
    return "\n".join([*lines, ""])


def text_picture(batch: Batch) -> list[str]:
    """Draws the first mask in characters: as many frames of a video as fit, evenly spaced."""
    video = (1, 1, *batch.grid)[-3:]
    context, targets = batch.sample(0)
    characters = np.full(video, " ")
    characters[context.reshape(video)] = "."
    for i, target in enumerate(targets.reshape(-1, *video)):
        characters[target] = "123456789"[i % 9] if batch.separate else "#"
    shown = min(video[0], max(1, (LINE + 2) // (video[2] + 2)))
    frames = np.linspace(0, video[0] - 1, shown).astype(int)
    legend = (
        ". context  1-9 a target, the last on top  blank neither"
        if batch.separate
        else ". context  # target"
    )
    if video[0] > 1:
        legend += f"  (frames {', '.join(map(str, frames))})"
    return [
        legend,
        *("  ".join("".join(characters[f, row]) for f in frames) for row in range(video[1])),
    ]


def check_args(args: argparse.Namespace) -> None:
    """Refuses what no strategy could work with, before anything is drawn."""
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed must be in [0, {2**32}), got {args.seed}")
    if not 1 <= args.batch <= MAX_BATCH:
        raise ValueError(f"--batch must be in [1, {MAX_BATCH}], got {args.batch}")
    suffix = args.out.suffix
    if not args.out.parent.is_dir():
        raise ValueError(f"--out must be in a folder that exists, got {args.out}")
    if suffix not in (".png", ".npz", ".json"):
        raise ValueError(f"--out must end in .png, .npz or .json, got {args.out}")
    if suffix != ".png" and len(args.names) > 1:
        raise ValueError(f"--out with {suffix} needs one strategy, such as block_mask")
    if args.image is not None:
        if suffix != ".png":
            raise ValueError(f"--image needs an --out that ends in .png, got {args.out}")
        if not has_matplotlib():
            raise ValueError("--image needs matplotlib, which `pip install matplotlib` brings")
        args.image = read_image(args.image)


def make_file(batches: list[Batch], args: argparse.Namespace) -> bytes:
    """Returns the contents of the file: a picture, or the masks of the only batch."""
    suffix = args.out.suffix
    if suffix == ".png":
        return make_picture(batches, args.image)
    (batch,) = batches
    if suffix == ".npz":
        file = io.BytesIO()
        arrays: dict[str, Any] = {"targets" if batch.separate else "target": batch.target}
        np.savez_compressed(file, context=batch.context, **arrays)
        return file.getvalue()
    if batch.separate:
        masks = [
            {
                "context_indices": np.flatnonzero(context).tolist(),
                "target_indices": [np.flatnonzero(target).tolist() for target in targets],
                "total_tokens": context.size,
            }
            for context, targets in zip(batch.context, batch.target, strict=True)
        ]
    else:
        masks = [spec.to_dict() for spec in jm.to_mask_specs(batch.target)]
    fields = {"strategy": batch.strategy, "grid": batch.grid, "seed": args.seed, "masks": masks}
    return json.dumps(fields).encode()


def read_image(path: str) -> np.ndarray:
    """Reads a picture of any format that Pillow knows."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"--image must be a picture, got {path!r}") from error


def has_matplotlib() -> bool:
    """Whether pictures can be made."""
    return importlib.util.find_spec("matplotlib") is not None


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
            plotting.show_mask(batch.sample(sample), image=under, ax=ax)
            if column == 0 and row == 0:
                ax.set_title(f"{batch.strategy} {by(batch.grid)}", fontsize=9, loc="left")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    small = io.BytesIO()
    Image.open(file).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def replace_file(path: Path, contents: bytes) -> None:
    """Writes a file whole or leaves what was there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(contents)
        part.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def by(grid: tuple[int, ...]) -> str:
    """Writes a grid as the command reads it: 14x14."""
    return "x".join(map(str, grid))


if __name__ == "__main__":
    main()
