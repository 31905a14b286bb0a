// Compiled with --fmad=false: the bits of the CPU.
// Quantized matrix times one to eight vectors, with what comes before and after it in a step: kernels/src/portable/matmul.rs.
//
// A block takes neighbouring tile rows, about as many as every other, in passes of as many as there is room for; a pass's tiles are cut evenly among
// its warps. A warp has its tiles copied into a ring of its own in shared memory, from before the vectors are there: what the kernel before this one
// takes to end is not lost for the memory. Integer tensor cores multiply a tile with up to eight vectors at a time. Its exact sums become floats, a term
// for each row and group, and wait in shared memory until one thread a row adds them up in ascending order: the CPU's bits, wherever the tiles were
// multiplied.
#include "pipeline.cuh"
#include "product.cuh"
#include "rounding.cuh"

#define WARPS 16
#define CHUNKS 2

// Tiles that are copied at once; four are multiplied at a time.
template <int BITS>
struct Ring {
    static const u32 chunk_tiles = BITS == 2 ? 16 : BITS <= 4 ? 8 : 4;
    static const u32 tile_bytes = Format<BITS>::tile_bytes + TILE_ROWS;
    static const u32 chunk_bytes = chunk_tiles * tile_bytes;
    // The sub-scales lie behind a chunk's tiles.
    static const u32 sub_scales = chunk_tiles * Format<BITS>::tile_bytes;
};

// What a warp has of a block's tiles, pass by pass, in chunks.
struct Walk {
    u32 pass, at, end;                              // tiles, counted from the pass's first
    u32 tile_rows, pass_tile_rows, groups, warp;    // of the block, of a pass, of a tile row

    __device__ __forceinline__ Walk(u32 tile_rows, u32 pass_tile_rows, u32 groups, u32 warp)
        : pass(0), tile_rows(tile_rows), pass_tile_rows(pass_tile_rows), groups(groups), warp(warp) {
        cut();
    }
    __device__ __forceinline__ bool has_pass() const { return pass * pass_tile_rows < tile_rows; }
    __device__ __forceinline__ u32 rows_of_pass() const { return min(pass_tile_rows, tile_rows - pass * pass_tile_rows); }
    // The first tile of the pass, counted from the block's first.
    __device__ __forceinline__ u32 first() const { return pass * pass_tile_rows * groups; }
    __device__ __forceinline__ void cut() {
        u32 tiles = rows_of_pass() * groups, fours = (tiles + 3) / 4;
        at = min(fours * warp / WARPS * 4, tiles);
        end = min(fours * (warp + 1) / WARPS * 4, tiles);
    }
    // To the next pass in which there is a tile; says whether there is one.
    __device__ __forceinline__ bool settle() {
        while (at == end) {
            pass++;
            if (!has_pass()) return false;
            cut();
        }
        return true;
    }
};

// Has a chunk of tiles copied. Bulk copies are started by one lane, others by all.
template <int BITS>
static __device__ __forceinline__ void start_chunk(const Planes& p, u32 tile, u32 tiles, u32 to, u32 barrier, u32 lane) {
#if BULK_COPIES
    if (lane != 0) return;
    barrier_expect(barrier, tiles * Ring<BITS>::tile_bytes);
    copy_bulk(to, p.tiles + (u64)tile * Format<BITS>::tile_bytes, tiles * Format<BITS>::tile_bytes, barrier);
    copy_bulk(to + Ring<BITS>::sub_scales, p.sub_scales + (u64)tile * TILE_ROWS, tiles * TILE_ROWS, barrier);
#else
    const u8* from = p.tiles + (u64)tile * Format<BITS>::tile_bytes;
    for (u32 piece = lane; piece < tiles * (BITS * 4); piece += 32) copy_16(to + piece * 16, from + piece * 16);
    if (lane < tiles) copy_16(to + Ring<BITS>::sub_scales + lane * 16, p.sub_scales + ((u64)tile + lane) * TILE_ROWS);
#endif
}

// (16 x 32) * (32 x 8) + c, of bytes.
static __device__ __forceinline__ void multiply_tile(i32 d[4], const u32 a[4], uint2 x) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(x.x), "r"(x.y));
}

