// Quantized matrix times many vectors: a prefill. kernels/src/portable/matmul.rs.
//
// A block makes 128 rows x TOKENS of the product by int8 tensor cores. A group of 32 columns is one step of them: the exact integer sums of a
// group become floats, take the row's factor and the vector's scale, and are added up in registers, groups ascending: the CPU's bits. Codes become
// levels in the registers of the warp that multiplies them: a lane's word of a tile is just what one instruction wants of its row. Where vectors are so many
// that this would be done again and again, `spread` writes the levels of all tiles first, and `matmul_spread` reads those.
#include "entering.cuh"
#include "pipeline.cuh"
#include "product.cuh"
#include "quant.cuh"

#define BLOCK_TILE_ROWS 8
#define STEP_GROUPS 2
#define STAGES 4

template <int BITS, int TOKENS>
struct Stage {
    // Of each of STEP_GROUPS groups: the tiles, their sub-scales, the vectors' codes, their scales.
    static const u32 subs = STEP_GROUPS * BLOCK_TILE_ROWS * Format<BITS>::tile_bytes;
    static const u32 codes = subs + STEP_GROUPS * BLOCK_TILE_ROWS * TILE_ROWS;
    static const u32 scales = codes + STEP_GROUPS * TOKENS * GROUP;
    static const u32 bytes = scales + STEP_GROUPS * TOKENS * 4;
};

static __device__ __forceinline__ void copy_4(u32 shared, const void* global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
}

// What a thread copies in every step: where from, as distances from the planes' beginnings that grow by a step's bytes, and where to in a stage.
template <int BITS, int TOKENS>
struct Share {
    static const u32 tile_pieces = BITS * 4, pieces = STEP_GROUPS * BLOCK_TILE_ROWS * tile_pieces, rounds = (pieces + 255) / 256;
    static const u32 code_rounds = STEP_GROUPS * TOKENS * 2 / 256 > 0 ? STEP_GROUPS * TOKENS * 2 / 256 : 1;
    u32 tiles[rounds], sub, codes[code_rounds], scale;

    // What lies outside is read from inside: it counts for nothing.
    __device__ __forceinline__ Share(const Planes& p, u32 first_tile_row, u32 first_token, u32 tokens) {
#pragma unroll
        for (u32 i = 0; i < rounds; i++) {
            u32 piece = threadIdx.x + i * 256, tile = piece / tile_pieces, in_tile = piece - tile * tile_pieces, row = tile / STEP_GROUPS;
            tiles[i] = (min(first_tile_row + row, p.tile_rows - 1) * p.groups + tile % STEP_GROUPS) * Format<BITS>::tile_bytes + in_tile * 16;
        }
        u32 row = threadIdx.x / STEP_GROUPS;
        sub = (min(first_tile_row + row, p.tile_rows - 1) * p.groups + threadIdx.x % STEP_GROUPS) * TILE_ROWS;
#pragma unroll
        for (u32 i = 0; i < code_rounds; i++) {
            u32 piece = threadIdx.x + i * 256, token = piece / (STEP_GROUPS * 2);
            codes[i] = min(first_token + token, tokens - 1) * p.groups * GROUP + piece % (STEP_GROUPS * 2) * 16;
        }
        scale = min(first_token + threadIdx.x / STEP_GROUPS, tokens - 1) * p.groups + threadIdx.x % STEP_GROUPS;
    }

