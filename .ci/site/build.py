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

folder = Path(sys.argv[1])
pdoc.render.configure(docformat="google", template_directory=Path(__file__).parent)
pdoc.pdoc("jepa_masks_jax", "jepa_masks_jax.plotting", output_directory=folder)

for page in folder.rglob("*.html"):
    text = page.read_text()
    if "<em>" in text:  # the docstrings emphasise nothing
        sys.exit(f"{page}: a * is taken for emphasis; put it in backticks")
    link = r'<a href="https://\g<0>">\g<0></a>'
    page.write_text(re.sub(r"(?<![/\w])github\.com/[\w-]+/[\w-]+", link, text))
