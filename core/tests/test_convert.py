"""`longline convert`: each file of convert/ has what comes of it beside it, config and report; and what holds for all of them.

python core/tests/test_convert.py     # writes what comes of each anew; read the difference
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from longline import __version__
from longline.cli import run_cli
from longline.cli.convert import report
from longline.config import document
from longline.config.loader import load_config
from longline.converters import Draft, translate
from longline.converters.axolotl import RULES, STRANGE
from longline.converters.axolotl import convert as from_axolotl
from longline.converters.axolotl.elsewhere import rule_of
from longline.converters.writer import written
from longline.errors import ConfigError
from longline.testing import chat

CASES = sorted(path.name.removesuffix(".yaml") for path in (Path(__file__).parent / "convert").glob("*.yaml"))
FOLDER = Path(__file__).parent / "convert"
LEAST = "base_model: acme/m\ndatasets: [{path: acme/d, type: chat_template}]\nlearning_rate: 1e-4\n"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the data files that some cases name."""
    monkeypatch.chdir(tmp_path)
    for name in ("rows", "more"):
        Path(f"{name}.jsonl").write_text('{"messages": []}\n')
    Path("tasks").mkdir()
    for module, function in (("my_rewards", "right"), ("tasks/scores", "short")):
        Path(f"{module}.py").write_text(
            f"def {function}(prompts, completions, **columns):\n    return [0.0] * len(completions)\n"
        )


def convert(text: str) -> Draft:
    Path("axolotl.yaml").write_text(text)
    return translate("axolotl", Path("axolotl.yaml"))


def made_of(case: str) -> tuple[str, str]:
    """Config and report, without what changes with the version and the place of the file."""
    draft = translate("axolotl", FOLDER / f"{case}.yaml")
    lines = (line.replace(f"{FOLDER}/", "") for line in report(draft))
    return written(draft).replace(__version__, "VERSION"), "".join(f"{line}\n" for line in lines)


# --- what comes of each file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_config_and_report(case: str) -> None:
    config, told = made_of(case)
    assert config == (FOLDER / f"{case}.config").read_text()
    assert told == (FOLDER / f"{case}.report").read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_config_passes_and_reads_back_the_same(case: str) -> None:
    draft = translate("axolotl", FOLDER / f"{case}.yaml")
    text = written(draft)
    Path("out.yaml").write_text(text)
    load_config("out.yaml", environ={})
    assert document.parse(text, "out").plain() == draft.config
    assert yaml.safe_load(text) == draft.config, "another reader of YAML takes it for something else"


def leaves(value: object, keys: tuple = ()) -> list[tuple]:
    """The keys of everything that holds nothing else; lists of plain values are one."""
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in leaves(item, (*keys, str(key)))]
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return [leaf for number, item in enumerate(value) for leaf in leaves(item, (*keys, number))]
    return [keys]


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_dropped(case: str) -> None:
    """Every key of the file, read by another reader, has a word in the report; and no word is about what is not there."""
    content = yaml.safe_load((FOLDER / f"{case}.yaml").read_text())
    draft = translate("axolotl", FOLDER / f"{case}.yaml")
    for keys in leaves(content):
        above = any(keys[:length] in draft.entries for length in range(1, len(keys) + 1))
        items = [entry for entry in draft.entries if entry[: len(keys)] == keys]
        value = content
        for key in keys:
            value = value[key]
        assert above or len(items) == len(value), f"nobody spoke of {keys}"
    for keys, entry in draft.entries.items():
        assert draft.root.find(keys) is not None, keys
        for place in entry.to:
            value = draft.config
            for key in place:
                value = value[key]


@pytest.mark.parametrize("case", CASES)
def test_every_comment_is_kept(case: str) -> None:
    source, text = (FOLDER / f"{case}.yaml").read_text(), made_of(case)[0]
    for comment in re.findall(r"(?:^|\s)(#.*)", source):
        assert comment.strip() in text


TRICKY = """\
# head\r
base_model: "acme/m#1"  # beside \u00e9\r
datasets: [  # opened\r
  {path: acme/d, type: chat_template},  # one\r
]  # closed\r
chat_template_jinja: |  # of a text\r
  {# no comment #}\r
  # neither {{ messages }}\r
learning_rate: 1e-4\r
wandb_name: 'a # b'\r
  # in between\r
seed: 3 # last\r
# foot\r
"""


