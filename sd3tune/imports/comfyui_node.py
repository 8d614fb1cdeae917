"""ComfyUI's trainer, the node TrainLoraNode, in a workflow or in the format of its API.

Source: docs.comfy.org (TrainLoraNode); its program (GPL) was not read. What the documentation
leaves open is said in the report as an assumption.
"""

from typing import Any

from sd3tune.imports import shared_rules as rules
from sd3tune.imports.densities import Density
from sd3tune.imports.foreign_file import Document
from sd3tune.imports.kohya_datasets import identifier
from sd3tune.imports.translation import Translation

NAME = "ComfyUI's trainer"
NODE = "TrainLoraNode"
DEFAULTS = "the node's default"
ASSUMED = "assumed, because the node's documentation does not say it"
# Widgets of a saved workflow in their order; newer versions of the node added the last ones.
WIDGETS = ("batch_size", "grad_accumulation_steps", "steps", "learning_rate", "rank", "optimizer",
           "loss_function", "seed", "control_after_generate", "training_dtype",
           "lora_dtype")  # fmt: skip
LATER = {
    13: ("algorithm", "gradient_checkpointing"),
    14: ("algorithm", "gradient_checkpointing", "existing_lora"),
    18: ("quantized_backward", "algorithm", "gradient_checkpointing", "checkpoint_depth",
         "offloading", "existing_lora", "bucket_mode"),
    19: ("quantized_backward", "algorithm", "gradient_checkpointing", "checkpoint_depth",
         "offloading", "existing_lora", "bucket_mode", "bypass_mode"),
}  # fmt: skip
FOLDERS = ("LoadImageTextDataSetFromFolder", "LoadImageDataSetFromFolder",
           "LoadImageSetFromFolderNode", "LoadImageTextSetFromFolderNode")  # fmt: skip
LOADERS = {"CheckpointLoaderSimple": "ckpt_name", "UNETLoader": "unet_name"}
LOSSES: dict[str, dict[str, Any]] = {"mse": {"loss_type": "l2"},
          "huber": {"loss_type": "huber", "huber_c": 1.0, "huber_schedule": "constant"},
          "smoothl1": {"loss_type": "smooth_l1", "huber_c": 1.0,
                       "huber_schedule": "constant"}}  # fmt: skip


def recognised(document: Document) -> bool:
    """Whether the content is a workflow with the trainer node."""
    return document.syntax == "json" and any(kind == NODE for kind, _ in nodes(document.data))


def nodes(data: Any) -> list[tuple[str, dict[str, Any]]]:
    """Type and inputs of every node, of both formats."""
    if not isinstance(data, dict):
        return []
    asked = data.get("prompt")
    inner: dict[str, Any] = asked if isinstance(asked, dict) else data
    if isinstance(inner.get("nodes"), list):
        graphs = [inner, *((inner.get("definitions") or {}).get("subgraphs") or [])]
        listed = [n for g in graphs if isinstance(g, dict) for n in g.get("nodes", [])]
        return [(str(n.get("type")), _widgets(n)) for n in listed if isinstance(n, dict)]
    return [
        (str(node["class_type"]), dict(node.get("inputs") or {}))
        for node in inner.values()
        if isinstance(node, dict)
        and "class_type" in node
        and isinstance(node.get("inputs") or {}, dict)
    ]


