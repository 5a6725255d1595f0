"""Models that read with one stack of layers and write with another."""

import torch

from family import LAYERS, VOCABULARY, Family, token_ids

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


def two_sequences(config) -> dict:
    return {**token_ids(config), "decoder_input_ids": torch.randint(8, VOCABULARY, (2, 6))}


def sound(config) -> dict:
    return {
        "input_features": torch.randn(2, config.num_mel_bins, 2 * config.max_source_positions),
        "decoder_input_ids": torch.randint(8, VOCABULARY, (2, 6)),
    }


T5_PARTS = {
    "decoder": ("decoder.block.", "decoder.final_layer_norm."),
    "encoder": ("encoder.block.", "encoder.final_layer_norm."),
    "shared": ("shared.", "lm_head.", "encoder.embed_tokens.", "decoder.embed_tokens."),
}
BART_PARTS = {
    "decoder": ("model.decoder.layer", "model.decoder.embed_positions."),
    "encoder": ("model.encoder.layer", "model.encoder.embed_positions."),
    "shared": (
        "model.shared.",
        "model.encoder.embed_tokens.",
        "model.decoder.embed_tokens.",
        "lm_head.",
        "final_logits",
    ),
}
WHISPER_PARTS = {"decoder": ("model.decoder.", "proj_out."), "encoder": ("model.encoder.",)}


def t5(name: str, model: str, **settings) -> Family:
    return Family(name, model, {**T5, **settings}, two_sequences, depth="num_decoder_layers", modules=T5_PARTS)


def bart(name: str, model: str) -> Family:
    return Family(name, model, BART, two_sequences, depth="decoder_layers", modules=BART_PARTS)


FAMILIES = [
    t5("t5", "T5ForConditionalGeneration"),
    t5("t5, gated and untied", "T5ForConditionalGeneration", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    t5("mt5", "MT5ForConditionalGeneration"),
    bart("bart", "BartForConditionalGeneration"),
    bart("mbart", "MBartForConditionalGeneration"),
    bart("pegasus", "PegasusForConditionalGeneration"),
    bart("marian", "MarianMTModel"),
    Family("whisper", "WhisperForConditionalGeneration", WHISPER, sound, depth="decoder_layers", modules=WHISPER_PARTS),
]
