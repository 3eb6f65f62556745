"""A flat road of straights and arcs, and places along it: s metres along its reference line, d metres to its right.

The frame is CARLA's: x and y in metres, yaw clockwise from x as seen from above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from covr_jax.envs.driving.scenarios import Lane, lane_centre

BEHIND = 20  # m of road before s = 0


class Road:
    """Tables of the reference line, a row a metre.

    Args:
        bends: (length m, turn in degrees, right > 0) one after the other.
        yaw: heading at s = 0, degrees.
        lanes: those right of the reference line have ids below 0, in order from it; those left of it, above 0.
    """

    def __init__(self, bends: Sequence[tuple[float, float]], yaw: float, lanes: Sequence[Lane]):
        curvature = [0.0] * BEHIND
        for length, turn in bends:
            curvature += [math.radians(turn) / length] * round(length)
        self.curvature = curvature  # 1/m, right > 0
        # A metre of an arc turns by its curvature; the chord points half of that further.
        turned = np.concatenate([[0.0], np.cumsum(curvature)])
        self.heading = turned - turned[BEHIND] + math.radians(yaw)  # rad
        chord = (self.heading[:-1] + self.heading[1:]) / 2
        self.x = np.concatenate([[0.0], np.cumsum(np.cos(chord))])
        self.y = np.concatenate([[0.0], np.cumsum(np.sin(chord))])
        self.x -= self.x[BEHIND]
        self.y -= self.y[BEHIND]
        self.length = float(len(curvature) - BEHIND)
        self._tables = [table.tolist() for table in (self.x, self.y, self.heading)]  # lists: faster one by one
        self.lanes = {lane.id: lane_centre(lane, lanes) for lane in lanes}  # id -> d of its centre
        self.widths = {lane.id: lane.width for lane in lanes}
        edges = {centre + side * self.widths[i] / 2 for i, centre in self.lanes.items() for side in (-1, 1)}
        self.markings = sorted(edges)  # d of every lane marking

    def bend(self, s: float) -> float:
        """Curvature at s, 1/m."""
        return self.curvature[min(max(int(s) + BEHIND, 0), len(self.curvature) - 1)]

    def place(self, s: float, d: float) -> tuple[float, float, float]:
        """x, y [m] and the road's heading [rad] at (s, d)."""
        i = min(max(int(s + BEHIND), 0), len(self.curvature) - 1)
        part = s + BEHIND - i
        x, y, heading = (table[i] + part * (table[i + 1] - table[i]) for table in self._tables)
        return x - d * math.sin(heading), y + d * math.cos(heading), heading

    def nearest_lane(self, d: float) -> int:
        """Id of the lane whose centre is nearest."""
        return min(self.lanes, key=lambda i: abs(self.lanes[i] - d))

    def on_lane(self, d: float) -> bool:
        """Whether d is on a driving lane."""
        return self.markings[0] <= d <= self.markings[-1]
