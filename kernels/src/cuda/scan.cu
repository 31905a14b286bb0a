// The selective scan of Mamba (equation 2 with the discretisation of its section 3.3), sums over n in an order of their own:
//
//   h[n][e] <- exp(dt[e] * a[n][e]) * h[n][e] + dt[e] * x[e] * b[n],   dt = softplus(dt + dt_bias) * gap
//   y[e] = (sum_n c[n] * h[n][e] + d[e] * x[e]) * silu(z[e])
//
// What bounds it is the exponential of every (channel, state, token): 16 of them a cycle and multiprocessor. So none is computed twice:
// time is walked in order, and what runs side by side are channels and parts of their state. LANES threads of a warp share a channel, each
// keeps STATES numbers of its state in registers; the sums of eight tokens meet in a butterfly that leaves each lane another token's.
//
// A block has as many channels as give each multiprocessor one block, and two kinds of warps. Walkers do the above. Servants turn a tile
// of tokens into what walkers read (dt, dt * x, b beside c), and give the sums of the tile before the last their skip and gate. Each of
// them always does the same, and has loaded the next tile's operands before it waits: the latency of neither kind is seen.
#include "recurrence.cuh"

// The operands of a scan. Rows are tokens; a stream's tokens follow each other. Strides are in numbers. targets/cuda/src/launch/scan.rs has
// the same struct.
template <class T>
struct Scan {
    const T *x, *dt;           // (streams * tokens, d_inner)
    const T *b, *c;            // (streams * tokens, heads, d_state)
    const T* z;                // (streams * tokens, d_inner) or null
    T* y;                      // (streams * tokens, d_inner)
    const float* a;            // (d_state, d_inner), negative
    const float *d, *dt_bias;  // (d_inner)
    const float* gaps;         // (streams * tokens), or null for 1
    u8* state;                 // (streams, d_state, d_inner), streams `state_stride` bytes apart
    u64 state_stride;
    u32 x_stride, dt_stride, b_stride, c_stride, z_stride, y_stride;
    u32 state_is_half, tokens, d_inner, d_state, heads;
    u32 walkers;  // warps of a block that walk
};

// Tokens whose sums meet together.
#define STEPS 8
// Warps of a block: at most so many walk; those that prepare dt and x, and those that finish.
#define MOST_WALKERS 11
#define PREPARE 4
#define FINISH 4

// What differs between kernels: STATES numbers of a state a lane, LANES lanes a channel, TILE tokens prepared together, of which walkers load
// and prepare STAGE at a time.
template <int STATES_, int LANES_, int TILE_, int STAGE_>
struct Plan {
    static const int STATES = STATES_, LANES = LANES_, TILE = TILE_, STAGE = STAGE_;
    static const int D_STATE = STATES * LANES, ACROSS = 32 / LANES;
    static const int PIECES = (TILE * (MOST_WALKERS * ACROSS + 3) / 4 + 32 * PREPARE - 1) / (32 * PREPARE);  // of a preparing or finishing thread
    static const int SHARED = TILE * D_STATE / 4 / 32 / 4;                                                    // warps that prepare b and c, four pieces a thread
    static const int SERVANTS = PREPARE + FINISH + SHARED, THREADS = 32 * (MOST_WALKERS + SERVANTS);
};

// What a block shares, in floats. Channels come in fours.
template <class P>
struct Room {
    static const u32 ROW = P::TILE + 4;               // a channel's tokens
    static const u32 FOUR = 4 * ROW + 12;             // four channels' tokens, so that neighbouring fours lie in other banks
    static const u32 SPAN = P::TILE * 2 * P::D_STATE;  // b beside c of a tile
    float* start;
    u32 fours;

    // dt and dt * x of a channel: (2 tiles, fours, 4, ROW) each.
    __device__ __forceinline__ float* step(u32 tile, u32 channel) const { return start + (tile % 2 * fours + channel / 4) * FOUR + channel % 4 * ROW; }
    __device__ __forceinline__ float* input(u32 tile, u32 channel) const { return step(tile, channel) + 2 * fours * FOUR; }
    // b and c of each lane's states: (2 tiles, TILE, LANES, 2, STATES).
    __device__ __forceinline__ float* bc(u32 tile, u32 token) const { return start + 4 * fours * FOUR + tile % 2 * SPAN + token * 2 * P::D_STATE; }
    // Sums over n: (3 tiles, TILE, channels), an odd number of fours apart.
    __device__ __forceinline__ float* sum(u32 tile, u32 token) const {
        return start + 4 * fours * FOUR + 2 * SPAN + (tile % 3 * P::TILE + token) * apart();
    }
    __device__ __forceinline__ u32 apart() const { return 4 * (fours | 1); }

