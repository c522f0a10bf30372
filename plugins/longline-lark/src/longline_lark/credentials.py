"""The webhook and its secret: from the options or the environment, and never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from longline import LonglineError
from longline.config.secrets import Secrets
from longline_lark.address import EXAMPLE, HOOK_PATH, url_fault
from longline_lark.config import secret_fault

if TYPE_CHECKING:
    from longline_lark.config import LarkConfig

URL_VARIABLE = "LARK_WEBHOOK_URL"
SECRET_VARIABLE = "LARK_SECRET"  # noqa: S105 - the name of a variable
LIKE_A_KEY = 8
"""How long a part of another server's url is that may be its key; a shorter one is a word."""

WAYS_OUT = (
    f"export {URL_VARIABLE}={EXAMPLE} (in the group: Settings, Bots, Add Bot, Custom Bot); or write "
    f"`webhook_url: ${{{URL_VARIABLE}}}` under plugins.lark; or remove 'lark' from plugins:"
)
UNSIGNED = (
    "no secret is set, so messages go out unsigned: whoever learns the webhook can write to the group. Turn on 'signature "
    f"verification' in the bot's security settings and export {SECRET_VARIABLE} with what it shows, or set plugins.lark.secret"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What it takes to write to a group; shown masked wherever it is printed."""

    url: SecretStr
    secret: SecretStr | None = None

    def values(self) -> list[str]:
        """Return what must not be seen: the webhook, the parts of it that whoever is asked knows it by, and the secret."""
        url = self.url.get_secret_value()
        parts = urlsplit(url)
        token = parts.path.removeprefix(HOOK_PATH).strip("/")
        last = token.rpartition("/")[2]
        queries = [value for _, value in parse_qsl(parts.query)]
        secret = self.secret.get_secret_value() if self.secret else ""
        found = [url, token, secret, parts.query, *(value for value in (last, *queries) if len(value) >= LIKE_A_KEY)]
        return [value for value in dict.fromkeys(found) if len(value) >= 4]  # shorter ones stand inside ordinary words

    def mask(self, text: str) -> str:
        """Return the text without them, also where they are escaped as in a url or in JSON."""
        return Secrets.collect([SecretStr(value) for value in self.values()]).mask(text)


def find(config: LarkConfig, environ: Mapping[str, str]) -> Credentials:
    """Take each from the options, else from the environment.

    Raises LonglineError when there is no webhook, or when what the environment holds cannot be used.
    """
    url = config.webhook_url or _from(environ, URL_VARIABLE)
    secret = config.secret or _from(environ, SECRET_VARIABLE)
    if url is None:
        raise LonglineError(f"there is no webhook: neither the option webhook_url nor {URL_VARIABLE} is set", hint=WAYS_OUT)
    fault = url_fault(url.get_secret_value(), allow_any_host=config.allow_any_host)
    if fault:
        raise LonglineError(f"{URL_VARIABLE} {fault}", hint=WAYS_OUT)
    fault = secret_fault(secret.get_secret_value()) if secret else None
    if fault:
        raise LonglineError(f"{SECRET_VARIABLE} {fault}")
    return Credentials(url, secret)


def _from(environ: Mapping[str, str], name: str) -> SecretStr | None:
    """A variable that is set; surrounding white space, as files leave it behind, is no part of it."""
    value = environ.get(name, "").strip()
    return SecretStr(value) if value else None
