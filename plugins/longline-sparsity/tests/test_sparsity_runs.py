"""Pruned models, trained for real: their zeros are there after every step, whatever the optimizer, and in what is saved."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from longline import Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline.errors import LonglineError
from longline_sparsity import masks
from longline_sparsity.config import SparsityConfig
from longline_sparsity.plugin import SparsityPlugin


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def assert_zeros_kept(before, after, where="_proj"):
    """The zeros of pruned weights are zeros, bit for bit, and all that is not zero was trained."""
    for name in (name for name in before if where in name):
        zeros = before[name] == 0
        assert 0.3 < zeros.float().mean() < 0.7
        assert not after[name][zeros].view(torch.int32).any(), name
        assert (after[name] == 0).sum() == zeros.sum()
        assert not torch.equal(after[name], before[name])


class Watch(Plugin):
    """Counts the zeros of pruned weights, and of their gradients, at every step."""

    def __init__(self):
        super().__init__(PluginConfig())
        self.weights, self.gradients = [], []

    @staticmethod
    def share(tensors):
        return sum(int((tensor == 0).sum()) for tensor in tensors) / sum(tensor.numel() for tensor in tensors)

    @hookimpl
    def pre_optimizer_step(self, trainer):
        pruned = [weight for name, weight in trainer.model.named_parameters() if "_proj" in name]
        self.gradients.append(self.share([weight.grad for weight in pruned]))

    @hookimpl
    def post_optimizer_step(self, trainer):
        self.weights.append(self.share([weight for name, weight in trainer.model.named_parameters() if "_proj" in name]))


OPTIMIZERS = {
    "adamw": {"weight_decay": 0.1},
    "adafactor": {"optim": "adafactor"},
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 0.1, "learning_rate": 0.1},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["2:4", "unstructured", "block16"])
def test_50_steps_keep_every_zero(run_longline, pruned, optimizer, kind):
    folder, watch = pruned(kind), Watch()
    outcome = run_longline(
        model={"path": str(folder)}, trainer={"max_steps": 50, **OPTIMIZERS[optimizer]}, plugins=["sparsity", watch]
    )
    before = weights_of(folder)
    assert_zeros_kept(before, weights_of(outcome.output_dir / "model"))
    share = Watch.share([weight for name, weight in before.items() if "_proj" in name])
    assert watch.weights == pytest.approx([share] * 50)
    assert min(watch.gradients) >= share  # behind a block of zeros there are gradients that are zero by themselves
    if kind == "2:4":
        assert watch.gradients == pytest.approx([share] * 50, abs=1e-3)
    logged = [event["sparsity/zeros"] for event in outcome.log if "sparsity/zeros" in event]
    assert logged == pytest.approx([share] * 50)
    assert outcome.manifest["plan"]["sparsity"] == f"keeps {share:.2%} zeros in 14 tensors, {kind}"
    found = weights_of(outcome.output_dir / "model")
    assert all(masks.has(found[name] != 0, kind) for name in found if "_proj" in name)


def test_without_the_plugin_the_zeros_are_lost(run_longline, pruned):
    folder = pruned()
    outcome = run_longline(model={"path": str(folder)}, trainer={"max_steps": 2})
    with pytest.raises(AssertionError):
        assert_zeros_kept(weights_of(folder), weights_of(outcome.output_dir / "model"))


def test_a_step_that_fills_zeros_is_undone(run_longline, pruned):
    """As an optimizer does that mixes the numbers of a matrix, or another plugin."""

    class Fills(Plugin):
        @hookimpl
        def pre_optimizer_step(self, trainer):
            for weight in trainer.model.parameters():
                weight.grad.add_(0.1)

        @hookimpl
        def pre_save(self, model):
            for name, weight in model.named_parameters():
                if "q_proj" in name:
                    weight.detach().add_(1)

    folder = pruned()
    plugins = [Fills(PluginConfig()), SparsityPlugin(SparsityConfig())]
    outcome = run_longline(model={"path": str(folder)}, trainer={"max_steps": 3}, plugins=plugins)
    assert_zeros_kept(weights_of(folder), weights_of(outcome.output_dir / "model"))


def test_resumed_equals_uninterrupted(assert_resume_equal, pruned):
    assert_resume_equal(SparsityPlugin, model={"path": str(pruned())})


@pytest.mark.parametrize("parallel", [{"fsdp": True}, {}], ids=["fsdp2", "ddp"])
def test_two_ranks_keep_every_zero_and_equal_one_process(run_longline, run_process, pruned, tmp_path, parallel):
    folder, trainer = pruned(), {"max_steps": 4, "per_device_train_batch_size": 4}
    given = {"model": {"path": str(folder)}, "plugins": ["sparsity"]}
    one = run_longline(**given, trainer=trainer, output_dir=str(tmp_path / "one"))
    halved = {**trainer, "per_device_train_batch_size": 2, **parallel}
    two = run_process(ranks=2, **given, trainer=halved, output_dir=str(tmp_path / "two"))
    assert two.code == 0, two.text
    expected, found = weights_of(one.output_dir / "model"), weights_of(two.output_dir / "model")
    assert_zeros_kept(weights_of(folder), found)
    assert all(torch.allclose(found[name], weight, rtol=1e-3, atol=2e-5) for name, weight in expected.items())
    shares = [[event["sparsity/zeros"] for event in run.log if "sparsity/zeros" in event] for run in (one, two)]
    assert shares[1] == shares[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "no weight of the model has 5% zeros: it is not pruned"),
        ({"targets": ["q_proj"]}, r"'q_proj': no zeros to keep in model\.layers\.0\.self_attn\.q_proj\.weight and 1 more"),
        ({"targets": ["re:.*1.mlp.up_proj"]}, r"no zeros to keep in model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"targets": ["Linear"]}, "'Linear': no zeros to keep in .* and 14 more"),
        ({"targets": ["lm_head"], "ignore": ["Linear"]}, "'lm_head': no zeros to keep in what ignore leaves of it"),
        ({"targets": ["q_prj"]}, r"'q_prj' is none of the model's matrices[\s\S]*did you mean 'q_proj'"),
    ],
)
def test_a_model_without_zeros_is_refused(run_longline, options, text):
    with pytest.raises(LonglineError, match=text):
        run_longline(plugins=[SparsityPlugin(SparsityConfig(**options))])


@pytest.mark.parametrize(
    ("kind", "pattern", "text"),
    [
        ("unstructured", "2:4", r"are not 2:4: unstructured, \d\d\.\d% zeros[\s\S]*pattern: unstructured, or auto"),
        ("2:4", "block16", "are not block16: 2:4, 50.0% zeros"),
        ("block16", "1:4", "are not 1:4: block16"),
    ],
)
def test_zeros_of_another_pattern_are_refused(run_longline, pruned, kind, pattern, text):
    with pytest.raises(LonglineError, match=text):
        run_longline(model={"path": str(pruned(kind))}, plugins=[SparsityPlugin(SparsityConfig(pattern=pattern))])


def test_targets_choose_whose_zeros_are_kept(run_longline, pruned):
    folder = pruned()
    options = {"targets": ["re:.*self_attn\\..*", "down_proj"], "ignore": ["o_proj"]}
    outcome = run_longline(model={"path": str(folder)}, trainer={"max_steps": 2}, plugins=[{"sparsity": options}])
    assert outcome.manifest["plan"]["sparsity"].startswith("keeps 50.00% zeros in 8 tensors")
    before, after = weights_of(folder), weights_of(outcome.output_dir / "model")
    for kept in ("q_proj", "v_proj", "down_proj"):
        assert_zeros_kept(before, after, kept)
    assert (after["model.layers.0.self_attn.o_proj.weight"] == 0).sum() == 0


def test_what_has_no_zeros_to_keep_is_refused_before_a_run(run_config, capsys):
    adapter = {"type": "lora", "r": 2}
    assert run_cli(["check", str(run_config(plugins=["sparsity"], adapter=adapter))]) == 3
    assert "adapter: sparsity: not applied: an adapter's product has no zeros" in capsys.readouterr().err


def test_the_plan_says_which_zeros_are_kept(run_config, capsys):
    options = {"targets": ["Linear"], "ignore": ["lm_head"], "pattern": "2:4"}
    assert run_cli(["plan", str(run_config(plugins=[{"sparsity": options}]))]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "keeps the zeros that the model comes with in Linear, not in lm_head, which must be 2:4: masks their gradients" in told
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pattern": "4:2"}, "4:2 leaves no zeros"),
        ({"pattern": "half"}, "'half' is none of auto, unstructured"),
        ({"targets": ["re:("]}, "is no regular expression"),
        ({"targets": [""]}, "an empty name"),
        ({"least": 0}, "greater than 0"),
        ({"recipy": "x.yaml"}, "Extra inputs"),
    ],
)
def test_bad_values_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        SparsityConfig(**options)
