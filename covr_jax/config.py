"""The configuration of a run: frozen dataclasses, the single source of every default.

Defaults are the ledger's (docs/fidelity.md); presets in experiments/presets override them. ``None`` means "the
table value of the task or of the base": ``experiments.configuration.resolve`` fills in the learner's and the rounds',
the environment its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DrivingConfig:
    """What the papers leave open about their CARLA scenes (docs/driving.md); toy/... and carla/... only."""

    weather: str = "cloudy_noon"  # a row of envs.driving.scenarios.WEATHERS
    camera: str = "hood"  # hood | windscreen
    start: str = "straight"  # straight | bend: where the highway's episodes begin
    vehicles: int = 10  # on the highway: 10 COVR, 4 ERPv
    placement: str = "ahead"  # ahead | around: where those are at first
    traffic: str = "slow"  # slow | fast: their speeds, 30 to 60 % below or above the limit
    pedestrians: str = "ghost"  # ghost | crossing: behind parked cars, or four who cross at random
    reward: str = "printed"  # printed | braking | centred
    repeat_reward: str = "sum"  # sum | mean over the ticks of a decision
    horizon: int = 1000
    horizon_unit: str = "ticks"  # ticks | decisions
    terminate_on_collision: bool = False
    collision_ticks: int = 20  # consecutive ticks with a collision that end an episode; 0: never
    off_road: bool = True  # leaving the driving lanes ends an episode
    stuck: bool = True  # standing still does
    terminal_horizon: bool = False  # learn the horizon as a terminal state, as public code does


@dataclass(frozen=True)
class CarlaConfig:
    """The simulator of carla/... (docs/carla.md)."""

    host: str = "127.0.0.1"
    ports: tuple[int, ...] = (2000, 2010)  # of the servers, one an environment: training has two
    server: str | None = None  # CarlaUE4.sh, to be started at those ports; None: they run already
    server_flags: tuple[str, ...] = ("-RenderOffScreen", "-nosound")
    restart_every: int = 0  # episodes after which such a server is started anew; 0: never
    any_version: bool = False  # let client and server be of different versions
    timeout_s: float = 20.0  # of one call, and of a picture
    start_timeout_s: float = 120.0  # until a server answers; also of loading a town
    vehicle: str = "vehicle.audi.a2"  # the agent's


@dataclass(frozen=True)
class EnvConfig:
    name: str = "dmc/cartpole/swingup"
    render_size: int = 100  # pixels, square; the frame that is stored and that the VLM sees
    frame_stack: int = 3
    action_repeat: int | None = None  # simulator frames per decision
    camera: int | None = None
    render_quality: str = "default"  # default | fast (no shadows, no reflections)
    driving: DrivingConfig = field(default_factory=DrivingConfig)
    carla: CarlaConfig = field(default_factory=CarlaConfig)


@dataclass(frozen=True)
class GuidanceConfig:
    """COVR's actor term, Eq. 4."""

    weight: float = 1.0  # lambda: 2.0 CARLA, 1.0 DMControl (C12)
    action: str = "sample"  # sample | mean: which action of the policy is pulled (S3)
    reduction: str = "sum"  # sum | mean over action dimensions (S4)
    phase: int = 0  # updates of the teaching phase, over which APL's weight falls to 0
    every: int = 1  # the method's terms, ERPv's too, are on in every n-th actor update (S5)


@dataclass(frozen=True)
class VpgConfig:
    """ERPv's actor term: guidance through a gate, Eq. 3-4."""

    weight: float = 10.0  # lambda_1 (E20)
    reduction: str = "mean"  # sum | mean over action dimensions (S4)
    gate: str = "value_critic"  # value_critic | advantage | online_critic | ones: who values the VLM (E16, M9, M2)
    scale: str = "joint"  # joint | separate | none: the range over which values are scaled to [0, 1] (E12)
    calibrate: bool = False  # fit C_V's scale to the online critic's on replayed actions (E16)


