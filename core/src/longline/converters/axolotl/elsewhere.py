"""What has no equal, or comes with a plugin: trackers, kernels, axolotl's own plugins, what belongs to other commands."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from longline.converters.axolotl.rules import Rule, none, nothing

if TYPE_CHECKING:
    from longline.converters.draft import Draft

_TRACKER = "log.jsonl has every number; trackers are plugins, such as swanlab"
_KERNEL = "the numbers are the same without; plugins liger and cce have kernels"
_LOSS = "plugin cce, or liger's fused_linear_cross_entropy"
_SCHEDULE = "nothing: training is not restarted"
_OPTIMIZER = "a plugin that answers `provide_optimizer`"
_INTERFACE = "`longline generate RUN`"
RULES: dict[str, Rule] = {
    **dict.fromkeys(("use_wandb", "wandb_*"), none(_TRACKER)),
    **dict.fromkeys(
        ("use_mlflow", "mlflow_*", "hf_mlflow_log_artifacts", "use_comet", "comet_*", "use_trackio", "trackio_*"),
        none(_TRACKER),
    ),
    **dict.fromkeys(("use_tensorboard", "use_otel_metrics", "otel_metrics_*"), none(_TRACKER)),
    **dict.fromkeys(("profiler_steps", "profiler_steps_start"), none("plugin profiling")),
    **dict.fromkeys(
        ("loss_watchdog_threshold", "loss_watchdog_patience"), none("`nonfinite_loss: stop`, which holds unless told otherwise")
    ),
    **dict.fromkeys(
        ("eval_table_size", "eval_max_new_tokens", "generate_samples", "num_generation_samples", "generation_*"),
        none("plugin completions, and `longline generate RUN`"),
    ),
    **dict.fromkeys(
        ("do_bench_eval", "bench_dataset", "bench_split", "do_causal_lm_eval", "eval_causal_lm_metrics"),
        none("`longline evaluate RUN`"),
    ),
    "unfrozen_parameters": none("an adapter; `adapter.modules_to_save` trains whole modules"),
    "dynamic_checkpoint": none("Ctrl-C or SIGTERM, which save a checkpoint before the run ends"),
    "trainer_cls": none("a plugin that answers `provide_trainer_class`, or a method of your own"),
    "qat": none("nothing: training knows of no later quantisation"),
    "quantization": none("a tool for quantised weights, on <output_dir>/model"),
    "use_onebitllms": none("nothing"),
    **dict.fromkeys(("relora", "relora_*", "jagged_restart_*"), none(_SCHEDULE)),
    **dict.fromkeys(("lisa_*",), none("an adapter with `layers_to_transform`")),
    **dict.fromkeys(("dion_*", "qgalore_*", "torchdistx_path"), none(_OPTIMIZER)),
    **dict.fromkeys(
        ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "unsloth_*"), none(_KERNEL)
    ),
    **dict.fromkeys(
        ("flash_attn_*", "flash_optimum", "fused_attn_kernel", "use_kernels", "large_head_attention", "sdpa_varlen"),
        none(_KERNEL),
    ),
    **dict.fromkeys(
        ("flex_attn_compile_kwargs", "gemma4_hybrid_attn_impl", "experts_implementation", "llama4_linearized_experts"),
        none(_KERNEL),
    ),
    **dict.fromkeys(
        ("tiled_mlp", "tiled_mlp_*", "ple_cpu_offload"),
        none("`trainer.activation_checkpointing`, or `trainer.fsdp` with `cpu_offload`"),
    ),
    **dict.fromkeys(("chunked_cross_entropy", "chunked_cross_entropy_num_chunks"), none(_LOSS)),
    **dict.fromkeys(
        ("scaling_softmax", "scaling_softmax_*", "use_eaft", "eaft_*", "use_dynamic_finetuning"),
        none("a plugin that answers `provide_loss`"),
    ),
    **dict.fromkeys(("gradio_*",), none(_INTERFACE)),
    **dict.fromkeys(("use_ray", "ray_*", "resources_per_worker"), none("torchrun, or `--nproc`")),
    **dict.fromkeys(
        ("strict", "debug", "is_preprocess", "preprocess_iterable", "axolotl_config_path", "base_model_ignore_patterns"),
        nothing("nothing to set"),
    ),
    # What axolotl's own plugins bring; where a distribution here brings the like, its part of the converter spoke before.
    "swanlab_lark_*": none("plugin lark: pip install longline-lark, and convert again"),
    **dict.fromkeys(
        ("swanlab_log_completions", "swanlab_completion_*"),
        none("plugin completions: pip install longline-completions, and convert again"),
    ),
    **dict.fromkeys(("swanlab_*", "use_swanlab"), none("plugin swanlab: pip install longline-swanlab, and convert again")),
    "liger_*": none("plugin liger: pip install longline-liger, and convert again"),
    "cut_cross_entropy*": none("plugin cce: pip install longline-cce, and convert again"),
    "kd_*": none("rows with a teacher's answers; `data.keep` takes log probabilities to a loss of your own"),
    "diffusion": none("a method of your own"),
    "grokfast_*": none("plugin grokfast: pip install longline-grokfast, and convert again"),
    "spectrum_*": none("plugin spectrum: pip install longline-spectrum, and convert again"),
    "dense_mixer": none("plugin densemixer: pip install longline-densemixer, and convert again"),
    **dict.fromkeys(("expert_parallel_*", "mora", "hatchery"), none("nothing")),
    "llmcompressor": none("plugin sparsity: pip install longline-sparsity, and convert again"),
    "lm_eval_*": none("plugin lm-eval: pip install longline-lm-eval, and convert again"),
    "nemo_gym_*": none("method grpo with `rewards`"),
    **dict.fromkeys(
        (
            "expert_backend",
            "nonexpert_quantization",
            "moe_*",
            "use_scattermoe",
            "use_sonicmoe",
            "use_dsv4_kernels",
            "use_glm_dsa_kernels",
        ),
        none(_KERNEL),
    ),
    **dict.fromkeys(("dsv4_*", "gemma4_fp8_nonexpert", "gemma4_nf4_nonexpert", "nvfp4_*"), none(_KERNEL)),
}
"""A name that ends with * is all that begin so."""

PLUGINS = {
    "axolotl.integrations.swanlab.": "plugin swanlab",
    "axolotl.integrations.liger.": "plugin liger",
    "axolotl.integrations.cut_cross_entropy.": "plugin cce",
    "axolotl.integrations.kd.": "a method of your own",
    "axolotl.integrations.diffusion.": "a method of your own",
    "axolotl.integrations.densemixer.": "plugin densemixer",
    "axolotl.integrations.grokfast.": "plugin grokfast",
    "axolotl.integrations.spectrum.": "plugin spectrum",
    "axolotl.integrations.kernels.": "the experts as transformers computes them",
    "axolotl.integrations.llm_compressor.": "plugin sparsity",
    "axolotl.integrations.lm_eval.": "plugin lm-eval",
    "axolotl.integrations.nemo_gym.": "method grpo with `rewards`",
}
"""What comes nearest to axolotl's plugins, by the beginning of their dotted names."""


def rule_of(key: str) -> Rule | None:
    """The rule for a key, by its name or by how it begins."""
    return RULES.get(key) or next((rule for name, rule in RULES.items() if "*" in name and fnmatchcase(key, name)), None)


def plugins(draft: Draft) -> None:
    """The plugins that no part of the converter spoke of."""
    for keys, name in draft.items("plugins"):
        if not draft.spoken(keys):
            nearest = next((text for begin, text in PLUGINS.items() if str(name).startswith(begin)), None)
            draft.refuse(keys, nearest or "a plugin of your own; `longline plugins` lists what is installed")