    static constexpr __host__ __device__ u32 bytes(u32 fours) { return 4 * (4 * fours * FOUR + 2 * SPAN + 3 * P::TILE * 4 * (fours | 1)); }
};

// Four neighbouring numbers, wide.
static __device__ __forceinline__ void load_four(const float* from, float (&to)[4]) {
    float4 v = *(const float4*)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
#ifdef BROOKLET_BF16
static __device__ __forceinline__ void load_four(const bf16* from, float (&to)[4]) {
    uint2 v = *(const uint2*)from;
    to[0] = low_bf16(v.x), to[1] = high_bf16(v.x), to[2] = low_bf16(v.y), to[3] = high_bf16(v.y);
}
static __device__ __forceinline__ void store_four(const float (&from)[4], bf16* to) {
    *(uint2*)to = make_uint2(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]));
}
#endif
static __device__ __forceinline__ void store_four(const float (&from)[4], float* to) { *(float4*)to = make_float4(from[0], from[1], from[2], from[3]); }

// The first `count` of four numbers, the rest 0. If `aligned`, four lie in one word.
template <class T>
static __device__ __forceinline__ void load_some(const T* from, i32 count, bool aligned, float (&to)[4]) {
    if (aligned && count >= 4) {
        load_four(from, to);
    } else {
#pragma unroll
        for (i32 k = 0; k < 4; k++) to[k] = k < count ? to_f32(from[k]) : 0.0f;
    }
}
template <class T>
static __device__ __forceinline__ bool in_fours(const T* at, u32 stride) {
    return ((u64)at | stride * sizeof(T)) % (4 * sizeof(T)) == 0;
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|), and log1p(e) / e is a polynomial to 3e-8 for e of 0 to 1: small step sizes are as exact as large ones.
static __device__ __forceinline__ float softplus_of(float x) {
    float e = exp2_approx(-LOG2_E * fabsf(x));
    float p = 0.005232676398f;
    p = p * e - 0.029505165294f;
    p = p * e + 0.078225828707f;
    p = p * e - 0.136632353067f;
    p = p * e + 0.191060021520f;
    p = p * e - 0.248429805040f;
    p = p * e + 0.333190977573f;
    p = p * e - 0.499994933605f;
    p = p * e + 0.999999940395f;
    return p * e + fmaxf(x, 0.0f);
}

// Adds `p` over pairs of lanes `APART` apart; the lane whose number has that bit keeps the second half.
template <int APART, int COUNT>
static __device__ __forceinline__ void exchange(float (&p)[STEPS], u32 lane) {
    const bool upper = lane & APART;
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        float sent = upper ? p[k] : p[k + COUNT], kept = upper ? p[k + COUNT] : p[k];
        p[k] = kept + __shfl_xor_sync(FULL, sent, APART);
    }
}

// What a block works on.
template <class T, class P>
struct Block {
    const Scan<T>& p;
    Room<P> room;
    u32 first, channels;  // its channels
    u32 tiles;

    // Waits for all warps. Walkers are in `tile` when they meet those who have prepared the one behind it: once before the first tile, once
    // in each, once behind the last.
    __device__ __forceinline__ void meet() const { __syncthreads(); }

    // A walker. Lanes of a channel are those that differ in bits 4, 3 and 1; or all. (Lanes that differ in bit 0 read the same b and c, in
    // bit 1 the same dt: such reads are one.)
    __device__ __forceinline__ void walk(u32 warp) const {
        const int STATES = P::STATES, STAGE = P::STAGE, STAGES = P::TILE / STAGE;
        const u32 lane = threadIdx.x % 32;
        const u32 part = P::LANES == 32 ? lane : lane >> 3 << 1 | (lane >> 1 & 1);
        const u32 channel = P::LANES == 32 ? warp : 4 * warp + (lane >> 1 & 2 | lane & 1);
        const u32 token = P::LANES == 32 ? lane >> 2 : part;  // of eight, whose sum it gets
        const bool gives = P::LANES == 8 || lane % 4 == 0;
        u8* const state = p.state + blockIdx.z * p.state_stride;
        float a[STATES], h[STATES];
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const u32 n = part * STATES + i;
            const bool mine = channel < channels && n < p.d_state;
            const u64 at = (u64)n * p.d_inner + first + channel;
            a[i] = mine ? p.a[at] * LOG2_E : 0.0f;
            h[i] = mine ? load_state(state, p.state_is_half, at) : 0.0f;
        }

