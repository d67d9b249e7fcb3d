"""Keys and credentials files: who has them gets in, who has others is told, and nothing leaks."""

import base64
import contextlib
import hashlib
import json
import time

import nkeys
import pytest
from nacl.signing import SigningKey
from nats_server import NatsServer

from falcon_pachinko.backends.nats import NatsBackend
from falcon_pachinko.errors import SetupError
from falcon_pachinko.testing.conformance import Node, eventually

pytestmark = pytest.mark.slow

KINDS = {
    "O": nkeys.PREFIX_BYTE_OPERATOR,
    "A": nkeys.PREFIX_BYTE_ACCOUNT,
    "U": nkeys.PREFIX_BYTE_USER,
}


def key(kind):
    """Make a key; return its seed, its public name, and what signs with it."""
    seed = nkeys.encode_seed(bytes(SigningKey.generate()), KINDS[kind])
    pair = nkeys.from_seed(bytearray(seed))
    return bytes(seed).decode(), pair.public_key.decode(), pair.sign


def token(issuer, subject, name, claims, **more):
    """Write a JWT as NATS has it."""
    _, public, sign = issuer
    body = {"iat": int(time.time()), "iss": public, "name": name, "sub": subject, **more}
    body["nats"] = {"version": 2, **claims}
    digest = hashlib.sha256(json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")

    def part(data):
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    head = part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    signed = f"{head}.{part(json.dumps(body).encode())}"
    return f"{signed}.{part(sign(signed.encode()))}"


class Operator:
    """An operator, an account with JetStream, and its users."""

    def __init__(self):
        self.operator, self.account, self.system = key("O"), key("A"), key("A")
        self.of_operator = token(self.operator, self.operator[1], "operator", {"type": "operator"})

    def _account(self, public, storage):
        limits = {"mem_storage": storage, "disk_storage": storage, "streams": storage}
        limits |= {"consumer": storage, "subs": -1, "data": -1, "payload": -1, "imports": -1}
        limits |= {"exports": -1, "conn": -1, "leaf": -1, "wildcards": True}
        return token(self.operator, public, "account", {"type": "account", "limits": limits})

    @property
    def settings(self):
        accounts = ((self.account[1], -1), (self.system[1], 0))
        written = ", ".join(f"{name}: {self._account(name, limit)}" for name, limit in accounts)
        return (
            f"operator: {self.of_operator}\nsystem_account: {self.system[1]}\n"
            f"resolver: MEMORY\nresolver_preload: {{ {written} }}"
        )

    def credentials(self, path, **more):
        """Write a file for a new user."""
        seed, public, _ = key("U")
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = token(self.account, public, "user", {"type": "user", **limits}, **more)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        return path


@pytest.fixture
async def started():
    """Start a backend of a server; it is stopped with the test."""
    async with contextlib.AsyncExitStack() as nodes:

        async def start(server, query):
            node = Node(NatsBackend(f"{server.url}?probe=0.2&{query}"), 20)
            nodes.push_async_callback(node.stop)
            await node.start()
            return node

        yield start


async def test_a_key_opens_the_door(tmp_path, started):
    """The server has its public half; another key is refused, and said so."""
    seed, public, _ = key("U")
    other, _, _ = key("U")
    mine, wrong = tmp_path / "mine.nk", tmp_path / "wrong.nk"
    mine.write_text(f"{seed}\n")
    wrong.write_text(other)
    settings = f"authorization {{ users: [{{ nkey: {public} }}] }}"
    with NatsServer(tmp_path, settings=settings) as server:
        one, two = await started(server, f"nkey={mine}"), await started(server, f"nkey={wrong}")

        assert (one.backend.state, one.backend.why) == ("up", None)
        assert two.backend.state == "degraded"
        assert "does not accept the key" in two.backend.why
        assert seed not in repr(one.events)
        assert other not in repr(two.events) + repr(vars(two.backend))


async def test_credentials_open_the_door(tmp_path, started):
    """A JWT and a seed in one file; it is read anew with each attempt, since it expires."""
    operator = Operator()
    good = operator.credentials(tmp_path / "good.creds")
    old = operator.credentials(tmp_path / "old.creds", exp=int(time.time()) - 10)
    with NatsServer(tmp_path, settings=operator.settings) as server:
        one = await started(server, f"credentials={good}")
        two = await started(server, f"credentials={old}")
        told = two.backend.why
        old.write_text(good.read_text())
        await two.is_now("up")

        assert (one.backend.state, one.backend.why) == ("up", None)
        assert "credentials" in told
        assert len([each for each in two.events if getattr(each, "state", "") == "degraded"]) == 1


async def test_credentials_that_expire_are_told(tmp_path, started):
    """The connection ends then, and the reason is about the credentials."""
    operator = Operator()
    short = operator.credentials(tmp_path / "short.creds", exp=int(time.time()) + 3)
    with NatsServer(tmp_path, settings=operator.settings) as server:
        one = await started(server, f"credentials={short}")

        async def is_told():
            return True if "credentials" in (one.backend.why or "") else None

        await eventually(is_told, 20)
        assert one.backend.state == "degraded"


async def test_a_server_that_wants_no_key_is_told(tmp_path, started):
    """Nobody believes to be known there who is not."""
    file = tmp_path / "mine.nk"
    file.write_text(key("U")[0])
    with NatsServer(tmp_path) as server:
        one = await started(server, f"nkey={file}")

        assert one.backend.state == "degraded"
        assert "takes no key" in one.backend.why


@pytest.mark.parametrize("setting", ["nkey", "credentials"])
@pytest.mark.parametrize("text", [None, "", "SUsesame", "no key at all", "é", "folder"])
def test_a_file_that_is_none_is_refused_at_once(tmp_path, setting, text):
    """One that is not there, or has no key, is an error without a piece of what is in it."""
    file = tmp_path / "sesame"
    if text == "folder":
        file.mkdir()
    elif text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError) as refused:
        NatsBackend(f"nats://a?{setting}={file}")

    assert f"{setting}=" in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_server_is_no_user(tmp_path):
    """The seed of an account's key is not what logs in."""
    file = tmp_path / "account.nk"
    seed, _, _ = key("A")
    file.write_text(seed)
    with pytest.raises(SetupError, match="begins with SU") as refused:
        NatsBackend(f"nats://a?nkey={file}")

    assert seed not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["nats://a:b@c?nkey=x", "nats://a@c?credentials=x", "nats://c?nkey=x&credentials=y"]
)
def test_one_way_to_log_in_is_enough(url):
    """Two are an error, before a file is looked at."""
    with pytest.raises(SetupError, match="in several ways"):
        NatsBackend(url)
