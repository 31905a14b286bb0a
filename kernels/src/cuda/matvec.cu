// Quantized matrix times one to eight vectors: a step. kernels/src/portable/matmul.rs.
//
// A block takes neighbouring tile rows, about as many as every other, and cuts their tiles evenly among its warps. A warp has its tiles copied
// into a ring of its own in shared memory, far ahead, and from before the vectors are there: what the kernel before this one takes to end is
// not lost for the memory. A warp works on two tiles at a time, lane l on row l % 16 of one of them; rows that lie in several warps are added up
// in the end, in the order of their columns. The integer sums are exact; the order of the others is fixed by the shape and the number of blocks.
#include "entering.cuh"
#include "pipeline.cuh"
#include "product.cuh"
#include "quant.cuh"

// Tiles in shared memory for each warp, in chunks that are copied at once: about 100 KiB for 16 warps.
template <int BITS>
struct Ring {
    static const u32 chunks = 3;
    static const u32 chunk_tiles = BITS == 5 ? 6 : BITS == 3 ? 10 : BITS == 6 ? 4 : 32 / BITS;
    static const u32 tile_bytes = Format<BITS>::tile_bytes + TILE_ROWS;
    static const u32 chunk_bytes = chunk_tiles * tile_bytes;
    // The sub-scales lie behind a chunk's tiles.
    static const u32 sub_scales = chunk_tiles * Format<BITS>::tile_bytes;
    static const u32 bytes = chunks * chunk_bytes + 8 * chunks + 8;
};

// Has a chunk of tiles copied. Bulk copies are started by one lane, others by all.
template <int BITS>
static __device__ __forceinline__ void start_chunk(const Planes& p, u32 tile, u32 tiles, u32 to, u32 barrier, u32 lane) {
#if BULK_COPIES
    barrier_expect(barrier, tiles * Ring<BITS>::tile_bytes);
    copy_bulk(to, p.tiles + (u64)tile * Format<BITS>::tile_bytes, tiles * Format<BITS>::tile_bytes, barrier);
    copy_bulk(to + Ring<BITS>::sub_scales, p.sub_scales + (u64)tile * TILE_ROWS, tiles * TILE_ROWS, barrier);
#else
    const u8* from = p.tiles + (u64)tile * Format<BITS>::tile_bytes;
    for (u32 piece = lane; piece < tiles * (BITS * 4); piece += 32) copy_16(to + piece * 16, from + piece * 16);
    if (lane < tiles) copy_16(to + Ring<BITS>::sub_scales + lane * 16, p.sub_scales + ((u64)tile + lane) * TILE_ROWS);
#endif
}

// Waits for the oldest chunk under way. Called by all lanes; `round` is how often the ring has been filled before it.
template <int BITS>
static __device__ __forceinline__ void wait_chunk(u32 barrier, u32 round) {
#if BULK_COPIES
    barrier_wait(barrier, round & 1);
#else
    copies_wait<Ring<BITS>::chunks - 1>();
    __syncwarp();
#endif
}

// Whether the lower half of the levels is negative and the upper half is not, nor the largest number: then codes need no selection of a half.
static __device__ __forceinline__ bool splits(const u32* words) {
    const u32 signs = 0x80808080u;
    // One more than an upper level must not reach the sign.
    return (words[0] & words[1] & signs) == signs && ((words[2] | words[3] | (words[2] + 0x01010101u) | (words[3] + 0x01010101u)) & signs) == 0;
}

