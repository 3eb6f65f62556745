"""Calls of stand-ins: held against the library's type stub, and written down as texts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import carla


def contract(cls: type) -> type:
    """Every public method is checked and written down before it runs."""
    for name, method in list(vars(cls).items()):
        if not name.startswith("_") and callable(method) and name not in getattr(cls, "INSIDE", ()):
            setattr(cls, name, _called(name, method))
    return cls


def _called(name: str, method: Callable) -> Callable:
    @functools.wraps(method)
    def checked(self, *arguments, **named):
        self._sim.called(self, name, arguments, named)
        return method(self, *arguments, **named)

    return checked


def show(value: Any) -> str:
    """A value in a recorded call; numbers to three decimals, angles in (-180, 180]."""
    if isinstance(value, carla.Transform):
        place, turn = value.location, value.rotation
        yaw = -((-turn.yaw + 180.0) % 360.0 - 180.0)
        return f"at({show(place.x)}, {show(place.y)}, {show(place.z)}, yaw {show(yaw)})"
    if isinstance(value, carla.WeatherParameters):
        return next(n for n in dir(value) if getattr(carla.WeatherParameters, n, None) == value)
    if isinstance(value, carla.VehicleControl):
        names = ("throttle", "steer", "brake", "hand_brake", "manual_gear_shift", "gear")
    elif isinstance(value, carla.WalkerControl):
        d = value.direction
        return f"WalkerControl({show(d.x)}, {show(d.y)}, {show(d.z)}; speed={show(value.speed)})"
    elif isinstance(value, carla.WorldSettings):
        names = ("synchronous_mode", "fixed_delta_seconds")
    elif isinstance(value, carla.VehiclePhysicsControl):
        names = ("gear_switch_time",)
    elif isinstance(value, carla.command.DestroyActor):
        return f"DestroyActor({value.actor_id})"
    elif isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    elif isinstance(value, float):
        return f"{value + 0.0:.3f}".replace("-0.000", "0.000")
    else:
        return "callback" if callable(value) else repr(value)
    return f"{type(value).__name__}({', '.join(f'{name}={show(getattr(value, name))}' for name in names)})"
