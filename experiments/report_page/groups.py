"""Runs of one task, base, method and setting are a group; its runs are seeds of one experiment."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from covr_jax.config import Config
from covr_jax.methods import BASES, METHODS
from covr_jax.replay.samplers import Prioritised, Recent
from experiments.configuration import as_text
from experiments.configuration_values import field_types
from experiments.json_lines import number
from experiments.report_page.curves import Curve, curve
from experiments.report_page.numbers import finite
from experiments.report_page.run_data import Line, RunData, elapsed

# Fields that change neither what is learnt nor how: they make no group of their own.
ASIDE = ("run.seed", "run.video", "run.log_every", "run.eval_every", "run.eval_episodes", "env.name",
         "prior.deadline_s", "prior.required", "rounds.deadline_s")  # fmt: skip
SAMPLER_FIELDS = {Prioritised: "replay.per_", Recent: "replay.ere_"}  # read by these alone


LONGEST_LABEL = 45


@dataclass(frozen=True)
class Group:
    """Seeds of one experiment on one task, each seed once. ``name``: the label, or what stands for it if it is long."""

    task: str
    label: str
    name: str
    runs: tuple[RunData, ...]

    @property
    def unit(self) -> str:
        """In which its runs count their steps, "frames" or "decisions"."""
        return self.config.run.step_unit

    @functools.cached_property
    def curves(self) -> tuple[Curve, ...]:
        """Evaluation returns over steps, one curve a seed."""
        return tuple(evaluation_curve(run, self.unit) for run in self.runs)

    @functools.cached_property
    def at(self) -> float:
        """Step of the last evaluation that all evaluated seeds have behind them; NaN if there is none."""
        return min((one.x[-1] for one in self.curves if len(one.x)), default=math.nan)

    @functools.cached_property
    def lines(self) -> tuple[Line, ...]:
        """Each seed's evaluation at ``at``, or its last one before."""
        chosen = []
        for run in self.runs:
            known = [line for line in run.lines["evaluations"] if line[self.unit] <= self.at]
            chosen.append(known[-1] if known else {})
        return tuple(chosen)

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """Mean return of that evaluation, float64 [evaluated seeds]."""
        return np.array(finite([number(line.get("return_mean")) for line in self.lines]))

    @functools.cached_property
    def episodes(self) -> np.ndarray:
        """Returns of all episodes of all seeds, float64 [seeds * episodes]."""
        return np.array(finite([number(value) for line in self.lines for value in _returns(line)]))

    def reached(self, unit: str) -> float:
        """Frames or decisions that its seeds have at most behind them at ``at``; NaN if none was evaluated."""
        return max(finite([number(line.get(unit)) for line in self.lines]), default=math.nan)

    @property
    def config(self) -> Config:
        return self.runs[0].config


def shared_unit(groups: Sequence[Group]) -> str | None:
    """The unit of a step in all of them; None if they differ."""
    units = {one.unit for one in groups}
    return units.pop() if len(units) == 1 else None


def evaluation_curve(run: RunData, unit: str) -> Curve:
    """Mean return of the evaluations over frames, decisions or seconds of wall-clock."""
    if unit == "seconds":
        clock = elapsed(run.column("timings", "seconds"))
        places = np.interp(run.column("evaluations", "frames"), run.column("timings", "frames"), clock) if clock else []
    else:
        places = run.column("evaluations", unit)
    return curve(places, run.column("evaluations", "return_mean")[: len(places)])


def group(runs: Sequence[RunData]) -> tuple[list[Group], list[RunData]]:
    """The groups, by task and label in the order of ``runs``, and the runs left out: their seed was there already.

    Of several runs of one seed in one group the one that reached furthest counts: equal runs are no repetitions.
    """
    members: dict[tuple[str, str], dict[int, RunData]] = {}
    left_out = []
    for run, label in zip(runs, labels(runs), strict=True):
        seeds = members.setdefault((run.config.env.name, label), {})
        seed = run.config.run.seed
        if seed in seeds:
            kept, other = sorted((seeds[seed], run), key=lambda one: -np.nan_to_num(one.reached[0]))
            seeds[seed] = kept
            left_out.append(other)
        else:
            seeds[seed] = run
    names = _names({label: next(iter(seeds.values())).label for (_, label), seeds in members.items()})
    found = [
        Group(task, label, names[label], tuple(seeds[seed] for seed in sorted(seeds)))
        for (task, label), seeds in members.items()
    ]
    return found, left_out


def _names(labels: Mapping[str, str]) -> dict[str, str]:
    """Label -> name, for label -> base and method."""
    long = {short for label, short in labels.items() if len(label) > LONGEST_LABEL}
    names: dict[str, str] = {}
    for label, short in labels.items():
        number = sum(labels[other] == short for other in names) + 1
        names[label] = f"{short} #{number}" if short in long else label
    return names


