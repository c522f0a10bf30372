"""Two real ranks over gloo: the same losses as one process, every event once, a model for one process, signals and failures.

A launch costs seconds, so each one serves several tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from longline.cli import run_cli
from longline.testing import chat, merged, preferences, tiny_tokenizer, zoo

if TYPE_CHECKING:
    from collections.abc import Callable

LONGLINE = [sys.executable, "-m", "longline"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text())

    def column(self, name: str) -> list[float]:
        return [event[name] for event in self.log if name in event]


class Place:
    """A folder with rows and a config, shared by the launches of this file."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.rows = folder / "rows.jsonl"
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in chat(32)))

    def config(self, name: str, **overrides: Any) -> Path:
        """A config that makes 8 steps of 4 rows in all: 1 rank takes 4 at a time, 2 ranks 2 each."""
        base: dict[str, Any] = {
            "model": {"path": str(self.model), "dtype": "float32"},
            "data": {
                "train": [{"path": str(self.rows), "format": "chat"}],
                "eval": [{"path": str(self.rows), "format": "chat", "limit": 8}],
                "max_length": 128,
                "cache_dir": str(self.folder / "cache"),
            },
            "trainer": {
                "max_steps": 8,
                "per_device_train_batch_size": 2,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "eval_strategy": "steps",
                "eval_steps": 4,
                "save_strategy": "steps",
                "save_steps": 4,
                "use_cpu": True,
            },
            "output_dir": str(self.folder / name),
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(base, overrides)))
        return path

    def launch(self, name: str, *arguments: str, **overrides: Any) -> Ended:
        """`longline train --nproc 2`."""
        command = [*LONGLINE, "train", str(self.config(name, **overrides)), "--nproc", "2", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=ENVIRONMENT, check=False)
        return Ended(done.returncode, done.stdout, done.stderr, self.folder / name)

    def alone(self, name: str, **overrides: Any) -> Ended:
        """The same in this process, with the same rows in each step."""
        config = self.config(name, **merged(overrides, {"trainer": {"per_device_train_batch_size": 4}}))
        return Ended(run_cli(["train", str(config)]), "", "", self.folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model_dir) -> Place:
    return Place(tmp_path_factory.mktemp("ranks"), tiny_model_dir)


@pytest.fixture(scope="module")
def one(place) -> Ended:
    return place.alone("one")


@pytest.fixture(scope="module")
def ddp(place) -> Ended:
    return place.launch("ddp")


@pytest.fixture(scope="module")
def fsdp(place) -> Ended:
    return place.launch("fsdp", trainer={"fsdp": True})


def quiet(ended: Ended) -> bool:
    """Nothing of torchrun's own account of a failure, and no traceback."""
    return not any(word in ended.err for word in ("Traceback", "ChildFailedError", "FAILED", "exitcode", "elastic"))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def logged(folder: Path, step: int) -> bool:
    return (folder / "log.jsonl").is_file() and f'"step": {step},' in (folder / "log.jsonl").read_text()


def children(pid: int) -> list[int]:
    return sorted(child.pid for child in psutil.Process(pid).children())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_have_the_losses_of_one(kind, one, request):
    two = request.getfixturevalue(kind)
    assert (one.code, two.code) == (0, 0), two.err
    assert len(one.column("loss")) == 8
    assert two.column("loss") == pytest.approx(one.column("loss"), abs=1e-5)
    assert two.column("eval_loss") == pytest.approx(one.column("eval_loss"), abs=1e-5)
    assert two.column("grad_norm") == pytest.approx(one.column("grad_norm"), rel=1e-3)
    assert two.column("num_tokens") == one.column("num_tokens")
    assert two.manifest["world_size"] == 2


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_events_fire_once(kind, request):
    two = request.getfixturevalue(kind)
    assert [event["step"] for event in two.log if "loss" in event] == list(range(1, 9))
    assert two.manifest["hooks"]["core"]["longline:log"]["on_log"]["calls"] == len(two.log) == 8 + 2 + 1
    for line in ("longline run ", "step 3/8 ", "completed: 8 steps", "hook account"):
        assert two.out.count(line) == 1, line
    assert two.out.count("saved ") == 2
    assert quiet(two)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_saved_model_loads_in_one_process_and_is_the_same(kind, one, request):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    two = request.getfixturevalue(kind)
    assert AutoTokenizer.from_pretrained(two.folder / "model").chat_template
    model = AutoModelForCausalLM.from_pretrained(two.folder / "model", dtype=torch.float32)
    expected = load_file(one.folder / "model" / "model.safetensors")
    state = model.state_dict()
    assert expected.keys() <= state.keys()
    assert all(torch.allclose(state[name], tensor, atol=2e-4) for name, tensor in expected.items())
    start = load_file(Path(one.manifest["model"]) / "model.safetensors")
    moved = max(float((start[name] - tensor).abs().max()) for name, tensor in expected.items())
    assert moved > 2e-3, "training changed less than what the comparison allows"
    assert sorted(path.name for path in two.folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]


