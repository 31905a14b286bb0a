"""Random weights for the fixtures, and the check that each of them matters."""

import math

import numpy as np


def draw(name, shape, rng, dt_low=2e-3, norms=(0.5, 1.5), qk=1.5):
    """A sane value for the tensor `name`: activations stay near 1, dt in 1e-3..1, logits in 1..10."""
    if name.endswith("A_log"):  # decay rates exp(A_log) spread over a decade and a half
        return rng.uniform(math.log(0.3), math.log(8.0), shape)
    if name.endswith(("dt_bias", "dt_proj.bias", "dt_proj_bias")):  # softplus of it is log-uniform
        return inverse_softplus(np.exp(rng.uniform(math.log(dt_low), math.log(0.6), shape)))
    if name.endswith("recurrent_param"):  # of RG-LRU: decays exp(-8 r softplus) from hardly any to a few tokens
        return inverse_softplus(np.exp(rng.uniform(math.log(3e-3), math.log(0.2), shape)))
    if name.endswith(".D"):
        return rng.normal(1.0, 0.4, shape)
    if name.endswith((".bias", "_bias")):
        return rng.normal(0.0, 0.2, shape)
    if len(shape) == 1:  # norms
        return rng.uniform(*((0.5, 1.5) if name.endswith("linear_attn.norm.weight") else norms), shape)
    if "embed" in name:  # tied ones are the head as well
        return rng.normal(0.0, 2.0 / math.sqrt(shape[1]), shape)
    gains = {
        "conv1d": 1.0, "head": 2.0, "encoder": 1.0, "in_proj": 1.0, "x_proj": 1.5, "dt_proj": 0.25,
        "q_proj": qk, "k_proj": qk,  # enough for an attention that is neither flat nor a single token
        "adapter_list": 0.7, "router": 1.5,
    }
    path = name.split(".")
    # Zamba's x_proj_weight is a parameter without a module of its own, an adapter is a list of two.
    module = path[-1] if path[-1] != "weight" else path[-2] if not path[-2].isdigit() else path[-4]
    gain = next((g for key, g in gains.items() if key in module), 1.0)
    stacked = len(shape) == 3 and shape[1] != 1  # one matrix an expert or a head; [C, 1, K] is a convolution
    return rng.normal(0.0, gain / math.sqrt(shape[-1] if stacked else math.prod(shape[1:])), shape)


def inverse_softplus(y):
    return y + np.log(-np.expm1(-y))


def draw_all(shapes, rng, **ranges):
    """`shapes`: name -> shape, in a fixed order. Returns f32 arrays."""
    weights = {name: draw(name, shape, rng, **ranges) for name, shape in shapes.items()}
    for name in weights:
        projection = name.replace("dt_bias", "in_proj.weight")
        if name.endswith("dt_bias") and projection in weights:
            # Mamba-2: the last rows of in_proj are dt; at full size they would swamp dt_bias.
            weights[projection][-len(weights[name]):] *= 0.4
    return {name: w.astype(np.float32) for name, w in weights.items()}


def parts(weights):
    """Each tensor, or each matrix of a stack (of experts, of heads), as a view."""
    for name, w in weights.items():
        if w.ndim == 3 and w.shape[1] != 1:
            yield from ((f"{name}[{i}]", matrix) for i, matrix in enumerate(w))
        else:
            yield name, w


def weakest_tensor(logits, weights, expected):
    """The tensor whose shuffling changes the logits least, and by how much. `logits()` must read `weights` anew."""
    effects = {}
    for name, w in parts(weights):
        kept = w.copy()
        w[...] = np.roll(w, 1)
        effects[name] = np.abs(logits() - expected).max() / np.abs(expected).max()
        w[...] = kept
    name = min(effects, key=effects.get)
    return name, effects[name]


def sensitivity(logits, weights, expected, amount=1e-6):
    """How much more than by `amount` the logits move when every weight moves by that share of itself.

    A large answer means that rounding decides something, as when two experts are nearly tied.
    """
    rng = np.random.default_rng(0)
    kept = {name: w.copy() for name, w in weights.items()}
    for w in weights.values():
        w *= (1 + amount * rng.standard_normal(w.shape)).astype(np.float32)
    moved = np.abs(logits() - expected).max() / np.abs(expected).max()
    for name, w in weights.items():
        w[...] = kept[name]
    return moved / amount
