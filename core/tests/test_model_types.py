"""Models with towers for pictures or sound: trained on text, from a config like any other."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from longline.testing import tiny_tokenizer, zoo

TOWERS = ("vision", "visual", "audio", "projector", "patch")


@pytest.fixture
def folder_of(tmp_path):
    """Return a function that writes a tiny model of a type with the test kit's tokenizer."""

    def write(model_type):
        tokenizer, folder = tiny_tokenizer(), tmp_path / model_type
        model = zoo.build(model_type, vocab_size=len(tokenizer), max_position_embeddings=256)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


def weights(folder):
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "mistral3", "voxtral"])
def test_text_is_learnt_and_towers_stay_as_they_are(run_longline, folder_of, model_type):
    before = weights(folder_of(model_type))
    outcome = run_longline(model={"path": str(folder_of(model_type))}, trainer={"max_steps": 2, "learning_rate": 0.01})
    after = weights(outcome.output_dir / "model")
    assert before.keys() == after.keys()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    towers = {name for name in before if any(part in name for part in TOWERS)}
    assert towers
    assert not changed & towers
    assert len(changed) > len(before.keys() - towers) / 2
    model = AutoModelForMultimodalLM.from_pretrained(outcome.output_dir / "model")
    assert type(model).__name__.endswith("ForConditionalGeneration")


def test_an_adapter_on_one(run_longline, folder_of):
    adapter = {"type": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}
    outcome = run_longline(model={"path": str(folder_of("llava"))}, adapter=adapter, trainer={"max_steps": 2})
    assert outcome.manifest["status"] == "completed"
