"""The modules of sd3tune.config know each other in one direction, and settings stand in topics."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.fields import Settings
from sd3tune.config.settings.all_settings import AllSettings

ROOT = Path(__file__).parents[2] / "sd3tune"
FILES = sorted((ROOT / "config").rglob("*.py"))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of config that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found & known


def test_no_module_of_config_imports_one_that_imports_it() -> None:
    empty = {module(p) for p in FILES if not p.read_text().strip()}  # packages that are folders
    known = {module(p) for p in FILES} - empty
    graph = {module(p): imported(p, known) - {module(p)} for p in FILES}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("sd3tune.config.rules") < order.index("sd3tune.config.config")
    assert len(order) > 30


def test_no_module_of_config_has_imports_for_types_alone() -> None:
    assert not [p for p in FILES if "TYPE_CHECKING" in p.read_text()]


def test_values_are_parsed_without_knowing_any_setting() -> None:
    known = {module(p) for p in FILES}
    assert imported(ROOT / "config" / "values.py", known) == set()


def test_settings_stand_in_the_order_of_their_topics_each_once() -> None:
    topics = [base for base in AllSettings.__bases__ if issubclass(base, Settings)]
    names = [name for topic in topics for name in topic.model_fields]
    assert len(topics) == len(list((ROOT / "config" / "settings").glob("*.py"))) - 2
    assert len(names) == len(set(names))
    for kind in (AllSettings, Config):
        assert list(kind.model_fields) == names
        made = kind(output_dir="o", data_backend_config="d", max_train_steps=1)
        assert list(made.model_dump()) == names


def test_a_class_of_two_topics_has_the_first_one_s_settings_first() -> None:
    from sd3tune.config.settings.ema import EmaSettings
    from sd3tune.config.settings.guard import GuardSettings

    class Two(GuardSettings, EmaSettings):
        own: int = 3

    names = [*GuardSettings.model_fields, *EmaSettings.model_fields, "own"]
    assert list(Two.model_fields) == list(Two(own=4).model_dump()) == names
    assert Two(loss_spike_factor=2).loss_spike_factor == 2 and Two(own=4).own == 4
