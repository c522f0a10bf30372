"""A config of axolotl with tables of completions, by `longline convert`."""

from __future__ import annotations


def test_a_method_that_compares_gets_tables(convert_axolotl):
    plugins, told = convert_axolotl(
        "rl: dpo\nswanlab_log_completions: true\nswanlab_completion_log_interval: 50\nswanlab_completion_max_buffer: 256\n"
    )
    assert plugins == {"completions": {"every": 50, "max_rows": 256}}
    assert "no equal" not in told.replace("datasets.0.type", "")


def test_off_or_sft_gets_none(convert_axolotl):
    assert convert_axolotl("rl: dpo\nswanlab_log_completions: false\nswanlab_completion_log_interval: 50\n")[0] is None
    plugins, told = convert_axolotl("swanlab_log_completions: true\n")
    assert plugins is None
    assert "sft learns rows as they are" in told
