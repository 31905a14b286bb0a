#!/usr/bin/env python3
"""Train the watch sensor model: a causal classifier of shoulder exercises from a wrist IMU.

Data: the 140 smartwatch recordings of seglearn 1.2.5 (10 subjects, 7 exercises, 2 sides, 50 Hz,
6 channels).  Five folds by subject: {1,6} {2,7} {3,8} {4,9} {5,10}.  One recipe and one number of
steps serve all folds, and the last step's weights are kept: nothing is chosen per fold.  The recipe
itself was settled by comparing some two dozen variants on the mean over the five folds, so that mean is
slightly optimistic.

The model is two Mamba-2 blocks between a linear encoder and a linear head.  It starts from a
zero state at each recording's start and gives logits at every sample; it is judged at samples
100, 150, 200, ... (the ends of 2 s windows with 50 % overlap).

Every parameter has a leading "model" axis: all folds and seeds train side by side as one batched
computation, because a single model this small would leave the processor idle.

    train_watch.py --out runs/watch                        # all five folds, seed 0
    train_watch.py --out runs/watch --fold 2 --seeds 3     # one fold, seeds 0, 1 and 2
    train_watch.py --fold 2 --export-csv recordings        # only write fold 2's test recordings

The shipped model is seed 0 of `--seeds 3` on a GPU.  Augmentation draws are shared by the models that
train together, so another choice of folds and seeds gives slightly different weights.

Shapes in comments: m models, b recordings in a batch, t samples, d model width, e inner width,
h heads, p head width, n state size, c chunks, q samples in a chunk.
"""

import argparse
import csv
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CLASSES = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]
UNITS = ["g", "g", "g", "rad/s", "rad/s", "rad/s"]
RATE_HZ = 50.0
FOLDS = [(1, 6), (2, 7), (3, 8), (4, 9), (5, 10)]
WINDOW, HOP = 100, 50  # samples: 2 s windows, 50 % overlap
CHUNK = 32  # samples computed together; it does not change the result
EPS = 1e-5

# 53 KiB of weights at 8 bits, so it fits a small device with room to spare.
MODEL = dict(d_model=48, n_layer=2, d_state=16, d_conv=4, expand=2, headdim=16, pooling="mean")

RECIPE = dict(
    steps=4000,
    warmup=100,
    batch=8,             # crops per step and model
    crop=1024,           # samples: about 20 s
    lr=3e-3,
    weight_decay=0.1,
    clip=1.0,
    ema=0.995,           # the shipped weights are this running average
    qat_from=0.6,        # fraction of the steps after which weights and activations are fake-quantized
    loss_from=50,        # samples after the reset before the loss counts
    smoothing=0.1,
    dropout=0.2,
    rotate=8.0,          # degrees, standard deviation per axis: how the watch sits on the wrist
    roll=15.0,           # extra degrees about the forearm (x)
    mirror=0.5,          # probability of turning a left arm into a right one, or back
    speed=0.25,          # log standard deviation of the tempo
    warp=0.15,           # slow change of tempo inside a crop
    scale_acc=0.05,
    scale_gyro=0.2,
    offset=0.08,         # in channel standard deviations
    jitter=0.1,          # in channel standard deviations
)


# ---------------------------------------------------------------------------------------------- data


def find_data():
    """The recordings inside the installed seglearn package (found without importing it)."""
    import importlib.util

    spec = importlib.util.find_spec("seglearn")
    return Path(spec.origin).parent / "data" / "watch_dataset.npy" if spec else None


def read_data(path):
    """seglearn's .npy (a pickled dict: only open a file you trust) or a .npz made by --save-npz."""
    path = Path(path)
    if path.suffix == ".npz":
        z = np.load(path)
        samples = np.split(z["samples"], np.cumsum(z["lengths"])[:-1])
        label, subject, side = z["label"], z["subject"], z["side"]
    else:
        z = np.load(path, allow_pickle=True).item()
        samples, label, subject, side = z["X"], z["y"], z["subject"], z["side"]
        assert list(z["y_labels"]) == CLASSES and list(z["X_labels"]) == CHANNELS
    return dict(
        samples=[np.asarray(s, np.float32) for s in samples],  # each [t, 6]
        label=np.asarray(label).astype(np.int64),
        subject=np.asarray(subject).astype(np.int64),
        side=np.asarray(side).astype(np.int64),  # 0 left, 1 right
    )


