"""A real server on a folder of NIfTI images, with MONAI Label's own client and with hostile ones."""

import json
import re
import signal
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from custom.weights.header import read_header
from tests.helpers import BUNDLES
from tests.helpers.server import MODEL, Server, dice, truth_of
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # MONAI Label's client leaves sockets open

#: Classes of the demonstration weights.
LEARNED = set(read_header(BUNDLES / MODEL / "models" / "demo.safetensors")["volume"]["trained_classes"])

#: Texts that must have no effect in any field.
HOSTILE = (
    '$__import__("os").system("touch {mark}")',
    "@network_def",
    "%configs/inference.json",
    "../../etc/passwd",
    "liver\x00",
    "liver\x1b[2J",
    "\u2028",
    "a" * 1_000_000,
    "${jndi:ldap://x}",
    "<script>alert(1)</script>",
)


def test_info_names_models_classes_colours_and_options(server: Server) -> None:
    info = server.info()
    assert set(info["labels"]) == LEARNED
    model = info["models"][MODEL]
    assert model["type"] == "segmentation" and model["trained"]
    assert model["config"] == {"prompt": "", "classes": "", "precision": ["auto", "float32", "bfloat16"]}
    liver = next(item for item in model["classes"] if item["name"] == "liver")
    assert liver == {"name": "liver", "value": 6, "color": [205, 110, 65], "learned": True}
    assert not next(item for item in model["classes"] if item["name"] == "celiac trunk")["learned"]


def test_the_app_exports_what_it_serves_with_a_warning(server: Server) -> None:
    folder = server.app / "model" / MODEL
    for part in ("LICENSE", "requirements.txt", "configs/inference.json", "custom/anatomy/class_sets/ct.json"):
        assert (folder / part).is_file()
    assert f"{MODEL} is not in" in server.log.read_text()


@pytest.mark.parametrize(
    ("prompt", "values"), [("liver", [6]), ("both kidneys and the spleen", [1, 2, 3]), ("lungs", [16, 17])]
)
def test_label_maps_are_on_the_images_grid(
    client: MONAILabelClient, studies: Path, prompt: str, values: list[int]
) -> None:
    file, report = client.infer(MODEL, "phantom_0000", {"prompt": prompt})
    image = nib.load(str(studies / "phantom_0000.nii.gz"))
    label_map = nib.load(file)
    assert label_map.shape == image.shape and np.allclose(label_map.affine, image.affine)
    assert label_map.get_data_dtype() == np.uint8
    voxels = np.asarray(label_map.dataobj)
    assert [segment["value"] for segment in report["segments"]] == list(range(1, len(values) + 1))
    for segment, value in zip(report["segments"], values, strict=True):
        found = voxels == segment["value"]
        assert 0 <= segment["voxels"] - found.sum() < 0.05 * segment["voxels"], "a later structure may lie over it"
        assert dice(found, truth_of(studies, "phantom_0000", value)) > 0.7, segment["name"]
    assert report["not_found"] == [] and report["model"]["version"]
    assert report["notice"].startswith("Research use only")


def test_classes_in_place_of_a_prompt(client: MONAILabelClient) -> None:
    by_prompt = client.infer(MODEL, "phantom_0001", {"prompt": "liver and spleen"})[1]
    by_names = client.infer(MODEL, "phantom_0001", {"classes": ["liver", "spleen"]})[1]
    assert by_prompt["segments"] == by_names["segments"]
    for names in (["all organs except the liver", "spleen"], ["spleen", "all organs except the liver"]):
        understood = client.infer(MODEL, "phantom_0001", {"classes": names})[1]["prompt"]["understood"]
        assert "spleen" in understood and "aorta" in understood and "liver" not in understood
    with pytest.raises(MONAILabelClientException, match="one of them; it has both"):
        client.infer(MODEL, "phantom_0001", {"classes": ["liver"], "prompt": "spleen"})


def test_precision(client: MONAILabelClient, studies: Path) -> None:
    file, report = client.infer(MODEL, "phantom_0001", {"prompt": "right kidney", "precision": "float32"})
    assert report["label_names"] == {"right kidney": 1}
    left, right = (truth_of(studies, "phantom_0001", value) for value in (3, 2))
    found = np.asarray(nib.load(file).dataobj) == 1
    assert (found & right).sum() > 10 * (found & left).sum(), "left and right are exchanged"


