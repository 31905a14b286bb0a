"""Language models as fixtures: built, written, loaded again and run by transformers.

A specification is a config.json with every key that shapes the model spelled out, as library defaults differ from
published checkpoints, and with further keys, `_` in front, that are not the model's:

    _shards, _dtype     how many files, and of which type (one, float32)
    _spelling           function that rewrites the config.json before the model is loaded from it
    _dt_low, _norms     the ranges that time steps and norm weights are drawn from
    _qk                 gain of the query and key projections
    _differ             config changes, each of which must change the logits: what a careless reader assumes
    _same               config changes that must not
    _wrong              (class, attribute, function of its value): the same for what no key says
"""

import json

import numpy as np

from fixtures_draw import draw_all

CACHE_BOUND = 5e-6  # full forward against step by step, relative to the largest logit
DIFFER_BOUND = 1e-3  # least effect of what must matter, on the same scale: 50 times what the tests tolerate


def make_language(spec, folder, steps, rng):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    keys = {k: v for k, v in spec.items() if not k.startswith("_")}
    if kinds := keys.get("layer_types") or keys.get("layers_block_type"):
        keys["num_hidden_layers"] = len(kinds)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**keys), dtype=torch.float32)
    draws = {k: spec[f"_{k}"] for k in ("dt_low", "norms", "qk") if f"_{k}" in spec}
    weights = draw_all({n: tuple(p.shape) for n, p in tensors(model).items()}, rng, **draws)
    with torch.no_grad():
        for name, tensor in tensors(model).items():
            tensor.copy_(torch.from_numpy(weights[name]))

    model = model.to(getattr(torch, spec.get("_dtype", "float32")))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    shards = spec.get("_shards", 1)
    model.save_pretrained(folder, max_shard_size=size + 4096 if shards == 1 else int(size / shards * 1.15))
    (folder / "generation_config.json").unlink(missing_ok=True)
    written = len(list(folder.glob("*.safetensors")))
    assert written == shards, f"{written} shards instead of {shards}"
    if "_spelling" in spec:
        config = json.loads((folder / "config.json").read_text())
        spec["_spelling"](config)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    # From here on only what lies on disk counts.
    def load(**changes):
        config = AutoConfig.from_pretrained(folder)
        for key, value in changes.items():
            assert hasattr(config, key), f"no such key: {key}"
            setattr(config, key, value)
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
        model.set_experts_implementation("eager")  # the fast ones ask for aligned shapes
        return model

    model = load()
    tokens = rng.integers(0, spec["vocab_size"], steps)
    tokens[:2] = spec["vocab_size"] - 1, 0  # both ends of the table
    (folder / "tokens.json").write_text(json.dumps({"tokens": tokens.tolist()}) + "\n")
    ids = torch.from_numpy(tokens)[None]

    def whole(model=model):
        with torch.no_grad():
            return model(ids, use_cache=False).logits[0].numpy()

    def stepped():
        from transformers import DynamicCache

        # The recurrent families hand their cache around under another name than the hybrids, and know no positions.
        recurrent = spec["model_type"] in ("mamba", "mamba2", "falcon_mamba")
        cache_name = "cache_params" if recurrent else "past_key_values"
        cache, rows = {} if recurrent else {cache_name: DynamicCache(config=model.config)}, []
        for i in range(steps):
            # Bamba counts wrongly by itself when it decodes.
            position = {} if recurrent else dict(position_ids=torch.tensor([[i]]))
            with torch.no_grad():
                out = model(ids[:, i:i + 1], use_cache=True, **position, **cache)
            cache = {cache_name: out.get(cache_name, cache.get(cache_name))}
            rows.append(out.logits[0, 0].numpy())
        return np.stack(rows)

    expected = whole()

    def check(what, other, differs=True):
        effect = np.abs(whole(other) - expected).max() / np.abs(expected).max()
        assert (effect > DIFFER_BOUND) if differs else (effect < CACHE_BOUND), f"{folder.name}: {what}: {effect:.1e}"

    for change in spec.get("_differ", []):
        check(change, load(**change))
    for change in spec.get("_same", []):
        check(change, load(**change), differs=False)
    for kind, attribute, change in spec.get("_wrong", []):
        other = load()
        modules = [m for m in other.modules() if type(m).__name__ == kind]
        assert modules, f"{folder.name} has no {kind}"
        for module in modules:
            setattr(module, attribute, change(getattr(module, attribute)))
        check(f"{kind}.{attribute}", other)

    kept = {name: tensor.detach().numpy() for name, tensor in tensors(model).items()}
    return whole, stepped, kept


def tensors(model):
    """What the checkpoint holds: the parameters, each once, and the buffers that are saved (the routers' biases)."""
    saved = model.state_dict()
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in saved}
