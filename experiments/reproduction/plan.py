"""From a table to command lines: every row on every task with every seed, and what must be there before it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from covr_jax.config import Config
from covr_jax.learner import Learner
from covr_jax.methods import BASES, METHODS
from experiments.launchers.outcome import Job
from experiments.reproduction import tables
from experiments.reproduction.tables import Row, Table
from experiments.trials import Sweep, Trial

CRITIC_STEPS = 50_000  # at most half of the budget, and in its unit (E18, S1)
ANY_ACTION_DIM = 1  # whether a method asks a second critic does not depend on it

Repeat = Callable[[Config], int]  # simulator frames a decision


@dataclass(frozen=True)
class Choices:
    """What the user may change about a table."""

    out: Path
    seeds: tuple[int, ...]
    preset: str = ""  # on top of the rows' own
    steps: int | None = None
    prior: str | None = None  # in place of the papers' VLMs; teachers stay
    settings: tuple[str, ...] = ()
    toy: bool = False  # the toy world in place of CARLA


class Critic(NamedTuple):
    """ERPv's second critic: a policy is trained, takes turns with the VLM, and the critic is fitted to the data."""

    policy: Trial
    out: Path
    command: list[str]

    @property
    def done(self) -> bool:
        return (self.out / "manifest.json").is_file()

    @property
    def job(self) -> Job:
        log = self.out.with_name(self.out.name + ".log")
        return Job(f"critics/{self.out.parent.name}/{self.out.name}", self.command, log, lambda: float(self.done))


class Item(NamedTuple):
    """One row on one task with one seed. ``then``: an evaluation that follows, or an empty list."""

    row: Row
    task: str
    seed: int
    trial: Trial
    critic: Critic | None
    then: list[str]

    @property
    def job(self) -> Job:
        return self.trial.job._replace(name=f"{slug(self.row.printed)}/{self.trial.name}")

    @property
    def evaluation(self) -> Job:
        log = self.trial.log.with_suffix(".then.log")
        return Job(f"{self.job.name}, then", self.then, log, lambda: 0.0)


class Plan(NamedTuple):
    table: Table
    items: list[Item]
    absent: dict[str, str]  # printed row -> why nothing here answers to it

    @property
    def critics(self) -> list[Critic]:
        """Each once: rows share them."""
        return list({item.critic.out: item.critic for item in self.items if item.critic}.values())

    @property
    def policies(self) -> list[Trial]:
        """Each once: critics share them."""
        return list({critic.policy.out: critic.policy for critic in self.critics}.values())

    def commands(self) -> list[list[str]]:
        """In an order in which each finds what it needs."""
        made = [trial.command for trial in self.policies] + [critic.command for critic in self.critics]
        return made + [item.trial.command for item in self.items] + [item.then for item in self.items if item.then]

    def stages(self) -> Iterator[list[Job]]:
        """What is not done yet, in four stages. Each looks at what the stages before it left on the disk, and leaves
        out what would not find what it needs."""
        left = [policy for policy in self.policies if not policy.finished()]
        first = [policy.job._replace(name=f"policies/{policy.name}") for policy in left]
        yield first + [item.job for item in self.items if not item.critic and not item.trial.finished()]
        yield [critic.job for critic in self.critics if critic.policy.finished() and not critic.done]
        yield [item.job for item in self.items if item.critic and item.critic.done and not item.trial.finished()]
        yield [item.evaluation for item in self.items if item.then and item.trial.finished()]

    def unfinished(self) -> int:
        return sum(not item.trial.finished() for item in self.items)


