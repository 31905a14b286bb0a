// Compiled with --fmad=false: the bits of the CPU.
// State-space dual recurrences (Mamba-2) in the CPU's order, for head_dim in fours and states of up to 256: kernels/src/portable/ssd.rs.
//
// What is added in turn is the sum over n; everything else runs side by side. Where tokens follow one another, heads, channels and parts of a
// state do not wait for each other either: see `ssd_prefill`.
#include "pipeline.cuh"
#include "walk.cuh"

// Numbers of four neighbouring channels.
static __device__ __forceinline__ void read_four(const u8* state, u64 at, bool is_half, float (&h)[4]) {
    if (is_half) {
        uint2 v = *(const uint2*)(state + 2 * at);
        h[0] = half_to_float((u16)v.x), h[1] = half_to_float((u16)(v.x >> 16));
        h[2] = half_to_float((u16)v.y), h[3] = half_to_float((u16)(v.y >> 16));
    } else {
        float4 v = *(const float4*)(state + 4 * at);
        h[0] = v.x, h[1] = v.y, h[2] = v.z, h[3] = v.w;
    }
}

static __device__ __forceinline__ void write_four(u8* state, u64 at, bool is_half, const float (&h)[4]) {
    if (is_half) {
        u32 low = float_to_half(h[0]) | (u32)float_to_half(h[1]) << 16, high = float_to_half(h[2]) | (u32)float_to_half(h[3]) << 16;
        *(uint2*)(state + 2 * at) = make_uint2(low, high);
    } else {
        *(float4*)(state + 4 * at) = make_float4(h[0], h[1], h[2], h[3]);
    }
}

// What a head's channels have in common.
struct Head {
    float a, d, dt_bias;
};

static __device__ __forceinline__ Head head_of(const SsdShape& s, u32 head) { return {s.a[head], s.d[head], s.dt_bias[head]}; }

// A token's step size from what its frame says.
static __device__ __forceinline__ float step_size_of(const SsdShape& s, const Head& head, float dt, float gap) {
    dt = softplus_of(dt + head.dt_bias);
    dt = dt < s.dt_lo ? s.dt_lo : dt;
    return (dt > s.dt_hi ? s.dt_hi : dt) * gap;
}

// ---- one token ------------------------------------------------------------------------------------------------------------------

// Channels of a block.
#define ACROSS 16
// Rows of the state that it walks at once: a thread has four channels.
#define ALONG 64

// The state is on its way before the kernel before this one has ended. All terms of the sum meet in shared memory, and a thread a channel adds them up.
//
// Grid (ceil(head_dim / ACROSS), heads * streams), block ACROSS / 4 * ALONG. d_state is at most ROWS * ALONG.
template <int ROWS>
static __device__ __forceinline__ void ssd_step(const Batch& b, const SsdShape& s) {
    __shared__ float terms[ROWS * ALONG][ACROSS];
    let_next_start();
    const u32 head = blockIdx.y % s.heads, stream = blockIdx.y / s.heads, group = head / (s.heads / s.groups);
    const u32 along = threadIdx.x / (ACROSS / 4), across = threadIdx.x % (ACROSS / 4) * 4, p = blockIdx.x * ACROSS + across;
    u8* const state = state_of(b, stream) + s.slot;
    // Inside a routed block the token before may still be at work on the state.
    if (b.gate) wait_for_previous();
    float h[ROWS][4];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        if (p < s.head_dim && n < s.d_state) read_four(state, ((u64)head * s.d_state + n) * s.head_dim + p, s.is_half, h[r]);
    }
    const Head of_head = head_of(s, head);
    wait_for_previous();
    if (is_shut(b)) return;

    float* const frame = frame_of(b, stream);
    const float *bs = frame + s.b + group * s.d_state, *cs = frame + s.c + group * s.d_state;
    float bn[ROWS], cn[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        bn[r] = n < s.d_state ? bs[n] : 0.0f, cn[r] = n < s.d_state ? cs[n] : 0.0f;
    }
    const float* x = frame + s.x + head * s.head_dim;
    float4 x4 = p < s.head_dim ? *(const float4*)(x + p) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    // Of the channel whose terms this thread adds up.
    const u32 own = blockIdx.x * ACROSS + threadIdx.x;
    const bool adds = threadIdx.x < ACROSS && own < s.head_dim;
    float x_own = adds ? x[own] : 0.0f;
    float dt = step_size_of(s, of_head, frame[s.dt + head], gap_of(b, stream)), decay = exp_of(dt * of_head.a);
    float dx[4] = {dt * x4.x, dt * x4.y, dt * x4.z, dt * x4.w};
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        float term[4] = {0.0f, 0.0f, 0.0f, 0.0f}; // Behind the state's end nothing is added: no sum is -0.
        if (p < s.head_dim && n < s.d_state) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                h[r][i] = decay * h[r][i] + dx[i] * bn[r];
                term[i] = cn[r] * h[r][i];
            }
        }
        *(float4*)&terms[n][across] = make_float4(term[0], term[1], term[2], term[3]);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        if (p < s.head_dim && n < s.d_state) write_four(state, ((u64)head * s.d_state + n) * s.head_dim + p, s.is_half, h[r]);
    }
    if (!adds) return;
    float sum = 0.0f;
