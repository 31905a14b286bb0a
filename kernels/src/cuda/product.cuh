// A matrix product, and what becomes of it.
#pragma once
#include "common.cuh"

// out[v][row] = residual[v][row] + scale * (sum of row + bias[row]). The Rust side has the same struct (targets/cuda/src/launch/product.rs).
struct Product {
    const u8* matrix;      // its section of the file, as it lies
    const float* bias;     // (rows), or null
    const float* residual; // (vectors, rows), or null; may be `out`
    float* out;            // (vectors, rows)
    const u32* gate;       // null, or where 0 says to change nothing
    u32 rows, cols;
    u32 out_stride, residual_stride;
    float scale;
};
