"""Pixels, caches and the loader, on real files."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sd3tune.data import images
from sd3tune.data.buckets import Geometry
from sd3tune.data.cache import TensorCache, latent_key, text_key
from sd3tune.data.discover import Sample, Unusable, size_of
from sd3tune.data.epoch import batches_per_epoch, order
from sd3tune.data.loader import Loader
from sd3tune.errors import DataError


def sample(path: Path, resized=(64, 64), crop=(0, 0), bucket=(64, 64), **more) -> Sample:  # type: ignore[no-untyped-def]
    shape = Geometry(resized, crop, bucket, bucket[0] / bucket[1])
    name = path.name
    return Sample("d", path, name, resized, (name,), shape, hash(name) & 0xFFFF, **more)


def saved(image: Image.Image, path: Path, **options) -> Path:  # type: ignore[no-untyped-def]
    image.save(path, **options)
    return path


def test_orientation_is_applied_to_size_and_pixels(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 64))
    image.paste("white", (0, 0, 48, 64))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned right: the left half comes up
    path = saved(image, tmp_path / "turned.png", exif=exif)
    assert size_of(path) == (64, 96)
    pixels = images.load(sample(path, resized=(64, 96), bucket=(64, 96)))
    assert pixels.shape == (3, 96, 64)
    assert pixels[:, :40].min() > 0.9 and pixels[:, 60:].max() < -0.9


@pytest.mark.parametrize("mode, colour", [("L", 255), ("P", 255), ("1", 1), ("CMYK", (0, 0, 0, 0)),
                                          ("RGBA", (0, 0, 0, 0)), ("I;16", 65535)])  # fmt: skip
def test_every_mode_becomes_white_rgb(mode: str, colour: object, tmp_path: Path) -> None:
    if mode == "P":
        image = Image.new("RGB", (64, 64), "white").convert("P")
    else:
        image = Image.new(mode, (64, 64), colour)  # type: ignore[arg-type]
    path = saved(image, tmp_path / f"x.{'tif' if mode in ('CMYK', 'I;16') else 'png'}")
    assert images.load(sample(path)).min() > 0.99


def test_a_colour_profile_is_converted(tmp_path: Path) -> None:
    from PIL import ImageCms

    image = Image.new("RGB", (64, 64), (200, 80, 40))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    tagged = saved(image, tmp_path / "tagged.png", icc_profile=profile.tobytes())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = saved(image, tmp_path / "same.png", icc_profile=srgb)
    plain = saved(image, tmp_path / "plain.png")
    want = images.load(sample(plain))
    assert (images.load(sample(same)) - want).abs().max() < 0.02
    assert torch.isfinite(images.load(sample(tagged))).all()  # a profile of another space is left


def test_the_crop_is_the_one_that_was_planned(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    path = saved(Image.fromarray(np.stack([ramp] * 3, -1)), tmp_path / "ramp.png")
    pixels = images.load(sample(path, resized=(256, 64), crop=(100, 0)))
    got = ((pixels[0, 0] + 1) * 127.5).round()
    assert got.tolist() == list(range(100, 164))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_broken_headers_are_refused_with_a_reason(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(Unusable):
        size_of(tmp_path / "x.png")


def test_a_truncated_picture_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = saved(noise, tmp_path / "cut.png")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.png"):
        images.load(sample(path))


def test_an_entry_comes_back_and_a_torn_one_is_gone(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    key = text_key("a cat", "encoders")
    cache.put(key, {"a": torch.arange(6.0)})
    assert torch.equal(cache.get(key)["a"], torch.arange(6.0)) and cache.has(key)
    path = next((tmp_path / "cache").rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="cannot be read"):
        cache.get(key)
    assert not cache.has(key)


def test_infinite_latents_do_not_come_out_of_the_cache(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put("ab", {"latents": torch.tensor([1.0, float("inf")])})
    with pytest.raises(DataError, match="NaN or infinity"):
        cache.get("ab")


def test_keys_change_with_everything_that_changes_the_result(tmp_path: Path) -> None:
    one = sample(tmp_path / "x.png")
    moved = sample(tmp_path / "x.png", crop=(1, 0), resized=(65, 64))
    keys = {
        latent_key(one, "bytes", "vae"),
        latent_key(moved, "bytes", "vae"),
        latent_key(one, "other bytes", "vae"),
        latent_key(one, "bytes", "other vae"),
        text_key("a cat", "encoders"),
        text_key("a cat ", "encoders"),
        text_key("a cat", "others"),
    }
    assert len(keys) == 7
    elsewhere = sample(tmp_path / "renamed.png")
    assert latent_key(elsewhere, "bytes", "vae") == latent_key(one, "bytes", "vae")


def test_an_edited_file_has_another_digest(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    (tmp_path / "x").write_bytes(b"one")
    first = cache.digest(tmp_path / "x")
    cache.remember()
    again = TensorCache(tmp_path / "cache")
    assert again.digest(tmp_path / "x") == first
    (tmp_path / "x").write_bytes(b"two")
    os.utime(tmp_path / "x", ns=(1, 1))
    assert again.digest(tmp_path / "x") != first


def many(counts: dict[tuple[int, int], int]) -> list[Sample]:
    return [
        sample(Path(f"{w}x{h}-{i}.png"), resized=(w, h), bucket=(w, h), repeats=i % 2)
        for (w, h), count in counts.items()
        for i in range(count)
    ]


def test_an_epoch_shows_every_image_and_mixes_no_sizes() -> None:
    found = many({(64, 64): 11, (128, 64): 2, (64, 128): 1})
    batches = order(found, 4, seed=1, epoch=0)
    assert len(batches) == batches_per_epoch(found, 4)
    for batch in batches:
        assert len(batch) == 4 and len({s.geometry.bucket for s in batch}) == 1
    seen = [s for b in batches for s in b]
    assert all(seen.count(s) >= s.repeats + 1 for s in found)


def test_order_depends_on_seed_and_epoch_and_not_on_how_files_were_listed() -> None:
    found = many({(64, 64): 30})
    assert order(found, 4, 1, 0) == order(found[::-1], 4, 1, 0)
    assert order(found, 4, 1, 0) != order(found, 4, 1, 1) != order(found, 4, 2, 1)


def loader(found: list[Sample], dropout: float = 0.0) -> Loader:
    return Loader(
        samples=found,
        batch_size=3,
        seed=5,
        dropout=dropout,
        latent_of=lambda s: torch.full((16, 8, 8), float(s.id)),
        embeds_of=lambda c: (torch.full((4, 2), float(len(c))), torch.zeros(2)),
        device=torch.device("cpu"),
    )


def take(made: Loader, start: int, count: int) -> list[tuple[tuple[int, ...], float]]:
    with made.batches(start) as batches:
        return [(b.ids, b.prompt_embeds.sum().item()) for b in islice(batches, count)]


def test_starting_later_gives_what_the_undisturbed_run_sees_there() -> None:
    made = loader(many({(64, 64): 8, (128, 64): 4}), dropout=0.3)
    whole = take(made, 0, 20)
    for start in (1, 4, 7, 13):
        assert take(made, start, 20 - start) == whole[start:]


def test_latents_and_captions_belong_to_their_image() -> None:
    found = many({(64, 64): 9})
    names = {s.id: len(s.captions[0]) for s in found}
    with loader(found).batches() as batches:
        for batch in islice(batches, 12):
            assert batch.latents[:, 0, 0, 0].tolist() == [float(i) for i in batch.ids]
            assert batch.prompt_embeds[:, 0, 0].tolist() == [names[i] for i in batch.ids]


def test_captions_are_dropped_as_often_as_asked() -> None:
    found = many({(64, 64): 9})
    made = loader(found, dropout=0.25)
    with made.batches() as batches:
        blanks = [e for b in islice(batches, 400) for e in b.prompt_embeds[:, 0, 0] == 0]
    assert 0.21 < sum(map(bool, blanks)) / len(blanks) < 0.29


def test_an_error_in_the_background_reaches_the_loop() -> None:
    from dataclasses import replace

    def broken(s: Sample) -> torch.Tensor:
        raise DataError("cache entry is gone", hint="run again")

    with (
        pytest.raises(DataError, match="gone"),
        replace(loader(many({(64, 64): 3})), latent_of=broken).batches() as batches,
    ):
        next(batches)
