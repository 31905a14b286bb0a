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
// Warps that walk, and as many that serve them.
#define WARPS 4
#define TEAM (32 * WARPS)
#define CHANNELS (2 * WARPS)
// Tokens that are prepared together, and how many such tiles there is room for. A tile is as long as a channel has lanes.
#define TILE 16
#define TILES 3
// Numbers of b, and of c, that a servant prepares of a tile.
#define EACH (TILE * LANES / TEAM)

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
    __align__(16) float out[2][CHANNELS][TILE];                // sums of the last two tiles
};

// Steps whose exponentials are computed together, while the sums of those before go from lane to lane.
#define GROUP 4

// A tile's steps. WITHIN promises that exponentials need no bounds.
template <bool WITHIN, bool IS_HALF>
static __device__ __forceinline__ void scan_tile(const ScanRoom& room, u32 at, u32 n, u32 channel, float a, float& h, float& sum, float* out) {
    float decay[GROUP], input[GROUP], c[GROUP];
    auto prepare = [&](int first) {
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            float2 step = room.step[channel][at + first + k], bc = room.bc[at + first + k][n];
            decay[k] = WITHIN ? exp_within(step.x * a) : exp_of(step.x * a);
            input[k] = step.y * bc.x;
            c[k] = bc.y;
        }
    };
    prepare(0);
#pragma unroll
    for (int first = 0; first < TILE; first += GROUP) {
        float term[GROUP], sums[GROUP];
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            h = decay[k] * h + input[k];
            term[k] = c[k] * h;
            if (IS_HALF) h = half_to_float(float_to_half(h));
        }
        if (first + GROUP < TILE) prepare(first + GROUP);
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            float before = __shfl_up_sync(FULL, sum, 1, LANES);
            sum = (n == 0 ? 0.0f : before) + term[k];
            sums[k] = sum;
        }
        if (n == LANES - 1) *(float4*)(out + first) = make_float4(sums[0], sums[1], sums[2], sums[3]);
    }
}

// Walks all tiles: half of a block's warps.
//
// A lane has one row of a channel's state. The sum over n goes from lane to lane, and so that none waits, lane n works on another token: at step t
// on token t - 1 - n. Sixteen steps after its own a token's sum leaves the last lane. Before the first token and behind the last lanes work on
// nothing: step 0, input -0 and b 0 change no bit of a state.
template <bool IS_HALF>
static __device__ __forceinline__ void walk_tiles(ScanRoom& room, i32 tiles, u32 n, u32 channel, float a, float& h) {
    bool last_within = true;
    float sum = 0.0f;
    u32 at = TILES * TILE - 1 - n; // this lane's token of the tile's first step, in the rings
    for (i32 tile = 0; tile < tiles; tile++) {
        // A tile's steps take tokens of two.
        const bool within = !__syncthreads_or(false), plain = within && last_within;
        last_within = within;
        float* out = room.out[tile % 2 ^ 1][channel];
        if (plain) {
            scan_tile<true, IS_HALF>(room, at, n, channel, a, h, sum, out);
        } else {
            scan_tile<false, IS_HALF>(room, at, n, channel, a, h, sum, out);
        }
        at += TILE;
        if (at >= TILES * TILE) at -= TILES * TILE;
    }
    __syncthreads();
}

// Prepares tiles for those who walk, and finishes what they leave: the other half. So the latency of neither is seen.
struct Servant {
    ScanRoom& room;
    const ScanShape& s;
    const float* gaps;     // of the stream's tokens, or null
    float* own_at;         // in this thread's token's frame of the tile at hand: its channel
    const float* shared_at; // the same: its number of b and c
    i32 tokens, span;      // tokens; numbers from tile to tile
    u32 stride, own, row, n, bc_row;
    bool has_channel;
    float dt_bias, d, least, most; // `least` and `most` of a: within which exponentials need no bounds

    // What it has loaded of a tile: a channel of a token, and EACH numbers of b and of c.
    struct Operands {
        float x, dt, b[EACH], c[EACH];
    };

    // `ahead` tiles from the one at hand, whose number is `tile`.
    __device__ __forceinline__ bool has(i32 tile, u32 row) const { return (u32)(tile * TILE + (i32)row) < (u32)tokens; }
    __device__ __forceinline__ Operands load(i32 tile, i32 ahead) const {
        Operands now = {};
        if (has(tile + ahead, row)) now.x = own_at[ahead * span + (i32)s.x], now.dt = own_at[ahead * span + (i32)s.dt];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            if (n >= s.d_state || !has(tile + ahead, bc_row + k * (TEAM / LANES))) continue;
            const float* at = shared_at + (ahead * span + k * (TEAM / LANES) * (i32)stride);
            now.b[k] = at[s.b], now.c[k] = at[s.c];
        }
        return now;
    }
    __device__ __forceinline__ float load_z(i32 tile, i32 ahead) const {
        return s.has_z && has(tile + ahead, row) ? own_at[ahead * span + (i32)s.z] : 0.0f;
    }
    // Whether all exponentials of the tile are within bounds, for this thread's channel and token.
    __device__ __forceinline__ bool prepare(i32 tile, const Operands& now) const {
        u32 at = tile % TILES * TILE;
        float2 step = make_float2(0.0f, -0.0f);
        if (has(tile, row)) {
            step.x = softplus_of(now.dt + dt_bias) * (gaps ? gaps[tile * TILE + (i32)row] : 1.0f);
            step.y = step.x * now.x;
        }
        room.step[own][at + row] = step;
        if (at == 0) room.step[own][TILES * TILE + row] = step;
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            u32 r = bc_row + k * (TEAM / LANES);
            float2 bc = make_float2(now.b[k], now.c[k]);
            room.bc[at + r][n] = bc;
            if (at == 0) room.bc[TILES * TILE + r][n] = bc;
        }
        return fminf(step.x * least, step.x * most) >= -86.0f && fmaxf(step.x * least, step.x * most) <= 88.0f;
    }
    // x and z are those of the tile, `ahead` of the one at hand.
    __device__ __forceinline__ void finish(i32 tile, i32 ahead, float x, float z) const {
        if (!has(tile + ahead, row) || !has_channel) return;
        float sum = room.out[(tile + ahead) % 2][own][row] + d * x;
        if (s.has_z) sum *= silu_of(z);
        own_at[ahead * span + (i32)s.out] = sum;
    }
};

