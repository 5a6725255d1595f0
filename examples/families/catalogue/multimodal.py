"""Models that read text and pictures, made of parts that one can merge on their own."""

import torch

from family import DECODER, VOCABULARY, Family

from .sizes import EXPERTS

IMAGE = 3  # the token in whose place a picture's vector goes
TEXT = dict(DECODER, head_dim=8)
PIXELS = dict(image_size=16, patch_size=8)
TOWER = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
QWEN_VISION = dict(depth=3, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
ROPE = dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1]))
QWEN_TOKENS = dict(image_token_id=IMAGE, video_token_id=4, vision_start_token_id=5, vision_end_token_id=6)

LANGUAGE = ("model.language_model.", "lm_head.")
LLAVA_PARTS = {
    "text_decoder": LANGUAGE,
    "multi_modal_projector": ("model.multi_modal_projector.",),
    "vision_tower": ("model.vision_tower.",),
}
QWEN_PARTS = {
    "text_decoder": LANGUAGE,
    "multi_modal_projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "vision_tower": ("model.visual.",),
}


def words_and_pictures(pictures: int):
    """One row that begins with the tokens of one picture; `pictures` is how many there are."""

    def inputs(_config) -> dict:
        words = torch.randint(8, VOCABULARY, (1, 8))
        ids = torch.cat([torch.full((1, pictures), IMAGE), words], dim=1)
        return {"input_ids": ids, "pixel_values": torch.randn(1, 3, PIXELS["image_size"], PIXELS["image_size"])}

    return inputs


def gemma_inputs(config) -> dict:
    inputs = words_and_pictures(config.mm_tokens_per_image)(config)
    return {**inputs, "token_type_ids": (inputs["input_ids"] == IMAGE).long()}


def mistral_inputs(config) -> dict:
    """A picture of four by four patches: after merging, four tokens."""
    side = 4 * PIXELS["patch_size"]
    inputs = words_and_pictures(4)(config)
    return {**inputs, "pixel_values": torch.randn(1, 3, side, side), "image_sizes": torch.tensor([[side, side]])}


def qwen_inputs(config) -> dict:
    """A picture of four by four patches: after merging, four tokens."""
    vision = config.vision_config
    inputs = words_and_pictures(4)(config)
    inputs["pixel_values"] = torch.randn(16, 3 * vision.temporal_patch_size * vision.patch_size**2)
    return {
        **inputs,
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
    }


def words_alone(config) -> dict:
    return {"input_ids": words_and_pictures(0)(config)["input_ids"]}


def two_parts(name, model, inputs, text, vision, modules, **settings) -> Family:
    settings = dict(text_config=text, vision_config=vision, **settings)
    return Family(name, model, settings, inputs, depth="text_config.num_hidden_layers", modules=modules)


FAMILIES = [
    two_parts(
        "llava",
        "LlavaForConditionalGeneration",
        words_and_pictures(4),
        dict(TEXT, model_type="llama"),
        dict(TOWER, **PIXELS, model_type="clip_vision_model", projection_dim=16),
        LLAVA_PARTS,
        image_token_index=IMAGE,
    ),
    two_parts(
        "gemma3, vision",
        "Gemma3ForConditionalGeneration",
        gemma_inputs,
        dict(TEXT, sliding_window=8),
        dict(TOWER, **PIXELS),
        LLAVA_PARTS,
        mm_tokens_per_image=4,
        image_token_id=IMAGE,
    ),
    two_parts(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        mistral_inputs,
        dict(TEXT, model_type="mistral"),
        dict(TOWER, **PIXELS, head_dim=8, model_type="pixtral"),
        LLAVA_PARTS,
        image_token_index=IMAGE,
    ),
    two_parts(
        "llama4",
        "Llama4ForConditionalGeneration",
        words_and_pictures(1),
        dict(TEXT, num_local_experts=4, intermediate_size_mlp=64, interleave_moe_layer_step=2, attention_chunk_size=8),
        dict(
            {**TOWER, **PIXELS},
            intermediate_size=128,  # four patches become one
            vision_output_dim=32,
            projector_input_dim=32,
            projector_output_dim=32,
            pixel_shuffle_ratio=0.5,
        ),
        {
            "text_decoder": ("language_model.",),
            "multi_modal_projector": ("multi_modal_projector.",),
            "vision_model": ("vision_model.",),
        },
        image_token_index=IMAGE,
        boi_token_index=4,
        eoi_token_index=5,
    ),
    two_parts(
        "qwen2-vl",
        "Qwen2VLForConditionalGeneration",
        qwen_inputs,
        dict(DECODER, **ROPE),
        dict(QWEN_VISION, embed_dim=32, hidden_size=32, mlp_ratio=2),
        QWEN_PARTS,
        **QWEN_TOKENS,
    ),
    two_parts(
        "qwen2.5-vl",
        "Qwen2_5_VLForConditionalGeneration",
        qwen_inputs,
        dict(DECODER, **ROPE),
        dict(
            QWEN_VISION,
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=64,
            window_size=16,
            fullatt_block_indexes=[1],
        ),
        QWEN_PARTS,
        **QWEN_TOKENS,
    ),
    two_parts(
        "qwen3-vl",
        "Qwen3VLForConditionalGeneration",
        qwen_inputs,
        dict(TEXT, **ROPE),
        dict(
            QWEN_VISION,
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=64,
            num_position_embeddings=16,
            deepstack_visual_indexes=[0, 1],
        ),
        QWEN_PARTS,
        **QWEN_TOKENS,
    ),
    two_parts(
        "qwen3-vl-moe",
        "Qwen3VLMoeForConditionalGeneration",
        qwen_inputs,
        dict(TEXT, **ROPE, **EXPERTS),
        dict(
            QWEN_VISION,
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=64,
            num_position_embeddings=16,
            deepstack_visual_indexes=[0, 1],
        ),
        QWEN_PARTS,
        **QWEN_TOKENS,
    ),
    two_parts(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        words_and_pictures(4),
        dict(TEXT, model_type="gemma"),
        dict(TOWER, **PIXELS, model_type="siglip_vision_model", projection_dim=32),
        LLAVA_PARTS,
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        projection_dim=32,
    ),
    two_parts(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        words_alone,
        dict(TEXT, model_type="llama"),
        dict(TOWER, **PIXELS),
        {},
        image_token_id=IMAGE,
        scale_factor=2,
    ),
    two_parts(
        "internvl",
        "InternVLForConditionalGeneration",
        words_alone,
        dict(TEXT, model_type="qwen2"),
        dict(TOWER, image_size=[16, 16], patch_size=[8, 8]),
        LLAVA_PARTS,
        image_token_id=IMAGE,
    ),
]
