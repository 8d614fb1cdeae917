"""What a run would weigh under each choice that is still open: what memory refuses, and what the
largest batch is."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from sd3tune.backends.decide import limits
from sd3tune.backends.decide.decisions import why_not
from sd3tune.backends.decide.options import AXES
from sd3tune.backends.decide.rules import Request, one_memory
from sd3tune.decision import AUTO, Decision
from sd3tune.plan import batch_split, largest_batch, products
from sd3tune.plan.evaluation_plan import MEASURED_TWICE
from sd3tune.plan.host_memory import all_on_host
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import Load, estimate, gib
from sd3tune.plan.modulation_plan import may_leave
from sd3tune.plan.trainable import TrainedPlan
from sd3tune.sd3.variants import tokens
from sd3tune.tables.schemes import SCHEMES

BATCHES = (4, 3, 2, 1)  # tried in this order when the batch size is left open
WHOLE = ("diffusers", "native-math")  # attention that may be chosen, and may write out its scores


@dataclass(frozen=True)
class Sizes:
    """What the run would weigh under each choice still open."""

    inputs: RunInputs
    trained: TrainedPlan

    def load(self, r: Request, batch: int, precision: str) -> Load:
        """The load for the memory estimate, from the decisions so far. Batches are whole, but where
        the user splits them."""
        c, facts = self.inputs.config, self.inputs.facts
        shared, lora = one_memory(facts) is not None, self.trained.lora
        whole = Load(
            vendor=facts.vendor,
            base_dtype=r.base_model_default_dtype or "fp32",
            precision=precision,
            trainable_dtype=r.trainable_dtype or "fp32",
            optimizer=r.optimizer or "adamw",
            trained=self.trained.count,
            autocast=None if r.mixed_precision in (None, "no") else r.mixed_precision,
            accumulation=c.gradient_accumulation_steps,
            targets=lora.targets.value if lora else (),
            rank=lora.rank if lora else 0,
            dropout=bool(lora and lora.dropout),
            dora=bool(lora and lora.dora),
            lycoris=self.trained.lycoris,
            resident=min(MEASURED_TWICE, len(self.inputs.samples)),
            compiled=r.dynamo_backend not in (None, "no"),
            full=c.model_type == "full",
            ema=c.use_ema and c.ema_device == "accelerator",
            processes=self.inputs.processes.size,
            sharded=c.fsdp_enable,
            scores=limits.writes_scores(facts, r.attention_mechanism),
            slices=r.attention_mechanism == "sliced",
            modulations_off=self._modulations_off,
            batch=max([batch, *(d.train_batch_size or 0 for d in self.inputs.datasets)]),
            tokens=self.tokens,
            text_tokens=c.tokenizer_max_length,
            interval=c.gradient_checkpointing_interval if c.gradient_checkpointing else 0,
            swapped=0 if shared else min(c.blocks_to_swap or 0, self._layers),
            inputs_on_host=r.gradient_checkpointing_backend == "unsloth" and not shared,
            text_dtype=r.text_encoder_dtype or "fp32",
            text_precisions=(
                r.text_encoder_1_precision or "no_change",
                r.text_encoder_2_precision or "no_change",
                r.text_encoder_3_precision or "no_change",
            ),
        )
        return batch_split.in_parts(whole, c.batch_split or 1)

    def need(self, r: Request, batch: int, precision: str) -> int:
        """Bytes while training with these values."""
        return self.inputs.needed(self.load(r, batch, precision))

    @property
    def _layers(self) -> int:
        return self.inputs.model.transformer.layers

    @cached_property
    def tokens(self) -> int:
        """Tokens of the largest image."""
        return tokens(*self.inputs.largest_size)

    @cached_property
    def _modulations_off(self) -> bool:
        return may_leave(self.inputs)

    @property
    def room(self) -> int | None:
        """Bytes of the smallest device; None: it does not say."""
        return self.inputs.room_bytes

    @property
    def smallest_dataset(self) -> int:
        """Images per optimizer step and accumulated batch that the smallest dataset can fill."""
        samples, c = self.inputs.samples, self.inputs.config
        counts = Counter(s.dataset for s in samples for _ in range(s.repeats + 1))
        batches = c.gradient_accumulation_steps * self.inputs.processes.size
        return min(counts.values()) // batches

    def too_big(self, axis: str, r: Request) -> dict[str, str]:
        """Option of an axis -> why it does not fit the memory. Options that fit are left out."""
        if axis == "attention_mechanism":
            return self.attention_too_big(r)
        if self.room is None:
            return {}
        if axis == "base_model_precision":
            self._refuse_batch(r, self.room)
        encoders = axis == "text_encoder_3_precision"
        reasons, open_ = {}, self._precisions(r)
        amounts = {} if encoders else self._amounts(r, self.room)
        for precision in SCHEMES:
            if encoders:
                amount = self.encoding(r, precision)
            elif precision in open_:
                amount = amounts[precision]
            else:  # it is only named in a hint, for which nothing is counted
                load = self._smallest(r, self.inputs.smallest_batch, precision)
                amount = estimate(self.inputs.model, load).training
            # Captions may also be encoded by the host, where its memory is known to suffice or
            # nobody knows it.
            host = limits.host_bytes(self.inputs.facts)
            if amount > self.room and not (encoders and (host is None or amount <= host)):
                reasons[precision] = self._words(amount, encoders=encoders)
        return reasons

    def _amounts(self, r: Request, room: int) -> dict[str, int]:
        """Bytes while training with each quantisation that may be chosen. Where none fits, the
        smallest may have blocks and inputs in host memory, as far as the user left that open."""
        amounts = {name: self.training(r, name) for name in self._precisions(r)}
        if amounts and min(amounts.values()) > room:
            smallest = min(amounts, key=lambda name: amounts[name])
            load = self._smallest(r, self.inputs.smallest_batch, smallest)
            amounts[smallest] = self.inputs.needed(all_on_host(self.inputs, load))
        return amounts

    def _smallest(self, r: Request, batch: int, precision: str) -> Load:
        """The load with the batch in as many parts as the user leaves open."""
        load = self.load(r, batch, precision)
        return batch_split.smallest_part(load) if self._splits else load

    @property
    def _splits(self) -> bool:
        return batch_split.is_open(self.inputs.config)

    def _refuse_batch(self, r: Request, room: int) -> None:
        """Raises PlanError where the batch that the user set is what does not fit."""
        if self._splits:
            return
        batch = self.inputs.smallest_batch
        loads = {name: self.load(r, batch, name) for name in self._precisions(r)}
        if (refusal := largest_batch.refusal(self.inputs, loads, room)) is not None:
            raise refusal

    def _words(self, amount: int, precision: str = "", *, encoders: bool = False) -> str:
        needs = "the text encoders need" if encoders else f"{self.inputs.model.name} needs"
        batch = "" if encoders else f" at batch size {self.inputs.smallest_batch}"
        weights = f" with {precision} weights" if precision not in ("", "no_change") else ""
        return f"{needs} about {gib(amount)}{batch}{weights}, {self.inputs.room_words}"

    def attention_too_big(self, r: Request) -> dict[str, str]:
        """Kernels that write out all scores -> why none of them is chosen here. A kernel that the
        user set is checked later, together with the quantisation of the weights."""
        facts = self.inputs.facts
        names = [n for n in WHOLE if limits.writes_scores(facts, n)]
        slices = next(o for o in AXES["attention_mechanism"] if o.name == "sliced")
        if r.attention_mechanism is not None or not names or why_not(slices, facts, r):
            return {}
        # Slices of the scores are allowed already, so what is refused now are the whole scores.
        refusal = products.refusal_of(self.inputs, names[0])
        why = str(refusal) if refusal else self._too_much_memory(r, names[0])
        return dict.fromkeys(names, why) if why else {}

    def _too_much_memory(self, r: Request, name: str) -> str | None:
        """With the least quantised weights that fit with slices: none are quantised for scores."""
        if self.room is None:
            return None
        for precision in self._precisions(r):
            need = self.training(r.with_value("attention_mechanism", name), precision)
            if need <= self.room:
                return None
            if self.training(r.with_value("attention_mechanism", "sliced"), precision) <= self.room:
                break
        return self._words(need, precision)

    def _precisions(self, r: Request) -> list[str]:
        if self.inputs.config.base_model_precision is not None:
            return [self.inputs.config.base_model_precision]
        open_ = replace(r, too_big={})
        options = [o for o in AXES["base_model_precision"] if o.auto]
        return [o.name for o in options if not why_not(o, self.inputs.facts, open_)]

    def training(self, r: Request, precision: str) -> int:
        """Bytes while training at the smallest batch size, with weights in `precision`."""
        return self.inputs.needed(self._smallest(r, self.inputs.smallest_batch, precision))

    def encoding(self, r: Request, precision: str) -> int:
        """Bytes while captions are encoded, with T5 in `precision`."""
        decided = r.with_value("text_encoder_3_precision", precision)
        memory = estimate(self.inputs.model, self.load(decided, 1, "no_change"))
        return memory.text_encoders + memory.workspace

    def batch(self, r: Request) -> Decision[int]:
        """The batch size that the user set, or the largest of BATCHES that fits and can be
        filled."""
        asked = self.inputs.config.train_batch_size
        if asked is not None:
            source = self.inputs.config.source("train_batch_size")
            return Decision(asked, source, "set in the configuration")
        fill = [size for size in BATCHES if size <= self.smallest_dataset] or [1]
        attention = r.attention_mechanism or "diffusers"
        text = self.inputs.config.tokenizer_max_length
        right = products.training(
            self.inputs.facts, self.inputs.model, self.tokens, text, attention
        )
        sizes = [size for size in fill if size <= right.most]
        beyond = f"; not {fill[0]}: {right.why}" if sizes[0] < fill[0] else ""
        if self.room is None:
            return Decision(sizes[0], AUTO, "the default; the device hides its memory")
        precision = r.base_model_precision or "no_change"
        for size in sizes:
            if (need := self.need(r, size, precision)) <= self.room:
                free = " free" if self.inputs.facts.tightest.free else ""
                why = f"about {gib(need)} of {gib(self.room)}{free}"
                default = " (the default)" if size == BATCHES[0] else ""
                return Decision(size, AUTO, why + default + beyond)
        why = "one image fits with blocks or their inputs in host memory"  # else it was refused
        return Decision(1, AUTO, why + beyond)
