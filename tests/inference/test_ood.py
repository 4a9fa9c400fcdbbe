"""Out-of-distribution scores, against scikit-learn and against known answers on real images."""

import json

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_hub.data.images import Images
from resnet_hub.data.sources import read_labelled
from resnet_hub.inference.ood import evaluate_ood, nearest_neighbours, ood_scores, separation
from tests.conftest import needed


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from([1, 2, 50]), st.integers(0, 2**31))
def test_figures_are_those_of_scikit_learn(inside, outside, steps, seed):
    """Also where many scores are equal. Out-of-distribution images are the positive ones."""
    metrics = pytest.importorskip('sklearn.metrics')
    random = np.random.default_rng(seed)
    scores = [np.round(steps * random.standard_normal(n) + shift) / steps for n, shift in ((inside, 1), (outside, 0))]
    found = separation(*map(torch.from_numpy, scores))
    conf, is_out = np.concatenate(scores), np.repeat([0, 1], [inside, outside])
    fpr, tpr, _ = metrics.roc_curve(is_out, -conf, drop_intermediate=False)
    precision_in, recall_in, _ = metrics.precision_recall_curve(1 - is_out, conf)
    precision_out, recall_out, _ = metrics.precision_recall_curve(is_out, -conf)
    assert found == pytest.approx(
        {
            'auroc': 100 * metrics.roc_auc_score(is_out, -conf),
            'fpr95': 100 * fpr[np.argmax(tpr >= 0.95)],
            'aupr_in': 100 * metrics.auc(recall_in, precision_in),
            'aupr_out': 100 * metrics.auc(recall_out, precision_out),
        },
        abs=1e-3,
    )


def test_which_side_is_positive():
    """One of 100 known images looks strange: it is taken for another where 95 % of the others are found."""
    inside, outside = torch.full((100,), 2.0), torch.full((100,), 1.0)
    inside[0] = 0
    found = separation(inside.double(), outside.double())
    assert found['fpr95'] == 1 and found['auroc'] == 99


def test_scores_are_float64_and_keep_the_order_of_sure_answers():
    scores = ood_scores(torch.tensor([[20.0, 0], [25.0, 0]]))
    for values in scores.values():
        assert values.dtype == torch.float64 and values[0] < values[1]
    assert scores['energy'][0] == pytest.approx(np.log(np.exp(20) + 1), abs=1e-9)


def test_nearest_neighbours():
    generator = torch.Generator().manual_seed(0)
    bank, features = (torch.randn(n, 5, generator=generator) for n in (30, 7))
    bank = bank / bank.norm(dim=1, keepdim=True)
    distances = torch.cdist((features / features.norm(dim=1, keepdim=True)).double(), bank.double()).sort(1).values
    assert torch.allclose(nearest_neighbours(features, bank, 3), -distances[:, 2], atol=1e-5)


def images(seed, name):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(40) % 10, name=name)


def test_near_and_far_groups():
    net = timm.create_model('cifar_resnet8', pretrained=True)
    others = [images(i, name) for i, name in enumerate(('cifar100', 'test_tin', 'mnist', 'mine'), 1)]
    metrics = evaluate_ood(net, images(0, 'cifar10'), others, train=images(9, 'cifar10'), k=3)
    names = {row.outside: row.group for row in metrics.separations}
    assert names == {'cifar100': 'near', 'tin': 'near', 'mnist': 'far', 'mine': '', 'mean of near': 'near'}
    assert {row.score for row in metrics.separations} == {'softmax', 'energy', 'max_logit', 'knn'}
    near = [row.auroc for row in metrics.separations if row.group == 'near' and row.score == 'energy']
    assert near[2] == pytest.approx((near[0] + near[1]) / 2, abs=1e-3)
    assert json.loads(json.dumps(metrics.to_dict()))['inside'] == 'cifar10'


def test_known_answers(data_root):
    """The figures of `tests.oracles.forward` and scikit-learn, on the first 1,000 test images of both."""
    inside, outside = (read_labelled(needed(data_root / name))[:1000] for name in ('cifar10', 'cifar100'))
    metrics = evaluate_ood('cifar_resnet20.cifar10', inside, outside)
    found = {row.score: row.auroc for row in metrics.separations}
    assert found == pytest.approx({'softmax': 87.305, 'energy': 88.373, 'max_logit': 88.406}, abs=0.006)
    assert {row.group for row in metrics.separations} == {'near'}
