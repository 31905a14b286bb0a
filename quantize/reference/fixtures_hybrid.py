"""The fixtures of the other families, most of them with attention. What the keys mean: fixtures_language.py."""

from fixtures_recurrent import GRANITE
from fixtures_spelling import as_published

TOKEN_IDS = dict(bos_token_id=0, eos_token_id=0, pad_token_id=None)


def rope(theta, **more):
    return dict(rope_type="default", rope_theta=theta) | more


LLAMA = TOKEN_IDS | dict(
    model_type="llama", hidden_size=36, num_hidden_layers=2, vocab_size=97, intermediate_size=52,
    num_attention_heads=6, num_key_value_heads=2, head_dim=10, hidden_act="silu", max_position_embeddings=2048,
    rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False, tie_word_embeddings=True, rope_parameters=rope(500.0),
)
FALCON_MAMBA = TOKEN_IDS | dict(
    model_type="falcon_mamba", hidden_size=28, num_hidden_layers=2, vocab_size=97, state_size=16, conv_kernel=4,
    expand=2, time_step_rank=5, layer_norm_epsilon=1e-5, mixer_rms_eps=0.02, use_bias=False, use_conv_bias=True,
    hidden_act="silu", residual_in_fp32=True, tie_word_embeddings=False,
)
JAMBA = TOKEN_IDS | dict(
    model_type="jamba", hidden_size=24, num_hidden_layers=3, vocab_size=53, intermediate_size=16,
    num_attention_heads=4, num_key_value_heads=2, hidden_act="silu", rms_norm_eps=1e-6, max_position_embeddings=2048,
    attn_layer_period=3, attn_layer_offset=1, num_experts=5, num_experts_per_tok=2, expert_layer_period=2,
    expert_layer_offset=0, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=5, mamba_conv_bias=True,
    mamba_proj_bias=False, tie_word_embeddings=False,
)

# transformers clamps time steps to time_step_min, and in the prefill only: hence none so small.
ZAMBA2 = TOKEN_IDS | dict(
    model_type="zamba2", hidden_size=24, layers_block_type=["mamba", "hybrid", "hybrid"], vocab_size=61,
    intermediate_size=30, hidden_act="gelu", num_attention_heads=4, num_key_value_heads=4, num_mem_blocks=1,
    use_shared_attention_adapter=True, adapter_rank=4, use_mem_rope=True, rope_parameters=rope(500.0),
    use_long_context=False, max_position_embeddings=2048, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2,
    mamba_ngroups=1, n_mamba_heads=6, chunk_size=16, use_conv_bias=True, add_bias_linear=False, rms_norm_eps=1e-3,
    time_step_min=1e-3, tie_word_embeddings=True, _dt_low=2e-2, _qk=0.7,
)
QWEN3_NEXT = TOKEN_IDS | dict(
    model_type="qwen3_next", hidden_size=28, layer_types=["linear_attention", "full_attention", "linear_attention"],
    vocab_size=53, intermediate_size=26, hidden_act="silu", num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    attention_bias=False, rope_parameters=rope(500.0, partial_rotary_factor=0.5), max_position_embeddings=2048,
    rms_norm_eps=1e-3, linear_conv_kernel_dim=4, linear_key_head_dim=8, linear_value_head_dim=10,
    linear_num_key_heads=2, linear_num_value_heads=4, decoder_sparse_step=1, mlp_only_layers=[1], num_experts=4,
    num_experts_per_tok=2, norm_topk_prob=True, moe_intermediate_size=12, shared_expert_intermediate_size=14,
    tie_word_embeddings=False, _norms=(-0.5, 0.5),
)
QWEN3_5 = {key: value for key, value in QWEN3_NEXT.items() if key not in (
    "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob", "intermediate_size", "num_experts",
    "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size")
} | dict(rope_parameters=rope(500.0, partial_rotary_factor=0.5, mrope_section=[1, 1, 1]))
# The feed-forward width comes out as 44: 60 -> 40 -> 42 -> 44.
LFM2 = TOKEN_IDS | dict(
    model_type="lfm2", hidden_size=32, layer_types=["conv", "full_attention", "conv"], vocab_size=61,
    num_attention_heads=4, num_key_value_heads=2, intermediate_size=60, block_auto_adjust_ff_dim=True,
    block_ffn_dim_multiplier=1.05, block_multiple_of=4, conv_L_cache=3, conv_bias=False, norm_eps=1e-5,
    rope_parameters=rope(500.0), max_position_embeddings=2048, tie_word_embeddings=True,
)

