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
// Warps of a block: at most so many walk; those that prepare channels, prepare b and c, finish.
#define MOST_WALKERS 10
#define PREPARE 4
#define SHARED 2
#define FINISH 4

// What differs between kernels: STATES numbers of a state a lane, LANES lanes a channel, TILE tokens prepared together, of which walkers load
// and prepare STAGE at a time. Channels and states are prepared and finished in pieces, four of a token.
template <int STATES_, int LANES_, int TILE_, int STAGE_>
struct Plan {
    static const int STATES = STATES_, LANES = LANES_, TILE = TILE_, STAGE = STAGE_;
    static const int D_STATE = STATES * LANES, ACROSS = 32 / LANES, FOURS = (MOST_WALKERS * ACROSS + 3) / 4;
    static const int PIECES = (TILE * FOURS + 32 * PREPARE - 1) / (32 * PREPARE);  // of a thread that prepares or finishes channels, at most
    static const int SHARED_PIECES = TILE * D_STATE / 4 / (32 * SHARED);
    static const int THREADS = 32 * (MOST_WALKERS + PREPARE + SHARED + FINISH);
    // Numbers from one channel's tokens to the next, and from four channels' to the next: neighbouring ones lie in other banks.
    static const int ROW = TILE + 4, FOUR = 4 * ROW + 4;
    static const int APART = 4 * (FOURS | 1);  // numbers from one token's sums to the next
};

// What a block shares.
template <class P>
struct __align__(16) Room {
    float step[2][P::FOURS * P::FOUR];        // dt of two tiles: (channels in fours, 4, TILE)
    float input[2][P::FOURS * P::FOUR];       // dt * x
    float bc[2][P::TILE][2 * P::D_STATE];     // b and c of each lane's states: (LANES, 2, STATES)
    float sum[3][P::TILE * P::APART];         // sums over n of three tiles: (TILE, channels)
};

// Four neighbouring numbers as they lie in memory, in registers.
template <class T>
struct Four;
template <>
struct __align__(16) Four<float> {
    float4 v;
    __device__ __forceinline__ void get(float (&to)[4]) const { to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w; }
    __device__ __forceinline__ void set(const float (&from)[4]) { v = make_float4(from[0], from[1], from[2], from[3]); }
};
template <>
struct __align__(8) Four<bf16> {
    uint2 v;
    __device__ __forceinline__ void get(float (&to)[4]) const {
        to[0] = low_bf16(v.x), to[1] = high_bf16(v.x), to[2] = low_bf16(v.y), to[3] = high_bf16(v.y);
    }
    __device__ __forceinline__ void set(const float (&from)[4]) { v = make_uint2(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3])); }
};

