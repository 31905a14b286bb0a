// Compiled with --fmad=false: the bits of the CPU.
// Root-mean-square norm and layer norm, by groups, with the gate that Mamba-2 puts before or after: kernels/src/portable/norm.rs.
#include "exact.cuh"

// Which statistics a norm divides by: the order of runtime/src/ops/norm.rs.
enum Kind { RMS = 0, LAYER = 1, RMS_EPS_OUTSIDE = 2 };
// Where the gate comes.
enum Gating { NO_GATE = 0, GATE_FIRST = 1, GATE_LAST = 2 };

// out <- norm(x) * weight + bias, each (groups, width); weight and bias may be null; z is the gate's operand.
//
// KEPT: the numbers wait in shared memory, 4 * width bytes, else in `out`. Grid (groups, rows), block: whole warps, any number up to 1024.
template <bool KEPT>
static __device__ __forceinline__ void norm(const Batch& b, u32 x_at, u32 out_at, u32 z_at, u32 width, const float* weight, const float* bias,
                                            u32 kind, u32 gating, float eps) {
    extern __shared__ float room[];
    __shared__ float total;
    if (is_shut(b)) return;
    u32 first = blockIdx.x * width;
    float* frame = frame_of(b, blockIdx.y);
    const float *x = frame + x_at + first, *z = frame + z_at + first;
    float* out = frame + out_at + first;
    float* v = KEPT ? room : out;
    if (gating == GATE_FIRST)
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) v[i] = x[i] * silu_of(z[i]);
    else {
#pragma unroll 4
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) v[i] = x[i];
    }
    __syncthreads();
    if (kind == LAYER) {
        if (threadIdx.x < 32) total = sum_of(width, [&](u32 i) { return v[i]; });
        __syncthreads();
        float mean = total / (float)width;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) v[i] -= mean;
        __syncthreads();
    }
    if (threadIdx.x < 32) total = sum_of(width, [&](u32 i) { return v[i] * v[i]; });
    __syncthreads();
    float mean_square = total / (float)width;
    float root = kind == RMS_EPS_OUTSIDE ? sqrtf(mean_square) + eps : sqrtf(mean_square + eps);
    float inverse = 1.0f / root;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float y = v[i] * inverse;
        if (weight) y *= weight[first + i];
        if (bias) y += bias[first + i];
        if (gating == GATE_LAST) y *= silu_of(z[i]);
        out[i] = y;
    }
}

extern "C" __global__ void norm_kept(Batch b, u32 x_at, u32 out_at, u32 z_at, u32 width, const float* weight, const float* bias, u32 kind,
                                     u32 gating, float eps) {
    norm<true>(b, x_at, out_at, z_at, width, weight, bias, kind, gating, eps);
}

extern "C" __global__ void norm_in_place(Batch b, u32 x_at, u32 out_at, u32 z_at, u32 width, const float* weight, const float* bias, u32 kind,
                                         u32 gating, float eps) {
    norm<false>(b, x_at, out_at, z_at, width, weight, bias, kind, gating, eps);
}
