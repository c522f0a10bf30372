"""A tuned model ends its answers by itself, with the token that it learnt to end them with."""

import json
import re
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from longline import Plugin, hookimpl
from longline.cli import run_cli
from longline.errors import ModelError
from longline.plugins import PluginConfig
from longline.testing import tiny_tokenizer

LIMIT = 40
ROW = {"messages": [{"role": "user", "content": "How many hooks?"}, {"role": "assistant", "content": "Take 7."}]}
LEARNT = {
    "learning_rate": 0.02,
    "max_steps": 40,
    "per_device_train_batch_size": 1,
    "logging_steps": 40,
    "lr_scheduler_type": "constant",
    "save_strategy": "steps",
    "save_steps": 40,
    "eval_strategy": "no",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base that ends texts with <|endoftext|>, with a template that ends turns with <|im_end|>."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ended(folder):
    """What plain transformers writes behind the question, without being told where to stop."""
    return answered(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def answered(model, tokenizer):
    prompt = tokenizer.apply_chat_template(
        ROW["messages"][:1], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    out = model.generate(**prompt, max_new_tokens=LIMIT, do_sample=False)
    return tokenizer.decode(out[0, prompt["input_ids"].shape[1] :])


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 16}])
def test_an_answer_ends_by_itself(run_longline, run_config, base, tmp_path, capsys, adapter):
    data = tmp_path / "one.jsonl"
    data.write_text(json.dumps(ROW) + "\n")
    config = run_config(
        model={"path": str(base)}, adapter=adapter, data={"train": str(data), "eval": str(data)}, trainer=LEARNT
    )
    outcome = run_longline(config)
    assert outcome.manifest["plan"]["answers end with"] == "<|im_end|>"
    folder = outcome.output_dir
    tokenizer = AutoTokenizer.from_pretrained(base)
    wanted = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    for saved in (folder / "model", folder / "checkpoint-40"):
        assert GenerationConfig.from_pretrained(saved).eos_token_id == wanted
    if adapter:
        named = GenerationConfig.from_pretrained(folder / "model")
        beside = AutoPeftModelForCausalLM.from_pretrained(folder / "model", generation_config=named)
        assert answered(beside, tokenizer) == "Take 7.<|im_end|>"
        assert run_cli(["merge", str(folder)]) == 0
    assert ended(folder / ("merged" if adapter else "model")) == "Take 7.<|im_end|>"
    capsys.readouterr()
    assert run_cli(["generate", str(folder), "-p", "How many hooks?", "--max-new-tokens", str(LIMIT)]) == 0
    assert capsys.readouterr().out.strip() == "Take 7."
    assert run_cli(["evaluate", str(folder), "--generate", "--max-new-tokens", str(LIMIT)]) == 0
    assert re.search(r"exactly_right_share +1\n", capsys.readouterr().out)


class Seen(Plugin):
    """Keeps the tokens at which trl stops an answer."""

    @hookimpl
    def post_trainer_create(self, trainer):
        self.ends = trainer.eos_token_ids


def test_answers_that_are_drawn_end_as_the_template_ends_them(run_longline, base, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    data, seen = tmp_path / "prompts.jsonl", Seen(PluginConfig())
    data.write_text("".join(json.dumps({"prompt": ROW["messages"][:1], "wanted": number}) + "\n" for number in range(4)))
    (tmp_path / "fishing_ends.py").write_text("def length(completions, **_):\n    return [1.0 for _ in completions]\n")
    run_longline(
        method="grpo",
        model={"path": str(base)},
        data={"train": str(data)},
        rewards=[{"function": "fishing_ends:length"}],
        trainer={"num_generations": 2, "max_completion_length": 4, "max_steps": 1},
        plugins=[seen],
    )
    assert sorted(seen.ends) == AutoTokenizer.from_pretrained(base).convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


@pytest.mark.parametrize("wrong", ["x", 1.5, True, [2, "3"], {"a": 1}])
def test_an_end_that_is_no_token_is_told_with_its_file(run_longline, base, tmp_path, wrong):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(ModelError, match="which is no token's id") as told:
        run_longline(model={"path": str(folder)})
    assert str(folder / "generation_config.json") in told.value.message
