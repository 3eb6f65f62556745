"""The training loop: act, learn, label, round, evaluate. All randomness is a function of the seed and counters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import behaviour, compiles, parallel, seeds
from covr_jax.config import Config
from covr_jax.covr_rounds import Rounds, Score, run_round
from covr_jax.envs.orders import Begun, Moved
from covr_jax.envs.vector import InThisProcess, Workers
from covr_jax.evaluation import Episode, PriorPolicy, mean_policy, prior_actions, run_episodes
from covr_jax.learner import Learner
from covr_jax.methods import METHODS
from covr_jax.priors.labels import HeldLabels
from covr_jax.priors.pipeline import PriorPipeline
from covr_jax.priors.source import GradedPrior, PriorSource, TunablePrior
from covr_jax.recording import Recorder
from covr_jax.replay import samplers
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.stopwatch import Stopwatch
from covr_jax.tracks import Track, Tracks
from covr_jax.types import Array, Batch, LearnerState, Params


@dataclass
class Counters:
    decisions: int = 0
    frames: int = 0  # simulator frames
    episodes: int = 0
    prior_driven: int = 0  # decisions in which the prior's action was executed
    prior_missed: int = 0  # turns of the prior without an answer to execute: the policy acted


class Trainer:
    """One run: ``run`` does it all.

    Its state between two decisions is the learner's, the replay's and that of ``state``. Nothing else is needed to go
    on, for random numbers are functions of the counters, and an episode is one of its seed and the actions.

    ``env``: one environment, or run.num_envs of them in processes of their own. Each decides once in a turn; decisions
    and episodes are numbered in the order of the environments, whichever of them is ready first.
    """

    def __init__(
        self,
        config: Config,
        env: gymnasium.Env | Workers,
        eval_envs: Sequence[gymnasium.Env],
        recorder: Recorder,
        prior: PriorSource | None = None,
        value_critic: Params | None = None,
    ):
        self.config, self.env, self.eval_envs, self.recorder = config, env, eval_envs, recorder
        method = METHODS[config.learner.method]
        self._action_dim = env.action_space.shape[0]
        size, stack = config.env.render_size, config.env.frame_stack
        environments = env if isinstance(env, Workers) else InThisProcess(env)
        count = environments.count
        if count != config.run.num_envs:
            raise ValueError(f"run.num_envs={config.run.num_envs}, but the trainer was given {count}: set it to that")
        if count > 1 and config.replay.capacity < count * env.max_decisions:
            raise ValueError(
                f"replay.capacity={config.replay.capacity}: must hold an episode of each of run.num_envs={count} "
                f"environments, {count * env.max_decisions} transitions here, or no checkpoint could be gone on with"
            )
        self._tracks = Tracks(environments, stack, config.run.seed)
        graded = method.asks_prior and isinstance(prior, GradedPrior)
        mesh = parallel.local_mesh(config.learner.devices)
        self.learner = Learner(config.learner, self._action_dim, stack, graded, mesh)
        if self.learner.needs_value_critic and value_critic is None:
            raise ValueError(f"method {config.learner.method} needs a value critic")
        self.state = self.learner.init(config.run.seed, size, value_critic)
        base, discount = self.learner.base, config.learner.discount
        self.replay = ReplayBuffer(
            config.replay.capacity,
            (size, size, 3),
            self._action_dim,
            stack,
            sampler=samplers.choose(base.sampler, config.replay, discount),
            remembers=base.sight.remembers,
            sequences=(config.learner.sequence_batch_size, base.sequence) if base.sequence else None,
            storage=config.replay.storage,
            environments=count,
        )
        self.replay.graded = graded
        self.counters = Counters()
        self.watch = Stopwatch()
        if method.asks_prior and prior is None:
            raise ValueError(f"method {config.learner.method} needs a prior")
        if config.run.behaviour != "policy" and not method.asks_prior:
            raise ValueError(f"run.behaviour={config.run.behaviour} needs a method that asks a prior")
        self.prior = prior if method.asks_prior else None
        self.rounds = self.labels = self.pipeline = None
        if self.prior is not None:
            prior_config = config.prior
            self.pipeline = PriorPipeline(prior, prior_config.lag, prior_config.group, required=prior_config.required)
            self.labels = HeldLabels(self.pipeline, self.replay, prior_config, count)
        if self.prior is not None and method.tunes_prior:
            self.rounds = Rounds(config.rounds, config.learner.discount, self._action_dim, count)
            self.replay.trusted_from = self.rounds.trusted_from
        self._drawer = ThreadPoolExecutor(1, "replay")
        self._act_key = jax.random.key(seeds.integer(config.run.seed, "action"))
        self._metrics: dict[str, Any] = {}  # of the latest update or updates, still on the device
        self._td_errors: list[Array] = []  # of the latest updates, still on the device, if the sampler wants them
        self._episode_return = self._evaluation_mean = math.nan
        self._vlm_returns: dict[str, list[float]] = {}  # adapter version -> returns of the VLM alone
        self._notes: dict[str, str] = {}
        self.interrupted = False

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_) -> None:
        self._drawer.shutdown()
        if self.pipeline is not None:
            self.pipeline.close()

    @property
    def steps(self) -> int:
        """The run's one counter: budget, psi, cold start and label period are all in this unit (S1)."""
        return self.counters.frames if self.config.run.step_unit == "frames" else self.counters.decisions

    @property
    def finished(self) -> bool:
        return self.interrupted or self.steps >= self.config.run.steps

    def stop(self) -> None:
        """Ends ``run`` after the decision that is under way; safe to call from a signal handler."""
        self.interrupted = True

    def run(self) -> LearnerState:
        """Trains until the budget is spent or ``stop`` is called; either way a checkpoint follows."""
        while not self.finished:
            before = self.steps
            self.episode()
            every = self.config.run.checkpoint_every
            if not self.finished and self.steps // every > before // every and self._repeatable:
                self._checkpoint()
        if self.steps >= self.config.run.steps:
            if self.labels is not None:
                self.labels.drain()
        else:  # otherwise the last evaluation has kept the policy
            self.recorder.policy(self.state)
        if self._repeatable:  # otherwise the checkpoint before stays the newest
            self._checkpoint()
        return self.state

    @property
    def _repeatable(self) -> bool:
        """Whether the running episodes can be gone on with: they have their first frames, and a simulator that repeats.
        """
        running = self._tracks.frames(self.replay)
        return not len(running) or (getattr(self.env, "repeatable", True) and bool(self.replay.contains(running).all()))

    # --- state -----------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All that ``restore`` needs besides the learner and the replay's frames: JSON values and arrays."""
        prior = self.prior if isinstance(self.prior, TunablePrior) else None
        self._feed_back()
        return {
            "counters": asdict(self.counters),
            "tracks": self._tracks.state(),
            "metrics": {name: self._latest(name) for name in self._metrics},
            "episode_return": self._episode_return,
            "evaluation_mean": self._evaluation_mean,
            "vlm_returns": self._vlm_returns,
            "prior": None if prior is None else {"run": prior.run, "version": prior.version, "digest": prior.digest},
            "labels": None if self.labels is None else self.labels.state(),
            "rounds": None if self.rounds is None else self.rounds.state(),
            "replay": self.replay.state(),
        }

    def restore(
        self, learner: LearnerState, state: dict[str, Any], frames: Iterable[tuple[int, np.ndarray]]
    ) -> None:
        """Makes a new trainer of the same configuration what another was when its ``snapshot`` was taken.

        ``frames``: of the replay, as of ``ReplayBuffer.restore``. Raises ValueError for another adapter, and
        PriorUnavailable if the prior cannot answer with the adapter version of then; ValueError also if an environment
        shows other frames than it did.
        """
        # Copies, tied to no device: restored arrays are tied to theirs, and the update would be compiled anew for them.
        self.state = jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), learner)
        self.counters = Counters(**state["counters"])
        self._metrics = dict(state["metrics"])
        self._episode_return, self._evaluation_mean = state["episode_return"], state["evaluation_mean"]
        self._vlm_returns = dict(state["vlm_returns"])
        self.replay.restore(state["replay"], frames)
        if isinstance(self.prior, TunablePrior):
            # The server may have gone further: it must answer, and tune, from where the run goes on.
            version, digest = self.prior.activate(state["prior"]["version"])
            if state["prior"]["digest"] not in ("", digest):
                raise ValueError(f"adapter {version} of run {self.prior.run} is not the one that the run was using")
        if self.rounds is not None:
            self.rounds.restore(state["rounds"])
            self.replay.trusted_from = self.rounds.trusted_from
        if self.labels is not None:
            self.labels.restore(state["labels"])
        with self.watch.part("env"):
            self._tracks.restore(state["tracks"], self.replay)

    def _checkpoint(self) -> None:
        with self.watch.part("checkpoint"):
            self.recorder.checkpoint(self.counters.decisions, self.state, self.snapshot(), self.replay)

    # --- one episode, one decision ---------------------------------------------------------------------------

    def episode(self) -> None:
        """Decides until an episode ends in an environment or the budget does."""
        while not self.finished and not self._decision():
            pass

    def _decision(self) -> bool:
        """One decision in each environment; where no episode is running, one begins instead. True if one has ended.

        RAD's order: act, update, step. The updates are dispatched before the simulators step; both overlap. Acting
        waits for the updates before it; meanwhile the batches are drawn.
        """
        decision, before = self.counters.decisions, self.steps
        acting = self._tracks.acting
        if acting and self.labels is not None:
            self._ask(acting, decision)
        drawn = self._draw_ahead(range(decision, decision + len(acting)))
        actions = self._act(acting, decision)
        self._tracks.send(actions)
        if drawn is not None:
            self._learn(drawn)
        with self.watch.part("env"):
            answers = self._tracks.receive()
        ended = []
        for track, answer in answers:
            if isinstance(answer, Begun):
                self.replay.begin(answer.frames[0])
                track.begin(answer)
            elif self._store(track, actions[track.index], answer):
                ended.append(track)
        if acting and self.rounds is not None and self.rounds.advance(self.steps - before):
            self._run_round()
        if acting:
            self._report(before)
        for track in ended:
            self._episode_return = track.total
            if self.labels is not None:
                self.labels.end_episode(track.index)
        return bool(ended)

    def _ask(self, acting: list[Track], decision: int) -> None:
        """Takes the answers that are due, and asks about what the environments show."""
        run = self.config.run
        with self.watch.part("prior_wait"):
            self.labels.collect(decision)
        if self.rounds is not None and not self.rounds.asking:
            return
        iteration = 0 if self.rounds is None else self.rounds.done
        for number, track in enumerate(acting, decision):
            steps = track.frames if run.step_unit == "frames" else track.decisions
            self.labels.observe(number, steps, track.observation, track.first, iteration, track.index)
        if run.behaviour != "policy":
            self.labels.collect(decision)  # without a lag the answers are there already

    def _act(self, acting: list[Track], decision: int) -> dict[int, np.ndarray]:
        """The actions float32 [A], by environment. The policy is asked for all at once, or not at all."""
        chosen = {track.index: self._given(track, number) for number, track in enumerate(acting, decision)}
        if any(action is None for action in chosen.values()):
            with self.watch.part("act"):
                key = jax.random.fold_in(self._act_key, decision)
                seen = self.learner.seen(self._tracks.shown)
                sampled = np.asarray(self.learner.sample_action(self.state.params, seen, key))
            chosen = {index: sampled[index] if action is None else action for index, action in chosen.items()}
        return chosen

    def _given(self, track: Track, decision: int) -> np.ndarray | None:
        """The prior's action, or a random one; None where it is the policy's turn."""
        if behaviour.prior_acts(self.config.run, decision, track.episode, track.decisions):
            if (action := self.labels.held(track.index)) is not None:
                self.counters.prior_driven += 1
                return action
            self.counters.prior_missed += 1
        if decision < self.config.run.random_decisions:
            rng = seeds.generator(self.config.run.seed, "random_action", decision)
            return rng.uniform(-1, 1, self._action_dim).astype(np.float32)
        return None

    def _store(self, track: Track, action: np.ndarray, moved: Moved) -> bool:
        """Takes in what an action led to. Returns whether the episode is over."""
        decision, run = self.counters.decisions, self.config.run
        over = moved.terminated or moved.truncated
        transition = self.replay.add(action, moved.reward, float(not moved.terminated), moved.frame, over)
        self.counters.decisions += 1
        self.counters.frames += moved.info["frames"]
        self.counters.episodes += over
        if self.labels is not None:
            self.labels.attach(transition, action, track.index)
        if self.rounds is not None:
            enters = self.config.rounds.include_warmup or decision >= run.random_decisions
            self.rounds.memory.step(transition, moved.reward, track.observation.state, enters, track.index)
            if over:
                self.rounds.memory.close_episode(track.index)
        track.move(action, moved)
        return over

    def _draw_ahead(self, decisions: range) -> Future[list[Batch]] | None:
        """Begins to draw what these decisions learn from, in a thread of its own; None if they do not learn.

        All that may be drawn is there, labels included, and the replay must not change before ``_learn`` has the
        batches.
        """
        learning = range(max(decisions.start, self.config.run.random_decisions), decisions.stop)
        if not learning or not len(self.replay):
            return None
        return self._drawer.submit(self._draw_all, learning, min(self.steps / self.config.run.steps, 1.0))

    def _draw_all(self, decisions: range, progress: float) -> list[Batch]:
        self._feed_back()
        return [self._draw(decision, progress) for decision in decisions]

    def _draw(self, decision: int, progress: float) -> Batch:
        """The decision's batch, on its way to the device; with a leading K if there are several updates a decision."""
        config = self.config.learner
        rng = seeds.generator(self.config.run.seed, "replay", decision)
        if config.updates_per_decision == 1:
            return jax.device_put(self.replay.sample(config.batch_size, rng, progress))
        return jax.device_put(self.replay.sample_many(config.updates_per_decision, config.batch_size, rng, progress))

    def _learn(self, drawn: Future[list[Batch]]) -> None:
        with self.watch.part("sample"):
            batches = drawn.result()
        single = self.config.learner.updates_per_decision == 1
        update = self.learner.update if single else self.learner.update_many
        with self.watch.part("update"):
            for batch in batches:
                self.state, self._metrics = update(self.state, batch)
                if (errors := self._metrics.pop("td_error", None)) is not None:
                    self._td_errors.append(errors)

    def _latest(self, name: str) -> float:
        """A metric of the latest update; waits for it."""
        return float(np.asarray(self._metrics[name]).flat[-1])

    def _feed_back(self) -> None:
        """Waits for the errors of the latest updates, where the sampler wants them."""
        if self._td_errors:
            errors, self._td_errors = [np.atleast_2d(np.asarray(each)) for each in self._td_errors], []
            self.replay.feed_back(np.concatenate(errors))

    # --- rounds ----------------------------------------------------------------------------------------------

    def _run_round(self) -> None:
        rounds = self.rounds
        self.labels.drain()
        with self.watch.part("round"):
            record = run_round(
                rounds,
                self.prior,
                self.replay,
                entropy=self._entropy(),
                seed=seeds.integer(self.config.run.seed, "tuning", rounds.done),
                vlm_alone=self._vlm_alone,
                progress=self._note_tuning,
                required=self.config.prior.required,
                score=self._score(),
            )
        self.recorder.round(self._where() | record)

    def _score(self) -> Score | None:
        """What the filter judges steps by; Q values are those of the learner of now (C24)."""
        return {"return": None, "reward": self.replay.rewards, "q": self._q_values}[self.config.rounds.eddf.score]

    def _q_values(self, ids: np.ndarray, chunk: int = 256) -> np.ndarray:
        """The smaller of the twins' values of replayed transitions, float32 [N]; in chunks, the last one filled up."""
        values = []
        for start in range(0, len(ids), chunk):
            part = np.resize(ids[start : start + chunk], chunk)
            seen = self.learner.seen(self.replay.observations(part))
            values.append(np.asarray(self.learner.value(self.state.params, seen, self.replay.actions(part))))
        return np.concatenate(values)[: len(ids)]

    def _entropy(self) -> float:
        """Mean -log pi of the latest training batch (C2); of the uniform policy while only that one has acted."""
        return self._latest("entropy") if self._metrics else self._action_dim * math.log(2)

    def _vlm_alone(self) -> list[float]:
        """Returns of the VLM driving alone, once per adapter version, always on the same episodes."""
        version, count = self.prior.version, self.config.rounds.vlm_episodes
        if version not in self._vlm_returns:
            chosen = [seeds.integer(self.config.run.seed, "vlm_alone", i) for i in range(count)]
            size = len(self.eval_envs)
            episodes = []
            for i in range(0, count, size):
                part = chosen[i : i + size]
                policy = PriorPolicy(self.prior, self.config.prior.period, self._steps_per_decision, self._action_dim)
                episodes += run_episodes(
                    self.eval_envs[: len(part)], policy, self.config.env.frame_stack, part, beginning=policy.restart
                )
            self._vlm_returns[version] = [episode.episode_return for episode in episodes]
        return self._vlm_returns[version]

    @property
    def _steps_per_decision(self) -> int:
        return self.config.run.steps_per_decision(self.env.action_repeat)

    def _note_tuning(self, step: int, steps: int, loss: float) -> None:
        self.recorder.progress(self.steps, self._notes | {"tuning": f"{step}/{steps} loss {loss:.3f}"})

    # --- records ---------------------------------------------------------------------------------------------

    def _report(self, before: int) -> None:
        run, steps = self.config.run, self.steps
        if steps // run.log_every > before // run.log_every:
            self._log()
        if steps // run.eval_every > before // run.eval_every or steps >= run.steps:
            self._evaluate()
        self.recorder.progress(steps, self._notes)

    def _where(self) -> dict[str, int]:
        return {"frames": self.counters.frames, "decisions": self.counters.decisions}

    def _log(self) -> None:
        record = self._where() | {
            "episodes": self.counters.episodes,
            "episode_return": self._episode_return,
            "updates": int(self.state.updates),
            "replay_size": len(self.replay),
        }
        record |= {name: self._latest(name) for name in self._metrics}
        if faults := getattr(self.env, "faults", 0):
            record["faults"] = faults
        self._notes = {"return": f"{self._episode_return:.0f}", "eval": f"{self._evaluation_mean:.0f}"}
        if self.labels is not None:
            counts = self.labels.counts
            record |= {f"labels_{status}": counts[status] for status in ("ok", "clipped", "malformed", "unavailable")}
            if self.config.run.behaviour != "policy":
                record["prior_driven_share"] = self.counters.prior_driven / self.counters.decisions
                record["prior_missed"] = self.counters.prior_missed
            record |= {"label_distance": self.labels.pop_distance(), "prior_available": int(self.pipeline.available)}
            asked = sum(counts.values())
            self._notes["parsed"] = f"{(counts['ok'] + counts['clipped']) / asked:.0%}" if asked else "-"
            if not self.pipeline.available:
                self._notes["prior"] = "unavailable"
        if self.rounds is not None:
            record["round"] = self.rounds.done
            self._notes["round"] = str(self.rounds.done)
        self.recorder.metrics(record)
        self.recorder.timing(
            self._where()
            | {
                "seconds": self.watch.seconds,
                "part_seconds": dict(self.watch.parts),
                "programs": compiles.count(),
                "replay_storage": self.replay.storage,
            }
        )

    def _evaluate(self) -> None:
        run = self.config.run
        with self.watch.part("evaluation"):
            count = self.counters.decisions
            chosen = [seeds.integer(run.seed, "evaluation", count, i) for i in range(run.eval_episodes)]
            policy = mean_policy(self.learner, self.state.params)
            episodes = run_episodes(self.eval_envs, policy, self.config.env.frame_stack, chosen, traced=int(run.video))
            returns = [episode.episode_return for episode in episodes]
            self._evaluation_mean = float(np.mean(returns))
            record = self._where() | {
                "returns": returns,
                "return_mean": self._evaluation_mean,
                "return_std": float(np.std(returns)),
                "length_mean": float(np.mean([episode.decisions for episode in episodes])),
            }
            if episodes[0].totals is not None:
                record["totals"] = {name: [each.totals[name] for each in episodes] for name in episodes[0].totals}
            video = episodes[0] if run.video else None
            self.recorder.evaluation(record, video, self._prior_actions(video))
            if self.labels is not None:
                for answered in self.labels.recent:
                    self.recorder.label(self._where() | {"asked_at": answered.decision}, answered)
                self.labels.recent.clear()
            self.recorder.policy(self.state)

    def _prior_actions(self, video: Episode | None) -> np.ndarray | None:
        """What the prior would have done in the video's frames, for the eye; None without an available prior.

        Asked while the pipeline is idle and in its group size: the server then never batches these questions with
        training's, whose answers stay a function of the seed.
        """
        if video is None or self.prior is None or not self.pipeline.available:
            return None
        self.pipeline.settle()
        prior = self.config.prior
        return prior_actions(self.prior, video, prior.period, self._steps_per_decision, self._action_dim, prior.group)
