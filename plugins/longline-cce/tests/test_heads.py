"""What is read from an output head is what the head computes, or it is refused by name."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from longline import LonglineError
from longline.testing import zoo
from longline_cce.applied import HeadLoss
from longline_cce.choice import Choice
from longline_cce.config import CceConfig
from longline_cce.heads import read

BATCH = "padded"


def adapted(model_type="llama", seed=0, **options):
    torch.manual_seed(seed)
    model = get_peft_model(
        zoo.build(model_type), LoraConfig(init_lora_weights=False, **{"target_modules": ["q_proj"], **options})
    )
    return model.train()


def losses(model, batch):
    model.zero_grad()
    torch.manual_seed(9)  # dropout
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def both(model):
    batch = zoo.batches(model.get_base_model())[BATCH]
    plain = losses(model, batch)
    loss = HeadLoss(model, CceConfig())
    loss.choice = Choice("chunked", "", {"tokens": 4})
    with loss.tap.armed(batch["labels"]):
        return plain, losses(model, batch)


OPTIONS = {
    "elsewhere": {},
    "lora": {"target_modules": ["q_proj", "lm_head"]},
    "rslora": {"target_modules": ["lm_head"], "use_rslora": True, "lora_alpha": 3},
    "saved": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": [5, 6, 200]},
}


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_adapters_on_the_head_are_exact(options, settings):
    torch.manual_seed(0)
    base = zoo.build("llama", **settings)
    model = get_peft_model(base, LoraConfig(init_lora_weights=False, **{"target_modules": ["q_proj"], **options})).train()
    plain, ours = both(model)
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    assert plain[1].keys() == ours[1].keys()
    for name, gradient in plain[1].items():
        assert (gradient - ours[1][name]).abs().max() <= 1e-4 * gradient.abs().max() + 1e-7, name
        assert gradient.any(), name


def test_scale_softcap_and_bias_reach_every_product():
    for model_type, options in (("cohere", {"target_modules": ["lm_head"]}), ("phi", {"target_modules": ["lm_head"]})):
        plain, ours = both(adapted(model_type, **options))
        assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    plain, ours = both(adapted("gemma2", target_modules=["q_proj"]))
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)


def test_dropout_of_the_adapter_is_applied_to_its_product():
    model = adapted(target_modules=["lm_head"], lora_dropout=0.5)
    head = model.get_base_model().get_output_embeddings()
    hidden = torch.randn(6, 64)
    torch.manual_seed(4)
    expected = head(hidden)
    torch.manual_seed(4)
    product = read(head, hidden)
    found = sum(states @ weight.T for states, weight in product.pairs)
    assert torch.allclose(found, expected, atol=1e-5)
    assert product.kind == "linear with LoRA"


def test_a_switched_off_adapter_is_not_read():
    model = adapted(target_modules=["lm_head"])
    with model.disable_adapter():
        assert len(read(model.get_base_model().get_output_embeddings(), torch.randn(2, 64)).pairs) == 1
    assert len(read(model.get_base_model().get_output_embeddings(), torch.randn(2, 64)).pairs) == 2


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_heads_that_are_something_else_are_refused_by_name():
    hidden = torch.randn(2, 64)
    with pytest.raises(LonglineError, match="it is a Doubled, not a plain linear layer"):
        read(Doubled(64, 8), hidden)
    with pytest.raises(LonglineError, match="it has Dora, which is no sum of products"):
        read(adapted(target_modules=["lm_head"], use_dora=True).get_base_model().get_output_embeddings(), hidden)
    with pytest.raises(LonglineError, match="its adapter has lora_bias"):
        read(adapted("phi", target_modules=["lm_head"], lora_bias=True).get_base_model().get_output_embeddings(), hidden)


def test_quantised_heads_are_refused_by_name():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    for kind in ("Linear4bit", "Linear8bitLt"):
        with pytest.raises(LonglineError, match=f"it is a {kind}") as caught:
            read(getattr(bitsandbytes.nn, kind)(64, 32), torch.randn(2, 64))
        assert "remove cce from plugins:" in str(caught.value)
