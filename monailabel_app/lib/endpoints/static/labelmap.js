// The label map of a series in OHIF's segment table: results are added to it, and it is read to be saved.
//
// Voxels are transferred by geometry: the patient position of each pixel of each slice is looked up in the result, so
// that neither the order of the slices nor the axes of the result matter.
//
// A copy of what was added shows which segments were changed since, with whatever tool. How each was made is told in
// DICOM's terms (Segment Algorithm Type): AUTOMATIC by a model, SEMIAUTOMATIC corrected, MANUAL drawn by hand.

const LABELMAP = 'Labelmap';
const MAX_SEGMENTS = 255;

export class Labelmaps {
  constructor({ servicesManager, extensionManager }) {
    const common = extensionManager.getModuleEntry('@ohif/extension-cornerstone.utilityModule.common');
    const { cornerstone, cornerstoneTools } = common.exports.getCornerstoneLibraries();
    this.services = servicesManager.services;
    this.core = cornerstone;
    this.tools = cornerstoneTools;
    this.coloured = new WeakSet();
    this.added = new Map(); // image id of a slice -> its pixels as they were added
    this.origins = new Map(); // segmentation -> segment index -> { algorithm_type, model }, and saved
    this.shown = cornerstoneTools.Enums.Events.SEGMENTATION_REPRESENTATION_ADDED;
    this.onShown = ({ detail }) => this.colour(detail);
    cornerstone.eventTarget.addEventListener(this.shown, this.onShown);
  }

  close() {
    this.core.eventTarget.removeEventListener(this.shown, this.onShown);
  }

  /** The CT series in the active viewport, as OHIF's display set. */
  activeSeries() {
    const { viewportGridService, displaySetService } = this.services;
    const { viewports, activeViewportId } = viewportGridService.getState();
    const shown = viewports.get(activeViewportId)?.displaySetInstanceUIDs ?? [];
    const series = shown.map((uid) => displaySetService.getDisplaySetByUID(uid)).find((set) => set?.Modality === 'CT');
    if (!series?.imageIds?.length) {
      throw new Error('The active viewport shows no CT series. Click the viewport that shows the one to segment.');
    }
    return series;
  }

  /** The same once the viewport shows its images, else null. */
  shownSeries() {
    const { viewportGridService, cornerstoneViewportService } = this.services;
    const { activeViewportId } = viewportGridService.getState();
    const viewport = cornerstoneViewportService.getCornerstoneViewport(activeViewportId);
    try {
      return viewport?.getImageData?.() ? this.activeSeries() : null;
    } catch {
      return null;
    }
  }

  /**
   * Add a result: a volume, and the value, title, colour and origin of each segment in it. These replace segments of
   * the same title and overwrite others. Kept are segments that are locked in the table, and those that a person has
   * changed, drawn or saved; of these, `replace` gives up the ones that the result has. Returns the titles of its
   * segments that were not written, being `locked` or `corrected`.
   */
  async add(series, volume, segments, { replace = false } = {}) {
    if (!segments.length) {
      return { locked: [], corrected: [] };
    }
    const segmentationId = await this.ensure(series);
    const { segmentationService } = this.services;
    const origins = this.originsOf(segmentationId);
    const corrected = this.corrected(segmentationService.getSegmentation(segmentationId));
    for (const { title, preferred } of replace ? segments : []) {
      corrected.delete(indexFor(segmentationService.getSegmentation(segmentationId).segments, { title, preferred }));
    }
    const indices = new Map();
    for (const { value, title, color, preferred, origin } of segments) {
      const existing = segmentationService.getSegmentation(segmentationId).segments;
      const segmentIndex = indexFor(existing, { title, preferred });
      if (!existing[segmentIndex]) {
        segmentationService.addSegment(segmentationId, { segmentIndex, label: title, color: [...color, 255] });
      }
      indices.set(value, segmentIndex);
      if (!corrected.has(segmentIndex) && !existing[segmentIndex]?.locked) {
        origins.set(segmentIndex, origin);
      }
    }
    const centres = this.write(segmentationId, volume, indices, corrected);
    const all = segmentationService.getSegmentation(segmentationId).segments;
    for (const [segmentIndex, world] of centres) {
      all[segmentIndex].cachedStats = { center: { world } }; // where a click on its row in the table goes
    }
    this.tools.segmentation.triggerSegmentationEvents.triggerSegmentationDataModified(segmentationId);
    const titles = (test) => [...indices.values()].filter(test).map((index) => all[index].label);
    return {
      locked: titles((index) => all[index].locked),
      corrected: titles((index) => !all[index].locked && corrected.has(index)),
    };
  }

