import json
import math

import numpy as np
import pytest
import synthetic_run

from experiments.json_lines import number, plain
from experiments.run_directory import RunDirectory, read_config, read_lines

WHERE = {"frames": 80, "decisions": 10}


@pytest.fixture
def run(tmp_path):
    with RunDirectory.create(
        tmp_path / "run", synthetic_run.config(), ["run.seed=1"], {"python": "3"}
    ) as run:
        yield run


def status(run: RunDirectory) -> dict:
    return json.loads((run.path / "STATUS.json").read_text())


def test_a_new_run_holds_its_files(run):
    names = {entry.name for entry in run.path.iterdir()}
    assert names >= {"config.json", "overrides.txt", "environment.json", "STATUS.json", "metrics.jsonl",
                     "evaluations.jsonl", "rounds.jsonl", "timings.jsonl", "samples.jsonl", "videos",
                     "checkpoints",
                     "tensorboard"}  # fmt: skip
    assert read_config(run.path) == synthetic_run.config()
    assert (run.path / "overrides.txt").read_text() == "run.seed=1\n"
    assert json.loads((run.path / "environment.json").read_text()) == {"python": "3"}
    assert status(run) == {"state": "running", "reason": ""}


def test_a_directory_in_use_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"not empty.*--overwrite.*--out"):
        RunDirectory.create(run.path, synthetic_run.config(), [], {})
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", synthetic_run.config(), [], {}).close()


def test_a_line_is_sorted_exact_and_on_disk_at_once(run):
    run.write(
        "metrics", {**WHERE, "zeta": 0.1, "alpha": np.float32(0.5), "count": np.int64(3), "list": np.ones(2)}
    )
    text = (run.path / "metrics.jsonl").read_text()
    assert (
        text == '{"alpha": 0.5, "count": 3, "decisions": 10, "frames": 80, "list": [1.0, 1.0], "zeta": 0.1}\n'
    )


def test_numbers_that_json_lacks_are_written_as_text(run):
    run.write("metrics", {**WHERE, "a": math.nan, "b": math.inf, "c": np.float32(-math.inf), "d": None})
    (line,) = read_lines(run.path / "metrics.jsonl")
    assert [line[key] for key in "abcd"] == ["NaN", "Infinity", "-Infinity", None]
    assert math.isnan(number(line["a"])) and number(line["b"]) == math.inf and number(line["c"]) == -math.inf
    assert math.isnan(number(None)) and math.isnan(number("text")) and math.isnan(number(True))


def test_jax_scalars_are_written():
    jnp = pytest.importorskip("jax.numpy")
    assert plain({"a": jnp.float32(0.25), "b": jnp.arange(2)}) == {"a": 0.25, "b": [0, 1]}


@pytest.mark.parametrize(
    ("record", "needed"),
    [({"frames": 8}, "decisions"), ({"decisions": 1}, "frames"), ({"frames": 8.0, "decisions": 1}, "frames"),
     ({"frames": -8, "decisions": 1}, "frames"), ({**WHERE, "seconds": 3.0}, "timings.jsonl"),
     ({**WHERE, "x": object()}, "object")],
)  # fmt: skip
def test_a_bad_line_is_refused_and_nothing_is_written(run, record, needed):
    with pytest.raises(ValueError, match=needed):
        run.write("metrics", record)
    assert (run.path / "metrics.jsonl").read_bytes() == b""
    with pytest.raises(ValueError, match="metrics, evaluations, rounds, samples, timings"):
        run.write("metric", WHERE)


def test_wall_clock_goes_into_timings(run):
    run.write("timings", {**WHERE, "seconds": 1.5, "frames_per_second": 53.3})
    assert read_lines(run.path / "timings.jsonl")[0]["seconds"] == 1.5


