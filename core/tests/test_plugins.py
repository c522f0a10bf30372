"""Discovery and loading, against distributions that lie installed in a folder of sys.path as pip would leave them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from longline import Plugin, PluginConfig, hookimpl
from longline.cli import run_cli
from longline.config.dump import dump_resolved
from longline.config.loader import LoadedConfig, load_config
from longline.config.secrets import MASK, Secrets
from longline.errors import AuthorWarning, ConfigError, PluginError
from longline.plugins import Bus, installed, load_plugins, option_models
from longline.plugins.discovery import PUBLISHED, not_installed
from longline.run import train

GOOD = """
    from longline import Plugin, PluginConfig, hookimpl

    class GoodConfig(PluginConfig):
        every: int = 10
        '''How often.'''
        mode: str = "local"

    class GoodPlugin(Plugin):
        Config = GoodConfig

        @hookimpl
        def on_log(self, step): ...
"""


class Site:
    """A folder on sys.path into which distributions are put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name, code=GOOD, *, target="GoodPlugin", version="1.0", requires=(), dist=None) -> str:
        """Install a distribution `longline-<name>` (or `dist`) with the entry point `name` to `target`; returns its module."""
        dist = dist or f"longline-{name}"
        module = f"{dist.replace('-', '_')}_{self.folder.parent.name}"  # imports are cached by name: every test has its own
        (self.folder / f"{module}.py").write_text(dedent(code))
        info = self.folder / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {dist}", f"Version: {version}", f"Summary: The {name} plugin."]
        lines += [f"Requires-Dist: {line}" for line in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n\n")
        (info / "entry_points.txt").write_text(f"[longline]\n{name} = {module}:{target}\n")
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Site(folder)


@pytest.fixture
def config(tmp_path: Path):
    """Write a config with a `plugins:` block and load it."""

    def load(plugins: str) -> LoadedConfig:
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"text": "a"}\n')
        text = f"model: {{path: nobody/nothing}}\ndata: {{train: [{{path: {rows}}}]}}\noutput_dir: {tmp_path}/run\nplugins:\n"
        path = tmp_path / "run.yaml"
        path.write_text(text + "".join(f"  {line}\n" for line in dedent(plugins).strip().splitlines()))
        return load_config(path)

    return load


def refused(loaded: LoadedConfig) -> PluginError:
    with pytest.raises(PluginError) as caught:
        load_plugins(loaded)
    assert caught.value.exit_code == 3
    return caught.value


# --- what is installed --------------------------------------------------------------------------------------------------------


def test_installed_reads_metadata_alone(site: Site):
    module = site.add("good", "raise RuntimeError('imported')", requires=["longline", "rich>=1"], version="2.5")
    info = installed()["good"]
    assert (info.name, info.distribution, info.version, info.summary) == ("good", "longline-good", "2.5", "The good plugin.")
    assert info.entry_point == f"{module}:GoodPlugin"
    assert info.requires == ("longline", "rich>=1")
    assert module not in sys.modules


def test_only_plugins_that_the_config_names_are_imported(site: Site, config):
    named, other = site.add("good"), site.add("other", "raise RuntimeError('imported')")
    load_plugins(config("- good"))
    assert named in sys.modules
    assert other not in sys.modules


def test_without_plugins_nothing_is_even_looked_up(config):
    assert load_plugins(config("[]")) == []


# --- loading ------------------------------------------------------------------------------------------------------------------


def test_loaded_plugins_have_their_options_in_the_order_of_the_config(site: Site, config):
    site.add("zebra", version="3.1")
    site.add("ant")
    zebra, ant = load_plugins(config("- zebra: {every: 5, on_error: raise}\n- ant"))
    assert (zebra.name, zebra.distribution, zebra.version, zebra.on_error) == ("zebra", "longline-zebra", "3.1", "raise")
    assert zebra.options.every == 5
    assert zebra.instance.config is zebra.options
    assert ant.options.every == 10
    assert ant.on_error == "continue"
    assert Bus([zebra, ant]).listeners()["on_log"] == ["zebra", "ant"]


