// Quantized matrices where they lie: the bytes of kernels/src/quant, and codes to levels in registers.
//
// A tile is 16 rows x 32 columns: `BITS` lines of 64 bytes, each with a 32-bit word for each of the 16 rows. BITS names the format: 2 is T2,
// 3 is Q3, .. 8 is Q8.
#pragma once
#include "common.cuh"

#define TILE_ROWS 16
#define GROUP 32

// Formats whose levels are looked up by nibbles: their columns come out in the order 0 4 1 5 | 2 6 3 7 of each eight, the others' in ascending
// order. Permuting what they meet once is cheaper than permuting them.
template <int BITS>
struct Format {
    static const bool has_table = BITS == 3 || BITS == 4 || BITS == 5 || BITS == 6;
    static const bool has_pick = BITS != 8;
    static const u32 tile_bytes = BITS * 64;
    static const u32 table_bytes = has_table ? ((1u << BITS) + 1 + 63) / 64 * 64 : 0;
    static const int table_words = has_table ? (1 << BITS) / 4 : 1;
};

// A matrix (rows, cols), its planes.
struct Planes {
    const u8* table;         // levels of the codes, then the shift; of formats with a table
    const float* row_scales; // (tile_rows, 16)
    const u8* sub_scales;    // (tile_rows, groups, 16)
    const u8* tiles;         // (tile_rows, groups, tile_bytes)
    u32 tile_rows, groups;
};

template <int BITS>
static __device__ __forceinline__ Planes planes_of(const u8* bytes, u32 rows, u32 cols) {
    Planes p;
    p.tile_rows = (rows + TILE_ROWS - 1) / TILE_ROWS;
    p.groups = (cols + GROUP - 1) / GROUP;
    u64 subs = ((u64)p.tile_rows * p.groups * TILE_ROWS + 63) / 64 * 64;
    p.table = bytes;
    p.row_scales = (const float*)(bytes + Format<BITS>::table_bytes);
    p.sub_scales = (const u8*)p.row_scales + (u64)p.tile_rows * TILE_ROWS * 4;
    p.tiles = p.sub_scales + subs;
    return p;
}

// Selects bytes of b:a by the four lowest nibbles of `by`, of which each must be below 8.
static __device__ __forceinline__ u32 permute(u32 a, u32 b, u32 by) {
    u32 out;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(by));
    return out;
}

// The levels of codes, four in a word, and what the second table adds to them.
template <int BITS>
struct Levels {
    u32 words[Format<BITS>::table_words];
    i32 shift;
};

template <int BITS>
static __device__ __forceinline__ Levels<BITS> load_levels(const Planes& p) {
    Levels<BITS> levels;
    levels.shift = 0;
    if constexpr (Format<BITS>::has_table) {
#pragma unroll
        for (int i = 0; i < Format<BITS>::table_words; i++) levels.words[i] = __ldg((const u32*)p.table + i);
        levels.shift = (i32)(i8)__ldg(p.table + (1 << BITS));
    }
    return levels;
}

// Sums of four bytes each, no carry between them.
static __device__ __forceinline__ u32 add_bytes(u32 a, u32 b) { return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u); }

// The second table: the first plus the shift.
template <int BITS>
static __device__ __forceinline__ Levels<BITS> shifted(const Levels<BITS>& levels) {
    Levels<BITS> second = levels;
    u32 shift = ((u32)levels.shift & 255) * 0x01010101u;
#pragma unroll
    for (int i = 0; i < Format<BITS>::table_words; i++) second.words[i] = add_bytes(levels.words[i], shift);
    return second;
}

// Sixteen levels by eight nibbles, of which the lower four go to `a`.
static __device__ __forceinline__ void look_up_16(const u32* words, u32 nibbles, u32& a, u32& b) {
    u32 low = nibbles & 0x77777777u;
    u32 upper = ((nibbles >> 1) & 0x44444444u) | 0x32103210u;
    a = permute(permute(words[0], words[1], low), permute(words[2], words[3], low), upper);
    low >>= 16;
    b = permute(permute(words[0], words[1], low), permute(words[2], words[3], low), upper >> 16);
}

// Columns 8w .. 8w + 7 of a row of a tile, as levels, four in each of a and b. `line(i)` is the row's word of line i; the last code of T2 is
// left at one more than its level, for which `biased` corrects.
template <int BITS, class Line>
static __device__ __forceinline__ void expand(const Levels<BITS>& levels, int w, Line line, u32& a, u32& b) {
    if constexpr (BITS == 8) {
        a = line(2 * w);
        b = line(2 * w + 1);
    } else if constexpr (BITS == 2) {
        u32 codes = line(w >> 1) >> ((w & 1) * 4);
        a = codes & 0x03030303u;
        b = (codes >> 2) & 0x03030303u;
    } else if constexpr (BITS == 3) {
        u32 low = line(w >> 1) >> ((w & 1) * 4), high = line(2) >> (2 * w);
        u32 codes = (low & 0x03030303u) | ((high & 0x01010101u) << 2) | ((low & 0x0c0c0c0cu) << 2) | ((high & 0x02020202u) << 5);
        a = permute(levels.words[0], levels.words[1], codes);
        b = permute(levels.words[0], levels.words[1], codes >> 16);
    } else if constexpr (BITS == 4) {
        look_up_16(levels.words, line(w), a, b);
    } else if constexpr (BITS == 5) {
        u32 high = line(4) >> (2 * w), nibbles = line(w), a1, b1;
        u32 upper = ((high & 0x01010101u) << 2) | ((high & 0x02020202u) << 5) | 0x32103210u;
        look_up_16(levels.words, nibbles, a, b);
        look_up_16(levels.words + 4, nibbles, a1, b1);
        a = permute(a, a1, upper);
        b = permute(b, b1, upper >> 16);
    } else {
        u32 high = line(4 + (w >> 1)) >> ((w & 1) * 4), nibbles = line(w), a1, b1, a2, b2, a3, b3;
        u32 odd = ((high & 0x01010101u) << 2) | ((high & 0x04040404u) << 4) | 0x32103210u;
        u32 upper = ((high & 0x02020202u) << 1) | ((high & 0x08080808u) << 3) | 0x32103210u;
        look_up_16(levels.words, nibbles, a, b);
        look_up_16(levels.words + 4, nibbles, a1, b1);
        look_up_16(levels.words + 8, nibbles, a2, b2);
        look_up_16(levels.words + 12, nibbles, a3, b3);
        a = permute(permute(a, a1, odd), permute(a2, a3, odd), upper);
        b = permute(permute(b, b1, odd >> 16), permute(b2, b3, odd >> 16), upper >> 16);
    }
}

// Adding an integer below 2^22 to these bits makes the float 1.5 * 2^23 plus that integer: integer sums begun with it become floats by a
// subtraction, where a conversion takes eight times as long.
#define INTEGER_BITS 0x4b400000
#define INTEGER_BIAS 12582912.0f

static __device__ __forceinline__ float from_integer_bits(i32 bits) { return __int_as_float(bits) - INTEGER_BIAS; }
