"""A bench that misses a target says so: in its table, its record and its exit status; wrong answers are found."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from experiments.bench import offline_answers, prior_server
from experiments.bench.offline_answers import Answer
from experiments.bench.prior_server import Target


@pytest.mark.parametrize(
    "measured, relation, held",
    [(4.9, ">=", False), (5.0, ">=", True), (5.1, "<=", False), (5.0, "<=", True), (5, "=", True), (4, "=", False),
     (float("nan"), "<=", False)],
)  # fmt: skip
def test_a_target_is_held_or_missed(measured, relation, held, tmp_path, capsys):
    out = tmp_path / "record.json"
    rows = [("answers a second", "12.0"), Target("ratio", measured, relation, 5), Target("failed", 0, "=", 0)]
    assert prior_server.judged(rows, {"ratio": measured}, str(out)) == (not held)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["held" if held else "missed", "held"]
    record = json.loads(out.read_text())
    assert [each["held"] for each in record["targets"]] == [held, True] and "environment" in record


def test_a_wrong_text_digest_or_version_is_found(tmp_path):
    frames = prior_server.frames(2)
    models, tasks = offline_answers.models, offline_answers.tasks
    vlm = models.load("tiny", "cpu")
    seen = [offline_answers.Observation(frame) for frame in frames]
    replies = offline_answers.Engine(vlm).predict(tasks.get(prior_server.TASK), seen, None, False, 64)[0]
    right = [Answer(i, "base", vlm.digest, reply.text) for i, reply in enumerate(replies)]
    changes = ({"text": right[0].text + "."}, {"digest": "f" * 64}, {"version": "v1"})
    bad = [right[0]._replace(**change) for change in changes]
    assert offline_answers.wrong(tmp_path / "adapters", "tiny", "run", right * 2, frames, False) == 0
    assert offline_answers.wrong(tmp_path / "adapters", "tiny", "run", right + bad, frames, False) == 3
