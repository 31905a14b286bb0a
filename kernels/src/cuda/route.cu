// The clock of a stream, and blocks that a token enters by its score.
#include "common.cuh"

// What a route decides for a token.
struct Entry {
    u64 before; // tokens that entered before it: what caches in the block hold
    u32 gate;   // whether it enters
};

// Decides for the one row of the batch; the slot counts those that entered. Grid (1), block 1.
extern "C" __global__ void enter(Batch b, u32 score_at, float threshold, u32 otherwise, u64 slot, Entry* entry) {
    u64* count = (u64*)(state_of(b, 0) + slot);
    u64 before = *count;
    u32 enters = (frame_of(b, 0)[score_at] > threshold) != (otherwise != 0);
    entry->before = before;
    entry->gate = enters;
    if (enters) *count = before + 1;
}

// Every stream has taken `tokens` steps. Grid (1), block: streams, whole warps.
extern "C" __global__ void advance(u64* positions, u32 streams, u32 tokens) {
    if (threadIdx.x < streams) positions[threadIdx.x] += tokens;
}

// The number of the largest output, the first of equals: (rows, count) to tokens (rows), and to the log, (rows, log_len), at the row's position.
// NaN is never the largest. Grid (rows), block 1024.
extern "C" __global__ void greedy(const float* outputs, u32 count, u32* tokens, u32* log, u32 log_len, const u64* positions) {
    __shared__ float best_of[32];
    __shared__ u32 at_of[32];
    const float* x = outputs + (u64)blockIdx.x * count;
    float best = -INFINITE;
    u32 at = 0;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
        if (x[i] > best) {
            best = x[i];
            at = i;
        }
    }
    for (u32 pass = 0; pass < 2; pass++) {
        for (int by = 16; by > 0; by >>= 1) {
            float other = __shfl_xor_sync(FULL, best, by);
            u32 other_at = __shfl_xor_sync(FULL, at, by);
            if (other > best || (other == best && other_at < at)) {
                best = other;
                at = other_at;
            }
        }
        if (pass == 1) break;
        if ((threadIdx.x & 31) == 0) {
            best_of[threadIdx.x / 32] = best;
            at_of[threadIdx.x / 32] = at;
        }
        __syncthreads();
        best = best_of[threadIdx.x & 31];
        at = at_of[threadIdx.x & 31];
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = at;
        log[(u64)blockIdx.x * log_len + positions[blockIdx.x] % log_len] = at;
    }
}
