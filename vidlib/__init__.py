"""Human action recognition in video, from pixels to predictions: the module under the course."""

import os
from typing import Any

# Read by OpenCV when it loads, by FFmpeg when it first opens a file: what they would print about a
# damaged file is said by our own errors and warnings. Whoever has set them keeps what they set.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

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
