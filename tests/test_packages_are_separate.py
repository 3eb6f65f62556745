"""The learner and the prior server install and run without each other's frameworks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "covr_jax": {"torch", "transformers", "peft", "vlm_server"},
    "vlm_server": {"jax", "jaxlib", "flax", "optax", "covr_jax", "experiments"},
}

# Imports every module of a package while the other side's modules cannot be found.
IMPORT_ALL = """
import importlib, pkgutil, sys
from absl import flags

package, forbidden = sys.argv[1], set(sys.argv[2].split(","))

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is forbidden here", name=name)

sys.meta_path.insert(0, Refuse())
root = importlib.import_module(package)
found = pkgutil.walk_packages(root.__path__, package + ".")
names = [module.name for module in found if not module.name.endswith("__main__")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # An optional dependency may be absent; the other side's may not even be asked for.
        if error.name is None or error.name.split(".")[0] in forbidden | {package}:
            raise
    for flag in list(flags.FLAGS):  # programs of one package may have flags of the same name
        delattr(flags.FLAGS, flag)
assert not {name.split(".")[0] for name in sys.modules} & forbidden
print(len(names))
"""


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of every import statement, those inside functions included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imported_sees_every_kind_of_import():
    code = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i\n"
    assert imported(ast.parse(code)) == {"a", "c", "d", "i"}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_import_statement_names_the_other_side(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for file in files:
        wrong = imported(ast.parse(file.read_text(), file)) & FORBIDDEN[package]
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_every_module_imports_where_the_other_side_cannot_be_found(package):
    # A bare environment but for the paths: what the test process has imported must not matter.
    command = [sys.executable, "-c", IMPORT_ALL, package, ",".join(sorted(FORBIDDEN[package]))]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) > 5
