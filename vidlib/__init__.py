"""Human action recognition in video, from pixels to predictions: the module under the course."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["PredictionPanel", "Predictor"]


def __getattr__(name: str) -> Any:
    """Import the two faces when they are asked for: `import vidlib` alone stays quick."""
    if name == "Predictor":
        from .predict import Predictor

        return Predictor
    if name == "PredictionPanel":
        from .widget import PredictionPanel

        return PredictionPanel
    raise AttributeError(f"module 'vidlib' has no attribute '{name}'")
