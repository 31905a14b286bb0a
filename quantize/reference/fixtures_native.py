"""The fixtures of state-spaces/mamba's own checkpoints: its config.json and tensor names, its MLP.

The mixers are transformers' (the two libraries share names and row order but for the embedding); what lies around them
is written out here. A specification is state-spaces' config.json, and with `_` in front how the weights are drawn.
"""

import json

import numpy as np

from fixtures_draw import draw_all

MLP_MULTIPLE = 128  # of GatedMLP in state-spaces/mamba: its width is rounded up

NATIVE_1 = dict(
    d_model=28, n_layer=2, d_intermediate=0, vocab_size=61, ssm_cfg={}, attn_layer_idx=[], attn_cfg={}, rms_norm=True,
    residual_in_fp32=True, fused_add_norm=True, pad_vocab_size_multiple=8, tie_embeddings=True,
)
NATIVE_2 = NATIVE_1 | dict(
    d_model=24, ssm_cfg=dict(layer="Mamba2", d_state=24, headdim=12), pad_vocab_size_multiple=16, tie_embeddings=True)

NATIVE = {
    # As published: an empty ssm_cfg means Mamba-1 of the usual sizes.
    "native-mamba": NATIVE_1,
    "native-mamba-sizes": NATIVE_1 | dict(
        ssm_cfg=dict(layer="Mamba1", d_state=24, d_conv=3, expand=1, dt_rank=3, bias=True, conv_bias=False),
        tie_embeddings=False),
    "native-mamba2": NATIVE_2,
    "native-mamba2-mlp": NATIVE_2 | dict(
        d_model=20, n_layer=1, d_intermediate=100, tie_embeddings=False,
        ssm_cfg=dict(layer="Mamba2", d_state=16, headdim=10, ngroups=2, d_conv=3)),
    # As mamba2attn-2.7b is published, and with what its attention could have besides.
    "native-attention": NATIVE_2 | dict(
        n_layer=3, attn_layer_idx=[1], attn_cfg=dict(
            causal=True, d_conv=4, head_dim=12, num_heads=3, out_proj_bias=False, qkv_proj_bias=False, rotary_emb_dim=8)),
    "native-attention-mlp": NATIVE_1 | dict(
        d_model=20, attn_layer_idx=[0], tie_embeddings=False, attn_cfg=dict(
            causal=True, num_heads=4, num_heads_kv=2, head_dim=6, mlp_dim=100, rotary_emb_dim=6, rotary_emb_base=500.0,
            softmax_scale=0.5)),
}


