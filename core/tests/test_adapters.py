"""An adapter is put on, saved, loaded, merged and resumed: each time it is the same model, seen by its logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from longline import Plugin, hookimpl
from longline import model as models
from longline.adapters import start as starts
from longline.adapters.merging import merge
from longline.cli import run_cli
from longline.config.loader import load_config
from longline.config.sections import AdapterSection
from longline.errors import ConfigError, ModelError, TrainingError
from longline.methods import find
from longline.plugins import LoadedPlugin, PluginConfig
from longline.run import train
from longline.testing import preferences
from longline.weights import likeness

TEXT = "How many hooks for 3 cod? Take 7 hooks for the cod."


class Watch(Plugin):
    """Keeps the logits before the first step, and the trainer."""

    Config = PluginConfig

    @hookimpl
    def post_trainer_create(self, trainer):
        self.trainer = trainer
        self.tokens = trainer.processing_class(TEXT, return_tensors="pt")["input_ids"]
        self.before = likeness.logits(trainer.model, self.tokens)

    @property
    def now(self) -> torch.Tensor:
        return likeness.logits(self.trainer.model, self.tokens)


def watch() -> tuple[Watch, LoadedPlugin]:
    watcher = Watch(PluginConfig())
    return watcher, LoadedPlugin.of(watcher, "watch")


def of(model: object, tokens: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) if isinstance(model, (str, Path)) else model
    return likeness.logits(model, tokens)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4 * float(one.abs().max()), rtol=1e-4)


def options(method: str, form: str, tmp_path: Path, **trainer: object) -> dict:
    pairs = preferences(16)
    labelled = [{"completion": row["chosen" if at % 2 else "rejected"], "label": bool(at % 2)} for at, row in enumerate(pairs)]
    rows = {
        "preference": pairs,
        "unpaired": [{"prompt": row["prompt"], **more} for row, more in zip(pairs, labelled, strict=True)],
        "prompts": [{"prompt": row["prompt"]} for row in pairs],
    }[form]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given: dict = {"method": method, "data": {"train": [{"path": str(path), "format": form}]}}
    given["trainer"] = {"max_steps": 2, "beta": 0.1, **trainer}
    if find(method).draws_answers:
        (tmp_path / "score.py").write_text("def count(completions, **_):\n    return [float(len(c)) for c in completions]\n")
        given["rewards"] = [{"function": "score:count"}]
        given["trainer"] |= {"num_generations": 2, "max_completion_length": 4}
    return given


@pytest.fixture(scope="module")
def tied(tiny_model_dir, tmp_path_factory) -> Path:
    """The tiny model with one matrix for embedding and head."""
    folder = tmp_path_factory.mktemp("tied")
    config = LlamaConfig.from_pretrained(tiny_model_dir, tie_word_embeddings=True)
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 15  # so that tokens can be told apart with a frozen head
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def untied(tiny_model_dir, tmp_path_factory) -> Path:
    """The tiny model with weights as large as a trained one's."""
    folder = tmp_path_factory.mktemp("untied")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.lm_head.weight.data *= 15
    model.model.embed_tokens.weight.data *= 15
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


# --- starts that change the base ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "form", "start"),
    [
        *(("dpo", "preference", start) for start in ("pissa", "pissa_niter_4", "olora")),
        ("kto", "unpaired", "olora"),
        ("grpo", "prompts", "pissa_niter_4"),
        ("rloo", "prompts", "pissa"),
    ],
)
def test_a_policy_starts_as_its_base_and_is_saved_as_that(method, form, start, run_longline, tiny_model_dir, tmp_path):
    watcher, plugin = watch()
    given = options(method, form, tmp_path, learning_rate=0.0)
    outcome = run_longline(plugins=[plugin], adapter={"type": "lora", "r": 4, "init_lora_weights": start}, **given)
    base = of(tiny_model_dir, watcher.tokens)
    assert same(base, watcher.before)
    with watcher.trainer.model.disable_adapter():
        assert not same(base, watcher.now), "the base was changed"
    watcher.trainer.model.set_adapter("ref")
    assert same(base, watcher.now)
    saved = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), outcome.output_dir / "model")
    assert same(base, of(saved, watcher.tokens))


