"""The panel in OHIF, as MONAI Label ships it, in a browser on a real server and PACS."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydicom.filebase import DicomBytesIO

from tests.helpers.clinic import Clinic
from tests.helpers.pacs import needs_orthanc

pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")

from lib.endpoints.ohif import router
from playwright.sync_api import Dialog, Page, Route, expect, sync_playwright

from tests.helpers.browser import TIMEOUT_MS, TURN, Panel, parts_of, pixels_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""

#: WebGL, which OHIF needs, without a graphics card.
CHROMIUM_OPTIONS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

#: Colours of ``custom/anatomy/class_sets/ct.json``.
LIVER, SPLEEN = (205, 110, 65), (145, 120, 215)


@pytest.fixture(scope="module")
def page(clinic: Clinic) -> Iterator[Page]:
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(TIMEOUT_MS)
        page.route(lambda address: not address.startswith(clinic.server.address), lambda route: route.abort())
        yield page
        browser.close()


@pytest.fixture(scope="module")
def panel(page: Page, clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Panel:
    """The viewer, entered from the study list."""
    panel = Panel(page, tmp_path_factory.mktemp("pictures"))
    page.goto(f"{clinic.server.address}/ohif/")
    page.get_by_role("button", name="Confirm and Hide").click()
    page.get_by_text("PHANTOM").first.click()
    page.mouse.move(0, 0)
    panel.picture("ohif_1")
    page.get_by_role("button", name="Deep FiLM").click()
    page.wait_for_function("() => cornerstone.getRenderingEngines()[0]?.getViewports().every((v) => v.getImageData())")
    return panel


def test_files_of_the_viewer() -> None:
    app = FastAPI()
    app.include_router(router)
    client = TestClient(app)
    for name in (
        "app-config.js",
        "deep-film/panel.js",
        "deep-film/labelmap.js",
        "deep-film/nifti.js",
        "deep-film/nrrd.js",
    ):
        response = client.get(f"/ohif/{name}")
        assert response.headers["content-type"].startswith("text/javascript")
        assert response.headers["cache-control"] == "no-cache"
    assert client.get("/ohif/deep-film/panel.css").headers["content-type"].startswith("text/css")
    assert client.get("/ohif/assets/favicon-16x16.png").headers["content-type"] == "image/png"
    for path in ("", "monai-label?StudyInstanceUIDs=1.2", "assets"):
        assert "<title>OHIF Viewer</title>" in client.get(f"/ohif/{path}").text
    for path in ("old.bundle.js", "old.css", "app.bundle.js.map", "deep-film/other.js", "deep-film/__init__.py"):
        assert client.get(f"/ohif/{path}").status_code == 404, path
    for path in ("..%2f..%2f..%2fmain.py", "deep-film/..%2f..%2fohif.py"):  # nothing outside the folders
        assert "<title>OHIF Viewer</title>" in client.get(f"/ohif/{path}").text


#: Delete a segment, as the menu of its row in the table does.
DELETE = """(name) => {
  const { segmentationService } = services;
  const [{ segmentationId, segments }] = segmentationService.getSegmentations();
  const { segmentIndex } = Object.values(segments).find(({ label }) => label === name);
  segmentationService.removeSegment(segmentationId, segmentIndex);
}"""


def newest_segmentation(pacs: str, folder: Path) -> pydicom.Dataset:
    query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
    found = requests.post(f"{pacs}/tools/find", json=query, timeout=10).json()
    files = (requests.get(f"{pacs}/instances/{item}/file", timeout=10).content for item in found)
    datasets = [pydicom.dcmread(DicomBytesIO(file)) for file in files]
    return max(datasets, key=lambda dataset: (dataset.ContentDate, dataset.ContentTime))


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no browser: apt install chromium")
@needs_orthanc
class TestPanel:
    """In the order of a session: each test continues from the one before."""

    def test_opens_from_the_study_list(self, panel: Panel, clinic: Clinic) -> None:
        assert f"StudyInstanceUIDs={clinic.study}" in panel.page.url
        expect(panel.root.get_by_label("What to segment")).to_be_visible()
        expect(panel.root.get_by_label("Model")).to_have_value("film_swinunetr")
        panel.root.get_by_text("What it can segment").click()
        expect(panel.root).to_contain_text("spleen, right kidney, left kidney, gall bladder, esophagus, liver")
        panel.root.get_by_text("Options").click()
        expect(panel.root.get_by_label("Precision")).to_have_value("auto")
        picture = panel.picture("ohif_2")
        assert pixels_of(picture, LIVER) < 50
        panel.root.get_by_text("What it can segment").click()
        panel.root.get_by_text("Options").click()

    def test_segment_has_its_name_colour_and_voxels(self, panel: Panel) -> None:
        report = panel.segment("liver")
        panel.expect_entry("Understood", "liver")
        panel.expect_entry("Found", f"liver{report['segments'][0]['volume_ml']:.1f} mL")
        row = panel.row("liver")
        expect(row.locator("span").first).to_have_css("background-color", f"rgb{LIVER}")
        assert panel.counts() == {"liver": report["segments"][0]["voxels"]}
        row.click()  # shows the slice with most of it
        assert pixels_of(panel.picture("ohif_3"), LIVER) > 10_000

    def test_second_prompt_adds(self, panel: Panel) -> None:
        before, values = panel.label_map()
        report = panel.segment("spleen")
        after, all_values = panel.label_map()
        assert values == {"liver": 6} and all_values == {"spleen": 1, "liver": 6}  # the class's own, as in /info
        spleen = after == 1
        assert spleen.sum() == report["segments"][0]["voxels"]
        np.testing.assert_array_equal(after[~spleen], before[~spleen])
        expect(panel.row("liver")).to_be_visible()
        expect(panel.row("spleen").locator("span").first).to_have_css("background-color", f"rgb{SPLEEN}")
        panel.row("spleen").click()
        picture = panel.picture("ohif_4")
        assert pixels_of(picture, LIVER) > 10_000 and pixels_of(picture, SPLEEN) > 1_000

    def test_axes_of_the_result_do_not_matter(self, panel: Panel) -> None:
        before, _ = panel.label_map()
        panel.page.evaluate(TURN)
        np.testing.assert_array_equal(panel.label_map()[0], before)

    def test_shows_corrected_words(self, panel: Panel) -> None:
        panel.segment("spleeen and kideny")
        panel.expect_entry("Read", "“spleeen” as “spleen”, “kideny” as “kidney”")
        panel.expect_entry("Understood", "spleen, right kidney, left kidney")
        panel.row("left kidney").click()
        panel.picture("typo")

    def test_shows_warnings_and_what_was_not_found(self, panel: Panel) -> None:
        def change(route: Route) -> None:
            response = route.fetch()
            body = response.body().replace(b'"not_found": []', b'"not_found": ["aorta"]')
            route.fulfill(
                response=response, body=body.replace(b'"warnings": []', b'"warnings": ["It is <b>noise</b>."]')
            )

        panel.page.route("**/infer/**", change)
        panel.segment("spleen")
        panel.page.unroute("**/infer/**")
        panel.expect_entry("Not found", "aorta")
        expect(panel.root).to_contain_text("It is <b>noise</b>.")

    def test_shows_the_servers_error(self, panel: Panel) -> None:
        before = panel.counts()
        with panel.page.expect_response("**/infer/**") as response:
            panel.submit("xyzzy")
        assert response.value.status == 400
        expect(panel.status).to_have_text(response.value.json()["detail"])
        expect(panel.status).to_contain_text("xyzzy")
        assert panel.counts() == before
        panel.picture("ohif_5")

    def test_cancel(self, panel: Panel) -> None:
        before = panel.counts()
        panel.root.get_by_text("Options").click()
        panel.root.get_by_label("Precision").select_option("float32")
        with panel.page.expect_event("requestfailed") as failed:
            panel.submit("bladder")
            expect(panel.status).to_contain_text("Segmenting")
            panel.page.screenshot(path=panel.pictures / "running.png")
            panel.root.get_by_role("button", name="Cancel").click()
        assert "/infer/" in failed.value.url and "ABORTED" in failed.value.failure
        expect(panel.status).to_contain_text("Cancelled after")
        assert panel.counts() == before
        panel.segment("bladder")
        assert set(panel.counts()) == {*before, "bladder"}
        panel.root.get_by_label("Precision").select_option("auto")  # as for the results before and after

    def test_a_prompt_keeps_what_was_corrected(self, panel: Panel) -> None:
        panel.row("liver").click()
        panel.page.locator("[data-cy=Brush]").first.click()
        before, _ = panel.label_map()
        panel.page.mouse.move(300, 420)
        panel.page.mouse.down()
        panel.page.mouse.move(500, 500, steps=8)
        panel.page.mouse.up()
        brushed, _ = panel.label_map()
        assert ((brushed == 6) & (before != 6)).sum() > 50
        panel.segment("liver and spleen")  # the brush took voxels from the spleen, too
        panel.expect_entry("Kept", "spleen (corrected or saved), liver (corrected or saved)")
        np.testing.assert_array_equal(panel.label_map()[0], brushed)
        panel.picture("ohif_6")

    def test_saves_the_finished_label(self, panel: Panel, clinic: Clinic) -> None:
        panel.root.get_by_label("Annotator").fill("Dr. Anna Muster")
        with panel.page.expect_request("**/datastore/label?**") as request:
            panel.root.get_by_role("button", name="Save as finished label").click()
        expect(panel.status).to_contain_text("Saved: ")
        sent = request.value
        assert f"image={clinic.series}&tag=final" in sent.url
        parts = parts_of(sent.headers["content-type"], sent.post_data_buffer)
        params = json.loads(parts["params"])
        names = {entry["idx"]: entry["name"] for entry in params["label_info"]}
        made = {entry["name"]: (entry["algorithm_type"], entry["model"]) for entry in params["label_info"]}
        assert made["liver"][0] == "SEMIAUTOMATIC" and made["bladder"][0] == "AUTOMATIC"
        assert all(model.startswith("film_swinunetr ") for _, model in made.values())
        assert params["annotator"] == "Dr. Anna Muster"
        header, voxels = parts["label"].split(b"\n\n", 1)
        assert b"space: left-posterior-superior" in header
        values, counts = np.unique(np.frombuffer(gzip.decompress(voxels), np.uint8), return_counts=True)
        assert {names[v]: n for v, n in zip(values.tolist(), counts.tolist(), strict=True) if v} == panel.counts()

    def test_a_saved_label_is_shown_again_and_not_lost(self, panel: Panel, clinic: Clinic, tmp_path: Path) -> None:
        before, names = panel.label_map()
        panel.page.reload()
        expect(panel.status).to_contain_text("The saved label is shown: ", timeout=TIMEOUT_MS)
        shown, shown_names = panel.label_map()
        assert shown_names == names
        np.testing.assert_array_equal(shown, before)
        panel.segment("spleen")
        panel.expect_entry("Kept", "spleen (corrected or saved)")
        panel.root.get_by_role("button", name="Replace these by the result").click()
        expect(panel.root.get_by_role("button", name="Replace these by the result")).to_be_hidden()
        panel.page.evaluate(DELETE, "bladder")
        asked: list[str] = []

        def keep(dialog: Dialog) -> None:
            asked.append(dialog.message)
            dialog.dismiss()

        panel.page.once("dialog", keep)
        panel.root.get_by_role("button", name="Save as finished label").click()
        expect(panel.status).to_contain_text("Saved: ")
        assert "also has bladder" in asked[0]
        segmentation = newest_segmentation(clinic.pacs, tmp_path)
        made = {item.SegmentLabel: item.SegmentAlgorithmType for item in segmentation.SegmentSequence}
        assert made == dict.fromkeys(names, "AUTOMATIC") | {"liver": "SEMIAUTOMATIC"}
        assert str(segmentation.ContentCreatorName) == "Dr. Anna Muster" and segmentation.ContentLabel == "FINISHED"
        panel.page.once("dialog", lambda dialog: dialog.accept())
        panel.root.get_by_role("button", name="Save as finished label").click()
        expect(panel.status).to_contain_text("Saved: ")
        left = {item.SegmentLabel for item in newest_segmentation(clinic.pacs, tmp_path).SegmentSequence}
        assert left == names.keys() - {"bladder"}
