"""A file per network; what they are built of is in ``blocks/``."""

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
