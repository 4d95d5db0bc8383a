"""The README is short, its Python runs and prints what it says, and what it names exists."""

import inspect
import re
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modes import run_two_processes

import jepa_masks_jax as jm

README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("the README is not beside the tests", allow_module_level=True)
TEXT = README.read_text()

pytestmark = pytest.mark.usefixtures("users_promotion")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


def test_python_blocks_run_in_order_and_print_what_their_comments_say(capsys):
    known, code = {}, "".join(blocks("python"))
    exec(code, known)
    comments = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.M)
    assert len(comments) == 4
    assert capsys.readouterr().out.splitlines() == comments
    assert_mae_learns(known["mae_loss"], known["params"])
    one = jax.jit(lambda key: jm.presets.ijepa(key, (14, 14)))(known["keys"][200])
    np.testing.assert_array_equal(np.asarray(known["context"])[200], one.context)
    assert_length_is_that_of_the_table(known["sizes"].context)


def assert_length_is_that_of_the_table(size):
    (row,) = [line for line in TEXT.splitlines() if line.startswith("| **rows of two**")]
    assert row.split("|")[2].split()[0] == str(size)


def devices_as_one_of_two(folder, address, process):
    """Runs the block of devices, with the lines that it needs, and stores this process' masks."""
    first, (draw,), (block,) = (
        blocks("python")[0].partition("def ")[0],
        re.findall(r"^draw = .*$", TEXT, re.M),
        [block for block in blocks("python") if "out_shardings" in block],
    )
    jax.distributed.initialize(address, 2, int(process), initialization_timeout=60)
    known = {}
    exec("\n".join([first, draw, block]), known)
    masks = [np.asarray(known[name].addressable_data(0)) for name in ("context", "targets")]
    np.savez(Path(folder) / f"{process}.npz", *masks)
    jax.distributed.shutdown()


@pytest.mark.slow
def test_the_block_of_devices_runs_in_two_processes(tmp_path):
    run_two_processes(__file__, tmp_path)
    parts = [np.load(tmp_path / f"{process}.npz").values() for process in range(2)]
    got = [np.concatenate(halves) for halves in zip(*parts, strict=True)]
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 1000), 256)
    expected = jax.jit(jax.vmap(lambda key: jm.presets.ijepa(key, (14, 14))))(keys)
    jax.tree.map(np.testing.assert_array_equal, got, list(expected))


def assert_mae_learns(loss, params):
    """A step against the gradient of every parameter lowers the loss of one image."""
    patches = jax.random.normal(jax.random.key(1), (196, 32))
    value_and_grad = jax.jit(jax.value_and_grad(lambda p: loss(p, patches, jax.random.key(2))))
    before, slopes = value_and_grad(params)
    for name, slope in slopes.items():
        short = 0.1 * slope / jnp.linalg.norm(slope)
        after, _ = value_and_grad(params | {name: params[name] - short})
        assert after < before, name


def test_the_page_is_short():
    prose = re.sub(r"^```.*?^```$|^\|.*?$", "", TEXT, flags=re.M | re.S)
    words = re.findall(r"\S*\w\S*", re.sub(r"\]\(.*?\)", "]", prose))
    assert len(TEXT.splitlines()) <= 165
    assert len(words) <= 620


def test_the_first_two_commands_are_single_lines():
    for command in blocks("bash")[:2]:
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv ")


def test_the_versions_are_those_of_the_project():
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    python, (jax_, _, numpy) = project["requires-python"], project["dependencies"]
    versions = [spec.partition(">=")[2] for spec in (python, jax_, numpy)]
    assert "requires Python {}, jax {} and NumPy {}, or newer".format(*versions) in TEXT


def test_every_strategy_and_preset_is_named():
    strategies = [name for name in jm.__all__ if re.search("_masks?$", name)]
    strategies.remove("attention_mask")
    assert [name for name in [*strategies, *jm.presets.__all__] if f"`{name}`" not in TEXT] == []


def test_the_table_says_which_strategies_take_sizes_of_samples():
    table = [line.split("|")[2:-1] for line in TEXT.splitlines() if line.startswith("|")]
    rows = [(cells[0], cells[-1]) for cells in table if re.match(r" `\w+_masks?`", cells[0])]
    assert len(rows) == 12
    for functions, takes in rows:
        parameters = inspect.signature(getattr(jm, re.search(r"\w+", functions)[0])).parameters
        takes_within = "within" in parameters and "cell" not in functions
        other = "no: `among=`" if "among" in parameters and "cell" not in functions else "no"
        assert takes.strip() == ("yes" if takes_within else other), functions


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


if __name__ == "__main__":
    devices_as_one_of_two(*sys.argv[1:])