        // A stage's operands as they are loaded, and what of them depends on no state.
        struct Loaded {
            float step[STAGE], input[STAGE], bc[STAGE][2 * STATES];
        };
        struct Ready {
            float decay[STAGE][STATES], input[STAGE][STATES], c[STAGE][STATES];
        };
        auto load = [&](u32 tile, int stage) {
            Loaded it;
            const float *step = room.step(tile, channel) + stage * STAGE, *input = room.input(tile, channel) + stage * STAGE;
            const float* bc = room.bc(tile, stage * STAGE) + part * 2 * STATES;
            if constexpr (STAGE == 4) {
                load_four(step, *(float(*)[4])it.step);
                load_four(input, *(float(*)[4])it.input);
            } else {
#pragma unroll
                for (int k = 0; k < STAGE; k++) it.step[k] = step[k], it.input[k] = input[k];
            }
#pragma unroll
            for (int k = 0; k < STAGE; k++) {
#pragma unroll
                for (int i = 0; i < 2 * STATES; i += 4) load_four(bc + k * 2 * P::D_STATE + i, *(float(*)[4])(it.bc[k] + i));
            }
            return it;
        };
        auto make_ready = [&](const Loaded& from) {
            Ready it;
#pragma unroll
            for (int k = 0; k < STAGE; k++) {
#pragma unroll
                for (int i = 0; i < STATES; i++) {
                    it.decay[k][i] = exp2_approx(from.step[k] * a[i]);
                    it.input[k][i] = from.input[k] * from.bc[k][i];
                    it.c[k][i] = from.bc[k][STATES + i];
                }
            }
            return it;
        };

        meet();
        Ready now = make_ready(load(0, 0));
        Loaded ahead = load(0, 1);
        float sum[STEPS], last[STEPS] = {};
        float* give_to = room.sum(2, P::TILE - STEPS);  // nothing, before the first tile
        auto give = [&]() {
            exchange<16, 4>(last, lane);
            exchange<8, 2>(last, lane);
            exchange<P::LANES == 8 ? 2 : 4, 1>(last, lane);
            if (P::LANES == 32) {
                last[0] += __shfl_xor_sync(FULL, last[0], 2);
                last[0] += __shfl_xor_sync(FULL, last[0], 1);
            }
            if (gives) give_to[token * room.apart() + channel] = last[0];
        };
        for (u32 tile = 0; tile < tiles; tile++) {
#pragma unroll
            for (int stage = 0; stage < STAGES; stage++) {
                if (stage == STAGES - 2) meet();
                const Loaded later = stage + 2 < STAGES ? load(tile, stage + 2) : load(tile + 1, stage + 2 - STAGES);
                const Ready next = make_ready(ahead);
                const int at = stage * STAGE % STEPS;
                // The sums of eight tokens meet while the next are walked.
                if (at == 0) {
                    give();
                    give_to = room.sum(tile, stage * STAGE);
                }
#pragma unroll
                for (int k = 0; k < STAGE; k++) {
#pragma unroll
                    for (int i = 0; i < STATES; i++) {
                        h[i] = now.decay[k][i] * h[i] + now.input[k][i];
                        sum[at + k] = i == 0 ? now.c[k][0] * h[0] : sum[at + k] + now.c[k][i] * h[i];
                    }
                }
                if (at + STAGE == STEPS) {
#pragma unroll
                    for (int k = 0; k < STEPS; k++) last[k] = sum[k];
                }
                now = next, ahead = later;
            }
        }
        give();
        meet();
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const u32 n = part * STATES + i;
            if (channel < channels && n < p.d_state) store_state(state, p.state_is_half, (u64)n * p.d_inner + first + channel, h[i]);
        }
    }

    // Four channels of a token in a tile, if there are.
    struct Piece {
        u32 token, channel;
        i32 count;
    };
    __device__ __forceinline__ Piece piece(u32 thread, u32 k, u32 threads) const {
        const u32 at = thread + k * threads, token = at / room.fours, channel = 4 * (at % room.fours);
        return {token, channel, token < P::TILE ? (i32)channels - (i32)channel : 0};
    }

    // Turns dt and x into what walkers read.
    __device__ __forceinline__ void prepare(u32 thread) const {
        const int PIECES = P::PIECES;
        const u64 row = (u64)blockIdx.z * p.tokens;
        const T *x = p.x + row * p.x_stride + first, *dt = p.dt + row * p.dt_stride + first;
        const float* gaps = p.gaps ? p.gaps + row : (const float*)0;
        const bool aligned = in_fours(x, p.x_stride) && in_fours(dt, p.dt_stride);
        Piece pieces[PIECES];
        float bias[PIECES][4], steps[PIECES][4], inputs[PIECES][4];
        auto load = [&](u32 tile) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                const u32 t = tile * P::TILE + pieces[k].token;
                const i32 count = t < p.tokens ? pieces[k].count : 0;
                load_some(dt + (u64)t * p.dt_stride + pieces[k].channel, count, aligned, steps[k]);
                load_some(x + (u64)t * p.x_stride + pieces[k].channel, count, aligned, inputs[k]);
            }
        };
