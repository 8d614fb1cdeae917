"""Settings that variables of the environment hold, under the names of SimpleTuner's config.env.

`LEARNING_RATE=5e-5 sd3tune train` changes the learning rate of a config.json or config.toml. Only
the names that SimpleTuner documents are read: a variable such as SEED or RANK belongs to others.
"""

from collections.abc import Container, Mapping

from sd3tune.config.files.env_file import EXTRA_ARGUMENTS, RENAMED, arguments
from sd3tune.config.files.reading import add_word
from sd3tune.config.files.written import WrittenSettings
from sd3tune.config.problems import ENVIRONMENT, Problems

SAME_NAME = frozenset(
    """
    ASPECT_BUCKET_ROUNDING USE_EMA OUTPUT_DIR USE_DORA LORA_TYPE LYCORIS_CONFIG PUSH_TO_HUB
    PUSH_TO_HUB_BACKGROUND PUBLISHING_CONFIG CHECKPOINT_STEP_INTERVAL CHECKPOINT_EPOCH_INTERVAL
    MODEL_CARD_SAFE_FOR_WORK TRACKER_PROJECT_NAME TRACKER_RUN_NAME MODEL_TYPE MODEL_FAMILY
    TRAIN_BATCH_SIZE GRADIENT_CHECKPOINTING_OFFLOAD_ATTENTION
    GRADIENT_CHECKPOINTING_OFFLOAD_PREFETCH
    GRADIENT_CHECKPOINTING_OFFLOAD_PIN_MEMORY_MAX_BUCKETS GRADIENT_CHECKPOINTING_SEGMENT_STRIDE
    CAPTION_DROPOUT_PROBABILITY RESOLUTION_TYPE RESOLUTION VALIDATION_SEED VALIDATION_STEP_INTERVAL
    VALIDATION_EPOCH_INTERVAL VALIDATE_AFTER_STEP VALIDATE_AFTER_EPOCH VALIDATION_RESOLUTION
    VALIDATION_GUIDANCE VALIDATION_METHOD VALIDATION_EXTERNAL_SCRIPT VALIDATION_EXTERNAL_BACKGROUND
    POST_CHECKPOINT_SCRIPT POST_UPLOAD_SCRIPT VALIDATION_GUIDANCE_RESCALE
    VALIDATION_NUM_INFERENCE_STEPS VALIDATION_PROMPT VALIDATION_INPUT ALLOW_TF32 MIXED_PRECISION
    OPTIMIZER LEARNING_RATE LR_WARMUP_STEPS BASE_MODEL_PRECISION QUANTIZE_VIA QUANTIZATION_CONFIG
    VALIDATION_GUIDANCE_REAL VALIDATION_NO_CFG_UNTIL_TIMESTEP TRAINING_SCHEDULER_TIMESTEP_SPACING
    INFERENCE_SCHEDULER_TIMESTEP_SPACING GRADIENT_ACCUMULATION_STEPS LR_END
    VALIDATION_NEGATIVE_PROMPT METADATA_UPDATE_INTERVAL READ_BATCH_SIZE WRITE_BATCH_SIZE
    TEXT_ENCODER_BATCH_SIZE TEXT_CACHE_ONDEMAND TEXT_CACHE_DISABLE AWS_MAX_POOL_CONNECTIONS
    TORCH_NUM_THREADS IMAGE_PROCESSING_BATCH_SIZE DISABLE_BENCHMARK ACCELERATE_EXTRA_ARGS
    """.split()
)


def read_environment(
    environ: Mapping[str, str],
    problems: Problems,
    texts: Container[str] = (),
    without: Container[str] = (),
) -> WrittenSettings:
    """The settings of the variables, each under the variable's name as its key. without: variables
    that a file assigns itself."""
    written = WrittenSettings(ENVIRONMENT)
    for variable in sorted(environ.keys() & (SAME_NAME | RENAMED.keys() | set(EXTRA_ARGUMENTS))):
        text = environ[variable].strip()
        if not text or variable in without:
            continue
        name = RENAMED.get(variable, variable.lower())
        with problems.collecting(name):
            if variable in EXTRA_ARGUMENTS:
                for word in arguments(text, ENVIRONMENT, variable):
                    add_word(written, word, texts, variable)
            else:
                add_word(written, f"{name}={text}", texts, variable)
                if variable == "USE_BITFIT" and written.values.get(name) is True:
                    written.set(name, "bitfit", variable)
    return written