    __device__ __forceinline__ void start(const Planes& p, const Entering& in, u8* stage, u32 group) {
        u32 to = shared_address(stage), thread = threadIdx.x, left = p.groups - group;
#pragma unroll
        for (u32 i = 0; i < rounds; i++) {
            u32 piece = thread + i * 256, tile = piece / tile_pieces, in_tile = piece - tile * tile_pieces;
            u32 at = (tile % STEP_GROUPS * BLOCK_TILE_ROWS + tile / STEP_GROUPS) * Format<BITS>::tile_bytes + in_tile * 16;
            if (piece < pieces && tile % STEP_GROUPS < left) copy_16(to + at, p.tiles + (u64)group * Format<BITS>::tile_bytes + tiles[i]);
        }
        if (thread < STEP_GROUPS * BLOCK_TILE_ROWS && thread % STEP_GROUPS < left)
            copy_16(to + Stage<BITS, TOKENS>::subs + (thread % STEP_GROUPS * BLOCK_TILE_ROWS + thread / STEP_GROUPS) * TILE_ROWS,
                    p.sub_scales + (u64)group * TILE_ROWS + sub);
#pragma unroll
        for (u32 i = 0; i < code_rounds; i++) {
            u32 piece = thread + i * 256, token = piece / (STEP_GROUPS * 2), part = piece % (STEP_GROUPS * 2), step = part >> 1;
            if (piece < STEP_GROUPS * TOKENS * 2 && step < left)
                copy_16(to + Stage<BITS, TOKENS>::codes + (step * TOKENS + token) * GROUP + (part & 1) * 16, in.codes + (u64)group * GROUP + codes[i]);
        }
        u32 token = thread / STEP_GROUPS, step = thread % STEP_GROUPS, at = Stage<BITS, TOKENS>::scales + (step * TOKENS + token) * 4;
        if (token < TOKENS) {
            if (step < left) copy_4(to + at, in.scales + group + scale);
            else *(float*)(stage + at) = 0.0f;
        }
    }
};

// (16 x 32) * (32 x 8) + c, of bytes.
static __device__ __forceinline__ void multiply_tiles(i32 d[4], const u32 a[4], u32 b0, u32 b1, i32 c) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c));
}

// The lane's eight columns of a row, as levels; the second table's if its sub-scale picks that.
template <int BITS>
static __device__ __forceinline__ void expand_row(const Levels<BITS>& levels, const Levels<BITS>& second, const u32* words, u32 quarter, i32 sub, u32& a, u32& b) {
    auto line = [&](int i) { return words[i * TILE_ROWS]; };
    if constexpr (Format<BITS>::table_words <= 4 && Format<BITS>::has_table) {
        Levels<BITS> picked = levels;
#pragma unroll
        for (int i = 0; i < Format<BITS>::table_words; i++) picked.words[i] = sub & 1 ? second.words[i] : levels.words[i];
        expand<BITS>(picked, quarter, line, a, b);
    } else {
        expand<BITS>(levels, quarter, line, a, b);
        if (BITS == 2) {
            // One less, byte by byte.
            a = (a + 0x7f7f7f7fu) ^ 0x80808080u;
            b = (b + 0x7f7f7f7fu) ^ 0x80808080u;
        } else if (Format<BITS>::has_table) {
            u32 shift = sub & 1 ? ((u32)levels.shift & 255) * 0x01010101u : 0;
            a = add_bytes(a, shift);
            b = add_bytes(b, shift);
        }
    }
}

// The integer sum times the factor, rounded once; then two roundings more: the CPU's bits.
static __device__ __forceinline__ float add_term(float acc, i32 sum, float factor, float bias, float scale) {
    float whole = fmaf(__int_as_float(sum), factor, bias);
    return __fadd_rn(acc, __fmul_rn(whole, scale));
}

