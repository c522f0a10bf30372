"""`longline doctor`: in processes of their own, with distributions, servers and variables that are really there."""

import json
import os
import socket
import subprocess
import sys

import pytest

from longline import Finding
from longline.cli import run_cli
from longline.plugins.network import reachable

PLUGIN = """
from pydantic import SecretStr
from longline import Finding, Plugin, PluginConfig

class Options(PluginConfig):
    level: str = "ok"
    key: SecretStr = SecretStr("hush-hush-1234")

class Watched(Plugin):
    Config = Options
    def doctor(self):
        yield Finding("thing", f"looked with {self.config.key.get_secret_value()}", "ok")
        if self.config.level == "raise":
            raise OSError("no thing")
        yield Finding("other", "as it is", self.config.level, "mend it")
"""


@pytest.fixture
def doctor(tmp_path):
    """Run the command with JSON, beside a distribution that brings the plugin `watched`; returns the status and what was told."""
    place = tmp_path / "site"
    metadata = place / "longline_watched-1.0.dist-info"
    metadata.mkdir(parents=True)
    (place / "watched.py").write_text(PLUGIN)
    (metadata / "entry_points.txt").write_text("[longline]\nwatched = watched:Watched\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-watched\nVersion: 1.0\n")

    def run(*arguments, requires=(), **environ):
        lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: longline-watched\nVersion: 1.0\n{lines}")
        path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "longline", "doctor", *map(str, arguments), "--json"]
        variables = {**os.environ, "PYTHONPATH": path, **environ}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout)
        assert told["status"] == done.returncode
        return done.returncode, told["findings"]

    return run


def named(findings, name, section=None):
    return [row for row in findings if row["name"] == name and section in (None, row["section"])]


def test_a_sound_machine_has_nothing_in_the_way(doctor):
    status, found = doctor()
    assert status == 0
    assert {"versions", "plugins", "device", "memory and disks", "environment"} == {row["section"] for row in found}
    [torch] = named(found, "torch", "device")
    assert "built for" in torch["text"]
    assert "tested:" in named(found, "trl")[0]["text"]
    assert named(found, "watched", "plugins")[0]["text"] == "longline-watched 1.0"


def test_secrets_of_the_environment_are_not_shown(doctor):
    _, found = doctor(HF_TOKEN="hf_verysecret", https_proxy="http://me:pass1234@127.0.0.1:9", LONGLINE_CACHE="/nowhere/at/all")
    assert not [row for row in found if "verysecret" in str(row) or "pass1234" in str(row)]
    assert named(found, "HF_TOKEN")[0]["text"] == "set, not shown"
    assert named(found, "LONGLINE_CACHE")[0]["text"] == "/nowhere/at/all"


def test_what_is_required_in_vain_is_told(doctor):
    status, found = doctor(requires=["trl>=99", "nobody-has-this"])
    [row] = named(found, "watched", "plugins")
    assert row["level"] == "warning"
    assert "requires trl>=99, but trl" in row["text"]
    assert "nobody-has-this is not installed" in named(found, "longline-watched")[0]["text"]
    assert status == 0


def test_a_config_is_checked_and_its_plugins_are_asked(doctor, run_config):
    config = run_config(model={"path": "${TINY}"}, plugins={"watched": {"level": "warning"}})
    status, found = doctor(config, TINY="owner/tiny")
    assert status == 0
    own = [row for row in found if row["section"] == "plugin watched"]
    assert [(row["name"], row["level"]) for row in own] == [("thing", "ok"), ("other", "warning")]
    assert "hush" not in json.dumps(own)
    assert named(found, "TINY")[0]["text"] == "set, and read by the config"
    assert named(found, "output_dir")


@pytest.mark.parametrize(("level", "told"), [("error", "as it is"), ("raise", "cannot look at itself: OSError: no thing")])
def test_a_plugin_that_could_not_run_is_status_3(doctor, run_config, level, told):
    status, found = doctor(run_config(plugins={"watched": {"level": level}}))
    assert status == 3
    assert told in [row for row in found if row["section"] == "plugin watched"][-1]["text"]


def test_a_wrong_config_is_status_2(doctor, run_config, tmp_path):
    status, found = doctor(run_config(trainer={"learning_rat": 1}))
    assert status == 2
    assert "did you mean `learning_rate`" in named(found, "trainer.learning_rat")[0]["hint"]
    assert doctor(tmp_path / "none.yaml")[0] == 2


def test_a_folder_that_cannot_be_made_is_in_the_way(doctor, tmp_path):
    (tmp_path / "file").write_text("")
    status, found = doctor(LONGLINE_CACHE=str(tmp_path / "file" / "cache"))
    assert status == 1
    assert "is a file" in named(found, "prepared data")[0]["text"]


def test_what_people_read_has_every_finding_on_a_line(run_config, capsys):
    assert run_cli(["doctor", str(run_config())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "versions"
    assert any(line.startswith("  ok       python ") for line in lines)
    assert lines[-1].startswith("0 errors")


def test_a_server_is_asked_for_a_connection_alone(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable("it", f"http://me:pw@127.0.0.1:{port}/hook/secret") == Finding("it", f"127.0.0.1:{port} answers")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        assert reachable("it", "https://example.invalid/x").text == f"example.invalid, through 127.0.0.1:{port} answers"
    refused = reachable("it", f"http://127.0.0.1:{port}/")
    assert refused.level == "warning"
    assert "cannot be reached" in refused.text


def test_a_level_that_is_none_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match="the levels are ok, warning, error"):
        Finding("it", "is", "bad")
