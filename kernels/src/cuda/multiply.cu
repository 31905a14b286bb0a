// Compiled with --fmad=false: the bits of the CPU.
// Matrix times vectors, for every format and shape, also where a token itself chooses the matrix: kernels/src/portable/matmul.rs. The general road; common
// formats have faster ones.
#include "exact.cuh"
#include "matrix.cuh"

// The rounded vectors that a product takes: (vectors, groups * 32) codes, (vectors, groups) scales and sums of codes.
struct Rounded {
    i8* codes;
    float* scales;
    i32* sums;
};

// Rounds vectors to int8 per group of 32, the very bits of the CPU: x is (rows, picks, cols) with the strides given in numbers.
//
// A thread has four columns, eight threads a group; where ALIGNED, all vectors begin on boundaries of 16 bytes.
//
// Grid (ceil(groups / 16), rows, picks), block 128.
template <bool ALIGNED>
static __device__ __forceinline__ void round_four(const Batch& b, const float* x, u64 row_stride, u64 pick_stride, u32 cols, const Rounded& to) {
    if (is_shut(b)) return;
    u32 groups = (cols + 31) / 32, group = blockIdx.x * 16 + threadIdx.x / 8, part = threadIdx.x & 7;
    u64 vector = (u64)blockIdx.y * gridDim.z + blockIdx.z;
    u32 col = group * 32 + 4 * part;
    const float* from = x + blockIdx.y * row_stride + blockIdx.z * pick_stride + col;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (ALIGNED && col + 4 <= cols) {
        float4 all = *(const float4*)from;
        v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
    } else {
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            if (col + i < cols) v[i] = from[i];
    }
    float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
    for (int by = 4; by > 0; by >>= 1) largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, by));
    bool silent = largest < 1.0e-30f; // its reciprocal would overflow
    float inverse = silent ? 0.0f : 127.0f / largest;
    u32 codes = 0;
    i32 sum = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        i32 code = (i32)(i8)__float2int_rn(v[i] * inverse);
        sum += code;
        codes |= ((u32)code & 255) << (8 * i);
    }
    for (int by = 4; by > 0; by >>= 1) sum += __shfl_xor_sync(FULL, sum, by);
    if (group >= groups) return;
    ((u32*)to.codes)[(vector * groups + group) * 8 + part] = codes;
    if (part == 0) {
        to.scales[vector * groups + group] = silent ? 0.0f : largest / 127.0f;
        to.sums[vector * groups + group] = sum;
    }
}

extern "C" __global__ void round_vectors(Batch b, const float* x, u64 row_stride, u64 pick_stride, u32 cols, Rounded to) {
    round_four<false>(b, x, row_stride, pick_stride, cols, to);
}

extern "C" __global__ void round_aligned(Batch b, const float* x, u64 row_stride, u64 pick_stride, u32 cols, Rounded to) {
    round_four<true>(b, x, row_stride, pick_stride, cols, to);
}

// Groups whose terms wait in shared memory.
#define TOGETHER 128

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
// from pick to pick. Groups are multiplied side by side and added in ascending order. Grid (ceil(matrix rows / 16), rows, picks), block 256: 16 rows x
// 16 groups.
extern "C" __global__ void multiply(Batch b, const Matrix* matrices, u32 id, const u32* chosen, const float* x, u64 x_row_stride,
                                    u64 x_pick_stride, Rounded rounded, Outcome to) {
    __shared__ float terms[TOGETHER][17];
    __shared__ i8 levels[64];
    if (is_shut(b)) return;
    u32 lane = threadIdx.x & 15, share = threadIdx.x >> 4, tile_row = blockIdx.x, row = blockIdx.y, pick = blockIdx.z;
    Matrix m = matrices[chosen ? id + 2 * chosen[row * 32 + pick] : id];
    u64 first = (u64)tile_row * m.groups, vector = x_pick_stride ? (u64)row * gridDim.z + pick : row;
    const float* v = x + row * x_row_stride + pick * x_pick_stride;
    Coded c = is_float(m.format) ? Coded() : coded(m);
    if (!is_float(m.format) && m.format != Q8 && m.format != T2 && threadIdx.x < 1u << code_bits(m.format)) levels[threadIdx.x] = c.levels[threadIdx.x];
    __syncthreads();
    const u32* codes = (const u32*)(rounded.codes + vector * m.groups * 32);
    float acc = 0.0f;
    for (u32 from = 0; from < m.groups; from += TOGETHER) {
        u32 count = min((u32)TOGETHER, m.groups - from);
        for (u32 i = share; i < count; i += 16) {
            u32 g = from + i;
            if (is_float(m.format)) {
                u64 at = (first + g) * 512 + lane;
                u32 cols = min(32u, m.cols - g * 32);
                float sum = 0.0f;
                if (m.format == F32) {
                    const float* w = (const float*)m.bytes + at;
                    for (u32 col = 0; col < cols; col++) sum += w[16 * col] * v[g * 32 + col];
                } else {
                    const u16* w = (const u16*)m.bytes + at;
                    for (u32 col = 0; col < cols; col++) sum += half_to_float(w[16 * col]) * v[g * 32 + col];
                }
                terms[i][lane] = sum;
                continue;
            }
            const u8* tile = c.codes + (first + g) * c.tile_bytes;
            i32 sum = 0;
#pragma unroll
            for (u32 q = 0; q < 8; q++) sum = dp4a((i32)levels_of(m.format, levels, codes_of(m.format, tile, lane, q)), (i32)codes[g * 8 + q], sum);
            i32 sub = (i8)c.sub_scales[(first + g) * 16 + lane];
            i32 whole = m.format == Q8 ? sum * sub : (sum + (sub & 1) * c.shift * rounded.sums[vector * m.groups + g]) * (sub >> 1);
            terms[i][lane] = (float)whole * rounded.scales[vector * m.groups + g];
        }
        __syncthreads();
        if (share == 0)
            for (u32 i = 0; i < count; i++) acc += terms[i][lane];
        __syncthreads();
    }
    u32 at = tile_row * 16 + lane;
    if (share != 0 || at >= m.rows) return;
    float y = is_float(m.format) ? acc : acc * c.row_scales[at];
    if (to.bias) y += to.bias[at];
    y *= to.scale;
    if (to.cap > 0.0f) y = to.cap * tanh_of(y / to.cap);
    to.out[row * to.row_stride + pick * to.pick_stride + at] = y;
}
