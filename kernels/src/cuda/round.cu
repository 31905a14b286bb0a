// Compiled with --fmad=false: the bits of the CPU.
// What enters a product of many vectors: each, or a norm or gate of it, made and rounded in one launch. rounding.cuh has the steps.
#include "rounding.cuh"

// codes (vectors, groups * 32), scales and sums (vectors, groups).
//
// Grid (vectors), block: whole warps; shared memory: 4 bytes for each of MAX_NORM_GROUPS, and the vector's `Values`.
extern "C" __global__ void __launch_bounds__(256) round_made(Entering in, u32 cols, i8* codes, float* scales, i32* sums, const u32* gate) {
    extern __shared__ float4 room[];
    if (gate && *gate == 0) return;
    u32 groups = (cols + GROUP - 1) / GROUP;
    float* inverses = (float*)room;
    Values values(inverses + MAX_NORM_GROUPS, cols);
    KeptWeights weights = keep_weights(in, cols);
    make_values(in, blockIdx.x, cols, values, inverses);
    u64 first = (u64)blockIdx.x * groups;
    round_values(in, blockIdx.x, cols, weights, values, inverses, [=](u32 group, u32 eight, uint2 eights_codes, float scale, i32 sum) {
        if (group >= groups) return;
        ((uint2*)codes)[(first + group) * 4 + eight] = eights_codes;
        if (eight != 0) return;
        scales[first + group] = scale;
        sums[first + group] = sum;
    });
}