@pytest.mark.parametrize(
    "adapter",
    [
        {"type": "lora", "init_lora_weights": "pissa_niter_4", "target_modules": ["q_proj", "down_proj"]},
        {"type": "dora", "init_lora_weights": "olora"},
        {"type": "rslora", "init_lora_weights": "pissa", "rank_pattern": {"v_proj": 8}, "alpha_pattern": {"q_proj": 32}},
        {"type": "lora", "init_lora_weights": "pissa", "modules_to_save": ["lm_head"]},
        {"type": "lora", "init_lora_weights": "orthogonal"},
    ],
    ids=["pissa_niter", "dora", "patterns", "modules_to_save", "orthogonal"],
)
def test_saved_loaded_and_merged_it_is_the_model_of_the_run(adapter, run_longline, tiny_model_dir):
    watcher, plugin = watch()
    given = {"max_steps": 4, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 4}
    outcome = run_longline(plugins=[plugin], adapter={"r": 4, **adapter}, trainer=given)
    tuned = watcher.now
    assert not same(tuned, watcher.before)
    for folder in (outcome.output_dir / "model", outcome.output_dir / "checkpoint-4"):
        loaded = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert same(tuned, of(loaded, watcher.tokens)), folder.name
    assert run_cli(["merge", str(outcome.output_dir)]) == 0
    assert same(tuned, of(outcome.output_dir / "merged", watcher.tokens))


def test_a_resumed_run_goes_on_from_the_start_that_the_checkpoint_holds(run_longline, tmp_path):
    trainer = {"max_steps": 4, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2}
    trainer |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    data = {"eval_fraction": 0.25}
    given = {"adapter": {"type": "lora", "r": 4, "init_lora_weights": "pissa_niter_4"}, "trainer": trainer, "data": data}
    straight, plugin = watch()
    first = run_longline(plugins=[plugin], **given)
    for name in ("model", "checkpoint-4"):
        (first.output_dir / name).rename(tmp_path / name)
    resumed, plugin = watch()
    run_longline(plugins=[plugin], resume="last", **given)
    assert same(straight.now, resumed.now)
    old, new = (load_file(folder / "model" / starts.WEIGHTS) for folder in (tmp_path, first.output_dir))
    assert all(torch.allclose(new[name], value, atol=1e-6) for name, value in old.items())


def test_a_start_that_is_not_repeated_is_taken_from_the_checkpoint(run_longline, tiny_model_dir):
    """Another machine, or another version of torch, draws other numbers for a random start."""
    watcher, plugin = watch()
    adapter = {"type": "lora", "r": 4, "init_lora_weights": "pissa_niter_0"}
    outcome = run_longline(plugins=[plugin], adapter=adapter, trainer={"max_steps": 3, "learning_rate": 1e-2})
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    before = likeness.logits(base, watcher.tokens)
    torch.manual_seed(123)
    other = models.attach_adapter(base, models.adapter_config(AdapterSection(r=4, init_lora_weights="pissa_niter_0")))
    start = starts.settle(other, before, watcher.tokens, referred=True)
    mine = dict(start)
    assert starts.unpack(other, outcome.output_dir / "model", start)
    assert any(not torch.allclose(value, mine[name], atol=1e-3) for name, value in start.items()), "the starts differ"
    assert same(watcher.now, of(other, watcher.tokens))


def test_what_does_not_start_as_its_base_is_refused_where_that_is_compared_with(run_longline, tmp_path):
    given = {"type": "lora", "r": 4, "init_lora_weights": False}
    with pytest.raises(ModelError, match="not its base before the first step") as caught:
        run_longline(adapter=given, **options("dpo", "preference", tmp_path))
    assert "pissa" in str(caught.value)
    assert run_longline(adapter=given, output_dir=str(tmp_path / "sft")).result.status == "completed"


@pytest.mark.parametrize("start", ["eva", "corda", "loftq"])
def test_a_start_that_needs_more_than_the_model_is_refused_by_check(start, run_config, capsys):
    assert run_cli(["check", str(run_config(adapter={"type": "lora", "init_lora_weights": start}))]) == 2
    assert f"adapter.init_lora_weights: {start} " in capsys.readouterr().err


# --- saving and merging are compared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "ensure_weight_tying": True},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=["head", "embedding", "both", "modules_to_save"],
)
def test_tied_weights_are_merged_apart(adapter, run_longline, tied):
    watcher, plugin = watch()
    given = {"max_steps": 3, "learning_rate": 1e-2}
    outcome = run_longline(
        plugins=[plugin], model={"path": str(tied)}, adapter={"type": "lora", "r": 4, **adapter}, trainer=given
    )
    assert run_cli(["merge", str(outcome.output_dir)]) == 0
    assert same(watcher.now, of(outcome.output_dir / "merged", watcher.tokens))


