"""Presets hold the published settings, and say where they come from."""

import copy
import inspect
import pickle
import pydoc
import re

import jax
import pytest
from cases import slow

import jepa_masks_jax as jm

VJEPA = {"temporal_scale": (1.0, 1.0), "aspect_ratio": (0.75, 1.5), "max_temporal_keep": 1.0}
IJEPA = {
    "num_targets": 4,
    "target_scale": (0.15, 0.2),
    "target_aspect_ratio": (0.75, 1.5),
    "context_scale": (0.85, 1.0),
    "min_keep": 10,
    "allow_overlap": False,
}
PUBLISHED = {
    "ijepa": (jm.ijepa_masks, IJEPA),
    "vjepa_short_range": (jm.vjepa_mask, VJEPA | {"num_blocks": 8, "spatial_scale": (0.15,) * 2}),
    "vjepa_long_range": (jm.vjepa_mask, VJEPA | {"num_blocks": 2, "spatial_scale": (0.7,) * 2}),
    "vjepa21_image": (jm.vjepa_mask, VJEPA | {"num_blocks": 10, "spatial_scale": (0.15,) * 2}),
    "mae": (jm.random_mask, {"mask_ratio": 0.75}),
    "mae_st": (jm.random_mask, {"mask_ratio": 1412 / 1568}),
    "audiomae": (jm.random_mask, {"mask_ratio": 0.8}),
    "simmim": (jm.random_mask, {"mask_ratio": 0.6, "cell": (8, 8)}),
    "pixio": (jm.random_mask, {"mask_ratio": 0.75, "cell": (4, 4)}),
    "videomae_tube": (jm.random_tube_mask, {"mask_ratio": 0.9}),
    "beit": (jm.blockwise_mask, {"mask_ratio": 75 / 196, "min_block": 16}),
    "dinov3": (jm.blockwise_mask, {"mask_ratio": (0.1, 0.5), "min_block": 4}),
    "capi": (
        jm.inverse_block_mask,
        {"mask_ratio": 0.65, "aspect_ratio": (0.5, 2.0), "roll": True},
    ),
    "wav2vec2": (jm.span_mask, {"mask_ratio": 0.65, "span": 10}),
    "hubert": (jm.span_mask, {"mask_ratio": 0.8, "span": 10}),
    "t5": (jm.random_span_mask, {"mask_ratio": 0.15, "mean_span": 3.0, "ends": "t5"}),
    "cjepa": (jm.object_mask, {"num_masked": 2}),
}


def test_every_preset_is_its_strategy_with_the_published_options():
    presets = {name: getattr(jm.presets, name) for name in jm.presets.__all__}
    assert {name: (preset.func, preset.keywords) for name, preset in presets.items()} == PUBLISHED


@pytest.mark.parametrize(
    ("preset", "grid", "targets"),
    [
        slow(jm.presets.mae, (14, 14), 147),
        (jm.presets.videomae_tube, (8, 14, 14), 8 * 176),
        (jm.presets.mae_st, (8, 14, 14), 1568 - 156),
        slow(jm.presets.audiomae, (64, 8), 512 - 102),
        (jm.presets.simmim, (48, 48), 22 * 64),
        slow(jm.presets.pixio, (16, 16), 256 - 4 * 16),
        (jm.presets.beit, (14, 14), 75),
        (jm.presets.capi, (16, 16), 166),
        slow(jm.presets.cjepa, 7, 2),
    ],
)
def test_a_preset_of_an_exact_ratio_has_the_published_count(preset, grid, targets):
    assert preset(jax.random.key(0), grid).sum() == targets


def test_a_preset_takes_other_options():
    mask = jm.presets.mae(jax.random.key(0), (4, 4), mask_ratio=0.5)
    assert mask.sum() == 8


PRESETS = {name: getattr(jm.presets, name) for name in jm.presets.__all__}


@pytest.mark.parametrize("name", PRESETS)
def test_help_shows_what_a_preset_sets_and_the_file_that_it_comes_from(name):
    preset = PRESETS[name]
    shown = pydoc.render_doc(preset, renderer=pydoc.plaintext)
    assert inspect.getdoc(preset) == preset.__doc__.strip()  # as `preset?` shows in a notebook
    first, *_ = preset.__doc__.splitlines()
    assert first.startswith("Samples ")
    assert first in shown
    assert f"\n{name} = {preset.func.__name__}(" in shown
    for option, value in preset.keywords.items():
        assert f"{option}={value!r}" in shown
    assert "Source:\n" in shown
    assert re.search("github.com/[\\w-]+/[\\w-]+|the files of `vjepa_short_range`", shown)


@pytest.mark.parametrize("name", PRESETS)
def test_a_pickled_preset_samples_and_says_the_same(name):
    preset = PRESETS[name]
    for twin in (pickle.loads(pickle.dumps(preset)), copy.deepcopy(preset)):
        assert twin.func is preset.func
        assert twin.keywords == preset.keywords
        assert (repr(twin), twin.__doc__) == (repr(preset), preset.__doc__)


def test_the_table_of_presets_has_them_all_with_their_strategies():
    rows = re.findall(r"^\| .*?\| `(\w+)` \| `(\w+)` \|", jm.presets.__doc__, flags=re.MULTILINE)
    assert sorted(rows) == sorted((name, p.func.__name__) for name, p in PRESETS.items())


def test_a_preset_says_its_name_and_what_it_sets():
    assert repr(jm.presets.mae) == "mae = random_mask(mask_ratio=0.75)"
    assert repr(jm.presets.cjepa) == "cjepa = object_mask(num_masked=2)"


def test_tab_completion_offers_presets_only():
    assert dir(jm.presets) == sorted(PRESETS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dinov2", "dinov3"),
        ("dinov3_vitb16", "dinov3"),
        ("ibot_vitl", "dinov3"),
        ("videomae", "videomae_tube"),
        ("VideoMAE", "videomae_tube"),
        ("vjepa", "vjepa21_image or vjepa_long_range or vjepa_short_range"),
        ("vjepa2_vitl", "vjepa21_image or vjepa_long_range or vjepa_short_range"),
        ("data2vec", "wav2vec2 or beit"),
        ("data2vec_audio", "wav2vec2 or beit"),
        ("simmim_base", "simmim"),
        ("hubert_base", "hubert"),
        ("wav2vec", "wav2vec2"),
        ("mae_st_large", "mae or mae_st"),
        ("mea", "mae"),
    ],
)
def test_a_name_that_is_no_preset_gets_the_one_that_is_meant(name, meant):
    with pytest.raises(AttributeError, match=rf"has no preset {name}, see {meant}$"):
        getattr(jm.presets, name)


def test_a_name_like_no_preset_is_refused_without_advice():
    for name in ("nothing", "__wrapped__", "_"):
        with pytest.raises(AttributeError, match=f"has no preset {name}$"):
            getattr(jm.presets, name)
