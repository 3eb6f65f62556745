"""Channels to a prior server: addresses, TLS and tokens, the same for learners and for people."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import grpc

_LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\])(:\d+)?")
_TOKEN = re.compile(r"[!-~]{16,512}")


def connect(address: str, max_message_bytes: int = -1, token_file: str = "", ca_file: str = "") -> grpc.Channel:
    """A channel to ``address``; nothing is sent before the first call.

    Args:
      address: "host:port", "grpc://host:port", "unix:path", or with TLS "grpcs://host:port".
      max_message_bytes: in both directions; -1: any.
      token_file: holds the token that goes with every call, readable by its owner alone; "": none.
      ca_file: PEM certificates that the server's is checked against; given, the channel has TLS. "": the system's.

    Raises:
      ValueError: a file that cannot be used, or a token that would travel in the clear; one line.
    """
    secure = address.startswith("grpcs://") or bool(ca_file)
    place = address.removeprefix("grpcs://").removeprefix("grpc://")
    options = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A restarted server is found again within seconds; the default backs off to minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # An http_proxy variable would swallow loopback addresses.
        ("grpc.enable_http_proxy", 0),
    ]
    token = read_token(Path(token_file)) if token_file else ""
    if token and not secure and not place.startswith("unix:") and not _LOOPBACK.fullmatch(place):
        raise ValueError(f"token_file: a token travels to {place} over TLS only; say grpcs://{place} or give a ca_file")
    if secure:
        channel = grpc.secure_channel(place, grpc.ssl_channel_credentials(_certificates(ca_file)), options)
    else:
        channel = grpc.insecure_channel(place, options)
    return grpc.intercept_channel(channel, _Bearer(token)) if token else channel


def read_token(file: Path) -> str:
    """The token of a file. Raises ValueError: unreadable, open to others, or not one line of 16 to 512 characters."""
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            data = opened.read(1024)
    except OSError as error:
        raise ValueError(f"token_file: {file}: {error.strerror}") from None
    if mode & 0o077:
        raise ValueError(f"token_file: {file} is open to others (mode {mode:04o}); chmod 600 {file}")
    token = data.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"token_file: {file} must hold one token, 16 to 512 printable characters")
    return token


def _certificates(ca_file: str) -> bytes | None:
    if not ca_file:
        return None
    try:
        return Path(ca_file).read_bytes()
    except OSError as error:
        raise ValueError(f"ca_file: {ca_file}: {error.strerror}") from None


class _Details(grpc.ClientCallDetails):
    def __init__(self, details: grpc.ClientCallDetails, token: str):
        for name in ("method", "timeout", "credentials", "wait_for_ready", "compression"):
            setattr(self, name, getattr(details, name, None))
        self.metadata = [*(details.metadata or ()), ("authorization", f"Bearer {token}")]


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends the token with every call."""

    def __init__(self, token: str):
        self._token = token

    def _send(self, continuation, details, request):
        return continuation(_Details(details, self._token), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _send
