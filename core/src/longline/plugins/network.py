"""Whether a server answers, for `Plugin.doctor`: nothing is sent."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from longline.events import Finding

SECONDS = 3.0


def reachable(name: str, url: str) -> Finding:
    """Open a connection to the host of an http(s) url, or to the proxy that this process would take to it, within 3 seconds.

    Only host and port are told: what else stands in the url may be a secret. A server that cannot be reached is a warning.
    """
    from urllib.request import getproxies, proxy_bypass  # 40 ms, which a plugin that names this module should not cost

    parts = urlsplit(url)
    host, proxy = parts.hostname or "", getproxies().get(parts.scheme)
    through = urlsplit(proxy) if proxy and not proxy_bypass(host) else None
    target = through or parts
    port = target.port or (443 if target.scheme == "https" else 80)
    shown = f"{host}, through {through.hostname}:{port}" if through else f"{host}:{port}"
    try:
        socket.create_connection((target.hostname or "", port), timeout=SECONDS).close()
    except OSError as error:
        hint = "see that this machine may reach it, or set a proxy"
        return Finding(name, f"{shown} cannot be reached: {error.strerror or error}", "warning", hint)
    return Finding(name, f"{shown} answers")
