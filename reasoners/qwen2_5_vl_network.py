"""Builds the Qwen2.5-VL network of a reasoner: configuration, new embedding rows, and what is trained."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from reasoners.tokenizer import Vocabulary, model_file

if TYPE_CHECKING:
    from peft import PeftModel

Tune = Literal["lora", "full", "frozen"]

CACHE = "cache" if "cache" in inspect.signature(Qwen2_5_VLTextModel.forward).parameters else "past_key_values"
"""The decoder's argument for its cache, which newer releases of transformers have renamed."""

DECODER_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The linear layers of the language decoder; the path excludes those of the vision tower with the same names."""

ID_FIELDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def small_config(config: Mapping[str, Any], vocabulary: Vocabulary) -> Qwen2_5_VLConfig:
    """Build a model configuration from plain values; ids and vocabulary size follow from the tokenizer.

    By default the vision tower's output width is the text width, every head has its own key and value, and the rotary
    sections have Qwen's proportions (2 : 3 : 3 of half a head's width).

    Raises:
        ValueError: Qwen2.5-VL's configuration has no such key, or widths do not fit.
    """
    text = {"vocab_size": len(vocabulary), "bos_token_id": None, "eos_token_id": None, **config.get("text_config", {})}
    vision = {**config.get("vision_config", {})}
    _check_keys("config", config, Qwen2_5_VLConfig)
    _check_keys("config.text_config", text, Qwen2_5_VLTextConfig)
    _check_keys("config.vision_config", vision, Qwen2_5_VLVisionConfig)
    width = text.get("hidden_size", Qwen2_5_VLTextConfig.hidden_size)
    heads = text.get("num_attention_heads", Qwen2_5_VLTextConfig.num_attention_heads)
    text.setdefault("num_key_value_heads", heads)
    vision.setdefault("out_hidden_size", width)
    if vision["out_hidden_size"] != width:
        raise ValueError(
            f"vision_config.out_hidden_size {vision['out_hidden_size']} is not text_config.hidden_size {width}"
        )
    if "rope_parameters" not in text:
        if width % (16 * heads):
            raise ValueError(
                f"text_config.hidden_size {width} is not a multiple of 16 times num_attention_heads {heads}; "
                "give rope_parameters with an mrope_section for such heads"
            )
        eighth = width // heads // 2 // 8
        sections = [2 * eighth, 3 * eighth, 3 * eighth]
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    ids = {field: vocabulary.id(token) for field, token in ID_FIELDS.items()}
    return Qwen2_5_VLConfig(**{**config, **ids, "text_config": text, "vision_config": vision})


def pretrained_config(pretrained: str) -> Qwen2_5_VLConfig:
    """Read the configuration of a model in a local folder or on the hub, without its weights.

    Raises:
        FileNotFoundError: No such model.
        ValueError: Another architecture.
    """
    values, _ = Qwen2_5_VLConfig.get_config_dict(str(model_file(pretrained, "config.json")))
    if values.get("model_type") != Qwen2_5_VLConfig.model_type:
        raise ValueError(
            f"'{pretrained}' holds a model of type {values.get('model_type')}, not {Qwen2_5_VLConfig.model_type}"
        )
    # A folder must not set what is private, such as the implementation of attention.
    return Qwen2_5_VLConfig.from_dict({name: value for name, value in values.items() if not name.startswith("_")})


def grow_embedding(model: Qwen2_5_VLForConditionalGeneration, vocabulary: Vocabulary) -> None:
    """Add rows for added tokens: the mean of the old rows plus noise of the model's own scale.

    The noise makes the N image tokens differ; it comes from torch's default generator, like all initialisation. Qwen's
    full-size matrices have spare rows after its tokenizer's, which are used first.
    """
    if len(vocabulary) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    new = vocabulary.new
    if not new:
        return
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    matrices = {id(layer.weight): layer.weight for layer in layers}
    with torch.no_grad():
        for weight in matrices.values():
            mean = weight[: min(new)].mean(dim=0, keepdim=True)
            noise = torch.randn(len(new), weight.shape[1], device=weight.device, dtype=weight.dtype)
            weight[new] = mean + model.config.text_config.initializer_range * noise


def tuned(
    model: Qwen2_5_VLForConditionalGeneration, tune: Tune, added: list[int], rank: int, alpha: int, dropout: float
) -> nn.Module:
    """Return the model with everything trained, nothing, or LoRA on its decoder and the added tokens' rows."""
    if tune != "lora":
        return model.requires_grad_(tune == "full")
    from peft import LoraConfig, get_peft_model

    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    rows = {"embed_tokens": added} if tied else {"embed_tokens": added, "lm_head": added}
    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=DECODER_LINEARS,
            trainable_token_indices=rows,
        ),
    )


def merged(model: nn.Module) -> Qwen2_5_VLForConditionalGeneration:
    """Return the Qwen2.5-VL model with its adapters merged into its weights; a copy if there are any."""
    return deepcopy(model).merge_and_unload() if adapted(model) else model


def adapted(model: nn.Module) -> TypeGuard["PeftModel"]:
    """Say whether a model has adapters."""
    return not isinstance(model, Qwen2_5_VLForConditionalGeneration)


def untuned(model: nn.Module) -> Qwen2_5_VLForConditionalGeneration:
    """Return the Qwen2.5-VL model inside, with its adapters."""
    return model.get_base_model() if adapted(model) else model


def _check_keys(name: str, values: Mapping[str, Any], config_class: type) -> None:
    known = set(inspect.signature(config_class).parameters)
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{name} has keys that {config_class.__name__} does not have: {', '.join(unknown)}")
