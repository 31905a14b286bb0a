// Attention over a bounded cache of floats, 8 or 4 bits: runtime/src/ops/attention.rs and kernels/src/portable/attention.rs, int4.rs.
//
// `remember` rotates queries and keys and stores keys and values; `attend` reads the cache, its positions shared out to blocks and warps, each with a
// softmax of its own; `join` adds those up. Queries and weights stay floats where the CPU rounds them to 15 bits.
#include "act.cuh"

enum CacheKind { CACHE_F32 = 0, CACHE_INT8 = 1, CACHE_INT4 = 2 };

struct AttentionShape {
    u32 q, k, v, out; // places in a frame: (heads, head_dim), (kv_heads, head_dim) twice, (heads, head_dim)
    u32 heads, kv_heads, head_dim;
    u32 half;         // rotated dimensions / 2
    u32 kind, capacity, sink, slides;
    const u64* turns; // (half): the angle per position in units of 2^-64 turn
    u64 slot;
    float scale;
};

// Levels of 4-bit codes: NONLINEAR_TABLE of kernels/src/quant/q4.rs.
static __constant__ float LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// The parts of a cache, one behind the other on 16-byte boundaries.
struct Cache {
    u8 *key_scales, *value_scales, *keys, *values;
};

static __device__ __forceinline__ Cache cache_of(u8* slot, const AttentionShape& s) {
    u64 positions = (u64)s.kv_heads * s.capacity, cells = positions * s.head_dim, groups = positions * ((s.head_dim + 31) / 32);
    u64 scale_bytes = s.kind == CACHE_F32 ? 0 : s.kind == CACHE_INT8 ? positions * 4 : groups * 2;
    u64 code_bytes = s.kind == CACHE_F32 ? cells * 4 : s.kind == CACHE_INT8 ? cells : groups * 16;
    scale_bytes = (scale_bytes + 15) & ~15ull;
    code_bytes = (code_bytes + 15) & ~15ull;
    Cache c;
    c.key_scales = slot;
    c.value_scales = slot + scale_bytes;
    c.keys = slot + 2 * scale_bytes;
    c.values = c.keys + code_bytes;
    return c;
}

// Where the cache keeps a position.
static __device__ __forceinline__ u64 place_of(const AttentionShape& s, u64 position) {
    return position < s.capacity ? position : s.slides ? s.sink + (position - s.sink) % (s.capacity - s.sink) : s.capacity - 1;
}

// Rotates one head by a warp: pairs (i, i + half).
static __device__ void rotate(const AttentionShape& s, float* x, u64 position) {
    for (u32 i = threadIdx.x; i < s.half; i += 32) {
        float sine, cosine, a = x[i], b = x[i + s.half];
        sin_cos_turns((u32)(position * s.turns[i] >> 32), &sine, &cosine);
        x[i] = a * cosine - b * sine;
        x[i + s.half] = b * cosine + a * sine;
    }
    __syncwarp();
}

// Stores one head at cell `at`, counted in positions, by a warp.
static __device__ void store(const AttentionShape& s, const float* x, u8* scales, u8* codes, u64 at) {
    u32 lane = threadIdx.x;
    if (s.kind == CACHE_F32) {
        for (u32 i = lane; i < s.head_dim; i += 32) ((float*)codes)[at * s.head_dim + i] = x[i];
    } else if (s.kind == CACHE_INT8) {
        float largest = 0.0f;
        for (u32 i = lane; i < s.head_dim; i += 32) largest = fmaxf(largest, fabsf(x[i]));
        largest = warp_max(largest);
        float inverse = largest < 1.0e-30f ? 0.0f : 127.0f / largest;
        for (u32 i = lane; i < s.head_dim; i += 32) ((i8*)codes)[at * s.head_dim + i] = (i8)__float2int_rn(x[i] * inverse);
        if (lane == 0) ((float*)scales)[at] = largest / 127.0f;
    } else {
        u32 groups = (s.head_dim + 31) / 32;
        for (u32 g = 0; g < groups; g++) {
            u32 i = g * 32 + lane;
            float v = i < s.head_dim ? x[i] : 0.0f, farthest = v;
            u32 first = lane; // the first of those that are farthest from zero
            for (int by = 16; by > 0; by >>= 1) {
                float other = __shfl_xor_sync(FULL, farthest, by);
                u32 other_first = __shfl_xor_sync(FULL, first, by);
                if (fabsf(other) > fabsf(farthest) || (fabsf(other) == fabsf(farthest) && other_first < first)) {
                    farthest = other;
                    first = other_first;
                }
            }
            u16 scale = float_to_half(farthest / -127.0f);
            float level = v * ((scale & 0x7fff) == 0 ? 0.0f : 1.0f / half_to_float(scale));
            u32 code = 0;
            for (u32 c = 0; c < 15; c++) code += level > 0.5f * (LEVELS[c] + LEVELS[c + 1]);
            if (i >= s.head_dim) code = 0; // padding stays zero, as on the CPU
            u32 upper = __shfl_down_sync(FULL, code, 16);
            if (lane < 16) codes[(at * groups + g) * 16 + lane] = (u8)(code | upper << 4);
            if (lane == 0) ((u16*)scales)[at * groups + g] = scale;
        }
    }
}

