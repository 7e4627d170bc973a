"""The socket block of conftest.py does block, and lets through what it should."""

from __future__ import annotations

import socket
import threading

import pytest
from conftest import Guard, SocketBlocked


def test_internet_addresses_are_refused(network_guard: Guard) -> None:
    # 192.0.2.0/24 and .invalid are reserved: nothing would answer even without the block.
    with socket.socket() as stream, pytest.raises(SocketBlocked):
        stream.connect(("192.0.2.1", 80))
    with socket.socket() as stream, pytest.raises(SocketBlocked):
        stream.connect_ex(("127.0.0.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(SocketBlocked):
        datagram.sendto(b"x", ("192.0.2.1", 53))
    with socket.socket(socket.AF_INET6) as stream, pytest.raises(SocketBlocked):
        stream.connect(("2001:db8::1", 80))
    with pytest.raises(SocketBlocked):
        socket.create_connection(("example.invalid", 80))
    assert network_guard.refused == ["192.0.2.1", "127.0.0.1", "192.0.2.1", "2001:db8::1", "example.invalid"]
    network_guard.refused.clear()


@pytest.mark.allow_loopback
def test_loopback_is_open_where_marked(network_guard: Guard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"yes"))
        thread.start()
        with socket.create_connection(server.getsockname()) as client:
            assert client.recv(3) == b"yes"
        thread.join()
    with socket.socket() as stream, pytest.raises(SocketBlocked):
        stream.connect(("192.0.2.1", 80))
    network_guard.refused.clear()


def test_unix_sockets_are_open() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"