def labels(runs: Sequence[RunData]) -> list[str]:
    """One label a run: base and method, and the settings in which runs of them differ on one and the same task.

    What differs between tasks alone (a learning rate by task) makes no label.
    """
    settings = [relevant(run.config) for run in runs]
    names = [(run.config.env.name, run.label) for run in runs]
    differing: dict[str, set[str]] = {}
    for (task, label), mine in zip(names, settings, strict=True):
        peers = [theirs for name, theirs in zip(names, settings, strict=True) if name == (task, label)]
        differing.setdefault(label, set()).update(
            path for path in mine if any(theirs[path] != mine[path] for theirs in peers)
        )
    return [
        ", ".join([label, *(f"{path}={as_text(mine[path])}" for path in mine if path in differing[label])])
        for (_, label), mine in zip(names, settings, strict=True)
    ]


def relevant(config: Config) -> dict[str, Any]:
    """Dotted path -> value of the fields that this configuration's base and method read."""
    method, base = METHODS[config.learner.method], BASES[config.learner.base]
    unread = list(ASIDE)
    if not method.asks_prior:
        unread += ["prior.", "learner.guidance."]
    if not method.tunes_prior:
        unread += ["rounds."]
    if base.auxiliary is None:
        unread += ["learner.decoder_", "learner.model_hidden_dim"]
    if not base.sequence:
        unread += ["learner.sequence_batch_size"]
    unread += [prefix for sampler, prefix in SAMPLER_FIELDS.items() if base.sampler is not sampler]
    return {
        path: functools.reduce(getattr, path.split("."), config)
        for path in field_types()
        if not path.startswith(tuple(unread))
    }


def differences(groups: Sequence[Group], left_out: Sequence[RunData]) -> list[str]:
    """What makes the comparison lame, one sentence each."""
    runs = [run for one in groups for run in one.runs]
    texts = []

    def unequal(lead: str, value: Callable[[Group], str]) -> None:
        by_name: dict[str, set[str]] = {}
        for one in groups:
            by_name.setdefault(one.name, set()).add(value(one))
        told: dict[str, list[str]] = {}
        for one in groups:
            where = told.setdefault(value(one), [])
            # A method that is the same on every task is named once.
            where.extend({one.name if len(by_name[one.name]) == 1 else names[id(one)]}.difference(where))
        if len(told) > 1:
            texts.append(f"{lead}: {'; '.join(f'{words} in {_list(where)}' for words, where in told.items())}.")

    several = len({one.task for one in groups}) > 1
    names = {id(one): f"{one.name} on {one.task}" if several else one.name for one in groups}
    unequal("Groups differ in their number of seeds", lambda one: str(len(one.runs)))
    unequal("Groups differ in their evaluation episodes", lambda one: _range(len(_returns(line)) for line in one.lines))
    unequal("Groups differ in the unit of a step", lambda one: one.unit)
    unit = shared_unit(groups) or "frames"
    unequal(f"Groups differ in their budget of {unit}, so finals and areas do not cover the same range",
            lambda one: _range(run.budget[unit] for run in one.runs))  # fmt: skip
    for one in groups:
        ends = {c.x[-1] for c in one.curves if len(c.x)}
        if len(ends) > 1:
            stand = f"the last evaluations stand at {_range(ends)} {one.unit}; the tables compare at {one.at:,.0f}"
            texts.append(f"{names[id(one)]}: {stand}.")
        if never := sum(not len(c.x) for c in one.curves):
            texts.append(f"{names[id(one)]}: {never} of {len(one.runs)} runs were never evaluated.")
    single = [names[id(g)] for g in groups if len(g.runs) == 1]
    if single:
        texts.append(f"One seed allows no interval and no claim: {', '.join(single)}.")
    unfinished = [run for run in runs if run.status.get("state") != "done"]
    if unfinished:
        paths = ", ".join(f"{run.path} ({run.status.get('state', 'unknown')})" for run in unfinished)
        texts.append(f"{len(unfinished)} of {len(runs)} runs are not done: {paths}.")
    if left_out:
        paths = ", ".join(str(run.path) for run in left_out)
        texts.append(f"Left out, for a run of the same group has the same seed: {paths}.")
    commits = {str((run.environment.get("git") or {}).get("commit", "unknown"))[:10] for run in runs}
    if len(commits) > 1:
        texts.append(f"The runs were made by {len(commits)} versions of the code: {', '.join(sorted(commits))}.")
    return texts


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _returns(line: Line) -> list[Any]:
    return line.get("returns") or []


def _range(values: Any) -> str:
    known = sorted({number(value) for value in values})
    return f"{known[0]:,.0f}" if len(known) == 1 else f"{known[0]:,.0f} to {known[-1]:,.0f}"
