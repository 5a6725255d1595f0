"""Encoders, and models that read one thing and write another."""

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
T5 = dict(
    vocab_size=VOCABULARY,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_layers=LAYERS,
    num_decoder_layers=LAYERS,
    num_heads=4,
    decoder_start_token_id=0,
)
TWO_TOWERS = dict(
    d_model=32,
    encoder_layers=LAYERS,
    decoder_layers=LAYERS,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
)
BART = dict(
    vocab_size=VOCABULARY, **TWO_TOWERS, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2
)
WHISPER = dict(
    vocab_size=VOCABULARY,
    **TWO_TOWERS,
    num_mel_bins=8,
    max_source_positions=16,
    max_target_positions=32,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
    begin_suppress_tokens=None,
)
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


def two_sequences(config) -> dict:
    return {**token_ids(config), "decoder_input_ids": torch.randint(8, VOCABULARY, (2, 6))}


def ending_sequences(config) -> dict:
    """Where the model reads its answer at the place of the end token."""
    ids = token_ids(config)["input_ids"]
    ids[:, -1] = 2
    return {"input_ids": ids}


def sound(config) -> dict:
    return {
        "input_features": torch.randn(2, config.num_mel_bins, 2 * config.max_source_positions),
        "decoder_input_ids": torch.randint(8, VOCABULARY, (2, 6)),
    }


def picture(_config) -> dict:
    return {"pixel_values": torch.randn(2, 3, PICTURE["image_size"], PICTURE["image_size"])}


def captioned_picture(config) -> dict:
    return {**ending_sequences(config), **picture(config)}


T5_PARTS = {
    "decoder": ("decoder.block.", "decoder.final_layer_norm."),
    "encoder": ("encoder.block.", "encoder.final_layer_norm."),
    "shared": ("shared.", "lm_head.", "encoder.embed_tokens.", "decoder.embed_tokens."),
}
WHISPER_PARTS = {"decoder": ("model.decoder.", "proj_out."), "encoder": ("model.encoder.",)}


def t5(name: str, model: str, **settings) -> Family:
    return Family(name, model, {**T5, **settings}, two_sequences, depth="num_decoder_layers", modules=T5_PARTS)


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
    t5("t5", "T5ForConditionalGeneration"),
    t5("t5, gated and untied", "T5ForConditionalGeneration", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    t5("mt5", "MT5ForConditionalGeneration"),
    Family("bart", "BartForConditionalGeneration", BART, ending_sequences),
    Family("mbart", "MBartForConditionalGeneration", BART, ending_sequences),
    Family("pegasus", "PegasusForConditionalGeneration", BART, two_sequences),
    Family("marian", "MarianMTModel", BART, two_sequences),
    Family("whisper", "WhisperForConditionalGeneration", WHISPER, sound, depth="decoder_layers", modules=WHISPER_PARTS),
    Family("vit, image classification", "ViTForImageClassification", {**TOWER, **PICTURE, "num_labels": 3}, picture),
    Family("clip", "CLIPModel", CLIP, captioned_picture),
    Family("siglip", "SiglipModel", SIGLIP, captioned_picture),
]
