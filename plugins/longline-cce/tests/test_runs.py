"""Whole runs with the plugin beside the same runs without: the same losses, a table, and refusals before training."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from longline import Plugin, hookimpl
from longline.cli import run_cli
from longline.errors import PluginError
from longline.testing import HookRecorder, assert_import_is_light, tiny_tokenizer, zoo
from longline_cce.config import CceConfig
from longline_cce.plugin import CcePlugin

EVALUATED = {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 2}
METRICS = {"loss", "grad_norm", "eval_loss", "num_tokens"}

RUNS = {
    "full": {},
    "accumulated": {"trainer": {"gradient_accumulation_steps": 3}},
    "packed": {"data": {"packing": True}},
    "lora": {"adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}},
    "lora on the head": {"adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj", "lm_head"]}},
    "head saved": {"adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}},
    "checkpointed": {"trainer": {"gradient_checkpointing": True}},
    "new tokens": {
        "adapter": {"type": "lora", "r": 4, "target_modules": ["q_proj"]},
        "model": {"tokenizer": {"add_tokens": ["<new>"]}},
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_losses_of_the_plain_one(name, run_longline, chat_rows, tmp_path):
    options = {**RUNS[name], "data": {"eval": [{"path": str(chat_rows), "format": "chat"}], **RUNS[name].get("data", {})}}
    options["trainer"] = {**EVALUATED, **options.get("trainer", {})}
    plain = run_longline(**options, output_dir=str(tmp_path / "plain"))
    ours = run_longline(plugins=[{"cce": {"chunk_tokens": 7}}], **options, output_dir=str(tmp_path / "ours"))
    assert [event["step"] for event in ours.log] == [event["step"] for event in plain.log]
    for expected, found in zip(plain.log, ours.log, strict=True):
        assert expected.keys() == found.keys()
        for metric in expected.keys() & METRICS:
            assert found[metric] == pytest.approx(expected[metric], rel=2e-4), (metric, expected["step"])
    assert sum("eval_loss" in event for event in ours.log) >= 1


def test_bfloat16_is_off_by_its_rounding_alone(run_longline, tmp_path):
    for trainer, model in (({"bf16": True}, {}), ({}, {"dtype": "bfloat16"})):
        options = {"trainer": trainer, "model": model, "overwrite": True}
        plain = run_longline(**options, output_dir=str(tmp_path / "plain"))
        ours = run_longline(plugins=["cce"], **options, output_dir=str(tmp_path / "ours"))
        expected, found = ([event["loss"] for event in run.log if "loss" in event] for run in (plain, ours))
        assert found == pytest.approx(expected, rel=5e-3)


def zoo_folder(folder, model_type, **settings):
    """A model of the zoo with a tokenizer, as a folder that a config can name."""
    tokenizer = tiny_tokenizer()
    model = zoo.build(model_type, vocab_size=len(tokenizer), **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model_type", "settings", "seen"),
    [
        ("gemma2", {"final_logit_softcapping": 3.0}, {"softcapping": "3.0", "scaling": "none"}),
        ("cohere", {"logit_scale": 0.25}, {"softcapping": "none", "scaling": "0.25"}),
        ("granite", {"logits_scaling": 4.0}, {"softcapping": "none", "scaling": "0.25"}),
        ("mixtral", {"output_router_logits": True}, {"softcapping": "none", "scaling": "none"}),
    ],
)
def test_softcapping_scaling_and_the_balance_of_experts(model_type, settings, seen, run_longline, tmp_path, capsys):
    model = {"path": str(zoo_folder(tmp_path / "model", model_type, **settings)), "attn_implementation": "eager"}
    plain = run_longline(model=model, output_dir=str(tmp_path / "plain"))
    capsys.readouterr()
    ours = run_longline(plugins=["cce"], model=model, output_dir=str(tmp_path / "ours"))
    expected, found = ([event["loss"] for event in run.log if "loss" in event] for run in (plain, ours))
    assert found == pytest.approx(expected, rel=1e-4)
    lines = capsys.readouterr().out.splitlines()
    for what, value in seen.items():
        line = next(line for line in lines if line.strip().startswith(what))
        assert f" {value} " in line


class Table(Plugin):
    tables: list

    @hookimpl
    def on_run_start(self):
        self.tables = []

    @hookimpl
    def on_table(self, table):
        self.tables.append(table)


def test_the_table_says_what_is_applied_and_why(run_longline, capsys):
    seen = Table(CceConfig())
    run_longline(plugins=["cce", seen])
    (table,) = seen.tables
    assert (table.name, table.columns, table.step) == ("cce", ("what", "asked", "applied", "why"), 0)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["loss"] == ("auto", "chunked", "its kernels need CUDA, and this run is on cpu")
    assert rows["filter_eps"] == ("default", "no", "not of impl: chunked")
    assert rows["head"][2].startswith("(")
    assert rows["chunk_tokens"][1].isdigit()
    assert "allowed" in rows["trial"][2]
    out = capsys.readouterr().out
    assert out.count("cce, the loss at the output head") == 1
    assert "its kernels need CUDA, and this run is on cpu" in out


class Metrics(Plugin):
    """Makes the evaluation want logits, as whoever computes metrics does."""

    @hookimpl
    def post_trainer_create(self, trainer):
        self.shapes = []

        def compute(prediction):
            self.shapes.append((prediction.predictions.shape, prediction.label_ids.shape))
            return {"right": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

        trainer.compute_metrics = compute


def test_an_evaluation_that_needs_logits_gets_them(run_longline, chat_rows, tmp_path):
    options = {"trainer": EVALUATED, "data": {"eval": [{"path": str(chat_rows), "format": "chat", "limit": 2}]}}
    evaluated = []
    for name, plugins in (("plain", []), ("ours", ["cce"])):
        metrics = Metrics(CceConfig())
        outcome = run_longline(plugins=[*plugins, metrics], **options, output_dir=str(tmp_path / name))
        event = next(event for event in outcome.log if "eval_loss" in event)
        ((predicted, labels),) = set(metrics.shapes)
        assert predicted[:2] == labels
        assert predicted[2] > 200
        evaluated.append((event["eval_loss"], event["eval_right"]))
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-5)


class Probe(Plugin):
    """Sees the model that the run left."""

    @hookimpl
    def on_train_end(self, trainer):
        self.model = trainer.model


def test_the_model_is_as_it_was_afterwards(run_longline):
    probe = Probe(CceConfig())
    run_longline(plugins=["cce", probe])
    head = probe.model.get_output_embeddings()
    assert not head._forward_hooks
    assert "_loss_function" not in vars(probe.model)
    ids = torch.tensor([[5, 6, 7]])
    assert probe.model(input_ids=ids, labels=ids).logits.shape[:2] == (1, 3)


# --- refusals -------------------------------------------------------------------------------------------------------------------


def refused(run_longline, text, recorder=None, **options):
    recorder = recorder or HookRecorder()
    with pytest.raises(PluginError) as caught:
        run_longline(recorder=recorder, **options)
    assert text in str(caught.value)
    assert "hint: " in str(caught.value)
    assert caught.value.exit_code == 3
    assert not recorder.hooks("on_train_begin")
    return recorder


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    ("options", "more", "where", "text", "hint"),
    [
        (
            {"impl": "cce"},
            {},
            "plugins.cce.impl: ",
            "not applied: impl: cce: its kernels need CUDA, and this run is on cpu",
            "impl: auto takes what fits",
        ),
        (
            {"filter_eps": 1e-4},
            {},
            "plugins.cce.filter_eps: ",
            "not applied: filter_eps is of impl: cce, and impl: auto came to chunked: its kernels need CUDA",
            "remove filter_eps",
        ),
        (
            {},
            {"trainer": {"label_smoothing_factor": 0.1}},
            "trainer.label_smoothing_factor: cce: ",
            "cce and trainer.label_smoothing_factor exclude",
            "trainer.label_smoothing_factor: 0",
        ),
        ({}, {"method": "dpo"}, "method: cce: ", "it computes the cross entropy of sft, and this is dpo", "remove cce"),
    ],
    ids=["impl", "filter_eps", "smoothing", "method"],
)
def test_what_cannot_be_is_refused_before_a_run(
    command, options, more, where, text, hint, run_config, preference_rows, tmp_path, capsys
):
    if "method" in more:
        more = {**more, "data": {"train": [{"path": str(preference_rows)}]}}
    assert run_cli([command, str(run_config(plugins=[{"cce": options}], **more))]) == 3
    line = next(line for line in capsys.readouterr().err.splitlines() if text in line)
    assert where in line
    assert hint in line
    assert not (tmp_path / "run").exists()


def test_on_a_gpu_the_type_of_numbers_is_known_before_a_run(run_config):
    """The plan of another machine: what its check says needs no GPU."""
    from longline.config.loader import load_config
    from longline.plan import Machine, build_plan

    def told(impl, **more):
        config = load_config(run_config(trainer={"use_cpu": None}, **more)).config
        plan = build_plan(config, Machine("cuda", bfloat16=True))
        return [problem.message for problem in CcePlugin(CceConfig(impl=impl)).check(config, plan)]

    assert told("cce") == ["not applied: impl: cce: its kernels take float16 and bfloat16, and hidden states are float32"]
    assert told("cce", model={"dtype": "bfloat16"}) == []
    assert told("auto") == told("chunked") == told("torch_compile") == []


def test_what_another_plugin_asks_of_the_trainer_is_refused_too(run_longline):
    class Smooth(Plugin):
        @hookimpl
        def pre_trainer_args(self, trainer_args):
            trainer_args["label_smoothing_factor"] = 0.1

    recorder = HookRecorder()
    with pytest.raises(PluginError, match=r"trainer.label_smoothing_factor: cce: not applied"):
        run_longline(plugins=["cce", Smooth(CceConfig())], recorder=recorder)
    assert not recorder.hooks("pre_model_load", "pre_data_load")


def test_dora_on_the_head_is_refused(run_longline):
    adapter = {"type": "dora", "target_modules": ["lm_head"]}
    refused(run_longline, "it has Dora, which is no sum of products", plugins=["cce"], adapter=adapter)


class Louder(Plugin):
    """Changes logits behind the model's back."""

    @hookimpl
    def post_model_load(self, model):
        model.lm_head.register_forward_hook(lambda head, given, logits: logits * 1.5)


