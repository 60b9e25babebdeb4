// The panel of Deep FiLM in OHIF 3.10 (the build that MONAI Label 0.8.5 ships): a prompt, and what came of it.
//
// How it gets into a viewer that is already built:
// - app-config.js names this file in `extensions`. OHIF imports what it does not know as a module from that address and
//   takes its default export for an extension.
// - The extension gives one panel, `deep-film.panelModule.prompt`, which the mode in app-config.js shows at the right.
// - A panel must be a React component, and OHIF hands out no React. An element of React 18 is a plain object, so the two
//   needed are written down here: a <div>, into which this file puts plain DOM, and under it OHIF's own segmentation
//   panel (drawing tools and segment table).
// - labelmap.js reaches cornerstone through OHIF's cornerstone extension; nrrd.js reads and writes NRRD.
// A new OHIF may change any of these; tests/monailabel_app/test_ohif.py drives the panel in a browser.

import { Labelmaps } from './labelmap.js';
import { readNrrd, writeNrrd } from './nrrd.js';

const ID = 'deep-film';
const SEGMENT_TABLE = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools';
const OPTIONS = {
  precision: 'Precision',
};

let panel; // of the study that is open

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
    this.running = null; // the AbortController of the request under way
    this.models = {};
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
    this.options = html('div', {});
    this.known = html('p', {});
    this.start = html('button', { type: 'submit', className: 'primary' }, 'Segment');
    this.cancel = html('button', { type: 'button', hidden: true, onclick: () => this.running.abort() }, 'Cancel');
    this.save = html('button', { type: 'button', onclick: () => this.saveLabel() }, 'Save as finished label');
    this.status = html('p', { className: 'status', role: 'status' });
    this.answer = html('div', { className: 'answer' });
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
      html('details', {}, html('summary', {}, 'What it can segment'), this.known),
      html('details', {}, html('summary', {}, 'Options'), this.options),
      html('div', { className: 'buttons' }, this.start, this.cancel, this.save),
    );
    const style = html('link', { rel: 'stylesheet', href: new URL('./panel.css', import.meta.url).href });
    this.root = html('section', { className: 'deep-film' }, style, form, this.status, this.answer);
    this.attempt('Reading the models', (signal) => this.loadModels(signal));
  }

  async loadModels(signal) {
    const { models } = await (await ask('/info/', { signal })).json();
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
    const { config, labels } = this.models[this.model.value];
    this.known.textContent = Object.keys(labels).join(', ');
    const fields = Object.entries(OPTIONS).flatMap(([name, text]) => {
      const value = config[name];
      if (Array.isArray(value)) {
        const choices = value.map((choice) => html('option', { value: choice }, choice));
        return html('label', {}, text, html('select', { name }, ...choices));
      }
      if (typeof value === 'boolean') {
        return html('label', { className: 'check' }, html('input', { type: 'checkbox', name, checked: value }), text);
      }
      return [];
    });
    this.options.replaceChildren(...fields);
  }

  chosenOptions() {
    const fields = [...this.options.querySelectorAll('[name]')];
    return Object.fromEntries(
      fields.map((field) => [field.name, field.type === 'checkbox' ? field.checked : field.value]),
    );
  }

  run() {
    this.attempt('Segmenting', async (signal) => {
      this.answer.replaceChildren();
      if (!this.model.value) {
        await this.loadModels(signal);
      }
      const model = this.model.value;
      const series = this.labelmaps.activeSeries();
      const wish = {
        prompt: this.prompt.value,
        ...this.chosenOptions(),
        result_extension: '.nrrd',
        result_compress: true,
      };
      const body = new FormData();
      body.set('params', JSON.stringify(wish));
      const query = new URLSearchParams({ image: series.SeriesInstanceUID, output: 'all' });
      const response = await ask(`/infer/${encodeURIComponent(model)}?${query}`, { method: 'POST', body, signal });
      const parts = await response.formData();
      const found = JSON.parse(parts.get('params'));
      const { classes } = this.models[model];
      const segments = found.segments
        .filter(({ voxels }) => voxels)
        .map((segment) => ({ ...segment, preferred: classes.find(({ name }) => name === segment.name)?.value }));
      const locked = await this.labelmaps.add(series, await readNrrd(parts.get('image')), segments);
      this.showAnswer({ ...found, segments, locked });
    });
  }

  saveLabel() {
    this.attempt('Saving', async (signal) => {
      const series = this.labelmaps.activeSeries();
      const label = this.labelmaps.read(series);
      if (!label?.labels.length) {
        throw new Error('There is nothing to save for this series: segment something first.');
      }
      const body = new FormData();
      body.set('params', JSON.stringify({ label_info: label.labels }));
      body.set('label', await writeNrrd(label.volume), 'label.nrrd');
      const query = new URLSearchParams({ image: series.SeriesInstanceUID, tag: 'final' });
      await ask(`/datastore/label?${query}`, { method: 'PUT', body, signal });
      return `Saved: ${label.labels.map(({ name }) => name).join(', ')}.`;
    });
  }

  /** Do one thing at a time, showing the seconds it takes, then the sentence it returns or the error's own words. */
  async attempt(doing, action) {
    if (this.running) {
      return;
    }
    this.running = new AbortController();
    const began = performance.now();
    const seconds = () => `${Math.round((performance.now() - began) / 1000)} s`;
    const tick = () => this.say(`${doing} … ${seconds()}`);
    const timer = setInterval(tick, 1000);
    tick();
    this.showButtons();
    try {
      this.say((await action(this.running.signal)) ?? '');
    } catch (error) {
      const cancelled = error.name === 'AbortError';
      this.say(
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

  say(text, kind = '') {
    this.status.textContent = text;
    this.status.className = `status ${kind}`;
  }

  showAnswer({ segments, prompt, not_found: notFound, warnings, model, notice, locked }) {
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
      ['Not learned', prompt.left_out],
    ];
    this.answer.replaceChildren(
      ...warnings.map((warning) => html('p', { className: 'warning' }, warning)),
      html(
        'dl',
        {},
        ...lines.flatMap(([term, items]) =>
          items.length ? [html('dt', {}, term), html('dd', {}, ...commas(items))] : [],
        ),
      ),
      html('p', { className: 'model' }, `${model.name} ${model.version}. ${notice}`),
    );
  }

  close() {
    this.running?.abort();
    this.labelmaps.close();
  }
}

/** The server's answer; an error in its own words where it refuses. */
async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === 'AbortError') {
      throw error;
    }
    throw new Error(`The server at ${window.location.origin} does not answer (${error.message}). Is it running?`);
  }
  if (response.ok) {
    return response;
  }
  const text = await response.text();
  let detail;
  try {
    ({ detail } = JSON.parse(text));
  } catch {
    detail = `${response.status} ${response.statusText} ${text.slice(0, 300)}`;
  }
  throw new Error(typeof detail === 'string' ? detail : JSON.stringify(detail));
}

/** A DOM element; text is always put in as text. */
function html(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const commas = (items) => items.flatMap((item, index) => (index ? [', ', item] : [item]));

/** What React.createElement returns in React 18. */
function reactElement(type, { key = null, ref = null, ...props }, children) {
  return { $$typeof: Symbol.for('react.element'), type, key, ref, props: { ...props, children }, _owner: null };
}
