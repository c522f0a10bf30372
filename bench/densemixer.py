"""What DenseMixer costs: a step of training a small mixture with and without, on the CPU, in time and in memory.

    python bench/densemixer.py            # prints the table
    python bench/densemixer.py --write    # writes it into the README of the plugin, which the docs show

Each measure is a process of its own with one thread: forward and backward of two layers of a mixture, the median of some steps in
seconds of the processor, so that what else runs counts little, and the peak of resident memory beyond weights and gradients.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parents[1] / "plugins" / "longline-densemixer" / "README.md"
BEGIN, END = "<!-- begin generated: bench/densemixer.py --write -->", "<!-- end generated -->"
SIZES = ((8, 2), (32, 4), (64, 4))
"""Experts of a layer, and how many a token goes to."""
WAYS = {"plain": 0, "densemixer": 4096, "densemixer, pairs: 512": 512}
NOISE = 20
"""MiB by which two runs of the same differ."""
TOKENS, WIDTH, INNER, STEPS = 1024, 512, 256, 3


def measure(experts: int, picked: int, pairs: int) -> dict[str, float]:
    """Seconds of a step, and MiB that it takes at most."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from longline_densemixer import layers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "moe_intermediate_size": INNER, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(vocab_size=512, num_experts=experts, num_experts_per_tok=picked, norm_topk_prob=True, **sizes, **heads)
    )
    for layer in layers.find(model, pairs, None) if pairs else ():
        layer.attach()
    ids = torch.randint(0, 512, (2, TOKENS // 2))
    before, seconds = 0, []
    for step in range(STEPS + 1):
        model.zero_grad(set_to_none=False)
        begin = time.process_time()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        seconds += [time.process_time() - begin] if step else []
        before = before or sum(weight.numel() * 8 for weight in model.parameters()) // 1024  # weights and gradients
    return {
        "seconds": statistics.median(seconds),
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def table() -> str:
    """The measures as Markdown."""
    lines = ["| experts | " + " | ".join(f"{way}: a step | memory" for way in WAYS) + " |", "|---" * (1 + 2 * len(WAYS)) + "|"]
    for experts, picked in SIZES:
        cells, plain = [], None
        for pairs in WAYS.values():
            command = [sys.executable, __file__, "--one", str(experts), str(picked), str(pairs)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            plain = plain or found
            times, more = found["seconds"] / plain["seconds"], found["memory"] - plain["memory"]
            cells += [f"{found['seconds']:.2f} s" + (f", {times:.1f} times" if pairs else "")]
            cells += [f"{found['memory']:.0f} MiB" if not pairs else "as plain" if abs(more) < NOISE else f"{more:+.0f} MiB"]
        lines.append(f"| {picked} of {experts} | {' | '.join(cells)} |")
    what = f"{TOKENS} tokens through two layers of width {WIDTH}, experts of width {INNER}, float32, eager experts"
    how = "in seconds of one core of a CPU, by `bench/densemixer.py` while other work ran; nothing was measured on a GPU"
    return "\n".join([*lines, "", f"Forward and backward of {what}: {how}."])


def main() -> None:
    """Print, or write."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*map(int, sys.argv[2:]))))
        return
    text = table()
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
