"""Who we are to a NATS server: a user, a token, a key, or a file with credentials.

nats-py is never told: what is secret is put into CONNECT at the last moment, when it
is certain that the connection is as it has to be.
"""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from falcon_pachinko.errors import SetupError

__all__ = ["Login", "LoginError"]

_JWT, _SEED = "NATS USER JWT", "USER NKEY SEED"
_PREFIX = "SU"
"""What the seed of a user's key begins with."""


class LoginError(Exception):
    """There is nothing to log in with; its text says why, and has nothing secret."""


class Login(NamedTuple):
    """What a URL says of us; one way at most."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    nkey: str | None = None
    """A file with the seed of a key."""
    credentials: str | None = None
    """A file with a user's JWT and the seed of its key."""

    def __repr__(self) -> str:
        return f"Login({self.kind})"

    @property
    def kind(self) -> str:
        """What it is, for texts."""
        if self.credentials is not None:
            return "the credentials file"
        if self.nkey is not None:
            return "the key"
        if self.token is not None:
            return "the token"
        return "the user or the password" if self.user is not None else ""

    @classmethod
    def of(
        cls,
        name: str,
        *,
        user: str | None,
        password: str | None,
        nkey: str | None,
        credentials: str | None,
    ) -> Login:
        """Return the one way to log in that a URL names; see that its file is there.

        Raises:
            SetupError: There are two ways, or the file cannot be read, or has no key.
        """
        ways = [each for each in (user or password, nkey, credentials) if each is not None]
        if len(ways) > 1:
            raise SetupError(
                f"{name} says in several ways who this is; give a user and a password, a token, "
                "nkey= or credentials=, and nothing besides"
            )
        login = cls(nkey=nkey, credentials=credentials)
        if password is not None:
            login = cls(user or "", password)
        elif user:
            login = cls(token=user)
        if login.nkey is not None or login.credentials is not None:
            if importlib.util.find_spec("nkeys") is None:
                raise SetupError(
                    f"{name}: nkey= and credentials= need the package nkeys, which is not "
                    "installed: pip install 'falcon-pachinko[nats]'"
                )
            try:
                login.fields(nonce="")
            except LoginError as error:
                raise SetupError(f"{name}: {error}") from None
        return login

    def fields(self, nonce: str | None) -> dict[str, Any]:
        """Return what CONNECT has to say; files are read now, since they change.

        Args:
            nonce: What the server wants signed; None if it does not want that.

        Raises:
            LoginError: A file cannot be read, or the server takes no key.
        """
        if self.token is not None:
            return {"auth_token": self.token}
        if self.user is not None:
            return {"user": self.user, "pass": self.password}
        file = self.credentials if self.credentials is not None else self.nkey
        if file is None:
            return {}
        if nonce is None:
            raise LoginError(f"it takes no key, so {self.kind} is of no use there")
        what = "credentials=" if self.credentials is not None else "nkey="
        try:
            text = Path(file).read_text(encoding="ascii")
        except UnicodeError:
            raise LoginError(f"{what} names a file that is not text") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no such file"
            raise LoginError(f"{what} names a file that cannot be read: {why}") from None
        seed, jwt = text.strip(), ""
        if self.credentials is not None:
            seed, jwt = _section(text, _SEED), _section(text, _JWT)
            if not seed or not jwt:
                raise LoginError(
                    f"{what} names a file without a user's JWT and seed, which `nsc` writes"
                )
        return {**({"jwt": jwt} if jwt else {}), **_signed(what, seed, nonce, named=not jwt)}


def _signed(what: str, seed: str, nonce: str, *, named: bool) -> dict[str, Any]:
    """Sign a nonce; name the public key, if it is not in a JWT."""
    import nkeys  # type: ignore[import-untyped]  # noqa: PLC0415  # it has no types; an extra

    try:
        if not seed.startswith(_PREFIX):
            raise ValueError
        pair = nkeys.from_seed(bytearray(seed.encode()))
        signed = base64.b64encode(pair.sign(nonce.encode())).decode()
        public = pair.public_key.decode()
        pair.wipe()
    except Exception:  # noqa: BLE001  # of all kinds, and what they say may be a part of the seed
        raise LoginError(
            f"{what} names a file without the seed of a user's key, which begins with {_PREFIX}"
        ) from None
    return {"sig": signed, **({"nkey": public} if named else {})}


def _section(text: str, title: str) -> str:
    """Return the line after the one that begins a section."""
    lines = iter(text.splitlines())
    for line in lines:
        if f"BEGIN {title}" in line:
            return next(lines, "").strip()
    return ""
