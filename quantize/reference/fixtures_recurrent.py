"""The fixtures of Mamba, Mamba-2 and Granite. What the keys mean: fixtures_language.py."""

from fixtures_spelling import as_published

MAMBA = dict(
    model_type="mamba", hidden_size=28, num_hidden_layers=2, vocab_size=97, state_size=16, conv_kernel=4, expand=2,
    time_step_rank=5, layer_norm_epsilon=1e-5, use_bias=False, use_conv_bias=True, hidden_act="silu",
    residual_in_fp32=True, tie_word_embeddings=True,
)
MAMBA2 = dict(
    model_type="mamba2", hidden_size=48, num_hidden_layers=2, vocab_size=97, num_heads=6, head_dim=16, state_size=16,
    n_groups=1, conv_kernel=4, expand=2, chunk_size=16, layer_norm_epsilon=1e-5, use_bias=False, use_conv_bias=True,
    hidden_act="silu", residual_in_fp32=True, tie_word_embeddings=True,
)
GRANITE = dict(
    model_type="granitemoehybrid", hidden_size=36, vocab_size=97, num_attention_heads=6, num_key_value_heads=2,
    attention_bias=False, position_embedding_type="nope", max_position_embeddings=512,
    shared_intermediate_size=20, intermediate_size=28, num_local_experts=0, num_experts_per_tok=0, hidden_act="silu",
    mamba_n_heads=3, mamba_d_head=12, mamba_d_state=16, mamba_n_groups=1, mamba_d_conv=4, mamba_expand=1,
    mamba_chunk_size=16, mamba_conv_bias=True, mamba_proj_bias=False, rms_norm_eps=1e-5, tie_word_embeddings=True,
    embedding_multiplier=1.5, residual_multiplier=0.6, attention_multiplier=0.21, logits_scaling=1.7,
    bos_token_id=0, eos_token_id=0, pad_token_id=None,
)

RECURRENT = {
    "mamba-a": MAMBA,
    "mamba-untied-bias": MAMBA | dict(
        hidden_size=40, expand=1, vocab_size=61, state_size=24, conv_kernel=3, time_step_rank=3,
        use_bias=True, use_conv_bias=False, tie_word_embeddings=False),
    "mamba2-g1": MAMBA2 | dict(num_hidden_layers=1, vocab_size=61),
    "mamba2-g2": MAMBA2 | dict(
        hidden_size=24, head_dim=8, state_size=24, n_groups=2, vocab_size=61,
        tie_word_embeddings=False),
    "mamba2-bias-k3": MAMBA2 | dict(
        hidden_size=30, num_heads=3, head_dim=20, conv_kernel=3, use_bias=True, use_conv_bias=False),
    "mamba2-sharded": MAMBA2 | dict(hidden_size=40, expand=1, num_heads=5, head_dim=8, vocab_size=130, _shards=2),
    "granite-nope": GRANITE | dict(layer_types=["mamba", "attention", "mamba"], vocab_size=61),
    # A key bias cancels in the softmax unless positions rotate it, so attention_bias is tried here only.
    "granite-rope": GRANITE | dict(
        layer_types=["attention", "mamba", "attention"], num_attention_heads=3, num_key_value_heads=1,
        position_embedding_type="rope", rope_parameters=dict(rope_type="default", rope_theta=500.0),
        attention_bias=True, mamba_n_heads=6, mamba_d_head=6, mamba_n_groups=2, mamba_conv_bias=False,
        mamba_proj_bias=True, vocab_size=61, tie_word_embeddings=False),
    # Spelled and stored as checkpoints are published: bf16, and the key names of transformers 4.
    "granite-published": GRANITE | dict(
        layer_types=["mamba", "attention"], hidden_size=48, num_key_value_heads=3, shared_intermediate_size=24,
        position_embedding_type="rope", rope_parameters=dict(rope_type="default", rope_theta=500.0),
        mamba_n_heads=6, mamba_d_head=16, mamba_expand=2, _dtype="bfloat16", _spelling=as_published),
}
