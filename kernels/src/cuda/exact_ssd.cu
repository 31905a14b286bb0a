// Compiled with --fmad=false: the bits of the CPU.
// State-space dual recurrences (Mamba-2) in the CPU's order, for head_dim in fours and states of up to 256: kernels/src/portable/ssd.rs.
//
// What is added in turn is the sum over n; everything else runs side by side. Where tokens follow one another, heads, channels and parts of a
// state do not wait for each other either: see `ssd_prefill`.
#include "pipeline.cuh"
#include "walk.cuh"

// Neighbouring numbers, loaded and stored together.
template <int COUNT>
struct alignas(COUNT > 4 ? 16 : 4 * COUNT) Few {
    float at[COUNT];
};

template <int COUNT>
struct alignas(2 * COUNT) FewHalves {
    u16 at[COUNT];
};

template <int COUNT>
static __device__ __forceinline__ Few<COUNT> all_of(float x) {
    Few<COUNT> all;
#pragma unroll
    for (int i = 0; i < COUNT; i++) all.at[i] = x;
    return all;
}

// Numbers of a state that lie side by side.
template <int COUNT>
static __device__ __forceinline__ Few<COUNT> read_few(const u8* state, u64 at, bool is_half) {
    if (!is_half) return *(const Few<COUNT>*)(state + 4 * at);
    FewHalves<COUNT> halves = *(const FewHalves<COUNT>*)(state + 2 * at);
    Few<COUNT> few;
#pragma unroll
    for (int i = 0; i < COUNT; i++) few.at[i] = half_to_float(halves.at[i]);
    return few;
}

template <int COUNT>
static __device__ __forceinline__ void write_few(u8* state, u64 at, bool is_half, const Few<COUNT>& few) {
    if (!is_half) {
        *(Few<COUNT>*)(state + 4 * at) = few;
        return;
    }
    FewHalves<COUNT> halves;
#pragma unroll
    for (int i = 0; i < COUNT; i++) halves.at[i] = float_to_half(few.at[i]);
    *(FewHalves<COUNT>*)(state + 2 * at) = halves;
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
#define ALONG 32

// The state is on its way before the kernel before this one has ended. All terms of the sum meet in shared memory, and a thread a channel adds them up.
//
// Grid (ceil(head_dim / ACROSS), heads * streams), block ACROSS / 4 * ALONG. d_state is at most ROWS * ALONG.
template <int ROWS>
static __device__ __forceinline__ void ssd_step(const Batch& b, const SsdShape& s) {
    __shared__ __align__(16) float terms[ROWS * ALONG][ACROSS];
    __shared__ float2 step;
    const u32 head = blockIdx.y % s.heads, stream = blockIdx.y / s.heads, group = head / (s.heads / s.groups);
    const u32 along = threadIdx.x / (ACROSS / 4), across = threadIdx.x % (ACROSS / 4) * 4, p = blockIdx.x * ACROSS + across;
    u8* const state = state_of(b, stream) + s.slot;
    // Inside a routed block the token before may still be at work on the state.
    if (b.gate) wait_for_previous();
    Few<4> h[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        if (p < s.head_dim && n < s.d_state) h[r] = read_few<4>(state, ((u64)head * s.d_state + n) * s.head_dim + p, s.is_half);
    }
    const Head of_head = head_of(s, head);
    wait_for_previous();
    let_next_start();
    if (is_shut(b)) return;

    float* const frame = frame_of(b, stream);
    const float *bs = frame + s.b + group * s.d_state, *cs = frame + s.c + group * s.d_state, *x = frame + s.x + head * s.head_dim;
    float bn[ROWS], cn[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        bn[r] = n < s.d_state ? bs[n] : 0.0f, cn[r] = n < s.d_state ? cs[n] : 0.0f;
    }
    Few<4> dx = p < s.head_dim ? *(const Few<4>*)(x + p) : all_of<4>(0.0f);
    // Of the channel whose terms this thread adds up.
    const u32 own = blockIdx.x * ACROSS + threadIdx.x;
    const bool adds = threadIdx.x < ACROSS && own < s.head_dim;
    const float x_own = adds ? x[own] : 0.0f, z_own = adds && s.has_gate ? frame[s.z + head * s.head_dim + own] : 0.0f;
    // One warp computes what all need.
    if (threadIdx.x < 32) {
        float dt = step_size_of(s, of_head, frame[s.dt + head], gap_of(b, stream)), decay = exp_of(dt * of_head.a);
        if (threadIdx.x == 0) step = make_float2(dt, decay);
    }
    __syncthreads();
    const float dt = step.x, decay = step.y;
#pragma unroll
    for (int i = 0; i < 4; i++) dx.at[i] = dt * dx.at[i];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        Few<4> term = all_of<4>(0.0f); // Behind the state's end nothing is added: no sum is -0.
        if (p < s.head_dim && n < s.d_state) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                h[r].at[i] = decay * h[r].at[i] + dx.at[i] * bn[r];
                term.at[i] = cn[r] * h[r].at[i];
            }
        }
        *(Few<4>*)&terms[n][across] = term;
    }
    __syncthreads();
    // What the next kernel waits for is written first.
    if (adds) {
        float sum = 0.0f;
#pragma unroll 64
        for (int n = 0; n < ROWS * ALONG; n++) sum += terms[n][threadIdx.x];
        sum += of_head.d * x_own;
        if (s.has_gate) sum *= silu_of(z_own);
        frame[s.out + head * s.head_dim + own] = sum;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        u32 n = r * ALONG + along;
        if (p < s.head_dim && n < s.d_state) write_few(state, ((u64)head * s.d_state + n) * s.head_dim + p, s.is_half, h[r]);
    }
}