LFM3 = TOKEN_IDS | dict(
    model_type="lfm3", hidden_size=24, num_hidden_layers=4, vocab_size=61, intermediate_size=34, num_attention_heads=3,
    num_key_value_heads=1, head_dim=12, layer_types=["conv", "sliding_attention", "full_attention", "conv"], conv_L_cache=7,
    conv_bias=False, norm_eps=1e-5, sliding_window=11, use_sandwich_norm=True, use_attention_gate=True, attention_bias=False,
    rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=100.0),
        full_attention=dict(rope_type="proportional", rope_theta=500.0, partial_rotary_factor=0.5)),
    max_position_embeddings=2048, tie_word_embeddings=True,
)

FALCON_H1 = TOKEN_IDS | dict(
    model_type="falcon_h1", hidden_size=24, num_hidden_layers=2, vocab_size=61, intermediate_size=34,
    hidden_act="silu", num_attention_heads=4, num_key_value_heads=2, head_dim=10, rope_parameters=rope(500.0),
    max_position_embeddings=2048, attention_bias=False, mlp_bias=False, projectors_bias=False, mamba_d_ssm=40,
    mamba_n_heads=5, mamba_d_head=8, mamba_d_state=16, mamba_n_groups=1, mamba_d_conv=4, mamba_expand=2,
    mamba_chunk_size=16, mamba_conv_bias=True, mamba_proj_bias=False, mamba_rms_norm=False,
    mamba_norm_before_gate=False, rms_norm_eps=1e-5, tie_word_embeddings=False, embedding_multiplier=1.7,
    lm_head_multiplier=0.8, attention_in_multiplier=1.2, attention_out_multiplier=0.9, key_multiplier=0.7,
    ssm_in_multiplier=1.3, ssm_out_multiplier=0.75, ssm_multipliers=[0.8, 1.25, 0.7, 1.4, 0.6],
    mlp_multipliers=[0.85, 1.15],
)
MULTIPLIERS_OFF = [
    {key: 1.0} for key in FALCON_H1 if key.endswith("multiplier")
] + [
    dict(ssm_multipliers=[1.0 if i == j else m for j, m in enumerate(FALCON_H1["ssm_multipliers"])]) for i in range(5)
] + [dict(mlp_multipliers=[1.0, 1.15]), dict(mlp_multipliers=[0.85, 1.0])]
NEMOTRON = TOKEN_IDS | dict(
    model_type="nemotron_h", hidden_size=26, vocab_size=61, intermediate_size=42, mlp_hidden_act="relu2",
    mlp_bias=False, layers_block_type=["linear_attention", "full_attention", "mlp", "linear_attention", "mlp"],
    num_attention_heads=4, num_key_value_heads=2, head_dim=12, attention_bias=False, max_position_embeddings=2048,
    ssm_state_size=12, mamba_num_heads=6, mamba_head_dim=10, mamba_hidden_act="silu", n_groups=2, conv_kernel=4,
    expand=2, chunk_size=16, use_conv_bias=True, use_bias=False, mamba_proj_bias=False, layer_norm_epsilon=1e-5,
    time_step_min=1e-3, residual_in_fp32=False, tie_word_embeddings=False, _dt_low=2e-2,
)
NEMOTRON_MOE = dict(
    hidden_size=22, mamba_num_heads=4, mamba_head_dim=11, layers_block_type=[
        "linear_attention", "moe", "full_attention", "linear_attention", "moe"],
    n_routed_experts=6, num_experts_per_tok=2, n_group=2, topk_group=1, norm_topk_prob=True,
    routed_scaling_factor=1.7, moe_intermediate_size=14, n_shared_experts=1, moe_shared_expert_intermediate_size=18,
    moe_latent_size=None,
)
BAMBA = TOKEN_IDS | dict(
    model_type="bamba", hidden_size=32, num_hidden_layers=3, vocab_size=53, intermediate_size=28, hidden_act="silu",
    num_attention_heads=4, num_key_value_heads=2, attn_layer_indices=[1], attention_bias=False, mlp_bias=False,
    rope_parameters=rope(500.0, partial_rotary_factor=0.5), max_position_embeddings=2048, mamba_n_heads=8,
    mamba_d_head=8, mamba_n_groups=2, mamba_d_state=12, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=16,
    mamba_conv_bias=True, mamba_proj_bias=False, rms_norm_eps=1e-5, tie_word_embeddings=False,
)
ZAMBA = TOKEN_IDS | dict(
    model_type="zamba", hidden_size=20, layers_block_type=["mamba", "hybrid", "hybrid"], vocab_size=97,
    intermediate_size=26, hidden_act="gelu", hidden_mamba_act="silu", num_attention_heads=4, num_key_value_heads=4,
    attention_hidden_size=40, attention_head_dim=10, n_mamba_heads=2, mamba_d_state=16, mamba_d_conv=4,
    mamba_expand=2, mamba_dt_rank=5, mamba_conv_bias=True, mamba_proj_bias=False, max_position_embeddings=2048,
    rms_norm_eps=1e-3, tie_word_embeddings=True, _qk=0.7,
)
RECURRENT_GEMMA = TOKEN_IDS | dict(
    model_type="recurrent_gemma", hidden_size=24, num_hidden_layers=4, vocab_size=97, intermediate_size=56,
    hidden_activation="gelu_pytorch_tanh", num_attention_heads=3, num_key_value_heads=1, lru_width=24,
    block_types=["recurrent", "recurrent", "attention"], attention_window_size=12, conv1d_width=4,
    logits_soft_cap=10.0, rope_parameters=rope(500.0, partial_rotary_factor=0.5), attention_bias=False,
    rms_norm_eps=1e-6, tie_word_embeddings=True, _norms=(-0.5, 0.5),
)

