// The selective scan of Mamba (equation 2 with the discretisation of its section 3.3), sums over n in an order of their own:
//
//   h[n][e] <- exp(dt[e] * a[n][e]) * h[n][e] + dt[e] * x[e] * b[n],   dt = softplus(dt + dt_bias) * gap
//   y[e] = (sum_n c[n] * h[n][e] + d[e] * x[e]) * silu(z[e])
//
// What bounds it is the exponential of every (channel, state, token): 16 of them a cycle and multiprocessor. So none is computed twice:
// time is walked in order, and what runs side by side are channels and parts of their state. LANES threads of a warp share a channel, each
// keeps STATES numbers of its state in registers and leaves its part of the sum over n in shared memory.
//
// A block has as many channels as give each multiprocessor one block, and three kinds of warps. Walkers do the above. Servants turn a tile of
// tokens into what walkers read (dt, dt * x), and add up the parts of the sums of the tile before the last, with skip and gate; sharers lay b
// beside c. Both have loaded and worked out what the next tile brings before they wait for walkers.
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

// What differs between kernels: STATES numbers of a state a lane, LANES lanes a channel, TILE tokens prepared together, of which walkers load
// STAGE at a time; at most so many walkers, as many servants, and SHARERS. A servant's lane has four tokens of a channel, or SHARES lanes do.
template <int STATES_, int LANES_, int TILE_, int STAGE_, int MOST_WALKERS_, int SHARERS_>
struct Plan {
    static const int STATES = STATES_, LANES = LANES_, TILE = TILE_, STAGE = STAGE_, MOST_WALKERS = MOST_WALKERS_, SHARERS = SHARERS_;
    static const int D_STATE = STATES * LANES, ACROSS = 32 / LANES, SHARES = 32 / (ACROSS * TILE / 4), STAGES = TILE / STAGE;
    static const int PIECES = TILE * D_STATE / 4 / (32 * SHARERS);  // of a sharer's thread, four numbers each
    static const int THREADS = 32 * (2 * MOST_WALKERS + SHARERS);
    // What a block shares of each stage of two tiles, in numbers.
    static const int BC = STAGE * 2 * D_STATE;                                        // b and c of each lane's states: (STAGE, LANES, 2, STATES)
    static const int CHANNELS = MOST_WALKERS * ACROSS, STEPS = 2 * CHANNELS * STAGE;  // dt and dt * x: (2, CHANNELS, STAGE)
    static const int SUMS = 32 * STAGE + 8;  // of each walker: (32, STAGE); the next walker's lie in other banks
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

// A stage's numbers: one or four.
static __device__ __forceinline__ void load_some(const float* from, float (&to)[1]) { to[0] = *from; }
static __device__ __forceinline__ void load_some(const float* from, float (&to)[4]) { load_four(from, to); }
static __device__ __forceinline__ void store_some(const float (&from)[1], float* to) { *to = from[0]; }
static __device__ __forceinline__ void store_some(const float (&from)[4], float* to) { *(float4*)to = make_float4(from[0], from[1], from[2], from[3]); }

// What lies `row` rows on. (The compiler takes three instructions for what is one.)
template <class T>
static __device__ __forceinline__ T* row_of(T* first, u32 row, u32 stride) {
    u64 offset;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(offset) : "r"(row), "r"((u32)(stride * sizeof(T))));
    return (T*)((u8*)first + offset);
}

// Named barriers: a tile lies ready (two of them, for tiles in turn); a tile was walked.
#define READY 1
#define WALKED 3
static __device__ __forceinline__ void arrive(u32 barrier) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(blockDim.x) : "memory"); }
static __device__ __forceinline__ void await(u32 barrier) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(blockDim.x) : "memory"); }

// As in pipeline.cuh.
static __device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// What a block works on.
template <class T, class P>
struct Block {
    const Scan<T>& p;
    float* room;
    u32 stream, head;
    u32 first, channels;  // its channels
    u32 tiles;

    // Where a stage's operands and sums are; stages count around the ring.
    __device__ __forceinline__ float* bc_of(u32 stage) const { return room + stage * P::BC; }
    __device__ __forceinline__ float* steps_of(u32 stage) const { return room + 2 * P::STAGES * P::BC + stage * P::STEPS; }
    __device__ __forceinline__ float* sums_of(u32 stage) const { return room + 2 * P::STAGES * (P::BC + P::STEPS) + stage * p.walkers * P::SUMS; }