// ---- many tokens ----------------------------------------------------------------------------------------------------------------

// Channels of a warp that walks, and such warps of a block; two more serve them.
#define CHANNELS 4
#define WARPS 4
#define THREADS (32 * (WARPS + 2))
// Steps whose b and c are copied together, and how many such copies there is room for.
#define TILE 8
#define STAGES 3
// Tokens whose step sizes and inputs are prepared together, and how many such lots there is room for. A lot is as long as a warp is wide.
#define LOT 32
#define LOTS 4

// Starts a copy of 8 or 16 bytes into shared memory, or puts zeros there.
template <u32 BYTES>
static __device__ __forceinline__ void copy_part(float* shared, const float* global, bool is_there) {
    u32 to = shared_address(shared), bytes = is_there ? BYTES : 0;
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
    }
}

// Two numbers as a state in half precision keeps them: `float_to_half`, whose bounds do the same to the halves.
static __device__ __forceinline__ void round_to_halves(float& x, float& y) {
    u32 pair;
    asm("{ .reg .b32 p; cvt.rn.f16x2.f32 p, %2, %1; min.f16x2 p, p, %3; max.f16x2 %0, p, %4; }"
        : "=r"(pair)
        : "f"(x), "f"(y), "r"(0x7bff7bff), "r"(0xfbfffbff));
    x = half_to_float((u16)pair), y = half_to_float((u16)(pair >> 16));
}

// Shared memory of a block. Rings are by token; their first numbers are repeated behind their end.
template <int STATES>
struct SsdRoom {
    Few<STATES> bc[STAGES][TILE][2][32];        // by step: each lane's part, of the token that it works on
    Few<CHANNELS> dx[WARPS][LOTS * LOT + TILE]; // dt * x
    float decay[LOTS * LOT + TILE];
    float dt[LOTS][LOT];
    Few<CHANNELS> out[2][LOT][WARPS];           // sums of the last two lots
};

// Where a block is at work.
struct SsdPlace {
    u32 head, stream, group, first_row; // `first_row`: of the stream's frames
    i32 tokens, tiles;
};