# What a careless reader assumes where the configuration says nothing.
HALF_SCALE = lambda name: [(f"{name}Attention", "scaling", lambda scale: scale / 2**0.5)]
UNGROUPED = lambda name: [(f"{name}RMSNormGated", "group_size", lambda size: size * 2)]
RENORMALISED = [("JambaTopKRouter", "forward", lambda route: lambda x: (
    lambda logits, weights, chosen: (logits, weights / weights.sum(-1, keepdim=True), chosen))(*route(x)))]

HYBRID = {
    "llama-tied": LLAMA | dict(
        _differ=[dict(rope_parameters=rope(400.0)), dict(rms_norm_eps=1e-2)]),
    # 7 frequencies: the scaling leaves three alone, blends two and stretches two.
    "llama-rope3": LLAMA | dict(
        hidden_size=28, num_attention_heads=4, num_key_value_heads=1, head_dim=14, intermediate_size=44,
        tie_word_embeddings=False, _spelling=as_published,
        rope_parameters=rope(500.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=256),
        _differ=[dict(rope_parameters=rope(500.0))]),
    "llama-linear": LLAMA | dict(
        num_hidden_layers=1, rope_parameters=rope(500.0, rope_type="linear", factor=4.0), _differ=[dict(rope_parameters=rope(500.0))]),
    # Of 8 frequencies two stay, four are blended and two stretched; the scores grow by 1.23.
    "llama-yarn": LLAMA | dict(
        num_hidden_layers=1, head_dim=16, hidden_act="gelu", _spelling=as_published,
        rope_parameters=rope(500.0, rope_type="yarn", factor=3.0, original_max_position_embeddings=512),
        _differ=[dict(rope_parameters=rope(500.0, rope_type="yarn", factor=3.0, original_max_position_embeddings=512, **other))
                 for other in (dict(attention_factor=1.0), dict(beta_fast=8), dict(truncate=False))]),
    "falcon-mamba": FALCON_MAMBA | dict(_differ=[dict(mixer_rms_eps=1e-5)]),
    "jamba-moe": JAMBA | dict(_wrong=RENORMALISED),
    "jamba-dense": JAMBA | dict(
        hidden_size=20, num_hidden_layers=4, intermediate_size=34, num_attention_heads=5, num_key_value_heads=1,
        num_experts=1, attn_layer_period=2, mamba_dt_rank=6, tie_word_embeddings=True),
    "zamba2-one-block": ZAMBA2 | dict(
        _differ=[dict(use_mem_rope=False), dict(rms_norm_eps=1e-2)], _same=[dict(time_step_min=1e-9)],
        # The epsilon of the gated norm is fixed.
        _wrong=HALF_SCALE("Zamba2") + [("Zamba2RMSNormGated", "variance_epsilon", lambda eps: 1e-3)]),
    # Block j mod 2 at the j-th use, so three uses.
    "zamba2-two-blocks": ZAMBA2 | dict(
        hidden_size=18, num_attention_heads=6, num_key_value_heads=6, intermediate_size=22, num_mem_blocks=2,
        layers_block_type=["mamba", "hybrid", "hybrid", "hybrid"], n_mamba_heads=4, mamba_ngroups=2, mamba_d_state=12,
        use_shared_attention_adapter=False, use_mem_rope=False, _spelling=as_published, _same=[dict(time_step_min=1e-9)],
        _wrong=UNGROUPED("Zamba2")),
    "qwen3-next": QWEN3_NEXT | dict(_spelling=as_published, _differ=[
        dict(rope_parameters=rope(500.0, partial_rotary_factor=1.0)), dict(norm_topk_prob=False)]),
    # The scores grow in what is rotated alone.
    "qwen3-next-yarn": QWEN3_NEXT | dict(
        layer_types=["linear_attention", "full_attention"], num_experts=2,
        rope_parameters=rope(500.0, rope_type="yarn", factor=4.0, partial_rotary_factor=0.5, original_max_position_embeddings=64),
        _differ=[dict(rope_parameters=rope(
            500.0, rope_type="yarn", factor=4.0, partial_rotary_factor=0.5, original_max_position_embeddings=64, attention_factor=1.0))]),
    "lfm2": LFM2 | dict(_spelling=as_published),
    "lfm3": LFM3 | dict(_differ=[
        dict(sliding_window=12), dict(use_sandwich_norm=False), dict(use_attention_gate=False),
        dict(rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=100.0),
            full_attention=dict(rope_type="proportional", rope_theta=500.0, partial_rotary_factor=1.0)))]),
    "lfm3-plain": LFM3 | dict(
        hidden_size=20, num_hidden_layers=3, layer_types=["conv", "full_attention", "sliding_attention"], conv_L_cache=3,
        conv_bias=True, use_sandwich_norm=False, use_attention_gate=False, attention_bias=True, tie_word_embeddings=False),
    "falcon-h1-plain": FALCON_H1 | dict(_differ=MULTIPLIERS_OFF),
    "falcon-h1-norm-after": FALCON_H1 | dict(
        mamba_rms_norm=True, mamba_norm_before_gate=False, mamba_n_groups=2, mamba_n_heads=4, mamba_d_head=10,
        tie_word_embeddings=True, _spelling=as_published, _differ=MULTIPLIERS_OFF + [dict(mamba_norm_before_gate=True)],
        _wrong=[("FalconH1RMSNormGated", "n_groups", lambda groups: 1)]),
    "falcon-h1-norm-before": FALCON_H1 | dict(
        mamba_rms_norm=True, mamba_norm_before_gate=True, mamba_n_groups=2, mamba_n_heads=4, mamba_d_head=10,
        mamba_d_conv=3, mamba_conv_bias=False, _differ=[dict(mamba_norm_before_gate=False)]),
    "nemotron-dense": NEMOTRON | dict(
        _spelling=as_published, _same=[dict(time_step_min=1e-9)], _wrong=UNGROUPED("NemotronH")),
    "nemotron-moe": NEMOTRON | NEMOTRON_MOE | dict(
        _same=[dict(time_step_min=1e-9)],
        _differ=[dict(n_group=1), dict(routed_scaling_factor=1.0), dict(norm_topk_prob=False)]),
    "nemotron-latent": NEMOTRON | NEMOTRON_MOE | dict(
        moe_latent_size=14, n_group=1, n_routed_experts=5, num_experts_per_tok=3, norm_topk_prob=False,
        layers_block_type=["linear_attention", "moe", "full_attention", "moe"],
        _same=[dict(time_step_min=1e-9)], _differ=[dict(norm_topk_prob=True)]),
    "bamba": BAMBA | dict(_spelling=as_published, _wrong=UNGROUPED("Bamba")),
    "zamba": ZAMBA | dict(_spelling=as_published, _wrong=HALF_SCALE("Zamba")),
    "granite-moe": GRANITE | dict(
        hidden_size=28, layer_types=["mamba", "attention", "mamba"], vocab_size=61, num_attention_heads=4,
        mamba_n_heads=4, mamba_d_head=7, shared_intermediate_size=14, intermediate_size=10, num_local_experts=5,
        num_experts_per_tok=2),
    "recurrent-gemma": RECURRENT_GEMMA | dict(_differ=[
        dict(attention_window_size=512), dict(rope_parameters=rope(500.0, partial_rotary_factor=1.0)),
        dict(logits_soft_cap=1000.0)],
        _wrong=[("RecurrentGemmaModel", "normalizer", lambda root: root.double() * 0 + 24**0.5)]),  # it is rounded
    "lfm2-moe": LFM2 | dict(
        model_type="lfm2_moe", hidden_size=28, num_attention_heads=2, num_key_value_heads=1, intermediate_size=38,
        num_dense_layers=1, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=14, use_expert_bias=True,
        norm_topk_prob=True, routed_scaling_factor=1.3,
        _differ=[dict(use_expert_bias=False), dict(norm_topk_prob=False), dict(routed_scaling_factor=1.0)]),
    "qwen3-5": QWEN3_5 | dict(
        model_type="qwen3_5_text", intermediate_size=26, tie_word_embeddings=True,
        _differ=[dict(rope_parameters=rope(500.0, partial_rotary_factor=1.0, mrope_section=[2, 2, 2]))]),
    "qwen3-5-moe": QWEN3_5 | dict(
        model_type="qwen3_5_moe_text", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=14, tie_word_embeddings=False),
}
