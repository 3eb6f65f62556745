from __future__ import annotations

import errno
import hashlib
import json
import math
import threading

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from vlm_server import lora, sealed_files
from vlm_server.adapters import AdapterCorrupt, AdapterInUse, AdapterMismatch, AdapterNotFound, AdapterStore, NoRoom

MODEL = "0" * 64


def writer(value: float = 1.0, **manifest):
    def write(folder):
        save_file({"a": torch.full((3,), value)}, folder / lora.WEIGHTS)
        (folder / lora.CONFIG).write_text('{"r": 4}')
        return manifest

    return write


@pytest.fixture
def store(tmp_path):
    return AdapterStore(tmp_path / "adapters", MODEL)


def reopened(store, model=MODEL):
    """A store on the same root, as after a restart."""
    store.close()
    return AdapterStore(store._root, model)


def versions(store, run="run"):
    return [record.version for record in store.list(run)]


def test_versions_are_numbered_and_found_again(store):
    first = store.create("run", writer(1.0, note="hello"))
    second = store.create("run", writer(2.0, parent="v1"))
    other = store.create("other", writer(3.0))
    assert (first.version, second.version, other.version) == ("v1", "v2", "v1")
    assert (first.parent, second.parent) == ("base", "v1")
    assert first.manifest["note"] == "hello"
    weights = first.folder / lora.WEIGHTS
    assert first.digest == hashlib.sha256(weights.read_bytes()).hexdigest() != second.digest
    assert sorted(p.name for p in first.folder.iterdir()) == [lora.CONFIG, lora.WEIGHTS, "manifest.json"]
    again = reopened(store)
    assert again.list("run") == [first, second] == store.list("run")
    assert again.verify("run", "v2") == second
    assert again.verify("run", "v1").folder == first.folder


def test_versions_are_listed_by_number(store):
    for _ in range(11):
        store.create("run", writer())
    assert versions(store) == [f"v{i}" for i in range(1, 12)]


def test_unknown_runs_and_versions(store):
    assert store.list("run") == [] and store.active("run") == "base"
    store.activate("run", "base")
    assert store.list("run") == []
    store.create("run", writer())
    for version in ("v2", "base", "run.json", "..", "../run/v1", "v01", ""):
        for call in (store.get, store.verify, store.delete):
            with pytest.raises(AdapterNotFound):
                call("run", version)
    with pytest.raises(AdapterNotFound):
        store.activate("run", "v2")


@pytest.mark.parametrize("run", ["", "Run", "-run", "a" * 65, "../x", "a/b", ".new-x", "run\n"])
def test_run_names_cannot_leave_the_root(store, run):
    for call in (lambda: store.create(run, writer()), lambda: store.list(run), lambda: store.get(run, "v1")):
        with pytest.raises(ValueError, match="run must match"):
            call()


def test_the_active_version_moves_at_will_and_survives_a_restart(store):
    store.create("run", writer(1.0))
    store.create("run", writer(2.0))
    assert store.active("run") == "base"
    for version in ("v2", "v1", "base", "v2"):
        store.activate("run", version)
        assert store.active("run") == version
        store = reopened(store)
        assert store.active("run") == version
    store.create("run", writer(3.0))
    assert store.active("run") == "v2"


def test_deletion_spares_what_is_used_and_numbers_never_return(store):
    for value in (1.0, 2.0, 3.0):
        store.create("run", writer(value))
    store.activate("run", "v1")
    with pytest.raises(AdapterInUse, match="active"):
        store.delete("run", "v1")
    with store.hold("run", "v3") as held, store.hold("run", "v3"):
        assert held.version == "v3"
        with pytest.raises(AdapterInUse, match="in use"):
            store.delete("run", "v3")
    store.delete("run", "v3")
    with pytest.raises(AdapterNotFound):
        store.get("run", "v3")
    assert versions(store) == ["v1", "v2"]
    assert store.create("run", writer()).version == "v4"
    assert sorted(p.name for p in (store._root / "run").iterdir()) == ["run.json", "v1", "v2", "v4"]


