"""The commands on a real, tiny run: what they print, what they write, how they end."""

from __future__ import annotations

import json
import math
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from longline.cli import run_cli
from longline.testing import chat, merged

# --- one run for all of them --------------------------------------------------------------------------------------------------


class Place:
    """A folder with data and configs."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        for name, rows in (("train", chat(48)[:40]), ("held_out", chat(48)[40:])):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(self, name: str, **overrides) -> Path:
        base = {
            "model": {"path": str(self.model), "dtype": "float32"},
            "adapter": {"type": "lora", "r": 8},
            "data": {
                "train": [{"path": str(self.folder / "train.jsonl"), "format": "chat"}],
                "eval": [{"path": str(self.folder / "held_out.jsonl"), "format": "chat"}],
                "max_length": 128,
                "cache_dir": str(self.folder / "cache"),
            },
            "trainer": {
                "max_steps": 6,
                "per_device_train_batch_size": 4,
                "per_device_eval_batch_size": 3,
                "learning_rate": 0.03,
                "logging_steps": 1,
                "eval_strategy": "steps",
                "eval_steps": 3,
                "save_strategy": "steps",
                "save_steps": 3,
                "use_cpu": True,
            },
            "output_dir": str(self.folder / name),
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(base, overrides)))
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model_dir) -> Place:
    return Place(tmp_path_factory.mktemp("commands"), tiny_model_dir)


@pytest.fixture(scope="module")
def run(place) -> Path:
    """A finished run with an adapter."""
    assert run_cli(["train", str(place.config("run"))]) == 0
    return place.folder / "run"


@pytest.fixture(scope="module")
def full(place) -> Path:
    """A finished run of all weights."""
    config = place.config("full", adapter=None, trainer={"save_strategy": "no", "learning_rate": 0.005})
    assert run_cli(["train", str(config)]) == 0
    return place.folder / "full"


def logged(run: Path, name: str) -> dict[int, float]:
    events = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return {event["step"]: event[name] for event in events if name in event}


def measures(place: Place, *arguments: object) -> dict:
    """`longline evaluate ARGUMENTS --output FILE`, and what the file holds."""
    path = place.folder / "measured" / "out.json"
    assert run_cli(["evaluate", *map(str, arguments), "--output", str(path)]) == 0
    return json.loads(path.read_text())


# --- evaluate -----------------------------------------------------------------------------------------------------------------


def test_evaluate_measures_what_the_trainer_measured(place, run):
    """At another batch size than the trainer's: the loss is a mean over tokens, so it does not matter."""
    for step, loss in logged(run, "eval_loss").items():
        told = measures(place, run, "--checkpoint", f"checkpoint-{step}", "--batch-size", 5)["measures"]
        assert told["eval_loss"] == pytest.approx(loss, abs=1e-5)
        assert told["eval_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert measures(place, run)["measures"]["eval_loss"] == pytest.approx(logged(run, "eval_loss")[6], abs=1e-5)


def test_evaluate_counts_with_an_independent_sum(place, run):
    """The base model's loss and accuracy, computed row by row with transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    loss, right, count = 0.0, 0, 0
    for row in chat(48)[40:]:
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        answer = row["messages"][-1]["content"] + "<|im_end|>"
        ids = tokenizer(prompt + answer, return_tensors="pt")["input_ids"]
        start = len(tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            logits = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        target = ids[0, start:]
        loss -= float(logits.gather(1, target[:, None]).sum())
        right += int((logits.argmax(-1) == target).sum())
        count += len(target)
    told = measures(place, run, "--base")["measures"]
    assert told["eval_tokens"] == count
    assert told["eval_loss"] == pytest.approx(loss / count, abs=1e-5)
    assert told["eval_accuracy"] == pytest.approx(right / count)
    assert measures(place, place.config("run"))["measures"] == told, "a config stands for its untuned model"
    assert measures(place, run)["measures"]["eval_loss"] < told["eval_loss"] - 0.1, "training helped"


def test_evaluate_answers_every_row_and_writes_into_the_run(run, capsys):
    assert run_cli(["evaluate", str(run), "--generate", "--max-new-tokens", "6"]) == 0
    out = capsys.readouterr().out
    path = run / "evaluation" / "model.json"
    assert f"written to           {path}" in out
    told = json.loads(path.read_text())
    assert (told["rows"], told["measures"]["answers"], len(told["predictions"])) == (8, 8, 8)
    assert told["predictions"][0]["reference"] == chat(48)[40]["messages"][-1]["content"]
    assert told["predictions"][0]["prompt"].endswith("<|im_start|>assistant\n")
    assert told["measures"]["exactly_right"] == sum(row["exact"] for row in told["predictions"])
    assert "exactly_right_share" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--checkpoint", "checkpoint-4"], "is none of the run's checkpoints: checkpoint-3, checkpoint-6"),
        (["{folder}/nowhere.yaml"], "nowhere.yaml: no such file"),
        (["{model}"], "evaluate needs a config or a run folder"),
        (["{model}", "--checkpoint", "x"], "is not a run folder"),
        (["{model}", "--set", "data.max_length=5"], "--set changes a config"),
        (["{run}", "--set", "data.eval=null", "--set", "trainer={{}}"], "this config has no evaluation data"),
    ],
)
def test_evaluate_refuses(place, run, arguments, message, capsys):
    values = {"run": run, "folder": place.folder, "model": place.model}
    assert run_cli(["evaluate", *(argument.format(**values) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


# --- generate -----------------------------------------------------------------------------------------------------------------


def greedy(place: Place, text: str, tokens: int) -> str:
    """What the base model continues with, token by token, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(tokens):
        with torch.no_grad():
            best = model(ids).logits[0, -1].argmax()
        if best == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, best.reshape(1, 1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


QUESTION = "How many hooks for 3 eel?"
AS_CHAT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def test_generate_answers_a_prompt_with_and_without_template(place, run, capsys):
    for extra, text in (([], AS_CHAT), (["--raw"], QUESTION)):
        arguments = ["generate", str(run), "--base", "--prompt", QUESTION, "--max-new-tokens", "7", *extra]
        assert run_cli(arguments) == 0
        assert capsys.readouterr().out.strip() == greedy(place, text, 7)
    system = ["--system", "You know fishing lines."]
    assert run_cli(["generate", str(place.model), "--prompt", QUESTION, "--max-new-tokens", "7", *system]) == 0
    head = "<|im_start|>system\nYou know fishing lines.<|im_end|>\n"
    assert capsys.readouterr().out.strip() == greedy(place, head + AS_CHAT, 7)


def test_generate_answers_every_line_of_a_file(place, run, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    asked = [QUESTION, "How many hooks for 4 bream and a very long line of words?", "Hm"]
    rows = [
        asked[0],
        json.dumps({"messages": [{"role": "user", "content": asked[1]}, {"role": "assistant", "content": "left out"}]}),
        "",
        json.dumps({"prompt": asked[2]}),
    ]
    prompts.write_text("\n".join(rows) + "\n")
    output = tmp_path / "deep" / "answers.jsonl"
    base = ["generate", str(run), "--base", "--file", str(prompts), "--max-new-tokens", "5", "--batch-size", "2"]
    assert run_cli([*base, "--output", str(output)]) == 0
    assert f"3 answers written to {output}" in capsys.readouterr().out
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [answer["messages"] for answer in answers] == [[{"role": "user", "content": text}] for text in asked]
    for text, answer in zip(asked, answers, strict=True):
        expected = greedy(place, AS_CHAT.replace(QUESTION, text), 5)
        assert answer["answer"] == expected, "padding changes no answer"
    assert run_cli(base) == 0
    assert capsys.readouterr().out == output.read_text()


def test_generate_uses_the_tuned_model_and_a_checkpoint(run, capsys):
    said = []
    for extra in ([], ["--checkpoint", "checkpoint-6"], ["--base"]):
        assert run_cli(["generate", str(run), "--prompt", QUESTION, "--max-new-tokens", "12", *extra]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'hello\n{"messages": [}\n', ":2: not JSON"),
        (b'{"text": "a"}\n', ":1: a row needs `messages` or `prompt`"),
        (b'{"messages": [{"role": "user"}]}\n', ":1: "),
        (b'{"messages": ["hello"]}\n', ":1: "),
        (b"\n \n", "holds no prompt"),
        (b"caf\xe9\n", "is not UTF-8"),
    ],
)
def test_generate_names_the_line_that_is_broken(place, tmp_path, content, message, capsys):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    assert run_cli(["generate", str(place.model), "--file", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"error: {path}" in error
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file", "nowhere.txt"], "nowhere.txt' does not exist"),
        (["--prompt", "a", "--output", "b"], "--output goes with --file"),
        (["--prompt", "a", "--file", __file__], "--prompt and --file exclude each other"),
        (["--prompt", "a", "--temperature", "-1"], "--temperature"),
    ],
)
def test_generate_refuses(place, arguments, message, capsys):
    assert run_cli(["generate", str(place.model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_generate_reads_a_prompt_from_a_pipe(place):
    done = subprocess.run(
        [sys.executable, "-m", "longline", "generate", str(place.model), "--max-new-tokens", "7"],
        input=QUESTION,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == greedy(place, AS_CHAT, 7)
    assert done.stderr == ""


def test_generate_talks_in_a_terminal_and_remembers(place):
    """A real terminal; the second answer is that to the whole conversation."""
    first = greedy(place, AS_CHAT, 5)
    whole = f"{AS_CHAT}{first}<|im_end|>\n<|im_start|>user\nAnd for 9?<|im_end|>\n<|im_start|>assistant\n"
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "longline", "generate", str(place.model), "--max-new-tokens", "5"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"})
    os.close(theirs)
    try:
        read_until(mine, b"you> ")
        os.write(mine, QUESTION.encode() + b"\n")
        assert first in read_until(mine, b"you> ")
        os.write(mine, b"And for 9?\n")
        assert greedy(place, whole, 5) in read_until(mine, b"you> ")
        os.write(mine, b"\x04")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(mine)


def read_until(terminal: int, mark: bytes, seconds: float = 90) -> str:
    text, end = b"", time.monotonic() + seconds
    while mark not in text:
        assert time.monotonic() < end, text
        if select.select([terminal], [], [], 1)[0]:
            text += os.read(terminal, 4096)
    return text.decode().replace("\r\n", "\n")


# --- merge --------------------------------------------------------------------------------------------------------------------


def test_merge_adds_the_adapter_to_the_weights(place, run, capsys):
    from peft import PeftModel

    assert run_cli(["merge", str(run)]) == 0
    assert f"written to {run / 'merged'}" in capsys.readouterr().out
    assert not list((run / "merged").glob("adapter*"))
    card = (run / "merged" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "This is, merged, an adapter (lora) for" in card
    base = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(run / "merged")(AS_CHAT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        untuned = base(ids).logits
        tuned = PeftModel.from_pretrained(base, run / "model")(ids).logits
        together = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)(ids).logits
    assert torch.allclose(together, tuned, atol=1e-4)
    assert not torch.allclose(together, untuned, atol=0.1)


def test_merge_takes_a_checkpoint_a_type_and_a_place(run, tmp_path):
    final = tmp_path / "half"
    assert run_cli(["merge", str(run), "--checkpoint", "checkpoint-3", "--dtype", "bfloat16", "--output", str(final)]) == 0
    assert json.loads((final / "config.json").read_text())["dtype"] == "bfloat16"
    assert run_cli(["generate", str(final), "--prompt", "Hm", "--max-new-tokens", "2"]) == 0


def test_merge_refuses(run, full, place, tmp_path, capsys):
    assert run_cli(["merge", str(full)]) == 2
    assert "is no adapter: all weights were trained" in capsys.readouterr().err
    assert run_cli(["merge", str(run), "--output", str(tmp_path)]) == 2
    assert f"{tmp_path} exists" in capsys.readouterr().err
    assert run_cli(["merge", str(place.model)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert run_cli(["merge", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.fixture(scope="module")
def plain(place) -> Path:
    """The tiny model with the token that transformers adds to every vocabulary of this kind that it reads from GGUF."""
    model = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    tokenizer.add_tokens("<|endoftext|>", special_tokens=True)
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(place.folder / "plain")
    return place.folder / "plain"


@pytest.fixture(scope="module")
def gguf(place, plain) -> Path:
    """The same as a GGUF file, written by the reference library: float32 weights, rotary pairs as llama.cpp has them."""
    import gguf

    path = place.folder / "tiny.gguf"
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    config, tokenizer = model.config, AutoTokenizer.from_pretrained(plain)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    inner = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.get_added_vocab())
    ordered = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_token_list(ordered)
    writer.add_token_types([3 if token in special else 1 for token in ordered])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in inner["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        target = names.get_name(name, try_suffixes=(".weight",))
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if part in name:
                tensor = tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(target, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("adapter", [{"type": "lora", "r": 4}, None], ids=["lora", "full"])
def test_a_gguf_file_is_tuned_merged_and_saved(place, gguf, plain, adapter, capsys):
    """The same weights from GGUF and from safetensors: the same losses, and what is saved loads without GGUF."""
    name = f"gguf-{'lora' if adapter else 'full'}"
    shape = {"adapter": adapter, "trainer": {"save_strategy": "no", "max_steps": 3}}
    assert run_cli(["train", str(place.config(name, model={"path": str(gguf)}, **shape))]) == 0
    assert run_cli(["train", str(place.config(f"{name}-plain", model={"path": str(plain)}, **shape))]) == 0
    left, right = (logged(place.folder / run, "loss") for run in (name, f"{name}-plain"))
    assert left == pytest.approx(right, abs=1e-4)
    saved = place.folder / name / "model"
    if adapter:
        assert run_cli(["merge", str(place.folder / name)]) == 0
        saved = place.folder / name / "merged"
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    assert "quantization_config" not in json.loads((saved / "config.json").read_text())
    ids = AutoTokenizer.from_pretrained(saved)(AS_CHAT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    capsys.readouterr()
    run = str(place.folder / name)
    assert run_cli(["generate", run, "--prompt", QUESTION, "--max-new-tokens", "1"]) == 0
    assert (
        capsys.readouterr().out.strip() == AutoTokenizer.from_pretrained(saved).decode(best, skip_special_tokens=True).strip()
    )


# --- plan -------------------------------------------------------------------------------------------------------------------


def test_plan_prints_facts_and_who_answers(place, capsys):
    config = str(place.config("planned", trainer={"gradient_accumulation_steps": 3}))
    assert run_cli(["plan", config]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "12 rows a step 4 per device x 3 accumulated x 1 processes" in out
    assert "lora, r=8" in out
    assert run_cli(["plan", config, "--set", "trainer.gradient_accumulation_steps=1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"name": "batch", "value": "4 rows a step", "why": "4 per device x 1 accumulated x 1 processes"} in told["facts"]
    assert told["hooks"]["provide_optimizer"] == ["longline:defaults"]
    assert told["hooks"]["on_log"][0] == "longline:log"
    assert not (place.folder / "planned").exists()


# --- train: how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{folder}/run.yaml", "--set", "trainer.learning_rte=1"],
            "trainer.learning_rte: unknown field (did you mean `learning_rate`?)",
        ),
        (["{folder}/nowhere.yaml"], "nowhere.yaml: no such file"),
        (["{folder}"], "is a folder, not a config file"),
        (["{folder}/run.yaml", "--set", "model.path={folder}/nowhere"], "model.path: no such folder: {folder}/nowhere"),
        (["{folder}/run.yaml", "--set", "data.train.0.path={folder}/nowhere.jsonl"], "nowhere.jsonl"),
        (["{folder}/run.yaml"], "{folder}/run already holds a run"),
        (["{folder}/run.yaml", "--resume", "--overwrite"], "--resume goes on with a run that --overwrite would delete"),
        (["{folder}/run.yaml", "--resume", "{folder}"], "--resume: {folder} is not a checkpoint"),
        (["{folder}/run.yaml", "--set", "output_dir={folder}/new", "--resume"], "has no checkpoint"),
        (["{folder}/run.yaml", "--nproc", "0"], "--nproc"),
        (["{folder}/run.yaml", "--nproc", "2", "--set", "trainer.seed=x"], "trainer.seed"),
    ],
)
def test_train_refuses_with_status_2(place, run, arguments, message, capsys):
    before = (run / "run.json").read_text()
    assert run_cli(["train", *(argument.format(folder=place.folder) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message.format(folder=place.folder) in error
    assert "Traceback" not in error
    assert (run / "run.json").read_text() == before


def test_train_names_a_plugin_that_is_not_there(place, capsys):
    assert run_cli(["train", str(place.config("unplugged")), "--set", "plugins=[nowhere]"]) == 3
    assert "take 'nowhere' out of plugins:" in capsys.readouterr().err
    assert not (place.folder / "unplugged").exists()


def test_a_model_that_is_broken_is_named(place, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(place.model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    assert run_cli(["train", str(place.config("broken", model={"path": str(broken)}))]) == 2
    error = capsys.readouterr().err
    assert f"error: cannot load the model from {broken}" in error
    assert json.loads((place.folder / "broken" / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("arguments", [["--debug", "evaluate", "{m}"], ["evaluate", "{m}", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(place, arguments, capsys):
    filled = [argument.format(m=place.model) for argument in arguments]
    assert run_cli(filled) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert run_cli([argument for argument in filled if argument != "--debug"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_that_does_not_exist(capsys):
    assert run_cli(["trian"]) == 2
    error = capsys.readouterr().err
    assert "no such command 'trian'; did you mean 'train'?" in error


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell):
    """The script that a shell loads, and one completion as the script asks for it."""
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'longline'; from longline.cli import main; main()"]
    ask = {**os.environ, "_LONGLINE_COMPLETE": f"{shell}_source"}
    script = subprocess.run(command, env=ask, capture_output=True, text=True, check=False)
    assert script.returncode == 0
    assert "_LONGLINE_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "longline pre", "COMP_CWORD": "pre" if shell == "fish" else "1"}
    ask = {**os.environ, **words, "_LONGLINE_COMPLETE": f"{shell}_complete"}
    found = subprocess.run(command, env=ask, capture_output=True, text=True, check=False)
    assert "preview" in found.stdout
    assert "preprocess" in found.stdout
    assert "evaluate" not in found.stdout