class Spoil(Plugin):
    """Doubles a weight of every file of weights, as a faulty disk or a faulty converter might."""

    Config = PluginConfig

    @hookimpl
    def post_save(self, path):
        for file in path.glob("*.safetensors"):
            weights = load_file(file)
            save_file({name: value * (-4) for name, value in weights.items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}], ids=["full", "lora"])
def test_a_saved_model_that_is_another_one_fails_and_is_kept(adapter, run_config, tmp_path):
    given = {"max_steps": 3, "learning_rate": 3e-2, "save_strategy": "steps", "save_steps": 3}
    config = load_config(run_config(adapter=adapter, trainer=given))
    with pytest.raises(TrainingError, match="not the one that was trained") as caught:
        train(config, plugins=[LoadedPlugin.of(Spoil(PluginConfig()), "spoil")])
    run = tmp_path / "run"
    assert str(run / "model-unfinished") in str(caught.value)
    assert "checkpoint-3" in str(caught.value)
    assert list((run / "model-unfinished").glob("*.safetensors"))
    assert not (run / "model").exists()
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config)


def test_a_merged_model_that_is_another_one_is_refused(run_longline, tied):
    outcome = run_longline(
        model={"path": str(tied)},
        adapter={"type": "lora", "r": 4, "target_modules": ["lm_head"]},
        trainer={"max_steps": 3, "learning_rate": 3e-2},
    )
    tokens = likeness.sample(AutoTokenizer.from_pretrained(tied))
    load = AutoPeftModelForCausalLM.from_pretrained
    alone = load(outcome.output_dir / "model", dtype=torch.float32)
    before = likeness.logits(alone, tokens)
    assert likeness.distance(before, likeness.logits(alone.merge_and_unload(), tokens)) > 0.01, "what peft does alone"
    wrapped = load(outcome.output_dir / "model", dtype=torch.float32)
    # peft drops the wrapped layer, and what somebody hung on it
    wrapped.get_output_embeddings().register_forward_hook(lambda _, __, out: out * 1.1)
    with pytest.raises(ModelError, match="another model"):
        merge(wrapped, tokens)


# --- new tokens -------------------------------------------------------------------------------------------------------------------


NEW = ["<a>", "<b>", "<c>"]


def new_rows(tmp_path: Path) -> dict:
    path = tmp_path / "new.jsonl"
    row = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "<a><b> yes<c>"}]}
    path.write_text((json.dumps(row) + "\n") * 4, encoding="utf-8")
    return {"train": [{"path": str(path), "format": "chat"}]}


def how(kind: str, base: Path, tmp_path: Path) -> dict:
    if kind == "added":
        return {"add_tokens": NEW}
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(NEW)
    tokenizer.save_pretrained(tmp_path / "larger")
    return {"path": str(tmp_path / "larger")}


@pytest.mark.parametrize("kind", ["added", "larger tokenizer"])
@pytest.mark.parametrize("base", ["tied", "untied"])
def test_every_new_row_is_trained_in_both_matrices(base, kind, run_longline, tmp_path, request):
    folder = request.getfixturevalue(base)
    watcher, plugin = watch()
    outcome = run_longline(
        plugins=[plugin],
        model={"path": str(folder), "tokenizer": how(kind, folder, tmp_path)},
        data=new_rows(tmp_path),
        adapter={"type": "lora", "r": 16, "lora_alpha": 32},
        trainer={"max_steps": 80, "learning_rate": 1e-2, "logging_steps": 80},
    )
    model = watcher.trainer.model
    old = AutoModelForCausalLM.from_pretrained(folder)
    for now, before in (
        (model.get_input_embeddings(), old.get_input_embeddings()),
        (model.get_output_embeddings(), old.get_output_embeddings()),
    ):
        count, weight = len(before.weight), now.weight
        assert len(weight) == count + 3
        assert torch.equal(weight[:count], before.weight), "no old row moves"
        moved = (weight[count:] - before.weight.mean(0)).abs().amax(1)
        assert bool((moved > 0.05).all()), moved
    assert run_cli(["merge", str(outcome.output_dir)]) == 0
    assert same(watcher.now, of(outcome.output_dir / "merged", watcher.tokens))
    ids = watcher.trainer.processing_class.apply_chat_template(
        [{"role": "user", "content": "go"}, {"role": "assistant", "content": "<a><b> yes<c>"}], return_tensors="pt"
    )["input_ids"]
    answer = watcher.trainer.processing_class("<a><b> yes<c><|im_end|>")["input_ids"]
    start = next(at for at in range(ids.shape[1]) if ids[0, at : at + len(answer)].tolist() == answer)
    told = of(outcome.output_dir / "merged", ids)[0, start - 1 : start - 1 + len(answer)].log_softmax(-1)
    loss = -told.gather(1, ids[0, start : start + len(answer), None]).mean()
    assert loss < 0.3  # 2.7 where only the embedding's rows train, or none