// Rotates the queries and keys of each row, and stores its keys and values. Grid (kv_heads + heads, rows), block 32.
extern "C" __global__ void remember(Batch b, AttentionShape s) {
    if (is_shut(b)) return;
    u32 row = blockIdx.y, stream = row / b.tokens, token = row % b.tokens;
    float* frame = frame_of(b, row);
    u64 position = position_of(b, stream, token);
    if (blockIdx.x >= s.kv_heads) {
        rotate(s, frame + s.q + (blockIdx.x - s.kv_heads) * s.head_dim, position);
        return;
    }
    u32 head = blockIdx.x;
    float *k = frame + s.k + head * s.head_dim, *v = frame + s.v + head * s.head_dim;
    rotate(s, k, position);
    Cache c = cache_of(state_of(b, stream) + s.slot, s);
    u64 at = (u64)head * s.capacity + place_of(s, cached_before(b, stream, token));
    store(s, k, c.key_scales, c.keys, at);
    store(s, v, c.value_scales, c.values, at);
}

// Numbers lane, lane + 32, .. of a cell.
template <u32 DIMS>
static __device__ __forceinline__ void load(const AttentionShape& s, const u8* scales, const u8* codes, u64 at, float (&x)[DIMS]) {
    u32 lane = threadIdx.x & 31, groups = (s.head_dim + 31) / 32;
    float scale = s.kind == CACHE_INT8 ? ((const float*)scales)[at] : 1.0f;
#pragma unroll
    for (u32 r = 0; r < DIMS; r++) {
        u32 i = r * 32 + lane;
        x[r] = 0.0f;
        if (i >= s.head_dim) continue;
        if (s.kind == CACHE_F32) x[r] = ((const float*)codes)[at * s.head_dim + i];
        else if (s.kind == CACHE_INT8) x[r] = scale * (float)((const i8*)codes)[at * s.head_dim + i];
        else x[r] = half_to_float(((const u16*)scales)[at * groups + r]) * LEVELS[codes[(at * groups + r) * 16 + (lane & 15)] >> (lane & 16 ? 4 : 0) & 15];
    }
}

// Positions that a warp takes together.
#define TOGETHER 4