    // A walker's lane has a part of a channel's state; of eight lanes a channel, lanes that differ in bit 0 read the same b and c, in bit 1 the same
    // dt: such reads take half the time.
    static __device__ __forceinline__ u32 part_of(u32 lane) { return P::LANES == 8 ? lane >> 3 << 1 | (lane >> 1 & 1) : lane / P::ACROSS; }
    static __device__ __forceinline__ u32 channel_of(u32 lane) { return P::LANES == 8 ? lane >> 1 & 2 | lane & 1 : lane % P::ACROSS; }
    static __device__ __forceinline__ u32 lane_of(u32 part, u32 channel) {
        return P::LANES == 8 ? part >> 1 << 3 | (part & 1) << 1 | (channel & 2) << 1 | (channel & 1) : part * P::ACROSS + channel;
    }

    __device__ __forceinline__ void walk(u32 warp) const {
        const int STATES = P::STATES, STAGE = P::STAGE;
        const u32 lane = threadIdx.x % 32, part = part_of(lane), channel = P::ACROSS * warp + channel_of(lane);
        u8* const state = p.state + stream * p.state_stride;
        float a[STATES], h[STATES];
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const u32 n = part * STATES + i;
            const bool mine = channel < channels && n < p.d_state;
            const u64 at = (u64)n * p.d_inner + first + channel;
            a[i] = mine ? p.a[at] * LOG2_E : 0.0f;
        }
        wait_for_previous();
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const u32 n = part * STATES + i;
            const bool mine = channel < channels && n < p.d_state;
            h[i] = mine ? load_state(state, p.state_is_half, (u64)n * p.d_inner + first + channel) : 0.0f;
        }

        // A stage's operands as they are loaded, and what of them depends on no state.
        struct Loaded {
            float step[STAGE], input[STAGE], bc[STAGE][2 * STATES];
        };
        struct Ready {
            float decay[STAGE][STATES], input[STAGE][STATES], c[STAGE][STATES];
        };
        auto load = [&](const float* steps, const float* bc) {
            Loaded it;
            load_some(steps, it.step), load_some(steps + P::STEPS / 2, it.input);
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

        // A stage is walked while the next is made ready and the one after it is loaded. A whole tile is unrolled: this warp has few others beside
        // it to fill its waits.
        await(READY);
        const u32 own = STAGE * channel, shared = part * 2 * STATES;
        Ready now = make_ready(load(steps_of(0) + own, bc_of(0) + shared));
        Loaded ahead = load(steps_of(1) + own, bc_of(1) + shared);
        for (u32 tile = 0; tile < tiles; tile++) {
            const u32 here = tile % 2 * P::STAGES, there = P::STAGES - here;  // this tile's and the next one's stages
            const float *steps = steps_of(here) + own, *bc = bc_of(here) + shared;
            float* sums = sums_of(here) + warp * P::SUMS + STAGE * lane;
#pragma unroll
            for (int stage = 0; stage < P::STAGES; stage++) {
                const int then = (stage + 2) % P::STAGES;
                if (then == 0) {
                    await(READY + (tile + 1) % 2);
                    steps = steps_of(there) + own, bc = bc_of(there) + shared;
                }
                const Loaded later = load(steps + then * P::STEPS, bc + then * P::BC);
                const Ready next = make_ready(ahead);
                float sum[STAGE];
#pragma unroll
                for (int k = 0; k < STAGE; k++) {
#pragma unroll
                    for (int i = 0; i < STATES; i++) {
                        h[i] = now.decay[k][i] * h[i] + now.input[k][i];
                        sum[k] = i == 0 ? now.c[k][0] * h[0] : sum[k] + now.c[k][i] * h[i];
                    }
                }
                store_some(sum, sums);
                sums += p.walkers * P::SUMS;
                now = next, ahead = later;
            }
            arrive(WALKED);
        }
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const u32 n = part * STATES + i;
            if (channel < channels && n < p.d_state) store_state(state, p.state_is_half, (u64)n * p.d_inner + first + channel, h[i]);
        }
    }

    // A servant's lane: four tokens of a channel in each tile, or those lanes' that share them. What is not there is read as its neighbour.
    template <bool HAS_GAPS>
    __device__ __forceinline__ void serve(u32 thread) const {
        const u32 share = thread % P::SHARES, each = p.walkers * P::ACROSS, channel = thread / P::SHARES % each, group = thread / P::SHARES / each;
        const bool gives = channel < channels && share == 0;
        const u64 row = (u64)stream * p.tokens, at = first + min(channel, channels - 1);
        const u32 z_stride = p.z ? p.z_stride : p.x_stride;  // without a gate x stands for it and goes unused
        const T *x_at = p.x + row * p.x_stride + at, *dt_at = p.dt + row * p.dt_stride + at, *z_at = p.z ? p.z + row * z_stride + at : x_at;
        T* y_at = p.y + row * p.y_stride + at;
        const float *gaps = p.gaps + row, bias = p.dt_bias[at], d = p.d[at];
        T dt[4], x[4], z[4];
        float gap[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        // Nothing waits here for what is loaded: numbers stay as they are stored.
        auto load = [&](u32 token) {
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                const u32 t = min(token + k, p.tokens - 1);
                dt[k] = *row_of(dt_at, t, p.dt_stride), x[k] = *row_of(x_at, t, p.x_stride), z[k] = *row_of(z_at, t, z_stride);
                if (HAS_GAPS) gap[k] = gaps[t];
            }
        };
        // What the sums of four tokens are multiplied by, and what is added then: of this tile, the one before and the one before that.
        float gate[3][4], skip[3][4];
        wait_for_previous();
        load(4 * group);
        for (u32 tile = 0; tile < tiles + 2; tile++) {
            const u32 token = tile * P::TILE + 4 * group;
            float step[4], input[4];
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                const float entered = to_f32(x[k]);
                step[k] = softplus_of(token + k < p.tokens ? to_f32(dt[k]) + bias : -INFINITE) * gap[k];  // nothing decays behind the last token
                input[k] = step[k] * entered;
                gate[0][k] = p.z ? silu(to_f32(z[k])) : 1.0f;
                skip[0][k] = d * entered * gate[0][k];
            }
            load(token + P::TILE);
            if (tile >= 2) await(WALKED);
            const int STAGE = P::STAGE, COUNT = P::LANES / P::SHARES;
            const u32 stage = tile % 2 * P::STAGES + 4 * group / STAGE;
            const float* from = sums_of(stage) + channel / P::ACROSS * P::SUMS;
            float* const to = steps_of(stage) + STAGE * channel;
            float sum[4];
#pragma unroll
            for (int k = 0; k < 4; k += STAGE) {
#pragma unroll
                for (int part = 0; part < COUNT; part++) {
                    float more[STAGE];
                    load_some(from + STAGE * lane_of(share * COUNT + part, channel % P::ACROSS), more);
#pragma unroll
                    for (int j = 0; j < STAGE; j++) sum[k + j] = part == 0 ? more[j] : sum[k + j] + more[j];
                }
                from += p.walkers * P::SUMS;
                if (share == 0) {
                    store_some(*(float(*)[STAGE])(step + k), to + k / STAGE * P::STEPS);
                    store_some(*(float(*)[STAGE])(input + k), to + k / STAGE * P::STEPS + P::STEPS / 2);
                }
            }
            if (tile <= tiles) arrive(READY + tile % 2);
            if (tile >= 2) {
#pragma unroll
                for (int apart = 1; apart < P::SHARES; apart *= 2) {
#pragma unroll
                    for (int k = 0; k < 4; k++) sum[k] += __shfl_xor_sync(FULL, sum[k], apart);
                }
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    const u32 t = token - 2 * P::TILE + k;
                    if (gives && t < p.tokens) from_f32(sum[k] * gate[2][k] + skip[2][k], *row_of(y_at, t, p.y_stride));
                }
            }
