"""A real server on a folder of NIfTI images, asked by MONAI Label's own client and by hostile ones."""

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

from tests.helpers.server import Server, dice, truth_of

pytest.importorskip("monailabel", reason="the extra 'label' is not installed")
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from custom.weights.header import read_header
from tests.helpers import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # MONAI Label's client leaves sockets open

MODEL = "film_swinunetr"
BUNDLE = ROOT / "bundles" / MODEL

#: What the demonstration weights know.
LEARNED = set(read_header(BUNDLE / "models" / "demo.safetensors")["trained_classes"])

#: Texts that must do nothing, wherever they stand.
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
    assert model["config"] == {
        "prompt": "",
        "classes": "",
        "precision": ["auto", "float32", "bfloat16"],
    }
    liver = next(item for item in model["classes"] if item["name"] == "liver")
    assert liver == {"name": "liver", "value": 6, "color": [205, 110, 65], "learned": True}
    assert not next(item for item in model["classes"] if item["name"] == "celiac trunk")["learned"]


def test_the_app_exports_what_it_serves_and_says_so(server: Server) -> None:
    folder = server.app / "model" / MODEL
    for part in ("LICENSE", "requirements.txt", "configs/inference.json", "custom/anatomy/class_sets/ct.json"):
        assert (folder / part).is_file()
    assert f"{MODEL} is not in" in server.log.read_text()


@pytest.mark.parametrize(
    ("prompt", "values"), [("liver", [6]), ("both kidneys and the spleen", [1, 2, 3]), ("lungs", [16, 17])]
)
def test_prompts_are_answered_on_the_images_grid(
    client: MONAILabelClient, studies: Path, prompt: str, values: list[int]
) -> None:
    file, report = client.infer(MODEL, "phantom_0000", {"prompt": prompt})
    image = nib.load(str(studies / "phantom_0000.nii.gz"))
    answer = nib.load(file)
    assert answer.shape == image.shape and np.allclose(answer.affine, image.affine)
    assert answer.get_data_dtype() == np.uint8
    voxels = np.asarray(answer.dataobj)
    assert [segment["value"] for segment in report["segments"]] == list(range(1, len(values) + 1))
    for segment, value in zip(report["segments"], values, strict=True):
        found = voxels == segment["value"]
        assert 0 <= segment["voxels"] - found.sum() < 0.05 * segment["voxels"], "a later structure may lie over it"
        assert dice(found, truth_of(studies, "phantom_0000", value)) > 0.7, segment["name"]
    assert report["not_found"] == [] and report["model"]["version"]
    assert report["notice"].startswith("Research use only")


def test_classes_are_another_way_to_ask(client: MONAILabelClient) -> None:
    by_prompt = client.infer(MODEL, "phantom_0001", {"prompt": "liver and spleen"})[1]
    by_names = client.infer(MODEL, "phantom_0001", {"classes": ["liver", "spleen"]})[1]
    assert by_prompt["segments"] == by_names["segments"]
    for names in (["all organs except the liver", "spleen"], ["spleen", "all organs except the liver"]):
        understood = client.infer(MODEL, "phantom_0001", {"classes": names})[1]["prompt"]["understood"]
        assert "spleen" in understood and "aorta" in understood and "liver" not in understood
    with pytest.raises(MONAILabelClientException, match="one of them; it has both"):
        client.infer(MODEL, "phantom_0001", {"classes": ["liver"], "prompt": "spleen"})


def test_precision(client: MONAILabelClient, studies: Path) -> None:
    result = client.infer(MODEL, "phantom_0001", {"prompt": "right kidney", "precision": "float32"})
    assert result[1]["label_names"] == {"right kidney": 1}
    left, right = (truth_of(studies, "phantom_0001", value) for value in (3, 2))
    found = np.asarray(nib.load(result[0]).dataobj) == 1
    assert (found & right).sum() > 10 * (found & left).sum(), "sides change places"


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
    ("params", "words"),
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
def test_what_cannot_be_obeyed_is_answered_with_words(server: Server, params: dict[str, Any], words: str) -> None:
    answer = post(server, f"/infer/{MODEL}?image=phantom_0000", data={"params": json.dumps(params)})
    assert answer.status_code == 400
    assert re.search(words, answer.json()["detail"])