def test_only_comments_are_comments() -> None:
    text = written(convert(TRICKY))
    for comment in ("head", "beside \u00e9", "opened", "one", "closed", "of a text", "in between", "last", "foot"):
        assert text.count(f"# {comment}") == 1
    assert "    chat_template: |\n      {# no comment #}\n      # neither {{ messages }}\n" in text
    assert "# no comment" not in text.replace("{# no comment #}", "")
    assert document.parse(text, "out").plain()["trainer"]["seed"] == 3
    assert "  path: acme/m#1  # beside" in text


# --- every key is known -------------------------------------------------------------------------------------------------------


def test_every_key_of_axolotl_is_known() -> None:
    """The names in axolotl 0.19's schema and its plugins'."""
    names = (FOLDER / "keys.txt").read_text().split()
    assert [name for name in names if not (RULES.get(name) or rule_of(name))] == []


VALUES = ("word", 3, False, {"a": 1}, [{"path": "acme/e", "type": "completion"}])


def said(key: str, value: object) -> bool:
    """Whether somebody who knows the key spoke of this value: a place, a word or a problem; anything raised is a fault."""
    Path("a.yaml").write_text(LEAST.replace(f"{key}:", "not_it:") + json.dumps({key: value})[1:-1] + "\n")
    draft = Draft.read(Path("a.yaml"), "axolotl")
    try:
        from_axolotl(draft)
        draft.finish()
    except ConfigError:
        return key == "base_model"
    assert written(draft)
    assert list(report(draft))
    if any(problem.path.partition(".")[0] == key for problem in draft.problems):
        return True
    notes = [entry.note for keys, entry in draft.entries.items() if keys[0] == key]
    return bool(notes) and not any(note == STRANGE or note.startswith("nobody here") for note in notes)


def test_what_a_rule_knows_is_spoken_of() -> None:
    """With any value there is a config or a problem, and one value at least is known to the function that knows the key."""
    known = {key: [said(key, value) for value in VALUES] for key in RULES if "*" not in key}
    assert [key for key, told in known.items() if not any(told)] == []


# --- values -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "place", "value"),
    [
        ("evals_per_epoch: 4\nnum_epochs: 3\nval_set_size: 0.1", ("trainer", "eval_steps"), 0.083333),
        ("evals_per_epoch: 1\nnum_epochs: 1\nval_set_size: 0.1", ("trainer", "eval_strategy"), "epoch"),
        ("val_set_size: 0.1", ("trainer", "eval_strategy"), "no"),
        ("saves_per_epoch: 1\nnum_epochs: 0.5", ("trainer", "save_strategy"), "epoch"),
        ("saves_per_epoch: 2\nnum_epochs: 0.5\nsave_strategy: no", ("trainer", "save_strategy"), "no"),
        ("warmup_steps: 0.1", ("trainer", "warmup_steps"), 0.1),
        ("warmup_ratio: 0.2", ("trainer", "warmup_steps"), 0.2),
        ("batch_size: 12\nmicro_batch_size: 4", ("trainer", "gradient_accumulation_steps"), 3),
        ("adapter: lora\nbf16: auto", ("model", "dtype"), "auto"),
        ("adapter: lora\nfp16: true", ("model", "dtype"), "float16"),
        ("fp16: true", ("model", "dtype"), "float32"),
        ("bf16: true\nfp16: true", ("trainer", "bf16"), True),
        ("bf16: false", ("model", "dtype"), "float32"),
        ("bf16: full", ("model", "dtype"), "bfloat16"),
        ("flash_attention: true", ("model", "attn_implementation"), "flash_attention_2"),
        ("attn_implementation: flex_attention\nsdp_attention: true", ("model", "attn_implementation"), "flex_attention"),
        ("special_tokens: {pad_token: <p>}", ("model", "tokenizer", "pad_token"), "<p>"),
        ("tokens: {eos_token: <e>}", ("model", "tokenizer", "eos_token"), "<e>"),
        ("val_set_size: 0.02", ("data", "eval_fraction"), 0.02),
        ("excess_length_strategy: raise", ("data", "too_long"), "error"),
        ("sample_packing: true\npretrain_multipack_attn: false", ("data", "join"), True),
        ("gradient_checkpointing: offload", ("trainer", "activation_checkpointing"), True),
        ("fsdp: [full_shard]", ("trainer", "fsdp"), True),
        ("fsdp: [full_shard, offload]", ("trainer", "fsdp_config", "cpu_offload"), True),
        ("fsdp_config: {offload_params: true}", ("trainer", "fsdp"), True),
        ("lr_scheduler: rex", ("trainer", "lr_scheduler_type"), "cosine"),
        ("rl: simpo\ncpo_alpha: 0.5", ("trainer", "cpo_alpha"), 0.5),
        ("optimizer: ao_adamw_8bit", ("trainer", "optim"), "adamw_torch_8bit"),
        ('bf16: "false"', ("model", "dtype"), "float32"),
        ('adapter: ""', ("model", "dtype"), "bfloat16"),
        ("save_steps: '500'", ("trainer", "save_steps"), 500),
        ("lr_scheduler: constant\nwarmup_steps: 5", ("trainer", "lr_scheduler_type"), "constant"),
    ],
)
def test_what_axolotl_would_do(lines: str, place: tuple, value: object) -> None:
    Path("rows.yaml").write_text(LEAST + lines + "\n")
    found: object = translate("axolotl", Path("rows.yaml")).config
    for key in place:
        found = found[key]
    assert found == value


