"""Qwen's models that see: pictures of any size, cut into patches before the model gets them."""

import torch

from .parts import IMAGE, LANGUAGE, TEXT, two_parts, words_and_picture
from .sizes import EXPERTS, LINEAR_ATTENTION

PARTS = {
    "text_decoder": LANGUAGE,
    "multi_modal_projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "vision_tower": ("model.visual.",),
}
ROPE = dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1]))
TOKENS = dict(image_token_id=IMAGE, video_token_id=4, vision_start_token_id=5, vision_end_token_id=6)
EYES = dict(depth=3, num_heads=4, patch_size=4, spatial_merge_size=2, temporal_patch_size=2, hidden_size=32)
EYES_3 = dict(EYES, out_hidden_size=32, intermediate_size=64, num_position_embeddings=16)


def inputs(config) -> dict:
    """Four by four patches, of which each four become one."""
    vision = config.vision_config
    given = words_and_picture(4)(config)
    given["pixel_values"] = torch.randn(16, 3 * vision.temporal_patch_size * vision.patch_size**2)
    kinds = (given["input_ids"] == IMAGE).int()
    return {**given, "image_grid_thw": torch.tensor([[1, 4, 4]]), "mm_token_type_ids": kinds}


FAMILIES = [
    two_parts(
        "qwen2-vl",
        "Qwen2VLForConditionalGeneration",
        inputs,
        dict(TEXT, **ROPE),
        PARTS,
        vision_config=dict(EYES, embed_dim=32, mlp_ratio=2),
        **TOKENS,
    ),
    two_parts(
        "qwen2.5-vl",
        "Qwen2_5_VLForConditionalGeneration",
        inputs,
        dict(TEXT, **ROPE),
        PARTS,
        vision_config=dict(EYES, out_hidden_size=32, intermediate_size=64, window_size=16, fullatt_block_indexes=[1]),
        **TOKENS,
    ),
    two_parts(
        "qwen3-vl",
        "Qwen3VLForConditionalGeneration",
        inputs,
        dict(TEXT, **ROPE),
        PARTS,
        vision_config=dict(EYES_3, deepstack_visual_indexes=[0, 1]),
        **TOKENS,
    ),
    two_parts(
        "qwen3-vl-moe",
        "Qwen3VLMoeForConditionalGeneration",
        inputs,
        dict(TEXT, **ROPE, **EXPERTS),
        PARTS,
        vision_config=dict(EYES_3, deepstack_visual_indexes=[0, 1]),
        **TOKENS,
    ),
    two_parts(
        "qwen3.5, vision",
        "Qwen3_5ForConditionalGeneration",
        inputs,
        dict(TEXT, **ROPE, **LINEAR_ATTENTION),
        PARTS,
        vision_config=EYES_3,
        **TOKENS,
    ),
]
