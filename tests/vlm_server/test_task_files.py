from __future__ import annotations

import pytest

from vlm_server import task_files, tasks

PENDULUM = """
name = "gym/Pendulum-v1"
goal = "swing the pendulum up and keep it up."
view = "The picture shows a pendulum from the side."
[[actions]]
name = "torque"
sign = "positive turns it counter-clockwise."
[state]
speed = "It turns with {} rad/s."
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))

    def write(text):
        (tmp_path / "task.toml").write_text(text)
        return tmp_path / "task.toml"

    return write


def test_a_task_of_ones_own(file):
    task_files.add(file(PENDULUM))
    task = tasks.get("gym/Pendulum-v1")
    prompt = task.prompt({"speed": 1.5})
    assert "It turns with 1.50 rad/s." in prompt
    assert "torque, from -1.00 to 1.00: positive turns it counter-clockwise." in prompt
    assert task.parse(task.format([0.25])) == ((0.25,), "ok")
    with pytest.raises(ValueError, match=r"there is a task gym/Pendulum-v1 already"):
        task_files.add(file(PENDULUM))


@pytest.mark.parametrize(("old", "new", "message"), [
    ('name = "gym/Pendulum-v1"\n', "", "lacks name"),
    ('goal = "swing the pendulum up and keep it up."\n', "goal = 3\n", "goal must be a str, not 3"),
    ("goal", "gaol", "unknown field gaol; allowed: name, goal"),
    ('name = "torque"\n', 'name = "Torque"\n', "word in lower case"),
    ('sign = "positive turns it counter-clockwise."\n', "", "fields name and sign"),
    ("{} rad", "rad", "sentence with one {}"),
    ("[state]", "[state", "task file"),
])  # fmt: skip
def test_bad_files_are_refused_in_one_line(file, old, new, message):
    assert old in PENDULUM
    with pytest.raises(ValueError, match=message) as error:
        task_files.add(file(PENDULUM.replace(old, new)))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml"):
        task_files.add(tmp_path / "none.toml")