def test_a_volume_is_prepared_once_for_many_prompts(client: MONAILabelClient) -> None:
    client.infer(MODEL, "phantom_0002", {"prompt": "liver"})
    assert client.infer(MODEL, "phantom_0002", {"prompt": "spleen"})[1]["latencies"]["prepare"] < 0.02


def test_an_image_may_be_uploaded_with_the_request(client: MONAILabelClient, studies: Path) -> None:
    image = str(studies / "phantom_0002.nii.gz")
    uploaded = client.infer(MODEL, "", {"prompt": "liver"}, file=image)[1]
    assert uploaded["segments"] == client.infer(MODEL, "phantom_0002", {"prompt": "liver"})[1]["segments"]
    session = client.create_session(image)["session_id"]
    again = client.infer(MODEL, "", {"prompt": "liver"}, session_id=session)[1]
    assert again["segments"] == uploaded["segments"]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"prompt": "xyzzy"}, 'not "xyzzy".*knows: spleen, right kidney'),
        ({"prompt": "celiac trunk"}, "were not trained on celiac trunk"),
        ({}, "must say what to segment"),
        ({"prompt": "liver", "precision": "float8"}, "precision: Input should be"),
        ({"prompt": "liver", "model_filename": "../../x.pt"}, "model_filename: Extra inputs"),
        ({"prompt": "liver", "displayable_configs": {"a": 1}}, "displayable_configs: Extra inputs"),
        ({"prompt": ["liver", {}]}, "prompt: Input should be a valid string"),
        ({"prompt": "liver", "result_extension": ".exe"}, "result_extension: Input should be"),
    ],
)
def test_invalid_requests_are_refused_with_the_reason(server: Server, params: dict[str, Any], reason: str) -> None:
    response = server.post(f"/infer/{MODEL}?image=phantom_0000", data={"params": json.dumps(params)})
    assert response.status_code == 400
    assert re.search(reason, response.json()["detail"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": MODEL}, "prompt: Field required"),
        ({"prompt": "liver"}, "model: Field required"),
        ({"model": "swin", "prompt": "liver"}, f"model must be one of {MODEL}"),
        ({"model": MODEL, "prompt": "xyzzy"}, 'not "xyzzy".*knows: spleen, right kidney'),
    ],
)
def test_a_scoring_that_cannot_be_done_is_refused(server: Server, fields: dict[str, str], reason: str) -> None:
    response = server.post("/scoring/uncertainty", json=fields)
    assert response.status_code == 400
    assert re.search(reason, response.json()["detail"])


def test_a_dicom_seg_needs_a_dicom_series(server: Server) -> None:
    response = server.infer("liver", output="dicom_seg")
    assert response.status_code == 400 and "DICOMweb" in response.json()["detail"]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12].encode("unicode_escape").decode())
def test_hostile_text_has_no_effect(server: Server, tmp_path: Path, text: str) -> None:
    mark = tmp_path / "mark"
    text = text.replace("{mark}", str(mark))
    before = listing(server.folder)
    infer = f"/infer/{MODEL}?image=phantom_0000"
    responses = []
    for field in ("prompt", "classes", "precision", "device", "result_extension", "label_tag", "client_id", "image"):
        responses.append(server.post(infer, data={"params": json.dumps({"prompt": "xyzzy"} | {field: text})}))
    responses.append(server.post(infer, data={"params": text}))
    responses.append(server.post(f"/infer/{MODEL}", params={"image": text[:4000]}))
    for path in (f"/train/{MODEL}", f"/batch/infer/{MODEL}", "/scoring/uncertainty", "/activelearning/random"):
        for field in ("prompt", "max_epochs", "device", "model", "gpus", "images", "client_id", "learning_rate"):
            responses.append(server.post(path, json={field: text}))
        responses.append(server.post(path, json=text))
    for path in ("/datastore/label?image=phantom_0000", "/datastore/image"):
        files = {"label": (text[:50], b"rubbish"), "file": (text[:50], b"rubbish")}
        responses.append(server.put(path, data={"params": text}, files=files))
    for response in responses:
        assert 400 <= response.status_code < 500, (response.status_code, response.request.url, response.text[:200])
        assert response.json()["detail"]
        assert "Traceback" not in response.text
    assert not mark.exists()
    assert listing(server.folder) == before
    assert server.info()["models"][MODEL]


