"""Who acts while learning: the policy, the prior, or both (ERPv, Tables 12 and 13; E29).

The answer that the prior's turns execute is the newest one that this episode's questions have had, and the lag of
``priors.pipeline`` holds for it as for labels: with prior.lag=0 and prior.group=1 a picture is answered while one waits
for it, with a longer lag the action is that much older. Either way a run stays a function of its seed.
"""

from __future__ import annotations

from covr_jax import seeds
from covr_jax.config import RunConfig

KINDS = ("policy", "hybrid_step", "hybrid_episode", "prior")


def prior_acts(run: RunConfig, decision: int, episode: int, turn: int | None = None) -> bool:
    """Whether this decision is the prior's turn; a function of the seed and the counters, which begin at 0.

    ``turn``: number of the decision in its environment, where there are several; ``decision`` without it.
    ``policy``: never. ``hybrid_step``: the last of every ``behaviour_every`` decisions. ``hybrid_episode``: all
    decisions of an episode, with probability ``behaviour_share``. ``prior``: always, the random warm-up included (VBE).
    The hybrids leave the random warm-up alone (E22). Table 12's columns look shifted: its header's 2, 5, 10, 15 and 20
    are read as N, Table 13's 10 to 80 % as the share of whole episodes.
    """
    if run.behaviour == "prior":
        return True
    if run.behaviour == "policy" or decision < run.random_decisions:
        return False
    if run.behaviour == "hybrid_step":
        return (decision if turn is None else turn) % run.behaviour_every == run.behaviour_every - 1
    if run.behaviour == "hybrid_episode":
        return bool(seeds.generator(run.seed, "behaviour", episode).random() < run.behaviour_share)
    raise ValueError(f"run.behaviour {run.behaviour!r} is unknown; allowed: {', '.join(KINDS)}")
