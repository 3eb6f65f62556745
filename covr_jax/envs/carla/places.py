"""Places on a CARLA map: along a lane, beside it, above it."""

from __future__ import annotations

from typing import Any


def along(waypoint: Any, metres: float) -> Any:
    """The waypoint ``metres`` further along the lane (behind, if negative), or None where the road ends before."""
    if abs(metres) < 0.01:  # the library refuses a distance of 0
        return waypoint
    found = waypoint.next(metres) if metres > 0 else waypoint.previous(-metres)
    return found[0] if found else None


def beside(carla: Any, waypoint: Any, right: float = 0.0, above: float = 0.0, turned: float = 0.0) -> Any:
    """The transform ``right`` m beside a waypoint and ``above`` m over it, turned clockwise from its lane, degrees."""
    place, side = waypoint.transform.location, waypoint.transform.get_right_vector()
    rotation = waypoint.transform.rotation
    return carla.Transform(
        carla.Location(place.x + right * side.x, place.y + right * side.y, place.z + above),
        carla.Rotation(pitch=rotation.pitch, yaw=rotation.yaw + turned, roll=rotation.roll),
    )


def offset(waypoint: Any, location: Any) -> float:
    """m to the right of the waypoint's lane, seen along it."""
    return (location - waypoint.transform.location).dot(waypoint.transform.get_right_vector())
