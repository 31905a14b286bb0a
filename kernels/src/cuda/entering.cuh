// What enters a quantized matrix: a vector, or a norm or gate of one, rounded to int8 per group of 32 (docs/numerics.md, section 2).
//
// Codes and scales are those of kernels/src/portable/matmul.rs, bit for bit, of the same numbers; a norm's sum has another order.
#pragma once
#include "common.cuh"
#include "pipeline.cuh"
#include "quant.cuh"

// How the numbers come about.
enum EnteringKind {
    ROUNDED = 0,       // codes, scales and sums are there already
    PLAIN = 1,         // x
    RMS = 2,           // rms_norm(x) * weight
    GATED_RMS = 3,     // rms_norm(x * silu(z)) * weight
    RMS_GATED = 4,     // rms_norm(x) * weight * silu(z)
    SILU_MULTIPLY = 5, // silu(x) * z
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
    u32 norm_groups; // groups normalised on their own, each a multiple of 32 wide unless there is one
    u32 eps_outside; // whether eps is added to the root instead of under it
    float eps;
};

#define MAX_NORM_GROUPS 64

// A barrier of the first `threads` threads of a block.
static __device__ __forceinline__ void sync_threads(u32 threads) { asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory"); }

// As fast as the special functions go: about 1e-6 of the value, where rounding to int8 follows with 4e-3.
static __device__ __forceinline__ float quick_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// Four neighbouring numbers; ALIGNED promises that `row` is a multiple of 16 bytes and `cols` of four.
template <bool ALIGNED>
static __device__ __forceinline__ void load_quad(const float* row, u32 col, u32 cols, float v[4]) {
    if (ALIGNED) {
        float4 q = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (col < cols) q = *(const float4*)(row + col);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = col + i < cols ? row[col + i] : 0.0f;
    }
}

// Four neighbouring numbers, before a norm.
template <int KIND, bool ALIGNED>
static __device__ __forceinline__ void entering_quad(const Entering& in, u32 vector, u32 col, u32 cols, float v[4]) {
    load_quad<ALIGNED>(in.x + (u64)vector * in.stride, col, cols, v);
    if (KIND == GATED_RMS || KIND == SILU_MULTIPLY) {
        float z[4];
        load_quad<ALIGNED>(in.z + (u64)vector * in.z_stride, col, cols, z);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = KIND == GATED_RMS ? v[i] * quick_silu(z[i]) : quick_silu(v[i]) * z[i];
    }
}

static __device__ __forceinline__ float inverse_root(const Entering& in, float sum, u32 width) {
    float mean = sum / (float)width;
    return 1.0f / (in.eps_outside ? sqrtf(mean) + in.eps : sqrtf(mean + in.eps));
}

// Rounds a group of 32, four numbers on each of eight neighbouring lanes; calls `sink(group, quad, codes, scale, sum)` on each, `codes` being
// its own four.
template <class Sink>
static __device__ __forceinline__ void round_group(u32 group, u32 quad, const float v[4], Sink sink) {
    float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
    for (int by = 4; by > 0; by >>= 1) largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, by));
    bool silent = largest < 1.0e-30f;
    float scale = silent ? 0.0f : __fdiv_rn(largest, 127.0f), inverse = silent ? 0.0f : __fdiv_rn(127.0f, largest);
    u32 bits[4];
#pragma unroll
    // Ties to even, in the low byte; the product is rounded on its own, as on the CPU.
    for (int i = 0; i < 4; i++) bits[i] = __float_as_int(__fadd_rn(__fmul_rn(v[i], inverse), INTEGER_BIAS));
    u32 codes = permute(permute(bits[0], bits[1], 0x0040), permute(bits[2], bits[3], 0x0040), 0x5410);
    i32 sum = dp4a(codes, 0x01010101, 0);
#pragma unroll
    for (int by = 4; by > 0; by >>= 1) sum += __shfl_xor_sync(FULL, sum, by);
    sink(group, quad, codes, scale, sum);
}

// Numbers of a vector that a thread keeps between the passes of a norm: four of each of so many quads.
#define KEPT 3

// The norm's weights of the quads that a thread keeps, four each: what may be read before the kernel that makes the vector has ended.
struct KeptWeights {
    float of[KEPT][4];
};

template <bool ALIGNED>
static __device__ __forceinline__ KeptWeights load_weights(const Entering& in, u32 cols, u32 threads) {
    KeptWeights w;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) w.of[k][i] = 1.0f;
        if (in.weight) load_quad<ALIGNED>(in.weight, (threadIdx.x + k * threads) * 4, cols, w.of[k]);
    }
    return w;
}

