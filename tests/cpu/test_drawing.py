"""`sample` and `reproduce` on the demo's model: what is drawn, with which adapters, and that a
picture comes out of its own metadata again. One drawing is shared."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from PIL import Image

from sd3tune.backends.observe import probing
from sd3tune.drawing import recorded_picture as recorded
from sd3tune.drawing.drawing_options import DrawingOptions
from sd3tune.drawing.drawing_request import read
from sd3tune.drawing.prepared_drawing import admit_drawing
from sd3tune.encode.embeddings import load_encoders
from sd3tune.errors import DataError, ModelError
from sd3tune.formats import adapter_files
from sd3tune.formats.adapter_weights import AdapterFile, LoraWeights, LycorisWeights
from sd3tune.formats.picture_files import keep_drawn, recipe_in, texts_in
from sd3tune.formats.picture_recipe import PictureRecipe
from sd3tune.plan.drawing import DrawingPlan
from sd3tune.sample import adapted, reproduction
from sd3tune.sample.draw_stages import DrawingJob, Wanted, draw
from sd3tune.sample.picture_grid import write_grid
from sd3tune.sd3.linears import linears
from sd3tune.sd3.models import find
from tests.this_machine import facts_here

PROMPT, SIZE, SEED = "a tabby cat, süß", (64, 64), 11
Changed = Callable[[DrawingPlan], DrawingPlan]


@dataclass(frozen=True)
class Drawn:
    image: Any
    recipe: PictureRecipe

    @property
    def pixels(self) -> Any:
        return np.asarray(self.image, np.int16)


@pytest.fixture(scope="module")
def model(demo: Path) -> str:
    return str(demo / "models" / "sd3.5-medium")


@pytest.fixture(scope="module")
def adapter(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of two ranks with alpha = 2 rank, which says something."""
    path = tmp_path_factory.mktemp("adapter") / "cats.safetensors"
    adapter_files.write(path, AdapterFile(lora(model)), "kohya")
    return path


def lora(model: str) -> dict[str, LoraWeights]:
    dice, modules = torch.Generator().manual_seed(0), {}
    for layer in linears(find(model).transformer):
        if ".attn." in layer.name and layer.name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            rank = 4 if layer.name.endswith("to_out.0") else 2
            down = torch.randn(rank, layer.inputs, generator=dice) * 0.1
            up = torch.randn(layer.outputs, rank, generator=dice) * 0.1
            modules[layer.name] = LoraWeights(down, up, 2.0 * rank)
    return modules


def drawing(
    source: Path | str, *words: str, model: str | None = None, prompts: Sequence[str] = (PROMPT,),
    path: Path | None = None, changed: Changed = lambda plan: plan, **options: Any,
) -> Drawn:  # fmt: skip
    """One picture, as the command draws it."""
    settings: dict[str, Any] = {"size": "64x64", "steps": 2, "guidance": 3.0, "seed": SEED}
    asked = DrawingOptions(**(settings | options))
    request = read(str(source), [*words, *prompts], [], asked, model=model)
    plan = changed(admit_drawing(request.asked, facts_here(), probing.on_this_machine()))
    adapters = adapted.read_adapters(request.sources.adapters, plan.model.transformer)
    found: list[Drawn] = []
    wanted = Wanted("cat", prompts[0], SIZE, request.seed, path=path)
    draw(
        DrawingJob(plan, request.sources, adapters), [wanted], load_encoders,
        lambda _, image, recipe: found.append(Drawn(image, recipe)),
    )  # fmt: skip
    return found[0]


def again(path: Path, *given: str, model: str | None = None) -> Drawn:
    """A recorded picture, drawn again."""
    [picture] = recorded.pictures_of(path)
    request, because = recorded.model_of(picture, model)
    asked = recorded.asked_again(picture, find(request.source), request, because)
    plan = admit_drawing(asked, facts_here(), probing.on_this_machine())
    adapters = reproduction.adapters_again(picture, given, plan.model.transformer)
    sources = read(request.source, ["x"], [], DrawingOptions()).sources
    own, found = picture.recipe, list[Drawn]()
    wanted = Wanted("again", own.prompt, (own.width, own.height), own.seed)
    draw(
        DrawingJob(plan, sources, adapters, weights_only=own.precision.weights_only_layers),
        [wanted], load_encoders,
        lambda _, image, recipe: found.append(Drawn(image, recipe)),
    )  # fmt: skip
    return found[0]


