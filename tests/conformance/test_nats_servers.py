"""The backend on NATS servers as people have them: TLS, rights, full stores, restarts."""

import asyncio
import contextlib
import re
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from backend_trials import all_works, is_explained
from nats_server import NatsServer, ask

from falcon_pachinko.backends.base import Explained, HistoryPosition, StateChanged
from falcon_pachinko.backends.nats import NatsBackend
from falcon_pachinko.errors import BackendError, EncodeError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.testing.conformance import Node, eventually

pytestmark = pytest.mark.slow

LIMITS = HistoryLimits(count=100, bytes=1_000_000, seconds=60)
QUICK = "timeout=2&probe=0.2"
PAGE = Path(__file__).parents[2] / "docs/how-to/nats.md"
NEEDED = re.search(r"```text\n(publish: .*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
"""What the page says that a user needs."""

SUBJECTS = re.findall(r'"[^"]+"', NEEDED)


@pytest.fixture
async def started():
    """Start a backend of a server, or of a URL; it is stopped with the test."""
    async with contextlib.AsyncExitStack() as nodes:

        async def start(where, *, user="", query="", **options):
            url = where
            if isinstance(where, NatsServer):
                login = f"{user}@" if user else ""
                url = f"nats://{login}127.0.0.1:{where.port}?{QUICK}{query}"
            node = Node(NatsBackend(url, **options), 20)
            nodes.push_async_callback(node.stop)
            await node.start()
            return node

        yield start


async def plain_works(one, two):
    """Whether broadcasts cross, and stay so for longer than any call may take."""
    await two.backend.subscribe(["a"])
    for number in range(30):
        await one.backend.publish([("a", b"%d" % number)])
        await asyncio.sleep(0.1)
    assert len(await two.hears(30)) == 30
    assert one.states == two.states == ["up"]
    assert one.backend.state == two.backend.state == "up"


# TLS or nothing.


class Eavesdropper:
    """A server that says what it is told to say of itself, and notes what it is sent."""

    def __init__(self, info):
        self.info, self.heard = info, b""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc):
        self._server.close()

    async def _meet(self, reader, writer):
        with contextlib.suppress(OSError):
            writer.write(b"INFO " + self.info + b"\r\n")
            self.heard += await reader.read(65536)
        writer.close()


INFO = (
    b'{"server_id":"x","version":"2.11.0","proto":1,"headers":true,"max_payload":1048576,'
    b'"auth_required":true,"nonce":"abcdef"%s}'
)


@pytest.mark.parametrize(
    "says", [b"", b',"tls_required":false', b',"tls_required":true', b',"tls_available":true']
)
@pytest.mark.parametrize("login", ["pach:sesame", "sesame", ""])
async def test_nothing_is_said_in_clear(started, says, login):
    """Whatever a server claims, without TLS it hears neither a password nor CONNECT."""
    async with Eavesdropper(INFO % says) as there:
        at = f"{login}@" if login else ""
        node = await started(f"tls://{at}127.0.0.1:{there.port}?timeout=1")

        assert node.backend.state == "degraded"
        assert b"CONNECT" not in there.heard
        assert b"sesame" not in there.heard
        assert not there.heard.startswith(b"{")
        if not says or b"false" in says:
            assert "no TLS" in node.backend.why
            assert there.heard == b""


async def test_a_context_means_tls_too(started):
    """nats:// with tls= says nothing in clear, either."""
    async with Eavesdropper(INFO % b"") as there:
        context = ssl.create_default_context()
        url = f"nats://pach:sesame@127.0.0.1:{there.port}?timeout=1"
        node = await started(url, tls=context)

        assert "no TLS" in node.backend.why
        assert there.heard == b""


@pytest.mark.parametrize("name", ["_connect_command", "_process_info", "_process_msg"])
async def test_a_client_library_that_has_changed_is_not_trusted(started, monkeypatch, name):
    """Where nats-py lacks what the guard stands on, nothing is sent at all."""
    monkeypatch.delattr(f"nats.aio.client.Client.{name}")
    async with Eavesdropper(INFO % b"") as there:
        node = await started(f"tls://pach:sesame@127.0.0.1:{there.port}?timeout=1")

        assert "nats-py" in node.backend.why
        assert there.heard == b""


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def secure(folder, authority, *names, more=""):
    """Return settings of a server that has TLS, with a certificate for some names."""
    certificate = authority.issue_cert(*names)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "cert.pem", append=bool(number))
    return f'tls {{ cert_file: "{folder / "cert.pem"}", key_file: "{folder / "key.pem"}" }}\n{more}'


