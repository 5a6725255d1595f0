"""What models of several parts have in common: their parts, and inputs of words and pictures."""

import torch

from family import DECODER, VOCABULARY, Family

IMAGE = 3  # the token in whose place a picture's vector goes
SIDE, PATCH = 16, 8
TEXT = dict(DECODER, head_dim=8)
TOWER = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
PICTURES = dict(TOWER, image_size=SIDE, patch_size=PATCH)

LANGUAGE = ("model.language_model.", "lm_head.")
LLAVA_PARTS = {
    "text_decoder": LANGUAGE,
    "multi_modal_projector": ("model.multi_modal_projector.",),
    "vision_tower": ("model.vision_tower.",),
}


def two_parts(name: str, model: str, inputs, text: dict, modules: dict, **settings) -> Family:
    settings = dict(text_config=text, **settings)
    return Family(name, model, settings, inputs, depth="text_config.num_hidden_layers", modules=modules)


def words(_config) -> dict:
    return {"input_ids": torch.randint(8, VOCABULARY, (1, 8))}


def words_and_picture(vectors: int):
    """One row that begins with a picture, which the model reads as so many vectors."""

    def inputs(config) -> dict:
        ids = torch.cat([torch.full((1, vectors), IMAGE), words(config)["input_ids"]], dim=1)
        return {"input_ids": ids, "pixel_values": torch.randn(1, 3, SIDE, SIDE)}

    return inputs
