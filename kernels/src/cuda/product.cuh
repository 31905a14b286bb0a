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

// Taps of a convolution that a product's rows can go through.
#define MAX_TAPS 4

// What a step of one token does to a product's rows before they are stored. The Rust side has the same struct (targets/cuda/src/launch/product.rs).
struct After {
    const float* conv_weight; // (taps, conv_channels)
    const float* conv_bias;   // (conv_channels), or null
    u8* conv_state;           // (taps - 1, conv_channels) of each stream, oldest first
    u64 conv_state_stride;    // bytes from stream to stream
    u32 conv_first;           // row of the first channel
    u32 conv_channels;        // 0: no convolution
    u32 taps, has_silu;
    float cap; // if above 0, outputs are bounded softly by it
};
