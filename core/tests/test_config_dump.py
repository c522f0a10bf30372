"""Secrets stay out of everything; what is written repeats the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from longline.config.dump import dump_resolved
from longline.config.loader import LoadedConfig, load_config
from longline.config.secrets import MASK, Secrets, looks_secret, mask_userinfo
from longline.errors import ConfigError
from longline.text import one_line, showable


class Options(BaseModel):
    """Options of a plugin, as its author declares them."""

    key: SecretStr | None = None
    project: str = "demo"
    every: int = 50


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one data file."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("{}\n", encoding="utf-8")
    return tmp_path


FULL = """\
model:
  path: a/b
  token: ${HF_TOKEN}
  overrides: {a: "yes", b: 1e-4, c: "1e-4", d: "12:30", e: {1: null}, f: "$${HOME} x", g: [true, "true"],
    h: "0x10", i: "é\\n\\u0007"}
  tokenizer: {add_tokens: ["<a>", "<b>"], chat_template: "{% for m in messages %}\\n  {{ m }}\\n{% endfor %}"}
adapter: {type: dora, r: 4, target_modules: null, lora_alpha: 8, rank_pattern: {q.1: 2}}
data:
  train: [FOLDER/rows.jsonl, {path: a/rows, columns: {messages: talk}, roles: {bot: assistant}, weight: 0.5}]
  eval_fraction: 0.1
  cache_dir: FOLDER/cache
trainer: {learning_rate: 1e-5, max_steps: 3, eval_strategy: no}
plugins: {one: , two: {key: "${TWO_KEY}", x: [1, "2"], on_error: raise}}
output_dir: FOLDER/runs
"""
ENVIRON = {"HF_TOKEN": "hf_s3cretvalue", "TWO_KEY": "k3yk3y"}


def load(text: str, *overrides: str) -> LoadedConfig:
    Path("c.yaml").write_text(text.replace("FOLDER", str(Path.cwd())), encoding="utf-8")
    return load_config(Path("c.yaml"), overrides, ENVIRON)


def again(text: str) -> LoadedConfig:
    Path("again.yaml").write_text(text, encoding="utf-8")
    return load_config(Path("again.yaml"), (), ENVIRON)


def test_what_is_written_loads_to_the_same_config() -> None:
    loaded = load(FULL, "trainer.seed=7", "data.train.0.limit=5", "plugins.one.deep.er=[a]")
    text = dump_resolved(loaded)
    reloaded = again(text)
    assert reloaded.config == loaded.config
    assert reloaded.config.trainer["seed"] == 7
    assert reloaded.env_refs == {"model.token": "HF_TOKEN", "plugins.two.key": "TWO_KEY"}
    assert dump_resolved(reloaded) == text


def test_no_secret_is_written_and_a_reference_stays_one() -> None:
    text = dump_resolved(load(FULL), {"two": Options(key=SecretStr("k3yk3y"))})
    assert "hf_s3cretvalue" not in text
    assert "k3yk3y" not in text
    data = yaml.safe_load(text)
    assert data["model"]["token"] == "${HF_TOKEN}"
    assert data["plugins"]["two"] == {"key": "${TWO_KEY}", "project": "demo", "every": 50, "on_error": "raise"}


def test_a_secret_in_the_file_is_masked_and_the_mask_refused() -> None:
    text = dump_resolved(
        load(FULL, "model.token=plain-s3cret", "plugins.two.key=other-s3cret"), {"two": Options(key=SecretStr("other-s3cret"))}
    )
    assert "s3cret" not in text
    with pytest.raises(ConfigError) as caught:
        again(text)
    assert [problem.path for problem in caught.value.problems] == ["model.token", "plugins.two.key"]
    assert all(MASK in problem.message and "${NAME}" in (problem.hint or "") for problem in caught.value.problems)


def test_urls_lose_user_and_password_unless_they_are_references() -> None:
    text = dump_resolved(load(FULL, "data.train=['https://me:${TWO_KEY}@host/a.jsonl', 'https://me:pass@host/b.jsonl']"))
    paths = [source["path"] for source in yaml.safe_load(text)["data"]["train"]]
    assert paths == ["https://me:${TWO_KEY}@host/a.jsonl", f"https://{MASK}@host/b.jsonl"]


def test_local_paths_become_absolute() -> None:
    data = yaml.safe_load(
        dump_resolved(
            load("model: {path: a/b}\ndata: {train: [rows.jsonl, '*.jsonl', a/b], cache_dir: cache}\noutput_dir: runs/x\n")
        )
    )
    here = str(Path.cwd())
    assert [source["path"] for source in data["data"]["train"]] == [f"{here}/rows.jsonl", f"{here}/*.jsonl", "a/b"]
    assert (data["data"]["cache_dir"], data["output_dir"], data["model"]["path"]) == (f"{here}/cache", f"{here}/runs/x", "a/b")


class Places(BaseModel):
    """A plugin whose options are paths, at any depth."""

    log_dir: Path | None = None
    files: dict[str, list[Path]] = {}
    name: str = ""


def test_what_a_plugin_calls_a_path_becomes_absolute_and_a_text_if_it_names_a_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "team" / "demo").mkdir(parents=True)
    (tmp_path / "word").write_text("")
    (tmp_path / "words.txt").write_text("")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    options = Places.model_validate({"log_dir": "logs", "files": {"a": ["b", "~/c", "/d"]}, "name": "words.txt"})
    loaded = load(
        "model: {path: a/b}\ndata: {train: a/b}\noutput_dir: /o\nplugins: {places: {}, raw: {b: ./teacher, c: word, d: team/demo}}"
        "\ntrainer: {deepspeed: words.txt}\n"
    )
    data = yaml.safe_load(dump_resolved(loaded, {"places": options}))
    assert data["plugins"] == {
        "places": {
            "log_dir": f"{tmp_path}/logs",
            "files": {"a": [f"{tmp_path}/b", str(Path("~/c").expanduser()), "/d"]},
            "name": f"{tmp_path}/words.txt",
        },
        "raw": {"b": f"{tmp_path}/teacher", "c": "word", "d": "team/demo"},
    }
    assert data["trainer"] == {"deepspeed": f"{tmp_path}/words.txt"}


def test_defaults_are_written_out_and_empty_ones_are_not() -> None:
    data = yaml.safe_load(dump_resolved(load("model: {path: a/b}\ndata: {train: a/b}\noutput_dir: /o\n")))
    assert data["data"] == {
        "train": [{"path": "a/b", "format": "auto", "split": "train", "document": "line", "weight": 1.0}],
        "max_length": 1024,
        "overlap": 0,
        "join": False,
        "tool_arguments": "strict",
        "special_tokens": "keep",
        "packing": False,
        "on_bad_row": "stop",
        "shuffle": True,
        "add_eos": True,
        "cache": True,
    }
    assert set(data) == {"method", "model", "data", "nonfinite_loss", "output_dir"}


def test_other_yaml_readers_read_the_same_types() -> None:
    """PyYAML's own loader follows YAML 1.1, where a bare `yes` or 12:30 is no text."""
    overrides = yaml.safe_load(dump_resolved(load(FULL)))["model"]["overrides"]
    assert overrides == {**load(FULL).config.model.overrides, "f": "$${HOME} x"}