@dataclass(frozen=True)
class VerConfig:
    """ERPv's temperature term, Eq. 5-7."""

    weight: float = 10.0  # lambda_2 (E20)
    distance: str = "transition"  # transition | action: what the agent's and the VLM's action are compared by (M4)
    next: str = "real"  # real | predicted: the agent's next latent (E7, M8)
    other: str = "prior"  # prior | policy: a second sample of the policy in place of the VLM's action (M5)
    rule: str = "intended"  # intended | literal | affine: how confidence sets the temperature's target (E1)
    low: float = 0.0  # the affine rule's bounds, slope and centre (E2)
    high: float = 1.0
    slope: float = 1.0
    centre: float = 0.0
    entropy_loss: bool = True  # SAC's own temperature loss beside the penalty (M7)


@dataclass(frozen=True)
class LearnerConfig:
    base: str = "rad"  # a row of methods.BASES
    method: str = "covr"  # a row of methods.METHODS
    augmentation: str | None = None  # none | crop | translate | shift
    image_size: int | None = None  # pixels that the encoder sees (crop: out of render_size; translate: the canvas)
    filters: tuple[int, ...] = (32, 32, 32, 32)
    kernels: tuple[int, ...] = (3, 3, 3, 3)
    strides: tuple[int, ...] = (2, 1, 1, 1)
    feature_dim: int = 50
    hidden_dim: int = 1024
    model_hidden_dim: int = 512  # transition and reward heads
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    batch_size: int = 128
    sequence_batch_size: int = 128  # runs of consecutive observations, for bases that predict several steps ahead
    mask_block: int = 8  # base mlr: consecutive observations, of 16, that one mask hides the same parts of
    cycle_warmup: int = 12_500  # base playvirtual: updates until the cycle counts in full
    updates_per_decision: int = 1
    devices: int = 1  # of this process, over which each batch is split
    discount: float = 0.99
    critic_lr: float = 1e-3
    actor_lr: float = 1e-3
    encoder_lr: float = 1e-3  # auxiliary losses' own moments over the encoder
    decoder_lr: float = 1e-3  # their heads; docs/methods.md says by base what moves at which of the two
    decoder_weight_decay: float = 0.0  # bases deepmdp, resact
    alpha_lr: float = 1e-4
    alpha_beta1: float = 0.5
    initial_temperature: float = 0.1
    target_entropy: float | None = None  # nats; None: -A
    critic_tau: float = 0.01
    encoder_tau: float = 0.05
    actor_period: int = 2  # critic updates per actor and temperature update
    target_period: int = 2
    alpha_zero_after: int = 0  # updates after which the temperature is 0 in all losses; 0: never (M6)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    vpg: VpgConfig = field(default_factory=VpgConfig)
    ver: VerConfig = field(default_factory=VerConfig)


@dataclass(frozen=True)
class ReplayConfig:
    capacity: int = 100_000  # transitions
    storage: str = "auto"  # auto | device | host: where frames lie (auto: replay.storage.choose)
    per_exponent: float = 0.6  # base per: how strongly errors count; 0: uniform
    per_beta: float = 0.4  # base per: strength of the importance weights at the start; 1 at the end
    per_epsilon: float = 1e-5  # base per: added to a TD error
    ere_eta: float = 0.996  # base ere: how fast the window shrinks within an episode at the start; 1 at the end
    ere_minimum: int = 1000  # base ere: transitions in the smallest window
    top_share: float = 0.0  # of each batch, drawn from as large a share of the best steps (M10, M11); 0: none (C22)


@dataclass(frozen=True)
class PriorConfig:
    source: str = "tiny"  # tiny | hub id or folder | grpc[s]://host:port | teacher:<oracle|noisy|half|zeros|random>
    period: int = 10  # steps (run.step_unit) between questions; labels are held in between
    hold: str = "hold"  # hold | mask: labels of the decisions between two questions (S5)
    lag: int = 8  # decisions between sending a group of questions and using its answers
    group: int = 8  # questions sent together
    deadline_s: float = 60.0  # of one Predict call
    required: bool = False  # stop when the prior is gone, instead of going on as the base
    constraint: str = "default"  # default | free | template
    task_file: str = ""  # of a server that the run starts: the prompt of an environment of your own, in TOML
    teacher_policy: str = ""  # run directory of a saved policy for teacher:oracle; "": hand-written controller
    teacher_noise: float = 0.5  # standard deviation of teacher:noisy
    value_critic: str = ""  # folder of experiments.pretrain_critic: ERPv's second critic
    token_file: str = ""  # file with the token that a grpc[s]:// server wants; never the token itself
    ca_file: str = ""  # PEM certificates that a grpcs:// server's is checked against; "": the system's


