"""The model card: figures that are the measured ones, metadata that no text breaks, the same bytes every time."""

import itertools

import pytest
import yaml
from huggingface_hub import ModelCard

from resnet_hub.hub.card import make_card
from resnet_hub.hub.card_check import MARK, check_card
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.utils.errors import InputError
from resnet_hub.weights.folder import make_config

CIFAR10 = DATASETS['cifar10']
RESULT = {'dataset': 'cifar10', 'split': 'test', 'top1': 92.23, 'top5': 99.71, 'nll': 0.2871, 'images': 10000}


def config(architecture='cifar_resnet20', **changes):
    fields = {'mean': CIFAR10.mean, 'std': CIFAR10.std, 'num_classes': 10, 'label_names': CIFAR10.classes, **changes}
    return {**make_config(architecture, **fields), 'sha256': 'a' * 64}


def metadata(card):
    """As the Hub reads it: what stands between the first two lines of three dashes."""
    first, *lines = card.splitlines()
    assert first == '---'
    return yaml.safe_load('\n'.join(itertools.takewhile(lambda line: line.rstrip() != '---', lines)))


def test_metrics_are_those_of_the_evaluation():
    results = [RESULT, {**RESULT, 'split': 'train', 'top1': 100.0}]
    card = make_card('hf-hub:me/net', config(), results)
    data = metadata(card)
    (model,) = data['model-index']
    assert model['name'] == 'net'
    for result, written in zip(results, model['results'], strict=True):
        assert written['task'] == {'type': 'image-classification'}
        assert written['dataset'] == {
            'name': 'cifar10',
            'type': 'uoft-cs/cifar10',
            'config': 'plain_text',
            'split': result['split'],
        }
        assert [metric['value'] for metric in written['metrics']] == [result['top1'], result['top5'], result['nll']]
    assert '| cifar10 | test | 10,000 | 92.23 | 99.71 | 0.2871 |' in card
    assert data['datasets'] == ['uoft-cs/cifar10'] and data['library_name'] == 'timm'
    assert ModelCard(card).data.eval_results[0].metric_value == 92.23


def test_same_input_same_bytes():
    assert make_card('hf-hub:me/net', config(), [RESULT]) == make_card('hf-hub:me/net', config(), [dict(RESULT)])


@pytest.mark.parametrize(
    'text',
    [
        '---',
        '---\nlicense: mit\n---\n',
        'a "b" \'c\': [d, {e',
        'one\n\ntwo: three\n- four',
        '\ttab # comment',
        '*a &b !!python/object:os.system',
        '```\n---\n',
        '\u2028 \x85 %TAG',
    ],
)
def test_no_text_breaks_the_metadata(text):
    plain = metadata(make_card('hf-hub:me/net', config(), [RESULT]))
    labels = [text] * 10
    source = {'name': text, 'sha256': text, 'assumptions': [text], 'dropped': {text: text}}
    broken = config(label_names=labels, recipe={'model': text, 'dataset': text, text: text}, source=source)
    card = make_card('hf-hub:me/net', broken, [RESULT], description=text)
    assert {**metadata(card), 'datasets': 0, 'tags': 0} == {**plain, 'datasets': 0, 'tags': 0}
    assert text.strip() in card and card.endswith(f'\n{MARK}\n')
    assert card.partition('## Provenance')[2].count('\n- ') == 5, 'a list item was broken'
    assert 'base_model' not in metadata(make_card('hf-hub:me/net', config(source={'name': f'hf-hub:{text}'})))


def test_base_model():
    for source, base in (('hf-hub:a/b', 'a/b'), ('hf-hub:a/b@v1', 'a/b'), ('a/b.pth', None)):
        assert metadata(make_card('hf-hub:me/net', config(source={'name': source}))).get('base_model') == base


def test_every_architecture_has_a_card_with_its_paper():
    for name, row in ARCHITECTURES.items():
        card = make_card('hf-hub:me/net', config(name))
        assert f'url = {{{row.paper}}}' in card and f"'{name}', pretrained='hf-hub:me/net'" in card
        assert 'model-index' not in metadata(card)


def test_licence():
    def licence(changes, given=None):
        return metadata(make_card('hf-hub:me/net', config(**changes), license=given))['license']

    assert licence({'recipe': {'dataset': 'cifar10'}}) == 'unknown', 'whose they are has the say'
    assert licence({}) == 'unknown' == licence({'source': {'name': 'net.pth', 'sha256': 'b' * 64}})
    assert licence({'source': {'name': 'net.pth', 'sha256': 'b' * 64}}, 'MIT') == 'mit'
    assert licence({'source': {'name': 'cifar_resnet20.cifar10.safetensors', 'sha256': 'b' * 64}}) == 'unknown'
    assert licence({'source': {'weights': 'cifar_resnet20.osmr_cifar10', 'sha256': 'b' * 64}}) == 'mit'
    theirs = {'source': {'name': 'resnet20.th', 'sha256': '12fca82f' + '0' * 56}}
    assert licence(theirs) == 'bsd-2-clause' == licence(theirs, 'BSD-2-Clause')
    with pytest.raises(InputError, match=r'akamaster_cifar10.*BSD-2-Clause.*leave out --license'):
        licence(theirs, 'mit')


def test_published_weights_bring_their_notice():
    card = make_card(
        'hf-hub:me/net', config(source={'name': 'x.th', 'sha256': '12fca82f' + '0' * 56, 'layout': 'akamaster'})
    )
    notice = card.partition('## Third-party notice')[2]
    assert 'Copyright (c) 2018, Yerlan Idelbayev' in notice and 'BSD-2-Clause' in notice
    assert 'Third-party' not in make_card('hf-hub:me/net', config())
    assert 'assumed' in make_card('hf-hub:me/net', config(normalisation='assumed'))


def test_other_channels_and_arguments():
    card = make_card('hf-hub:me/net', config(in_chans=1, mean=[0.5], std=[0.2], model_args={'shortcut_type': 'A'}))
    assert 'torch.rand(1, 1, 32, 32)' in card and 'pipeline(' not in card and "`shortcut_type='A'`" in card
    card = make_card('hf-hub:me/net', config(model_args={'block': 'bottleneck', 'layers': [4, 4, 5]}))
    assert "`block='bottleneck'`, `layers=[4, 4, 5]`" in card and ', 13 bottleneck blocks,' in card


def test_ones_own_card_must_tell_the_same_figures():
    card = make_card('hf-hub:me/net', config(), [RESULT]).replace(MARK, 'My words.')
    check_card(card, config(), [RESULT])
    check_card(card.replace('\n', '\r\n'), config(), [RESULT])
    with pytest.raises(InputError, match=r'README.md says 92.23 of cifar10, test, top-1 .*says 93.0'):
        check_card(card, config(), [{**RESULT, 'top1': 93.0}])
    assert check_card('---\nlicense: mit\n---\n', config(), [RESULT]) == 'mit', 'it may say less, or more'
    check_card(card, config(), [{**RESULT, 'split': 'train', 'top1': 93.0}])
    check_card(make_card('hf-hub:me/net', config(), [{**RESULT, 'ece': 4.5}]), config(), [RESULT])
    for broken in ('---\na: [\n---\n', '---\n- a\n---\n', '---\nmodel-index: 3\n---\n'):
        with pytest.raises(InputError, match=r'metadata of README.md cannot be read'):
            check_card(broken, config(), [])
