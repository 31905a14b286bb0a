// Compiled with --fmad=false: the bits of the CPU.
// Real-gated linear recurrent units in the CPU's order, x becomes the state: kernels/src/portable/rg_lru.rs. Slot (width).
//
// What a token's state is multiplied by and what is added do not depend on the state: a block computes them for many tokens side by side.
#include "exact.cuh"
#include "pipeline.cuh"

#define WARPS 8
// Tokens of a tile: some for each warp.
#define EACH 4
#define TILE (WARPS * EACH)

// Grid (ceil(width / 32), streams), block 32 * WARPS; a lane has a channel.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    exact_lru(Batch b, u32 x_at, u32 input_gate, u32 recurrence_gate, u32 width, const float* decay, u64 slot) {
    __shared__ float2 share[2][TILE][32]; // what a state is multiplied by, and what is added
    let_next_start();
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane, stream = blockIdx.y, first_row = stream * b.tokens;
    const bool mine = c < width;
    const i32 tokens = b.tokens, tiles = (tokens + TILE - 1) / TILE;
    // Inside a routed block the token before may still be at work on the state.
    if (b.gate) wait_for_previous();
    float* const state = (float*)(state_of(b, stream) + slot) + c;
    float h = mine && warp == 0 ? *state : 0.0f;
    const float fade = mine ? decay[c] : 0.0f;
    wait_for_previous();
    if (is_shut(b)) return;

    float* const frames = frame_of(b, first_row) + (mine ? c : 0);
    const u64 first_position = position_of(b, stream, 0);
    float x[EACH], input[EACH], recurrence[EACH];
    auto load = [&](i32 tile) {
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            i32 token = tile * TILE + k * WARPS + (i32)warp;
            if (token >= tokens) continue;
            const float* frame = frames + (u64)token * b.stride;
            x[k] = frame[x_at], input[k] = frame[input_gate], recurrence[k] = frame[recurrence_gate];
        }
    };
    auto prepare = [&](i32 tile) {
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            i32 token = tile * TILE + k * WARPS + (i32)warp;
            if (token >= tokens) continue;
            float log_a = fade * sigmoid_of(recurrence[k]);
            float t = tanh_of(-log_a);
            float root = first_position + token == 0 ? 1.0f : sqrtf(2.0f * t / (1.0f + t));
            share[tile % 2][k * WARPS + warp][lane] = make_float2(exp_of(log_a), root * (sigmoid_of(input[k]) * x[k]));
        }
    };
    load(0);
    prepare(0);
    load(1);
    for (i32 tile = 0; tile < tiles; tile++) {
        __syncthreads();
        // The first warp walks; it alone writes x, which all have read: of this tile and the next.
        if (warp == 0) {
            const i32 end = min(TILE, tokens - tile * TILE);
#pragma unroll 8
            for (i32 i = 0; i < end; i++) {
                float2 at = share[tile % 2][i][lane];
                h = at.x * h + at.y;
                if (mine) frames[(u64)(tile * TILE + i) * b.stride + x_at] = h;
            }
        }
        prepare(tile + 1);
        load(tile + 2);
    }
    if (mine && warp == 0) *state = h;
}