// What becomes of a row's sums: acc[n][i] is of token `first` + 8 * n + i.
template <int EIGHTS>
static __device__ __forceinline__ void finish(const Product& product, u32 first, u32 tokens, u32 row, float row_scale, const float acc[EIGHTS][2]) {
    if (row >= product.rows || first >= tokens) return;
    u32 left = tokens - first;
    float* out = product.out + (u64)first * product.out_stride + row;
    const float* residual = product.residual ? product.residual + (u64)first * product.residual_stride + row : nullptr;
    bool has_bias = product.bias != nullptr;
    float bias = has_bias ? __ldg(product.bias + row) : 0.0f;
#pragma unroll
    for (u32 n = 0; n < EIGHTS; n++)
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            if (8 * n + i >= left) continue;
            float y = __fmul_rn(acc[n][i], row_scale);
            // Adding nothing is not adding zero, which would make a zero of -0.
            y = __fmul_rn(has_bias ? __fadd_rn(y, bias) : y, product.scale);
            if (residual) y = __fadd_rn(residual[(8 * n + i) * product.residual_stride], y);
            out[(8 * n + i) * product.out_stride] = y;
        }
}

template <int BITS, int TOKENS>
static __device__ __forceinline__ void matmul(const Product& product, const Entering& in, u32 tokens) {
    extern __shared__ uint4 shared[];
    typedef Stage<BITS, TOKENS> S;
    // Warps lie 4 x 2: each 32 rows, two tiles, and half of the tokens, in eights.
    const int TILES = 2, EIGHTS = TOKENS / 16;
    u8* stages = (u8*)shared;
    let_next_start();
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = lane >> 2, quarter = lane & 3;
    u32 warp_tile_row = (warp >> 1) * TILES, warp_token = (warp & 1) * (TOKENS / 2);
    Planes p = planes_of<BITS>(product.matrix, product.rows, product.cols);
    u32 first_tile_row = blockIdx.x * BLOCK_TILE_ROWS, first_token = blockIdx.y * TOKENS;
    Levels<BITS> levels = load_levels<BITS>(p), second = shifted<BITS>(levels);
    wait_for_previous();
    if (product.gate && *product.gate == 0) return;

    Share<BITS, TOKENS> share(p, first_tile_row, first_token, tokens);
    u32 steps = (p.groups + STEP_GROUPS - 1) / STEP_GROUPS;
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) share.start(p, in, stages + s * S::bytes, s * STEP_GROUPS);
        copies_commit();
    }
    float acc[TILES][EIGHTS][4];
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < EIGHTS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[t][n][i] = 0.0f;

    u32 slot = 0;
    for (u32 step = 0; step < steps; step++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        u32 ahead = step + STAGES - 1, free = slot == 0 ? STAGES - 1 : slot - 1;
        if (ahead < steps) share.start(p, in, stages + free * S::bytes, ahead * STEP_GROUPS);
        copies_commit();
        const u8* stage = stages + slot * S::bytes;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll 1
        for (int k = 0; k < STEP_GROUPS; k++) {
            u32 a[TILES][4];
            float factors[TILES][2], biases[TILES][2];
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                u32 tile = k * BLOCK_TILE_ROWS + warp_tile_row + t;
                const u32* words = (const u32*)(stage + tile * Format<BITS>::tile_bytes);
                const i8* subs = (const i8*)stage + S::subs + tile * TILE_ROWS;
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    i32 sub = subs[row + 8 * h];
                    expand_row<BITS>(levels, second, words + row + 8 * h, quarter, sub, a[t][h], a[t][h + 2]);
                    factors[t][h] = (float)(Format<BITS>::has_pick ? sub >> 1 : sub);
                    // Exact: the product of seven bits and two. One fused step then subtracts the bias and multiplies, and rounds once.
                    biases[t][h] = -INTEGER_BIAS * factors[t][h];
                }
            }
#pragma unroll
            for (int n = 0; n < EIGHTS; n++) {
                u32 token = warp_token + n * 8;
                uint2 x = *(const uint2*)(stage + S::codes + (k * TOKENS + token + row) * GROUP + quarter * 8);
                const bool ordered = BITS == 8 || BITS == 2;
                u32 b0 = ordered ? x.x : permute(x.x, x.y, 0x5140), b1 = ordered ? x.y : permute(x.x, x.y, 0x7362);
                float2 scales = *(const float2*)(stage + S::scales + (k * TOKENS + token + quarter * 2) * 4);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    i32 d[4];
                    multiply_tiles(d, a[t], b0, b1, INTEGER_BITS);
#pragma unroll
                    for (int i = 0; i < 4; i++) acc[t][n][i] = add_term(acc[t][n][i], d[i], factors[t][i >> 1], biases[t][i >> 1], i & 1 ? scales.y : scales.x);
                }
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            u32 out_row = (first_tile_row + warp_tile_row + t) * TILE_ROWS + row + 8 * h;
            float sums[EIGHTS][2];
