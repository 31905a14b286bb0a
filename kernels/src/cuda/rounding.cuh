// Makes what enters a quantized matrix and rounds it to int8 per group of 32 (docs/numerics.md, sections 2 and 4): the CPU's bits. For sources
// compiled with --fmad=false.
#pragma once
#include "entering.cuh"
#include "exact.cuh"
#include "quant.cuh"

#define MAX_NORM_GROUPS 64

static __device__ __forceinline__ bool is_norm(u32 kind) { return kind == RMS || kind == GATED_RMS; }

// A vector's values in shared memory, by the lane that adds up their squares: number i in row i % 16 at i / 16. Rows are so far apart that loads of four
// neighbours, a row for each lane, meet no bank twice.
struct Values {
    float* at; // a multiple of 16 bytes
    u32 stride;

    __device__ __forceinline__ Values(float* at, u32 cols) : at(at), stride(values_stride(cols)) {}
    __device__ __forceinline__ float& operator[](u32 i) const { return at[(i & 15) * stride + (i >> 4)]; }

    // Numbers of a row, with those behind the last: whole fours of them.
    static __device__ __forceinline__ u32 steps(u32 cols) { return (cols + 63) / 64 * 4; }
    static __device__ __forceinline__ u32 values_stride(u32 cols) { return (steps(cols) + 31) / 32 * 32 + 4; }
};

// The sum of the squares of `steps` numbers in ascending order, as one warp adds them up by itself: loads are ahead of the sums, which wait for each other,
// and no instruction is spent on the end of a row. `steps` is a multiple of four.
static __device__ __forceinline__ float sum_of_squares(const float* numbers, u32 steps) {
    const float4* fours = (const float4*)numbers;
    float sum = 0.0f;
    auto add = [&](float4 v) {
        sum += v.x * v.x;
        sum += v.y * v.y;
        sum += v.z * v.z;
        sum += v.w * v.w;
    };
    u32 pairs = steps / 8;
    if (pairs > 0) {
        float4 v = fours[0], w = fours[1];
#pragma unroll 4
        for (u32 pair = 1; pair < pairs; pair++) {
            float4 next_v = fours[2 * pair], next_w = fours[2 * pair + 1];
            add(v), add(w);
            v = next_v, w = next_w;
        }
        add(v), add(w);
    }
    if (steps % 8) add(fours[2 * pairs]);
    return sum;
}

// Makes a vector by a whole block, before a norm's factors, of which `inverses` then has one for each norm. Ends with a barrier.
static __device__ __forceinline__ void make_values(const Entering& in, u32 vector, u32 cols, const Values& values, float* inverses) {
    const float* x = in.x + (u64)vector * in.stride;
    const float* z = in.z + (u64)vector * in.z_stride;
    u32 padded = 16 * Values::steps(cols);
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
    u32 width = in.norm_groups == 1 ? cols : cols / in.norm_groups, steps = Values::steps(width), lane = threadIdx.x & 15;
#pragma unroll 1
    for (u32 n = threadIdx.x / 32; n < in.norm_groups; n += blockDim.x / 32) {
        // Sixteen partial sums, ascending, then the tree: `sum_of`, with loads ahead of the sums that wait for each other. A zero more changes none.
        float sum = sum_of_squares(values.at + lane * values.stride + n * steps, steps);
        float mean_square = tree_of(sum) / (float)width;
        float root = sqrtf(in.eps_outside ? mean_square : mean_square + in.eps);
        if (in.eps_outside) root += in.eps;
        if (lane == 0) inverses[n] = 1.0f / root;
    }
    __syncthreads();
}

// Has a line of memory come into the cache.
static __device__ __forceinline__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// A norm's weights of the first eight numbers that a thread rounds: read early, since no kernel writes them.
struct KeptWeights {
    float of[8];
};

// The weights of eight columns. A file's arrays begin at multiples of 64 bytes.
static __device__ __forceinline__ void read_weights(const Entering& in, u32 col, u32 cols, float weights[8]) {
    if (cols % 8 == 0) {
        *(float4*)weights = __ldg((const float4*)(in.weight + min(col, cols - 8)));
        *(float4*)(weights + 4) = __ldg((const float4*)(in.weight + min(col, cols - 8) + 4));
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) weights[i] = __ldg(in.weight + min(col + i, cols - 1));
}

static __device__ __forceinline__ KeptWeights keep_weights(const Entering& in, u32 cols) {
    KeptWeights kept;
    if (is_norm(in.kind) && in.weight) {
        read_weights(in, threadIdx.x * 8, cols, kept.of);
        // The others, where there are any, come at least into the cache.
        for (u32 col = (threadIdx.x + blockDim.x) * 8; col < cols; col += blockDim.x * 8) prefetch(in.weight + col);
    }
    return kept;
}

// Rounds a vector that `make_values` made, or takes one rounded before; calls `sink(group, eight, codes, scale, sum)` for every eight neighbouring
// numbers of a group, `codes` being theirs; what lies behind the last group has the number of groups.
template <class Sink>
static __device__ __forceinline__ void round_values(const Entering& in, u32 vector, u32 cols, const KeptWeights& kept, const Values& values,
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
            u32 from = min(at, eights - 1) * 8;
#pragma unroll
            for (u32 i = 0; i < 8; i++) v[i] = values[from + i];
            if (is_norm(in.kind)) {
                float inverse = inverses[in.norm_groups == 1 ? 0 : min(from / (cols / in.norm_groups), in.norm_groups - 1)];
                float weights[8];
                if (in.weight) {
                    if (k > 0) read_weights(in, from, cols, weights);
#pragma unroll
                    for (u32 i = 0; i < 8; i++) v[i] = v[i] * inverse * (k == 0 ? kept.of[i] : weights[i]);
                } else {
#pragma unroll
                    for (u32 i = 0; i < 8; i++) v[i] *= inverse;
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
            for (int i = 0; i < 8; i++) {
                // To the nearest, ties to even, by an addition; 0 for what is no number.
                float y = v[i] * inverse;
                bytes[i] = y == y ? __float_as_uint(y + INTEGER_BIAS) : 0;
            }
            codes.x = permute(permute(bytes[0], bytes[1], 0x0040), permute(bytes[2], bytes[3], 0x0040), 0x5410);
            codes.y = permute(permute(bytes[4], bytes[5], 0x0040), permute(bytes[6], bytes[7], 0x0040), 0x5410);
            sum = dp4a((i32)codes.y, 0x01010101, dp4a((i32)codes.x, 0x01010101, 0));
            sum += __shfl_xor_sync(FULL, sum, 1);
            sum += __shfl_xor_sync(FULL, sum, 2);
        }
        sink(group, eight, codes, scale, sum);
    }
}
