"""The scans of a JPEG, counted before one is decoded: each may take a few bytes of the file,
and goes over all pixels."""

from sd3tune.data.unusable import Unusable

SCAN = b"\xff\xda"  # in compressed data 0xff is followed by 0, so this is a marker wherever it is
MOST_SCANNED = 64 * 178_956_970  # pixels, over all scans: some 15 seconds; cameras write 1 to 12


def refuse_many_scans(data: bytes, pixels: int) -> None:
    """Raises Unusable. pixels: of the whole image."""
    scans = data.count(SCAN)
    if scans * pixels > MOST_SCANNED:
        raise Unusable(f"its {pixels:,} pixels are written in {scans} scans")
