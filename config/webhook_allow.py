"""`WEBHOOK_ALLOW`: the hosts that a client's webhook may name, and the addresses that may be connected to for it.

A client chooses the URL, so the service must not become its way into the network. The name is checked when the job is
submitted. The address is checked at each delivery, after the name is resolved, and the connection goes to that address.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

MAX_URL_LENGTH: Final = 2048
_NAME: Final = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_URL: Final = re.compile(r"[\x21-\x7e]+")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOCALHOST: Final = "localhost"
_GLOBAL_IPV6: Final = ipaddress.IPv6Network("2000::/3")
"""All that IANA has for public use. Site-local addresses (fec0::/10), which Python calls global, are not in it."""
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "2001::/32",  # Teredo and 6to4: each stands for an IPv4 address, which may be any
            "2002::/16",
            "192.88.99.0/24",
            "3fff::/20",  # documentation; older Pythons do not know it
            "168.63.129.16/32",  # Azure's platform, which gives a machine its secrets
        ),
    )
)
"""Networks within the public ones that lead inside, or nowhere."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class _Host:
    """An entry that names a host. `port` is None for the scheme's own port, and 0 for any."""

    name: str
    port: int | None

    @property
    def address(self) -> _Address | None:
        return _address(self.name)

    @property
    def is_loopback(self) -> bool:
        address = self.address
        return self.name == _LOCALHOST if address is None else address.is_loopback

    def names(self, name: str) -> bool:
        if self.name.startswith("*."):
            return name.endswith(self.name[1:]) and len(name) >= len(self.name)
        return name == self.name if self.address is None else _address(name) == self.address

    def is_for(self, name: str, port: int, scheme: str) -> bool:
        if scheme == "http" and not self.is_loopback:
            return False
        return self.names(name) and (port == _DEFAULT_PORTS[scheme] if self.port is None else self.port in (0, port))


@dataclass(frozen=True, slots=True)
class WebhookAllow:
    """The entries: names, patterns such as `*.example.com`, and addresses, with or without a port; and networks."""

    hosts: tuple[_Host, ...] = ()
    networks: tuple[_Network, ...] = ()

    @staticmethod
    def parse(value: str) -> "WebhookAllow":
        """Reads the setting. Raises ValueError for an entry that makes no sense."""
        hosts, networks = [], []
        for entry in filter(None, (part.strip().lower() for part in value.split(","))):
            if "/" in entry:
                networks.append(_network(entry))
            else:
                hosts.append(_host(entry))
        return WebhookAllow(tuple(hosts), tuple(networks))

    def refusal(self, url: str) -> str | None:
        """Says why a webhook may not go to `url`; None if it may."""
        if not self.hosts:
            return "this service sends no webhooks: WEBHOOK_ALLOW names no host"
        if len(url) > MAX_URL_LENGTH or not _URL.fullmatch(url):
            return f"a URL has at most {MAX_URL_LENGTH} characters, all of them printable ASCII"
        try:
            parts = urlsplit(url)
            name, port = _canonical(parts.hostname or ""), parts.port
        except ValueError:
            return "this is not a URL"
        if parts.scheme not in _DEFAULT_PORTS or not name or "\\" in url:
            return "this is not a URL that begins with https:// and a host"
        if parts.username is not None or parts.fragment:
            return "a URL has neither a user nor a fragment here"
        return self._refusal_of(name, _DEFAULT_PORTS[parts.scheme] if port is None else port, parts.scheme)

    def _refusal_of(self, name: str, port: int, scheme: str) -> str | None:
        if any(host.is_for(name, port, scheme) for host in self.hosts):
            return None
        named = [host for host in self.hosts if host.names(name)]
        if not named:
            return f"WEBHOOK_ALLOW does not name the host {name}"
        if scheme == "http" and not any(host.is_loopback for host in named):
            return "https:// is needed; http:// is for a loopback host that WEBHOOK_ALLOW names"
        return f"WEBHOOK_ALLOW does not name port {port} of {name}"

    def may_connect(self, url: str, address: str) -> bool:
        """Tells if a delivery to `url`, whose host was resolved to `address`, may connect there."""
        resolved = _address(address)
        if resolved is None or self.refusal(url) is not None:
            return False
        name = _canonical(urlsplit(url).hostname or "")
        if (literal := _address(name)) is not None:
            return resolved == literal
        if name == _LOCALHOST:
            return resolved.is_loopback
        return _is_public(resolved) or any(
            resolved.version == network.version and resolved in network for network in self.networks
        )


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")


def _address(text: str) -> _Address | None:
    """Reads an address; one of IPv4 that is written as IPv6 counts as IPv4. None if `text` is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_IPV6:
        return False
    if any(address.version == network.version and address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_loopback)


def _network(entry: str) -> _Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        raise ValueError(f"{entry!r} is neither a host nor a network such as 10.0.0.0/8") from None


def _host(entry: str) -> _Host:
    if _address(entry) is not None:  # the colons of IPv6 begin no port
        return _Host(entry, None)
    name, separator, port_text = entry.rpartition(":")
    port = _port(port_text) if separator else None
    name = name.removeprefix("[").removesuffix("]") if separator else entry.removeprefix("[").removesuffix("]")
    if (separator and port is None) or (_address(name) is None and not _NAME.fullmatch(name)):
        raise ValueError(f"{entry!r} is not a host: write hooks.example.com, *.example.com, 10.1.2.3 or host:port")
    return _Host(name, port)


def _port(text: str) -> int | None:
    if text == "*":
        return 0
    return int(text) if text.isdecimal() and text.isascii() and 0 < int(text) < 65536 else None
