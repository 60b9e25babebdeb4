"""The networks: a file per box of the figure."""

from custom.networks.film import FiLM, ResidualFiLM
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import Features, SwinUNETR
from custom.networks.unetr import UNETR
from custom.networks.universal import UniversalSwinUNETR

__all__ = ["UNETR", "Features", "FiLM", "FiLMSwinUNETR", "ResidualFiLM", "SwinUNETR", "UniversalSwinUNETR"]
