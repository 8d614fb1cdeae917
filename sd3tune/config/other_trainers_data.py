"""What other trainers call the keys of a dataset: the answer to a key that is not SimpleTuner's.

To add a key: one that means the same as a key of ours goes into DATASET_RENAMED behind that key;
one that needs another value, or has no counterpart, into DATASET_ELSEWHERE.
"""

from sd3tune.config.names import Unsupported
from sd3tune.config.other_trainers import by_name
from sd3tune.config.without_counterpart import ENCODED_BEFORE, NO_AUGMENTATION, SECTION

DATASET_RENAMED = {
    "instance_data_dir": "image_dir folder_path train_data_dir image_folder data_dir path "
    "images_dir directory img_dir data_root dataset_path folder instance_data_root input_dir "
    "image_path dir root",
    "is_regularisation_data": "is_reg is_regularization regularisation regularization is_class",
    "instance_prompt": "class_tokens trigger_word trigger default_caption class_prompt "
    "default_prompt",
    "caption_dropout_probability": "caption_dropout_rate caption_dropout caption_dropout_prob",
    "train_batch_size": "batch_size",
    "max_num_samples": "max_train_samples num_samples max_samples max_images limit",
    "minimum_image_size": "min_size skip_image_resolution min_image_size min_resolution "
    "minimum_resolution",
    "maximum_aspect_ratio": "max_ar max_aspect_ratio max_aspect",
    "minimum_aspect_ratio": "min_ar min_aspect_ratio min_aspect",
    "conditioning_data": "mask_dataset mask_data masks",
    "probability": "weight sampling_weight dataset_weight",
    "id": "name dataset_id",
    "cache_dir_vae": "latent_cache_dir cache_directory vae_cache_dir cache_path",
    "csv": "metadata metadata_csv",
    "type": "backend storage source_type data_backend",
    "caption_filter_list": "caption_filter",
    "disabled": "skip ignore",
    "dataset_name": "repo_id hf_dataset hf_repo_id hub_dataset",
    "resolution": "size image_size",
}  # fmt: skip
DATASET_ELSEWHERE = (
    Unsupported(
        "counts every pass, repeats counts the extra ones",
        'write "repeats": how many times more than once, so 9 for 10',
        "num_repeats dataset_repeats image_repeats balancing n_repeats repeat",
    ),
    Unsupported(
        "is another program's name",
        'write "disabled": true to leave a dataset out',
        "enabled include active enable",
    ),
    Unsupported(
        "is another program's name for the way captions are read",
        'write "caption_strategy": "textfile": captions in .txt files beside the images',
        "caption_extension caption_ext caption_type prompt_source captions caption_column caption",
    ),
    Unsupported(
        "is another program's name for shuffled captions",
        'write "caption_shuffle": {"count": 3, "position_start": 1}',
        "shuffle_caption shuffle_captions shuffle_tokens keep_tokens enable_tag_shuffling "
        "keep_tags_count keep_tokens_separator caption_separator shuffle_tags",
    ),
    Unsupported(
        "is another program's name for a text before each caption",
        'write "instance_prompt" and "prepend_instance_prompt": true',
        "caption_prefix prompt_prefix prepend_prompt",
    ),
    Unsupported(
        NO_AUGMENTATION,
        "leave it out, or put changed copies into the dataset",
        "flip_aug color_aug random_flip flip_x flip_y augmentations face_crop_aug_range "
        "augments random_rotate horizontal_flip caption_suffix caption_tag_dropout_rate "
        "caption_dropout_every_n_epochs enable_wildcard secondary_separator token_dropout_rate",
    ),
    Unsupported(
        "is not supported: each image is encoded once",
        "leave it out; repeats draws an image more often",
        "image_variations text_variations",
    ),
    Unsupported(
        "is another program's choice: folders inside the folder are always read",
        "leave it out; move images elsewhere that are not to be trained on",
        "include_subdirectories recursive",
    ),
    Unsupported(
        "is another program's name for cropping", 'write "crop": true', "random_crop center_crop"
    ),
    Unsupported(
        "is not needed: each image goes to the bucket nearest to its aspect",
        'leave it out; "crop": true trains on squares',
        "enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps enable_ar_bucket "
        "num_ar_buckets ar_buckets buckets bucket_tolerance size_buckets",
    ),
    Unsupported(
        "is another program's name",
        'write "max_upscale_threshold": 0, which leaves small images out',
        "bucket_no_upscale no_upscale",
    ),
    Unsupported(
        ENCODED_BEFORE,
        "leave it out",
        "__version cache_latents cache_latents_to_disk cache_info cache_text_embeddings "
        "resize_interpolation",
    ),
    Unsupported(
        "is another program's name for the folder of the masks",
        'add an entry with "dataset_type": "conditioning" and name it in "conditioning_data"',
        "mask_path mask_dir conditioning_data_dir alpha_mask mask_directory",
    ),
    Unsupported(
        "is another program's table of captions",
        'write "csv": {"path": …} or "parquet": {"path": …}',
        "metadata_file in_json",
    ),
    Unsupported(SECTION, "write an entry for each folder", "subsets image text datasets"),
    Unsupported(
        "is not supported: every image counts the same",
        "write probability or repeats",
        "loss_weight network_weight prior_loss_weight balancing_strategy",
    ),
)
DATASET_NAMES = by_name(DATASET_RENAMED, DATASET_ELSEWHERE)