// Walks all tiles. A warp owns channels of a head, a lane a part of their state, which stays in registers: lane l has STATES rows from l * STATES on.
// The sum over n goes from lane to lane, and so that none waits, lane l works on another token: at step t on token t - 1 - l. Thirty-two steps after
// its own a token's sum leaves the last lane.
//
// So at each step a lane reads b and c of a token of its own: they lie in shared memory in the order of steps. Before the first token and behind the
// last lanes work on nothing: decay 1, input -0 and b 0 change no bit of a state.
template <int STATES, bool IS_HALF>
static __device__ __forceinline__ void walk_tiles(SsdRoom<STATES>& room, i32 tiles, u32 lane, u32 warp, Few<CHANNELS> (&h)[STATES]) {
    Few<CHANNELS> sum = all_of<CHANNELS>(0.0f);
    u32 at = LOTS * LOT - 1 - lane; // this lane's token of the tile's first step, in the rings
    for (i32 tile = 0; tile < tiles; tile++) {
        __syncthreads();
        const Few<STATES>(*bc)[2][32] = room.bc[tile % STAGES];
        Few<CHANNELS>* const out = &room.out[tile / (LOT / TILE) % 2 ^ 1][tile % (LOT / TILE) * TILE][warp];
        // A step's terms are added up while the next step's are computed: what the lane before hands on has a step's time to arrive.
        Few<CHANNELS> term[STATES];
        auto add_up = [&](int k) {
#pragma unroll
            for (int j = 0; j < CHANNELS; j++) {
                float before = __shfl_up_sync(FULL, sum.at[j], 1);
                sum.at[j] = lane == 0 ? 0.0f : before;
#pragma unroll
                for (int i = 0; i < STATES; i++) sum.at[j] += term[i].at[j];
            }
            if (lane == 31) out[k * WARPS] = sum;
        };
#pragma unroll
        for (int k = 0; k < TILE; k++) {
            const Few<STATES> b = bc[k][0][lane], c = bc[k][1][lane];
            const Few<CHANNELS> dx = room.dx[warp][at + k];
            const float decay = room.decay[at + k];
            if (k > 0) add_up(k - 1);
#pragma unroll
            for (int i = 0; i < STATES; i++) {
#pragma unroll
                for (int j = 0; j < CHANNELS; j++) {
                    h[i].at[j] = decay * h[i].at[j] + dx.at[j] * b.at[i];
                    term[i].at[j] = c.at[i] * h[i].at[j];
                }
                if (IS_HALF) {
#pragma unroll
                    for (int j = 0; j < CHANNELS; j += 2) round_to_halves(h[i].at[j], h[i].at[j + 1]);
                }
            }
        }
        add_up(TILE - 1);
        at += TILE;
        if (at >= LOTS * LOT) at -= LOTS * LOT;
    }
    __syncthreads();
}

// Copies b and c of each tile two tiles ahead, and computes step sizes and decays two lots ahead: one warp.
template <int STATES>
static __device__ __forceinline__ void serve_tiles(SsdRoom<STATES>& room, const Batch& b, const SsdShape& s, const SsdPlace& place, const Head& head, u32 lane) {
    const float* const frames = frame_of(b, place.first_row);
    // This lane's copies are of step `step` of each tile, parts `part_of(k)`. Neighbours copy neighbouring parts of a token's row: it lies on a diagonal.
    const int PARTS = TILE;
    const u32 BYTES = STATES >= 4 ? 16 : 4 * STATES, step = lane % TILE;
    auto part_of = [&](int k) { return (lane / TILE + k * (32 / TILE) + step) % 32; };
    // The parts of b of the tile that is copied next; where none is, an address outside.
    const float* from[PARTS];
#pragma unroll
    for (int k = 0; k < PARTS; k++) from[k] = frames + ((i64)step - 1 - part_of(k)) * b.stride + s.b + place.group * s.d_state + part_of(k) * STATES;
    const i64 to_c = (i64)s.c - (i64)s.b, span = (i64)TILE * b.stride;
    auto copy_tile = [&](i32 tile) {
        Few<STATES>(*to)[32] = room.bc[tile % STAGES][step];
        // Whether the tile's steps have tokens all, and lanes states.
        if (tile * TILE >= 32 && (tile + 1) * TILE - 1 <= place.tokens && s.d_state == 32 * STATES) {
#pragma unroll
            for (int k = 0; k < PARTS; k++) {
#pragma unroll
                for (int i = 0; i < STATES; i += BYTES / 4) {
                    copy_part<BYTES>(&to[0][part_of(k)].at[i], from[k] + i, true);
                    copy_part<BYTES>(&to[1][part_of(k)].at[i], from[k] + to_c + i, true);
                }
                from[k] += span;
            }
        } else {
#pragma unroll
            for (int k = 0; k < PARTS; k++) {
                bool valid = (u32)(tile * TILE + (i32)(step - 1 - part_of(k))) < (u32)place.tokens;
#pragma unroll
                for (int i = 0; i < STATES; i += BYTES / 4) {
                    bool is_there = valid && part_of(k) * STATES + i < s.d_state;
                    copy_part<BYTES>(&to[0][part_of(k)].at[i], is_there ? from[k] + i : frames, is_there);
                    copy_part<BYTES>(&to[1][part_of(k)].at[i], is_there ? from[k] + to_c + i : frames, is_there);
                }
                from[k] += span;
            }
        }
        copies_commit();
    };
    auto load_dt = [&](i32 lot) {
        i32 token = lot * LOT + (i32)lane;
        return token < place.tokens ? frames[(u64)token * b.stride + s.dt + place.head] : 0.0f;
    };
    auto prepare_dt = [&](i32 lot, float raw) {
        i32 token = lot * LOT + (i32)lane;
        bool valid = token < place.tokens;
        float dt = step_size_of(s, head, raw, valid ? gap_of(b, place.first_row + token) : 1.0f), decay = valid ? exp_of(dt * head.a) : 1.0f;
        u32 slot = lot % LOTS;
        room.dt[slot][lane] = dt;
        room.decay[slot * LOT + lane] = decay;
        if (slot == 0 && lane < TILE) room.decay[LOTS * LOT + lane] = decay;
    };
    float raw = load_dt(0), raw_next = load_dt(1);
    copy_tile(0);
    copy_tile(1);
    room.decay[(LOTS - 1) * LOT + lane] = 1.0f; // Nothing comes before the first lot.
    prepare_dt(0, raw);
    prepare_dt(1, raw_next);
    raw = load_dt(2);
    __syncthreads();
    for (i32 tile = 0; tile < place.tiles; tile++) {
        copies_wait<1>();
        __syncthreads();
        copy_tile(tile + 2);
        if (tile % (LOT / TILE) == 0) {
            i32 lot = tile / (LOT / TILE);
            prepare_dt(lot + 2, raw);
            raw = load_dt(lot + 3);
        }
    }
    copies_wait<0>();
    __syncthreads();
}

