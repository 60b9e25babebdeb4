"""The panel in OHIF, operated as a user does, and the state of cornerstone behind it."""

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from requests_toolbelt import MultipartDecoder

from tests.helpers import ROOT

#: Timeout of the browser in ms: it renders in software.
TIMEOUT_MS = 120_000

#: Voxels of each segment in cornerstone's state, by its name in OHIF's table.
COUNTS = """() => {
  const counts = {};
  for (const { segments, representationData } of cornerstoneTools.segmentation.state.getSegmentations()) {
    for (const { label, segmentIndex } of Object.values(segments)) {
      counts[label] = 0;
      for (const id of representationData.Labelmap.imageIds) {
        const pixels = cornerstone.cache.getImage(id).voxelManager.getScalarData();
        counts[label] += pixels.filter((value) => value === segmentIndex).length;
      }
    }
  }
  return counts;
}"""

#: The label map of the panel, as rows of slices from the feet up, and the names of its values.
READ = """async () => {
  const { Labelmaps } = await import('/ohif/deep-film/labelmap.js');
  const labelmaps = new Labelmaps({ servicesManager: { services }, extensionManager });
  const { volume, labels } = labelmaps.read(labelmaps.activeSeries());
  const voxels = btoa(volume.voxels.reduce((text, value) => text + String.fromCharCode(value), ''));
  return { sizes: volume.sizes, labels, voxels };
}"""

#: Add the same label map again from a volume with permuted and flipped axes.
TURN = """async () => {
  const { Labelmaps } = await import('/ohif/deep-film/labelmap.js');
  const { readNrrd, writeNrrd } = await import('/ohif/deep-film/nrrd.js');
  const labelmaps = new Labelmaps({ servicesManager: { services }, extensionManager });
  const series = labelmaps.activeSeries();
  const { volume, labels } = labelmaps.read(series);
  const [width, height, depth] = volume.sizes;
  const [i, j, k] = volume.axes;
  const far = (axis) => i[axis] * (width - 1) + k[axis] * (depth - 1);
  const turned = {
    sizes: [depth, width, height],
    axes: [k.map((step) => -step), i.map((step) => -step), j],
    origin: volume.origin.map((position, axis) => position + far(axis)),
    voxels: new Uint8Array(volume.voxels.length),
  };
  for (let z = 0, voxel = 0; z < depth; z++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, voxel++) {
        turned.voxels[depth - 1 - z + depth * (width - 1 - x + width * y)] = volume.voxels[voxel];
      }
    }
  }
  const segments = labels.map(({ name, idx }) => ({ value: idx, title: name, color: [0, 0, 0] }));
  await labelmaps.add(series, await readNrrd(await writeNrrd(turned)), segments, { replace: true });
}"""


class Panel:
    """The panel in an open viewer."""

    def __init__(self, page: Page, pictures: Path) -> None:
        self.page, self.pictures = page, pictures
        self.root = page.locator(".deep-film")
        self.status = self.root.get_by_role("status")

    def submit(self, prompt: str) -> None:
        """Type a prompt, key by key, and press Enter."""
        field = self.root.get_by_label("What to segment")
        field.fill("")
        field.press_sequentially(prompt)
        field.press("Enter")

    def segment(self, prompt: str) -> dict[str, Any]:
        """Submit a prompt, wait until the result is shown, and return its report."""
        with self.page.expect_response("**/infer/**", timeout=TIMEOUT_MS) as response:
            self.submit(prompt)
        parts = parts_of(response.value.headers["content-type"], response.value.body())
        report: dict[str, Any] = json.loads(parts["params"])
        expect(self.root.get_by_role("definition").first).to_be_visible(timeout=TIMEOUT_MS)
        return report

    def row(self, name: str) -> Locator:
        """The row of a segment in OHIF's table."""
        return self.page.locator("[data-cy=data-row]").filter(has=self.page.get_by_text(name, exact=True))

    def expect_entry(self, term: str, text: str) -> None:
        """Check an entry of the result."""
        expect(self.root.locator(f"dt:text-is('{term}') + dd")).to_have_text(text)

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.page.evaluate(COUNTS)
        return counts

    def label_map(self) -> tuple[npt.NDArray[np.uint8], dict[str, int]]:
        """Values (D, H, W), and the value of each name."""
        read = self.page.evaluate(READ)
        voxels = np.frombuffer(base64.b64decode(read["voxels"]), np.uint8).reshape(read["sizes"][::-1])
        return voxels, {label["name"]: label["idx"] for label in read["labels"]}

    def picture(self, name: str) -> npt.NDArray[np.int16]:
        """Save and return a screenshot (rows, columns, 3); with DEEP_FILM_SCREENSHOTS, `ohif_*` also in docs/images."""
        self.page.evaluate("document.querySelector('.deep-film-column')?.scrollTo(0, 0)")
        content, before = self.page.screenshot(), b""
        while content != before:  # cornerstone does not report that it has drawn, and highlights what is clicked
            self.page.wait_for_timeout(1500)
            content, before = self.page.screenshot(), content
        image = Image.open(io.BytesIO(content)).convert("RGB")
        file = self.pictures / f"{name}.png"
        image.quantize(256).save(file, optimize=True)
        if os.environ.get("DEEP_FILM_SCREENSHOTS") and name.startswith("ohif_"):
            shutil.copy(file, ROOT / "docs" / "images" / file.name)
        return np.asarray(image, np.int16)


def parts_of(content_type: str, body: bytes) -> dict[str, bytes]:
    """The parts of a multipart message by name."""
    parts = MultipartDecoder(body, content_type).parts
    names = (re.findall(r' name="(.*?)"', part.headers[b"Content-Disposition"].decode())[0] for part in parts)
    return dict(zip(names, (part.content for part in parts), strict=True))


def pixels_of(picture: npt.NDArray[np.int16], colour: tuple[int, int, int]) -> int:
    """Number of pixels of the viewports in that hue, over any grey."""
    images = picture[60:, :990].astype(float)
    hues = images - images.min(2, keepdims=True)
    hue = np.array(colour, float) - min(colour)
    strength = np.linalg.norm(hues, axis=2)
    return int(((strength > 50) & (hues @ hue > 0.99 * strength * np.linalg.norm(hue))).sum())