@dataclass(frozen=True)
class EddfConfig:
    """Which of D_f is kept, Eq. 5."""

    rule: str = "intended"  # intended | literal | relaxed: the sign of the entropy term (C1)
    entropy: str = "per_dim"  # per_dim | joint (C2)
    compare: str = "z" # z | raw: what is held against tau (C3)
    minimum: int = 32  # samples kept at least (C5)
    zscore: bool = True  # standardise before the threshold is taken; false changes nothing under compare=z (M5, C4)
    score: str = "return"  # return | reward | q: what a step is judged by (M6, M7, C24)
    filter: str = "eddf"  # eddf | random | percentile (M1 to M4)
    percentile: float = 80.0  # of filter=percentile: 80, 90, 95 (C21)
    keep_top: bool = False  # keep the best `percentile` percent, not those above that percentile (C21)


@dataclass(frozen=True)
class RoundsConfig:
    """When and how the VLM is tuned."""

    psi0: int = 5000  # steps (run.step_unit) to the first round
    schedule: str = "linear"  # linear | literal | additive | doubling | constant (C8)
    cold_start: int = 4  # rounds before the first question: 2 CARLA, 4 DMControl (C10)
    discount: float | None = None  # of g; None: learner.discount (C7)
    open_episode: str = "drop"  # drop | truncate: the running episode at a trigger (C6)
    cold_start_labels: bool = False  # ask during the cold start too; the actor term is off either way (C10)
    stale_labels: str = "keep_warm"  # keep_warm | keep | latest (C11): which adapters' labels may guide
    include_warmup: bool = True  # random warm-up steps enter D_f (C20)
    vlm_episodes: int = 5  # episodes that the VLM drives alone after each round; 0: none
    eddf: EddfConfig = field(default_factory=EddfConfig)
    weights: str = "max_abs"  # max_abs | min_max | ones | uniform: RALW's normalisation (C13), or none (M8, M9)
    label_smoothing: float = 0.1  # C15
    holdout: float = 0.1  # share of the kept samples that only measures
    rank: int = 128  # LoRA (C18)
    alpha: float = 16.0
    dropout: float = 0.05
    targets: str = "all"  # all | language
    learning_rate: float = 1e-5
    epochs: int = 1
    max_steps: int = 0  # 0: no bound besides the epochs
    batch_size: int = 16
    deadline_s: float = 3600.0  # of one tuning job
    promotion: str = "always"  # always | holdout: activate a version only if its held-out loss fell
    keep_adapters: int = 32  # versions of a run that the server keeps, the newest; 0: all, until it is full


@dataclass(frozen=True)
class RunConfig:
    seed: int = 1
    steps: int = 100_000  # budget in step_unit
    step_unit: str = "frames"  # frames | decisions: the unit of steps, psi, cold start and label period (S1)
    num_envs: int = 1  # that training drives at once; several are in processes of their own
    behaviour: str = "policy"  # policy | hybrid_step | hybrid_episode | prior: who acts while learning (E29)
    behaviour_every: int = 10  # hybrid_step: the prior acts in one of so many decisions
    behaviour_share: float = 0.2  # hybrid_episode: probability that the prior drives a whole episode
    random_decisions: int = 1000  # uniformly random decisions before the policy acts; no updates
    eval_every: int = 10_000  # steps between evaluations
    eval_episodes: int = 10
    log_every: int = 1000  # steps between lines of metrics.jsonl
    checkpoint_every: int = 10_000  # steps between checkpoints for --resume, each at the next end of an episode
    video: bool = True

    def steps_per_decision(self, action_repeat: int) -> int:
        """Steps (step_unit) that a decision counts as, if each action is held for ``action_repeat`` frames."""
        return action_repeat if self.step_unit == "frames" else 1


@dataclass(frozen=True)
class Config:
    env: EnvConfig = field(default_factory=EnvConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    run: RunConfig = field(default_factory=RunConfig)