  /** How the segments of a segmentation were made, by index. */
  originsOf(segmentationId) {
    if (!this.origins.has(segmentationId)) {
      this.origins.set(segmentationId, new Map());
    }
    return this.origins.get(segmentationId);
  }

  /** Indices of the segments whose voxels are not those that were added. */
  changed(segmentation) {
    const changed = new Set();
    for (const { pixels, imageId } of this.slices(segmentation)) {
      const added = this.added.get(imageId);
      for (let pixel = 0; pixel < pixels.length; pixel++) {
        const was = added?.[pixel] ?? 0;
        if (pixels[pixel] !== was) {
          changed.add(pixels[pixel]).add(was);
        }
      }
    }
    changed.delete(0);
    return changed;
  }

  /** Indices of the segments that a person has changed, drawn or saved. */
  corrected(segmentation) {
    const corrected = this.changed(segmentation);
    for (const [index, { saved }] of this.originsOf(segmentation.segmentationId)) {
      if (saved) {
        corrected.add(index);
      }
    }
    return new Set([...corrected].filter((index) => segmentation.segments[index])); // not those deleted since
  }

  /** The label map of a series and the names of its values, or null if there is none. */
  read(series) {
    const segmentation = this.services.segmentationService.getSegmentation(idOf(series));
    if (!segmentation) {
      return null;
    }
    const slices = this.slices(segmentation);
    const [{ row, column, rows, columns }] = slices;
    const normal = cross(column, row);
    slices.sort((one, other) => dot(one.origin, normal) - dot(other.origin, normal));
    const [first, last] = [slices[0].origin, slices.at(-1).origin];
    const step = slices.length > 1 ? last.map((end, axis) => (end - first[axis]) / (slices.length - 1)) : normal;
    const voxels = new Uint8Array(rows * columns * slices.length);
    slices.forEach(({ pixels }, k) => voxels.set(pixels, k * rows * columns));
    const present = new Uint8Array(256);
    for (let voxel = 0; voxel < voxels.length; voxel++) {
      present[voxels[voxel]] = 1;
    }
    const [origins, changed] = [this.originsOf(segmentation.segmentationId), this.changed(segmentation)];
    const madeBy = (index) => {
      const { algorithm_type: made = 'MANUAL', model = '' } = origins.get(index) ?? {};
      return { algorithm_type: made === 'AUTOMATIC' && changed.has(index) ? 'SEMIAUTOMATIC' : made, model };
    };
    return {
      volume: { sizes: [columns, rows, slices.length], axes: [column, row, step], origin: first, voxels },
      labels: Object.values(segmentation.segments)
        .filter(({ segmentIndex }) => present[segmentIndex])
        .map(({ segmentIndex, label }) => ({ name: label, idx: segmentIndex, ...madeBy(segmentIndex) })),
    };
  }

  /** Create the label map of a series if it has none, and show it in every 2D viewport of the series. */
  async ensure(series) {
    const { segmentationService, viewportGridService, cornerstoneViewportService } = this.services;
    const segmentationId = idOf(series);
    if (!segmentationService.getSegmentation(segmentationId)) {
      const label = series.SeriesDescription || 'Segmentation';
      await segmentationService.createLabelmapForDisplaySet(series, { segmentationId, label, segments: {} });
      segmentationService.addOrUpdateSegmentation({ segmentationId, segments: {} }); // without OHIF's default segment
    }
    for (const [viewportId, { displaySetInstanceUIDs }] of viewportGridService.getState().viewports) {
      const flat = cornerstoneViewportService.getCornerstoneViewport(viewportId)?.type !== 'volume3d';
      const shown = segmentationService.getSegmentationRepresentations(viewportId, { segmentationId }).length;
      if (flat && !shown && displaySetInstanceUIDs.includes(series.displaySetInstanceUID)) {
        await segmentationService.addSegmentationRepresentation(viewportId, { segmentationId, type: LABELMAP });
      }
    }
    return segmentationId;
  }

  /** Set the colours in a viewport that begins to show a label map, once, since users can change them in the table. */
  colour({ viewportId, segmentationId }) {
    const { getSegmentation, getSegmentationRepresentations } = this.tools.segmentation.state;
    const [representation] = getSegmentationRepresentations(viewportId, { segmentationId }) ?? [];
    if (!representation || this.coloured.has(representation)) {
      return;
    }
    this.coloured.add(representation); // first, as setting a colour raises the event again
    for (const { segmentIndex, color } of Object.values(getSegmentation(segmentationId).segments)) {
      if (color) {
        this.services.segmentationService.setSegmentColor(viewportId, segmentationId, segmentIndex, color);
      }
    }
  }

