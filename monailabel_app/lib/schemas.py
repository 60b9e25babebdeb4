"""What a client may send: every field named, typed and bounded; all else is refused before anything is done with it.

Values are data. None of them reaches a ConfigParser or an ``eval``; an identifier is no path.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from monailabel.utils.others.generic import device_map
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from lib.errors import RequestError

#: Longest prompt, in characters.
LONGEST_PROMPT = 500

#: Longest ``params`` of a form, in bytes.
LONGEST_PARAMS = 64 * 1024

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u2028\u2029]")


def _plain(value: Any) -> Any:
    if isinstance(value, str) and _CONTROL.search(value):
        raise ValueError("must not hold control characters")
    return value


def _first(value: Any) -> Any:
    """Clients send the list of choices back when the user chose nothing: its first entry is meant."""
    return value[0] if isinstance(value, list) and value else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _device(value: str) -> str:
    if value not in {"", *device_map()}:
        raise ValueError(f"must be one of {', '.join(device_map())}")
    return value


Text = Annotated[str, StringConstraints(max_length=LONGEST_PROMPT), BeforeValidator(_plain)]
#: An identifier of the datastore: no path, nothing hidden.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,127}$")]
Client = Annotated[str, StringConstraints(pattern=r"^[\w .:\-]{0,128}$")]
Device = Annotated[str, BeforeValidator(_first), AfterValidator(_device)]
Precision = Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_first)]


class Fields(BaseModel):
    """Fields of one kind of request."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", hide_input_in_errors=True)

    client_id: Client | None = None


class Prompted(Fields):
    """What to segment: ``prompt`` in free text, or ``classes`` by name."""

    prompt: Text = ""
    classes: Annotated[list[Text], Field(max_length=64)] | Text = ""
    precision: Precision = "auto"
    #: Sent by other clients; the server computes on its own device.
    device: Annotated[str, StringConstraints(pattern=r"^(|cpu|cuda(:\d{1,2})?)$"), BeforeValidator(_first)] = ""

    def asked(self) -> str:
        """The prompt, or the classes as one, a sentence each: what one leaves out does not touch the next.

        Raises:
            RequestError: neither, or both.
        """
        classes = self.classes if isinstance(self.classes, str) else ". ".join(self.classes)
        if bool(self.prompt.strip()) == bool(classes.strip()):
            raise RequestError(
                'A request must say what to segment, in `prompt` ("liver and both kidneys") or in `classes` '
                f'(["liver"]), one of them; it has {"both" if classes.strip() else "neither"}.'
            )
        if len(classes) > LONGEST_PROMPT:
            raise RequestError(f"classes must have at most {LONGEST_PROMPT} characters in all, not {len(classes)}.")
        return self.prompt if self.prompt.strip() else classes


class InferFields(Prompted):
    """``params`` of ``/infer/<model>``."""

    result_extension: Literal[".nii.gz", ".nii", ".nrrd"] = ".nii.gz"
    result_dtype: Literal["uint8"] = "uint8"
    result_compress: bool = True
    #: Sent by other clients; answers say themselves what they hold.
    label_info: Annotated[list[dict[str, Any]], Field(max_length=256)] | None = None
    restore_label_idx: bool = False


class BatchFields(Prompted):
    """Body of ``/batch/infer/<model>``."""

    label_tag: Literal["original"] = "original"
    max_batch_size: Annotated[int, Field(ge=0, le=100_000)] = 0
    max_workers: Annotated[int, Field(ge=0, le=64)] = 1
    #: Sent by other clients; labels are always saved, and the app chooses the device.
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
    device: Device = ""
    name: Client | None = None


class SampleFields(Fields):
    """Body of ``/activelearning/<strategy>``."""

    model: Name | None = None


class SavedLabelFields(Fields):
    """``params`` of ``PUT /datastore/label``: what each value of the map means."""

    class LabelInfo(BaseModel):
        """One value of a label map."""

        model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

        name: Annotated[str, StringConstraints(max_length=128), BeforeValidator(_plain)]
        idx: Annotated[int, Field(ge=1, le=255)] | None = None
        id: Annotated[int, Field(ge=1, le=255)] | None = None

    label_info: Annotated[list[LabelInfo], Field(max_length=255)] = []


Kind = TypeVar("Kind", bound=Fields)


def read_fields(kind: type[Kind], data: str | bytes | Mapping[str, Any] | None) -> Kind:
    """Read a request's fields, from JSON or decoded.

    Raises:
        RequestError: no JSON object, an unknown field, or a value of a wrong type or out of bounds. The message names
            field and rule, and never repeats the value.
    """
    try:
        if isinstance(data, str | bytes):
            if len(data) > LONGEST_PARAMS:
                raise RequestError(f"params must have at most {LONGEST_PARAMS} bytes, not {len(data)}.")
            return kind.model_validate_json(data or "{}")
        return kind.model_validate(dict(data or {}))
    except ValidationError as error:
        problems = []
        for entry in error.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(part) for part in entry["loc"])[:80] or "the request"
            problems.append(f"{where}: {entry['msg'].removeprefix('Value error, ')}")
        known = ", ".join(name for name in kind.model_fields)
        raise RequestError(f"{'; '.join(problems[:5])}. Fields are: {known}.") from None
