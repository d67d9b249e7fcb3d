"""What a backend's URL says, and what it is told where it says nothing that can be understood."""

import ssl
import sys

import pytest

from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.redis import RedisBackend
from falcon_pachinko.backends.redis.address import parse
from falcon_pachinko.backends.settings import Settings, read_url
from falcon_pachinko.errors import SetupError


def test_settings_are_read_from_the_query():
    """Ours are apart from those of the server's client, and secrets are in no name."""
    url = "redis://ann:ses%40me@db:6380/2?namespace=shop&required=true&ttl=5&probe=.5&db=2"

    address = read_url(url, ["db"])

    assert address.settings == Settings("shop", required=True, ttl=5, probe=0.5)
    assert (address.user, address.password, address.options) == ("ann", "ses@me", {"db": "2"})
    assert (address.name, address.hosts) == ("redis://db:6380/2", (("db", 6380),))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("namspace=shop", "has no setting 'namspace'; did you mean namespace"),
        ("zzz=1", "there are namespace, required, ttl, timeout, probe"),
        ("namespace=", "namespace=''"),
        ("namespace=a%20b", "namespace='a b'"),
        ("namespace=a%0Ab", r"namespace='a\\nb'"),
        ("required=maybe", "required='maybe' is neither true nor false"),
        ("ttl=0", "ttl='0' is not a number of seconds above 0"),
        ("ttl=soon", "ttl='soon'"),
        ("timeout=nan", "timeout='nan'"),
        ("probe=-1", "probe='-1'"),
        ("ttl=5&ttl=6", "has the setting ttl twice"),
    ],
)
def test_a_setting_that_is_wrong_is_told(query, said):
    """Which one, in which URL without its password, and what is right."""
    with pytest.raises(SetupError, match=said) as refused:
        open_backend(f"redis://:sesame@db/0?{query}")

    assert str(refused.value).startswith("redis://db/0")
    assert "sesame" not in str(refused.value)


UNREADABLE = [
    "redis://:sesame@db:no",
    "redis://:sesame@db:70000",
    "redis://:sesame@db:0",
    "redis://:sesame@[::1",
    "redis://:sesame@::1]:6379/0",
    "rediss://:[sesame]@db:no",
    "redis://:sesame/x@db",
    "redis://ann:12/sesame@db",
    "redis://ann:12?sesame=x@db",
    "redis://:12#sesame@db",
    "redis://:x@sesame@db",
    "redis://:sesame@",
    "redis://:sesame@:6379",
    "redis://:sesame@db,",
    "redis+sentinel://:sesame@a,:b@c/m",
]


@pytest.mark.parametrize("url", UNREADABLE)
def test_an_address_that_is_none_is_told(url):
    """A URL without a host and port ends the setup, without a piece of a password in the error."""
    with pytest.raises(SetupError, match=r"(?i)port") as refused:
        open_backend(url)

    assert "sesame" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("sign", ["\n", "\t", " ", "\x00", "é", "\x7f"])
def test_a_sign_that_no_url_has_is_told(sign):
    """It is written as % and two digits; nothing of what is around it is shown."""
    with pytest.raises(SetupError, match="characters that no URL has") as refused:
        open_backend(f"redis://:ses{sign}ame@db")

    assert "ame" not in str(refused.value).replace("namespace", "").replace("name", "")


@pytest.mark.parametrize("path", ["zero", "-1", "0/1", "1.5", "%30", "12345678", "+1", "²"])
def test_a_database_is_a_number(path):
    """What else follows the host is refused, instead of being database 0."""
    with pytest.raises(SetupError, match=r"names no database|no URL has"):
        open_backend(f"redis://db/{path}")


def test_two_databases_are_one_too_many():
    """The path and `db=` may say the same, and not different things."""
    assert parse("redis://db/3?db=3").db == 3
    with pytest.raises(SetupError, match="names two databases"):
        parse("redis://db/3?db=4")


@pytest.mark.parametrize(
    "url",
    ["redis://{}/{}", "rediss://{}/{}", "redis+sentinel://{}/mymaster/{}"],
)
def test_a_database_is_part_of_every_name(url):
    """Two databases have no name in common, of whatever namespace; 0 is left out."""
    for namespace in ("pachinko", "shop"):
        spaces = [
            parse(f"{url.format('db', number)}?namespace={namespace}").space
            for number in ("0", "1", "12")
        ]
        assert spaces == [namespace, f"{namespace}:1", f"{namespace}:12"]


