// What the recurrences' kernels (conv.cu, scan.cu, ssd.cu) share: numbers as they are stored, the elementary functions of the step
// size and the gates, copies into shared memory.
//
// Operands are f32 (the runtime's frames) or bf16; whatever they are, sums and states are f32.
#pragma once
#include "common.cuh"

#define LOG2_E 1.4426950408889634f

// ---- stored numbers -------------------------------------------------------------------------------------------------------------

struct bf16 {
    u16 bits;
};

static __device__ __forceinline__ float to_f32(float x) { return x; }
static __device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// Two numbers in one register as bf16, the first in the low half.
static __device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
static __device__ __forceinline__ float low_bf16(u32 x) { return __uint_as_float(x << 16); }
static __device__ __forceinline__ float high_bf16(u32 x) { return __uint_as_float(x & 0xffff0000u); }

static __device__ __forceinline__ void from_f32(float x, float& y) { y = x; }
static __device__ __forceinline__ void from_f32(float x, bf16& y) { y.bits = (u16)pack_bf16(x, 0.0f); }

// A recurrent state is f32 or f16; which is a launch's parameter.
static __device__ __forceinline__ float load_state(const u8* state, int is_half, u64 at) {
    return is_half ? half_to_float(((const u16*)state)[at]) : ((const float*)state)[at];
}
static __device__ __forceinline__ void store_state(u8* state, int is_half, u64 at, float x) {
    if (is_half) {
        ((u16*)state)[at] = float_to_half(x);
    } else {
        ((float*)state)[at] = x;
    }
}

// ---- elementary functions -------------------------------------------------------------------------------------------------------

// 2^x to about 2 units in the last place; 0 below the normal range.
static __device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log(1 + exp(x)) = max(x, 0) + log1p(e), e = exp(-|x|), and log1p(e) = 2 atanh(s), s = e / (2 + e) <= 1/3: accurate relative to the
// result at both ends, where log2(1 + e) would lose small step sizes.
static __device__ __forceinline__ float softplus(float x) {
    float e = exp2_approx(-LOG2_E * fabsf(x));
    float s = __fdividef(e, 2.0f + e);
    float q = s * s;
    float p = 0.0909090909f;
    p = p * q + 0.1111111111f;
    p = p * q + 0.1428571429f;
    p = p * q + 0.2f;
    p = p * q + 0.3333333333f;
    p = p * q + 1.0f;
    return fmaxf(x, 0.0f) + 2.0f * s * p;
}

static __device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + exp2_approx(-LOG2_E * x)); }

// ---- copies into shared memory --------------------------------------------------------------------------------------------------

static __device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Starts a copy of 16 bytes, zeros where `bytes` of the source end.
static __device__ __forceinline__ void copy16_async(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `LEFT` of this thread's committed groups are still under way.
template <int LEFT>
static __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
