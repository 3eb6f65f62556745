from __future__ import annotations

import subprocess
import sys

SLOW = ("torch", "scipy.stats", "dm_control", "mujoco", "experiments.report")  # seconds each


def test_the_training_program_imports_nothing_slow_that_its_start_does_not_need():
    code = f"import sys, experiments.train; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_can_be_imported_after_the_view():
    code = "import sys, experiments.tensorboard_view; print('torch' in sys.modules, 'tensorboardX' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
