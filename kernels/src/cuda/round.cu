// Vectors, or norms or gates of them, rounded to int8 for several products: kernels/src/portable/matmul.rs, quantize_activations.
#include "entering.cuh"

template <int KIND>
static __device__ __forceinline__ void round_rows(const Entering& in, u32 cols, i8* codes, float* scales, i32* sums, const u32* gate) {
    extern __shared__ float room[];
    let_next_start();
    KeptWeights weights = load_weights<false>(in, cols, blockDim.x);
    wait_for_previous();
    if (gate && *gate == 0) return;
    u32 groups = (cols + GROUP - 1) / GROUP;
    u64 at = (u64)blockIdx.x * groups;
    round_vector<KIND, false, false>(in, blockIdx.x, cols, blockDim.x, weights, room + MAX_NORM_GROUPS, room, [=](u32 group, u32 quad, u32 four, float scale, i32 sum) {
        if (group >= groups) return;
        ((u32*)codes)[(at + group) * 8 + quad] = four;
        if (quad == 0) {
            scales[at + group] = scale;
            sums[at + group] = sum;
        }
    });
}

// codes (vectors, groups * 32), scales and sums (vectors, groups).
//
// Grid (vectors), block: whole warps, any number up to 1024; shared memory: 4 bytes a group, and 4 * MAX_NORM_GROUPS.
#define ROUND(name, kind)                                                                                                                  \
    extern "C" __global__ void round_##name(Entering in, u32 cols, i8* codes, float* scales, i32* sums, const u32* gate) {                 \
        round_rows<kind>(in, cols, codes, scales, sums, gate);                                                                             \
    }
ROUND(plain, PLAIN)
ROUND(rms, RMS)
ROUND(gated_rms, GATED_RMS)
ROUND(rms_gated, RMS_GATED)
ROUND(silu_multiply, SILU_MULTIPLY)
