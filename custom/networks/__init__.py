"""Networks, one per file, built from the parts in ``blocks/``.

Each encodes an image once (``encode``) and decodes it under a text vector (``decode``); baselines ignore the text.
``FiLMSwinUNETR`` is the network with text. It and ``UniversalSwinUNETR`` share the trunk in ``swin_unetr``.

To add a network: a file here whose class also subclasses ``DescribedNetwork`` and states its facts (settings, encoder,
head, text layers, public checkpoints), its name in ``NETWORKS`` below, and a bundle that names it as ``_target_``.
"""

from custom.networks.described import DescribedNetwork
from custom.networks.film import FiLM, ResidualFiLM
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.sizes import check_sizes
from custom.networks.swin_unetr import SwinUNETR
from custom.networks.unetr import UNETR
from custom.networks.universal_swin_unetr import UniversalSwinUNETR

#: Networks by the name in a weights header. Public checkpoints are recognised by the first whose layout fits.
NETWORKS: dict[str, type[DescribedNetwork]] = {
    network.__name__: network for network in (FiLMSwinUNETR, UniversalSwinUNETR, UNETR, SwinUNETR)
}

__all__ = [
    "NETWORKS",
    "UNETR",
    "DescribedNetwork",
    "FiLM",
    "FiLMSwinUNETR",
    "ResidualFiLM",
    "SwinUNETR",
    "UniversalSwinUNETR",
    "check_sizes",
]
