"""More rows cost no more memory, and more cores change nothing but the time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = """
import json, sys
from transformers import AutoTokenizer
import datasets
from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.sample import SAMPLE
def high():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
folder, path, packed, cache = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
before = high()
section = DataSection(train=path, eval_fraction=0.1, max_length=512, cache_dir=cache)
data = prepare(section, tokenizer, kind=SAMPLE, packing="rows" if packed == "packed" else "padded", seed=0)
peak = high()
print(json.dumps({"peak": (peak - before) / 1024, "tokens": data.report.train.tokens, "path": data.report.cache_path}))
"""


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")


def prepared(folder, path, cache, layout="packed", **environment):
    """What a process of its own says that prepared `path`."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(path), layout, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_proc
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_memory_does_not_grow_with_the_tokens(chatml, tmp_path, layout):
    """Ten times the rows hold 60 MB more of ids and labels. With these in memory the peak would grow by 115 MB, else by 50."""
    chatml.save_pretrained(tmp_path / "tokenizer")
    peaks, tokens = [], []
    for count in (2_000, 20_000):
        lengths = np.random.default_rng(0).integers(450, 513, count)
        ids = pa.array(np.random.default_rng(1).integers(10, 250, lengths.sum()).astype(np.int32))
        column = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]).astype(np.int32)), ids)
        path = tmp_path / f"{count}.parquet"
        pq.write_table(pa.table({"input_ids": column}), path, row_group_size=1000)
        found = prepared(tmp_path / "tokenizer", path, tmp_path / "cache", layout)
        peaks.append(found["peak"])
        tokens.append(found["tokens"])
    assert (tokens[1] - tokens[0]) * 8 > 55 * 2**20
    assert peaks[1] - peaks[0] < 80


@needs_proc
def test_memory_does_not_grow_with_a_document(chatml, jsonl, tmp_path):
    """The library's account of four million characters takes 600 MB."""
    chatml.save_pretrained(tmp_path / "tokenizer")
    words = np.random.default_rng(0).choice(["four", "user", "and", "thank", "you.\n", "größer"], 400_000)
    path = jsonl([{"text": " ".join(words)}, {"text": " ".join(words[::-1])}])
    found = prepared(tmp_path / "tokenizer", path, tmp_path / "cache", "padded")
    assert found["tokens"] > 800_000
    assert found["peak"] < 350


def test_cores_do_not_change_the_data(chatml, jsonl, chat, tmp_path):
    chatml.save_pretrained(tmp_path / "tokenizer")
    path = jsonl([chat("four " * (1 + number * 7919 % 83) + str(number), f"Say {number}") for number in range(3000)])
    contents = []
    for number, environment in enumerate(
        ({"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "4"}, {"TOKENIZERS_PARALLELISM": "false"})
    ):
        found = prepared(tmp_path / "tokenizer", path, tmp_path / f"cache{number}", **environment)
        entry = Path(found["path"])
        assert sorted(file.name for file in entry.iterdir()) == [
            "eval-origins.arrow",
            "eval.arrow",
            "manifest.json",
            "train-origins.arrow",
            "train.arrow",
        ]
        contents.append([(entry / name).read_bytes() for name in ("train.arrow", "eval.arrow", "train-origins.arrow")])
    assert contents[0] == contents[1] == contents[2]
