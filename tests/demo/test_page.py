"""The page in a real browser: its answers are Python's, and everybody can use it."""

from __future__ import annotations

import base64
import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_hub.data.decode import read_image
from resnet_hub.data.sources import read_labelled
from resnet_hub.demo.build import build_demo
from resnet_hub.demo.runtime import runtime_folder
from resnet_hub.inference.predict import predict
from resnet_hub.inference.transform import make_transform
from resnet_hub.registry.loading import load_model
from resnet_hub.utils.errors import ResnetHubError
from tests.pictures import CAT, encode, photograph

pytest.importorskip('onnxruntime')
playwright = pytest.importorskip('playwright.sync_api')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
if CHROMIUM is None:
    pytest.skip('chromium is not installed', allow_module_level=True)

FLAGS = (
    '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync'
).split()
NAMES = ('cifar_resnet20.cifar10', 'preact_resnet20.cifar10')
#: runs the page's own modules on the bytes of an image file
ANSWER = """async (encoded) => {
    const { look, Network, openPicture } = await import('/classify.js');
    const { models } = await (await fetch('/demo.json')).json();
    window.networks ??= await Promise.all(models.map(Network.load));
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    const picture = await openPicture(new Blob([bytes]));
    const answers = [];
    for (const network of window.networks) {
        const pixels = look(picture, network.model.view);
        answers.push({ pixels: [...pixels], ...(await network.classify(pixels)) });
    }
    return answers;
}"""


@pytest.fixture(scope='module')
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with two networks, served on this machine only."""
    try:
        runtime = runtime_folder()
    except ResnetHubError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp('demo') / 'page'
    build_demo(NAMES, folder, runtime=runtime)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()
        thread.join()


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, when its first example is classified; it must fetch nothing from elsewhere and log no error."""
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on('console', lambda message: complaints.append(message.text))
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.on('request', lambda r: r.url.startswith((address, 'blob:')) or complaints.append(r.url))
    page.goto(address)
    wait_for_answer(page, 1)
    yield page
    context.close()
    assert complaints == []


def wait_for_answer(page: Any, number: int) -> None:
    page.locator(f'html[data-shown="{number}"]').wait_for(state='attached', timeout=60_000)


def transparent() -> Image.Image:
    """Fully transparent, opaque, and nothing in between, where a canvas rounds otherwise."""
    picture = photograph(90, 60).convert('RGBA')
    picture.putalpha(Image.fromarray(np.uint8(255 * (np.arange(90) > 30))[None].repeat(60, 0)))
    return picture


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to the right
    return exif


PICTURES = {
    'JPEG of 640 × 480': lambda: encode(photograph(640, 480), format='JPEG', quality=90),
    'large JPEG, read in strips': lambda: encode(photograph(3000, 2001), format='JPEG'),
    'tall, columns first': lambda: encode(photograph(75, 333), format='PNG'),
    'turned by EXIF': lambda: encode(photograph(320, 200), format='JPEG', exif=turned()),
    'grey JPEG': lambda: encode(photograph(200, 200).convert('L'), format='JPEG'),
    'palette': lambda: encode(photograph(64, 64).quantize(64), format='PNG'),
    'transparent': lambda: encode(transparent(), format='PNG'),
    'tiny': lambda: encode(photograph(7, 5), format='PNG'),
    'WebP': lambda: encode(photograph(300, 200), format='WEBP', lossless=True),
}


@pytest.mark.parametrize('kind', PICTURES)
def test_probabilities_are_those_of_python(kind: str, page: Any, tmp_path: Path) -> None:
    path = tmp_path / 'picture'
    path.write_bytes(PICTURES[kind]())
    compare(page, [path])


def test_probabilities_of_test_pictures(page: Any, tmp_path: Path, data_root: Path) -> None:
    images = read_labelled(data_root, 'test', dataset='cifar10')
    paths = [tmp_path / f'{number}.png' for number in range(40)]
    for number, path in enumerate(paths):
        images.open(number).save(path)
    compare(page, paths)


