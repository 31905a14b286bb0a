// What every kernel shares: the batch it works on, fixed-width names, deterministic sums, exact integer steps.
//
// These sources compile with nvcc and with NVRTC 11.8 and 12.9, without any header of CUDA's own: names of fixed width and half precision
// are defined here. Sums over threads follow a fixed tree, so that the same inputs give the same bits; nothing adds floats atomically.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define FULL 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)

// Consecutive tokens of one stream, or of several, as operations see them. The Rust side has the same struct (targets/cuda/src/batch.rs).
//
// Row r is token r % tokens of stream r / tokens. Its frame starts at frames + r * stride, and operands are spans of it. The state of a
// stream starts at state + stream * state_stride and has the CPU's layout byte for byte.
struct Batch {
    float* frames;        // (streams * tokens, stride)
    u8* state;            // (streams, state_stride)
    const u64* positions; // (streams): position of each stream's first token of the whole batch
    const u64* cached;    // inside a routed block: positions that its caches hold; else null, and they hold as many as the position says
    const float* gaps;    // (rows): time before each token in steps of the model's own rate; null for 1
    const u32* gate;      // inside a routed block: 0 if the token does not enter it; else null. A kernel whose gate is 0 changes nothing
    u64 state_stride;     // bytes
    u32 stride;           // numbers from frame to frame
    u32 tokens;           // of each stream
    u32 streams;
    u32 first;            // number in the whole batch of the first token here
    u32 start;            // of a block with a rate of its own: step of its first run, and
    u32 period;           // steps from one run to the next; else 0 and 1
};

// Whether the token in question does not enter the block that this kernel is in.
static __device__ __forceinline__ bool is_shut(const Batch& b) { return b.gate && *b.gate == 0; }

// The frame of a row.
static __device__ __forceinline__ float* frame_of(const Batch& b, u32 row) { return b.frames + (u64)row * b.stride; }

// The state of a stream.
static __device__ __forceinline__ u8* state_of(const Batch& b, u32 stream) { return b.state + stream * b.state_stride; }

// Position of a token of a stream, in steps of the block that it is in.
static __device__ __forceinline__ u64 position_of(const Batch& b, u32 stream, u32 token) {
    return (b.positions[stream] + b.first - b.start) / b.period + token;
}

// Positions that caches of a stream hold before a token.
static __device__ __forceinline__ u64 cached_before(const Batch& b, u32 stream, u32 token) {
    return b.cached ? *b.cached + token : position_of(b, stream, token);
}

// Time before a token of the batch.
static __device__ __forceinline__ float gap_of(const Batch& b, u32 row) { return b.gaps ? b.gaps[row] : 1.0f; }

// Sum over a warp; every lane gets it.
static __device__ __forceinline__ float warp_sum(float x) {
    for (int by = 16; by > 0; by >>= 1) x += __shfl_xor_sync(FULL, x, by);
    return x;
}

static __device__ __forceinline__ i32 warp_sum_int(i32 x) {
    for (int by = 16; by > 0; by >>= 1) x += __shfl_xor_sync(FULL, x, by);
    return x;
}

static __device__ __forceinline__ float warp_max(float x) {
    for (int by = 16; by > 0; by >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, by));
    return x;
}

// Sum over a block of whole warps, up to 1024 threads; every thread gets it. `room` is 32 floats of shared memory, free again afterwards.
static __device__ __forceinline__ float block_sum(float x, float* room) {
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_sum(x);
    if (warps == 1) return x;
    if (lane == 0) room[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? room[lane] : 0.0f);
    __syncthreads();
    return x;
}

static __device__ __forceinline__ float block_max(float x, float* room) {
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_max(x);
    if (warps == 1) return x;
    if (lane == 0) room[warp] = x;
    __syncthreads();
    x = warp_max(lane < warps ? room[lane] : -INFINITE);
    __syncthreads();
    return x;
}

// acc + the sum of four products of signed bytes, exact. (__dp4a is unresolved in older NVRTC.)
static __device__ __forceinline__ i32 dp4a(i32 a, i32 b, i32 acc) {
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(acc) : "r"(a), "r"(b));
    return acc;
}

// Half to single precision, exact.
static __device__ __forceinline__ float half_to_float(u16 half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}

// Single to half precision as kernels/src/portable/stored.rs: to the nearest even, saturated; what is no number becomes the largest.
static __device__ __forceinline__ u16 float_to_half(float x) {
    x = x < 65504.0f ? x : 65504.0f;
    x = x > -65504.0f ? x : -65504.0f;
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}
