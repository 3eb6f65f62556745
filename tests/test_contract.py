"""The wire contract only grows, and every part of it is documented."""

from __future__ import annotations

from pathlib import Path

import pytest
from covr.prior.v1 import prior_pb2 as pb
from google.protobuf import descriptor_pb2 as d

from tools import contract

KEPT = Path(pb.__file__).with_name("prior.binpb")


@pytest.fixture(scope="module")
def kept():
    return contract.read(KEPT)


def test_the_generated_code_is_that_of_the_kept_descriptor(kept):
    generated = d.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(generated)
    assert contract.breaks(kept, generated) == [] == contract.breaks(generated, kept), "run make protos"


def test_what_was_released_first_is_still_there(kept):
    """Numbers of version 1.0, written down by hand: the kept descriptor itself must not lose them."""
    numbers = {
        "PredictRequest": {"task": 1, "run": 2, "adapter": 3, "observations": 4, "decoding": 5},
        "PredictResponse": {"predictions": 1, "adapter": 2, "timings": 3},
        "Prediction": {"status": 1, "action": 2, "text": 3, "new_tokens": 4, "prompt": 5},
        "Frame": {"height": 1, "width": 2, "channels": 3, "data": 4},
        "Sample": {"observation": 1, "action": 2, "return_to_go": 3},
        "StartTuningRequest": {"run": 1, "dataset": 2, "parent": 3, "config": 4, "activate": 5, "request_id": 6},
        "AdapterRef": {"version": 1, "digest": 2},
    }
    messages = {message.name: {field.name: field.number for field in message.field} for message in kept.message_type}
    for name, fields in numbers.items():
        assert fields.items() <= messages[name].items(), name


BREAKS = {
    "field gone": (lambda f: f.message_type[_message(f, "Frame")].field.pop(3), "Frame.data is gone"),
    "field renumbered": (lambda f: setattr(_field(f, "Frame", "data"), "number", 9), "data: number was 4, is 9"),
    "field retyped": (
        lambda f: setattr(_field(f, "Frame", "height"), "type", d.FieldDescriptorProto.TYPE_STRING),
        "Frame.height: type was TYPE_UINT32, is TYPE_STRING",
    ),
    "field of another message": (
        lambda f: setattr(_field(f, "Observation", "frame"), "type_name", ".covr.prior.v1.Limits"),
        "Observation.frame: type was .covr.prior.v1.Frame, is .covr.prior.v1.Limits",
    ),
    "field repeated": (
        lambda f: setattr(_field(f, "PredictRequest", "task"), "label", d.FieldDescriptorProto.LABEL_REPEATED),
        "PredictRequest.task: label was LABEL_OPTIONAL, is LABEL_REPEATED",
    ),
    "presence lost": (lambda f: _field(f, "TuningConfig", "dropout").ClearField("oneof_index"), "dropout: oneof was"),
    "message gone": (lambda f: f.message_type.pop(_message(f, "Timings")), "message Timings is gone"),
    "value renumbered": (lambda f: setattr(f.enum_type[0].value[1], "number", 7), "REPLY_STATUS_OK = 1 is gone"),
    "enum gone": (lambda f: f.enum_type.pop(0), "enum ReplyStatus is gone"),
    "nested enum gone": (
        lambda f: f.message_type[_message(f, "Decoding")].enum_type.pop(0), "enum Decoding.Constraint is gone"),
    "call gone": (lambda f: f.service[0].method.pop(1), "PriorService.Predict is gone"),
    "call streams": (
        lambda f: setattr(f.service[0].method[1], "server_streaming", True),
        "PriorService.Predict: server_streaming was False, is True",
    ),
    "service gone": (lambda f: f.service.pop(0), "service PriorService is gone"),
    "package": (lambda f: setattr(f, "package", "covr.prior.v2"), "package covr.prior.v1 is now covr.prior.v2"),
}  # fmt: skip


def _message(file, name):
    return next(i for i, each in enumerate(file.message_type) if each.name == name)


def _field(file, message, name):
    return next(each for each in file.message_type[_message(file, message)].field if each.name == name)


def _changed(kept, change):
    new = d.FileDescriptorProto()
    new.CopyFrom(kept)
    change(new)
    return new


@pytest.mark.parametrize("case", BREAKS)
def test_breaking_changes_are_named(kept, case):
    change, words = BREAKS[case]
    found = contract.breaks(kept, _changed(kept, change))
    assert len(found) == 1 and words in found[0]


def test_growth_is_no_break(kept):
    def grow(file):
        file.message_type[0].field.add(name="more", number=99, type=d.FieldDescriptorProto.TYPE_STRING)
        file.message_type.add(name="New")
        file.enum_type[0].value.add(name="NEW", number=99)
        file.service[0].method.add(name="New", input_type=".covr.prior.v1.New", output_type=".covr.prior.v1.New")

    assert contract.breaks(kept, _changed(kept, grow)) == []


def test_a_breaking_descriptor_does_not_take_the_kept_ones_place(kept, tmp_path, capsys):
    old, new = tmp_path / "kept", tmp_path / "new"

    def write(file, *descriptors):
        file.write_bytes(d.FileDescriptorSet(file=descriptors).SerializeToString())

    write(old, kept)
    write(new, _changed(kept, BREAKS["field gone"][0]))
    assert contract.main(str(old), str(new)) == 1
    assert capsys.readouterr().err == "contract: Frame.data is gone\n" and contract.read(old) == kept
    grown = _changed(kept, lambda file: file.message_type.add(name="New"))
    write(new, grown)
    assert contract.main(str(old), str(new)) == 0 and contract.read(old) == grown


def test_every_field_call_and_value_is_documented(kept):
    documented = {
        tuple(place.path)
        for place in kept.source_code_info.location
        if place.leading_comments.strip() or place.trailing_comments.strip()
    }
    silent = [name for name, path in _named(kept) if path not in documented]
    assert silent == []


def _named(file):
    """(name, path in the source info) of services, calls, messages that calls do not name, fields, enums, values."""
    for s, service in enumerate(file.service):
        yield service.name, (6, s)
        yield from ((call.name, (6, s, 2, m)) for m, call in enumerate(service.method))
    for m, message in enumerate(file.message_type):
        path = (4, m)
        if not message.name.endswith(("Request", "Response")):
            yield message.name, path
        yield from ((f"{message.name}.{field.name}", (*path, 2, i)) for i, field in enumerate(message.field))
        for e, enum in enumerate(message.enum_type):
            yield from _named_enum(enum, (*path, 4, e))
    for e, enum in enumerate(file.enum_type):
        yield from _named_enum(enum, (5, e))


def _named_enum(enum, path):
    yield enum.name, path
    yield from ((value.name, (*path, 2, i)) for i, value in enumerate(enum.value))
