"""The server's file of tokens, and the files that hold one token each; all for their owner alone (mode 0600)."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from vlm_server import access


def add(tokens: Path, name: str, scopes: list[str], out: Path) -> None:
    """A new token ``name`` in ``out``, its digest in ``tokens``.

    Raises:
        ValueError: bad or taken name, unknown scope, ``out`` exists, or a file that cannot be read or written.
    """
    entries = _entries(tokens)
    if not access.NAME.fullmatch(name):
        raise ValueError(f"name: must match [a-z0-9][a-z0-9_-]{{0,63}}, not {name[:80]!r}")
    if name in entries:
        raise ValueError(f"name: {tokens} has a token called {name} already; revoke it first")
    if not scopes or not set(scopes) <= set(access.SCOPES):
        raise ValueError(f"scopes: must be of {', '.join(access.SCOPES)}, not {','.join(scopes)!r}")
    token = secrets.token_hex(32)
    _write(out, token + "\n", os.O_EXCL)
    entries[name] = {"scopes": sorted(scopes), "sha256": hashlib.sha256(token.encode()).hexdigest()}
    _replace(tokens, entries)


def revoke(tokens: Path, name: str) -> None:
    """Takes the token ``name`` out of ``tokens``. Raises ValueError if there is none."""
    entries = _entries(tokens)
    if entries.pop(name, None) is None:
        raise ValueError(f"name: {tokens} has no token called {name[:80]!r}")
    _replace(tokens, entries)


def _entries(tokens: Path) -> dict:
    if not tokens.exists() or access.private_bytes(tokens).strip() == b"{}":
        return {}
    access.read(tokens)
    return json.loads(access.private_bytes(tokens))


def _replace(tokens: Path, entries: dict) -> None:
    new = tokens.with_name(tokens.name + ".new")
    new.unlink(missing_ok=True)
    _write(new, json.dumps(entries, indent=2) + "\n", os.O_EXCL)
    os.replace(new, tokens)


def _write(file: Path, text: str, how: int) -> None:
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | how, 0o600)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    with os.fdopen(handle, "w") as opened:
        opened.write(text)
