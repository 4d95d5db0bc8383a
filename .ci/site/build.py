"""Builds the reference site: `python .ci/site/build.py FOLDER`.

The docstrings become pages, and so do the guides in `GUIDES`. The command draws a picture for each
strategy and preset.
"""

import contextlib
import functools
import io
import os
import re
import sys
import tempfile
import types
from pathlib import Path

import jax
import matplotlib.axes
import matplotlib.figure
import pdoc
from PIL import Image
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import jepa_masks_jax as jm  # noqa: E402
from jepa_masks_jax import __main__ as command  # noqa: E402
from jepa_masks_jax import plotting  # noqa: E402

GUIDES = {"models": ROOT / ".github" / "MODELS.md"}
MODULES = ["jepa_masks_jax", "jepa_masks_jax.presets", "jepa_masks_jax.plotting"]


def main(folder):
    """Writes the pictures, the pages and the search index."""
    modules = {name: pdoc.doc.Module.from_name(name) for name in MODULES}
    modules |= {f"jepa_masks_jax.{name}": guide(name, path) for name, path in GUIDES.items()}
    speak(modules["jepa_masks_jax.presets"])
    # Signatures show classes by the names that users write.
    jax.Array.__qualname__ = "Array"
    matplotlib.axes.Axes.__module__ = "matplotlib.axes"
    # The docstrings name repositories without a scheme.
    repository = re.compile(r"(?<![/\w])(github\.com/[\w-]+/[\w-]+)")
    pdoc.render_helpers.markdown_link_patterns.append((repository, r"https://\1"))

    pdoc.render.configure(docformat="google", template_directory=Path(__file__).parent)
    dark = HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")
    pdoc.render.env.globals.update(pictures=draw(folder / "pictures"), dark_code=dark)
    for name, module in modules.items():
        page = pdoc.render.html_module(module, modules)
        if name in MODULES and "<em>" in page:  # the docstrings emphasize nothing
            sys.exit(f"{name}: a * is taken for emphasis; put it in backticks")
        path = folder / f"{name.replace('.', '/')}.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(page)
    (folder / "index.html").write_text(pdoc.render.html_index(modules))
    (folder / "search.js").write_text(pdoc.render.search_index(modules))


def guide(name, path):
    """Makes a page of a guide, which pdoc takes for the docstring of a module."""
    module = types.ModuleType(f"jepa_masks_jax.{name}", absolute_links(path))
    module.__docformat__ = "markdown"
    return pdoc.doc.Module(module)


def absolute_links(path):
    """Reads a guide whose relative links lead to the other guides, or else to the repository."""
    if "GITHUB_SHA" in os.environ:
        base = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/blob/{GITHUB_SHA}".format(**os.environ)
    else:
        base = ROOT.as_uri()

    def absolute(link):
        file, anchor = link[1], link[2] or ""
        target = (path.parent / file).resolve(strict=True)
        pages = [f"{name}.html" for name, other in GUIDES.items() if other == target]
        return f"]({pages[0] if pages else f'{base}/{target.relative_to(ROOT)}'}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)", absolute, path.read_text())


def speak(presets):
    """Shows the docstrings that presets have of their own."""
    for name, preset in command.PRESETS.items():
        if preset.__doc__ != functools.partial.__doc__:
            presets.members[name].docstring = pdoc.doc._safe_getdoc(preset)


def draw(folder):
    """Draws what the command draws; returns the size of each picture, in CSS pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    with tempfile.TemporaryDirectory() as scratch, matplotlib.rc_context({"savefig.dpi": 200}):
        picture = Path(scratch) / "picture.png"
        for name in [*command.STRATEGIES, *command.PRESETS, "top_mask"]:
            if name == "top_mask":
                top_mask().savefig(picture)
            else:
                with contextlib.redirect_stdout(io.StringIO()):
                    command.main([name, "--out", str(picture)])
            with Image.open(picture) as image:
                image.convert("RGB").save(folder / f"{name}.webp", quality=85)
                sizes[name] = [side // 2 for side in image.size]
    strategies = [name for name in jm.__all__ if re.search("_masks?$", name)]
    if missing := {*strategies, *jm.presets.__all__} - sizes.keys():
        sys.exit(f"no picture of {', '.join(sorted(missing))}")
    return sizes


def top_mask():
    """Draws the tokens nearest to a random one; the command has no scores."""
    figure = matplotlib.figure.Figure(figsize=(7.7, 1.2), dpi=100)
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.98, wspace=0.06)
    keys = jax.random.split(jax.random.key(0), 7)
    for key, ax in zip(keys, figure.subplots(1, 7), strict=True):
        center = jm.random_mask(key, (14, 14), num_masked=1)
        mask = jm.top_mask(-jm.squared_distance(center), num_masked=60)
        plotting.show_mask(mask, image=plotting.photograph(), ax=ax)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))