def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


USERS = "authorization { user: pach, password: sesame }"


@pytest.mark.parametrize("more", ["", "allow_non_tls: true"])
async def test_all_of_it_works_with_tls(tmp_path, started, authority, more):
    """Also on a server that would talk without; and the connection is encrypted."""
    settings = secure(tmp_path, authority, "127.0.0.1", "localhost", more=f"{USERS}\n{more}")
    with NatsServer(tmp_path, settings=settings) as server:
        url = f"tls://pach:sesame@127.0.0.1:{server.port}?{QUICK}"
        one, two = [await started(url, tls=trusting(authority)) for _ in range(2)]
        await all_works(one, two)
        versions = [each.get("tls_version") for each in server.monitor("connz")["connections"]]

    assert len(versions) == 2
    assert all(versions)


async def test_the_host_name_is_checked(tmp_path, started, authority):
    """A good certificate of another host is none."""
    with NatsServer(tmp_path, settings=secure(tmp_path, authority, "broker.example")) as server:
        url = f"tls://pach:sesame@127.0.0.1:{server.port}?{QUICK}"
        node = await started(url, tls=trusting(authority))
        stranger = await started(url)

        assert "not valid for '127.0.0.1'" in node.backend.why
        assert "certificate" in stranger.backend.why
        assert "sesame" not in repr(node.events) + repr(stranger.events)


async def test_of_several_servers_any_with_tls_will_do(tmp_path, started, authority):
    """One in clear, named before or after, hears nothing."""
    with NatsServer(tmp_path, settings=secure(tmp_path, authority, "127.0.0.1")) as server:
        async with Eavesdropper(INFO % b"") as there:
            url = f"tls://a:b@127.0.0.1:{there.port},127.0.0.1:{server.port}?timeout=4"
            node = await started(url, tls=trusting(authority))

            assert node.backend.state == "up"
            assert there.heard == b""