def test_a_failed_write_leaves_nothing(store):
    store.create("run", writer())

    def fails(folder):
        (folder / lora.WEIGHTS).write_bytes(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        store.create("run", fails)
    for value in (math.nan, math.inf):
        with pytest.raises(AdapterCorrupt, match="not finite"):
            store.create("run", writer(value))
    with pytest.raises(AdapterCorrupt, match="missing"):
        store.create("run", lambda folder: {})
    with pytest.raises(TypeError):
        store.create("run", writer(1.0, note=object()))
    assert sorted(p.name for p in (store._root / "run").iterdir()) == ["run.json", "v1"]


def test_leftovers_of_a_crash_are_swept_and_never_listed(store):
    store.create("run", writer())
    (store._root / "run" / ".new-abc").mkdir()
    assert versions(store) == ["v1"]
    again = reopened(store)
    assert versions(again) == ["v1"] and not (store._root / "run" / ".new-abc").exists()


@pytest.mark.parametrize("name", [lora.WEIGHTS, lora.CONFIG, "manifest.json"])
def test_any_flipped_byte_is_noticed(store, name):
    record = store.create("run", writer())
    file = record.folder / name
    data = file.read_bytes()
    for place in range(len(data)):
        for bit in (0, 5):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            file.write_bytes(flipped)
            with pytest.raises(AdapterCorrupt):
                store.verify("run", "v1")
    with pytest.raises(AdapterCorrupt):
        store.activate("run", "v1")
    file.write_bytes(data)
    assert store.verify("run", "v1") == record


def test_any_flipped_byte_of_the_active_pointer_is_noticed(store):
    store.create("run", writer())
    store.activate("run", "v1")
    file = store._root / "run" / "run.json"
    data = file.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(AdapterCorrupt):
            store.active("run")


def test_missing_added_and_exchanged_files_are_noticed(store):
    first, second = store.create("run", writer(1.0)), store.create("run", writer(2.0))
    (first.folder / "extra").write_text("x")
    with pytest.raises(AdapterCorrupt, match="added"):
        store.verify("run", "v1")
    (first.folder / "extra").unlink()
    (first.folder / lora.CONFIG).rename(first.folder.parent / "elsewhere")
    with pytest.raises(AdapterCorrupt, match="missing"):
        store.verify("run", "v1")
    (first.folder.parent / "elsewhere").rename(first.folder / lora.CONFIG)
    for name in (lora.WEIGHTS, "manifest.json"):
        (first.folder / name).write_bytes((second.folder / name).read_bytes())
    with pytest.raises(AdapterCorrupt, match="something else"):
        store.verify("run", "v1")


def test_non_finite_values_are_refused_even_with_a_right_digest(store):
    record = store.create("run", writer())
    save_file({"a": torch.tensor([math.nan])}, record.folder / lora.WEIGHTS)
    manifest = json.loads((record.folder / "manifest.json").read_text())
    del manifest["seal"]
    manifest["files"][lora.WEIGHTS] = hashlib.sha256((record.folder / lora.WEIGHTS).read_bytes()).hexdigest()
    (record.folder / "manifest.json").write_bytes(sealed_files.seal(manifest))
    with pytest.raises(AdapterCorrupt, match="not finite"):
        store.verify("run", "v1")


def test_adapters_of_another_base_model_are_refused(store):
    store.create("run", writer())
    other = reopened(store, "f" * 64)
    assert versions(other) == ["v1"]
    with pytest.raises(AdapterMismatch):
        other.verify("run", "v1")
    with pytest.raises(AdapterMismatch):
        other.activate("run", "v1")


def test_a_root_has_one_owner(store):
    with pytest.raises(ValueError, match="another server uses") as caught:
        AdapterStore(store._root, MODEL)
    assert "\n" not in str(caught.value)
    reopened(store)


def test_files_are_read_while_others_go_on(store, monkeypatch):
    """Neither hashing nor scanning keeps another thread from the store."""
    store.create("run", writer())
    seen = []

    def look(file, real=sealed_files.sha256):
        thread = threading.Thread(target=lambda: seen.append(store.active("run")))
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
        return real(file)

    monkeypatch.setattr(sealed_files, "sha256", look)
    store.create("run", writer())
    store.activate("run", "v2")
    assert seen == ["base"] * 4


def test_what_preparation_raises_leaves_the_active_version(store):
    store.create("run", writer())

    def prepare(record):
        assert record.version == "v1" and store.active("run") == "base"
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        store.activate("run", "v1", prepare)
    assert store.active("run") == "base"


def test_rolling_back_goes_the_way_that_activation_came(store):
    for value in (1.0, 2.0, 3.0):
        store.create("run", writer(value))
    assert store.previous("run") is None
    for version in ("v1", "v2", "v2", "v3"):
        store.activate("run", version)
    seen = []
    while (version := store.previous("run")) is not None:
        store.activate("run", version, back=True)
        store = reopened(store)
        seen.append(store.active("run"))
    assert seen == ["v2", "v1", "base"]
    for version in ("v1", "v2", "v3"):
        store.activate("run", version)
    store.delete("run", "v2")
    assert store.previous("run") == "v1"  # what is gone is passed over
    store.activate("run", "v1", back=True)
    assert store.previous("run") == "base"


def test_pruning_keeps_the_newest_and_what_is_used(store):
    for value in range(6):
        store.create("run", writer(float(value)))
    store.activate("run", "v1")
    with store.hold("run", "v3"):
        assert store.prune("run", 2) == ["v2", "v4"]
    assert versions(store) == ["v1", "v3", "v5", "v6"]
    assert store.prune("run", 10) == [] and store.create("run", writer()).version == "v7"


def test_versions_have_so_many_bytes_together(store):
    size = sum(file.stat().st_size for file in store.create("run", writer()).folder.iterdir())
    store.close()
    small = AdapterStore(store._root, MODEL, max_bytes=int(2.5 * size))
    small.create("other", writer())
    with pytest.raises(NoRoom, match="max_adapter_bytes"):
        small.create("run", writer())
    assert versions(small) == ["v1"] and not list(small._root.glob("*/.new-*"))
    small.delete("other", "v1")
    assert small.create("run", writer()).version == "v2"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device: /secret"),
     SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")],
)  # fmt: skip
def test_a_full_disk_leaves_what_was_there(store, error):
    store.create("run", writer())

    def fails(folder):
        (folder / lora.WEIGHTS).write_bytes(b"half")
        raise error

    with pytest.raises(NoRoom, match="the server's disk is full"):
        store.create("run", fails)
    assert sorted(p.name for p in (store._root / "run").iterdir()) == ["run.json", "v1"]
    assert store.create("run", writer()).version == "v2"


