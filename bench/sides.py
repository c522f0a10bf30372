"""One training process of one side: `run_side` starts it and reads what its recorder wrote; run as a program it is a side.

Sides: `longline` is the real command with a config; `trl` is SFTTrainer or DPOTrainer with its defaults but for what makes the work
the same (model, rows, length, batch, float32, no gradient checkpointing where that is said); `bare` is a PyTorch loop over the same
batches as Longline's, with the model's own loss over all logits; `gemm` multiplies matrices, to know what the machine can do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import HERE, Others, cache
from corpus import MAX_LENGTH, PAIRS, ROWS, model_folder, rows_file
from recorder import Recorder

LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
LEARNING_RATE = 1e-4
DISTURBED, ATTEMPTS = 5, 3
LLAMAFACTORY = "LONGLINE_BENCH_LLAMAFACTORY"
"""Names the Python of an environment that has LLaMA-Factory; without it, that side is left out."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained. `threads` None: as the side sets them itself; `launch` starts trl as `trl sft` does."""

    side: str
    method: str = "sft"
    shape: str = "7m"
    batch: int = 8
    steps: int = 12
    length: int = MAX_LENGTH
    rows: int = ROWS
    packing: bool = True
    lora: bool = False
    bf16: bool = False
    checkpointing: bool | None = None
    threads: int | None = None
    launch: bool = False
    nproc: int = 1
    plugins: int = 0

    @property
    def batches_path(self) -> Path:
        """Where the batches that Longline trains on are kept for the bare loop."""
        return cache() / f"batches-{self.method}-{self.shape}-{self.length}x{self.batch}-{self.steps}.pt"

    @property
    def rows_path(self) -> Path:
        """The rows that are trained on."""
        return rows_file("chat" if self.method == "sft" else "pairs", self.rows if self.method == "sft" else PAIRS)


def run_side(job: Job, *, keep: bool = False) -> dict[str, Any]:
    """Run a job in a process of its own; returns what Recorder wrote, and `others`: the percent of the cores that others took.

    Where others took more than DISTURBED percent it is run again, at most twice. Raises SystemExit with the process's last words.
    """
    for _ in range(ATTEMPTS):
        others = Others()
        found = _run(job, keep)
        found["others"] = round(others.percent(), 1)
        if found["others"] < DISTURBED:
            break
        print(f"  other programs took {found['others']} % of the cores", file=sys.stderr, flush=True)
    return found


def _run(job: Job, keep: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out.json"
        environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache() / "datasets")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        if job.threads:
            environment["OMP_NUM_THREADS"] = str(job.threads)
        command = _longline(job, folder, out, keep, environment) if job.side == "longline" else _worker(job, folder, out)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode or not out.exists():
            raise SystemExit(f"{job.side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(out.read_text())
        manifest = folder / "run" / "run.json"
        if manifest.exists():
            found["manifest"] = json.loads(manifest.read_text())
    return found


def _worker(job: Job, folder: Path, out: Path) -> list[str]:
    paths = {"model": model_folder(job.shape), "rows_file": job.rows_path, "batches": job.batches_path, "out": out}
    (folder / "job.json").write_text(json.dumps({**asdict(job), **{name: str(path) for name, path in paths.items()}}))
    program = [str(HERE / "sides.py"), str(folder / "job.json")]
    if job.launch:
        return [sys.executable, "-m", "accelerate.commands.launch", *program]
    elsewhere = os.environ.get(LLAMAFACTORY) if job.side == "llamafactory" else None
    return [elsewhere or sys.executable, *program]


# --- longline -------------------------------------------------------------------------------------------------------------------


def _longline(job: Job, folder: Path, out: Path, keep: bool, environment: dict[str, str]) -> list[str]:
    """The real command, with the recorder installed as a plugin on the path."""
    idle = [f"idle{number} = recorder:IdlePlugin" for number in range(job.plugins)]
    installed = folder / "plugins" / "longline_recorder-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-recorder\nVersion: 0\n")
    (installed / "entry_points.txt").write_text("\n".join(["[longline]", "recorder = recorder:RecorderPlugin", *idle]))
    environment["PYTHONPATH"] += os.pathsep + str(folder / "plugins")
    path = folder / "config.yaml"
    path.write_text(json.dumps(config(job, folder, out, keep)))  # JSON is YAML
    command = [sys.executable, "-m", "longline", "train", str(path)]
    return command if job.nproc == 1 else [*command, "--nproc", str(job.nproc)]


