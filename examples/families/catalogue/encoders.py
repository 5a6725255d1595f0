"""Encoders of text and of pictures."""

import torch

from family import LAYERS, VOCABULARY, Family, token_ids

ENCODER = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    max_position_embeddings=64,
    pad_token_id=0,
)
MODERNBERT_TOKENS = dict(bos_token_id=1, eos_token_id=2, cls_token_id=3, sep_token_id=4)
DISTILBERT = dict(vocab_size=VOCABULARY, dim=32, hidden_dim=64, n_layers=LAYERS, n_heads=4, max_position_embeddings=64)
TOWER = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4)
PICTURE = dict(image_size=16, patch_size=8)
CAPTION = dict(
    **TOWER, vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2
)
CLIP = dict(
    projection_dim=16,
    text_config=dict(**CAPTION, projection_dim=16),
    vision_config=dict(**TOWER, **PICTURE, projection_dim=16),
)
SIGLIP = dict(text_config=CAPTION, vision_config=dict(**TOWER, **PICTURE))


def ending_sequences(config) -> dict:
    """Where the model reads its answer at the place of the end token."""
    ids = token_ids(config)["input_ids"]
    ids[:, -1] = 2
    return {"input_ids": ids}


def picture(_config) -> dict:
    return {"pixel_values": torch.randn(2, 3, PICTURE["image_size"], PICTURE["image_size"])}


def captioned_picture(config) -> dict:
    return {**ending_sequences(config), **picture(config)}


def towers(name: str, model: str, settings: dict) -> Family:
    parts = {
        "text_decoder": ("text_model.", "text_projection.", "logit_"),
        "vision_tower": ("vision_model.", "visual_"),
    }
    return Family(name, model, settings, captioned_picture, depth="text_config.num_hidden_layers", modules=parts)


FAMILIES = [
    Family("bert, no head", "BertModel", ENCODER),
    Family("bert, masked LM", "BertForMaskedLM", ENCODER),
    Family("bert, sequence classification", "BertForSequenceClassification", {**ENCODER, "num_labels": 3}),
    Family("bert, token classification", "BertForTokenClassification", {**ENCODER, "num_labels": 3}),
    Family("roberta, masked LM", "RobertaForMaskedLM", ENCODER),
    Family("roberta, sequence classification", "RobertaForSequenceClassification", {**ENCODER, "num_labels": 3}),
    Family("xlm-roberta, masked LM", "XLMRobertaForMaskedLM", ENCODER),
    Family("distilbert, masked LM", "DistilBertForMaskedLM", DISTILBERT),
    Family(
        "distilbert, sequence classification", "DistilBertForSequenceClassification", {**DISTILBERT, "num_labels": 3}
    ),
    Family("electra, masked LM", "ElectraForMaskedLM", {**ENCODER, "embedding_size": 16}),
    Family("deberta-v2, masked LM", "DebertaV2ForMaskedLM", ENCODER),
    Family("modernbert, masked LM", "ModernBertForMaskedLM", {**ENCODER, **MODERNBERT_TOKENS}),
    Family("albert, masked LM", "AlbertForMaskedLM", {**ENCODER, "embedding_size": 16}),
    Family("vit, image classification", "ViTForImageClassification", {**TOWER, **PICTURE, "num_labels": 3}, picture),
    towers("clip", "CLIPModel", CLIP),
    towers("siglip", "SiglipModel", SIGLIP),
]
