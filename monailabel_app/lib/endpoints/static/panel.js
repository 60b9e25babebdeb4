// The panel of Deep FiLM in OHIF 3.10 (the build that MONAI Label 0.8.5 ships): a prompt and its result.
//
// How it is added to a viewer that is already built:
// - app-config.js names this file in `extensions`. OHIF imports unknown extensions as modules from that address and takes
//   the default export.
// - The extension provides one panel, `deep-film.panelModule.prompt`, which the mode in app-config.js shows at the right.
// - A panel must be a React component, but OHIF does not export React. Since an element of React 18 is a plain object,
//   two are written by hand: a <div>, which receives plain DOM, and below it OHIF's own segmentation panel.
// - labelmap.js reaches cornerstone through OHIF's cornerstone extension; nrrd.js reads and writes NRRD.
// A new OHIF may change any of these; tests/monailabel_app/test_ohif.py runs the panel in a browser.

import { Labelmaps } from './labelmap.js';
import { readNifti } from './nifti.js';
import { readNrrd, writeNrrd } from './nrrd.js';

const ID = 'deep-film';
const ANNOTATOR = 'deep-film-annotator'; // in the browser's storage
const SEGMENT_TABLE = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools';

let panel; // of the open study

export default {
  id: ID,
  getPanelModule({ servicesManager, extensionManager }) {
    const mount = (host) => {
      panel ??= new Panel(new Labelmaps({ servicesManager, extensionManager }));
      host?.append(panel.root);
    };
    const component = () =>
      reactElement('div', { className: 'deep-film-column' }, [
        reactElement('div', { key: 'prompt', ref: mount }),
        reactElement(extensionManager.getModuleEntry(SEGMENT_TABLE).component, { key: 'table' }),
      ]);
    return [{ name: 'prompt', iconName: 'tab-segmentation', iconLabel: 'Deep FiLM', label: 'Deep FiLM', component }];
  },
  onModeExit() {
    panel?.close();
    panel = undefined;
  },
};

class Panel {
  constructor(labelmaps) {
    this.labelmaps = labelmaps;
    this.running = null; // the AbortController of the current request
    this.models = {};
    this.saved = new Map(); // series -> names of the structures of its saved label, once looked for
    this.model = html('select', { name: 'model', onchange: () => this.showModel() });
    this.prompt = html('textarea', {
      name: 'prompt',
      rows: 2,
      maxLength: 500,
      placeholder: 'liver and both kidneys',
      onkeydown: (event) => {
        if (event.key === 'Enter' && !event.shiftKey) {
          event.preventDefault();
          this.run();
        }
      },
    });
    this.precision = html('select', { name: 'precision' });
    this.known = html('p', {});
    this.trained = html('p', { className: 'model' });
    this.annotator = html('input', {
      name: 'annotator',
      maxLength: 64,
      placeholder: 'stands in what is saved',
      value: window.localStorage.getItem(ANNOTATOR) ?? '',
      onchange: () => window.localStorage.setItem(ANNOTATOR, this.annotator.value),
    });
    this.start = html('button', { type: 'submit', className: 'primary' }, 'Segment');
    this.cancel = html('button', { type: 'button', hidden: true, onclick: () => this.running.abort() }, 'Cancel');
    this.save = html('button', { type: 'button', onclick: () => this.saveLabel() }, 'Save as finished label');
    this.status = html('p', { className: 'status', role: 'status' });
    this.result = html('div', { className: 'result' });
    const form = html(
      'form',
      {
        onsubmit: (event) => {
          event.preventDefault();
          this.run();
        },
      },
      html('label', {}, 'What to segment', this.prompt),
      html('label', {}, 'Model', this.model),
      this.trained,
      html('details', {}, html('summary', {}, 'What it can segment'), this.known),
      html('details', {}, html('summary', {}, 'Options'), html('label', {}, 'Precision', this.precision)),
      html('label', {}, 'Annotator', this.annotator),
      html('div', { className: 'buttons' }, this.start, this.cancel, this.save),
    );
    const style = html('link', { rel: 'stylesheet', href: new URL('./panel.css', import.meta.url).href });
    this.root = html('section', { className: 'deep-film' }, style, form, this.status, this.result);
    this.attempt('Reading the models', (signal) => this.loadModels(signal));
    this.watch = setInterval(() => this.showSavedLabel(), 1000);
  }