#pragma unroll
            for (int k = 0; k < 4; k++) gate[2][k] = gate[1][k], skip[2][k] = skip[1][k], gate[1][k] = gate[0][k], skip[1][k] = skip[0][k];
        }
    }

    // Lays b and c side by side.
    template <bool IN_FOURS>
    __device__ __forceinline__ void share(const T* b, const T* c, u32 thread) const {
        const int PIECES = P::PIECES;
        const u32 n = 4 * thread % P::D_STATE, token = 4 * thread / P::D_STATE, APART = 4 * 32 * P::SHARERS / P::D_STATE;
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
        wait_for_previous();
        load(0);
        for (u32 tile = 0; tile <= tiles; tile++) {
            if (tile >= 2) await(WALKED);
#pragma unroll
            for (int k = 0; k < PIECES; k++) {
                float wide_b[4], wide_c[4];
                bs[k].get(wide_b), cs[k].get(wide_c);
#pragma unroll
                for (int j = 0; j < 4; j += 2) {
                    float* to = bc_of(0) + (tile % 2 * P::TILE + token + k * APART) * 2 * P::D_STATE + (n + j) / P::STATES * 2 * P::STATES + (n + j) % P::STATES;
                    *(float2*)to = make_float2(wide_b[j], wide_b[j + 1]);
                    *(float2*)(to + P::STATES) = make_float2(wide_c[j], wide_c[j + 1]);
                }
            }
            arrive(READY + tile % 2);
            load(tile + 1);
        }
        arrive(WALKED);
    }

};