#pragma unroll 64
    for (int n = 0; n < ROWS * ALONG; n++) sum += terms[n][threadIdx.x];
    frame[s.out + head * s.head_dim + own] = sum + of_head.d * x_own;
}

// ---- many tokens ----------------------------------------------------------------------------------------------------------------

// Channels of a warp, and warps of a block.
#define CHANNELS 4
#define WARPS 4
// Steps whose b and c are copied together, and how many such copies there is room for.
#define TILE 8
#define STAGES 3
// Tokens whose step sizes and inputs are prepared together, and how many such lots there is room for. A lot is as long as a warp is wide.
#define LOT 32
#define LOTS 4

// Starts a copy of 8 or 16 bytes into shared memory, of which the last come out as zeros where the source ends.
template <u32 BYTES>
static __device__ __forceinline__ void copy_part(float* shared, const float* global, u32 bytes) {
    u32 to = shared_address(shared);
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
    }
}

// COUNT numbers of shared memory: 2, 4 or 8.
template <int COUNT>
static __device__ __forceinline__ void read_part(const float* from, float (&to)[COUNT]) {
    if constexpr (COUNT == 2) {
        float2 v = *(const float2*)from;
        to[0] = v.x, to[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            float4 v = *(const float4*)(from + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    }
}

// Shared memory of a block.
template <int STATES>
struct SsdRoom {
    float bc[STAGES][TILE][2][32 * STATES];            // by step: each lane's part, of the token that it works on
    float dx[WARPS][LOTS * LOT + TILE][CHANNELS];      // by token: dt * x. A ring whose first numbers are repeated behind its end
    float decay[LOTS * LOT + TILE];                    // the same
    float dt[LOTS][LOT];
    float out[2][LOT][WARPS][CHANNELS];                // sums of the last two lots
};

// A warp owns channels of a head, a lane a part of their state, which stays in registers: lane l has STATES rows from l * STATES on. The sum over n
// goes from lane to lane, and so that none waits, lane l works on another token: at step t on token t - 1 - l. Thirty-two steps after its own a token's
// sum leaves the last lane.
//
// So at each step a lane reads b and c of a token of its own: they are copied into shared memory in the order of steps. Before the first token and
// behind the last lanes work on nothing: decay 1, input -0 and b 0 change no bit of a state.
//
// Grid (ceil(head_dim / (CHANNELS * WARPS)), heads * streams), block 32 * WARPS, shared memory sizeof(SsdRoom). d_state is at most 32 * STATES, and a
// multiple of 4.
template <int STATES, bool IS_HALF>
static __device__ __forceinline__ void ssd_prefill(const Batch& b, const SsdShape& s) {
    extern __shared__ __align__(16) unsigned char shared[];
    SsdRoom<STATES>& room = *(SsdRoom<STATES>*)shared;
    const u32 head = blockIdx.y % s.heads, stream = blockIdx.y / s.heads, group = head / (s.heads / s.groups);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, first_row = stream * b.tokens;
    const i32 tokens = b.tokens;
    u8* const state = state_of(b, stream) + s.slot;
    if (b.gate) wait_for_previous();

    // The state: of channels p on, rows n on.
    const u32 p = (blockIdx.x * WARPS + warp) * CHANNELS, n = lane * STATES;
    float h[STATES][CHANNELS];
#pragma unroll
    for (int i = 0; i < STATES; i++) {
#pragma unroll
        for (int j = 0; j < CHANNELS; j++) h[i][j] = 0.0f;
        if (p < s.head_dim && n + i < s.d_state) read_four(state, ((u64)head * s.d_state + n + i) * s.head_dim + p, IS_HALF, h[i]);
    }
    const Head of_head = head_of(s, head);
    wait_for_previous();
    if (is_shut(b)) return;

    // Copies of b and c: this thread's are at step `step` of each tile, parts `part` and further on.
    const u32 step = threadIdx.x % TILE;
    const int PARTS = 32 * TILE / (32 * WARPS); // of a tile, for each of b and c
    auto copy_tile = [&](i32 tile) {
#pragma unroll
        for (int k = 0; k < PARTS; k++) {
            // Threads that are neighbours copy neighbouring parts of a token's row: it lies on a diagonal.
            u32 part = (threadIdx.x / TILE + k * (32 * WARPS / TILE) + step) % 32;
            i32 token = tile * TILE + (i32)step - 1 - (i32)part;
            bool valid = token >= 0 && token < tokens && part * STATES < s.d_state;
            const float* row = frame_of(b, first_row + (valid ? token : 0)) + group * s.d_state + (valid ? part * STATES : 0);
            float* to = &room.bc[tile % STAGES][step][0][part * STATES];
#pragma unroll
            for (int i = 0; i < STATES; i += 4) {
                const u32 BYTES = STATES >= 4 ? 16 : 4 * STATES;
                u32 bytes = valid && part * STATES + i < s.d_state ? BYTES : 0;
                copy_part<BYTES>(to + i, row + s.b + i, bytes);
                copy_part<BYTES>(to + 32 * STATES + i, row + s.c + i, bytes);
            }
        }
        copies_commit();
    };
    // What a thread prepares and finishes of each lot: four channels of a token.
    const u32 row = threadIdx.x / WARPS, quad = threadIdx.x % WARPS, q = (blockIdx.x * WARPS + quad) * CHANNELS;
    auto load_x = [&](i32 lot) {
        i32 token = lot * LOT + (i32)row;
        bool valid = token >= 0 && token < tokens && q < s.head_dim;
        return valid ? *(const float4*)(frame_of(b, first_row + token) + s.x + head * s.head_dim + q) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    };
    auto load_dt = [&](i32 lot) {
        i32 token = lot * LOT + (i32)lane;
        return token < tokens ? frame_of(b, first_row + token)[s.dt + head] : 0.0f;
    };
    // A warp computes a lot's step sizes and decays.
    auto prepare_dt = [&](i32 lot, float raw) {
        i32 token = lot * LOT + (i32)lane;
        bool valid = token < tokens;
        float dt = step_size_of(s, of_head, raw, valid ? gap_of(b, first_row + token) : 1.0f), decay = valid ? exp_of(dt * of_head.a) : 1.0f;
        u32 slot = lot % LOTS;
        room.dt[slot][lane] = dt;
        room.decay[slot * LOT + lane] = decay;
        if (slot == 0 && lane < TILE) room.decay[LOTS * LOT + lane] = decay;
    };
    auto prepare_x = [&](i32 lot, float4 x) {
        u32 slot = lot % LOTS;
        float dt = room.dt[slot][row];
        float4 dx = make_float4(dt * x.x, dt * x.y, dt * x.z, dt * x.w);
        if (lot * LOT + (i32)row >= tokens) dx = make_float4(-0.0f, -0.0f, -0.0f, -0.0f);
        *(float4*)room.dx[quad][slot * LOT + row] = dx;
        if (slot == 0 && row < TILE) *(float4*)room.dx[quad][LOTS * LOT + row] = dx;
    };
    // `x` is the lot's.
    auto finish = [&](i32 lot, float4 x) {
        i32 token = lot * LOT + (i32)row;
        if (token >= tokens || q >= s.head_dim) return;
        float4 sum = *(const float4*)room.out[lot % 2][row][quad];
        float4 y = make_float4(sum.x + of_head.d * x.x, sum.y + of_head.d * x.y, sum.z + of_head.d * x.z, sum.w + of_head.d * x.w);
        *(float4*)(frame_of(b, first_row + token) + s.out + head * s.head_dim + q) = y;
    };

    copy_tile(0);
    copy_tile(1);
    // Nothing comes before the first lot.
    if (warp == 1) room.decay[(LOTS - 1) * LOT + lane] = 1.0f;
    *(float4*)room.dx[quad][(LOTS - 1) * LOT + row] = make_float4(-0.0f, -0.0f, -0.0f, -0.0f);
    if (warp < 2) prepare_dt(warp, load_dt(warp));
    float4 x_next = load_x(1), x_last = load_x(0);
    __syncthreads();
    prepare_x(0, x_last);
    float raw_dt = load_dt((warp + 2) % WARPS + 2); // of the next lot that is this warp's: lots 2, 3, 4, .. are those of warps 2, 3, 0, ..
    x_last = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

    float sum[CHANNELS];
#pragma unroll
    for (int j = 0; j < CHANNELS; j++) sum[j] = 0.0f;
    const i32 tiles = (tokens + LOT + TILE - 1) / TILE;
    u32 at = LOTS * LOT - 1 - lane; // this lane's token of the tile's first step, in the rings
    for (i32 tile = 0; tile < tiles; tile++) {
        copies_wait<1>();
        __syncthreads();
        copy_tile(tile + 2);
        if (tile % (LOT / TILE) == 0) {
            i32 lot = tile / (LOT / TILE);
            if (lot >= 2) finish(lot - 2, x_last);
            x_last = load_x(lot - 1);
            prepare_x(lot + 1, x_next);
            x_next = load_x(lot + 2);
            if ((lot + 2) % WARPS == warp) {
                prepare_dt(lot + 2, raw_dt);
                raw_dt = load_dt(lot + 2 + WARPS);
            }
        }
        const float(*bc)[2][32 * STATES] = room.bc[tile % STAGES];
#pragma unroll
        for (int k = 0; k < TILE; k++) {
            float bn[STATES], cn[STATES], dx[CHANNELS], decay = room.decay[at + k];
            read_part<STATES>(&bc[k][0][n], bn);
            read_part<STATES>(&bc[k][1][n], cn);
            read_part<CHANNELS>(room.dx[warp][at + k], dx);
#pragma unroll
            for (int j = 0; j < CHANNELS; j++) {
                float before = __shfl_up_sync(FULL, sum[j], 1);
                sum[j] = lane == 0 ? 0.0f : before;
            }
#pragma unroll
            for (int i = 0; i < STATES; i++) {
#pragma unroll
                for (int j = 0; j < CHANNELS; j++) {
                    h[i][j] = decay * h[i][j] + dx[j] * bn[i];
                    sum[j] += cn[i] * h[i][j];
                    if (IS_HALF) h[i][j] = half_to_float(float_to_half(h[i][j]));
                }
            }
            if (lane == 31) {
                u32 step = tile * TILE + k;
                float* to = room.out[step / LOT % 2 ^ 1][step % LOT][warp];
#pragma unroll
                for (int j = 0; j < CHANNELS; j++) to[j] = sum[j];
            }
        }
        at += TILE;
        if (at >= LOTS * LOT) at -= LOTS * LOT;
    }
    let_next_start();
    copies_wait<0>();
    __syncthreads();
    // The lots that ended since the last of them began.
    i32 lots = (tokens + LOT - 1) / LOT, begun = (tiles - 1) / (LOT / TILE);
    if (begun >= 1 && lots >= begun) finish(begun - 1, x_last);
#pragma unroll
    for (int i = 0; i < STATES; i++) {
        if (p < s.head_dim && n + i < s.d_state) write_four(state, ((u64)head * s.d_state + n + i) * s.head_dim + p, IS_HALF, h[i]);
    }
}

// exact_ssd_step_<d_state up to>
#define SSD_STEP(NAME, STATES) \
    extern "C" __global__ void __launch_bounds__(ACROSS / 4 * ALONG) NAME(Batch b, SsdShape s) { ssd_step<(STATES + ALONG - 1) / ALONG>(b, s); }

SSD_STEP(exact_ssd_step_64, 64)
SSD_STEP(exact_ssd_step_128, 128)
SSD_STEP(exact_ssd_step_256, 256)

// exact_ssd_prefill_<d_state up to>_<state>
#define SSD_PREFILL(NAME, STATES, IS_HALF) \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) NAME(Batch b, SsdShape s) { ssd_prefill<STATES, IS_HALF>(b, s); }

SSD_PREFILL(exact_ssd_prefill_64_f32, 2, false)
SSD_PREFILL(exact_ssd_prefill_64_f16, 2, true)
SSD_PREFILL(exact_ssd_prefill_128_f32, 4, false)
SSD_PREFILL(exact_ssd_prefill_128_f16, 4, true)
SSD_PREFILL(exact_ssd_prefill_256_f32, 8, false)
SSD_PREFILL(exact_ssd_prefill_256_f16, 8, true)
