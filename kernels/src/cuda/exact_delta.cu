// Compiled with --fmad=false: the bits of the CPU.
// Gated delta rules in the CPU's order, for keys of up to 128 in fours: kernels/src/portable/gated_delta.rs.
//
// Two sums over the key follow each other in every token, what the state holds for the key and what comes out, and the second waits for the first. But
// the second of a token and the first of the next go through the state together: once a token.
#include "pipeline.cuh"
#include "walk.cuh"

// Tokens whose keys and queries are copied together, and how many such copies there is room for.
#define TILE 4
#define TILES 3

// at + by, which the compiler cannot know beforehand: else it computes all addresses at once, and registers end.
static __device__ __forceinline__ u64 later_sum(u64 at, u64 by) {
    asm volatile("add.u64 %0, %0, %1;" : "+l"(at) : "l"(by));
    return at;
}

// What all channels of a head share of a token.
struct DeltaStep {
    float decay, beta, k_factor, q_factor;
};

template <int KEY>
struct DeltaRoom {
    float k[TILES * TILE][KEY], q[TILES * TILE][KEY]; // rings by token
    DeltaStep step[TILES * TILE];
};

// Walks all tokens. A lane has a channel, and its whole state in registers: as it is when the next token has made it fade.
template <int KEY, bool IS_HALF>
static __device__ __forceinline__ void walk_tokens(const DeltaRoom<KEY>& room, const Batch& b, const DeltaShape& s, u32 first_row, u32 head, u32 p, float (&h)[KEY]) {
    const bool mine = p < s.value_dim;
    const i32 tokens = b.tokens;
    float* const frames = frame_of(b, first_row) + head * s.value_dim + (mine ? p : 0);
    auto load_v = [&](i32 token) { return token < tokens ? frames[(u64)token * b.stride + s.v] : 0.0f; };
    float v = load_v(0), v_next = load_v(1), held = 0.0f;
    __syncthreads();
    float decay = room.step[0].decay;
#pragma unroll
    for (int n = 0; n < KEY; n++) {
        h[n] = h[n] * decay;
        held += room.k[0][n] * h[n];
    }
    u32 at = 0; // the token's place in the rings
    for (i32 token = 0; token < tokens; token++) {
        const DeltaStep step = room.step[at];
        const float* const k = room.k[at];
        const float* const q = room.q[at];
        at = at + 1 == TILES * TILE ? 0 : at + 1;
        // Behind the last token nothing fades.
        const float* const k_next = room.k[at];
        decay = room.step[at].decay;
        const float change = step.beta * (v - step.k_factor * held) * step.k_factor;
        v = v_next, v_next = load_v(token + 2);
        float sum = 0.0f;
        held = 0.0f;
#pragma unroll
        for (int n = 0; n < KEY; n += 4) {
            float4 k4 = *(const float4*)(k + n), q4 = *(const float4*)(q + n), next4 = *(const float4*)(k_next + n);
            float kn[4] = {k4.x, k4.y, k4.z, k4.w}, qn[4] = {q4.x, q4.y, q4.z, q4.w}, next[4] = {next4.x, next4.y, next4.z, next4.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                h[n + i] = h[n + i] + kn[i] * change;
                sum += qn[i] * h[n + i];
                if (IS_HALF) h[n + i] = half_to_float(float_to_half(h[n + i]));
                h[n + i] = h[n + i] * decay;
                held += next[i] * h[n + i];
            }
        }
        if (mine) frames[(u64)token * b.stride + s.out] = sum * step.q_factor;
        if (token % TILE == TILE - 1) __syncthreads();
    }
}

