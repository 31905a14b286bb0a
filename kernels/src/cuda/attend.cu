// Compiled with --fmad=false: the bits of the CPU.
// Attention of many tokens at once over an 8-bit cache, by integer tensor cores: what `score`, `weigh` and `gather` of attention.cu do, bit for bit, without
// scores in memory.
//
// A warp has 16 tokens of a head and walks the positions that they see, 64 at a time, twice: first for the largest score, then for the weights, which are
// rounded together by 64, and the sum of the values. Queries and weights have 15 bits, a signed byte above an unsigned one: two products, whose sum
// is exact. The sixteen partial sums of the weights lie in the four lanes that share a token.
#include "attention.cuh"
#include "exact.cuh"
#include "pipeline.cuh"

// Tokens of a warp and of a block.
#define WARP_TOKENS 16
#define BLOCK_TOKENS 64

// Positions that are copied to shared memory together: keys, values, and the scales of both.
template <int DIM>
struct Stage {
    static const u32 stride = DIM + 16; // bytes from position to position: no two of eight rows in the same banks
    static const u32 values = WEIGHT_GROUP * stride;
    static const u32 key_scales = 2 * values;
    static const u32 value_scales = key_scales + 4 * WEIGHT_GROUP;
    static const u32 bytes = value_scales + 4 * WEIGHT_GROUP;
};

static __device__ __forceinline__ void copy_4(u32 shared, const void* global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
}

static __device__ __forceinline__ u32 permute(u32 a, u32 b, u32 by) {
    u32 out;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(by));
    return out;
}

// d + (16 x 32) * (32 x 8), of signed bytes.
static __device__ __forceinline__ void multiply_high(i32 d[4], const u32 a[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of unsigned times signed bytes.
static __device__ __forceinline__ void multiply_low(i32 d[4], const u32 a[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four matrices of 8 rows x 16 bytes, of which lane l says where row l % 8 of matrix l / 8 is.
static __device__ __forceinline__ void load_rows(u32 to[4], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared)
                 : "memory");
}

// The same, turned round: a lane has two bytes of each of two neighbouring rows.
static __device__ __forceinline__ void load_columns(u32 to[4], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared)
                 : "memory");
}

// Four codes of 16 bits, each the lower half of a word, as their upper and their lower bytes.
static __device__ __forceinline__ void split(u32 c0, u32 c1, u32 c2, u32 c3, u32& high, u32& low) {
    u32 a = permute(c0, c1, 0x5140), b = permute(c2, c3, 0x5140);
    low = permute(a, b, 0x5410);
    high = permute(a, b, 0x7632);
}

// The largest of the four lanes that share two tokens.
static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL, x, 2));
}

// Queries of the warp's tokens, rounded. A lane has the tokens lane / 4 and 8 more, and of each 32 columns those that a product wants of it.
template <int DIM>
struct Queries {
    u32 high[DIM / 32][4], low[DIM / 32][4];
    float scales[2]; // times the scale of the scores

    __device__ __forceinline__ void load(const float* const rows[2], float scale) {
        u32 quarter = threadIdx.x & 3;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float largest = 0.0f;
            float4 q[DIM / 16];
#pragma unroll
            for (int i = 0; i < DIM / 16; i++) {
                q[i] = *(const float4*)(rows[h] + 16 * i + 4 * quarter);
                largest = fmaxf(fmaxf(largest, fmaxf(fabsf(q[i].x), fabsf(q[i].y))), fmaxf(fabsf(q[i].z), fabsf(q[i].w)));
            }
            largest = quad_max(largest);
            bool silent = largest < 1.0e-30f;
            float inverse = silent ? 0.0f : LARGEST / largest;
            scales[h] = (silent ? 0.0f : largest / LARGEST) * scale;
            // The lower half of the bits is the code.
            auto code = [&](float x) { return silent ? 0 : __float_as_uint(x * inverse + ROUND); };
#pragma unroll
            for (int i = 0; i < DIM / 16; i++) {
                int at = 2 * (i & 1) + h;
                split(code(q[i].x), code(q[i].y), code(q[i].z), code(q[i].w), high[i / 2][at], low[i / 2][at]);
            }
        }
    }

    // Scores of 8 positions, (2 tokens, 2 positions) in a lane: positions 2 * quarter and one more of each token.
    __device__ __forceinline__ void score(float scores[4], u32 stage, const u8* shared, u32 eight) const {
        u32 lane = threadIdx.x & 31;
        u32 row = stage + (eight * 8 + (lane & 7)) * Stage<DIM>::stride + (lane >> 3) * 16;
        i32 highs[4] = {0, 0, 0, 0}, lows[4] = {0, 0, 0, 0};
#pragma unroll
        for (int k = 0; k < DIM / 32; k += 2) {
            // Of an odd last one the second half is read from the padding, and not used.
            u32 b[4];
            load_rows(b, row + k * 32 - (k + 1 == DIM / 32 ? (lane >> 4) * 32 : 0));
            multiply_high(highs, high[k], b[0], b[1]);
            multiply_low(lows, low[k], b[0], b[1]);
            if (k + 1 < DIM / 32) {
                multiply_high(highs, high[k + 1 < DIM / 32 ? k + 1 : k], b[2], b[3]);
                multiply_low(lows, low[k + 1 < DIM / 32 ? k + 1 : k], b[2], b[3]);
            }
        }
        float2 keys = *(const float2*)(shared + Stage<DIM>::key_scales + (eight * 8 + 2 * (lane & 3)) * 4);
#pragma unroll
        for (int i = 0; i < 4; i++) scores[i] = (float)(highs[i] * 256 + lows[i]) * scales[i >> 1] * (i & 1 ? keys.y : keys.x);
    }
};