  /**
   * Write the voxels of a result under the indices of its segments, except where segments to `keep` lie; return the
   * centre of each in its largest slice.
   */
  write(segmentationId, volume, indices, keep) {
    const segmentation = this.services.segmentationService.getSegmentation(segmentationId);
    const becomes = new Uint8Array(256); // lookup tables, since there may be 100 million voxels
    const cleared = new Uint8Array(256);
    const locked = new Uint8Array(256);
    for (const [value, index] of indices) {
      becomes[value] = index;
      cleared[index] = 1;
    }
    for (const segment of Object.values(segmentation.segments)) {
      locked[segment.segmentIndex] = Number(segment.locked || keep.has(segment.segmentIndex));
    }
    const { voxels } = volume;
    const [width, height, depth] = volume.sizes;
    const toVolume = intoVolume(volume);
    const largest = new Map();
    for (const slice of this.slices(segmentation)) {
      const { pixels, rows, columns, imageId } = slice;
      const added = this.added.get(imageId) ?? new Uint8Array(pixels.length);
      this.added.set(imageId, added);
      const [start, [dx, dy, dz], rowStep] = toVolume(slice);
      const count = new Uint32Array(256);
      const columnSum = new Float64Array(256);
      const rowSum = new Float64Array(256);
      for (let row = 0, pixel = 0; row < rows; row++) {
        let [x, y, z] = start.map((position, axis) => position + rowStep[axis] * row + 0.5); // | 0 then finds the nearest
        for (let column = 0; column < columns; column++, pixel++, x += dx, y += dy, z += dz) {
          const inside = x >= 0 && y >= 0 && z >= 0 && x < width && y < height && z < depth;
          const index = inside ? becomes[voxels[(x | 0) + width * ((y | 0) + height * (z | 0))]] : 0;
          const old = pixels[pixel];
          if (cleared[added[pixel]] && !locked[added[pixel]]) {
            added[pixel] = 0;
          }
          if ((!index && !cleared[old]) || locked[old] || locked[index]) {
            continue;
          }
          pixels[pixel] = index;
          added[pixel] = index;
          count[index]++;
          columnSum[index] += column;
          rowSum[index] += row;
        }
      }
      slice.keep();
      for (const index of indices.values()) {
        if (count[index] > (largest.get(index)?.count ?? 0)) {
          const [column, row] = [columnSum[index] / count[index], rowSum[index] / count[index]];
          const centre = slice.origin.map((o, axis) => o + slice.column[axis] * column + slice.row[axis] * row);
          largest.set(index, { count: count[index], centre });
        }
      }
    }
    return new Map([...largest].map(([index, { centre }]) => [index, centre]));
  }

  /** The slices of a label map: their pixels and their patient positions in mm. */
  slices(segmentation) {
    return segmentation.representationData[LABELMAP].imageIds.map((imageId) => {
      const { voxelManager, referencedImageId } = this.core.cache.getImage(imageId);
      const plane = this.core.metaData.get('imagePlaneModule', referencedImageId);
      const pixels = voxelManager.getScalarData();
      return {
        imageId,
        pixels,
        rows: plane.rows,
        columns: plane.columns,
        origin: [...plane.imagePositionPatient],
        column: [...plane.rowCosines].map((cosine) => cosine * plane.columnPixelSpacing),
        row: [...plane.columnCosines].map((cosine) => cosine * plane.rowPixelSpacing),
        keep: () => voxelManager.setScalarData(pixels),
      };
    });
  }
}

const idOf = (series) => `deep-film-${series.displaySetInstanceUID}`;

/** The index of the segment with that title; for a new one the preferred index or else the first that is free. */
function indexFor(segments, { title, preferred }) {
  const same = Object.values(segments).find(({ label }) => label === title);
  if (same) {
    return same.segmentIndex;
  }
  const all = Array.from({ length: MAX_SEGMENTS }, (_, position) => position + 1);
  const free = [preferred, ...all].find((index) => index && !segments[index]);
  if (!free) {
    throw new Error(`The table holds at most ${MAX_SEGMENTS} segments. Delete one, then try again.`);
  }
  return free;
}

/** A function of a slice: its origin and the steps of its columns and rows, in voxels of the volume. */
function intoVolume({ axes: [i, j, k], origin }) {
  const determinant = dot(i, cross(j, k));
  const inverse = [cross(j, k), cross(k, i), cross(i, j)].map((line) => line.map((entry) => entry / determinant));
  const turn = (vector) => inverse.map((line) => dot(line, vector));
  return (slice) => [
    turn(slice.origin.map((position, axis) => position - origin[axis])),
    turn(slice.column),
    turn(slice.row),
  ];
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
