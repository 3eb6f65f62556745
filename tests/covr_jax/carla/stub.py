"""The client library's own type stub, read for what may be called and with what."""

from __future__ import annotations

import ast
import functools
import inspect
from pathlib import Path
from typing import Any

import carla

STUB = Path(carla.__file__).with_name("libcarla.pyi")


class ContractError(AssertionError):
    """A call or name that the stub does not have."""


@functools.cache
def classes() -> dict[str, ast.ClassDef]:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@functools.cache
def members(name: str) -> dict[str, ast.AST]:
    """Name -> definition of a class's methods, properties and attributes, those of its bases included."""
    if name not in classes():
        raise ContractError(f"the stub has no class {name}")
    found: dict[str, ast.AST] = {}
    for base in classes()[name].bases:
        if isinstance(base, ast.Name) and base.id in classes():
            found |= members(base.id)
    for node in classes()[name].body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node  # of overloads the last one, which is the widest
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
    return found


@functools.cache
def signature(name: str, method: str) -> inspect.Signature:
    """Of a method, self included; annotations are their texts. Raises ContractError."""
    node = members(name).get(method)
    if not isinstance(node, ast.FunctionDef) or is_property(node):
        raise ContractError(f"the stub has no method {name}.{method}")
    listed, count = node.args.args, len(node.args.defaults)
    parameters = [
        inspect.Parameter(
            argument.arg,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None if i >= len(listed) - count else inspect.Parameter.empty,
            annotation=ast.unparse(argument.annotation) if argument.annotation else "",
        )
        for i, argument in enumerate(listed)
    ]
    return inspect.Signature(parameters)


def is_property(node: ast.AST) -> bool:
    return any(ast.unparse(each).endswith(("property", ".setter")) for each in getattr(node, "decorator_list", []))


def check_call(name: str, method: str, arguments: tuple, named: dict[str, Any]) -> None:
    """Raises ContractError for arguments that the stub's method would not take."""
    try:
        bound = signature(name, method).bind(None, *arguments, **named)
    except TypeError as error:
        raise ContractError(f"{name}.{method}: {error}") from None
    for parameter, value in list(bound.arguments.items())[1:]:
        wanted = bound.signature.parameters[parameter].annotation
        if not fits(value, wanted):
            raise ContractError(f"{name}.{method}: {parameter} is a {type(value).__name__}, must be {wanted}")


def fits(value: Any, annotation: str) -> bool:
    """Whether a value is of the annotated type. The library takes Python's own numbers and texts alone."""
    if annotation.startswith("Optional["):
        return value is None or fits(value, annotation.removeprefix("Optional[").removesuffix("]"))
    if annotation.startswith("Sequence[command."):
        return isinstance(value, list) and all(type(each).__module__ == "carla.libcarla.command" for each in value)
    if annotation.startswith("Callable["):
        return callable(value)
    plain = {"bool": (bool,), "int": (int,), "float": (float, int), "str": (str,)}
    if annotation in plain:
        return type(value) in plain[annotation]
    if annotation not in classes():
        raise ContractError(f"no check is written for {annotation}")
    return annotation in {each.__name__ for each in type(value).__mro__}
