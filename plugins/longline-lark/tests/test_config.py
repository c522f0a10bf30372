"""The options: what is refused before any work, where, and with which way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from longline import LonglineError
from longline.cli import run_cli
from longline.testing import assert_import_is_light
from longline_lark.address import url_fault
from longline_lark.config import LarkConfig
from longline_lark.credentials import find
from longline_lark.plugin import LarkPlugin
from longline_lark.rules import parse

TOKEN = "f00dcafe-0123-4567-89ab-token0fthebot"
LARK = f"https://open.larksuite.com/open-apis/bot/v2/hook/{TOKEN}"
FEISHU = LARK.replace("larksuite.com", "feishu.cn")


# --- where messages may go ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        LARK,
        FEISHU,
        LARK.replace("open.", "OPEN."),
        LARK.replace(".com/", ".com:443/"),
        "http://127.0.0.1:8080/hook",
        "http://localhost/hook",
        "http://[::1]:9/hook",
        "https://127.8.8.8/x",
    ],
)
def test_permitted_without_more(url):
    assert url_fault(url, allow_any_host=False) is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        (LARK.replace("https", "http"), "must begin with https"),
        ("https://open.larksuite.com/open-apis/bot/v2/hook/", "is not the webhook of a custom bot"),
        (LARK.replace("/v2", ""), "is not the webhook of a custom bot"),
        ("", "is empty"),
        (TOKEN, "is no http or https url"),
        ("ftp://open.feishu.cn/open-apis/bot/v2/hook/x", "is no http or https url"),
        ("https://open.feishu.cn:x/open-apis/bot/v2/hook/x", "is no http or https url"),
        (LARK + "\n", "has white space"),
        ("https://open.feishu.cn\\@evil.example/open-apis/bot/v2/hook/x", "a backslash"),
    ],
)
def test_never_permitted(url, fault):
    for permit in (False, True):
        assert fault in (url_fault(url, allow_any_host=permit) or "")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/open-apis/bot/v2/hook/x",
        "https://open.feishu.cn@evil.example/open-apis/bot/v2/hook/x",
        "https://open.feishu.cn.evil.example/open-apis/bot/v2/hook/x",
        "https://localhost.evil.example/x",
        "https://127.0.0.1.evil.example/x",
        "http://10.0.0.7/x",
        "http://0.0.0.0/x",
    ],
)
def test_other_hosts_need_a_word(url):
    fault = url_fault(url, allow_any_host=False) or ""
    assert "allow_any_host: true permits it" in fault
    assert "/x" not in fault
    assert url_fault(url, allow_any_host=True) is None


# --- through the command line ---------------------------------------------------------------------------------------------------


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run `longline check` on a config with these lines under `lark:` and return exit status and output."""

    def run(*lines: str) -> tuple[int, str]:
        (tmp_path / "rows.jsonl").write_text("{}\n")
        head = f"model: {{path: owner/name}}\ndata: {{train: {tmp_path}/rows.jsonl}}\noutput_dir: {tmp_path}/run\n"
        head += "plugins:\n  lark:\n"
        path = tmp_path / "c.yaml"
        path.write_text(head + "".join(f"    {line}\n" for line in lines))
        code = run_cli(["check", str(path)])
        output = capsys.readouterr()
        return code, (output.out + output.err).replace(f"{path}:", "c.yaml:")

    return run


def test_a_good_config(check):
    code, told = check(f"webhook_url: {LARK}", "rules: [loss > 10, nan]", "events: [failed, alert]", "language: zh")
    assert code == 0, told
    assert "plugins lark" in told


def test_every_mistake_at_once_with_its_place(check):
    code, told = check(
        "webhook_url: https://evil.example/hook/" + TOKEN,
        "rules:",
        "  - loss > 10",
        "  - loss >> 10",
        "events: [fail]",
        "link: swanlab.example/{run}",
        "timeout: 0",
        "lanuage: zh",
    )
    assert code == 2
    assert 'c.yaml:9:9: plugins.lark.rules.1: "loss >> 10": expected one of > >= < <= at character 6, got ">>"' in told
    assert "c.yaml:6:18: plugins.lark.webhook_url: points to evil.example" in told
    assert "did you mean `failed`?" in told
    assert "must be an http or https url" in told
    assert "must be greater than 0" in told
    assert "did you mean `language`?" in told
    assert told.count("c.yaml:") == 6  # and no more
    assert TOKEN not in told