# --- secrets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token", True),
        ("hub_token", True),
        ("api_key", True),
        ("apiKey", True),
        ("API-KEY", True),
        ("password", True),
        ("webhook", True),
        ("webhook_url", True),
        ("client_secret", True),
        ("pad_token", False),
        ("eos_token", False),
        ("add_tokens", False),
        ("max_tokens", False),
        ("token_count", False),
        ("monkey", False),
        ("keys", False),
        ("secretary", False),
    ],
)
def test_names_that_mean_secrets(name: str, expected: bool) -> None:
    assert looks_secret(name) is expected


def test_masking_text() -> None:
    options = Options(key=SecretStr('a"b/c d'))
    secrets = Secrets.collect(
        {"x": options}, {"api_key": "raw-value", "other": "harmless"}, ["https://u:p4ss@host"], SecretStr("")
    )
    assert len(secrets) == 3
    assert 'a"b/c d' in secrets
    text = 'plain a"b/c d, json "a\\"b/c d", url a%22b%2Fc%20d and a%22b/c%20d, raw-value, harmless, p4ss, git://tok3n@host/x'
    assert secrets.mask(text) == (
        f'plain {MASK}, json "{MASK}", url {MASK} and {MASK}, {MASK}, harmless, {MASK}, git://{MASK}@host/x'
    )
    assert "raw-value" not in repr(secrets)


def test_short_secrets_do_not_garble_text() -> None:
    assert Secrets.collect(SecretStr("a")).mask("a banana") == "a banana"


def test_longer_secrets_go_first() -> None:
    assert Secrets.collect(SecretStr("abcd"), SecretStr("abcdefgh")).mask("abcdefgh abcd") == f"{MASK} {MASK}"


@pytest.mark.timeout(60)  # two million equal letters took hours: the search began anew at each
def test_masking_a_long_run_of_letters_takes_time_in_proportion() -> None:
    run = "A" * 2_000_000
    assert (
        Secrets.collect({"token": "hunter2"}).mask(f"{run} https://me:pw@host {run}://x")
        == f"{run} https://{MASK}@host {run}://x"
    )
    assert mask_userinfo("a9https://me:pw@host") == f"a9https://{MASK}@host"


def test_what_obeys_nobody_can_be_shown() -> None:
    text = "a\x1b[31m red \udcff \x07 line\r\nnext\r over\ttab é 漢"
    assert showable(text) == "a\\x1b[31m red \\udcff \\x07 line\r\nnext\\r over\ttab é 漢"
    assert showable("\u202egnp.exe \U000e0041 👩\u200d🚀") == "\\u202egnp.exe \\U000e0041 👩\u200d🚀"
    assert one_line("a\r\nb\tc\x9b") == "a\\r\\nb\\tc\\x9b"
    assert one_line(showable(one_line(text))) == one_line(text)


def test_mask_userinfo_leaves_other_urls_alone() -> None:
    text = "https://host/a@b s3://bucket/x mailto:me@host https://host?q=a@b"
    assert mask_userinfo(text) == text


def test_a_config_does_not_show_secrets_in_its_repr() -> None:
    text = repr(load(FULL))
    assert "hf_s3cretvalue" not in text
    assert "k3yk3y" not in text
