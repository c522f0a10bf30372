"""The stages are the same for every command: hooks that shape tokenizer, data or model do so wherever one is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longline import Plugin, PluginConfig, Problem, hookimpl, stages
from longline.cli import run_cli
from longline.config.loader import load_config
from longline.errors import PluginError
from longline.plugins import LoadedPlugin
from longline.run import open_run


@pytest.fixture
def shaper(tmp_path, monkeypatch):
    """An installed plugin of another distribution, `shaper`: it changes tokenizer, model and what is saved."""
    site = tmp_path / "site"
    info = site / "longline_shaper-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-shaper\nVersion: 1.0\nSummary: shapes\n")
    (info / "entry_points.txt").write_text("[longline]\nshaper = longline_shaper:Shaper\n")
    (site / "longline_shaper.py").write_text(SHAPER)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("longline_shaper", None)


SHAPER = '''
from longline import Plugin, hookimpl

class Shaper(Plugin):
    """Adds two words to the template, and halves what the model's last norm gives."""

    @hookimpl
    def post_tokenizer_load(self, tokenizer):
        template = tokenizer.chat_template.replace("message['role'] + '", "message['role'] + ' on board")
        tokenizer.chat_template = template.replace("assistant", "assistant on board")

    @hookimpl
    def post_model_load(self, model):
        model.model.norm.register_forward_hook(lambda module, args, output: output * 0.5)

    @hookimpl
    def pre_save(self, run, model):
        model.config.caught_by = run.command

    @hookimpl
    def post_save(self, path):
        (path / "fish.txt").write_text("one")
