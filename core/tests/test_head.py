"""The loss at the output head: the same numbers as the model's own loss, with logits of the trained tokens alone or with none."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, CohereConfig, Gemma2Config, LlamaConfig

from longline import Plugin, hookimpl
from longline.errors import ModelError
from longline.loss.head import HeadTap, Targets, Transform, transforms, unfit
from longline.plan import MULTIPLE
from longline.plugins import PluginConfig
from longline.testing import zoo

SIZES = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def tiny(config_class=LlamaConfig, **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_class(**SIZES, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.3
    return model


def a_batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 97, (3, 11), generator=generator)
    labels = ids.masked_fill(torch.rand(3, 11, generator=generator) < 0.4, -100)
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def summed(hidden, head, targets, transform):
    """The sum of cross entropies, written out."""
    scores = transform(head.weight @ hidden.T).T.log_softmax(-1)
    return -scores[torch.arange(len(targets)), targets.clamp(min=0)][targets != -100].sum()


def loss_and_gradients(model, batch, tap=None, **more):
    model.zero_grad()
    if tap is None:
        outputs = model(**batch, **more)
    else:
        with tap.armed(batch["labels"]):
            outputs = model(**batch, **more)
    outputs.loss.backward()
    return outputs, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(left, right):
    assert torch.allclose(left[0].loss, right[0].loss, rtol=1e-5)
    assert left[1].keys() == right[1].keys()
    for name, gradient in left[1].items():
        assert torch.allclose(gradient, right[1][name], rtol=1e-4, atol=1e-6), name


def test_targets_are_what_the_shifted_labels_say():
    labels = torch.tensor([[7, -100, 8, 9], [-100, 5, -100, -100]])
    targets = Targets.of(labels)
    assert targets.positions.tolist() == [1, 2, 4]  # the first token of a row is predicted by nobody
    assert targets.tokens.tolist() == [8, 9, 5]
    nothing = Targets.of(torch.full((2, 3), -100))
    assert (nothing.positions.tolist(), nothing.tokens.tolist()) == ([0], [-100])


@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("loss", [None, summed], ids=["logits", "hidden"])
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16 weights"])
def test_products_in_half_precision_have_rows_in_multiples(autocast, loss, share):
    model, batch = tiny(), a_batch()
    batch["labels"] = batch["input_ids"].masked_fill(
        torch.rand(3, 11, generator=torch.Generator().manual_seed(2)) > share, -100
    )
    trained = int((batch["labels"][:, 1:] != -100).sum())
    assert trained % MULTIPLE
    if not autocast:
        model.bfloat16()
    plain = loss_and_gradients(model, batch) if not autocast else None
    rows = []
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if autocast:
            plain = loss_and_gradients(model, batch)
        tap = HeadTap(
            model, loss if loss is None else lambda hidden, *others: rows.append(len(hidden)) or loss(hidden, *others)
        )
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
        tapped = loss_and_gradients(model, batch, tap)
    assert max(rows) == MULTIPLE
    assert torch.allclose(plain[0].loss.float(), tapped[0].loss.float(), rtol=2e-2)
    for name, gradient in plain[1].items():
        pair = (gradient.float().flatten(), tapped[1][name].float().flatten())
        assert torch.nn.functional.cosine_similarity(*pair, dim=0) > 0.99, name


FAMILIES = [
    (LlamaConfig, {}),
    (LlamaConfig, {"tie_word_embeddings": True}),
    (Gemma2Config, {"final_logit_softcapping": 3.0}),
    (CohereConfig, {"logit_scale": 0.25}),
]


@pytest.mark.parametrize("loss", [None, summed], ids=["logits", "hidden"])
@pytest.mark.parametrize("more", [{}, {"num_items_in_batch": torch.tensor(37)}], ids=["mean", "sum"])
@pytest.mark.parametrize(("config_class", "config"), FAMILIES)
def test_loss_and_gradients_are_the_models_own(config_class, config, more, loss):
    model, batch = tiny(config_class, **config), a_batch()
    plain = loss_and_gradients(model, batch, **more)
    tap = HeadTap(model, loss)
    tapped = loss_and_gradients(model, batch, tap, **more)
    assert_same(plain, tapped)
    trained = (batch["labels"][:, 1:] != -100).sum()
    assert tapped[0].logits.shape == ((1, 0, 97) if loss is None else (1, 1, 97))
    with torch.no_grad(), tap.armed(batch["labels"]):
        evaluated = model(**batch, **more)
    assert torch.allclose(evaluated.loss, plain[0].loss, rtol=1e-5)
    assert evaluated.logits.shape == ((1, trained, 97) if loss is None else (1, 1, 97))
    again = loss_and_gradients(model, batch)  # not armed: as if nothing was installed
    assert again[0].logits.shape == (3, 11, 97)
    tap.remove()
    assert unfit(model) is None
    assert len(model.get_output_embeddings()._forward_pre_hooks) == 0


@pytest.mark.parametrize("model_type", [name for name in zoo.TYPES if name not in zoo.missing()])
def test_a_type_learns_the_same_from_trained_tokens_alone(model_type):
    model = zoo.build(model_type)
    for batch in zoo.batches(model).values():
        plain = loss_and_gradients(model, batch, use_cache=False)
        tap = HeadTap(model)
        tapped = loss_and_gradients(model, batch, tap, use_cache=False)
        tap.remove()
        assert_same(plain, tapped)
        assert tapped[0].logits.shape[-2] == 0, "their memory holds the gradients"


def test_the_transform_is_seen_and_not_believed():
    model = tiny(Gemma2Config, final_logit_softcapping=3.0)
    tap = HeadTap(model, summed)
    loss_and_gradients(model, a_batch(), tap)
    assert tap.transform == Transform(1.0, 3.0)

    liar = tiny(LlamaConfig)
    liar.config.final_logit_softcapping = 3.0  # its class takes no notice
    tap = HeadTap(liar, summed)
    plain = loss_and_gradients(liar, a_batch())
    assert_same(plain, loss_and_gradients(liar, a_batch(), tap))
    assert tap.transform == Transform()
    assert Transform(1.0, 3.0) in transforms(liar.config)


def test_what_the_config_does_not_explain_is_refused():
    model = tiny()
    tap = HeadTap(model, summed)
    model.lm_head.register_forward_hook(lambda head, given, logits: logits + 1)
    with pytest.raises(ModelError, match="llama: the loss at the output head cannot be applied: between head and loss"):
        loss_and_gradients(model, a_batch(), tap)


def test_labels_of_another_shape_are_refused():
    model, batch = tiny(), a_batch()
    tap = HeadTap(model, summed)
    with pytest.raises(ModelError, match=r"its head got \(3, 11, 16\) for labels \(3, 10\)"), tap.armed(batch["labels"][:, 1:]):
        model(**batch)
    with pytest.raises(ModelError, match="did not call the loss function"), tap.armed(batch["labels"]):
        model(input_ids=batch["input_ids"])


def test_a_batch_without_trained_tokens_gives_zero_and_gradients():
    model, batch = tiny(), a_batch()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    for loss in (None, summed):
        tap = HeadTap(model, loss)
        outputs, gradients = loss_and_gradients(model, batch, tap, num_items_in_batch=5)
        assert outputs.loss.item() == 0
        assert gradients
        assert all(not gradient.any() for gradient in gradients.values())
        tap.remove()


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
def test_adapters_keep_their_gradients(options):
    torch.manual_seed(2)
    model = get_peft_model(tiny(), LoraConfig(**{"target_modules": ["q_proj"], **options}, init_lora_weights=False))
    batch = a_batch()
    plain = loss_and_gradients(model, batch)
    assert_same(plain, loss_and_gradients(model, batch, HeadTap(model)))


def test_models_that_cannot_have_it_say_why():
    scoring = AutoModelForSequenceClassification.from_config(LlamaConfig(**SIZES))
    assert "no output head" in unfit(scoring)
    own = tiny()
    own.loss_function = summed
    assert "a loss of its own" in unfit(own)
    with pytest.raises(ModelError, match="a loss of its own"):
        HeadTap(own)
    tapped = tiny()
    HeadTap(tapped)
    assert "a loss of its own" in unfit(tapped), "two taps on one model"


class Watch(Plugin):
    """Keeps what the trainer's loss put out."""

    def __init__(self, compute_metrics=None) -> None:
        super().__init__(PluginConfig())
        self.shapes, self.trained, self.made, self.left, self.compute_metrics = [], [], [], [], compute_metrics

    @hookimpl
    def post_trainer_create(self, trainer):
        trainer.compute_metrics = self.compute_metrics
        given = trainer.loss_function
        trainer.model.get_output_embeddings().register_forward_hook(lambda head, given, made: self.made.append(made.shape[:2]))

        def watched(trainer, model, inputs, num_items_in_batch):
            labels = inputs["labels"]
            loss, outputs = given(trainer, model, inputs, num_items_in_batch)
            self.shapes.append((bool(model.training), tuple(self.made.pop()), tuple(labels.shape)))
            self.left.append(tuple(outputs.logits.shape[:2]))
            self.trained.append(int((labels[:, 1:] != -100).sum()))
            return loss, outputs

        trainer.loss_function = watched