def make(table: Table, choices: Choices, repeat: Repeat) -> Plan:
    """The plan of a table. Raises ValueError, in one line, for a choice that is not allowed; what ``repeat`` raises."""
    absent = {row.printed: reason for row in table.rows if (reason := why_absent(row))}
    present = [row for row in table.rows if row.printed not in absent]
    items = [
        _item(table, row, task, seed, choices, repeat)
        for seed in choices.seeds for row in present for task in table.tasks
    ]  # fmt: skip
    for item in items:
        item.trial.config  # noqa: B018 (raises)
    return Plan(table, items, absent)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def why_absent(row: Row) -> str:
    """Why nothing here answers to a row; empty if something does."""
    if row.base and row.base not in BASES:
        return f"base {row.base} is not in this version"
    return row.absent


def _item(table: Table, row: Row, task: str, seed: int, choices: Choices, repeat: Repeat) -> Item:
    preset, tuned = tables.by_task(row, task)
    presets = ",".join(name for name in (table.preset, row.preset, preset, choices.preset) if name)
    base, world = row.base or table.base, task.replace("carla/", "toy/") if choices.toy else task
    source = _prior(table, row, choices)

    def trial(folder: str, method: str, own: tuple[str, ...]) -> Trial:
        settings = (*table.settings, *tuned, *own, *choices.settings)
        prior = source if METHODS[method].asks_prior else None
        steps = choices.steps or table.steps
        sweep = Sweep(choices.out / folder, (world,), (base,), (method,), (seed,), presets, steps, prior, settings)
        return sweep.trials()[0]

    plain = trial("", row.method, tuple(setting for setting in row.settings if "{" not in setting)).config
    settings = tuple(_filled(setting, plain, repeat) for setting in row.settings)
    critic = None
    built = trial("", row.method, settings).config
    if Learner(built.learner, ANY_ACTION_DIM, built.env.frame_stack).needs_value_critic:
        out = choices.out / "critics" / f"{slug(task)}_{slug(source)}_{row.critic_data}" / f"seed_{seed}"
        critic = _critic(trial("policies", "none", ()), out, source, row.critic_data, seed, repeat)
        settings += (f"prior.value_critic={critic.out}",)
    found = trial(slug(row.printed), row.method, settings)
    return Item(row, task, seed, found, critic, _then(row, found, choices))


def _prior(table: Table, row: Row, choices: Choices) -> str:
    if row.prior.startswith("teacher:"):
        return row.prior
    return choices.prior or row.prior or tables.vlm(table.paper)


def _filled(setting: str, config: Config, repeat: Repeat) -> str:
    """A setting whose value depends on the budget: updates come after the random decisions."""
    if "{" not in setting:
        return setting
    run, each = config.run, config.learner.updates_per_decision
    decisions = run.steps if run.step_unit == "decisions" else run.steps // repeat(config)

    def updates(decisions: int) -> int:
        return max((decisions - run.random_decisions) * each, 2)

    return setting.format(
        steps=run.steps, half_the_updates=updates(decisions) // 2, updates_at_half=updates(decisions // 2)
    )


def critic_frames(config: Config, repeat: Repeat) -> int:
    """Simulator frames in which a policy of this configuration and the VLM take turns."""
    steps = min(CRITIC_STEPS, config.run.steps // 2)
    return steps if config.run.step_unit == "frames" else steps * (config.env.action_repeat or repeat(config))


def _critic(policy: Trial, out: Path, prior: str, data: str, seed: int, repeat: Repeat) -> Critic:
    frames = critic_frames(policy.config, repeat)
    command = [sys.executable, "-m", "experiments.pretrain_critic", f"--policy={policy.out}", f"--prior={prior}",
               f"--data={data}", f"--seed={seed}", f"--frames={frames}", f"--out={out}"]  # fmt: skip
    return Critic(policy, out, command)


def _then(row: Row, trial: Trial, choices: Choices) -> list[str]:
    if not row.then:
        return []
    arguments = [argument.replace("carla/", "toy/") if choices.toy else argument for argument in row.then]
    episodes = trial.config.run.eval_episodes
    return [sys.executable, "-m", "experiments.evaluate", f"--run={trial.out}", *arguments, f"--episodes={episodes}"]
