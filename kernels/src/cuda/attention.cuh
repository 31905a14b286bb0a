// A bounded cache of keys and values, and the operands of attention over it. The Rust side has the same struct (targets/cuda/src/launch/attention.rs).
#pragma once
#include "common.cuh"

enum CacheKind { CACHE_F32 = 0, CACHE_INT8 = 1, CACHE_INT4 = 2 };

struct AttentionShape {
    u32 q, k, v, out; // places in a frame: (heads, head_dim), (kv_heads, head_dim) twice, (heads, head_dim)
    u32 heads, kv_heads, head_dim;
    u32 half;         // rotated dimensions / 2
    u32 kind, capacity, sink, slides;
    const u64* turns; // (half): the angle per position in units of 2^-64 turn
    u64 slot;
    float scale;
};

// The parts of a cache, one behind the other on 16-byte boundaries.
struct Cache {
    u8 *key_scales, *value_scales, *keys, *values;
};

static __device__ __forceinline__ Cache cache_of(u8* slot, const AttentionShape& s) {
    u64 positions = (u64)s.kv_heads * s.capacity, cells = positions * s.head_dim, groups = positions * ((s.head_dim + 31) / 32);
    u64 scale_bytes = s.kind == CACHE_F32 ? 0 : s.kind == CACHE_INT8 ? positions * 4 : groups * 2;
    u64 code_bytes = s.kind == CACHE_F32 ? cells * 4 : s.kind == CACHE_INT8 ? cells : groups * 16;
    scale_bytes = (scale_bytes + 15) & ~15ull;
    code_bytes = (code_bytes + 15) & ~15ull;
    Cache c;
    c.key_scales = slot;
    c.value_scales = slot + scale_bytes;
    c.keys = slot + 2 * scale_bytes;
    c.values = c.keys + code_bytes;
    return c;
}

// Columns of a query, and positions, that are rounded together.
#define QUERY_GROUP 128
#define WEIGHT_GROUP 64
// Largest code of a query or a weight.
#define LARGEST 16383.0f

// Positions that a row sees.
static __device__ __forceinline__ u32 seen_by(const Batch& b, const AttentionShape& s, u32 row) {
    return (u32)min(cached_before(b, row / b.tokens, row % b.tokens) + 1, (u64)s.capacity);
}
