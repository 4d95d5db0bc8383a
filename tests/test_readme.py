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
    assert known["context_lists"].shape == (8, 28)
    assert known["context_lists"].max() < 196
    assert known["target_lists"].shape == (8, 4, 36)
    assert known["target_lists"].max() < 196
    assert 0.99 < (known["clipped"].sum((1, 2)) == 64).mean() < 0.998
    assert known["full"].shape == (8, 196, 32)
    assert known["clip_lists"].shape == (8, 512)
    assert known["clip_lists"].max() < 8 * 196
    assert known["hidden"].valid.all()
    assert (known["counts"][0], known["counts"][-1], len(known["counts"])) == (78, 157, 21)
    assert known["mask_at"]._cache_size() == known["masks_at"]._cache_size() == 1
    small, middle, large = known["sizes"]
    assert 7 <= small <= 20 < 35 >= middle >= 16 < large <= 42
    assert len(known["specs"]) == 8


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