// Whether the lower half of the levels is negative and the upper half is not, nor the largest number: then codes need no selection of a half.
static __device__ __forceinline__ bool splits(const u32* words) {
    const u32 signs = 0x80808080u;
    // One more than an upper level must not reach the sign.
    return (words[0] & words[1] & signs) == signs && ((words[2] | words[3] | (words[2] + 0x01010101u) | (words[3] + 0x01010101u)) & signs) == 0;
}

// The exact sums of a tile, begun with `INTEGER_BITS`. `words` points to the lane's pair of rows in the tile's first line: the tile's rows 2i and 2i + 1 are
// the rows i and i + 8 of the instruction. SPLIT: see `splits`.
template <int BITS, bool SPLIT>
static __device__ __forceinline__ void sums_of(i32 d[4], const Levels<BITS>& levels, const u32* words, u32 quarter, uint2 x) {
    d[0] = d[1] = d[2] = d[3] = INTEGER_BITS;
    u32 a[4];
    if constexpr (SPLIT) {
        // A nibble with its highest bit gives a level's sign, eight times, instead of the level: -1 in the lower half, 0 in the upper, whose
        // levels are one too high. Both products together are exact.
        uint2 nibbles = *(const uint2*)(words + quarter * TILE_ROWS);
        uint2 other = make_uint2(nibbles.x ^ 0x88888888u, nibbles.y ^ 0x88888888u);
        a[0] = permute(levels.words[0], levels.words[1], nibbles.x), a[2] = permute(levels.words[0], levels.words[1], nibbles.x >> 16);
        a[1] = permute(levels.words[0], levels.words[1], nibbles.y), a[3] = permute(levels.words[0], levels.words[1], nibbles.y >> 16);
        multiply_tile(d, a, x);
        a[0] = permute(levels.words[2], levels.words[3], other.x), a[2] = permute(levels.words[2], levels.words[3], other.x >> 16);
        a[1] = permute(levels.words[2], levels.words[3], other.y), a[3] = permute(levels.words[2], levels.words[3], other.y >> 16);
        multiply_tile(d, a, x);
    } else {
        expand<BITS>(levels, quarter, [&](u32 line) { return (*(const uint2*)(words + line * TILE_ROWS)).x; }, a[0], a[2]);
        expand<BITS>(levels, quarter, [&](u32 line) { return (*(const uint2*)(words + line * TILE_ROWS)).y; }, a[1], a[3]);
        multiply_tile(d, a, x);
    }
}

// The term that a sum of a row and a group adds: (sum + what the second table adds) * factor * scale. `of_group` has the scale and, for codes all equal to
// one, what a second table adds.
template <int BITS>
static __device__ __forceinline__ float term_of(i32 sum, i32 sub, int2 of_group) {
    if (BITS == 2) sum += of_group.y;
    else if (Format<BITS>::has_pick) sum += sub & 1 ? of_group.y : 0;
    float factor = from_integer_bits(INTEGER_BITS + (Format<BITS>::has_pick ? sub >> 1 : sub));
    // The sum without its bias, times the factor, is rounded once: the bias times the factor is exact.
    return fmaf(__int_as_float(sum), factor, -INTEGER_BIAS * factor) * __int_as_float(of_group.x);
}

// Vectors, rounded, in shared memory: codes (vectors, stride, 32) and scales with offsets (vectors, stride); behind the last group come three that repeat the first, so that
// four neighbouring tiles need not ask where a row ends.
struct Rounded {
    const u8* codes;
    const int2* groups;
    u32 count, stride; // groups, and how many there is room for
};

