"""What becomes of the transformer's blocks: checkpointed, swapped, and quantised blocks kept."""

from sd3tune.backends.decide.rules import one_memory
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import Config
from sd3tune.decision import AUTO, Decision, Provenance
from sd3tune.errors import ConfigError, PlanError
from sd3tune.sd3.variants import Transformer

UNTESTED = "untested on hardware"


def decisions(
    config: Config, facts: Facts, shape: Transformer, hardware: dict[str, Decision[str]]
) -> dict[str, Decision[str]]:
    return {
        "gradient_checkpointing": _checkpointing(config),
        "gradient_checkpointing_interval": _interval(config, shape),
        "blocks_to_swap": _swapped(config, facts, shape),
        "cache_dir_quantised": _kept(config, hardware),
    }


def _source(config: Config, name: str) -> Provenance:
    return config.source(name)


def _checkpointing(config: Config) -> Decision[str]:
    reason = "recomputes each block in the backward pass: about a third more time, far less memory"
    value = "on" if config.gradient_checkpointing else "off"
    source = _source(config, "gradient_checkpointing")
    return Decision(value, source, reason if value == "on" else "every activation is kept")


def _interval(config: Config, shape: Transformer) -> Decision[str]:
    name, interval = "gradient_checkpointing_interval", config.gradient_checkpointing_interval
    if interval > shape.layers:
        raise ConfigError(
            f"`{name}={interval}`: there are {shape.layers} blocks",
            hint="gradient_checkpointing=false checkpoints none",
        )
    if not config.gradient_checkpointing:
        return Decision(str(interval), AUTO, "no block is checkpointed")
    forgetful = -(-shape.layers // interval)
    why = f"{forgetful} of {shape.layers} blocks are recomputed"
    return Decision(str(interval), _source(config, name), why)


def _swapped(config: Config, facts: Facts, shape: Transformer) -> Decision[str]:
    name, count = "blocks_to_swap", config.blocks_to_swap
    if not count:
        return Decision("0", AUTO, "every block stays on the device")
    if count > shape.layers:
        raise ConfigError(
            f"`{name}={count}`: there are {shape.layers} blocks",
            hint=f"use at most {shape.layers}",
        )
    shared = one_memory(facts)
    if shared is not None and facts.accelerated:
        raise PlanError(
            f"`{name}={count}` cannot run on {facts.weakest.name}: {shared}",
            hint=f"leave `{name}` out; base_model_precision makes the weights smaller",
        )
    why = f"blocks 0 to {count - 1} live in host memory and visit the device; {UNTESTED}"
    return Decision(
        str(count), config.source(name), f"{why}; {shared}: nothing is gained" if shared else why
    )


def _kept(config: Config, hardware: dict[str, Decision[str]]) -> Decision[str]:
    """A path, or none. One CPU core quantises the 8B model in one to six minutes and reads the
    result in seconds; an accelerator takes seconds for either (docs/concepts/quantisation.md)."""
    name, via = "cache_dir_quantised", hardware["quantize_via"].value
    if hardware["base_model_precision"].value == "no_change":
        return Decision("none", AUTO, "nothing is quantised")
    if config.cache_dir_quantised is not None:
        return Decision(
            str(config.cache_dir_quantised), config.source(name), "set in the configuration"
        )
    if via == "cpu":
        folder = config.output_dir / "cache" / "quantised"
        return Decision(str(folder), AUTO, f"quantising on the CPU takes minutes; `{name}=none`")
    return Decision("none", AUTO, "the accelerator quantises in seconds")
