"""Who may call what: tokens with scopes.

The server's file holds no token, only sha256 digests of them, and must be readable by its owner alone:

    {"learner": {"scopes": ["ask", "tune"], "sha256": "<64 hex digits>"}, ...}

``python -m vlm_server.tokens`` makes tokens and keeps this file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from vlm_server.interception import refusal
from vlm_server.refusals import Refusal

SCOPES = ("ask", "tune", "admin")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OPEN = "/grpc.health.v1.Health/"  # whoever reaches the port may ask whether it serves
_NEEDED = {  # longest prefix first
    "/covr.prior.v1.AdapterService/ListAdapters": "ask",
    "/covr.prior.v1.AdapterService/GetAdapter": "ask",
    "/covr.prior.v1.AdapterService/ActivateAdapter": "tune",
    "/covr.prior.v1.AdapterService/RollBackAdapter": "tune",
    "/covr.prior.v1.PriorService/": "ask",
    "/covr.prior.v1.TuningService/": "tune",
    "/grpc.reflection.": "ask",
}


def needed(method: str) -> str:
    """The scope that a call needs, "" for none; whatever is not listed is for administrators."""
    if method.startswith(_OPEN):
        return ""
    return next((scope for prefix, scope in _NEEDED.items() if method.startswith(prefix)), "admin")


@dataclass(frozen=True)
class Token:
    """What the server knows of a token."""

    name: str
    digest: str  # sha256 of the token, hex
    scopes: frozenset[str]


def private_bytes(file: Path) -> bytes:
    """The content of a file that its owner alone can read.

    Raises:
        ValueError: it cannot be read, or others can read or write it.
    """
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if mode & 0o077:
                raise ValueError(f"{file} is open to others (mode {mode:04o}); chmod 600 {file}")
            return opened.read(2**20)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None


def read(file: Path) -> tuple[Token, ...]:
    """The tokens of the server's file.

    Raises:
        ValueError: it is open to others, is not such a file, or holds no token; one line.
    """
    try:
        entries = json.loads(private_bytes(file))
        tokens = tuple(_token(name, entry) for name, entry in entries.items())
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise ValueError(f"{file} is not a JSON object of tokens; make one with python -m vlm_server.tokens") from None
    if not tokens:
        raise ValueError(f"{file} holds no token; add one with python -m vlm_server.tokens")
    return tokens


def _token(name: str, entry: Any) -> Token:
    try:
        digest, scopes = entry["sha256"], frozenset(entry["scopes"])
        good = NAME.fullmatch(name) and _DIGEST.fullmatch(digest) and scopes and scopes <= set(SCOPES)
    except (TypeError, KeyError):
        good = False
    if not good:
        raise ValueError(f"token {name[:64]!r}: must have sha256 (64 hex digits) and scopes of {', '.join(SCOPES)}")
    return Token(name, digest, scopes)


class Access(grpc.ServerInterceptor):
    """Refuses calls without a token that has their scope, before a byte of their messages is read."""

    def __init__(self, tokens: Sequence[Token]):
        self._tokens = tuple(tokens)

    def intercept_service(self, continuation, details):
        scope = needed(details.method)
        if not scope:
            return continuation(details)
        token = self._find(details.invocation_metadata)
        if token is None:
            words = "this server wants a token that it knows, as metadata 'authorization: Bearer <token>'"
            return refusal(Refusal(grpc.StatusCode.UNAUTHENTICATED, words))
        if scope not in token.scopes:
            words = f"token {token.name} lacks the scope {scope}"
            return refusal(Refusal(grpc.StatusCode.PERMISSION_DENIED, words))
        return continuation(details)

    def _find(self, metadata) -> Token | None:
        given = [value for key, value in metadata or () if key == "authorization"]
        if len(given) != 1 or not isinstance(given[0], str) or not given[0].startswith("Bearer "):
            return None
        digest = hashlib.sha256(given[0].removeprefix("Bearer ").encode()).hexdigest()
        # All are compared, each in constant time: how long it takes says nothing of any of them.
        matches = [token for token in self._tokens if hmac.compare_digest(token.digest, digest)]
        return matches[0] if matches else None