// Computes and rounds a vector by the first `threads` threads of a block, whole warps of them. `sums` is shared memory for a number per group of columns,
// `inverses` for MAX_NORM_GROUPS; there must be a barrier between two calls. ALIGNED promises that operands begin at multiples of 16 bytes, and
// their strides and `cols` are multiples of four; ONE_NORM that there is one group of norms.
template <int KIND, bool ALIGNED, bool ONE_NORM, class Sink>
static __device__ __forceinline__ void round_vector(const Entering& in, u32 vector, u32 cols, u32 threads, const KeptWeights& weights, float* sums, float* inverses,
                                             Sink sink) {
    const bool NORM = KIND == RMS || KIND == GATED_RMS || KIND == RMS_GATED;
    u32 groups = (cols + GROUP - 1) / GROUP, quads = groups * 8, lane = threadIdx.x & 31, warp_first = threadIdx.x - lane;
    if (KIND == ROUNDED) {
        for (u32 first = warp_first; first < quads; first += threads) {
            u32 q = first + lane, group = min(q / 8, groups - 1);
            u64 at = (u64)vector * groups + group;
            bool there = q < quads;
            u32 codes = ((const u32*)in.codes)[at * 8 + (q & 7)];
            float scale = in.scales[at];
            i32 sum = in.sums[at];
            sink(there ? group : groups, q & 7, there ? codes : 0, there ? scale : 0.0f, there ? sum : 0);
        }
        return;
    }
    float kept[KEPT][4];
#pragma unroll
    for (int k = 0; k < KEPT; k++) entering_quad<KIND, ALIGNED>(in, vector, (threadIdx.x + k * threads) * 4, cols, kept[k]);
    auto sum_quad = [&](const float v[4], u32 q) {
        float sum = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
#pragma unroll
        for (int by = 4; by > 0; by >>= 1) sum += __shfl_xor_sync(FULL, sum, by);
        if (q < quads && (q & 7) == 0) sums[q / 8] = sum;
    };
    float inverse = 1.0f;
    u32 width = ONE_NORM ? cols : cols / in.norm_groups;
    if (NORM) {
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (warp_first + k * threads < quads) sum_quad(kept[k], threadIdx.x + k * threads);
#pragma unroll 1
        for (u32 first = warp_first + KEPT * threads; first < quads; first += threads) {
            float v[4];
            entering_quad<KIND, ALIGNED>(in, vector, (first + lane) * 4, cols, v);
            sum_quad(v, first + lane);
        }
        sync_threads(threads);
        if (ONE_NORM) {
            // Every warp on its own, in the same order.
            float sum = 0.0f;
            for (u32 g = lane; g < groups; g += 32) sum += sums[g];
            inverse = inverse_root(in, warp_sum(sum), cols);
        } else {
            u32 norm_width = in.norm_groups == 1 ? groups : width / GROUP;
            for (u32 n = threadIdx.x / 32; n < in.norm_groups; n += threads / 32) {
                float sum = 0.0f;
                for (u32 g = lane; g < norm_width; g += 32) sum += sums[n * norm_width + g];
                sum = warp_sum(sum);
                if (lane == 0) inverses[n] = inverse_root(in, sum, width);
            }
            sync_threads(threads);
        }
    }
    auto finish_quad = [&](float v[4], const float w[4], u32 q) {
        u32 col = q * 4;
        if (NORM) {
            if (!ONE_NORM) inverse = inverses[min(col / width, in.norm_groups - 1)];
#pragma unroll
            for (int i = 0; i < 4; i++) v[i] = v[i] * inverse * w[i];
        }
        if (KIND == RMS_GATED) {
            float z[4];
            load_quad<ALIGNED>(in.z + (u64)vector * in.z_stride, col, cols, z);
#pragma unroll
            for (int i = 0; i < 4; i++) v[i] *= quick_silu(z[i]);
        }
        // Lanes behind the last group take part in the shuffles: theirs is a group more.
        round_group(min(q / 8, groups), q & 7, v, sink);
    };
#pragma unroll
    for (int k = 0; k < KEPT; k++)
        if (warp_first + k * threads < quads) finish_quad(kept[k], weights.of[k], threadIdx.x + k * threads);
#pragma unroll 1
    for (u32 first = warp_first + KEPT * threads; first < quads; first += threads) {
        float v[4], w[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        entering_quad<KIND, ALIGNED>(in, vector, (first + lane) * 4, cols, v);
        if (NORM && in.weight) load_quad<ALIGNED>(in.weight, (first + lane) * 4, cols, w);
        finish_quad(v, w, first + lane);
    }
}
