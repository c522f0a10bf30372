"""What only saving would find out is found before the first step; and when saving fails all the same, the weights are kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from longline import Plugin, hookimpl
from longline.cli import run_cli
from longline.config.loader import load_config
from longline.config.sections import ModelSection
from longline.errors import LonglineError, ModelError, PluginError, TrainingError
from longline.plugins import LoadedPlugin, PluginConfig
from longline.run import train
from longline.saving.reload import NotComparedError, Saved
from longline.weights import likeness

TOKENS = torch.tensor([[5, 7, 11, 60, 61, 62]])
IDLE = {
    "sampling": {"temperature": 1e-6, "top_p": 0.9},
    "beams": {"early_stopping": True, "length_penalty": 2.0},
    "padding": {"pad_token_id": -1},
}
"""Flags that have no effect beside the others: transformers loads them, and does not write them once anything was changed."""


@pytest.fixture
def published(tiny_model_dir, tmp_path):
    """A copy of the tiny model whose generation config has these flags, and ends with another token than is learnt."""

    def make(flags: dict) -> Path:
        folder = tmp_path / "published"
        shutil.copytree(tiny_model_dir, folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, **flags}))
        return folder

    return make


@pytest.mark.parametrize("flags", IDLE.values(), ids=IDLE)
def test_idle_flags_of_a_generation_config_are_saved_as_they_came(published, run_longline, flags):
    trainer = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    folder = run_longline(model={"path": str(published(flags))}, trainer=trainer).output_dir
    for saved in (folder / "model", folder / "checkpoint-1"):
        AutoModelForCausalLM.from_pretrained(saved)
        config = GenerationConfig.from_pretrained(saved)
        assert 7 in config.eos_token_id
        kept = {"pad_token_id": AutoTokenizer.from_pretrained(saved).pad_token_id} if "pad_token_id" in flags else flags
        assert {name: getattr(config, name) for name in flags} == kept


def test_idle_flags_survive_an_adapter_and_its_merging(published, run_longline):
    flags = IDLE["sampling"]
    folder = run_longline(
        model={"path": str(published(flags))}, adapter={"type": "lora", "r": 2}, trainer={"max_steps": 1}
    ).output_dir
    assert run_cli(["merge", str(folder)]) == 0
    config = GenerationConfig.from_pretrained(folder / "merged")
    assert {name: getattr(config, name) for name in flags} == flags


# --- before the first step ----------------------------------------------------------------------------------------------------


class Spoil(Plugin):
    """Changes something, when the trainer is there or when training has ended, so that it cannot be saved."""

    Config = PluginConfig

    def __init__(self, what: str, *, late: bool = False) -> None:
        super().__init__(PluginConfig())
        self.what, self.late = what, late
        self.steps = 0

    @hookimpl
    def post_trainer_create(self, trainer):
        self.trainer = trainer
        if not self.late:
            self.spoil()

    @hookimpl
    def on_step_end(self, step):
        self.steps = step

    @hookimpl
    def on_train_end(self, run):
        self.logits = likeness.logits(self.trainer.model, TOKENS)
        self.folder = run.output_dir
        if self.late:
            self.spoil()

    def spoil(self) -> None:
        model, tokenizer = self.trainer.accelerator.unwrap_model(self.trainer.model), self.trainer.processing_class
        if self.what == "config":
            model.config.note = object()
        elif self.what == "generation config":
            model.generation_config.num_return_sequences = 4
        elif self.what == "tokenizer":
            tokenizer.init_kwargs["note"] = object()
        elif self.what == "adapter":
            model.peft_config["default"].revision = object()
        elif self.what == "folder":
            self.folder.rename(self.folder.with_name("moved"))
            self.folder.write_text("a file")

    @hookimpl
    def pre_save(self):
        if self.what == "pre_save":
            raise ValueError("not today")

    @hookimpl
    def post_save(self):
        if self.what == "post_save":
            raise ValueError("not today")


@pytest.mark.parametrize(
    ("what", "adapter"),
    [("config", None), ("generation config", None), ("tokenizer", None), ("adapter", {"type": "lora", "r": 2})],
)
def test_what_cannot_be_saved_is_found_before_the_first_step(run_longline, tmp_path, what, adapter):
    spoil = Spoil(what)
    with pytest.raises(ModelError, match=r"could not be saved after training: (TypeError|ValueError): .") as caught:
        run_longline(plugins=[spoil], adapter=adapter)
    assert ("tokenizer" if what == "tokenizer" else "config") in caught.value.message
    assert spoil.steps == 0
    assert not (tmp_path / "run" / ".saving").exists()


# --- saving fails all the same ------------------------------------------------------------------------------------------------

LATE = [
    ("config", None, {}),
    ("tokenizer", None, {}),
    ("pre_save", None, {}),
    ("post_save", {"type": "lora", "r": 2}, {}),
    ("adapter", {"type": "lora", "r": 2}, {"tokenizer": {"add_tokens": ["<new>"]}}),
    ("tokenizer", {"type": "lora", "r": 2, "init_lora_weights": "pissa"}, {}),
]


@pytest.mark.parametrize(("what", "adapter", "model"), LATE)
def test_when_saving_fails_the_weights_are_kept(run_longline, tiny_model_dir, tmp_path, what, adapter, model):
    spoil = Spoil(what, late=True)
    with pytest.raises(LonglineError) as caught:
        run_longline(plugins=[spoil], adapter=adapter, model=model, trainer={"learning_rate": 0.1})
    assert isinstance(caught.value, PluginError if what.endswith("save") else TrainingError)
    kept = tmp_path / "run" / "model-unfinished"
    assert f"the weights are kept in {kept}" in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()
    assert (kept / "tokenizer.json").exists() == (what != "tokenizer")
    if what == "adapter":  # what could not be written is all that lacks
        assert not (kept / "adapter_config.json").exists()
        learnt = get_peft_model_state_dict(spoil.trainer.model)
        weights = load_file(kept / "adapter_model.safetensors")
        assert weights.keys() == learnt.keys()
        assert all(torch.equal(weights[name], learnt[name]) for name in learnt)
        return
    if what == "config":
        shutil.copy(tiny_model_dir / "config.json", kept)
    auto = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    assert torch.allclose(likeness.logits(auto.from_pretrained(kept), TOKENS), spoil.logits, atol=1e-4)


def test_a_run_folder_that_is_gone_leaves_the_weights_among_temporary_files(run_longline):
    spoil = Spoil("folder", late=True)
    with pytest.raises(LonglineError, match="the weights are kept in ") as caught:
        run_longline(plugins=[spoil])
    kept = Path(str(caught.value).split("the weights are kept in ")[1].split(";")[0])
    try:
        assert kept.is_relative_to(tempfile.gettempdir())
        loaded = AutoModelForCausalLM.from_pretrained(kept)
        assert torch.equal(likeness.logits(loaded, TOKENS), spoil.logits)
        AutoTokenizer.from_pretrained(kept)
    finally:
        shutil.rmtree(kept)


def test_a_checkpoint_of_the_last_step_is_where_the_weights_are_and_resume_saves_them(run_longline, tmp_path):
    trainer = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(PluginError, match=r"the weights are kept in .*checkpoint-2"):
        run_longline(plugins=[Spoil("post_save")], trainer=trainer)
    assert not (tmp_path / "run" / "model-unfinished").exists()
    folder = run_longline(trainer=trainer, resume="last").output_dir
    weights = [load_file(folder / name / "model.safetensors") for name in ("model", "checkpoint-2")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


class Flip(Plugin):
    """Flips the lowest bit of one number of a weight in the file that was saved."""

    def __init__(self, name):
        self.name = name

    @hookimpl
    def post_save(self, path):
        flip(path, self.name)


def flip(folder, name):
    [file] = folder.glob("*.safetensors")
    state = load_file(file)
    [found] = [key for key in state if name in key]
    state[found].view(torch.int16 if state[found].element_size() == 2 else torch.int32).view(-1)[-1] ^= 1
    save_file(state, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("adapter", "name"),
    [(None, "layers.1.mlp.up_proj.weight"), ({"type": "lora", "r": 2}, "layers.0.self_attn.v_proj.lora_B")],
)
def test_one_bit_that_is_saved_otherwise_is_found(run_config, tmp_path, adapter, name):
    """In 16 bits, too, where logits can't tell it from rounding."""
    loaded = load_config(run_config(adapter=adapter, model={"dtype": "bfloat16"}))
    with pytest.raises(TrainingError, match="not what is in memory, bit for bit") as told:
        train(loaded, plugins=[LoadedPlugin.of(Flip(name))])
    assert name in told.value.message
    assert (tmp_path / "run" / "model-unfinished").is_dir()


def test_a_model_that_cannot_be_loaded_again_is_compared_by_its_files(tiny_model_dir, tmp_path):
    """The first and the last rows of a large weight, all of a small one."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model.resize_token_embeddings(40_000, mean_resizing=False)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    saved = Saved(tmp_path, ModelSection(path=str(tiny_model_dir)), "float32", "tokens")
    with pytest.raises(NotComparedError, match=f"{len(model.state_dict())} tensors are those in memory"):
        saved.differs(model, tokenizer, None)
    with torch.no_grad():
        model.lm_head.weight[-1, -1] += 1e-6
    assert saved.differs(model, tokenizer, None) == "lm_head.weight is not what is in memory, bit for bit"
