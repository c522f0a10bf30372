"""What is refused before a model is loaded, with its place in the config and what to do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from planting import tensors, write

from longline.cli import run_cli

LORA = {"adapter": {"type": "lora", "r": 4}}
OPTIONS = [
    ({}, "plugins.spectrum.top_fraction: is missing"),
    ({"top_fraction": 0}, "greater than 0"),
    ({"top_fraction": -0.5}, "greater than 0"),
    ({"top_fraction": True}, "number"),
    ({"top_fraction": "half"}, "number"),
    ({"top_fraction": float("nan")}, "number"),
    ({"top_fraction": 50}, "at most 1; 50 percent are 0.5"),
    ({"top_fraction": 1e9}, "at most 1"),
    ({"top_fraction": 0.5, "top_fractoin": 1}, "did you mean `top_fraction`"),
    ({"top_fraction": 0.5, "always": ["head", "head"]}, "names 'head' twice"),
    ({"top_fraction": 0.5, "always": ["biases"]}, "embeddings"),
    ({"top_fraction": 0.5, "threshold": "mp"}, "edge"),
    ({"top_fraction": 0.5, "model": "a", "scan": "b"}, "set one of them"),
    ({"top_fraction": 0.5, "kinds": ["q_prj"]}, "no kind of matrix is called 'q_prj' (did you mean 'q_proj'?)"),
    ({"top_fraction": 0.5, "kinds": ["router"]}, "there are mlp.down_proj, mlp.gate_proj"),
    ({"top_fraction": 0.4}, "0.4 of 2 layers is less than one: nothing would be trained (0.5 or more trains one"),
    ({"top_fraction": 1}, "plugins.spectrum.top_fraction: 1 trains every matrix of every layer"),
    ({"top_fraction": 0.5, "scan": "nowhere.json"}, "plugins.spectrum.scan: cannot read"),
    ({"top_fraction": 0.5, "model": "nowhere/at/all"}, "plugins.spectrum.model: no such file or folder: nowhere/at/all"),
    ({"top_fraction": 0.5, "model": "owner/name"}, "plugins.spectrum.model: the weights of owner/name are not on this machine"),
]
CONFIGS = [
    (LORA, "adapter: spectrum: beside an adapter all weights of the model are frozen"),
    (
        {"model": {"quantization": {"load_in_4bit": True}}, **LORA},
        "model.quantization: spectrum: quantised weights are not trained",
    ),
    ({"model": {"tokenizer": {"add_tokens": ["<new>"]}}}, "the rows of new tokens start from random numbers"),
]


def told(capsys, config):
    """What `check` says of a config that it refuses, as one line."""
    code = run_cli(["check", str(config)])
    said = capsys.readouterr()
    assert code in (2, 3), said.out + said.err
    return " ".join((said.out + said.err).split())


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
def test_options_that_cannot_be(options, expected, run_config, capsys):
    assert expected in told(capsys, run_config(plugins=[{"spectrum": options}]))


@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_configs_that_cannot_be(config, expected, run_config, capsys):
    assert expected in told(capsys, run_config(plugins=[{"spectrum": {"top_fraction": 0.5}}], **config))


def test_new_tokens_are_fine_where_embeddings_are_trained(run_config, capsys):
    options = {"top_fraction": 0.5, "always": ["embeddings"]}
    config = run_config(plugins=[{"spectrum": options}], model={"tokenizer": {"add_tokens": ["<new>"]}})
    assert run_cli(["check", str(config)]) == 0, capsys.readouterr()


def test_all_layers_of_named_kinds_are_a_choice(run_config, capsys):
    assert run_cli(["check", str(run_config(plugins=[{"spectrum": {"top_fraction": 1, "kinds": ["self_attn"]}}]))]) == 0


def test_weights_that_are_quantised_or_not_here(run_config, tmp_path, capsys):
    config = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    options = [{"spectrum": {"top_fraction": 0.5}}]
    quantised = write(tmp_path / "awq", tensors(), config=config)
    assert "model.path: spectrum: the weights of" in told(capsys, run_config(plugins=options, model={"path": str(quantised)}))
    said = told(capsys, run_config(plugins=options, model={"path": "owner/name"}))
    assert "model.path: spectrum: the weights of owner/name are not on this machine" in said
    assert "hf download owner/name" in said


def test_a_scan_of_a_model_with_other_matrices(run_config, model, tiny_model_dir, tmp_path, capsys):
    expected = "the scan is of a model with other matrices: 10 against 14"
    assert expected in told(capsys, run_config(plugins=[{"spectrum": {"top_fraction": 0.5, "model": str(model)}}]))
    file = tmp_path / "scan.json"
    assert run_cli(["spectrum", "scan", str(model), "--output", str(file)]) == 0
    capsys.readouterr()
    assert expected in told(capsys, run_config(plugins=[{"spectrum": {"top_fraction": 0.5, "scan": str(file)}}]))


def test_plan_and_check_import_neither_torch_nor_scipy(run_config):
    config = run_config(plugins=[{"spectrum": {"top_fraction": 0.5}}])
    code = (
        "import sys\nfrom longline.cli import run_cli\n"
        f"assert run_cli(['check', {str(config)!r}]) == 0\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_doctor_tells_where_scans_are_kept(run_config, capsys, cache):
    config = run_config(plugins=[{"spectrum": {"top_fraction": 0.5}}])
    run_cli(["doctor", str(config), "--json"])
    assert f"0 kept in {cache / 'spectrum'}" in json.dumps(json.loads(capsys.readouterr().out))
