"""A GGUF file is read quickly, and what is loaded is what transformers loads by itself."""

from __future__ import annotations

import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from longline import model as models
from longline import upstream
from longline.config.sections import ModelSection
from longline.errors import ModelError

LAYERS, WIDTH, WORDS = 6, 64, 40_000


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A llama with a vocabulary of a usual size, and its tensors quantised in several ways."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256 + 68))]
    pairs = [(one, other) for one in letters for other in letters[:90]]
    words = [*letters, *map("".join, pairs)]
    words = [*words, *(f"wörd{number}" for number in range(WORDS - len(words) - 1)), "<|endoftext|>"]
    writer.add_token_list(words)
    writer.add_token_types([1] * (WORDS - 1) + [3])
    writer.add_token_merges(list(map(" ".join, pairs)))
    writer.add_eos_token_id(WORDS - 1)
    kinds = (gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16)
    random = np.random.default_rng(0)
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH), "attn_v": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH)}
    shapes |= {"ffn_up": (2 * WIDTH, WIDTH), "ffn_gate": (2 * WIDTH, WIDTH), "ffn_down": (WIDTH, 2 * WIDTH)}
    tensors = {f"blk.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in shapes.items()}
    for number, (name, shape) in enumerate({"token_embd.weight": (WORDS, WIDTH), **tensors}.items()):
        kind = kinds[number % 3]
        packed = gguf.quants.quantize(random.standard_normal(shape, dtype=np.float32), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    norms = ["output_norm", *(f"blk.{layer}.{name}_norm" for layer in range(LAYERS) for name in ("attn", "ffn"))]
    for name in norms:
        writer.add_tensor(f"{name}.weight", random.standard_normal(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_loads_the_same_in_less_than_half_the_time(path):
    begin = time.process_time()
    source = {"gguf_file": path.name}
    unpacked = GgufConfig(gguf_file=path.name, dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, quantization_config=unpacked, **source)
    words = AutoTokenizer.from_pretrained(path.parent, **source)
    took = time.process_time() - begin

    begin = time.process_time()
    section = ModelSection(path=str(path))
    tokenizer = models.load_tokenizer(section)
    model = models.load_model(section, models.model_kwargs(section, "float32"))
    assert time.process_time() - begin < took / 2, took

    assert tokenizer.get_vocab() == words.get_vocab()
    assert tokenizer.backend_tokenizer.to_str() == words.backend_tokenizer.to_str()
    ours, state = model.state_dict(), theirs.state_dict()
    assert len(state) == 3 + 9 * LAYERS
    assert ours.keys() == state.keys()
    assert [name for name in state if not torch.equal(ours[name], state[name])] == []
    assert {**model.config.to_dict(), "quantization_config": None} == {**theirs.config.to_dict(), "quantization_config": None}


@pytest.mark.parametrize("order", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG], ids=["little", "big"])
def test_every_kind_of_metadata_reads_the_same(tmp_path, order):
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=order)
    writer.add_string("a.text", "Grüße")
    writer.add_bool("a.yes", True)
    writer.add_float64("a.float", 0.1)
    writer.add_array("a.texts", ["", "ä", "two words"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.floats", [0.5, 1e-3])
    writer.add_array("a.flags", [True, False])
    writer.add_array("a.bytes", b"\x00\xff")
    writer.add_tensor("t", np.arange(8, dtype=np.float32).reshape(2, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    from transformers.modeling_gguf_pytorch_utils import read_field

    slow = gguf.GGUFReader(path)
    with upstream.gguf.reading_gguf():
        quick = gguf.GGUFReader(path)
    assert type(quick) is not type(slow)
    assert gguf.GGUFReader is type(slow)
    assert {name: read_field(quick, name) for name in quick.fields} == {name: read_field(slow, name) for name in slow.fields}
    assert read_field(quick, "a.texts") == ["", "ä", "two words"]
    assert [field.types for field in quick.fields.values()] == [field.types for field in slow.fields.values()]
    assert np.array_equal(quick.tensors[0].data, slow.tensors[0].data)


def test_a_file_that_is_cut_off_is_told(path, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"cannot load the tokenizer from .*cut\.gguf"):
        models.load_tokenizer(ModelSection(path=str(cut)))