def save_npz(data, path):
    np.savez_compressed(
        path,
        samples=np.concatenate(data["samples"]),
        lengths=np.array([len(s) for s in data["samples"]]),
        label=data["label"], subject=data["subject"], side=data["side"],
    )


def split(data, fold):
    """Indices of the training and test recordings of one fold."""
    test = np.isin(data["subject"], FOLDS[fold])
    return np.flatnonzero(~test), np.flatnonzero(test)


def export_csv(data, fold, folder):
    """Every test recording of a fold as CSV, its label in the name, and labels.csv."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names, count = [], {}
    for i in split(data, fold)[1]:
        label, side = CLASSES[data["label"][i]], ["left", "right"][data["side"][i]]
        stem = f"subject{data['subject'][i]:02d}_{label}_{side}"
        count[stem] = count.get(stem, 0) + 1
        name = f"{stem}_{count[stem]:02d}.csv"
        np.savetxt(folder / name, data["samples"][i], fmt="%.6g", delimiter=",",
                   header=",".join(CHANNELS), comments="")
        names.append((name, label))
    with open(folder / "labels.csv", "w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([("file", "label"), *sorted(names)])


# --------------------------------------------------------------------------------------------- model


def init(cfg, seed):
    """Parameters of one model, under the names of the checkpoint."""
    g = torch.Generator().manual_seed(seed)
    d, n, k = cfg["d_model"], cfg["d_state"], cfg["d_conv"]
    e = cfg["expand"] * d
    h, ch = e // cfg["headdim"], e + 2 * n

    def uniform(*shape, bound):
        return (torch.rand(*shape, generator=g) * 2 - 1) * bound

    p = {"backbone.encoder.weight": uniform(d, len(CHANNELS), bound=len(CHANNELS) ** -0.5),
         "backbone.encoder.bias": torch.zeros(d)}
    for i in range(cfg["n_layer"]):
        at = f"backbone.layers.{i}."
        # Mamba-2's usual start: time steps log-uniform in 0.001..0.1, decay rates uniform in 1..16.
        dt = torch.exp(torch.rand(h, generator=g) * math.log(100.0) + math.log(1e-3))
        p |= {
            at + "norm.weight": torch.ones(d),
            at + "mixer.in_proj.weight": uniform(2 * e + 2 * n + h, d, bound=d ** -0.5),  # z x B C dt
            at + "mixer.conv1d.weight": uniform(ch, 1, k, bound=k ** -0.5),
            at + "mixer.conv1d.bias": uniform(ch, bound=k ** -0.5),
            at + "mixer.dt_bias": dt + torch.log(-torch.expm1(-dt)),  # inverse of softplus
            at + "mixer.A_log": torch.log(torch.rand(h, generator=g) * 15 + 1),
            at + "mixer.D": torch.ones(h),
            at + "mixer.norm.weight": torch.ones(e),
            at + "mixer.out_proj.weight": uniform(d, e, bound=(e * cfg["n_layer"]) ** -0.5),
        }
    p |= {"backbone.norm_f.weight": torch.ones(d),
          "head.weight": uniform(len(CLASSES), d, bound=d ** -0.5),
          "head.bias": torch.zeros(len(CLASSES))}
    return p


def decays(name):
    """Weight decay is for the matrices; norms, biases, time steps and A keep their scale."""
    return name.endswith(("_proj.weight", "encoder.weight", "head.weight"))


def fake_quant(x, top):
    """Round to integers -top..top with one scale per group of 32 along the last axis; the gradient
    passes straight through."""
    peak = [g.abs().amax(-1, keepdim=True).expand_as(g) for g in x.detach().split(32, -1)]
    scale = (torch.cat(peak, -1) / top).clamp(min=1e-12)
    return x + ((x / scale).round() * scale - x).detach()


def linear(x, w, quant):
    """x [m,b,t,in], w [m,out,in] -> [m,b,t,out].  quant: None, or the largest weight integer."""
    if quant is not None:
        x, w = fake_quant(x, 127.0), fake_quant(w, quant)
    m, b, t, _ = x.shape
    return torch.bmm(x.reshape(m, b * t, -1), w.transpose(1, 2)).view(m, b, t, -1)


def per(v):
    """A per-model parameter [m,...] broadcast over the batch and time axes."""
    return v[:, None, None]


def rms(x, w):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * per(w)


def ssd(x, dt, A, B, C, q=CHUNK):
    """The Mamba-2 recurrence S_t = exp(dt A) S_{t-1} + dt x B^T, y_t = S_t C in chunks of q samples:
    quadratic inside a chunk and between the chunks' end states, with nothing sequential.
    x [m,b,t,h,p], dt [m,b,t,h], A [m,h], B and C [m,b,t,n] -> y [m,b,t,h,p]."""
    x, dt, B, C = (v.unflatten(2, (-1, q)) for v in (x, dt, B, C))       # [m,b,c,q,...]
    L = (dt * A[:, None, None, None]).cumsum(3).transpose(3, 4)          # [m,b,c,h,q]
    x = (x * dt.unsqueeze(-1)).transpose(3, 4)                           # [m,b,c,h,q,p]
    # Masking before exp keeps the unused upper triangle from overflowing.
    above = torch.ones(q, q, dtype=torch.bool, device=x.device).triu(1)
    decay = (L.unsqueeze(-1) - L.unsqueeze(-2)).masked_fill(above, -1e30).exp()  # [m,b,c,h,q,q]
    inside = (C @ B.transpose(-1, -2)).unsqueeze(3) * decay
    y = inside @ x                                                       # [m,b,c,h,q,p]
    end = L[..., -1:]                                                    # [m,b,c,h,1]
    states = (x * (end - L).exp().unsqueeze(-1)).transpose(-1, -2) @ B.unsqueeze(3)  # [m,b,c,h,p,n]
    total = end.squeeze(-1).transpose(2, 3).cumsum(-1)                   # [m,b,h,c]
    c = total.shape[-1]
    # State entering chunk i: earlier chunks' end states, decayed over the whole chunks between.
    entering = F.pad(total, (1, 0))[..., :-1]
    later = torch.ones(c, c, dtype=torch.bool, device=x.device).triu(0)
    carry = (entering.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -1e30).exp()
    before = torch.einsum("mbhij,mbjhpn->mbihpn", carry, states)
    y = y + L.exp().unsqueeze(-1) * (C.unsqueeze(3) @ before.transpose(-1, -2))
    return y.transpose(3, 4).flatten(2, 3)


def mixer(p, at, x, cfg, quant):
    """x [m,b,t,d] -> [m,b,t,d]."""
    e, n, k = cfg["expand"] * cfg["d_model"], cfg["d_state"], cfg["d_conv"]
    h, t = e // cfg["headdim"], x.shape[2]
    z, xbc, dt = linear(x, p[at + "in_proj.weight"], quant).split([e, e + 2 * n, h], -1)
    conv = p[at + "conv1d.weight"][:, :, 0]                              # [m,e+2n,k], last is now
    past = F.pad(xbc, (0, 0, k - 1, 0))
    xbc = sum(past[:, :, j : j + t] * per(conv[..., j]) for j in range(k))
    x, B, C = F.silu(xbc + per(p[at + "conv1d.bias"])).split([e, n, n], -1)
    x = x.unflatten(-1, (h, -1))                                         # [m,b,t,h,p]
    dt = F.softplus(dt + per(p[at + "dt_bias"]))
    y = ssd(x, dt, -p[at + "A_log"].exp(), B, C)
    y = (y + per(p[at + "D"]).unsqueeze(-1) * x).flatten(-2) * F.silu(z)
    return linear(rms(y, p[at + "norm.weight"]), p[at + "out_proj.weight"], quant)


def drop(x, rate):
    """Dropout of whole features over time, so that the recurrence sees a steady mask."""
    if rate is None:
        return x
    keep = torch.rand(*x.shape[:2], 1, x.shape[3], device=x.device) >= rate
    return x * keep / (1 - rate)


def forward(p, x, cfg, quant=None, dropout=None):
    """Normalised samples x [m,b,t,6], t a multiple of the chunk -> logits [m,b,t,classes]."""
    x = linear(x, p["backbone.encoder.weight"], quant) + per(p["backbone.encoder.bias"])
    for i in range(cfg["n_layer"]):
        at = f"backbone.layers.{i}."
        x = x + drop(mixer(p, at + "mixer.", rms(x, p[at + "norm.weight"]), cfg, quant), dropout)
    x = drop(rms(x, p["backbone.norm_f.weight"]), dropout)
    if cfg["pooling"] == "mean":  # running mean since the reset
        x = x.cumsum(2) / torch.arange(1, x.shape[2] + 1, device=x.device)[:, None]
    return linear(x, p["head.weight"], quant) + per(p["head.bias"])


# ------------------------------------------------------------------------------------------ training


class Recordings:
    """All recordings on the device, padded to one length."""

    def __init__(self, data, device):
        self.length = torch.tensor([len(s) for s in data["samples"]], device=device)
        longest = -(-int(self.length.max()) // CHUNK) * CHUNK
        self.samples = torch.zeros(len(data["samples"]), longest, len(CHANNELS), device=device)
        for i, s in enumerate(data["samples"]):
            self.samples[i, : len(s)] = torch.from_numpy(s)
        self.label = torch.tensor(data["label"], device=device)


def rotations(sigma, roll, shape, device):
    """Random rotation matrices [..., 3, 3] by Rodrigues' formula, angles in degrees."""
    v = torch.randn(*shape, 3, device=device) * sigma.unsqueeze(-1)
    v[..., 0] += torch.randn(shape, device=device) * roll
    v = v * (math.pi / 180)
    angle = v.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    a, b, c = (v / angle).unbind(-1)
    zero, angle = torch.zeros_like(a), angle.unsqueeze(-1)
    K = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], -1).unflatten(-1, (3, 3))
    return torch.eye(3, device=device) + angle.sin() * K + (1 - angle.cos()) * (K @ K)