// Sums over a part of the cache: to `out` if there is one part, else to parts, (rows, heads, parts, 2 + head_dim): largest score, sum of weights, values.
//
// Grid (heads, rows, parts), block 128 (4 warps), shared: 4 * (2 + head_dim) floats. `DIMS` * 32 >= head_dim.
template <u32 DIMS>
static __device__ __forceinline__ void attend(const Batch& b, const AttentionShape& s, float* parts) {
    extern __shared__ float of_warps[];
    if (is_shut(b)) return;
    u32 head = blockIdx.x, row = blockIdx.y, stream = row / b.tokens, token = row % b.tokens, lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    u64 cached = cached_before(b, stream, token) + 1;
    u32 len = (u32)min(cached, (u64)s.capacity), share = (len + gridDim.z - 1) / gridDim.z;
    u32 from = min(len, blockIdx.z * share), to = min(len, from + share);
    float* frame = frame_of(b, row);
    Cache c = cache_of(state_of(b, stream) + s.slot, s);
    u64 first = (u64)(head / (s.heads / s.kv_heads)) * s.capacity;
    float q[DIMS], acc[DIMS], most = -INFINITE, total = 0.0f;
#pragma unroll
    for (u32 r = 0; r < DIMS; r++) {
        u32 i = r * 32 + lane;
        q[r] = i < s.head_dim ? frame[s.q + head * s.head_dim + i] * s.scale : 0.0f;
        acc[r] = 0.0f;
    }
    for (u32 j = from + warp * TOGETHER; j < to; j += 4 * TOGETHER) {
        float scores[TOGETHER], x[DIMS], largest = most;
#pragma unroll
        for (u32 n = 0; n < TOGETHER; n++) {
            float score = 0.0f;
            if (j + n < to) {
                load<DIMS>(s, c.key_scales, c.keys, first + j + n, x);
#pragma unroll
                for (u32 r = 0; r < DIMS; r++) score += q[r] * x[r];
            }
            scores[n] = score;
        }
#pragma unroll
        for (u32 n = 0; n < TOGETHER; n++) {
            scores[n] = warp_sum(scores[n]);
            if (j + n >= to) scores[n] = -INFINITE;
            largest = fmaxf(largest, scores[n]);
        }
        float fade = expf(most - largest);
        most = largest;
        total *= fade;
#pragma unroll
        for (u32 r = 0; r < DIMS; r++) acc[r] *= fade;
#pragma unroll
        for (u32 n = 0; n < TOGETHER; n++) {
            if (j + n >= to) continue;
            float weight = expf(scores[n] - most);
            total += weight;
            load<DIMS>(s, c.value_scales, c.values, first + j + n, x);
#pragma unroll
            for (u32 r = 0; r < DIMS; r++) acc[r] += weight * x[r];
        }
    }
    float* mine = of_warps + warp * (2 + s.head_dim);
    if (lane == 0) {
        mine[0] = most;
        mine[1] = total;
    }
#pragma unroll
    for (u32 r = 0; r < DIMS; r++)
        if (r * 32 + lane < s.head_dim) mine[2 + r * 32 + lane] = acc[r];
    __syncthreads();
    float largest = -INFINITE, sum = 0.0f;
    for (u32 w = 0; w < 4; w++) largest = fmaxf(largest, of_warps[w * (2 + s.head_dim)]);
    // A part of the cache that is still empty has no weight; the first never is.
    float weights[4];
    for (u32 w = 0; w < 4; w++) {
        const float* warps = of_warps + w * (2 + s.head_dim);
        weights[w] = warps[0] == -INFINITE ? 0.0f : expf(warps[0] - largest);
        sum += weights[w] * warps[1];
    }
    float* part = parts + (((u64)row * s.heads + head) * gridDim.z + blockIdx.z) * (2 + s.head_dim);
    if (gridDim.z > 1 && threadIdx.x == 0) {
        part[0] = largest;
        part[1] = sum;
    }
    for (u32 i = threadIdx.x; i < s.head_dim; i += blockDim.x) {
        float y = 0.0f;
        for (u32 w = 0; w < 4; w++) y += weights[w] * of_warps[w * (2 + s.head_dim) + 2 + i];
        if (gridDim.z > 1) part[2 + i] = y;
        else frame[s.out + head * s.head_dim + i] = y / sum;
    }
}

extern "C" __global__ void attend_32(Batch b, AttentionShape s, float* parts) { attend<1>(b, s, parts); }
extern "C" __global__ void attend_64(Batch b, AttentionShape s, float* parts) { attend<2>(b, s, parts); }
extern "C" __global__ void attend_128(Batch b, AttentionShape s, float* parts) { attend<4>(b, s, parts); }
extern "C" __global__ void attend_256(Batch b, AttentionShape s, float* parts) { attend<8>(b, s, parts); }
extern "C" __global__ void attend_512(Batch b, AttentionShape s, float* parts) { attend<16>(b, s, parts); }

// Adds up the parts of each head. Grid (heads, rows), block 128.
extern "C" __global__ void join(Batch b, AttentionShape s, const float* parts, u32 count) {
    if (is_shut(b)) return;
    u32 head = blockIdx.x, row = blockIdx.y, width = 2 + s.head_dim;
    const float* mine = parts + ((u64)row * s.heads + head) * count * width;
    float largest = -INFINITE, sum = 0.0f;
    for (u32 p = 0; p < count; p++) largest = fmaxf(largest, mine[p * width]);
    for (u32 p = 0; p < count; p++) sum += expf(mine[p * width] - largest) * mine[p * width + 1];
    for (u32 i = threadIdx.x; i < s.head_dim; i += blockDim.x) {
        float y = 0.0f;
        for (u32 p = 0; p < count; p++) y += expf(mine[p * width] - largest) * mine[p * width + 2 + i];
        frame_of(b, row)[s.out + head * s.head_dim + i] = y / sum;
    }
}
