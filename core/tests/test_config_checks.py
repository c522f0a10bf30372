"""What must fit together across sections: each contradiction at its place, with a remedy; what fits is let through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longline.config.checks import missing_files
from longline.config.loader import load_config
from longline.errors import ConfigError

BASE = "model: {path: a/b}\ndata: {train: a/b}\noutput_dir: o\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two data files, a model folder and a file in the way."""
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("{}\n", encoding="utf-8")
    Path("empty.jsonl").touch()
    Path("model").mkdir()
    Path("hollow").mkdir()
    Path("tiny.gguf").write_bytes(b"GGUF")
    Path("in_the_way").touch()
    Path("template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return tmp_path


def mistakes(*overrides: str) -> list[str]:
    Path("c.yaml").write_text(BASE, encoding="utf-8")
    try:
        load_config(Path("c.yaml"), overrides)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


NO_EVAL = "(add data.eval, or data.eval_fraction: 0.05)"
EVAL_OFF = "(set trainer.eval_strategy: steps or epoch)"

WRONG: list[tuple[list[str], list[str]]] = [
    (["model.path=./modle"], ["--set model.path: no such folder: ./modle (did you mean `model`?)"]),
    (["model.path=tinny.gguf"], ["--set model.path: no such file: tinny.gguf (did you mean `tiny.gguf`?)"]),
    (
        ["model.path=~/no/such/model"],
        [f"--set model.path: no such folder: ~/no/such/model (there is no folder {Path.home()}/no)"],
    ),
    (["model.path=train.jsonl"], ["--set model.path: train.jsonl is a file (give its folder, or a file that ends with .gguf)"]),
    (
        ["model.path=https://host/m"],
        ["--set model.path: a url is no model path (a folder, a .gguf file, or a hub id such as owner/name)"],
    ),
    (
        ["model.tokenizer.chat_template=templat.jinja"],
        ["--set model.tokenizer.chat_template: no such file: templat.jinja (did you mean `template.jinja`?)"],
    ),
    (
        ["model.attn_implementation=flash_attention"],
        [
            (
                "--set model.attn_implementation: unknown attention implementation 'flash_attention' "
                "(did you mean `flash_attention_2`?)"
            )
        ],
    ),
    (
        ["model.attn_implementation=owner/kernel", "data.packing=true"],
        [
            (
                "--set data.packing: owner/kernel is not known to keep packed samples apart "
                "(turn packing off, or use one of eager, sdpa, flex_attention, "
                "flash_attention_2, flash_attention_3, flash_attention_4)"
            )
        ],
    ),
    (
        ["trainer.optim_args=momentum=0.9"],
        [
            (
                "--set trainer.optim_args: adamw_torch does not read 'momentum' "
                "(remove it; learning_rate, weight_decay, adam_beta1, adam_beta2, adam_epsilon are fields)"
            )
        ],
    ),
    (
        ["trainer.optim=sgd", "trainer.optim_args=momentm=0.9", "trainer.adam_beta1=0.8"],
        [
            "--set trainer.adam_beta1: sgd does not read it (remove it, or choose another optim)",
            "--set trainer.optim_args: sgd does not read 'momentm' (did you mean `momentum`?)",
        ],
    ),
    (
        ["trainer.optim=sgd", "trainer.optim_args=momentum"],
        ["--set trainer.optim_args: expected name=value, got 'momentum' (name=value,other=value)"],
    ),
    (
        ["trainer.optim_target_modules=[q_proj]"],
        ["--set trainer.optim_target_modules: adamw_torch does not read it (remove it, or choose another optim)"],
    ),
    (
        ["trainer.lr_scheduler_type=constant", "trainer.warmup_steps=10"],
        ["--set trainer.warmup_steps: lr_scheduler_type: constant has no warmup (use constant_with_warmup)"],
    ),
    (
        ["trainer.lr_scheduler_type=cosine", "trainer.lr_scheduler_kwargs={num_cycle: 1}"],
        [
            (
                "--set trainer.lr_scheduler_kwargs: trainer.lr_scheduler_kwargs.num_cycle: cosine does not read it "
                "(did you mean `num_cycles`?)"
            )
        ],
    ),
    (
        [
            "trainer.lr_scheduler_type=reduce_lr_on_plateau",
            "trainer.lr_scheduler_kwargs={patince: 1}",
            "data.eval_fraction=0.1",
        ],
        [
            (
                "--set trainer.lr_scheduler_kwargs: trainer.lr_scheduler_kwargs.patince: reduce_lr_on_plateau does not read it "
                "(did you mean `patience`?)"
            )
        ],
    ),
    (
        ["adapter={type: lora, loftq_config: {loftq_bits: 4}}"],
        [
            (
                "--set adapter: adapter.loftq_config: is not set here "
                "(only init_lora_weights: loftq reads it, which changes the base)"
            )
        ],
    ),
    (
        ["adapter={type: lora, qalora_group_size: 8}"],
        ["--set adapter: adapter.qalora_group_size: only use_qalora: true reads it (remove it)"],
    ),
    (
        ["adapter={type: lora}", "model.quantization={load_in_8bit: true, bnb_4bit_quant_type: nf4}"],
        ["--set model.quantization: model.quantization.bnb_4bit_quant_type: only load_in_4bit reads it (remove it)"],
    ),
    (
        ["adapter={type: lora}", "model.quantization={load_in_4bit: true, llm_int8_threshold: 5.0}"],
        ["--set model.quantization: model.quantization.llm_int8_threshold: only load_in_8bit reads it (remove it)"],
    ),
    (
        ["trainer.gradient_checkpointing_kwargs={use_reentrant: false}"],
        [
            (
                "--set trainer.gradient_checkpointing_kwargs: gradient_checkpointing is off "
                "(set trainer.gradient_checkpointing: true, or remove it)"
            )
        ],
    ),
    (
        ["trainer.fsdp_config={version: 2}"],
        ["--set trainer.fsdp_config: fsdp is off (set trainer.fsdp: true, or remove it)"],
    ),
    (
        ["trainer.fsdp=true", "trainer.fsdp_config={transformer_layer_clz_to_wrap: X}"],
        [
            (
                "--set trainer.fsdp_config: trainer.fsdp_config.transformer_layer_clz_to_wrap: transformers does not read it "
                "(did you mean `transformer_layer_cls_to_wrap`?)"
            )
        ],
    ),
    (
        ["method=dpo", "data.too_long=split", "data.overlap=8", "data.join=true"],
        [
            f"--set data.{name}: dpo takes a row as a whole, which cannot be split (remove it, or set too_long: drop)"
            for name in ("too_long", "overlap", "join")
        ]
        + ["--set data.overlap: joined documents are cut without an overlap (remove it, or data.join)"],
    ),
    (
        ["data.train=[{path: a/b, too_long: drop}]", "data.overlap=8"],
        ["--set data.overlap: nothing is split (remove it, or set data.too_long: split)"],
    ),
    (
        ["data.overlap=1024"],
        [
            (
                "--set data.overlap: a piece of 1024 tokens (data.max_length) would hold nothing new "
                "(set less than data.max_length)"
            )
        ],
    ),
    (
        ["data.join=true", "data.packing=true", "data.too_long=drop"],
        [
            (
                "--set data.join: joined documents fill their rows, and are not isolated as packed ones are "
                "(keep one of data.join and data.packing)"
            ),
            (
                "--set data.join: too_long: drop contradicts it: a joined document goes on in the next row "
                "(remove `too_long`, or data.join)"
            ),
        ],
    ),
    (
        ["trainer.use_cache=true", "data.packing=true"],
        ["--set trainer.use_cache: packed samples are kept apart only without a cache (leave it out)"],
    ),
    (
        ["model.attn_implementation=flash_attention_2", "trainer.use_cpu=true"],
        [
            (
                "--set model.attn_implementation: flash_attention_2 does not run on the CPU that trainer.use_cpu asks for "
                "(leave it out)"
            )
        ],
    ),
    (
        ["model.quantization={load_in_4bit: true}"],
        [
            (
                "--set model.quantization: quantised weights cannot be trained without an adapter "
                "(add `adapter: {type: lora}`, or remove model.quantization)"
            )
        ],
    ),
    (
        ["model.quantization={bnb_4bit_quant_type: nf4}", "adapter={}"],
        [
            (
                "--set model.quantization: neither load_in_4bit nor load_in_8bit is true, so nothing is quantised "
                "(set exactly one of them to true)"
            )
        ],
    ),
    (
        ["model.quantization={load_in_4bit: true, load_in_8bit: true}", "adapter={}"],
        ["--set model.quantization: both 4 and 8 bits are asked for (set exactly one of them to true)"],
    ),
    (["trainer.bf16=true", "trainer.fp16=true"], ["--set trainer.fp16: bf16 and fp16 exclude each other (keep one of them)"]),
    (
        ["model.dtype=bfloat16", "trainer.fp16=true"],
        [
            (
                "--set trainer.fp16: mixed precision in float16 contradicts model.dtype: bfloat16 "
                "(leave one out, or set model.dtype: float32)"
            )
        ],
    ),
    (
        ["model.dtype=float16", "trainer.bf16=true", "adapter={}"],
        [
            (
                "--set trainer.bf16: mixed precision in bfloat16 contradicts model.dtype: float16 "
                "(leave one out, or set model.dtype: bfloat16)"
            )
        ],
    ),
    (
        ["model.dtype=float16"],
        [
            (
                "--set model.dtype: training all weights in float16 overflows: its gradients cannot be scaled "
                "(use dtype: float32 with trainer.fp16: true, or an adapter)"
            )
        ],
    ),
    (
        ["adapter={type: dora, use_dora: false}"],
        ["--set adapter: adapter.use_dora: contradicts adapter.type: dora (remove it, or use type: lora)"],
    ),
    (
        ["adapter.type=rslora", "adapter.use_rslora=false"],
        ["--set adapter.use_rslora: contradicts adapter.type: rslora (remove it, or use type: lora)"],
    ),
    (
        ["data.train=trian.jsonl"],
        ["--set data.train: data.train.0.path: no such file: trian.jsonl (did you mean `train.jsonl`?)"],
    ),
    (
        ["data.train.0.path=nowhere/x.jsonl"],
        ["--set data.train.0.path: no such file: nowhere/x.jsonl (there is no folder nowhere)"],
    ),
    (["data.train.0.path=empty.jsonl"], ["--set data.train.0.path: the file empty.jsonl is empty"]),
    (["data.train.0.path=hollow"], ["--set data.train.0.path: the folder hollow is empty"]),
    (["data.train.0.path='*.csv'"], ["--set data.train.0.path: no file matches *.csv"]),
    (["data.train.0.path=./rows"], ["--set data.train.0.path: no such file: ./rows"]),
    (
        ["data.eval=a/b", "data.eval_fraction=0.1"],
        ["--set data.eval_fraction: data.eval is given too; rows would be set aside for nothing (keep one of them)"],
    ),
    (["trainer.eval_strategy=steps"], [f"--set trainer.eval_strategy: needs evaluation data, and there is none {NO_EVAL}"]),
    (["trainer.eval_steps=5"], [f"--set trainer.eval_steps: needs evaluation data, and there is none {NO_EVAL}"]),
    (["early_stopping={patience: 2}"], [f"--set early_stopping: needs evaluation data, and there is none {NO_EVAL}"]),
    (
        ["trainer.load_best_model_at_end=true", "trainer.metric_for_best_model=loss"],
        [
            f"--set trainer.metric_for_best_model: needs evaluation data, and there is none {NO_EVAL}",
            f"--set trainer.load_best_model_at_end: needs evaluation data, and there is none {NO_EVAL}",
        ],
    ),
    (
        ["trainer.lr_scheduler_type=reduce_lr_on_plateau"],
        [f"--set trainer.lr_scheduler_type: needs evaluation data, and there is none {NO_EVAL}"],
    ),
    (
        ["trainer.greater_is_better=false"],
        [f"--set trainer.greater_is_better: needs evaluation data, and there is none {NO_EVAL}"],
    ),
    (
        ["data.eval=a/b", "trainer.greater_is_better=true"],
        [
            (
                "--set trainer.greater_is_better: the best model would be the one with the greatest loss "
                "(remove it: less of a loss is better)"
            )
        ],
    ),
    (["trainer.save_strategy=best"], [f"--set trainer.save_strategy: needs evaluation data, and there is none {NO_EVAL}"]),
    (
        ["data.eval=a/b", "trainer.eval_strategy=no", "early_stopping={}"],
        [f"--set early_stopping: needs evaluations, but trainer.eval_strategy is no {EVAL_OFF}"],
    ),
    (
        ["data.eval=a/b", "trainer.load_best_model_at_end=true"],
        [
            (
                "--set trainer.load_best_model_at_end: evaluates by epoch but saves by steps, "
                "so the best model may not be saved "
                "(set trainer.save_strategy: epoch, or best)"
            )
        ],
    ),
    (
        ["data.eval=a/b", "trainer={load_best_model_at_end: true, eval_steps: 30, save_steps: 50}"],
        [
            (
                "--set trainer: trainer.load_best_model_at_end: saves every 50 steps, "
                "which is no multiple of the 30 between evaluations "
                "(set trainer.save_steps: 30, or save_strategy: best)"
            )
        ],
    ),
    (
        ["trainer.logging_steps=2.5"],
        ["--set trainer.logging_steps: must be a whole number above 1, or a share of all steps below it, got 2.5"],
    ),
    (
        ["trainer.dataloader_prefetch_factor=2"],
        ["--set trainer.dataloader_prefetch_factor: needs data loader workers (set trainer.dataloader_num_workers: 1 or more)"],
    ),
    (["output_dir=in_the_way"], ["--set output_dir: in_the_way is a file (name a folder that exists or can be made)"]),
    (["output_dir=in_the_way/runs/x"], ["--set output_dir: in_the_way is a file (name a folder that exists or can be made)"]),
]


@pytest.mark.parametrize(("overrides", "expected"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_a_contradiction_is_told(overrides: list[str], expected: list[str]) -> None:
    assert mistakes(*overrides) == expected


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.path=./model"],
        ["model.path=tiny.gguf"],
        ["model.path=name"],
        ["model.tokenizer.chat_template=template.jinja"],
        ["model.tokenizer.chat_template='{{ x }}'"],
        ["trainer.optim=sgd", "trainer.optim_args=momentum=0.9,nesterov=true"],
        [
            "adapter={type: lora}",
            "model.quantization={load_in_4bit: true, bnb_4bit_quant_type: nf4, llm_int8_skip_modules: [a]}",
        ],
        ["trainer.lr_scheduler_type=cosine_with_min_lr", "trainer.lr_scheduler_kwargs={min_lr: 1.0e-6}"],
        ["trainer.lr_scheduler_type=constant", "trainer.optim=schedule_free_adamw", "trainer.warmup_steps=10"],
        ["trainer.gradient_checkpointing=true", "trainer.gradient_checkpointing_kwargs={use_reentrant: false}"],
        ["trainer.optim=ademamix", "trainer.adam_beta1=0.8", "trainer.optim_args=beta3=0.99"],
        ["data.packing=true", "model.attn_implementation=eager"],
        ["data.too_long=split", "data.overlap=8"],
        ["data.train=[{path: a/b, too_long: drop}, c/d]", "data.overlap=8"],
        ["data.join=true"],
        ["data.packing=true", "model.attn_implementation=flash_attention_2"],
        ["model.attn_implementation=owner/kernel"],
        ["model.quantization={load_in_4bit: true}", "adapter={}"],
        ["model.dtype=bfloat16", "trainer.bf16=true", "adapter={}"],
        ["model.dtype=float16", "adapter={}"],
        ["adapter={type: dora, use_dora: true, use_rslora: true}"],
        ["data.train=train.jsonl"],
        ["data.train='*.jsonl'"],
        ["data.train=s3://bucket/rows.jsonl"],
        ["data.eval_fraction=0.1", "early_stopping={}"],
        ["data.eval=a/b", "trainer={load_best_model_at_end: true, eval_steps: 25, save_steps: 50}"],
        ["data.eval=a/b", "trainer={load_best_model_at_end: true, eval_steps: 0.1, save_steps: 0.3}"],
        ["data.eval=a/b", "trainer={load_best_model_at_end: true, save_strategy: best}"],
        ["data.eval=a/b", "trainer={load_best_model_at_end: true, save_strategy: epoch}"],
        ["trainer.eval_strategy=no"],
        ["trainer.dataloader_prefetch_factor=2", "trainer.dataloader_num_workers=1"],
        ["output_dir=new/folders/here"],
    ],
    ids=" ".join,
)
def test_what_fits_is_let_through(overrides: list[str]) -> None:
    assert mistakes(*overrides) == []


def test_a_check_is_left_out_when_what_it_reads_is_wrong_already() -> None:
    """`eval` is there, though misspelled inside; that there is no evaluation data would be a false alarm."""
    assert mistakes("data.eval={path: a/b, limt: 5}", "trainer.eval_strategy=steps", "data.train.0.path=trian.jsonl") == [
        "--set data.eval: data.eval.0.limt: unknown key (did you mean `limit`?)",
        "--set data.train.0.path: no such file: trian.jsonl (did you mean `train.jsonl`?)",
    ]


def test_a_finished_run_can_be_read_where_its_data_is_not() -> None:
    Path("c.yaml").write_text(BASE, encoding="utf-8")
    loaded = load_config(Path("c.yaml"), ["data.train=gone.jsonl"], data_files=False)
    assert loaded.config.data.train[0].path == "gone.jsonl"


def test_missing_files_can_be_looked_for_later() -> None:
    """As where a plugin makes them: the same problems at the same places, and none once they are there."""
    Path("c.yaml").write_text(BASE, encoding="utf-8")
    overrides = ["data.train=[made.jsonl, {path: trian.jsonl}]", "data.eval=later.jsonl"]
    loaded = load_config(Path("c.yaml"), overrides, data_files=False)
    with pytest.raises(ConfigError) as caught:
        load_config(Path("c.yaml"), overrides)
    assert missing_files(loaded) == caught.value.problems
    assert [problem.path for problem in missing_files(loaded)] == ["data.train.0.path", "data.train.1.path", "data.eval.0.path"]
    assert missing_files(loaded)[1].hint == "did you mean `train.jsonl`?"
    for name in ("made.jsonl", "trian.jsonl"):
        Path(name).write_text("{}\n", encoding="utf-8")
    assert [problem.path for problem in missing_files(loaded)] == ["data.eval.0.path"]


def test_a_run_folder_in_a_path_that_is_not_utf_8_is_refused(folder, monkeypatch) -> None:
    """Also where only the working directory is in one."""
    there = folder / os.fsdecode(b"caf\xe9")
    there.mkdir()
    monkeypatch.chdir(there)
    Path("c.yaml").write_text(BASE, encoding="utf-8")
    with pytest.raises(ConfigError) as told:
        load_config(Path("c.yaml"))
    [problem] = told.value.problems
    assert problem.message == f"{folder}/caf\\udce9/o is not UTF-8, and a model can be saved under no such path"