// Prepares inputs a lot ahead, and finishes the lots that ended: one warp.
template <int STATES>
static __device__ __forceinline__ void serve_lots(SsdRoom<STATES>& room, const Batch& b, const SsdShape& s, const SsdPlace& place, const Head& head, u32 lane) {
    // Each of this lane's items is some channels of a token. A lot has as many tiles as it has items.
    const int ITEMS = WARPS, APART = LOT / ITEMS;
    static_assert(ITEMS == LOT / TILE, "an item each tile");
    const u32 row = lane / WARPS, column = lane % WARPS, p = (blockIdx.x * WARPS + column) * CHANNELS;
    float* const own = frame_of(b, place.first_row + row) + place.head * s.head_dim + p;
    auto token_of = [&](i32 lot, int k) { return lot * LOT + k * APART + (i32)row; };
    auto has = [&](i32 lot, int k) { return (u32)token_of(lot, k) < (u32)place.tokens && p < s.head_dim; };
    auto item_at = [&](i32 lot, int k) { return own + (i64)(lot * LOT + k * APART) * b.stride; };
    auto load = [&](i32 lot, int k) { return has(lot, k) ? *(const Few<CHANNELS>*)(item_at(lot, k) + s.x) : all_of<CHANNELS>(0.0f); };
    auto prepare = [&](i32 lot, int k, Few<CHANNELS> x) {
        u32 slot = lot % LOTS, r = k * APART + row;
        float dt = room.dt[slot][r];
#pragma unroll
        for (int j = 0; j < CHANNELS; j++) x.at[j] = token_of(lot, k) < place.tokens ? dt * x.at[j] : -0.0f;
        room.dx[column][slot * LOT + r] = x;
        if (slot == 0 && r < TILE) room.dx[column][LOTS * LOT + r] = x;
    };
    auto finish = [&](i32 lot, int k, const Few<CHANNELS>& x) {
        if (!has(lot, k)) return;
        Few<CHANNELS> y = room.out[lot % 2][k * APART + row][column];
#pragma unroll
        for (int j = 0; j < CHANNELS; j++) y.at[j] += head.d * x.at[j];
        *(Few<CHANNELS>*)(item_at(lot, k) + s.out) = y;
    };
    Few<CHANNELS> next[ITEMS], last[ITEMS];
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        last[k] = load(0, k), next[k] = load(1, k);
        room.dx[column][(LOTS - 1) * LOT + k * APART + row] = all_of<CHANNELS>(-0.0f); // Nothing comes before the first lot.
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < ITEMS; k++) prepare(0, k, last[k]);
    const i32 lots = (place.tokens + LOT - 1) / LOT;
    for (i32 lot = 0; lot <= lots; lot++) {
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            if (lot * ITEMS + k >= place.tiles) break;
            __syncthreads();
            if (lot >= 2) finish(lot - 2, k, last[k]);
            last[k] = load(lot - 1, k);
            prepare(lot + 1, k, next[k]);
            next[k] = load(lot + 2, k);
        }
    }
    __syncthreads();
    // The last lot ended with the last tile; of the one before, what the last tiles left.
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        if (lots * ITEMS + k < place.tiles) {
            finish(lots - 1, k, last[k]);
        } else {
            if (lots >= 2) finish(lots - 2, k, last[k]);
            finish(lots - 1, k, load(lots - 1, k));
        }
    }
}

