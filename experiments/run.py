"""One run from a configuration: environments, prior, trainer, records, report."""

from __future__ import annotations

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
from covr_jax.priors.server_process import ServerProcess
from covr_jax.priors.source import PriorSource
from covr_jax.types import Params
from experiments import configuration, environment_info, report, value_critic_artefact
from experiments.configuration import Built
from experiments.policy import environment, load_policy
from experiments.recorder import RunRecorder
from experiments.run_directory import RunDirectory, write_json

EVALUATION_ENVS = 5  # in lock step, so that a VLM that drives alone is asked in batches


def run(built: Built, out: Path, overwrite: bool = False) -> None:
    """Trains, evaluates and writes ``out``.

    The first SIGINT or SIGTERM lets the decision under way end and the parameters be saved, then KeyboardInterrupt
    is raised; the second raises it at once. Raises ValueError, GlError, PriorUnavailable, TuningFailed.
    """
    config = configuration.resolve(built.config)
    with ExitStack() as stack:
        env = stack.enter_context(environment(config))
        eval_envs = [stack.enter_context(environment(config)) for _ in range(EVALUATION_ENVS)]
        critic, made = _value_critic(config, env)
        directory = RunDirectory.create(out, config, built.overrides, environment_info.describe(), overwrite)
        if made:
            write_json(out / "value_critic.json", made)
        stack.callback(_report, out)
        stack.enter_context(directory)
        prior = stack.enter_context(open_prior(config, out, env)) if METHODS[config.learner.method].asks_prior else None
        recorder = RunRecorder(directory, config.run.steps, config.run.step_unit, env.action_names, env.decision_rate)
        stack.callback(recorder.close)
        trainer = stack.enter_context(Trainer(config, env, eval_envs, recorder, prior, critic))
        stack.enter_context(_stopped_by_signals(trainer))
        trainer.run()
        if trainer.interrupted:
            raise KeyboardInterrupt
    print(f"report: {out / 'report.html'}\nnext:   python -m experiments.evaluate --run={out} --episodes=10")


@contextmanager
def _stopped_by_signals(trainer: Trainer) -> Iterator[None]:
    def stop(*_) -> None:
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.stop()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _report(out: Path) -> None:
    try:
        report.report([str(out)])
    except (OSError, ValueError) as error:  # the run itself is written
        print(f"no report: {error}", file=sys.stderr)


@contextmanager
def open_prior(config: Config, out: Path, env: gymnasium.Env) -> Iterator[PriorSource]:
    """The prior that ``prior.source`` names; a server that is started here is stopped here."""
    source = config.prior.source
    with ExitStack() as stack:
        if source.startswith("teacher:"):
            yield _teacher(config, env.action_space.shape[0])
            return
        if source.startswith("grpc://"):
            address = source
        else:
            server = ServerProcess(source, adapters=out / "adapters", log=out / "prior_server.log")
            address = stack.enter_context(server).address
        client = GrpcPrior(
            address, config.env.name, _namespace(out), config.prior.deadline_s, config.prior.constraint
        )
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


def _namespace(out: Path) -> str:
    """The run's own name on the server, readable and unlike any other run's: adapters must not mix."""
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
    return lambda stack: np.asarray(learner.mean_action(params, stack[None]))[0]
