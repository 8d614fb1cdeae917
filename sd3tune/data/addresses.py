"""Checks to which addresses a URL leads, after its host name was resolved.

A table of images often comes from other people. Without a check its URLs could reach hosts that
only this machine can reach: its own services, the router, or a cloud's metadata server, which gives
out credentials. A webhook is the user's own, and its receiver often is on this machine or network:
only link-local addresses and metadata servers are refused there.
"""

import ipaddress
import socket
from collections.abc import Callable

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in the last 32 bits
# Treated as not public, although Python's ipaddress may call them global. 192.0.0.0/24 is for
# protocols and contains Oracle's metadata server (192.0.0.192); older versions of Python know only
# a part of it.
OTHERS = (
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's internal address for its virtual machines
    ipaddress.ip_network("192.88.99.0/24"),  # relays to IPv6, no longer in use
    ipaddress.ip_network("3fff::/20"),  # for documentation
)
COMPATIBLE = ipaddress.ip_network("::/96")  # an IPv4 address in the last 32 bits, no longer in use
# Metadata servers of clouds outside the link-local networks.
METADATA = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure
    ipaddress.ip_network("192.0.0.192/32"),  # Oracle
    ipaddress.ip_network("100.100.100.200/32"),  # Alibaba
    ipaddress.ip_network("fd00:ec2::254/128"),  # Amazon
    ipaddress.ip_network("fd20:ce::254/128"),  # Google
    ipaddress.ip_network("fd00:42::42/128"),  # Scaleway
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Check = Callable[[str], str | None]  # a numeric address -> why it is refused


class PrivateAddress(OSError):
    """A host with an address that is refused."""


def public(address: str) -> bool:
    """Whether `address` (numeric IPv4 or IPv6) is a public internet address."""
    ip = _parsed(address)
    inner = _inner(ip)
    if inner is not None:
        ip = inner
    elif isinstance(ip, ipaddress.IPv6Address) and (ip.teredo is not None or ip.is_site_local):
        return False
    refused = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_reserved,
               ip.is_unspecified)  # fmt: skip
    return ip.is_global and not any(refused) and not any(ip in network for network in OTHERS)


def link_local(address: str) -> bool:
    """Whether `address` (numeric IPv4 or IPv6) is link-local or a metadata server of a cloud."""
    ip = _parsed(address)
    inner = _inner(ip)
    if inner is None and isinstance(ip, ipaddress.IPv6Address):
        if ip in COMPATIBLE:
            inner = ipaddress.IPv4Address(int(ip))
        elif ip.teredo is not None:
            inner = ip.teredo[1]
    ip = ip if inner is None else inner
    return ip.is_link_local or any(ip in network for network in METADATA)


def only_public(address: str) -> str | None:
    """Refuses what is not public: for URLs of a table."""
    if public(address):
        return None
    return "is not a public address; allow_private_hosts=true permits it"


def not_link_local(address: str) -> str | None:
    """Refuses link-local addresses and metadata servers: for webhooks."""
    if not link_local(address):
        return None
    return (
        "is a link-local address or a metadata server, which gives out credentials; "
        "allow_link_local=true in webhook_config permits it"
    )


def everything(address: str) -> str | None:
    """Refuses nothing."""
    return None


def addresses(host: str, port: int, check: Check) -> list[str]:
    """The numeric addresses of `host`; every spelling of an IPv4 address works.

    Raises OSError if the host has no address, and PrivateAddress if `check` refuses one of them.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise OSError(f"the host {host} is not known") from None
    digits = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in digits:
        if (why := check(address)) is not None:
            spelt = host if host == address else f"{host} is {address}, which"
            raise PrivateAddress(f"{spelt} {why}")
    return digits


def numeric(host: str) -> list[str]:
    """The addresses that a host in digits means, in whatever spelling; none for a name. No server
    is asked."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _parsed(address: str) -> Address:
    return ipaddress.ip_address(address.partition("%")[0])


def _inner(ip: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 address that leads to it."""
    if not isinstance(ip, ipaddress.IPv6Address):
        return None
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour
