#!/usr/bin/env python3
"""Trains the small text model: a Mamba-2 + attention hybrid, written as a Hugging Face checkpoint (granitemoehybrid, dense).

    train_text.py train --data DIR --out DIR --seconds 560     on a GPU; DIR as text_corpus.py wrote it
    train_text.py sizes --data DIR                             parameters and the bytes of the quantized file
    train_text.py check --checkpoint DIR --text heldout.txt    perplexity here and with transformers, and a few samples

The schedule follows the wall clock: the learning rate reaches zero when --seconds are over, however fast the machine is.
A checkpoint is also written at half time. Needs: torch, numpy, safetensors, tokenizers; `check` also transformers 5.
"""
import argparse
import json
import lzma
import math
import time
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

START = time.time()

# 10 layers, 8 of them recurrent. The widths are multiples of 32 (the quantizer's block), and the whole lands just under
# 6 MiB with the blocks at 4.25 bits a weight. attention_multiplier is deliberately not head_dim ** -0.5: a runtime that
# ignores the key shows it at once.
CONFIG = {
    "architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid",
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 640, "shared_intermediate_size": 640,
    "num_hidden_layers": 10, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "embedding_multiplier": 12.0, "logits_scaling": 2.0, "residual_multiplier": 0.25, "attention_multiplier": 0.0625,
    "num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "nope", "attention_bias": False,
    "layer_types": ["mamba", "mamba", "mamba", "attention", "mamba", "mamba", "mamba", "mamba", "attention", "mamba"],
    "mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_d_state": 64, "mamba_d_head": 64, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "torch_dtype": "bfloat16", "dtype": "bfloat16",
}

# ---------------------------------------------------------------------------------------------------------------------
# The model. Modules carry the names of the checkpoint's tensors, so the state dict is the checkpoint.


class Weight(nn.Module):
    """A tensor called NAME.weight, with NAME.bias where asked for."""

    def __init__(self, *shape, bias=None, value=None, std=None):
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape, float(value)) if value is not None else torch.randn(shape) * std)
        if bias is not None:
            self.bias = nn.Parameter(torch.zeros(bias))


def linear(x, weight):
    return F.linear(x, weight.to(x.dtype))


def rms_norm(x, weight, eps, dtype):
    x = x.float()                                                     # statistics in f32 whatever the products use
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


def ssd(x, dt, A, B, C, chunk):
    """The recurrence S = exp(dt A) S + dt x B^T, y = S C, over a whole sequence as matrix products.

    Within a chunk every pair of positions is one entry of a masked matrix; between chunks only the state is carried.
    Log-decays are summed and exponentiated in f32; the products run in x's type.
    x (batch, seq, heads, head_dim), dt (batch, seq, heads) f32, A (heads,) f32 negative, B and C (batch, seq, d_state)
    """
    b, t, h, p = x.shape
    n, c, dtype = B.shape[-1], t // chunk, x.dtype
    a = (dt * A).view(b, c, chunk, h)
    total = a.cumsum(2)                                               # (batch, chunks, chunk, heads)
    x = (x * dt[..., None]).to(dtype).view(b, c, chunk, h, p)
    B, C = B.view(b, c, chunk, n), C.view(b, c, chunk, n)

    # Inside the chunk: y_i += sum over j <= i of exp(total_i - total_j) (C_i . B_j) x_j
    th = total.transpose(2, 3)                                        # (batch, chunks, heads, chunk)
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    decay = (th[..., :, None] - th[..., None, :]).masked_fill(~causal, float("-inf")).exp()
    pairs = C @ B.transpose(2, 3)                                     # (batch, chunks, chunk, chunk): shared by all heads
    mix = (pairs[:, :, None] * decay).to(dtype)                       # (batch, chunks, heads, chunk, chunk)
    y = (mix @ x.transpose(2, 3)).transpose(2, 3)                     # (batch, chunks, chunk, heads, head_dim)

    # What each chunk leaves behind, with the decay up to the chunk's end
    last = total[:, :, -1]                                            # (batch, chunks, heads)
    left = (x * (last[:, :, None] - total).exp()[..., None]).to(dtype).reshape(b, c, chunk, h * p)
    states = left.transpose(2, 3) @ B                                 # (batch, chunks, heads * head_dim, d_state)

    # The state that enters chunk i: sum over j < i of exp(decay of the chunks between) states_j
    ends = last.cumsum(1).transpose(1, 2)                             # (batch, heads, chunks)
    before = torch.ones(c, c, dtype=torch.bool, device=x.device).tril(-1)
    carry = (ends - last.transpose(1, 2))[..., :, None] - ends[..., None, :]
    carry = carry.masked_fill(~before, float("-inf")).exp().to(dtype)  # (batch, heads, chunks, chunks)
    states = states.view(b, c, h, p * n).transpose(1, 2)              # (batch, heads, chunks, head_dim * d_state)
    enter = (carry @ states).view(b, h, c, p, n).permute(0, 2, 4, 1, 3).reshape(b, c, n, h * p)
    y = y + (C @ enter).view(b, c, chunk, h, p) * total.exp()[..., None]
    return y.reshape(b, t, h, p)


