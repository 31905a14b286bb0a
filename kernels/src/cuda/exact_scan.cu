// Compiled with --fmad=false: the bits of the CPU.
// Selective scans (Mamba) in the CPU's order: kernels/src/portable/scan.rs. What is added in turn is the sum over n; everything else runs side by side.
#include "pipeline.cuh"
#include "walk.cuh"

// ---- one token ------------------------------------------------------------------------------------------------------------------

// Rows of the state that a thread has, and most rows.
#define ROWS 2
#define MOST_STATE 64

// The state is on its way before the kernel before this one has ended. All terms of the sum meet in shared memory, and the first warp adds them up.
//
// Grid (ceil(channels / 32), streams), block 32 * ceil(d_state / ROWS). d_state is at most MOST_STATE.
extern "C" __global__ void __launch_bounds__(1024) exact_scan_step(Batch b, ScanShape s) {
    __shared__ float terms[MOST_STATE][32];
    let_next_start();
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, along = blockDim.x / 32, c = blockIdx.x * 32 + lane, stream = blockIdx.y;
    const bool mine = c < s.channels;
    u8* const state = state_of(b, stream) + s.slot;
    // Inside a routed block the token before may still be at work on the state.
    if (b.gate) wait_for_previous();
    float h[ROWS], a[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = warp + r * along;
        if (!mine || n >= s.d_state) continue;
        u64 at = (u64)n * s.channels + c;
        h[r] = read_state(state, at, s.is_half);
        a[r] = s.a[at];
    }
    float dt_bias = mine ? s.dt_bias[c] : 0.0f, d = mine ? s.d[c] : 0.0f;
    wait_for_previous();
    if (is_shut(b)) return;

    float* const frame = frame_of(b, stream);
    const u32 shared_at = c / (s.channels / s.heads) * s.d_state;
    float bn[ROWS], cn[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = warp + r * along;
        if (!mine || n >= s.d_state) continue;
        bn[r] = frame[s.b + shared_at + n], cn[r] = frame[s.c + shared_at + n];
    }
    const bool adds = mine && warp == 0;
    float x = mine ? frame[s.x + c] : 0.0f, dt = mine ? frame[s.dt + c] : 0.0f, gate = adds && s.has_z ? silu_of(frame[s.z + c]) : 1.0f;
    dt = softplus_of(dt + dt_bias) * gap_of(b, stream);
    float dx = dt * x;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = warp + r * along;
        if (!mine || n >= s.d_state) continue;
        h[r] = exp_of(dt * a[r]) * h[r] + dx * bn[r];
        terms[n][lane] = cn[r] * h[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = warp + r * along;
        if (mine && n < s.d_state) write_state(state, (u64)n * s.channels + c, s.is_half, h[r]);
    }
    if (!adds) return;
    float sum = 0.0f;
#pragma unroll 16
    for (u32 n = 0; n < s.d_state; n++) sum += terms[n][lane];
    sum += d * x;
    if (s.has_z) sum *= gate;
    frame[s.out + c] = sum;
}

// ---- many tokens ----------------------------------------------------------------------------------------------------------------

// Rows of the state, a lane each; a warp has two channels.
#define LANES 16
#define WARPS 4
#define CHANNELS (2 * WARPS)
// Tokens that are prepared together, and how many such tiles there is room for. A tile is as long as a channel has lanes.
#define TILE 16
#define TILES 3
// Numbers of b, and of c, that a thread prepares of a tile.
#define EACH (TILE * LANES / (32 * WARPS))

// e^x where the result is a normal number, -86 <= x <= 88: the same operations and bits as `exp_of`, whose bounds do nothing there and whose two
// factors 2^(n / 2) change the exponent alone.
static __device__ __forceinline__ float exp_within(float x) {
    float shifted = x * 1.44269504088896340736f + ROUND;
    float n_f = shifted - ROUND;
    // 0.6933594 has nine bits: its product with a whole number is exact, so that one rounding is the same as two.
    float r = __fmaf_rn(n_f, -0.6933594f, x) - n_f * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 0.5f;
    float e_r = (p * (r * r) + r) + 1.0f;
    return __int_as_float(__float_as_int(e_r) + (__float_as_int(shifted) << 23));
}

