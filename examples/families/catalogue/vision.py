"""A decoder of text that also sees: a tower for pictures, and a projector from one to the other."""

import torch

from family import VOCABULARY

from .parts import IMAGE, LANGUAGE, LLAVA_PARTS, PATCH, PICTURES, TEXT, TOWER, two_parts, words, words_and_picture

CLIP = dict(PICTURES, model_type="clip_vision_model", projection_dim=16)
SIGLIP = dict(PICTURES, model_type="siglip_vision_model")
NEWLINE_PARTS = {**LLAVA_PARTS, "text_decoder": (*LANGUAGE, "model.image_newline")}
IDEFICS_PARTS = {
    "text_decoder": ("model.text_model.", "lm_head."),
    "multi_modal_projector": ("model.connector.",),
    "vision_tower": ("model.vision_model.",),
}
LLAMA4_PARTS = {
    "text_decoder": ("language_model.",),
    "multi_modal_projector": ("multi_modal_projector.",),
    "vision_model": ("vision_model.",),
}


def gemma_inputs(config) -> dict:
    inputs = words_and_picture(config.mm_tokens_per_image)(config)
    return {**inputs, "token_type_ids": (inputs["input_ids"] == IMAGE).long()}


def mistral_inputs(config) -> dict:
    """Four by four patches, of which each four become one."""
    side = 4 * PATCH
    pixels = torch.randn(1, 3, side, side)
    return {**words_and_picture(4)(config), "pixel_values": pixels, "image_sizes": torch.tensor([[side, side]])}


FAMILIES = [
    two_parts(
        "llava",
        "LlavaForConditionalGeneration",
        words_and_picture(4),
        dict(TEXT, model_type="llama"),
        LLAVA_PARTS,
        vision_config=CLIP,
        image_token_index=IMAGE,
    ),
    two_parts(
        "llava-next",
        "LlavaNextForConditionalGeneration",
        words,
        dict(TEXT, model_type="mistral"),
        NEWLINE_PARTS,
        vision_config=CLIP,
        image_token_index=IMAGE,
    ),
    two_parts(
        "llava-onevision",
        "LlavaOnevisionForConditionalGeneration",
        words,
        dict(TEXT, model_type="qwen2"),
        NEWLINE_PARTS,
        vision_config=SIGLIP,
        image_token_index=IMAGE,
    ),
    two_parts(
        "gemma3, vision",
        "Gemma3ForConditionalGeneration",
        gemma_inputs,
        dict(TEXT, sliding_window=8),
        LLAVA_PARTS,
        vision_config=PICTURES,
        mm_tokens_per_image=4,
        image_token_id=IMAGE,
    ),
    two_parts(
        "gemma4, vision",
        "Gemma4ForConditionalGeneration",
        words,
        dict(TEXT, global_head_dim=8, sliding_window=8, hidden_size_per_layer_input=0, num_kv_shared_layers=0),
        {**LLAVA_PARTS, "multi_modal_projector": ("model.embed_vision.",)},
        vision_config=dict(TOWER, head_dim=8, patch_size=PATCH, position_embedding_size=16),
        audio_config=None,
        image_token_id=IMAGE,
    ),
    two_parts(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        mistral_inputs,
        dict(TEXT, model_type="mistral"),
        LLAVA_PARTS,
        vision_config=dict(PICTURES, head_dim=8, model_type="pixtral"),
        image_token_index=IMAGE,
    ),
    two_parts(
        "llama4",
        "Llama4ForConditionalGeneration",
        words_and_picture(1),
        dict(TEXT, num_local_experts=4, intermediate_size_mlp=64, interleave_moe_layer_step=2, attention_chunk_size=8),
        LLAMA4_PARTS,
        vision_config=dict(
            PICTURES,
            intermediate_size=128,  # four patches become one
            vision_output_dim=32,
            projector_input_dim=32,
            projector_output_dim=32,
            pixel_shuffle_ratio=0.5,
        ),
        image_token_index=IMAGE,
        boi_token_index=4,
        eoi_token_index=5,
    ),
    two_parts(
        "mllama",
        "MllamaForConditionalGeneration",
        words,
        dict(TEXT, cross_attention_layers=[1, 3]),
        {**LLAVA_PARTS, "vision_tower": ("model.vision_model.",)},
        vision_config=dict(
            PICTURES,
            attention_heads=4,
            num_global_layers=1,
            vision_output_dim=64,
            intermediate_layers_indices=[1],
            supported_aspect_ratios=[[1, 1]],
        ),
        image_token_index=IMAGE,
    ),
    two_parts(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        words_and_picture(4),
        dict(TEXT, model_type="gemma"),
        LLAVA_PARTS,
        vision_config=dict(SIGLIP, projection_dim=32),
        projection_dim=32,
        image_token_id=IMAGE,
        image_token_index=IMAGE,
    ),
    two_parts(
        "aya-vision",
        "AyaVisionForConditionalGeneration",
        words,
        dict(TEXT, model_type="cohere2"),
        LLAVA_PARTS,
        vision_config=SIGLIP,
        image_token_index=IMAGE,
    ),
    two_parts(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        words,
        dict(TEXT, model_type="llama"),
        IDEFICS_PARTS,
        vision_config=PICTURES,
        scale_factor=2,
        image_token_id=IMAGE,
    ),
    two_parts(
        "smolvlm",
        "SmolVLMForConditionalGeneration",
        words,
        dict(TEXT, model_type="llama"),
        IDEFICS_PARTS,
        vision_config=PICTURES,
        scale_factor=2,
        image_token_id=IMAGE,
    ),
    two_parts(
        "internvl",
        "InternVLForConditionalGeneration",
        words,
        dict(TEXT, model_type="qwen2"),
        LLAVA_PARTS,
        vision_config=dict(PICTURES, image_size=[16, 16], patch_size=[8, 8]),
        image_token_id=IMAGE,
    ),
    two_parts(
        "blip-2",
        "Blip2ForConditionalGeneration",
        words_and_picture(4),
        dict(TEXT, model_type="opt", ffn_dim=64, word_embed_proj_dim=32),
        {},
        vision_config=PICTURES,
        qformer_config=dict(TOWER, num_hidden_layers=2, encoder_hidden_size=32, vocab_size=VOCABULARY),
        num_query_tokens=4,
        image_token_index=IMAGE,
    ),
]
