"""Where messages may go: the hosts of Lark and Feishu, this machine, and others only when a person says so."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

LARK_HOSTS = ("open.larksuite.com", "open.feishu.cn")
HOOK_PATH = "/open-apis/bot/v2/hook/"
EXAMPLE = f"https://{LARK_HOSTS[0]}{HOOK_PATH}..."

_UNSAFE = re.compile(r"[\s\\\x00-\x20\x7f]")


def url_fault(url: str, *, allow_any_host: bool) -> str | None:
    """Say why `url` is no webhook that messages may go to, or None; the text never holds more of the url than its host."""
    if not url:
        return f"is empty; a custom bot's webhook looks like {EXAMPLE}"
    if _UNSAFE.search(url):
        return "has white space, a backslash or a control character in it; copy the webhook again"
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return f"is no http or https url; a custom bot's webhook looks like {EXAMPLE}"
    if parts.hostname in LARK_HOSTS:
        return _hook_fault(parts)
    if allow_any_host or is_loopback(parts.hostname):
        return None
    return (
        f"points to {parts.hostname}, which is no host of Lark or Feishu ({', '.join(LARK_HOSTS)}): what the run tells would go "
        "there; allow_any_host: true permits it"
    )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # a port that is no number raises only here
    except ValueError:
        return None
    return parts


def _hook_fault(parts: SplitResult) -> str | None:
    """What is wrong with a url on one of Lark's own hosts."""
    if parts.scheme != "https":
        return "must begin with https: over http everybody on the way could read it and write to the group"
    if not parts.path.startswith(HOOK_PATH) or len(parts.path) == len(HOOK_PATH):
        return f"is not the webhook of a custom bot, which looks like https://{parts.hostname}{HOOK_PATH}..."
    return None


def host(url: str) -> str:
    """Return the host of a url, which messages may show."""
    return urlsplit(url).hostname or ""


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
