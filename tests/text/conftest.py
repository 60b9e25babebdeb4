"""Real CLIP text models, tiny and with random weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

TinyClip = Callable[[int], Path]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    """Make the folder of a CLIP of 16 hidden and 8 projected dimensions, with weights from a seed.

    Its vocabulary is the byte alphabet without merges: a letter is a token.
    """

    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    @cache
    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("clip")
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        letters = [chr(byte) for byte in printable] + [chr(256 + at) for at in range(256 - len(printable))]
        tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
        config = CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=8,
            attention_dropout=0.5,  # shows in the vectors unless the model is in eval mode
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
            pad_token_id=vocabulary["<|endoftext|>"],
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            CLIPTextModelWithProjection(config).save_pretrained(folder)
        return folder

    return make
