"""The one table of classes: what it names is there, and everything that is made of it has an entry for each."""

import importlib
import sys

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY

import violet
from violet import named_configuration
from violet.core.catalogue import AUTO_CLASSES, MODEL_CLASSES, MODELS, PIPELINE_CLASSES, PIPELINES, PUBLIC, tasks_of
from violet.core.registry import Registry
from violet.hub import CARDS
from violet.pipelines.auto_classes import auto_class


def test_every_public_name_is_found_where_the_catalogue_says():
    for name, module in PUBLIC.items():
        assert hasattr(importlib.import_module(module), name), name


def test_every_registry_of_the_package_has_entries_that_can_be_imported():
    tables = {
        id(value): value
        for name, module in list(sys.modules.items())
        if name.startswith("violet.")
        for value in vars(module).values()
        if isinstance(value, Registry)
    }
    assert len(tables) >= 5
    assert all(table[name] is not None for table in tables.values() for name in table)


@pytest.mark.parametrize("name", list(MODEL_CLASSES))
def test_transformers_loads_a_model_class_by_the_auto_class_of_its_entry(name):
    known = MODEL_CLASSES[name]
    assert MODELS[name].__name__ == name and MODELS[name].config_class.model_type == known.model_type
    config = named_configuration("violet-tiny")
    config = config if known.model_type == "violet" else config.vision_config
    mapping = getattr(transformers, known.auto_class)._model_mapping
    if known.in_checkpoints_only:
        assert type(config) not in mapping
    else:
        taken = mapping[type(config)]
        assert MODELS[name] in (taken if isinstance(taken, tuple) else (taken,))


def test_every_task_of_a_model_class_has_a_pipeline_whose_auto_class_takes_it():
    config = type(named_configuration("violet-tiny"))
    tasks = {task for name in MODEL_CLASSES for task in tasks_of(name)}
    assert tasks == {*PIPELINE_CLASSES, "video-classification"}, "and one of transformers' own pipelines"
    for name in MODEL_CLASSES:
        for task, loaded_as in tasks_of(name).items():
            if task not in PIPELINE_CLASSES:
                auto = getattr(transformers, MODEL_CLASSES[loaded_as].auto_class)
                assert auto in PIPELINE_REGISTRY.check_task(task)[1]["pt"]
                continue
            taken = auto_class(task)._model_mapping[config]
            assert MODELS[loaded_as] in (taken if isinstance(taken, tuple) else (taken,))
            assert PIPELINE_REGISTRY.check_task(task)[1]["impl"] is PIPELINES[task]


def test_every_model_class_has_a_card():
    assert set(CARDS) == set(MODEL_CLASSES)


def test_the_auto_classes_of_the_package_are_public():
    assert {AUTO_CLASSES[task].__name__ for task in AUTO_CLASSES} <= set(violet.__all__)