def draw(rec, train, mean, std, r, b, T):
    """One augmented batch for every model: x [m,b,T,6] normalised, label [m,b], valid [m,b,T].
    train [m,recordings], mean and std [m,6]; r: the recipe's numbers, each [m,1] or [1,1]."""
    m, dev = len(train), train.device

    def normal(*shape):
        return torch.randn(m, b, *shape, device=dev)

    def uniform(*shape):
        return torch.rand(m, b, *shape, device=dev)

    which = train.gather(1, torch.randint(train.shape[1], (m, b), device=dev))  # [m,b]
    # Tempo: one speed per crop with a slow wave on top, read by linear interpolation.
    wave = torch.arange(T, device=dev) / RATE_HZ * (0.05 + 0.2 * uniform(1)) + uniform(1)
    wave = 1 + r["warp"].unsqueeze(-1) * torch.sin(2 * math.pi * wave)
    speed = torch.exp(normal() * r["speed"]).unsqueeze(-1) * wave              # [m,b,T]
    path = speed.cumsum(-1) - speed[..., :1]
    # A crop is a reset anywhere in the recording; one in five is the recording's own start.
    last = rec.length[which].unsqueeze(-1) - 1
    room = (last - path[..., -1:]).clamp(min=0)
    path = path + (uniform(1) * 1.25 - 0.25).clamp(min=0) * room
    valid = path <= last
    low = path.floor().long().clamp(max=rec.samples.shape[1] - 2)
    at = which.unsqueeze(-1) * rec.samples.shape[1] + low
    flat = rec.samples.flatten(0, 1)
    frac = (path - low).clamp(max=1).unsqueeze(-1)
    x = flat[at] * (1 - frac) + flat[at + 1] * frac                            # [m,b,T,6]

    # A faster movement turns faster; gravity, most of the acceleration, stays.
    acc, gyro = x[..., :3], x[..., 3:] * speed.unsqueeze(-1)
    acc = acc * (1 + r["scale_acc"].unsqueeze(-1) * normal(3)).unsqueeze(2)
    gyro = gyro * (1 + r["scale_gyro"].unsqueeze(-1) * normal(3)).unsqueeze(2)
    # Mirror: reflecting x sends a left arm to a right one.  Acceleration flips along x; angular
    # velocity is an axial vector, so it flips along the other two axes.
    flip = torch.where(uniform() < r["mirror"], -1.0, 1.0)
    one = torch.ones_like(flip)
    R = rotations(r["rotate"], r["roll"], (m, b), dev).transpose(-1, -2)
    acc = (acc * torch.stack([flip, one, one], -1).unsqueeze(2)) @ R
    gyro = (gyro * torch.stack([one, flip, flip], -1).unsqueeze(2)) @ R
    x = (torch.cat([acc, gyro], -1) - per(mean)) / per(std)
    x = x + r["offset"].unsqueeze(-1).unsqueeze(-1) * normal(1, 6)
    x = x + r["jitter"].unsqueeze(-1).unsqueeze(-1) * normal(T, 6)
    return x * valid.unsqueeze(-1), rec.label[which], valid


