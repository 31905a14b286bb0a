// Compiled with --fmad=false: the bits of the CPU.
// Causal depthwise convolutions in place, in the CPU's order: kernels/src/portable/conv.rs. Weight (taps, channels), slot (taps - 1, channels), oldest
// first.
#include "exact.cuh"
#include "pipeline.cuh"

// Widest window.
#define MOST_TAPS 8

// One token. Grid (ceil(channels / 128), streams), block 128; a thread has a channel.
extern "C" __global__ void __launch_bounds__(128)
    exact_conv_step(Batch b, u32 x_at, u32 channels, u32 taps, u32 has_silu, const float* weight, const float* bias, u64 slot) {
    let_next_start();
    const u32 c = blockIdx.x * 128 + threadIdx.x, stream = blockIdx.y;
    const bool mine = c < channels;
    float* const state = (float*)(state_of(b, stream) + slot) + c;
    // Inside a routed block the token before may still be at work on the state.
    if (b.gate) wait_for_previous();
    float window[MOST_TAPS], w[MOST_TAPS], acc = mine && bias ? bias[c] : 0.0f;
#pragma unroll
    for (u32 j = 0; j < MOST_TAPS; j++) {
        window[j] = mine && j + 1 < taps ? state[(u64)j * channels] : 0.0f;
        w[j] = mine && j < taps ? weight[(u64)j * channels + c] : 0.0f;
    }
    wait_for_previous();
    if (!mine || is_shut(b)) return;
    float* const x = frame_of(b, stream) + x_at + c;
    const float newest = *x;
#pragma unroll
    for (u32 j = 0; j < MOST_TAPS; j++) {
        if (j >= taps) break;
        if (j + 1 == taps) window[j] = newest;
        acc += w[j] * window[j];
        if (j > 0) state[(u64)(j - 1) * channels] = window[j];
    }
    *x = has_silu ? silu_of(acc) : acc;
}

// Channels of a block, tokens of a tile, and tiles that there is room for: one at work, the one before it for its last tokens, the others on their way.
#define ACROSS 8
#define TILE 128
#define TILES 4
#define AHEAD (TILES - 2)
#define THREADS 256

// Many tokens. A block walks its channels' tokens, so that nothing it overwrites is another's input; tokens of a tile side by side.
//
// Grid (ceil(channels / ACROSS), streams), block THREADS; a thread has four channels of a token of a tile. Channels in fours; TAPS, or up to MOST_TAPS for 0.
template <int TAPS>
static __device__ __forceinline__ void conv_prefill(const Batch& b, u32 x_at, u32 channels, u32 taps, u32 has_silu, const float* weight,
                                                    const float* bias, u64 slot) {
    __shared__ __align__(16) float inputs[TILES * TILE][ACROSS]; // a ring
    const int MOST = TAPS ? TAPS : MOST_TAPS;
    if (TAPS) taps = TAPS;
    const u32 across = threadIdx.x % (ACROSS / 4) * 4, row = threadIdx.x / (ACROSS / 4), c = blockIdx.x * ACROSS + across, stream = blockIdx.y;
    const u32 RING = TILES * TILE, ROWS = THREADS / (ACROSS / 4), kept = taps - 1;
    const bool mine = c < channels;
    if (b.gate) wait_for_previous();
    float4 w[MOST], start = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (u32 j = 0; j < MOST; j++)
        if (mine && j < taps) w[j] = *(const float4*)(weight + (u64)j * channels + c);
    if (mine && bias) start = *(const float4*)(bias + c);
    // What came before the first token lies before it in the ring, which is its end.
    float* const state = (float*)(state_of(b, stream) + slot) + c;
    if (mine && row < kept) *(float4*)&inputs[RING - kept + row][across] = *(const float4*)(state + (u64)row * channels);
    wait_for_previous();
    if (is_shut(b)) return;

    float* const x = frame_of(b, stream * b.tokens) + x_at + c;
    auto copy_tile = [&](u32 tile) {
#pragma unroll
        for (u32 t = tile * TILE + row; t < (tile + 1) * TILE; t += ROWS)
            if (mine && t < b.tokens) copy_16(shared_address(&inputs[t % RING][across]), x + (u64)t * b.stride);
        copies_commit();
    };
    const u32 tiles = (b.tokens + TILE - 1) / TILE;
    for (u32 tile = 0; tile < AHEAD; tile++) copy_tile(tile);
    for (u32 tile = 0; tile < tiles; tile++) {
        copies_wait<AHEAD - 1>();
        __syncthreads();
        copy_tile(tile + AHEAD);
#pragma unroll
        for (u32 i = 0; i < TILE; i += ROWS) {
            const u32 t = tile * TILE + row + i;
            if (!mine || t >= b.tokens) continue;
            float4 acc = start;
#pragma unroll
            for (u32 j = 0; j < MOST; j++) {
                if (j >= taps) break;
                float4 v = *(const float4*)&inputs[(t + RING - kept + j) % RING][across];
                acc.x += w[j].x * v.x, acc.y += w[j].y * v.y, acc.z += w[j].z * v.z, acc.w += w[j].w * v.w;
            }
            if (has_silu) acc = make_float4(silu_of(acc.x), silu_of(acc.y), silu_of(acc.z), silu_of(acc.w));
            *(float4*)(x + (u64)t * b.stride) = acc;
        }
    }
    let_next_start();
    copies_wait<0>();
    if (mine && row < kept) {
        float4 last = *(const float4*)&inputs[(b.tokens + RING - kept + row) % RING][across];
        *(float4*)(state + (u64)row * channels) = last;
    }
}

// exact_conv_prefill_<taps>, 0 for any up to MOST_TAPS
#define CONV_PREFILL(NAME, TAPS)                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(Batch b, u32 x_at, u32 channels, u32 taps, u32 has_silu, const float* weight,         \
                                                           const float* bias, u64 slot) {                                                       \
        conv_prefill<TAPS>(b, x_at, channels, taps, has_silu, weight, bias, slot);                                                              \
    }

CONV_PREFILL(exact_conv_prefill_4, 4)
CONV_PREFILL(exact_conv_prefill_0, 0)
