"""Whether the Hugging Face hub can be reached, for names in a config that may be the hub's."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_CONNECT_SECONDS = 5.0
_HTTP, _HTTPS = 80, 443


def why_unreachable(endpoint: str) -> str | None:
    """What keeps this machine from the hub at that address, found out once per process; None where it can be reached.

    Without a network the hub's own client tries again for half a minute. Through a proxy only that client can tell, and
    where it is told to stay offline it answers at once: None of both.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return None
    try:
        address = urlsplit(endpoint)
        port = address.port or (_HTTP if address.scheme == "http" else _HTTPS)
    except ValueError as error:
        return str(error)
    if not address.hostname or _is_proxied(address.scheme, address.hostname):
        return None
    return _why_no_connection(address.hostname, port)


@functools.cache
def _why_no_connection(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return str(error) or type(error).__name__
    return None


def _is_proxied(scheme: str, host: str) -> bool:
    return not {scheme, "all"}.isdisjoint(getproxies()) and not proxy_bypass(host)
