import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses import distillation


@given(st.integers(1, 6), st.integers(2, 10), st.floats(0.5, 10), st.integers(0, 2**31))
def test_distillation_is_the_divergence_of_the_softened_answers(n: int, classes: int, t: float, seed: int) -> None:
    own, other = torch.randn(2, n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    p, q = (other / t).softmax(1), (own / t).softmax(1)
    expected = t**2 * (p * (p / q).log()).sum(1).mean()
    assert distillation(own, other, t).item() == pytest.approx(expected.item(), rel=1e-9)
    assert distillation(other, other, t).item() == pytest.approx(0, abs=1e-9)


def test_gradient_hardly_depends_on_the_temperature_where_it_is_high() -> None:
    """What the square of the temperature is for."""
    generator = torch.Generator().manual_seed(0)
    other = torch.randn(8, 10, generator=generator)
    sizes = []
    for temperature in (20.0, 40.0):
        own = torch.randn(8, 10, generator=torch.Generator().manual_seed(1), requires_grad=True)
        distillation(own, other, temperature).backward()
        assert own.grad is not None
        sizes.append(own.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
