"""Filling the caches: exactly what a change asks for is made again, and nothing stale is read."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from sd3tune.data.cache import TensorCache
from sd3tune.data.shards import contents
from sd3tune.encode import census, cleaning, upkeep
from sd3tune.encode.caches import Caches
from sd3tune.errors import DataError
from sd3tune.sd3 import latents
from sd3tune.sd3.text import packed, unpacked
from tests.cpu.conftest import Project

IMAGES = 10


@pytest.fixture(scope="module")
def filled_once(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its caches filled, to be copied."""
    project = Project(tmp_path_factory.mktemp("filled"), demo / "models" / "sd3.5-medium")
    for i in range(IMAGES):
        project.picture(f"{i % 3}/{i}.png", i)
    assert project.build() == {"text": IMAGES + 1, "vae": IMAGES}  # and the blank caption
    return project.root


@pytest.fixture
def filled(filled_once: Path, project: Project) -> Project:
    shutil.copytree(filled_once, project.root)
    return project


def test_nothing_changed_and_nothing_is_made(filled: Project) -> None:
    assert filled.build() == {"text": 0, "vae": 0}


def test_one_edited_caption_is_one_entry(filled: Project) -> None:
    (filled.images / "0" / "3.txt").write_text("something else")
    assert filled.build() == {"text": 1, "vae": 0}


def test_one_replaced_image_is_one_entry_even_with_its_old_times(filled: Project) -> None:
    path = filled.images / "1" / "4.png"
    old = path.stat()
    filled.picture("1/4.png", 99)
    filled.images.joinpath("1", "4.txt").write_text("picture number 4 of 1/4.png")
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert filled.build() == {"text": 0, "vae": 1}


def test_a_renamed_or_copied_image_is_known_by_its_content(filled: Project) -> None:
    (filled.images / "0" / "0.png").rename(filled.images / "moved.png")
    (filled.images / "0" / "0.txt").rename(filled.images / "moved.txt")
    shutil.copy(filled.images / "1" / "1.png", filled.images / "copy.png")
    shutil.copy(filled.images / "1" / "1.txt", filled.images / "copy.txt")
    assert filled.build() == {"text": 0, "vae": 0}


def test_another_resolution_is_every_image_and_back_again_none(filled: Project) -> None:
    filled.dataset["resolution"] = 128
    assert filled.build() == {"text": 0, "vae": IMAGES}
    filled.dataset["resolution"] = 64
    assert filled.build() == {"text": 0, "vae": 0}


def test_a_crop_that_leaves_some_images_alone_leaves_their_latents(filled: Project) -> None:
    filled.picture("square.png", 50, (64, 64))
    assert filled.build() == {"text": 1, "vae": 1}
    filled.dataset |= {"crop": True, "crop_aspect": "square", "crop_style": "center"}
    assert filled.build() == {"text": 0, "vae": 0}  # these fell into a square bucket anyway
    filled.dataset["crop_style"] = "corner"
    assert filled.build() == {"text": 0, "vae": IMAGES}  # the square one is as it was


def test_another_token_length_or_padding_is_every_caption(filled: Project) -> None:
    assert filled.build("tokenizer_max_length=64") == {"text": IMAGES + 1, "vae": 0}
    assert filled.build("t5_padding=zero") == {"text": IMAGES + 1, "vae": 0}
    assert filled.build() == {"text": 0, "vae": 0}


def test_the_behaviour_of_the_blank_caption_is_one_entry(filled: Project) -> None:
    assert filled.build("sd3_t5_uncond_behaviour=zero") == {"text": 1, "vae": 0}
    assert filled.build("sd3_clip_uncond_behaviour=zero") == {"text": 1, "vae": 0}


@pytest.mark.slow
def test_another_precision_of_an_encoder_is_every_entry_of_it(filled: Project) -> None:
    pytest.importorskip("optimum.quanto")
    got = filled.build("text_encoder_3_precision=int8-quanto")
    assert got == {"text": IMAGES + 1, "vae": 0}


def test_the_blank_captions_behaviour_reaches_the_batches(filled: Project) -> None:
    prepared = filled.prepare("sd3_t5_uncond_behaviour=zero")
    upkeep.build(prepared)
    embeds, pooled = Caches.of(prepared).embeds("")
    assert embeds[77:].abs().max() == 0 and embeds[:77].abs().max() > 0 < pooled.abs().max()


