"""What drawing weighs under each choice that is still open, and what follows from it: quantised,
swapped or offloaded weights."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sd3tune.backends.decide import limits
from sd3tune.backends.decide.decisions import why_not
from sd3tune.backends.decide.options import AXES
from sd3tune.backends.decide.rules import Request, one_memory
from sd3tune.backends.observe.facts import Facts
from sd3tune.decision import AUTO, Decision
from sd3tune.errors import PlanError
from sd3tune.plan import products
from sd3tune.plan.arithmetic import Chosen
from sd3tune.plan.host_memory import UNTESTED
from sd3tune.plan.memory import BYTES, Load, MemoryEstimate, estimate, gib
from sd3tune.plan.modulation_plan import ModulationPlace, off_device
from sd3tune.plan.sizes import WHOLE
from sd3tune.sd3.variants import tokens
from sd3tune.tables.schemes import SCHEMES

if TYPE_CHECKING:
    from sd3tune.plan.drawing import DrawingAsked

# Values of the VAE's activations per pixel of the picture while it decodes, at most: an estimate
# from its widest blocks, 256 channels at full size and three tensors of them.
DECODED_VALUES = 800
ADAPTER_BYTES = 4  # adapters beside the weights are float32


@dataclass(frozen=True)
class DrawingSizes:
    """The load of what is asked, on these facts."""

    asked: "DrawingAsked"
    facts: Facts

    @property
    def room(self) -> int | None:
        """Bytes of the device; None: it does not say."""
        return self.facts.weakest.room_bytes

    @property
    def image_tokens(self) -> int:
        """Tokens of the largest picture."""
        return max(tokens(*size) for size in self.asked.sizes)

    @property
    def layers(self) -> int:
        return self.asked.model.transformer.layers

    @property
    def may_leave(self) -> bool:
        """Whether the AdaLN weights may live in host memory."""
        return one_memory(self.facts) is None and not self.asked.adapted_modulations

    def estimate(
        self, r: Request, precision: str, swapped: int = 0, *, away: bool | None = None
    ) -> MemoryEstimate:
        """Bytes while a picture is drawn, adapters included. One block keeps activations: that is
        what a checkpointed block does whose inputs wait elsewhere. away: whether AdaLN weights are
        in host memory; None: where they may."""
        load = self._load(r, precision, swapped)
        load = load if away is None else replace(load, modulations_off=away)
        found = estimate(self.asked.model, load)
        return replace(found, adapter=self.asked.adapter_values * ADAPTER_BYTES)

    def _load(self, r: Request, precision: str, swapped: int) -> Load:
        return Load(
            vendor=self.facts.vendor,
            base_dtype=r.base_model_default_dtype or "fp32",
            precision=precision,
            trainable_dtype="fp32",
            optimizer="adamw",
            trained=0,
            batch=self.asked.together,
            tokens=self.image_tokens,
            text_tokens=self.asked.captions.t5_tokens,
            interval=1,
            swapped=swapped,
            inputs_on_host=True,
            text_dtype=r.text_encoder_dtype or "fp32",
            text_precisions=(
                r.text_encoder_1_precision or "no_change",
                r.text_encoder_2_precision or "no_change",
                r.text_encoder_3_precision or "no_change",
            ),
            scores=limits.writes_scores(self.facts, r.attention_mechanism),
            slices=r.attention_mechanism == "sliced",
            modulations_off=self.may_leave,
        )

    def need(self, r: Request, precision: str, swapped: int = 0) -> int:
        """Bytes while a picture is drawn."""
        return self.estimate(r, precision, swapped).training

    def decoding(self, r: Request) -> int:
        """Bytes while the VAE decodes the largest picture, weights included: an estimate."""
        largest = max(width * height for width, height in self.asked.sizes)
        return (self.asked.model.vae + DECODED_VALUES * largest) * BYTES[r.vae_dtype or "fp32"]

    def too_big(self, axis: str, r: Request) -> dict[str, str]:
        """Option of an axis -> why it does not fit the memory, as `decide_all` asks for it."""
        if axis == "attention_mechanism":
            return self._attention_too_big(r)
        if self.room is None:
            return {}
        return self._encoders_too_big(r) if axis != "base_model_precision" else self._weights(r)

    def _weights(self, r: Request) -> dict[str, str]:
        """Nothing is refused where blocks can live in host memory and nothing else fits."""
        room = self.room or 0
        needs = {name: self.need(r, name) for name in SCHEMES}
        words = f"{self.asked.model.name} needs about {{}}, {self._room_words}"
        reasons = {name: words.format(gib(n)) for name, n in needs.items() if n > room}
        wanted = self._wanted(r)
        if wanted and all(name in reasons for name in wanted) and self._streams(r, wanted[0]):
            return {}
        return reasons

    def _wanted(self, r: Request) -> list[str]:
        """The scheme that somebody set, or those that may be chosen, by preference."""
        if r.base_model_precision is not None:
            return [r.base_model_precision]
        options = [o for o in AXES["base_model_precision"] if o.auto]
        free = replace(r, too_big={})
        return [o.name for o in options if not why_not(o, self.facts, free)]

    def _streams(self, r: Request, precision: str) -> bool:
        """Whether blocks that live in host memory make it fit."""
        if one_memory(self.facts) is not None:
            return False
        host = limits.host_bytes(self.facts)
        held = self.estimate(r, precision).weights
        fits = self.need(r, precision, self.layers) <= (self.room or 0)
        return fits and (host is None or held <= host)

    def _encoders_too_big(self, r: Request) -> dict[str, str]:
        reasons, host = {}, limits.host_bytes(self.facts)
        for name in SCHEMES:
            decided = r.with_value("text_encoder_3_precision", name)
            memory = self.estimate(decided, "no_change")
            amount = memory.text_encoders + memory.workspace
            if amount > (self.room or 0) and host is not None and amount > host:
                reasons[name] = f"the text encoders need about {gib(amount)}, {self._room_words}"
        return reasons

    def _attention_too_big(self, r: Request) -> dict[str, str]:
        """Kernels that write out all scores -> why they are not chosen, where slices do it."""
        names = [n for n in WHOLE if limits.writes_scores(self.facts, n)]
        slices = next(o for o in AXES["attention_mechanism"] if o.name == "sliced")
        if r.attention_mechanism is not None or why_not(slices, self.facts, r):
            return {}
        if (why := self.computed_wrongly("diffusers")) is not None:
            return dict.fromkeys(WHOLE, why)
        if not names or self.room is None:
            return {}
        whole = r.with_value("attention_mechanism", names[0])
        sliced = r.with_value("attention_mechanism", "sliced")
        for precision in self._wanted(r):  # nothing is quantised to make room for scores
            if (need := self.need(whole, precision)) <= self.room:
                return {}
            if self.need(sliced, precision) <= self.room:
                break
        why = f"{self.asked.model.name} needs about {gib(need)}, {self._room_words}"
        return dict.fromkeys(names, why)

    def computed_wrongly(self, attention: str) -> str | None:
        """Why the largest picture would be computed wrongly with this attention; None: it is
        right."""
        largest = products.training(
            self.facts,
            self.asked.model,
            self.image_tokens,
            self.asked.captions.t5_tokens,
            attention,
        )
        return largest.why if largest.most < self.asked.together else None

    @property
    def _room_words(self) -> str:
        device = self.facts.weakest
        return f"{device.name} has {device.free or gib(device.room_bytes or 0)}"

    def swapped(self, r: Request, precision: str) -> Decision[int]:
        """How many blocks live in host memory: as few as fit."""
        if self.room is None or (need := self.need(r, precision)) <= self.room:
            return Decision(0, AUTO, "every block stays on the device")
        for count in range(1, self.layers + 1):
            if self.need(r, precision, count) <= self.room:
                why = f"the weights need {gib(need)}, {self._room_words}: blocks 0 to {count - 1} "
                return Decision(count, AUTO, f"{why}visit the device for each step; {UNTESTED}")
        return Decision(0, AUTO, "no number of blocks in host memory makes it fit")

    def modulations(self, r: Request, chosen: Chosen) -> Decision[ModulationPlace]:
        """Where they are computed: on the device unless the weights do not fit there."""
        precision = chosen["base_model_precision"].value
        stay = self.estimate(r, precision, away=False).training
        if not self.may_leave or self.room is None or stay <= self.room:
            why = one_memory(self.facts) or "the AdaLN weights stay on the device"
            return Decision("device", AUTO, why)
        load = self._load(r, precision, 0)
        pinned = chosen["pin_memory"].value == "on"
        device, words = self.facts.weakest, self._room_words
        return off_device(self.asked.model, load, device, words, pinned=pinned)

    def offload(self, r: Request) -> Decision[Literal["none", "text_encoders"]]:
        """Where the text encoders run. Raises PlanError where no memory holds them."""
        memory = self.estimate(r, "no_change")
        need, why = memory.text_encoders + memory.workspace, ""
        why = f"the text encoders take {gib(memory.text_encoders)}"
        if self.room is None or need <= self.room:
            return Decision("none", AUTO, f"{why}, and are gone before the transformer is loaded")
        host = limits.host_bytes(self.facts)
        if host is not None and host < need:
            raise PlanError(
                f"{why}, {self._room_words}, and host memory has {gib(host)}",
                hint="draw on a machine with more memory: T5 is nine tenths of it",
            )
        return Decision("text_encoders", AUTO, f"{why}, {self._room_words}: they run on the CPU")

    def vae(
        self, r: Request, precision: str, swapped: int
    ) -> Decision[Literal["beside", "afterwards"]]:
        """Whether the VAE fits beside the transformer."""
        need, decoding = self.need(r, precision, swapped), self.decoding(r)
        both = f"drawing takes about {gib(need)}, decoding {gib(decoding)}"
        if self.room is None or need + decoding <= self.room:
            return Decision("beside", AUTO, f"{both}: each picture is written when it is drawn")
        return Decision(
            "afterwards", AUTO, f"{both}, {self._room_words}: pictures are decoded at the end"
        )
