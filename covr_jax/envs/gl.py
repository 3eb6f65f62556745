"""Which OpenGL renders: decided before dm_control is imported, which reads MUJOCO_GL once."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

CANDIDATES = ("egl", "osmesa")  # tried in this order; neither needs a display
BACKENDS = (*CANDIDATES, "glfw")
PACKAGES = "libegl1 libgl1 libgl1-mesa-dri (or libosmesa6)"  # Debian's
_PROBE = """
import mujoco
world = "<worldbody><light pos='0 0 3'/><geom size='.1'/></worldbody>"
model = mujoco.MjModel.from_xml_string(f"<mujoco>{world}</mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
    from OpenGL import GL
    print(GL.glGetString(GL.GL_RENDERER).decode())
"""


class GlError(RuntimeError):
    """Nothing can be rendered here. One line that says what to install or to set."""


def choose() -> str:
    """Sets MUJOCO_GL, unless the user has, to the first backend that renders a frame; returns its value.

    A user's value is not tried out: what fails then fails with the library's own words.

    Raises:
        GlError: no backend renders, or MUJOCO_GL names none that could.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if not chosen:
        chosen = next((backend for backend in CANDIDATES if renderer(backend) is not None), None)
        if chosen is None:
            raise GlError(f"no OpenGL library renders a frame here; on Debian: apt install {PACKAGES}")
        os.environ["MUJOCO_GL"] = chosen
    if chosen not in BACKENDS:
        raise GlError(f"MUJOCO_GL={chosen} cannot render; allowed: {', '.join(BACKENDS)}, or unset")
    return chosen


@functools.cache
def renderer(backend: str) -> str | None:
    """GL_RENDERER, e.g. "llvmpipe (LLVM 15.0.6, 256 bits)", if this backend renders a frame, else None.

    Tried in a process of its own (about a second, once per process), for a wrong library can end a process.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe() -> dict[str, str | None]:
    """For environment.json: ``backend`` as set, and its ``renderer`` (None if there is none)."""
    backend = os.environ.get("MUJOCO_GL")
    return {"backend": backend, "renderer": renderer(backend) if backend in BACKENDS else None}