// What two tiles, one for each half of the warp, add to the lane's row. `tile` points to the lane's tile and row, `sub` to its sub-scale, `codes`
// and `groups` to the vectors' codes, scales and offsets of its group.
template <int BITS, int VECTORS, bool SPLIT>
static __device__ __forceinline__ void add_tile(const Levels<BITS>& levels, const u32* words, i32 sub, u32 half, const u8* codes, const int2* groups,
                                         u32 group_stride, float* acc) {
    float factor = (float)(Format<BITS>::has_pick ? sub >> 1 : sub);
    i32 pick = sub & 1;
    if constexpr (SPLIT) {
        // A nibble with its highest bit gives a level's sign, eight times, instead of the level: -1 in the lower half, 0 in the upper, whose
        // levels are one too high. Both products together are exact. The halves of the warp take lines in another order, to meet other banks.
        int2 of_group = *groups;
        i32 low = INTEGER_BITS + pick * of_group.y, high = 0, low2 = 0, high2 = 0;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 nibbles = words[(i ^ half) * TILE_ROWS], other = nibbles ^ 0x88888888u;
            uint2 x = *(const uint2*)(codes + (i ^ half) * 8);
            low = dp4a(permute(levels.words[0], levels.words[1], nibbles), x.x, low);
            high = dp4a(permute(levels.words[2], levels.words[3], other), x.x, high);
            low2 = dp4a(permute(levels.words[0], levels.words[1], nibbles >> 16), x.y, low2);
            high2 = dp4a(permute(levels.words[2], levels.words[3], other >> 16), x.y, high2);
        }
        acc[0] += from_integer_bits((low + high) + (low2 + high2)) * factor * __int_as_float(of_group.x);
        return;
    }
    auto line = [&](int i) { return words[i * TILE_ROWS]; };
    u32 w[8];
#pragma unroll
    for (int i = 0; i < 4; i++) expand<BITS>(levels, i, line, w[2 * i], w[2 * i + 1]);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const uint4* from = (const uint4*)(codes + v * group_stride * GROUP);
        uint4 x[2] = {from[0], from[1]};
        int2 of_group = groups[v * group_stride];
        const u32* xs = (const u32*)x;
        i32 even = INTEGER_BITS, odd = 0;
        if (BITS == 2) even += of_group.y;
        else if (Format<BITS>::has_pick) even += pick * of_group.y;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            even = dp4a(w[2 * i], xs[2 * i], even);
            odd = dp4a(w[2 * i + 1], xs[2 * i + 1], odd);
        }
        acc[v] += from_integer_bits(even + odd) * factor * __int_as_float(of_group.x);
    }
}

