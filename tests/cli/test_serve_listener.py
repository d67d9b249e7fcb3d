"""The socket that `pachinko serve` listens on."""

import socket

import pytest

from pachinko_cli.errors import CliError
from pachinko_cli.server.listener import PortTakenError, listen

pytestmark = pytest.mark.quick


def test_it_listens_where_it_was_asked_to():
    """A client connects, on IPv4 and by default on nothing but loopback."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        host, port = listener.getsockname()

    assert (host, port > 0) == ("127.0.0.1", True)


def test_a_port_that_somebody_listens_on_is_taken():
    """Even where the other listener allows its address to be used again."""
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError) as refused:
            listen("127.0.0.1", port)

    assert (refused.value.port, refused.value.exit_code) == (port, 1)


@pytest.mark.parametrize("host", ["no such host", "203.0.113.7"])
def test_a_host_that_is_not_ours_is_an_error(host):
    """The message names the host; the hint names one that works."""
    with pytest.raises(CliError, match=host) as refused:
        listen(host, 0)

    assert "127.0.0.1" in refused.value.hint


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="an option of Linux; elsewhere it is left out"
)
def test_a_connection_inherits_the_time_until_a_silent_peer_is_gone():
    """What is accepted gives up on bytes that nobody acknowledges for 30 seconds."""
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        timeout = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    assert timeout == 30_000