def test_an_unknown_name_gets_the_nearest_one_and_no_pip_command_of_a_name_that_nobody_knows(site: Site, config):
    site.add("zebra")
    error = refused(config("- zebr\n- Quux_B\n- longline-zebra"))
    assert "plugin 'zebr' is not installed (did you mean 'zebra'?)" in error.message
    assert "plugin 'longline-zebra' is not installed (did you mean 'zebra'?)" in error.message
    assert re.search(r"plugin 'Quux_B' is not installed \(installed: .*zebra", error.message)
    assert "write 'zebra', which is installed" in error.hint
    assert "take 'Quux_B' out of plugins:, or ask whoever wrote the config which distribution brings it" in error.hint
    assert "pip install longline" not in error.hint


@pytest.mark.parametrize(
    ("name", "why", "remedy"),
    [
        ("swanlab", "installed: ant", "pip install longline-swanlab"),
        ("Swanlb", "did you mean 'swanlab'?", "pip install longline-swanlab"),
        ("longline-swanlab", "did you mean 'swanlab'?", "pip install longline-swanlab"),
        ("larch", "did you mean 'lark'?", "pip install longline-lark"),
        ("anty", "did you mean 'ant'?", "write 'ant', which is installed"),
    ],
)
def test_a_plugin_of_ours_that_is_missing_gets_its_pip_command(name, why, remedy):
    fault = not_installed(name, ["ant"])
    assert (fault.reason, fault.remedy) == (f"is not installed ({why})", remedy)


def test_the_plugins_of_ours_are_those_of_the_repository():
    folders = (Path(__file__).parents[2] / "plugins").glob("longline-*/pyproject.toml")
    assert sorted(PUBLISHED) == sorted(path.parent.name.removeprefix("longline-") for path in folders)


def test_two_distributions_of_one_name_are_refused_when_enabled_only(site: Site, config):
    site.add("good")
    site.add("twin", dist="longline-twin-a", version="1")
    site.add("twin", dist="longline-twin-b", version="2")
    assert [plugin.name for plugin in load_plugins(config("- good"))] == ["good"]
    message = refused(config("- twin")).message
    assert "longline-twin-a 1" in message
    assert "longline-twin-b 2" in message


def test_the_list_shows_both_of_two_distributions_with_one_name(site: Site, capsys):
    site.add("tide", version="1.5")
    site.add("tide", dist="rival", version="2.0")
    assert run_cli(["plugins"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("tide ")]
    first, second = sorted(rows, key=lambda row: "offers" in row)
    assert sorted((row[1], row[2]) for row in rows) == [("1.5", "longline-tide"), ("2.0", "rival")]
    assert " ".join(second[3:]) == f"offers the same name as {first[2]}; pip uninstall one of them"


def test_a_plugin_given_twice_is_a_mistake_of_the_config(site: Site, config):
    site.add("good")
    with pytest.raises(ConfigError, match="given twice"):
        config("- good\n- good: {every: 3}")


@pytest.mark.parametrize(
    ("requires", "reason", "remedy"),
    [
        (["longline>=99"], r"it requires longline>=99, but longline 0\.\d+\.\d+ is installed", "pip install 'longline>=99'"),
        (
            ["no-such-package>=2"],
            "it requires no-such-package>=2, but no-such-package is not installed",
            "'no-such-package>=2'",
        ),
        (["rich<1", "click<1"], r"rich<1, but rich \d.*; it requires click<1", "'rich<1' 'click<1'"),
        (["longline[missing]", "longline[qlora-of-99]>=99"], "longline>=99", "longline>=99"),
        (["no-such-package; python_version > '3'"], "no-such-package is not installed", "no-such-package"),
    ],
)
def test_unsatisfied_requirements_are_refused_before_the_import(site: Site, config, requires, reason, remedy):
    module = site.add("needy", "raise RuntimeError('imported')", requires=requires, version="4.2")
    error = refused(config("- needy"))
    assert error.message.startswith("plugin 'needy' (longline-needy 4.2) cannot be used here: ")
    assert re.search(reason, error.message)
    assert remedy in error.hint
    assert module not in sys.modules


def test_markers_and_extras_that_do_not_apply_require_nothing(site: Site, config):
    requires = ["no-such-package; python_version < '3'", "no-such-package; extra == 'dashboard'", "longline", "rich"]
    site.add("good", requires=requires)
    assert len(load_plugins(config("- good"))) == 1


def test_an_extra_of_a_requirement_brings_its_own_requirements(site: Site, config):
    site.add("base", requires=["no-such-package>=3; extra == 'fast'"])
    site.add("user", requires=["longline-base[fast]"])
    assert len(load_plugins(config("- base"))) == 1
    assert "no-such-package is not installed" in refused(config("- user")).message


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import no_such_module_xyz", "ModuleNotFoundError: No module named 'no_such_module_xyz'"),
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("x = 1", "AttributeError: module"),
    ],
)
def test_a_failing_import_names_plugin_exception_place_and_remedy(site: Site, config, code, what):
    module = site.add("broken", f"\n\n{code}\n", version="0.9")
    error = refused(config("- broken"))
    assert "plugin 'broken' (longline-broken 0.9) cannot be imported: " in error.message
    assert what in error.message
    if not what.startswith("AttributeError"):
        assert f"{module}.py:3)" in error.message
    assert "pip install --force-reinstall longline-broken" in error.hint
    assert "remove 'broken' from plugins:" in error.hint
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("definition", "what"),
    [
        ("class X: ...", "is the class X, which does not derive from longline.Plugin"),
        ("def X(config): ...", "is a function; it must name a class"),
        ("X = Plugin(None)", "is an instance of Plugin; it must name a class"),
        ("import json as X", "is a module; it must name a class"),
        ("X = Plugin", "is the class Plugin, which does not derive"),
        ("class X(Plugin):\n    Config = dict", "has a Config that is no pydantic model"),
        ("class C(PluginConfig):\n    on_error: str = ''\nclass X(Plugin):\n    Config = C", "has an option `on_error`"),
        ("class X(Plugin):\n    claims = 'loss'", "has claims that are no set of names: 'loss'"),
    ],
)
def test_what_is_no_plugin_class_is_refused(site: Site, config, definition, what):
    site.add("odd", f"from longline import Plugin, PluginConfig\n{definition}\n", target="X", version="0.9")
    error = refused(config("- odd"))
    assert "plugin 'odd' (longline-odd 0.9): its entry point" in error.message
    assert what in error.message
    assert error.hint == "remove 'odd' from plugins:, or tell its author"


