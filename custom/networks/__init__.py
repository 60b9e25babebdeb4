"""The networks: a file per box of the figure."""

from custom.networks.film import FiLM
from custom.networks.film_swin_unetr import Features, FiLMSwinUNETR

__all__ = ["Features", "FiLM", "FiLMSwinUNETR"]
