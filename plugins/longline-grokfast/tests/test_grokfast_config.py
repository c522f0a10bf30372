"""The options: what they may be, and what is refused with the reason."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from longline.cli import run_cli
from longline_grokfast.config import GrokfastConfig


def test_the_defaults_are_those_of_the_papers_code():
    ema, ma = GrokfastConfig(), GrokfastConfig(filter="ma")
    assert (ema.filter, ema.alpha, ema.times) == ("ema", 0.98, 2.0)
    assert (ma.window, ma.reduce, ma.warmup, ma.times) == (100, "mean", True, 5.0)
    assert ema.place == "after_clipping"


@pytest.mark.parametrize(
    "options",
    [
        *({"alpha": value} for value in (0, 1, 1.0, -0.1, 1.5, float("nan"), float("inf"), True, "0.9", None)),
        *({"lamb": value} for value in (0, -1, 1e9, float("nan"), float("inf"), False, "2")),
        *({"filter": "ma", "window": value} for value in (0, 1, -3, 2.5, "many", True)),
        {"filter": "EMA"},
        {"filter": "ma", "reduce": "median"},
        {"place": "before"},
        {"include": []},
        {"include": [""]},
        {"include": "q_proj"},
        {"grokfast_alpha": 0.9},
    ],
)
def test_bad_values_are_refused(options):
    with pytest.raises(ValidationError):
        GrokfastConfig(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 2.0, "lamb": 0.98}, r"are swapped.*write alpha: 0\.98 and lamb: 2\.0"),
        ({"alpha": 1, "lamb": 0.5}, "are swapped"),
        ({"filter": "ma", "alpha": 0.9}, "alpha belongs to filter: ema, and the filter is ma"),
        ({"window": 50}, "window belongs to filter: ma, and the filter is ema"),
        ({"warmup": False}, "warmup belongs to filter: ma"),
        ({"exclude": ["layers.(0"]}, r"'layers\.\(0' is no regular expression: missing \)"),
    ],
)
def test_what_is_meant_otherwise_is_told(options, text):
    with pytest.raises(ValidationError, match=text):
        GrokfastConfig(**options)


def check(run_config, capsys, options, **trainer):
    """What `longline check` says of these options."""
    status = run_cli(["check", str(run_config(plugins=[{"grokfast": options}], trainer=trainer))])
    return status, capsys.readouterr().err


def test_check_tells_the_place_of_swapped_numbers(run_config, capsys):
    status, told = check(run_config, capsys, {"alpha": 2.0, "lamb": 0.98})
    assert status == 2
    assert "plugins.grokfast: alpha: 2.0 and lamb: 0.98 are swapped" in told
    assert "config.yaml:" in told


@pytest.mark.parametrize(
    ("options", "trainer", "text"),
    [
        ({"filter": "ma"}, {}, "plugins.grokfast.window: not applied: the window of 100 gradients is never full in 5 steps"),
        ({}, {"optim": "adalomo"}, "trainer.optim: grokfast: not applied: adalomo uses gradients up"),
        (
            {},
            {"optim": "galore_adamw_layerwise"},
            "trainer.optim: grokfast: not applied: galore_adamw_layerwise uses gradients up",
        ),
    ],
)
def test_what_would_not_be_applied_is_refused_before_a_run(run_config, capsys, options, trainer, text):
    status, told = check(run_config, capsys, options, **trainer)
    assert status == 3
    assert text in told


@pytest.mark.parametrize("options", [{"filter": "ma", "warmup": False}, {"filter": "ma", "window": 5}, {}])
def test_what_will_be_applied_is_not_refused(run_config, capsys, options):
    assert check(run_config, capsys, options)[0] == 0


@pytest.mark.parametrize(
    ("options", "trainer", "lines"),
    [
        (
            {},
            {},
            ["adds 2 times the exponential average of a weight's gradients (alpha 0.98) to each of them, after they are "],
        ),
        ({"place": "before_clipping"}, {}, ["to each of them, before they are clipped"]),
        ({"place": "before_clipping"}, {"max_grad_norm": 0}, ["to each of them, and nothing is clipped"]),
        (
            {"filter": "ma", "window": 3, "reduce": "sum"},
            {},
            ["adds 5 times the sum of a weight's last 3 gradients", "before step 3"],
        ),
        (
            {"include": ["q_proj", "v_proj"], "exclude": ["lora_B"]},
            {},
            ["only weights with q_proj or v_proj", "not those with lora_B"],
        ),
    ],
)
def test_the_plan_says_what_is_added_and_where(run_config, capsys, options, trainer, lines):
    assert run_cli(["plan", str(run_config(plugins=[{"grokfast": options}], trainer=trainer))]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for line in lines:
        assert line in told


@pytest.mark.parametrize("options", [{}, {"filter": "ma", "window": 2, "exclude": ["lm_head"]}])
def test_the_config_that_a_run_keeps_repeats_it(run_longline, capsys, options):
    outcome = run_longline(plugins=[{"grokfast": options}], trainer={"max_steps": 2})
    kept = yaml.safe_load((outcome.output_dir / "config.yaml").read_text())["plugins"]
    assert "alpha" in str(kept)
    assert run_cli(["check", str(outcome.output_dir / "config.yaml")]) == 0, capsys.readouterr().err
