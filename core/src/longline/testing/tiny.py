"""A tiny random model with its tokenizer, and rows to train it on; made on the spot, the same in every process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of the tiny model: ChatML, without generation marks."""


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a random float32 Llama (2 layers, hidden size 32) and a byte-level BPE tokenizer of about 300 tokens.

    The tokenizer has a ChatML template; `<|im_end|>` ends turns and texts, `<|pad|>` pads. Weights are always the same.
    """
    folder = tmp_path_factory.mktemp("longline") / "tiny-llama"
    write_tiny_model(folder)
    return folder


def write_tiny_model(folder: Path, seed: int = 0, **config_values: Any) -> None:
    """Write the model and tokenizer of `tiny_model_dir` into `folder`; the random state outside is left as it was.

    `config_values` are other fields of LlamaConfig, such as `hidden_size` or `initializer_range`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    config = LlamaConfig(**{**values, **config_values})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of about 300 tokens that was trained on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([message["content"] for row in chat(40) for message in row["messages"]], trainer)
    special = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "additional_special_tokens": ["<|im_start|>"]}
    fast: Any = PreTrainedTokenizerFast
    made = fast(tokenizer_object=tokenizer, model_max_length=1024, **special)
    made.chat_template = CHATML
    return made


def chat(count: int) -> list[dict[str, Any]]:
    """Return `count` different short conversations in OpenAI's form; every third has a system message."""
    fish = ["cod", "tuna", "hake", "ling", "eel", "bream", "sole", "perch"]
    rows = []
    for index in range(count):
        name = fish[index % len(fish)]
        messages = [
            {"role": "user", "content": f"How many hooks for {index} {name}?"},
            {"role": "assistant", "content": f"Take {2 * index + 1} hooks for the {name}."},
        ]
        if index % 3 == 0:
            messages.insert(0, {"role": "system", "content": "You know fishing lines."})
        rows.append({"messages": messages})
    return rows


def preferences(count: int) -> list[dict[str, Any]]:
    """Return `count` different pairs of answers: prompt, chosen and rejected as lists of messages."""
    rows = []
    for index, row in enumerate(chat(count)):
        *prompt, chosen = row["messages"]
        rejected = {"role": "assistant", "content": f"No idea about {index}, ask somebody else."}
        rows.append({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]})
    return rows


@pytest.fixture
def preference_rows(tmp_path: Path) -> Path:
    """Write a JSONL file of 32 pairs of answers, for `method: dpo` and its kind."""
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(32)), encoding="utf-8")
    return path


@pytest.fixture
def chat_rows(tmp_path: Path) -> Path:
    """Write a JSONL file of 32 conversations."""
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat(32)), encoding="utf-8")
    return path