template <int BITS, int VECTORS, bool SPLIT>
static __device__ __forceinline__ void walk_tiles(const Product& product, const Planes& p, const Levels<BITS>& levels, u32 first_tile, u32 begin, u32 end,
                                           u32 first_row, u8* ring, u32 barriers, const u8* codes, const int2* groups, u32 group_stride,
                                           const float* row_scales, const float* base, u32 base_stride, float* slots) {
    const u32 CHUNK = Ring<BITS>::chunk_tiles;
    u32 lane = threadIdx.x & 31, half = lane >> 4, row = lane & 15;
    float acc[VECTORS];
#pragma unroll
    for (int v = 0; v < VECTORS; v++) acc[v] = 0.0f;
    u32 tile_row = begin / p.groups, group = begin - tile_row * p.groups, slot = 0, round = 0;
    bool foreign = group != 0;
#pragma unroll 1
    for (u32 chunk = begin; chunk < end; chunk += CHUNK) {
        u8* at = ring + slot * Ring<BITS>::chunk_bytes;
        u32 tiles = min(CHUNK, end - chunk);
        wait_chunk<BITS>(barriers + slot * 8, round);
        const u32* words = (const u32*)(at + half * Format<BITS>::tile_bytes) + row;
        const i8* subs = (const i8*)at + Ring<BITS>::sub_scales + half * TILE_ROWS + row;
        for (u32 left = tiles; left > 0;) {
            u32 run = min(left, p.groups - group);
            const u8* x = codes + (group + half) * GROUP;
            const int2* of_groups = groups + group + half;
            left -= run;
            group += run;
#pragma unroll 2
            for (; run >= 2; run -= 2) {
                add_tile<BITS, VECTORS, SPLIT>(levels, words, *subs, half, x, of_groups, group_stride, acc);
                words += 2 * Format<BITS>::tile_bytes / 4, subs += 2 * TILE_ROWS, x += 2 * GROUP, of_groups += 2;
            }
            if (run) {
                // One tile: half of the warp would meet the next row's.
                if (half == 0) add_tile<BITS, VECTORS, SPLIT>(levels, words, *subs, half, x, of_groups, group_stride, acc);
                words += Format<BITS>::tile_bytes / 4, subs += TILE_ROWS;
            }
            bool complete = group == p.groups;
            if (!complete && (left > 0 || chunk + CHUNK < end)) continue;
            bool whole = complete && !foreign;
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                float sum = acc[v] + __shfl_xor_sync(FULL, acc[v], 16);
                acc[v] = 0.0f;
                if (half) continue;
                u32 local = tile_row * TILE_ROWS + row, out_row = first_row + local;
                if (!whole) slots[((complete ? 0 : 1) * VECTORS + v) * TILE_ROWS + row] = sum;
                else if (out_row < product.rows)
                    product.out[(u64)v * product.out_stride + out_row] = base[v * base_stride + local] + product.scale * (sum * row_scales[local]);
            }
            if (complete) {
                foreign = false;
                group = 0;
                tile_row++;
            }
        }
        __syncwarp();
        u32 next = chunk + CHUNK * Ring<BITS>::chunks;
        if (next < end && (!BULK_COPIES || lane == 0))
            start_chunk<BITS>(p, first_tile + next, min(CHUNK, end - next), shared_address(at), barriers + slot * 8, lane);
#if !BULK_COPIES
        copies_commit();
#endif
        slot++;
        if (slot == Ring<BITS>::chunks) slot = 0, round++;
    }
}

template <int BITS, int VECTORS, int KIND>
static __device__ __forceinline__ void matvec(const Product& product, const Entering& in, u32 max_tile_rows) {
    extern __shared__ uint4 shared[];
    let_next_start();
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x >> 5) - 1, threads = warps * 32;
    Planes p = planes_of<BITS>(product.matrix, product.rows, product.cols);
    // Even, so that a half of a warp that has no tile finds zeros.
    u32 group_stride = (p.groups + 1) & ~1u, row_stride = max_tile_rows * TILE_ROWS;
    // Shared memory: the rings of all warps and their barriers, the vectors' codes, their scales and offsets, what warps leave of rows that others
    // share, the rows' scales, what is added to the products, where warps begin, and room for the norm.
    const u32 ring_bytes = Ring<BITS>::chunks * Ring<BITS>::chunk_bytes;
    u8* ring = (u8*)shared + warp * ring_bytes;
    u32 barriers = shared_address((u8*)shared + warps * ring_bytes + warp * (8 * Ring<BITS>::chunks));
    u8* codes = (u8*)shared + warps * (ring_bytes + 8 * Ring<BITS>::chunks + 8);
    int2* groups = (int2*)(codes + VECTORS * group_stride * GROUP);
    float* all_slots = (float*)(groups + VECTORS * group_stride);
    float* row_scales = all_slots + warps * (2 * VECTORS * TILE_ROWS);
    float* base = row_scales + row_stride;
    u32* begins = (u32*)(base + VECTORS * row_stride);
    float* norm_sums = (float*)(begins + warps);
    float* slots = all_slots + warp * (2 * VECTORS * TILE_ROWS);

    u32 first_tile_row = (u64)p.tile_rows * blockIdx.x / gridDim.x, end_tile_row = (u64)p.tile_rows * (blockIdx.x + 1) / gridDim.x;
    u32 tile_rows = end_tile_row - first_tile_row, tiles = tile_rows * p.groups, first_row = first_tile_row * TILE_ROWS;
    u32 first_tile = first_tile_row * p.groups;
    // Warps begin at every second tile, so that pairs of an even number of groups stay together.
    u32 pairs = (tiles + 1) / 2, begin = min(pairs * warp / warps * 2, tiles), end = min(pairs * (warp + 1) / warps * 2, tiles);
