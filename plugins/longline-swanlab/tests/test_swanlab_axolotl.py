"""A config of axolotl with SwanLab, by `longline convert`."""

from __future__ import annotations

from pathlib import Path

LISTED = "plugins: [axolotl.integrations.swanlab.SwanLabPlugin]\n"


def test_every_option_goes_to_the_plugin(convert_axolotl):
    plugins, told = convert_axolotl(
        LISTED + "use_swanlab: true\nswanlab_project: fish  # ours\nswanlab_experiment_name: first\nswanlab_mode: cloud\n"
        "swanlab_workspace: acme\nswanlab_log_model: false\nswanlab_description:\nswanlab_api_host: https://swan.acme.test\n"
    )
    assert plugins == {
        "swanlab": {
            "project": "fish",
            "experiment_name": "first",
            "mode": "online",
            "workspace": "acme",
            "log_model": False,
            "api_host": "https://swan.acme.test",
        }
    }
    assert "no equal" not in told
    assert "unset: swanlab_description" in told


def test_the_key_is_not_copied(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "swanlab_project: fish\nswanlab_api_key: s3cr3t-key  # of the team\n")
    assert plugins == {"swanlab": {"project": "fish"}}
    assert "export SWANLAB_API_KEY" in told
    assert "s3cr3t" not in told + Path("out.yaml").read_text()
    assert "# of the team" in Path("out.yaml").read_text()


def test_what_is_off_is_not_used(convert_axolotl):
    plugins, told = convert_axolotl(LISTED + "use_swanlab: false\nswanlab_project: fish\n")
    assert plugins is None
    assert "swanlab_project: fish; not used" in told
