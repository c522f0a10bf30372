"""Peak memory of a scan, of a checkpoint of 2 GB that is made up: `python plugins/longline-spectrum/bench/memory.py [FOLDER]`.

It fails when the command takes more than 1.3 times the largest matrix (as float32) and 300 MB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from click import echo

MATRICES = {
    **{f"model.layers.{layer}.mlp.{part}_proj.weight": ("F32", (28672, 2048)) for layer in range(3) for part in ("gate", "up")},
    **{f"model.layers.{layer}.mlp.down_proj.weight": ("BF16", (2048, 28672)) for layer in range(3)},
    "model.layers.0.self_attn.large_square.weight": ("F32", (6144, 5120)),
    "model.layers.1.mlp.experts.down_proj": ("BF16", (24, 1024, 2048)),
}
SIZES = {"F32": 4, "BF16": 2}
LIMIT = 300 * 10**6


def size(stored: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor."""
    return int(np.prod(shape)) * SIZES[stored]


def write(folder: Path) -> int:
    """Make the checkpoint; returns its size in bytes."""
    header, offset = {}, 0
    for name, (stored, shape) in MATRICES.items():
        header[name] = {"dtype": stored, "shape": shape, "data_offsets": [offset, offset + size(stored, shape)]}
        offset += size(stored, shape)
    raw = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for stored, shape in MATRICES.values():
            left = int(np.prod(shape))
            while left:
                part = random.standard_normal(min(left, 2**22), dtype=np.float32) * np.float32(0.02)
                stream.write(part if stored == "F32" else (part.view(np.uint32) >> 16).astype("<u2"))
                left -= len(part)
    return offset


def main() -> None:
    """Make, scan, compare and print."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        total = write(folder)
        begin = time.perf_counter()
        environment = {**os.environ, "LONGLINE_CACHE": str(folder / "cache")}
        subprocess.run([sys.executable, "-m", "longline", "spectrum", "scan", name], env=environment, check=True)
        seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    largest = max(int(np.prod(shape[-2:])) * 4 for _, shape in MATRICES.values())
    most = 1.3 * largest + LIMIT
    echo(f"checkpoint {total / 1e9:.2f} GB, largest matrix {largest / 1e6:.0f} MB as float32")
    echo(f"peak memory of the scan {peak / 1e6:.0f} MB, at most {most / 1e6:.0f} MB; {seconds:.0f} s")
    if peak > most:
        sys.exit("too much")


if __name__ == "__main__":
    main()