// Grid (ceil(head_dim / (CHANNELS * WARPS)), heads * streams), block THREADS, shared memory sizeof(SsdRoom). d_state is at most 32 * STATES, and a
// multiple of 4.
template <int STATES, bool IS_HALF>
static __device__ __forceinline__ void ssd_prefill(const Batch& b, const SsdShape& s) {
    extern __shared__ __align__(16) unsigned char shared[];
    SsdRoom<STATES>& room = *(SsdRoom<STATES>*)shared;
    SsdPlace place;
    place.head = blockIdx.y % s.heads, place.stream = blockIdx.y / s.heads, place.group = place.head / (s.heads / s.groups);
    place.first_row = place.stream * b.tokens, place.tokens = b.tokens, place.tiles = (place.tokens + LOT + TILE - 1) / TILE;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (b.gate) wait_for_previous();

    if (warp < WARPS) {
        // The state: of channels p on, rows n on.
        u8* const state = state_of(b, place.stream) + s.slot;
        const u32 p = (blockIdx.x * WARPS + warp) * CHANNELS, n = lane * STATES;
        auto cell_of = [&](int i) { return ((u64)place.head * s.d_state + n + i) * s.head_dim + p; };
        Few<CHANNELS> h[STATES];
#pragma unroll
        for (int i = 0; i < STATES; i++)
            h[i] = p < s.head_dim && n + i < s.d_state ? read_few<CHANNELS>(state, cell_of(i), IS_HALF) : all_of<CHANNELS>(0.0f);
        wait_for_previous();
        if (is_shut(b)) return;
        __syncthreads();
        walk_tiles<STATES, IS_HALF>(room, place.tiles, lane, warp, h);
        let_next_start();
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            if (p < s.head_dim && n + i < s.d_state) write_few(state, cell_of(i), IS_HALF, h[i]);
        }
        return;
    }
    const Head head = head_of(s, place.head);
    wait_for_previous();
    if (is_shut(b)) return;
    if (warp == WARPS) {
        serve_tiles<STATES>(room, b, s, place, head, lane);
    } else {
        serve_lots<STATES>(room, b, s, place, head, lane);
    }
    let_next_start();
}

// exact_ssd_step_<d_state up to>
#define SSD_STEP(NAME, STATES) \
    extern "C" __global__ void __launch_bounds__(ACROSS / 4 * ALONG) NAME(Batch b, SsdShape s) { ssd_step<(STATES + ALONG - 1) / ALONG>(b, s); }

SSD_STEP(exact_ssd_step_64, 64)
SSD_STEP(exact_ssd_step_128, 128)
SSD_STEP(exact_ssd_step_256, 256)

// exact_ssd_prefill_<d_state up to>_<state>
#define SSD_PREFILL(NAME, STATES, IS_HALF) \
    extern "C" __global__ void __launch_bounds__(THREADS, STATES > 4 ? 2 : 3) NAME(Batch b, SsdShape s) { ssd_prefill<STATES, IS_HALF>(b, s); }

SSD_PREFILL(exact_ssd_prefill_64_f32, 2, false)
SSD_PREFILL(exact_ssd_prefill_64_f16, 2, true)
SSD_PREFILL(exact_ssd_prefill_128_f32, 4, false)
SSD_PREFILL(exact_ssd_prefill_128_f16, 4, true)
SSD_PREFILL(exact_ssd_prefill_256_f32, 8, false)
SSD_PREFILL(exact_ssd_prefill_256_f16, 8, true)
