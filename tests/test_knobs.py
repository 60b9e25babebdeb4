"""Knobs that would train something else than they say."""

import pytest

from custom.knobs import check_prompt_policy
from custom.text import NoText, PromptBank, create_text_encoder


def test_targets_are_left_out_only_for_a_network_that_is_asked() -> None:
    with pytest.raises(ValueError, match=r"--prompt_policy must be 'dataset' here, not 'sampled'"):
        check_prompt_policy("sampled", bank=NoText())
    check_prompt_policy("dataset", bank=NoText())
    check_prompt_policy("sampled", bank=PromptBank(encoder=create_text_encoder("minilm")))
