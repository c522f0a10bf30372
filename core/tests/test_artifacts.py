"""What a run leaves is whole or absent: after kill -9 in the middle of saves, on a full disk, with someone else in the folder."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from longline import Plugin, artifacts, hookimpl
from longline.cli import run_cli
from longline.errors import ConfigError, TrainingError
from longline.plugins import PluginConfig
from longline.testing import HookRecorder, chat

# --- kill -9 ------------------------------------------------------------------------------------------------------------------

KILLER = """
import json, os, sys, time
from pathlib import Path
from longline.config.loader import load_config
from longline.run import train
import longline.data, longline.trainers.trainer, longline.trainers.sft, longline.model, transformers, datasets

config, folder = Path(sys.argv[1]), Path(sys.argv[2])

def files():
    try:
        return len([path for path in (folder / ".saving").rglob("*") if path.is_file()])
    except OSError:  # a folder went away while it was listed
        return 0

def attempt(kill_at):
    child = os.fork()
    if child == 0:
        resume = "last" if any(folder.glob("checkpoint-*")) else None
        result = train(load_config(config), resume=resume, overwrite=not resume)
        os._exit(result.exit_code)
    saves, saving = 0, False
    while kill_at is not None:
        number = files()
        saves, saving = saves + (number > 0 and not saving), number > 0
        if saves >= 2 and number >= kill_at:
            os.kill(child, 9)
            break
        if os.waitpid(child, os.WNOHANG)[0]:
            return "ended by itself"
    return os.waitpid(child, 0)[1]

for kill_at in (1, 2, 4, 5, 7, 8, None):
    status = attempt(kill_at)
    found = {path.name: sorted(item.name for item in path.iterdir()) for path in folder.glob("checkpoint-*")}
    weights = [path for path in folder.glob("checkpoint-*/*") if path.suffix in (".safetensors", ".pt", ".pth", ".json")]
    print(json.dumps({"status": status, "checkpoints": found, "sizes": {str(path): path.stat().st_size for path in weights},
                      "half": sorted(path.name for path in folder.glob(".saving/*/*"))}), flush=True)
"""


def test_kill_9_during_saves_leaves_whole_checkpoints_and_the_same_bits(run_longline, run_config, tmp_path):
    """The same run is killed while its save has written some files, again and again, and resumed each time."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chat(8)))
    common = {
        "data": {"train": [{"path": str(rows), "format": "chat"}]},
        "model": {"overrides": {"attention_dropout": 0.1}},
        "trainer": {"max_steps": 30, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 3},
    }
    config = run_config(**common, output_dir=str(tmp_path / "killed"))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(config), str(tmp_path / "killed")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [attempt["status"] for attempt in attempts] == [9] * 6 + [0]
    assert any(attempt["half"] for attempt in attempts[:-1]), "no save was cut short, so the test says little"
    names = {tuple(listing) for attempt in attempts for listing in attempt["checkpoints"].values()}
    assert len(names) == 1, "each checkpoint that is there has every file"
    by_name: dict[str, set[int]] = {}
    for attempt in attempts:
        for path, size in attempt["sizes"].items():
            if Path(path).suffix in (".safetensors", ".pt"):
                by_name.setdefault(Path(path).name, set()).add(size)
    assert all(len(sizes) == 1 for sizes in by_name.values()), by_name
    killed = tmp_path / "killed"
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-28", "checkpoint-29", "checkpoint-30"]
    assert not (killed / ".saving").exists()
    steps = [json.loads(line)["step"] for line in (killed / "log.jsonl").read_text().splitlines() if '"loss"' in line]
    assert steps == list(range(1, 31))
    trainer = {**common["trainer"], "save_strategy": "no"}
    straight = run_longline(**{**common, "trainer": trainer}, output_dir=str(tmp_path / "straight"))
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (killed, straight.output_dir))
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)


def test_a_save_that_was_cut_short_in_an_earlier_process_is_cleared_away(run_longline, run_config):
    config = run_config(trainer={"max_steps": 2, "save_strategy": "steps", "save_steps": 1})
    folder = run_longline(config).output_dir
    (folder / ".saving" / "checkpoint-9").mkdir(parents=True)
    (folder / ".saving" / "checkpoint-9" / "model.safetensors").write_bytes(b"half")
    assert run_cli(["train", str(config), "--resume", "--set", "trainer.max_steps=3"]) == 0
    assert not (folder / ".saving").exists()
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}


# --- a full disk --------------------------------------------------------------------------------------------------------------


