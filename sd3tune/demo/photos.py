"""Real photographs with captions, which scikit-image ships. All are in the public domain
or CC0; PHOTOS.md beside them names origin and licence of each.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sd3tune.errors import DataError

LONGEST = 512  # pixels: enough for a demo, and small files
NASA = "NASA, public domain"
CC0 = "CC0"


@dataclass(frozen=True)
class Photo:
    file: str  # in skimage/data
    caption: str
    origin: str
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom as shares


SQUARE = (  # captions in the file's name
    Photo("astronaut.png", "an astronaut in an orange suit in front of a flag", NASA),
    Photo("astronaut.png", "a close portrait of a smiling woman with short curly hair", NASA,
          (0.28, 0.0, 0.62, 0.34)),
    Photo("camera.png", "a man with a camera on a tripod black and white photograph",
          "Lav Varshney, CC0"),
    Photo("camera.png", "a man with a camera black and white photograph",
          "Lav Varshney, CC0", (0.2, 0.05, 0.7, 0.55)),
    Photo("brick.png", "a wall of bricks texture", "CC0Textures Bricks25, CC0"),
    Photo("grass.png", "grass from above texture", "linolafett (DeviantArt), CC0"),
    Photo("gravel.png", "gravel and small stones", "CC0Textures Gravel04, CC0"),
    Photo("retina.jpg", "the back of a human eye with its blood vessels medical photograph",
          "Mikael Häggström, CC0"),
)  # fmt: skip
ASPECT = (  # captions in a text file beside the picture
    Photo("chelsea.png", "a tabby cat with green eyes looking into the camera",
          "Stefan van der Walt, CC0"),
    Photo("chelsea.png", "a tabby cat, fur in detail", "Stefan van der Walt, CC0",
          (0.3, 0.0, 0.75, 1.0)),
    Photo("coffee.png", "a cup of coffee on a saucer with a spoon on a wooden table",
          "Rachel Michetti, CC0"),
    Photo("coffee.png", "a cup of coffee, seen from above", "Rachel Michetti, CC0",
          (0.1, 0.0, 0.55, 1.0)),
    Photo("rocket.jpg", "a rocket lifting off at night with fire and smoke",
          "SpaceX, public domain"),
    Photo("rocket.jpg", "a rocket lifting off over the sea", "SpaceX, public domain",
          (0.3, 0.0, 0.7, 1.0)),
    Photo("hubble_deep_field.jpg", "distant galaxies in deep space, stars on a black sky", NASA),
    Photo("clock_motion.png", "a round clock on a wall, blurred by motion",
          "Stefan van der Walt, public domain"),
)  # fmt: skip


def write(folder: Path) -> list[Path]:
    """Writes `square/` and `aspect/` with their captions, and PHOTOS.md. Raises DataError when
    scikit-image is not installed."""
    source = _source()
    written, lines = [], ["# Photographs", "", "| file | from | origin and licence |", "|-|-|-|"]
    for name, photos in (("square", SQUARE), ("aspect", ASPECT)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(photos):
            stem = photo.caption.replace(" ", "_") if name == "square" else f"{number:02}"
            path = folder / name / f"{stem}.png"
            _picture(source / photo.file, photo).save(path)
            if name == "aspect":
                path.with_suffix(".txt").write_text(photo.caption + "\n", encoding="utf-8")
            cut = " (a part of it)" if photo.box else ""
            lines.append(
                f"| {name}/{path.name} | scikit-image {photo.file}{cut} | {photo.origin} |"
            )
            written.append(path)
    (folder / "PHOTOS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return written


def _picture(path: Path, photo: Photo) -> Image.Image:
    image: Image.Image = Image.open(path)
    if photo.box:
        width, height = image.size
        left, top, right, bottom = photo.box
        box = (left * width, top * height, right * width, bottom * height)
        left, top, right, bottom = (int(edge) for edge in box)
        image = image.crop((left, top, right, bottom))
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return image


def _source() -> Path:
    from importlib.util import find_spec

    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError(
            "the demo's photographs come with scikit-image, which is not installed",
            hint="pip install 'sd3tune[demo]'",
        )
    return Path(spec.origin).parent / "data"
