"""Builds the reference site: `python .ci/site/build.py FOLDER`.

The docstrings become pages, and so do the guides in `GUIDES`. The command draws a picture for each
strategy and preset.
"""

import contextlib
import functools
import inspect
import io
import os
import re
import sys
import tempfile
import types
from pathlib import Path

import jax
import matplotlib.axes
import pdoc
from PIL import Image
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import jepa_masks_jax as jm  # noqa: E402
from jepa_masks_jax import __main__ as command  # noqa: E402
from jepa_masks_jax import plotting  # noqa: E402

GUIDES = {
    "rows": ROOT / ".github" / "ROWS.md",
    "recipes": ROOT / ".github" / "RECIPES.md",
    "models": ROOT / ".github" / "MODELS.md",
}
MODULES = ["jepa_masks_jax", "jepa_masks_jax.presets", "jepa_masks_jax.plotting"]


def main(folder):
    """Writes the pictures, the pages and the search index."""
    modules = {name: pdoc.doc.Module.from_name(name) for name in MODULES}
    modules |= {f"jepa_masks_jax.{name}": guide(name, path) for name, path in GUIDES.items()}
    describe_presets(modules["jepa_masks_jax.presets"])
    # Signatures show classes by the names that users write.
    jax.Array.__qualname__ = "Array"
    matplotlib.axes.Axes.__module__ = "matplotlib.axes"
    # The docstrings name repositories without a scheme.
    repository = re.compile(r"(?<![/\w])(github\.com/[\w-]+/[\w-]+)")
    pdoc.render_helpers.markdown_link_patterns.append((repository, r"https://\1"))
    pdoc.render_helpers.markdown_extensions["toc"]["depth"] = 3

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

    def absolute(match):
        code, file, anchor = match.groups(default="")
        if code:
            return code
        target = (path.parent / file).resolve(strict=True)
        pages = [f"{name}.html" for name, other in GUIDES.items() if other == target]
        raw = "?raw=true" if target.suffix == ".png" else ""
        return f"]({pages[0] if pages else f'{base}/{target.relative_to(ROOT)}{raw}'}{anchor})"

    code, link = r"(^```.*?^```|`[^`\n]+`)", r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)"
    return re.sub(f"{code}|{link}", absolute, path.read_text(), flags=re.MULTILINE | re.DOTALL)


def describe_presets(module):
    """Shows each preset as a call of its strategy, with the docstring of its own if it has one."""
    for name, preset in command.PRESETS.items():
        options = ", ".join(f"{option}={value!r}" for option, value in preset.keywords.items())
        variable = module.members[name]
        variable.default_value_str = f"jepa_masks_jax.{preset.func.__name__}({options})"
        if preset.__doc__ != functools.partial.__doc__:
            variable.docstring = inspect.cleandoc(preset.__doc__)


def draw(folder):
    """Draws what the command draws; returns the size in CSS pixels and the legend of each."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
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
                pictures[name] = [*(side // 2 for side in image.size), legend(name)]
    strategies = [name for name in jm.__all__ if re.search("_masks?$", name)]
    if missing := {*strategies, *jm.presets.__all__} - pictures.keys():
        sys.exit(f"no picture of {', '.join(sorted(missing))}")
    return pictures


def legend(name):
    """Says what the colors of a picture mean."""
    if name != "top_mask" and len(command.default_grid(name)) == 1:
        return "Light blue tokens are context, orange ones are masked."
    if name.startswith("ijepa"):
        return "Context shows the photograph, each target has a color, and dark tokens are neither."
    return "Context shows the photograph, and masked tokens are orange."


def top_mask():
    """Draws the tokens nearest to a random one; the command has no scores."""

    def nearest(key):
        center_key, tie_key = jax.random.split(key)
        center = jm.random_mask(center_key, (14, 14), num_masked=1)
        return jm.top_mask(-jm.squared_distance(center), num_masked=60, key=tie_key)

    masks = jax.vmap(nearest)(jax.random.split(jax.random.key(0), 8))
    return plotting.show_masks(masks, image=plotting.photograph())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
