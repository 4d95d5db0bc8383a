"""The README is short, its Python runs and prints what it says, and what it names exists."""

import json
import re
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import jepa_masks_jax as jm

README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("the README is not beside the tests", allow_module_level=True)
TEXT = README.read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


def test_python_blocks_run_in_order_and_print_what_their_comments_say(capsys):
    known, code = {}, "".join(blocks("python"))
    exec(code, known)
    comments = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.M)
    assert len(comments) == 5
    assert capsys.readouterr().out.splitlines() == comments
    assert np.isfinite(known["loss"])
    assert known["time_strips"](known["key"]).sum() == 205


def test_lists_of_ijepa_drop_and_pad_as_many_tokens_as_the_page_says():
    keys = jax.random.split(jax.random.key(1), 4000)
    context, targets = jax.jit(jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14))))(keys)
    counts = np.asarray(context).reshape(4000, -1).sum(1)
    target_counts = np.asarray(targets).reshape(16000, -1).sum(1)
    dropped = np.maximum(counts - 64, 0).sum() / counts.sum()
    padded, padding = (counts < 64).mean(), 1 - target_counts.mean() / 42
    assert f"`size=64` drops {dropped:.0%}".replace("%", " %") in TEXT
    assert f"pads {padded:.0%} of".replace("%", " %") in TEXT
    assert target_counts.max() == 42
    assert f"{padding:.0%} of the entries".replace("%", " %") in TEXT


def test_the_page_is_short():
    prose = re.sub(r"^```.*?^```$|^\|.*?$", "", TEXT, flags=re.M | re.S)
    words = re.findall(r"\S*\w\S*", re.sub(r"\]\(.*?\)", "]", prose))
    assert len(TEXT.splitlines()) <= 180
    assert len(words) <= 1100


def test_the_first_two_commands_are_single_lines():
    for command in blocks("bash")[:2]:
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv ")


def test_hashes_and_versions_are_those_of_the_project():
    digests = json.loads((README.parent / "tests" / "digests.json").read_text())
    assert int(re.search(r"more than (\d+) stored hashes", TEXT)[1]) < len(digests)
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    python, (jax_, _, numpy) = project["requires-python"], project["dependencies"]
    versions = [spec.partition(">=")[2] for spec in (python, jax_, numpy)]
    assert "requires Python {}, jax {} and NumPy {}".format(*versions) in TEXT


def test_every_strategy_and_preset_is_named():
    strategies = [name for name in jm.__all__ if re.search("_masks?$", name)]
    assert [name for name in [*strategies, *jm.presets.__all__] if f"`{name}`" not in TEXT] == []


def test_linked_files_and_sections_exist():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", TEXT)
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        page = README.parent / name if name else README
        assert page.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