class Mamba(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.heads, self.head_dim, self.state = k["mamba_n_heads"], k["mamba_d_head"], k["mamba_d_state"]
        self.inner, self.eps = self.heads * self.head_dim, k["rms_norm_eps"]
        d, channels = k["hidden_size"], self.inner + 2 * self.state
        self.in_proj = Weight(self.inner + channels + self.heads, d, std=0.6 * d ** -0.5)
        self.conv1d = Weight(channels, 1, k["mamba_d_conv"], bias=channels, std=0.3)
        # Time constants from 1 to 1000 tokens and more: softplus(dt_bias) between 0.001 and 0.1, A between -1 and -16.
        dt = torch.exp(torch.rand(self.heads) * math.log(100) + math.log(0.001))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = Weight(self.inner, value=1)
        self.out_proj = Weight(d, self.inner, std=0.3 * self.inner ** -0.5)

    def forward(self, x, chunk):
        b, t, _ = x.shape
        z, u, dt = linear(x, self.in_proj.weight).split([self.inner, self.inner + 2 * self.state, self.heads], -1)
        # Depthwise causal convolution as four shifted products: these fuse, a grouped convolution does not.
        width = self.conv1d.weight.shape[-1]
        padded = F.pad(u, (0, 0, width - 1, 0))                       # (batch, seq + 3, channels)
        u = self.conv1d.bias + sum(padded[:, j:j + t] * self.conv1d.weight[:, 0, j] for j in range(width))
        u = F.silu(u).to(x.dtype)
        u, B, C = u.split([self.inner, self.state, self.state], -1)
        u = u.view(b, t, self.heads, self.head_dim)
        dt = F.softplus(dt.float() + self.dt_bias)                    # (batch, seq, heads)
        y = ssd(u, dt, -self.A_log.float().exp(), B, C, chunk) + u * self.D[:, None]
        y = y.reshape(b, t, self.inner).float() * F.silu(z.float())
        return linear(rms_norm(y, self.norm.weight, self.eps, x.dtype), self.out_proj.weight)


class Attention(nn.Module):
    def __init__(self, k):
        super().__init__()
        d = k["hidden_size"]
        self.heads, self.kv_heads, self.scale = k["num_attention_heads"], k["num_key_value_heads"], k["attention_multiplier"]
        self.head_dim = d // self.heads
        std = 0.6 * d ** -0.5
        self.q_proj = Weight(d, d, std=std)
        self.k_proj = Weight(self.kv_heads * self.head_dim, d, std=std)
        self.v_proj = Weight(self.kv_heads * self.head_dim, d, std=std)
        self.o_proj = Weight(d, d, std=0.3 * d ** -0.5)

    def forward(self, x):
        b, t, d = x.shape

        def split(weight, heads):                                     # (batch, heads, seq, head_dim)
            return linear(x, weight).view(b, t, heads, self.head_dim).transpose(1, 2)
        q, k, v = (split(self.q_proj.weight, self.heads), split(self.k_proj.weight, self.kv_heads),
                   split(self.v_proj.weight, self.kv_heads))
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return linear(y.transpose(1, 2).reshape(b, t, d), self.o_proj.weight)


class SharedMlp(nn.Module):
    def __init__(self, k):
        super().__init__()
        d, s = k["hidden_size"], k["shared_intermediate_size"]
        self.input_linear = Weight(2 * s, d, std=0.6 * d ** -0.5)     # rows: gate, then up
        self.output_linear = Weight(d, s, std=0.3 * s ** -0.5)

    def forward(self, x):
        gate, up = linear(x, self.input_linear.weight).chunk(2, -1)
        return linear(F.silu(gate) * up, self.output_linear.weight)


class Layer(nn.Module):
    def __init__(self, k, kind):
        super().__init__()
        d = k["hidden_size"]
        self.eps, self.multiplier, self.kind = k["rms_norm_eps"], k["residual_multiplier"], kind
        self.input_layernorm = Weight(d, value=1)
        self.post_attention_layernorm = Weight(d, value=1)
        if kind == "mamba":
            self.mamba = Mamba(k)
        else:
            self.self_attn = Attention(k)
        self.shared_mlp = SharedMlp(k)

    def forward(self, x, chunk, dtype):
        """x: the residual stream (batch, seq, hidden), always f32"""
        h = rms_norm(x, self.input_layernorm.weight, self.eps, dtype)
        h = self.mamba(h, chunk) if self.kind == "mamba" else self.self_attn(h)
        x = x + h.float() * self.multiplier
        h = self.shared_mlp(rms_norm(x, self.post_attention_layernorm.weight, self.eps, dtype))
        return x + h.float() * self.multiplier


class Hybrid(nn.Module):
    def __init__(self, k, chunk=64):
        super().__init__()
        self.k, self.chunk = k, chunk
        self.model = nn.Module()
        # times embedding_multiplier the stream starts with variance 1
        self.model.embed_tokens = Weight(k["vocab_size"], k["hidden_size"], std=1 / k["embedding_multiplier"])
        self.model.layers = nn.ModuleList(Layer(k, kind) for kind in k["layer_types"])
        self.model.norm = Weight(k["hidden_size"], value=1)

    def head(self, x, targets, dtype):
        """Per-token losses (batch, seq), or the logits (batch, seq, vocab) when there are no targets."""
        x = rms_norm(x, self.model.norm.weight, self.k["rms_norm_eps"], dtype)
        logits = linear(x, self.model.embed_tokens.weight).float() / self.k["logits_scaling"]
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def forward(self, ids, targets=None, dtype=torch.float32):
        length = ids.shape[1]
        ids = F.pad(ids, (0, -length % self.chunk))                   # causal: what follows the end changes nothing
        x = F.embedding(ids, self.model.embed_tokens.weight).float() * self.k["embedding_multiplier"]
        for layer in self.model.layers:
            x = layer(x, self.chunk, dtype)
        return self.head(x[:, :length], targets, dtype)


def perplexity(logits_of, ids, window=512, batch=16, limit=None):
    """Windows from an empty state, the second half of each scored: the protocol of the project's perplexity figures."""
    windows = ids[:len(ids) // window * window].view(-1, window)[:limit]
    first, nll, count = window // 2 - 1, 0.0, 0                       # logits at t score the token at t + 1
    with torch.no_grad():
        for x in windows.split(batch):
            logp = torch.log_softmax(logits_of(x).float()[:, first:-1], -1)
            nll -= logp.gather(2, x[:, first + 1:, None]).double().sum().item()
            count += x[:, first + 1:].numel()
    return math.exp(nll / count), count


# ---------------------------------------------------------------------------------------------------------------------
# Optimisation: matrices by Muon (the momentum's nearest orthogonal matrix as the step), everything else by AdamW.
# Muon spreads the update over all directions, which also keeps outliers out of weights that will be rounded to 4 bits.


def orthogonalize(g, steps=5):
    """Newton-Schulz iteration on a stack of matrices (count, rows, cols), rows <= cols; singular values end near 1."""
    x = g.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    return x


class Muon(torch.optim.Optimizer):
    """params: list of (parameter, row counts of the separate maps stacked in it). Same-shaped pieces go through together."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__([p for p, _ in params], dict(lr=lr, weight_decay=weight_decay, momentum=momentum))
        self.rows = {p: rows for p, rows in params}

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        parameters = group["params"]
        buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
        grads = [p.grad for p in parameters]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        grads = torch._foreach_lerp(grads, buffers, group["momentum"])    # Nesterov
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        shapes = {}
        for p, g in zip(parameters, grads):
            for piece, target in zip(g.split(self.rows[p]), p.split(self.rows[p])):
                turned = piece.shape[0] > piece.shape[1]
                piece, target = (piece.mT, target.mT) if turned else (piece, target)
                shapes.setdefault(piece.shape, []).append((piece, target))
        for shape, entries in shapes.items():
            update = orthogonalize(torch.stack([piece for piece, _ in entries])).float()
            # the scale gives every element AdamW's usual step of 0.2 lr
            torch._foreach_add_([t for _, t in entries], list(update.unbind()), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def make_optimizers(model, lr, embedding_lr, vector_lr, weight_decay):
    matrices, vectors = [], []
    for name, p in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            continue
        if p.ndim == 2:
            rows = [p.shape[0]]
            if "in_proj" in name:
                inner = model.k["mamba_n_heads"] * model.k["mamba_d_head"]
                rows = [inner, inner, p.shape[0] - 2 * inner]         # z, x, (B, C, dt)
            elif "input_linear" in name:
                rows = [p.shape[0] // 2] * 2
            matrices.append((p, rows))
        else:
            vectors.append(p)
    adam = dict(betas=(0.9, 0.95), fused=True)
    return [Muon(matrices, lr, weight_decay=weight_decay),
            torch.optim.AdamW([model.model.embed_tokens.weight], lr=embedding_lr, weight_decay=0.01, **adam),
            torch.optim.AdamW(vectors, lr=vector_lr, weight_decay=0, **adam)]


# ---------------------------------------------------------------------------------------------------------------------
# Data, files


def load_tokens(data, device):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    documents = lzma.decompress((data / "train.txt.xz").read_bytes()).decode().split("\0")
    parts = []
    for i in range(0, len(documents), 2000):
        for encoding in tokenizer.encode_batch_fast(documents[i:i + 2000]):
            parts += [np.array(encoding.ids, dtype=np.int16), np.zeros(1, dtype=np.int16)]    # 0 ends a document
    tokens = torch.from_numpy(np.concatenate(parts)).to(device)
    held = tokenizer.encode((data / "heldout.txt").read_text(encoding="utf-8")).ids
    print(f"[{time.time() - START:5.1f} s] {len(tokens) / 1e6:.2f} M tokens, {len(documents)} documents; "
          f"held out {len(held)} tokens", flush=True)
    return tokens, torch.tensor(held, device=device)


def batches(tokens, batch, seq, seed):
    """Endless (batch, seq + 1) windows: every epoch cuts the stream at another offset and shuffles the windows."""
    generator = torch.Generator(device=tokens.device).manual_seed(seed)
    steps = torch.arange(seq + 1, device=tokens.device)
    while True:
        offset = torch.randint(seq, (1,), generator=generator, device=tokens.device)
        count = (len(tokens) - seq - 1) // seq
        order = torch.randperm(count - 1, generator=generator, device=tokens.device) * seq + offset
        for i in range(0, len(order) - batch + 1, batch):
            yield tokens[order[i:i + batch, None] + steps].long()


def save(model, out, data, shard_bytes):
    """bf16 shards with an index, config and tokenizer: what from_pretrained reads."""
    from safetensors.torch import save_file
    out.mkdir(parents=True, exist_ok=True)
    shards, used = [{}], 0
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to(torch.bfloat16).cpu().contiguous()
        if used + tensor.nbytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    index = {"metadata": {"total_size": sum(t.nbytes for s in shards for t in s.values())}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        index["weight_map"].update({name: file for name in shard})
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (out / "config.json").write_text(json.dumps(model.k, indent=1) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if data is not None and (data / name).exists():
            (out / name).write_bytes((data / name).read_bytes())


def load(checkpoint, program):
    from safetensors.torch import load_file
    model = program.architecture(json.loads((checkpoint / "config.json").read_text()))
    state = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        state.update({name: t.float() for name, t in load_file(file).items()})
    model.load_state_dict(state)
    return model.eval()


class Program(NamedTuple):
    """What another model of this kind brings along: train_hybrid.py has a second one."""
    architecture: type
    config: dict
    optimizers: Callable


def sizes(program, tokenizer_bytes):
    """Parameters and the expected bytes of the quantized file: blocks of 4 bits, embedding of 8, a scale of 1/4 bit a weight."""
    model = program.architecture(program.config)
    total, weights = tokenizer_bytes, 0
    for name, p in model.named_parameters():
        weights += p.numel()
        if p.ndim == 2:
            rows, cols = -(-p.shape[0] // 16) * 16, -(-p.shape[1] // 32) * 32
            total += int(rows * cols * (1.03125 if "embed_tokens" in name else 0.53125)) + 4 * rows
        else:
            total += 4 * p.numel()
    return weights, total


# ---------------------------------------------------------------------------------------------------------------------


def train(args, program):
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("highest")
    device, on_gpu = args.device, args.device == "cuda"
    k = dict(program.config)
    model = program.architecture(k, args.chunk).to(device)
    print("%d parameters, %d bytes expected" % sizes(program, (args.data / "tokenizer.json").stat().st_size))
    tokens, held = load_tokens(args.data, device)
    optimizers = program.optimizers(model, args.lr, args.embedding_lr, args.vector_lr, args.weight_decay)
    rates = [o.param_groups[0]["lr"] for o in optimizers]
    # One compiled layer serves all layers of its kind: a tenth of the time that compiling the whole model takes.
    if on_gpu:
        for layer in model.model.layers:
            layer.compile(dynamic=False)
        model.head = torch.compile(model.head, dynamic=False)

    def evaluate(limit=None):
        # uncompiled and in f32: the figure that other programs have to reproduce
        plain = program.architecture(k, args.chunk).to(device)
        plain.load_state_dict({n: t.to(torch.bfloat16).float() for n, t in model.state_dict().items()})
        return perplexity(plain, held, limit=limit)[0]

    phases = [(int(s), float(e)) for s, e in (part.split(":") for part in args.phases.split(","))]
    seen = step = phase = 0
    loader, halved, begun, losses, reported = None, False, None, [], None
    while True:
        now = time.time()
        # the clock of the schedule starts after the first step, which compiles
        progress = 0.0 if begun is None else (now - begun) / (START + args.seconds - begun)
        if progress >= 1 or step == args.steps:
            break
        if loader is None or progress >= phases[phase][1]:
            phase += loader is not None
            seq = phases[phase][0]
            loader = batches(tokens, args.tokens // seq, seq, args.seed + phase)
        warm = min(1.0, (step + 1) / args.warmup)
        scale = warm * min(1.0, (1 - progress) / (1 - args.decay_from))   # constant, then linearly to zero
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate * scale
        window = next(loader)                                         # (batch, seq + 1)
        loss = model(window[:, :-1], window[:, 1:].contiguous(), torch.bfloat16).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        step += 1
        seen += window.shape[0] * seq
        if step % args.report == 0 or begun is None:
            mean = torch.stack(losses).mean().item()                  # waits for the device
            now = time.time()
            rate = (seen - reported[1]) / (now - reported[0]) if reported else 0
            print(f"[{now - START:5.1f} s] step {step} seq {seq} {seen / 1e6:.1f} M tokens, loss {mean:.4f}, lr x {scale:.3f}, "
                  f"{rate / 1e3:.0f} k tokens/s", flush=True)
            reported, losses = (now, seen), []
            begun = begun or now
        elif on_gpu and step % 8 == 0:
            torch.cuda.synchronize()                                  # keeps the clock honest: the queue is never long
        if not halved and progress > 0.5 and not args.no_half:
            halved = True
            save(model, args.out / "half", args.data, args.shard_bytes)
            print(f"[{time.time() - START:5.1f} s] half time: held-out perplexity {evaluate(60):.3f} (60 windows)", flush=True)
    if step == args.steps or args.steps is None:
        result = {"step": step, "tokens_seen": seen, "epochs": seen / len(tokens), "seconds": time.time() - START}
        save(model, args.out / "checkpoint", None, args.shard_bytes)
        result["heldout_perplexity_60_windows"] = evaluate(60)
        result["heldout_perplexity"] = evaluate()
        (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        print(f"[{time.time() - START:5.1f} s] {json.dumps(result)}", flush=True)


def check(args, program):
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(args.text.read_text(encoding="utf-8")).ids)
    ours = load(args.checkpoint, program)
    theirs = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    here, count = perplexity(ours, ids, limit=args.windows)
    there, _ = perplexity(lambda x: theirs(x).logits, ids, limit=args.windows, batch=4)
    with torch.no_grad():
        difference = (ours(ids[None, :300]) - theirs(ids[None, :300]).logits).abs().max().item()
    print(f"perplexity over {count} tokens: {here:.4f} here, {there:.4f} with transformers; "
          f"largest logit difference {difference:.2e}")
    torch.manual_seed(1)
    for prompt in args.prompt:
        x = torch.tensor([tokenizer.encode(prompt).ids])
        for name, options in (("greedy", dict(do_sample=False)),
                              ("temperature 0.7", dict(do_sample=True, temperature=0.7, top_k=0, top_p=1.0))):
            y = theirs.generate(x, max_new_tokens=args.length, pad_token_id=0, eos_token_id=None, **options)[0]
            print(f"--- {name}: {tokenizer.decode(y.tolist(), skip_special_tokens=False)}")


def main(description, program, **defaults):
    """defaults: of the options of `train`, where they are not train_text.py's"""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    p = verbs.add_parser("train", help="train on a GPU")
    p.add_argument("--data", type=Path, required=True, help="train.txt.xz, heldout.txt, tokenizer.json")
    p.add_argument("--out", type=Path, required=True, help="gets half/, checkpoint/ and result.json")
    p.add_argument("--seconds", type=float, default=560, help="wall-clock length, from the program's start to the last step")
    p.add_argument("--device", default="cuda", help="cpu: uncompiled, for trying the program out")
    p.add_argument("--steps", type=int, help="stop after so many steps instead (tests)")
    p.add_argument("--tokens", type=int, default=131072, help="tokens in a batch")
    p.add_argument("--phases", default="512:0.6,2048:1", help="sequence length:until which part of the time, ...")
    p.add_argument("--chunk", type=int, default=64, help="chunk of the matrix form; never changes the function")
    p.add_argument("--lr", type=float, default=1e-2, help="matrices")
    p.add_argument("--embedding-lr", type=float, default=6e-3)
    p.add_argument("--vector-lr", type=float, default=4e-3, help="norms, convolutions, decays")
    p.add_argument("--weight-decay", type=float, default=0.1, help="matrices")
    p.add_argument("--warmup", type=int, default=100, help="steps")
    p.add_argument("--decay-from", type=float, default=0.35, help="part of the time after which the rate falls")
    p.add_argument("--report", type=int, default=50, help="steps between lines of the log")
    p.add_argument("--no-half", action="store_true", help="no checkpoint at half time")
    p.add_argument("--shard-bytes", type=int, default=12_000_000, help="of a file of the checkpoint")
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(**defaults)
    p = verbs.add_parser("sizes", help="parameters and file size")
    p.add_argument("--data", type=Path, required=True)
    p = verbs.add_parser("check", help="compare with transformers, and sample")
    p.add_argument("--checkpoint", type=Path, required=True)
    p.add_argument("--text", type=Path, required=True)
    p.add_argument("--windows", type=int, default=60)
    p.add_argument("--prompt", nargs="*", default=["The file system is"])
    p.add_argument("--length", type=int, default=120)
    args = parser.parse_args()
    if args.verb == "sizes":
        print("%d parameters, %d bytes expected" % sizes(program, (args.data / "tokenizer.json").stat().st_size))
    else:
        {"train": train, "check": check}[args.verb](args, program)


if __name__ == "__main__":
    main(__doc__, Program(Hybrid, CONFIG, make_optimizers))