def transformers_config(spec):
    """The same sizes in transformers' words, with state-spaces' defaults for what the config leaves out."""
    ssm, d_model = spec["ssm_cfg"], spec["d_model"]
    padded = -(-spec["vocab_size"] // spec["pad_vocab_size_multiple"]) * spec["pad_vocab_size_multiple"]
    common = dict(
        hidden_size=d_model, num_hidden_layers=spec["n_layer"], vocab_size=padded, conv_kernel=ssm.get("d_conv", 4),
        expand=ssm.get("expand", 2), layer_norm_epsilon=1e-5, use_bias=ssm.get("bias", False),
        use_conv_bias=ssm.get("conv_bias", True), hidden_act="silu", residual_in_fp32=True,
        tie_word_embeddings=spec["tie_embeddings"])
    if ssm.get("layer", "Mamba1") == "Mamba1":
        return common | dict(
            model_type="mamba", state_size=ssm.get("d_state", 16), time_step_rank=ssm.get("dt_rank", -(-d_model // 16)))
    head_dim = ssm.get("headdim", 64)
    return common | dict(
        model_type="mamba2", state_size=ssm.get("d_state", 128), head_dim=head_dim, n_groups=ssm.get("ngroups", 1),
        num_heads=common["expand"] * d_model // head_dim, chunk_size=16)


def attention_shapes(spec):
    """Of one attention block, modules/mha.py in state-spaces/mamba."""
    cfg, d_model = spec["attn_cfg"], spec["d_model"]
    heads, width = cfg["num_heads"], cfg.get("head_dim", d_model // cfg["num_heads"])
    qkv = width * (heads + 2 * cfg.get("num_heads_kv", heads))
    mlp = -(-cfg.get("mlp_dim", 0) // 256) * 256
    shapes = {"in_proj.weight": (qkv + mlp, d_model), "out_proj.weight": (d_model, heads * width + mlp // 2)}
    if cfg.get("qkv_proj_bias", True):
        shapes["in_proj.bias"] = (qkv + mlp,)
    if cfg.get("out_proj_bias", True):
        shapes["out_proj.bias"] = (d_model,)
    if cfg.get("d_conv", 0):
        shapes |= {"conv1d.weight": (qkv, 1, cfg["d_conv"]), "conv1d.bias": (qkv,)}
    return shapes


def attend(x, w, cfg):
    """One attention block over x (1, steps, d_model), as it is trained; `w(name)` gives a tensor."""
    import torch
    import torch.nn.functional as F

    steps, heads = x.shape[1], cfg["num_heads"]
    width = cfg.get("head_dim", x.shape[2] // heads)
    kv_heads = cfg.get("num_heads_kv", heads)
    bias = lambda name: w(f"{name}.bias") if cfg.get({"in_proj": "qkv_proj_bias", "out_proj": "out_proj_bias"}[name], True) else None
    qkv = F.linear(x, w("in_proj.weight"), bias("in_proj"))
    qkv, both = qkv.split([width * (heads + 2 * kv_heads), qkv.shape[-1] - width * (heads + 2 * kv_heads)], -1)
    if taps := cfg.get("d_conv", 0):
        padded = F.pad(qkv.transpose(1, 2), (taps - 1, 0))
        qkv = F.conv1d(padded, w("conv1d.weight"), w("conv1d.bias"), groups=qkv.shape[-1]).transpose(1, 2)
    q, k, v = (part.reshape(steps, -1, width) for part in qkv[0].split([width * heads, width * kv_heads, width * kv_heads], -1))
    if turned := cfg.get("rotary_emb_dim", 0):
        angle = torch.arange(steps)[:, None] * cfg.get("rotary_emb_base", 10000.0) ** (-torch.arange(0, turned, 2) / turned)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]

        def rotate(x):
            a, b, rest = x.split([turned // 2, turned // 2, width - turned], -1)
            return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)

        q, k = rotate(q), rotate(k)
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * cfg.get("softmax_scale", width**-0.5)
    scores = scores.masked_fill(torch.ones(steps, steps, dtype=torch.bool).triu(1), -torch.inf)
    context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(1, steps, -1)
    if both.shape[-1]:
        value, gate = both.chunk(2, -1)
        context = torch.cat([context, value * F.silu(gate)], -1)
    return F.linear(context, w("out_proj.weight"), bias("out_proj"))


def make_native(spec, folder, steps, rng):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**transformers_config(spec))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    d_model = spec["d_model"]
    for i in spec["attn_layer_idx"]:
        mixer = f"backbone.layers.{i}.mixer."
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(mixer)}
        shapes |= {mixer + name: shape for name, shape in attention_shapes(spec).items()}
    if spec["d_intermediate"]:
        width = -(-spec["d_intermediate"] // MLP_MULTIPLE) * MLP_MULTIPLE
        for i in range(spec["n_layer"]):
            prefix = f"backbone.layers.{i}."
            shapes |= {prefix + "norm2.weight": (d_model,), prefix + "mlp.fc1.weight": (2 * width, d_model),
                       prefix + "mlp.fc2.weight": (d_model, width)}
    weights = {name: torch.from_numpy(w) for name, w in draw_all(shapes, rng).items()}
    parameters = dict(model.named_parameters())
    of_attention = tuple(f"backbone.layers.{i}.mixer." for i in spec["attn_layer_idx"])
    for name, parameter in parameters.items():
        if name.startswith(of_attention):
            continue
        parameter.data = weights[name]  # not a copy: whoever changes the weights changes the model

    folder.mkdir(parents=True)
    config = {k: v for k, v in spec.items() if not k.startswith("_")}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    renamed = {name.replace("backbone.embeddings.", "backbone.embedding."): w for name, w in weights.items()}
    save_file(renamed, folder / "model.safetensors")
    tokens = rng.integers(0, spec["vocab_size"], steps)
    tokens[:2] = spec["vocab_size"] - 1, 0  # both ends of the table
    (folder / "tokens.json").write_text(json.dumps({"tokens": tokens.tolist()}) + "\n")
    ids = torch.from_numpy(tokens)[None]

    def rms_norm(x, weight):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight

    def whole():
        with torch.no_grad():
            x = model.backbone.embeddings(ids)
            for i, layer in enumerate(model.backbone.layers):
                normed = rms_norm(x, layer.norm.weight)
                if i in spec["attn_layer_idx"]:
                    x = x + attend(normed, lambda name: weights[f"backbone.layers.{i}.mixer.{name}"], spec["attn_cfg"])
                else:
                    x = x + layer.mixer(normed)
                if spec["d_intermediate"]:
                    part = lambda name: weights[f"backbone.layers.{i}.{name}.weight"]
                    value, gate = (rms_norm(x, part("norm2")) @ part("mlp.fc1").T).chunk(2, dim=-1)
                    x = x + (value * torch.nn.functional.silu(gate)) @ part("mlp.fc2").T
            logits = model.lm_head(rms_norm(x, model.backbone.norm_f.weight))
        # The padding's rows belong to no token.
        return logits[0, :, :spec["vocab_size"]].numpy()

    # The padding's rows of the table have no effect, so whoever asks what each tensor does gets the others.
    views = {n: w.numpy() for n, w in weights.items()}
    for name in ("backbone.embeddings.weight", "lm_head.weight"):
        if name in views:
            views[name] = views[name][:spec["vocab_size"]]
    return whole, None, views
