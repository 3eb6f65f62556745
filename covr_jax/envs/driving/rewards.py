"""Rewards of one tick: the two that ERPv prints, and those of public code (docs/driving.md, "Rewards")."""

from __future__ import annotations

from dataclasses import dataclass

from covr_jax.envs.driving.world import TICK_S, Control, Tick


@dataclass(frozen=True)
class Reward:
    """Weights of one reward: metres along the lane minus penalties, all of the same tick."""

    impulse: float = 0.0  # a N s of collision
    collision: float = 0.0  # a tick with a collision
    crossing: float = 0.0  # a lane marking crossed
    brake: float = 0.0  # full brake, by the pedal
    steer: float = 0.0  # full lock, by its absolute value
    centred: bool = False  # metres are divided by 1 + the distance from the lane's centre


REWARDS = {
    "printed_highway": Reward(impulse=1e-4, steer=1.0),  # ERPv, Eq. 15
    "printed_ghost_pedestrian": Reward(impulse=1e-3, crossing=1e-2, steer=0.1),  # ERPv, Eq. 16
    "braking": Reward(impulse=1e-3, brake=0.1, steer=0.1),  # the newer public code's
    "centred": Reward(collision=1.0, brake=0.1, steer=0.1, centred=True),  # the public CARLA 0.9.8 code's
}


def progress(tick: Tick) -> float:
    """v_s dt: metres along the lane in this tick; negative against its direction."""
    return tick.lane_speed * TICK_S


def reward(tick: Tick, control: Control, weights: Reward) -> float:
    """ERPv, Eqs. 15 and 16: r = v_s dt - w_i impulse - w_l crossings - w_s |steer|, and the variants' terms.

    "Intensity" of a lane invasion is not explained in print; here it is the number of markings crossed. ``steer`` is
    the control's, in [-1, 1]. Never above ``progress``, unless the reward is a centred one and the car goes backwards.
    """
    metres = progress(tick)
    if weights.centred:
        metres /= 1.0 + abs(tick.centre_offset)
    return (
        metres
        - weights.impulse * tick.impulse
        - weights.collision * tick.collided
        - weights.crossing * tick.crossed
        - weights.brake * control.brake
        - weights.steer * abs(control.steer)
    )