async def test_a_server_that_another_has_named_is_held_to_it(started, authority):
    """One that a good server says is of its cluster hears nothing without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    writers = []
    async with Eavesdropper(INFO % b"") as there:
        more = b',"tls_required":true,"cluster":"c","connect_urls":["127.0.0.1:%d"]' % there.port

        async def good(reader, writer):
            writers.append(writer)
            writer.write(b"INFO " + INFO % more + b"\r\n")
            await writer.start_tls(context)
            with contextlib.suppress(OSError):
                while line := await reader.readline():
                    if line.startswith(b"PING"):
                        writer.write(b"PONG\r\n")
            writer.close()

        server = await asyncio.start_server(good, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"tls://pach:sesame@127.0.0.1:{port}?{QUICK}"
        node = await started(url, tls=trusting(authority))
        first = node.backend.state
        server.close()
        for each in writers:
            each.transport.abort()
        await is_explained(node, "degraded", "no TLS")

        assert first == "up"
        assert there.heard == b""


# Who only listens.


@pytest.mark.parametrize("pattern", [">", "pachinko.>", "pachinko.pub.*"])
async def test_who_only_listens_changes_nothing(tmp_path, started, pattern):
    """Somebody who subscribes to everything, before and after the start, is not noticed."""
    with NatsServer(tmp_path) as server:
        taps = [await tap(server, pattern)]
        one, two = await started(server), await started(server)
        taps.append(await tap(server, pattern))
        await asyncio.sleep(2.5)  # a call's time, and a few probes
        await all_works(one, two)
        three = await started(server)

        await three.is_now("up")
        assert [one.states, two.states] == [["up"]] * 2
        assert one.backend.why is None
        for _, writer in taps:
            writer.close()


async def tap(server, pattern):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b'CONNECT {"verbose":false}\r\nSUB %s 1\r\nPING\r\n' % pattern.encode())
    while (await reader.readline()) != b"PONG\r\n":
        pass
    return reader, writer


# Rights.


def users(*permissions):
    each = ", ".join(
        f"{{ user: u{number}, password: x, permissions: {{ {allowed} }} }}"
        for number, allowed in enumerate(permissions)
    )
    return f"authorization {{ users: [{each}] }}"


async def test_what_the_page_says_is_enough(tmp_path, started):
    """A user with the permissions of the documentation, and nothing besides, can do everything."""
    with NatsServer(tmp_path, settings=users(NEEDED)) as server:
        one, two = await started(server, user="u0:x"), await started(server, user="u0:x")
        await all_works(one, two)

        assert one.backend.why is None
        assert one.backend.failed_calls == two.backend.failed_calls == 0


@pytest.mark.parametrize("place", range(len(SUBJECTS)))
async def test_all_that_the_page_says_is_needed(tmp_path, started, place):
    """Whatever lacks of it is found at the start, and named."""
    subject = SUBJECTS[place]
    again = SUBJECTS.index(subject) != place
    before, _, after = NEEDED.rpartition(subject) if again else NEEDED.partition(subject)
    with NatsServer(tmp_path, settings=users(f'{before}"nothing"{after}')) as server:
        node = await started(server, user="u0:x")
        named = subject.strip('"').rstrip("*>")

        plain = "pachinko." in subject
        why = await is_explained(node, "degraded" if plain else "up", f" to {named}")
        assert "the user may not" in why


@pytest.mark.parametrize(
    ("allowed", "told"),
    [
        ('publish: ["pachinko.>"], subscribe: ["pachinko.>","_INBOX.>"]', "publish to $JS.API."),
        (
            'publish: ["pachinko.>", "$JS.API.>"], subscribe: ["pachinko.>"]',
            "subscribe to _INBOX.>",
        ),
        (
            'publish: { allow: [">"], deny: ["pachinko.state.>"] }',
            "publish to pachinko.state.",
        ),
    ],
)
async def test_without_rights_to_jetstream_rooms_work(tmp_path, started, allowed, told):
    """Plain rooms do not notice, and the reason names the subject."""
    with NatsServer(tmp_path, settings=users(allowed)) as server:
        one, two = await started(server, user="u0:x"), await started(server, user="u0:x")
        why = await is_explained(one, "up", "no presence", "no leases", told)
        with pytest.raises(BackendError, match="may not"):
            await asyncio.wait_for(one.backend.enter("t", {"ann": b""}), 1)
        await plain_works(one, two)

        assert one.backend.failed_calls == 1
        assert "the user may not" in why
        with pytest.raises(BackendError, match="may not"):
            await started(server, user="u0:x", query="&required=true")


async def test_rights_to_histories_alone_may_lack(tmp_path, started):
    """Presence and leases work, and the reason is about histories."""
    allowed = 'publish: { allow: [">"], deny: ["pachinko.keep.>"] }'
    with NatsServer(tmp_path, settings=users(allowed)) as server:
        one = await started(server, user="u0:x")

        why = await is_explained(one, "up", "no histories", "publish to pachinko.keep.")
        assert "presence" not in why
        assert await one.backend.acquire("l", 15)


@pytest.mark.parametrize(
    ("allowed", "told"),
    [
        ('publish: ["$JS.API.>"]', "publish to pachinko.pub.>"),
        ('subscribe: ["_INBOX.>"]', "subscribe to pachinko.pub.>"),
        ('publish: { allow: [">"], deny: ["pachinko.pub.>"] }', "publish to pachinko.pub.>"),
    ],
)
async def test_without_rights_to_rooms_it_is_degraded(tmp_path, started, allowed, told):
    """Nobody is told that anything is published, and the reason names the subject."""
    with NatsServer(tmp_path, settings=users(allowed)) as server:
        one = await started(server, user="u0:x")
        await is_explained(one, "degraded", "the user may not", told)

        with pytest.raises(BackendError):
            await one.backend.publish([("a", b"1")])
        assert one.backend.failed_calls == 1


async def test_rights_that_come_later_are_found(tmp_path, started):
    """What lacked is tried again, and that it works is told."""
    with NatsServer(tmp_path, settings=users('publish: ["pachinko.>"]')) as server:
        one = await started(server, user="u0:x")
        await is_explained(one, "up", "$JS.API.")
        server.configure(users(NEEDED))
        server.reload()
        await is_explained(one, "up", "")

        async def all_works():
            return True if one.backend.state == "up" and one.backend.why is None else None

        await eventually(all_works, 20)
        assert await one.backend.acquire("l", 15)


# Who we are.


@pytest.mark.parametrize(
    ("settings", "login", "told"),
    [
        (USERS, "pach:wrong", "does not accept the user or the password"),
        ("authorization { token: sesame }", "wrong", "does not accept the token"),
        (USERS, "", "user:password@host"),
    ],
)
async def test_a_refusal_is_explained_once(tmp_path, started, settings, login, told):
    """It says what is wrong, without any of it, and goes on trying."""
    with NatsServer(tmp_path, settings=settings) as server:
        node = await started(server, user=login)
        await is_explained(node, "degraded", told)
        await asyncio.sleep(1.5)  # several attempts
        right = "" if "token" in settings else "pach:"
        server.configure("")
        server.reload()
        await node.is_now("up")

        told_of = [each for each in node.events if isinstance(each, (StateChanged, Explained))]
        assert [told in each.why for each in told_of[:-1]] == [True]
        assert "sesame" not in repr(node.events)
        assert "wrong" not in repr(node.events)
        assert right in ("", "pach:")


# JetStream that does not work.


async def test_jetstream_that_does_not_answer_fails_its_own_calls(tmp_path, started):
    """Rooms go on, the state stays, and each call ends in its time; histories as well."""
    with NatsServer(tmp_path, jetstream=False) as server:
        _, writer = await tap(server, "$JS.API.>")  # hears the questions, and answers none
        one, two = await started(server), await started(server)
        await is_explained(one, "up", "no presence, no histories, no leases", "not answer")
        calls = (
            one.backend.beat(15),
            one.backend.enter("t", {"ann": b""}),
            one.backend.append("a", b"", LIMITS),
            one.backend.read("a", HistoryPosition(), LIMITS),
        )
        outcomes = asyncio.gather(*calls, return_exceptions=True)
        await plain_works(one, two)

        assert [type(each) for each in await outcomes] == [BackendError] * 4
        assert one.backend.failed_calls == 4
        writer.close()


@pytest.mark.parametrize(
    ("settings", "jetstream", "told"),
    [
        ("", False, "nats-server -js"),
        (
            "accounts { A { users: [{ user: u, password: x }] }, B { jetstream: enabled } }",
            True,
            "the account has no JetStream",
        ),
    ],
)
async def test_jetstream_that_is_not_there_is_explained(
    tmp_path, started, settings, jetstream, told
):
    """A server or an account without it, or without room; plain rooms work."""
    with NatsServer(tmp_path, jetstream=jetstream, settings=settings) as server:
        user = "u:x" if settings else ""
        one, two = await started(server, user=user), await started(server, user=user)
        await is_explained(one, "up", "no presence", "no leases", told)
        await two.backend.subscribe(["a"])
        await one.backend.publish([("a", b"1")])

        assert [each.data for each in await two.hears(1)] == [b"1"]
        with pytest.raises(BackendError, match="required=true"):
            await started(server, user=user, query="&required=true")


async def test_a_full_store_is_explained(tmp_path, started):
    """What can be stored no more is named as soon as something is refused; rooms go on."""
    account = """accounts { A {
        users: [{ user: u, password: x }]
        jetstream { max_disk: 100K, max_memory: 0 } } }"""
    with NatsServer(tmp_path, settings=account) as server:
        one, two = await started(server, user="u:x"), await started(server, user="u:x")
        with pytest.raises(BackendError):
            await asyncio.gather(*(one.backend.append("a", bytes(5000), LIMITS) for _ in range(50)))
        await is_explained(one, "up", "no presence", "no histories", "store is full")
        await plain_works(one, two)


async def test_a_server_that_is_too_old_is_explained(started):
    """Before 2.11 rooms work, and the reason names the version."""
    info = b'INFO {"server_id":"x","version":"2.10.4","proto":1,"headers":true}\r\n'

    async def old(reader, writer):
        writer.write(info)
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(old, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        node = await started(f"nats://127.0.0.1:{port}?{QUICK}")

        await is_explained(node, "up", "no presence", "2.11", "2.10")


async def test_replicas_need_a_cluster(tmp_path, started):
    """?replicas=3 at a server that is alone is named."""
    with NatsServer(tmp_path) as server:
        node = await started(server, query="&replicas=3")

        await is_explained(node, "up", "no presence", "replicas=")


async def test_a_domain_is_asked_by_its_name(tmp_path, started):
    """Everything works in the domain of that name; another one is not there."""
    with NatsServer(tmp_path, jetstream="domain: hub") as server:
        one = await started(server, query="&domain=hub")
        two = await started(server, query="&domain=hub")
        other = await started(server, query="&domain=moon")
        await all_works(one, two)

        await is_explained(other, "up", "no presence", "domain moon")


# Restarts.


@pytest.mark.parametrize("how", ["again", "rolled back"])
async def test_a_restart_ends_every_epoch(tmp_path, started, how):
    """Also if nothing was lost: nobody can know."""
    with NatsServer(tmp_path) as server:
        one = await started(server)
        old = [await one.backend.append("a", b"%d" % number, LIMITS) for number in range(3)]
        blank = (await one.backend.read("b", HistoryPosition(), LIMITS)).position
        server.kill()
        server.save()
        server.start()
        await one.is_now("up", 2)
        if how == "rolled back":
            old += [await one.backend.append("a", b"%d" % number, LIMITS) for number in range(3)]
            server.kill()
            server.roll_back()
            server.start()
            await one.is_now("up", len(one.events))
        place = await one.backend.append("a", b"new", LIMITS)

        for position in (*old, blank):
            channel = "b" if position == blank else "a"
            past = await one.backend.read(channel, position, LIMITS)
            assert not past.complete
            assert past.position.epoch != position.epoch
        assert (await one.backend.read("a", place, LIMITS)).complete


@pytest.mark.parametrize("how", ["rolled back", "wiped"])
async def test_tokens_grow_whatever_the_server_forgot(tmp_path, started, how):
    """A holder from before is behind every holder from after."""
    with NatsServer(tmp_path) as server:
        one = await started(server)
        tokens = [await one.backend.acquire("l", 60)]
        await one.backend.release("l", tokens[0])
        server.kill()
        server.save()
        server.start()
        await one.is_now("up", 2)
        for _ in range(5):
            tokens.append(await one.backend.acquire("l", 60))
            await one.backend.release("l", tokens[-1])
        server.kill()
        server.roll_back() if how == "rolled back" else server.wipe()
        before = len(one.events)
        server.start()
        await one.is_now("up", before)
        tokens += [await one.backend.acquire("l", 60), await one.backend.acquire("other", 60)]

        assert None not in tokens
        assert tokens[:-1] == sorted(set(tokens[:-1]))
        assert tokens[-1] > tokens[-3]


async def test_the_dead_stay_dead_after_a_rollback(tmp_path, started):
    """Entries that a restored store brings back of a node are replaced, or swept."""
    with NatsServer(tmp_path) as server:
        one, two = await started(server), await started(server)
        await one.backend.beat(60)
        await one.backend.enter("t", {"ghost": b"1"})
        await two.backend.beat(0.5)
        await two.backend.enter("t", {"dead": b"1"})
        await two.stop()
        server.kill()
        server.save()
        server.start()
        await one.is_now("up", 2)
        await one.backend.replace("t", {"ann": b"2"})
        server.kill()
        server.roll_back()
        before = len(one.events)
        server.start()
        await one.is_now("up", before)
        await one.backend.beat(60)
        for table in await one.backend.tables():
            await one.backend.replace(table, {"ann": b"3"} if table == "t" else {})
        await one.backend.replace("t", {"ann": b"3"})

        assert await one.backend.entries("t") == {one.name: {"ann": b"3"}}


# Sizes.


async def test_what_is_too_large_is_the_senders_error(tmp_path, started):
    """It is refused before anything is sent, and says what to set; the rest of a batch goes."""
    with NatsServer(tmp_path, max_payload="10000") as server:
        one, two = await started(server), await started(server)
        await two.backend.subscribe(["a"])
        with pytest.raises(EncodeError, match="max_payload"):
            one.backend.check_size(9_600)
        one.backend.check_size(9_000)
        with pytest.raises(BackendError, match="max_payload"):
            await one.backend.publish([("a", b"1"), ("a", b"x" * 20_000), ("a", b"2")])
        with pytest.raises(BackendError, match="max_payload"):
            await one.backend.append("a", b"x" * 10_000, LIMITS)
        largest = await one.backend.append("a", b"x" * (10_000 - 512), LIMITS)

        assert [len(each.data) for each in await two.hears(3)] == [1, 1, 10_000 - 512]
        assert (await one.backend.read("a", HistoryPosition(), LIMITS)).position == largest
        assert one.states == ["up"]


async def test_who_is_up_to_date_reads_from_its_position(tmp_path, started):
    """What a reader is sent grows with what it lacks, and not with what is kept."""
    with NatsServer(tmp_path) as server:
        one = await started(server)
        places = [await one.backend.append("a", b"x" * 2000, LIMITS) for _ in range(100)]

        def sent():
            (each,) = server.monitor("connz")["connections"]
            return each["out_bytes"]

        sizes = []
        for place in (places[-1], places[-11], HistoryPosition()):
            before = await asyncio.to_thread(sent)
            past = await one.backend.read("a", place, LIMITS)
            sizes.append(await asyncio.to_thread(sent) - before)
            assert past.position == places[-1]

        up_to_date, ten, everything = sizes
        assert everything > 200_000
        assert up_to_date < 5_000
        assert ten < 30_000


async def test_a_dead_node_with_many_tables_is_swept_at_once(tmp_path, started):
    """20 000 tables go, and meanwhile nobody waits for the server."""
    with NatsServer(tmp_path) as server:
        one, dead = [await started(f"{server.url}?timeout=30&probe=0.2") for _ in range(2)]
        for start in range(0, 20_000, 500):
            names = range(start, start + 500)
            await asyncio.gather(*(dead.backend.enter(f"t{name}", {"k": b"x"}) for name in names))
        assert len(await dead.backend.tables()) == 20_000
        await dead.backend.beat(0.2)
        await one.backend.beat(60)
        await asyncio.sleep(0.3)  # the end of its lease
        waits, over = [], asyncio.Event()

        async def watch():
            loop = asyncio.get_running_loop()
            while not over.is_set():
                began = loop.time()
                await one.backend.publish([("a", b"")])
                waits.append(loop.time() - began)

        watching = asyncio.create_task(watch())
        alive = await one.backend.beat(60)
        over.set()
        await watching

        assert alive == [one.name]
        assert await dead.backend.tables() == []
        assert max(waits) < 2


async def test_an_operator_may_delete_any_stream(tmp_path, started):
    """The state's stream is made again as well, and the loss of a lease is told."""
    with NatsServer(tmp_path) as server:
        one, two = await started(server), await started(server)
        await one.backend.beat(60)
        await one.backend.enter("t", {"ann": b"1"})
        await asyncio.to_thread(ask, server, "$JS.API.STREAM.DELETE.pachinko-state", {})
        await one.backend.beat(60)
        await all_works(one, two)

        assert one.states == two.states == ["up"]


async def test_a_server_that_is_full_of_nothing_is_left(started):
    """What listens there and is no NATS server is explained."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = await started(f"nats://127.0.0.1:{silent.getsockname()[1]}?timeout=0.5")

        await is_explained(node, "degraded", "did not answer in time")


async def test_a_message_with_a_key_is_kept_once(tmp_path, started):
    """Also if the first call, which seemed to fail, had none; its place is that of the first."""
    with NatsServer(tmp_path) as server:
        one, two = await started(server), await started(server)
        await two.backend.subscribe(["a"])
        first = await one.backend.append("a", b"same bytes", LIMITS)
        again = await two.backend.append("a", b"same bytes", LIMITS, "key")
        keyed = await one.backend.append("a", b"1", LIMITS, "other")
        twice = await two.backend.append("a", b"2", LIMITS, "other")
        await one.backend.append("a", b"end", LIMITS)

        assert again == first
        assert twice == keyed
        heard = [each.data for each in await two.hears(3)]
        assert heard == [b"same bytes", b"1", b"end"]
        assert one.states == two.states == ["up"]
