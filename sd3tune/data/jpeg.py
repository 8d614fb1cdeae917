"""Counts the scans of a JPEG before decoding: a scan may need only a few bytes of the file, but it
covers all pixels."""

from sd3tune.data.unusable import Unusable

SCAN = b"\xff\xda"  # always a marker: in compressed data 0 follows 0xff
MOST_SCANNED = 64 * 178_956_970  # pixels, over all scans: some 15 seconds; cameras write 1 to 12


def refuse_many_scans(data: bytes, pixels: int) -> None:
    """Raises Unusable if the scans cover too many pixels in total. pixels: of the image."""
    scans = data.count(SCAN)
    if scans * pixels > MOST_SCANNED:
        raise Unusable(f"its {pixels:,} pixels are written in {scans} scans")
