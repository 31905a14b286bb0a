// Compiled with --fmad=false: the bits of the CPU.
// Mixture of experts around its products: the choice and its weights, the activation between the matrices, the sum: runtime/src/ops/moe.rs.
#include "exact.cuh"

// The numbers of brooklet::ops::Router, and what they carry.
enum Router { SOFTMAX = 0, TOP_K_SOFTMAX = 1, SIGMOID_ROUTER = 2 };

struct RouterShape {
    u32 scores;        // place in a frame, (experts)
    u32 experts, top_k, router;
    u32 renormalize;   // whether weights are divided by their sum plus eps
    u32 groups, top_groups;
    float eps, scale;
    const float* bias; // (experts), added for the choice, or null
};

// The larger of two candidates over a warp, the lower number of equals; `at` is FULL where there is none.
static __device__ __forceinline__ void best_of_warp(float& rank, u32& at) {
    for (int by = 16; by > 0; by >>= 1) {
        float other = __shfl_xor_sync(FULL, rank, by);
        u32 other_at = __shfl_xor_sync(FULL, at, by);
        if (other_at != FULL && (at == FULL || other > rank || (other == rank && other_at < at) || (rank != rank && other == other))) {
            rank = other;
            at = other_at;
        }
    }
    // No number compares with NaN: lane 0 decides for all.
    rank = __shfl_sync(FULL, rank, 0);
    at = __shfl_sync(FULL, at, 0);
}

// Chooses for each row: chosen and weights, (rows, 32), best first. Grid (rows), block 32; a lane has experts lane, lane + 32, .., up to 2048 in all.
extern "C" __global__ void choose(Batch b, RouterShape s, u32* chosen, float* weights) {
    if (is_shut(b)) return;
    u32 row = blockIdx.x, lane = threadIdx.x;
    float* scores = frame_of(b, row) + s.scores;
    if (s.router == SOFTMAX) {
        float most = -INFINITE;
        for (u32 e = lane; e < s.experts; e += 32) most = fmaxf(most, scores[e]);
        most = warp_max(most);
        for (u32 e = lane; e < s.experts; e += 32) scores[e] = exp_of(scores[e] - most);
        __syncwarp();
        float total = sum_of(s.experts, [&](u32 e) { return scores[e]; });
        __syncwarp();
        for (u32 e = lane; e < s.experts; e += 32) scores[e] /= total;
    } else if (s.router == SIGMOID_ROUTER) {
        for (u32 e = lane; e < s.experts; e += 32) scores[e] = sigmoid_of(scores[e]);
    }
    __syncwarp();
    u32 open = FULL, per_group = s.experts;
    if (s.router == SIGMOID_ROUTER) {
        per_group = s.experts / s.groups;
        if (s.top_groups < s.groups) {
            // A lane for each group: the sum of its two best.
            float first = -INFINITE, second = -INFINITE;
            for (u32 i = 0; i < per_group && lane < s.groups; i++) {
                u32 e = lane * per_group + i;
                float rank = scores[e] + (s.bias ? s.bias[e] : 0.0f);
                if (rank > first) {
                    second = first;
                    first = rank;
                } else if (rank > second) second = rank;
            }
            float sum = first + (per_group > 1 ? second : 0.0f);
            bool is_open = false;
            for (u32 n = 0; n < s.top_groups; n++) {
                float rank = sum;
                u32 at = lane < s.groups && !is_open ? lane : FULL;
                best_of_warp(rank, at);
                if (at == lane) is_open = true;
            }
            open = __ballot_sync(FULL, is_open);
        }
    }
    u64 taken = 0; // experts of this lane
    float weight = 0.0f;
    u32 expert = 0;
    for (u32 n = 0; n < s.top_k; n++) {
        float rank = -INFINITE;
        u32 at = FULL;
        for (u32 e = lane; e < s.experts; e += 32) {
            if (taken >> (e / 32) & 1 || !(open >> (e / per_group) & 1)) continue;
            float r = scores[e] + (s.bias ? s.bias[e] : 0.0f);
            if (at == FULL || r > rank) {
                rank = r;
                at = e;
            }
        }
        best_of_warp(rank, at);
        if (at == FULL) at = 0; // never: as many as top_k can be chosen
        if (at % 32 == lane) taken |= 1ull << (at / 32);
        if (n == lane) {
            expert = at;
            weight = scores[at];
        }
    }
    bool is_mine = lane < s.top_k;
    if (s.router == TOP_K_SOFTMAX) {
        float most = warp_max(is_mine ? weight : -INFINITE);
        weight = is_mine ? exp_of(weight - most) : 0.0f;
        // The CPU's sixteen partial sums: lanes i and i + 16, then the tree.
        float upper = __shfl_down_sync(FULL, weight, 16), total = tree_of(weight + upper);
        weight /= __shfl_sync(FULL, total, 0);
    } else if (s.renormalize) {
        float total = 0.0f;
        for (u32 n = 0; n < s.top_k; n++) total += __shfl_sync(FULL, weight, n);
        weight /= total + s.eps;
    }
    if (is_mine) {
        chosen[row * 32 + lane] = expert;
        weights[row * 32 + lane] = weight * s.scale;
    }
}

// Between an expert's matrices: hidden[i] <- f(hidden[i]), times hidden[inner + i] where it is gated. Hidden (rows, picks, width).
//
// Grid (ceil(inner / 128), rows, picks), block 128.
extern "C" __global__ void between(Batch b, float* hidden, u32 width, u32 inner, u32 gated, u32 f, float parameter) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= inner || is_shut(b)) return;
    float* x = hidden + ((u64)blockIdx.y * gridDim.z + blockIdx.z) * width + i;
    float y = function_of(f, parameter, *x);
    *x = gated ? y * x[inner] : y;
}

// out <- the sum of the experts' outputs, (rows, picks, width), times their weights, (rows, 32). Grid (ceil(width / 128), rows), block 128.
extern "C" __global__ void mix(Batch b, const float* experts, const float* weights, u32 picks, u32 out_at, u32 width) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (i >= width || is_shut(b)) return;
    float sum = 0.0f;
    for (u32 n = 0; n < picks; n++) sum += weights[row * 32 + n] * experts[((u64)row * picks + n) * width + i];
    frame_of(b, row)[out_at + i] = sum;
}