#pragma unroll
            for (int n = 0; n < EIGHTS; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) sums[n][i] = acc[t][n][2 * h + i];
            finish<EIGHTS>(product, first_token + warp_token + quarter * 2, tokens, out_row, __ldg(p.row_scales + min(out_row, product.rows - 1)), sums);
        }
}

// A tile's levels, a row's two halves of 8 columns in each lane as an instruction wants them, and for each of 8 rows and the one 8 below their factors, and
// what the bias of integer sums comes to with them.
struct SpreadTile {
    uint4 levels[32];
    float4 factors[8];
};

// to (tile_rows, groups). Grid (ceil(groups / 8), tile_rows), block 256: a warp for each tile.
template <int BITS>
static __device__ __forceinline__ void spread(const u8* matrix, u32 rows, u32 cols, SpreadTile* to) {
    Planes p = planes_of<BITS>(matrix, rows, cols);
    u32 group = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x & 31, row = lane >> 2, quarter = lane & 3;
    if (group >= p.groups) return;
    Levels<BITS> levels = load_levels<BITS>(p), second = shifted<BITS>(levels);
    u64 tile = (u64)blockIdx.y * p.groups + group;
    const u32* words = (const u32*)(p.tiles + tile * Format<BITS>::tile_bytes);
    u32 a[4];
    float factors[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        i32 sub = ((const i8*)p.sub_scales)[tile * TILE_ROWS + row + 8 * h];
        u32 low, high;
        expand_row<BITS>(levels, second, words + row + 8 * h, quarter, sub, low, high);
        const bool ordered = BITS == 8 || BITS == 2;
        a[h] = ordered ? low : permute(low, high, 0x6420);
        a[h + 2] = ordered ? high : permute(low, high, 0x7531);
        factors[h] = (float)(Format<BITS>::has_pick ? sub >> 1 : sub);
    }
    to[tile].levels[lane] = {a[0], a[1], a[2], a[3]};
    if (quarter == 0) to[tile].factors[row] = {factors[0], factors[1], -INTEGER_BIAS * factors[0], -INTEGER_BIAS * factors[1]};
}

#define SPREAD(bits)                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) spread_##bits(const u8* matrix, u32 rows, u32 cols, SpreadTile* to) {                \
        spread<bits>(matrix, rows, cols, to);                                                                                              \
    }
SPREAD(2)
SPREAD(3)
SPREAD(4)
SPREAD(5)
SPREAD(6)
SPREAD(8)

template <int TOKENS>
struct SpreadStage {
    // Of each of BLOCK_TILE_ROWS tile rows, STEP_GROUPS tiles; of each of STEP_GROUPS groups, the vectors' codes; their scales.
    static const u32 row = STEP_GROUPS * sizeof(SpreadTile);
    static const u32 codes = BLOCK_TILE_ROWS * row;
    static const u32 scales = codes + STEP_GROUPS * TOKENS * GROUP;
    static const u32 bytes = scales + STEP_GROUPS * TOKENS * 4;
};