def loss_of(p, x, label, weight, cfg, quant, dropout, smoothing):
    """Mean cross-entropy of each model [m] over the weighted samples; smoothing [m,1]."""
    logp = F.log_softmax(forward(p, x, cfg, quant, dropout), -1)               # [m,b,t,classes]
    hit = logp.gather(-1, label[..., None, None].expand(*logp.shape[:3], 1)).squeeze(-1)
    smoothing = smoothing.unsqueeze(-1)
    loss = -(1 - smoothing) * hit - smoothing * logp.mean(-1)
    return (loss * weight).sum((1, 2)) / weight.sum((1, 2))


def train(data, folds, seeds, cfg, recipe, device):
    """Train every (fold, seed) side by side.  Returns averaged parameters [m,...], mean and std [m,6]
    in the order fold-major, seed-minor."""
    torch.set_float32_matmul_precision("high")  # training may round products; evaluation may not
    rec = Recordings(data, device)
    who = [(k, s) for k in folds for s in seeds]
    sets = [split(data, k)[0] for k, _ in who]
    trainset = torch.tensor(np.stack(sets), device=device)                     # [m,recordings]
    stats = [np.concatenate([data["samples"][i] for i in s]).astype(np.float64) for s in sets]
    mean = torch.tensor(np.stack([s.mean(0) for s in stats]), dtype=torch.float32, device=device)
    std = torch.tensor(np.stack([s.std(0) for s in stats]), dtype=torch.float32, device=device)

    start = [init(cfg, s) for _, s in who]
    p = {n: torch.stack([q[n] for q in start]).to(device).requires_grad_() for n in start[0]}
    ema = {n: v.detach().clone() for n, v in p.items()}
    torch.manual_seed(seeds[0])
    r = {n: torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1)
         for n, v in recipe.items() if n not in ("steps", "warmup", "batch", "crop")}
    opt = torch.optim.AdamW(
        [dict(params=[v for n, v in p.items() if decays(n)], weight_decay=recipe["weight_decay"]),
         dict(params=[v for n, v in p.items() if not decays(n)], weight_decay=0.0)],
        lr=recipe["lr"], betas=(0.9, 0.98))
    steps, began = recipe["steps"], time.time()
    for step in range(steps):
        x, label, valid = draw(rec, trainset, mean, std, r, recipe["batch"], recipe["crop"])
        weight = valid * (torch.arange(recipe["crop"], device=device) >= recipe["loss_from"])
        # Half of the late steps see 8-bit weights and half 4-bit ones, so one set of weights serves both.
        quant = None
        if step >= recipe["qat_from"] * steps:
            quant = torch.tensor([127.0, 7.0][step % 2], device=device)
        loss = loss_of(p, x, label, weight, cfg, quant, r["dropout"][..., None, None], r["smoothing"])
        opt.zero_grad()
        loss.sum().backward()  # the models share nothing: the sum's gradient is each model's own
        norm = torch.stack([v.grad.flatten(1).square().sum(1) for v in p.values()]).sum(0).sqrt()
        shrink = (recipe["clip"] / (norm + 1e-6)).clamp(max=1.0)
        for v in p.values():
            v.grad *= shrink.view(-1, *[1] * (v.dim() - 1))
        warm = min(1.0, (step + 1) / recipe["warmup"])
        for group in opt.param_groups:
            group["lr"] = recipe["lr"] * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        opt.step()
        with torch.no_grad():
            keep = min(recipe["ema"], (1 + step) / (10 + step))
            torch._foreach_lerp_(list(ema.values()), [v.detach() for v in p.values()], 1 - keep)
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.mean().item():.4f}  {time.time() - began:.0f} s", flush=True)
    torch.set_float32_matmul_precision("highest")
    return ema, mean, std