def preference_options(place: Place, **trainer: Any) -> dict[str, Any]:
    path = place.folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(32)))
    own = {"max_steps": 3, "eval_steps": 3, "save_steps": 3, **trainer}
    sources = {"train": [{"path": str(path)}], "eval": [{"path": str(path), "limit": 8}]}
    return {"method": "dpo", "data": sources, "trainer": own, "plugins": {"completions": {"every": 3}}}


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_dpo_on_two_ranks_is_dpo_on_one_and_tells_all_rows(fsdp, place):
    one = place.alone(f"dpo-one-{fsdp}", **preference_options(place))
    two = place.launch(f"dpo-two-{fsdp}", **preference_options(place, **({"fsdp": True} if fsdp else {})))
    assert (one.code, two.code) == (0, 0), two.err
    for name in ("loss", "rewards/margins", "eval_loss"):
        assert two.column(name) == pytest.approx(one.column(name), abs=1e-5), name
    tables = [pq.read_table(ended.folder / "completions" / "step-000003.parquet").to_pylist() for ended in (one, two)]
    first, second = ({(row["step"], row["chosen"]): row["margin"] for row in table} for table in tables)
    assert len(first) == 12
    assert second.keys() == first.keys()
    assert [second[key] for key in first] == pytest.approx(list(first.values()), abs=1e-4)


def test_grpo_on_two_ranks_tells_the_answers_of_both(place):
    path = place.folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"fish {number}", "number": number}) + "\n" for number in range(16)))
    (place.folder / "scores_of_ranks.py").write_text("def number(number, **columns): return number\n")
    trainer = {"max_steps": 2, "num_generations": 2, "max_completion_length": 4, "eval_strategy": "no", "save_strategy": "no"}
    two = place.launch(
        "grpo",
        method="grpo",
        data={"train": [{"path": str(path), "format": "prompts"}], "eval": None},
        trainer={**trainer, "eval_steps": None, "save_steps": None},
        rewards="scores_of_ranks:number",
        plugins={"completions": {"every": 2}},
    )
    assert two.code == 0, two.err
    rows = pq.read_table(two.folder / "completions" / "step-000002.parquet").to_pylist()
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4
    for row in rows:
        assert row["prompt"] == f"fish {row['number']:.0f}"
        assert row["reward"] == row["number"]
    assert len({row["prompt"] for row in rows}) == 4


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_resume(kind, place, request):
    """From the checkpoint in the middle: the losses that follow, and the model, are those of the whole run."""
    whole = request.getfixturevalue(kind)
    losses = whole.column("loss")
    model = load_file(whole.folder / "model" / "model.safetensors")
    extra = {"trainer": {"fsdp": True}} if kind == "fsdp" else {}
    again = place.launch(kind, "--resume", str(whole.folder / "checkpoint-4"), **extra)
    assert again.code == 0, again.err
    assert "step 4/8" not in again.out
    assert again.column("loss") == pytest.approx(losses, abs=1e-6)
    resumed = load_file(again.folder / "model" / "model.safetensors")
    assert all(resumed[name].allclose(tensor, atol=1e-6) for name, tensor in model.items())


