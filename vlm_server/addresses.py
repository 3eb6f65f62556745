"""Where a server may listen, and with what guard."""

from __future__ import annotations

import os
import re
from pathlib import Path

import grpc

from vlm_server import access

_LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\]):(\d{1,5})")
_ANYWHERE = re.compile(r"([0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(\d{1,5})")


def is_local(address: str) -> bool:
    """Whether only this machine's users reach the address."""
    return address.startswith("unix:") or _LOOPBACK.fullmatch(address) is not None


def checked(text: str, guarded: bool = False, insecure: bool = False) -> str:
    """The address to bind, "localhost" written as 127.0.0.1.

    Args:
        guarded: whether there are tokens and TLS, without which other machines are not let in.
        insecure: whether other machines are let in nevertheless.

    Raises:
        ValueError: no address, or another machine's without a guard; one line.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # The kernel's limit on socket paths.
        length = len(os.fsencode(path))
        if not 1 <= length <= 107:
            raise ValueError(f"address: the path of a unix socket has 1 to 107 bytes, not {length}")
        if not Path(path).resolve().parent.is_dir():
            raise ValueError(f"address: the folder of {path!r} does not exist")
        return text
    match = _LOOPBACK.fullmatch(text) or _ANYWHERE.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"address: must be 127.0.0.1:<port>, [::1]:<port>, <host>:<port> or unix:<path>, not {text!r}")
    if is_local(text):
        return text.replace("localhost", "127.0.0.1")
    if not (guarded or insecure):
        raise ValueError(
            f"address: other machines reach {text}, which needs --tokens, --tls_cert and --tls_key; "
            "without them it must be 127.0.0.1:<port>, [::1]:<port> or unix:<path>"
        )
    return text


def credentials(certificate: str, key: str) -> grpc.ServerCredentials | None:
    """TLS from two PEM files; None without them.

    Raises:
        ValueError: one without the other, a file that cannot be read, or a key that is open to others.
    """
    if not certificate and not key:
        return None
    if not (certificate and key):
        raise ValueError("--tls_cert and --tls_key belong together")
    try:
        chain = Path(certificate).read_bytes()
    except OSError as error:
        raise ValueError(f"tls_cert: {certificate}: {error.strerror}") from None
    try:
        secret = access.private_bytes(Path(key))
    except ValueError as error:
        raise ValueError(f"tls_key: {error}") from None
    if b"-----BEGIN CERTIFICATE-----" not in chain or b"PRIVATE KEY-----" not in secret:
        raise ValueError("tls_cert and tls_key must be PEM files, a certificate chain and its private key")
    return grpc.ssl_server_credentials([(secret, chain)])
