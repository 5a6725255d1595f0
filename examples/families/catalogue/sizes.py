"""Settings that several families share."""

EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LATENT_ATTENTION = dict(
    num_key_value_heads=4,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
)
DEEPSEEK = dict(
    **LATENT_ATTENTION,
    moe_intermediate_size=16,
    n_routed_experts=4,
    n_shared_experts=1,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    first_k_dense_replace=1,
)
LINEAR_ATTENTION = dict(
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
)
MAMBA = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8)
NEMOTRON_H = dict(
    hybrid_override_pattern="M*-M",
    mamba_num_heads=8,
    mamba_head_dim=8,
    ssm_state_size=8,
    n_groups=1,
    chunk_size=4,
    head_dim=8,
)