// Multiplies a chunk of tiles; `group` is the first one's. `to` is where its terms begin, (tiles, 16), and those of the next vector `to_stride` further.
template <int BITS, bool ONE, bool SPLIT>
static __device__ __forceinline__ void multiply_chunk(const Levels<BITS>& levels, const u8* chunk, u32 tiles, u32 group, u32 vectors, const Rounded& x,
                                                      float* to, u32 to_stride) {
    u32 lane = threadIdx.x & 31, pair = lane >> 2, quarter = lane & 3, groups = x.count;
    const u32* words = (const u32*)chunk + 2 * pair;
    const u16* subs = (const u16*)(chunk + Ring<BITS>::sub_scales) + pair;
    const u8* codes = x.codes + quarter * 8;
    // With one vector all columns of the instruction are that one; else a column is a vector.
    if (!ONE) codes += (pair < vectors ? pair : 0) * x.stride * GROUP;
#pragma unroll 1
    for (u32 first = 0; first < tiles; first += 4) {
        i32 d[4][4];
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            sums_of<BITS, SPLIT>(d[i], levels, words + (first + i) * (Format<BITS>::tile_bytes / 4), quarter, *(const uint2*)(codes + (group + i) * GROUP));
        if (ONE) {
            // All four lanes of a row have its sums; each finishes another tile.
            i32 low = quarter & 1 ? d[1][0] : d[0][0], high = quarter & 1 ? d[3][0] : d[2][0];
            i32 low2 = quarter & 1 ? d[1][2] : d[0][2], high2 = quarter & 1 ? d[3][2] : d[2][2];
            u32 tile = first + quarter, sub = subs[tile * (TILE_ROWS / 2)];
            int2 of_group = x.groups[group + quarter];
            float2 terms = make_float2(term_of<BITS>(quarter & 2 ? high : low, (i8)sub, of_group), term_of<BITS>(quarter & 2 ? high2 : low2, (i8)(sub >> 8), of_group));
            if (tile < tiles) *(float2*)(to + tile * TILE_ROWS + 2 * pair) = terms;
        } else {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 tile = first + i, sub = subs[tile * (TILE_ROWS / 2)];
#pragma unroll
                for (u32 j = 0; j < 2; j++) {
                    u32 vector = 2 * quarter + j;
                    if (vector >= vectors || tile >= tiles) continue;
                    int2 of_group = x.groups[vector * x.stride + group + i];
                    *(float2*)(to + vector * to_stride + tile * TILE_ROWS + 2 * pair) =
                        make_float2(term_of<BITS>(d[i][j], (i8)sub, of_group), term_of<BITS>(d[i][2 + j], (i8)(sub >> 8), of_group));
                }
            }
        }
        for (group += 4; group >= groups;) group -= groups;
    }
}

// What a row needs beside its terms and what it is added to: no kernel of this step writes it but this one.
struct RowBase {
    float row_scale, bias;
    float conv_bias, conv_weights[MAX_TAPS], conv_state[MAX_TAPS - 1];
};

static __device__ __forceinline__ bool is_convolved(const After& after, u32 row) { return row - after.conv_first < after.conv_channels; }

static __device__ __forceinline__ float* window_of(const After& after, u32 vector, u32 row) {
    return (float*)(after.conv_state + vector * after.conv_state_stride) + (row - after.conv_first);
}

static __device__ __forceinline__ RowBase read_row(const Product& product, const After& after, const Planes& p, u32 vector, u32 row) {
    RowBase base;
    base.row_scale = __ldg(p.row_scales + row);
    base.bias = product.bias ? __ldg(product.bias + row) : 0.0f;
    if (!is_convolved(after, row)) return base;
    u32 channel = row - after.conv_first;
    base.conv_bias = after.conv_bias ? __ldg(after.conv_bias + channel) : 0.0f;
    const float* window = window_of(after, vector, row);
#pragma unroll
    for (u32 tap = 0; tap < MAX_TAPS; tap++) {
        if (tap >= after.taps) continue;
        base.conv_weights[tap] = __ldg(after.conv_weight + (u64)tap * after.conv_channels + channel);
        if (tap + 1 < after.taps && tap < MAX_TAPS - 1) base.conv_state[tap] = window[(u64)tap * after.conv_channels];
    }
    return base;
}

// A base waits for its row's sum in shared memory, a number a row of (BASE_NUMBERS, threads): registers are for tiles.
#define BASE_NUMBERS (3 + MAX_TAPS + MAX_TAPS - 1)

