"""The README is short, its Python runs and prints what it says, and what it names exists."""

import inspect
import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    assert len(comments) == 5
    assert capsys.readouterr().out.splitlines() == comments
    assert np.isfinite(known["loss"])
    assert_mae_learns(known["mae_loss"], known["positions"])
    keys = known["keys"]
    one = jax.jit(lambda key: jm.presets.ijepa(key, (14, 14)))(keys[200])
    np.testing.assert_array_equal(np.asarray(known["context"])[200], one.context)


def assert_mae_learns(loss, positions):
    """A step against the gradient of every parameter lowers the loss of one image."""
    params = dict(positions=positions, mask_token=jnp.ones(32), encoder=jnp.eye(32))
    params |= dict(decoder=jnp.eye(32))
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
    assert len(TEXT.splitlines()) <= 190
    assert len(words) <= 750


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
    assert [name for name in [*strategies, *jm.presets.__all__] if f"`{name}`" not in TEXT] == []


def test_the_table_says_which_strategies_take_sizes_of_samples():
    table = [line.split("|")[2:-1] for line in TEXT.splitlines() if line.startswith("|")]
    rows = [(cells[0], cells[-1]) for cells in table if re.match(r" `\w+_masks?`", cells[0])]
    assert len(rows) == 11
    for functions, takes in rows:
        parameters = inspect.signature(getattr(jm, re.search(r"\w+", functions)[0])).parameters
        expected = "yes" if "within" in parameters else "`among`" if "among" in parameters else ""
        assert takes.strip() == expected, functions


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
