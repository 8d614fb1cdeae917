"""The evaluation loss in configuration and plan: what its settings ask for, what is refused, and
what a run's losses so far mean."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sd3tune.cli.overview_lines import evaluation
from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import load_datasets
from sd3tune.config.run_files import load_run
from sd3tune.data.discover import Discovery
from sd3tune.data.order import Schedule, Share
from sd3tune.errors import ConfigError
from sd3tune.formats.evaluation_history import best, ended_early
from sd3tune.plan.describe import describe_overview
from sd3tune.plan.evaluation_count import evaluation_count, evaluation_times
from sd3tune.plan.evaluation_plan import EvaluationPlan, epochs_at, evaluation_plan, score_plan
from sd3tune.plan.overview import Surroundings, checkpoints_kept, overview
from tests.plans import plan, samples

LEAST: dict[str, Any] = {"output_dir": "out", "max_train_steps": 10}
IMAGES = {"instance_data_dir": "photos", "resolution": 64}
DATASETS = [{"id": "a", **IMAGES}, {"id": "held-out", "dataset_type": "eval", **IMAGES}]


def config(**settings: Any) -> Config:
    return Config(**LEAST | {"data_backend_config": "d"} | settings)


def asked(**settings: Any) -> EvaluationPlan:
    how = evaluation_plan(config(**settings))
    assert how is not None
    return how


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("config", "photos"):
        Path(folder).mkdir()
    Path("config/multidatabackend.json").write_text(json.dumps(DATASETS))
    return tmp_path


def load(**settings: Any) -> Config:
    Path("config/config.json").write_text(json.dumps(LEAST | settings))
    return Config.load(Path("config/config.json"))


def test_nothing_is_measured_during_training_unless_an_interval_asks_for_it() -> None:
    assert evaluation_plan(config()) is None
    assert evaluation_plan(config(eval_steps_interval=5, eval_loss_disable=True)) is None
    how = asked(eval_epoch_interval=0.5)
    assert (how.every_steps, how.every_epochs, how.images, how.pooled) == (0, 0.5, 4, False)
    assert how.levels == (0.1, 0.3, 0.5, 0.7, 0.9)
    assert not how.keep_best and how.patience is None and how.dataset is None
    many = asked(eval_steps_interval=3, eval_timesteps=28, num_eval_images=9,
                 eval_dataset_pooling=True)  # fmt: skip
    assert len(many.levels) == 28 and many.levels[0] == 1 / 56 and many.levels[-1] == 55 / 56
    assert many.images == 9 and many.pooled


def test_early_stopping_keeps_the_best_checkpoint_unless_it_is_told_not_to() -> None:
    assert asked(eval_steps_interval=1, early_stopping_patience=3).keep_best
    assert asked(eval_steps_interval=1, keep_best_checkpoint=True).patience is None
    how = asked(eval_steps_interval=1, early_stopping_patience=3, keep_best_checkpoint=False)
    assert not how.keep_best and how.patience == 3


@pytest.mark.parametrize("settings, words", [
    ({"keep_best_checkpoint": True}, "keep_best_checkpoint needs the evaluation loss during"),
    ({"early_stopping_patience": 2}, "neither eval_steps_interval nor eval_epoch_interval is set"),
    ({"early_stopping_patience": 2, "eval_steps_interval": 1, "eval_loss_disable": True},
     "eval_loss_disable is true; leave out eval_loss_disable, or leave out early_stopping"),
    ({"eval_timesteps": 0}, "eval_timesteps"),
    ({"eval_epoch_interval": -1}, "eval_epoch_interval"),
    ({"evaluation_type": "fid"}, "evaluation_type"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**settings)


def test_names_of_simpletuner_are_taken_or_answered(project: Path) -> None:
    with pytest.raises(ConfigError, match="clip_score") as refused:
        load(clip_score=True)
    assert "evaluation_type=clip" in refused.value.hint
    assert score_plan(config()) is None
    scored = score_plan(load(evaluation_type="clip", eval_steps_interval=None))
    assert scored is not None and scored.model == "openai/clip-vit-large-patch14-336"
    Path("clip").mkdir()
    given = score_plan(
        load(evaluation_type="clip", pretrained_evaluation_model_name_or_path="clip")
    )
    assert given is not None and given.model == str(project / "clip")


def test_the_evaluated_dataset_is_one_of_the_run(project: Path) -> None:
    _, datasets = load_run(Path("config/config.json"), [*words(LEAST), "eval_dataset_id=a"])
    assert [d.id for d in datasets.evaluated("a")] == ["a"]
    assert [d.id for d in datasets.evaluated(None)] == ["held-out"]
    with pytest.raises(ConfigError, match="eval_dataset_id=b` names no enabled dataset") as refused:
        load_datasets(Path("config/multidatabackend.json"), load(eval_dataset_id="b"))
    assert "`held-out`" in refused.value.hint


def words(settings: dict[str, Any]) -> list[str]:
    Path("config/config.json").write_text("{}")
    return [f"{key}={value}" for key, value in settings.items()]


def test_the_lowest_loss_is_the_first_of_its_value_and_never_a_bad_number() -> None:
    nan = float("nan")
    assert best([]) is None and best([[1, nan]]) is None
    assert best([[5, 2.0], [10, 1.0], [15, 1.0], [20, nan]]) == (10, 1.0, 2)


def test_patience_counts_evaluations_after_the_lowest_loss() -> None:
    history = [[5, 2.0], [10, 1.0], [15, 1.5], [20, 1.0]]
    assert not ended_early(history, None) and not ended_early(history, 3)
    assert ended_early(history, 2) and not ended_early(history[:3], 2)
    assert ended_early([[1, float("nan")]] * 2, 2)


def test_epochs_are_counted_in_batches_exactly() -> None:
    schedule = Schedule([Share("d", samples(10), 1)], 0)
    assert epochs_at(schedule, 13) == Fraction(13, 10)
    how = asked(eval_epoch_interval=0.1)
    assert evaluation_times(how, schedule, 10) == 11  # 0.3 / 0.1 is 2 in floating point
    assert evaluation_times(asked(eval_epoch_interval=0.5), schedule, 12) == 4  # 0, 5, 10, 12
    assert evaluation_times(asked(eval_steps_interval=4), schedule, 12) == 4  # 0, 4, 8, 12


def test_the_plan_says_when_on_what_and_at_which_cost(project: Path) -> None:
    settings: dict[str, Any] = {"eval_steps_interval": 2, "early_stopping_patience": 3,
                                "evaluation_type": "clip", "validation_prompt": "x"}  # fmt: skip
    made, datasets = plan("rtx4090", **settings), load_datasets(
        Path("config/multidatabackend.json"), load())  # fmt: skip
    discoveries = {"a": Discovery(tuple(samples(20)), ()), "held-out": Discovery(
        tuple(samples(3)), ())}  # fmt: skip
    schedule = Schedule([Share("a", samples(20), made.batch_size)], 0)
    count = evaluation_count(made, datasets, discoveries, schedule)
    assert not count.trained_on and count.before_and_after == 3 and count.during is not None
    during = count.during
    assert (dict(during.images), during.times, during.passes) == ({"held-out": 3}, 6, 15)
    assert during.share == round(6 * 15 / (3 * 10 * made.batch_size), 3)
    seen = overview(made, datasets, discoveries, schedule, Surroundings())
    shown = "\n".join(map(str, evaluation(seen, made)))
    for part in ("3  images never trained on", "6  times, every 2 steps", "3 of held-out",
                 "3 evaluations without a lower loss", "openai/clip"):  # fmt: skip
        assert part in shown
    assert describe_overview(seen)["evaluation"]["during"]["best_checkpoint"] is True
    alone = plan("rtx4090")
    assert checkpoints_kept(made) == checkpoints_kept(alone) + 1
    assert evaluation_count(alone, datasets, discoveries, schedule).during is None
    dear = plan("rtx4090", eval_steps_interval=1, eval_timesteps=100)
    warned = overview(dear, datasets, discoveries, schedule, Surroundings()).warnings
    assert any("of the computing of training: raise eval_steps_interval" in w for w in warned)
