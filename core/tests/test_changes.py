"""What a resumed run has other than before: every field of a config says what becomes of it."""

from __future__ import annotations

import pytest
import yaml

from longline.config import method
from longline.config.changes import compare, plugin_changes, rule_of, settle
from longline.config.dump import resolved
from longline.config.explain import models_in
from longline.config.loader import load_config
from longline.config.sections import Config
from longline.errors import ConfigError
from longline.upstream.transformers import default_optimizer


@pytest.fixture
def load(tmp_path):
    """Loads a config of LoRA on a file of rows, with overrides."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    data = {name: str(tmp_path / "rows.jsonl") for name in ("train", "eval")}
    base = {"model": {"path": "m"}, "adapter": {"r": 4}, "data": data, "output_dir": str(tmp_path / "run")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(base))
    return lambda *overrides: load_config(path, overrides, data_files=False)


def paths(model, above=()):
    for name, field in model.model_fields.items():
        yield (*above, name)
        for below in models_in(field.annotation):
            yield from paths(below, (*above, name))


def test_every_field_says_what_becomes_of_it():
    found = [keys for keys in paths(Config) if keys not in {("model",)}]
    assert len(found) > 80
    for keys in found:
        rule_of(keys, "sft")  # raises for one that says nothing
    assert rule_of(("model", "token"), "sft").effect == "untold"


def test_every_word_about_the_trainer_is_about_an_argument():
    for name in ("sft", "dpo", "kto", "grpo", "rloo", "orpo", "cpo", "simpo", "reward"):
        found = method.find(name)
        own = set(found.fields()) | set(found.refused)
        assert {*found.on_resume} - own == set(), name


def test_grouped_prompts_belong_to_methods_that_draw_answers():
    assert rule_of(("trainer", "num_generations"), "grpo").effect == "refused"
    assert rule_of(("trainer", "beta"), "dpo").effect == "takes"


CASES = [
    (["trainer.learning_rate=1e-4"], "kept", "trainer.learning_rate stays 5e-05, 0.0001 has no effect"),
    (["trainer.weight_decay=0.1"], "kept", "trainer.weight_decay stays 0.0"),
    (["trainer.seed=1"], "refused", "trainer.seed was 42 and is 1"),
    (["trainer.optim=sgd"], "refused", "the state of the other optimizer"),
    (["trainer.lr_scheduler_type=cosine"], "refused", "the state of the other schedule"),
    (["trainer.num_train_epochs=5"], "takes", "was 3.0 and is 5: the schedule reckons with it"),
    (["trainer.save_steps=5"], "takes", "trainer.save_steps was 500 and is 5"),
    (["trainer.per_device_train_batch_size=4"], "refused", "a step had 8 rows and now has 4"),
    (["trainer.metric_for_best_model=x"], "refused", "what was best so far"),
    (["trainer.bf16=true"], "takes", "trainer.bf16 was false and is true"),
    (["trainer.fp16=true"], "refused", "the scaling of the loss"),
    (["adapter.lora_alpha=32"], "refused", "adapter.lora_alpha was 8 and is 32"),
    (["adapter.target_modules=[q_proj]"], "refused", "adapter.target_modules was all-linear"),
    (["adapter.lora_dropout=0.1"], "takes", "adapter.lora_dropout was 0.0 and is 0.1"),
    (["data.max_length=512"], "rows", "data.max_length was 1024 and is 512"),
    (["data.train.0.weight=2"], "rows", "data.train.0.weight was 1.0 and is 2.0"),
    (["data.train.1=other.jsonl"], "rows", "data.train was"),
    (["data.eval.0.path=other.jsonl"], "takes", "measured on the other rows"),
    (["model.path=other"], "base", "model.path was m and is other"),
    (["model.tokenizer.eos_token=x"], "rows", "model.tokenizer.eos_token was not set"),
    (["model.tokenizer.add_tokens=[x]"], "refused", "the vocabulary has the rows of the others"),
    (["model.quantization.load_in_4bit=true"], "refused", "as it was rounded"),
    (["model.overrides.attention_dropout=0.1"], "takes", "model.overrides.attention_dropout was not set and is 0.1"),
    (["early_stopping.patience=2"], "takes", "early_stopping was not set"),
    (["method=kto"], "refused", "each method has rows"),
]


@pytest.mark.parametrize(("overrides", "effect", "text"), CASES, ids=[case[0][0] for case in CASES])
def test_a_difference_has_its_effect(load, overrides, effect, text):
    (change,) = compare(resolved(load()), resolved(load(*overrides)))
    assert (change.effect, text in str(change)) == (effect, True), str(change)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["trainer.learning_rate=5e-5", "trainer.seed=42", "trainer.logging_steps=10", f"trainer.optim={default_optimizer()}"],
        ["adapter.lora_alpha=8", "adapter.r=4"],
        ["rewards=[]", "model.overrides={}", "model.tokenizer.add_tokens=[]"],
    ],
    ids=["nothing", "trainer's defaults", "adapter's defaults", "empty"],
)
def test_what_says_the_same_is_no_difference(load, overrides):
    assert list(compare(resolved(load()), resolved(load(*overrides)))) == []
    assert list(compare(resolved(load(*overrides)), resolved(load()))) == []


def test_a_batch_may_be_divided_otherwise_where_the_order_does_not_follow_from_it(load):
    halves = ["trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=2"]
    assert {change.effect for change in compare(resolved(load()), resolved(load(*halves)))} == {"takes"}
    for fixed in (["trainer.train_sampling_strategy=group_by_length"], ["trainer.dataloader_drop_last=true"], ["method=dpo"]):
        found = compare(resolved(load(*fixed)), resolved(load(*fixed, *halves)))
        assert {change.effect for change in found} == {"refused"}, fixed
    pairs = ["method=dpo", "trainer.train_sampling_strategy=random"]
    assert {change.effect for change in compare(resolved(load(*pairs)), resolved(load(*pairs, *halves)))} == {"takes"}


@pytest.mark.parametrize(
    ("ranks", "overrides", "effects"),
    [
        ((2, 1), [], {"refused"}),
        ((2, 1), ["trainer.per_device_train_batch_size=16"], {"takes"}),
        ((2, 1), ["trainer.gradient_accumulation_steps=2"], {"takes"}),
        ((2, 4), ["trainer.per_device_train_batch_size=4"], {"takes"}),
        ((3, 2), ["trainer.per_device_train_batch_size=16"], {"refused"}),
    ],
)
def test_ranks_count_in_the_rows_of_a_step(load, ranks, overrides, effects):
    found = list(compare(resolved(load()), resolved(load(*overrides)), ranks=ranks))
    assert {change.effect for change in found} == effects
    assert str(found[0]).startswith(f"processes was {ranks[0]} and is {ranks[1]}")


def test_ranks_that_have_as_many_rows_at_once_keep_their_order(load):
    twice, halves = ["trainer.per_device_train_batch_size=16"], ["trainer.gradient_accumulation_steps=2"]
    for overrides, effect in ((twice, "takes"), (halves, "refused")):
        found = compare(resolved(load("method=dpo")), resolved(load("method=dpo", *overrides)), ranks=(2, 1))
        assert {change.effect for change in found} == {effect}


def test_the_config_that_rules_says_what_the_checkpoint_says(load):
    before = resolved(load("trainer.learning_rate=2e-4"))
    ruling, _ = settle(
        load("trainer.learning_rate=1e-4", "trainer.adam_beta1=0.5", "trainer.save_steps=5"), before, fresh=False
    )
    assert dict(ruling.config.trainer) == {"learning_rate": 2e-4, "save_steps": 5}
    fresh, found = settle(load("trainer.learning_rate=1e-4", "trainer.optim=sgd"), before, fresh=True)
    assert (fresh.config.trainer["learning_rate"], {change.effect for change in found}) == (1e-4, {"takes"})


def test_all_that_is_refused_is_told_with_its_place(load):
    with pytest.raises(ConfigError) as caught:
        settle(load("trainer.seed=1", "adapter.r=8"), resolved(load()), fresh=False)
    text = str(caught.value)
    assert "--set trainer.seed: was 42 and is 1: the order of the rows" in text
    assert "--set adapter.r: was 4 and is 8" in text
    assert "another output_dir" in text


def test_options_of_plugins_are_compared_and_those_of_one_alone_are_not():
    before = {"plugins": {"a": {"every": 5, "deep": {"x": 1}}, "gone": {"y": 1}}}
    now = {"plugins": {"a": {"every": 9, "deep": {"x": 2}}, "new": {}}}
    assert [str(change) for change in plugin_changes(before, now)] == [
        "plugins.a.every was 5 and is 9",
        "plugins.a.deep.x was 1 and is 2",
    ]
