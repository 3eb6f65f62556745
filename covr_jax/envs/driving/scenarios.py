"""The scenarios as data. Places are metres along the road from the start, lanes are numbered as in OpenDRIVE.

Of the two papers' scenes little is printed: what is not is public code's or ours, as docs/driving.md lists.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from covr_jax.config import DrivingConfig

LIMIT = {"Town04": 25.0, "Town01": 8.3}  # m/s, 90 and 30 km/h
PARKED_BEYOND = 0.9  # m from the road's edge to the middle of a parked car, which straddles the kerb
BEHIND_PARKED = 0.5  # m from a parked car's end to the pedestrian behind it


@dataclass(frozen=True)
class Lane:
    """A driving lane; ids below 0 run in the road's direction, above 0 against it, counted from its middle."""

    id: int
    width: float


@dataclass(frozen=True)
class Start:
    """Where the agent begins: a road of the town's OpenDRIVE map, one of its lanes, a stretch of it."""

    road: int
    lanes: tuple[int, ...]
    s: tuple[float, float]  # m along the road, uniform
    bends: tuple[tuple[float, float], ...]  # (length m, turn in degrees, right > 0): the road from there on
    yaw: float  # degrees at the start


@dataclass(frozen=True)
class Traffic:
    """Cars that drive."""

    vehicles: int
    ahead: tuple[float, float]  # m from the agent, uniform
    slower: tuple[float, float]  # share of the limit that they stay below it, uniform; negative: above it
    gap: float = 2.0  # m that they keep


@dataclass(frozen=True)
class Site:
    """A parked vehicle at the kerb, and a pedestrian who steps out from behind it as the agent comes near."""

    ahead: float
    side: int  # 1: the right kerb, -1: the left
    trigger_s: float  # starts when the agent arrives within this time at its present speed...
    trigger_m: float  # ... or is this near

    def triggered(self, ahead: float, speed: float) -> bool:
        """Whether an agent whose bumper is ``ahead`` m short of the pedestrian, at ``speed`` m/s, makes them start."""
        return 0.0 < ahead < max(self.trigger_m, self.trigger_s * speed)


@dataclass(frozen=True)
class Walkers:
    """Pedestrians. Either they wait at ``sites``, or they cross at random from ``crossings``."""

    speed: tuple[float, float]  # m/s, uniform
    sites: tuple[Site, ...] = ()
    jitter: float = 1.0  # m, of a site's place
    crossings: tuple[tuple[float, float], ...] = ()  # stretches; on each one walker a side, and both walk to and fro
    start_chance: float = 0.5  # that an idle one starts, every whole second


@dataclass(frozen=True)
class Camera:
    """A level forward camera."""

    x: float  # m ahead of the car's middle
    z: float  # m above the ground
    fov: float = 60.0  # degrees


@dataclass(frozen=True)
class Scenario:
    """One scene, all choices made."""

    name: str
    town: str
    lanes: tuple[Lane, ...]
    shoulder: float  # m beside the outermost lane that still do not count as a driving lane
    sidewalk: float  # m beyond it; 0: none
    start: Start
    weather: str
    camera: Camera
    reward: str  # a row of rewards.REWARDS
    traffic: Traffic | None = None
    walkers: Walkers | None = None

    @property
    def limit(self) -> float:
        """Speed limit, m/s."""
        return LIMIT[self.town]

    @property
    def edge(self) -> float:
        """m from the road's middle to the outer edge of its rightmost lane."""
        return sum(lane.width for lane in self.lanes if lane.id < 0)

    @property
    def kerb(self) -> float:
        """m from the road's middle to where pedestrians wait and arrive, the middle of the sidewalk."""
        return self.edge + self.shoulder + self.sidewalk / 2

    @property
    def parked(self) -> float:
        """m from the road's middle to that of a parked car."""
        return self.edge + PARKED_BEYOND


def lane_centre(lane: Lane, lanes: Sequence[Lane]) -> float:
    """m from the road's middle to the lane's, positive to the right of the road's direction."""
    side = 1 if lane.id < 0 else -1
    between = sum(other.width for other in lanes if other.id * lane.id > 0 and abs(other.id) < abs(lane.id))
    return side * (between + lane.width / 2)


