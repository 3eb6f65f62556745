"""The toy world: a scenario's road, its traffic or pedestrians, and a picture of them."""

from __future__ import annotations

import itertools
import math

import numpy as np

from covr_jax.envs.driving.scenarios import BEHIND_PARKED, Scenario, Traffic, Walkers
from covr_jax.envs.driving.world import TICK_S, Control, Tick
from covr_jax.envs.toy.bodies import LENGTH, WIDTH, Car, Walker, collide, run_over
from covr_jax.envs.toy.road import Road
from covr_jax.envs.toy.view import COLOURS, View

FAR = 200.0  # m: nothing further away is told
OCCLUDER_HEIGHT = 2.2  # m, a van


class ToyWorld:
    """Implements covr_jax.envs.driving.world.World. An episode is a function of its seed and the controls."""

    repeatable = True

    def __init__(self, scene: Scenario, size: int):
        self.scene = scene
        self.road = Road(scene.start.bends, scene.start.yaw, scene.lanes)
        self._view = View(scene, self.road, size)
        self._second = round(1 / TICK_S)

    def begin(self, rng: np.random.Generator) -> None:
        start, self._rng, self._ticks = self.scene.start, rng, 0
        lane = int(rng.choice(start.lanes))
        self.ego = Car(float(rng.uniform(*start.s)) - start.s[0], self.road.lanes[lane])
        self.cars: list[Car] = []
        self.walkers: list[Walker] = []
        if self.scene.traffic is not None:
            self._place_traffic(self.scene.traffic)
        if self.scene.walkers is not None:
            self._place_walkers(self.scene.walkers)
        self._straddled = self._markings_below()

    def tick(self, control: Control) -> Tick:
        ego = self.ego
        for car in self.cars:
            if not car.parked:
                car.follow(ego, self.scene.traffic.gap)
        self._move_walkers()
        ego.drive(control, self.road)
        impulses = [collide(ego, car) for car in self.cars] + [run_over(ego, walker) for walker in self.walkers]
        self._ticks += 1
        before, self._straddled = self._straddled, self._markings_below()
        lane = self.road.nearest_lane(ego.d)
        along = ego.speed * math.cos(ego.angle)
        return Tick(
            speed=ego.speed,
            lane_speed=along if lane < 0 else -along,
            centre_offset=(ego.d - self.road.lanes[lane]) * (1 if lane < 0 else -1),
            impulse=sum(impulses),
            collided=any(impulses),
            crossed=len(self._straddled - before),
            on_road=self.road.on_lane(ego.d),
            road_ahead=ego.s < self.road.length - FAR,
        )

    def frame(self) -> np.ndarray:
        return self._view.draw(self.ego, self.cars, self.walkers, self._ticks)

    def state(self) -> dict[str, float]:
        """``speed`` and ``yaw``; for hand-written drivers also where the road, others and pedestrians are.

        ``lane_offset`` (m right of the nearest lane's centre that runs along the road), ``heading_error`` (degrees,
        clockwise, to the road), ``bend`` (1/m, just ahead). Of the lanes left, here and right (``_left``, ``_here``,
        ``_right``): ``gap`` (m, free ahead), ``gap_behind``, ``lead_speed`` (m/s); 0 gaps where there is no lane.
        Of the next pedestrian: ``walker_ahead`` (m), ``walker_right`` (m, to the car's middle), ``walker_speed`` (m/s
        to the right); FAR ahead if there is none.
        """
        ego, road = self.ego, self.road
        own = min((i for i in road.lanes if i < 0), key=lambda i: abs(road.lanes[i] - ego.d))
        yaw = math.degrees(road.place(ego.s, 0.0)[2] + ego.angle)
        state = {
            "speed": ego.speed,
            "yaw": (yaw + 180.0) % 360.0 - 180.0,
            "lane_offset": ego.d - road.lanes[own],
            "heading_error": math.degrees(ego.angle),
            "bend": road.bend(ego.s + 0.3 * ego.speed),
        }
        for name, lane in (("left", own + 1), ("here", own), ("right", own - 1)):
            gap, behind, speed = self._gaps(lane) if lane < 0 and lane in road.lanes else (0.0, 0.0, 0.0)
            state |= {f"gap_{name}": gap, f"gap_behind_{name}": behind, f"lead_speed_{name}": speed}
        ahead = [w for w in self.walkers if -LENGTH / 2 < w.s - ego.s < FAR and not w.hit]
        walker = min(ahead, key=lambda w: w.s, default=None)
        state["walker_ahead"] = FAR if walker is None else walker.s - ego.s - LENGTH / 2
        state["walker_right"] = 0.0 if walker is None else walker.d - ego.d
        state["walker_speed"] = 0.0 if walker is None else walker.velocity
        return state

    def close(self) -> None:
        pass

    def _place_traffic(self, traffic: Traffic) -> None:
        rng, limit = self._rng, self.scene.limit
        for _ in range(100 * traffic.vehicles):  # draws; a draw on another car's place is thrown away
            if len(self.cars) == traffic.vehicles:
                break
            s = self.ego.s + float(rng.uniform(*traffic.ahead))
            d = self.road.lanes[int(rng.choice([lane.id for lane in self.scene.lanes]))]
            speed = limit * (1.0 - float(rng.uniform(*traffic.slower)))
            if all(abs(s - car.s) > 2 * LENGTH or abs(d - car.d) > 1.0 for car in (*self.cars, self.ego)):
                colour = int(rng.integers(len(COLOURS)))
                self.cars.append(Car(s, d, speed, wanted=speed, colour=colour))
        self.cars.sort(key=lambda car: (car.d, car.s))
        for car, ahead in itertools.pairwise(self.cars):
            car.leader = ahead if ahead.d == car.d else None

    def _place_walkers(self, walkers: Walkers) -> None:
        rng, kerb = self._rng, self.scene.kerb
        for site in walkers.sites:
            s = site.ahead + float(rng.uniform(-walkers.jitter, walkers.jitter))
            d = site.side * self.scene.parked
            colours = rng.integers(len(COLOURS), size=2)
            self.cars.append(
                Car(s, d, parked=True, direction=site.side, height=OCCLUDER_HEIGHT, colour=int(colours[0]))
            )
            behind = s + LENGTH / 2 + BEHIND_PARKED
            speed = float(rng.uniform(*walkers.speed))
            self.walkers.append(Walker(behind, d, -site.side * kerb, speed, site, int(colours[1])))
        # One speed a direction, shared by all who start on that side.
        speeds = {side: float(rng.uniform(*walkers.speed)) for side in (-1, 1)}
        for stretch in walkers.crossings:
            for side in (-1, 1):
                s, colour = float(rng.uniform(*stretch)), int(rng.integers(len(COLOURS)))
                self.walkers.append(Walker(s, side * kerb, -side * kerb, speeds[side], None, colour))

    def _move_walkers(self) -> None:
        for walker in self.walkers:
            if walker.hit:
                continue
            if walker.site is not None:
                walker.notice(walker.s - self.ego.s - LENGTH / 2, self.ego.speed)
            elif not walker.walking and self._ticks % self._second == 0:
                walker.walking = bool(self._rng.random() < self.scene.walkers.start_chance)
            walker.walk()

    def _gaps(self, lane: int) -> tuple[float, float, float]:
        """Free metres ahead of and behind the agent in a lane, and the speed of the car ahead."""
        ahead, behind, speed, d = FAR, FAR, self.scene.limit, self.road.lanes[lane]
        for car in self.cars:
            if car.parked or abs(car.d - d) > WIDTH:
                continue
            distance = car.s - self.ego.s
            if 0 <= distance < ahead:
                ahead, speed = distance, car.speed
            elif 0 <= -distance < behind:
                behind = -distance
        return max(ahead - LENGTH, 0.0), max(behind - LENGTH, 0.0), speed

    def _markings_below(self) -> set[float]:
        """Markings that the agent's car stands on."""
        return {line for line in self.road.markings if abs(line - self.ego.d) < WIDTH / 2}
