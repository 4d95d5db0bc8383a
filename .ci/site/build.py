"""Builds the reference site from the docstrings: `python .ci/site/build.py FOLDER`."""

import re
import sys
from pathlib import Path

import jax
import matplotlib.axes
import pdoc

# Signatures show classes by the names that users write.
jax.Array.__qualname__ = "Array"
matplotlib.axes.Axes.__module__ = "matplotlib.axes"

# The docstrings name repositories without a scheme.
repository = re.compile(r"(?<![/\w])(github\.com/[\w-]+/[\w-]+)")
pdoc.render_helpers.markdown_link_patterns.append((repository, r"https://\1"))

folder = Path(sys.argv[1])
pdoc.render.configure(docformat="google", template_directory=Path(__file__).parent)
pdoc.pdoc("jepa_masks_jax", "jepa_masks_jax.plotting", output_directory=folder)

for page in folder.rglob("*.html"):
    if "<em>" in page.read_text():  # the docstrings emphasize nothing
        sys.exit(f"{page}: a * is taken for emphasis; put it in backticks")
