// Makes what enters a quantized matrix and rounds it to int8 per group of 32 (docs/numerics.md, sections 2 and 4): the CPU's bits. For sources
// compiled with --fmad=false.
#pragma once
#include "entering.cuh"
#include "exact.cuh"
#include "quant.cuh"

#define MAX_NORM_GROUPS 64

static __device__ __forceinline__ bool is_norm(u32 kind) { return kind == RMS || kind == GATED_RMS; }

// Makes a vector by a whole block: `values` (cols rounded up to groups) in shared memory, at a multiple of 16 bytes, before a norm's factors; then `inverses` has the factor
// of each norm. Ends with a barrier.
static __device__ __forceinline__ void make_values(const Entering& in, u32 vector, u32 cols, float* values, float* inverses) {
    const float* x = in.x + (u64)vector * in.stride;
    const float* z = in.z + (u64)vector * in.z_stride;
    u32 padded = (cols + GROUP - 1) / GROUP * GROUP;
    bool gated = in.kind == GATED_RMS || in.kind == SILU_MULTIPLY;
#pragma unroll 1
    for (u32 first = threadIdx.x; first < padded; first += 4 * blockDim.x) {
        float v[4], gate[4];
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            u32 i = first + k * blockDim.x;
            v[k] = i < cols ? x[i] : 0.0f;
            gate[k] = gated && i < cols ? z[i] : 0.0f;
        }
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            u32 i = first + k * blockDim.x;
            if (i >= padded) continue;
            bool by_z = in.kind == GATED_RMS;
            values[i] = gated ? (by_z ? v[k] : gate[k]) * silu_of(by_z ? gate[k] : v[k]) : v[k];
        }
    }
    __syncthreads();
    if (!is_norm(in.kind)) return;
    u32 width = cols / in.norm_groups, lane = threadIdx.x & 15;
#pragma unroll 1
    for (u32 n = threadIdx.x / 32; n < in.norm_groups; n += blockDim.x / 32) {
        // Sixteen partial sums, ascending, then the tree: `sum_of`, with loads ahead of the sums that wait for each other. A zero more changes none.
        const float* of_norm = values + n * width;
        float sum = 0.0f;
#pragma unroll 1
        for (u32 first = lane; first < width; first += 256) {
            float v[16];
#pragma unroll
            for (u32 i = 0; i < 16; i++) v[i] = first + 16 * i < width ? of_norm[first + 16 * i] : 0.0f;
#pragma unroll
            for (u32 i = 0; i < 16; i++) sum += v[i] * v[i];
        }
        float mean_square = tree_of(sum) / (float)width;
        float root = sqrtf(in.eps_outside ? mean_square : mean_square + in.eps);
        if (in.eps_outside) root += in.eps;
        if (lane == 0) inverses[n] = 1.0f / root;
    }
    __syncthreads();
}

// A norm's weights of the first eights that a thread rounds: read early, since no kernel writes them.
#define KEPT 2

struct KeptWeights {
    float of[KEPT][8];
};

static __device__ __forceinline__ KeptWeights keep_weights(const Entering& in, u32 cols) {
    KeptWeights kept;
    bool weighs = is_norm(in.kind) && in.weight;
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 col = (threadIdx.x + k * blockDim.x) * 8 + i;
            kept.of[k][i] = weighs && col < cols ? __ldg(in.weight + col) : 1.0f;
        }
    }
    return kept;
}

// Rounds a vector that `make_values` made, or takes one rounded before; calls `sink(group, eight, codes, scale, sum)` for every eight neighbouring
// numbers of a group, `codes` being theirs; what lies behind the last group has the number of groups.
template <class Sink>
static __device__ __forceinline__ void round_values(const Entering& in, u32 vector, u32 cols, const KeptWeights& kept, const float* values,
                                                    const float* inverses, Sink sink) {
    u32 groups = (cols + GROUP - 1) / GROUP, eights = groups * 4, lane = threadIdx.x & 31;
    // One copy of the code: what is fetched anew in every launch counts.
#pragma unroll 1
    for (u32 first = threadIdx.x - lane, k = 0; first < eights; first += blockDim.x, k++) {
        u32 at = first + lane, eight = at & 3, group = min(at / 4, groups);
        uint2 codes = make_uint2(0, 0);
        float scale = 0.0f;
        i32 sum = 0;
        if (in.kind == ROUNDED) {
            u64 of_group = (u64)vector * groups + group;
            if (group < groups) codes = ((const uint2*)in.codes)[of_group * 4 + eight], scale = in.scales[of_group], sum = in.sums[of_group];
        } else {
            // What is padded counts as zero already; lanes behind the last group round it once more.
            float v[8];
            const float4* from = (const float4*)(values + min(at, eights - 1) * 8);
            *(float4*)v = from[0], *(float4*)(v + 4) = from[1];
            if (is_norm(in.kind)) {
                float inverse = inverses[in.norm_groups == 1 ? 0 : min(at * 8 / (cols / in.norm_groups), in.norm_groups - 1)];
#pragma unroll
                for (u32 i = 0; i < 8; i++) {
                    float weight = k == 0 ? kept.of[0][i] : kept.of[1][i];
                    if (k >= KEPT) weight = in.weight && at * 8 + i < cols ? in.weight[at * 8 + i] : 1.0f;
                    v[i] = v[i] * inverse * weight;
                }
            }
            float largest = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v[i]));
            largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 2));
            bool silent = largest < 1.0e-30f; // its reciprocal would overflow
            float inverse = silent ? 0.0f : 127.0f / largest;
            scale = silent ? 0.0f : largest / 127.0f;
            u32 bytes[8];
#pragma unroll
            for (int i = 0; i < 8; i++) bytes[i] = (u32)__float2int_rn(v[i] * inverse); // ties to even; 0 for what is no number
            codes.x = permute(permute(bytes[0], bytes[1], 0x0040), permute(bytes[2], bytes[3], 0x0040), 0x5410);
            codes.y = permute(permute(bytes[4], bytes[5], 0x0040), permute(bytes[6], bytes[7], 0x0040), 0x5410);
            sum = dp4a((i32)codes.y, 0x01010101, dp4a((i32)codes.x, 0x01010101, 0));
            sum += __shfl_xor_sync(FULL, sum, 1);
            sum += __shfl_xor_sync(FULL, sum, 2);
        }
        sink(group, eight, codes, scale, sum);
    }
}