// The first `count` of four numbers, and `rest` for what is missing. If IN_FOURS, all or none are there, in one word.
template <bool IN_FOURS, class T>
static __device__ __forceinline__ void fetch(Four<T>& to, const T* from, i32 count, float rest) {
    if (IN_FOURS && count > 0) {
        to = *(const Four<T>*)from;
    } else {
        float numbers[4];
#pragma unroll
        for (i32 k = 0; k < 4; k++) numbers[k] = !IN_FOURS && k < count ? to_f32(from[k]) : rest;
        to.set(numbers);
    }
}
template <class T>
static __device__ __forceinline__ bool in_fours(const T* at, u32 stride, u32 count) {
    return ((u64)at | stride * sizeof(T)) % sizeof(Four<T>) == 0 && count % 4 == 0;
}
static __device__ __forceinline__ void load_four(const float* from, float (&to)[4]) { ((const Four<float>*)from)->get(to); }

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
    Room<P>& room;
    u32 first, channels;  // its channels
    u32 tiles;

    // Waits for all warps. Walkers are in `tile` when they meet those who have prepared the one behind it: once before the first tile, once
    // in each, once behind the last.
    __device__ __forceinline__ void meet() const { __syncthreads(); }

    // A walker. Eight lanes of a channel are those that differ in bits 4, 3 and 1: lanes that differ in bit 0 read the same b and c, in bit 1
    // the same dt, and such reads are one.
    __device__ __forceinline__ void walk(u32 warp) const {
        const int STATES = P::STATES, STAGE = P::STAGE, STAGES = P::TILE / STAGE;
        u32 lane = threadIdx.x % 32;
        const u32 part = P::LANES == 8 ? lane >> 3 << 1 | (lane >> 1 & 1) : lane / P::ACROSS;
        const u32 channel = P::ACROSS * warp + (P::LANES == 8 ? lane >> 1 & 2 | lane & 1 : lane % P::ACROSS);
        const u32 token = P::LANES == 8 ? part : lane / 4;  // of eight, whose sum it gets
        const bool gives = part % (P::LANES / 8) == 0;
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
        // Where a tile's operands and sums are. (Kept in registers: the compiler would compute them again and again.)
        u32 own = channel / 4 * P::FOUR + channel % 4 * P::ROW, shared = part * 2 * STATES, out = token * P::APART + channel;
        asm volatile("mov.u32 %0, %0; mov.u32 %1, %1; mov.u32 %2, %2; mov.u32 %3, %3;" : "+r"(own), "+r"(shared), "+r"(out), "+r"(lane));
        auto steps_of = [&](u32 tile) { return room.step[tile % 2] + own; };
        auto bc_of = [&](u32 tile) { return room.bc[tile % 2][0] + shared; };
        auto load = [&](const float* steps, const float* bc, int stage) {
            Loaded it;
            const float *step = steps + stage * STAGE, *input = step + 2 * P::FOURS * P::FOUR;
            bc += stage * STAGE * 2 * P::D_STATE;
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
        Ready now = make_ready(load(steps_of(0), bc_of(0), 0));
        float sum[STEPS], last[STEPS] = {};
        float* give_to = room.sum[2] + channel;  // nothing, before the first tile
        auto give = [&]() {
            exchange<16, 4>(last, lane);
            exchange<8, 2>(last, lane);
            exchange<P::LANES == 8 ? 2 : 4, 1>(last, lane);
            if (P::LANES > 8) last[0] += __shfl_xor_sync(FULL, last[0], 2);
            if (P::LANES > 16) last[0] += __shfl_xor_sync(FULL, last[0], 1);
            if (gives) *give_to = last[0];
        };
        for (u32 tile = 0; tile < tiles; tile++) {
            const float *steps = steps_of(tile), *bc = bc_of(tile);
            float* sums = room.sum[tile % 3] + out;
#pragma unroll
            for (int stage = 0; stage < STAGES; stage++) {
                if (stage == STAGES - 1) meet();  // what is loaded next is the next tile's
                const Loaded ahead = stage + 1 < STAGES ? load(steps, bc, stage + 1) : load(steps_of(tile + 1), bc_of(tile + 1), 0);
                const int at = stage * STAGE % STEPS;
                // The sums of eight tokens meet while the next are walked.
                if (at == 0) {
                    give();
                    give_to = sums + stage * STAGE * P::APART;
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
                now = make_ready(ahead);
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

    // This thread's pieces of each tile of channels: four of a token.
    struct Piece {
        u32 token, channel;
        i32 count;  // 4, or fewer where channels end
    };
    __device__ __forceinline__ u32 fours() const { return (channels + 3) / 4; }
    __device__ __forceinline__ bool is_one(u32 threads) const { return P::TILE * fours() <= threads; }  // whether a piece for each is enough
    __device__ __forceinline__ Piece piece(u32 at) const {
        const u32 token = at / fours(), channel = 4 * (at % fours());
        if (token >= P::TILE) return {0, 0, 0};
        return {token, channel, (i32)(channels - channel)};
    }

    // Turns dt and x into what walkers read.
    template <bool IN_FOURS, int PIECES>
    __device__ __forceinline__ void prepare(const T* dt, const T* x, u32 thread) const {
        const float* gaps = p.gaps ? p.gaps + (u64)blockIdx.z * p.tokens : (const float*)0;
        Piece piece[PIECES];
        const T *dt_at[PIECES], *x_at[PIECES];
        float bias[PIECES][4];
        Four<T> dts[PIECES], xs[PIECES];
#pragma unroll
        for (int k = 0; k < PIECES; k++) {
            piece[k] = this->piece(thread + k * 32 * PREPARE);
            dt_at[k] = dt + (u64)piece[k].token * p.dt_stride + piece[k].channel, x_at[k] = x + (u64)piece[k].token * p.x_stride + piece[k].channel;
#pragma unroll
            for (i32 j = 0; j < 4; j++) bias[k][j] = j < piece[k].count ? p.dt_bias[first + piece[k].channel + j] : 0.0f;
        }
        auto load = [&](u32 tile) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                const i32 there = tile * P::TILE + piece[k].token < p.tokens ? piece[k].count : 0;
                fetch<IN_FOURS>(dts[k], dt_at[k], there, -INFINITE);  // behind the last token nothing decays
                fetch<IN_FOURS>(xs[k], x_at[k], there, 0.0f);         // and nothing enters
                dt_at[k] += (u64)P::TILE * p.dt_stride, x_at[k] += (u64)P::TILE * p.x_stride;
            }
        };
        load(0);
        for (u32 tile = 0; tile <= tiles; tile++) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                float step[4], input[4];
                dts[k].get(step), xs[k].get(input);
#pragma unroll
                for (int j = 0; j < 4; j++) step[j] = softplus_of(step[j] + bias[k][j]);
                if (gaps) {
                    const u32 t = tile * P::TILE + piece[k].token;
                    const float gap = t < p.tokens ? gaps[t] : 0.0f;
#pragma unroll
                    for (int j = 0; j < 4; j++) step[j] *= gap;
                }
                const u32 at = piece[k].channel / 4 * P::FOUR + piece[k].token;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (piece[k].count > 0) room.step[tile % 2][at + j * P::ROW] = step[j], room.input[tile % 2][at + j * P::ROW] = step[j] * input[j];
                }
            }
            load(tile + 1);
            meet();
        }
        meet();
    }

    // Lays b and c side by side.
    template <bool IN_FOURS>
    __device__ __forceinline__ void prepare_shared(const T* b, const T* c, u32 thread) const {
        const int PIECES = P::SHARED_PIECES;
        const u32 n = 4 * thread % P::D_STATE, token = 4 * thread / P::D_STATE, APART = 4 * 32 * SHARED / P::D_STATE;
        Four<T> bs[PIECES], cs[PIECES];
        b += (u64)token * p.b_stride + n, c += (u64)token * p.c_stride + n;
        auto load = [&](u32 tile) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                const i32 there = tile * P::TILE + token + k * APART < p.tokens ? (i32)p.d_state - (i32)n : 0;
                fetch<IN_FOURS>(bs[k], b + (u64)k * APART * p.b_stride, there, 0.0f);
                fetch<IN_FOURS>(cs[k], c + (u64)k * APART * p.c_stride, there, 0.0f);
            }
            b += (u64)P::TILE * p.b_stride, c += (u64)P::TILE * p.c_stride;
        };
        load(0);
        for (u32 tile = 0; tile <= tiles; tile++) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                float wide_b[4], wide_c[4];
                bs[k].get(wide_b), cs[k].get(wide_c);