#if BULK_COPIES
    if (lane == 0 && warp < warps) {
#pragma unroll
        for (u32 c = 0; c < Ring<BITS>::chunks; c++) barrier_init(barriers + c * 8);
        fence_bulk();
    }
    __syncthreads();
#endif
    if (lane == 0 && warp < warps) begins[warp] = begin;
    // The last warp has the first chunks copied, for each of the others by a lane: one after the other, so that not so much is on its way at once
    // that what others wait for would queue behind it.
    if (warp == warps) {
#if BULK_COPIES
        if (lane < warps) {
            u32 of_lane = shared_address((u8*)shared + warps * ring_bytes + lane * (8 * Ring<BITS>::chunks));
            u32 to = shared_address((u8*)shared + lane * ring_bytes);
            u32 at = min(pairs * lane / warps * 2, tiles), to_end = min(pairs * (lane + 1) / warps * 2, tiles);
            for (u32 c = 0; c < Ring<BITS>::chunks && at < to_end; c++) {
                // Not for ever: by then the chunk may have been used, and its room be waiting for another.
                for (u32 tries = 0; c > 0 && tries < 64 && !barrier_passed(of_lane + (c - 1) * 8, 0); tries++) {}
                start_chunk<BITS>(p, first_tile + at, min(Ring<BITS>::chunk_tiles, to_end - at), to + c * Ring<BITS>::chunk_bytes, of_lane + c * 8, 0);
                at += Ring<BITS>::chunk_tiles;
            }
        }
#endif
        wait_for_previous();
        return;
    }
#if !BULK_COPIES
#pragma unroll
    for (u32 c = 0; c < Ring<BITS>::chunks; c++) {
        u32 at = begin + c * Ring<BITS>::chunk_tiles;
        if (at < end)
            start_chunk<BITS>(p, first_tile + at, min(Ring<BITS>::chunk_tiles, end - at), shared_address(ring + c * Ring<BITS>::chunk_bytes), 0, lane);
        copies_commit();
    }