  async loadModels(signal) {
    const { models } = await (await request('/info/', { signal })).json();
    this.models = Object.fromEntries(Object.entries(models).filter(([, { type }]) => type === 'segmentation'));
    if (!Object.keys(this.models).length) {
      throw new Error('This server has no segmentation model. Start it with the bundle of one.');
    }
    this.model.replaceChildren(
      ...Object.entries(this.models).map(([name, { version, trained }]) =>
        html('option', { value: name }, `${name} ${version}${trained ? '' : ' (untrained)'}`),
      ),
    );
    this.showModel();
  }

  showModel() {
    const { config, labels, trained_on: trainedOn } = this.models[this.model.value];
    this.trained.textContent = `Trained on ${trainedOn}.`;
    this.known.textContent = Object.keys(labels).join(', ');
    this.precision.replaceChildren(...config.precision.map((value) => html('option', { value }, value)));
  }

  run() {
    this.attempt('Segmenting', async (signal) => {
      this.result.replaceChildren();
      if (!this.model.value) {
        await this.loadModels(signal);
      }
      const model = this.model.value;
      const series = this.labelmaps.activeSeries();
      await this.loadSavedLabel(series, signal);
      const params = {
        prompt: this.prompt.value,
        precision: this.precision.value,
        result_extension: '.nrrd',
        result_compress: true,
      };
      const body = new FormData();
      body.set('params', JSON.stringify(params));
      const query = new URLSearchParams({ image: series.SeriesInstanceUID, output: 'all' });
      const response = await request(`/infer/${encodeURIComponent(model)}?${query}`, { method: 'POST', body, signal });
      const parts = await response.formData();
      const report = JSON.parse(parts.get('params'));
      const { classes } = this.models[model];
      const { name, version, weights } = report.model;
      const origin = { algorithm_type: 'AUTOMATIC', model: `${name} ${version}, weights ${weights}` };
      const segments = report.segments
        .filter(({ voxels }) => voxels)
        .map((segment) => ({ ...segment, origin, preferred: classes.find((one) => one.name === segment.name)?.value }));
      const volume = await readNrrd(parts.get('image'));
      const kept = await this.labelmaps.add(series, volume, segments);
      const replace = async () => {
        const corrected = segments.filter(({ title }) => kept.corrected.includes(title));
        await this.labelmaps.add(series, volume, corrected, { replace: true });
        this.showResult({ ...report, segments, locked: kept.locked, corrected: [] });
      };
      this.showResult({ ...report, segments, ...kept, replace });
    });
  }

  /** Show the saved label of the series in the active viewport, once, as soon as the viewport shows it. */
  showSavedLabel() {
    const series = this.labelmaps.shownSeries();
    if (series && !this.running && Object.keys(this.models).length && !this.saved.has(series.SeriesInstanceUID)) {
      this.attempt('Looking for a saved label', (signal) => this.loadSavedLabel(series, signal));
    }
  }

  async loadSavedLabel(series, signal) {
    const image = series.SeriesInstanceUID;
    if (this.saved.has(image)) {
      return '';
    }
    const query = new URLSearchParams({ label: image, tag: 'final' });
    const response = await fetch(`/datastore/label?${query}`, { signal });
    if (response.status === 404) {
      this.saved.set(image, []);
      return '';
    }
    if (!response.ok) {
      this.saved.set(image, []);
      throw new Error(`A saved label of this series cannot be shown: ${await detailOf(response)}`);
    }
    const { label_info: entries = [] } = await (await request(`/datastore/label/info?${query}`, { signal })).json();
    const classes = Object.values(this.models).flatMap((model) => model.classes ?? []);
    const segments = entries.map(({ name, idx, algorithm_type = 'SEMIAUTOMATIC', model = '' }) => {
      const known = classes.find((one) => one.name === name);
      const color = known?.color ?? [1, 2, 3].map((part) => 80 + ((idx * 67 * part) % 160));
      return { value: idx, title: name, color, preferred: known?.value, origin: { algorithm_type, model, saved: true } };
    });
    await this.labelmaps.add(series, await readNifti(await response.blob()), segments, { replace: true });
    this.saved.set(image, entries.map(({ name }) => name));
    return entries.length ? `The saved label is shown: ${entries.map(({ name }) => name).join(', ')}.` : '';
  }