def test_another_number_of_processes_goes_on_where_steps_have_as_many_rows(place, ddp, capsys):
    folder = shutil.copytree(ddp.folder, place.folder / "fewer")
    before = {name: (folder / name).read_bytes() for name in ("run.json", "config.yaml", "log.jsonl")}
    half = place.config("fewer", trainer={"max_steps": 10})
    assert run_cli(["train", str(half), "--resume"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "processes: was 2 and is 1: a step had 4 rows and now has 2, so the place in the data is lost" in told
    assert "per_device_train_batch_size: 4 and gradient_accumulation_steps: 1 give it as many" in told
    assert before == {name: (folder / name).read_bytes() for name in before}
    steps = [str(folder / "checkpoint-4"), "--set", "trainer.per_device_train_batch_size=4", "--set", "trainer.max_steps=8"]
    assert run_cli(["train", str(half), "--resume", *steps]) == 0
    assert "processes was 2 and is 1: a step has as many rows as before" in " ".join(capsys.readouterr().out.split())
    assert Ended(0, "", "", folder).column("loss") == pytest.approx(ddp.column("loss"), abs=1e-5)


COMPARING: dict[str, Any] = {"trainer": {"disable_dropout": True, "train_sampling_strategy": None}}
UNEVEN: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("answers", {}),
    "packed": ("answers", {"method": "sft", "data": {"packing": True}}),
    "dpo": ("pairs", COMPARING),
    "orpo": ("pairs", COMPARING),
    "cpo": ("pairs", COMPARING),
    "simpo": ("pairs", COMPARING),
    "reward": ("pairs", COMPARING),
    "kto": ("unpaired", COMPARING),
}
"""What rows a run has, and what it sets."""
EVERY = """
import sys
from longline.config.loader import load_config
from longline.run import train
for path in sys.argv[1:]:
    train(load_config(path))
"""


def uneven(place: Place, name: str, ranks: int) -> Path:
    """A config whose one step is of 8 rows, and whose evaluation is of 5 in batches of 1 on two ranks, of 2 on four: one rank has
    nothing to do in the end. Answers are of 1 or of 60 words, the long ones on some of the ranks alone.
    """
    words = [" fish" * (60 if number % 4 == 0 else 1 + number % 2) for number in range(13)]
    prompts = [f"How many for {number}?" for number in range(13)]
    kind, own = UNEVEN[name]
    makers = {
        "answers": lambda n: {"prompt": prompts[n], "completion": words[n]},
        "unpaired": lambda n: {"prompt": prompts[n], "completion": words[n] + f" {n}", "label": n % 3 > 0},
        "pairs": lambda n: {"prompt": prompts[n], "chosen": words[n], "rejected": f" none of {n}" * (1 + n % 3)},
    }
    sources = {}
    for split, numbers in (("train", range(8)), ("eval", range(8, 13))):
        path = place.folder / f"{kind}-{split}.jsonl"
        path.write_text("".join(json.dumps(makers[kind](number)) + "\n" for number in numbers))
        sources[split] = [{"path": str(path)}]
    size = {"per_device_train_batch_size": 8 // ranks, "per_device_eval_batch_size": max(1, ranks // 2)}
    trainer = {**size, "max_steps": 1, "eval_steps": 1, "save_strategy": "no", "learning_rate": 1e-2}
    given = {"method": name, "data": {**sources, "max_length": 256}, "trainer": trainer}
    return place.config(f"uneven-{ranks}-{name}", **merged(given, own))


@pytest.fixture(scope="module")
def uneven_alone(place) -> dict[str, dict[str, Any]]:
    """By method, all that one process logs of a step and of the evaluation behind it."""
    found = {}
    for method in UNEVEN:
        assert run_cli(["train", str(uneven(place, method, 1))]) == 0
        found[method] = numbers(place.folder / f"uneven-1-{method}")
    return found


def numbers(folder: Path) -> dict[str, float]:
    """The loss, the gradient and the evaluation of a run of one step; speeds left out, and mean logits that are of padding too."""
    events = Ended(0, "", "", folder).log
    training = next(event for event in events if "loss" in event)
    evaluation = next(event for event in events if "eval_loss" in event)
    left_out = ("runtime", "per_second", *(("logits/chosen", "logits/rejected") if "eval_nll_loss" in evaluation else ()))
    own = {name: value for name, value in evaluation.items() if name.startswith("eval_") and not name.endswith(left_out)}
    return {"loss": training["loss"], "grad_norm": training["grad_norm"], **own}


@pytest.mark.parametrize("ranks", [2, 4])
def test_steps_and_evaluations_on_ranks_are_those_of_one_process(ranks, place, uneven_alone):
    """All methods in one launch: a mean that weighs ranks or batches alike, or a row twice, is another number."""
    script = place.folder / "every.py"
    script.write_text(EVERY)
    configs = [str(uneven(place, method, ranks)) for method in UNEVEN]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), str(script)]
    done = subprocess.run([*launch, *configs], capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    for method, alone in uneven_alone.items():
        assert numbers(place.folder / f"uneven-{ranks}-{method}") == pytest.approx(alone, rel=1e-3, abs=2e-5), method


def test_weights_that_a_text_does_not_reach_need_no_gradients(place, tmp_path):
    """A tower for pictures, with all weights trained: a rank that waited for its gradients would fail in the second step."""
    tokenizer = tiny_tokenizer()
    zoo.build("llava", vocab_size=512).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    short = {"max_steps": 3, "save_strategy": "no"}
    given: dict[str, Any] = {"model": {"path": str(tmp_path)}, "trainer": short}
    two, alone = place.launch("towers", **given), place.alone("towers-alone", **given)
    assert (two.code, alone.code) == (0, 0), two.err
    assert two.column("loss") == pytest.approx(alone.column("loss"), abs=1e-5)
    assert two.manifest["plan"]["ddp_find_unused_parameters"] == "true"


def test_packing_and_lora_on_two_ranks(place):
    shape = {
        "data": {"packing": True, "max_length": 256, "eval": None},
        "adapter": {"type": "lora", "r": 4},
        "trainer": {"eval_strategy": "no", "eval_steps": None, "save_strategy": "no", "max_steps": 3},
    }
    two = place.launch("packed", **merged(shape, {"trainer": {"per_device_train_batch_size": 1}}))
    assert two.code == 0, two.err
    one = place.config("packed-one", **merged(shape, {"trainer": {"per_device_train_batch_size": 2}}))
    assert run_cli(["train", str(one)]) == 0
    alone = Ended(0, "", "", place.folder / "packed-one")
    assert two.manifest["plan"]["layout"] == "packed rows"
    assert two.column("loss") == pytest.approx(alone.column("loss"), abs=1e-5)
    assert (two.folder / "model" / "adapter_model.safetensors").is_file()


def test_ctrl_c_reaches_every_rank_once_and_the_run_goes_on(place):
    config, folder = place.config("stopped", **ENDLESS), place.folder / "stopped"
    command = [*LONGLINE, "train", str(config), "--nproc", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    wait_for(lambda: logged(folder, 3), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    stopped = Ended(process.returncode, out, err, folder)
    assert stopped.code == 130
    assert quiet(stopped), err
    assert stopped.err.count("SIGINT: finishing this step and saving a checkpoint") == 1
    assert (stopped.manifest["status"], stopped.manifest["exit_code"]) == ("interrupted", 130)
    steps = stopped.manifest["summary"]["steps"]
    assert [path.name for path in folder.glob("checkpoint-*")] == [f"checkpoint-{steps}"]
    assert not (folder / "model").exists()
    more = steps + 3
    again = place.launch("stopped", "--resume", "--set", f"trainer.max_steps={more}", **ENDLESS)
    assert again.code == 0, again.err
    assert again.log[-1]["step"] == more


def test_ctrl_c_before_there_are_ranks(place):
    command = [*LONGLINE, "train", str(place.config("early")), "--nproc", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    wait_for(lambda: children(process.pid), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert not (place.folder / "early" / "model").exists()


ENDLESS = {"trainer": {"max_steps": 100_000, "save_strategy": "no", "eval_strategy": "no", "eval_steps": None}}


@pytest.mark.parametrize(
    ("who", "signum", "code"),
    [
        ("longline", signal.SIGHUP, 129),
        ("longline", signal.SIGQUIT, 131),
        ("longline", signal.SIGKILL, -9),
        ("torchrun", signal.SIGKILL, 1),
    ],
    ids=["SIGHUP", "SIGQUIT", "SIGKILL", "SIGKILL of torchrun"],
)
def test_no_rank_outlives_its_launcher(place, who, signum, code):
    name = f"orphans-{who}-{signum}"
    config, folder = place.config(name, **ENDLESS), place.folder / name
    with (place.folder / f"{name}.txt").open("w+") as said:  # a file: a pipe would have to be read while ranks live on
        process = subprocess.Popen([*LONGLINE, "train", str(config), "--nproc", "2"], stdout=said, stderr=said, env=ENVIRONMENT)
        wait_for(lambda: logged(folder, 3), process)
        torchrun = children(process.pid)[0]
        ranks = [psutil.Process(pid) for pid in children(torchrun)]
        assert len(ranks) >= 2
        os.kill(process.pid if who == "longline" else torchrun, signum)
        assert process.wait(timeout=60) == code
        _, left = psutil.wait_procs(ranks, timeout=20)
        assert left == []
        said.seek(0)
        text = said.read()
    assert "Traceback" not in text
    if who == "torchrun":
        assert "error: torchrun was ended by SIGKILL; the ranks stopped with it" in text
    if signum == signal.SIGQUIT:  # it ends a process at once, and so the ranks
        return
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["status"] == "interrupted"
    step = manifest["summary"]["steps"]
    assert [path.name for path in folder.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    if code == -signal.SIGKILL:
        again = place.launch(name, "--resume", "--set", f"trainer.max_steps={step + 2}", **ENDLESS)
        assert again.code == 0, again.err


def test_a_rank_that_fails_ends_the_run_with_its_own_message(place):
    failed = place.launch("failed", trainer={"learning_rate": 1e30, "max_grad_norm": 0, "optim": "sgd"}, nonfinite_loss="stop")
    assert failed.code == 1
    assert quiet(failed), failed.err
    assert "error: the loss is nan at step " in failed.err or "error: the loss is inf at step " in failed.err
    assert failed.err.count("error: ") <= 2
    assert failed.manifest["status"] == "failed"


def test_what_every_rank_finds_is_said_once(place):
    refused = place.launch("refused", model={"overrides": {"no_such": 1}})
    assert refused.code == 2
    assert refused.err.count("model.overrides.no_such: LlamaConfig has no such field") == 1
    assert quiet(refused), refused.err


def test_an_error_that_only_the_main_rank_meets_keeps_its_status(place, ddp):
    begin = time.monotonic()
    taken = place.launch("ddp")
    assert taken.code == 2
    assert taken.err.count("already holds a run") == 1
    assert quiet(taken), taken.err
    assert time.monotonic() - begin < 25, "the other rank waited for one that was gone"


def test_a_disk_too_small_for_the_model_leaves_its_weights_elsewhere(place, fsdp):
    """A real file system, where the machine lets us mount one; the shards that ranks hold are gathered once."""
    disk = place.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        full = place.launch("full", trainer={"fsdp": True, "save_strategy": "no"}, output_dir=str(disk / "run"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert full.code == 1
    assert full.err.count("error: cannot write ") == 1
    kept = Path(full.err.split("the weights are kept in ")[1].split(";")[0])
    left, right = (load_file(folder / "model.safetensors") for folder in (kept, fsdp.folder / "model"))
    shutil.rmtree(kept)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_rank_that_is_killed_is_told(place):
    config = place.config("killed", trainer={"max_steps": 100_000, "save_strategy": "no"})
    command = [*LONGLINE, "train", str(config), "--nproc", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    wait_for(lambda: logged(place.folder / "killed", 3), process)
    torchrun = children(process.pid)[0]
    os.kill(children(torchrun)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "error: rank 1 was ended by SIGKILL" in err
    assert "Traceback" not in err


def test_under_an_outer_torchrun_each_process_takes_its_place(place, one):
    config = place.config("outer")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "longline", "train", str(config)],
        capture_output=True,
        text=True,
        timeout=180,
        env=ENVIRONMENT,
        check=False,
    )
    outer = Ended(done.returncode, done.stdout, done.stderr, place.folder / "outer")
    assert outer.code == 0, outer.err
    assert outer.manifest["world_size"] == 2
    assert outer.column("loss") == pytest.approx(one.column("loss"), abs=1e-5)
    assert outer.out.count("completed: 8 steps") == 1
