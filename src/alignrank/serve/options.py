"""What a user may ask of a server, and what its clients may use up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from alignrank.arguments import whole
from alignrank.errors import InputError

LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one client, and of all together.

    body: bytes of a request's; pixels: of an image, by its header; held: bytes of all bodies that are being read or
    decoded. connections: open at once. head_seconds: until a request's headers are there. body_seconds: a body may take
    so long, and for each `rate` bytes of it that have come a second more: who sends nothing, or a byte now and then, is
    not waited for. grace_seconds: requests
    that are on their way over open connections are still taken at the end; drain_seconds: what is under way may take.
    """

    body: int = 16 * 1024**2
    pixels: int = 50_000_000
    held: int = 256 * 1024**2
    # A process has 1024 files where nobody says otherwise.
    connections: int = 800
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    rate: int = 64 * 1024
    grace_seconds: float = 0.3
    drain_seconds: int = 30


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """host, port: the address; port 0: a free one. token: what clients must send; None: nothing. batch: images that the
    network sees at a time, at most. queue: requests that are decoded or wait
    for the network, at most; others are sent away. wait: seconds that an image waits for others that are being decoded,
    to be computed with them.

    Raises InputError naming the option that is out of range, and for an address that other machines can reach without
    a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    batch: int = 8
    queue: int = 64
    wait: float = 0.004
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", whole("batch", self.batch, least=1))
        object.__setattr__(self, "queue", whole("queue", self.queue, least=1))
        object.__setattr__(self, "port", whole("port", self.port, least=0))
        if self.port > 65535:
            raise InputError(f"port: must be from 0 to 65535, got {self.port}")
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise InputError("token: must be of printable ASCII characters, at least one")
        if self.token is None and not is_loopback(self.host):
            raise InputError(
                f"token: {self.host} can be reached from other machines; set one with --token or ALIGNRANK_TOKEN, "
                "or leave out --host"
            )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone; a name is not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == LOCALHOST