#pragma unroll
                for (int j = 0; j < 4; j += 2) {
                    float* to = room.bc[tile % 2][token + k * APART] + (n + j) / P::STATES * 2 * P::STATES + (n + j) % P::STATES;
                    *(float2*)to = make_float2(wide_b[j], wide_b[j + 1]);
                    *(float2*)(to + P::STATES) = make_float2(wide_c[j], wide_c[j + 1]);
                }
            }
            load(tile + 1);
            meet();
        }
        meet();
    }

    // The skip, the gate and the way out. Without a gate x stands for it and goes unused.
    template <bool IN_FOURS, int PIECES>
    __device__ __forceinline__ void finish(const T* x, const T* z, u32 z_stride, T* y, u32 thread) const {
        const bool has_z = p.z;
        Piece piece[PIECES];
        const T *x_at[PIECES], *z_at[PIECES];
        T* y_at[PIECES];
        float skip[PIECES][4];
        Four<T> xs[PIECES], zs[PIECES];
#pragma unroll
        for (int k = 0; k < PIECES; k++) {
            piece[k] = this->piece(thread + k * 32 * FINISH);
            const u64 token = piece[k].token;
            x_at[k] = x + token * p.x_stride + piece[k].channel, z_at[k] = z + token * z_stride + piece[k].channel, y_at[k] = y + token * p.y_stride + piece[k].channel;
#pragma unroll
            for (i32 j = 0; j < 4; j++) skip[k][j] = j < piece[k].count ? p.d[first + piece[k].channel + j] : 0.0f;
        }
        auto load = [&](u32 tile) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                const i32 there = tile * P::TILE + piece[k].token < p.tokens ? piece[k].count : 0;
                fetch<IN_FOURS>(xs[k], x_at[k], there, 0.0f);
                fetch<IN_FOURS>(zs[k], z_at[k], there, 0.0f);
                x_at[k] += (u64)P::TILE * p.x_stride, z_at[k] += (u64)P::TILE * z_stride;
            }
        };
        load(0);
        meet(), meet(), meet();  // Walkers are in the second tile, or at the end: the sums of the first are complete.
        for (u32 tile = 0; tile < tiles; tile++) {
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                float sum[4], entered[4], gate[4];
                load_four(room.sum[tile % 3] + piece[k].token * P::APART + piece[k].channel, sum);
                xs[k].get(entered), zs[k].get(gate);
#pragma unroll
                for (int j = 0; j < 4; j++) sum[j] += skip[k][j] * entered[j];
                if (has_z) {
#pragma unroll
                    for (int j = 0; j < 4; j++) sum[j] *= silu(gate[j]);
                }
                const i32 there = tile * P::TILE + piece[k].token < p.tokens ? piece[k].count : 0;
                if (IN_FOURS) {
                    Four<T> four;
                    four.set(sum);
                    if (there > 0) *(Four<T>*)y_at[k] = four;
                } else {
#pragma unroll
                    for (i32 j = 0; j < 4; j++) {
                        if (j < there) from_f32(sum[j], y_at[k][j]);
                    }
                }
                y_at[k] += (u64)P::TILE * p.y_stride;
            }
            load(tile + 1);
            if (tile + 2 <= tiles) meet();
        }
    }

    // The servant of a number. A warp works in that part of a multiprocessor which its number in the block gives, modulo 4; the order of roles
    // leaves the most to do where there are fewer walkers.
    __device__ __forceinline__ void serve(u32 servant) const {
        const u64 row = (u64)blockIdx.z * p.tokens;
        const T *x = p.x + row * p.x_stride + first, *dt = p.dt + row * p.dt_stride + first;
        const u32 lane = threadIdx.x % 32, odd = servant % 2;
        if (servant / 2 == 3) {
            const T *b = p.b + row * p.b_stride + blockIdx.y * p.d_state, *c = p.c + row * p.c_stride + blockIdx.y * p.d_state;
            const u32 thread = 32 * odd + lane;
            if (in_fours(b, p.b_stride, p.d_state) && in_fours(c, p.c_stride, 0)) {
                prepare_shared<true>(b, c, thread);
            } else {
                prepare_shared<false>(b, c, thread);
            }
        } else if (servant / 2 == 0 || servant / 2 == 2) {
            const u32 thread = 32 * (odd + servant / 4 * 2) + lane;
            if (!in_fours(x, p.x_stride, channels) || !in_fours(dt, p.dt_stride, 0)) {
                prepare<false, P::PIECES>(dt, x, thread);
            } else if (is_one(32 * PREPARE)) {
                prepare<true, 1>(dt, x, thread);
            } else {
                prepare<true, P::PIECES>(dt, x, thread);
            }
        } else {
            const u32 thread = 32 * (odd + servant / 8 * 2) + lane;
            const T* z = p.z ? p.z + row * p.z_stride + first : x;
            const u32 z_stride = p.z ? p.z_stride : p.x_stride;
            T* y = p.y + row * p.y_stride + first;
            if (!in_fours(x, p.x_stride, channels) || !in_fours(z, z_stride, 0) || !in_fours(y, p.y_stride, 0)) {
                finish<false, P::PIECES>(x, z, z_stride, y, thread);
            } else if (is_one(32 * FINISH)) {
                finish<true, 1>(x, z, z_stride, y, thread);
            } else {
                finish<true, P::PIECES>(x, z, z_stride, y, thread);
            }
        }
    }
};

// Grid (blocks of some channels in a head, heads, streams). A block has `walkers` warps that walk, then ten that serve.
template <class T, class P>
static __device__ __forceinline__ void scan_prefill(const Scan<T>& p) {
    __shared__ Room<P> room;
    const u32 each = p.walkers * P::ACROSS, per_head = p.d_inner / p.heads, first = blockIdx.x * each;
    const Block<T, P> block = {p, room, blockIdx.y * per_head + first, min(each, per_head - first), (p.tokens + P::TILE - 1) / P::TILE};
    const u32 warp = threadIdx.x / 32;
    if (warp < p.walkers) {
        block.walk(warp);
    } else {
        block.serve(warp - p.walkers);
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
