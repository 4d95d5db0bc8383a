"""The Python of the README runs and prints what it says, and what it names exists."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("the README is not beside the tests", allow_module_level=True)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def test_python_blocks_run_in_order():
    known = {}
    for block in blocks("python"):
        exec(block, known)
    assert known["train_step"]._cache_size() == 1
    assert np.isfinite(known["loss"])
    assert known["context_lists"].indices.shape == (8, 52)
    assert known["target_lists"].indices.shape == (8, 4, 36)
    assert known["clip_seen"].indices.shape == (8, 312)
    assert known["clip_hidden"].indices.shape == (8, 696)
    for name in ("context_lists", "target_lists", "clip_seen", "clip_hidden", "hidden"):
        assert known[name].valid.all(), name
    assert (known["counts"][0], known["counts"][-1], len(known["counts"])) == (78, 157, 21)
    assert known["masks_at"]._cache_size() == 1
    sizes = (known["masks_at"](known["key"], step)[1].targets[0].sum() for step in (0, 600, 1200))
    small, middle, large = map(int, sizes)
    assert 7 <= small <= 20 < 35 >= middle >= 16 < large <= 42


def test_the_first_two_commands_are_single_lines():
    for command in blocks("bash")[:2]:
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv ")


def test_pictures_and_scripts_that_are_named_exist():
    text = README.read_text()
    named = re.findall(r"\]\((\.github/[^)]+)\)", text) + re.findall(r"(tests/[\w/]+\.\w+)", text)
    assert named
    for path in named:
        assert (README.parent / path).exists(), path
