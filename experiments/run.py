"""One run from a configuration: environments, prior, trainer, records, report."""

from __future__ import annotations

import dataclasses
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from covr_jax.config import Config
from covr_jax.learner import Learner
from covr_jax.loop import Trainer
from covr_jax.methods import METHODS
from covr_jax.priors import teachers
from covr_jax.priors.client import GrpcPrior
from covr_jax.priors.own_server import OwnServerPrior
from covr_jax.priors.server_process import ServerProcess
from covr_jax.priors.source import PriorSource
from covr_jax.snapshots import Snapshots
from covr_jax.types import Params
from experiments import configuration, environment_info, value_critic_artefact
from experiments.configuration import Built
from experiments.json_lines import plain
from experiments.policy import environment, load_policy, training_environments
from experiments.recorder import RunRecorder
from experiments.run_directory import RunDirectory, is_done, read_config, read_environment, write_json

EVALUATION_ENVS = 5  # in lock step, so that a VLM that drives alone is asked in batches; in CARLA one a further port
OLD_SERVER_S = 60  # that the server of a learner which was killed may take to notice and end


class Terminated(KeyboardInterrupt):
    """SIGTERM: somebody wants the machine back, and may start the run again."""


def run(built: Built, out: Path, overwrite: bool = False, resume: bool = False) -> None:
    """Trains, evaluates and writes ``out``. With ``resume`` a run that is there goes on.

    The first SIGINT or SIGTERM lets the decision under way end and a checkpoint be written, then KeyboardInterrupt or
    Terminated is raised; the second raises it at once. Raises ValueError, GlError, PriorUnavailable, TuningFailed,
    PriorDied, WorkerFailed, WorkerDied, and OSError if the disk is full.
    """
    resume = resume and (out / "config.json").is_file()
    config = _config_of(out, built) if resume else configuration.resolve(built.config)
    if resume and is_done(out):
        print(f"{out} has reached its end already; nothing to resume")
        return
    with ExitStack() as stack:
        env = stack.enter_context(training_environments(config))
        eval_envs = [stack.enter_context(environment(config)) for _ in range(_evaluation_envs(config))]
        critic, made = _value_critic(config, env)
        snapshots = Snapshots(out / "checkpoints", _identity(config, env))
        saved = snapshots.newest() if resume else None
        if resume:
            _tell_what_changed(out)
            directory = RunDirectory.resume(out, saved.state["records"] if saved else {})
        else:
            directory = RunDirectory.create(out, config, built.overrides, environment_info.describe(), overwrite)
            if made:
                write_json(out / "value_critic.json", made)
        stack.callback(_report, out)
        stack.enter_context(directory)
        asks = METHODS[config.learner.method].asks_prior
        namespace = saved.state["prior"]["run"] if saved and saved.state["prior"] else new_namespace(out)
        prior = stack.enter_context(open_prior(config, out, env, namespace)) if asks else None
        recorder = RunRecorder(
            directory, snapshots, config.run.steps, config.run.step_unit, env.action_names, env.decision_rate
        )
        stack.callback(recorder.close)
        trainer = stack.enter_context(Trainer(config, env, eval_envs, recorder, prior, critic))
        if saved:
            trainer.restore(saved.learner(trainer.state), saved.state, saved.frames())
            recorder.begin(trainer.steps)
        stack.enter_context(_stopped_by_signals(trainer))
        trainer.run()
    print(f"report: {out / 'report.html'}\nnext:   python -m experiments.evaluate --run={out} --episodes=10")


def _evaluation_envs(config: Config) -> int:
    if not config.env.name.startswith("carla/"):
        return EVALUATION_ENVS
    return min(max(len(config.env.carla.ports) - 1, 1), EVALUATION_ENVS)


def _config_of(out: Path, built: Built) -> Config:
    """The configuration of the run in ``out``. Raises ValueError if the command line asks for another."""
    config = read_config(out)
    if not built.overrides:  # --resume --out=DIR says it all
        return config
    there, here = (configuration.leaves(dataclasses.asdict(c)) for c in (config, configuration.resolve(built.config)))
    for name, value in there.items():
        if here[name] != value:
            raise ValueError(
                f"{name} is {configuration.as_text(here[name])} on the command line and "
                f"{configuration.as_text(value)} in {out}: resume with the same settings, or with none"
            )
    return config


