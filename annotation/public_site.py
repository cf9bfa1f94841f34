"""Where the app is reached: on this machine alone, or under a public address too."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Site:
    """How browsers reach the app besides this machine's own addresses.

    Attributes:
        public_url: "https://annotate.example.org", as `checked_public_url` gives it; empty for this machine alone.
        secure: they reach it over TLS, so that the session's cookie is never sent without.
        trusted_proxies: addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
    """

    public_url: str = ""
    secure: bool = False
    trusted_proxies: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The public address's name."""
        return hostname(self.public_url)


LOOPBACK_ONLY = Site()


def checked_public_url(url: str) -> str:
    """A public address as browsers send it as their origin.

    Raises:
        ValueError: it is not https, more than a host and a port, or not as it stands in a certificate (xn--...).
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    example = "such as https://annotate.example.org"
    if host and parts.path.strip("/"):
        raise ValueError(f"public_url is {url!r}, with a path; the app needs a host name of its own, {example}")
    more = parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme != "https" or not host or not host.isascii() or more or is_loopback(host):
        raise ValueError(f"public_url is {url!r}; give what people open, {example}")
    name = f"[{host}]" if ":" in host else host
    return f"https://{name}" if port in (None, 443) else f"https://{name}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without a port, is this machine by definition and not by a lookup."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hostname(url: str) -> str:
    """The host of a URL, lower case; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