def test_names_that_were_asked_for_are_not_remembered(store):
    for number in range(100):
        with store.hold(f"run{number}", ""):
            pass
    assert not store._holds


def test_the_active_version_is_held_by_no_name(store):
    store.create("run", writer())
    store.create("run", writer())
    with store.hold("run", "") as held:
        assert held is None
    store.activate("run", "v1")
    with store.hold("run", "") as held:
        store.activate("run", "v2")
        assert held.version == "v1"
        with pytest.raises(AdapterInUse, match="in use"):
            store.delete("run", "v1")


def test_a_withdrawn_version_leaves_its_number_to_the_next(store):
    store.create("run", writer(1.0))
    store.create("run", writer(2.0))
    store.withdraw("run", "v2")
    assert versions(store) == ["v1"]
    assert reopened(store).create("run", writer(3.0)).version == "v2"


def test_a_version_is_found_by_the_request_that_made_it_while_it_is_whole(store):
    store.create("run", writer(1.0))
    made = store.create("run", writer(2.0, request_id="once"))
    store.create("run", writer(3.0, request_id="twice"))
    assert store.made_by("run", "once") == made
    assert store.made_by("run", "never") is None and store.made_by("other", "once") is None
    (made.folder / lora.WEIGHTS).write_bytes(b"damaged")
    assert store.made_by("run", "once") is None


def test_a_store_waits_for_one_that_is_ending(store):
    with pytest.raises(ValueError, match="another server uses"):
        AdapterStore(store._root, MODEL, wait_s=0.15)
    threading.Timer(0.2, store.close).start()
    assert AdapterStore(store._root, MODEL, wait_s=20).list("run") == []
