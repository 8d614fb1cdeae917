"""The Python libraries that choices rest on: one row a distribution, with the oldest version that
works, how it is imported, and what `--on` assumes of a machine that nobody can look at.
"""

from dataclasses import dataclass

from sd3tune.tables.needs import Need, Vendor
from sd3tune.tables.table import Table

EVERYWHERE: tuple[Vendor, ...] = ("cuda", "rocm", "mps", "cpu")


@dataclass(frozen=True)
class Library:
    """One distribution.

    imports: "module: names that the trainer takes from it". A package can be installed and still
    not load, and diffusers and transformers load a model's file only when its class is named.
    lowest: version that options need. extra: of sd3tune, where no vendor's own extra installs it.
    essential: nothing trains without it. assumed, on: the version that sd3tune installs, and for
    which vendors.
    """

    name: str
    imports: str
    lowest: str = ""
    extra: str = ""
    essential: bool = False
    assumed: str = ""
    on: tuple[Vendor, ...] = EVERYWHERE
    aliases: tuple[str, ...] = ()

    def needed(self) -> Need:
        """The need of a row that uses this library."""
        return Need("package", (self.name, self.lowest, self.extra))


DIFFUSERS = Library(
    "diffusers",
    "diffusers: AutoencoderKL SD3Transformer2DModel StableDiffusion3Pipeline "
    "FlowMatchEulerDiscreteScheduler",
    essential=True,
    assumed="0.42.1",
)
TRANSFORMERS = Library(
    "transformers",
    "transformers: CLIPTextModelWithProjection T5EncoderModel CLIPTokenizer T5TokenizerFast",
    essential=True,
    assumed="5.23.0",
)
PEFT = Library(
    "peft", "peft: LoraConfig set_peft_model_state_dict", essential=True, assumed="0.21.2"
)
ACCELERATE = Library(
    "accelerate", "accelerate: init_empty_weights", essential=True, assumed="1.15.0"
)
SAFETENSORS = Library("safetensors", "safetensors.torch: load_file", essential=True)
HUB = Library("huggingface_hub", "huggingface_hub: snapshot_download", essential=True)
SENTENCEPIECE = Library("sentencepiece", "sentencepiece:", essential=True)
# Those of pyproject.toml that commands import themselves; a test compares the two.
PLAIN = tuple(
    Library(name, imports, essential=True)
    for name, imports in {
        "httpcore2": "httpcore2:",
        "protobuf": "google.protobuf:",
        "numpy": "numpy: asarray",
        "pillow": "PIL.Image: open",
        "zstandard": "zstandard: ZstdCompressor",
        "pydantic": "pydantic: BaseModel TypeAdapter",
        "click": "click: Group",
        "rich": "rich.progress: Progress",
        "psutil": "psutil: Process",
        "filelock": "filelock: FileLock",
        "packaging": "packaging.requirements: Requirement",
        "tenacity": "tenacity: Retrying",
        "prompt_toolkit": "prompt_toolkit: PromptSession",
    }.items()
)
QUANTO = Library("optimum-quanto", "optimum.quanto:", "0.2.7", assumed="0.2.7")
# Correct blocksize on CDNA and no garbage on RDNA only since 0.50 (bitsandbytes#1856, #1885).
BITSANDBYTES = Library(
    "bitsandbytes", "bitsandbytes.optim:", "0.50", assumed="0.50.2", on=("cuda", "rocm", "cpu")
)
OPTIMI = Library("torch-optimi", "optimi:", "0.3.3", assumed="0.3.3")
COLLECTION = Library("pytorch-optimizer", "pytorch_optimizer:", "4.1", assumed="4.1.0")
TORCHAO = Library("torchao", "torchao.optim:", "0.18", "torchao")
LYCORIS = Library("lycoris-lora", "lycoris:")
TENSORBOARD = Library("tensorboard", "tensorboard:", "2.20", "tensorboard", assumed="2.21.0")
WANDB = Library("wandb", "wandb:", "0.31", "wandb", assumed="0.31.0")
TRACKIO = Library("trackio", "trackio:", "0.43", "trackio", assumed="0.43.0")

LIBRARIES = Table(
    "a library",
    (DIFFUSERS, TRANSFORMERS, PEFT, ACCELERATE, SAFETENSORS, HUB, SENTENCEPIECE, QUANTO,
     BITSANDBYTES, OPTIMI, COLLECTION, TORCHAO, LYCORIS, TENSORBOARD, WANDB, TRACKIO, *PLAIN),
)  # fmt: skip
