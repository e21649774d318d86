"""Ports for servers that are started in a moment."""

from __future__ import annotations

import socket

import pytest

from mnemocore import free_port
from mnemocore.errors import InvalidSettingError


def test_nobody_listens_on_it_and_no_outgoing_connection_is_given_it() -> None:
    ports = {free_port.free_port() for _ in range(50)}
    assert len(ports) > 40
    assert max(ports) < 32_768
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.pop()))


def test_what_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port.free_port()
    monkeypatch.setattr(free_port, "_FIRST", port)
    monkeypatch.setattr(free_port, "_END", port + 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        with pytest.raises(InvalidSettingError, match=f"no port from {port} to {port} is free"):
            free_port.free_port()
    assert free_port.free_port() == port


def test_an_address_of_another_machine_has_none_for_us() -> None:
    with pytest.raises(OSError, match="assign"):
        free_port.free_port("192.0.2.1")