def test_a_torn_last_line_is_skipped(run):
    run.write("metrics", WHERE)
    run.close()
    file = run.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + b'{"frames": 160, "deci')
    assert read_lines(file) == [WHERE]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"frames": 1}\n{oops\n{"frames": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_lines(tmp_path / "a.jsonl")
    assert read_lines(tmp_path / "absent.jsonl") == []


def test_status_follows_the_end_of_the_block(tmp_path):
    for error, expected in (
        (None, {"state": "done", "reason": ""}),
        (KeyboardInterrupt(), {"state": "interrupted", "reason": "stopped by the user"}),
        (RuntimeError("no GPU\nmore"), {"state": "failed", "reason": "RuntimeError: no GPU"}),
    ):
        run = RunDirectory.create(tmp_path / type(error).__name__, synthetic_run.config(), [], {})
        try:
            with run:
                if error:
                    raise error
        except (KeyboardInterrupt, RuntimeError):
            pass
        assert status(run) == expected
        assert not (run.path / "STATUS.json.part").exists()
    with pytest.raises(ValueError, match="running, done, failed, interrupted"):
        run.set_status("ok", "")


def test_tensorboard_mirrors_the_scalars(run):
    run.write("metrics", {**WHERE, "critic_loss": 0.25, "alpha": math.nan, "note": "x"})
    run.write("evaluations", {**WHERE, "return_mean": 2.0, "returns": [1.0, 3.0]})
    run.close()
    events = b"".join(file.read_bytes() for file in (run.path / "tensorboard").iterdir())
    assert b"metrics/critic_loss" in events and b"evaluations/return_mean" in events
    assert b"metrics/alpha" not in events and b"evaluations/returns" not in events


def test_records_are_cut_back_to_a_checkpoint_and_go_on(run):
    run.write("metrics", {**WHERE, "return": 0.1})
    run.write_sample(np.zeros((8, 8, 3), np.uint8), WHERE)
    lengths = run.lengths()
    run.write("metrics", {**WHERE, "return": 0.2})
    run.write("rounds", WHERE)
    run.write_sample(np.zeros((8, 8, 3), np.uint8), WHERE)
    run.close()
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"torn')
    with RunDirectory.resume(run.path, lengths) as again:
        assert status(again)["state"] == "running" and again.lengths() == lengths
        again.write("metrics", {**WHERE, "return": 0.3})
        again.write_sample(np.zeros((8, 8, 3), np.uint8), WHERE)
    assert [line["return"] for line in read_lines(run.path / "metrics.jsonl")] == [0.1, 0.3]
    assert read_lines(run.path / "rounds.jsonl") == []
    samples = read_lines(run.path / "samples.jsonl")
    assert [line["frame_png"] for line in samples] == ["frames/000000.png", "frames/000001.png"]
    with pytest.raises(ValueError, match=r"metrics\.jsonl has lost lines"):
        RunDirectory.resume(run.path, lengths | {"metrics": 10_000})


def test_the_view_of_a_resumed_run_shows_no_future(run):
    run.write("metrics", {**WHERE, "kept": 1.0})
    lengths = run.lengths()
    run.write("metrics", {**WHERE, "gone": 1.0})
    run.close()
    RunDirectory.resume(run.path, lengths).close()
    events = b"".join(file.read_bytes() for file in (run.path / "tensorboard").iterdir())
    assert b"metrics/kept" in events and b"metrics/gone" not in events


def test_two_processes_do_not_share_a_run(run):
    with pytest.raises(ValueError, match="in use"):
        RunDirectory.resume(run.path, {})


def test_a_creation_that_was_cut_off_is_no_run(tmp_path):
    (tmp_path / "overrides.txt").write_text("run.seed=1\n")
    (tmp_path / "config.json.part").write_text("{")
    RunDirectory.create(tmp_path, synthetic_run.config(), [], {}).close()
    assert read_config(tmp_path) == synthetic_run.config()


def test_equal_runs_write_equal_bytes(tmp_path):
    one = synthetic_run.write(tmp_path / "a", steps=20_000, video=False)
    two = synthetic_run.write(tmp_path / "b", steps=20_000, video=False)
    for name in ("config.json", "metrics.jsonl", "evaluations.jsonl", "rounds.jsonl", "samples.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