def test_a_share_of_the_steps_is_the_step_that_axolotl_means() -> None:
    """transformers rounds `share * steps` up: rounded up itself, a share would come one step late."""
    for epochs in range(1, 7):
        for times in range(1, 6):
            draft = convert(f"{LEAST}saves_per_epoch: {times}\nnum_epochs: {epochs}\n")
            share = draft.config["trainer"].get("save_steps")
            for steps in (epochs * times, epochs * times * 7, epochs * times * 5000):
                assert share is None or math.ceil(share * steps) == steps // (epochs * times)


def test_switched_off_needs_nothing() -> None:
    entries = convert(LEAST + "flash_attn_fuse_mlp: false\nload_in_4bit: false\nrelora: false\n").entries
    assert {entries[(key,)].status for key in ("flash_attn_fuse_mlp", "load_in_4bit", "relora")} == {"unneeded"}


def test_a_text_that_names_no_variable_stays_text() -> None:
    draft = convert(LEAST + "chat_template_jinja: 'a ${HOME} {{ messages }}'\n")
    Path("out.yaml").write_text(written(draft))
    assert load_config("out.yaml").config.model.tokenizer.chat_template == "a ${HOME} {{ messages }}"


def test_no_secret_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(LEAST + "comet_api_key: s3cr3t-key\nmlflow_tracking_uri: http://me:hunter22@host\n")
    assert run_cli(["convert", "axolotl", "a.yaml"]) == 0
    told = capsys.readouterr()
    assert "comet_api_key" in told.err
    assert "s3cr3t" not in told.out + told.err
    assert "hunter22" not in told.out + told.err


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_config_goes_to_standard_output_and_the_report_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(LEAST)
    assert run_cli(["convert", "axolotl", "a.yaml"]) == 0
    told = capsys.readouterr()
    assert yaml.safe_load(told.out)["model"] == {"path": "acme/m", "dtype": "bfloat16"}
    assert "base_model: acme/m -> model.path" in told.err
    assert run_cli(["convert", "axolotl", "a.yaml", "-o", "new/b.yaml"]) == 0
    again = capsys.readouterr()
    assert again.out == ""
    assert again.err.endswith("wrote new/b.yaml; next: longline check new/b.yaml\n")
    assert Path("new/b.yaml").read_text() == told.out
    assert run_cli(["convert", "axolotl", "a.yaml", "-o", "new/b.yaml"]) == 2
    assert "new/b.yaml exists; `convert` never overwrites" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a.yaml: the file is empty"),
        ("# only this\n", "a.yaml: the file is empty"),
        ("- a\n", "a.yaml:1:1: a list at the top"),
        ("words\n", "a.yaml:1:1: a single value at the top"),
        ("a: [\n", "a.yaml:2:1: not valid YAML"),
        ("a: {b: 1\n\tc: 2\n", "a.yaml:2:1"),
        ("base_model: a\nbase_model: b\n", "a.yaml:2:1: `base_model` is given twice; the first is at a.yaml:1:1"),
        ("base_model: !!python/name:os.system x\n", "the YAML tag"),
        ("seed: 1\n", "there is no `base_model`"),
        ("model: {path: a}\ndata: {train: b}\noutput_dir: c\n", "it looks like a config of Longline already"),
        ("base_model: a\nlearning_rate: 1e-4\n", "there are no `datasets`"),
        (LEAST.replace("learning_rate: 1e-4", ""), "there is no `learning_rate`"),
        (LEAST.replace("1e-4", "fast"), "a.yaml:3:16: learning_rate: must be a number"),
        ("base_model: a\nlearning_rate: 1\ndatasets: rows\n", "a.yaml:3:11: datasets: must be a list of data sets"),
        ("base_model: a\nlearning_rate: 1\ndatasets: [{type: alpaca}]\n", "a.yaml:3:12: datasets.0: has no `path`"),
        (LEAST + "trl: [a]\n", "a.yaml:4:6: trl: must be keys with values"),
        (LEAST + "special_tokens: <pad>\n", "special_tokens: must be keys with values"),
        (LEAST + "fsdp_config: file.json\n", "fsdp_config: must be keys with values"),
        (LEAST + "excess_length_strategy: fold\n", "must be one of drop, truncate, raise"),
        (LEAST + "a: &a {b: *a}\n", "an alias that contains itself"),
        (LEAST + "num_epochs: [1]\nsaves_per_epoch: x\n", "num_epochs: must be a number"),
    ],
)
def test_a_file_that_is_no_config_of_axolotl(text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(text)
    assert run_cli(["convert", "axolotl", "a.yaml", "-o", "out.yaml"]) == 2
    assert told in capsys.readouterr().err
    assert not Path("out.yaml").exists()


def test_a_file_or_a_tool_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.yaml").write_text(LEAST)
    assert run_cli(["convert", "axolotl", "god.yaml"]) == 2
    assert "god.yaml: no such file\n  hint: did you mean good.yaml?" in capsys.readouterr().err
    assert run_cli(["convert", "axolotl", "."]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert run_cli(["convert", "axlotl", "good.yaml"]) == 2
    assert "there is no converter 'axlotl'\n  hint: did you mean 'axolotl'?" in capsys.readouterr().err


def test_nothing_heavy_is_imported() -> None:
    Path("a.yaml").write_text(LEAST + "rl: dpo\n")
    code = (
        "import sys; from longline.cli import run_cli; code = run_cli(['convert', 'axolotl', 'a.yaml'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'trl', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- converters of others -----------------------------------------------------------------------------------------------------


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on sys.path that brings a converter, and parts of axolotl's."""
    site = tmp_path / "site"
    info = site / "longline_others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-others\nVersion: 1.0\n\n")
    name = f"others_{tmp_path.name}"
    entries = f"fishing = {name}:fishing\naxolotl.nets = {name}:nets"
    (info / "entry_points.txt").write_text(f"[longline.converters]\n{entries}\n")
    module = site / f"{name}.py"
    module.write_text(
        "def fishing(draft):\n"
        "    draft.put('model.path', draft.get('boat'), 'boat', note='a boat')\n"
        "def nets(draft):\n"
        "    draft.put('plugins.nets.width', draft.get('net_width'), 'net_width')\n"
    )
    monkeypatch.syspath_prepend(site)
    return module


def test_a_distribution_brings_a_converter(others: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("boat: acme/m  # old\nsail: 1\n")
    assert run_cli(["convert", "fishing", "a.yaml"]) == 0
    told = capsys.readouterr()
    assert "  path: acme/m  # old\n" in told.out
    assert "  boat: acme/m -> model.path; a boat\n" in told.err
    assert "  sail: 1; nearest: nobody here knows this key of fishing\n" in told.err


def test_a_plugin_translates_its_own_keys(others: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(LEAST + "net_width: 3\n")
    assert run_cli(["convert", "axolotl", "a.yaml"]) == 0
    told = capsys.readouterr()
    assert yaml.safe_load(told.out)["plugins"] == {"nets": {"width": 3}}
    assert "  net_width: 3 -> plugins.nets.width\n" in told.err


def test_a_part_that_raises_is_named(others: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others.write_text("def nets(draft):\n    raise KeyError('net')\n")
    Path("a.yaml").write_text(LEAST)
    assert run_cli(["convert", "axolotl", "a.yaml"]) == 3
    assert "the converter 'axolotl.nets' raised KeyError: 'net'" in capsys.readouterr().err


# --- what is learnt -----------------------------------------------------------------------------------------------------------

ASKED, SAID, REFUSED = "How many hooks?", "Seven.", "None."
USER, ANSWER, OTHER = (
    {"role": role, "content": text} for role, text in (("user", ASKED), ("assistant", SAID), ("assistant", REFUSED))
)
CHATML = f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n⟦{{}}<|im_end|>⟧"


@pytest.mark.parametrize(
    ("lines", "source", "row", "shown"),
    [
        ("", "type: chat_template", {"messages": [USER, ANSWER]}, [CHATML.format(SAID)]),
        ("", "type: alpaca_chat.load_qa", {"question": ASKED, "answer": SAID}, [CHATML.format(SAID)]),
        ("", "type: completion, field: body", {"body": "one line"}, ["o⟦ne line<|im_end|>⟧"]),
        ("", "type: input_output", {"segments": [{"label": False, "text": "a"}, {"label": True, "text": "b"}]}, ["a⟦b⟧"]),
        ("", "type: {field_instruction: q, field_output: a}", {"q": ASKED, "a": SAID}, [f"{ASKED} ⟦{SAID}<|im_end|>⟧"]),
        (
            "",
            'type: {field_instruction: q, field_output: a, format: "[{instruction}|{input}]", no_input_format: "[{instruction}]"}',
            {"q": ASKED, "a": SAID},
            [f"[{ASKED}]⟦{SAID}<|im_end|>⟧"],
        ),
        ("rl: dpo", "type: chat_template.default", {"messages": [USER], "chosen": ANSWER, "rejected": OTHER}, None),
        ("rl: dpo", "type: chat_template.default", {"messages": ASKED, "chosen": SAID, "rejected": REFUSED}, None),
        ("rl: dpo", "type: chatml.intel", {"question": ASKED, "chosen": SAID, "rejected": REFUSED}, None),
        ("rl: ipo", "type: chatml.icr", {"input": ASKED, "chosen": SAID, "rejected": REFUSED}, None),
        ("rl: dpo", "type: llama3.ultra", {"prompt": ASKED, "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, None),
        ("rl: orpo", "type: chat_template.argilla", {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, None),
        (
            "reward_model: true",
            "type: bradley_terry.chat_template",
            {"input": ASKED, "chosen": SAID, "rejected": REFUSED},
            None,
        ),
        ("rl: kto", "type: chatml.argilla", {"instruction": ASKED, "completion": SAID, "label": True}, [CHATML.format(SAID)]),
        ("rl: kto", "type: chatml.argilla_chat", {"completion": [USER, ANSWER], "label": True}, [CHATML.format(SAID)]),
    ],
)
def test_rows_are_learnt_as_axolotl_would(
    lines: str, source: str, row: dict, shown: list[str] | None, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `preview` shows of a row with a ChatML tokenizer; of pairs both sides."""
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    Path("a.yaml").write_text(
        f"base_model: {tiny_model_dir}\nlearning_rate: 1e-4\nbf16: false\nsequence_len: 256\n{lines}\n"
        f"datasets: [{{path: rows.jsonl, ds_type: json, split: train, {source}}}]\n"
    )
    assert run_cli(["convert", "axolotl", "a.yaml", "-o", "b.yaml"]) == 0
    capsys.readouterr()
    assert run_cli(["preview", "b.yaml", "--set", "data.cache=false"]) == 0
    told = capsys.readouterr().out
    for text in shown or [CHATML.format(SAID), CHATML.format(REFUSED)]:
        assert f"\n{text}\n" in told


# --- a real run ---------------------------------------------------------------------------------------------------------------


def test_a_converted_config_trains(tiny_model_dir: Path) -> None:
    rows = [{"conversations": [{"from": m["role"], "value": m["content"]} for m in row["messages"]]} for row in chat(24)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("a.yaml").write_text(
        f"base_model: {tiny_model_dir}\n"
        "datasets:\n  - {path: rows.jsonl, ds_type: json, type: chat_template, field_messages: conversations,\n"
        "     message_property_mappings: {role: from, content: value}}\n"
        "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nsequence_len: 128\nsample_packing: true\n"
        "val_set_size: 0.25\nmicro_batch_size: 2\nnum_epochs: 2\nlearning_rate: 1e-2\noptimizer: adamw_torch\nbf16: auto\n"
        "evals_per_epoch: 1\nsaves_per_epoch: 1\nlogging_steps: 1\noutput_dir: run\nwandb_project:\n"
    )
    assert run_cli(["convert", "axolotl", "a.yaml", "-o", "a.longline.yaml"]) == 0
    assert run_cli(["check", "a.longline.yaml"]) == 0
    assert run_cli(["train", "a.longline.yaml"]) == 0
    manifest = json.loads(Path("run/run.json").read_text())
    assert manifest["status"] == "completed"
    logged = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert next(event["step"] for event in logged if "eval_loss" in event) == 0, "axolotl evaluates before the first step"


if __name__ == "__main__":
    for name in CASES:
        for ending, text in zip(("config", "report"), made_of(name), strict=True):
            (FOLDER / f"{name}.{ending}").write_text(text)
    sys.exit(0)