def test_a_folder_of_nifti_has_no_dicom_to_refer_to(server: Server) -> None:
    answer = post(server, f"/infer/{MODEL}?image=phantom_0000&output=dicom_seg", data={"params": '{"prompt": "liver"}'})
    assert answer.status_code == 400 and "DICOMweb" in answer.json()["detail"]


def post(server: Server, path: str, **content: Any) -> requests.Response:
    return requests.post(server.address + path, timeout=60, **content)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12].encode("unicode_escape").decode())
def test_hostile_text_does_nothing_wherever_it_stands(server: Server, tmp_path: Path, text: str) -> None:
    mark = tmp_path / "mark"
    text = text.replace("{mark}", str(mark))
    before = listing(server.folder)
    answers = []
    for field in ("prompt", "classes", "precision", "device", "result_extension", "label_tag", "client_id", "image"):
        params = json.dumps({"prompt": "xyzzy"} | {field: text})
        answers.append(post(server, f"/infer/{MODEL}?image=phantom_0000", data={"params": params}))
    answers.append(post(server, f"/infer/{MODEL}?image=phantom_0000", data={"params": text}))
    answers.append(requests.post(server.address + f"/infer/{MODEL}", params={"image": text[:4000]}, timeout=60))
    for path in (f"/train/{MODEL}", f"/batch/infer/{MODEL}", "/scoring/uncertainty", "/activelearning/random"):
        for field in ("prompt", "max_epochs", "device", "model", "gpus", "images", "client_id", "learning_rate"):
            answers.append(post(server, path, json={field: text}))
        answers.append(post(server, path, json=text))
    for path in ("/datastore/label?image=phantom_0000", "/datastore/image"):
        files = {"label": (text[:50], b"rubbish"), "file": (text[:50], b"rubbish")}
        answers.append(requests.put(server.address + path, data={"params": text}, files=files, timeout=60))
    for answer in answers:
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.request.url, answer.text[:200])
        assert answer.json()["detail"]
        assert "Traceback" not in answer.text
    assert not mark.exists()
    assert listing(server.folder) == before
    assert server.info()["models"][MODEL]


def listing(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts and "logs" not in path.parts}


@pytest.mark.parametrize("headers", [{"Host": "attacker.example"}, {"Origin": "http://attacker.example"}])
def test_other_names_and_pages_are_refused(server: Server, headers: dict[str, str]) -> None:
    answer = requests.get(f"{server.address}/info/", headers=headers, timeout=10)
    assert answer.status_code == 403 and answer.json()["detail"]


#: All that the server answers; a new release of MONAI Label adds nothing to it by itself.
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
    paths = requests.get(f"{server.address}/openapi.json", timeout=10).json()["paths"]
    assert {path: " ".join(sorted(methods)) for path, methods in paths.items()} == OFFERED


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
def test_what_is_not_offered_is_not_there(server: Server, method: str, path: str) -> None:
    answer = requests.request(method, server.address + path, timeout=10)
    assert answer.status_code in (400, 404, 405) and answer.json()["detail"]


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
    answer = requests.get(server.address + path, timeout=10)
    assert answer.status_code in (400, 404), answer.text[:200]
    assert str(server.folder) not in answer.text


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Origin": "http://["}])
def test_headers_that_are_no_addresses(server: Server, headers: dict[str, str]) -> None:
    assert requests.get(f"{server.address}/info/", headers=headers, timeout=10).status_code == 400


def test_a_session_unpacks_no_archive(server: Server, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "image.nii.gz", "w:gz") as archive:
        (tmp_path / "payload").write_text("x")
        archive.add(tmp_path / "payload", arcname="../../../../../../../../../../../../tmp/deep_film_was_here")
    files = {"files": ("image.nii.gz", (tmp_path / "image.nii.gz").read_bytes())}
    answer = requests.put(f"{server.address}/session/?uncompress=true", files=files, timeout=10)
    assert answer.status_code == 400
    assert not Path("/tmp/deep_film_was_here").exists()


@pytest.mark.parametrize("kind", ["rubbish", "four dimensions", "not HU", "not a number"])
def test_an_image_that_cannot_be_answered(server: Server, tmp_path: Path, kind: str) -> None:
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
    answer = post(
        server,
        f"/infer/{MODEL}",
        data={"params": '{"prompt": "liver"}'},
        files={"file": ("image.nii.gz", content)},
    )
    assert answer.status_code == 400, answer.text
    assert "/" not in answer.json()["detail"].replace("and/or", "") or "nibabel" in answer.json()["detail"]
    assert "--" not in answer.json()["detail"]


