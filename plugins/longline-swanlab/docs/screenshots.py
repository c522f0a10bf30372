"""Take the pictures of the documentation: train, start the real dashboard, look at it in headless Chromium.

    python plugins/longline-swanlab/docs/screenshots.py [FOLDER] [--model PATH] [--steps N]

Writes swanlab-charts.png, swanlab-table.png and swanlab-config.png into FOLDER (default: here). It trains DPO on the pairs of
examples/dpo, with the tiny model of the test kit unless another one is named, with longline-completions for the table. Needs
`chromium`, Pillow and swanlab[dashboard].
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from longline.cli import run_cli
from longline.testing import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "examples" / "dpo"
CHARTS = "experiment/1/chart"
CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
CHROMIUM += ["--disable-component-update", "--disable-sync", "--hide-scrollbars"]
TOP, ROW, ACROSS = 289, 312, 3
"""Where the dashboard's first row of charts begins, how far rows are apart (pixels), and how many charts are in one."""


def train(folder: Path, model: Path, steps: int) -> Path:
    """Train and return the log folder."""
    config: dict[str, Any] = {
        "method": "dpo",
        "model": {"path": str(model)},
        "adapter": {"type": "lora", "r": 16, "lora_alpha": 32},
        "data": {
            "train": str(DATA / "train.jsonl"),
            "eval": str(DATA / "heldout.jsonl"),
            "max_length": 256,
            "cache_dir": str(folder / "cache"),
        },
        "trainer": {
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3 if model.name == "tiny" else 2e-4,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 10,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "plugins": [
            {"completions": {"every": 10, "max_rows": 6, "sample": "worst"}},
            {"swanlab": {"project": "demo", "mode": "local", "experiment_name": "dpo", "log_dir": str(folder / "swanlog")}},
        ],
        "output_dir": str(folder / "run"),
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    code = run_cli(["train", str(path)])
    if code:
        sys.exit(code)
    return folder / "swanlog"


@contextmanager
def dashboard(log_dir: Path) -> Iterator[str]:
    """Run `swanlab watch`; yields its address when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = Path(sys.executable).with_name("swanlab")
    process = subprocess.Popen(
        [program, "watch", log_dir, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                answer(f"{url}/api/v1/project")
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def picture(url: str, size: str, file: Path) -> None:
    """Take one picture, in a profile of its own."""
    with tempfile.TemporaryDirectory() as profile:
        options = [*CHROMIUM, f"--user-data-dir={profile}", f"--window-size={size}", "--virtual-time-budget=15000"]
        subprocess.run(["chromium", *options, f"--screenshot={file}", url], check=True, capture_output=True, timeout=120)
    sys.stdout.write(f"{file}\n")


def picture_of_table(url: str, file: Path) -> None:
    """Take a picture that is long enough, and cut the table out: chromium takes none of a part."""
    from PIL import Image

    names = [chart["name"] for chart in answer(f"{url}/api/v1/{CHARTS}")["data"]["charts"]]
    top = TOP + ROW * math.ceil(names.index("completions") / ACROSS) - 20
    picture(f"{url}/{CHARTS}", f"1400,{top + 500}", file)
    with Image.open(file) as whole:
        part = whole.crop((0, top, 1400, top + 500))
    part.save(file, optimize=True)


def answer(url: str) -> Any:
    """What the dashboard's API answers."""
    with urllib.request.urlopen(url, timeout=5) as content:  # noqa: S310 - an address of this machine
        return json.load(content)


def main() -> None:
    """Make the run and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    if shutil.which("chromium") is None:
        sys.exit("there is no chromium; on Debian: apt-get install chromium")
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        model = given.model or Path(name) / "tiny"
        if given.model is None:
            write_tiny_model(model)
        log_dir = train(Path(name), model, given.steps)
        folder = given.folder.absolute()
        with dashboard(log_dir) as url:
            picture(f"{url}/{CHARTS}", "1400,1000", folder / "swanlab-charts.png")
            picture_of_table(url, folder / "swanlab-table.png")
            picture(f"{url}/experiment/1/index", "1400,900", folder / "swanlab-config.png")


if __name__ == "__main__":
    main()
