"""What is added to gradients in real runs, compared with the paper's own code written down again here."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from longline import Plugin, PluginConfig, hookimpl
from longline.plugins import LoadedPlugin
from longline_grokfast import filters, weights
from longline_grokfast.config import GrokfastConfig
from longline_grokfast.plugin import GrokfastPlugin


class Seen(Plugin):
    """Remembers the gradients of two weights, before clipping or after it."""

    NAMES = ("lm_head.weight", "model.layers.1.mlp.up_proj.weight")

    def __init__(self, before_clipping=False):
        super().__init__(PluginConfig())
        self.before_clipping = before_clipping
        self.gradients = {name: [] for name in self.NAMES}
        self.norms = []

    def look(self, trainer):
        named = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
        self.norms.append(torch.cat([gradient.flatten() for gradient in named.values()]).norm().item())
        for name, seen in self.gradients.items():
            seen.append(named[name].clone() if name in named else None)

    @hookimpl
    def pre_gradient_clip(self, trainer):
        if self.before_clipping:
            self.look(trainer)

    @hookimpl
    def pre_optimizer_step(self, trainer):
        if not self.before_clipping:
            self.look(trainer)


def published_ema(gradients, alpha=0.98, lamb=2.0):
    average, made = gradients[0], []
    for gradient in gradients:
        average = average * alpha + gradient * (1 - alpha)
        made.append(gradient + average * lamb)
    return made


def published_ma(gradients, window_size=100, lamb=5.0, filter_type="mean", warmup=True):
    kept, made = deque(maxlen=window_size), []
    for gradient in gradients:
        kept.append(gradient)
        if not warmup or len(kept) == window_size:
            average = sum(kept) / (len(kept) if filter_type == "mean" else 1)
            made.append(gradient + average * lamb)
        else:
            made.append(gradient)
    return made


KINDS = [
    ({}, published_ema, {}),
    ({"alpha": 0.5, "lamb": 0.3}, published_ema, {"alpha": 0.5, "lamb": 0.3}),
    ({"filter": "ma", "window": 6}, published_ma, {"window_size": 6}),
    (
        {"filter": "ma", "window": 4, "lamb": 2, "reduce": "sum"},
        published_ma,
        {"window_size": 4, "lamb": 2, "filter_type": "sum"},
    ),
    ({"filter": "ma", "window": 100, "warmup": False}, published_ma, {"warmup": False}),
]


@pytest.mark.parametrize(("options", "published", "given"), KINDS)
@pytest.mark.parametrize("place", ["after_clipping", "before_clipping"])
def test_20_steps_are_those_of_the_published_code(run_longline, options, published, given, place):
    before, after = (LoadedPlugin.of(Seen(place == "before_clipping"), name) for name in ("before", "after"))
    plugin = GrokfastPlugin(GrokfastConfig(**options, place=place))
    run_longline(
        plugins=[before, plugin, after],
        trainer={"max_steps": 20, "max_grad_norm": 0.5, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
    )
    for name in Seen.NAMES:
        found, expected = after.instance.gradients[name], published(before.instance.gradients[name], **given)
        assert len(found) == 20
        assert not torch.allclose(found[-1], before.instance.gradients[name][-1])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_where_the_filter_stands_towards_clipping(run_longline, tmp_path):
    """After it, averages are of clipped gradients and the sum is longer; before it, the sum is clipped, and its norm is told."""
    norms = {}
    for place in ("after_clipping", "before_clipping"):
        whole, clipped, used = (
            LoadedPlugin.of(Seen(before), name) for before, name in ((True, "a"), (False, "b"), (False, "c"))
        )
        plugin = GrokfastPlugin(GrokfastConfig(place=place))
        order = [plugin, whole, clipped] if place == "before_clipping" else [whole, clipped, plugin]
        trainer = {"max_steps": 4, "max_grad_norm": 0.01}
        outcome = run_longline(plugins=[*order, used], trainer=trainer, output_dir=str(tmp_path / place))
        norms[place] = (whole.instance.norms, clipped.instance.norms, used.instance.norms)
        told = [event["grad_norm"] for event in outcome.log if "grad_norm" in event]
        assert told == pytest.approx(whole.instance.norms, rel=1e-4)
        assert clipped.instance.norms == pytest.approx([0.01] * 4, rel=1e-3)
    assert norms["before_clipping"][2] == pytest.approx([0.01] * 4, rel=1e-3)
    assert norms["after_clipping"][2][0] == pytest.approx(
        0.03, rel=1e-3
    )  # the first gradient is its own average, and lamb is 2
    assert norms["before_clipping"][0][0] == pytest.approx(3 * norms["after_clipping"][0][0], rel=1e-4)


class Late(Plugin):
    """Lets one weight train from the third step on."""

    @hookimpl
    def on_step_end(self, run, step):
        if step == 2:
            self.weight.requires_grad_(True)

    @hookimpl
    def on_train_begin(self, trainer):
        self.weight = trainer.model.get_parameter(Seen.NAMES[1]).requires_grad_(False)


@pytest.mark.parametrize(
    ("options", "published", "given"), [KINDS[0], ({"filter": "ma", "window": 2}, published_ma, {"window_size": 2})]
)
def test_a_weight_whose_gradient_comes_late_starts_then(run_longline, options, published, given):
    before, after = LoadedPlugin.of(Seen(), "before"), LoadedPlugin.of(Seen(), "after")
    plugins = [Late(PluginConfig()), before, GrokfastPlugin(GrokfastConfig(**options)), after]
    run_longline(plugins=plugins, trainer={"max_steps": 6, "lr_scheduler_type": "constant"})
    first, late = (before.instance.gradients[name] for name in Seen.NAMES)
    assert [gradient is None for gradient in late] == [True, True, False, False, False, False]
    for name, gradients in ((Seen.NAMES[0], first), (Seen.NAMES[1], late[2:])):
        found = after.instance.gradients[name][-len(gradients) :]
        for one, other in zip(found, published(gradients, **given), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_include_and_exclude_choose_weights_by_name(run_longline):
    plugin = GrokfastPlugin(GrokfastConfig(include=["layers\\.1\\.", "lm_head"], exclude=["norm", "q_proj"]))
    outcome = run_longline(plugins=[plugin], trainer={"max_steps": 1})
    kept = plugin.state()["weights"]
    assert "lm_head.weight" in kept
    assert "model.layers.1.self_attn.k_proj.weight" in kept
    assert not any("layers.0" in name or "norm" in name or "q_proj" in name for name in kept)
    assert outcome.manifest["plan"]["grokfast"].startswith(f"gradients of {len(kept)} of ")


def test_the_average_of_bfloat16_gradients_loses_nothing():
    """In bfloat16 a share of 0.02 of each new gradient is rounded away: the average would not move."""
    slow = filters.Exponential(0.98)
    gradients = [torch.full((4,), value, dtype=torch.bfloat16) for value in (1.0, *[1.25] * 200)]
    average = [slow.take("w", gradient) for gradient in gradients][-1]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full((4,), 1.25 - 0.25 * 0.98**200))


def test_what_a_window_rounds_off_does_not_pile_up():
    """A gradient a million times as long as the others leaves no trace once the ring has gone round."""
    window = filters.Windowed(10, mean=True, warmup=True)
    torch.manual_seed(0)
    gradients = [torch.randn(8) for _ in range(300)]
    gradients[50] *= 1e6
    found = [window.take("w", gradient) for gradient in gradients]
    assert found[8] is None
    torch.testing.assert_close(found[299], torch.stack(gradients[290:]).double().mean(0).float(), rtol=1e-5, atol=1e-6)


class Alone:
    """What an accelerator is of one process whose float16 has a scaler."""

    device = torch.device("cpu")

    def __init__(self, scaler):
        self.scaler = scaler

    def reduce(self, tensor, reduction):
        return tensor


def test_steps_that_float16s_scaler_skips_are_not_taken_in():
    """With torch's own scaler: after a step that overflowed, averages are those of the steps that were made."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    slow, made, skipped = filters.Exponential(0.5), [], 0
    for step in range(6):
        optimizer.zero_grad()
        scaler.scale(model(torch.full((1, 3), float("inf") if step == 2 else 1.0 + step)).sum()).backward()
        scaler.unscale_(optimizer)
        held = list(weights.gradients(model, GrokfastConfig()))
        if weights.overflown(held, Alone(scaler)):
            skipped += 1
        else:
            made.append(held[0][1].clone())
            filters.amplify(held, slow, 2.0)
        before = model.weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(before, model.weight) == (step == 2)
    assert skipped == 1
    expected = published_ema(made, 0.5, 2.0)[-1]
    torch.testing.assert_close(model.weight.grad, expected)