  saveLabel() {
    this.attempt('Saving', async (signal) => {
      const series = this.labelmaps.activeSeries();
      await this.loadSavedLabel(series, signal);
      const label = this.labelmaps.read(series);
      if (!label?.labels.length) {
        throw new Error('There is nothing to save for this series: segment something first.');
      }
      const image = series.SeriesInstanceUID;
      const names = label.labels.map(({ name }) => name);
      const missing = this.saved.get(image).filter((name) => !names.includes(name));
      const question =
        `The saved label also has ${missing.join(', ')}, which the table does not have. ` +
        'OK removes them from the label, Cancel keeps them.';
      const replace = missing.length > 0 && window.confirm(question);
      const annotator = this.annotator.value.trim();
      const body = new FormData();
      body.set('params', JSON.stringify({ label_info: label.labels, annotator, replace }));
      body.set('label', await writeNrrd(label.volume), 'label.nrrd');
      const query = new URLSearchParams({ image, tag: 'final' });
      await request(`/datastore/label?${query}`, { method: 'PUT', body, signal });
      this.saved.set(image, replace ? names : [...new Set([...names, ...missing])]);
      return `Saved: ${names.join(', ')}.`;
    });
  }

  /** Run one action at a time; show its seconds, then the sentence that it returns or the message of its error. */
  async attempt(doing, action) {
    if (this.running) {
      return;
    }
    this.running = new AbortController();
    const began = performance.now();
    const seconds = () => `${Math.round((performance.now() - began) / 1000)} s`;
    const tick = () => this.showStatus(`${doing} … ${seconds()}`);
    const timer = setInterval(tick, 1000);
    tick();
    this.showButtons();
    try {
      this.showStatus((await action(this.running.signal)) ?? '');
    } catch (error) {
      const cancelled = error.name === 'AbortError';
      this.showStatus(
        cancelled ? `Cancelled after ${seconds()}; the segments are as they were.` : error.message,
        cancelled ? '' : 'error',
      );
    } finally {
      clearInterval(timer);
      this.running = null;
      this.showButtons();
    }
  }

  showButtons() {
    this.start.hidden = this.running !== null;
    this.cancel.hidden = this.running === null;
    this.save.disabled = this.running !== null;
  }

  showStatus(text, kind = '') {
    this.status.textContent = text;
    this.status.className = `status ${kind}`;
  }

  showResult({ segments, prompt, not_found: notFound, warnings, model, notice, locked, corrected, replace }) {
    const rows = segments.map(({ title, color, volume_ml: volume }) => {
      const swatch = html('span', { className: 'swatch' });
      swatch.style.background = `rgb(${color.join(',')})`;
      return html('li', {}, swatch, title, html('span', { className: 'volume' }, `${volume.toFixed(1)} mL`));
    });
    const lines = [
      ['Understood', prompt.understood],
      ['Read', prompt.corrections.map(({ typed, read_as: word }) => `“${typed}” as “${word}”`)],
      ['Found', rows.length ? [html('ul', {}, ...rows)] : ['nothing']],
      ['Not found', notFound],
      ['Locked, kept', locked],
      ['Kept', corrected.map((title) => `${title} (corrected or saved)`)],
      ['Not learned', prompt.left_out],
    ];
    this.result.replaceChildren(
      ...warnings.map((warning) => html('p', { className: 'warning' }, warning)),
      html(
        'dl',
        {},
        ...lines.flatMap(([term, items]) =>
          items.length ? [html('dt', {}, term), html('dd', {}, ...commas(items))] : [],
        ),
      ),
      ...(corrected.length ? [button('Replace these by the result', replace)] : []),
      html('p', { className: 'model' }, `${model.name} ${model.version}, trained on ${model.trained_on}. ${notice}`),
    );
  }

  close() {
    clearInterval(this.watch);
    this.running?.abort();
    this.labelmaps.close();
  }
}

/** The server's response; an error with its message where it refuses. */
async function request(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === 'AbortError') {
      throw error;
    }
    throw new Error(`The server at ${window.location.origin} does not respond (${error.message}). Is it running?`);
  }
  if (response.ok) {
    return response;
  }
  throw new Error(await detailOf(response));
}

/** The message of a response that refuses. */
async function detailOf(response) {
  const text = await response.text();
  let detail;
  try {
    ({ detail } = JSON.parse(text));
  } catch {
    detail = `${response.status} ${response.statusText} ${text.slice(0, 300)}`;
  }
  return typeof detail === 'string' ? detail : JSON.stringify(detail);
}

/** A DOM element; strings are added as text, never parsed. */
function html(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const button = (text, onclick) => html('button', { type: 'button', onclick }, text);

const commas = (items) => items.flatMap((item, index) => (index ? [', ', item] : [item]));

/** What React.createElement returns in React 18. */
function reactElement(type, { key = null, ref = null, ...props }, children) {
  return { $$typeof: Symbol.for('react.element'), type, key, ref, props: { ...props, children }, _owner: null };
}