static __device__ __forceinline__ void keep_row(const RowBase& base, const After& after, u32 row, float* kept, u32 stride) {
    kept[0] = base.row_scale, kept[stride] = base.bias;
    if (!is_convolved(after, row)) return;
    kept[2 * stride] = base.conv_bias;
#pragma unroll
    for (u32 tap = 0; tap < MAX_TAPS; tap++) {
        kept[(3 + tap) * stride] = base.conv_weights[tap];
        if (tap + 1 < MAX_TAPS) kept[(3 + MAX_TAPS + tap) * stride] = base.conv_state[tap];
    }
}

static __device__ __forceinline__ RowBase kept_row(const After& after, u32 row, const float* kept, u32 stride) {
    RowBase base;
    base.row_scale = kept[0], base.bias = kept[stride];
    if (!is_convolved(after, row)) return base;
    base.conv_bias = kept[2 * stride];
#pragma unroll
    for (u32 tap = 0; tap < MAX_TAPS; tap++) {
        base.conv_weights[tap] = kept[(3 + tap) * stride];
        if (tap + 1 < MAX_TAPS) base.conv_state[tap] = kept[(3 + MAX_TAPS + tap) * stride];
    }
    return base;
}

// Has what no kernel of this step writes but this one come into the cache.
static __device__ __forceinline__ void prefetch_row(const Product& product, const After& after, const Planes& p, u32 vector, u32 row) {
    prefetch(p.row_scales + row);
    if (product.bias) prefetch(product.bias + row);
    if (!is_convolved(after, row)) return;
    u32 channel = row - after.conv_first;
    if (after.conv_bias) prefetch(after.conv_bias + channel);
#pragma unroll 1
    for (u32 tap = 0; tap < after.taps; tap++) {
        prefetch(after.conv_weight + (u64)tap * after.conv_channels + channel);
        if (tap + 1 < after.taps) prefetch(window_of(after, vector, row) + (u64)tap * after.conv_channels);
    }
}

static __device__ __forceinline__ void finish_row(const RowBase& base, const Product& product, const After& after, u32 vector, u32 row, float residual,
                                                  float sum) {
    float y = sum * base.row_scale;
    if (product.bias) y += base.bias;
    y *= product.scale;
    if (after.cap > 0.0f) y = after.cap * tanh_of(y / after.cap);
    if (is_convolved(after, row)) {
        // A step of kernels/src/portable/conv.rs.
        float* state = window_of(after, vector, row);
        float acc = after.conv_bias ? base.conv_bias : 0.0f;
#pragma unroll
        for (u32 tap = 0; tap < MAX_TAPS; tap++) {
            if (tap + 1 < after.taps && tap < MAX_TAPS - 1) {
                acc += base.conv_weights[tap] * base.conv_state[tap];
                if (tap > 0) state[(u64)(tap - 1) * after.conv_channels] = base.conv_state[tap];
            } else if (tap + 1 == after.taps) {
                acc += base.conv_weights[tap] * y;
                if (tap > 0) state[(u64)(tap - 1) * after.conv_channels] = y;
            }
        }
        y = after.has_silu ? silu_of(acc) : acc;
    }
    if (product.residual) y = residual + y;
    product.out[(u64)vector * product.out_stride + row] = y;
}

// Adds neighbouring groups' terms of a row in ascending order; loads are ahead of the sums, which wait for each other.
template <u32 GROUPS>
static __device__ __forceinline__ void add_terms(float& sum, const float* terms) {
    float term[GROUPS];
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) term[g] = terms[g * TILE_ROWS];
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) sum += term[g];
}

// The sum of a row's terms. Few warps are at work then: what counts is how many instructions a term takes.
static __device__ __forceinline__ float sum_of_terms(const float* terms, u32 groups) {
    float sum = 0.0f;
    u32 g = 0;
#pragma unroll 1
    for (; g + 16 <= groups; g += 16) add_terms<16>(sum, terms + g * TILE_ROWS);
#pragma unroll 1
    for (; g + 4 <= groups; g += 4) add_terms<4>(sum, terms + g * TILE_ROWS);
#pragma unroll 1
    for (; g < groups; g++) add_terms<1>(sum, terms + g * TILE_ROWS);
    return sum;
}

