"""A decoder of text that also hears."""

from .parts import IMAGE, TEXT, TOWER, two_parts, words

PARTS = {
    "text_decoder": ("model.language_model.", "language_model.", "lm_head."),
    "multi_modal_projector": ("multi_modal_projector.", "model.multi_modal_projector."),
    "audio_tower": ("audio_tower.", "model.audio_tower."),
}
HEARING = dict(num_mel_bins=8, max_source_positions=16)
ENCODER = dict(d_model=32, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=64)

FAMILIES = [
    two_parts(
        "qwen2-audio",
        "Qwen2AudioForConditionalGeneration",
        words,
        dict(TEXT, model_type="qwen2"),
        PARTS,
        audio_config=dict(ENCODER, **HEARING, model_type="qwen2_audio_encoder"),
        audio_token_index=IMAGE,
    ),
    two_parts(
        "voxtral",
        "VoxtralForConditionalGeneration",
        words,
        dict(TEXT, model_type="llama"),
        PARTS,
        audio_config=dict(TOWER, **HEARING),
        audio_token_id=IMAGE,
    ),
]