# ---------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def evaluate(p, mean, std, data, folds, seeds, cfg, device, quant=None):
    """Logits at the judged samples.  One list per model of (recording, logits [windows,classes])."""
    rec = Recordings(data, device)
    q = None if quant is None else torch.tensor(quant, device=device)
    out = []
    for m, k in enumerate(k for k in folds for _ in seeds):
        test = split(data, k)[1]
        one = {n: v[m : m + 1] for n, v in p.items()}
        x = (rec.samples[torch.tensor(test, device=device)][None] - per(mean[m : m + 1])) / per(std[m : m + 1])
        logits = forward(one, x, cfg, q)[0].cpu().numpy()                      # [recordings,t,classes]
        out.append([(i, logits[j, WINDOW - 1 : len(data["samples"][i]) : HOP]) for j, i in enumerate(test)])
    return out


def score(data, judged):
    """Percent of windows right, and of recordings right by the vote of their windows."""
    right = windows = votes = 0
    for i, logits in judged:
        guess = logits.argmax(-1)
        right += int((guess == data["label"][i]).sum())
        windows += len(guess)
        votes += int(np.bincount(guess, minlength=len(CLASSES)).argmax() == data["label"][i])
    return 100 * right / windows, 100 * votes / len(judged)


# ------------------------------------------------------------------------------------------- writing