'''


def evaluated(*arguments: str, capsys) -> dict[str, float]:
    capsys.readouterr()
    assert run_cli(["evaluate", *arguments]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:] if line.startswith("  ")]
    return {words[0]: float(words[1]) for words in lines if len(words) == 2 and words[0].startswith("eval")}


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
def test_evaluate_says_what_the_run_said(shaper, run_longline, capsys, adapter):
    given = {"data": {"eval_fraction": 0.25}, "plugins": ["shaper"], **({"adapter": adapter} if adapter else {})}
    outcome = run_longline(**given, trainer={"max_steps": 3, "learning_rate": 0.01})
    logged = outcome.manifest["summary"]["metrics"]["eval_loss"]
    assert evaluated(str(outcome.output_dir), capsys=capsys)["eval_loss"] == pytest.approx(logged, rel=1e-4)
    without = evaluated(str(outcome.output_dir), "--set", "plugins=[]", capsys=capsys)["eval_loss"]
    assert abs(without - logged) > 0.01


def test_preprocess_and_preview_see_the_tokenizer_that_training_sees(shaper, run_longline, run_config, capsys):
    config = run_config(plugins=["shaper"], trainer={"max_steps": 1})
    assert run_cli(["preprocess", str(config)]) == 0
    first = capsys.readouterr().out
    assert "kept in" in first
    run_longline(config)
    assert f"taken from {first.rpartition('kept in ')[2].strip()}" in capsys.readouterr().out
    assert run_cli(["preview", str(config), "--rows", "1"]) == 0
    assert "assistant on board" in capsys.readouterr().out


def test_what_is_saved_can_be_changed_in_training_and_in_a_merge(shaper, run_longline, capsys):
    outcome = run_longline(plugins=["shaper"], adapter={"type": "lora", "r": 4}, trainer={"max_steps": 1})
    assert (outcome.output_dir / "model" / "fish.txt").read_text() == "one"
    assert run_cli(["merge", str(outcome.output_dir)]) == 0
    merged = outcome.output_dir / "merged"
    assert (merged / "fish.txt").read_text() == "one"
    assert json.loads((merged / "config.json").read_text())["caught_by"] == "merge"


def test_a_post_save_that_fails_leaves_no_half_model(run_longline, run_config):
    class Broken(Plugin):
        @hookimpl
        def post_save(self, path):
            assert (path / "model.safetensors").is_file()
            raise ValueError("no room in the boat")

    config = run_config(trainer={"max_steps": 1})
    with pytest.raises(PluginError, match="'broken' stopped the run in post_save: ValueError: no room in the boat"):
        run_longline(config, plugins=[Broken(PluginConfig())])
    assert not (config.parent / "run" / "model").exists()


# --- data that plugins change ---------------------------------------------------------------------------------------------------


class Short(Plugin):
    """Keeps rows of at most `limit` tokens, and gives others' labels away."""

    def __init__(self, limit: int) -> None:
        super().__init__(PluginConfig())
        self.limit, self.splits = limit, []

    @hookimpl
    def provide_dataset(self, dataset, split):
        self.splits.append((split, len(dataset)))
        limit = self.limit
        return dataset.filter(lambda row: row["length"] <= limit)


def test_a_plugin_can_put_other_data_in_a_splits_place(run_longline, capsys):
    plugin = Short(52)
    outcome = run_longline(plugins=[plugin], data={"eval_fraction": 0.25}, trainer={"max_steps": -1, "num_train_epochs": 1})
    assert plugin.splits == [("train", 24), ("eval", 8)]
    plan = outcome.manifest["plan"]
    kept = int(plan["train data"].split()[0])
    assert 0 < kept < 24
    assert outcome.manifest["summary"]["steps"] == -(-kept // 2)
    assert plan["steps"] == str(-(-kept // 2))
    assert "train data" in capsys.readouterr().out


def test_it_is_kept_in_the_cache_under_a_key_that_it_extends(run_longline, run_config):
    entries = []

    class Look(Plugin):
        @hookimpl
        def post_data_load(self, data):
            entries.append((data.train._fingerprint, [Path(file["filename"]) for file in data.train.cache_files]))

    config = run_config(trainer={"max_steps": 1})
    for _ in range(2):
        run_longline(config, plugins=[Short(52), Look(PluginConfig())], overwrite=True)
    run_longline(config, plugins=[Short(50), Look(PluginConfig())], overwrite=True)
    assert entries[0] == entries[1]
    assert entries[2] != entries[0]
    assert all(file.is_file() and file.parent.parent == config.parent / "cache" for _, files in entries for file in files)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.remove_columns("labels"), "train data that lacks the column labels"),
        (lambda data: data.select([]), "train data that has no rows"),
    ],
)
def test_data_that_cannot_be_trained_on_name_the_plugin(run_longline, change, reason):
    class Wrong(Plugin):
        @hookimpl
        def provide_dataset(self, dataset):
            return change(dataset)

    with pytest.raises(PluginError, match=f"'wrong' answered provide_dataset with {reason}"):
        run_longline(plugins=[Wrong(PluginConfig())])


# --- every rank -----------------------------------------------------------------------------------------------------------------

RANKS = r"""
import sys
from longline import Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train

class Mixed(Plugin):
    state_ranks = "all"
    steps = 0
    def __init__(self): super().__init__(PluginConfig())
    @hookimpl
    def post_optimizer_step(self, run, step): self.steps += 1 + run.rank
    @hookimpl
    def on_train_begin(self, run):
        sys.stdout.write(f"began {run.rank} {self.steps}\n"); sys.stdout.flush()
        if run.rank: raise ValueError("a leak on one rank")
    def state(self): return {"steps": self.steps}
    def restore(self, state): self.steps = state["steps"]

resume = sys.argv[2] if len(sys.argv) > 2 else None
sys.exit(train(load_config(sys.argv[1]), resume=resume, plugins=[LoadedPlugin.of(Mixed(), "mixed")]).exit_code)
"""


def two_ranks(script: Path, *arguments: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        str(script),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_states_and_failures_of_other_ranks(run_config, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    config = run_config(trainer={"max_steps": 2, "save_strategy": "steps", "save_steps": 2})
    done = two_ranks(script, str(config))
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "run" / "checkpoint-2" / "plugins"
    states = {path.name: torch.load(path, weights_only=True)["steps"] for path in sorted(kept.iterdir())}
    assert states == {"mixed.rank0.pt": 2, "mixed.rank1.pt": 4}
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    cost = manifest["hooks"]["plugins"]["mixed"]["on_train_begin"]
    assert cost["failures"] == 1
    assert cost["last_error"] == "ValueError: a leak on one rank (rank 1)"
    assert "a plugin failed on rank 1: mixed failed 1 times in on_train_begin" in done.stdout
    longer = run_config(trainer={"max_steps": 3})
    done = two_ranks(script, str(longer), "last")
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("began")) == ["began 0 2", "began 1 4"]
    (kept / "mixed.rank1.pt").unlink()
    refused = two_ranks(script, str(longer), "last")
    assert refused.returncode != 0
    assert "kept its state on 1 ranks, and rank 1 has none" in refused.stderr


# --- files that a plugin makes --------------------------------------------------------------------------------------------------

MAKER = """
import json
from pathlib import Path
from longline import Plugin, hookimpl

class Maker(Plugin):
    @hookimpl
    def pre_data_load(self, run):
        rows = [{"prompt": f"fish {n}", "completion": " yes"} for n in range(8)]
        Path(run.config.data.train[0].path).write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.fixture
def maker(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "longline_maker-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-maker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longline]\nmaker = longline_maker:Maker\n")
    (site / "longline_maker.py").write_text(MAKER)
    monkeypatch.syspath_prepend(str(site))
    yield tmp_path / "made.jsonl"
    sys.modules.pop("longline_maker", None)


def test_files_may_be_made_before_data_are_read(maker, run_longline, run_config, capsys):
    given = {"data": {"train": [{"path": str(maker)}]}, "trainer": {"max_steps": 1}}
    config = run_config(**given, plugins=["maker"])
    assert run_cli(["check", str(config)]) == 0
    assert run_longline(config).result.status == "completed"
    maker.unlink()
    assert run_cli(["check", str(run_config(**given))]) == 2
    assert run_cli(["check", str(run_config(**given, plugins=["profiling"]))]) == 2
    assert capsys.readouterr().err.count(f"no such file: {maker}") == 2


TEACHER = r"""
import sys
import torch
from longline import Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train

class Teacher(Plugin):
    def __init__(self): super().__init__(PluginConfig())
    @hookimpl
    def post_model_load(self, run, model, role):
        if role == "policy":
            self.teacher = run.load_model(run.config.model.path, role="teacher")
            ids = torch.arange(3, 19).reshape(2, 8)
            with torch.no_grad(): self.inputs, self.alone = ids, self.teacher(input_ids=ids).logits
    @hookimpl
    def on_train_begin(self, run, trainer):
        late = run.load_model(run.config.model.path, role="late")
        kinds = {type(parameter).__name__ for parameter in self.teacher.parameters()}
        with torch.no_grad(): same = [torch.allclose(model(input_ids=self.inputs).logits, self.alone, atol=1e-5)
                                      for model in (self.teacher, late)]
        sys.stdout.write(f"teacher {run.rank} {sorted(kinds)} {same}\n")
        sys.stdout.flush()

plugins = [LoadedPlugin.of(Teacher(), "teacher", "raise")]
sys.exit(train(load_config(sys.argv[1]), plugins=plugins).exit_code)
"""


@pytest.mark.parametrize(("fsdp", "kind"), [(False, "Parameter"), (True, "DTensor")], ids=["ddp", "fsdp"])
def test_a_further_model_is_placed_and_sharded_as_a_reference_is(run_config, tmp_path, fsdp, kind):
    script = tmp_path / "teacher.py"
    script.write_text(TEACHER)
    done = two_ranks(script, str(run_config(trainer={"max_steps": 1, "fsdp": fsdp})))
    assert done.returncode == 0, done.stderr
    told = sorted(line for line in done.stdout.splitlines() if line.startswith("teacher"))
    assert told == [f"teacher {rank} ['{kind}'] [True, True]" for rank in (0, 1)]


class NeedsAKey(Plugin):
    """Changes what the trainer is told, and refuses to train without a key, as a tracker does."""

    @hookimpl
    def pre_trainer_args(self, trainer_args):
        trainer_args["seed"] = 7

    def check(self, config, plan):
        yield Problem("there is no key")


@pytest.mark.parametrize("command", ["preview", "preprocess", "evaluate", "generate", "merge"])
def test_what_a_run_needs_is_not_asked_for_elsewhere(run_config, command):
    """check is about training, also where a plugin changed the trainer's arguments: a tracker's key is none of a preview's."""
    loaded = load_config(run_config())
    plugins = [LoadedPlugin.of(NeedsAKey(PluginConfig()))]
    state = open_run(loaded, command, plugins)
    assert stages.trainer_arguments(state)["seed"] == state.plan.seed == 7
    with pytest.raises(PluginError, match="there is no key"):
        open_run(loaded, "train", plugins)