// Shared memory of a block. Rings are by token; their first numbers are repeated behind their end.
struct ScanRoom {
    float2 step[CHANNELS][TILES * TILE + TILE];  // dt, dt * x
    float2 bc[TILES * TILE + TILE][LANES];
    float out[2][CHANNELS][TILE];                // sums of the last two tiles
};

// A tile's steps. WITHIN promises that exponentials need no bounds.
template <bool WITHIN, bool IS_HALF>
static __device__ __forceinline__ void scan_tile(const ScanRoom& room, u32 at, u32 n, u32 channel, float a, float& h, float& sum, float* out) {
#pragma unroll
    for (int k = 0; k < TILE; k++) {
        float2 step = room.step[channel][at + k], bc = room.bc[at + k][n];
        float before = __shfl_up_sync(FULL, sum, 1, LANES);
        float decay = WITHIN ? exp_within(step.x * a) : exp_of(step.x * a);
        h = decay * h + step.y * bc.x;
        sum = (n == 0 ? 0.0f : before) + bc.y * h;
        if (IS_HALF) h = half_to_float(float_to_half(h));
        if (n == LANES - 1) out[k] = sum;
    }
}

// A lane has one row of a channel's state. The sum over n goes from lane to lane, and so that none waits, lane n works on another token: at step t
// on token t - 1 - n. Sixteen steps after its own a token's sum leaves the last lane. Before the first token and behind the last lanes work on
// nothing: step 0, input -0 and b 0 change no bit of a state.
//
// Grid (blocks of CHANNELS channels in a head, heads * streams), block 32 * WARPS. d_state is at most LANES.
template <bool IS_HALF>
static __device__ __forceinline__ void scan_prefill(const Batch& b, const ScanShape& s) {
    __shared__ ScanRoom room;
    const u32 per_head = s.channels / s.heads, head = blockIdx.y % s.heads, stream = blockIdx.y / s.heads, first = head * per_head + blockIdx.x * CHANNELS;
    const u32 channels = min(CHANNELS, per_head - blockIdx.x * CHANNELS), first_row = stream * b.tokens;
    const i32 tokens = b.tokens;
    u8* const state = state_of(b, stream) + s.slot;
    if (b.gate) wait_for_previous();

    // A lane's row of the state.
    const u32 lane = threadIdx.x % 32, n = lane % LANES, channel = threadIdx.x / 32 * 2 + lane / LANES;
    const bool walks = channel < channels && n < s.d_state;
    const u64 cell = (u64)n * s.channels + first + channel;
    float h = walks ? read_state(state, cell, IS_HALF) : 0.0f, a = walks ? s.a[cell] : 0.0f;

    // What a thread prepares and finishes of each tile: a channel of a token, and EACH numbers of b and of c.
    const u32 own = threadIdx.x % CHANNELS, row = threadIdx.x / CHANNELS, own_channel = first + (own < channels ? own : 0);
    const float dt_bias = s.dt_bias[own_channel], d = s.d[own_channel];
    // Within which exponentials need no bounds.
    float least = 0.0f, most = 0.0f;
    for (u32 n = 0; n < s.d_state; n++) {
        float a = s.a[(u64)n * s.channels + own_channel];
        least = fminf(least, a), most = fmaxf(most, a);
    }
    wait_for_previous();
    if (is_shut(b)) return;

    struct Operands {
        float x, dt, b[EACH], c[EACH];
    };
    auto frame_at = [&](i32 token) { return frame_of(b, first_row + (u32)token); };
    auto load = [&](i32 tile) {
        Operands now = {};
        i32 token = tile * TILE + (i32)row;
        if (token < tokens) now.x = frame_at(token)[s.x + own_channel], now.dt = frame_at(token)[s.dt + own_channel];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            u32 item = threadIdx.x + k * 32 * WARPS, n = item % LANES;
            token = tile * TILE + (i32)(item / LANES);
            if (token >= tokens || n >= s.d_state) continue;
            const float* frame = frame_at(token) + head * s.d_state + n;
            now.b[k] = frame[s.b], now.c[k] = frame[s.c];
        }
        return now;
    };
    // Whether all exponentials of the tile are within bounds, for this thread's channel and token.
    auto prepare = [&](i32 tile, const Operands& now) {
        i32 token = tile * TILE + (i32)row;
        u32 at = tile % TILES * TILE;
        float2 step = make_float2(0.0f, -0.0f);
        if (token < tokens) {
            step.x = softplus_of(now.dt + dt_bias) * gap_of(b, first_row + (u32)token);
            step.y = step.x * now.x;
        }
        room.step[own][at + row] = step;
        if (at == 0) room.step[own][TILES * TILE + row] = step;
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            u32 item = threadIdx.x + k * 32 * WARPS, r = item / LANES, n = item % LANES;
            float2 bc = make_float2(now.b[k], now.c[k]);
            room.bc[at + r][n] = bc;
            if (at == 0) room.bc[TILES * TILE + r][n] = bc;
        }
        return fminf(step.x * least, step.x * most) >= -86.0f && fmaxf(step.x * least, step.x * most) <= 88.0f;
    };
    auto finish = [&](i32 tile, float x, float z) {
        i32 token = tile * TILE + (i32)row;
        if (token >= tokens || own >= channels) return;
        float sum = room.out[tile % 2][own][row] + d * x;
        if (s.has_z) sum *= silu_of(z);
        frame_at(token)[s.out + own_channel] = sum;
    };
    auto load_z = [&](i32 tile) {
        i32 token = tile * TILE + (i32)row;
        return s.has_z && token >= 0 && token < tokens ? frame_at(token)[s.z + own_channel] : 0.0f;
    };

    // Nothing comes before the first tile.
    room.step[own][(TILES - 1) * TILE + row] = make_float2(0.0f, -0.0f);
    for (u32 i = threadIdx.x; i < TILE * LANES; i += 32 * WARPS) room.bc[(TILES - 1) * TILE + i / LANES][i % LANES] = make_float2(0.0f, 0.0f);
    const Operands head_start = load(0);
    Operands next = load(1);
    bool within = prepare(0, head_start), last_within = true;
    // x of the tiles before the one in `next`, newest first; z of the tile that ends next.
    float x_new = head_start.x, x_now = 0.0f, x_last = 0.0f, z_last = 0.0f, sum = 0.0f;
    const i32 tiles = (tokens + TILE - 1) / TILE + 1;
    u32 at = TILES * TILE - 1 - n; // this lane's token of the tile's first step, in the rings
    for (i32 tile = 0; tile < tiles; tile++) {
        const bool all_within = !__syncthreads_or(!within), plain = all_within && last_within;
        last_within = all_within;
        if (tile >= 2) finish(tile - 2, x_last, z_last);
        z_last = load_z(tile - 1);
        within = prepare(tile + 1, next);
        x_last = x_now, x_now = x_new, x_new = next.x;
        next = load(tile + 2);
        float* out = room.out[tile % 2 ^ 1][channel];
        // A tile's steps take tokens of two.
        if (plain) {
            scan_tile<true, IS_HALF>(room, at, n, channel, a, h, sum, out);
        } else {
            scan_tile<false, IS_HALF>(room, at, n, channel, a, h, sum, out);
        }
        at += TILE;
        if (at >= TILES * TILE) at -= TILES * TILE;
    }
    let_next_start();
    __syncthreads();
    finish(tiles - 2, x_last, z_last);
    if (walks) write_state(state, cell, IS_HALF, h);
}

// exact_scan_prefill_<state>
extern "C" __global__ void __launch_bounds__(32 * WARPS) exact_scan_prefill_f32(Batch b, ScanShape s) { scan_prefill<false>(b, s); }
extern "C" __global__ void __launch_bounds__(32 * WARPS) exact_scan_prefill_f16(Batch b, ScanShape s) { scan_prefill<true>(b, s); }