def test_the_trial_finds_a_head_that_does_more(run_longline):
    text = "not applied: the loss of a few tokens differs: "
    refused(run_longline, text, plugins=[Louder(CceConfig()), CcePlugin(CceConfig())])


class AnotherLoss(Plugin):
    """Answers first, and claims nothing."""

    @hookimpl
    def provide_loss(self):
        return lambda trainer, model, inputs, count: trainer.method_loss(model, inputs, count)


def test_another_loss_in_its_place_is_refused(run_longline):
    plugins = [AnotherLoss(CceConfig()), CcePlugin(CceConfig())]
    refused(run_longline, "not applied: another plugin provides the loss", plugins=plugins)


def test_a_trainer_class_with_a_loss_of_its_own_is_refused(run_longline):
    from longline.trainers.sft import SFTTrainer

    class Own(SFTTrainer):
        def method_loss(self, model, inputs, num_items_in_batch=None):
            return super().method_loss(model, inputs, num_items_in_batch)

    class Gives(Plugin):
        @hookimpl
        def provide_trainer_class(self):
            return Own

    plugins = [Gives(CceConfig()), CcePlugin(CceConfig())]
    refused(run_longline, "the trainer class Own computes a loss of its own", plugins=plugins)


def test_the_loss_is_claimed():
    assert CcePlugin(CceConfig()).claims == frozenset({"loss"})


