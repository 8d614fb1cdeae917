"""The sources that know about a vendor's cards: each is asked in a child process of its own, all
side by side, so that one that hangs, crashes or prints rubbish silences no other.

A source is a module with `survey(root)`: the cards as it lists them, with a Problem for whatever it
could not say. `merged` makes one Survey of them: the cards of the first source that lists any, each
field that it left open from the next source that knows it. Nothing here raises.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from sd3tune.backends.observe import child
from sd3tune.backends.observe.facts import Gpu, Problem, Survey, Vendor, gpu_from

SECONDS = 10.0
MOST = 2**60  # bytes, watts, links: no card has more
# Last words of the ids of problems that a source has, and not the card.
OF_THE_SOURCE = ("hangs", "crashed", "failed", "garbage", "forbidden", "init")
Ask = Callable[[str, Path], child.Answer]


@dataclass(frozen=True)
class CardSource:
    """One way to learn of a vendor's cards."""

    vendor: Vendor
    id: str  # begins the ids of its problems, "nvidia.nvml"
    title: str  # begins their sentences, "NVML"
    module: str  # of this room
    fix: str  # what helps when it crashes or answers rubbish


DRIVER = "reinstall the NVIDIA driver and reboot"
PYNVML = "reinstall nvidia-ml-py, then the NVIDIA driver, and reboot"
AMD_SMI = "reinstall amd-smi-lib of your ROCm, or the amdgpu driver, and reboot"
SOURCES = {  # the best first; its name stands in Gpu.source
    "nvml": CardSource("cuda", "nvidia.nvml", "NVML", "nvml", PYNVML),
    "nvidia-smi": CardSource("cuda", "nvidia.smi", "nvidia-smi", "nvidia_smi", DRIVER),
    "libcuda": CardSource("cuda", "nvidia.libcuda", "libcuda.so.1", "libcuda", DRIVER),
    "cuInit": CardSource("cuda", "nvidia.cuinit", "cuInit of libcuda.so.1", "cuda_devices", DRIVER),
    "/proc/driver/nvidia": CardSource("cuda", "nvidia.proc", "/proc/driver/nvidia", "nvidia_files",
                                  DRIVER),
    "amdsmi": CardSource("rocm", "amd.amdsmi", "amdsmi", "amdsmi", AMD_SMI),
    "amd-smi": CardSource("rocm", "amd.smi", "amd-smi", "amd_smi_program", AMD_SMI),
    "/sys/class/kfd": CardSource("rocm", "amd.kfd", "/sys/class/kfd", "kfd", AMD_SMI),
    "sysctl": CardSource("mps", "mps.sysctl", "sysctl", "sysctl", "update macOS"),
}  # fmt: skip
LIST_CARDS = ("nvml", "nvidia-smi")  # of NVIDIA: what they leave out no program can use


def observe(name: str, root: str) -> dict[str, Any]:
    """What one source says, for the child process."""
    module = import_module(f"sd3tune.backends.observe.{SOURCES[name].module}")
    answer: dict[str, Any] = asdict(module.survey(Path(root)))
    return answer


def ask_in_child(name: str, root: Path, timeout_seconds: float = SECONDS) -> child.Answer:
    """One source's answer from a child process with a time limit."""
    return child.ask("source", [name, str(root)], timeout_seconds=timeout_seconds)


def survey(vendor: Vendor, root: Path, ask: Ask = ask_in_child) -> Survey:
    """The cards of a vendor as all its sources together know them. ask: gets the answer of one."""
    names = [name for name, source in SOURCES.items() if source.vendor == vendor]
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: ask(name, root), names))
    said = [_read(name, answer) for name, answer in zip(names, answers, strict=True)]
    return merged(vendor, [_signed(name, each) for name, each in zip(names, said, strict=True)])


def _signed(name: str, said: Survey) -> Survey:
    """The survey, with problems that name their source."""
    return replace(said, problems=tuple(replace(p, source=name) for p in said.problems))


def _read(name: str, answer: child.Answer) -> Survey:
    """An answer as a Survey: without cards and with the reason where there is none."""
    source = SOURCES[name]
    if answer.data is not None:
        try:
            return _plausible(name, survey_from(answer.data))
        except (TypeError, ValueError, KeyError, AssertionError, AttributeError) as e:
            answer = child.Answer(error=f"its answer has another shape ({type(e).__name__})")
    words, fix, kind = f"asking {source.title} failed: {answer.error}", source.fix, "failed"
    if answer.hung:
        words, kind = f"{source.title} hangs: {answer.error}", "hangs"
        fix = f"reboot; where it hangs again, {source.fix}; training on this card may hang in the "
        fix += "same way"
    elif answer.crashed:
        words, kind = f"asking {source.title} crashed: {answer.error}", "crashed"
    return Survey(source.vendor, problems=(Problem(f"{source.id}-{kind}", "fail", words, fix),))


def survey_from(data: Mapping[str, Any]) -> Survey:
    """A Survey that travelled as JSON."""
    rest = {k: v for k, v in data.items() if k not in ("gpus", "problems")}
    return Survey(
        gpus=tuple(gpu_from(g) for g in data["gpus"]),
        problems=tuple(Problem(**p) for p in data["problems"]),
        **rest,
    )