@pytest.fixture(scope="module")
def cat(adapter: Path, model: str) -> Drawn:
    """The drawing that the tests share, in a file beside its adapter."""
    options: dict[str, Any] = {"negative": "blurry", "skip_layers": "1", "skip_stop": 0.9}
    return drawing(f"{adapter}:0.5", model=model, path=adapter.with_name("cat.png"), **options)


def test_a_picture_says_everything_that_decided_it(cat: Drawn, adapter: Path) -> None:
    own = recipe_in(adapter.with_name("cat.png"))
    assert own == cat.recipe
    assert (own.prompt, own.negative_prompt, own.seed) == (PROMPT, "blurry", SEED)
    assert (own.steps, own.guidance_scale, own.width, own.height) == (2, 3.0, 64, 64)
    assert (own.skip_guidance_layers, own.skip_layer_guidance_stop) == ((1,), 0.9)
    assert own.model == "sd3.5-medium (tiny)" and own.model_source == "sd3.5-medium"
    [used] = own.adapters
    assert (used.name, used.strength) == ("cats", 0.5) and used.sha256 and used.weights_sha256
    assert own.device == "cpu" and {"torch", "diffusers"} <= own.versions.keys()
    assert "/" not in json.dumps(own.as_json()), "no path of this machine"
    a1111 = texts_in(adapter.with_name("cat.png"))["parameters"]
    assert a1111.startswith(f"{PROMPT}\nNegative prompt: blurry\nSteps: 2, Sampler: Euler,")


def test_a_picture_is_drawn_again_from_its_own_metadata_bit_for_bit(
    cat: Drawn, adapter: Path, model: str
) -> None:
    path = adapter.with_name("cat.png")
    redrawn = again(path, model=model)
    [picture] = recorded.pictures_of(path)
    result = reproduction.compared(picture, redrawn.image)
    assert result.equal and result.decibels is None and result.largest == 0
    assert list(reproduction.differences(picture.recipe, redrawn.recipe)) == []


@pytest.mark.slow
def test_another_number_of_threads_or_another_kernel_is_said_and_stays_above_50_decibels(
    cat: Drawn, adapter: Path, model: str, tmp_path: Path
) -> None:
    other = replace_precision(cat.recipe, attention="sliced")
    path = tmp_path / "cat.png"
    keep_drawn(cat.image, path, other)
    torch.set_num_threads(2)
    try:
        redrawn = again(path, str(adapter), model=model)
    finally:
        torch.set_num_threads(1)
    [picture] = recorded.pictures_of(path)
    result = reproduction.compared(picture, redrawn.image)
    assert result.close and result.largest <= 1
    said = "\n".join(reproduction.differences(picture.recipe, redrawn.recipe))
    assert "drawn with 1 threads, here are 2" in said


def replace_precision(recipe: PictureRecipe, **values: str) -> PictureRecipe:
    own = recipe.precision.model_copy(update=values)
    return recipe.model_copy(update={"precision": own})


def test_another_adapter_of_the_same_name_is_refused(
    cat: Drawn, adapter: Path, model: str, tmp_path: Path
) -> None:
    keep_drawn(cat.image, tmp_path / "cat.png", cat.recipe)
    other = {n: replace(m, up=m.up * 2) for n, m in lora(model).items()}
    adapter_files.write(tmp_path / "cats.safetensors", AdapterFile(other), "kohya")
    [picture] = recorded.pictures_of(tmp_path / "cat.png")
    shape = find(model).transformer
    with pytest.raises(DataError, match="`cats`, which is not here; none of 1 adapters near it"):
        reproduction.adapters_again(picture, [], shape)
    [found] = reproduction.adapters_again(picture, [str(adapter)], shape)
    assert found.source.strength == 0.5