def test_pruning_leaves_exactly_what_the_runs_want(filled: Project) -> None:
    filled.build("tokenizer_max_length=64")
    filled.dataset["resolution"] = 128
    filled.build()
    both = [filled.prepare(), filled.prepare("tokenizer_max_length=64")]
    counted = dict(cleaning.prune(both, dry_run=True))
    assert counted == {filled.root / "cache/text": 0, filled.root / "cache/vae": IMAGES}
    cleaning.prune([filled.prepare()], dry_run=False)
    assert len(filled.entries("text")) == IMAGES + 1 and len(filled.entries("vae")) == IMAGES
    assert filled.build() == {"text": 0, "vae": 0}
    assert cleaning.verify([filled.root / "cache"], repair=False) == (2 * IMAGES + 1, [])


def test_a_damaged_shard_is_found_removed_and_made_again(filled: Project) -> None:
    shard = sorted((filled.root / "cache/vae/shards").iterdir())[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    whole, damaged = cleaning.verify([filled.root / "cache"], repair=True)
    assert [d.path for d in damaged] == [shard] and whole == 2 * IMAGES + 1 - damaged[0].entries
    assert filled.build() == {"text": 0, "vae": damaged[0].entries}


def test_nothing_is_written_beside_the_images_and_read_only_folders_do(filled: Project) -> None:
    suffixes = {p.suffix for p in filled.images.rglob("*") if p.is_file()}
    assert suffixes == {".png", ".txt"}
    for path in [*filled.images.rglob("*"), filled.images]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert filled.build("tokenizer_max_length=32") == {"text": IMAGES + 1, "vae": 0}
    finally:
        for path in [filled.images, *filled.images.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_skipping_a_stage_makes_nothing_and_says_what_is_missing(filled: Project) -> None:
    """Before anything is loaded: `cache build` would otherwise end well with half a cache."""
    filled.dataset["skip_file_discovery"] = "vae,text"
    assert filled.build() == {"text": 0, "vae": 0}
    filled.picture("new.png", 77)
    with pytest.raises(DataError, match=f"lacks 1 of {IMAGES + 2} captions and prompts"):
        filled.build()
    filled.dataset["skip_file_discovery"] = "vae"
    with pytest.raises(DataError, match=f"lacks 1 of {IMAGES + 1} images, `.*new.png` first"):
        filled.build()
    assert len(filled.entries("vae")) == IMAGES


def test_plan_refuses_to_skip_what_an_empty_cache_does_not_hold(project: Project) -> None:
    project.picture("a.png", 1)
    project.dataset["skip_file_discovery"] = "vae,text"
    with pytest.raises(DataError) as e:
        project.prepare()
    said = [p.message for p in e.value.problems]
    assert len(said) == 2 and "cache/vae` is empty" in said[0] and "cache/text` is empty" in said[1]


def test_what_is_kept_of_a_caption_is_what_was_said_to_bfloat16() -> None:
    dice = torch.Generator().manual_seed(0)
    embeds = torch.zeros(77 + 154, 96)
    embeds[:77, :80].normal_(generator=dice)
    embeds[77:90].normal_(generator=dice)
    embeds[80] = 0  # zeros inside are no padding
    pooled = torch.randn(80, generator=dice)
    entry = packed(embeds, pooled)
    assert entry["t5"].shape == (13, 96) and entry["clip"].shape == (77, 80)
    back = unpacked(entry, 154, 96)
    assert torch.equal(back[0], embeds.bfloat16()) and torch.equal(back[1], pooled.bfloat16())
    nothing = packed(torch.zeros(77 + 154, 96), pooled)
    assert torch.equal(unpacked(nothing, 154, 96)[0], torch.zeros(231, 96).bfloat16())


def test_masks_are_kept_with_the_geometry_of_their_images(project: Project) -> None:
    for i in range(4):
        project.picture(f"{i}.png", i, (160, 96))
        mask = Image.new("L", (80, 48), 0)
        mask.paste(255, (i * 10, 0, i * 10 + 20, 48))
        (project.root / "masks").mkdir(exist_ok=True)
        mask.save(project.root / "masks" / f"{i}.png")
    project.dataset |= {"crop": True, "crop_style": "random", "conditioning_data": "m"}
    project.others.append({"id": "m", "dataset_type": "conditioning", "conditioning_type": "mask",
                           "instance_data_dir": "masks", "resolution": 64})  # fmt: skip
    assert project.build() == {"text": 5, "vae": 8}
    prepared = project.prepare()
    assert prepared.datasets.notes == (
        "dataset `m`: resolution not used: masks take everything else from their images",
    )
    caches = Caches.of(prepared)
    from sd3tune.encode.file_digests import fingerprint

    fingerprint(caches, prepared.dataset("d"), prepared.samples)
    for s in prepared.samples:
        got = caches.mask(s)
        assert got is not None
        left, i = s.geometry.crop[0], int(s.name[0])
        scale = s.geometry.resized[0] / 80
        want = [np.clip(min((i * 10 + 20) * scale, left + x + 8) - max(i * 10 * scale, left + x),
                        0, 8) / 8 for x in range(0, 64, 8)]  # fmt: skip
        assert np.abs(got[0].float().mean(dim=0).numpy() / 255 - want).max() < 0.12
    assert project.build() == {"text": 0, "vae": 0}


def test_each_epoch_has_crops_of_its_own_and_the_old_ones_go(project: Project) -> None:
    from sd3tune.encode.file_digests import fingerprint
    from sd3tune.encode.image_latents import fill_epoch

    for i in range(4):
        project.picture(f"{i}.png", i, (256, 96))
    project.dataset |= {"crop": True, "vae_cache_clear_each_epoch": True}
    project.build()
    prepared = project.prepare()
    caches = Caches.of(prepared)
    fingerprint(caches, prepared.dataset("d"), prepared.samples)
    (share,) = prepared.schedule.shares
    device = torch.device("cpu")
    crops = []
    for epoch in (0, 1, 2):
        fill_epoch(caches, epoch, device)
        samples = share.in_epoch(epoch)
        crops.append(tuple(s.geometry.crop for s in samples))
        assert all(caches.posterior(s)[0].shape == (16, 8, 8) for s in samples)
        kept = TensorCache(project.root / "cache/vae/epoch").places
        assert len(kept) == (4 if epoch else 0)
    assert len(set(crops)) == 3


def test_a_file_that_changes_between_its_digest_and_its_pixels_is_noticed(project: Project) -> None:
    from sd3tune.encode.file_digests import fingerprint
    from sd3tune.encode.image_latents import encode

    for i in range(3):
        project.picture(f"{i}.png", i)
    prepared = project.prepare()
    caches = Caches.of(prepared)
    fingerprint(caches, prepared.dataset("d"), prepared.samples)
    project.picture("1.png", 11)
    with pytest.raises(DataError, match=r"1\.png` was changed while it was being encoded"):
        encode(caches, {"d": prepared.samples}, torch.device("cpu"), caches.latents_of)
    (project.images / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png` cannot be read any more"):
        encode(caches, {"d": prepared.samples}, torch.device("cpu"), caches.latents_of)
    assert project.entries("vae") == set()


def test_an_image_that_memory_was_too_small_for_stops_the_run_and_is_not_remembered(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(8):
        project.picture(f"{i}.png", i)
    with monkeypatch.context() as patched, pytest.raises(DataError) as e:
        patched.setattr(Image.Image, "crop", Mock(side_effect=MemoryError))
        project.build()
    assert ".png`: decoding it takes more memory than there is" in str(e.value)
    assert e.value.hint and "what was encoded is kept" in e.value.hint
    assert project.entries("vae") == set()
    assert project.build()["vae"] == 8


@pytest.mark.parametrize("error", [RuntimeError("MPS backend out of memory (…)"), MemoryError()])
def test_too_little_memory_for_the_vae_means_halves_and_then_tiles(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sd3tune.encode import image_latents

    sizes: list[tuple[int, bool]] = []
    vae = SimpleNamespace(use_tiling=False)
    vae.enable_tiling = lambda: setattr(vae, "use_tiling", True)
    enough = True

    def encode(vae: SimpleNamespace, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append((len(pixels), vae.use_tiling))
        if len(pixels) > 1 or not vae.use_tiling or not enough:
            raise error
        return pixels, -pixels

    monkeypatch.setattr(latents, "encode", encode)
    pixels = torch.arange(2.0).reshape(2, 1, 1, 1)
    mean, std = image_latents._sparing(vae, pixels)
    assert torch.equal(mean, pixels) and torch.equal(std, -pixels)
    assert sizes == [(2, False), (1, False), (1, True), (1, True)]
    enough = False
    with pytest.raises(DataError, match="1x1 does not fit the device, not even in tiles"):
        image_latents._sparing(vae, pixels)
    error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        image_latents._sparing(vae, pixels)


def entries(folder: Path, *keys: str) -> Path:
    """A cache with entries that no run wants."""
    with TensorCache(folder).claim(keys) as draft:
        assert draft is not None
        draft.write({key: {"mean": torch.zeros(1)} for key in keys}, {})
    return folder


def test_crops_of_an_epoch_are_pruned_when_no_dataset_takes_new_ones(project: Project) -> None:
    project.picture("0.png", 0, (256, 96))
    project.picture("1.png", 1, (256, 96))
    vae = project.root / "cache/vae"
    old = {entries(vae / name, "a", "b") for name in ("epoch", "epoch-1")}
    mine = entries(vae / "epochs of mine", "c")
    (mine.parent / "epoch-of-mine.txt").write_text("")
    project.dataset |= {"crop": True, "vae_cache_clear_each_epoch": True}
    taking = project.prepare()
    project.dataset["vae_cache_clear_each_epoch"] = False
    fixed = project.prepare()
    rest = {project.root / "cache/text": 0, vae: 0}
    for runs in ([taking], [taking, fixed]):
        assert dict(cleaning.prune(runs, dry_run=False)) == rest
    assert dict(cleaning.prune([fixed], dry_run=True)) == rest | dict.fromkeys(old, 2)
    assert all(len(TensorCache(folder).places) == 2 for folder in old)
    assert dict(cleaning.prune([fixed], dry_run=False)) == rest | dict.fromkeys(old, 2)
    assert not any(folder.exists() for folder in old)
    assert len(TensorCache(mine).places) == 1
    assert dict(cleaning.prune([fixed], dry_run=False)) == rest


def test_a_dataset_may_keep_its_latents_in_a_folder_named_like_an_epochs(project: Project) -> None:
    two_of_one_folder(project)
    project.others[-1] |= {"cache_dir_vae": "cache/vae/epoch"}
    folder = entries(project.root / "cache/vae/epoch", "a")
    prepared = project.prepare()
    held = {h.folder.name: (h.entries, h.wanted) for h in census.info(prepared).held}
    assert held == {"text": (0, 7), "vae": (0, 6), "epoch": (1, 6)}
    assert (folder, 1) in cleaning.prune([prepared], dry_run=False)
    assert folder.exists()


def two_of_one_folder(project: Project, **more: object) -> None:
    """The same six images in two datasets that keep their latents in one folder."""
    for i in range(6):
        project.picture(f"{i}.png", i, (256, 96))
    project.dataset |= more
    project.others.append(project.dataset | {"id": "e"})


def test_an_image_of_two_datasets_is_encoded_once(project: Project) -> None:
    two_of_one_folder(project)
    assert project.build()["vae"] == 6
    folder = project.root / "cache" / "vae" / "shards"
    assert sum(len(contents(path)[0]) for path in folder.iterdir()) == 6


@pytest.mark.slow
def test_new_crops_of_one_dataset_leave_those_of_another_in_its_folder(project: Project) -> None:
    from sd3tune.encode.file_digests import fingerprint
    from sd3tune.encode.image_latents import fill_epoch

    two_of_one_folder(project, crop=True, vae_cache_clear_each_epoch=True)
    project.build()
    prepared = project.prepare()
    caches = Caches.of(prepared)
    for name, discovery in prepared.discoveries.items():
        fingerprint(caches, prepared.dataset(name), discovery.samples)
    for epoch in (1, 2):
        fill_epoch(caches, epoch, torch.device("cpu"))
        for share in prepared.schedule.shares:
            assert all(caches.posterior(s)[0].shape == (16, 8, 8) for s in share.in_epoch(epoch))


def test_a_mask_that_cannot_be_read_leaves_other_datasets_of_the_image_alone(
    project: Project,
) -> None:
    two_of_one_folder(project)
    (project.root / "masks").mkdir()
    for i in range(6):
        (project.root / "masks" / f"{i}.png").symlink_to("nowhere" if i == 3 else "../images/0.png")
    project.dataset["conditioning_data"] = "m"
    project.others.append({"id": "m", "dataset_type": "conditioning", "instance_data_dir": "masks"})
    assert project.build()["vae"] == 6 + 1  # every image for `e`, and the one mask of `d`