def _widgets(node: dict[str, Any]) -> dict[str, Any]:
    """The values of a saved node by name: by their order, or as an object."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return dict(values)
    if not isinstance(values, list):
        return {}
    kind = node.get("type")
    if kind == NODE:
        names = (*WIDGETS, *LATER.get(len(values), LATER[19]))
        return dict(zip(names, values, strict=False))
    if kind in LOADERS:
        return dict(zip((LOADERS[str(kind)],), values, strict=False))
    return dict(zip(("folder",), values, strict=False)) if kind in FOLDERS else {}


def translate(document: Document) -> Translation:
    """Raises ConfigError for values that are not what their names say."""
    found = nodes(document.data)
    inputs = [values for kind, values in found if kind == NODE]
    t = Translation(NAME, {k: v for k, v in inputs[0].items() if not isinstance(v, list)})
    for number, _ in enumerate(inputs[1:], 2):
        t.drop(f"{NODE} {number}", "", "only the first trainer of a workflow is taken")
    _model(t, found, document)
    t.choose("below the imported configuration", output_dir="output")
    _adapter(t)
    _length(t, document)
    _optimiser(t)
    _noise(t)
    _datasets(t, found, document)
    others = sorted({kind for kind, _ in found} - {NODE, *FOLDERS, *LOADERS})
    t.idle += [f"node {kind}" for kind in others]
    t.rest()
    return t


def _model(t: Translation, found: list[tuple[str, Any]], document: Document) -> None:
    for kind, values in found:
        if kind in LOADERS and (name := values.get(LOADERS[kind])):
            rules.model(t, f"{kind}.{LOADERS[kind]}", name, document.folder)
            if kind == "UNETLoader":
                t.drop(kind, name, "holds the transformer alone: write it into "
                       "pretrained_transformer_model_name_or_path")  # fmt: skip
                t.config.pop("pretrained_model_name_or_path", None)
            break
    t.choose("the node trains a LoRA", model_type="lora")
    dtype = str(t.take("training_dtype", "bf16"))
    t.map("training_dtype", dtype, mixed_precision={"fp32": "no"}.get(dtype, "bf16"))
    t.idle += [k for k in ("lora_dtype", "control_after_generate") if t.left.pop(k, None)]


def _adapter(t: Translation) -> None:
    t.set("rank", 8, "lora_rank", DEFAULTS)
    t.choose(f"alpha is 1: {ASSUMED}", lora_alpha=1.0)
    t.choose("the node has no dropout", lora_dropout=0.0)
    kind = str(t.take("algorithm", "lora")).lower()
    if kind != "lora":
        t.drop("algorithm", kind, "needs lora_type=lycoris and a lycoris_config.json; a LoRA of "
               "the same rank is trained instead")  # fmt: skip
    name = str(t.take("existing_lora", "[None]"))
    if name not in ("[None]", "none", ""):
        t.drop("existing_lora", name, "lies in ComfyUI's folder of LoRAs: write its path into "
               "init_lora")  # fmt: skip
    t.choose(f"the node adapts every linear layer of a block: {ASSUMED}",
             peft_lora_target_modules=rules.layers(every=True))  # fmt: skip


def _length(t: Translation, document: Document) -> None:
    t.set("batch_size", 1, "train_batch_size", DEFAULTS)
    t.set("grad_accumulation_steps", 1, "gradient_accumulation_steps", DEFAULTS)
    t.set("steps", 16, "max_train_steps", DEFAULTS)
    seed = rules.whole(t.take("seed", 0), "seed", document.where)
    t.map("seed", seed, seed=seed)
    t.choose("the node does not clip gradients", max_grad_norm=0.0)
    kept = t.take("gradient_checkpointing", True)
    t.map("gradient_checkpointing", kept, gradient_checkpointing=rules.flag(kept))
    t.drop_all("checkpoint_depth offloading quantized_backward bypass_mode",
               "is a switch for memory: `sd3tune plan` says what fits")  # fmt: skip
    t.drop_all("bucket_mode", "images are always in buckets of their aspect")


def _optimiser(t: Translation) -> None:
    word = t.take("optimizer")
    rules.optimizer(t, "optimizer" if word else "", word or "AdamW", {})
    t.set("learning_rate", 5e-4, "learning_rate", DEFAULTS)
    t.choose("the node has no schedule", lr_scheduler="constant", lr_warmup_steps=0)


def _noise(t: Translation) -> None:
    word = str(t.take("loss_function", "MSE")).lower()
    if word in LOSSES:
        t.map("loss_function", word, **LOSSES[word])
        if word != "mse":
            t.drop("loss_function", word, "turns from square to straight more smoothly here")
    else:
        t.drop("loss_function", word, "is not a loss of sd3tune; l2 is used")
    t.choose(f"levels are uniform, shifted by 3 as SD3 is drawn: {ASSUMED}",
             **Density("uniform", shift=3.0).settings())  # fmt: skip
    t.choose(f"the error of the clean image is measured: {ASSUMED}", loss_weighting="x0")
    t.choose("the node drops no captions", caption_dropout_probability=0.0)


def _datasets(t: Translation, found: list[tuple[str, Any]], document: Document) -> None:
    for kind, values in found:
        if kind in FOLDERS and isinstance(values.get("folder"), str):
            folder = rules.path_of(values["folder"], document.folder)
            strategy = "textfile" if "Text" in kind else "filename"
            entry = {"id": identifier(folder), "type": "local", "instance_data_dir": folder,
                     "caption_strategy": strategy}  # fmt: skip
            t.dataset(entry, {f"{kind}.folder": (values["folder"], "instance_data_dir")})
    if not t.datasets:
        t.drop("latents", "", "images come from other nodes: write their folder as a dataset")
