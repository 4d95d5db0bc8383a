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


def test_python_blocks_run_in_order_and_print_what_their_comments_say(capsys):
    known, code = {}, "".join(blocks("python"))
    exec(code, known)
    comments = re.findall(r"^print\(.*\)  # (.*)$", code, re.M)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(comments) == 3
    for line, comment in zip(printed, comments, strict=True):
        assert re.fullmatch(re.escape(comment).replace(re.escape("..."), ".*"), line)
    assert np.isfinite(known["loss"])
    assert known["context_lists"].indices.shape == (8, 52)
    assert known["target_lists"].indices.shape == (8, 4, 36)
    assert known["clip_seen"].indices.shape == (8, 312)
    assert known["clip_hidden"].indices.shape == (8, 696)
    for name in ("context_lists", "target_lists", "clip_seen", "clip_hidden", "hidden"):
        assert known[name].valid.all(), name
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
