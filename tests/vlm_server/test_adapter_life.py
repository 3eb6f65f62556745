"""The life of adapter versions against a model in memory: whatever the order of calls, restarts and damage."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors.numpy import save_file

from vlm_server import lora
from vlm_server.adapters import AdapterCorrupt, AdapterInUse, AdapterNotFound, AdapterStore

MODEL = "0" * 64
RUNS = st.sampled_from(["one", "two"])
NUMBERS = st.integers(0, 5)  # 0: base; others may or may not exist


def name(number: int) -> str:
    return f"v{number}" if number else "base"


class Run:
    """What the store should know of one run."""

    def __init__(self):
        self.versions: dict[int, float] = {}  # number -> the value in its weights
        self.newest = self.active = 0
        self.before: list[int] = []  # that were active, oldest first
        self.damaged: set[int] = set()
        self.held: dict[int, int] = {}

    def previous(self) -> int | None:
        known = {0, *self.versions} - {self.active}
        return next((v for v in reversed(self.before) if v in known), None)

    def may_go(self, number: int) -> bool:
        return number != self.active and not self.held.get(number)


class AdapterLife(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.root = Path(tempfile.mkdtemp())
        self.store = AdapterStore(self.root, MODEL)
        self.runs = {"one": Run(), "two": Run()}
        self.holds: list[tuple[str, int, ExitStack]] = []

    def teardown(self):
        if hasattr(self, "store"):
            self._let_go()
            self.store.close()
            shutil.rmtree(self.root)

    @rule(run=RUNS, value=st.floats(-1, 1, width=32))
    def create(self, run, value):
        model = self.runs[run]
        parent = name(model.active)
        made = self.store.create(run, lambda folder: self._write(folder, value) or {"parent": parent})
        model.newest += 1
        model.versions[model.newest] = value
        assert (made.version, made.parent) == (name(model.newest), parent)

    @rule(run=RUNS)
    def fail_to_create(self, run):
        def fails(folder):
            self._write(folder, 0.0)
            raise RuntimeError("killed")

        try:
            self.store.create(run, fails)
        except RuntimeError:
            return
        raise AssertionError

    @rule(run=RUNS, number=NUMBERS)
    def activate(self, run, number):
        model = self.runs[run]
        expected = self._trouble(model, number)
        assert self._raised(lambda: self.store.activate(run, name(number))) is expected
        if expected is None and number != model.active:
            model.before.append(model.active)
            model.active = number

    @rule(run=RUNS)
    def roll_back(self, run):
        model = self.runs[run]
        target, version = model.previous(), self.store.previous(run)
        assert version == (None if target is None else name(target))
        if target is None:
            return
        expected = self._trouble(model, target)
        assert self._raised(lambda: self.store.activate(run, version, back=True)) is expected
        if expected is None:
            while model.before.pop() != target:
                pass
            model.active = target

    @rule(run=RUNS, number=st.integers(1, 5))
    def delete(self, run, number):
        model = self.runs[run]
        expected = AdapterNotFound if number not in model.versions else None if model.may_go(number) else AdapterInUse
        assert self._raised(lambda: self.store.delete(run, name(number))) is expected
        if expected is None:
            del model.versions[number]
            model.damaged.discard(number)

    @rule(run=RUNS, keep=st.integers(1, 3))
    def prune(self, run, keep):
        model = self.runs[run]
        going = [number for number in sorted(model.versions)[:-keep] if model.may_go(number)]
        assert self.store.prune(run, keep) == [name(number) for number in going]
        for number in going:
            del model.versions[number]
            model.damaged.discard(number)

    @rule(run=RUNS, number=NUMBERS)
    def hold(self, run, number):
        model, stack = self.runs[run], ExitStack()
        if number and number not in model.versions:
            assert self._raised(lambda: stack.enter_context(self.store.hold(run, name(number)))) is AdapterNotFound
            return
        stack.enter_context(self.store.hold(run, name(number)))
        model.held[number] = model.held.get(number, 0) + 1
        self.holds.append((run, number, stack))

    @precondition(lambda self: self.holds)
    @rule()
    def release(self):
        run, number, stack = self.holds.pop()
        stack.close()
        self.runs[run].held[number] -= 1

    @rule(run=RUNS, number=st.integers(1, 5), place=st.integers(0, 10**6), bit=st.integers(0, 7))
    def damage(self, run, number, place, bit):
        model = self.runs[run]
        if number not in model.versions or number in model.damaged:
            return
        file = self.root / run / name(number) / lora.WEIGHTS
        data = bytearray(file.read_bytes())
        data[place % len(data)] ^= 1 << bit
        file.write_bytes(data)
        model.damaged.add(number)

    @rule()
    def restart(self):
        self._let_go()
        self.store.close()
        self.store = AdapterStore(self.root, MODEL)

    @invariant()
    def the_store_knows_what_the_model_knows(self):
        for run, model in getattr(self, "runs", {}).items():
            assert [record.version for record in self.store.list(run)] == [name(n) for n in sorted(model.versions)]
            assert self.store.active(run) == name(model.active)
            for number in model.versions:
                expected = AdapterCorrupt if number in model.damaged else None
                assert self._raised(lambda run=run, n=number: self.store.verify(run, name(n))) is expected

    def _let_go(self):
        while self.holds:
            self.release()

    @staticmethod
    def _trouble(model, number):
        if number and number not in model.versions:
            return AdapterNotFound
        return AdapterCorrupt if number in model.damaged else None

    @staticmethod
    def _raised(call):
        try:
            call()
        except (AdapterNotFound, AdapterInUse, AdapterCorrupt) as error:
            return type(error)
        return None

    @staticmethod
    def _write(folder, value):
        save_file({"a": np.full(2, value, np.float32)}, folder / lora.WEIGHTS)


AdapterLife.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestAdapterLife = AdapterLife.TestCase
