"""What the agent's car sees and feels. Every picture and event knows its frame, and is asked for by it."""

from __future__ import annotations

import queue
import time
from typing import Any, NamedTuple

import numpy as np

from covr_jax.envs.carla.session import Session
from covr_jax.envs.driving.scenarios import Camera
from covr_jax.envs.driving.world import WorldLost


class Felt(NamedTuple):
    """Since the question before."""

    collisions: int = 0
    impulse: float = 0.0  # N s, sum of the collisions' norms
    crossed: int = 0  # lane markings


class Sensors:
    """Camera, collision and lane invasion sensor of one car, from the frame after ``since`` on.

    Their callbacks run in the library's threads and do nothing but put into queues.
    """

    def __init__(self, session: Session, car: Any, camera: Camera, size: int):
        carla = session.carla
        self._size = size
        self._pictures: queue.SimpleQueue = queue.SimpleQueue()
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._since = 0
        # Size and angle are printed; gamma, exposure and blur as printed are the library's defaults. A sensor_tick of
        # its own would drop or shift frames, so there is a picture every tick.
        eye = session.blueprint("sensor.camera.rgb")
        for name, value in (("image_size_x", size), ("image_size_y", size), ("fov", camera.fov)):
            eye.set_attribute(name, f"{value:g}")
        session.attach(eye, carla.Transform(carla.Location(x=camera.x, z=camera.z)), car, self._pictures.put)
        for kind, number in (("sensor.other.collision", _impulse), ("sensor.other.lane_invasion", _crossed)):
            session.attach(session.blueprint(kind), carla.Transform(), car, _told(self._events, number))

    def forget(self, frame: int) -> None:
        """Events up to this frame do not count: the car was being set down."""
        self._since = frame

    def picture(self, frame: int, within_s: float) -> Any:
        """The camera's image of this frame. Raises WorldLost if it is late, or a later one comes in its place."""
        end = time.monotonic() + within_s
        while True:
            try:
                image = self._pictures.get(timeout=max(end - time.monotonic(), 0.0))
            except queue.Empty:
                raise WorldLost(f"the picture of frame {frame} did not come within {within_s:g} s") from None
            if image.frame == frame:
                return image
            if image.frame > frame:
                raise WorldLost(f"the picture of frame {frame} is missing: that of frame {image.frame} came")

    def felt(self) -> Felt:
        """All events that have come and not been told yet; one that comes after its frame counts in the next."""
        felt = Felt()
        while True:
            try:
                frame, collisions, impulse, crossed = self._events.get_nowait()
            except queue.Empty:
                return felt
            if frame > self._since:
                felt = Felt(felt.collisions + collisions, felt.impulse + impulse, felt.crossed + crossed)

    def pixels(self, image: Any) -> np.ndarray:
        """uint8 [H, W, 3] of an image, which is BGRA in the library."""
        if (image.height, image.width) != (self._size, self._size):
            raise WorldLost(f"a picture of {image.width}x{image.height} pixels came, not one of {self._size} square")
        bgra = np.frombuffer(image.raw_data, np.uint8).reshape(self._size, self._size, 4)
        return np.ascontiguousarray(bgra[..., 2::-1])


def _told(events: queue.SimpleQueue, number):
    return lambda event: events.put((event.frame, *number(event)))


def _impulse(event: Any) -> tuple[int, float, int]:
    return 1, event.normal_impulse.length(), 0


def _crossed(event: Any) -> tuple[int, float, int]:
    return 0, 0.0, len(event.crossed_lane_markings)
