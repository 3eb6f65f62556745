"""What moves on the toy road: the agent's car, other cars, pedestrians. Pure Python: a tick has few of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from covr_jax.envs.driving.scenarios import Site
from covr_jax.envs.driving.world import TICK_S, Control
from covr_jax.envs.toy.road import Road

LENGTH, WIDTH, MASS = 4.5, 1.9, 1800.0  # m, m, kg: of every car
WHEELBASE, LOCK = 2.85, 0.61  # m; front wheels' angle at full lock, rad
ACCELERATION, BRAKING, TOP_SPEED = 4.0, 9.0, 30.0  # m/s^2 at rest, m/s^2, m/s
ROLLING = 0.15  # m/s^2
GRIP = 8.0  # m/s^2 sideways; beyond it the car understeers
BODY = 0.5  # m, a pedestrian's width


@dataclass
class Car:
    """Place (s, d) of its middle, speed along its axis, and angle of that to the road (rad, clockwise)."""

    s: float
    d: float
    speed: float = 0.0
    angle: float = 0.0
    wanted: float = 0.0  # speed that a car of the traffic wants
    leader: Car | None = None  # the next one ahead in its lane, which it never leaves
    parked: bool = False
    direction: int = 1  # -1: faces against the road
    height: float = 1.5
    colour: int = 0

    def drive(self, control: Control, road: Road) -> None:
        """One tick of a kinematic bicycle, in the road's own coordinates; no reverse gear."""
        thrust = ACCELERATION * control.throttle * (1.0 - (self.speed / TOP_SPEED) ** 2)
        self.speed = max(self.speed + (thrust - BRAKING * control.brake - ROLLING) * TICK_S, 0.0)
        turn = math.tan(LOCK * control.steer) / WHEELBASE
        limit = GRIP / max(self.speed, 1e-3) ** 2
        turn = min(max(turn, -limit), limit)
        bend = road.bend(self.s)
        along = self.speed * math.cos(self.angle) / max(1.0 - bend * self.d, 0.1) * TICK_S
        self.d += self.speed * math.sin(self.angle) * TICK_S
        self.s += along
        angle = self.angle + self.speed * turn * TICK_S - bend * along
        self.angle = (angle + math.pi) % (2 * math.pi) - math.pi

    def follow(self, agent: Car, gap: float) -> None:
        """One tick of a car that keeps its lane: towards its wanted speed, behind its leader or the agent."""
        change = min(0.5 * (self.wanted - self.speed), 2.5)
        for other in (self.leader, agent):
            if other is None or other.s <= self.s or abs(other.d - self.d) > WIDTH:
                continue
            room = other.s - self.s - LENGTH - gap - 1.2 * self.speed
            change = min(change, 0.8 * (other.speed - self.speed) + 0.4 * room)
        self.speed = max(self.speed + max(change, -6.0) * TICK_S, 0.0)
        self.s += self.speed * TICK_S


@dataclass
class Walker:
    """A pedestrian who crosses between d = start and d = end, waits, or lies hit."""

    s: float
    start: float
    end: float
    speed: float
    site: Site | None = None  # waits there for the agent; None: starts at random and walks to and fro
    colour: int = 0
    walking: bool = False
    hit: bool = False

    def __post_init__(self) -> None:
        self.d = self.start

    @property
    def velocity(self) -> float:
        """m/s to the right."""
        return math.copysign(self.speed, self.end - self.start) if self.walking else 0.0

    def notice(self, ahead: float, speed: float) -> None:
        """Starts if the agent, ``ahead`` m away, is near by time or by distance. Once."""
        if self.site.triggered(ahead, speed) and self.d == self.start:
            self.walking = True

    def walk(self) -> None:
        """One tick."""
        if not self.walking:
            return
        step = self.velocity * TICK_S
        if abs(self.end - self.d) <= abs(step):
            self.d, self.walking = self.end, False
            if self.site is None:
                self.start, self.end = self.end, self.start
        else:
            self.d += step


def collide(ego: Car, other: Car) -> float:
    """Impulse [N s] of the agent's car with another, 0 without contact; takes the two apart.

    Inelastic: cars that meet end to end go on at one speed, a parked one does not move, and a car that is touched from
    the side is held off.
    """
    ahead, right = other.s - ego.s, other.d - ego.d
    if abs(ahead) >= LENGTH or abs(right) >= WIDTH:
        return 0.0
    overlap_s, overlap_d = LENGTH - abs(ahead), WIDTH - abs(right)
    before = ego.speed
    if overlap_d < overlap_s:
        sideways = abs(before * math.sin(ego.angle))
        ego.d -= math.copysign(overlap_d, right)
        ego.angle = 0.0
        return MASS * sideways
    other_speed = other.direction * other.speed
    common = 0.0 if other.parked else (before + other_speed) / 2
    if (before - other_speed) * math.copysign(1.0, ahead) > 0:
        ego.speed = max(common, 0.0)
        other.speed = max(common, 0.0) if not other.parked else 0.0
    ego.s -= math.copysign(overlap_s, ahead)
    return MASS * abs(before - ego.speed)


def run_over(ego: Car, walker: Walker) -> float:
    """Impulse [N s] with a pedestrian, 0 without contact: the car stops dead, the pedestrian stays before its bumper.

    An agent that presses on stays in contact, and so ends by the rule of consecutive ticks, as public code's do.
    """
    reach = (LENGTH + BODY) / 2
    if abs(walker.s - ego.s) >= reach or abs(walker.d - ego.d) >= (WIDTH + BODY) / 2:
        return 0.0
    if walker.hit:
        ego.s = walker.s - reach
    else:
        walker.hit, walker.walking = True, False
        walker.s, walker.d = ego.s + reach, ego.d
    impulse, ego.speed = MASS * ego.speed, 0.0
    return impulse