template <int TOKENS>
static __device__ __forceinline__ void matmul_spread(const Product& product, const Entering& in, u32 tokens, const SpreadTile* tiles, const float* row_scales) {
    extern __shared__ uint4 shared[];
    typedef SpreadStage<TOKENS> S;
    const int TILES = 2, EIGHTS = TOKENS / 16;
    u8* stages = (u8*)shared;
    let_next_start();
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = lane >> 2, quarter = lane & 3;
    u32 warp_tile_row = (warp >> 1) * TILES, warp_token = (warp & 1) * (TOKENS / 2);
    u32 tile_rows = (product.rows + TILE_ROWS - 1) / TILE_ROWS, groups = (product.cols + GROUP - 1) / GROUP;
    u32 first_tile_row = blockIdx.x * BLOCK_TILE_ROWS, first_token = blockIdx.y * TOKENS;
    wait_for_previous();
    if (product.gate && *product.gate == 0) return;

    // What a thread copies in every step, from where to where in a stage. What lies outside is read from inside: it counts for nothing.
    const u32 row_pieces = S::row / 16, pieces = BLOCK_TILE_ROWS * row_pieces, rounds = (pieces + 255) / 256;
    const u32 token_pieces = STEP_GROUPS * 2, code_rounds = TOKENS * token_pieces / 256;
    const u8 *from_tiles[rounds], *from_codes[code_rounds];
#pragma unroll
    for (u32 i = 0; i < rounds; i++) {
        u32 piece = threadIdx.x + i * 256, tile_row = min(first_tile_row + piece / row_pieces, tile_rows - 1);
        from_tiles[i] = (const u8*)(tiles + (u64)tile_row * groups) + piece % row_pieces * 16;
    }
    u32 part = threadIdx.x % token_pieces, scale_token = threadIdx.x / STEP_GROUPS, scale_step = threadIdx.x % STEP_GROUPS;
#pragma unroll
    for (u32 i = 0; i < code_rounds; i++) {
        u32 token = min(first_token + (threadIdx.x + i * 256) / token_pieces, tokens - 1);
        from_codes[i] = (const u8*)in.codes + (u64)token * groups * GROUP + part * 16;
    }
    const float* from_scale = in.scales + (u64)min(first_token + scale_token, tokens - 1) * groups + scale_step;
    u32 to_tiles = shared_address(stages) + threadIdx.x * 16;
    u32 to_codes = shared_address(stages) + S::codes + (part / 2 * TOKENS + threadIdx.x / token_pieces) * GROUP + part % 2 * 16;
    u32 to_scale = shared_address(stages) + S::scales + (scale_step * TOKENS + scale_token) * 4;
    // Of the last step maybe one group alone is there.
    auto start = [&](u32 slot, u32 there) {
        u32 stage = slot * S::bytes;
        bool is_whole = there == STEP_GROUPS;
#pragma unroll
        for (u32 i = 0; i < rounds; i++) {
            u32 piece = threadIdx.x + i * 256;
            if (((i + 1) * 256 <= pieces || piece < pieces) && (is_whole || piece % row_pieces < there * (u32)sizeof(SpreadTile) / 16))
                copy_16(to_tiles + stage + i * 4096, from_tiles[i]);
            from_tiles[i] += S::row;
        }
#pragma unroll
        for (u32 i = 0; i < code_rounds; i++) {
            if (is_whole || part / 2 < there) copy_16(to_codes + stage + i * (256 / token_pieces) * GROUP, from_codes[i]);
            from_codes[i] += STEP_GROUPS * GROUP;
        }
        if (scale_token < TOKENS && (is_whole || scale_step < there)) copy_4(to_scale + stage, from_scale);
        from_scale += STEP_GROUPS;
    };
    u32 steps = (groups + STEP_GROUPS - 1) / STEP_GROUPS;
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) start(s, min((u32)STEP_GROUPS, groups - s * STEP_GROUPS));
        copies_commit();
    }
    float acc[TILES][EIGHTS][4];
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < EIGHTS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[t][n][i] = 0.0f;

    u32 slot = 0;
    for (u32 step = 0; step < steps; step++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        u32 ahead = step + STAGES - 1, free = slot == 0 ? STAGES - 1 : slot - 1;
        if (ahead < steps) start(free, min((u32)STEP_GROUPS, groups - ahead * STEP_GROUPS));
        copies_commit();
        const u8* stage = stages + slot * S::bytes;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        u32 there = min((u32)STEP_GROUPS, groups - step * STEP_GROUPS);
#pragma unroll
        for (u32 k = 0; k < STEP_GROUPS; k++) {
            if (k >= there) break;
            u32 a[TILES][4];
            float factors[TILES][2], biases[TILES][2];
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const SpreadTile* tile = (const SpreadTile*)(stage + (warp_tile_row + t) * S::row) + k;
                uint4 levels = tile->levels[lane];
                float4 f = tile->factors[row];
                a[t][0] = levels.x, a[t][1] = levels.y, a[t][2] = levels.z, a[t][3] = levels.w;
                factors[t][0] = f.x, factors[t][1] = f.y, biases[t][0] = f.z, biases[t][1] = f.w;
            }
            // Products of the next eight vectors are under way while the sums of these are taken; what they read, earlier still.
            uint2 x[3];
            float2 scales[3];
            i32 d[2][TILES][4];
            auto load = [&](int n) {
                u32 token = warp_token + n * 8;
                x[n % 3] = *(const uint2*)(stage + S::codes + (k * TOKENS + token + row) * GROUP + quarter * 8);
                scales[n % 3] = *(const float2*)(stage + S::scales + (k * TOKENS + token + quarter * 2) * 4);
            };
            auto multiply = [&](int n) {
#pragma unroll
                for (int t = 0; t < TILES; t++) multiply_tiles(d[n & 1][t], a[t], x[n % 3].x, x[n % 3].y, INTEGER_BITS);
            };
            load(0);
            load(1);
            multiply(0);
#pragma unroll
            for (int n = 0; n < EIGHTS; n++) {
                if (n + 2 < EIGHTS) load(n + 2);
                if (n + 1 < EIGHTS) multiply(n + 1);
#pragma unroll
                for (int t = 0; t < TILES; t++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        acc[t][n][i] = add_term(acc[t][n][i], d[n & 1][t][i], factors[t][i >> 1], biases[t][i >> 1], i & 1 ? scales[n % 3].y : scales[n % 3].x);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            u32 out_row = (first_tile_row + warp_tile_row + t) * TILE_ROWS + row + 8 * h;
            float sums[EIGHTS][2];
#pragma unroll
            for (int n = 0; n < EIGHTS; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) sums[n][i] = acc[t][n][2 * h + i];
            finish<EIGHTS>(product, first_token + warp_token + quarter * 2, tokens, out_row, __ldg(row_scales + min(out_row, product.rows - 1)), sums);
        }
}

// The same from levels that `spread` wrote; row_scales (rows). Shared memory: four stages of 2 * (5120 + 36 * TOKENS) bytes.
#define MATMUL_SPREAD(tokens)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                                   \
        matmul_spread_##tokens(Product product, Entering in, u32 vectors, const SpreadTile* tiles, const float* row_scales) {              \
        matmul_spread<tokens>(product, in, vectors, tiles, row_scales);                                                                    \
    }
MATMUL_SPREAD(64)
MATMUL_SPREAD(128)

// out (tokens, rows) from rounded vectors: codes, scales.
//
// Grid (rows / 128, tokens / TOKENS), both rounded up; block 256; shared memory: four stages of 2 * (128 * 2 * BITS + 128 + 36 * TOKENS) bytes.
#define MATMUL(bits, tokens)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2) matmul_##bits##_##tokens(Product product, Entering in, u32 vectors) {            \
        matmul<bits, tokens>(product, in, vectors);                                                                                       \
    }
#define MATMULS(bits) MATMUL(bits, 32) MATMUL(bits, 64)
MATMULS(2)
MATMULS(3)
MATMULS(4)
MATMULS(5)
MATMULS(6)
MATMULS(8)