template <int BITS, bool ONE>
static __device__ __forceinline__ void matvec(const Product& product, const Entering& in, const After& after, u32 vectors, u32 pass_tile_rows) {
    extern __shared__ uint4 shared[];
    if (ONE) vectors = 1;
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    Planes p = planes_of<BITS>(product.matrix, product.rows, product.cols);
    // Shared memory: the rings of all warps and their barriers, the vectors' codes, their scales and offsets, the norm's factors, the bases of the first
    // pass's rows, a thread each, and what is first room for a vector's values and then for the terms of a pass.
    const u32 ring_bytes = CHUNKS * Ring<BITS>::chunk_bytes;
    u8* ring = (u8*)shared + warp * ring_bytes;
    u8* all_barriers = (u8*)shared + WARPS * ring_bytes;
    u32 barriers = shared_address(all_barriers) + warp * (8 * CHUNKS), stride = (p.groups + 4) & ~1u;
    u8* codes = all_barriers + WARPS * 8 * CHUNKS;
    int2* groups = (int2*)(codes + vectors * stride * GROUP);
    float* inverses = (float*)(groups + vectors * stride);
    u32 kept_stride = min(pass_tile_rows * TILE_ROWS * vectors, blockDim.x);
    float* bases = inverses + MAX_NORM_GROUPS;
    float* terms = bases + BASE_NUMBERS * kept_stride;
    Values values(terms, product.cols);

    u32 each = p.tile_rows / gridDim.x, more = p.tile_rows % gridDim.x; // The first `more` blocks have a tile row more.
    u32 first_tile_row = blockIdx.x * each + min(blockIdx.x, more), end_tile_row = first_tile_row + each + (blockIdx.x < more);
    u32 first_tile = first_tile_row * p.groups, first_row = first_tile_row * TILE_ROWS;
    Walk coming(end_tile_row - first_tile_row, pass_tile_rows, p.groups, warp), walk = coming;
#if BULK_COPIES
    if (lane == 0) {
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) barrier_init(barriers + c * 8);
        fence_bulk();
    }
    __syncwarp();