#endif
    Levels<BITS> levels = load_levels<BITS>(p);
    u32 rows = tile_rows * TILE_ROWS;
    for (u32 i = threadIdx.x; i < rows; i += threads) {
        row_scales[i] = __ldg(p.row_scales + first_row + i);
        for (int v = 0; v < VECTORS; v++)
            base[v * row_stride + i] = product.bias && first_row + i < product.rows ? product.scale * __ldg(product.bias + first_row + i) : 0.0f;
    }
    KeptWeights weights;
    if (KIND == RMS || KIND == GATED_RMS) weights = load_weights<true>(in, product.cols, threads);
    wait_for_previous();
    if (product.gate && *product.gate == 0) return;

    // The residual's first numbers come while the vectors are made.
    float residual = 0.0f;
    if (product.residual && threadIdx.x < rows && first_row + threadIdx.x < product.rows) residual = product.residual[first_row + threadIdx.x];
    for (int v = 0; v < VECTORS; v++) {
        u8* to = codes + v * group_stride * GROUP;
        int2* of_groups = groups + v * group_stride;
        i32 shift = levels.shift;
        round_vector<KIND, true, true>(in, v, product.cols, threads, weights, norm_sums, nullptr, [=](u32 group, u32 quad, u32 four, float scale, i32 sum) {
            const bool ordered = BITS == 8 || BITS == 2;
            if (!ordered) {
                u32 other = __shfl_xor_sync(FULL, four, 1);
                four = permute(quad & 1 ? other : four, quad & 1 ? four : other, quad & 1 ? 0x7362 : 0x5140);
            }
            if (group >= group_stride) return;
            *(u32*)(to + group * GROUP + quad * 4) = four;
            if (quad == 0) of_groups[group] = make_int2(__float_as_int(scale), BITS == 2 ? -sum : shift * sum);
        });
    }
    if (product.residual) {
        // By the threads that wrote `base`.
        for (u32 i = threadIdx.x; i < rows && first_row + i < product.rows; i += threads) {
            base[i] += i == threadIdx.x ? residual : product.residual[first_row + i];
            for (int v = 1; v < VECTORS; v++) base[v * row_stride + i] += product.residual[(u64)v * product.residual_stride + first_row + i];
        }
    }
    sync_threads(threads);

    bool split = false;
    if constexpr (BITS == 4 && VECTORS == 1) {
        split = splits(levels.words);
        if (split) {
            Levels<BITS> up = levels;
            up.words[2] += 0x01010101u;
            up.words[3] += 0x01010101u;
            walk_tiles<BITS, VECTORS, true>(product, p, up, first_tile, begin, end, first_row, ring, barriers, codes, groups, group_stride, row_scales, base,
                                            row_stride, slots);
        }
    }
    if (!split)
        walk_tiles<BITS, VECTORS, false>(product, p, levels, first_tile, begin, end, first_row, ring, barriers, codes, groups, group_stride, row_scales, base,
                                         row_stride, slots);
    sync_threads(threads);

    // A row that ends here but began before: this warp's part lies in slot 0, those of the warps before it in their slot 1.
    u32 from = begin / p.groups, row_begin = from * p.groups;
    if (begin == end || begin == row_begin || row_begin + p.groups > end || lane >= TILE_ROWS) return;
    u32 first = warp - 1;
    while (begins[first] > row_begin) first--;
    u32 local = from * TILE_ROWS + lane;
    if (first_row + local >= product.rows) return;
    for (int v = 0; v < VECTORS; v++) {
        float sum = 0.0f;
        for (u32 w = first; w < warp; w++)
            if (begins[w] < begins[w + 1]) sum += all_slots[((w * 2 + 1) * VECTORS + v) * TILE_ROWS + lane];
        sum += slots[v * TILE_ROWS + lane];
        product.out[(u64)v * product.out_stride + first_row + local] = base[v * row_stride + local] + product.scale * (sum * row_scales[local]);
    }
}

// out (vectors, rows) from vectors of `cols` numbers, rounded before, or one made and rounded here.
//
// Grid: as many blocks as multiprocessors, or as tile rows if those are fewer; `max_tile_rows` is what the largest gets, tile_rows / blocks rounded
// up. Block: whole warps, 16 where there is room. Shared memory: see `matvec`; targets/cuda/src/launch/matvec.rs computes it.
#define MATVEC(bits, name, vectors, kind)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(512, vectors == 1 ? 2 : 1)                                                                \
        matvec_##bits##_##name(Product product, Entering in, u32 max_tile_rows) {                                                         \
        matvec<bits, vectors, kind>(product, in, max_tile_rows);                                                                          \
    }
#define MATVECS(bits)                                                                                                                     \
    MATVEC(bits, rounded_1, 1, ROUNDED)                                                                                                   \
    MATVEC(bits, rounded_2, 2, ROUNDED)                                                                                                   \
    MATVEC(bits, rounded_4, 4, ROUNDED)                                                                                                   \
    MATVEC(bits, rounded_8, 8, ROUNDED)                                                                                                   \
    MATVEC(bits, plain, 1, PLAIN)                                                                                                         \
    MATVEC(bits, rms, 1, RMS)                                                                                                             \
    MATVEC(bits, gated_rms, 1, GATED_RMS)                                                                                                 \
    MATVEC(bits, silu_multiply, 1, SILU_MULTIPLY)
MATVECS(2)
MATVECS(3)
MATVECS(4)
MATVECS(5)
MATVECS(6)
MATVECS(8)
