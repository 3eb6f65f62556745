import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import synthetic_run

from experiments.report import report
from experiments.report_page import curves
from experiments.report_page.labels import increments
from experiments.report_page.numbers import duration, exact, log_ticks, short, significant, ticks
from experiments.report_page.run_data import elapsed, load
from experiments.report_page.svg import Axis, axis_for


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "covr": synthetic_run.write(folder / "covr", "covr"),
        "covr2": synthetic_run.write(folder / "covr2", "covr", seed=2, video=False),
        "rad": synthetic_run.write(folder / "rad", "none", video=False),
    }


class Page(HTMLParser):
    """Checks that tags nest, and collects what a page loads."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.sources, self.tags = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(*paths) -> str:
    return report([str(path) for path in paths])[-1].read_text(encoding="utf-8")


def test_one_run_is_one_self_contained_page(runs):
    text = page_of(runs["covr"])
    page = Page(text)
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"url\(|@import|https?://", text)
    assert text.count("data:video/mp4;base64,") == 3 or text.count("data:video/mp4;base64,") == 2
    assert "data:image/png;base64," in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_every_chart_is_well_formed_and_inside_its_frame(runs):
    charts = re.findall(r"<svg.*?</svg>", page_of(runs["covr"]), re.S)
    assert len(charts) > 20
    for chart in charts:
        assert "nan" not in chart.replace("nanmean", "").lower().split("aria-label")[0]
        root = ET.fromstring(chart)
        assert root.get("aria-label")
        _, _, width, height = map(float, root.get("viewBox").split())
        for circle in root.iter("circle"):
            assert -1 <= float(circle.get("cx")) <= width + 1
            assert -1 <= float(circle.get("cy")) <= height + 1
        for box in root.iter("rect"):
            assert float(box.get("width")) >= 0 and float(box.get("height")) >= 0


def test_the_header_tells_the_run(runs):
    text = page_of(runs["covr"])
    last = load(runs["covr"]).lines["evaluations"][-1]
    assert exact(last["return_mean"]) in text and significant(last["return_std"]) in text
    for needed in (
        "dmc/cartpole/swingup",
        "over 10 episodes",
        "= 12,500 decisions",
        "100,000",
        "seed <b>1</b>",
        ">done<",
    ):
        assert needed in text


def test_rounds_and_replies_are_shown(runs):
    text = page_of(runs["covr"])
    for needed in ("Threshold τ", "Loss on held-out samples", "VLM driving alone", "Weights of RALW", "v5",
                   "malformed", "I am &lt;not&gt; sure.", "Distance between VLM and policy"):  # fmt: skip
        assert needed in text
    assert "<not>" not in text
    assert "Round 4" in text and "Earlier rounds (3)" in text


def test_a_run_without_vlm_has_no_vlm_sections(runs):
    text = page_of(runs["rad"])
    assert "COVR rounds" not in text and "Replies of the VLM" not in text
    assert "No evaluation names a video" in text


def test_values_that_are_not_finite_are_said(runs):
    assert "1 of 100 values of alpha_loss are not finite" in page_of(runs["covr"])


def test_missing_pieces_are_said(tmp_path):
    run = synthetic_run.write(tmp_path / "a", steps=3000, video=False)
    text = page_of(run)
    assert (
        "no evaluation" in text
        and "rounds.jsonl holds no round" in text
        and "samples.jsonl holds no reply" in text
    )
    for name in (
        "metrics.jsonl",
        "timings.jsonl",
        "STATUS.json",
        "environment.json",
        "samples.jsonl",
        "rounds.jsonl",
    ):
        (run / name).unlink()
    text = page_of(run)
    for name in ("metrics.jsonl", "timings.jsonl", "STATUS.json", "environment.json"):
        assert name in text
    assert ">unknown<" in text
    Page(text)


def test_a_broken_stream_is_said_and_the_rest_is_shown(tmp_path):
    run = synthetic_run.write(tmp_path / "a", steps=20_000, video=False)
    (run / "rounds.jsonl").write_text("{broken\n{}\n")
    assert "rounds.jsonl: line 1 is no valid JSON" in page_of(run)


def test_frames_outside_of_the_run_are_not_embedded(tmp_path):
    run = synthetic_run.write(tmp_path / "a", steps=60_000, video=False)
    (tmp_path / "secret.png").write_bytes(b"secret")
    line = {"frames": 1, "decisions": 1, "frame_png": "../secret.png", "text": "t", "status": "ok"}
    (run / "samples.jsonl").write_text(json.dumps(line) + "\n")
    text = page_of(run)
    assert "c2VjcmV0" not in text and "frame is missing" in text


def test_several_runs_make_a_comparison(runs, tmp_path):
    out = tmp_path / "all.html"
    assert report([str(path) for path in runs.values()], str(out)) == [out]
    text = out.read_text(encoding="utf-8")
    Page(text)
    assert "rad + covr (2 seeds)" in text and "rad (1 seed)" in text
    assert "frames to half of final" in text and "one seed" in text
    # Two widths of: three axes with three seeds and two means each, and two performance profiles.
    assert text.count('class="curve"') == 2 * (3 * (3 + 2) + 2)
    pages = report([str(path) for path in runs.values()])
    assert [page.name for page in pages] == ["report.html"] * 3 + ["comparison.html"]


def test_runs_with_other_settings_are_no_seeds_of_one_method(runs, tmp_path):
    other = synthetic_run.write(tmp_path / "other", "covr", seed=3, steps=100_000, video=False)
    synthetic_run.with_config(other, hidden_dim=256)
    out = tmp_path / "all.html"
    report([str(runs["covr"]), str(runs["covr2"]), str(other)], str(out))
    text = out.read_text(encoding="utf-8")
    assert "learner.hidden_dim=256 (1 seed)" in text and "learner.hidden_dim=1024 (2 seeds)" in text


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run"):
        report([str(tmp_path)])
    with pytest.raises(ValueError, match="at least one"):
        report([])


def test_area_and_half_by_hand():
    line = curves.curve([0, 10, 20, 40], [0.0, 4.0, 4.0, 8.0])
    # Trapezoids 20 + 40 + 120 = 180 over 40 frames.
    assert curves.area(line) == pytest.approx(4.5)
    # Half of 8 is reached at frame 10.
    assert curves.steps_to_half(line) == 10
    # Half of 6 lies three quarters of the way from 0 to 4.
    assert curves.steps_to_half(curves.curve([0, 10, 20], [0.0, 4.0, 6.0])) == pytest.approx(7.5)
    assert math.isnan(curves.steps_to_half(curves.curve([0, 1], [-2.0, -1.0])))
    assert math.isnan(curves.area(curves.curve([5], [1.0])))


def test_curve_drops_what_is_not_finite_and_keeps_the_last_of_a_place():
    line = curves.curve([0, 10, 10, 20], [1.0, 2.0, 3.0, math.nan])
    np.testing.assert_array_equal(line.x, [0, 10])
    np.testing.assert_array_equal(line.y, [1, 3])


def test_mean_curve_where_all_have_been_evaluated():
    mean = curves.mean_curve(
        [curves.curve([0, 10, 20], [0, 2, 4]), curves.curve([5, 20], [3, 6])]
    )
    np.testing.assert_allclose(mean.x, [5, 10, 20])
    np.testing.assert_allclose(mean.y, [2.0, 3.0, 5.0])  # (1+3)/2, (2+4)/2, (4+6)/2
    # Two seeds that lie 2 apart: t(0.975; 1) = 12.706205 times a standard error of 1.
    np.testing.assert_allclose(mean.high - mean.y, 12.706205, atol=1e-5)
    np.testing.assert_allclose(mean.y - mean.low, 12.706205, atol=1e-5)
    alone = curves.mean_curve([curves.curve([0, 10], [1, 2])])
    assert list(alone.y) == [1, 2] and np.isnan(alone.low).all()
    assert len(curves.mean_curve([curves.curve([0, 1], [1, 1]), curves.curve([5, 6], [1, 1])]).x) == 0
    assert len(curves.mean_curve([]).x) == 0


def test_elapsed_adds_up_sessions():
    assert elapsed([10, 25, 5, 7]) == [10, 25, 30, 32]


def test_increments_of_a_counter():
    assert increments([math.nan, 4, 4, 9]) == [0, 4, 0, 5]


def test_numbers_are_written_for_readers():
    assert [short(v) for v in (0, 0.5, 1500, 2e6, -3, 1.2e-4, math.nan)] == [
        "0",
        "0.5",
        "1.5k",
        "2M",
        "−3",
        "1.2e−4",
        "–",
    ]
    assert [exact(v) for v in (12500, 0.12345, 873.456, math.nan)] == ["12,500", "0.1235", "873.5", "–"]
    assert [significant(v) for v in (2.0, 0.7, 57.54, 0, 1234.5)] == [
        "2.00",
        "0.700",
        "57.5",
        "0.00",
        "1,234",
    ]
    assert [duration(s) for s in (5, 65, 3720, math.nan)] == ["5.0 s", "1 min 05 s", "1 h 02 min", "–"]


def test_ticks_are_round_and_inside():
    assert ticks(0, 100_000) == [0, 20_000, 40_000, 60_000, 80_000, 100_000]
    assert ticks(-0.3, 0.31) == [-0.2, 0, 0.2]
    assert ticks(3, 3) == [3]
    assert log_ticks(0.0009, 0.11) == [0.001, 0.01, 0.1]


def test_axes_hold_every_value():
    for values in ([0.0], [5.0, 5.0], [-1.0, 2.0], [math.nan], [0.0, 0.0]):
        for zero in (True, False):
            axis = axis_for(values, zero=zero)
            assert axis.high > axis.low
            assert all(axis.low <= v <= axis.high for v in values if math.isfinite(v))
    assert Axis(1, 100, log=True).place(10) == pytest.approx(0.5)
