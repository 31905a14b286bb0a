"""Rewrites a config.json of transformers 5 in the spelling of its time, in which nearly all checkpoints are published."""


def as_published(config):
    old = {"linear_attention": "mamba", "full_attention": "attention"}
    for key in ("layer_types", "layers_block_type"):
        if key in config and "conv" not in config[key]:
            config[key] = [old.get(kind, kind) for kind in config[key]]
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        partial = rope.pop("partial_rotary_factor", None)
        if config["model_type"] == "bamba":
            config["attn_rotary_emb"] = int(partial * config["hidden_size"] // config["num_attention_heads"])
        elif partial:
            config["partial_rotary_factor"] = partial
        config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    if config.pop("time_step_limit", None) and config["model_type"] == "nemotron_h":
        config["time_step_limit"] = [0.0, float("inf")]  # not JSON, and what published files say
    FAMILIES.get(config["model_type"], lambda config: None)(config)


def nemotron(config):
    kinds = config.pop("layers_block_type")
    config["hybrid_override_pattern"] = "".join(
        {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}[kind] for kind in kinds)
    config["num_hidden_layers"] = len(kinds)
    for key in [key for key in config if key.startswith("mtp_")]:
        del config[key]


def qwen3_next(config):
    kinds = config.pop("layer_types")
    interval = kinds.index("attention") + 1
    assert all((kind == "attention") == ((i + 1) % interval == 0) for i, kind in enumerate(kinds))
    config["full_attention_interval"] = interval


def lfm2(config):
    config["full_attn_idxs"] = [i for i, kind in enumerate(config.pop("layer_types")) if kind == "full_attention"]
    config["block_ff_dim"] = config.pop("intermediate_size")
    config["tie_embedding"] = config.pop("tie_word_embeddings")


FAMILIES = {"nemotron_h": nemotron, "qwen3_next": qwen3_next, "lfm2": lfm2}
