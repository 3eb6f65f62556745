"""Keeps the wire contract from breaking: compares a new descriptor with the one that the repository keeps.

Example (``make protos`` calls it so):
  python tools/contract.py kept.binpb new.binpb

The new descriptor takes the kept one's place if it only adds to it; otherwise each break is a line, and the exit
status is 1. A break belongs into a package v2 beside v1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2 as d

_Field = d.FieldDescriptorProto


def read(file: Path) -> d.FileDescriptorProto:
    """The one file of a descriptor set."""
    (only,) = d.FileDescriptorSet.FromString(file.read_bytes()).file
    return only


def breaks(old: d.FileDescriptorProto, new: d.FileDescriptorProto) -> list[str]:
    """What a client or server that was built with ``old`` could not do with one that was built with ``new``.

    One line each: a service, call, message, field, enum or value that is gone, has another number, type,
    cardinality or presence, or goes by another name (JSON and generated code use names).
    """
    return [
        *([] if old.package == new.package else [f"package {old.package} is now {new.package}"]),
        *_services(old, new),
        *_messages(old.message_type, new.message_type, ""),
        *_enums(old.enum_type, new.enum_type, ""),
    ]


def _services(old: d.FileDescriptorProto, new: d.FileDescriptorProto) -> Iterator[str]:
    services = {each.name: {call.name: call for call in each.method} for each in new.service}
    for service in old.service:
        calls = services.get(service.name)
        if calls is None:
            yield f"service {service.name} is gone"
            continue
        for call in service.method:
            name, now = f"{service.name}.{call.name}", calls.get(call.name)
            if now is None:
                yield f"{name} is gone"
                continue
            for what in ("input_type", "output_type", "client_streaming", "server_streaming"):
                if getattr(call, what) != getattr(now, what):
                    yield f"{name}: {what} was {getattr(call, what)}, is {getattr(now, what)}"


def _messages(old, new, prefix: str) -> Iterator[str]:
    known = {each.name: each for each in new}
    for message in old:
        name = prefix + message.name
        if message.name not in known:
            yield f"message {name} is gone"
            continue
        now = known[message.name]
        fields = {field.name: field for field in now.field}
        for field in message.field:
            if field.name not in fields:
                yield f"{name}.{field.name} is gone"
                continue
            was, is_now = _shape(field, message), _shape(fields[field.name], now)
            yield from (f"{name}.{field.name}: {what} was {was[what]}, is {is_now[what]}"
                        for what in was if was[what] != is_now[what])  # fmt: skip
        yield from _messages(message.nested_type, now.nested_type, f"{name}.")
        yield from _enums(message.enum_type, now.enum_type, f"{name}.")


def _shape(field: _Field, message: d.DescriptorProto) -> dict[str, object]:
    alternative = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return {
        "number": field.number,
        "type": field.type_name or _Field.Type.Name(field.type),
        "label": _Field.Label.Name(field.label),
        "oneof": alternative,
    }


def _enums(old, new, prefix: str) -> Iterator[str]:
    known = {each.name: {value.name: value.number for value in each.value} for each in new}
    for enum in old:
        name, values = prefix + enum.name, known.get(enum.name)
        if values is None:
            yield f"enum {name} is gone"
            continue
        for value in enum.value:
            if values.get(value.name) != value.number:
                yield f"{name}.{value.name} = {value.number} is gone or has another number"


def main(kept: str, made: str) -> int:
    file, found = Path(kept), []
    if file.exists():
        found = breaks(read(file), read(Path(made)))
    for line in found:
        print(f"contract: {line}", file=sys.stderr)
    if not found:
        os.replace(made, kept)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
