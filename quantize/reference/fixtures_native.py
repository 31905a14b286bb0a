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


def make_native(spec, folder, steps, rng):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**transformers_config(spec))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    d_model = spec["d_model"]
    if spec["d_intermediate"]:
        width = -(-spec["d_intermediate"] // MLP_MULTIPLE) * MLP_MULTIPLE
        for i in range(spec["n_layer"]):
            prefix = f"backbone.layers.{i}."
            shapes |= {prefix + "norm2.weight": (d_model,), prefix + "mlp.fc1.weight": (2 * width, d_model),
                       prefix + "mlp.fc2.weight": (d_model, width)}
    weights = {name: torch.from_numpy(w) for name, w in draw_all(shapes, rng).items()}
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
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
                x = x + layer.mixer(rms_norm(x, layer.norm.weight))
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
