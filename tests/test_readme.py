import re
from pathlib import Path

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
    assert known["tokens"].shape == (8, 136, 32)
    assert 0.0045 < (known["left"].sum((1, 2)) < 64).mean() < 0.0055
    assert known["target_patches"].shape == (8, 4, 42, 32)
    assert known["pair"][0].shape == (8, 14, 14)
    assert len(known["specs"]) == 8
    assert (known["strips"].sum((1, 2)) == 205).all()
    counts = [int(known["mask_at"](known["key"], step).sum()) for step in (0, 500, 1000)]
    assert counts == [78, 118, 157]
    assert known["mask_at"]._cache_size() == 1


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
