"""Small JSON files that notice any change, writes that survive a power cut, and disks that are full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vlm_server.adapter_errors import NoRoom

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def seal(fields: dict[str, Any]) -> bytes:
    """The one way that ``fields`` are written: with their digest, so that any changed byte shows."""
    text = json.dumps(fields, sort_keys=True)
    return json.dumps(fields | {"seal": hashlib.sha256(text.encode()).hexdigest()}, sort_keys=True).encode()


def unseal(file: Path) -> dict[str, Any]:
    """The fields of a file that ``seal`` wrote.

    Raises:
        ValueError: the file is missing, is not such a file, or has changed since.
    """
    name = f"{file.parent.name}/{file.name}"
    try:
        data = file.read_bytes()
    except OSError:
        raise ValueError(f"{name} is missing or unreadable") from None
    return unsealed(data, name)


def unsealed(data: bytes, name: str) -> dict[str, Any]:
    """The fields of what ``seal`` gave; ``name`` says whose bytes they are.

    Raises:
        ValueError: it is no such thing, or has changed since.
    """
    try:
        fields = json.loads(data)
        fields.pop("seal")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{name} is missing or unreadable") from None
    if seal(fields) != data:
        raise ValueError(f"{name} has changed since it was written")
    return fields


def sha256(file: Path) -> str:
    """Digest of a file's bytes, hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_durably(file: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    file.write_bytes(data)
    sync(file)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def full_disk_is_no_room() -> Iterator[None]:
    """Turns the errors of a full disk into ``NoRoom``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors has the number in its text alone.
        code = error.errno if isinstance(error, OSError) else _os_error(error)
        if code not in _FULL:
            raise
        raise NoRoom("the server's disk is full; delete adapter versions") from error


def _os_error(error: SafetensorError) -> int | None:
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