def _tell_what_changed(out: Path) -> None:
    """Says what may keep the run from being the one that it would have been."""
    then, now = read_environment(out), plain(environment_info.describe())
    if changed := sorted(name for name in now if now[name] != then.get(name)):
        names = ", ".join(changed)
        print(f"note: {names} not as when {out} began: its numbers may come out differently", file=sys.stderr)


def _identity(config: Config, env: gymnasium.Env) -> dict[str, Any]:
    """What a checkpoint is only good for."""
    return configuration.leaves(dataclasses.asdict(config)) | {
        "action repeat": env.action_repeat,
        "observation shape": env.observation_space.shape,
        "action shape": env.action_space.shape,
    }


@contextmanager
def _stopped_by_signals(trainer: Trainer) -> Iterator[None]:
    stopped_by: list[int] = []

    def interruption() -> KeyboardInterrupt:
        return Terminated("stopped by SIGTERM") if stopped_by[0] == signal.SIGTERM else KeyboardInterrupt()

    def stop(number: int, _) -> None:
        stopped_by.append(number)
        if trainer.interrupted:
            raise interruption()
        trainer.stop()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if trainer.interrupted:
            raise interruption()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _report(out: Path) -> None:
    from experiments import report  # only now, for SciPy takes as long to import as JAX does

    try:
        report.report([str(out)])
    except (OSError, ValueError) as error:  # the run itself is written
        print(f"no report: {error}", file=sys.stderr)


@contextmanager
def open_prior(config: Config, out: Path, env: gymnasium.Env, namespace: str) -> Iterator[PriorSource]:
    """The prior that ``prior.source`` names; a server that is started here is stopped here.

    ``namespace``: the run's own name on the server.
    """
    source = config.prior.source
    settings = (config.env.name, namespace, config.prior.deadline_s, config.prior.constraint)
    with ExitStack() as stack:
        if source.startswith("teacher:"):
            yield _teacher(config, env.action_space.shape[0])
            return
        if source.startswith(("grpc://", "grpcs://")):
            client = GrpcPrior(source, *settings, config.prior.token_file, config.prior.ca_file)
        else:
            arguments = [f"--adapters_wait_s={OLD_SERVER_S}"]
            if config.prior.task_file:
                arguments.append(f"--task_file={config.prior.task_file}")
            server = ServerProcess(source, out / "adapters", out / "prior_server.log", arguments=arguments)
            client = OwnServerPrior(stack.enter_context(server), *settings)
        stack.callback(client.close)
        yield client


def _value_critic(config: Config, env: gymnasium.Env) -> tuple[Params | None, dict[str, Any]]:
    """C_V and how it was made, for the methods that gate by it. Raises ValueError."""
    action_dim = env.action_space.shape[0]
    if not Learner(config.learner, action_dim, config.env.frame_stack).needs_value_critic:
        return None, {}
    if not config.prior.value_critic:
        raise ValueError(
            f"method {config.learner.method} needs --value_critic=FOLDER; make one with "
            "python -m experiments.pretrain_critic, or choose another gate by --set learner.vpg.gate=online_critic"
        )
    return value_critic_artefact.load(Path(config.prior.value_critic), config, action_dim, env.action_repeat)


def new_namespace(out: Path) -> str:
    """A new name on the server, readable and unlike any other run's: adapters must not mix."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in out.absolute().name.lower())
    return f"{(kept.lstrip('-_') or 'run')[:48]}-{uuid.uuid4().hex[:8]}"


def _teacher(config: Config, action_dim: int) -> PriorSource:
    prior = config.prior
    return teachers.make(
        prior.source.removeprefix("teacher:"),
        config.env.name,
        action_dim,
        config.run.seed,
        prior.teacher_noise,
        _saved_policy(Path(prior.teacher_policy), action_dim) if prior.teacher_policy else None,
    )


def _saved_policy(run: Path, action_dim: int) -> Callable[[np.ndarray], np.ndarray]:
    """The mean action of a finished run: stack uint8 [H, W, 3*S] -> float32 [A]. Raises ValueError."""
    learner, params = load_policy(run, action_dim)
    if learner.base.sight.remembers:
        raise ValueError(
            f"prior.teacher_policy={run}: base {learner.config.base} also looks at the decision before, of which a "
            "teacher is not told; take a policy of another base"
        )
    return lambda stack: np.asarray(learner.mean_action(params, stack[None]))[0]
