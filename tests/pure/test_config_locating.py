# ruff: noqa: E501  (tables: one case a line)
"""Which file is read where none is named, and what holds: command line, environment, file."""

import json
from pathlib import Path

import pytest

from sd3tune.config.config import read
from sd3tune.config.files.locating import locate
from sd3tune.errors import ConfigError
from tests.commands import exit_code

pytestmark = pytest.mark.usefixtures("empty_project")
JSON = json.dumps({"output_dir": "o", "max_train_steps": 5, "learning_rate": 1e-5, "seed": 1})
TOML = 'output_dir = "o"\nmax_train_steps = 6\n'
ENV = "OUTPUT_DIR=o\nMAX_NUM_STEPS=7\nLEARNING_RATE=${LEARNING_RATE:-1e-6}\nOPTIMIZER=adamw\n"


def write(**files: str) -> None:
    """Files under `config`: their names with __ for / and _ for the dot."""
    for name, text in files.items():
        path = Path("config", name.replace("__", "/").replace("config_", "config."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_json_comes_before_toml_before_env_and_the_others_are_named() -> None:
    write(config_env=ENV)
    assert locate((), {}).path == Path("config/config.env")
    write(config_toml=TOML)
    assert locate((), {}).path == Path("config/config.toml")
    write(config_json=JSON)
    located = locate(("seed=2",), {})
    assert (located.path, located.words) == (Path("config/config.json"), ("seed=2",))
    assert located.sentence == (
        "configuration: config/config.json (config/config.toml is there too and is not read; "
        "config/config.env is there too and is not read)"
    )


@pytest.mark.parametrize(
    "words, environ, path",
    [
        ((), {"CONFIG_BACKEND": "toml"}, "config/config.toml"),
        ((), {"SIMPLETUNER_CONFIG_BACKEND": "env", "CONFIG_BACKEND": "toml"}, "config/config.env"),
        ((), {"CONFIG_TYPE": "env"}, "config/config.env"),
        (("config_backend=env",), {"CONFIG_BACKEND": "toml"}, "config/config.env"),
        ((), {"ENV": "style"}, "config/style/config.toml"),
        ((), {"SIMPLETUNER_ENV": "style", "ENV": "none"}, "config/style/config.toml"),
        ((), {"SIMPLETUNER_ENVIRONMENT": "style", "SIMPLETUNER_ENV": "x"}, "config/style/config.toml"),
        (("env=style",), {"ENV": "none"}, "config/style/config.toml"),
        (("env=default",), {"ENV": "style"}, "config/config.json"),
        ((), {"ENV": "/etc/shrc"}, "config/config.json"),
        ((), {"CONFIG_PATH": "other/mine"}, "other/mine"),
        (("config_path=x.toml",), {"CONFIG_PATH": "y"}, "x.toml"),
    ],
)  # fmt: skip
def test_variables_and_words_choose_the_file(
    words: tuple[str, ...], environ: dict[str, str], path: str
) -> None:
    write(config_json=JSON, config_toml=TOML, config_env=ENV, style__config_toml=TOML)
    located = locate(words, environ)
    assert located.path == Path(path) and located.words == ()


@pytest.mark.parametrize(
    "words, environ, message",
    [
        (("env=gone",), {}, "env=gone: there is no folder `config/gone`"),
        ((), {"ENV": "production"}, "ENV=production: there is no folder `config/production`"),
        ((), {"CONFIG_BACKEND": "yaml"}, "CONFIG_BACKEND=yaml: there is no such backend"),
        ((), {"CONFIG_BACKEND": "toml"}, "no configuration file is here: looked for config/config.toml"),
        ((), {}, "no configuration file is here: looked for config/config.json, config/config.toml, "
         "config/config.env"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(
    words: tuple[str, ...], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as e:
        locate(words, environ)
    assert str(e.value) == message and e.value.hint


def test_config_env_chooses_the_environment_as_simpletuner_s_does() -> None:
    write(
        config_env='TRAINING_NUM_PROCESSES=2\nTRAINING_DYNAMO_BACKEND="no"\nOPTIMIZER=lion\n'
        'MIXED_PRECISION="no"\nexport CONFIG_BACKEND="json"\nexport ENV="style"\n',
        config_json=JSON,
        style__config_json=JSON.replace("}", ', "mixed_precision": "bf16"}'),
        style__config_env=ENV,
    )
    located = locate(("seed=2",), {"ENV": "other"})
    assert located.path == Path("config/style/config.json")
    assert "(ENV=style in config/config.env; CONFIG_BACKEND=json in" in located.sentence
    got = read(located.path, located.words, {}).settings
    assert (got.num_processes, got.mixed_precision, got.seed) == (2, "bf16", 2)
    assert got.source("num_processes").file == "config/config.env"
    assert got.source("num_processes").line == 1 and got.optimizer != "lion"
    assert locate(("env=default", "config_backend=env"), {}).path == Path("config/config.env")
    assert locate(("config_backend=env",), {}).path == Path("config/style/config.env")


def test_two_names_of_one_setting_may_say_the_same() -> None:
    same = {"output_dir": "o", "max_train_steps": 5, "validation_steps": 7}
    write(config_json=json.dumps(same | {"validation_step_interval": 7}))
    reading = read(Path("config/config.json"), (), {})
    assert not reading.problems and reading.settings.validation_step_interval == 7
    write(config_json=json.dumps(same | {"validation_step_interval": 8}))
    assert "sets `validation_step_interval` a second time" in str(
        read(Path("config/config.json"), (), {}).problems
    )


def test_variables_of_the_start_script_are_passed_over_with_a_note() -> None:
    write(config_env=ENV + "SIMPLETUNER_LOG_LEVEL=INFO\nVENV_PATH=.venv\nTQDM_NCOLS=125\n")
    reading = read(Path("config/config.env"), (), {})
    assert not reading.problems
    assert sum("not used: sd3tune does not have it" in note for note in reading.settings.notes) == 3


def test_a_file_may_be_named_by_its_folder_or_without_its_ending() -> None:
    write(config_json=JSON, style__config_toml=TOML, style__mine=ENV)
    Path("config/style/mine").rename("config/style/mine.env")
    steps = {name: read(Path(name), (), {}).settings.max_train_steps
             for name in ("config", ".", "config/config", "config/style", "config/style/mine")}  # fmt: skip
    assert list(steps.values()) == [5, 5, 5, 6, 7]


def test_the_command_line_holds_before_the_environment_before_json() -> None:
    write(config_json=JSON)
    environ = {"LEARNING_RATE": "3e-5", "TRAINING_SEED": "3", "SEED": "9", "OPTIMIZER": " ",
               "TRAINER_EXTRA_ARGS": "--lora_rank 8 --use_ema"}  # fmt: skip
    reading = read(Path("config/config.json"), ["seed=2"], environ)
    got = reading.settings
    assert (got.learning_rate, got.seed, got.lora_rank, got.use_ema) == (3e-5, 2, 8, True)
    assert got.source("learning_rate").file == "the environment"
    assert got.source("learning_rate").key == "LEARNING_RATE"
    assert "learning_rate is set by the environment variable LEARNING_RATE" in got.notes
    assert not any("seed" in note for note in got.notes)


def test_a_config_env_holds_before_the_environment_as_in_a_shell() -> None:
    write(config_env=ENV)
    got = read(Path("config/config.env"), (), {"OPTIMIZER": "lion", "RESOLUTION": "512"}).settings
    assert (got.optimizer, got.learning_rate, got.resolution) == ("adamw", 1e-6, 512)


def test_a_config_env_may_use_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    write(config_env=ENV)
    monkeypatch.setenv("LEARNING_RATE", "3e-5")
    assert read(Path("config/config.env")).settings.learning_rate == 3e-5


def test_the_environment_and_the_command_line_need_no_file() -> None:
    environ = {"OUTPUT_DIR": "o", "MAX_NUM_STEPS": "4", "CONFIG_BACKEND": "env", "ENV": "default"}
    located = locate(("seed=2",), environ)
    reading = read(located.path, located.words, environ)
    assert not reading.problems and located.sentence.startswith("configuration: the environment")
    assert (reading.settings.max_train_steps, reading.settings.seed) == (4, 2)
    assert reading.settings.output_dir == Path.cwd() / "o"
    assert reading.settings.data_backend_config == Path.cwd() / "config/multidatabackend.json"
    environ["CONFIG_BACKEND"] = "cmd"
    located = locate(("output_dir=p", "num_train_epochs=2"), environ)
    settings = read(located.path, located.words, environ).settings
    assert (settings.max_train_steps, settings.output_dir) == (None, Path.cwd() / "p")


def test_a_length_of_the_environment_replaces_the_file_s_however_it_is_counted() -> None:
    write(config_json=JSON)
    reading = read(Path("config/config.json"), (), {"NUM_EPOCHS": "3"})
    assert (reading.settings.num_train_epochs, reading.settings.max_train_steps) == (3, None)
    assert not reading.problems


def test_a_bad_value_of_the_environment_is_reported_with_its_place() -> None:
    write(config_json=JSON)
    reading = read(Path("config/config.json"), (), {"LEARNING_RATE": "fast"})
    assert reading.problems[0].message == "the environment: `learning_rate=fast` must be a number"


def test_a_command_says_in_one_line_which_file_it_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(style__config_toml=TOML)
    monkeypatch.setenv("ENV", "style")
    exit_code(["config", "show", "--seed", "3"], monkeypatch)
    shown = capsys.readouterr()
    assert "configuration: config/style/config.toml (ENV=style)\n" in shown.err
    assert "config/style/config.toml:2" in shown.out and "the command line" in shown.out


FORMS = {
    "config.json": '{\n "_comment": "mine",\n "// why": 1,\n "--lora-rank": 8,\n "optimizer_config": '
    '{"seed": 2},\n\n "seed": 3, "output_dir": "o",\n "max_train_steps": 9}',
    "config.toml": '# mine\nvalidation_prompt = """\nseed = 4\nlora_rank = 5"""\nlora_rank = 8\n'
    'output_dir = "o"\n"seed" = 3\nmax_train_steps = 9\n[optimizer_config]\nseed = 2\n',
    "ui.json": '{"_metadata": {"name": "x", "type": "model"},\n "config": {\n  "--lora_rank": 8,\n'
    '  "output_dir": "o",\n  "seed": 3,\n  "max_train_steps": 9 }}',
}
LINES = {"config.json": (4, 7), "config.toml": (5, 7), "ui.json": (3, 5)}  # lora_rank, seed


@pytest.mark.parametrize("name", FORMS)
def test_a_setting_is_found_with_its_line(name: str) -> None:
    Path("config", name).write_text(FORMS[name])
    settings = read(Path("config", name), (), {}).settings
    assert (settings.lora_rank, settings.seed, settings.max_train_steps) == (8, 3, 9)
    assert (settings.source("lora_rank").line, settings.source("seed").line) == LINES[name]


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed = 1\nlora_rank = ", "`c.toml:2` is not TOML: Invalid value, at `lora_rank =`"),
        ("seed = 1\nseed = 2", "`c.toml:2` is not TOML: a key is set twice, at `seed = 2`"),
        ('token = "hf_x" y', "`c.toml:1:16` is not TOML: Expected newline or end of document after "
         'a statement, at `token = …`'),
        ("", "`c.toml` is empty"),
        ("a = " + "9" * 5000, "`c.toml` holds a number that is too long"),
    ],
)  # fmt: skip
def test_a_bad_toml_file_is_refused_in_these_words(text: str, message: str) -> None:
    Path("c.toml").write_text(text)
    with pytest.raises(ConfigError) as e:
        read(Path("c.toml"))
    assert str(e.value) == message and e.value.hint
