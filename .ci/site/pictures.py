"""Draws a picture for each strategy and preset, as the command does."""

import contextlib
import inspect
import io
import sys
import tempfile
from pathlib import Path

import matplotlib
from PIL import Image

import jepa_masks_jax as jm
from jepa_masks_jax import __main__ as command


def draw(folder):
    """Draws what the command draws; returns the size in CSS pixels and the legend of each."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    with tempfile.TemporaryDirectory() as scratch, matplotlib.rc_context({"savefig.dpi": 200}):
        picture = Path(scratch) / "picture.png"
        for name in [*command.STRATEGIES, *command.PRESETS]:
            with contextlib.redirect_stdout(io.StringIO()):
                command.main([name, "--out", str(picture)])
            with Image.open(picture) as image:
                image.convert("RGB").save(folder / f"{name}.webp", quality=85)
                pictures[name] = [*(side // 2 for side in image.size), legend(name)]
    functions = {name: obj for name, obj in vars(jm).items() if inspect.isfunction(obj)}
    takes = {name: inspect.signature(obj).parameters for name, obj in functions.items()}
    strategies = [name for name in jm.__all__ if {"key", "grid"} <= {*takes.get(name, ())}]
    if missing := {*strategies, *jm.presets.__all__} - pictures.keys():
        sys.exit(f"no picture of {', '.join(sorted(missing))}")
    return pictures


def legend(name):
    """Says what the colors of a picture mean."""
    if len(command.default_grid(name)) == 1:
        return "Light blue tokens are context, orange ones are masked."
    if name.startswith("ijepa"):
        return "Context shows the photograph, each target has a color, and dark tokens are neither."
    return "Context shows the photograph, and masked tokens are orange."
