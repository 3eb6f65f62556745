from __future__ import annotations

import os
import subprocess
import sys

import pytest

from covr_jax.envs import gl


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "restored by monkeypatch")
    monkeypatch.delenv("MUJOCO_GL")


def only(*working: str):
    return lambda backend: "some renderer" if backend in working else None


@pytest.mark.parametrize(("working", "chosen"), [(("egl", "osmesa"), "egl"), (("osmesa",), "osmesa")])
def test_the_first_that_renders_is_chosen(monkeypatch, working, chosen):
    monkeypatch.setattr(gl, "renderer", only(*working))
    assert gl.choose() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_none_renders(monkeypatch):
    monkeypatch.setattr(gl, "renderer", only())
    with pytest.raises(gl.GlError, match=r"libegl1 libgl1 libgl1-mesa-dri \(or libosmesa6\)") as error:
        gl.choose()
    assert "\n" not in str(error.value) and isinstance(error.value, RuntimeError)
    assert "MUJOCO_GL" not in os.environ


@pytest.mark.parametrize("value", ["egl", "osmesa", "glfw"])
def test_the_users_value_is_left_alone_and_not_tried(monkeypatch, value):
    def tried(backend):
        raise AssertionError("tried")

    monkeypatch.setattr(gl, "renderer", tried)
    monkeypatch.setenv("MUJOCO_GL", value)
    assert gl.choose() == os.environ["MUJOCO_GL"] == value


@pytest.mark.parametrize("value", ["disable", "vulkan"])
def test_a_value_that_cannot_render(monkeypatch, value):
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(gl.GlError, match=f"MUJOCO_GL={value} cannot render; allowed: egl, osmesa, glfw"):
        gl.choose()


def test_a_probe_that_fails_or_hangs_is_no_renderer(monkeypatch):
    assert gl.renderer("no such backend") is None

    def hangs(*arguments, **options):
        raise subprocess.TimeoutExpired("python", 60)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert gl.renderer("another such") is None


def test_a_real_frame(monkeypatch):
    pytest.importorskip("dm_control")
    backend = gl.choose()
    described = gl.describe()
    assert described["backend"] == backend and described["renderer"]


def test_describe_without_a_choice():
    assert gl.describe() == {"backend": None, "renderer": None}


def test_importing_the_environments_imports_no_simulator():
    code = "import sys, covr_jax.envs, covr_jax.envs.gl, covr_jax.envs.stack; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "covr_jax.envs.gl" in modules
    assert not {"dm_control", "mujoco", "jax", "torch"} & set(modules)
