"""The cache: the same data again for free, other data never, and no damage from processes, crashes or full disks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.labelled import LABELLED
from longline.data.kinds.pair import PAIR
from longline.data.kinds.prompt import PROMPT
from longline.data.kinds.sample import SAMPLE
from longline.data.store.cache import cache_root

LAYOUTS = {
    "padded": {"kind": SAMPLE},
    "rows": {"kind": SAMPLE, "packing": "rows"},
    "flat": {"kind": SAMPLE, "packing": "flat"},
    "pairs": {"kind": PAIR},
    "labelled": {"kind": LABELLED},
    "prompts": {"kind": PROMPT},
}


def run(tokenizer, layout="padded", seed=0, **options):
    return prepare(DataSection(**options), tokenizer, **LAYOUTS[layout], seed=seed)


def entries():
    return sorted(path for path in cache_root(None).iterdir() if path.is_dir())


@pytest.fixture
def path(jsonl, chat):
    return jsonl([chat(f"{number} four.") for number in range(30)])


def test_a_second_time_is_a_hit_with_equal_data(chatml, path):
    options = {"train": path, "eval_fraction": 0.2, "on_bad_row": "skip"}
    first, second = (run(chatml, layout="rows", **options) for _ in range(2))
    assert (first.report.cache_hit, second.report.cache_hit) == (False, True)
    assert first.train[:] == second.train[:]
    assert first.eval[:] == second.eval[:]
    assert [first.origin("eval", number) for number in range(6)] == [second.origin("eval", number) for number in range(6)]
    assert second.report.sources == first.report.sources
    assert second.report.cache_path == str(entries()[0])
    assert second.train._fingerprint == first.train._fingerprint
    uncached = run(chatml, layout="rows", cache=False, **options)
    assert uncached.train[:] == second.train[:]
    assert uncached.report.cache_path is None
    assert len(entries()) == 1


def test_a_changed_byte_prepares_again(chatml, path):
    run(chatml, train=path)
    text = Path(path).read_text()
    stat = Path(path).stat()
    Path(path).write_text(text.replace("7 four", "8 four"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    data = run(chatml, train=path, shuffle=True)
    assert not data.report.cache_hit
    Path(path).write_text(text)
    assert run(chatml, train=path).report.cache_hit


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 64},
        {"train_on": "all"},
        {"too_long": "drop"},
        {"shuffle": False},
        {"eval_fraction": 0.5},
        {"on_bad_row": "skip"},
        {"layout": "rows"},
        {"seed": 1},
    ],
)
def test_a_changed_option_prepares_again(chatml, path, change):
    run(chatml, train=path)
    assert run(chatml, train=path).report.cache_hit
    assert not run(chatml, train=path, **change).report.cache_hit


def test_a_changed_tokenizer_prepares_again(template_tokenizer, path):
    run(template_tokenizer("chatml"), train=path)
    assert run(template_tokenizer("chatml"), train=path).report.cache_hit
    assert not run(template_tokenizer("phi3_5"), train=path).report.cache_hit
    grown = template_tokenizer("chatml")
    grown.add_tokens(["four"])
    assert not run(grown, train=path).report.cache_hit
    ended = template_tokenizer("chatml", eos="<pad>")
    assert not run(ended, train=path).report.cache_hit


@pytest.mark.parametrize("name", ["train.arrow", "train-origins.arrow", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_entry_is_made_again(chatml, path, name, damage):
    good = run(chatml, train=path)
    rows = good.train[:]
    del good
    file = entries()[0] / name
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    data = run(chatml, train=path)
    assert not data.report.cache_hit
    assert data.train[:] == rows
    assert run(chatml, train=path).report.cache_hit


def test_what_a_killed_process_left_is_cleared(chatml, path):
    run(chatml, train=path)
    [entry] = entries()
    left = entry.parent / f".partial-{entry.name}-1"
    entry.rename(left)
    assert not run(chatml, train=path).report.cache_hit
    assert entries() == [entry]


def test_where_the_cache_is(tmp_path, monkeypatch):
    section = DataSection(train="x")
    assert cache_root(section.cache_dir) == tmp_path / "cache" / "prepared"
    monkeypatch.delenv("LONGLINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(section.cache_dir) == tmp_path / "xdg" / "longline" / "prepared"
    assert cache_root(tmp_path / "own") == tmp_path / "own"


def test_an_unusable_cache_folder_is_a_warning(chatml, path, tmp_path):
    (tmp_path / "file").write_text("in the way")
    data = run(chatml, train=path, cache_dir=tmp_path / "file" / "cache")
    assert len(data.train) == 30
    assert "can't be used, the data stays in memory" in data.report.warnings[0]


SCRIPT = """
import json, resource, sys
from transformers import AutoTokenizer
from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.sample import SAMPLE
folder, path, limit = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
if int(limit):
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
print("ready", flush=True)
sys.stdin.readline()
data = prepare(DataSection(train=path), tokenizer, kind=SAMPLE, packing="rows", seed=0)
print(json.dumps([len(data.train), data.report.train.tokens, data.report.cache_hit, data.report.warnings]))
"""


def processes(count, folder, path, limit=0):
    """Start `count` of them, let them prepare at the same moment, and return what each printed."""
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, folder, path, str(limit)], stdin=-1, stdout=-1, stderr=-1, text=True)
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = []
    for process in started:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        answers.append(json.loads(output))
    return answers


def test_processes_at_once_make_one_good_entry(chatml, jsonl, chat, tmp_path):
    chatml.save_pretrained(tmp_path / "tokenizer")
    path = jsonl([chat(f"{number} four." * 20) for number in range(1500)])
    answers = processes(3, str(tmp_path / "tokenizer"), path)
    assert len({tuple(answer[:2]) for answer in answers}) == 1
    assert sorted(answer[2] for answer in answers) == [False, True, True]
    assert [answer[3] for answer in answers] == [[], [], []]
    assert len(entries()) == 1


def test_a_full_disk_leaves_the_data_in_memory_and_no_entry(chatml, jsonl, chat, tmp_path):
    """A limit on the size of files fails a write halfway, as a full disk does."""
    chatml.save_pretrained(tmp_path / "tokenizer")
    path = jsonl([chat(f"{number} four." * 20) for number in range(300)])
    [(rows, tokens, hit, warnings)] = processes(1, str(tmp_path / "tokenizer"), path, limit=20_000)
    assert rows > 0
    assert tokens > 0
    assert not hit
    assert "File too large" in warnings[0]
    assert entries() == []
    assert not list(cache_root(None).glob(".partial*"))


def test_an_interruption_leaves_nothing_and_the_next_start_is_whole(chatml, jsonl, chat, tmp_path):
    """The process is stopped while tokens are already in files."""
    chatml.save_pretrained(tmp_path / "tokenizer")
    path = jsonl([chat(f"{number} four." * 20) for number in range(8_000)])
    root = cache_root(None)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "tokenizer"), path, "0"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size for file in root.glob(".partial*/*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert entries() == []
    assert not list(root.glob(".partial*"))
    assert len(run(chatml, train=path).train) == 8_000
    assert run(chatml, train=path).report.cache_hit