def compare(page: Any, paths: list[Path]) -> None:
    """The page sees Pillow's pixels, bit for bit, and answers what `predict` does, to 1e-4."""
    answers = [page.evaluate(ANSWER, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    for position, name in enumerate(NAMES):
        model: Any = load_model(name, 'cpu')
        transform = make_transform(model, normalize=False)
        labels = model.pretrained_cfg['label_names']
        for answer, path, prediction in zip(answers, paths, predict(model, paths, topk=10), strict=True):
            seen = np.reshape(answer[position]['pixels'], (32, 32, 3))
            np.testing.assert_array_equal(seen, np.moveaxis(np.asarray(transform(read_image(path))), 0, 2))
            expected = dict(prediction.classes)
            found = dict(zip(labels, answer[position]['probabilities'], strict=True))
            assert found == pytest.approx(expected, abs=1e-4)


def test_what_is_shown(page: Any, tmp_path: Path) -> None:
    path = tmp_path / 'my photo.jpg'
    path.write_bytes(PICTURES['JPEG of 640 × 480']())
    page.get_by_label('Choose a picture').set_input_files(path)
    wait_for_answer(page, 2)
    cards = page.locator('article')
    assert cards.locator('h2').all_inner_texts() == list(NAMES)
    for name, card in zip(NAMES, cards.all(), strict=True):
        (prediction,) = predict(load_model(name, 'cpu'), [path])
        rows = [line.inner_text().split('\n') for line in card.locator('.bars li').all()]
        assert [(label, float(p.removesuffix(' %'))) for label, p in rows] == [
            (label, pytest.approx(100 * p, abs=0.06)) for label, p in prediction.classes
        ]
        widths = [float(fill.get_attribute('style').split()[1].rstrip('%;')) for fill in card.locator('.fill').all()]
        assert widths == pytest.approx([100 * p for _, p in prediction.classes], abs=0.06)
        assert re.search(r'The network took [\d.]+ ms\.', card.inner_text())
        assert re.search(r'Of the 10,000 CIFAR-10 test pictures, 95 % reach \d', card.inner_text())
    assert page.locator('figcaption').all_inner_texts()[0] == 'my photo.jpg'
    assert page.get_by_role('img', name='shrunk to 32 by 32').count() == 1  # both networks see the same
    assert NAMES[1] in page.locator('[aria-live=polite]').inner_text()


def test_a_picture_of_no_class(page: Any) -> None:
    warning = 'This is probably none of the 10 classes.'
    assert page.get_by_text(warning).count() == 0  # the first example is a cat
    page.get_by_role('button', name='a man with a camera').click()
    wait_for_answer(page, 2)
    assert page.locator('article').first.get_by_text(warning).is_visible()
    assert warning in page.locator('[aria-live=polite]').inner_text()


def test_drop_and_paste(page: Any) -> None:
    """The events that a browser sends when a person drops or pastes a file."""
    send = """([kind, name, encoded]) => {
        const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        if (name) transfer.items.add(new File([bytes], name));
        document.body.dispatchEvent(kind === 'drop'
            ? new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent(kind, { clipboardData: transfer, bubbles: true }));
    }"""
    cat = base64.b64encode(CAT.read_bytes()).decode()
    page.evaluate(send, ['drop', 'dropped.jpg', cat])
    wait_for_answer(page, 2)
    assert page.get_by_text('dropped.jpg').is_visible()
    page.evaluate(send, ['paste', 'pasted.jpg', cat])
    wait_for_answer(page, 3)
    assert page.get_by_text('pasted.jpg').is_visible()
    page.evaluate(send, ['paste', '', ''])
    assert 'The clipboard holds no picture' in page.get_by_role('alert').inner_text()
    page.evaluate(send, ['drop', 'notes.txt', base64.b64encode(b'no picture').decode()])
    page.get_by_text('notes.txt is no picture').wait_for()
    assert page.get_by_text('pasted.jpg').is_visible()  # the last answer stays
    page.evaluate(send, ['drop', 'again.jpg', cat])
    page.get_by_text('again.jpg').wait_for()
    assert page.get_by_role('alert').count() == 0


def test_by_keyboard(page: Any) -> None:
    """Tab reaches everything in a sensible order, with a visible focus; Enter works."""
    reached = []
    for _ in range(8):
        page.keyboard.press('Tab')
        reached.append(page.evaluate('document.activeElement.id || document.activeElement.innerText'))
        if 'coffee' in reached[-1]:
            break
    assert reached[0] == 'file' and 'coffee' in reached[-1]
    assert page.evaluate('getComputedStyle(document.activeElement).outlineStyle') == 'solid'
    page.keyboard.press('Enter')
    wait_for_answer(page, 2)
    assert page.locator('#caption').inner_text() == 'a cup of coffee'


@pytest.mark.parametrize('width', [320, 390, 1280])
def test_no_width_scrolls_sideways(width: int, browser: Any, address: str) -> None:
    page = browser.new_page(viewport={'width': width, 'height': 800})
    page.goto(address)
    wait_for_answer(page, 1)
    assert page.evaluate('document.documentElement.scrollWidth') == width
    boxes = [card.bounding_box() for card in page.locator('article').all()]
    assert (boxes[0]['y'] == boxes[1]['y']) == (width == 1280)  # side by side where there is room
    page.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_has_contrast(scheme: str, browser: Any, address: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3) for every colour of text on the ground that it stands on."""
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)
    wait_for_answer(page, 1)
    read = '(name) => getComputedStyle(document.documentElement).getPropertyValue(name)'
    pairs = [
        ('--text', '--page'),
        ('--text', '--card'),
        ('--muted', '--page'),
        ('--muted', '--card'),
        ('--text', '--track'),
        ('--on-accent', '--accent'),
        ('--warning', '--warning-back'),
        ('--error', '--error-back'),
    ]
    low = {}
    for front, back in pairs:
        lighter, darker = sorted((luminance(page.evaluate(read, name)) for name in (front, back)), reverse=True)
        low[front, back] = (lighter + 0.05) / (darker + 0.05)
    page.close()
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}


def luminance(colour: str) -> float:
    values = np.array([int(colour.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_a_network_that_cannot_be_loaded_is_said(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.route('**/*.onnx', lambda route: route.fulfill(status=404, body=''))
    page.goto(address)
    page.get_by_text('The network cannot be loaded').wait_for(timeout=60_000)
    page.close()
