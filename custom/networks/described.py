"""Facts that a network class states, for the packages above: adding a network touches its own file only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch

#: Shape of a tensor of a public checkpoint by our name, of a given number of axes; raises where it is not there.
ShapeOf = Callable[[str, int], torch.Size]


class PublicLayout(NamedTuple):
    """How a public code names the tensors of a network.

    A checkpoint with a name that matches ``mark`` from its start has this layout. The first layout that matches wins.
    Every name, without ``module.`` and with the present names of MLP layers, must match ``dropped`` or ``rules``.
    """

    name: str  # as ``--family`` and provenance state it
    mark: str
    rules: Mapping[str, str] = {}  # our name (as for ``re.sub``) by pattern; the first that matches wins
    dropped: Mapping[str, str] = {}  # why a tensor is of no use, by pattern
    settings: Mapping[str, Any] = {}  # of the network that the layout itself tells, such as a variant
    encoder_only: bool = False  # an image encoder without a network, to start a training from
    refusal: str = ""  # why a checkpoint of this layout cannot be read


class DescribedNetwork:
    """Facts that a network class states of itself, for weights files, fine-tuning, conversion and export.

    Parameters are named by prefix.
    """

    #: Constructor arguments that decide which weights fit, and their types. Each is an attribute of the network too.
    SETTINGS: ClassVar[dict[str, type]] = {}
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
    MAY_LACK: ClassVar[dict[str, str]] = {}
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

        ``sizes`` are what ``read_settings`` returned, ``roi_size`` the window that the user states, if any. Raises
        ValueError where the checkpoint cannot have been trained with it.
        """
        return {name: sizes[name] for name in cls.SETTINGS}, list(roi_size or (96, 96, 96))

    @classmethod
    def adapt(cls, state: dict[str, torch.Tensor]) -> None:
        """Change tensors of a public checkpoint, by our names, into the shape that this class gives them."""
