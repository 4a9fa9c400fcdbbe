"""Packages that people use on a network: attribution, differential privacy, curvature. Each is skipped where it is missing."""

import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

#: each block type of each family
NETWORKS = ['cifar_resnet20', 'cifar_resnet164', 'preact_resnet20', 'preact_resnet164', 'wide_resnet16_2']
every_network = pytest.mark.parametrize('name', NETWORKS)
pytestmark = pytest.mark.filterwarnings('default')  # these packages warn of their own affairs


def peer(name):
    """Import a package or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return pytest.importorskip(name)


def small(name, **kwargs):
    torch.manual_seed(0)
    options = {'layers': (1, 2, 1), 'widths': (16, 18, 21), 'zero_init_last': False, **kwargs}
    return timm.create_model(name, **options).eval()


def images(count=4, seed=1):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@every_network
def test_opacus_trains_after_its_own_fix(name):
    """The gradients of single images, clipped to norm 0.1 and added up, are those of one image at a time."""
    peer('opacus')
    from opacus import PrivacyEngine
    from opacus.validators import ModuleValidator

    model = ModuleValidator.fix(small(name).train())
    assert not ModuleValidator.validate(model, strict=False)
    x, y = images(), torch.arange(4)
    wanted = []
    for i in range(4):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        wanted.append([p.grad.clone() for p in model.parameters()])
    model.zero_grad()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    private, optimizer, _ = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=loader,
        noise_multiplier=0.0,
        max_grad_norm=0.1,
        poisson_sampling=False,
    )
    before = [p.detach().clone() for p in private.parameters()]
    F.cross_entropy(private(x), y).backward()
    samples = [p.grad_sample for p in private.parameters()]
    for i, gradients in enumerate(wanted):
        for sample, gradient in zip(samples, gradients, strict=True):
            torch.testing.assert_close(sample[i], gradient, rtol=1e-3, atol=1e-5)
    optimizer.step()
    moved = sum(((p - b) ** 2).sum() for p, b in zip(private.parameters(), before, strict=True)).sqrt()
    assert 0 < moved <= 0.1 * 0.1 * 1.001


@every_network
def test_shap_deep_explainer(name):
    """The attributions of an image add up to what its logits differ by from those of the background."""
    shap = peer('shap')
    model, background, x = small(name), images(3), images(2, seed=2)
    values = shap.DeepExplainer(model, background).shap_values(x, check_additivity=False)
    assert values.shape == (2, 3, 16, 16, 10)
    with torch.no_grad():
        difference = model(x) - model(background).mean(0)
    torch.testing.assert_close(torch.as_tensor(values).float().sum((1, 2, 3)), difference, rtol=0.02, atol=0.02)


@every_network
def test_captum(name):
    """Integrated gradients are complete; layer attribution and guided backpropagation hook single modules."""
    attr = peer('captum.attr')
    model, x = small(name).double(), images(2).double()
    attributions, delta = attr.IntegratedGradients(model).attribute(
        x, target=1, n_steps=400, return_convergence_delta=True
    )
    assert attributions.shape == x.shape
    assert delta.abs().max() < 0.05
    assert attr.LayerGradCam(model, model.layer3).attribute(x, target=1).shape == (2, 1, 4, 4)
    assert attr.GuidedBackprop(model).attribute(x, target=1).any()
    attributions, delta = attr.DeepLift(model).attribute(x, target=1, return_convergence_delta=True)
    assert attributions.any()
    assert delta.abs().max() < 0.05


@every_network
def test_grad_cam(name):
    cam = peer('pytorch_grad_cam')
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = small(name), images(2)
    maps = cam.GradCAM(model, [model.layer3[-1]])(x, [ClassifierOutputTarget(1)] * 2)
    assert maps.shape == (2, 16, 16)
    grads = []
    features = model.forward_intermediates(x, [3], intermediates_only=True)[0].detach().requires_grad_()
    grads = torch.autograd.grad(model.forward_head(model.act(model.norm(features)))[:, 1].sum(), features)[0]
    expected = (grads.mean((2, 3), keepdim=True) * features).sum(1).clamp(min=0).detach()
    for found, low in zip(torch.as_tensor(maps), expected, strict=True):
        wanted = F.interpolate(low[None, None], (16, 16), mode='bilinear', align_corners=False)[0, 0]
        assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.9


@every_network
def test_zennit(name):
    """Layer-wise relevance propagation hooks every module."""
    peer('zennit')
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus

    model, x = small(name), images(2)
    with Gradient(model, EpsilonPlus()) as attributor:
        _, relevance = attributor(x, torch.eye(10)[[1, 1]])
    assert relevance.shape == x.shape
    assert relevance.isfinite().all()
    assert relevance.any()
    plain = x.clone().requires_grad_()
    gradient = torch.autograd.grad(model(plain)[:, 1].sum(), plain)[0]
    with Gradient(model) as attributor:
        torch.testing.assert_close(attributor(x, torch.eye(10)[[1, 1]])[1], gradient)


@every_network
def test_backpack_after_its_own_converter(name):
    """The gradients of single images add up to the gradient, and have the norms of one image at a time."""
    backpack = peer('backpack')
    from backpack.extensions import BatchGrad

    model, x, y = small(name), images(3), torch.arange(3)
    norms = []
    for i in range(3):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        norms.append(sum(p.grad.square().sum() for p in model.parameters()))
    model.zero_grad()
    extended = backpack.extend(model, use_converter=True).eval()
    loss = backpack.extend(nn.CrossEntropyLoss(reduction='sum'))(extended(x), y)
    with backpack.backpack(BatchGrad()):
        loss.backward()
    for p in extended.parameters():
        torch.testing.assert_close(p.grad_batch.sum(0), p.grad, rtol=1e-3, atol=1e-4)
    found = [sum(p.grad_batch[i].square().sum() for p in extended.parameters()) for i in range(3)]
    torch.testing.assert_close(torch.stack(found), torch.stack(norms), rtol=1e-3, atol=1e-5)


@every_network
def test_torch_func(name):
    """Gradients of single images by vmap, and an ensemble of networks in one call."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    model, x, y = small(name), images(3), torch.arange(3)
    parameters = dict(model.named_parameters())

    def loss(parameters, image, label):
        return F.cross_entropy(functional_call(model, parameters, image[None]), label[None])

    single = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    for i in range(3):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for key, parameter in parameters.items():
            torch.testing.assert_close(single[key][i], parameter.grad, rtol=1e-3, atol=1e-5)
    others = [small(name), small(name).train().eval()]
    nn.init.normal_(others[1].conv1.weight)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            together = vmap(lambda p, b: functional_call(model, (p, b), x))(*stack_module_state(others))
            for found, other in zip(together, others, strict=True):
                torch.testing.assert_close(found, other(x), rtol=1e-4, atol=1e-4)


@every_network
def test_laplace(name):
    """A posterior of the last layer, whose mean prediction stays near the network's."""
    laplace = peer('laplace')
    model, x, y = small(name), images(16), torch.arange(16) % 10
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    posterior = laplace.Laplace(model, 'classification', subset_of_weights='last_layer', hessian_structure='diag')
    posterior.fit(loader)
    probabilities = posterior(x[:4], link_approx='probit')
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
    posterior.prior_precision = 1e8  # no uncertainty: the network itself
    torch.testing.assert_close(posterior(x[:4], link_approx='probit'), model(x[:4]).softmax(1), rtol=1e-2, atol=1e-3)