def test_the_picture_is_the_one_that_plain_diffusers_draws(
    cat: Drawn, adapter: Path, model: str, tmp_path: Path
) -> None:
    from diffusers import StableDiffusion3Pipeline

    exported = tmp_path / "diffusers.safetensors"
    half = {n: replace(m, alpha=m.alpha / 2) for n, m in lora(model).items()}
    adapter_files.write(exported, AdapterFile(half), "diffusers")
    pipe = StableDiffusion3Pipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(exported))
    # As a cache keeps embeddings: in bfloat16 (ADR 6).
    texts = [
        t.bfloat16().float()
        for t in pipe.encode_prompt(PROMPT, None, None, negative_prompt="blurry",
                                    max_sequence_length=256)
    ]  # fmt: skip
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
             "negative_pooled_prompt_embeds")  # fmt: skip
    [theirs] = pipe(
        **dict(zip(names, texts, strict=True)), height=64, width=64, num_inference_steps=2,
        guidance_scale=3.0, generator=torch.Generator().manual_seed(SEED),
        skip_guidance_layers=[1], skip_layer_guidance_stop=0.9,
    ).images  # fmt: skip
    assert np.abs(cat.pixels - np.asarray(theirs, np.int16)).max() <= 1


@pytest.mark.slow
def test_strength_scales_and_adapters_add_up(adapter: Path, model: str) -> None:
    base, none = drawing(model), drawing(f"{adapter}:0", model=model)
    assert np.array_equal(base.pixels, none.pixels) and base.recipe.weights == "base"
    whole = drawing(adapter, model=model)
    parts = drawing(f"{adapter}:0.25", f"{adapter}:0.75", model=model)
    assert np.abs(whole.pixels - parts.pixels).max() <= 1
    assert np.abs(whole.pixels - base.pixels).max() > 4  # far above rounding
    assert [a.strength for a in parts.recipe.adapters] == [0.25, 0.75]


@pytest.mark.slow
def test_every_dialect_and_a_whole_difference_draw_the_same_picture(
    adapter: Path, model: str, tmp_path: Path
) -> None:
    whole, sums = drawing(adapter, model=model), set[str | None]()
    for dialect in ("diffusers", "comfyui", "kohya"):
        path = tmp_path / f"{dialect}.safetensors"
        adapter_files.write(path, AdapterFile(lora(model)), dialect)
        drawn = drawing(path, model=model)
        assert np.abs(drawn.pixels - whole.pixels).max() <= 1, dialect
        sums.add(drawn.recipe.adapters[0].weights_sha256)
    assert len(sums) == 1, "the hash is of the numbers, not of the file"
    differences = {
        n: LycorisWeights("full", {"diff": m.scale * m.up @ m.down}) for n, m in lora(model).items()
    }
    path = tmp_path / "difference.safetensors"
    adapter_files.write(path, AdapterFile(differences), "comfyui")
    assert np.abs(drawing(path, model=model).pixels - whole.pixels).max() <= 1


@pytest.mark.slow
def test_where_weights_are_changes_nothing(adapter: Path, model: str) -> None:
    """Blocks and AdaLN weights in host memory, and pictures that are decoded when the transformer
    is gone."""

    def elsewhere(plan: DrawingPlan) -> DrawingPlan:
        memory = plan.memory
        swapped = replace(memory.blocks_to_swap, value=2)
        vae = replace(memory.vae, value="afterwards")
        outside = replace(memory.modulations, value="streamed")
        memory = replace(memory, blocks_to_swap=swapped, vae=vae, modulations=outside)
        return replace(plan, memory=memory)

    whole = drawing(adapter, model=model)
    moved = drawing(adapter, model=model, changed=elsewhere)
    assert np.array_equal(whole.pixels, moved.pixels)


@pytest.mark.slow
def test_quantised_weights_draw_nearly_the_same(adapter: Path, model: str) -> None:
    whole = drawing(adapter, model=model)
    small = drawing(adapter, model=model, precision={"base_model_precision": "int8-quanto"})
    assert small.recipe.precision.base_model_precision == "int8-quanto"
    assert 0 < np.abs(whole.pixels - small.pixels).mean() < 3