def test_a_wrong_option_on_the_command_line(run_config, capsys):
    assert run_cli(["check", str(run_config(plugins=[{"cce": {"impl": "fast"}}]))]) == 2
    assert "impl" in capsys.readouterr().err


def test_the_library_is_not_imported_where_it_is_not_used(run_config):
    import subprocess
    import sys

    code = (
        "import sys\nfrom longline.cli import run_cli\n"
        f"code = run_cli(['train', {str(run_config(plugins=['cce'], trainer={'max_steps': 1}))!r}])\n"
        "sys.exit(code or 'cut_cross_entropy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_well_behaved(assert_well_behaved):
    assert_well_behaved(CcePlugin, {"impl": "chunked", "chunk_tokens": 7})


def test_importing_it_imports_no_library():
    assert_import_is_light("longline_cce.plugin", "cut_cross_entropy", "triton")


# --- the choice -----------------------------------------------------------------------------------------------------------------


def test_the_choice_names_each_reason_against_the_kernels():
    from longline_cce.choice import Place, choose
    from longline_cce.heads import Product

    single = Product([(torch.zeros(1, 8), torch.zeros(16, 8))], None, "linear")
    with_bias = Product(single.pairs, torch.zeros(16), "linear with a bias")
    new, old = Place("cuda", torch.bfloat16, (8, 0)), Place("cuda", torch.bfloat16, (7, 5))
    options = CceConfig()
    why = choose(options, with_bias, new).why
    assert why == "cut-cross-entropy takes no bias, and the head is linear with a bias"
    exact = Place("cuda", torch.float32, (8, 0))
    assert "take float16 and bfloat16, and hidden states are float32" in choose(options, single, exact).why
    found = choose(CceConfig(filter_eps=None), single, new)
    assert (found.impl, found.settings) == ("cce", {"filter_eps": None})
    assert "need compute capability 8.0, and this device has 7.5" in choose(options, single, old).why


def test_a_manifest_names_the_plugin_and_the_arithmetic(run_longline):
    outcome = run_longline(plugins=["cce"], trainer={"max_steps": 1})
    assert outcome.manifest["plan"]["loss"] == "at the output head, chunked"
    assert json.loads((outcome.output_dir / "run.json").read_text())["plugins"][0]["name"] == "cce"
    assert yaml.safe_load((outcome.output_dir / "config.yaml").read_text())["plugins"]
