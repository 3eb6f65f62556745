"""The front camera of the toy world: a flat ground looked up row by row, and boxes on it, far ones first.

Pixels are packed as one number each, red in the lowest byte. A level pinhole camera shows the ground at depth
height * focal / rows below the horizon, so every row of the ground has one depth.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image

from covr_jax.envs.driving.scenarios import Scenario
from covr_jax.envs.toy.bodies import LENGTH, WIDTH, Car, Walker
from covr_jax.envs.toy.road import BEHIND, Road

SIDE, STEP = 30.0, 0.1  # m that the ground's table reaches to each side, and its resolution
SIGHT = 140.0  # m
SCENERY = 24.0  # m from one tree or house to the next
DASH, DASH_PERIOD, BAND = 3.0, 9.0, 6.0  # m: dashes of lane markings, stripes of grass
HAZE_STEPS = 20
NEAR = 0.6  # m: what is nearer to the camera is cut off

COLOURS = ((200, 40, 40), (40, 80, 200), (230, 230, 230), (230, 180, 40), (40, 150, 90), (120, 60, 150))
ASPHALT, SHOULDER, PAVEMENT = (88, 88, 92), (104, 100, 94), (150, 146, 140)
WHITE, YELLOW = (235, 235, 235), (225, 190, 60)
GRASS = ((70, 112, 56), (80, 124, 62))
# Weather -> brightness, sky at the zenith and at the horizon, share of haze at SIGHT, rain.
LOOKS = {
    "cloudy_noon": (1.0, (150, 162, 178), (205, 210, 216), 0.25, False),
    "clear_noon": (1.1, (70, 130, 220), (180, 210, 240), 0.1, False),
    "wet_noon": (0.95, (110, 140, 190), (190, 205, 220), 0.25, False),
    "hard_rain_noon": (0.62, (92, 98, 106), (128, 132, 138), 0.75, True),
    "clear_sunset": (0.75, (70, 70, 120), (245, 150, 80), 0.3, False),
}


class View:
    """Pictures uint8 [size, size, 3] of one scenario."""

    def __init__(self, scene: Scenario, road: Road, size: int):
        self._scene, self._road, self._size = scene, road, size
        self._bright, zenith, self._haze, self._haze_share, self._rain = LOOKS[scene.weather]
        self._focal = size / 2 / math.tan(math.radians(scene.camera.fov / 2))
        self._horizon = size // 2
        rows = np.arange(self._horizon, size) - self._horizon + 0.5
        self._depths = scene.camera.z * self._focal / rows  # m from the camera, a row of the ground each
        columns = np.arange(size) - size / 2 + 0.5
        self._lateral = (self._depths[:, None] * columns / self._focal).astype(np.float32)  # m to the right
        self._bins = round(2 * SIDE / STEP)
        self._ground = self._ground_table()
        self._row_base = (np.arange(len(rows)) * 4 * self._bins).astype(np.int32)
        self._sky = self._sky_table(zenith)
        self._canvas = np.zeros((size, size), np.uint32)
        self._packed = functools.cache(self._pack_one)
        if self._rain:
            noise = np.random.default_rng(0).random((4, size, size))
            streak = np.maximum.reduce([np.roll(noise, k, axis=1) for k in range(max(size // 20, 1))])
            self._streaks = streak > 0.985

    def draw(self, ego: Car, cars: list[Car], walkers: list[Walker], ticks: int) -> np.ndarray:
        canvas, camera = self._canvas, self._camera(ego)
        self._draw_sky(camera[2])
        self._draw_ground(ego, camera)
        for _, kind, thing, z, x in sorted(self._things(ego, cars, walkers, camera), key=lambda each: -each[0]):
            getattr(self, f"_draw_{kind}")(thing, z, x, camera)
        picture = np.array(Image.frombuffer("RGBX", canvas.shape, canvas, "raw", "RGBX", 0, 1).convert("RGB"))
        if self._rain:
            picture[self._streaks[ticks % 4]] = (170, 176, 184)
        return picture

    def _camera(self, ego: Car) -> tuple[float, float, float]:
        """x, y [m] and yaw [rad] of the camera."""
        x, y, heading = self._road.place(ego.s, ego.d)
        yaw = heading + ego.angle
        return x + self._scene.camera.x * math.cos(yaw), y + self._scene.camera.x * math.sin(yaw), yaw

    def _draw_sky(self, yaw: float) -> None:
        width = self._sky.shape[1]
        turns = width - self._size
        start = int(yaw / (2 * math.pi) * turns) % turns
        self._canvas[: self._horizon] = self._sky[:, start : start + self._size]

    def _draw_ground(self, ego: Car, camera: tuple[float, float, float]) -> None:
        road, (cx, cy, yaw) = self._road, camera
        first = max(int(ego.s) + BEHIND - 4, 0)
        part = slice(first, first + 2 * int(SIGHT), 2)
        dx, dy = road.x[part] - cx, road.y[part] - cy
        cos, sin = math.cos(yaw), math.sin(yaw)
        forward, right = dx * cos + dy * sin, dy * cos - dx * sin
        forward = np.maximum.accumulate(forward)  # a bend may lead back
        middle = np.interp(self._depths, forward, right)
        along = np.interp(self._depths, forward, np.arange(len(forward)) * 2.0 + first - BEHIND)
        slant = np.cos(np.interp(self._depths, forward, road.heading[part] - yaw))
        phase = ((along % DASH_PERIOD) < DASH) + 2 * ((along % (2 * BAND)) < BAND)
        base = self._row_base + phase.astype(np.int32) * self._bins + self._bins // 2
        bins = (self._lateral - middle[:, None].astype(np.float32)) * (slant / STEP)[:, None].astype(np.float32)
        half = self._bins // 2 - 1
        np.clip(bins, -half, half, out=bins)
        index = bins.astype(np.int32)
        index += base[:, None]
        np.take(self._ground, index, out=self._canvas[self._horizon :], mode="clip")

    def _things(self, ego: Car, cars: list[Car], walkers: list[Walker], camera):
        """(depth, kind, thing, depth, metres to the right) of what may be seen."""
        cx, cy, yaw = camera
        cos, sin = math.cos(yaw), math.sin(yaw)
        found = []
        candidates = [("car", car, car.s, car.d) for car in cars]
        candidates += [("walker", walker, walker.s, walker.d) for walker in walkers]
        number = math.ceil((ego.s + 2.0) / SCENERY)
        for i in range(number, number + 4):
            s = i * SCENERY
            kind = "tree" if self._scene.sidewalk == 0 or i % 3 == 0 else "house"
            off = self._scene.shoulder + self._scene.sidewalk + (3.0 if kind == "tree" else 6.0)
            candidates.append((kind, (i, 1), s, self._road.markings[-1] + off))
            candidates.append((kind, (i, -1), s, self._road.markings[0] - off))
        for kind, thing, s, d in candidates:
            if not -LENGTH < s - ego.s < SIGHT:
                continue
            x, y, _ = self._road.place(s, d)
            z, across = (x - cx) * cos + (y - cy) * sin, (y - cy) * cos - (x - cx) * sin
            if z > -LENGTH and abs(across) < z + 10.0:
                found.append((z, kind, thing, z, across))
        return found

    def _draw_car(self, car: Car, z: float, x: float, camera) -> None:
        relative = self._road.place(car.s, car.d)[2] + car.angle - camera[2]
        dz, dx = LENGTH / 2 * math.cos(relative), LENGTH / 2 * math.sin(relative)
        if z + dz < NEAR:
            return
        body, low = COLOURS[car.colour], 0.25
        slices = 6 if z < 15 else 3 if z < 40 else 1
        for k in range(slices, 0, -1):
            part = 2 * k / slices - 1  # the far end first
            if z + part * dz > NEAR:
                self._box(z + part * dz, x + part * dx, WIDTH, low, car.height, body, 0.62)
        near, x = max(z - dz, NEAR), x - dx
        self._box(near, x, WIDTH * 0.9, 0.0, 0.35, (25, 25, 28))
        self._box(near, x, WIDTH, low, car.height, body)
        if z > 60:
            return
        self._box(near, x, WIDTH * 0.84, 0.58 * car.height, 0.92 * car.height, (40, 50, 62))
        lamp = (220, 30, 30) if car.direction > 0 else (250, 245, 200)
        for side in (-1, 1):
            self._box(near, x + side * WIDTH * 0.4, 0.3, 0.4 * car.height, 0.52 * car.height, lamp)

    def _draw_walker(self, walker: Walker, z: float, x: float, camera) -> None:
        if z < NEAR:
            return
        if walker.hit:
            self._box(z, x, 1.6, 0.0, 0.3, COLOURS[walker.colour])
            return
        self._box(z, x, 0.4, 0.0, 0.85, (35, 35, 50))
        self._box(z, x, 0.55, 0.8, 1.45, COLOURS[walker.colour])
        self._box(z, x, 0.28, 1.45, 1.75, (225, 180, 150))

    def _draw_tree(self, which: tuple[int, int], z: float, x: float, camera) -> None:
        if z > NEAR:
            tall = 4.5 + (which[0] * 7 + which[1]) % 3
            self._box(z, x, 0.4, 0.0, 2.0, (90, 66, 44))
            self._box(z, x, 2.6, 1.6, tall, (48, 92, 46))
            self._box(z, x, 1.6, tall - 0.6, tall + 0.9, (60, 106, 54))

    def _draw_house(self, which: tuple[int, int], z: float, x: float, camera) -> None:
        if z < NEAR:
            return
        wall = ((176, 150, 128), (150, 156, 168), (190, 178, 150))[(which[0] + which[1]) % 3]
        for k in (2, 1, 0) if z < 70 else (0,):  # its depth
            self._box(z + 3.0 * k, x, 8.0, 0.0, 7.0, wall, 0.7 if k else 1.0)
        if z > 70:
            return
        for column in (-2.4, 0.0, 2.4):
            for storey in (1.4, 4.4):
                self._box(z, x + column, 1.1, storey, storey + 1.4, (60, 70, 84))

    def _box(self, z: float, x: float, width: float, low: float, high: float, colour, shade: float = 1.0) -> None:
        """A rectangle that faces the camera at depth z, its middle x m to the right, from low to high above ground."""
        scale, middle = self._focal / z, self._size / 2
        # int() of a number raised by 0.5: round() of Python is slow.
        left, right = int(middle + (x - width / 2) * scale + 0.5), int(middle + (x + width / 2) * scale + 0.5)
        above, size = self._scene.camera.z, self._size
        top, bottom = int(middle + (above - high) * scale + 0.5), int(middle + (above - low) * scale + 0.5)
        if right < 0 or left >= size or bottom < 0 or top >= size:
            return
        # A slice needs no upper clip, but a negative bound would count from the end.
        left, top = left if left > 0 else 0, top if top > 0 else 0
        right, bottom = right if right > left else left + 1, bottom if bottom > top else top + 1
        self._canvas[top:bottom, left:right] = self._packed(colour, shade, int(z / SIGHT * HAZE_STEPS))

    def _pack_one(self, colour, shade: float, step: int) -> int:
        """A colour in the weather, at SIGHT * step / HAZE_STEPS."""
        haze = self._haze_share * min(step / HAZE_STEPS, 1.0)
        red, green, blue = (
            min(int((1 - haze) * self._bright * shade * own + haze * far), 255)
            for own, far in zip(colour, self._haze, strict=True)
        )
        return red | green << 8 | blue << 16

    def _ground_table(self) -> np.ndarray:
        """uint32 [rows * 4 * bins]: the ground's colour by row, phase (dash, stripe) and metres right of the road."""
        d = (np.arange(self._bins) - self._bins // 2) * STEP
        lines, scene = self._road.markings, self._scene
        haze = self._haze_share * np.minimum(self._depths / SIGHT, 1.0)
        rows = np.zeros((len(self._depths), 4, self._bins, 3))
        footprint = self._depths / self._focal  # m that a pixel is wide
        for phase in range(4):
            dash, stripe = phase % 2, phase // 2
            ground = np.empty((self._bins, 3))
            ground[:] = GRASS[stripe]
            outer = scene.shoulder + scene.sidewalk
            ground[(d > lines[0] - outer) & (d < lines[-1] + outer)] = PAVEMENT
            ground[(d > lines[0] - scene.shoulder) & (d < lines[-1] + scene.shoulder)] = SHOULDER
            ground[(d >= lines[0]) & (d <= lines[-1])] = ASPHALT
            rows[:, phase] = ground
            for line in lines:
                inner = lines[0] < line < lines[-1]
                if inner and not dash:
                    continue
                two_way = inner and any(i > 0 for i in self._road.lanes)
                # Thinner than a pixel, a line is that much paler.
                wide = np.maximum(0.18, footprint)
                share = (0.18 / wide)[:, None] ** 0.5 * (np.abs(d - line) <= wide[:, None] / 2)
                colour = np.array(YELLOW if two_way else WHITE)
                rows[:, phase] += share[..., None] * (colour - rows[:, phase])
        rows = rows * self._bright * (1 - haze)[:, None, None, None] + haze[:, None, None, None] * np.array(self._haze)
        return _pack(rows).reshape(-1)

    def _sky_table(self, zenith) -> np.ndarray:
        """uint32 [horizon, width]: a sky and distant hills, all around, and the first picture's width once more."""
        size, width = self._size, 6 * self._size
        height = np.linspace(0, 1, self._horizon)[:, None, None]
        sky = np.array(zenith) * (1 - height) + np.array(self._haze) * height
        angle = np.linspace(0, 2 * np.pi, width, endpoint=False)
        waves = 0.05 * np.sin(3 * angle) + 0.035 * np.sin(7 * angle + 1) + 0.02 * np.sin(19 * angle)
        hills = self._horizon * (0.1 + waves)
        below = (self._horizon - np.arange(self._horizon))[:, None] <= hills[None]
        hill = (np.array((92, 104, 110)) * self._bright * 0.5 + np.array(self._haze) * 0.5)[None, None]
        table = _pack(np.where(below[..., None], hill, sky))
        return np.concatenate([table, table[:, :size]], axis=1)


def _pack(colours: np.ndarray) -> np.ndarray:
    """Colours [..., 3] in 0 to 255 as one uint32 each."""
    whole = np.clip(colours, 0, 255).astype(np.uint32)
    return whole[..., 0] | whole[..., 1] << 8 | whole[..., 2] << 16
