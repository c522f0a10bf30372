"""What the plan decides from config and machine, and that a run does it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from longline import Plugin, hookimpl
from longline.config.loader import load_config
from longline.plan import MULTIPLE, Machine, build_plan
from longline.plugins import PluginConfig

LORA = {"type": "lora", "r": 4}


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize(
    ("model", "adapter", "trainer", "fast", "weights", "mixed"),
    [
        ({"dtype": "auto"}, None, {}, True, "float32", True),
        ({"dtype": "auto"}, None, {}, False, "float32", False),
        ({"dtype": "auto"}, LORA, {}, True, "bfloat16", False),
        ({"dtype": "auto"}, LORA, {}, False, "float32", False),
        ({"dtype": "float32"}, None, {}, True, "float32", False),
        ({"dtype": "auto"}, None, {"bf16": False}, True, "float32", False),
        ({"dtype": "float32"}, None, {"bf16": True}, True, "float32", True),
    ],
)
def test_precision_is_decided_alike_for_every_method(run_config, method, model, adapter, trainer, fast, weights, mixed):
    config = load_config(run_config(method=method, model=model, adapter=adapter, trainer=trainer)).config
    plan = build_plan(config, Machine(bfloat16=fast))
    assert (plan.dtype, plan.trainer_args["bf16"]) == (weights, mixed)
    assert plan.pad_to_multiple_of == (MULTIPLE if mixed or weights == "bfloat16" else None)
    assert build_plan(config, Machine("cuda", bfloat16=fast)).pad_to_multiple_of is None
    told = [fact for fact in plan.facts if fact.name == "bf16"]
    assert [fact.value for fact in told] == ([] if "bf16" in trainer else [str(mixed).lower()])


def test_fp16_is_left_alone(run_config):
    config = load_config(run_config(model={"dtype": "auto"}, trainer={"fp16": True})).config
    assert "bf16" not in build_plan(config, Machine(bfloat16=True)).trainer_args


def test_answers_are_padded_alike_unless_the_user_says_how(run_config):
    rewards = ["reasoning_gym"]
    plan, other = (
        build_plan(load_config(run_config(method="grpo", rewards=rewards, trainer=trainer)).config, Machine())
        for trainer in ({"bf16": True}, {"bf16": True, "pad_to_multiple_of": 8})
    )
    assert [p.trainer_args["pad_to_multiple_of"] for p in (plan, other)] == [MULTIPLE, 8]


class Products(Plugin):
    """Keeps the types in which the model multiplies, and how many rows the factors have, the head's apart."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.types: set[torch.dtype] = set()
        self.rows: set[int] = set()
        self.head_rows: set[int] = set()

    @hookimpl
    def post_model_load(self, model):
        model.model.layers[0].mlp.down_proj.register_forward_hook(self.product)

    @hookimpl
    def post_trainer_create(self, trainer):
        trainer.model.get_output_embeddings().register_forward_pre_hook(self.at_head)

    # A few tokens are tried before and after training, to compare what is saved: once, and so of any number.
    def at_head(self, head, given):
        if head.training:
            self.head_rows.add(given[0].shape[:-1].numel())

    def product(self, layer, given, made):
        if layer.training:
            self.types.add(made.dtype)
            self.rows.add(given[0].shape[:-1].numel())


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(run_longline, tmp_path):
    plain, mixed = Products(), Products()
    exact = run_longline(trainer={"max_steps": 3}, plugins=[plain])
    rounded = run_longline(output_dir=str(tmp_path / "mixed"), trainer={"max_steps": 3, "bf16": True}, plugins=[mixed])
    assert (plain.types, mixed.types) == ({torch.float32}, {torch.bfloat16})
    assert all(rows % MULTIPLE == 0 for rows in mixed.rows | mixed.head_rows)
    assert any(rows % MULTIPLE for rows in plain.rows)
    assert any(rows % MULTIPLE for rows in plain.head_rows)
    saved = load_file(rounded.output_dir / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    pairs = zip((e["loss"] for e in exact.log if "loss" in e), (e["loss"] for e in rounded.log if "loss" in e), strict=True)
    assert all(abs(a - b) < 0.03 * a for a, b in pairs)
