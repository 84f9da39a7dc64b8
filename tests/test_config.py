"""Settings: bounds, presets, and flags that follow from them."""

import dataclasses
import json

import pytest

from kd_sleep import config
from kd_sleep.config import PRESETS, DistillConfig, SoftLabelConfig, StudentConfig, TrainConfig
from kd_sleep.errors import ConfigError

PARTS = [getattr(PRESETS["cpu"], field.name) for field in dataclasses.fields(config.Preset)]


@pytest.mark.parametrize(
    ("kind", "values", "word"),
    [
        (DistillConfig, {"alpha": 1.5}, "at most 1"),
        (DistillConfig, {"alpha": float("nan")}, "at least 0"),
        (DistillConfig, {"temperature": 0.0}, "more than 0"),
        (DistillConfig, {"temperature": 1e30}, "at most 1000"),
        (TrainConfig, {"learning_rate": float("inf")}, "a finite number"),
        (TrainConfig, {"clip_norm": float("nan")}, "more than 0"),
        (DistillConfig, {"labelled_nights": 2.5}, "expected int"),
        (DistillConfig, {"labelled_nights": True}, "expected int"),
        (StudentConfig, {"context_windows": 4}, "expected one of 0, 1, 3"),
        (StudentConfig, {"front_end": "fft"}, "expected one of beats, autocorrelation"),
        (TrainConfig, {"steps": 0}, "at least 1"),
        (SoftLabelConfig, {"folds": 1}, "no other to train on"),
        (SoftLabelConfig, {"folds": -2}, "at least 0"),
    ],
)
def test_a_wrong_value_names_field_value_and_bound(kind, values, word):
    with pytest.raises(ConfigError, match=word) as error:
        kind(**values)
    assert f"{kind.__name__}.{next(iter(values))}={next(iter(values.values()))!r}" in str(
        error.value
    )


def test_whole_numbers_are_floats_where_a_float_is_meant():
    assert DistillConfig(alpha=1).alpha == 1.0
    assert isinstance(DistillConfig(alpha=1).alpha, float)


def test_every_setting_has_a_help_text():
    for part in PARTS:
        for field in dataclasses.fields(part):
            assert field.metadata["help"].endswith("."), (type(part).__name__, field.name)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_json(preset):
    for field in dataclasses.fields(PRESETS[preset]):
        part = getattr(PRESETS[preset], field.name)
        read = config.from_dict(type(part), json.loads(json.dumps(config.to_dict(part))))
        assert read == part


def test_settings_of_another_version_are_refused_by_name():
    values = config.to_dict(DistillConfig())
    with pytest.raises(ConfigError, match="unknown fields \\['beta'\\]"):
        config.from_dict(DistillConfig, {**values, "beta": 1})
    del values["alpha"]
    with pytest.raises(ConfigError, match="missing fields \\['alpha'\\]"):
        config.from_dict(DistillConfig, values)


def test_the_articles_numbers_are_the_defaults():
    assert (DistillConfig().alpha, DistillConfig().temperature) == (0.3, 4.0)
