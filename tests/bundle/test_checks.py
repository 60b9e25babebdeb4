"""Settings that would train something else than they say."""

from typing import Any

import pytest

from custom.anatomy.class_set import ClassSet
from custom.bundle.checks import check_crops, check_prompt_policy
from custom.datasets.labels import value_table
from custom.text.bank import PromptBank
from custom.text.encoders import create_text_encoder
from custom.text.no_text import NoText


def test_targets_are_left_out_only_for_a_network_that_reads_prompts() -> None:
    with pytest.raises(ValueError, match=r"--train::prompt_policy must be 'dataset' here, not 'sampled'"):
        check_prompt_policy("sampled", bank=NoText())
    check_prompt_policy("dataset", bank=NoText())
    check_prompt_policy("sampled", bank=PromptBank(encoder=create_text_encoder("minilm")))


def test_every_label_value_has_its_ratio(class_set: ClassSet) -> None:
    """KiTS's kidneys and tumours are four values once right and left are told apart."""
    described: dict[str, dict[str, str | list[str]]] = {
        "10_03": {"1": "liver", "2": ["liver tumor", "liver"]},
        "05": {"1": "kidneys", "2": ["kidney tumor", "kidneys"]},
    }
    liver, kidneys = (
        {"dataset": key, "value_table": value_table(labels, class_set, source="this test")}
        for key, labels in described.items()
    )
    chosen: dict[str, Any] = {"crop_datasets": ["10_*"], "crop_ratios": [1, 1, 5]}
    check_crops([liver, kidneys], **chosen)
    with pytest.raises(ValueError, match=r"Data set '05' has values up to 4, .* 3 numbers, \[1, 1, 5\]\. Give 5, or"):
        check_crops([liver, kidneys], **chosen | {"crop_datasets": ["*"]})
    check_crops([liver, kidneys], crop_datasets=["*"], crop_ratios=[])
