"""trl's fused head scores labelled tokens alone on the CPU, and says the same of them."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig
from trl.trainer.utils import add_fused_lm_head

from longline import Plugin, hookimpl
from longline.plan import MULTIPLE
from longline.plugins import PluginConfig
from longline.trainers.compact import compact_fused_head
from longline.upstream.trl import PER_TOKEN

SIZES = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
EVERYTHING = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def tiny(config_class=LlamaConfig, **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_class(**SIZES, num_key_value_heads=1, head_dim=8, **more))
    add_fused_lm_head(model, outputs=EVERYTHING)
    return model


def a_batch(share=0.4):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 97, (4, 12), generator=generator)
    labels = ids.masked_fill(torch.rand(4, 12, generator=generator) >= share, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def scored(model, batch):
    model.zero_grad()
    output = model(**batch, fused_lm_head=True, use_cache=False)
    (output.log_probs.sum() + 0.1 * output.entropy.sum()).backward()
    fields = {name: getattr(output, name) for name in (*PER_TOKEN, "label_mask", "loss")}
    return fields, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_in_half_precision_the_rows_come_in_multiples_and_every_field_stays():
    model, batch, seen = tiny(), a_batch(), []
    with torch.autocast("cpu", torch.bfloat16):
        fields, gradients = scored(model, batch)
        compact_fused_head(model)
        model.base_model.register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state.shape[1]))
        again, same = scored(model, batch)
    assert seen == [MULTIPLE]
    for name, values in fields.items():
        assert torch.allclose(values.float(), again[name].float(), rtol=2e-2, atol=1e-2), name
    for name, gradient in gradients.items():
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), same[name].flatten(), 0) > 0.99, name


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("config_class", "more"), [(LlamaConfig, {}), (Gemma2Config, {"final_logit_softcapping": 3.0})])
def test_every_field_and_gradient_stays(config_class, more, adapted):
    model = tiny(config_class, **more)
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    batch = a_batch()
    fields, gradients = scored(model, batch)
    compact_fused_head(model)
    seen = []
    backbone = (model.get_base_model() if adapted else model).base_model
    backbone.register_forward_hook(lambda _, __, output: seen.append(tuple(output.last_hidden_state.shape)))
    again, same = scored(model, batch)
    assert seen == [(1, int((batch["labels"][:, 1:] != -100).sum()), 16)]
    for name, values in fields.items():
        assert torch.allclose(values.float(), again[name].float(), rtol=1e-5, atol=1e-6), name
        assert values.shape == again[name].shape
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, same[name], rtol=1e-4, atol=1e-6), name


def test_a_batch_without_labels_is_a_zero_with_gradients():
    model, batch = tiny(), a_batch(share=0)
    compact_fused_head(model)
    fields, gradients = scored(model, batch)
    assert not fields["log_probs"].any()
    assert fields["label_mask"].sum() == 0
    assert gradients


def test_logits_are_still_to_be_had():
    model, batch = tiny(), a_batch()
    plain = model(**batch)
    compact_fused_head(model)
    scored(model, batch)
    after = model(**batch)
    assert after.logits.shape == (4, 12, 97)
    assert torch.equal(plain.logits, after.logits)
    assert torch.equal(plain.loss, after.loss)


class Watch(Plugin):
    """Keeps the shapes of what the backbones of policy and reference put out in training."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.shapes: dict[str, list[tuple[int, ...]]] = {"policy": [], "reference": []}

    @hookimpl
    def post_trainer_create(self, trainer):
        for role, model in (("policy", trainer.model), ("reference", trainer.ref_model)):
            model.base_model.register_forward_hook(
                lambda _, __, output, r=role: self.shapes[r].append(output.last_hidden_state.shape)
            )


def test_a_dpo_run_scores_answers_alone_in_policy_and_reference(run_longline, preference_rows):
    watch = Watch()
    run_longline(
        method="dpo",
        data={"train": [{"path": str(preference_rows), "format": "preference"}]},
        trainer={"max_steps": 2, "per_device_train_batch_size": 2},
        plugins=[watch],
    )
    watch.shapes["policy"] = watch.shapes["policy"][:2]  # the last one is asked once more, to compare what is saved
    for shapes in watch.shapes.values():
        assert len(shapes) == 2
        assert all(shape[0] == 1 for shape in shapes), "four rows of two pairs would be scored whole"
    assert watch.shapes["policy"] == watch.shapes["reference"]


def test_a_model_without_a_fused_head_is_left_alone():
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    compact_fused_head(model)
    assert "forward" not in vars(model)
