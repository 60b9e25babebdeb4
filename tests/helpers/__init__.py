"""What several tests share: paths, small data, servers, a PACS, a browser."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "bundles"
CONFIGS = BUNDLES / "film_swinunetr" / "configs"

__all__ = ["BUNDLES", "CONFIGS", "ROOT"]
