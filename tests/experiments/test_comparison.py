"""Groups of runs: what belongs together, what is said about them, and the tables."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import synthetic_run

from experiments import configuration, paper_results
from experiments.report import find_runs, report
from experiments.report_page import comparison, groups
from experiments.report_page.run_data import load
from experiments.run_directory import RunDirectory

CARTPOLE, WALKER = "dmc/cartpole/swingup", "dmc/walker/walk"


def write(path, method="none", seed=1, returns=((10_000, (300, 400)), (20_000, (500, 700))), task=CARTPOLE, *settings):
    """A finished run of which only evaluations and the clock are told: 1 second per 100 frames."""
    chosen = [f"learner.method={method}", f"run.seed={seed}", f"env.name={task}", "run.steps=20000", *settings]
    config = configuration.resolve(configuration.build(settings=chosen).config)
    with RunDirectory.create(path, config, chosen, synthetic_run.ENVIRONMENT) as run:
        for frames, episodes in returns:
            where = {"frames": frames, "decisions": frames // 8}
            run.write("evaluations", where | {"returns": episodes, "return_mean": np.mean(episodes),
                                              "return_std": np.std(episodes)})  # fmt: skip
            run.write("timings", where | {"seconds": frames / 100})
    return path


def grouped(*paths):
    return groups.group([load(path) for path in paths])


def test_seeds_make_a_group_and_settings_make_another(tmp_path):
    paths = [write(tmp_path / f"{size}_{seed}", "none", seed, settings) for size in (64, 256) for seed in (1, 2)
             for settings in [((10_000, (size, seed)),)]]  # fmt: skip
    for path in paths[2:]:
        synthetic_run.with_config(path, hidden_dim=256)
    found, left_out = grouped(*paths)
    assert [one.label for one in found] == ["rad, learner.hidden_dim=1024", "rad, learner.hidden_dim=256"]
    assert [[run.config.run.seed for run in one.runs] for one in found] == [[1, 2], [1, 2]]
    assert left_out == []


def test_settings_that_a_run_does_not_read_make_no_group(tmp_path):
    plain = write(tmp_path / "a", "none", 1)
    other = write(tmp_path / "b", "none", 2, ((10_000, (1, 2)),), CARTPOLE, "rounds.psi0=77", "prior.lag=3",
                  "learner.guidance.weight=0.5", "run.eval_every=5", "learner.decoder_lr=1")  # fmt: skip
    assert [one.label for one in grouped(plain, other)[0]] == ["rad"]
    tuned = [write(tmp_path / name, "covr", seed, ((10_000, (1, 2)),), CARTPOLE, f"rounds.psi0={psi}")
             for name, seed, psi in (("c", 1, 77), ("d", 2, 78))]  # fmt: skip
    assert len(grouped(*tuned)[0]) == 2


def test_settings_by_task_make_no_group(tmp_path):
    slow = write(tmp_path / "a", "none", 1, ((10_000, (1, 2)),), WALKER, "learner.critic_lr=2e-4")
    assert [one.label for one in grouped(write(tmp_path / "b"), slow)[0]] == ["rad", "rad"]


def test_scores_stand_where_all_seeds_were_evaluated(tmp_path):
    done = write(tmp_path / "a", "none", 1)
    behind = write(tmp_path / "b", "none", 2, ((10_000, (100, 200)),))
    (one,), _ = grouped(done, behind)
    assert one.at == 10_000 and one.reached("decisions") == 1250
    np.testing.assert_array_equal(one.scores, [350, 150])
    np.testing.assert_array_equal(np.sort(one.episodes), [100, 200, 300, 400])
    told = " ".join(groups.differences([one], []))
    assert "10,000 to 20,000 frames; the tables compare at 10,000" in told
    never = write(tmp_path / "c", "none", 3, ())
    (one,), _ = grouped(done, behind, never)
    np.testing.assert_array_equal(one.scores, [350, 150])
    assert "rad: 1 of 3 runs were never evaluated." in groups.differences([one], [])


def test_runs_that_count_decisions_are_compared_at_decisions(tmp_path):
    """Where faults and collisions cut decisions short, the same decision is another frame in every run."""
    counted = CARTPOLE, "run.step_unit=decisions", "run.steps=2000"
    for method, lift in (("none", 0), ("covr", 100)):
        for seed, frames in ((1, (8000, 16_000)), (2, (8003, 16_007))):  # decisions 1000 and 2000
            returns = [(each, (place + lift + seed,)) for place, each in zip((10, 20), frames, strict=True)]
            write(tmp_path / method / str(seed), method, seed, returns, *counted)
    found, _ = grouped(*find_runs(tmp_path))
    base, covr = sorted(found, key=lambda one: one.label)
    assert base.at == covr.at == 2000 and base.reached("frames") == 16_007
    np.testing.assert_array_equal(base.scores, [21, 22])
    np.testing.assert_array_equal(base.curves[1].x, [1000, 2000])
    assert comparison.over_base(covr, found).estimate == 100
    assert groups.differences(found, []) == []
    (page,) = report([str(tmp_path)], str(tmp_path / "x.html"))
    text = page.read_text(encoding="utf-8")
    assert "decisions to half of final" in text and "frames to half" not in text
    assert text.index(">decisions</label>") < text.index(">frames</label>"), "the unit of the runs comes first"


def test_what_is_missing_is_said_once(tmp_path):
    paths = [write(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    (paths[0] / "timings.jsonl").unlink()
    for path in paths:
        (path / "overrides.txt").unlink()
    (page,) = report([str(tmp_path)], str(tmp_path / "x.html"))
    text = page.read_text(encoding="utf-8")
    assert f"timings.jsonl is missing, in {paths[0]}." in text
    assert text.count("overrides.txt is missing, in every run.") == 1


def test_long_labels_are_numbered(tmp_path):
    settings = ("learner.hidden_dim=64", "learner.batch_size=32", "learner.critic_tau=0.05")
    other = write(tmp_path / "b", "none", 1, ((10_000, (1, 2)),), CARTPOLE, *settings)
    found, _ = grouped(write(tmp_path / "a"), other, write(tmp_path / "c", "dpl"))
    assert [one.name for one in found] == ["rad #1", "rad #2", "rad + dpl"]
    assert "learner.hidden_dim=64, learner.batch_size=32" in found[1].label
    (page,) = report([str(tmp_path)], str(tmp_path / "x.html"))
    text = page.read_text(encoding="utf-8")
    assert f"<td class=text>rad #2</td><td class=text>{found[1].label}</td>" in text


def test_what_differs_is_named_once_for_all_tasks(tmp_path):
    paths = [write(tmp_path / f"{method}{seed}{task[-4:]}", method, seed, ((10_000, (1, 2)),), task)
             for method, seeds in (("none", 1), ("dpl", 2)) for seed in range(seeds) for task in (CARTPOLE, WALKER)]
    told = groups.differences(*grouped(*paths))
    assert "Groups differ in their number of seeds: 1 in rad; 2 in rad + dpl." in told
    more = write(tmp_path / "more", "none", 5, ((10_000, (1, 2)),), WALKER)
    told = groups.differences(*grouped(*paths, more))
    expected = f"1 in rad on {CARTPOLE}; 2 in rad on {WALKER} and rad + dpl"
    assert f"Groups differ in their number of seeds: {expected}." in told


def test_one_seed_counts_once(tmp_path):
    short = write(tmp_path / "a", "none", 1, ((10_000, (1, 2)),))
    long = write(tmp_path / "b", "none", 1)
    for order in ((short, long), (long, short)):
        (one,), left_out = grouped(*order)
        assert [run.path for run in one.runs] == [long] and [run.path for run in left_out] == [short]
    assert any("same seed" in text and str(short) in text for text in groups.differences([one], left_out))


def test_unequal_groups_are_said(tmp_path):
    three = [write(tmp_path / f"a{seed}", "none", seed) for seed in (1, 2, 3)]
    one = write(tmp_path / "b", "dpl", 1, ((20_000, (1, 2, 3)),), CARTPOLE, "run.step_unit=decisions")
    status = json.loads((one / "STATUS.json").read_text())
    (one / "STATUS.json").write_text(json.dumps(status | {"state": "running"}))
    (one / "environment.json").write_text(json.dumps({"git": {"commit": "a" * 40}}))
    told = groups.differences(*grouped(*three, one))
    for needed in (
        "Groups differ in their number of seeds: 3 in rad; 1 in rad + dpl.",
        "Groups differ in their evaluation episodes: 2 in rad; 3 in rad + dpl.",
        "Groups differ in the unit of a step: frames in rad; decisions in rad + dpl.",
        "One seed allows no interval and no claim: rad + dpl.",
        f"1 of 4 runs are not done: {one} (running).",
        "The runs were made by 2 versions of the code: aaaaaaaaaa, unknown.",
    ):
        assert needed in told
    assert any(text.startswith("Groups differ in their budget of frames") for text in told)
    assert groups.differences(*grouped(*three)) == []


def test_curves_over_frames_decisions_and_seconds(tmp_path):
    run = load(write(tmp_path / "a"))
    for unit, places in (("frames", [10_000, 20_000]), ("decisions", [1250, 2500]), ("seconds", [100, 200])):
        one = groups.evaluation_curve(run, unit)
        np.testing.assert_array_equal(one.x, places)
        np.testing.assert_array_equal(one.y, [350, 600])
    (tmp_path / "a" / "timings.jsonl").unlink()
    assert len(groups.evaluation_curve(load(tmp_path / "a"), "seconds").x) == 0


def test_the_page_holds_every_figure_of_the_group(tmp_path):
    for method, lift in (("none", 0), ("covr", 100)):
        for seed in (1, 2, 3):
            episodes = (500 + lift + 10 * seed, 700 + lift + 10 * seed)
            write(tmp_path / "runs" / method / str(seed), method, seed, ((20_000, episodes),))
    page, table, latex = report(
        [str(tmp_path / "runs")], str(tmp_path / "x.html"), str(tmp_path / "x.csv"), str(tmp_path / "x.tex")
    )
    text = page.read_text(encoding="utf-8")
    # Seeds 610, 620, 630: t(0.975; 2) = 4.3027 times 10 / sqrt(3) = 24.84. Episodes: 510..530 and 710..730.
    assert "620 <small>[595, 645]</small>" in text
    pooled = np.std([510, 520, 530, 710, 720, 730], ddof=1)
    assert f"<td>10.0</td><td>{pooled:.0f}</td>" in text
    # Over its base, Welch: freedom 4, t = 2.7764 times sqrt(100 / 3 + 100 / 3).
    assert "+100 <small>[+77.3, +123]</small>" in text
    # RAD of the papers: 694 ± 28; ours is 74 below.
    assert "694 <small>± 28</small>" in text and "−74.0 <small>[−98.8, −49.2]</small>" in text
    assert "RAD (COVR Table 3, ERPv Table 2)" in text
    assert "rad stands at 20,000 frames (2,500 decisions), the papers at 100,000 steps." in text
    # Nine of nine comparisons won.
    assert "1.00 <small>[0.501, 1.00]</small>" in text
    assert text.count('type="radio"') == 3 and "script" not in text
    for chart in re.findall(r"<svg.*?</svg>", text, re.S):
        assert "nan" not in chart
        ET.fromstring(chart)

    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["paper_table"]) for row in rows] == [
        ("covr", "Table 3"), ("covr", "Table 4"), ("none", "Table 3"), ("none", "Table 2")
    ]  # fmt: skip
    assert rows[0]["mean"] == "720" and rows[0]["over_base"] == "100" and rows[2]["over_base"] == ""
    assert float(rows[2]["difference"]) == -74 and float(rows[2]["difference_low"]) == pytest.approx(-98.84, abs=0.01)
    assert rows[2]["frames"] == "20000" and rows[2]["decisions"] == "2500" and rows[2]["seeds"] == "3"
    assert latex.read_text(encoding="utf-8") == (
        "\\begin{tabular}{lr}\n\\toprule\nmethod & dmc/cartpole/swingup \\\\\n\\midrule\n"
        "rad + covr & $\\mathbf{720} \\pm 10$ (3) \\\\\nrad & $620 \\pm 10$ (3) \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_aggregates_are_over_common_tasks(tmp_path):
    for seed in (1, 2):
        for method in ("none", "dpl"):
            for task in (CARTPOLE, WALKER)[: 2 if method == "none" else 1]:
                folder = tmp_path / "runs" / method / task / str(seed)
                write(folder, method, seed, ((20_000, (100 * seed, 100 * seed)),), task)
    (page,) = report([str(tmp_path / "runs")], str(tmp_path / "x.html"))
    text = page.read_text(encoding="utf-8")
    assert f"Not in here, for not every method has a score there: {WALKER}." in text
    assert "0.150 <small>[" in text  # the IQM of 0.1 and 0.2


def test_runs_are_found_below_folders(tmp_path):
    run = write(tmp_path / "a" / "b" / "seed_1")
    (run / "adapters").mkdir()
    (run / "adapters" / "config.json").write_text("{}")  # what lies inside of a run is no run
    assert find_runs(tmp_path) == [run] == find_runs(run)
    assert [path.name for path in report([str(tmp_path / "a")])] == ["report.html"]
    other = write(tmp_path / "a" / "c", seed=2)
    written = report([str(tmp_path / "a")])
    assert written == [run / "report.html", other / "report.html", tmp_path / "a" / "comparison.html"]
    with pytest.raises(ValueError, match="holds no run"):
        find_runs(tmp_path / "nowhere")


def test_the_papers_numbers():
    rows = paper_results.read()
    assert len(rows) == 444
    (first, second) = paper_results.counterparts(CARTPOLE, "rad", "none")
    assert (first.mean, first.std, first.source, second.source) == (694, 28, "COVR Table 3", "ERPv Table 2")
    covr = paper_results.counterparts(WALKER, "rad", "covr")
    assert {(row.mean, row.std) for row in covr} == {(802, 25)}
    assert paper_results.counterparts(CARTPOLE, "sac", "dpl") == []
    slips = [row for row in rows if row.note.startswith("slip")]
    assert {(row.source, row.printed_method) for row in slips} >= {("ERPv Table 2", "Dreamer"), ("ERPv Table 1", "VBE")}


def test_styles_differ():
    styles = comparison.styles_of([f"method {i}" for i in range(30)])
    assert len(set(styles.values())) == 30
