// Compiled with --fmad=false: the bits of the CPU.
// Float matrix times many vectors: a prefill. kernels/src/portable/matmul.rs.
//
// A block makes 64 rows x 64 vectors, a thread 4 x 4 of them. A group of 32 columns is summed on its own, columns ascending, then added: two roundings a
// product and none fused, which is what bounds it.
#include "exact.cuh"
#include "matrix.cuh"

#define BLOCK_ROWS 64
#define BLOCK_VECTORS 64
// Vectors lie side by side for each column; the padding keeps their writing free of most conflicts.
#define VECTOR_STRIDE (BLOCK_VECTORS + 4)

// Where the products go, and what is done to them: ((w x) + bias) * scale, bounded softly by cap if that is above 0. `struct Outcome` of multiply.cu.
struct Outcome {
    float* out;
    const float* bias; // (matrix rows), or null
    u64 row_stride;
    u64 pick_stride;
    float scale;
    float cap;
};

// out[vector][row] = w * x[vector], w being matrices[id]. Grid (ceil(matrix rows / 64), ceil(vectors / 64)), block 256.
template <u32 FORMAT>
static __device__ __forceinline__ void multiply_floats(const Batch& b, const Matrix* matrices, u32 id, const float* x, u64 x_stride, u32 vectors,
                                                       const Outcome& to) {
    __shared__ float weights[BLOCK_ROWS / 16][32][16];
    __shared__ float columns[32][VECTOR_STRIDE];
    if (is_shut(b)) return;
    Matrix m = matrices[id];
    u32 thread = threadIdx.x, tile_rows = (m.rows + 15) / 16, first_tile_row = blockIdx.x * (BLOCK_ROWS / 16), first_vector = blockIdx.y * BLOCK_VECTORS;
    // Sixteen threads share a vector's four, neighbouring ones lie along the rows.
    u32 tile = thread / 4 % 4, lane = thread % 4 * 4, mine = thread / 16 * 4;
    float acc[4][4] = {};
    for (u32 g = 0; g < m.groups; g++) {
        u32 cols = min(32u, m.cols - g * 32);
        __syncthreads();
#pragma unroll
        for (u32 i = thread; i < BLOCK_ROWS / 16 * 512; i += 256) {
            // What lies outside is read from inside: it counts for nothing.
            u64 at = ((u64)min(first_tile_row + i / 512, tile_rows - 1) * m.groups + g) * 512 + i % 512;
            ((float*)weights)[i] = FORMAT == F32 ? ((const float*)m.bytes)[at] : half_to_float(((const u16*)m.bytes)[at]);
        }
#pragma unroll
        for (u32 i = thread; i < BLOCK_VECTORS * 32; i += 256) {
            u32 col = i % 32, vector = min(first_vector + i / 32, vectors - 1);
            columns[col][i / 32] = col < cols ? x[vector * x_stride + g * 32 + col] : 0.0f;
        }
        __syncthreads();
        float sums[4][4] = {};
#pragma unroll 8
        for (u32 col = 0; col < cols; col++) {
            float4 w = *(const float4*)&weights[tile][col][lane], v = *(const float4*)&columns[col][mine];
            float ws[4] = {w.x, w.y, w.z, w.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) sums[i][k] += ws[i] * vs[k];
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int k = 0; k < 4; k++) acc[i][k] += sums[i][k];
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        u32 row = (first_tile_row + tile) * 16 + lane + i;
        if (row >= m.rows) continue;
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            u32 vector = first_vector + mine + k;
            if (vector >= vectors) continue;
            float y = acc[i][k];
            if (to.bias) y += to.bias[row];
            y *= to.scale;
            if (to.cap > 0.0f) y = to.cap * tanh_of(y / to.cap);
            to.out[vector * to.row_stride + row] = y;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) matmul_f32(Batch b, const Matrix* matrices, u32 id, const float* x, u64 x_stride, u32 vectors, Outcome to) {
    multiply_floats<F32>(b, matrices, id, x, x_stride, vectors, to);
}

extern "C" __global__ void __launch_bounds__(256) matmul_f16(Batch b, const Matrix* matrices, u32 id, const float* x, u64 x_stride, u32 vectors, Outcome to) {
    multiply_floats<F16>(b, matrices, id, x, x_stride, vectors, to);
}
