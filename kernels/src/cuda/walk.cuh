// What exact recurrences share: their operands, and numbers of a state as they are stored. The Rust side has the same structs (launch/walk.rs).
#pragma once
#include "exact.cuh"

// A number of a recurrent state, f32 or f16.
static __device__ __forceinline__ float read_state(const u8* state, u64 at, u32 is_half) {
    return is_half ? half_to_float(((const u16*)state)[at]) : ((const float*)state)[at];
}

static __device__ __forceinline__ void write_state(u8* state, u64 at, u32 is_half, float x) {
    if (is_half) ((u16*)state)[at] = float_to_half(x);
    else ((float*)state)[at] = x;
}

// Operands of a selective scan; places in a frame.
struct ScanShape {
    u32 x, dt, b, c, z, out; // (channels), (channels), (heads, d_state), (heads, d_state), (channels), (channels)
    u32 has_z, channels, d_state, heads, is_half;
    const float* a;       // (d_state, channels)
    const float* d;       // (channels)
    const float* dt_bias; // (channels)
    u64 slot;             // (d_state, channels)
};

// Operands of a state-space dual recurrence; places in a frame.
struct SsdShape {
    u32 x, dt, b, c, out; // (heads, head_dim), (heads), (groups, d_state), (groups, d_state), (heads, head_dim)
    u32 heads, head_dim, groups, d_state, is_half;
    u32 z, has_gate; // (heads, head_dim): of one token, outputs are multiplied by silu(z)
    float dt_lo, dt_hi;
    const float* a;       // (heads)
    const float* d;       // (heads)
    const float* dt_bias; // (heads)
    u64 slot;             // (heads, d_state, head_dim)
};

// Operands of a gated delta rule; places in a frame.
struct DeltaShape {
    u32 q, k, v, a, b, out; // (key_heads, key_dim) twice, (heads, value_dim), (heads) twice, (heads, value_dim)
    u32 heads, key_heads, key_dim, value_dim, is_half;
    float scale, beta_scale, eps;
    const float* decay;   // (heads)
    const float* dt_bias; // (heads)
    u64 slot;             // (heads, key_dim, value_dim)
};
