/** The page: take a picture, show what the networks see and answer. */

import { look, Network, openPicture } from './classify.js';

const TOP = 5; // classes shown
const byId = (id) => document.getElementById(id);

/** Create an element with attributes and children; `null` children are left out. */
function element(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const percent = (p) => `${(100 * p).toFixed(1)} %`;
const duration = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);

/** Return the part of the page that shows a network's answers, and a function that fills it. */
function makeCard(network) {
  const { name, facts, threshold } = network.model;
  const classes = network.model.classes.map((label) => label.replaceAll('_', ' '));
  const verdict = element('p', { className: 'verdict' });
  const bars = element('ol', { className: 'bars' });
  const warning = element('p', { className: 'warning', hidden: true });
  const note = element('p', { className: 'muted' });
  const card = element(
    'article',
    { className: 'card' },
    element('h2', {}, name),
    element('p', { className: 'muted' }, facts),
    verdict,
    warning,
    bars,
    note,
    element(
      'details',
      {},
      element('summary', {}, `The ${classes.length} classes it knows`),
      element('ul', { className: 'classes' }, ...classes.map((label) => element('li', {}, label))),
    ),
  );

  function show({ probabilities, energy, milliseconds }) {
    const best = probabilities
      .map((p, i) => ({ p, label: classes[i] }))
      .sort((a, b) => b.p - a.p)
      .slice(0, TOP);
    verdict.replaceChildren(element('strong', {}, best[0].label), ` ${percent(best[0].p)}`);
    bars.replaceChildren(
      ...best.map(({ p, label }) => {
        const fill = element('span', { className: 'fill' });
        fill.style.width = percent(p).replace(' ', '');
        const track = element('span', { className: 'track', ariaHidden: 'true' }, fill);
        return element('li', {}, element('span', { className: 'label' }, label), track, element('span', { className: 'number' }, percent(p)));
      }),
    );
    const unknown = threshold !== null && energy < threshold.energy;
    card.classList.toggle('unknown', unknown);
    warning.hidden = !unknown;
    warning.textContent = unknown ? `This is probably none of the ${classes.length} classes.` : '';
    const comparison = threshold
      ? ` Of the ${threshold.source}, ${threshold.percent} % reach ${threshold.energy.toFixed(1)}.`
      : '';
    note.textContent = `The network took ${duration(milliseconds)}. Energy score: ${energy.toFixed(1)}.${comparison}`;
    return `${name}: ${best[0].label}, ${percent(best[0].p)}.${unknown ? ` ${warning.textContent}` : ''}`;
  }
  return { card, show };
}

/** Return a figure that shows the pixels that a network sees, and a function that fills it. */
function makeView(view, names) {
  const canvas = element('canvas', { width: view.size, height: view.size });
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `The picture, shrunk to ${view.size} by ${view.size} pixels`);
  const caption = `What ${names ?? 'the network'} sees: ${view.size}\u00a0×\u00a0${view.size} pixels`;
  const figure = element('figure', {}, canvas, element('figcaption', {}, caption));
  const context = canvas.getContext('2d');

  function show(pixels) {
    const image = context.createImageData(view.size, view.size);
    for (let i = 0; i < view.size ** 2; i++) {
      image.data.set([pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2], 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }
  return { figure, show };
}

function showError(message) {
  byId('error').textContent = message;
  byId('error').hidden = !message;
}

async function start() {
  const { models, examples } = await (await fetch('demo.json')).json();
  const networks = await Promise.all(models.map(Network.load));
  const cards = networks.map(makeCard);
  byId('answers').replaceChildren(...cards.map(({ card }) => card));

  // Networks that see the same pixels share them.
  const keys = [...new Set(models.map(({ view }) => JSON.stringify(view)))];
  const views = keys.map((key) => {
    const names = models.filter(({ view }) => JSON.stringify(view) === key).map(({ name }) => name);
    const text = keys.length > 1 ? names.join(' and ') : models.length > 1 ? 'each network' : null;
    return makeView(JSON.parse(key), text);
  });
  byId('views').replaceChildren(...views.map(({ figure }) => figure));

  let latest = 0;
  let address = '';

  /** Show a picture and what the networks answer, unless a later one has come in the meantime. */
  async function show(blob, caption) {
    const turn = ++latest;
    let picture;
    try {
      picture = await openPicture(blob);
    } catch {
      showError(`${caption} is no picture that this browser can read. Try a JPEG, PNG or WebP file.`);
      return;
    }
    const pixels = keys.map((key) => look(picture, JSON.parse(key)));
    picture.close();
    const answers = [];
    for (const network of networks) {
      answers.push(await network.classify(pixels[keys.indexOf(JSON.stringify(network.model.view))]));
    }
    if (turn !== latest) return;
    showError('');
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(blob);
    Object.assign(byId('preview'), { src: address, alt: caption, hidden: false });
    byId('caption').textContent = caption;
    views.forEach((view, i) => view.show(pixels[i]));
    byId('announcement').textContent = cards.map((card, i) => card.show(answers[i])).join(' ');
    document.documentElement.dataset.shown = turn;
  }

  const example = async ({ file, title }) => show(await (await fetch(file)).blob(), title);
  byId('examples').replaceChildren(
    ...examples.map((row) => {
      const button = element(
        'button',
        { type: 'button', onclick: () => example(row) },
        element('img', { src: row.file, alt: '' }),
        element('span', {}, row.title),
      );
      return element('li', {}, button);
    }),
  );
  byId('credits').textContent = `Example pictures: ${examples.map(({ title, credit }) => `${title} by ${credit}`).join('; ')}.`;
  takePictures(show);
  if (examples.length) await example(examples[0]);
}

/** Call `show(blob, name)` for each picture that is chosen, dropped or pasted. */
function takePictures(show) {
  const first = (files, missing) => {
    if (files.length) show(files[0], files[0].name || 'The pasted picture');
    else showError(missing);
  };
  byId('file').addEventListener('change', ({ target }) => {
    if (target.files.length) first(target.files);
    target.value = ''; // so that the same file can be chosen again
  });
  document.addEventListener('paste', (event) => {
    first(event.clipboardData.files, 'The clipboard holds no picture. Copy a picture first, not its address.');
  });
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    byId('drop').classList.add('over');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) byId('drop').classList.remove('over');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    byId('drop').classList.remove('over');
    first(event.dataTransfer.files, 'This is not a file. Save the picture first and drop the file.');
  });

  byId('paste').hidden = !navigator.clipboard?.read;
  byId('paste').addEventListener('click', async () => {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((name) => name.startsWith('image/'));
        if (type) return show(await item.getType(type), 'The pasted picture');
      }
      showError('The clipboard holds no picture. Copy a picture first, not its address.');
    } catch {
      showError('The browser does not let this button read the clipboard. Press Ctrl+V or ⌘V instead.');
    }
  });
}

start().catch((error) => {
  byId('loading')?.remove();
  showError(`The network cannot be loaded: ${error.message}. Reload the page. If that does not help, make the folder again.`);
  throw error;
});
