"""A new family is a table, a network of the same name, and one line."""

import shutil

from tests.conftest import ROOT

TABLE = """
from resnet_hub.tables.family import Architecture, Family

FAMILY = Family('toy_resnet', 'ToyResNet', 'toy ResNet', norm_first=False, arguments={'scale': 'of every branch.'})
ARCHITECTURES = {
    'toy_resnet8': Architecture(FAMILY, 'basic', (1, 1, 1), (16, 32, 64), 78042, 'https://arxiv.org/abs/1512.03385'),
}
"""
NETWORK = """
from resnet_hub.models.cifar_resnet import CifarResNet

class ToyResNet(CifarResNet):
    def __init__(self, block, layers, widths, scale=1.0, **kwargs):
        super().__init__(block, layers, widths, **kwargs)
        self.scale = scale
"""
USE = """
import sys
import torch, timm
assert timm.list_models(module='toy_resnet') == ['toy_resnet8']
assert not [name for name in sys.modules if name.startswith('resnet_hub.models')]
model = timm.create_model('toy_resnet8', scale=0.5)
assert (type(model).__name__, model.scale, sum(p.numel() for p in model.parameters())) == ('ToyResNet', 0.5, 78042)
timm.models.save_for_hf(model, 'out', safe_serialization=True)
assert timm.create_model('local-dir:out', pretrained=True).scale == 0.5

from resnet_hub import load_model, optimize
from resnet_hub.cli import main
x = torch.randn(2, 3, 32, 32)
torch.testing.assert_close(optimize(load_model('local-dir:out', 'cpu'))(x), model.eval()(x), rtol=1e-4, atol=1e-4)
assert main(['list', 'toy_resnet8']) == 0

model = torch.hub.load(CLONE, 'toy_resnet8', source='local', num_classes=7)
assert model(x).shape == (2, 7)
text = torch.hub._import_module('hubconf', CLONE + '/hubconf.py').toy_resnet8.__doc__
assert 'toy_resnet8: ToyResNet' in text and 'scale: of every branch.' in text
"""


def test_a_third_family(tmp_path, run_python):
    clone = tmp_path / 'clone'
    ignored = shutil.ignore_patterns('*.safetensors', '__pycache__')
    shutil.copytree(ROOT / 'resnet_hub', clone / 'resnet_hub', ignore=ignored)
    for name in ('hubconf.py', 'resnet_hub_autoload.py'):
        shutil.copy(ROOT / name, clone)
    (clone / 'resnet_hub' / 'tables' / 'toy_resnet.py').write_text(TABLE)
    (clone / 'resnet_hub' / 'models' / 'toy_resnet.py').write_text(NETWORK)
    table = clone / 'resnet_hub' / 'tables' / 'architectures.py'
    text = table.read_text()
    assert '_TABLES = (cifar_resnet, preact_resnet)' in text
    text = text.replace('import cifar_resnet, preact_resnet', 'import cifar_resnet, preact_resnet, toy_resnet')
    table.write_text(
        text.replace('_TABLES = (cifar_resnet, preact_resnet)', '_TABLES = (cifar_resnet, preact_resnet, toy_resnet)')
    )
    run_python(f'CLONE = {str(clone)!r}\n{USE}', PYTHONPATH=str(clone))
