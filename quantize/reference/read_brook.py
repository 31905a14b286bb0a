#!/usr/bin/env python3
"""Read a .brook file without Brooklet: written from docs/artifact-format.md alone, to keep that page honest.

    read_brook.py model.brook                          check places, lengths and checksums; print header and program
    read_brook.py model.brook --unpack NAME OUT.npy    write a section's numbers, matrices as f32 (rows, cols)
    read_brook.py model.brook --snapshot FILE          check a snapshot of one of the model's streams as well

Section numbers in comments are those of the page. Needs numpy.
"""

import argparse
import struct
import sys
import zlib
from pathlib import Path

import numpy as np


class Bad(Exception):
    """The file is not what the page says."""


def need(condition, problem):
    if not condition:
        raise Bad(problem)


def round_up(n, m):
    return -(-n // m) * m


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


# ------------------------------------------------------------------------------------------------- 2, encoding


class Cursor:
    """A place in encoded bytes. `read(type)` takes one value; a type is a function, an Opt, a Struct or an Enum."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(count <= len(self.data) - self.at, "a value ends behind its bytes")
        self.at += count
        return self.data[self.at - count:self.at]

    def varint(self, most_bytes, bits):
        value = 0
        for i in range(most_bytes):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                need(value < 1 << bits, "a varint is too large")
                return value
        raise Bad("a varint is too long")

    def read(self, kind):
        return kind(self)


def u32(c):
    return c.varint(5, 32)


def boolean(c):
    byte = c.take(1)[0]
    need(byte < 2, "a bool is neither 0 nor 1")
    return byte == 1


def blob(c):
    return c.take(c.varint(10, 64))


def text(c):
    try:
        return blob(c).decode()
    except UnicodeDecodeError as e:
        raise Bad(f"a text is not UTF-8: {e}") from None


def fixed(code):
    return lambda c: struct.unpack("<" + code, c.take(struct.calcsize(code)))[0]


f32, u16x, u32x, u64x = fixed("f"), fixed("H"), fixed("I"), fixed("Q")


def opt(kind):
    return lambda c: kind(c) if boolean(c) else None


def record(**fields):
    return lambda c: {name: kind(c) for name, kind in fields.items()}


def enum(**variants):
    def read(c):
        number = u32(c)
        need(number < len(variants), f"variant {number} of {', '.join(variants)}")
        name = list(variants)[number]
        return {"is": name} | (variants[name](c) if variants[name] else {})
    return read


def table(kind, size=None):
    def read(c):
        count, data = u32(c), Cursor(blob(c))
        need(size is None or count * size == len(data.data), "a table has another size than its records")
        values = [kind(data) for _ in range(count)]
        need(data.at == len(data.data), "a table has bytes behind its records")
        return values
    return read


def sized(kind):
    """The value, and how many bytes it took."""
    def read(c):
        start = c.at
        return kind(c), c.at - start
    return read


# ------------------------------------------------------------------------------------ 3 and 4, header and program

tensor = slot_id = u32
span = record(at=u32, len=u32)
CONTENTS = ["Array", "MatrixF32", "MatrixF16", "MatrixQ8", "MatrixQ4", "Turns", "Tokenizer", "MatrixQ3", "MatrixQ5", "MatrixQ6",
            "MatrixT2", "PackedTokenizer", "Places"]
PLANES = {"MatrixT2": (2,), "MatrixQ3": (2, 1), "MatrixQ4": (4,), "MatrixQ5": (4, 1), "MatrixQ6": (4, 2)}  # widths in bits
SECTION = record(at=u64x, crc32=u32x, rows=u32x, cols=u32x, name_at=u32x, name_len=u16x, content=enum(**dict.fromkeys(CONTENTS)))
SLOT = record(at=u64x, capacity=u32x, heads=u32x, head_dim=u32x, sink=u32x,
              kind=enum(Numbers=None, CacheF32=None, CacheInt8=None, NumbersF16=None, CacheInt4=None), keep=enum(Stop=None, SinkAndWindow=None))
ACTIVATION = enum(Silu=None, Sigmoid=None, Tanh=None, ReluSquared=None, Gelu=None, GeluTanh=None, Scale=record(scale=f32),
                  SoftCap=record(cap=f32), Relu=None, Square=None, Sqrt=None)
ROUTER = enum(Softmax=record(renormalize=boolean), TopKSoftmax=None,
              Sigmoid=record(bias=opt(tensor), groups=u32, top_groups=u32, renormalize=opt(f32)))
STEPPING = enum(Fixed=None, Hold=None, Bilinear=None, Impulse=None)
HEAD = record(w=tensor, bias=opt(tensor), x=span, scale=f32)
OP = enum(
    Embed=record(table=tensor, scale=f32, out=span),
    Frame=record(mean=tensor, inv_std=tensor, out=span),
    Norm=record(kind=enum(Rms=None, Layer=None, RmsEpsOutside=None), x=span, out=span, weight=opt(tensor), bias=opt(tensor),
                gate=opt(record(z=span, first=boolean)), groups=u32, eps=f32),
    Linear=record(w=tensor, bias=opt(tensor), x=span, out=span),
    Conv1d=record(weight=tensor, bias=opt(tensor), taps=u32, silu=boolean, x=span, state=slot_id),
    Scan=record(x=span, dt=span, b=span, c=span, z=opt(span), out=span, a=tensor, d=tensor, dt_bias=tensor,
                heads=u32, state=slot_id),
    Ssd=record(x=span, dt=span, b=span, c=span, out=span, a=tensor, d=tensor, dt_bias=tensor, groups=u32,
               dt_lo=f32, dt_hi=f32, state=slot_id),
    Attention=record(q=span, k=span, v=span, out=span, heads=u32, scale=f32, rotary=opt(record(turns=tensor)), cache=slot_id),
    SiluMultiply=record(x=span, y=span),
    Add=record(x=span, y=span, scale=f32),
    Pool=record(kind=enum(Mean=None, Ema=record(alpha=f32)), x=span, state=slot_id),
    Head=HEAD,
    Multiply=record(x=span, y=span),
    Copy=record(x=span, y=span),
    Activate=record(f=ACTIVATION, x=span),
    Moe=record(x=span, scores=span, hidden=span, expert_out=span, out=span, experts_at=tensor, router=ROUTER, top_k=u32,
               scale=f32, gated=boolean, f=ACTIVATION),
    GatedDelta=record(q=span, k=span, v=span, a=span, b=span, out=span, decay=tensor, dt_bias=tensor, key_heads=u32,
                      scale=f32, beta_scale=f32, eps=f32, state=slot_id),
    ScaleBy=record(x=span, y=span),
    Route=record(score=span, threshold=f32, otherwise=boolean, ops=u32, count=slot_id),
    RgLru=record(x=span, input_gate=span, recurrence_gate=span, decay=tensor, state=slot_id),
    CappedHead=record(head=HEAD, cap=f32),
    Lstm=record(input=span, recurrent=span, out=span, w=tensor, state=slot_id),
    Gru=record(input=span, recurrent=span, out=span, w=tensor, bias=opt(tensor), state=slot_id),
    Window=record(x=span, out=span, state=slot_id),
    Fill=record(value=f32, out=span),
    DiagSsm=record(x=span, out=span, a=tensor, c=opt(tensor), d=opt(tensor), channels=u32, stepping=STEPPING, state=slot_id),
    Missing=record(policy=enum(Hold=record(last=slot_id), Mean=None, Zero=record(zeros=tensor)), x=span),
    Every=record(period=u32, start=u32, ops=u32, bytes=u32),
    Delay=record(x=span, out=span, steps=u32, state=slot_id),
    DepthToTime=record(x=span, out=span, state=slot_id),
    Hadamard=record(x=span, block=u32, scale=f32),
)
TENSORS = {"table", "mean", "inv_std", "weight", "bias", "w", "a", "c", "d", "dt_bias", "turns", "decay", "experts_at", "zeros"}
HEADER = record(
    card=record(name=text, family=text, source=text, license=text),
    input=enum(Tokens=record(vocab=u32, bos=opt(u32), eos=opt(u32), tokenizer=opt(u32)),
               Frames=record(channels=text, units=text, rate_hz=f32)),
    output=enum(Logits=record(count=u32), Classes=record(names=text), Values=record(names=text, units=text)),
    frame_len=u32, names=blob, sections=table(SECTION, 27), slots=table(SLOT, 26), program=table(sized(OP)),
    golden=record(steps=u32, input=blob, fingerprint=u64x),
)


# ------------------------------------------------------------------------------------------ 5, sections and tiles


def tiles(rows, cols):
    return -(-rows // 16), -(-cols // 32)


def table_bytes(content):
    return 0 if content == "MatrixT2" else round_up((1 << sum(PLANES[content])) + 1, 64)


def bytes_of_a_place(count):
    return 2 if count <= 1 << 16 else 4


def section_bytes(content, rows, cols):
    t, g = tiles(rows, cols)
    planes = 64 * t + round_up(16 * t * g, 64)
    if content in PLANES:
        bits = sum(PLANES[content])
        return table_bytes(content) + planes + 64 * bits * t * g
    return {"Array": 4 * rows * cols, "MatrixF32": 2048 * t * g, "MatrixF16": 1024 * t * g, "MatrixQ8": planes + 512 * t * g,
            "Turns": 8 * rows * cols, "Tokenizer": rows * cols, "PackedTokenizer": rows * cols, "Places": bytes_of_a_place(rows * cols) * rows * cols}[content]


def unpack(content, rows, cols, data):
    """The section's numbers: f32 (rows, cols), or u64 turns, or u16 or u32 places, or bytes."""
    data = np.frombuffer(data, np.uint8)
    if content in ("Array", "Turns", "Places"):
        return data.view({"Array": "<f4", "Turns": "<u8", "Places": f"<u{bytes_of_a_place(rows * cols)}"}[content]).reshape(rows, cols)
    if content == "Tokenizer":
        return data
    if content == "PackedTokenizer":
        return np.frombuffer(zlib.decompress(data.tobytes()), np.uint8)
    t, g = tiles(rows, cols)
    if content in ("MatrixF32", "MatrixF16"):  # (t, col, r)
        words = data.view("<f4" if content == "MatrixF32" else "<f2").reshape(t, 32 * g, 16)
        return words.transpose(0, 2, 1).reshape(16 * t, 32 * g)[:rows, :cols].astype(np.float32)
    levels, shift = np.arange(-1, 3), 0  # of T2
    if content in PLANES and table_bytes(content):
        count = 1 << sum(PLANES[content])
        levels, shift = data[:count].view(np.int8).astype(np.int32), int(data[count:count + 1].view(np.int8)[0])
        data = data[table_bytes(content):]
        need(np.all(np.abs(levels + shift + 0.5) < 128), "a shifted level does not fit in 8 bits")
    row_scales, data = data[:64 * t].view("<f4"), data[64 * t:]
    need(np.all(np.isfinite(row_scales)), "a row scale is not finite")
    sub, data = data[:16 * t * g].view(np.int8).astype(np.int32).reshape(t, g, 16), data[round_up(16 * t * g, 64):]
    if content == "MatrixQ8":  # (t, g, k / 4, r, k mod 4)
        codes = data.view(np.int8).astype(np.int32).reshape(t, g, 8, 16, 4)
    else:  # lines (t, g, bits, r, k mod 4), plane by plane
        lines = data.reshape(t, g, sum(PLANES[content]), 16, 4)
        codes, low = np.zeros((t, g, 8, 16, 4), np.int32), 0
        for width in PLANES[content]:
            plane = lines[:, :, low:low + width, None].astype(np.int32)  # (t, g, word, -, r, k mod 4)
            parts = plane >> (width * np.arange(8 // width))[None, None, None, :, None, None] & ((1 << width) - 1)
            codes |= parts.reshape(codes.shape) << low
            low += width
        codes = levels[codes] + (shift * (sub & 1))[:, :, None, :, None]
        sub = sub >> 1
    scaled = (codes * sub[:, :, None, :, None]).astype(np.float32)
    scaled = scaled.transpose(0, 3, 1, 2, 4).reshape(16 * t, 32 * g)  # (t, r, g, k / 4, k mod 4)
    return (scaled * row_scales[:, None])[:rows, :cols]


# ----------------------------------------------------------------------------------------------------- the file


def slot_bytes(slot):
    positions = slot["heads"] * slot["capacity"]
    elements = positions * slot["head_dim"]
    if slot["kind"]["is"] == "Numbers":
        return 4 * slot["capacity"]
    if slot["kind"]["is"] == "NumbersF16":
        return 2 * slot["capacity"]
    if slot["kind"]["is"] == "CacheInt4":
        groups = positions * -(-slot["head_dim"] // 32)
        return 2 * (round_up(2 * groups, 16) + 16 * groups)
    return 2 * (round_up(4 * elements, 16) if slot["kind"]["is"] == "CacheF32" else round_up(4 * positions, 16) + round_up(elements, 16))


class Brook:
    """A checked file."""

    def __init__(self, data):
        need(data[:4] == b"BROK" and len(data) >= 16, "not a .brook file")
        version, header_len, crc = struct.unpack("<III", data[4:16])
        need(version == 1, f"version {version}")
        self.header_bytes = data[16:16 + header_len]
        need(len(self.header_bytes) == header_len, "the header is cut short")
        need(zlib.crc32(self.header_bytes) == crc, "the header's checksum does not match")
        cursor = Cursor(self.header_bytes)
        self.header = cursor.read(HEADER)
        need(cursor.at == header_len, "the header has bytes behind its end")
        blob_at = round_up(16 + header_len, 64)
        need(not any(data[16 + header_len:blob_at]), "the padding behind the header is not zero")
        self.sections, end = {}, 0
        for i, s in enumerate(self.header["sections"]):
            name, s["content"] = self.header["names"][s["name_at"]:s["name_at"] + s["name_len"]], s["content"]["is"]
            need(len(name) == s["name_len"], f"section {i}: its name is not in the names")
            s["name"], start = name.decode(errors="replace"), round_up(end, 64)
            need(s["at"] == start, f"section {i}: starts at {s['at']}, not {start}")
            need(not any(data[blob_at + end:blob_at + start]), f"section {i}: the padding before it is not zero")
            end = start + section_bytes(s["content"], s["rows"], s["cols"])
            s["bytes"] = data[blob_at + start:blob_at + end]
            need(blob_at + end <= len(data), f"section {i}: is cut short")
            need(zlib.crc32(s["bytes"]) == s["crc32"], f"section {i}: its checksum does not match")
            s["numbers"] = unpack(s["content"], s["rows"], s["cols"], s["bytes"])
            self.sections[s["name"]] = s
        need(blob_at + end == len(data), "there are bytes behind the last section")
        self.check_input()
        self.state_bytes = 0
        for i, slot in enumerate(self.header["slots"]):
            need(slot["at"] == self.state_bytes, f"slot {i}: starts at {slot['at']}, not {self.state_bytes}")
            self.state_bytes = round_up(self.state_bytes + slot_bytes(slot), 16)
        program = self.header["program"]
        for i, (op, _) in enumerate(program):
            if op["is"] == "Every":
                block = program[i + 1:i + 1 + op["ops"]]
                need(op["bytes"] == sum(size for _, size in block), f"op {i}: its block takes up another number of bytes")
        self.header["program"] = [op for op, _ in program]
        self.hash = fnv1a(self.header_bytes)

    def check_input(self):
        inputs, golden, width = self.header["input"], self.header["golden"], 1
        if inputs["is"] == "Frames":
            width = len(inputs["channels"].removesuffix("\n").split("\n")) if inputs["channels"] else 0
            need(1 <= width <= 4096, f"{width} channels")
        elif inputs["tokenizer"] is not None:
            section = dict(enumerate(self.header["sections"])).get(inputs["tokenizer"], {})
            need(section.get("content") == "Tokenizer", "the tokenizer is not in its section")
        need(len(golden["input"]) == 4 * width * golden["steps"], "the golden input has another length than its steps")

    def show(self, value, key=""):
        """A field of an operation, as short as can be."""
        if isinstance(value, dict) and set(value) == {"at", "len"}:
            return f"{value['at']}+{value['len']}"
        if isinstance(value, dict):
            parts = [f"{k} {self.show(v, k)}" for k, v in value.items() if k != "is"]
            return " ".join([value.get("is", ""), *parts]).strip()
        if key in TENSORS and value is not None:
            return f"#{value}"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    def print(self):
        h = self.header
        for key in ("card", "input", "output"):
            print(f"{key:10}", {k: v for k, v in h[key].items()})
        print(f"{'golden':10} {h['golden']['steps']} steps, {len(h['golden']['input'])} bytes, fingerprint {h['golden']['fingerprint']:016x}")
        print(f"{'model hash':10} {self.hash:016x}\n{'frame':10} {h['frame_len']} numbers\n{'state':10} {self.state_bytes} bytes\n")
        for i, s in enumerate(h["sections"]):
            print(f"section {i:4}  {s['at']:10}  {s['content']:9} {s['rows']:6} x {s['cols']:<6} {len(s['bytes']):10} bytes  {s['name']}")
        for i, slot in enumerate(h["slots"]):
            print(f"slot    {i:4}  {slot['at']:10}  {self.show({k: v for k, v in slot.items() if k != 'at'})}")
        for i, op in enumerate(h["program"]):
            print(f"op      {i:4}  {self.show(op)}")


def check_snapshot(brook, data):
    """9: the stream's position and state."""
    need(data[:4] == b"BRKS" and len(data) == 28 + brook.state_bytes, "not a snapshot of this size")
    version, model_hash, position = struct.unpack("<IQQ", data[4:24])
    need(version == 1, f"snapshot version {version}")
    need(model_hash == brook.hash, "the snapshot is of another model")
    need(zlib.crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0], "the snapshot's checksum does not match")
    print(f"snapshot at position {position}")
    return position, data[24:-4]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("file", type=Path, help="the .brook file")
    ap.add_argument("--unpack", nargs=2, metavar=("NAME", "OUT.npy"), help="write the numbers of section NAME")
    ap.add_argument("--snapshot", type=Path, metavar="FILE", help="check this snapshot too")
    args = ap.parse_args()
    try:
        brook = Brook(args.file.read_bytes())
        if args.unpack:
            need(args.unpack[0] in brook.sections, f"there is no section {args.unpack[0]}; without --unpack all are listed")
            np.save(args.unpack[1], brook.sections[args.unpack[0]]["numbers"])
        else:
            brook.print()
        if args.snapshot:
            check_snapshot(brook, args.snapshot.read_bytes())
    except (Bad, OSError) as e:
        sys.exit(f"{args.file}: {e}")


if __name__ == "__main__":
    main()