def test_new_rows_start_as_the_mean_without_a_word(run_longline, untied, tmp_path, capfd):
    watcher, plugin = watch()
    run_longline(
        plugins=[plugin],
        model={"path": str(untied), "tokenizer": {"add_tokens": NEW}},
        data=new_rows(tmp_path),
        trainer={"max_steps": 1, "learning_rate": 0.0},
    )
    old = AutoModelForCausalLM.from_pretrained(untied)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        rows, before = getattr(watcher.trainer.model, name)().weight[-3:], getattr(old, name)().weight
        assert torch.allclose(rows, before.mean(0).expand(3, -1), atol=1e-6)
    assert "multivariate" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("method", "form"), [("dpo", "preference"), ("kto", "unpaired"), ("grpo", "prompts"), ("rloo", "prompts")]
)
def test_new_tokens_of_a_tied_model_are_trained_by_every_method(method, form, run_longline, tied, tmp_path):
    watcher, plugin = watch()
    outcome = run_longline(
        plugins=[plugin],
        model={"path": str(tied), "tokenizer": {"add_tokens": NEW}},
        adapter={"type": "lora", "r": 4},
        **options(method, form, tmp_path, learning_rate=1e-2),
    )
    loaded = AutoModelForCausalLM.from_pretrained(tied)
    loaded.resize_token_embeddings(len(watcher.trainer.processing_class))
    assert same(watcher.now, of(PeftModel.from_pretrained(loaded, outcome.output_dir / "model"), watcher.tokens))


@pytest.mark.parametrize(
    "adapter",
    [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}, {"trainable_token_indices": [5, 6]}],
    ids=["modules_to_save", "target_modules", "own rows"],
)
@pytest.mark.parametrize("base", ["tied", "untied"])
def test_new_rows_are_trained_beside_what_the_config_trains(base, adapter, run_longline, tmp_path, request):
    folder = request.getfixturevalue(base)
    watcher, plugin = watch()
    outcome = run_longline(
        plugins=[plugin],
        model={"path": str(folder), "tokenizer": {"add_tokens": NEW}},
        data=new_rows(tmp_path),
        adapter={"type": "lora", "r": 4, **adapter},
        trainer={"max_steps": 3, "learning_rate": 1e-2},
    )
    before = AutoModelForCausalLM.from_pretrained(folder)
    moved = watcher.trainer.model.get_input_embeddings().weight[-3:] - before.get_input_embeddings().weight.mean(0)
    assert bool((moved.abs().amax(1) > 1e-3).all())
    assert run_cli(["merge", str(outcome.output_dir)]) == 0
    assert same(watcher.now, of(outcome.output_dir / "merged", watcher.tokens))


def test_a_head_with_a_bias_is_trained_whole(run_longline, tiny_model_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(2)
    model = PhiForCausalLM(PhiConfig(vocab_size=len(tokenizer), **sizes))
    model.lm_head.bias.data.normal_()
    model.save_pretrained(tmp_path / "phi")
    tokenizer.save_pretrained(tmp_path / "phi")
    watcher, plugin = watch()
    outcome = run_longline(
        plugins=[plugin],
        model={"path": str(tmp_path / "phi"), "tokenizer": {"add_tokens": NEW}},
        data=new_rows(tmp_path),
        adapter={"type": "lora", "r": 4},
        trainer={"max_steps": 2, "learning_rate": 1e-2},
    )
    assert run_cli(["merge", str(outcome.output_dir)]) == 0
    assert same(watcher.now, of(outcome.output_dir / "merged", watcher.tokens))