// Queues the copies of 64 positions from `first` on, of which `len` are there at all.
template <int DIM, bool VALUES>
static __device__ __forceinline__ void copy_positions(u32 stage, const Cache& c, u64 cells, u32 first, u32 len) {
    typedef Stage<DIM> S;
    const u32 pieces = DIM / 16;
    for (u32 i = threadIdx.x; i < WEIGHT_GROUP * pieces; i += blockDim.x) {
        u32 n = i / pieces, piece = i % pieces;
        // What lies behind is read from inside: it counts for nothing.
        u64 from = (cells + min(first + n, len - 1)) * DIM + piece * 16;
        copy_16(stage + n * S::stride + piece * 16, c.keys + from);
        if (VALUES) copy_16(stage + S::values + n * S::stride + piece * 16, c.values + from);
    }
    u32 n = threadIdx.x % WEIGHT_GROUP;
    u64 from = (cells + min(first + n, len - 1)) * 4;
    if (threadIdx.x < WEIGHT_GROUP) copy_4(stage + S::key_scales + n * 4, c.key_scales + from);
    else if (VALUES) copy_4(stage + S::value_scales + n * 4, c.value_scales + from);
}

template <int DIM>
static __device__ __forceinline__ void attend(const Batch& b, const AttentionShape& s) {
    extern __shared__ uint4 room[];
    typedef Stage<DIM> S;
    if (is_shut(b)) return;
    u32 head = blockIdx.x, stream = blockIdx.z, lane = threadIdx.x & 31, quarter = lane & 3;
    // The longest come first.
    u32 first_token = (gridDim.y - 1 - blockIdx.y) * BLOCK_TOKENS, last = b.tokens - 1;
    u32 warp_token = first_token + threadIdx.x / 32 * WARP_TOKENS, before = (u32)cached_before(b, stream, 0);
    u32 tokens[2] = {min(warp_token + lane / 4, last), min(warp_token + lane / 4 + 8, last)};
    float* frames[2];
    const float* queries[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        frames[h] = frame_of(b, stream * b.tokens + tokens[h]);
        queries[h] = frames[h] + s.q + head * DIM;
    }
    Queries<DIM> q;
    q.load(queries, s.scale);
    Cache c = cache_of(state_of(b, stream) + s.slot, s);
    u64 cells = (u64)(head / (s.heads / s.kv_heads)) * s.capacity;
    u32 block_len = before + min(first_token + BLOCK_TOKENS - 1, last) + 1, warp_len = before + min(warp_token + WARP_TOKENS - 1, last) + 1;
    u32 len[2] = {before + tokens[0] + 1, before + tokens[1] + 1};
    u32 groups = (block_len + WEIGHT_GROUP - 1) / WEIGHT_GROUP;
    u8* stages = (u8*)room;
    u32 shared = shared_address(stages);

    float largest[2] = {-INFINITE, -INFINITE};
    float partial[2][2][2] = {};  // token, position % 16 / 8, position % 2
    float out[DIM / 16][2][4];    // columns 4 * quarter and three more of each 16
#pragma unroll
    for (int d = 0; d < DIM / 16; d++)
#pragma unroll
        for (int i = 0; i < 8; i++) out[d][i >> 2][i & 3] = 0.0f;

    copy_positions<DIM, false>(shared, c, cells, 0, block_len);
    copies_commit();
    for (u32 step = 0; step < 2 * groups; step++) {
        u32 group = step < groups ? step : step - groups, next = step + 1, at = (step & 1) * S::bytes;
        u32 to = shared + (next & 1) * S::bytes;
        if (next < groups) copy_positions<DIM, false>(to, c, cells, next * WEIGHT_GROUP, block_len);
        else if (next < 2 * groups) copy_positions<DIM, true>(to, c, cells, (next - groups) * WEIGHT_GROUP, block_len);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        u32 first = group * WEIGHT_GROUP, stage = shared + at;
        if (first < warp_len && step < groups) {
#pragma unroll
            for (int n = 0; n < 8; n++) {
                float scores[4];
                q.score(scores, stage, stages + at, n);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (first + n * 8 + 2 * quarter + (i & 1) < len[i >> 1]) largest[i >> 1] = fmaxf(largest[i >> 1], scores[i]);
            }
            if (first + WEIGHT_GROUP >= warp_len)
#pragma unroll
                for (int h = 0; h < 2; h++) largest[h] = quad_max(largest[h]);
        } else if (first < warp_len) {
            float x[8][4], most[2] = {0.0f, 0.0f};
#pragma unroll
            for (int n = 0; n < 8; n++) {
                q.score(x[n], stage, stages + at, n);
                float2 scales = *(const float2*)(stages + at + S::value_scales + (n * 8 + 2 * quarter) * 4);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    bool is_there = first + n * 8 + 2 * quarter + (i & 1) < len[i >> 1];
                    float weight = is_there ? exp_of(x[n][i] - largest[i >> 1]) : 0.0f;
                    partial[i >> 1][n & 1][i & 1] += weight;
                    x[n][i] = is_there ? weight * (i & 1 ? scales.y : scales.x) : 0.0f;
                    most[i >> 1] = fmaxf(most[i >> 1], fabsf(x[n][i]));
                }
            }
            float inverses[2], scales[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                most[h] = quad_max(most[h]);
                bool silent = most[h] < 1.0e-30f;
                inverses[h] = silent ? 0.0f : LARGEST / most[h];
                scales[h] = silent ? 0.0f : most[h] / LARGEST;
            }
            // The tokens' codes as a product wants them: four positions of two eights a word. Which positions these are does not matter to an exact sum,
            // as long as the values come in the same order.
            u32 high[2][4], low[2][4];
#pragma unroll
            for (int k = 0; k < 2; k++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int n = 4 * k + i / 2 * 2, h = i & 1;
                    auto code = [&](float x) { return __float_as_uint(x * inverses[h] + ROUND); };
                    split(code(x[n][2 * h]), code(x[n][2 * h + 1]), code(x[n + 1][2 * h]), code(x[n + 1][2 * h + 1]), high[k][i], low[k][i]);
                }
#pragma unroll
            for (int d = 0; d < DIM / 16; d++) {
                // Of even and of odd columns.
                i32 highs[2][4] = {}, lows[2][4] = {};
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    u32 v[4];
                    load_columns(v, stage + S::values + (k * 32 + lane) * S::stride + d * 16);
                    u32 even[2] = {permute(v[0], v[1], 0x6420), permute(v[2], v[3], 0x6420)};
                    u32 odd[2] = {permute(v[0], v[1], 0x7531), permute(v[2], v[3], 0x7531)};
                    multiply_high(highs[0], high[k], even[0], even[1]);
                    multiply_low(lows[0], low[k], even[0], even[1]);
                    multiply_high(highs[1], high[k], odd[0], odd[1]);
                    multiply_low(lows[1], low[k], odd[0], odd[1]);
                }
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    // Token i / 4, column i % 4.
                    int of = 2 * (i >> 2) + (i >> 1 & 1);
                    out[d][i >> 2][i & 3] += (float)(highs[i & 1][of] * 256 + lows[i & 1][of]) * scales[i >> 2];
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        // The CPU's tree: partial sums 8, 4, 2 and 1 apart.
        float even = partial[h][0][0] + partial[h][1][0], odd = partial[h][0][1] + partial[h][1][1];
        even += __shfl_xor_sync(FULL, even, 2), odd += __shfl_xor_sync(FULL, odd, 2);
        even += __shfl_xor_sync(FULL, even, 1), odd += __shfl_xor_sync(FULL, odd, 1);
        float inverse = 1.0f / (even + odd);
        if (warp_token + lane / 4 + 8 * h > last) continue;
        float* to = frames[h] + s.out + head * DIM + 4 * quarter;
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) {
            const float* y = out[d][h];
            *(float4*)(to + 16 * d) = {y[0] * inverse, y[1] * inverse, y[2] * inverse, y[3] * inverse};
        }
    }
}

// Attends to positions that the cache holds, those of the batch too, none of which it has let go of. Queries are rotated.
//
// Grid (heads, ceil(tokens / 64), streams), block 128; shared memory: two stages. Operands and frames lie on boundaries of 16 bytes.
#define ATTEND(dim)                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128, 3) attend_##dim(Batch b, AttentionShape s) { attend<dim>(b, s); }
ATTEND(32)
ATTEND(64)
ATTEND(96)
ATTEND(128)