#pragma unroll
        for (int k = 0; k < PIECES; k++) {
            pieces[k] = piece(thread, k, 32 * PREPARE);
            load_some(p.dt_bias + first + pieces[k].channel, pieces[k].count, false, bias[k]);
        }
        load(0);
        for (u32 tile = 0; tile <= tiles; tile++) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                if (pieces[k].count <= 0) continue;
                const u32 t = tile * P::TILE + pieces[k].token;
                // Behind the last token nothing decays and nothing enters.
                const float gap = t < p.tokens ? (gaps ? gaps[t] : 1.0f) : 0.0f;
                float *to_step = room.step(tile, pieces[k].channel) + pieces[k].token, *to_input = room.input(tile, pieces[k].channel) + pieces[k].token;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float step = softplus_of(steps[k][j] + bias[k][j]) * gap;
                    to_step[j * Room<P>::ROW] = step;
                    to_input[j * Room<P>::ROW] = step * inputs[k][j];
                }
            }
            load(tile + 1);
            meet();
        }
        meet();
    }

    // Lays b and c side by side.
    __device__ __forceinline__ void prepare_shared(u32 thread) const {
        const int PIECES = 4, FOURS = P::D_STATE / 4;
        const u64 row = (u64)blockIdx.z * p.tokens;
        const T *b = p.b + row * p.b_stride + blockIdx.y * p.d_state, *c = p.c + row * p.c_stride + blockIdx.y * p.d_state;
        const bool aligned = in_fours(b, p.b_stride) && in_fours(c, p.c_stride);
        const u32 n = 4 * (thread % FOURS), token = thread / FOURS, APART = 32 * P::SHARED / FOURS;
        float bs[PIECES][4], cs[PIECES][4];
        auto load = [&](u32 tile) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                const u32 t = tile * P::TILE + token + k * APART;
                const i32 count = t < p.tokens ? (i32)p.d_state - (i32)n : 0;
                load_some(b + (u64)t * p.b_stride + n, count, aligned, bs[k]);
                load_some(c + (u64)t * p.c_stride + n, count, aligned, cs[k]);
            }
        };
        load(0);
        for (u32 tile = 0; tile <= tiles; tile++) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
#pragma unroll
                for (int j = 0; j < 4; j += 2) {
                    float* to = room.bc(tile, token + k * APART) + (n + j) / P::STATES * 2 * P::STATES + (n + j) % P::STATES;
                    *(float2*)to = make_float2(bs[k][j], bs[k][j + 1]);
                    *(float2*)(to + P::STATES) = make_float2(cs[k][j], cs[k][j + 1]);
                }
            }
            load(tile + 1);
            meet();
        }
        meet();
    }

    // The skip, the gate and the way out.
    __device__ __forceinline__ void finish(u32 thread) const {
        const int PIECES = P::PIECES;
        const u64 row = (u64)blockIdx.z * p.tokens;
        // Without a gate x stands for it and goes unused.
        const T *x = p.x + row * p.x_stride + first, *z = p.z ? p.z + row * p.z_stride + first : x;
        const u32 z_stride = p.z ? p.z_stride : p.x_stride;
        T* y = p.y + row * p.y_stride + first;
        const bool aligned = in_fours(x, p.x_stride) && in_fours(z, z_stride), y_aligned = in_fours(y, p.y_stride);
        Piece pieces[PIECES];
        float skip[PIECES][4], xs[PIECES][4], zs[PIECES][4];
        auto load = [&](u32 tile) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                const u32 t = tile * P::TILE + pieces[k].token;
                const i32 count = t < p.tokens ? pieces[k].count : 0;
                load_some(x + (u64)t * p.x_stride + pieces[k].channel, count, aligned, xs[k]);
                load_some(z + (u64)t * z_stride + pieces[k].channel, count, aligned, zs[k]);
            }
        };
