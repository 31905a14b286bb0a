// Compiled with --fmad=false: the bits of the CPU.
// Sums, products and copies of vectors, constants, activation functions: runtime/src/ops/elementwise.rs and activate.rs.
#include "exact.cuh"

// What `pairwise` does to x.
enum Pairwise { ADD = 0, MULTIPLY = 1, COPY = 2, SILU_MULTIPLY = 3, SCALE_BY = 4, FILL = 5 };

// x[i] from x[i] and y[i]; SCALE_BY has one number of y for `width` of x; FILL sets `scale`. Grid (ceil(len / 256), rows), block 256.
extern "C" __global__ void pairwise(Batch b, u32 kind, u32 x_at, u32 y_at, u32 len, u32 width, float scale) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len || is_shut(b)) return;
    float* frame = frame_of(b, blockIdx.y);
    float* x = frame + x_at + i;
    const float* y = frame + y_at;
    switch (kind) {
    case ADD: *x += scale * y[i]; break;
    case MULTIPLY: *x *= y[i]; break;
    case COPY: *x = y[i]; break;
    case SILU_MULTIPLY: *x = silu_of(*x) * y[i]; break;
    case SCALE_BY: *x *= y[i / width]; break;
    case FILL: *x = scale; break;
    }
}

// The same of four numbers at once, all operands on boundaries of 16 bytes; not SCALE_BY. Grid (ceil(len / 512), rows), block 128.
extern "C" __global__ void pairwise_by_four(Batch b, u32 kind, u32 x_at, u32 y_at, u32 len, float scale) {
    u32 i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= len || is_shut(b)) return;
    float* frame = frame_of(b, blockIdx.y);
    float4* at = (float4*)(frame + x_at + i);
    float4 y = kind == FILL ? float4{scale, scale, scale, scale} : *(const float4*)(frame + y_at + i);
    float4 x = kind == COPY || kind == FILL ? y : *at;
    switch (kind) {
    case ADD: x = {x.x + scale * y.x, x.y + scale * y.y, x.z + scale * y.z, x.w + scale * y.w}; break;
    case MULTIPLY: x = {x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w}; break;
    case SILU_MULTIPLY: x = {silu_of(x.x) * y.x, silu_of(x.y) * y.y, silu_of(x.z) * y.z, silu_of(x.w) * y.w}; break;
    }
    *at = x;
}

// x <- f(x), f being one of exact.cuh's. Grid (ceil(len / 256), rows), block 256.
extern "C" __global__ void activate(Batch b, u32 f, float parameter, u32 x_at, u32 len) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len || is_shut(b)) return;
    float* x = frame_of(b, blockIdx.y) + x_at + i;
    *x = function_of(f, parameter, *x);
}

// x <- scale * H x for each block of x, a power of two: kernels/src/portable/hadamard.rs.
//
// Grid (blocks, rows), block: threads up to half of a block's numbers; every pass ends before the next begins.
extern "C" __global__ void hadamard(Batch b, u32 x_at, u32 block, float scale) {
    if (is_shut(b)) return;
    float* x = frame_of(b, blockIdx.y) + x_at + blockIdx.x * block;
    for (u32 half = 1; half < block; half *= 2) {
        for (u32 pair = threadIdx.x; pair < block / 2; pair += blockDim.x) {
            u32 i = pair / half * 2 * half + pair % half;
            float low = x[i], high = x[i + half];
            x[i] = low + high;
            x[i + half] = low - high;
        }
        __syncthreads();
    }
    for (u32 i = threadIdx.x; i < block; i += blockDim.x) x[i] *= scale;
}
