"""Finds the largest face in an image, for crop_style=face, with OpenCV's frontal-face cascade (an
optional package)."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd3tune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

EDGE = 640  # images are reduced to this size before the search


@cache
def detector() -> Any:
    """OpenCV's face detector. Raises DataError if OpenCV is not installed."""
    try:
        import cv2
    except ImportError:
        raise DataError(
            "crop_style=face needs OpenCV, which is not installed",
            hint="pip install 'sd3tune[face]', or set crop_style=center",
        ) from None
    folder = Path(cv2.__file__).parent / "data"
    return cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))


def largest(image: "Image.Image") -> tuple[float, float] | None:
    """The centre of the largest face, as fractions of width and height; None if none is found."""
    import numpy as np

    grey = image.convert("L")
    grey.thumbnail((EDGE, EDGE))
    found = detector().detectMultiScale(np.asarray(grey), scaleFactor=1.1, minNeighbors=6)
    if len(found) == 0:
        return None
    x, y, w, h = max(found, key=lambda box: (box[2] * box[3], -box[0], -box[1]))
    return float(x + w / 2) / grey.width, float(y + h / 2) / grey.height
