// What enters a quantized matrix: a vector, or a norm or gate of one.
#pragma once
#include "common.cuh"

// How the numbers come about.
enum EnteringKind {
    ROUNDED = 0,       // codes, scales and sums are there already
    PLAIN = 1,         // x
    RMS = 2,           // rms_norm(x) * weight
    GATED_RMS = 3,     // rms_norm(x * silu(z)) * weight
    SILU_MULTIPLY = 4, // silu(x) * z
};

// The Rust side has the same struct (targets/cuda/src/launch/entering.rs).
struct Entering {
    const float* x;      // (vectors, cols)
    const float* z;      // (vectors, cols): the gate
    const float* weight; // (cols): the norm's; null for 1
    const i8* codes;     // (vectors, groups * 32)
    const float* scales; // (vectors, groups)
    const i32* sums;     // (vectors, groups)
    u32 stride;          // numbers from one vector of x to the next
    u32 z_stride;
    u32 kind;
    u32 norm_groups; // groups normalised on their own, equally wide: a multiple of 64, unless there is one
    u32 eps_outside; // whether eps is added to the root instead of under it
    float eps;
};
