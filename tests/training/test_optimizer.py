"""The optimizer beside timm's, the learning rate beside timm's schedule, and the average of the weights."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.optim.muon import zeropower_via_newtonschulz
from timm.scheduler import create_scheduler_v2
from torch import nn

from resnet_hub import Recipe
from resnet_hub.training.optimizer import (
    COEFFICIENTS,
    Average,
    average_share,
    learning_rate,
    make_optimizer,
    orthogonalise,
)


def steps(model, optimizer, count):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8)
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize('opt', ['muon', 'nmuon'])
@pytest.mark.parametrize('architecture', ['preact_resnet20', 'cifar_resnet8'])
def test_stacked_muon_takes_the_step_of_timms(architecture, opt):
    """One step, to the rounding of bfloat16; norms and biases, which timm updates in both, exactly."""
    torch.manual_seed(0)
    ours = timm.create_model(architecture, zero_init_last=False).to(memory_format=torch.channels_last)
    theirs, before = copy.deepcopy(ours), copy.deepcopy(ours.state_dict())
    options = {'lr': 0.01, 'weight_decay': 0.05, 'momentum': 0.95}
    one = steps(ours, make_optimizer(ours, Recipe(opt=opt, **options), torch.bfloat16), 1)
    two = steps(theirs, create_optimizer_v2(theirs, opt, **options), 1)
    for name, weight in two.items():
        if weight.ndim < 2:
            assert torch.equal(one[name], weight), name
        else:
            change = (weight - before[name]).norm()
            assert change > 0 and (one[name] - weight).norm() < 0.02 * change, name


def test_muon_in_float32_makes_singular_values_alike():
    """Without bfloat16's rounding, the change of a matrix has singular values in one band around 1 times its scale."""
    torch.manual_seed(0)
    model = nn.Linear(24, 16, bias=False)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(model, Recipe(opt='nmuon', lr=0.1, weight_decay=0.0), torch.float32)
    model.weight.grad = torch.randn(16, 24)
    optimizer.step()
    values = torch.linalg.svdvals(before - model.weight.detach()) / (0.1 * 0.2 * 24**0.5)
    assert values.min() > 0.7 and values.max() < 1.3


@pytest.mark.parametrize('shape', [(3, 16, 144), (2, 64, 16), (1, 32, 32)], ids=str)
def test_orthogonalisation_is_timms_in_float64(shape):
    """Matrices with singular values from 1 to 1e-4, where the error of bfloat16 is a tenth."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrices = u * torch.logspace(0, -4, u.shape[-1]) @ v
    expected = zeropower_via_newtonschulz(matrices.double(), 5, COEFFICIENTS, dtype=torch.float64)
    assert (orthogonalise(matrices) - expected).norm() < 1e-3 * expected.norm()


def test_a_classifier_of_three_classes_is_no_matrix_for_muon():
    """timm gives it to NAdamW too, since one side is so short."""
    ours = nn.Linear(32, 3)
    theirs = copy.deepcopy(ours)
    for model in (ours, theirs):
        model.weight.grad, model.bias.grad = torch.ones(3, 32), torch.ones(3)
    make_optimizer(ours, Recipe(opt='nmuon', lr=0.1)).step()
    create_optimizer_v2(theirs, 'nmuon', lr=0.1, weight_decay=5e-4).step()
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize('warmup_epochs', [0, 2])
def test_the_learning_rate_is_timms_cosine_schedule(warmup_epochs):
    recipe, per_epoch = Recipe(epochs=5, warmup_epochs=warmup_epochs, lr=0.4), 7
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.4)
    scheduler = create_scheduler_v2(
        optimizer, 'cosine', num_epochs=5 - warmup_epochs, warmup_epochs=warmup_epochs, warmup_lr=0.004,
        warmup_prefix=True, step_on_epochs=False, updates_per_epoch=per_epoch,
    )[0]  # fmt: skip
    for step in range(5 * per_epoch):
        scheduler.step_update(step)
        assert learning_rate(recipe, step, per_epoch) == pytest.approx(optimizer.param_groups[0]['lr'])


def test_each_layer_has_the_rate_that_layer_decay_gives_it():
    model = timm.create_model('cifar_resnet8')
    groups = make_optimizer(model, Recipe(layer_decay=0.5)).param_groups
    scale = {id(p): group['lr_scale'] for group in groups for p in group['params']}
    assert scale[id(model.fc.weight)] == 1 and scale[id(model.layer3[0].conv1.weight)] < 1
    assert (
        scale[id(model.conv1.weight)]
        < scale[id(model.layer1[0].conv1.weight)]
        < scale[id(model.layer2[0].conv1.weight)]
    )


def test_the_average_warms_up_as_timms():
    """Compared with timm's ModelEmaV3 after each of 30 steps, running statistics and counters included."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ours, theirs = Average(model), timm.utils.ModelEmaV3(model, decay=0.8, use_warmup=True)
    for step in range(30):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(1)
        ours.update(torch.tensor(average_share(0.8, step)))
        theirs.update(model, step + 1)
        torch.testing.assert_close(ours.module.state_dict(), theirs.module.state_dict())
    assert not ours.module.training and average_share(0.8, 1000) == pytest.approx(0.2)


def test_the_average_of_a_short_run_is_not_its_beginning():
    """With 0.998 and no warm-up, 40 % of the first random weights would be left after 450 steps."""
    left = 1.0
    for step in range(450):
        left *= 1 - average_share(0.998, step)
    assert left < 1e-6 < 0.998**450
