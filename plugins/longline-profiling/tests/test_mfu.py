"""MFU: the arithmetic of small models counted by hand, and the numbers of a run worked out again from its log."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from longline import Plugin, PluginConfig, hookimpl
from longline_profiling import flops, peak
from longline_profiling.config import ProfilingConfig
from longline_profiling.flops import UnknownError
from longline_profiling.plugin import ProfilingPlugin

# The tiny Llama of the kit: 2 layers, hidden 32, 4 heads of 8, 2 of keys and values, inner size 64, 300 tokens.
LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
WIDTH = 32


def llama(**options):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, num_key_value_heads=2, **shape, **options))


def test_a_model_by_hand():
    counted = flops.count(llama())
    weights = 2 * LAYER + 300 * 32
    assert (counted.trained, counted.frozen, counted.layers, counted.width) == (weights, 0, 2, WIDTH)
    assert counted.per_token == 6 * weights
    # One sequence of 10: scores and values are 2 x 2 x 10 x 10 x width a layer forward, twice that backward.
    assert counted.total(10, 100) == 6 * weights * 10 + 3 * 2 * (2 * 2 * 10 * 10 * WIDTH)


def test_a_head_that_is_the_embedding_counts_once():
    assert flops.count(llama(tie_word_embeddings=True)).trained == 2 * LAYER + 300 * 32


def test_lora_is_not_credited_with_gradients_that_it_saves():
    model = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    counted = flops.count(model)
    adapter = 2 * (4 * (32 + 32) + 4 * (32 + 16))
    assert (counted.trained, counted.frozen) == (adapter, 2 * LAYER + 300 * 32)
    assert counted.per_token == 6 * adapter + 4 * (2 * LAYER + 300 * 32)


def test_a_copy_that_is_trained_instead_counts_once():
    model = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    counted = flops.count(model)
    assert (counted.trained, counted.frozen) == (2 * 4 * (32 + 32) + 300 * 32, 2 * LAYER)


def test_positions_that_are_looked_up_and_transposed_weights():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_positions=64, n_embd=16, n_layer=3, n_head=2))
    counted = flops.count(model)
    assert counted.trained == 3 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 100 * 16
    assert (counted.layers, counted.width) == (3, 16)


def test_of_experts_those_count_that_a_token_is_sent_to():
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = MixtralForCausalLM(
        MixtralConfig(vocab_size=50, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **shape)
    )
    attention, router, expert, head = 4 * 16 * 16, 4 * 16, 3 * 16 * 24, 50 * 16
    assert flops.count(model).trained == attention + router + 2 * expert + head


def test_a_reference_runs_forward_unless_it_was_before():
    weights = 2 * LAYER + 300 * 32
    beside, before = flops.count(llama(), reference=True), flops.count(llama())
    assert (beside.per_token, before.per_token) == (8 * weights, 6 * weights)
    assert (beside.per_square, before.per_square) == (16 * 2 * WIDTH, 12 * 2 * WIDTH)


def test_no_number_where_none_would_be_true():
    unknown = SimpleNamespace(config=SimpleNamespace(hidden_size=4))
    with pytest.raises(UnknownError, match="layers and heads"):
        flops.count(unknown)


def test_squared_lengths_of_padded_rows_and_of_packs():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    assert float(flops.squared_lengths({"attention_mask": mask, "input_ids": mask})) == 9 + 16
    packs = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
    assert float(flops.squared_lengths({"position_ids": packs, "input_ids": packs})) == 9 + 4 + 25
    assert flops.squared_lengths({"input_ids": packs}) == 2 * 25
    sides = {"chosen_attention_mask": mask, "rejected_attention_mask": mask, "prompt_attention_mask": mask}
    assert float(flops.squared_lengths(sides)) == 2 * 25
    assert flops.squared_lengths({}) == 0.0


@pytest.mark.parametrize("packing", [False, True])
def test_the_mfu_of_a_run_by_hand(packing, run_longline, tiny_model_dir):
    options = ProfilingConfig(peak_tflops=0.05)
    outcome = run_longline(
        plugins=[ProfilingPlugin(options)],
        trainer={"max_steps": 4, "per_device_train_batch_size": 1 if packing else 2, "gradient_accumulation_steps": 2},
        data={"packing": packing, "max_length": 256 if packing else 128},
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name)
    events = [event for event in outcome.log if "num_tokens" in event]
    assert len(events) == 4
    tokens = 0
    for event in events:
        per_step = event["num_tokens"] - tokens
        tokens = event["num_tokens"]
        seconds = 1 / event["profiling/steps_per_second"]
        least = 6 * weights * per_step
        most = least + 12 * 2 * WIDTH * per_step * 128
        used = event["profiling/mfu_percent"] / 100 * 0.05e12 * seconds
        assert least < used < most
        # The attention term in squared lengths: at least that of equal sequences of the mean length, of 12 or fewer rows.
        squares = (used - least) / (12 * 2 * WIDTH)
        assert squares == pytest.approx(round(squares), abs=1e-3)
        assert per_step**2 / 30 <= squares <= per_step**2
    whole = json.loads((outcome.output_dir / "profile" / "timings.json").read_text())["sessions"][0]["throughput"]
    assert whole["flops_per_token_without_attention"] == 6 * weights
    assert (whole["peak_tflops"], whole["peak_from"]) == (0.05, "peak_tflops")
    assert whole["mfu_percent"] == pytest.approx(100 * whole["flops"] / whole["seconds"] / 0.05e12)
    assert whole["flops"] > 6 * weights * tokens


def test_squares_in_a_run_are_those_of_its_batches(run_longline):
    """Every row of the data once, in batches of 2: the sum of squared lengths is that of the prepared rows."""
    seen = {}

    class Rows(Plugin):
        @hookimpl
        def post_data_load(self, data):
            seen["lengths"] = [len(ids) for ids in data.train["input_ids"]]

    outcome = run_longline(
        plugins=[Rows(PluginConfig()), ProfilingPlugin(ProfilingConfig(peak_tflops=1))],
        trainer={"max_steps": None, "num_train_epochs": 1},
    )
    whole = json.loads((outcome.output_dir / "profile" / "timings.json").read_text())["sessions"][0]["throughput"]
    tokens, squares = sum(seen["lengths"]), sum(length**2 for length in seen["lengths"])
    assert whole["flops"] == pytest.approx(whole["flops_per_token_without_attention"] * tokens + 12 * 2 * WIDTH * squares)


def test_no_mfu_is_said(run_longline, capsys):
    outcome = run_longline(plugins=[ProfilingPlugin(ProfilingConfig(mfu=False))])
    assert not any("profiling/mfu_percent" in event for event in outcome.log)
    assert "MFU" not in capsys.readouterr().out


PEAKS = [
    ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
    ("NVIDIA A100-PCIE-40GB", "float32", 19.5),
    ("NVIDIA A100-SXM4-40GB", "tf32", 156),
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
    ("NVIDIA H100 PCIe", "bfloat16", 756),
    ("NVIDIA H100 NVL", "float16", 835.5),
    ("NVIDIA H200", "bfloat16", 989.5),
    ("NVIDIA GH200 480GB", "bfloat16", 989.5),
    ("NVIDIA B200", "bfloat16", 2250),
    ("NVIDIA GB200", "bfloat16", 2500),
    ("NVIDIA L4", "bfloat16", 121),
    ("NVIDIA L40", "bfloat16", 181),
    ("NVIDIA L40S", "bfloat16", 362),
    ("NVIDIA A10", "bfloat16", 125),
    ("NVIDIA RTX A6000", "bfloat16", 154.8),
    ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
    ("Tesla V100-SXM2-16GB", "float16", 125),
    ("Tesla T4", "float16", 65),
]
UNKNOWN = [
    ("Tesla T4", "bfloat16"),
    ("Tesla V100-SXM2-16GB", "bfloat16"),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16"),
    ("NVIDIA RTX A1000", "bfloat16"),
    ("NVIDIA A10G", "bfloat16"),
    ("NVIDIA H800 PCIe", "bfloat16"),
    ("Quadro P4", "float16"),
    ("NVIDIA A100-SXM4-80GB", "float64"),
]


@pytest.mark.parametrize(("name", "kind", "tflops"), PEAKS)
def test_known_devices(name, kind, tflops):
    assert peak.look_up(name, kind) == tflops * 1e12


@pytest.mark.parametrize(("name", "kind"), UNKNOWN)
def test_unknown_devices_are_not_guessed(name, kind):
    with pytest.raises(UnknownError, match="set peak_tflops"):
        peak.look_up(name, kind)


def test_the_peak_of_a_cpu_is_what_a_matrix_product_reaches():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    begin = time.perf_counter()
    found = max(peak.measure(torch.float32) for _ in range(3))
    assert time.perf_counter() - begin < 5
    assert torch.equal(torch.get_rng_state(), before), "training would get other random numbers"
    left = torch.rand(512, 512)
    best = 0.0
    for _ in range(30):
        begin = time.perf_counter()
        left @ left
        best = max(best, 2 * 512**3 / (time.perf_counter() - begin))
    assert 0.4 * best < found < 4 * best
