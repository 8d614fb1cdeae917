"""The vocabulary's worked examples as vectors, and what must hold for any image."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd3tune.data import buckets
from tests.samples import asked

AREA, SQUARE = asked(), asked(crop=True)
PIXEL, HALF = asked(resolution_type="pixel"), asked(resolution=512)


@pytest.mark.parametrize(
    "size, wanted, bucket, resized, aspect",
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
def test_worked_examples_give_their_buckets(size, wanted, bucket, resized, aspect) -> None:  # type: ignore[no-untyped-def]
    got = buckets.geometry(size, wanted, "x")
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
    wanted = asked(crop=True, maximum_image_size=2048, target_downsample_size=1536)
    got = buckets.geometry(size, wanted, "x")
    assert (got.bucket, got.crop) == ((1024, 1024), crop)


def test_the_closest_aspect_is_taken() -> None:
    aspects = [0.5, 0.75, 1.0, 1.33, 1.78]
    wanted = asked(crop=True, crop_aspect="closest", crop_aspect_buckets=aspects)
    got = buckets.geometry((6000, 2000), wanted, "x")
    assert (got.bucket, got.resized, got.crop) == ((1344, 768), (2304, 768), (480, 0))
    assert buckets.geometry((2000, 2000), wanted, "x").bucket == (1024, 1024)
    assert buckets.geometry((1000, 1999), wanted, "x").bucket == (704, 1472)


def test_random_aspects_come_up_by_their_weights() -> None:
    weighted = [{"aspect": 1.0, "weight": 0.8}, {"aspect": 1.5, "weight": 0.2}]
    wanted = asked(crop=True, crop_aspect="random", crop_aspect_buckets=weighted)
    got = [buckets.geometry((900, 900), wanted, f"image {i}").bucket for i in range(1000)]
    assert 0.76 < got.count((1024, 1024)) / 1000 < 0.84 and len(set(got)) == 2
    assert buckets.geometry((900, 900), wanted, "image 1").bucket == got[1]


def test_a_face_is_in_the_middle_of_its_crop_where_the_image_allows() -> None:
    wanted = asked(crop=True, crop_style="face")
    crops = [buckets.geometry((4000, 2000), wanted, "x", focus).crop
             for focus in ((0.5, 0.5), (0.3, 0.5), (0.01, 0.9), (0.99, 0.1), None)]  # fmt: skip
    assert crops == [(512, 0), (102, 0), (0, 0), (1024, 0), (512, 0)]


def test_aspects_and_enlargements_beyond_the_limits_are_turned_away() -> None:
    def why(size: tuple[int, int], **limits: float) -> str:
        wanted = asked(**limits)
        return buckets.unwanted(size, buckets.geometry(size, wanted, "x"), wanted) or ""

    assert why((4000, 3000), minimum_aspect_ratio=1.29, maximum_aspect_ratio=1.29) == ""
    assert "1.29 is below minimum_aspect_ratio=1.3" in why((4000, 3000), minimum_aspect_ratio=1.3)
    assert "3.11 is above maximum_aspect_ratio=3" in why((6000, 2000), maximum_aspect_ratio=3)
    assert why((512, 512), max_upscale_threshold=1.0) == ""
    assert "enlarged by 100%" in why((512, 512), max_upscale_threshold=0.9)


def test_aspects_are_rounded_before_their_bucket_is_chosen() -> None:
    """1.16 as it is: 1024 x sqrt(1.16) = 1103, nearest 1088. As 1.2: 1122, nearest 1152."""
    for digits, bucket, aspect in ((2, (1088, 960), 1.13), (1, (1152, 960), 1.2)):
        got = buckets.geometry((1160, 1000), asked(aspect_bucket_rounding=digits), "x")
        assert (got.bucket, got.aspect) == (bucket, aspect)


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
    wanted = asked(crop=crop, crop_aspect=aspect, crop_style=style, resolution=value,
                   resolution_type=kind)  # fmt: skip
    got = buckets.geometry(size, wanted, "some image")
    (left, top), (width, height) = got.crop, got.bucket
    assert width % 64 == 0 and height % 64 == 0
    assert left >= 0 and top >= 0
    assert left + width <= got.resized[0] and top + height <= got.resized[1]
    assert got == buckets.geometry(size, wanted, "some image")


def test_random_crops_differ_between_images() -> None:
    wanted = asked(crop=True, crop_style="random")
    crops = {buckets.geometry((4000, 3000), wanted, f"image {i}").crop for i in range(50)}
    assert len(crops) > 30


def test_small_images_are_turned_away_by_area_and_by_edge() -> None:
    assert buckets.too_small((400, 400), asked(minimum_image_size=512)) is not None
    assert buckets.too_small((1000, 300), asked(minimum_image_size=512)) is None
    square = asked(crop=True, minimum_image_size=512)
    assert "300" in (buckets.too_small((1000, 300), square) or "")
    assert buckets.too_small((1000, 300), asked(resolution_type="pixel", minimum_image_size=512))
    assert buckets.too_small((10, 10), asked()) is None