def config(job: Job, folder: Path, out: Path, keep: bool) -> dict[str, Any]:
    """Longline's config of a job."""
    data: dict[str, Any] = {"train": str(job.rows_path), "max_length": job.length, "cache_dir": str(cache() / "prepared")}
    if job.method == "sft":
        data["packing"] = job.packing
    recorder = {"out": str(out), "keep": str(job.batches_path) if keep else None}
    made = {
        "method": job.method,
        "model": {"path": str(model_folder(job.shape)), "dtype": "auto" if job.bf16 else "float32"},
        "data": data,
        "trainer": {
            "max_steps": job.steps,
            "per_device_train_batch_size": job.batch,
            "learning_rate": LEARNING_RATE,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "plugins": {**{f"idle{number}": {} for number in range(job.plugins)}, "recorder": recorder},
        "output_dir": str(folder / "run"),
    }
    return {**made, "adapter": {"type": "lora", **LORA}} if job.lora else made


# --- the other sides, each in its process ---------------------------------------------------------------------------------------


def trl(job: dict[str, Any], recorder: Recorder) -> None:
    """trl's trainer."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            recorder.step()

        def on_log(self, *args: Any, logs: Any = None, **kwargs: Any) -> None:
            recorder.losses += [logs["loss"]] if "loss" in (logs or {}) else []

    common = {
        "output_dir": "trl",
        "max_length": job["length"],
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["batch"],
        "learning_rate": LEARNING_RATE,
        "bf16": job["bf16"],
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **({} if job["checkpointing"] is None else {"gradient_checkpointing": job["checkpointing"]}),
    }
    sft = job["method"] == "sft"
    args = SFTConfig(**common, packing=True, assistant_only_loss=True) if sft else DPOConfig(**common)
    rows = load_dataset("json", data_files=job["rows_file"], split="train")
    trainer = (SFTTrainer if sft else DPOTrainer)(
        model=job["model"],
        args=args,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if job["lora"] else None,
        callbacks=[Steps()],
    )
    trainer.data_collator = recorder.counting(trainer.data_collator)
    trainer.train()


def llamafactory(job: dict[str, Any], recorder: Recorder) -> None:
    """LLaMA-Factory, in an environment of its own; samples in a pack are kept apart, as on the other sides."""
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, *args: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
            loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
            loader.collate_fn = recorder.counting(loader.collate_fn)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            recorder.step()

    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages"}
    rows = {
        "file_name": job["rows_file"],
        "formatting": "sharegpt",
        "columns": columns,
        "tags": {**tags, "system_tag": "system"},
    }
    Path("dataset_info.json").write_text(json.dumps({"rows": rows}))
    lora = {"lora_rank": LORA["r"], "lora_alpha": LORA["lora_alpha"], "lora_target": ",".join(LORA["target_modules"])}
    arguments = {
        "model_name_or_path": job["model"],
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if job["lora"] else "full",
        **(lora if job["lora"] else {}),
        "dataset": "rows",
        "dataset_dir": ".",
        "template": "chatml",
        "cutoff_len": job["length"],
        "packing": True,
        "neat_packing": True,
        "output_dir": "llamafactory",
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["batch"],
        "learning_rate": LEARNING_RATE,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "bf16": job["bf16"],
        **({} if job["checkpointing"] is None else {"disable_gradient_checkpointing": not job["checkpointing"]}),
    }
    run_exp(arguments, callbacks=[Steps()])


def bare(job: dict[str, Any], recorder: Recorder) -> None:
    """The least that trains: the same batches, the model's own loss, clipped gradients, AdamW."""
    import torch
    from transformers import AutoModelForCausalLM

    batches = torch.load(job["batches"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    if job["lora"]:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    model.train()
    for batch in batches:
        names = ("input_ids", "labels", "position_ids")
        with torch.autocast("cpu", torch.bfloat16, enabled=job["bf16"]):
            loss = model(**{name: batch[name] for name in names}, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recorder.losses.append(loss.item())
        recorder.step()
    recorder.tokens = [int(batch["token_count"]) for batch in batches]
    recorder.slots = [batch["input_ids"].numel() for batch in batches]
    recorder.trained = [int((batch["labels"] != -100).sum()) for batch in batches]


def gemm(job: dict[str, Any], recorder: Recorder) -> None:
    """Multiply square matrices; `tokens` are floating point operations here, so that a rate is FLOP/s."""
    import torch

    size = 2048
    left, right = (torch.randn(size, size, dtype=torch.bfloat16 if job["bf16"] else torch.float32) for _ in range(2))
    for _ in range(job["steps"]):
        left @ right
        recorder.tokens.append(2 * size**3)
        recorder.step()
    recorder.slots = recorder.trained = recorder.tokens


SIDES = {"trl": trl, "llamafactory": llamafactory, "bare": bare, "gemm": gemm}


def main(path: str) -> None:
    """Run the job that a file describes."""
    job = json.loads(Path(path).read_text())
    recorder = Recorder()
    SIDES[job["side"]](job, recorder)
    recorder.write(job["out"])


if __name__ == "__main__":
    main(sys.argv[1])
