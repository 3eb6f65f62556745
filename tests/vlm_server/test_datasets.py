"""Uploaded samples: what makes room for what."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_server import tasks
from vlm_server.datasets import DataSets, NoRoom
from vlm_server.engine import Observation
from vlm_server.tuning import Sample

TASK = tasks.get("dmc/cartpole/swingup")
SIDE = 32
ROOM = SIDE * SIDE * 3 + 1024  # bytes that one sample counts


def add(sets, seed, run="run", count=1):
    frame = np.full((SIDE, SIDE, 3), seed, np.uint8)
    with sets.upload(run, TASK) as upload:
        for i in range(count):
            upload.append(Sample(Observation(frame), (0.5,), float(i)))
        return upload.finish()


def test_the_oldest_idle_set_makes_room():
    sets = DataSets(3 * ROOM)
    first, second, third = (add(sets, seed).id for seed in range(3))
    assert sets.take(first, "run").digest  # in use from here on
    fourth = add(sets, 3).id
    found = {name: sets.take(name, "run") is not None for name in (first, second, third, fourth)}
    assert found == {first: True, second: False, third: True, fourth: True}


def test_sets_in_use_are_never_dropped_and_a_refused_upload_leaves_no_trace():
    sets = DataSets(2 * ROOM)
    names = [add(sets, seed).id for seed in range(2)]
    for name in names:
        sets.take(name, "run")
    for _ in range(3):
        with pytest.raises(NoRoom):
            add(sets, 2)
    sets.release(names[0])
    assert add(sets, 2).nbytes == ROOM
    assert sets.take(names[0], "run") is None and sets.take(names[1], "run") is not None


def test_unfinished_uploads_count_together():
    sets = DataSets(2 * ROOM)
    sample = Sample(Observation(np.zeros((SIDE, SIDE, 3), np.uint8)), (0.0,), 0.0)
    with sets.upload("run", TASK) as one, sets.upload("run", TASK) as other:
        one.append(sample)
        other.append(sample)
        with pytest.raises(NoRoom):
            other.append(sample)


def test_names_are_of_the_run_and_the_content():
    sets = DataSets(100 * ROOM)
    one = add(sets, 1)
    assert add(sets, 1) is one
    assert len({one.id, add(sets, 2).id, add(sets, 1, run="other").id, add(sets, 1, count=2).id}) == 4
    assert sets.take(one.id, "other") is None and sets.take("nothing", "run") is None
