// Compiled with --fmad=false: the bits of the CPU.
// Attention over a bounded cache of floats, 8 or 4 bits: runtime/src/ops/attention.rs and kernels/src/portable/attention.rs, int4.rs.
//
// `remember` rotates queries and keys and stores keys and values; then come the scores of all positions, their softmax, and the sum of the values. Over
// an 8-bit cache queries and weights are rounded to 15 bits, and products are exact integers.
#include "attention.cuh"
#include "exact.cuh"

// Levels of 4-bit codes: NONLINEAR_TABLE of kernels/src/quant/q4.rs.
static __constant__ float LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Where the cache keeps a position.
static __device__ __forceinline__ u64 place_of(const AttentionShape& s, u64 position) {
    return position < s.capacity ? position : s.slides ? s.sink + (position - s.sink) % (s.capacity - s.sink) : s.capacity - 1;
}

// Rotates one head by a warp: pairs (i, i + half).
static __device__ void rotate(const AttentionShape& s, float* x, u64 position) {
    for (u32 i = threadIdx.x; i < s.half; i += 32) {
        float sine, cosine, a = x[i], b = x[i + s.half];
        sin_cos_of_turns((u32)(position * s.turns[i] >> 32), &sine, &cosine);
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
            float v = i < s.head_dim ? x[i] : 0.0f, farthest = fabsf(v) > 0.0f ? v : 0.0f;
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

// Working space of the rows that are handled at once, rows * heads = cells.
struct Room {
    float* scores; // (cells, capacity): become weights
    i16* codes;    // (cells, capacity): weights over an 8-bit cache
    float* scales; // (cells, ceil(capacity / 64)): of 64 codes each
    float* totals; // (cells)
};

// Scores of 64 positions of a head. Grid (ceil(capacity / 64), heads, rows), block 256; shared: head_dim floats. Rows begin at `first_row`.
//
// Half a warp takes a position: lane i has columns i, i + 16, .., as the CPU's sixteen partial sums.
extern "C" __global__ void score(Batch b, AttentionShape s, Room room, u32 first_row) {
    extern __shared__ float q[];
    __shared__ float query_scales[4];
    if (is_shut(b)) return;
    u32 head = blockIdx.y, row = first_row + blockIdx.z, stream = row / b.tokens, from = blockIdx.x * 64, len = seen_by(b, s, row);
    if (from >= len) return;
    const float* query = frame_of(b, row) + s.q + head * s.head_dim;
    if (s.kind == CACHE_INT8) {
        // Codes take the place of the query: whole numbers up to 2^14 are exact in floats, but products are not.
        u32 warp = threadIdx.x / 32;
        for (u32 g = warp; g * QUERY_GROUP < s.head_dim; g += 8) {
            u32 end = min(s.head_dim, (g + 1) * QUERY_GROUP);
            float largest = 0.0f;
            for (u32 i = g * QUERY_GROUP + (threadIdx.x & 31); i < end; i += 32) largest = fmaxf(largest, fabsf(query[i]));
            largest = warp_max(largest);
            bool silent = largest < 1.0e-30f;
            float inverse = LARGEST / largest;
            for (u32 i = g * QUERY_GROUP + (threadIdx.x & 31); i < end; i += 32)
                ((i32*)q)[i] = silent ? 0 : __float2int_rn(query[i] * inverse);
            if ((threadIdx.x & 31) == 0) query_scales[g] = (silent ? 0.0f : largest / LARGEST) * s.scale;
        }
    } else {
        for (u32 i = threadIdx.x; i < s.head_dim; i += blockDim.x) q[i] = query[i];
    }
    __syncthreads();
    Cache c = cache_of(state_of(b, stream) + s.slot, s);
    u64 first = (u64)(head / (s.heads / s.kv_heads)) * s.capacity;
    float* scores = room.scores + ((u64)blockIdx.z * s.heads + head) * s.capacity;
    u32 lane = threadIdx.x & 15, groups = (s.head_dim + 31) / 32;
    for (u32 n = threadIdx.x / 16; n < 64; n += 16) {
        u32 j = from + n;
        bool is_there = j < len;
        u64 at = first + (is_there ? j : 0);
        float score = 0.0f;
        if (s.kind == CACHE_INT8) {
            const i8* key = (const i8*)c.keys + at * s.head_dim;
            for (u32 g = 0; g * QUERY_GROUP < s.head_dim; g++) {
                u32 end = min(s.head_dim, (g + 1) * QUERY_GROUP);
                i32 sum = 0;
                if ((s.head_dim & 3) == 0) {
                    for (u32 i = g * QUERY_GROUP + 4 * lane; i < end; i += 64) {
                        char4 k = *(const char4*)(key + i);
                        int4 codes = *(const int4*)((const i32*)q + i);
                        sum += codes.x * k.x + codes.y * k.y + codes.z * k.z + codes.w * k.w;
                    }
                } else {
                    for (u32 i = g * QUERY_GROUP + lane; i < end; i += 16) sum += ((const i32*)q)[i] * key[i];
                }
                for (int by = 8; by > 0; by >>= 1) sum += __shfl_xor_sync(FULL, sum, by);
                float term = (float)sum * query_scales[g];
                score = g == 0 ? term : score + term;
            }
            score *= ((const float*)c.key_scales)[at];
        } else {
            float sum = 0.0f;
            for (u32 i = lane; i < s.head_dim; i += 16) {
                float k;
                if (s.kind == CACHE_F32) k = ((const float*)c.keys)[at * s.head_dim + i];
                else {
                    u32 byte = c.keys[(at * groups + i / 32) * 16 + (i & 15)];
                    k = LEVELS[i & 16 ? byte >> 4 : byte & 15] * half_to_float(((const u16*)c.key_scales)[at * groups + i / 32]);
                }
                sum += q[i] * k;
            }
            score = tree_of(sum) * s.scale;
        }
        if (is_there && lane == 0) scores[j] = score;
    }
}

// Scores become weights, exp(score - largest), and for an 8-bit cache codes. Grid (heads, rows), block 256.
extern "C" __global__ void weigh(Batch b, AttentionShape s, Room room, u32 first_row) {
    __shared__ float maxima[32];
    if (is_shut(b)) return;
    u32 head = blockIdx.x, row = first_row + blockIdx.y, len = seen_by(b, s, row), lane = threadIdx.x & 31;
    u64 cell = (u64)blockIdx.y * s.heads + head;
    float* scores = room.scores + cell * s.capacity;
    float largest = -INFINITE;
    for (u32 j = threadIdx.x; j < len; j += blockDim.x) largest = fmaxf(largest, scores[j]);
    largest = block_max(largest, maxima);
    for (u32 j = threadIdx.x; j < len; j += blockDim.x) scores[j] = exp_of(scores[j] - largest);
    __syncthreads();
    if (threadIdx.x < 32) {
        float total = sum_of(len, [&](u32 j) { return scores[j]; });
        if (lane == 0) room.totals[cell] = total;
    }
    if (s.kind != CACHE_INT8) return;
    __syncthreads();
    Cache c = cache_of(state_of(b, row / b.tokens) + s.slot, s);
    const float* value_scales = (const float*)c.value_scales + (u64)(head / (s.heads / s.kv_heads)) * s.capacity;
    u32 groups = (s.capacity + WEIGHT_GROUP - 1) / WEIGHT_GROUP;
    for (u32 g = threadIdx.x / 32; g * WEIGHT_GROUP < len; g += 8) {
        u32 j = g * WEIGHT_GROUP + lane;
        float low = j < len ? scores[j] * value_scales[j] : 0.0f, high = j + 32 < len ? scores[j + 32] * value_scales[j + 32] : 0.0f;
        float most = warp_max(fmaxf(fabsf(low), fabsf(high)));
        bool silent = most < 1.0e-30f;
        float inverse = LARGEST / most;
        if (j < len) room.codes[cell * s.capacity + j] = silent ? 0 : (i16)__float2int_rn(low * inverse);
        if (j + 32 < len) room.codes[cell * s.capacity + j + 32] = silent ? 0 : (i16)__float2int_rn(high * inverse);
        if (lane == 0) room.scales[cell * groups + g] = silent ? 0.0f : most / LARGEST;
    }
}

// The weighted sum of the values. Grid (heads, rows), block: `teams` teams of `team` threads, head_dim rounded up to whole warps; shared:
// teams * team floats.
//
// Over an 8-bit cache a team takes 64 positions, whose sum is exact, and the teams' sums are added in order; else one team adds position by position.
extern "C" __global__ void gather(Batch b, AttentionShape s, Room room, u32 first_row, u32 team) {
    extern __shared__ float terms[];
    if (is_shut(b)) return;
    u32 head = blockIdx.x, row = first_row + blockIdx.y, len = seen_by(b, s, row), teams = blockDim.x / team;
    u32 mine = threadIdx.x / team, i = threadIdx.x % team, groups = (s.capacity + WEIGHT_GROUP - 1) / WEIGHT_GROUP;
    u64 cell = (u64)blockIdx.y * s.heads + head, first = (u64)(head / (s.heads / s.kv_heads)) * s.capacity;
    Cache c = cache_of(state_of(b, row / b.tokens) + s.slot, s);
    bool is_there = i < s.head_dim;
    float y = 0.0f;
    if (s.kind == CACHE_INT8) {
        const i8* values = (const i8*)c.values + first * s.head_dim + i;
        for (u32 g = 0; g * WEIGHT_GROUP < len; g += teams) {
            u32 from = (g + mine) * WEIGHT_GROUP, to = min(len, from + WEIGHT_GROUP);
            if (is_there && from < len) {
                const i16* codes = room.codes + cell * s.capacity;
                i32 sum = 0;
#pragma unroll 8
                for (u32 j = from; j < to; j++) sum += codes[j] * values[(u64)j * s.head_dim];
                terms[threadIdx.x] = (float)sum * room.scales[cell * groups + g + mine];
            }
            __syncthreads();
            if (mine == 0)
                for (u32 t = 0; t < teams && (g + t) * WEIGHT_GROUP < len; t++) y += terms[t * team + i];
            __syncthreads();
        }
    } else if (mine == 0 && is_there) {
        const float* weights = room.scores + cell * s.capacity;
        u32 of_head = (s.head_dim + 31) / 32;
#pragma unroll 4
        for (u32 j = 0; j < len; j++) {
            u64 at = first + j;
            float v;
            if (s.kind == CACHE_F32) v = ((const float*)c.values)[at * s.head_dim + i];
            else {
                u32 byte = c.values[(at * of_head + i / 32) * 16 + (i & 15)];
                v = LEVELS[i & 16 ? byte >> 4 : byte & 15] * half_to_float(((const u16*)c.value_scales)[at * of_head + i / 32]);
            }
            y += weights[j] * v;
        }
    }
    if (mine == 0 && is_there) {
        float inverse = 1.0f / room.totals[cell];
        frame_of(b, row)[s.out + head * s.head_dim + i] = y * inverse;
    }
}