def test_weights_may_change_and_vanish_while_serving(client: MONAILabelClient, server: Server) -> None:
    weights = server.app / "model" / MODEL / "models" / "model.safetensors"
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


def test_an_image_is_not_replaced_by_an_upload(server: Server, studies: Path) -> None:
    files = {"file": ("phantom_0000.nii.gz", (studies / "phantom_0001.nii.gz").read_bytes())}
    answer = requests.put(f"{server.address}/datastore/image", files=files, timeout=30)
    assert answer.status_code == 400 and "choose another" in answer.json()["detail"]


def test_an_image_that_was_cut_short_is_no_upload(server: Server, studies: Path) -> None:
    files = {"file": ("cut.nii.gz", (studies / "phantom_0001.nii.gz").read_bytes()[:-9])}
    answer = requests.put(f"{server.address}/datastore/image", files=files, timeout=30)
    assert answer.status_code == 400 and "The upload is damaged or cut short" in answer.json()["detail"]
    assert "cut" not in requests.get(f"{server.address}/datastore/?output=all", timeout=30).json()["objects"]


def test_many_clients_at_once_each_get_their_own_answer(server: Server, client: MONAILabelClient) -> None:
    prompts = ["liver", "spleen", "both kidneys", "lungs", "xyzzy"]
    images = ["phantom_0000", "phantom_0001"]
    alone = {
        (image, prompt): client.infer(MODEL, image, {"prompt": prompt})[1]["segments"]
        for image in images
        for prompt in prompts[:-1]
    }
    slowest = 0.0
    memory = server.memory()

    def ask(number: int) -> bool:
        image, prompt = images[number % 2], prompts[number % 5]
        answer = post(
            server, f"/infer/{MODEL}?image={image}&output=json", data={"params": json.dumps({"prompt": prompt})}
        )
        if prompt == "xyzzy":
            return bool(answer.status_code == 400)
        return bool(answer.json()["segments"] == alone[image, prompt])

    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(ask, number) for number in range(20)]
        while not all(answer.done() for answer in answers):
            slowest = max(slowest, requests.get(f"{server.address}/info/", timeout=10).elapsed.total_seconds())
    assert all(answer.result() for answer in answers)
    assert slowest < 1, f"/info/ took {slowest:.2f} s"
    assert server.memory() < memory + 300 * 2**20


def test_an_inference_stops_when_its_client_goes_away(server: Server) -> None:
    held = [requests.Session() for _ in range(3)]  # three requests, of which two wait for the one place
    for session in held:
        with pytest.raises(requests.Timeout):
            session.post(
                f"{server.address}/infer/{MODEL}?image=phantom_0000",
                data={"params": json.dumps({"prompt": "liver"})},
                timeout=(5, 0.1),
            )
        session.close()
    assert post(server, f"/infer/{MODEL}?image=phantom_0000&output=json", data={"params": '{"prompt": "liver"}'}).ok
    assert "its inference was stopped" in server.log.read_text()


def test_nothing_of_a_request_stays_in_the_temporary_folder(server: Server) -> None:
    deadline = time.monotonic() + 10  # an answer's file goes once it is sent
    while left := [path for path in server.temporary.rglob("*") if path.is_file() and path.suffix in (".gz", ".nrrd")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_the_log_holds_neither_prompts_nor_paths_nor_images(server: Server, studies: Path) -> None:
    lines = server.log.read_text().split("Application startup complete")[1]
    for secret in ("phantom_00", "liver", "spleen", "xyzzy", str(studies)):
        assert secret not in lines, [line for line in lines.splitlines() if secret in line][:3]
    assert "structures in" in lines


def test_it_stops_when_told_to_even_while_it_computes(server: Server) -> None:
    params = json.dumps({"prompt": "liver, spleen, lungs"})
    with ThreadPoolExecutor(8) as clients:
        for _ in range(8):
            clients.submit(post, server, f"/infer/{MODEL}?image=phantom_0000", data={"params": params})
        time.sleep(0.5)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
    assert time.monotonic() - start < 15
