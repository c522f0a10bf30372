"""Real runs: resumed as if nothing had happened, on one rank and on two; DDP and FSDP2 equal one process; what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longline.cli import run_cli
from longline.errors import LonglineError
from longline_grokfast.config import GrokfastConfig
from longline_grokfast.plugin import GrokfastPlugin

FILTERS = {
    "ema": {"alpha": 0.9, "lamb": 3.0},
    "ma": {"filter": "ma", "window": 3, "lamb": 3.0},
    "before": {"filter": "ma", "window": 3, "warmup": False, "reduce": "sum", "place": "before_clipping"},
}


@pytest.mark.parametrize("kind", FILTERS)
def test_resumed_equals_uninterrupted_bit_for_bit(assert_resume_equal, kind):
    assert_resume_equal(GrokfastPlugin, FILTERS[kind])


def test_resumed_on_two_ranks_too(assert_resume_equal):
    """Each rank goes on with the averages of its own shards."""
    assert_resume_equal(GrokfastPlugin, FILTERS["ma"], ranks=2, trainer={"fsdp": True})


def weights_of(outcome):
    return load_file(outcome.output_dir / "model" / "model.safetensors")


@pytest.mark.parametrize(("kind", "parallel"), [("before", {}), ("ema", {"fsdp": True})], ids=["ddp", "fsdp2"])
def test_two_ranks_equal_one_process(run_longline, run_process, tmp_path, kind, parallel):
    plugins, trainer = [{"grokfast": FILTERS[kind]}], {"max_steps": 6, "per_device_train_batch_size": 4, "max_grad_norm": 0.5}
    plain = run_longline(trainer=trainer, output_dir=str(tmp_path / "plain"))
    one = run_longline(trainer=trainer, plugins=plugins, output_dir=str(tmp_path / "one"))
    assert not close(weights_of(one), weights_of(plain))
    halved = {**trainer, "per_device_train_batch_size": 2, **parallel}
    two = run_process(ranks=2, plugins=plugins, trainer=halved, output_dir=str(tmp_path / "two"))
    assert two.code == 0, two.text
    assert close(weights_of(two), weights_of(one))
    for metric in ("loss", "grad_norm"):
        expected, found = ([event[metric] for event in run.log if metric in event] for run in (one, two))
        assert found == pytest.approx(expected, rel=1e-3), metric


def close(found, expected):
    return all(torch.allclose(found[name], weight, rtol=1e-3, atol=2e-5) for name, weight in expected.items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"include": ["q_prj"]}, r"include: 'q_prj': no weight has it in its name[\s\S]*did you mean 'q_proj'"),
        ({"include": ["lora_A"], "exclude": ["lora"]}, "include and exclude leave none of the 8 trained tensors"),
        (
            {"include": ["lm_head"]},
            "include: 'lm_head': what has it in its name does not train: base_model.model.lm_head.weight",
        ),
        ({"exclude": ["embed_tokens"]}, "exclude: 'embed_tokens': what has it in its name does not train"),
    ],
)
def test_names_that_filter_nothing_are_refused_before_training(run_longline, options, text):
    adapter = {"type": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]}
    with pytest.raises(LonglineError, match=text):
        run_longline(plugins=[GrokfastPlugin(GrokfastConfig(**options))], adapter=adapter)


def test_the_average_of_another_filter_is_not_taken_up(run_longline, run_config, tmp_path):
    made = {"output_dir": str(tmp_path / "run"), "trainer": {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}}
    run_longline(plugins=[GrokfastPlugin(GrokfastConfig())], **made)
    later = {**made, "trainer": {**made["trainer"], "max_steps": 4}}
    other = GrokfastPlugin(GrokfastConfig(filter="ma", window=2))
    with pytest.raises(LonglineError, match="averages are of filter: ema, and the config says filter: ma, window: 2"):
        run_longline(plugins=[other], resume="last", **later)


def test_a_window_that_the_rows_never_fill_is_refused_before_training(run_longline):
    """The number of steps follows from the rows, which only the run knows."""
    with pytest.raises(LonglineError, match="the window of 100 gradients is never full in 8 steps"):
        run_longline(
            plugins=[{"grokfast": {"filter": "ma"}}],
            trainer={"max_steps": None, "num_train_epochs": 1, "per_device_train_batch_size": 4},
        )


def test_the_example_runs(tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[3])
    paths = {"model.path": tiny_model_dir, "output_dir": tmp_path / "run", "data.cache_dir": tmp_path / "cache"}
    given = [word for name, value in paths.items() for word in ("--set", f"{name}={value}")]
    assert run_cli(["train", "examples/grokfast/config.yaml", *given, "--set", "trainer.use_cpu=true"]) == 0
    assert "gradients of 24 of 28 trained tensors" in capsys.readouterr().out
    kept = torch.load(tmp_path / "run" / "checkpoint-20" / "plugins" / "grokfast.rank0.pt")
    assert len(kept["weights"]) == 24
