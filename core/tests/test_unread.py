"""What optimizers and schedulers read, by the source of transformers, against what transformers does."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from longline.config.unread import ANY, by_optimizer, by_scheduler, fsdp_keys
from longline.errors import ConfigError
from longline.testing import HookRecorder
from longline.trainers.trying import try_optimizer
from longline.upstream.transformers import ADAM

KEYS = (
    *("alpha", "beta1", "beta2", "beta3", "bf16_stochastic_round", "block_size", "centered", "compensation_buffer_dtype"),
    *("dampening", "decouple_lr", "eps", "gamma", "kahan_sum", "lamb", "lr_decay", "max_lr", "momentum", "momentum_dtype"),
    *("nesterov", "proj", "r", "rank", "scale", "use_kahan_summation", "weight_decay", "weight_lr_power", "nothing_like_it"),
)
VALUES = {"use_kahan_summation": "True", "nesterov": "True", "centered": "True", "bf16_stochastic_round": "True"}
OTHER = {"momentum_dtype": "bfloat16", "variance_dtype": "bfloat16", "compensation_buffer_dtype": "float32"}


def made(tmp_path, **arguments):
    """What transformers makes of arguments: the class of the optimizer and what it is handed."""
    return Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(output_dir=str(tmp_path), **arguments))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The optimizers whose libraries are installed, and which need no model."""
    found = []
    for name in OptimizerNames:
        try:
            made(tmp_path_factory.mktemp("args"), optim=name.value)
        except (ImportError, ValueError):
            continue
        found.append(name.value)
    return found


def test_every_optimizer_and_scheduler_is_known():
    assert [name.value for name in OptimizerNames if by_optimizer(name.value) is None] == []
    assert [name.value for name in SchedulerType if by_scheduler(name.value) is None] == []
    assert by_optimizer("made_up") is by_scheduler("made_up") is None


def test_an_optimizer_reads_what_changes_it(here, tmp_path):
    assert {"adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad", "rmsprop"} <= set(here)
    for name in here:
        plain, (fields, keys) = made(tmp_path, optim=name), by_optimizer(name)
        changed = {field for field in ADAM if made(tmp_path, optim=name, **{field: 0.123}) != plain}
        assert fields & set(ADAM) == changed, name
        values = {key: VALUES.get(key, OTHER.get(key, "0.123")) for key in KEYS}
        read = {key for key, value in values.items() if made(tmp_path, optim=name, optim_args=f"{key}={value}") != plain}
        assert read == (set(KEYS) if ANY in keys else keys & set(KEYS)), name


def test_a_scheduler_reads_what_changes_it_or_refuses():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    for name in (scheduler.value for scheduler in SchedulerType):
        warms, keys = by_scheduler(name)

        def rates(warmup=2, name=name, **kwargs):
            made = get_scheduler(name, optimizer, warmup, 10, scheduler_specific_kwargs=kwargs)
            return [function(1) for function in getattr(made, "lr_lambdas", [lambda step: 0.0])]

        needed = {"min_lr": 0.1} if "min_lr" in keys else {"num_decay_steps": 3} if "num_decay_steps" in keys else {}
        assert (rates(2, **needed) != rates(4, **needed)) is warms, name
        if keys:
            assert ANY not in keys, name
            with pytest.raises(TypeError):
                rates(nothing_like_it=1, **needed)


def test_keys_of_fsdp_config_are_those_of_transformers():
    assert {"transformer_layer_cls_to_wrap", "version", "cpu_offload", "state_dict_type", "min_num_params"} <= fsdp_keys()


def test_trying_draws_nothing(tmp_path):
    before = torch.random.get_rng_state()
    try_optimizer(
        TrainingArguments(output_dir=str(tmp_path), optim="sgd", optim_args="momentum=0.9", lr_scheduler_type="cosine")
    )
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr: One of min_lr or min_lr_rate should be set"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "missing 1 required positional argument: 'num_decay_steps'"),
        ({"optim": "sgd", "optim_args": "momentum=fast"}, "sgd: could not convert string to float: 'fast'"),
        ({"optim": "sgd", "optim_args": "nesterov=true"}, "sgd: Nesterov momentum requires a momentum"),
        ({"optim": "lomo"}, "lomo: You need to install `lomo_optim`"),
    ],
)
def test_what_an_optimizer_cannot_be_made_of_is_refused_before_a_model_is_loaded(trainer, expected, run_longline):
    recorder = HookRecorder()
    with pytest.raises(ConfigError, match=re.escape(expected)):
        run_longline(trainer=trainer, recorder=recorder)
    assert not any(call.startswith("pre_model_load") for call in recorder.calls)
