// Label maps as NIfTI-1, as this server writes them: little-endian, uint8, compressed, with a position in space (sform).
// https://nifti.nimh.nih.gov/nifti-1. A volume is that of nrrd.js; NIfTI counts mm to the right and front, so both turn.

import { passThrough } from './nrrd.js';

const UINT8 = 2;

export async function readNifti(blob) {
  const bytes = await passThrough(new Uint8Array(await blob.arrayBuffer()), new DecompressionStream('gzip'));
  const header = new DataView(bytes.buffer, bytes.byteOffset, 352);
  const type = header.getInt16(70, true);
  if (header.getInt32(0, true) !== 348 || type !== UINT8 || header.getInt16(254, true) < 1) {
    throw new Error('The saved label must be a NIfTI file of type uint8 with an sform.');
  }
  const sizes = [1, 2, 3].map((axis) => header.getInt16(40 + 2 * axis, true));
  const rows = [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => header.getFloat32(280 + 16 * row + 4 * column, true)));
  const [right, front, head] = rows;
  const vector = (column) => [-right[column], -front[column], head[column]];
  const offset = header.getFloat32(108, true);
  const voxels = bytes.subarray(offset, offset + sizes[0] * sizes[1] * sizes[2]);
  return { sizes, axes: [vector(0), vector(1), vector(2)], origin: vector(3), voxels };
}
