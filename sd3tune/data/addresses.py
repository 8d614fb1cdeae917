"""Checks that the URLs of a table lead to public addresses only.

A table often comes from other people. Without this check its URLs could reach hosts that only this
machine can reach: its own services, the router, or a cloud's metadata server, which gives out
credentials.
"""

import ipaddress
import socket

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
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PrivateAddress(OSError):
    """A host that only this machine or its network can reach."""


def public(address: str) -> bool:
    """Whether `address` (numeric IPv4 or IPv6) is a public internet address."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
        elif ip.teredo is not None or ip.is_site_local:
            return False
    refused = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_reserved,
               ip.is_unspecified)  # fmt: skip
    return ip.is_global and not any(refused) and not any(ip in network for network in OTHERS)


def addresses(host: str, port: int, *, private: bool) -> list[str]:
    """The numeric addresses of `host`; every spelling of an IPv4 address works.

    Raises OSError if the host has no address, and PrivateAddress if one of its addresses is not
    public and `private` is False.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise OSError(f"the host {host} is not known") from None
    digits = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in digits:
        if not private and not public(address):
            spelt = host if host == address else f"{host} is {address}, which"
            raise PrivateAddress(
                f"{spelt} is not a public address; allow_private_hosts=true permits it"
            )
    return digits