def listing(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts and "logs" not in path.parts}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 403),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Host": "["}, 400),
        ({"Origin": "http://["}, 400),
    ],
)
def test_other_hosts_and_origins_are_refused(server: Server, headers: dict[str, str], status: int) -> None:
    response = server.get("/info/", headers=headers)
    assert response.status_code == status and response.json()["detail"]


#: All routes of the server; a new release of MONAI Label adds none.
OFFERED = {
    "/info/": "get",
    "/infer/{model}": "post",
    "/train/{model}": "post",
    "/train/": "delete get",
    "/batch/infer/{model}": "post",
    "/batch/infer": "delete get",
    "/scoring/{method}": "post",
    "/scoring/": "delete get",
    "/activelearning/{strategy}": "post",
    "/datastore/": "delete get put",
    "/datastore/image": "delete get head put",
    "/datastore/image/info": "get",
    "/datastore/label": "delete get head put",
    "/datastore/label/info": "get",
    "/session/": "put",
    "/session/{name}": "delete get",
    "/proxy/dicom/{service}/{path}": "get",
}


def test_nothing_else_is_offered(server: Server) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    assert {path: " ".join(sorted(methods)) for path, methods in paths.items()} == OFFERED


def test_the_first_page_says_what_to_do_and_loads_nothing(server: Server) -> None:
    page, viewer = server.get("/"), server.get("/ohif/monai-label?StudyInstanceUIDs=1.2")
    for part in (server.address, "3D Slicer", "make serve STUDIES=http", MODEL, "synthetic phantoms only", *OFFERED):
        assert part in page.text, part
    assert "needs a PACS with DICOMweb" in viewer.text
    for response in (page, viewer):
        assert "src=" not in response.text and "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", f"/model/{MODEL}"),
        ("GET", f"/model/{MODEL}"),
        ("POST", f"/infer/wsi/{MODEL}"),
        ("POST", "/reload"),
        ("POST", "/train/"),
        ("PUT", "/datastore/image/info?image=phantom_0000"),
        ("PUT", "/datastore/label/info?label=phantom_0000&tag=final"),
        ("GET", "/datastore/dataset"),
        ("GET", "/datastore/?output=train"),
        ("GET", "/logs/"),
        ("GET", "/static/ohif/index.html"),
        ("POST", "/proxy/dicom/qido/studies"),
    ],
)
def test_other_routes_do_not_exist(server: Server, method: str, path: str) -> None:
    response = requests.request(method, server.address + path, timeout=10)
    assert response.status_code in (400, 404, 405) and response.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/datastore/image?image=..%2Fapp%2Fmain.py",
        "/datastore/label?label=x&tag=..%2F..",
        "/session/..%2F..%2Fetc",
        "/datastore/image?image=nothing",
    ],
)
def test_nothing_outside_the_studies_can_be_read(server: Server, path: str) -> None:
    response = server.get(path)
    assert response.status_code in (400, 404), response.text[:200]
    assert str(server.folder) not in response.text


def test_a_session_unpacks_no_archive(server: Server, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "image.nii.gz", "w:gz") as archive:
        (tmp_path / "payload").write_text("x")
        archive.add(tmp_path / "payload", arcname="../../../../../../../../../../../../tmp/deep_film_was_here")
    files = {"files": ("image.nii.gz", (tmp_path / "image.nii.gz").read_bytes())}
    assert server.put("/session/?uncompress=true", files=files).status_code == 400
    assert not Path("/tmp/deep_film_was_here").exists()


@pytest.mark.parametrize("kind", ["rubbish", "four dimensions", "not HU", "not a number"])
def test_an_unsuitable_image_is_refused(server: Server, tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).normal(0, 300, (24, 24, 24)).astype(np.float32)
    if kind == "four dimensions":
        values = values[..., None].repeat(2, 3)
    elif kind == "not HU":
        values = abs(values) / abs(values).max()
    elif kind == "not a number":
        values[0, 0, 0] = np.nan
    file = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([6.0, 6.0, 6.0, 1.0])), file)
    content = b"rubbish" if kind == "rubbish" else file.read_bytes()
    files = {"file": ("image.nii.gz", content)}
    response = server.post(f"/infer/{MODEL}", data={"params": '{"prompt": "liver"}'}, files=files)
    assert response.status_code == 400, response.text
    detail = response.json()["detail"]
    assert "/" not in detail.replace("and/or", "") or "nibabel" in detail
    assert "--" not in detail