// Copies keys and queries two tiles ahead, and computes what a head's channels share: one warp.
template <int KEY>
static __device__ __forceinline__ void serve_tokens(DeltaRoom<KEY>& room, const Batch& b, const DeltaShape& s, u32 first_row, u32 head, u32 lane) {
    const i32 tokens = b.tokens;
    const u32 key = head / (s.heads / s.key_heads) * s.key_dim;
    const float fade = s.decay[head], dt_bias = s.dt_bias[head];
    auto serve = [&](i32 tile) {
        // Behind the last token no key is looked for and nothing fades.
        const u32 first = tile % TILES * TILE;
        for (u32 i = lane; i < TILE * KEY / 4; i += 32) {
            u32 row = i / (KEY / 4), n = i % (KEY / 4) * 4;
            i32 token = tile * TILE + (i32)row;
            bool is_there = token < tokens && n < s.key_dim;
            const float* from = frame_of(b, first_row + (is_there ? token : 0)) + key + (is_there ? n : 0);
            *(float4*)&room.k[first + row][n] = is_there ? *(const float4*)(from + s.k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            *(float4*)&room.q[first + row][n] = is_there ? *(const float4*)(from + s.q) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        float decay = 1.0f, beta = 0.0f;
        if (lane < TILE && tile * TILE + (i32)lane < tokens) {
            const float* frame = frame_of(b, first_row + tile * TILE + lane);
            decay = exp_of(fade * softplus_of(frame[s.a + head] + dt_bias));
            beta = s.beta_scale * sigmoid_of(frame[s.b + head]);
        }
        __syncwarp();
        // Half of the warp adds up keys, the other queries.
        float factor[TILE];
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            const float* row = lane < 16 ? room.k[first + t] : room.q[first + t];
            factor[t] = 1.0f / sqrtf(sum_of(s.key_dim, [&](u32 n) { return row[n] * row[n]; }) + s.eps);
        }
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            if (lane == t) room.step[first + t].decay = decay, room.step[first + t].beta = beta;
            if (lane == 0) room.step[first + t].k_factor = factor[t];
            if (lane == 16) room.step[first + t].q_factor = factor[t] * s.scale;
        }
    };
    serve(0);
    serve(1);
    __syncthreads();
    for (i32 tile = 0; tile < tokens / TILE; tile++) {
        serve(tile + 2);
        __syncthreads();
    }
}

// Grid (ceil(value_dim / 32), heads * streams), block 64: a warp that walks, and one that serves it. key_dim is at most KEY, and a multiple of 4.
template <int KEY, bool IS_HALF>
static __device__ __forceinline__ void gated_delta(const Batch& b, const DeltaShape& s) {
    __shared__ __align__(16) DeltaRoom<KEY> room;
    let_next_start();
    const u32 head = blockIdx.y % s.heads, stream = blockIdx.y / s.heads, lane = threadIdx.x % 32, p = blockIdx.x * 32 + lane, first_row = stream * b.tokens;
    // Inside a routed block the token before may still be at work on the state.
    if (b.gate) wait_for_previous();
    if (threadIdx.x >= 32) {
        wait_for_previous();
        if (!is_shut(b)) serve_tokens<KEY>(room, b, s, first_row, head, lane);
        return;
    }
    u8* const state = state_of(b, stream) + s.slot;
    const u64 first = (u64)head * s.key_dim * s.value_dim + p;
    float h[KEY];
    u64 cell = first;
#pragma unroll
    for (int n = 0; n < KEY; n++, cell = later_sum(cell, s.value_dim)) {
        h[n] = p < s.value_dim && n < s.key_dim ? read_state(state, cell, IS_HALF) : 0.0f;
    }
    wait_for_previous();
    if (is_shut(b)) return;
    walk_tokens<KEY, IS_HALF>(room, b, s, first_row, head, p, h);
    cell = first;
#pragma unroll
    for (int n = 0; n < KEY; n++, cell = later_sum(cell, s.value_dim)) {
        if (p < s.value_dim && n < s.key_dim) write_state(state, cell, IS_HALF, h[n]);
    }
}

// exact_delta_<key_dim up to>_<state>
extern "C" __global__ void __launch_bounds__(64) exact_delta_64_f32(Batch b, DeltaShape s) { gated_delta<64, false>(b, s); }
extern "C" __global__ void __launch_bounds__(64) exact_delta_64_f16(Batch b, DeltaShape s) { gated_delta<64, true>(b, s); }
extern "C" __global__ void __launch_bounds__(64) exact_delta_128_f32(Batch b, DeltaShape s) { gated_delta<128, false>(b, s); }
extern "C" __global__ void __launch_bounds__(64) exact_delta_128_f16(Batch b, DeltaShape s) { gated_delta<128, true>(b, s); }