def test_no_events_at_all(check):
    assert "plugins.lark.events: must not be empty" in check(f"webhook_url: {LARK}", "events: []")[1]


def test_a_place_in_a_link_that_nobody_fills(check):
    _, told = check(f"webhook_url: {LARK}", 'link: "https://t.example/{id}"')
    assert "knows {run} and {name}, not {id}" in told


@pytest.mark.parametrize("line", ['webhook_url: ""', 'secret: ""', f"webhook_url: {TOKEN}", "secret: 'two words'"])
def test_a_credential_that_cannot_be_one_is_refused_and_not_shown(check, line):
    code, told = check(*([] if "webhook" in line else [f"webhook_url: {LARK}"]), line)
    assert code == 2
    assert TOKEN not in told
    assert "two words" not in told


def test_no_webhook_is_refused_before_any_work_with_the_ways_out(check):
    code, told = check("language: en")
    assert code == 3
    assert "plugins.lark: there is no webhook" in told
    for way in ("export LARK_WEBHOOK_URL=", "webhook_url: ${LARK_WEBHOOK_URL}", "remove 'lark' from plugins:"):
        assert way in told


def test_the_environment_is_enough(check, monkeypatch):
    monkeypatch.setenv("LARK_WEBHOOK_URL", f" {FEISHU}\n")
    assert check("language: en")[0] == 0


def test_the_environment_is_checked_too(check, monkeypatch):
    monkeypatch.setenv("LARK_WEBHOOK_URL", f"https://evil.example/{TOKEN}")
    code, told = check("language: en")
    assert code == 3
    assert "LARK_WEBHOOK_URL points to evil.example" in told
    assert TOKEN not in told


# --- credentials ----------------------------------------------------------------------------------------------------------------


def test_options_come_before_the_environment():
    found = find(LarkConfig(webhook_url=LARK, secret="from-option"), {"LARK_WEBHOOK_URL": FEISHU, "LARK_SECRET": "from-env"})
    assert (found.url.get_secret_value(), found.secret.get_secret_value()) == (LARK, "from-option")
    found = find(LarkConfig(), {"LARK_WEBHOOK_URL": FEISHU, "LARK_SECRET": "from-env"})
    assert (found.url.get_secret_value(), found.secret.get_secret_value()) == (FEISHU, "from-env")
    with pytest.raises(LonglineError, match="there is no webhook"):
        find(LarkConfig(), {"LARK_WEBHOOK_URL": ""})


def test_nothing_shows_them():
    plugin = LarkPlugin(LarkConfig(webhook_url=LARK, secret="s3cr3t-of-the-bot"))
    shown = f"{plugin!r} {vars(plugin)} {plugin.config!r} {plugin.config.model_dump_json()}"
    assert TOKEN not in shown
    assert "s3cr3t" not in shown
    assert (
        plugin.credentials.mask(f"POST {LARK} as {TOKEN} with s3cr3t-of-the-bot")
        == "POST ********** as ********** with **********"
    )


# --- what it costs to import ----------------------------------------------------------------------------------------------------


def test_neither_network_nor_heavy_libraries_are_imported_with_the_plugin():
    assert_import_is_light("longline_lark.plugin", "ssl", "http.client", "urllib.request", "requests")


# --- the README -----------------------------------------------------------------------------------------------------------------


def test_the_readme_tells_every_option_code_and_event():
    from longline_lark.webhook import REMEDIES

    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Options")[2].partition("\n\nAn option")[0]
    told = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert told == set(LarkConfig.model_fields)
    events = text.partition("## What is sent")[2].partition("\n\nEvery message")[0]
    assert tuple(line.split("`")[1] for line in events.splitlines() if line.startswith("| `")) == LarkConfig().events
    assert all(str(code) in text for code in REMEDIES)
    example = text.partition("rules:\n")[2].partition("\n```")[0]
    assert [parse(line.strip().removeprefix("- ")).text for line in example.splitlines()][2] == "nan"


def test_it_is_well_behaved(assert_well_behaved, lark):
    assert_well_behaved(LarkPlugin, {"webhook_url": lark.url, "secret": lark.secret, "rules": ["loss < 100 for 3 logs"]})
    assert set(lark.codes) <= {0, 11232}, "every message was signed; some came too soon after others"
