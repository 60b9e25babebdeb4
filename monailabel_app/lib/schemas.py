"""Schemas of requests: every field is named, typed and bounded; anything else is refused before any work.

Values are data: none reaches a ConfigParser or an ``eval``, and no identifier can be a path.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from monailabel.utils.others.generic import device_map
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError

from lib.errors import RequestError

MAX_PROMPT_LENGTH = 500

#: Of ``params`` in a form.
MAX_PARAMS_BYTES = 64 * 1024

#: Characters that no text may hold.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u2028\u2029]")

#: What no identifier may hold: it can be neither a path nor a hidden file.
UNSAFE_ID = re.compile(r"[\x00-\x1f\x7f/\\]|^\.")


def _plain(value: str) -> str:
    if CONTROL.search(value):
        raise ValueError("must not hold control characters")
    return value


def _first(value: Any) -> Any:
    """The first of a list: clients return the list of choices if the user chose none."""
    return value[0] if isinstance(value, list) and value else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _device(value: str) -> str:
    if value not in {"", *device_map()}:
        raise ValueError(f"must be one of {', '.join(device_map())}")
    return value


Text = Annotated[str, StringConstraints(max_length=MAX_PROMPT_LENGTH), AfterValidator(_plain)]
#: An identifier of the datastore: neither a path nor a hidden file.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,127}$")]
Client = Annotated[str, StringConstraints(pattern=r"^[\w .:\-]{0,128}$")]
Gib = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AppSettings(BaseModel, extra="forbid"):
    """The entries of ``--conf``, which docs/monai_label.md describes; ``server_mode`` is MONAI Label's own."""

    models: str = "film_swinunetr"
    hosts: str = ""
    concurrency: Annotated[int, Field(ge=1)] = 1
    cache_gib: Gib = 2
    features_gib: Gib = 4
    text_encoder: str = "minilm"
    server_mode: str = "false"


class Fields(BaseModel, extra="forbid", hide_input_in_errors=True):
    """Fields of a request."""

    client_id: Client | None = None


class PromptFields(Fields):
    """The requested structures: ``prompt`` in free text, or ``classes`` by name."""

    prompt: Text = ""
    classes: Annotated[list[Text], Field(max_length=64)] | Text = ""
    precision: Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_first)] = "auto"
    #: Sent by stock clients and ignored: the server chooses the device.
    device: Annotated[str, StringConstraints(pattern=r"^(|cpu|cuda(:\d{1,2})?)$"), BeforeValidator(_first)] = ""

    def requested_text(self) -> str:
        """The prompt, or the classes as one with a sentence each, so that an exclusion ends with its sentence.

        Raises:
            RequestError: neither, or both.
        """
        classes = self.classes if isinstance(self.classes, str) else ". ".join(self.classes)
        if bool(self.prompt.strip()) == bool(classes.strip()):
            raise RequestError(
                'A request must say what to segment, in `prompt` ("liver and both kidneys") or in `classes` '
                f'(["liver"]), one of them; it has {"both" if classes.strip() else "neither"}.'
            )
        if len(classes) > MAX_PROMPT_LENGTH:
            raise RequestError(f"classes must have at most {MAX_PROMPT_LENGTH} characters in all, not {len(classes)}.")
        return self.prompt if self.prompt.strip() else classes


class InferFields(PromptFields):
    """``params`` of ``/infer/<model>``."""

    result_extension: Literal[".nii.gz", ".nii", ".nrrd"] = ".nii.gz"
    result_dtype: Literal["uint8"] = "uint8"
    result_compress: bool = True
    #: Sent by stock clients and ignored: the report names the values of a label map.
    label_info: Annotated[list[dict[str, Any]], Field(max_length=256)] | None = None
    restore_label_idx: bool = False


class BatchFields(PromptFields):
    """Body of ``/batch/infer/<model>``."""

    label_tag: Literal["original"] = "original"
    max_batch_size: Annotated[int, Field(ge=0, le=100_000)] = 0
    max_workers: Annotated[int, Field(ge=0, le=64)] = 1
    #: Sent by stock clients and ignored: labels are always saved, and the server chooses the device.
    save_label: bool = True
    multi_gpu: bool = False
    gpus: Annotated[str, StringConstraints(pattern=r"^(all|\d{1,2}(,\d{1,2})*)$")] = "all"
    logging: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"


class ScoringFields(Fields):
    """Body of ``/scoring/<method>``."""

    model: Name
    prompt: Text


class TrainFields(Fields):
    """Body of ``/train/<model>``."""

    max_epochs: Annotated[int, Field(ge=1, le=100_000), BeforeValidator(_no_bool)] = 10
    val_split: Annotated[float, Field(ge=0.01, le=0.99), BeforeValidator(_no_bool)] = 0.2
    learning_rate: Annotated[float, Field(ge=1e-8, le=10), BeforeValidator(_no_bool)] = 1e-4
    device: Annotated[str, BeforeValidator(_first), AfterValidator(_device)] = ""
    name: Client | None = None


class SampleFields(Fields):
    """Body of ``/activelearning/<strategy>``."""

    model: Name | None = None


class SavedLabelFields(Fields):
    """``params`` of ``PUT /datastore/label``: the name of each value, see ``lib.datastore.labels.check_names``.

    A final label is added to an earlier one, and its structures replace those of the same name; with ``replace`` it
    takes the earlier one's place. ``annotator`` is the person who answers for it.
    """

    replace: bool = False
    annotator: Annotated[Text, StringConstraints(max_length=64)] = ""
    label_info: Annotated[list[dict[str, Any]], Field(max_length=255)] = []


Kind = TypeVar("Kind", bound=BaseModel)


def read_fields(kind: type[Kind], data: str | bytes | Mapping[str, Any] | None) -> Kind:
    """Validate the fields of a request, given as JSON or decoded.

    Raises:
        RequestError: not a JSON object, an unknown field, or a value of a wrong type or out of bounds. The message
            gives field and rule, never the value.
    """
    try:
        if isinstance(data, str | bytes):
            if len(data) > MAX_PARAMS_BYTES:
                raise RequestError(f"params must have at most {MAX_PARAMS_BYTES} bytes, not {len(data)}.")
            return kind.model_validate_json(data or "{}")
        return kind.model_validate(dict(data or {}))
    except ValidationError as error:
        raise RequestError(f"{problems(error.errors())}. Fields are: {', '.join(kind.model_fields)}.") from None


def problems(errors: Sequence[Mapping[str, Any]]) -> str:
    """Field and rule of the first of pydantic's errors, without the values."""
    return "; ".join(
        f"{'.'.join(map(str, entry['loc']))[:80] or 'the request'}: {entry['msg'].removeprefix('Value error, ')}"
        for entry in errors[:5]
    )