def _plausible(name: str, said: Survey) -> Survey:
    """The survey without fields that no card can have, and a problem that names them."""
    strange: list[str] = []
    gpus = tuple(_plausible_gpu(gpu, strange) for gpu in said.gpus)
    versions: dict[str, Any] = {}
    for key in ("driver", "runtime"):
        value = getattr(said, key)
        if value is not None and not (isinstance(value, str) and value[:1].isdigit()):
            strange.append(f"{key} {value!r}"[:60])
            versions[key] = None
    if not strange:
        return said
    source = SOURCES[name]
    words = f"{source.title} answers what no card can have: {', '.join(strange[:3])}"
    doubt = Problem(f"{source.id}-implausible", "warn", words, source.fix)
    return replace(said, gpus=gpus, problems=(*said.problems, doubt), **versions)


def _plausible_gpu(gpu: Gpu, strange: list[str]) -> Gpu:
    wrong: dict[str, Any] = {}
    for field in fields(Gpu):
        value = getattr(gpu, field.name)
        if value is not None and not _fits(field.name, field.type, value):
            strange.append(f"{field.name} {value!r}"[:60])
            wrong[field.name] = "unnamed GPU" if field.name == "name" else None
    used, total = wrong.get("used_bytes", gpu.used_bytes), wrong.get("total_bytes", gpu.total_bytes)
    if used is not None and total is not None and used > total:
        strange.append(f"used_bytes {used} of {total}")
        wrong["used_bytes"] = None
    return replace(gpu, **wrong)


def _fits(name: str, kind: Any, value: Any) -> bool:
    if kind == int | None or kind == float | None or kind is int:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = 1 if name == "total_bytes" else -100 if name == "temperature_celsius" else 0
        return number and least <= value < MOST
    if kind == str | None or kind is str:
        return isinstance(value, str) and value.isprintable() and "\ufffd" not in value
    if kind == bool | None or kind is bool:
        return isinstance(value, bool)
    return True


def merged(vendor: Vendor, surveys: Sequence[Survey]) -> Survey:
    """One Survey of those of several sources, the best first. A program that is not installed is
    missed only where no source before it listed the cards; a source that failed stops training only
    where no other listed them."""
    best = next((s for s in surveys if s.gpus), None)
    cards = () if best is None else best.gpus
    for other in surveys:
        if other is not best and other.gpus:
            cards = tuple(_completed(card, _same(card, cards, other.gpus)) for card in cards)
    first = best.source if best else next((s.source for s in surveys if s.source), None)
    told: dict[str, tuple[str, str | None]] = {}
    for key in ("driver", "runtime"):
        known = [(getattr(s, key), s.source_of(key)) for s in surveys if getattr(s, key)]
        if best is not None and getattr(best, key):
            known.insert(0, (getattr(best, key), best.source_of(key)))
        if known:
            told[key] = known[0]
    others = {key: who for key, (_, who) in told.items() if who is not None and who != first}
    values = {key: value for key, (value, _) in told.items()}
    return Survey(vendor, cards, values.get("driver"), values.get("runtime"), first,
                  tuple(_problems(surveys, best)), others)  # fmt: skip


def _problems(surveys: Sequence[Survey], best: Survey | None) -> list[Problem]:
    found: list[Problem] = []
    answered = False
    for survey in surveys:
        for problem in survey.problems:
            kind = problem.id.rpartition("-")[2]
            if kind == "absent":
                problem = replace(problem, severity="skip" if answered else "warn")
            elif kind in OF_THE_SOURCE and best is not None:
                problem = replace(problem, severity="warn")
            found.append(problem)
        answered = answered or bool(survey.gpus)
    return found


def _same(card: Gpu, cards: Sequence[Gpu], others: Sequence[Gpu]) -> Gpu | None:
    """The card as another source lists it: by UUID, by a bus id that one card has on each side, or
    by its number where neither side says who its cards are."""
    if card.uuid is not None:
        fits = [o for o in others if o.uuid is not None and o.uuid.lower() == card.uuid.lower()]
        if len(fits) == 1:
            return fits[0]
    if card.bus_id is not None:
        here = [c for c in cards if c.bus_id == card.bus_id]
        fits = [o for o in others if o.bus_id == card.bus_id and o.mig == card.mig]
        return fits[0] if len(here) == len(fits) == 1 else None
    if len(cards) == len(others) and all(o.bus_id is None for o in others):
        return next((o for o in others if o.index == card.index), None)
    return None


def _completed(card: Gpu, other: Gpu | None) -> Gpu:
    """The card with what it left open from another source's words, each with that source."""
    if other is None:
        return card
    missing = {
        field.name: getattr(other, field.name)
        for field in fields(Gpu)
        # No error is an answer too: the better source's.
        if field.name != "error"
        and getattr(card, field.name) is None
        and getattr(other, field.name) is not None
    }
    if card.arch.name == "unknown" and other.arch.name != "unknown":
        missing["arch"] = other.arch
    if not card.named and other.named:
        missing["name"] = other.name
    told = {name: other.sources.get(name, other.source) for name in missing}
    return replace(card, **missing, sources={**card.sources, **told})
