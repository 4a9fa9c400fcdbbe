"""The fitted temperature beside a search over a grid, and beside the one that the logits were made with."""

import pytest
import torch
import torch.nn.functional as F

from resnet_hub.inference.temperature import fit_temperature


def sampled(count, scale):
    """Logits that are `scale` times those from whose softmax the labels are drawn."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 10, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * scale, labels


@pytest.mark.parametrize('scale', [0.5, 1.0, 3.0])
def test_it_undoes_the_scale_of_the_logits(scale):
    logits, labels = sampled(20_000, scale)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.03)


def test_no_temperature_of_a_grid_is_better():
    logits, labels = sampled(500, 1.7)
    fitted = fit_temperature(logits, labels)
    losses = {t: F.cross_entropy(logits.double() / t, labels) for t in [fitted, *torch.linspace(0.5, 5, 400).tolist()]}
    assert losses[fitted] <= min(losses.values()) + 1e-9


def test_where_all_are_right_it_ends():
    assert fit_temperature(torch.eye(10), torch.arange(10)) == pytest.approx(0.01, rel=0.1)
