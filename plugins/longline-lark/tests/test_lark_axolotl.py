"""A config of axolotl with Lark, by `longline convert`."""

from __future__ import annotations

from pathlib import Path


def test_the_plugin_comes_without_its_secrets(convert_axolotl):
    url = "https://open.feishu.cn/open-apis/bot/v2/hook/0123456789"
    plugins, told = convert_axolotl(f"swanlab_lark_webhook_url: {url}\nswanlab_lark_secret: s3cr3t-sign  # of the bot\n")
    assert plugins == {"lark": {}}
    assert "export LARK_WEBHOOK_URL" in told
    assert "export LARK_SECRET" in told
    assert "0123456789" not in told + Path("out.yaml").read_text()
    assert "s3cr3t" not in told + Path("out.yaml").read_text()


def test_without_a_webhook_there_is_no_plugin(convert_axolotl):
    assert convert_axolotl("swanlab_lark_webhook_url:\nswanlab_lark_secret: null\n")[0] is None
