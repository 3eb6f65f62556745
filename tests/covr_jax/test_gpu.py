"""The learner on an accelerator. Run by `make test-gpu`."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from tests.covr_jax import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator"),
]


@pytest.mark.parametrize("base", tiny.BASES)
def test_updates_agree_with_the_cpu(base):
    learner, batch = tiny.learner(base, method="covr"), tiny.batch(base, 0)
    results = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device), jax.default_matmul_precision("float32"):
            state = jax.device_put(learner.init(0, tiny.RENDER[base]), device)
            for _ in range(3):
                state, metrics = learner.update(state, jax.device_put(batch, device))
            results.append({name: float(value) for name, value in metrics.items()})
    on_gpu, on_cpu = results
    for name, value in on_cpu.items():
        np.testing.assert_allclose(on_gpu[name], value, rtol=2e-2, atol=1e-3, err_msg=name)
