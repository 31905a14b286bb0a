// Root-mean-square norm and layer norm, by groups, with the gate that Mamba-2 puts before or after: kernels/src/portable/norm.rs.
#include "act.cuh"

// Which statistics a norm divides by: the order of runtime/src/ops/norm.rs.
enum Kind { RMS = 0, LAYER = 1, RMS_EPS_OUTSIDE = 2 };
// Where the gate comes.
enum Gating { NO_GATE = 0, GATE_FIRST = 1, GATE_LAST = 2 };

// out <- norm(x) * weight + bias, each (groups, width); weight and bias may be null; z is the gate's operand.
//
// Grid (groups, rows), block: whole warps, any number up to 1024.
extern "C" __global__ void norm_groups(Batch b, u32 x_at, u32 out_at, u32 z_at, u32 width, const float* weight, const float* bias, u32 kind,
                                u32 gating, float eps) {
    __shared__ float room[32];
    if (is_shut(b)) return;
    u32 first = blockIdx.x * width;
    float* frame = frame_of(b, blockIdx.y);
    const float *x = frame + x_at + first, *z = frame + z_at + first;
    float* out = frame + out_at + first;
    // Each thread reads back its own numbers alone: x and out may be the same, and the passes need no barrier.
    float sum = 0.0f, squares = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float v = x[i];
        if (gating == GATE_FIRST) v *= silu(z[i]);
        out[i] = v;
        sum += v;
        squares += v * v;
    }
    float mean = 0.0f;
    if (kind == LAYER) {
        mean = block_sum(sum, room) / (float)width;
        squares = 0.0f;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            float v = out[i] - mean;
            squares += v * v;
        }
    }
    float mean_square = block_sum(squares, room) / (float)width;
    float root = kind == RMS_EPS_OUTSIDE ? sqrtf(mean_square) + eps : sqrtf(mean_square + eps);
    float inverse = 1.0f / root;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float v = (out[i] - mean) * inverse;
        if (weight) v *= weight[first + i];
        if (bias) v += bias[first + i];
        if (gating == GATE_LAST) v *= silu(z[i]);
        out[i] = v;
    }
}
