"""The stand-ins and the code use what the client library has, as its own type stub says."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

carla = pytest.importorskip("carla", reason="needs CARLA's client: pip install carla==0.9.16")

from covr_jax.envs import carla as package  # noqa: E402
from tests.covr_jax.carla import actors, client_objects, stub  # noqa: E402
from tests.covr_jax.carla.simulator import Simulator  # noqa: E402

STAND_INS = [
    cls for module in (actors, client_objects) for cls in vars(module).values()
    if inspect.isclass(cls) and cls.__module__ == module.__name__
]  # fmt: skip
SOURCES = sorted(Path(package.__file__).parent.glob("*.py"))


def test_all_stand_ins_are_looked_at():
    assert len(STAND_INS) == 13


@pytest.mark.parametrize("cls", STAND_INS, ids=lambda cls: cls.__name__)
def test_a_stand_in_has_the_methods_of_the_library_and_their_parameters(cls):
    inside = {"move", "tell", "callback", "carrier", "chosen"}
    real = getattr(carla, cls.__name__)
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("_") or name in inside:
            continue
        wanted, given = stub.signature(cls.__name__, name), inspect.signature(method)
        assert list(given.parameters) == list(wanted.parameters)[: len(given.parameters)], name
        left_out = list(wanted.parameters.values())[len(given.parameters) :]
        assert all(each.default is not inspect.Parameter.empty for each in left_out), name
        assert hasattr(real, name), name


@pytest.mark.parametrize("cls", STAND_INS, ids=lambda cls: cls.__name__)
def test_a_stand_ins_attributes_are_the_librarys(cls):
    told = ast.parse(inspect.getsource(cls))
    own = {
        node.attr for node in ast.walk(told)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }  # fmt: skip
    inside = {"callback", "carrier", "chosen"}
    for name in own - inside:
        if not name.startswith("_"):
            assert name in stub.members(cls.__name__) and hasattr(getattr(carla, cls.__name__), name), name


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_every_name_of_the_library_exists(file):
    """carla.X and _carla.X in the sources, and attributes of X as in carla.LaneType.Driving."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in ("carla", "self"):
            parts = ast.unparse(node).split(".")
            parts = parts[1:] if parts[0] == "self" else parts
            if parts[0] in ("carla", "_carla") and len(parts) > 1:
                found = carla
                for part in parts[1:]:
                    assert hasattr(found, part), ast.unparse(node)
                    found = getattr(found, part)


def test_controls_have_the_fields_that_are_set():
    carla.VehicleControl(throttle=0.5, steer=0.1, brake=0.0)
    carla.VehicleControl(manual_gear_shift=True, gear=1)
    carla.VehicleControl(hand_brake=True)
    carla.WalkerControl(direction=carla.Vector3D(1.0, 0.0, 0.0), speed=1.0)
    assert carla.VehiclePhysicsControl().gear_switch_time == 0.5


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda world: world.tick("soon"), "seconds is a str, must be float"),
        (lambda world: world.tick(1.0, 2.0), "too many"),
        (lambda world: world.apply_settings(settings=carla.WorldSettings()), "world_settings"),
        (lambda world: world.apply_settings(None), "must be WorldSettings"),
        (lambda world: world.set_weather(carla.VehicleControl()), "must be WeatherParameters"),
    ],
)
def test_a_call_that_the_stub_does_not_have_is_found(call, says):
    with pytest.raises(stub.ContractError, match=says):
        call(client_objects.World(Simulator()))


def test_numpys_numbers_are_refused_as_the_library_does():
    np = pytest.importorskip("numpy")
    assert stub.fits(0.5, "float") and not stub.fits(np.float32(0.5), "float") and not stub.fits(np.int64(1), "int")
    with pytest.raises(Exception, match="did not match C\\+\\+ signature"):
        carla.VehicleControl(throttle=np.float32(0.5))


def test_a_name_that_the_stub_does_not_have_is_found():
    with pytest.raises(stub.ContractError, match=r"no method World\.fly"):
        stub.signature("World", "fly")
    with pytest.raises(stub.ContractError, match="no class Aeroplane"):
        stub.members("Aeroplane")