class LimitFileSize(Plugin):
    """From a step on, the system refuses files of this process that are larger."""

    def __init__(self, step: int, size: int) -> None:
        super().__init__(PluginConfig())
        self.step, self.size = step, size

    @hookimpl
    def on_step_end(self, step):
        if step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def file_sizes():
    """Puts the limit back."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [20_000, 200_000], ids=["weights", "optimizer"])
def test_a_checkpoint_that_cannot_be_written_is_a_clear_error_and_loses_no_other(run_longline, file_sizes, size, tmp_path):
    recorder = HookRecorder()
    with pytest.raises(TrainingError) as caught:
        run_longline(
            plugins=[LimitFileSize(2, size)],
            recorder=recorder,
            trainer={"max_steps": 5, "save_strategy": "steps", "save_steps": 1},
        )
    folder = tmp_path / "run"
    assert f"cannot write {folder / 'checkpoint-2'}" in caught.value.message
    assert caught.value.hint == "free space and run again with --resume; complete checkpoints: checkpoint-1"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    assert load_file(folder / "checkpoint-1" / "model.safetensors")
    assert not (folder / ".saving").exists()
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert recorder.calls[-2:] == ["on_error(error=TrainingError)", "on_run_end(status=failed, summary=Summary)"]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1.4 MB, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_command_with_status_1_and_resume_goes_on(small_disk, run_config, capfd):
    folder = small_disk / "run"
    config = run_config(trainer={"max_steps": 9, "save_strategy": "steps", "save_steps": 1}, output_dir=str(folder))
    assert run_cli(["train", str(config)]) == 1
    kept = artifacts.checkpoints(folder)
    error = capfd.readouterr().err
    assert 1 <= len(kept) < 5
    assert f"error: cannot write {folder / f'checkpoint-{len(kept) + 1}'}" in error
    assert "No space left on device" in error or "the disk is full" in error
    assert f"complete checkpoints: {', '.join(path.name for path in kept)}" in error
    assert all(load_file(path / "model.safetensors") for path in kept)
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    for path in kept[:-1]:
        shutil.rmtree(path)
    assert run_cli(["train", str(config), "--resume", "--set", "trainer.save_total_limit=1"]) == 0
    assert load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize(("free", "code"), [(80_000, 1), (40_000, 2)], ids=["log", "rehearsal"])
def test_a_disk_that_is_full_before_a_checkpoint_is_named(small_disk, run_config, capfd, free, code):
    """Nothing but the log grows here, until not even that can; where not even a tokenizer fits, nothing is trained."""
    folder = small_disk / "run"
    config = run_config(trainer={"max_steps": 800}, output_dir=str(folder))
    disk = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (disk.f_bavail * disk.f_bsize - free))
    assert run_cli(["train", str(config)]) == code
    ended = capfd.readouterr()
    file = f"cannot write {folder / 'log.jsonl'}: OSError: [Errno 28] No space left on device"
    assert (file if code == 1 else f"cannot write the run folder {folder}: ") in ended.err
    assert ("step 1/800" in ended.out) == (code == 1)
    assert "No space left on device" in ended.err


# --- the folder ---------------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_a_config_error(run_config, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert run_cli(["train", str(run_config(output_dir=str(tmp_path / "file" / "run")))]) == 2
    assert f"output_dir: {tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_a_folder_in_use_by_another_process_is_refused(run_config, capsys, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    held = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(folder / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert run_cli(["train", str(run_config())]) == 2
        assert f"error: {folder} is in use by another run" in capsys.readouterr().err
        assert not (folder / "run.json").exists()
    finally:
        other.communicate("\n")
    assert run_cli(["train", str(run_config(trainer={"max_steps": 1}))]) == 0


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(run_longline, run_config):
    config = run_config(trainer={"max_steps": 2, "save_strategy": "steps", "save_steps": 1})
    folder = run_longline(config).output_dir
    mine = [folder / "notes.txt", folder / "checkpoint-mine" / "weights", folder / "models" / "other"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (folder / "merged").mkdir()
    (folder / "evaluation").mkdir()
    run_longline(config, overwrite=True)
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert not (folder / "merged").exists()
    assert not (folder / "evaluation").exists()
    assert {event["step"] for event in map(json.loads, (folder / "log.jsonl").read_text().splitlines())} == {1, 2}


# --- small promises -----------------------------------------------------------------------------------------------------------


def test_a_file_is_old_or_new_and_never_both(tmp_path, file_sizes):
    path = tmp_path / "state.json"
    artifacts.write_atomically(path, "old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(OSError, match="File too large"):
        artifacts.write_atomically(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]  # noqa: PTH208 - also hidden files


def test_checkpoints_are_ordered_by_step_and_other_folders_are_none(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-best", "checkpoint-", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").write_text("a file")
    assert [path.name for path in artifacts.checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, None, [1, 2, 3, 4, 5]),
        (2, None, [4, 5]),
        (1, None, [5]),
        (2, 2, [2, 5]),
        (1, 2, [2, 5]),
        (3, 5, [3, 4, 5]),
        (9, 1, [1, 2, 3, 4, 5]),
    ],
)
def test_the_newest_and_the_best_checkpoint_always_stay(tmp_path, limit, best, kept):
    for step in range(1, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
    artifacts.prune(tmp_path, limit, str(tmp_path / f"checkpoint-{best}") if best else None)
    assert artifacts.checkpoints(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in kept]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"a": 1'])
def test_a_broken_manifest_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json"):
        artifacts.read_manifest(tmp_path)