def test_a_constructor_that_fails_cannot_start(site: Site, config):
    code = GOOD + "\n        def __init__(self, config):\n            raise OSError('no display')\n"
    module = site.add("good", code)
    message = refused(config("- good")).message
    assert "plugin 'good' (longline-good 1.0) cannot start: OSError: no display" in message
    assert f"{module}.py:" in message


def test_all_plugins_that_cannot_be_imported_are_told_at_once(site: Site, config):
    site.add("one", "import no_such_module_one")
    site.add("two", "import no_such_module_two")
    message = refused(config("- one\n- two")).message
    assert "no_such_module_one" in message
    assert "no_such_module_two" in message


def test_two_plugins_that_claim_the_same_are_refused(site: Site, config):
    code = GOOD + '\n        claims = frozenset({"loss", "%s"})\n'
    site.add("liger", code % "a")
    site.add("fused", code % "b", version="2.0")
    message = refused(config("- liger\n- fused")).message
    assert "plugin 'liger' (longline-liger 1.0) and plugin 'fused' (longline-fused 2.0) both claim 'loss'" in message
    (fused,) = load_plugins(config("- fused"))
    with pytest.raises(PluginError, match="both claim 'loss'"):
        load_plugins(config("- liger"), [fused])  # an instance made by hand


BY_OPTIONS = """
    from longline import Plugin, PluginConfig

    class KernelConfig(PluginConfig):
        fused: bool = False

    class Kernel(Plugin):
        Config = KernelConfig

        @property
        def claims(self):
            return %s
"""


def test_claims_that_depend_on_options_are_refused_only_then(site: Site, config):
    code = dedent(BY_OPTIONS % 'frozenset({"loss"} if self.config.fused else ())')
    site.add("kernel", code, target="Kernel")
    site.add("other", GOOD + '\n        claims = frozenset({"loss"})\n', version="2.0")
    assert len(load_plugins(config("- kernel\n- other"))) == 2
    error = refused(config("- other\n- kernel: {fused: true}"))
    assert "plugin 'other' (longline-other 2.0) and plugin 'kernel' (longline-kernel 1.0) both claim 'loss'" in error.message
    assert "remove 'other' or 'kernel' from plugins:" in error.hint
    assert "set the options of 'kernel' so that it leaves 'loss' alone" in error.hint
    assert "set the options of 'other'" not in error.hint