#endif
    auto start_next = [&](u32 slot) {
        if (coming.has_pass() && coming.settle()) {
            u32 tiles = min(Ring<BITS>::chunk_tiles, coming.end - coming.at);
            start_chunk<BITS>(p, first_tile + coming.first() + coming.at, tiles, shared_address(ring + slot * Ring<BITS>::chunk_bytes), barriers + slot * 8, lane);
            coming.at += tiles;
        }
#if !BULK_COPIES
        copies_commit();
#endif
    };
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) start_next(c);

    Levels<BITS> levels = load_levels<BITS>(p);
    KeptWeights kept = keep_weights(in, product.cols);
    // Threads finish the rows of a pass, those of the second vector after those of the first.
    u32 pass_rows = walk.rows_of_pass() * TILE_ROWS;
    for (u32 i = threadIdx.x; i < pass_rows * vectors; i += blockDim.x) {
        u32 row = first_row + (ONE ? i : i % pass_rows), v = ONE ? 0 : i / pass_rows;
        if (row >= product.rows) continue;
        if (i < blockDim.x) keep_row(read_row(product, after, p, v, row), after, row, bases + i, kept_stride);
        else prefetch_row(product, after, p, v, row);
    }
    wait_for_previous();
    if (product.gate && *product.gate == 0) return;

    for (u32 v = 0; v < vectors; v++) {
        if (in.kind != ROUNDED) make_values(in, v, product.cols, values, inverses);
        // Not earlier: what the next kernel has copied ahead would stand in the way of the vectors.
        if (v == 0) let_next_start();
        u8* to = codes + v * stride * GROUP;
        int2* of_groups = groups + v * stride;
        i32 shift = levels.shift;
        round_values(in, v, product.cols, kept, values, inverses, [=](u32 group, u32 eight, uint2 codes, float scale, i32 sum) {
            // Formats with a table have their columns in the order of nibbles.
            const bool ordered = BITS == 8 || BITS == 2;
            if (!ordered) codes = make_uint2(permute(codes.x, codes.y, 0x5140), permute(codes.x, codes.y, 0x7362));
            u32 end = p.groups;
            for (u32 at = group; group < end && at < end + 3; at += end) {
                *(uint2*)(to + at * GROUP + eight * 8) = codes;
                if (eight == 0) of_groups[at] = make_int2(__float_as_int(scale), BITS == 2 ? -sum : shift * sum);
            }
        });
        __syncthreads();
    }
    bool split = false;
    if constexpr (BITS == 4) {
        split = splits(levels.words);
        if (split) levels.words[2] += 0x01010101u, levels.words[3] += 0x01010101u;
    }
    Rounded x = {codes, groups, p.groups, stride};
    u32 turn = 0; // chunks multiplied
    for (u32 pass = 0; pass * pass_tile_rows < end_tile_row - first_tile_row; pass++) {
        u32 rows = min(pass_tile_rows, end_tile_row - first_tile_row - pass * pass_tile_rows), terms_stride = rows * p.groups * TILE_ROWS;
        u32 group = walk.at % p.groups;
        while (walk.pass == pass && walk.at < walk.end) {
            u32 tiles = min(Ring<BITS>::chunk_tiles, walk.end - walk.at);
#if BULK_COPIES
            barrier_wait(barriers + turn % CHUNKS * 8, turn / CHUNKS & 1);
#else
            copies_wait<CHUNKS - 1>();
            __syncwarp();
#endif
            const u8* chunk = ring + turn % CHUNKS * Ring<BITS>::chunk_bytes;
            float* to = terms + walk.at * TILE_ROWS;
            if (BITS == 4 && split) multiply_chunk<BITS, ONE, BITS == 4>(levels, chunk, tiles, group, vectors, x, to, terms_stride);
            else multiply_chunk<BITS, ONE, false>(levels, chunk, tiles, group, vectors, x, to, terms_stride);
            __syncwarp();
            start_next(turn++ % CHUNKS);
            walk.at += tiles;
            for (group += tiles; group >= p.groups;) group -= p.groups;
        }
        rows *= TILE_ROWS;
        u32 of_vector = ONE ? 0 : threadIdx.x / rows, local = threadIdx.x - of_vector * rows, pass_row = first_row + pass * pass_tile_rows * TILE_ROWS;
        // Under way while others still multiply and while terms are added.
        float residual = 0.0f;
        bool has_row = of_vector < vectors && local < rows && pass_row + local < product.rows;
        if (has_row && product.residual) residual = product.residual[(u64)of_vector * product.residual_stride + pass_row + local];
        __syncthreads();
#pragma unroll 1
        for (u32 i = threadIdx.x; i < rows * vectors; i += blockDim.x) {
            u32 v = ONE ? 0 : i / rows, local = i - v * rows, row = pass_row + local;
            if (row >= product.rows) continue;
            const float* of_row = terms + v * terms_stride + local / TILE_ROWS * p.groups * TILE_ROWS + local % TILE_ROWS;
            float sum = sum_of_terms(of_row, p.groups);
            bool is_kept = pass == 0 && i < blockDim.x;
            RowBase base = is_kept ? kept_row(after, row, bases + i, kept_stride) : read_row(product, after, p, v, row);
            if (product.residual && i >= blockDim.x) residual = product.residual[(u64)v * product.residual_stride + row];
            finish_row(base, product, after, v, row, residual, sum);
        }
        __syncthreads();
        walk.settle();
    }
}

// out (vectors, rows) from vectors of `cols` numbers.
//
// Grid: as many blocks as multiprocessors, or as tile rows if those are fewer; block 32 * WARPS. Shared memory: see `matvec`; targets/cuda/src/launch/matvec.rs
// computes it, and how many tile rows make a pass.
#define MATVEC(bits, name, one)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, one ? 2 : 1)                                                                         \
        matvec_##bits##_##name(Product product, Entering in, After after, u32 vectors, u32 pass_tile_rows) {                              \
        matvec<bits, one>(product, in, after, vectors, pass_tile_rows);                                                                   \
    }
#define MATVECS(bits) MATVEC(bits, one, true) MATVEC(bits, some, false)
MATVECS(2)
MATVECS(3)
MATVECS(4)
MATVECS(5)
MATVECS(6)
MATVECS(8)
