"""A teacher in the process, in real runs: what is logged is what the two models say, however the rows are laid out and spread."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from longline import LonglineError, Plugin, PluginConfig, hookimpl
from longline.testing import write_tiny_model
from longline_distill.plugin import DistillPlugin

ALL = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 32}


class Keep(Plugin):
    """Keeps the prepared rows."""

    @hookimpl
    def post_data_load(self, data):
        self.rows = list(data.train)


def values(outcome, name="loss"):
    return [event[name] for event in outcome.log if name in event]


@pytest.fixture
def distill(run_longline, teacher_dir):
    """Run distillation from the teacher; keywords are options of the plugin, `config` holds sections."""

    def run(trainer=None, plugins=(), config=None, **options):
        named = {"distill": {"teacher": str(teacher_dir), **options}}
        return run_longline(
            method="distill", plugins=[named, *plugins], trainer={**ALL, **(trainer or {})}, overwrite=True, **(config or {})
        )

    return run


def by_hand(rows, student, teacher, temperature=1.0):
    """(cross entropy, KL(teacher, student), agreement): means over the learnt tokens of rows, each by itself."""
    entropy, apart, agreeing, count = 0.0, 0.0, 0, 0
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64) for path in (student, teacher)]
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            own, other = (model(ids).logits[0] for model in models)
        for place in range(1, len(labels)):
            if labels[place] == -100:
                continue
            q, p = (torch.softmax(logits[place - 1] / temperature, 0) for logits in (own, other))
            entropy -= torch.log_softmax(own[place - 1], 0)[labels[place]].item()
            apart += (p * (p / q).log()).sum().item()
            agreeing += int(q.argmax() == p.argmax())
            count += 1
    return entropy / count, apart / count, agreeing / count


@pytest.fixture(scope="module")
def right(tmp_path_factory, tiny_model_dir, teacher_dir):
    """What `by_hand` finds, by temperature; the rows are the same in every run."""
    known = {}

    def find(rows, temperature=1.0):
        if temperature not in known:
            known[temperature] = by_hand(rows, tiny_model_dir, teacher_dir, temperature)
        return known[temperature]

    return find


def test_without_alpha_it_is_sft(distill, run_longline):
    trainer = {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
    ours = values(distill(trainer, alpha=0.0))
    sft = run_longline(trainer={**ALL, **trainer}, overwrite=True)
    assert ours == pytest.approx(values(sft), rel=1e-5)


def test_what_is_logged_is_what_the_models_say(distill, right):
    keep = Keep(PluginConfig())
    outcome = distill(plugins=[keep], alpha=0.75, temperature=2.0)
    entropy, apart, agreement = right(keep.rows, 2.0)
    assert values(outcome, "ce") == [pytest.approx(entropy, rel=1e-5)]
    assert values(outcome, "kl") == [pytest.approx(apart, rel=1e-5)]
    assert values(outcome, "agreement") == [pytest.approx(agreement, abs=1e-9)]
    assert values(outcome) == [pytest.approx(0.25 * entropy + 0.75 * 4 * apart, rel=1e-5)]


@pytest.mark.parametrize(
    ("trainer", "config"),
    [
        ({}, {"data": {"packing": True}}),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8}, {}),
        ({}, {"adapter": {"type": "lora", "r": 4}}),
        ({}, {"adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj", "lm_head"]}}),
        ({"gradient_checkpointing": True}, {}),
    ],
    ids=["packed", "accumulated", "lora", "lora on the head", "checkpointing"],
)
def test_the_same_however_it_is_computed(distill, right, trainer, config):
    keep = Keep(PluginConfig())
    plain = distill(plugins=[keep], alpha=0.5)
    entropy, apart, _ = right(keep.rows)
    assert values(plain) == [pytest.approx(0.5 * entropy + 0.5 * apart, rel=1e-5)]
    other = distill(trainer, config=config, alpha=0.5)
    assert values(other) == pytest.approx(values(plain), rel=1e-5)
    if "adapter" not in config:
        assert values(other, "grad_norm") == pytest.approx(values(plain, "grad_norm"), rel=1e-4)


def test_a_student_of_itself(distill, tiny_model_dir):
    outcome = distill(teacher=str(tiny_model_dir), alpha=1.0)
    assert abs(values(outcome)[0]) < 1e-5
    assert values(outcome, "grad_norm")[0] < 1e-4
    assert values(outcome, "agreement") == [1.0]


@pytest.mark.parametrize("divergence", ["reverse_kl", "jsd"])
def test_the_likeliest_tokens_come_near_to_all(distill, divergence):
    """With k the divergence is a lower bound that rises with k."""
    found = [values(distill(divergence=divergence, top_k=k), divergence)[0] for k in (1, 8, 64, 4000)]
    whole = values(distill(divergence=divergence), divergence)[0]
    assert found == sorted(found)
    assert found[0] < 0.9 * whole
    assert found[-1] == pytest.approx(whole, rel=1e-6)


def test_evaluation_is_the_same_mean(distill, right, chat_rows):
    keep = Keep(PluginConfig())
    trainer = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 5}
    outcome = distill(trainer, plugins=[keep], config={"data": {"eval": [{"path": str(chat_rows), "format": "chat"}]}})
    entropy, apart, agreement = right(keep.rows)
    assert values(outcome, "eval_loss") == [pytest.approx(0.5 * entropy + 0.5 * apart, rel=1e-5)]
    assert values(outcome, "eval_kl") == [pytest.approx(apart, rel=1e-5)]
    assert values(outcome, "eval_agreement") == [pytest.approx(agreement, abs=1e-9)]


@pytest.mark.parametrize("trainer", [{}, {"fsdp": True, "fsdp_config": {"fsdp_version": 2}}], ids=["ddp", "fsdp2"])
def test_two_ranks_are_one(run_process, distill, teacher_dir, trainer):
    steps = {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 8}
    alone = distill(steps)
    options = {"distill": {"teacher": str(teacher_dir)}}
    halves = {**ALL, **steps, "per_device_train_batch_size": 4, **trainer}
    both = run_process(method="distill", plugins=[options], trainer=halves, ranks=2, overwrite=True)
    assert both.code == 0, both.err
    for name in ("loss", "ce", "kl", "agreement"):
        assert values(both, name) == pytest.approx(values(alone, name), rel=1e-4), name


def test_it_learns_from_the_teacher(distill):
    found = values(distill({"max_steps": 25, "learning_rate": 1e-2, "per_device_train_batch_size": 8}, alpha=1.0), "kl")
    assert found[-1] < 0.7 * found[0]


def test_a_padded_head_of_the_teacher(distill, right, tmp_path):
    """Rows of an embedding that no token has don't count."""
    write_tiny_model(tmp_path / "padded", seed=7, hidden_size=48, initializer_range=0.3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "padded")
    plain = distill(teacher=str(tmp_path / "padded"))
    model.resize_token_embeddings(320, mean_resizing=False)
    model.save_pretrained(tmp_path / "padded")
    assert values(distill(teacher=str(tmp_path / "padded"))) == pytest.approx(values(plain), rel=1e-5)