@pytest.mark.parametrize(
    ("answer", "what"),
    [("'loss'", "has claims that are no set of names: 'loss'"), ("{}[1]", "cannot tell what it claims: KeyError: 1")],
)
def test_a_property_of_claims_that_is_wrong_is_refused(site: Site, config, answer, what):
    site.add("kernel", dedent(BY_OPTIONS % answer), target="Kernel", version="0.9")
    error = refused(config("- kernel"))
    assert f"plugin 'kernel' (longline-kernel 0.9) {what}" in error.message
    assert "--debug shows the traceback" in error.hint or "tell its author" in error.hint


def test_a_misspelled_hook_is_found_by_loading_alone(site: Site, config):
    site.add("good", GOOD.replace("on_log", "on_lgo"))
    assert "there is no hook 'on_lgo'; did you mean 'on_log'?" in refused(config("- good")).message


# --- options ------------------------------------------------------------------------------------------------------------------


def test_all_wrong_options_of_all_plugins_come_at_once_with_places(site: Site, config):
    site.add("one")
    site.add("two")
    loaded = config(
        """
        one:
          evry: 5
          mode: 3
        two:
          every: soon
        """
    )
    with pytest.raises(ConfigError) as caught:
        load_plugins(loaded)
    assert caught.value.exit_code == 2
    told = {problem.path: problem for problem in caught.value.problems}
    assert set(told) == {"plugins.one.evry", "plugins.one.mode", "plugins.two.every"}
    assert told["plugins.one.evry"].where.endswith("run.yaml:6:5")
    assert "every" in told["plugins.one.evry"].hint
    assert ":7:" in told["plugins.one.mode"].where
    assert ":9:" in told["plugins.two.every"].where
    assert "whole number" in told["plugins.two.every"].message


def test_an_option_that_pydantic_would_drop_is_an_error(site: Site, config):
    code = GOOD.replace("class GoodConfig(PluginConfig)", "from pydantic import BaseModel\n    class GoodConfig(BaseModel)")
    site.add("lax", code)
    with pytest.raises(ConfigError) as caught:
        load_plugins(config("lax: {evry: 5, every: x}"))
    assert {problem.path for problem in caught.value.problems} == {"plugins.lax.evry", "plugins.lax.every"}


def test_option_models_are_those_of_every_plugin_that_can_be_imported(site: Site):
    site.add("good")
    site.add("broken", "import no_such_module_xyz")
    site.add("needy", requires=["longline>=99"])
    skipped: dict[str, str] = {}
    models = option_models(lambda info, why: skipped.update({info.name: why}))
    assert list(models["good"].model_fields) == ["every", "mode"]
    assert set(skipped) == {"broken", "needy"}
    assert "no_such_module_xyz" in skipped["broken"]


# --- imports ------------------------------------------------------------------------------------------------------------------


def test_neither_torch_nor_transformers_is_imported():
    modules = "longline.plugins, longline.hookspecs, longline.testing, longline.cli.plugins"
    code = f"import sys, {modules}; print([n for n in ('torch', 'transformers', 'datasets') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_overwrite_deletes_what_plugins_wrote_and_nothing_else(run_longline, tmp_path):
    """Also what plugins of the earlier run wrote that this one does not have; what somebody else put there stays."""

    class Keeper(Plugin):
        files = frozenset({"kept"})

        @hookimpl
        def on_run_start(self, run):
            (run.output_dir / "kept").mkdir(exist_ok=True)
            (run.output_dir / "kept" / "old.txt").write_text("x")
            (run.output_dir / "mine.txt").write_text("x")

    first = run_longline(plugins=[Keeper(PluginConfig())], trainer={"max_steps": 1})
    assert first.manifest["files"] == ["kept"]
    second = run_longline(overwrite=True, trainer={"max_steps": 1})
    assert not (second.output_dir / "kept").exists()
    assert (second.output_dir / "mine.txt").exists()
    manifest = second.output_dir / "run.json"
    for hostile in ('{"files": ["../precious", "mine.txt/..", 3, ".."]}', '{"files": 3}', "[]", "{"):
        (tmp_path / "precious").mkdir(exist_ok=True)
        manifest.write_text(hostile)
        run_longline(overwrite=True, trainer={"max_steps": 1})
        assert (tmp_path / "precious").exists()
        assert (second.output_dir / "mine.txt").exists()


