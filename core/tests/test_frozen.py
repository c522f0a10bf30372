"""A loaded config cannot be changed at any depth, and is like any other mapping to whoever reads it."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import yaml
from pydantic import BaseModel

from longline import Plugin, PluginConfig, hookimpl
from longline.config.frozen import FrozenDict, FrozenList, freeze, frozen
from longline.config.loader import load_config
from longline.model import adapter_config

DEEP = {"a": [1, {"b": [2, 3]}], "c": {"d": None}}
CHANGES = {
    dict: [
        lambda x: x.__setitem__("a", 1),
        lambda x: x.__delitem__("a"),
        lambda x: x.__ior__({"z": 1}),
        lambda x: x.clear(),
        lambda x: x.pop("a"),
        lambda x: x.popitem(),
        lambda x: x.setdefault("z", 1),
        lambda x: x.update(z=1),
    ],
    list: [
        lambda x: x.__setitem__(0, 1),
        lambda x: x.__setitem__(slice(0, 1), []),
        lambda x: x.__delitem__(0),
        lambda x: x.__iadd__([1]),
        lambda x: x.__imul__(2),
        lambda x: x.append(1),
        lambda x: x.extend([1]),
        lambda x: x.insert(0, 1),
        lambda x: x.pop(),
        lambda x: x.remove(1),
        lambda x: x.clear(),
        lambda x: x.sort(),
        lambda x: x.reverse(),
    ],
}


def test_every_way_to_change_one_is_refused():
    value = frozen(DEEP)
    for holder in (value, value["c"], value["a"], value["a"][1], value["a"][1]["b"]):
        for change in CHANGES[dict if isinstance(holder, dict) else list]:
            with pytest.raises(TypeError, match="a config cannot be changed"):
                change(holder)
    assert value == DEEP


def test_it_reads_like_any_other():
    value = frozen(DEEP)
    assert isinstance(value, dict)
    assert isinstance(value["a"], list)
    assert json.loads(json.dumps(value)) == DEEP
    for dumper in (yaml.SafeDumper, yaml.Dumper):
        assert yaml.load(yaml.dump(value, Dumper=dumper), Loader=yaml.SafeLoader) == DEEP
    assert type({**value}) is type(value | {"z": 1}) is dict
    assert type(value["a"] + [1]) is list
    assert repr(value) == repr(DEEP)


def test_copies_can_be_changed_and_what_is_pickled_stays_frozen():
    value = frozen(DEEP)
    deep = copy.deepcopy(value)
    deep["a"][1]["b"].append(4)
    deep["c"]["d"] = 1
    assert value == DEEP
    assert type(copy.copy(value)) is type(value.copy()) is dict
    assert type(copy.copy(value["a"])) is type(value["a"].copy()) is list
    again = pickle.loads(pickle.dumps(value))
    assert again == DEEP
    assert (type(again), type(again["a"]), type(again["a"][1])) == (FrozenDict, FrozenList, FrozenDict)


class Inner(BaseModel):
    names: list[str] = []


class Options(PluginConfig):
    headers: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    inner: Inner = Inner()
    many: tuple[dict[str, int], ...] = ()


def test_models_within_models_are_frozen_and_dump_to_plain_values():
    options = freeze(Options(headers={"a": "b"}, inner=Inner(names=["x"]), many=({"n": 1},)))
    for change in (
        lambda: options.headers.update(a="c"),
        lambda: options.inner.names.append("y"),
        lambda: options.many[0].clear(),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    dumped = options.model_dump()
    assert dumped == {"headers": {"a": "b"}, "inner": {"names": ["x"]}, "many": ({"n": 1},)}
    dumped["headers"]["more"] = "fine"
    assert Options.model_validate(dumped).headers["more"] == "fine"


def test_a_loaded_config_is_frozen_all_the_way_down(run_config):
    more = {"quantization": None, "overrides": {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}}
    path = run_config(
        model=more,
        adapter={"type": "lora", "r": 2, "rank_pattern": {"q_proj": 4}, "target_modules": ["q_proj"]},
        trainer={"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1}},
        rewards=None,
        plugins=[{"completions": {"every": 2}}],
    )
    config = load_config(path).config
    holders = [
        config.trainer,
        config.trainer["lr_scheduler_kwargs"],
        config.model.overrides,
        config.model.overrides["rope_parameters"],
        config.model.tokenizer.add_tokens,
        config.adapter.model_extra,
        config.adapter.target_modules,
        config.adapter.rank_pattern,
        config.data.train,
        config.data.train[0].roles,
        config.plugins,
        config.plugins[0].options,
    ]
    for holder in holders:
        with pytest.raises(TypeError, match="a config cannot be changed"):
            holder.clear()
    lora = adapter_config(config.adapter)
    assert (type(lora.rank_pattern), lora.rank_pattern) == (dict, {"q_proj": 4})
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_run_with_nested_values_trains_and_what_libraries_get_is_theirs(run_longline):
    class Change(Plugin):
        @hookimpl
        def pre_trainer_args(self, run, trainer_args):
            trainer_args["lr_scheduler_kwargs"]["num_cycles"] = 2

        @hookimpl
        def post_model_load(self, run, model):
            model.config.rope_parameters["factor"] = 3.0

    outcome = run_longline(
        plugins=[Change(PluginConfig())],
        model={"overrides": {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}},
        trainer={"max_steps": 1, "lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 1}},
    )
    saved = yaml.safe_load((outcome.output_dir / "config.yaml").read_text())
    assert saved["trainer"]["lr_scheduler_kwargs"] == {"num_cycles": 1}
    assert saved["model"]["overrides"]["rope_parameters"]["factor"] == 2.0
    assert json.loads((outcome.output_dir / "model" / "config.json").read_text())["rope_parameters"]["factor"] == 3.0