def test_weights_may_change_and_vanish_while_serving(client: MONAILabelClient, server: Server) -> None:
    weights = server.weights
    before = client.infer(MODEL, "phantom_0001", {"prompt": "liver"})[1]["segments"]
    weights.touch()
    assert client.infer(MODEL, "phantom_0001", {"prompt": "liver"})[1]["segments"] == before
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:1000])
        assert server.info()["models"][MODEL]["trained"]
        assert client.infer(MODEL, "phantom_0001", {"prompt": "liver"})[1]["segments"] == before
        weights.unlink()
        assert client.infer(MODEL, "phantom_0001", {"prompt": "liver"})[1]["segments"] == before
    finally:
        weights.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "cut", "reason"),
    [("phantom_0000", 0, "choose another"), ("cut", 9, "The upload is damaged or cut short")],
)
def test_uploads_that_are_refused(server: Server, studies: Path, name: str, cut: int, reason: str) -> None:
    before = server.get("/datastore/?output=all").json()["objects"].keys()
    content = (studies / "phantom_0001.nii.gz").read_bytes()
    files = {"file": (f"{name}.nii.gz", content[: len(content) - cut])}
    response = server.put("/datastore/image", files=files)
    assert response.status_code == 400 and reason in response.json()["detail"]
    assert server.get("/datastore/?output=all").json()["objects"].keys() == before


def test_concurrent_clients_each_get_their_own_result(server: Server, client: MONAILabelClient) -> None:
    prompts = ["liver", "spleen", "both kidneys", "lungs", "xyzzy"]
    images = ["phantom_0000", "phantom_0001"]
    alone = {
        (image, prompt): client.infer(MODEL, image, {"prompt": prompt})[1]["segments"]
        for image in images
        for prompt in prompts[:-1]
    }
    slowest = 0.0
    memory = server.memory()

    def request(number: int) -> bool:
        image, prompt = images[number % 2], prompts[number % 5]
        response = server.infer(prompt, image)
        if prompt == "xyzzy":
            return bool(response.status_code == 400)
        return bool(response.json()["segments"] == alone[image, prompt])

    with ThreadPoolExecutor(4) as clients:
        results = [clients.submit(request, number) for number in range(10)]
        while not all(result.done() for result in results):
            slowest = max(slowest, server.get("/info/").elapsed.total_seconds())
    assert all(result.result() for result in results)
    assert slowest < 1, f"/info/ took {slowest:.2f} s"
    assert server.memory() < memory + 300 * 2**20


def test_an_inference_stops_when_its_client_goes_away(server: Server) -> None:
    sessions = [requests.Session() for _ in range(3)]  # one inference runs, two requests wait
    for session in sessions:
        with pytest.raises(requests.Timeout):
            session.post(
                f"{server.address}/infer/{MODEL}?image=phantom_0000",
                data={"params": json.dumps({"prompt": "liver"})},
                timeout=(5, 0.1),
            )
        session.close()
    assert server.infer("liver").ok
    assert "its inference was stopped" in server.log.read_text()


def test_no_temporary_file_of_a_request_stays(server: Server) -> None:
    def left() -> list[Path]:
        files = (path for path in server.temporary.rglob("*") if path.is_file())
        return [file for file in files if file.suffix in (".gz", ".nrrd")]

    wait_until(lambda: not left())  # a response's file is removed once it is sent


def test_the_log_holds_neither_prompts_nor_paths_nor_images(server: Server, studies: Path) -> None:
    lines = server.requests_log()
    for secret in ("phantom_00", "liver", "spleen", "xyzzy", str(studies)):
        assert secret not in lines, [line for line in lines.splitlines() if secret in line][:3]
    assert "structures in" in lines


def test_it_stops_on_a_signal_during_inference(server: Server) -> None:
    with ThreadPoolExecutor(8) as clients:
        for _ in range(8):
            clients.submit(server.infer, "liver, spleen, lungs")
        time.sleep(0.5)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
    assert time.monotonic() - start < 15
