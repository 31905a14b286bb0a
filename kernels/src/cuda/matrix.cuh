// How a matrix lies in memory, as kernels/src/quant: tiles of 16 rows x 32 columns; a word of 32 bits holds neighbouring columns of one row, and the
// words of the 16 rows follow each other. Every format, by a number that is known when the kernel runs.
#pragma once
#include "common.cuh"

// The formats' numbers: targets/cuda/src/tensors.rs has the same.
enum Format { F32 = 0, F16 = 1, Q8 = 2, Q4 = 3, Q3 = 4, Q5 = 5, Q6 = 6, T2 = 7 };

// A matrix (rows, cols) in the file's own bytes.
struct Matrix {
    const u8* bytes;
    u32 rows;
    u32 cols;
    u32 format;
    u32 groups; // of 32 columns
};

// Where the parts of a quantized matrix lie.
struct Coded {
    const i8* levels; // 2^bits, then the shift; unused without a table
    const float* row_scales; // (tile_rows, 16)
    const u8* sub_scales; // (tile_rows, groups, 16)
    const u8* codes; // (tile_rows, groups) tiles
    u32 tile_bytes;
    i32 shift;
};

static __device__ __forceinline__ bool is_float(u32 format) { return format <= F16; }

static __device__ __forceinline__ u32 code_bits(u32 format) {
    return format == Q8 ? 8 : format == Q4 ? 4 : format == Q3 ? 3 : format == Q5 ? 5 : format == Q6 ? 6 : 2;
}

static __device__ __forceinline__ Coded coded(const Matrix& m) {
    u32 bits = code_bits(m.format), tile_rows = (m.rows + 15) / 16;
    bool has_table = m.format != Q8 && m.format != T2;
    u32 table_bytes = has_table ? ((1u << bits) + 1 + 63) / 64 * 64 : 0;
    u64 tiles = (u64)tile_rows * m.groups;
    Coded c;
    c.levels = (const i8*)m.bytes;
    c.shift = has_table ? c.levels[1u << bits] : 0;
    c.row_scales = (const float*)(m.bytes + table_bytes);
    c.sub_scales = m.bytes + table_bytes + tile_rows * 64ull;
    c.codes = c.sub_scales + (tiles * 16 + 63) / 64 * 64;
    c.tile_bytes = 64 * bits;
    return c;
}

// The codes of columns 4q .. 4q + 3 of a row of a tile, a byte each.
static __device__ __forceinline__ u32 codes_of(u32 format, const u8* tile, u32 lane, u32 q) {
    const u32* words = (const u32*)tile + lane; // every sixteenth is of this row
    switch (format) {
    case Q8: return words[16 * q];
    case Q4: return words[16 * (q / 2)] >> (4 * (q & 1)) & 0x0f0f0f0f;
    case Q3: return (words[16 * (q / 4)] >> (2 * (q & 3)) & 0x03030303) | (words[32] >> q & 0x01010101) << 2;
    case Q5: return (words[16 * (q / 2)] >> (4 * (q & 1)) & 0x0f0f0f0f) | (words[64] >> q & 0x01010101) << 4;
    case Q6: return (words[16 * (q / 2)] >> (4 * (q & 1)) & 0x0f0f0f0f) | (words[64 + 16 * (q / 4)] >> (2 * (q & 3)) & 0x03030303) << 4;
    default: return words[16 * (q / 4)] >> (2 * (q & 3)) & 0x03030303;
    }
}

// Four levels for four codes. `levels` may lie in shared memory.
static __device__ __forceinline__ u32 levels_of(u32 format, const i8* levels, u32 codes) {
    if (format == Q8) return codes;
    if (format == T2) return __vsub4(codes, 0x01010101);
    u32 a = (u8)levels[codes & 255], b = (u8)levels[codes >> 8 & 255], c = (u8)levels[codes >> 16 & 255], d = (u8)levels[codes >> 24];
    return a | b << 8 | c << 16 | d << 24;
}

// One weight.
static __device__ __forceinline__ float weight_of(const Matrix& m, u32 row, u32 col) {
    u32 lane = row & 15;
    u64 tile = (u64)(row / 16) * m.groups + col / 32;
    if (m.format == F32) return ((const float*)m.bytes)[(tile * 32 + col % 32) * 16 + lane];
    if (m.format == F16) return half_to_float(((const u16*)m.bytes)[(tile * 32 + col % 32) * 16 + lane]);
    Coded c = coded(m);
    u32 levels = levels_of(m.format, c.levels, codes_of(m.format, c.codes + tile * c.tile_bytes, lane, col % 32 / 4));
    i32 level = (i8)(levels >> (8 * (col & 3)));
    i32 sub = (i8)c.sub_scales[tile * 16 + lane];
    i32 whole = m.format == Q8 ? level * sub : (level + (sub & 1) * c.shift) * (sub >> 1);
    return (float)whole * c.row_scales[row];
}
