"""The options, the cost of importing, and a config of axolotl."""

from __future__ import annotations

import pytest

from longline.cli import run_cli
from longline.testing import assert_import_is_light

LISTED = "plugins: [axolotl.integrations.densemixer.DenseMixerPlugin]\n"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"pair": 3}, "plugins.densemixer.pair: unknown key (did you mean `pairs`?)"),
        ({"pairs": 0}, "plugins.densemixer.pairs: "),
        ({"pairs": "many"}, "plugins.densemixer.pairs: "),
        ({"metrics": "perhaps"}, "plugins.densemixer.metrics: "),
    ],
)
def test_check_refuses_options(run_config, capsys, options, what):
    assert run_cli(["check", str(run_config(plugins=[{"densemixer": options}]))]) == 2
    assert what in capsys.readouterr().err


def test_importing_costs_little():
    assert_import_is_light("longline_densemixer.plugin")


@pytest.mark.parametrize("switch", ["", "dense_mixer: true\n"])
def test_axolotls_plugin_is_on_where_it_is_listed(convert_axolotl, switch):
    plugins, told = convert_axolotl(LISTED + switch)
    assert plugins == {"densemixer": {}}
    assert "no equal" not in told


def test_axolotls_plugin_switched_off_is_none(convert_axolotl):
    assert convert_axolotl(LISTED + "dense_mixer: false\n")[0] is None


def test_axolotls_switch_alone_is_told(convert_axolotl):
    plugins, told = convert_axolotl("dense_mixer: true\n")
    assert plugins is None
    assert "axolotl does not read it without its plugin" in told
