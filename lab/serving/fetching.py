"""Pictures at addresses that a request names, from hosts that whoever started the server has listed, and from nowhere else.

A name must lead to public addresses alone, and the connection goes to the address that was checked, so that a name that answers otherwise
the next moment (DNS rebinding) leads nowhere else. Of each redirect the same is asked. An address that is listed itself may be private.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

import httpx

from lab.errors import ConfigError
from lab.serving.guard import HELD_BYTES, Held

FETCH_S = 10.0
"""Seconds in which a picture must have come, redirects among them."""
MOST_REDIRECTS = 3
FETCHED_AT_ONCE = 16
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotFetched(Exception):
    """Why a picture is not to be had, without a word of its address. status: of the reply."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


@dataclass(frozen=True)
class Host:
    """A listed host: its name in lower case or its address, and its port; None: that of http or https."""

    name: str
    port: int | None

    @classmethod
    def read(cls, text: str) -> Host:
        """Raises `ConfigError` for what is not NAME or NAME:PORT."""
        try:
            parts = urlsplit(f"//{text}")
            host, port = httpx.URL(f"http://{text}").host, parts.port
        except (ValueError, httpx.InvalidURL):
            host, port, parts = "", None, urlsplit("")
        if not host or parts.netloc != text or "@" in text or "*" in text:
            raise ConfigError(f"--allow-media-domain {text}: give the name of one host, or its address, such as images.example.org or 10.0.0.5:9000.")
        return cls(host, port)

    def fits(self, url: httpx.URL) -> bool:
        """Whether it is the host of an address."""
        port = url.port or PORTS[url.scheme]
        return url.host == self.name and port == (self.port or PORTS[url.scheme])


class Fetching:
    """hosts: those that are listed, as they were typed. most: bytes of a picture."""

    def __init__(self, hosts: Collection[str], most: int) -> None:
        """Raises `ConfigError`."""
        self.hosts, self.most = tuple(map(Host.read, hosts)), most
        self.free = asyncio.Semaphore(FETCHED_AT_ONCE)

    async def fetch(self, address: str, held: Held) -> bytes:
        """The bytes at an address, counted among those that its request holds. Raises `NotFetched`."""
        if not self.hosts:
            raise NotFetched("this server fetches nothing. Send the picture itself, as data:image/png;base64,...")
        try:
            async with asyncio.timeout(FETCH_S), self.free:
                return await self.follow(parsed(address), held)
        except (TimeoutError, httpx.TimeoutException):
            raise NotFetched(f"the picture did not come within {FETCH_S:.0f} seconds.") from None
        except httpx.HTTPError as error:
            raise NotFetched(f"the picture cannot be fetched ({type(error).__name__}).") from None

    @cached_property
    def client(self) -> httpx.AsyncClient:
        """It keeps no connection: one of a certificate for another name of the same address would be taken again."""
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(trust_env=False, timeout=FETCH_S, limits=limits, headers={"accept-encoding": "identity"})

    async def follow(self, url: httpx.URL, held: Held) -> bytes:
        """What an address has, behind its redirects."""
        for _ in range(MOST_REDIRECTS + 1):
            found = await self.ask(url, held)
            if isinstance(found, bytes):
                return found
            url = found
        raise NotFetched(f"it is redirected more than {MOST_REDIRECTS} times.")

    async def ask(self, url: httpx.URL, held: Held) -> bytes | httpx.URL:
        """What an address has, or where it leads on."""
        *others, last = await self.places(url)
        for place in others:
            try:
                return await self.read(url, place, held)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue  # another of the same name
        return await self.read(url, last, held)

    async def places(self, url: httpx.URL) -> list[str]:
        """Addresses of the host of a listed URL, all of them public unless they are listed themselves. Raises `NotFetched`."""
        if url.scheme not in PORTS or url.userinfo:
            raise NotFetched("give an http or https address without a user's name, or data:image/png;base64,...")
        if not any(host.fits(url) for host in self.hosts):
            raise NotFetched("this server fetches pictures from listed hosts alone (--allow-media-domain), and this is none of them.")
        if literal(url.host) is not None:
            return [url.host]
        try:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(url.raw_host.decode(), url.port or PORTS[url.scheme], type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise NotFetched("its host has no address.") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not all(is_public(literal(address)) for address in addresses):
            raise NotFetched("its host leads to an address that is not public, which must be listed itself (--allow-media-domain).")
        return addresses

    async def read(self, url: httpx.URL, place: str, held: Held) -> bytes | httpx.URL:
        """Ask one address of a URL's host, by the host's own name."""
        headers = {"host": url.netloc.decode()}
        extensions = {"sni_hostname": url.raw_host.decode()}
        request = self.client.build_request("GET", url.copy_with(host=place), headers=headers, extensions=extensions)
        response = await self.client.send(request, stream=True)
        try:
            if response.is_redirect:
                return parsed(str(url.join(response.headers["location"])))
            if response.status_code != 200:
                raise NotFetched(f"its host answers with status {response.status_code}.")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise NotFetched("its host sends it compressed, though asked not to.")
            return await self.body(response, held)
        finally:
            await response.aclose()

    async def body(self, response: httpx.Response, held: Held) -> bytes:
        """The bytes of a response, within the limits."""
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_raw():
            size += len(part)
            held.take(len(part))
            if size > self.most:
                raise NotFetched(f"the picture is larger than {self.most // 1024 // 1024} MB (--max-body).")
            if held.guard.held > HELD_BYTES:
                raise NotFetched("other requests hold as much as this server keeps at once. Try again.", 429)
            parts.append(part)
        return b"".join(parts)


def parsed(address: str) -> httpx.URL:
    """Raises `NotFetched` for what is no address."""
    try:
        return httpx.URL(address)
    except (httpx.InvalidURL, ValueError):
        raise NotFetched("it is no address.") from None


def literal(host: str) -> Address | None:
    """An address that is written as one; None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def is_public(address: Address | None) -> bool:
    """Whether an address is of the open internet, that of version 4 within one of version 6 too."""
    if address is None or not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None)
    return all(is_public(each) for each in inner if each is not None)
