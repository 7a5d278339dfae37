"""The device argument."""

import numpy as np
import pytest
import torch

import contract_models as cm
import deepnlme as dn

CASES = ("block", "occasions", "interval", "lag", "two endpoints", "time-varying")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", [dn.FOCE(), dn.Laplace()], ids=lambda m: m.name)
def test_gpu_gives_the_numbers_of_the_cpu(name, method):
    case = cm.BY_NAME[name]
    here, there = (
        dn.evaluate_ofv(case.model(), case.population(), method, options=dn.Options(device=d, ebe_tolerance=1e-8))
        for d in ("cpu", "cuda")
    )
    assert there.ofv == pytest.approx(here.ofv, rel=1e-9)
    gradients = here.evaluation.gradient, there.evaluation.gradient
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(there.ebes.eta, here.ebes.eta, atol=1e-7)