// Grid (blocks of CHANNELS channels in a head, heads * streams), block 2 * TEAM. d_state is at most LANES.
template <bool IS_HALF>
static __device__ __forceinline__ void scan_prefill(const Batch& b, const ScanShape& s) {
    __shared__ ScanRoom room;
    const u32 per_head = s.channels / s.heads, head = blockIdx.y % s.heads, stream = blockIdx.y / s.heads, first = head * per_head + blockIdx.x * CHANNELS;
    const u32 channels = min(CHANNELS, per_head - blockIdx.x * CHANNELS), first_row = stream * b.tokens, thread = threadIdx.x % TEAM;
    const i32 tiles = ((i32)b.tokens + TILE - 1) / TILE + 1;
    if (b.gate) wait_for_previous();

    if (threadIdx.x < TEAM) {
        const u32 lane = thread % 32, n = lane % LANES, channel = thread / 32 * 2 + lane / LANES;
        const bool walks = channel < channels && n < s.d_state;
        const u64 cell = (u64)n * s.channels + first + channel;
        u8* const state = state_of(b, stream) + s.slot;
        float h = walks ? read_state(state, cell, IS_HALF) : 0.0f, a = walks ? s.a[cell] : 0.0f;
        wait_for_previous();
        if (is_shut(b)) return;
        walk_tiles<IS_HALF>(room, tiles, n, channel, a, h);
        if (walks) write_state(state, cell, IS_HALF, h);
        return;
    }

    const u32 own = thread % CHANNELS, channel = first + (own < channels ? own : 0), row = thread / CHANNELS, n = thread % LANES, bc_row = thread / LANES;
    float* const frames = frame_of(b, first_row);
    Servant servant = {room,          s,   b.gaps ? b.gaps + first_row : b.gaps, frames + (u64)row * b.stride + channel, frames + (u64)bc_row * b.stride + head * s.d_state + n,
                       (i32)b.tokens, (i32)(TILE * b.stride),                    b.stride,                               own,
                       row,           n,   bc_row,                               own < channels,                         s.dt_bias[channel],
                       s.d[channel],  0.0f, 0.0f};
    for (u32 n = 0; n < s.d_state; n++) {
        float a = s.a[(u64)n * s.channels + channel];
        servant.least = fminf(servant.least, a), servant.most = fmaxf(servant.most, a);
    }
    wait_for_previous();
    if (is_shut(b)) return;

    // Nothing comes before the first tile.
    room.step[own][(TILES - 1) * TILE + row] = make_float2(0.0f, -0.0f);
    for (u32 i = thread; i < TILE * LANES; i += TEAM) room.bc[(TILES - 1) * TILE + i / LANES][i % LANES] = make_float2(0.0f, 0.0f);
    const Servant::Operands start = servant.load(0, 0);
    Servant::Operands next = servant.load(0, 1), later = servant.load(0, 2);
    bool within = servant.prepare(0, start);
    // x of the tiles before the one in `next`, newest first; z of the tile that ends next, and of the one behind it.
    float x_new = start.x, x_now = 0.0f, x_last = 0.0f, z_last = 0.0f, z_now = 0.0f;
    for (i32 tile = 0; tile < tiles; tile++) {
        __syncthreads_or(!within);
        if (tile >= 2) servant.finish(tile, -2, x_last, z_last);
        z_last = z_now, z_now = servant.load_z(tile, 0);
        within = servant.prepare(tile + 1, next);
        x_last = x_now, x_now = x_new, x_new = next.x;
        next = later, later = servant.load(tile, 3);
        servant.own_at += servant.span, servant.shared_at += servant.span;
    }
    let_next_start();
    __syncthreads();
    servant.finish(tiles, -2, x_last, z_last);
}

// exact_scan_prefill_<state>
extern "C" __global__ void __launch_bounds__(2 * TEAM, 5) exact_scan_prefill_f32(Batch b, ScanShape s) { scan_prefill<false>(b, s); }
extern "C" __global__ void __launch_bounds__(2 * TEAM, 5) exact_scan_prefill_f16(Batch b, ScanShape s) { scan_prefill<true>(b, s); }
