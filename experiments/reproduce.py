"""Repeats a run, or a table of the papers.

    python -m experiments.reproduce --check                        # one seed twice: equal byte for byte?
    python -m experiments.reproduce --check --kills=5              # and if the second one is killed five times?
    python -m experiments.reproduce --list                         # every table of both papers
    python -m experiments.reproduce --table=covr/3 --seeds=3       # its commands, what they cost, what is missing here
    python -m experiments.reproduce --table=covr/3 --preset=cpu,tiny --prior=tiny --go --workers=2

--check trains the command that --preset, --base, --method, --env, --prior, --steps and --set describe (by default COVR
with the tiny VLM, a round of tuning included: minutes) twice, in two processes and fresh directories, and compares
metrics.jsonl, evaluations.jsonl, rounds.jsonl and the final parameters. Each compiles for itself. With --kills the
learner of the second one is killed (SIGKILL) at random moments and resumed.

--table prints a shell script: commands, and comments with what was found out. The papers' settings want a GPU and their
VLMs; --preset goes on top of each row's own. With --go the commands run as a sweep does, in the order in which each
finds what it needs; the same command goes on after a stop.

Exit codes: 0 equal, or all done; 1 not equal, or some trials failed; 2 a wrong value; 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import app, flags

from covr_jax.config import Config
from covr_jax.envs.gl import GlError
from covr_jax.methods import BASES, METHODS
from experiments import configuration
from experiments.command_line import fail, prepare
from experiments.json_lines import read_lines
from experiments.launching import conclude, launch
from experiments.report_page.numbers import duration
from experiments.reproduction import cost, here, identical, kills, plan, tables
from experiments.reproduction.here import Site
from experiments.reproduction.plan import Choices, Plan
from experiments.trials import Sweep, parse_seeds

CHECKED = {"preset": "smoke", "method": "covr", "prior": "tiny"}  # what --check trains, unless told otherwise

_CHECK = flags.DEFINE_bool("check", False, "Train one seed twice and compare.")
_LIST = flags.DEFINE_bool("list", False, "List the tables.")
_TABLE = flags.DEFINE_string("table", None, "A table, as covr/3 or erpv/12; --list names all.")
_GO = flags.DEFINE_bool("go", False, "Run the table's commands instead of printing them.")
_SEEDS = flags.DEFINE_string("seeds", "3", "Of --table: 3 (seeds 1 to 3), 0..4 (five), or 1,5.")
_KILLS = flags.DEFINE_integer("kills", 0, "Of --check: kill the second run so many times.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 1, "Of --check.")
_PRESET = flags.DEFINE_string("preset", None, f"As of experiments.train: {', '.join(configuration.presets())}.")
_STEPS = flags.DEFINE_integer("steps", None, "Budget of each trial, in run.step_unit.", lower_bound=1)
_PRIOR = flags.DEFINE_string("prior", None, "As of experiments.train; of --table: in place of the papers' VLMs.")
_SET = flags.DEFINE_multi_string("set", [], "Any field, for all trials: --set=learner.batch_size=64; repeatable.")
_ENV = flags.DEFINE_string("env", None, "Of --check, as of experiments.train.")
_BASE = flags.DEFINE_string("base", None, f"Of --check: {', '.join(BASES)}.")
_METHOD = flags.DEFINE_string("method", None, f"Of --check: {', '.join(METHODS)}.")
_TOY = flags.DEFINE_bool("toy", False, "Of --table: the toy world in place of CARLA: the scenes, not the numbers.")
_MEASURE = flags.DEFINE_bool("measure", True, "Of --table: time an update for the estimate.")
_OUT = flags.DEFINE_string("out", None, "Folder of the runs; --check wants an empty one, by default a temporary one.")


def main(argv: list[str]) -> int:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    if _CHECK.value + _LIST.value + (_TABLE.value is not None) != 1:
        fail("give one of --check, --list and --table=covr/3")
    try:
        if _LIST.value:
            print("\n".join(_listed()))
            return 0
        return check() if _CHECK.value else table()
    except (ValueError, GlError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        return 130


# --- --check ---------------------------------------------------------------------------------------------------------


def check() -> int:
    out = Path(_OUT.value or tempfile.mkdtemp(prefix="covr_check_"))
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: --check wants a fresh directory")
    runs = []
    for name, deaths in (("first", 0), ("second", _KILLS.value)):
        sweep = Sweep(
            out / name,
            (_ENV.value,),
            (_BASE.value,),
            (_METHOD.value or CHECKED["method"],),
            (_SEED.value,),
            CHECKED["preset"] if _PRESET.value is None else _PRESET.value,
            _STEPS.value,
            _PRIOR.value or CHECKED["prior"],
            tuple(_SET.value),
        )
        (trial,) = sweep.trials()
        trial.config  # noqa: B018 (raises before anything runs)
        print(f"{name}:  {shlex.join(trial.command)}", flush=True)
        # A cached program would hide a compiler that chooses otherwise the second time.
        environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
        code, died = kills.run(trial, environment, deaths)
        if died < deaths:
            print(f"it was done before it could be killed more than {died} times")
        if code:
            print(f"error: the {name} run ended with exit code {code}; it is in {trial.out}", file=sys.stderr)
            return 1
        runs.append(trial.out)
    difference = identical.first_difference(*runs)
    if difference:
        print(f"not equal: {difference}\nthe runs are in {out}")
        return 1
    counts = ", ".join(f"{name} ({len(read_lines(runs[0] / name))} lines)" for name in identical.RECORDS)
    sizes = [leaf.size for leaf in jax.tree.leaves(identical.params(runs[0]))]
    print(f"equal, byte for byte: {counts}, final parameters ({sum(sizes):,} numbers in {len(sizes)} arrays)")
    return 0


# --- --table ---------------------------------------------------------------------------------------------------------


def table() -> int:
    chosen = tables.find(_TABLE.value)
    out = Path(_OUT.value or f"runs/reproduce/{chosen.key.replace('/', '_')}")
    seeds = tuple(range(1, int(_SEEDS.value) + 1)) if _SEEDS.value.isdecimal() else parse_seeds(_SEEDS.value)
    if not seeds:
        raise ValueError("--seeds=0: must be at least one")
    if not chosen.rows:
        print(f"# {chosen.paper} {chosen.printed}: {chosen.title}. {chosen.note}")
        return 0
    sites: dict[str, Site] = {}

    def site(config: Config) -> Site:
        name = config.env.name
        if name not in sites:
            sites[name] = here.site(config)
        return sites[name]

    def repeat(config: Config) -> int:
        if missing := site(config).missing:
            raise ValueError(f"the updates of a budget in frames cannot be counted here: {missing}")
        return site(config).repeat

    choices = Choices(
        out, seeds, _PRESET.value or "", _STEPS.value, _PRIOR.value, tuple(_SET.value), _TOY.value
    )
    made = plan.make(chosen, choices, repeat)
    for item in made.items:
        site(item.trial.config)
    for line in _about(made, choices, sites):
        print(f"# {line}", flush=True)
    if _GO.value:
        return _run(made, out)
    if _MEASURE.value and made.items:
        print("timing an update (--nomeasure leaves that out) ...", file=sys.stderr)
        for line in _costs(made, sites):
            print(f"# {line}")
    print("\n".join(shlex.join(command) for command in made.commands()))
    return 0


def _listed() -> Iterator[str]:
    for each in tables.read().values():
        rows = f"{len(each.rows)} rows" if each.rows else "no results"
        absent = [row.printed for row in each.rows if plan.why_absent(row)]
        told = f"; without a counterpart: {', '.join(absent)}" if absent else ""
        yield f"{each.key:<20} {each.title}; {rows}, {', '.join(each.tasks) or '-'}{told}"


def _about(made: Plan, choices: Choices, sites: dict[str, Site]) -> Iterator[str]:
    """Title, rows, what nothing answers to, and what is missing here."""
    chosen = made.table
    yield f"{chosen.paper} {chosen.printed}: {chosen.title}. {len(made.items)} trials, {len(choices.seeds)} seeds"
    if chosen.note:
        yield chosen.note
    for row, reason in made.absent.items():
        yield f"no counterpart here: {row} ({reason})"
    yield from dict.fromkeys(f"{item.row.printed}: read {item.row.reads}" for item in made.items if item.row.reads)
    if critics := made.critics:
        yield (
            f"first come {len(made.policies)} policies and {len(critics)} second critics, fitted to data in which a "
            "policy and the VLM take turns"
        )
    yield from dict.fromkeys(f"missing here: {site.missing}" for site in sites.values() if site.missing)
    asked = {item.trial.config.prior.source for item in made.items
             if METHODS[item.trial.config.learner.method].asks_prior}  # fmt: skip
    for source in sorted(asked):
        if missing := here.missing_prior(source):
            yield f"missing here: {missing}"
    if choices.toy and any(task.startswith("carla/") for task in chosen.tasks):
        yield "the toy world stands in for CARLA: the printed numbers do not compare"


def _costs(made: Plan, sites: dict[str, Site]) -> Iterator[str]:
    for task, site in sites.items():
        if not site.missing:
            yield f"{task}: {site.frames_per_second:,.0f} frames/s, {site.repeat} a decision"
    found = cost.estimate(made, sites)
    device = jax.devices()[0]
    cores = f", {len(os.sched_getaffinity(0))} cores" if device.platform == "cpu" else ""
    for number, (key, rate) in enumerate(found.rates.items()):
        how = "measured" if number == 0 else "by its arithmetic"
        what = f"{key.base}, {key.image_size} px, batch {key.batch_size}"
        yield f"{what}: {rate:.3g} updates/s on {device.device_kind}{cores} ({how})"
    if (load := os.getloadavg()[0]) > len(os.sched_getaffinity(0)):
        yield f"other work was running meanwhile (load {load:.0f}): an idle machine is faster"
    loads = found.loads
    yield (
        f"in all {loads.decisions:,} decisions, {loads.updates:,} updates, {loads.frames:,} frames: about "
        f"{duration(3600 * found.hours)} one after the other here"
    )
    if found.uncounted:
        yield f"of which {found.uncounted} trials without the time of their simulator, which is missing"
    if loads.questions:
        yield f"{loads.questions:,} questions to the VLM and {loads.rounds} rounds of its tuning come on top"


def _run(made: Plan, out: Path) -> int:
    outcomes = []
    for jobs in made.stages():
        if jobs:
            outcomes += launch(jobs, out)
        if any(outcome.code is None for outcome in outcomes):
            break
    if left := made.unfinished():
        print(f"{left} of {len(made.items)} trials are not done", file=sys.stderr)
    code = conclude(outcomes, out, "the same command")
    return code or int(bool(left))


if __name__ == "__main__":
    app.run(main)
