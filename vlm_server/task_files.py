"""Tasks from TOML files, for environments that this package does not know (docs/environments.md)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from vlm_server import tasks
from vlm_server.tasks import Action, Task

# Field -> its type; those of tasks.Task.
FIELDS = {"name": str, "goal": str, "view": str, "advice": str, "describes": bool, "actions": list, "state": dict}
NEEDED = ("name", "goal", "view", "actions")


def add(path: Path) -> Task:
    """Reads a task and makes ``tasks.get`` know it. Raises ValueError, in one line, for a bad file or a taken name."""
    task = read(path)
    if task.name in tasks.TASKS:
        raise ValueError(f"{path}: there is a task {task.name} already")
    tasks.TASKS[task.name] = task
    return task


def read(path: Path) -> Task:
    """The task in a TOML file: name, goal, view; [[actions]] with name and sign; optionally advice, describes and a
    table [state] of sentences with one {} each. Raises ValueError, in one line."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"task file {path}: {error}") from None
    try:
        return _task(document)
    except ValueError as error:
        raise ValueError(f"task file {path}: {error}") from None


def _task(document: dict[str, Any]) -> Task:
    for field, value in document.items():
        if field not in FIELDS:
            raise ValueError(f"unknown field {field}; allowed: {', '.join(FIELDS)}")
        if not isinstance(value, FIELDS[field]) or value == "":
            raise ValueError(f"{field} must be a {FIELDS[field].__name__}, not {value!r}")
    if missing := [field for field in NEEDED if not document.get(field)]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    actions = tuple(_action(each) for each in document["actions"])
    if len({action.name for action in actions}) != len(actions):
        raise ValueError("two actions have one name")
    for name, sentence in document.get("state", {}).items():
        if not isinstance(sentence, str) or sentence.count("{}") != 1 or sentence.count("{") + sentence.count("}") != 2:
            raise ValueError(f"state.{name} must be a sentence with one {{}}, not {sentence!r}")
    rest = {field: document[field] for field in ("advice", "describes") if field in document}
    state = tuple(document.get("state", {}).items())
    return Task(document["name"], document["goal"], document["view"], actions, state=state, **rest)


def _action(entry: Any) -> Action:
    if not isinstance(entry, dict) or set(entry) != {"name", "sign"}:
        raise ValueError("an action has the fields name and sign, and no other")
    name, sign = entry["name"], entry["sign"]
    # Replies are matched in lower case, as words.
    if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or name != name.lower():
        raise ValueError(f"an action's name must be a word in lower case, as left_knee, not {name!r}")
    if name == "describe" or not isinstance(sign, str) or not sign:
        raise ValueError(f"action {name} must say in words what a positive value does, and not be called describe")
    return Action(name, sign)
