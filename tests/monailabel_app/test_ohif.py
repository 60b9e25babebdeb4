"""The panel in OHIF, as MONAI Label ships it, in a browser on a real server and PACS."""

import gzip
import json
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.helpers.clinic import Clinic
from tests.helpers.pacs import needs_orthanc

pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")

from lib.endpoints.ohif import router
from playwright.sync_api import Page, Route, expect, sync_playwright

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
    for name in ("app-config.js", "deep-film/panel.js", "deep-film/labelmap.js", "deep-film/nrrd.js"):
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

    def test_brushed_voxels_stay(self, panel: Panel) -> None:
        panel.row("liver").click()
        panel.page.locator("[data-cy=Brush]").first.click()
        before, _ = panel.label_map()
        panel.page.mouse.move(300, 420)
        panel.page.mouse.down()
        panel.page.mouse.move(500, 500, steps=8)
        panel.page.mouse.up()
        brushed, _ = panel.label_map()
        assert ((brushed == 6) & (before != 6)).sum() > 50
        panel.segment("spleen")
        after, _ = panel.label_map()
        np.testing.assert_array_equal(after == 1, before == 1)
        np.testing.assert_array_equal(after[after != 1], brushed[after != 1])

    def test_saves_the_finished_label(self, panel: Panel, clinic: Clinic) -> None:
        with panel.page.expect_request("**/datastore/label?**") as request:
            panel.root.get_by_role("button", name="Save as finished label").click()
        expect(panel.status).to_contain_text("Saved: ")
        sent = request.value
        assert f"image={clinic.series}&tag=final" in sent.url
        parts = parts_of(sent.headers["content-type"], sent.post_data_buffer)
        names = {entry["idx"]: entry["name"] for entry in json.loads(parts["params"])["label_info"]}
        header, voxels = parts["label"].split(b"\n\n", 1)
        assert b"space: left-posterior-superior" in header
        values, counts = np.unique(np.frombuffer(gzip.decompress(voxels), np.uint8), return_counts=True)
        assert {names[v]: n for v, n in zip(values.tolist(), counts.tolist(), strict=True) if v} == panel.counts()
