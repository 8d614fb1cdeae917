"""Pictures with their recipe inside: PNG (text chunks), JPEG and WebP (EXIF).

A1111's text is in PNG's `parameters` or EXIF's UserComment, where A1111 puts it; the JSON is in
PNG's `sd3tune` or EXIF's ImageDescription.
"""

from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from sd3tune.errors import DataError
from sd3tune.filesystem import drafts, opening
from sd3tune.formats.picture_recipe import A1111, OURS, PictureRecipe, recipe_of

FORMATS: Mapping[str, str] = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
EXIF_IFD, USER_COMMENT, IMAGE_DESCRIPTION = 0x8769, 0x9286, 0x010E
UNICODE = b"UNICODE\0"  # how EXIF says that a comment is UTF-16
MOST_EXIF_BYTES = 65_000  # a segment of a JPEG has 65,533


def keep(drawn: Any, path: Path, about: Mapping[str, str], quality: int = 90) -> None:
    """Writes a PIL image with texts inside; whole or not at all, through no link. The ending of the
    name says the format. quality: of a JPEG or WebP, 1 to 100. Raises OSError, and DataError for
    texts that do not fit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, kind = BytesIO(), FORMATS[path.suffix.lower().removeprefix(".")]
    if kind == "PNG":
        drawn.save(whole, kind, pnginfo=_chunks(about))
    else:
        drawn.convert("RGB").save(whole, kind, quality=quality, exif=_exif(about, path))
    drafts.write(path, whole.getbuffer())


def keep_drawn(drawn: Any, path: Path, recipe: PictureRecipe, quality: int = 90) -> PictureRecipe:
    """Writes a PIL image with its recipe, to which the hash of its pixels is added: a JPEG, too,
    says which picture was drawn. Returns the recipe as written. Raises as `keep` does."""
    whole = recipe.model_copy(update={"pixels_sha256": pixels_sha256(drawn)})
    keep(drawn, path, whole.texts(), quality)
    return whole


def pixels_sha256(drawn: Any) -> str:
    """Of the RGB bytes of a PIL image, row by row."""
    return sha256(drawn.convert("RGB").tobytes()).hexdigest()


def texts_in(path: Path) -> dict[str, str]:
    """The texts of a picture by key; empty for a picture of another program. Raises DataError for
    what is not a picture."""
    from PIL import Image

    if not opening.is_regular(path):
        raise DataError(f"`{path}` does not exist, or is not a file", hint="give a picture")
    try:
        with Image.open(path, formats=tuple(set(FORMATS.values()))) as image:
            exif = image.getexif()
            info = dict(image.info)
    except Exception as e:  # a damaged file makes Pillow raise anything
        raise DataError(
            f"`{path}` cannot be read as PNG, JPEG or WebP: {str(e).splitlines()[0]}",
            hint="give a picture of `sd3tune sample` or of a validation",
        ) from None
    held = {key: info[key] for key in (A1111, OURS) if isinstance(info.get(key), str)}
    comment, description = exif.get_ifd(EXIF_IFD).get(USER_COMMENT), exif.get(IMAGE_DESCRIPTION)
    if isinstance(comment, bytes) and comment.startswith(UNICODE):
        held.setdefault(A1111, comment.removeprefix(UNICODE).decode("utf-16-be", "replace"))
    if isinstance(description, str) and description.startswith("{"):
        held.setdefault(OURS, description)
    return held


def recipe_in(path: Path) -> PictureRecipe:
    """The recipe of a picture. Raises DataError for a picture without one."""
    held = texts_in(path)
    if OURS not in held:
        which = "A1111's text only" if A1111 in held else "no text about how it was drawn"
        raise DataError(
            f"`{path}` holds {which}",
            hint="give a picture of `sd3tune sample` or of a validation, as it was written: "
            "programs that save pictures again drop their metadata",
        )
    return recipe_of(held[OURS], str(path))


def _chunks(held: Mapping[str, str]) -> Any:
    """The texts as Pillow writes them: tEXt, or iTXt where Latin-1 does not have a character."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in held.items():
        info.add_text(key, text.replace("\0", ""))
    return info


def _exif(held: Mapping[str, str], path: Path) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    if OURS in held:
        exif[IMAGE_DESCRIPTION] = held[OURS]
    if A1111 in held:
        comment = UNICODE + held[A1111].encode("utf-16-be", "surrogatepass")
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    data = exif.tobytes()
    if len(data) > MOST_EXIF_BYTES:
        raise DataError(
            f"`{path}`: prompt and settings are {len(data):,} bytes, too many for EXIF",
            hint="write PNG, or shorten the prompt",
        )
    return data
