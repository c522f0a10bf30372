"""How fast chat rows become masked tokens, beside trl's SFTTrainer doing the same to the same file.

    python bench/prepare.py --tokenizer FOLDER [--rows 20000] [--rounds 3]

Both start from a JSONL file on disk and end with a data set of input ids and masks, nothing cached. Rounds alternate, so that
whatever else the machine does hits both. trl gets a chat template with generation marks, which it needs for masks; that the
two agree on every learnt token is checked. Needs trl.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_rows(path: Path, count: int) -> None:
    """Conversations of one to three turns, with words of this library's own sources."""
    import transformers

    folder = Path(transformers.__file__).parent
    words = [
        word for file in sorted(folder.glob("*.py"))[:20] for word in file.read_text(encoding="utf-8").split() if word.isalpha()
    ]
    chosen = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(chosen.choices(words, k=chosen.randint(least, most)))

    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            messages = []
            for _ in range(chosen.choice([1, 1, 2, 3])):
                messages.append({"role": "user", "content": text(10, 60)})
                messages.append({"role": "assistant", "content": text(20, 120)})
            stream.write(json.dumps({"messages": messages}) + "\n")


def ours(path: Path, tokenizer: Any) -> tuple[float, int, int]:
    """Seconds, tokens and learnt tokens of Longline."""
    from longline.config.sections import DataSection
    from longline.data import prepare

    tokenizer.chat_template = PLAIN
    started = time.perf_counter()
    data = prepare(DataSection(train=str(path), cache=False, max_length=4096), tokenizer, layout="padded", seed=0)
    return time.perf_counter() - started, data.report.train.tokens, data.report.train.trained_tokens


def theirs(path: Path, tokenizer: Any, processes: int | None, folder: Path) -> tuple[float, int, int]:
    """Seconds, tokens and learnt tokens of trl: reading the file and what SFTTrainer does to it when it is made."""
    from datasets import Dataset, disable_caching, disable_progress_bars
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    disable_caching()
    disable_progress_bars()
    tokenizer.chat_template = TEMPLATE
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    arguments = SFTConfig(
        output_dir=str(folder / "out"),
        assistant_only_loss=True,
        max_length=4096,
        dataset_num_proc=processes,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    tiny = Dataset.from_list([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    started = time.perf_counter()
    SFTTrainer(model=model, args=arguments, train_dataset=tiny, processing_class=tokenizer)
    construction = time.perf_counter() - started
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        started = time.perf_counter()
        rows = Dataset.from_json(str(path), cache_dir=cache)
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        seconds = time.perf_counter() - started - construction
        made = trainer.train_dataset
        tokens = sum(map(len, made["input_ids"]))
        learnt = sum(label != -100 for labels in made["labels"] for label in labels)
    return seconds, tokens, learnt


def main() -> None:
    """Run the rounds and print the medians."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder of a tokenizer, such as that of SmolLM2")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=None, help="dataset_num_proc of trl; Longline uses one process")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    seconds: dict[str, list[float]] = {"longline": [], "trl": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "rows.jsonl"
        write_rows(path, options.rows)
        for _ in range(options.rounds):
            mine, tokens, learnt = ours(path, tokenizer)
            other, their_tokens, their_learnt = theirs(path, tokenizer, options.processes, folder)
            if (tokens, learnt) != (their_tokens, their_learnt):
                raise SystemExit(f"the two disagree: {tokens}/{learnt} against {their_tokens}/{their_learnt} tokens/learnt")
            seconds["longline"].append(mine)
            seconds["trl"].append(other)
    ratios = [other / mine for mine, other in zip(seconds["longline"], seconds["trl"], strict=True)]
    print(f"{options.rows} rows, {tokens} tokens, {learnt} learnt, in both")
    for name, times in seconds.items():
        median = statistics.median(times)
        speed = f"{options.rows / median:7.0f} rows/s  {tokens / median:9.0f} tokens/s"
        print(f"{name:9} {median:6.1f} s  {speed}  ({min(times):.1f} to {max(times):.1f} s)")
    print(f"longline is {statistics.median(ratios):.1f} times as fast ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
