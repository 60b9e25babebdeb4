"""Facts that a network class states, for the packages above: adding a network touches its own file only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

#: Shape of a tensor of a public checkpoint by our name, of a given number of axes; raises where it is not there.
ShapeOf = Callable[[str, int], torch.Size]


class KeyRule(NamedTuple):
    """What a tensor of a public checkpoint becomes: our name (as for ``re.sub``), or None and why it is dropped."""

    pattern: str
    ours: str | None
    reason: str = ""


class PublicLayout(NamedTuple):
    """How a public code names the tensors of a network.

    Args:
        name: of the layout, as ``--family`` and provenance state it.
        mark: regular expression; a checkpoint with a name that begins so has this layout. The first that matches wins.
        rules: what becomes of every name, without ``module.`` and with the present names of MLP layers.
        settings: of the network that the layout itself tells, such as a variant.
        encoder_only: an image encoder without a network, to start a training from.
        refusal: why a checkpoint of this layout cannot be read; empty where it can.
    """

    name: str
    mark: str
    rules: tuple[KeyRule, ...] = ()
    settings: Mapping[str, Any] = {}
    encoder_only: bool = False
    refusal: str = ""


class DescribedNetwork:
    """Facts that a network class states of itself, for weights files, fine-tuning, conversion and export.

    Parameters are named by prefix.
    """

    #: Constructor arguments that decide which weights fit, and their types. Each is an attribute of the network too.
    SETTINGS: ClassVar[Mapping[str, type]] = {}
    #: The image encoder, all of whose parameters a training must find in the weights it starts from, ...
    ENCODER: ClassVar[tuple[str, ...]] = ()
    #: ... except those with this in their name, which the network has and does not use.
    UNUSED: ClassVar[str | None] = None
    #: Layers that read text vectors, and buffers that hold them.
    TEXT_LAYERS: ClassVar[tuple[str, ...]] = ()
    TEXT_VECTORS: ClassVar[tuple[str, ...]] = ()
    #: The layer whose channels are the classes.
    HEAD: ClassVar[tuple[str, ...]] = ()
    #: Tensors that a complete public checkpoint may lack, and why.
    MAY_LACK: ClassVar[Mapping[str, str]] = {}
    #: Public checkpoints whose tensors this class can take.
    LAYOUTS: ClassVar[tuple[PublicLayout, ...]] = ()
    #: What to set where a pretrained encoder does not fit.
    ENCODER_ADVICE: ClassVar[str] = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The values of ``SETTINGS``, as JSON holds them."""
        values = {name: getattr(self, name) for name in self.SETTINGS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def reads_prompt(self) -> bool:
        """Whether logits depend on the text vector that the network is given."""
        return "default_text" in self.TEXT_VECTORS

    @classmethod
    def read_settings(cls, shape: ShapeOf, layout: PublicLayout) -> dict[str, Any]:
        """Settings, and ``classes`` where there is a head, that the shapes of a public checkpoint tell."""
        raise NotImplementedError

    @classmethod
    def complete_settings(
        cls, sizes: Mapping[str, Any], roi_size: Sequence[int] | None
    ) -> tuple[dict[str, Any], list[int]]:
        """All of ``SETTINGS``, and the training window (H, W, D) in voxels, of a public checkpoint.

        Args:
            sizes: what ``read_settings`` returned.
            roi_size: the window that the user states, if any.

        Raises:
            ValueError: a window that the checkpoint cannot have been trained with.
        """
        return {name: sizes[name] for name in cls.SETTINGS}, list(roi_size or (96, 96, 96))

    @classmethod
    def adapt(cls, state: dict[str, torch.Tensor]) -> None:
        """Change tensors of a public checkpoint, by our names, into the shape that this class gives them."""

    @classmethod
    def create(cls, settings: Mapping[str, Any], *, out_channels: int, in_channels: int = 1) -> nn.Module:
        """A network with these settings and random weights."""
        return cls(in_channels=in_channels, out_channels=out_channels, **settings)  # type: ignore[call-arg,return-value]