def size(cfg):
    """Bytes of the 8-bit weights and of the recurrent state on the device."""
    def up(n, to):
        return -(-n // to) * to

    weights = 0
    for name, v in init(cfg, 0).items():
        if decays(name):  # the matrices: rows padded to 16, columns to 32, a scale byte per group of 32
            rows, cols = up(v.shape[0], 16), up(v.shape[1], 32)
            weights += rows * cols + rows * (cols // 32) + 4 * rows + 64
        else:
            weights += up(4 * v.numel(), 64)
    e = cfg["expand"] * cfg["d_model"]
    state = 4 * (cfg["d_conv"] - 1) * (e + 2 * cfg["d_state"]) + 4 * e * cfg["d_state"]
    state = state * cfg["n_layer"] + (4 * cfg["d_model"] if cfg["pooling"] != "last" else 0)
    return dict(weights_q8=weights, state_f32=state)


def write_checkpoint(folder, p, mean, std, cfg, fold):
    """config.json and model.safetensors of one model; p without the model axis."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unseen = " and ".join(map(str, FOLDS[fold]))
    config = dict(
        model_type="brooklet_sensor",
        d_model=cfg["d_model"],
        n_layer=cfg["n_layer"],
        norm_epsilon=EPS,
        ssm_cfg=dict(layer="Mamba2", d_state=cfg["d_state"], d_conv=cfg["d_conv"],
                     expand=cfg["expand"], headdim=cfg["headdim"], ngroups=1),
        input=dict(channels=CHANNELS, units=UNITS, rate_hz=RATE_HZ,
                   mean=mean.tolist(), std=std.tolist()),
        output=dict(classes=CLASSES, pooling=cfg["pooling"]),
        card=dict(
            name=f"watch, fold {fold}: shoulder exercises from a smartwatch",
            source=f"trained by quantize/reference/train_watch.py on the watch recordings of "
                   f"seglearn 1.2.5 (arXiv 1802.01489); subjects {unseen} unseen",
            license="recordings: BSD-3-Clause, seglearn",
        ),
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({n: np.ascontiguousarray(v.float().cpu().numpy()) for n, v in p.items()},
              folder / "model.safetensors", metadata=dict(format="pt"))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path,
                    help="watch_dataset.npy (default: in the installed seglearn), or a --save-npz file")
    ap.add_argument("--fold", default="all", choices=["all", *"01234"], help="default: all")
    ap.add_argument("--seeds", type=int, default=1, help="train seeds 0..N-1 of every fold (default 1)")
    ap.add_argument("--out", type=Path, help="train, and write fold<k>/ (seed 0), seed<s>/fold<k>/, "
                    "accuracies.json and logits.npz here")
    ap.add_argument("--export-csv", type=Path, metavar="DIR",
                    help="write the test recordings as CSV (all folds: DIR/fold<k>)")
    ap.add_argument("--save-npz", type=Path, metavar="FILE",
                    help="write the recordings without pickle, for --data elsewhere")
    ap.add_argument("--set", nargs="*", default=[], metavar="KEY=NUMBER",
                    help="change a number of the recipe or of the model, such as steps=500 or d_model=32")
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = ap.parse_args()
    path = args.data or find_data()
    if path is None:
        ap.error("seglearn is not installed: install seglearn 1.2.5 or name its watch_dataset.npy with --data")
    if not (args.out or args.export_csv or args.save_npz):
        ap.error("nothing to do: name --out, --export-csv or --save-npz")
    data = read_data(path)
    folds = list(range(len(FOLDS))) if args.fold == "all" else [int(args.fold)]
    if args.save_npz:
        save_npz(data, args.save_npz)
    if args.export_csv:
        for k in folds:
            export_csv(data, k, args.export_csv / f"fold{k}" if args.fold == "all" else args.export_csv)
    if not args.out:
        return

    recipe, model = dict(RECIPE), dict(MODEL)
    for item in args.set:
        key, _, value = item.partition("=")
        chosen = recipe if key in recipe else model
        if key not in chosen:
            ap.error(f"--set {item}: there are {', '.join([*recipe, *model])}")
        chosen[key] = type(chosen[key])(value)
    seeds = list(range(args.seeds))
    args.out.mkdir(parents=True, exist_ok=True)
    p, mean, std = train(data, folds, seeds, model, recipe, args.device)
    for m, (k, s) in enumerate((k, s) for k in folds for s in seeds):
        folder = args.out / f"fold{k}" if s == 0 else args.out / f"seed{s}" / f"fold{k}"
        write_checkpoint(folder, {n: v[m] for n, v in p.items()}, mean[m], std[m], model, k)

    # Accuracy with float weights, and estimates for 8-bit and 4-bit weights with 8-bit activations.
    report = dict(model=model, recipe=recipe, bytes=size(model), seeds=seeds,
                  folds=[dict(fold=k, test_subjects=FOLDS[k]) for k in folds], mean={})
    logits = {}
    for kind, quant in [("float", None), ("q8", 127.0), ("q4", 7.0)]:
        judged = evaluate(p, mean, std, data, folds, seeds, model, args.device, quant)
        table = np.array([score(data, j) for j in judged]).reshape(len(folds), len(seeds), 2)
        for row, scores, j in zip(report["folds"], table, judged[:: len(seeds)]):
            row["windows"], row["recordings"] = sum(len(x) for _, x in j), len(j)
            row[kind] = dict(window_percent_by_seed=scores[:, 0].round(2).tolist(),
                             vote_percent_by_seed=scores[:, 1].round(2).tolist())
            if kind == "float":
                logits |= {f"fold{row['fold']}_recording{i}": x for i, x in j}
        by_seed = table.mean(0).round(2)
        report["mean"][kind] = dict(window_percent_by_seed=by_seed[:, 0].tolist(),
                                    vote_percent_by_seed=by_seed[:, 1].tolist())
        print(f"{kind:5s} windows: seed 0 by fold {table[:, 0, 0].round(1)}, mean by seed {by_seed[:, 0]}")
    (args.out / "accuracies.json").write_text(json.dumps(report, indent=2) + "\n")
    np.savez_compressed(args.out / "logits.npz", **logits)  # seed 0, at the judged samples
    print(f"{report['bytes']}, written to {args.out}")


if __name__ == "__main__":
    main()
