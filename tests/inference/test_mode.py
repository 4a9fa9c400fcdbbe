"""Whatever uses a user's network leaves it as it was, and ready to train."""

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from resnet_hub.data.images import Images
from resnet_hub.inference.evaluate import evaluate
from resnet_hub.inference.mode import evaluation_mode
from resnet_hub.inference.optimize import optimize
from resnet_hub.inference.predict import predict
from resnet_hub.utils.errors import ResnetHubError
from tests.oracles import NETWORKS


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(12) % 10)


@pytest.fixture(scope='module')
def files(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for number, pixels in enumerate(images.pixels.numpy()):
        Image.fromarray(pixels).save(folder / f'{number:02}.png')
    return sorted(folder.iterdir())


@pytest.fixture
def uses(images, files):
    """Everything that takes a user's network."""
    constants = (0.5,) * 3, (0.2,) * 3
    return {
        'evaluate': lambda model: evaluate(model, images, *constants, batch_size=5),
        'evaluate, bf16': lambda model: evaluate(model, images, *constants, bf16=True),
        'predict': lambda model: list(predict(model, files)),
        'predict, optimised': lambda model: list(predict(model, files, batch_size=5)),
        'optimize': lambda model: optimize(model)(torch.zeros(2, 3, 32, 32)),
    }


def small(name):
    stages = 4 if name.endswith(('18', '50')) else 3
    return timm.create_model(name, layers=(1,) * stages, widths=(16, 18, 21, 24)[:stages], zero_init_last=False)


def state(model):
    """All that must stay: identity, values and strides of tensors, and the modes."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {n: (id(t), t.data_ptr(), t.stride(), t.requires_grad, t.is_inference()) for n, t in tensors.items()},
        {n: (m.training, len(m._forward_hooks)) for n, m in model.named_modules()},
    )


def step(model):
    F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    torch.optim.SGD(model.parameters(), 0.01).step()


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('name', NETWORKS)
def test_train_use_train(name, memory_format, uses):
    model = small(name).to(memory_format=memory_format)
    model.conv1.weight.requires_grad_(False)
    model.bn1.eval()  # frozen statistics in a network that trains
    step(model)
    before, values = state(model), {n: t.clone() for n, t in model.state_dict().items()}
    for use in uses.values():
        use(model)
        assert state(model) == before
        assert all(torch.equal(t, values[n]) for n, t in model.state_dict().items())
    model.conv1.weight.requires_grad_(True)
    step(model)
    assert model.conv1.weight.grad is not None


def test_a_tensor_that_a_module_keeps_can_be_trained_with(uses):
    class Scaled(nn.Module):
        """Computes a tensor at its first call and keeps it, as many position encodings do."""

        scale = None

        def forward(self, x):
            self.scale = torch.ones(10) if self.scale is None else self.scale
            return x * self.scale

    for name, use in uses.items():
        if 'opti' not in name:
            model = nn.Sequential(small('cifar_resnet8'), Scaled())
            model.pretrained_cfg = model[0].pretrained_cfg
            use(model)
            step(model)


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3).eval())
    with pytest.raises(ResnetHubError, match='broken'), evaluation_mode(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise ResnetHubError('broken')
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_a_module_that_acts_on_a_change_of_mode_acts_both_times():
    """As layers do that merge low-rank weights for evaluation."""

    class Merging(nn.Module):
        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging())
    with evaluation_mode(model):
        assert model[0].merged
    assert not model[0].merged