def test_what_plugins_add_to_a_log_event_is_logged_and_is_no_measure_of_the_model(run_longline):
    class Thermometer(Plugin):
        @hookimpl
        def pre_log(self, logs, step):
            logs["room/celsius"] = 20.0 + step

    outcome = run_longline(plugins=[Thermometer(PluginConfig())], trainer={"max_steps": 2})
    assert [event["room/celsius"] for event in outcome.log] == [21.0, 22.0, 22.0]
    assert outcome.manifest["summary"]["metrics"]["room/celsius"] == 22.0
    card = (outcome.output_dir / "model" / "README.md").read_text()
    assert "train_loss" in card
    assert "celsius" not in card


# --- options that are named like secrets --------------------------------------------------------------------------------------

NAMED = """
    from pydantic import SecretStr
    from longline import Plugin, PluginConfig, hookimpl

    class NamedConfig(PluginConfig):
        mask_token: str = "[MASK]"
        voice_token: str = ""
        log_token: bool = False
        api_key: SecretStr | None = None
        headers: dict[str, str] = {}

    class NamedPlugin(Plugin):
        Config = NamedConfig

        @hookimpl
        def on_run_start(self): print("voice", self.config.voice_token)
"""
OPTIONS = {"mask_token": "[MASK]", "voice_token": "alto voice", "api_key": "s3cret-key", "headers": {"token": "h3ader-s3cret"}}


def test_an_author_is_told_of_a_plain_option_that_is_named_like_a_secret(site: Site, config):
    site.add("named", NAMED, target="NamedPlugin")
    with pytest.warns(AuthorWarning, match="plugin 'named': the option `voice_token` is named like a secret") as seen:
        load_plugins(config("named: {voice_token: alto}"))
    assert len(seen) == 1


def test_what_the_model_calls_plain_is_written_and_repeats_the_run(site: Site, run_longline, run_config, tmp_path):
    site.add("named", NAMED, target="NamedPlugin")
    options = {name: OPTIONS[name] for name in ("mask_token", "voice_token")}
    with pytest.warns(AuthorWarning):
        first = run_longline(plugins=[{"named": options}], trainer={"max_steps": 1})
    saved = (first.output_dir / "config.yaml").read_text()
    assert yaml.safe_load(saved)["plugins"]["named"] == {**options, "log_token": False, "api_key": None, "headers": {}}
    with pytest.warns(AuthorWarning):
        again = train(load_config(first.output_dir / "config.yaml"), overwrite=True)
    assert again.status == "completed"
    assert (first.output_dir / "config.yaml").read_text() == saved


def test_what_the_model_calls_secret_and_names_in_its_mappings_are_masked(site: Site, config):
    site.add("named", NAMED, target="NamedPlugin")
    loaded = config(f"named: {json.dumps(OPTIONS)}")
    with pytest.warns(AuthorWarning):
        (plugin,) = load_plugins(loaded)
    text = dump_resolved(loaded, {"named": plugin.options})
    assert "s3cret" not in text
    assert "alto voice" in text
    secrets = Secrets.of(loaded.config, {"named": plugin.options})
    assert secrets.mask("alto voice [MASK] s3cret-key h3ader-s3cret") == f"alto voice [MASK] {MASK} {MASK}"


def test_the_command_line_keeps_what_is_for_authors_to_itself(site: Site, config):
    site.add("named", NAMED, target="NamedPlugin")
    path = config("named: {voice_token: alto}").path
    command = [sys.executable, "-m", "longline", "plan", str(path)]
    environ = {**os.environ, "PYTHONPATH": str(site.folder)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "named" in done.stdout
    assert "voice_token" not in done.stderr


def test_raw_options_are_masked_by_name_unless_they_cannot_be_secret(config):
    loaded = config('unknown: {voice_token: "<|voice|>", api_token: "s3cret-raw", mode_token: auto}')
    text = dump_resolved(loaded)
    assert yaml.safe_load(text)["plugins"]["unknown"] == {"voice_token": "<|voice|>", "api_token": MASK, "mode_token": "auto"}
    assert Secrets.of(loaded.config, {}).mask("<|voice|> s3cret-raw auto") == f"<|voice|> {MASK} auto"
