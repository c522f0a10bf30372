"""How fast chat rows become masked, packed and saved tokens, beside trl's SFTTrainer doing the same to the same file.

    python bench/prepare.py [--rows 20000] [--rounds 3] [--json FILE]

All start from a JSONL file on disk. Longline and trl end with a data set on disk, packed to 512, with masks for the answers;
that the two agree on the number of tokens and of learnt ones is checked. trl gets a chat template with generation marks, which
it needs for masks; Longline one without. `plain` is what the hardware allows with the same tokenizer: the template rendered,
the tokenizer called, both in batches, and nothing else: no checks, masks, packing or saving. Sides take turns, each a process
of its own; importing, loading the tokenizer and whatever a trainer does besides are not counted.

At 1 and 2 cores the process is bound to so many, trl has as many processes and the plain script as well; Longline has threads.
As shipped: all cores and each side's defaults. Needs trl.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import Goal, Result, cores, finish, in_turns, options, ratios, spread
from corpus import MAX_LENGTH, ROWS, TEMPLATE, model_folder, rows_file

GOAL, FULL = 1.5, 0.995
BATCH = 1000
PLAIN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def longline(path: Path, tokenizer: Any, processes: int | None, folder: Path) -> dict[str, Any]:
    """Longline, into a new cache."""
    from longline.config.sections import DataSection
    from longline.data import prepare
    from longline.data.kinds.sample import SAMPLE

    del processes
    tokenizer.chat_template = PLAIN
    started = time.perf_counter()
    data = prepare(
        DataSection(train=str(path), cache_dir=folder, max_length=MAX_LENGTH), tokenizer, kind=SAMPLE, packing="rows", seed=0
    )
    seconds, made = time.perf_counter() - started, data.report.train
    return {"seconds": seconds, "tokens": made.tokens, "learnt": made.trained_tokens, "full": made.efficiency}


def trl(path: Path, tokenizer: Any, processes: int | None, folder: Path) -> dict[str, Any]:
    """trl: reading the file and what SFTTrainer does to it when it is made."""
    from datasets import Dataset, disable_progress_bars
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    tokenizer.chat_template = TEMPLATE
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    arguments = SFTConfig(
        output_dir=str(folder / "out"),
        assistant_only_loss=True,
        max_length=MAX_LENGTH,
        packing=True,
        dataset_num_proc=processes,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    tiny = Dataset.from_list([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    started = time.perf_counter()
    SFTTrainer(model=model, args=arguments, train_dataset=tiny, processing_class=tokenizer)
    construction = time.perf_counter() - started
    started = time.perf_counter()
    rows = Dataset.from_json(str(path), cache_dir=str(folder))
    made = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer).train_dataset
    seconds = time.perf_counter() - started - construction
    tokens = sum(map(len, made["input_ids"]))
    learnt = sum(label != -100 for labels in made["labels"] for label in labels)
    return {"seconds": seconds, "tokens": tokens, "learnt": learnt, "full": tokens / (len(made) * MAX_LENGTH)}


def plain(path: Path, tokenizer: Any, processes: int | None, folder: Path) -> dict[str, Any]:
    """Render and tokenise in batches; with several processes each has its share of the lines."""
    from multiprocessing import get_context

    del folder
    tokenizer.chat_template = PLAIN

    def share(number: int, of: int) -> int:
        with path.open(encoding="utf-8") as stream:
            rows = [json.loads(line)["messages"] for count, line in enumerate(stream) if count % of == number]
        tokens = 0
        for start in range(0, len(rows), BATCH):
            texts = tokenizer.apply_chat_template(rows[start : start + BATCH], tokenize=False)
            tokens += sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
        return tokens

    def work(number: int) -> None:
        share(number, processes or 1)

    started = time.perf_counter()
    if (processes or 1) == 1:
        share(0, 1)
    else:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        several = [get_context("fork").Process(target=work, args=(number,)) for number in range(processes or 1)]
        for process in several:
            process.start()
        for process in several:
            process.join()
            if process.exitcode:
                raise SystemExit("a process of the plain script failed")
    return {"seconds": time.perf_counter() - started}


SIDES: dict[str, Callable[[Path, Any, int | None, Path], dict[str, Any]]] = {"longline": longline, "trl": trl, "plain": plain}
SETTINGS: dict[str, int | None] = {"1 core": 1, "2 cores": 2, "as shipped": None}


def work(side: str, path: str, tokenizer: str, bound: str) -> None:
    """The child: one side, once."""
    processes = int(bound) or None
    if processes:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processes])
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(SIDES[side](Path(path), loaded, processes, Path(name))))


def measured(side: str, setting: str, path: Path, tokenizer: Path) -> dict[str, Any]:
    """Run one side in a new process."""
    arguments = [side, str(path), str(tokenizer), str(SETTINGS[setting] or 0)]
    program = [sys.executable, str(Path(__file__).resolve()), "--work", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(setting: str, found: Mapping[str, Sequence[Mapping[str, Any]]], count: int) -> list[dict[str, Any]]:
    """What was measured of each side as rows of the result; refuses sides that did not do the same."""
    same = {(one["tokens"], one["learnt"]) for side in ("longline", "trl") for one in found[side]}
    if len(same) != 1:
        raise SystemExit(f"the two disagree on tokens and learnt tokens: {same}")
    speeds = {side: [count / one["seconds"] for one in several] for side, several in found.items()}
    return [
        {
            "setting": setting,
            "side": side,
            "rows/s": spread(speeds[side]),
            "times trl": ratios(speeds[side], speeds["trl"]),
            "times plain": ratios(speeds[side], speeds["plain"]),
            "packs full": found[side][0].get("full"),
        }
        for side in SIDES
    ]


def main() -> int:
    """Run the rounds of every setting."""
    chosen = options(
        __doc__,
        ("--rows", {"type": int, "default": ROWS}),
        ("--rounds", {"type": int, "default": 3}),
        ("--tokenizer", {"type": Path, "help": "another folder than that of SmolLM2's tokenizer"}),
        ("--settings", {"nargs": "+", "choices": list(SETTINGS), "default": list(SETTINGS)}),
    )
    path, tokenizer = rows_file("chat", chosen.rows), chosen.tokenizer or model_folder("smollm2")
    rows, goals = [], []
    for setting in chosen.settings:
        if (SETTINGS[setting] or 0) > cores():
            continue
        measure = partial(measured, setting=setting, path=path, tokenizer=tokenizer)
        own, *others = compare(setting, in_turns(list(SIDES), chosen.rounds, measure), chosen.rows)
        rows += [own, *others]
        goals.append(Goal(f"times trl, {setting}", own["times trl"]["median"], GOAL))
        goals.append(Goal(f"packs full, {setting}", own["packs full"], FULL))
    facts = {"rows": chosen.rows, "packed to": MAX_LENGTH}
    return finish(Result("prepare", f"Preparing {chosen.rows} chat rows", rows, goals, facts), chosen.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        sys.exit(main())
