// Label maps as NRRD: a text header, an empty line, the voxels. http://teem.sourceforge.net/nrrd/format.html
//
// A volume here is { sizes: [i, j, k], axes: [step of i, step of j, step of k], origin, voxels: Uint8Array }; steps and
// origin are in mm along the patient's left, back and head (LPS, as in DICOM), and i runs fastest.

const SIGNS = {
  'left-posterior-superior': [1, 1, 1],
  'right-anterior-superior': [-1, -1, 1],
  'left-anterior-superior': [1, -1, 1],
};

export async function readNrrd(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const end = bytes.findIndex((byte, index) => byte === 10 && bytes[index + 1] === 10);
  const fields = new Map();
  for (const line of new TextDecoder().decode(bytes.subarray(0, end)).split('\n')) {
    const field = /^([^#:]+): (.*)$/.exec(line);
    if (field) {
      fields.set(field[1], field[2].trim());
    }
  }
  const signs = SIGNS[fields.get('space')];
  if (!['uint8', 'uchar', 'unsigned char', 'uint8_t'].includes(fields.get('type')) || !signs) {
    const given = `type "${fields.get('type')}", space "${fields.get('space')}"`;
    throw new Error(`The result must be an NRRD of type uint8 in a patient space; it has ${given}.`);
  }
  const vectors = (name) =>
    [...fields.get(name).matchAll(/\(([^)]*)\)/g)].map(([, numbers]) =>
      numbers.split(',').map((number, axis) => signs[axis] * Number(number)),
    );
  let voxels = bytes.subarray(end + 2);
  if (['gzip', 'gz'].includes(fields.get('encoding'))) {
    voxels = await passThrough(voxels, new DecompressionStream('gzip'));
  }
  return {
    sizes: fields.get('sizes').split(/\s+/).map(Number),
    axes: vectors('space directions'),
    origin: vectors('space origin')[0],
    voxels,
  };
}

export async function writeNrrd({ sizes, axes, origin, voxels }) {
  const vector = (numbers) => `(${numbers.join(',')})`;
  const header = [
    'NRRD0004',
    'type: unsigned char',
    'dimension: 3',
    'space: left-posterior-superior',
    `sizes: ${sizes.join(' ')}`,
    `space directions: ${axes.map(vector).join(' ')}`,
    'kinds: domain domain domain',
    'encoding: gzip',
    `space origin: ${vector(origin)}`,
  ];
  const packed = await passThrough(voxels, new CompressionStream('gzip'));
  return new Blob([`${header.join('\n')}\n\n`, packed]);
}

export async function passThrough(bytes, transform) {
  const stream = new Blob([bytes]).stream().pipeThrough(transform);
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
