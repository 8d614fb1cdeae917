"""The vocabulary's worked examples as vectors, and what must hold for any image."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd3tune.data import buckets


@dataclass(frozen=True)
class Asked:
    """The settings of a dataset that geometry reads."""

    crop: bool = False
    crop_aspect: str = "square"
    crop_style: str = "center"
    resolution: float = 1024
    resolution_type: str = "pixel_area"
    minimum_image_size: float | None = None
    maximum_image_size: float | None = None
    target_downsample_size: float | None = None
    aspect_bucket_rounding: int = 2
    aspect_bucket_alignment: int = 64


AREA, SQUARE = Asked(), Asked(crop=True)
PIXEL, HALF = Asked(resolution_type="pixel"), Asked(resolution=512)


@pytest.mark.parametrize(
    "size, asked, bucket, resized, aspect",
    [
        ((1024, 1024), AREA, (1024, 1024), (1024, 1024), 1.0),
        ((4000, 3000), AREA, (1152, 896), (1194, 896), 1.29),
        ((3000, 4000), AREA, (896, 1152), (896, 1194), 0.78),
        ((1280, 768), AREA, (1344, 768), (1344, 806), 1.75),
        ((1920, 1080), AREA, (1344, 768), (1365, 768), 1.75),
        ((6000, 2000), AREA, (1792, 576), (1792, 597), 3.11),
        ((800, 600), AREA, (1152, 896), (1194, 896), 1.29),
        ((500, 500), AREA, (1024, 1024), (1024, 1024), 1.0),
        ((4000, 3000), PIXEL, (1344, 1024), (1365, 1024), 1.31),
        ((3000, 4000), PIXEL, (1024, 1344), (1024, 1365), 0.76),
        ((1280, 768), PIXEL, (1728, 1024), (1728, 1036), 1.69),
        ((1920, 1080), PIXEL, (1792, 1024), (1820, 1024), 1.75),
        ((6000, 2000), PIXEL, (3072, 1024), (3072, 1024), 3.0),
        ((4000, 3000), HALF, (576, 448), (597, 448), 1.29),
        ((3000, 4000), HALF, (448, 576), (448, 597), 0.78),
        ((1280, 768), HALF, (640, 384), (640, 384), 1.67),
        ((1920, 1080), HALF, (704, 384), (704, 396), 1.83),
        ((6000, 2000), HALF, (896, 320), (960, 320), 2.8),
    ],
)
def test_worked_examples(size, asked, bucket, resized, aspect) -> None:  # type: ignore[no-untyped-def]
    got = buckets.geometry(size, asked, "x")
    assert (got.bucket, got.resized, got.aspect) == (bucket, resized, aspect)


@pytest.mark.parametrize(
    "size, resized, crop",
    [
        ((4000, 3000), (1365, 1024), (170, 0)),
        ((3000, 4000), (1024, 1365), (0, 170)),
        ((1280, 768), (1706, 1024), (341, 0)),
        ((1920, 1080), (1820, 1024), (398, 0)),
        ((6000, 2000), (3072, 1024), (1024, 0)),
        ((800, 600), (1365, 1024), (170, 0)),
        ((500, 500), (1024, 1024), (0, 0)),
    ],
)
def test_square_crops_at_the_centre(size, resized, crop) -> None:  # type: ignore[no-untyped-def]
    got = buckets.geometry(size, SQUARE, "x")
    assert (got.bucket, got.resized, got.crop, got.aspect) == ((1024, 1024), resized, crop, 1.0)


@pytest.mark.parametrize(
    "size, crop", [((4000, 3000), (384, 160)), ((1280, 768), (501, 96)), ((500, 500), (256, 256))]
)
def test_downsampling_first_leaves_more_to_cut(size, crop) -> None:  # type: ignore[no-untyped-def]
    asked = Asked(crop=True, maximum_image_size=2048, target_downsample_size=1536)
    got = buckets.geometry(size, asked, "x")
    assert (got.bucket, got.crop) == ((1024, 1024), crop)


def test_half_rounds_to_even_and_nothing_falls_below_one_unit() -> None:
    assert [buckets.aligned(n, 64) for n in (96, 160, 31, 1000)] == [128, 128, 64, 1024]


@given(
    st.tuples(st.integers(16, 9000), st.integers(16, 9000)),
    st.booleans(),
    st.sampled_from(["square", "preserve"]),
    st.sampled_from(["random", "center", "corner"]),
    st.sampled_from([("pixel_area", 512), ("pixel_area", 1024), ("area", 0.5), ("pixel", 640)]),
)
def test_the_resized_image_always_covers_its_bucket(size, crop, aspect, style, resolution) -> None:  # type: ignore[no-untyped-def]
    kind, value = resolution
    asked = Asked(crop, aspect, style, value, kind)
    got = buckets.geometry(size, asked, "some image")
    (left, top), (width, height) = got.crop, got.bucket
    assert width % 64 == 0 and height % 64 == 0
    assert left >= 0 and top >= 0
    assert left + width <= got.resized[0] and top + height <= got.resized[1]
    assert got == buckets.geometry(size, asked, "some image")


def test_random_crops_differ_between_images() -> None:
    asked = Asked(crop=True, crop_style="random")
    crops = {buckets.geometry((4000, 3000), asked, f"image {i}").crop for i in range(50)}
    assert len(crops) > 30


def test_small_images_are_turned_away_by_area_and_by_edge() -> None:
    assert buckets.too_small((400, 400), Asked(minimum_image_size=512)) is not None
    assert buckets.too_small((1000, 300), Asked(minimum_image_size=512)) is None
    square = Asked(crop=True, minimum_image_size=512)
    assert "300" in (buckets.too_small((1000, 300), square) or "")
    assert buckets.too_small((1000, 300), Asked(resolution_type="pixel", minimum_image_size=512))
    assert buckets.too_small((10, 10), Asked()) is None
