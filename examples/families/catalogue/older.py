"""Checkpoints as older releases wrote them.

In their configs, of which kind a layer is follows from its number alone. Their tensors have other names: no prefix
where the model was saved without its head, or `gamma` and `beta` where it came from TensorFlow.
"""

from family import DECODER, LAYERS, Family, decoder

from .encoders import ENCODER
from .sizes import EXPERTS, LINEAR_ATTENTION, NEMOTRON_H


def older(name: str, model: str, /, *, wrote: dict, **settings) -> Family:
    """Slices change the numbers, so that the kinds have to be written out, or the recipe to be refused."""
    return decoder(f"{name}, older config", model, may_refuse=True, older=wrote, **settings)


def without_prefix(name: str) -> str:
    return name.removeprefix("transformer.")


def in_greek(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


FAMILIES = [
    older(
        "qwen3-next",
        "Qwen3NextForCausalLM",
        **EXPERTS,
        head_dim=8,
        shared_expert_intermediate_size=16,
        **LINEAR_ATTENTION,
        wrote=dict(layer_types=None, full_attention_interval=4),
    ),
    older(
        "gemma2",
        "Gemma2ForCausalLM",
        head_dim=8,
        sliding_window=8,
        query_pre_attn_scalar=8,
        wrote=dict(layer_types=None),
    ),
    older(
        "gemma3, text",
        "Gemma3ForCausalLM",
        head_dim=8,
        sliding_window=8,
        query_pre_attn_scalar=8,
        sliding_window_pattern=2,
        wrote=dict(layer_types=None, _sliding_window_pattern=None, sliding_window_pattern=2),
    ),
    older(
        "cohere2",
        "Cohere2ForCausalLM",
        sliding_window=8,
        wrote=dict(layer_types=None, sliding_window_pattern=4),
    ),
    older("exaone4", "Exaone4ForCausalLM", sliding_window=8, wrote=dict(layer_types=None)),
    older(
        "smollm3",
        "SmolLM3ForCausalLM",
        no_rope_layer_interval=2,
        wrote=dict(layer_types=None, no_rope_layers=None),
    ),
    older(
        "llama4, text",
        "Llama4ForCausalLM",
        head_dim=8,
        num_local_experts=4,
        intermediate_size_mlp=64,
        interleave_moe_layer_step=2,
        attention_chunk_size=8,
        wrote=dict(layer_types=None, moe_layers=None, no_rope_layers=None),
    ),
    older(
        "nemotron-h",
        "NemotronHForCausalLM",
        **NEMOTRON_H,
        wrote=dict(layers_block_type=None, hybrid_override_pattern=NEMOTRON_H["hybrid_override_pattern"]),
    ),
    Family(
        "gpt2, older names",
        "GPT2LMHeadModel",
        dict(DECODER, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64),
        depth="n_layer",
        slices=True,
        older_name=without_prefix,
    ),
    Family(
        "bloom, older names",
        "BloomForCausalLM",
        dict(DECODER, n_layer=LAYERS, n_head=4),
        depth="n_layer",
        slices=True,
        older_name=without_prefix,
    ),
    Family("bert, older names", "BertForMaskedLM", ENCODER, older_name=in_greek),
]