@pytest.mark.parametrize(
    ("one", "two"),
    [("shop", "shop:t"), ("a:1", "a=3A1"), ("shop", "shop:1"), ("{a}", "a"), ("a=", "a=3D")],
)
def test_no_two_namespaces_meet(one, two):
    """No name of the one begins like a name of the other, whatever is in a namespace."""
    from urllib.parse import quote  # noqa: PLC0415  # here only

    spaces = [
        parse(f"redis://db/{number}?namespace={quote(each)}").space
        for each in (one, two)
        for number in (0, 1)
    ]

    assert len(set(spaces)) == 4
    assert [each.count(":") for each in spaces] == [0, 1, 0, 1]


def test_sentinels_are_named_with_their_primary():
    """Several hosts, each with a port or the usual one, then what they call the primary."""
    found = parse(
        "redis+sentinel://ann:x@one,two:26380,[::1]/main/2?sentinel_username=s&sentinel_password=y"
    )

    assert found.hosts == (("one", 26379), ("two", 26380), ("::1", 26379))
    assert (found.master, found.db, found.username, found.password) == ("main", 2, "ann", "x")
    assert (found.sentinel_username, found.sentinel_password) == ("s", "y")
    assert found.name == "redis+sentinel://one,two:26380,[::1]/main/2"


@pytest.mark.parametrize(
    "url", ["redis+sentinel://one", "rediss+sentinel://one/", "redis+sentinel://a//0"]
)
def test_sentinels_without_a_primary_are_told(url):
    """The error shows how to write it."""
    with pytest.raises(SetupError, match=r"names no primary.*/mymaster/0"):
        open_backend(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://db?ssl_ca_certs=x", "ssl_ca_certs is for rediss:// URLs only"),
        ("redis://db?sentinel_password=x", "sentinel_password is for redis\\+sentinel://"),
        ("rediss://db?ssl_ca_certs=/nowhere/ca.pem", "cannot be read .*see ssl_ca_certs"),
        ("rediss://db?ssl_certfile=/nowhere/x", "cannot be read .*see ssl_certfile"),
        ("rediss://db?ssl_cert_reqs=maybe", "ssl_cert_reqs='maybe' is not one of none, required"),
        ("rediss://db?ssl_check_hostname=2", "ssl_check_hostname='2' is not one of"),
        ("rediss://db?ssl_min_version=1", "ssl_min_version='1' is not one of TLSv1.2, TLSv1.3"),
        ("unix://?db=1", "names no socket"),
        ("unix://db/x", "names no socket"),
    ],
)
def test_an_option_that_cannot_be_is_told(url, said):
    """Before anything is connected."""
    with pytest.raises(SetupError, match=said):
        open_backend(url)


def test_a_host_name_is_checked_unless_the_url_says_otherwise():
    """With every version of redis-py, whatever its own default is."""
    contexts = [
        parse(f"rediss://db{query}").tls
        for query in ("", "?ssl_check_hostname=no", "?ssl_cert_reqs=none")
    ]

    assert [each.check_hostname for each in contexts] == [True, False, False]
    assert [each.verify_mode for each in contexts] == [
        ssl.CERT_REQUIRED,
        ssl.CERT_REQUIRED,
        ssl.CERT_NONE,
    ]


def test_a_context_of_ones_own_is_used_as_it_is():
    """It makes any URL of hosts one with TLS, and does not go with options that say the same."""
    own = ssl.create_default_context()

    assert parse("redis://db", own).tls is own
    for url in ("rediss://db?ssl_cert_reqs=none", "unix:///run/x"):
        with pytest.raises(SetupError, match="contradict each other"):
            RedisBackend(url, ssl=own)


def test_passwords_come_from_one_place():
    """A credential provider and a URL with a password are refused, without that password."""
    with pytest.raises(SetupError, match="give one of them") as refused:
        RedisBackend("redis://:sesame@db", credential_provider=object())

    assert "sesame" not in str(refused.value)


def test_a_missing_package_is_told(monkeypatch):
    """The error has the line that installs it."""
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)

    with pytest.raises(SetupError, match=r"pip install 'falcon-pachinko\[redis\]'"):
        open_backend("redis://db")
