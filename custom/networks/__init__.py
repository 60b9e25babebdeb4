"""Networks, one per file, built from the parts in ``blocks/``.

Each encodes an image once (``encode``) and decodes it under a text vector (``decode``); baselines ignore the text.
``FiLMSwinUNETR`` is the network with text. It and ``UniversalSwinUNETR`` share the trunk in ``swin_unetr``.

To add a network: write its file here with the methods of ``custom.inferers.protocols.PromptedNetwork``, list it below,
and name it as ``network_def`` in a bundle. To place FiLM elsewhere, add an entry to ``film_swin_unetr.VARIANTS``.
"""

from custom.networks.film import FiLM, ResidualFiLM
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.sizes import check_sizes
from custom.networks.swin_unetr import Features, SwinUNETR
from custom.networks.unetr import UNETR
from custom.networks.universal_swin_unetr import UniversalSwinUNETR

__all__ = [
    "UNETR",
    "Features",
    "FiLM",
    "FiLMSwinUNETR",
    "ResidualFiLM",
    "SwinUNETR",
    "UniversalSwinUNETR",
    "check_sizes",
]
