"""The public names keep to one form."""

import inspect
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import user_types

import jepa_masks_jax as jm
from jepa_masks_jax import plotting

NAMES = sorted(name for name in vars(jm) if not name.startswith("_"))
FUNCTIONS = [
    value
    for module in (jm, plotting)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and not name.startswith("_")
    if value.__module__.startswith("jepa_masks_jax")
]
SECTIONS = ("Args", "Returns", "Raises", "Notes", "Source", "Example")


def parameters(function):
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


def sections(function):
    """Splits a docstring into its summary and the lines of its sections."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", inspect.getdoc(function), flags=re.MULTILINE)
    return {"Summary": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(section):
    """The names that stand first on the lines of a section with the smallest indent."""
    return re.findall(r"^    (\w+): \S", section, flags=re.MULTILINE)


def test_every_public_name_is_listed_exactly_once():
    modules = {name for name in NAMES if inspect.ismodule(getattr(jm, name))} - {"presets"}
    assert sorted(jm.__all__) == sorted(set(NAMES) - modules)


def test_a_key_comes_first_then_what_is_drawn_on_and_options_by_keyword_only():
    drawing = {
        f.__name__: parameters(f)
        for f in FUNCTIONS
        if "key" in inspect.signature(f).parameters and f not in (jm.token_indices, jm.top_mask)
    }
    assert {"block_mask", "ijepa_masks", "object_mask", "clip_count"} <= drawing.keys()
    assert {"span_mask", "blockwise_mask", "inverse_block_mask"} <= drawing.keys()
    second = {"object_mask": "num_slots", "clip_count": "mask"}
    second |= {"in_rows": "masks", "balanced_order": "counts"}
    for name, (key, drawn_on, *options) in drawing.items():
        assert (key.name, drawn_on.name) == ("key", second.get(name, "grid"))
        assert [p.default for p in (key, drawn_on)] == [inspect.Parameter.empty] * 2
        assert {p.kind for p in options} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_docstrings_have_their_sections_in_order(function):
    parts = sections(function)
    assert re.match(r"[A-Z].*\.$", parts["Summary"].splitlines()[0])
    assert list(parts) == ["Summary", *(name for name in SECTIONS if name in parts)]
    if parameters(function):
        assert documented(parts["Args"]) == [p.name for p in parameters(function)]
        assert {"TypeError", "ValueError"} & set(documented(parts["Raises"]))
    assert "Returns" in parts or parts["Summary"].startswith("Returns ")
    assert ">>> " in parts["Example"]


def test_the_overview_names_every_function():
    names = [name for name, value in vars(jm).items() if value in FUNCTIONS]
    assert [name for name in names if f"`{name}`" not in jm.__doc__] == []


@pytest.mark.slow
def test_importing_the_package_imports_nothing_beside_jax():
    program = """
import sys, jax
before = set(sys.modules)
import jepa_masks_jax
print(*set(sys.modules) - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = {name.split(".")[0] for name in run.stdout.split()}
    assert imported - sys.stdlib_module_names - {"jax", "numpy"} == {"jepa_masks_jax"}


def test_the_package_is_marked_as_typed():
    assert resources.files(jm).joinpath("py.typed").is_file()


def test_the_citation_and_the_changelog_name_the_version_and_its_date():
    root = Path(__file__).parents[1]
    if not (root / "CITATION.cff").exists():
        pytest.skip("the citation is not beside the tests")
    citation = re.findall(
        r"^(version|date-released): (\S+)$", (root / "CITATION.cff").read_text(), re.M
    )
    assert citation[0] == ("version", jm.__version__)
    heading = "## [{}] - {}".format(*(value for _, value in citation))
    assert heading in (root / "CHANGELOG.md").read_text().splitlines()


@pytest.mark.slow
def test_a_program_with_every_kind_of_value_runs():
    user_types.main()


def test_the_program_has_every_public_function_and_type():
    source = Path(user_types.__file__).read_text()
    names = [name for name in jm.__all__ if not inspect.ismodule(getattr(jm, name))]
    assert [name for name in names if not re.search(rf"\bjm\.{name}\b", source)] == []