@pytest.mark.parametrize("packing", [False, True])
def test_a_run_makes_logits_of_trained_tokens_alone(run_longline, packing):
    watch = Watch()
    run_longline(data={"packing": packing}, trainer={"max_steps": 3}, plugins=[watch])
    assert len(watch.shapes) >= 3
    for (_, logits, labels), trained in zip(watch.shapes, watch.trained, strict=True):
        assert logits == (1, trained)
        assert trained < labels[0] * labels[1]
    assert set(watch.left) == {(1, 0)}, "their memory is the gradients' now"


def test_an_evaluation_that_wants_logits_gets_them(run_longline, chat_rows):
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions.shape)
        return {"rows": float(len(prediction.predictions))}

    watch = Watch(metrics)
    outcome = run_longline(
        data={"eval": [{"path": str(chat_rows)}]},
        trainer={"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1},
        plugins=[watch],
    )
    evaluated = [(logits, labels) for training, logits, labels in watch.shapes if not training]
    assert evaluated
    assert all(logits == labels for logits, labels in evaluated)
    assert len(seen) == 1
    assert any("eval_rows" in event for event in outcome.log)


def test_label_smoothing_gets_all_logits(run_longline):
    watch = Watch()
    run_longline(trainer={"max_steps": 1, "label_smoothing_factor": 0.1}, plugins=[watch])
    assert all(logits == labels for _, logits, labels in watch.shapes)


def test_a_trainer_class_with_a_loss_of_its_own_gets_all_logits(run_longline):
    from longline.trainers.sft import SFTTrainer

    class Penalised(SFTTrainer):
        def method_loss(self, model, inputs, num_items_in_batch=None):
            loss, outputs = super().method_loss(model, inputs, num_items_in_batch)
            return loss + 1e-4 * outputs.logits[..., :-1, :][inputs["labels"][..., 1:] != -100].square().mean(), outputs

    class Gives(Plugin):
        @hookimpl
        def provide_trainer_class(self):
            return Penalised

    watch = Watch()
    run_longline(trainer={"max_steps": 1}, plugins=[Gives(PluginConfig()), watch])
    assert [logits for _, logits, _ in watch.shapes] == [labels for _, _, labels in watch.shapes]