# Name -> CARLA's preset, an attribute of carla.WeatherParameters.
WEATHERS = {
    "cloudy_noon": "CloudyNoon",  # ERPv's
    "hard_rain_noon": "HardRainNoon",  # "with rain": which preset is not printed
    "clear_noon": "ClearNoon",
    "wet_noon": "WetNoon",
    "clear_sunset": "ClearSunset",
}
CAMERAS = {"hood": Camera(x=1.6, z=1.7), "windscreen": Camera(x=1.0, z=1.5)}
STARTS = {
    # Road 47: 225 m straight, then a long right bend. Beyond 500 m our own continuation, past the horizon.
    "straight": Start(47, (-1, -2, -3, -4), (66.0, 66.0), ((225, 0), (275, 90), (200, 0), (275, -90), (900, 0)), -90.0),
    # Road 45: a left bend at once.
    "bend": Start(45, (-1, -2, -3, -4), (100.0, 110.0), ((200, -56), (300, 0), (275, 60), (1100, 0)), 56.0),
}
TRAFFIC = {"slow": (0.3, 0.6), "fast": (-0.6, -0.3)}  # share below the limit
PLACEMENTS = {"ahead": (15.0, 200.0), "around": (-40.0, 40.0)}
VEHICLES = 10  # COVR's "up to 10"; ERPv's are four
SITES = (Site(45.0, 1, 2.15, 6.0), Site(100.0, -1, 3.5, 12.0), Site(155.0, 1, 2.15, 6.0))
PEDESTRIANS = {
    "ghost": Walkers(speed=(1.5, 3.0), sites=SITES),
    "crossing": Walkers(speed=(1.0, 8.0), crossings=((20.0, 22.0), (100.0, 102.0))),
}
REWARD_CHOICES = ("printed", "braking", "centred")

_HIGHWAY = Scenario(
    "highway", "Town04", tuple(Lane(i, 3.5) for i in (-1, -2, -3, -4)), 2.5, 0.0, STARTS["straight"], "cloudy_noon",
    CAMERAS["hood"], "printed_highway",
)  # fmt: skip
_GHOST = Scenario(
    "ghost_pedestrian", "Town01", (Lane(1, 4.0), Lane(-1, 4.0)), 0.3, 4.0,
    Start(12, (-1,), (0.2, 2.2), ((1800, 0),), 0.0), "cloudy_noon", CAMERAS["hood"], "printed_ghost_pedestrian",
)  # fmt: skip
_SCENARIOS = {"highway": _HIGHWAY, "ghost_pedestrian": _GHOST}
ALIASES = {"jaywalk": "ghost_pedestrian"}  # ERPv's name for it
NAMES = (*_SCENARIOS, *ALIASES)


def scenario(name: str, config: DrivingConfig) -> Scenario:
    """The scene of this name with the configuration's choices. Raises ValueError for an unknown one."""
    name = ALIASES.get(name, name)
    if name not in _SCENARIOS:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown scenario {name!r}; {hint}allowed: {', '.join(NAMES)}")
    scene = replace(
        _SCENARIOS[name],
        weather=_one_of("weather", config.weather, WEATHERS),
        camera=CAMERAS[_one_of("camera", config.camera, CAMERAS)],
    )
    if _one_of("reward", config.reward, REWARD_CHOICES) != "printed":
        scene = replace(scene, reward=config.reward)
    if name == "highway":
        placement = PLACEMENTS[_one_of("placement", config.placement, PLACEMENTS)]
        slower = TRAFFIC[_one_of("traffic", config.traffic, TRAFFIC)]
        start = STARTS[_one_of("start", config.start, STARTS)]
        return replace(scene, start=start, traffic=Traffic(config.vehicles, placement, slower))
    return replace(scene, walkers=PEDESTRIANS[_one_of("pedestrians", config.pedestrians, PEDESTRIANS)])


def _one_of(field: str, value: str, allowed) -> str:
    if value not in allowed:
        raise ValueError(f"env.driving.{field}={value!r}: must be one of {', '.join(allowed)}")
    return value