// Grid (blocks of some channels in a head, heads * streams). A block has `walkers` warps that walk, as many that serve, and SHARERS. It begins
// before the kernel before it has ended.
template <class T, class P>
static __device__ __forceinline__ void scan_prefill(const Scan<T>& p) {
    extern __shared__ __align__(16) float room[];
    let_next_start();
    const u32 each = p.walkers * P::ACROSS, per_head = p.d_inner / p.heads, start = blockIdx.x * each;
    const u32 stream = blockIdx.y / p.heads, head = blockIdx.y % p.heads;
    const Block<T, P> block = {p, room, stream, head, head * per_head + start, min(each, per_head - start), (p.tokens + P::TILE - 1) / P::TILE};
    const u32 warp = threadIdx.x / 32;
    if (warp < p.walkers) {
        block.walk(warp);
    } else if (warp >= 2 * p.walkers) {
        const u64 row = (u64)stream * p.tokens;
        const T *b = p.b + row * p.b_stride + head * p.d_state, *c = p.c + row * p.c_stride + head * p.d_state;
        const u32 thread = threadIdx.x - 64 * p.walkers;
        if (in_fours(b, p.b_stride, p.d_state) && in_fours(c, p.c_stride, 0)) {
            block.template share<true>(b, c, thread);
        } else {
            block.template share<false>(b, c, thread);
        }
    } else if (p.gaps) {
        block.template serve<true>(threadIdx.x - 32 * p.walkers);
    } else {
        block.template serve<false>(threadIdx.x - 32 * p.walkers);
    }
}

// scan_prefill_<type>_<states of a lane>x<lanes>: d_state up to their product. The shapes of launches are in targets/cuda/src/launch/scan.rs.
// Few walkers may have more registers each, and need them: none of their waits is filled by others.
typedef Plan<2, 8, 32, 4, 4, 1> Few;
typedef Plan<2, 8, 32, 4, 10, 1> Narrow;
typedef Plan<8, 8, 16, 1, 9, 2> Wide;
typedef Plan<8, 32, 8, 1, 8, 4> Widest;
#define SCAN_PREFILL(NAME, T, P) \
    extern "C" __global__ void __launch_bounds__(P::THREADS, 1) NAME(Scan<T> p) { scan_prefill<T, P>(p); }

SCAN_PREFILL(scan_prefill_f32_2x8_few, float, Few)
SCAN_PREFILL(scan_prefill_f32_2x8, float, Narrow)
SCAN_PREFILL(scan_prefill_f32_8x8, float, Wide)
SCAN_PREFILL(scan_prefill_f32_8x32, float, Widest)
// The runtime's frames are f32. With bf16 operands the kernel compares with those of others: tests/peers/recurrences.cu.
#ifdef BROOKLET_BF16
SCAN_PREFILL(scan_prefill_bf16_2x8_few, bf16, Few)
SCAN_PREFILL(scan_prefill_bf16_2x8, bf16, Narrow)
#endif