def test_another_vocabulary_is_refused_before_a_model_is_loaded(distill, tmp_path, teacher_dir):
    shutil.copytree(teacher_dir, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = (token for token, number in vocabulary.items() if number in (40, 41))
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(content))
    (tmp_path / "other" / "model.safetensors").unlink()
    with pytest.raises(LonglineError, match=r"is another one: 2 of \d+ tokens have no or another id there"):
        distill(teacher=str(tmp_path / "other"))


def test_a_teacher_that_is_not_there(distill, tmp_path):
    with pytest.raises(LonglineError, match="nowhere"):
        distill(teacher=str(tmp_path / "nowhere"))


class Fed(Plugin):
    """Keeps what the trainer feeds to the loss, with the answers' own prompts."""

    @hookimpl
    def post_trainer_create(self, trainer):
        own, self.batches = trainer.loss_function, []

        def loss(trainer, model, inputs, count):
            result = own(trainer, model, inputs, count)
            self.batches.append({**inputs, "drawn": "distill_drawn" in trainer.columns, "loss": result[0].item()})
            return result

        trainer.loss_function = loss


def test_answers_of_the_student_itself(distill, teacher_dir, tiny_model_dir):
    """The prompts stay, the answers are new ones, and the loss of those batches is the divergence alone."""
    fed = Fed(PluginConfig())
    options = {"share": 0.5, "max_new_tokens": 9}
    trainer = {"max_steps": 12, "per_device_train_batch_size": 2}
    outcome = distill(trainer, plugins=[fed], on_policy=options, alpha=0.5)
    drawn = [batch for batch in fed.batches if batch["drawn"]]
    assert 2 <= len(drawn) <= 10
    teacher, student = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (teacher_dir, tiny_model_dir)
    )
    for batch in drawn:
        learnt = batch["labels"] != -100
        assert learnt.sum(1).max() <= 9
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        with torch.no_grad():
            p, q = (torch.log_softmax(model(**inputs).logits[:, :-1][learnt[:, 1:]], 1) for model in (teacher, student))
        assert batch["loss"] == pytest.approx((p.exp() * (p - q)).sum().item() / len(p), rel=1e-4)
    again = Fed(PluginConfig())
    assert values(distill(trainer, plugins=[again], on_policy=options, alpha=0.5)) == values(outcome)
    assert [batch["drawn"] for batch in again.batches] == [batch["drawn"] for batch in fed.batches]


def test_no_answers_are_drawn_from_packed_rows(distill):
    with pytest.raises(LonglineError, match="packed rows have several"):
        distill(config={"data": {"packing": True}}, on_policy={"share": 0.5})


def test_it_is_well_behaved(assert_well_behaved, teacher_dir):
    why = "made by hand it is in no config, and its method wants it there"
    assert_well_behaved(DistillPlugin, {"teacher": str(teacher_dir)}, method="distill", skip={"contained": why})