@pytest.mark.slow
def test_products_in_8_bits_are_measured_before_the_first_picture_and_recorded(
    adapter: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer whose input has an outlier multiplies by its dequantised weight, also when the
    picture is drawn again; there, nothing is measured."""
    path, eight = tmp_path / "cat.png", {"base_model_precision": "int8-w8a8"}
    odd = "transformer_blocks.0.ff.net.2"

    def with_outlier(loaded: Any) -> None:
        before, after = (loaded.get_submodule(n) for n in (odd.replace("2", "0.proj"), odd))
        with torch.no_grad():
            before.bias[7] = 3000.0
            after.weight[:, 7] = 0

    other = changed_model(model, tmp_path / "odd", with_outlier)
    drawn = drawing(adapter, model=other, path=path, precision=eight)
    assert "1 above 3% multiply in the base dtype" in capsys.readouterr().err
    assert drawn.recipe.precision.weights_only_layers == (odd,)
    redrawn = again(path, str(adapter), model=other)
    assert "products" not in capsys.readouterr().err
    assert np.array_equal(drawn.pixels, redrawn.pixels)
    assert list(reproduction.differences(drawn.recipe, redrawn.recipe)) == []
    assert drawing(adapter, model=model).recipe.precision.weights_only_layers is None


def changed_model(model: str, folder: Path, change: Callable[[Any], None]) -> str:
    """A copy of the model with another transformer."""
    shutil.copytree(model, folder)
    loaded = SD3Transformer2DModel.from_pretrained(folder / "transformer")
    change(loaded)
    loaded.save_pretrained(folder / "transformer")
    return str(folder)


@pytest.mark.parametrize(
    "spoilt, words",
    [
        ({"transformer_blocks.0.attn.to_q": (256, 256)}, "fits a layer of 256 to 256 features"),
        (
            {"transformer_blocks.7.attn.to_q": (192, 192)},
            "no layer `transformer_blocks.7.attn.to_q",
        ),
    ],
)
def test_an_adapter_of_another_model_is_refused_by_its_first_tensor(
    spoilt: dict[str, tuple[int, int]], words: str, model: str, tmp_path: Path
) -> None:
    modules = {
        n: LoraWeights(torch.ones(2, i), torch.ones(o, 2), 2.0) for n, (o, i) in spoilt.items()
    }
    adapter_files.write(tmp_path / "a.safetensors", AdapterFile(modules), "diffusers")
    with pytest.raises(ModelError, match=words) as refused:
        drawing(tmp_path / "a.safetensors", model=model)
    assert "--model" in refused.value.hint


def test_a_difference_of_another_size_is_refused(model: str, tmp_path: Path) -> None:
    name = "transformer_blocks.0.attn.to_q"
    odd = {name: LycorisWeights("full", {"diff": torch.ones(8, 8)})}
    adapter_files.write(tmp_path / "a.safetensors", AdapterFile(odd), "comfyui")
    with pytest.raises(ModelError, match=r"adds \[8, 8\] to a weight of \[192, 192\]"):
        drawing(tmp_path / "a.safetensors", model=model)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_jpeg_and_webp_carry_the_same_texts_and_are_compared_by_their_hash(
    cat: Drawn, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"cat.{ending}"
    written = keep_drawn(cat.image, path, cat.recipe, quality=60)
    assert recipe_in(path) == written
    assert texts_in(path)["parameters"].startswith(f"{PROMPT}\n")
    [picture] = recorded.pictures_of(path)
    result = reproduction.compared(picture, cat.image)
    assert result.equal and result.lossy and result.largest > 0


def test_a_model_card_leads_to_its_pictures(cat: Drawn, tmp_path: Path) -> None:
    keep_drawn(cat.image, tmp_path / "cat 1.png", cat.recipe)
    Image.new("RGB", (8, 8)).save(tmp_path / "logo.png")
    card = tmp_path / "README.md"
    card.write_text(
        "---\nwidget:\n- output:\n    url: ./cat%201.png\n---\n![logo](logo.png) ![x](../x.png)"
    )
    [found] = recorded.pictures_of(card)
    assert found.path.name == "cat 1.png" and found.recipe == cat.recipe
    assert recorded.pictures_of(tmp_path)[0].recipe == cat.recipe
    card.write_text("![logo](logo.png)")
    with pytest.raises(DataError, match="none of its 1 pictures says how it was drawn"):
        recorded.pictures_of(card)


def test_several_pictures_make_a_grid(cat: Drawn, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path in paths:
        cat.image.save(path)
    wanted = [Wanted("a", "one", SIZE, 1, path=paths[0]), Wanted("a", "one", SIZE, 2, 1, paths[1]),
              Wanted("b", "two", SIZE, 1, path=paths[2])]  # fmt: skip
    grid = write_grid(wanted, lambda *_: tmp_path / "grid.png")
    assert grid is not None
    with Image.open(grid) as sheet:
        assert sheet.size == (64 * 2 + 8, 64 * 2 + 8)
    assert write_grid(wanted[:1], lambda *_: tmp_path / "none.png") is None
