"""How time and memory of preparing data grow with the rows, and how long a second start takes that finds them prepared.

    python bench/data_growth.py [--full] [--json FILE]

Chats of log-normal lengths, 60 tokens on average, in two files of which the smaller one has twice the weight, with a share for
evaluation; they are checked, masked, mixed, shuffled, packed to 512 and written to the cache, then read again by a new process.
1,000, 10,000 and 100,000 rows, with `--full` also a million. Each measurement is a process of its own that starts no others, so
its peak resident memory (which counts what it maps from files as well) is that of all of it.

A last row keeps a further column beside ready tokens: 8 float16 numbers for each token, of the most rows that are measured.

Linear: what each further row costs, that is the difference in time from one count to the next over the difference in rows; it
is compared between all such steps. Time is processor time, all threads together, which leaves out what else the machine does
meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import Goal, Result, cache, finish, options
from corpus import model_folder, words

COUNTS = (1_000, 10_000, 100_000)
FULL = 1_000_000
MEAN_WORDS, MEAN_TOKENS, WIDTH, SIGMA, BLOCK = 28, 60, 8, 0.6, 10_000
SMALL_PART = 10
"""One row in so many is in the second file."""

CHILD = """
import json, resource, sys, time
from transformers import AutoTokenizer
import datasets, pyarrow
from longline.config.sections import DataSection
from longline.data import prepare
from longline.data.kinds.sample import SAMPLE
def high():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
tokenizer, large, small, folder, *keep = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(tokenizer)
sources = [large, {"path": small, "weight": 2}] if small else [large]
keep = [{"name": name, "align": "token", "dtype": "float16", "width": 8} for name in keep]
section = DataSection(train=sources, eval_fraction=0.01, max_length=512, cache_dir=folder, keep=keep)
before = high()
wall, processor = time.perf_counter(), time.process_time()
data = prepare(section, tokenizer, kind=SAMPLE, packing="rows", seed=1)
wall, processor = time.perf_counter() - wall, time.process_time() - processor
report, peak = data.report, high()
print(json.dumps({"wall": wall, "processor": processor, "before": before / 1024, "peak": peak / 1024, "hit": report.cache_hit,
                  "packs": report.train.packs, "full": report.train.efficiency, "tokens": report.train.tokens,
                  "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}))
"""


def rows_files(count: int) -> tuple[Path, Path]:
    """Two files of `count` rows together, written block by block."""
    paths = cache() / f"short-{count}-large.jsonl", cache() / f"short-{count}-small.jsonl"
    if all(path.exists() for path in paths):
        return paths
    known, chosen = np.array(words(), dtype=object), np.random.default_rng(0)
    parts = [path.with_suffix(".part") for path in paths]
    with parts[0].open("w", encoding="utf-8") as large, parts[1].open("w", encoding="utf-8") as small:
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            lengths = np.maximum(chosen.lognormal(np.log(MEAN_WORDS) - SIGMA**2 / 2, SIGMA, size), 4).astype(int)
            texts = np.split(known[chosen.integers(len(known), size=int(lengths.sum()))], np.cumsum(lengths)[:-1])
            for number, text in enumerate(texts):
                third = len(text) // 3
                asked, answer = " ".join(text[:third]), " ".join(text[third:])
                row = {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
                (small if number % SMALL_PART == 0 else large).write(json.dumps(row) + "\n")
    for part, path in zip(parts, paths, strict=True):
        part.rename(path)
    return paths


def column_file(count: int) -> Path:
    """Parquet with token ids and, for each of them, WIDTH float16 numbers in the column `teacher`."""
    path = cache() / f"column-{count}.parquet"
    if path.exists():
        return path
    chosen = np.random.default_rng(0)
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "teacher": pa.list_(pa.list_(pa.float16(), WIDTH))})
    with pq.ParquetWriter(path.with_suffix(".part"), schema) as file:
        for start in range(0, count, BLOCK):
            lengths = np.maximum(chosen.lognormal(np.log(MEAN_TOKENS) - SIGMA**2 / 2, SIGMA, min(BLOCK, count - start)), 4)
            edges = pa.array(np.concatenate([[0], np.cumsum(lengths.astype(int))]).astype(np.int32))
            total = edges[-1].as_py()
            ids = pa.array(chosen.integers(100, 1000, total, dtype=np.int32))
            numbers = pa.array(chosen.random(total * WIDTH, dtype=np.float32).astype(np.float16))
            vectors = pa.FixedSizeListArray.from_arrays(numbers, WIDTH)
            parts = [pa.ListArray.from_arrays(edges, part) for part in (ids, vectors)]
            file.write_table(pa.Table.from_arrays(parts, schema=schema), row_group_size=1000)
    path.with_suffix(".part").rename(path)
    return path


def prepared(files: list[str], folder: Path) -> dict[str, Any]:
    """Prepare files in a new process, with the cache in `folder`; names behind the second file are columns that are kept."""
    command = [sys.executable, "-c", CHILD, str(model_folder("smollm2")), *files[:2], str(folder), *files[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["children"]:
        raise SystemExit("processes were started, whose memory is not counted here")
    return found


def main() -> int:
    """Measure every count, once prepared and once found."""
    chosen = options(__doc__, ("--full", {"action": "store_true", "help": "a million rows, too"}))
    rows: list[dict[str, Any]] = []
    taken: dict[int, float] = {}
    counts = (*COUNTS, FULL) if chosen.full else COUNTS
    cases = [(count, [*map(str, rows_files(count))]) for count in counts]
    cases.append((counts[-1], [str(column_file(counts[-1])), "", "teacher"]))
    for count, files in cases:
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            first, second = (prepared(files, Path(folder)) for _ in range(2))
        if first["hit"] or not second["hit"]:
            raise SystemExit("the second start did not find what the first one prepared")
        taken.setdefault(count, first["processor"])
        rows.append(
            {
                "rows": count,
                "kept": ", ".join(files[2:]),
                "seconds": first["wall"],
                "rows/s": count / first["wall"],
                "processor us/row": first["processor"] / count * 1e6,
                "peak MB": first["peak"],
                "peak MB before": first["before"],
                "full": round(first["full"], 5),
                "second start s": second["wall"],
                "second start MB": second["peak"],
            }
        )
        print(f"  {count} rows: {first['wall']:.1f} s, {first['peak']:.0f} MB", file=sys.stderr, flush=True)
    steps = [(taken[more] - taken[less]) / (more - less) for less, more in pairwise(taken)]
    goals = [
        Goal("processor time of each further row: most / least", max(steps) / min(steps), 1.1, most=True),
        Goal("peak resident memory in MB", max(row["peak MB"] for row in rows), 1500, most=True),
        Goal("seconds of a second start", max(row["second start s"] for row in rows), 3, most=True),
        Goal("packs full from 10,000 rows on", min(row["full"] for row in rows if row["rows"] >= 10_000), 0.995),
    ]
    return finish(Result("data_growth", "Preparing data: time and memory by rows", rows, goals), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
