// The next token from the outputs: the likeliest, or one drawn among the likeliest. targets/cli/src/sampler.rs.
#include "common.cuh"

// Most candidates of a draw.
#define MOST 1024

// How to draw. The Rust side has the same struct (targets/cuda/src/launch/head.rs).
struct Draw {
    float temperature; // divides the outputs; 0 takes the likeliest
    float top_p;       // of the candidates, the likeliest that together have this probability
    u32 top_k;         // candidates, 1 to MOST
    u32 known;         // only the first so many outputs can be chosen
};

// A number that orders as the float does; 0 for what is no number.
static __device__ __forceinline__ u32 order_of(float x) {
    u32 bits = __float_as_int(x);
    if (x != x) return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float of_order(u32 order) { return __int_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order); }

// Orders by output, equal ones by number, the first of them largest.
static __device__ __forceinline__ u64 rank_of(float x, u32 number) { return (u64)order_of(x) << 32 | ~number; }

static __device__ __forceinline__ u64 block_most(u64 x, u64* room) {
    for (int by = 16; by > 0; by >>= 1) x = max(x, __shfl_xor_sync(FULL, x, by));
    if ((threadIdx.x & 31) == 0) room[threadIdx.x >> 5] = x;
    __syncthreads();
    x = threadIdx.x < blockDim.x / 32 ? room[threadIdx.x] : 0;
    if (threadIdx.x < 32) {
        for (int by = 16; by > 0; by >>= 1) x = max(x, __shfl_xor_sync(FULL, x, by));
        if (threadIdx.x == 0) room[0] = x;
    }
    __syncthreads();
    x = room[0];
    __syncthreads();
    return x;
}

// The number of the largest output, the first of equals; 0 if none is a number.
//
// outputs (rows, stride), tokens (rows). Grid (rows), block 1024.
extern "C" __global__ void head_likeliest(const float* outputs, u32 stride, u32 known, u32* tokens) {
    __shared__ u64 room[32];
    const float* x = outputs + (u64)blockIdx.x * stride;
    u64 best = 0;
    for (u32 i = threadIdx.x; i < known; i += blockDim.x)
        if (x[i] == x[i]) best = max(best, rank_of(x[i], i));
    best = block_most(best, room);
    if (threadIdx.x == 0) tokens[blockIdx.x] = best ? ~(u32)best : 0;
}

// A number drawn as the sampler of the command line does; `random` (rows) is the state of SplitMix64.
//
// outputs (rows, stride), tokens (rows). Grid (rows), block 1024.
extern "C" __global__ void head_draw(const float* outputs, u32 stride, Draw draw, u64* random, u32* tokens) {
    __shared__ u64 room[32], candidates[MOST];
    __shared__ double weights[MOST];
    __shared__ u32 counts[256], warps[2][32], found[2];
    const float* x = outputs + (u64)blockIdx.x * stride;
    u32 thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    u64 best = 0;
    for (u32 i = thread; i < draw.known; i += blockDim.x)
        if (x[i] == x[i]) best = max(best, rank_of(x[i], i));
    best = block_most(best, room);
    float likeliest = of_order((u32)(best >> 32));
    if (draw.temperature <= 0.0f || !best || isinf(likeliest)) {
        if (thread == 0) tokens[blockIdx.x] = best ? ~(u32)best : 0;
        return;
    }
    // The order of the last candidate, eight bits at a time from the top; `left` of those with the bits so far are candidates.
    u32 limit = 0, left = min(min(draw.top_k, (u32)MOST), draw.known);
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (thread < 256) counts[thread] = 0;
        __syncthreads();
        for (u32 i = thread; i < draw.known; i += blockDim.x) {
            u32 order = order_of(x[i]);
            if (shift == 24 || order >> (shift + 8) == limit >> (shift + 8)) atomicAdd(&counts[(order >> shift) & 255], 1);
        }
        __syncthreads();
        if (thread == 0) {
            u32 digit = 255;
            while (digit > 0 && counts[digit] < left) left -= counts[digit--];
            found[0] = limit | digit << shift;
            found[1] = left;
        }
        __syncthreads();
        limit = found[0], left = found[1];
        __syncthreads();
    }
    // Those above the limit, and of those at it the first: in the order of their numbers, so that equal ones are chosen alike everywhere.
    candidates[thread] = 0;
    u32 kept = 0, at_limit = 0, above = min(min(draw.top_k, (u32)MOST), draw.known) - left;
    for (u32 first = 0; first < draw.known; first += blockDim.x) {
        u32 i = first + thread, order = i < draw.known ? order_of(x[i]) : 0;
        bool is_above = i < draw.known && order > limit, is_at = i < draw.known && order == limit && order != 0;
        u32 above_mask = __ballot_sync(FULL, is_above), at_mask = __ballot_sync(FULL, is_at), before = (1u << lane) - 1;
        if (lane == 0) warps[0][warp] = __popc(above_mask), warps[1][warp] = __popc(at_mask);
        __syncthreads();
        u32 above_before = kept, at_before = at_limit, above_sum = 0, at_sum = 0;
        for (u32 w = 0; w < blockDim.x / 32; w++) {
            if (w < warp) above_before += warps[0][w], at_before += warps[1][w];
            above_sum += warps[0][w], at_sum += warps[1][w];
        }
        if (is_above) candidates[above_before + __popc(above_mask & before)] = rank_of(x[i], i);
        u32 place = at_before + __popc(at_mask & before);
        if (is_at && place < left) candidates[above + place] = rank_of(x[i], i);
        kept += above_sum, at_limit += at_sum;
        __syncthreads();
    }
    // Largest first.
    for (u32 width = 2; width <= MOST; width *= 2)
        for (u32 by = width / 2; by > 0; by /= 2) {
            u32 other = thread ^ by;
            if (other > thread) {
                u64 a = candidates[thread], b = candidates[other];
                if ((a < b) == ((thread & width) == 0)) candidates[thread] = b, candidates[other] = a;
            }
            __syncthreads();
        }
    u64 mine = candidates[thread];
    weights[thread] = mine ? exp((double)(of_order((u32)(mine >> 32)) - likeliest) / (double)draw.temperature) : 0.0;
    __syncthreads();
    if (thread > 0) return;
    double total = 0.0, kept_weight = 0.0;
    u32 count = 0, chosen = 0;
    while (count < MOST && candidates[count]) total += weights[count++];
    u32 among = 0;
    while (among < count && kept_weight < (double)draw.top_p * total) kept_weight += weights[among++];
    u64 z = random[blockIdx.x] += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    double rest = (double)(z >> 11) / 9007199254740992.0 * kept_weight;
    for (; chosen + 1 < among; chosen++) {
        rest -= weights[chosen];
        if (rest < 0.0) break;
    }
    tokens[blockIdx.x] = ~(u32)candidates[among ? chosen : 0];
}
