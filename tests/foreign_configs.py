"""Published configurations of other trainers: their values, not their texts."""

from typing import Any

# docs/sd3_train_network.md of sd-scripts, section 4; and its README's recipe for 16 GB.
KOHYA_GUIDE = {
    "pretrained_model_name_or_path": "models/sd3.5", "clip_l": "clip_l.safetensors",
    "clip_g": "clip_g.safetensors", "t5xxl": "t5xxl.safetensors", "output_dir": "results",
    "output_name": "my_sd3_lora", "save_model_as": "safetensors",
    "network_module": "networks.lora", "network_dim": 16, "network_alpha": 1,
    "learning_rate": 1e-4, "optimizer_type": "AdamW8bit", "lr_scheduler": "constant",
    "sdpa": True, "max_train_epochs": 10, "save_every_n_epochs": 1, "mixed_precision": "fp16",
    "gradient_checkpointing": True, "weighting_scheme": "sigma_sqrt", "blocks_to_swap": 32,
}  # fmt: skip
KOHYA_16GB = {
    "pretrained_model_name_or_path": "models/sd3.5", "network_module": "networks.lora_sd3",
    "network_dim": 4, "network_train_unet_only": True, "mixed_precision": "bf16",
    "fp8_base": True, "optimizer_type": "adamw8bit", "learning_rate": 1e-4,
    "cache_text_encoder_outputs": True, "cache_latents_to_disk": True, "max_train_epochs": 4,
    "seed": 42, "training_shift": 3.0, "persistent_data_loader_workers": True,
    "max_data_loader_n_workers": 2, "highvram": True,
}  # fmt: skip
KOHYA_DATASETS = {  # docs/config_README-en.md
    "general": {"shuffle_caption": True, "caption_extension": ".txt", "keep_tokens": 1},
    "datasets": [
        {"resolution": 512, "batch_size": 4, "keep_tokens": 2, "subsets": [
            {"image_dir": "hoge", "class_tokens": "hoge girl"},
            {"image_dir": "fuga", "class_tokens": "fuga boy", "keep_tokens": 3},
            {"is_reg": True, "image_dir": "reg", "class_tokens": "human", "keep_tokens": 1},
        ]},
        {"resolution": [768, 768], "batch_size": 2, "min_bucket_reso": 256,
         "bucket_no_upscale": True,
         "subsets": [{"image_dir": "10_piyo", "num_repeats": 10,
                      "conditioning_data_dir": "masks"}]},
    ],
}  # fmt: skip
# OneTrainer: a configuration in its issue 1437, for SD3.5; and one of a public script.
ONETRAINER_ISSUE: dict[str, Any] = {
    "__version": 10, "training_method": "LORA", "model_type": "STABLE_DIFFUSION_35",
    "workspace_dir": "workspace/05041", "cache_dir": "workspace-cache/05041",
    "tensorboard": True, "validation": True, "validate_after": 5, "validate_after_unit": "EPOCH",
    "base_model_name": "models/sd3.5", "output_dtype": "BFLOAT_16",
    "output_model_format": "SAFETENSORS", "output_model_destination": "out/20260504111.safetensors",
    "gradient_checkpointing": "ON", "enable_async_offloading": True, "layer_offload_fraction": 0.0,
    "compile": True, "concept_file_name": "concepts.json", "concepts": None,
    "aspect_ratio_bucketing": True, "latent_caching": True, "learning_rate": 3e-4,
    "learning_rate_scheduler": "COSINE", "learning_rate_warmup_steps": 100, "epochs": 20,
    "batch_size": 2, "gradient_accumulation_steps": 2, "resolution": "1024",
    "timestep_distribution": "LOGIT_NORMAL", "timestep_shift": 1.0, "lora_rank": 16,
    "lora_alpha": 1.0, "train_dtype": "BFLOAT_16", "ema": "CPU", "ema_decay": 0.998,
    "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
                  "weight_decay": 0.01, "fused": True, "foreach": False},
    "transformer": {"train": True, "learning_rate": None, "weight_dtype": "FLOAT_8"},
    "text_encoder": {"train": False, "weight_dtype": "FLOAT_8"},
}  # fmt: skip
ONETRAINER_SCRIPT: dict[str, Any] = {
    "training_method": "LORA", "model_type": "STABLE_DIFFUSION_3", "validation": True,
    "base_model_name": "models/sd3.5", "learning_rate_scheduler": "CONSTANT",
    "learning_rate": 2e-5, "learning_rate_warmup_steps": 0, "epochs": 16, "batch_size": 1,
    "gradient_accumulation_steps": 1, "resolution": "1024", "train_dtype": "BFLOAT_16",
    "timestep_distribution": "LOGIT_NORMAL", "loss_weight_fn": "CONSTANT", "timestep_shift": 1,
    "dynamic_timestep_shifting": False, "layer_filter": "attn,ff",
    "layer_filter_preset": "attn-mlp",
    "dropout_probability": 0, "lora_rank": 32, "lora_alpha": 32, "lora_weight_dtype": "FLOAT_32",
    "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "beta2": 0.99, "eps": 1e-8,
                  "weight_decay": 0.01, "stochastic_rounding": True},
    "concepts": [{"name": "natsume", "path": "photos", "enabled": True, "balancing": 3.0,
                  "balancing_strategy": "REPEATS", "include_subdirectories": False,
                  "text": {"prompt_source": "sample", "enable_tag_shuffling": True,
                           "keep_tags_count": 2},
                  "image": {"enable_random_flip": True, "random_rotate_max_angle": 0.0}}],
}  # fmt: skip
ONETRAINER_CONCEPTS = [
    {"name": "dog", "path": "photos", "seed": 7, "enabled": True, "balancing": 1.0,
     "text": {"prompt_source": "filename"}, "image": {"enable_crop_jitter": True}}
]  # fmt: skip
# ai-toolkit: config/examples/train_lora_sd35_large_24gb.yaml, and a job as its UI writes it.
AI_TOOLKIT_EXAMPLE: dict[str, Any] = {
    "job": "extension",
    "config": {"name": "my_first_sd3l_lora_v1", "process": [{
        "type": "sd_trainer", "training_folder": "output", "device": "cuda:0",
        "network": {"type": "lora", "linear": 16, "linear_alpha": 16},
        "save": {"dtype": "float16", "save_every": 250, "max_step_saves_to_keep": 4,
                 "push_to_hub": False},
        "datasets": [{"folder_path": "photos", "caption_ext": "txt", "caption_dropout_rate": 0.05,
                      "shuffle_tokens": False, "cache_latents_to_disk": True,
                      "resolution": [1024]}],
        "train": {"batch_size": 1, "steps": 2000, "gradient_accumulation_steps": 1,
                  "train_unet": True, "train_text_encoder": False, "gradient_checkpointing": True,
                  "noise_scheduler": "flowmatch", "timestep_type": "linear",
                  "optimizer": "adamw8bit", "lr": 1e-4, "dtype": "bf16",
                  "ema_config": {"use_ema": True, "ema_decay": 0.99}},
        "model": {"name_or_path": "models/sd3.5", "is_v3": True, "quantize": True},
        "sample": {"sampler": "flowmatch", "sample_every": 250, "width": 1024, "height": 1024,
                   "prompts": ["woman with red hair", "[trigger] in a bakery"], "neg": "",
                   "seed": 42, "walk_seed": True, "guidance_scale": 4, "sample_steps": 25},
    }]},
    "meta": {"name": "[name]", "version": "1.0"},
}  # fmt: skip
AI_TOOLKIT_UI: dict[str, Any] = {
    "job": "extension",
    "config": {"name": "lora", "process": [{
        "type": "diffusion_trainer", "training_folder": "output", "trigger_word": "p3r5on",
        "network": {"type": "lora", "linear": 32, "linear_alpha": 8},
        "save": {"dtype": "bf16", "save_every": 250, "save_format": "diffusers"},
        "datasets": [{"folder_path": "photos", "mask_path": "masks", "mask_min_value": 0.1,
                      "default_caption": "", "caption_ext": "txt", "caption_dropout_rate": 0.05,
                      "is_reg": False, "network_weight": 1, "resolution": [512, 768],
                      "num_repeats": 2}],
        "train": {"batch_size": 1, "steps": 3000, "gradient_accumulation": 4, "optimizer": "adamw",
                  "timestep_type": "sigmoid", "content_or_style": "balanced",
                  "optimizer_params": {"weight_decay": 1e-4}, "lr": 1e-4, "dtype": "bf16",
                  "ema_config": {"use_ema": False}},
        "model": {"name_or_path": "models/sd3.5", "arch": "sd3", "quantize": False},
        "sample": {"samples": [{"prompt": "[trigger] reading"}]},
    }]},
}  # fmt: skip
# diffusers: examples/dreambooth/README_sd3.md, LoRA; and with prior preservation.
DIFFUSERS_README = (
    'export MODEL_NAME="models/sd3.5"\nexport INSTANCE_DIR="photos"\n'
    "accelerate launch train_dreambooth_lora_sd3.py --pretrained_model_name_or_path=$MODEL_NAME "
    "--instance_data_dir=$INSTANCE_DIR --output_dir=out --mixed_precision=fp16 "
    '--instance_prompt="a photo of sks dog" --resolution=512 --train_batch_size=1 '
    '--gradient_accumulation_steps=4 --learning_rate=4e-4 --report_to="wandb" '
    '--lr_scheduler="constant" --lr_warmup_steps=0 --max_train_steps=500 '
    '--validation_prompt="A photo of sks dog in a bucket" --validation_epochs=25 --seed="0"\n'
)
DIFFUSERS_PRIOR = (
    "accelerate launch --num_processes 2 train_dreambooth_lora_sd3.py ^\n"
    "  --pretrained_model_name_or_path models\\sd3.5 --instance_data_dir photos ^\n"
    '  --instance_prompt "sks dog" --with_prior_preservation --class_data_dir classes ^\n'
    '  --class_prompt "a dog" --num_class_images 100 --rank 32 --precondition_outputs 0 ^\n'
    "  --weighting_scheme mode --use_8bit_adam --adam_weight_decay 0.01 --max_train_steps 800\n"
)
# ComfyUI: two public graphs of its trainer node, in the format of the API.
COMFYUI_NODE = {
    "batch_size": 1, "grad_accumulation_steps": 1, "steps": 1500, "learning_rate": 1e-4, "rank": 16,
    "optimizer": "AdamW", "loss_function": "MSE", "seed": 42, "training_dtype": "bf16",
    "lora_dtype": "bf16", "quantized_backward": False, "algorithm": "LoRA",
    "gradient_checkpointing": True, "checkpoint_depth": 1, "offloading": False,
    "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
}  # fmt: skip
COMFYUI_API: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple",
          "inputs": {"ckpt_name": "sd3.5_medium.safetensors"}},
    "2": {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": "photos"}},
    "3": {"class_type": "MakeTrainingDataset", "inputs": {"images": ["2", 0], "texts": ["2", 1]}},
    "4": {"class_type": "TrainLoraNode", "inputs": {"model": ["1", 0], "latents": ["3", 0],
                                                    **COMFYUI_NODE}},
    "5": {"class_type": "SaveLoRA", "inputs": {"lora": ["4", 0], "prefix": "loras/x"}},
}  # fmt: skip
COMFYUI_WORKFLOW: dict[str, Any] = {  # as the editor saves it: values by their order
    "nodes": [
        {"id": 1, "type": "LoadImageDataSetFromFolder", "widgets_values": ["photos"]},
        {"id": 2, "type": "TrainLoraNode", "widgets_values": [
            2, 4, 200, 5e-4, 8, "SGD", "L1", 7, "fixed", "fp32", "bf16", False, "LoKr", True, 1,
            False, "old.safetensors", True, False]},
    ],
    "links": [],
}  # fmt: skip
