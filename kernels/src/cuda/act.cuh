// Elementary functions, with the cuts and cases of kernels/src/portable/act.rs. Within a few units in the last place of it.
#pragma once
#include "common.cuh"

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static __device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// With the cut at 20 that the reference implementations have.
static __device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

static __device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

static __device__ __forceinline__ float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * (x * x * x))));
}

// sin and cos of turns / 2^32 of a full turn.
static __device__ __forceinline__ void sin_cos_turns(u32 turns, float* s, float* c) {
    sincospif((float)(i32)turns * (1.0f / 2147483648.0f), s, c);
}

// sin and cos of full turns; from 2^20 on, where a float has few fractions left, those of whole turns.
static __device__ __forceinline__ void sin_cos_turn(float turns, float* s, float* c) {
    turns = fabsf(turns) < 1048576.0f ? turns : 0.0f;
    turns -= rintf(turns);
    sincospif(2.0f * turns, s, c);
}

