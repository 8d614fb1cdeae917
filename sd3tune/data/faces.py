"""The largest face in a picture, for crop_style=face: OpenCV's frontal cascade, an extra."""

from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from sd3tune.errors import DataError

EDGE = 640  # faces are looked for in a picture of this size


@cache
def detector() -> Any:
    """Raises DataError when OpenCV is missing."""
    try:
        import cv2
    except ImportError:
        raise DataError(
            "crop_style=face needs OpenCV, which is not installed",
            hint="pip install 'sd3tune[face]', or set crop_style=center",
        ) from None
    folder = Path(cv2.__file__).parent / "data"
    return cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))


def largest(image: Image.Image) -> tuple[float, float] | None:
    """Its centre as shares of width and height; None where there is none."""
    import numpy as np

    grey = image.convert("L")
    grey.thumbnail((EDGE, EDGE))
    found = detector().detectMultiScale(np.asarray(grey), scaleFactor=1.1, minNeighbors=6)
    if len(found) == 0:
        return None
    x, y, w, h = max(found, key=lambda box: (box[2] * box[3], -box[0], -box[1]))
    return float(x + w / 2) / grey.width, float(y + h / 2) / grey.height
