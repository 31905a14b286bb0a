// Compiled with --fmad=false: the bits of the CPU.
// Root-mean-square norm and layer norm, by groups, with the gate that Mamba-2 puts before or after: kernels/src/portable/norm.rs.
#include "exact.cuh"

// Which statistics a norm divides by: the order of runtime/src/ops/norm.rs.
enum Kind { RMS = 0, LAYER = 1, RMS_EPS_OUTSIDE = 2 };
// Where the gate comes.
enum Gating { NO_GATE = 0, GATE_FIRST = 1, GATE_LAST = 2 };

// out <- norm(x) * weight + bias, each (groups, width); weight and bias may be null; z is the gate's operand.
//
// Grid (groups, rows), block: whole warps, any number up to 1024.
extern "C" __global__ void norm_groups(Batch b, u32 x_at, u32 out_at, u32 z_at, u32 width, const float* weight, const float* bias, u32 kind,
                                u32 gating, float eps) {
    __shared__ float total;
    if (is_shut(b)) return;
    u32 first = blockIdx.x * width;
    float* frame = frame_of(b, blockIdx.y);
    const float *x = frame + x_at + first, *z = frame + z_at + first;
    float* out = frame + out_at + first;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[i] = gating == GATE_FIRST ? x[i] * silu_of(z[i]) : x[i];
    __syncthreads();
    if (kind == LAYER) {
        if (threadIdx.x < 32) total = sum_of(width, [&](u32 i) { return out[i]; });
        __syncthreads();
        float mean = total / (float)width;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[i] -= mean;
        __syncthreads();
    }
    if (threadIdx.x < 32) total = sum_of(width, [&](u32 i) { return out[i] * out[i]; });
    __syncthreads();
    float mean_square = total / (float)width;
    float root = kind == RMS_EPS_OUTSIDE ? sqrtf(mean_square) + eps : sqrtf(mean_square + eps);
    float inverse = 1.0f / root;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float v = out[i] * inverse;
        if (weight) v *= weight[first + i];
        if (bias) v += bias[first + i];
        if (gating == GATE_LAST) v *= silu_of(z[i]);
        out[i] = v;
    }
}