#pragma unroll
        for (int k = 0; k < PIECES; k++) {
            pieces[k] = piece(thread, k, 32 * FINISH);
            load_some(p.d + first + pieces[k].channel, pieces[k].count, false, skip[k]);
        }
        load(0);
        meet();
        // Walkers are in `tile`, and may still give sums of the one before.
        for (u32 tile = 0; tile <= tiles + 1; tile++) {
            if (tile >= 2) {
#pragma unroll
                for (int k = 0; k < PIECES; k++) {
                    const u32 t = (tile - 2) * P::TILE + pieces[k].token;
                    if (pieces[k].count <= 0 || t >= p.tokens) continue;
                    float sum[4];
                    load_four(room.sum(tile - 2, pieces[k].token) + pieces[k].channel, sum);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        sum[j] += skip[k][j] * xs[k][j];
                        if (p.z) sum[j] *= silu(zs[k][j]);
                    }
                    T* to = y + (u64)t * p.y_stride + pieces[k].channel;
                    if (y_aligned && pieces[k].count >= 4) {
                        store_four(sum, to);
                    } else {
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            if (j < pieces[k].count) from_f32(sum[j], to[j]);
                        }
                    }
                }
                load(tile - 1);
            }
            if (tile <= tiles) meet();
        }
    }
};

// Grid (blocks of some channels in a head, heads, streams). A block has `walkers` warps that walk, then SERVANTS that serve.
template <class T, class P>
static __device__ __forceinline__ void scan_prefill(const Scan<T>& p) {
    extern __shared__ __align__(16) float scan_room[];
    const u32 each = p.walkers * P::ACROSS, per_head = p.d_inner / p.heads, first = blockIdx.x * each;
    const Block<T, P> block = {p, {scan_room, (each + 3) / 4}, blockIdx.y * per_head + first, min(each, per_head - first), (p.tokens + P::TILE - 1) / P::TILE};
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp < p.walkers) {
        block.walk(warp);
        return;
    }
    // A warp works in that part of a multiprocessor which its number gives, modulo 4. Those who prepare, with more to do than those who finish,
    // come first, where there are fewer walkers.
    const u32 servant = warp - p.walkers, pair = 32 * (servant % 2 + servant / 4 * 2) + lane;
    if (servant >= PREPARE + FINISH) {
        block.prepare_shared(32 * (servant - PREPARE - FINISH) + lane);
    } else if (servant / 2 % 2 == 0) {
        block.prepare(pair);
    } else {
        block.finish(pair);
    }
}

// scan_prefill_<type>_<states of a lane>x<lanes>: d_state up to their product. The shapes of launches are in targets/cuda/src/launch/scan.rs.
typedef Plan<2, 8, 32, 4> Narrow;
typedef Plan<8, 8, 16, 1> Wide;
typedef Plan<8, 32, 8, 1> Widest;
#define SCAN_PREFILL(NAME, T, P) \
    extern "C" __global__ void __launch_bounds__(P::THREADS, 1) NAME(Scan<T> p) { scan_prefill<T, P>(p); }

SCAN_PREFILL(scan_prefill_f32_2x8, float, Narrow)
SCAN_PREFILL(scan_prefill_f32_8x8, float, Wide)
SCAN_PREFILL(scan_prefill_f32_8x32, float, Widest)
// The runtime's frames are f32. With bf16 operands the kernel compares with those of others: tests/peers/recurrences.cu.
#ifdef BROOKLET_BF16
SCAN_PREFILL(scan_prefill_bf16_2x8, bf16, Narrow)
#endif
