// Matrix times vectors, for every format and shape, also where a token itself chooses the matrix: kernels/src/portable/matmul.rs. The general road; common
// formats have faster ones.
#include "act.cuh"
#include "matrix.cuh"

// The rounded vectors that a product takes: (vectors, groups * 32) codes, (vectors, groups) scales and sums of codes.
struct Rounded {
    i8* codes;
    float* scales;
    i32* sums;
};

// Rounds vectors to int8 per group of 32, the very bits of the CPU: x is (rows, picks, cols) with the strides given in numbers.
//
// Grid (ceil(groups / 8), rows, picks), block 256: a warp for each group.
extern "C" __global__ void round_vectors(Batch b, const float* x, u64 row_stride, u64 pick_stride, u32 cols, Rounded to) {
    if (is_shut(b)) return;
    u32 groups = (cols + 31) / 32, group = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x & 31;
    if (group >= groups) return;
    u64 vector = (u64)blockIdx.y * gridDim.z + blockIdx.z;
    u32 col = group * 32 + lane;
    float v = col < cols ? x[blockIdx.y * row_stride + blockIdx.z * pick_stride + col] : 0.0f;
    float largest = warp_max(fabsf(v));
    bool silent = largest < 1.0e-30f; // its reciprocal would overflow
    float inverse = silent ? 0.0f : 127.0f / largest;
    i32 code = (i32)(i8)__float2int_rn(v * inverse);
    i32 sum = warp_sum_int(code);
    to.codes[vector * groups * 32 + col] = (i8)code;
    if (lane == 0) {
        to.scales[vector * groups + group] = silent ? 0.0f : largest / 127.0f;
        to.sums[vector * groups + group] = sum;
    }
}

// Where the products of a matrix go, and what is done to them: ((w x) + bias) * scale, bounded softly by cap if that is above 0.
struct Outcome {
    float* out;
    const float* bias; // (matrix rows), or null
    u64 row_stride;
    u64 pick_stride;
    float scale;
    float cap;
};

// out[row][pick] = w * x[row][pick], w being matrices[id], or with `chosen` (rows, 32) matrices[id + 2 * chosen[row][pick]].
//
// Float matrices take x as it is, quantized ones `rounded`, of which there is one vector for each row and pick, or for each row where x has no stride
// from pick to pick. Grid (ceil(matrix rows / 16), rows, picks), block 256: 16 rows x 16 shares of the groups.
extern "C" __global__ void multiply(Batch b, const Matrix* matrices, u32 id, const u32* chosen, const float* x, u64 x_row_stride,
                                    u64 x_pick_stride, Rounded rounded, Outcome to) {
    __shared__ float sums[16][17];
    __shared__ i8 levels[64];
    if (is_shut(b)) return;
    u32 lane = threadIdx.x & 15, share = threadIdx.x >> 4, tile_row = blockIdx.x, row = blockIdx.y, pick = blockIdx.z;
    Matrix m = matrices[chosen ? id + 2 * chosen[row * 32 + pick] : id];
    u64 first = (u64)tile_row * m.groups;
    float acc = 0.0f, row_scale = 1.0f;
    if (is_float(m.format)) {
        const float* v = x + row * x_row_stride + pick * x_pick_stride;
        for (u32 g = share; g < m.groups; g += 16) {
            u64 at = (first + g) * 512 + lane;
            u32 cols = min(32u, m.cols - g * 32);
            float sum = 0.0f;
            if (m.format == F32) {
                const float* w = (const float*)m.bytes + at;
                for (u32 c = 0; c < cols; c++) sum += w[16 * c] * v[g * 32 + c];
            } else {
                const u16* w = (const u16*)m.bytes + at;
                for (u32 c = 0; c < cols; c++) sum += half_to_float(w[16 * c]) * v[g * 32 + c];
            }
            acc += sum;
        }
    } else {
        Coded c = coded(m);
        if (m.format != Q8 && m.format != T2 && threadIdx.x < 1u << code_bits(m.format)) levels[threadIdx.x] = c.levels[threadIdx.x];
        __syncthreads();
        u64 vector = x_pick_stride ? (u64)row * gridDim.z + pick : row;
        const u32* codes = (const u32*)(rounded.codes + vector * m.groups * 32);
        for (u32 g = share; g < m.groups; g += 16) {
            const u8* tile = c.codes + (first + g) * c.tile_bytes;
            i32 sum = 0;
            for (u32 q = 0; q < 8; q++) sum = dp4a((i32)levels_of(m.format, levels, codes_of(m.format, tile, lane, q)), (i32)codes[g * 8 + q], sum);
            i32 sub = (i8)c.sub_scales[(first + g) * 16 + lane];
            i32 whole = m.format == Q8 ? sum * sub : (sum + (sub & 1) * c.shift * rounded.sums[vector * m.groups + g]) * (sub >> 1);
            acc += (float)whole * rounded.scales[vector * m.groups + g];
        }
        row_scale = c.row_scales[tile_row * 16 + lane];
    }
    sums[share][lane] = acc;
    __syncthreads();
    u32 at = tile_row * 16 + lane;
    if (share != 0 || at >= m.rows) return;
    float y = 0.0f;
    for (u32 s = 0; s < 16; s++) y += sums[s][lane];
    y *= row_scale;
    if (to.bias) y += to.bias[at];
    y *= to.scale;
    if (to.cap > 0.0f) y = to.cap * tanhf(y / to.cap);
    to.out[row * to.row_stride + pick * to.pick_stride + at] = y;
}
