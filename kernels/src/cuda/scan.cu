// The selective scan of Mamba (equation 2 with the discretisation of its section 3.3):
//
//   h[n][e] <- exp(dt[e] * a[n][e]) * h[n][e] + dt[e] * x[e] * b[n],   dt = softplus(dt + dt_bias) * gap
//   y[e] = (sum_n c[n] * h[n][e] + d[e] * x[e]) * silu(z[e])
//
// What bounds it is the exponential of every (channel, state, token): 16 of them a cycle and multiprocessor. So none is computed twice:
// time is walked in order, and what runs side by side are channels and parts of their state. LANES threads share a channel, each keeps
// STATES numbers of its state in registers; their partial sums of y meet every few tokens in a reduction that leaves each lane another
// token's sum.
//
// Half of a block's warps walk. The other half serve them, a tile of tokens at a time: they load two tiles ahead into registers, turn
// them into dt, dt * x and wide b and c in shared memory, and give the sums of the tile before their skip and gate. So the latency of
// neither is seen, which matters where a machine has more processors than the model has channels to fill them.
#include "recurrence.cuh"

// The operands of a scan. Rows are tokens; a stream's tokens follow each other. `state` is (streams, d_state, d_inner).
template <class T>
struct Scan {
    const T *x, *dt;  // (tokens, d_inner)
    const T *b, *c;   // (tokens, heads, d_state)
    const T* z;       // (tokens, d_inner) or null
    T* y;             // (tokens, d_inner)
    int x_stride, dt_stride, b_stride, c_stride, z_stride, y_stride;
    const float* a;            // (d_state, d_inner), negative
    const float *d, *dt_bias;  // (d_inner)
    const float* gaps;         // (streams * tokens), or null for 1
    u8* state;                 // (streams, d_state, d_inner), streams `state_stride` bytes apart
    u64 state_stride;
    int state_is_half, tokens, d_inner, d_state, heads;
};

// Adds `p[k]` over the lanes of a group; afterwards lane `l` of the group holds the sum of `p[l % STEPS]` in `p[0]`.
template <int APART, int STEPS>
static __device__ __forceinline__ void reduce_scatter(float (&p)[STEPS], int lane) {
    if constexpr (APART >= STEPS) {
#pragma unroll
        for (int k = 0; k < STEPS; k++) p[k] += __shfl_xor_sync(FULL, p[k], APART);
    } else {
        bool upper = lane & APART;
#pragma unroll
        for (int k = 0; k < APART; k++) {
            float sent = upper ? p[k] : p[k + APART];
            float kept = upper ? p[k + APART] : p[k];
            p[k] = kept + __shfl_xor_sync(FULL, sent, APART);
        }
    }
    if constexpr (APART > 1) reduce_scatter<APART / 2>(p, lane);
}

// Shared memory of a block: what walkers read and what they write, of two tiles.
template <int STATES, int LANES, int CHANNELS, int TILE>
struct ScanTiles {
    float step[2][CHANNELS][TILE + 4];     // dt
    float input[2][CHANNELS][TILE + 4];    // dt * x
    float bc[2][TILE][LANES][2 * STATES];  // b and c of each lane's states
    float y[2][TILE][CHANNELS + 2];
};

// Two neighbouring numbers as they lie in memory, in registers.
template <class T>
struct Pair;
template <>
struct Pair<float> {
    float2 pair;
    __device__ __forceinline__ float first() const { return pair.x; }
    __device__ __forceinline__ float second() const { return pair.y; }
    __device__ __forceinline__ void set(float first, float second) { pair = make_float2(first, second); }
};
template <>
struct Pair<bf16> {
    u32 pair;
    __device__ __forceinline__ float first() const { return low_bf16(pair); }
    __device__ __forceinline__ float second() const { return high_bf16(pair); }
    __device__ __forceinline__ void set(float first, float second) { pair = pack_bf16(first, second); }
};

// The numbers at `at` and behind it, which is `at` itself if it is the last. If `aligned`, both lie in one word.
template <class T>
static __device__ __forceinline__ Pair<T> load_pair(const T* at, bool is_last, bool aligned) {
    Pair<T> pair;
    if (aligned) {
        pair = *(const Pair<T>*)at;
    } else {
        pair.set(to_f32(at[0]), to_f32(at[is_last ? 0 : 1]));
    }
    return pair;
}

// Grid (blocks of CHANNELS channels in a head, heads, streams), block (2 * CHANNELS * LANES), shared memory sizeof(ScanTiles).
template <class T, int STATES, int LANES, int CHANNELS, int TILE>
static __device__ __forceinline__ void scan_prefill(const Scan<T>& p) {
    typedef ScanTiles<STATES, LANES, CHANNELS, TILE> Tiles;
    const int TEAM = CHANNELS * LANES, STEPS = LANES < TILE ? LANES : TILE, N = STATES * LANES;
    extern __shared__ __align__(16) unsigned char shared[];
    Tiles& s = *(Tiles*)shared;

    const int per_head = p.d_inner / p.heads;
    const int first = blockIdx.y * per_head + blockIdx.x * CHANNELS;
    const int channels = min(CHANNELS, per_head - (int)blockIdx.x * CHANNELS);
    const u64 first_row = (u64)blockIdx.z * p.tokens;
    const int tiles = (p.tokens + TILE - 1) / TILE;
    const int thread = threadIdx.x % TEAM;

    // Warps go to a multiprocessor's four parts in turn. Where a team is two warps, every other round of blocks has them the other way, so
    // that walkers, who have more to do, are in all parts.
    u32 processors;
    asm("mov.u32 %0, %%nsmid;" : "=r"(processors));
    const bool swapped = TEAM == 64 && blockIdx.x / processors % 2 == 1;

    if ((threadIdx.x < TEAM) != swapped) {
        // A walker.
        const int lane = thread % LANES, channel = thread / LANES;
        const bool mine = channel < channels;
        u8* state = p.state + blockIdx.z * p.state_stride;
        float a[STATES], h[STATES];
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            int n = lane * STATES + i;
            bool valid = mine && n < p.d_state;
            u64 at = (u64)n * p.d_inner + first + channel;
            a[i] = valid ? p.a[at] * LOG2_E : 0.0f;
            h[i] = valid ? load_state(state, p.state_is_half, at) : 0.0f;
        }
        __syncthreads();
        for (int tile = 0; tile < tiles; tile++) {
            const int slot = tile % 2;
            // The reduction of some tokens is a chain of waits: it goes on while the next tokens are computed.
            float last[STEPS];
            auto give = [&](int start) {
                reduce_scatter<LANES / 2>(last, lane);
                if (LANES <= STEPS || lane < STEPS) s.y[slot][start + lane][channel] = last[0];
            };
#pragma unroll
            for (int start = 0; start < TILE; start += STEPS) {
                float sum[STEPS];
#pragma unroll
                for (int k = 0; k < STEPS; k += 4) {
                    float4 step4 = *(const float4*)&s.step[slot][channel][start + k];
                    float4 input4 = *(const float4*)&s.input[slot][channel][start + k];
                    float step[4] = {step4.x, step4.y, step4.z, step4.w}, input[4] = {input4.x, input4.y, input4.z, input4.w};
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float* from = s.bc[slot][start + k + j][lane];
                        float bc[2 * STATES];
                        if constexpr (STATES == 1) {
                            float2 v = *(const float2*)from;
                            bc[0] = v.x, bc[1] = v.y;
                        } else {
#pragma unroll
                            for (int i = 0; i < 2 * STATES; i += 4) {
                                float4 v = *(const float4*)(from + i);
                                bc[i] = v.x, bc[i + 1] = v.y, bc[i + 2] = v.z, bc[i + 3] = v.w;
                            }
                        }
                        float partial = 0.0f;
#pragma unroll
                        for (int i = 0; i < STATES; i++) {
                            h[i] = exp2_approx(step[j] * a[i]) * h[i] + input[j] * bc[i];
                            partial = i == 0 ? bc[STATES] * h[0] : partial + bc[STATES + i] * h[i];
                        }
                        sum[k + j] = partial;
                    }
                }
                if (start > 0) give(start - STEPS);
#pragma unroll
                for (int k = 0; k < STEPS; k++) last[k] = sum[k];
            }
            give(TILE - STEPS);
            __syncthreads();  // The sums of this tile are complete, and the next tile is prepared.
        }
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            int n = lane * STATES + i;
            if (mine && n < p.d_state) store_state(state, p.state_is_half, (u64)n * p.d_inner + first + channel, h[i]);
        }
        return;
    }

    // A servant: always the same two channels, and the same two states of b and c.
    const int ACROSS = CHANNELS / 2, ROWS = TEAM / ACROSS < TILE ? TEAM / ACROSS : TILE, ITEMS = TILE / ROWS;
    const int BC_ACROSS = N / 2, BC_ROWS = TEAM / BC_ACROSS < TILE ? TEAM / BC_ACROSS : TILE, BC_ITEMS = TILE / BC_ROWS;
    const int column = thread % ACROSS * 2, row = thread / ACROSS, n = thread % BC_ACROSS * 2, bc_row = thread / BC_ACROSS;
    const bool serves = row < ROWS, serves_bc = bc_row < BC_ROWS;
    const T *x = p.x + first_row * p.x_stride + first, *dt = p.dt + first_row * p.dt_stride + first;
    // Without a gate x stands for it and goes unused.
    const T* z = p.z ? p.z + first_row * p.z_stride + first : x;
    const T *b = p.b + first_row * p.b_stride + blockIdx.y * p.d_state, *c = p.c + first_row * p.c_stride + blockIdx.y * p.d_state;
    T* y = p.y + first_row * p.y_stride + first;
    const float* gaps = p.gaps ? p.gaps + first_row : (const float*)0;
    const int z_stride = p.z ? p.z_stride : p.x_stride;
    const u64 bytes = sizeof(T), both = 2 * sizeof(T);
    const bool aligned = ((u64)x | (u64)dt | (u64)z | (u64)y | p.x_stride * bytes | p.dt_stride * bytes | z_stride * bytes |
                          p.y_stride * bytes | channels * bytes) %
                             both ==
                         0;
    const bool bc_aligned = ((u64)b | (u64)c | p.b_stride * bytes | p.c_stride * bytes | p.d_state * bytes) % both == 0;
    float bias[2], skip[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        bool valid = column + k < channels;
        bias[k] = valid ? p.dt_bias[first + column + k] : 0.0f;
        skip[k] = valid ? p.d[first + column + k] : 0.0f;
    }
    // What is under way: operands of the two tiles to prepare next, and of the two before what finishing them takes.
    Pair<T> next_dt[ITEMS], next_x[ITEMS], next_z[ITEMS], next_b[BC_ITEMS], next_c[BC_ITEMS];
    Pair<T> later_dt[ITEMS], later_x[ITEMS], later_z[ITEMS], later_b[BC_ITEMS], later_c[BC_ITEMS];
    Pair<T> x_now[ITEMS], z_now[ITEMS], x_last[ITEMS], z_last[ITEMS];
    // Where there is no channel, another's operands are loaded; where there is no token, none. Neither is used.
    const int some_column = column < channels ? column : 0, some_n = n < p.d_state ? n : 0;
    const bool is_last = some_column + 1 >= channels, is_last_n = some_n + 1 >= p.d_state;
    x += (i64)row * p.x_stride + some_column, dt += (i64)row * p.dt_stride + some_column, z += (i64)row * z_stride + some_column;
    b += (i64)bc_row * p.b_stride + some_n, c += (i64)bc_row * p.c_stride + some_n;
    auto load_as = [&](int t, bool aligned, bool bc_aligned) {
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            if (t + row + k * ROWS >= p.tokens) continue;
            later_dt[k] = load_pair(dt + k * ROWS * p.dt_stride, is_last, aligned);
            later_x[k] = load_pair(x + k * ROWS * p.x_stride, is_last, aligned);
            later_z[k] = load_pair(z + k * ROWS * z_stride, is_last, aligned);
        }
#pragma unroll
        for (int k = 0; k < BC_ITEMS; k++) {
            if (t + bc_row + k * BC_ROWS >= p.tokens) continue;
            later_b[k] = load_pair(b + k * BC_ROWS * p.b_stride, is_last_n, bc_aligned);
            later_c[k] = load_pair(c + k * BC_ROWS * p.c_stride, is_last_n, bc_aligned);
        }
    };
    auto load = [&](int tile) {
#pragma unroll
        for (int k = 0; k < ITEMS; k++) next_dt[k] = later_dt[k], next_x[k] = later_x[k], next_z[k] = later_z[k];
#pragma unroll
        for (int k = 0; k < BC_ITEMS; k++) next_b[k] = later_b[k], next_c[k] = later_c[k];
        if (aligned && bc_aligned) {
            load_as(tile * TILE, true, true);
        } else {
            load_as(tile * TILE, false, false);
        }
        x += TILE * p.x_stride, dt += TILE * p.dt_stride, z += TILE * z_stride, b += TILE * p.b_stride, c += TILE * p.c_stride;
    };
    auto prepare = [&](int tile) {
        const int t = tile * TILE, slot = tile % 2;
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            int r = row + k * ROWS;
            float step[2] = {0.0f, 0.0f};  // Behind the last token nothing decays and nothing enters.
            if (t + r < p.tokens) {
                float gap = gaps ? gaps[t + r] : 1.0f;
                step[0] = softplus(next_dt[k].first() + bias[0]) * gap;
                step[1] = softplus(next_dt[k].second() + bias[1]) * gap;
            }
            if (serves) {
                s.step[slot][column][r] = step[0], s.step[slot][column + 1][r] = step[1];
                s.input[slot][column][r] = step[0] * next_x[k].first(), s.input[slot][column + 1][r] = step[1] * next_x[k].second();
            }
            x_last[k] = x_now[k], z_last[k] = z_now[k];
            x_now[k] = next_x[k], z_now[k] = next_z[k];
        }
#pragma unroll
        for (int k = 0; k < BC_ITEMS; k++) {
            int r = bc_row + k * BC_ROWS;
            if (!serves_bc) continue;
            const bool first_valid = n < p.d_state, second_valid = n + 1 < p.d_state;
            float wide_b[2] = {first_valid ? next_b[k].first() : 0.0f, second_valid ? next_b[k].second() : 0.0f},
                  wide_c[2] = {first_valid ? next_c[k].first() : 0.0f, second_valid ? next_c[k].second() : 0.0f};
            if constexpr (STATES == 2) {
                *(float4*)s.bc[slot][r][n / 2] = make_float4(wide_b[0], wide_b[1], wide_c[0], wide_c[1]);
            } else {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    s.bc[slot][r][(n + i) / STATES][(n + i) % STATES] = wide_b[i];
                    s.bc[slot][r][(n + i) / STATES][STATES + (n + i) % STATES] = wide_c[i];
                }
            }
        }
    };
    // The skip, the gate and the way out. `x` and `z` are those of the tile.
    auto finish = [&](int tile, const Pair<T>(&x)[ITEMS], const Pair<T>(&z)[ITEMS]) {
        const int t = tile * TILE, slot = tile % 2;
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            int r = row + k * ROWS;
            if (!serves || t + r >= p.tokens || column >= channels) continue;
            float2 sum = *(const float2*)&s.y[slot][r][column];
            sum.x += skip[0] * x[k].first(), sum.y += skip[1] * x[k].second();
            if (p.z) sum.x *= silu(z[k].first()), sum.y *= silu(z[k].second());
            Pair<T> out;
            out.set(sum.x, sum.y);
            T* to = y + (i64)(t + r) * p.y_stride + column;
            if (aligned) {
                *(Pair<T>*)to = out;
            } else {
                from_f32(sum.x, to[0]);
                if (column + 1 < channels) from_f32(sum.y, to[1]);
            }
        }
    };
#pragma unroll
    for (int k = 0; k < ITEMS; k++) later_dt[k].set(0.0f, 0.0f), later_x[k].set(0.0f, 0.0f), later_z[k].set(0.0f, 0.0f);
#pragma unroll
    for (int k = 0; k < BC_ITEMS; k++) later_b[k].set(0.0f, 0.0f), later_c[k].set(0.0f, 0.0f);
    load(0);
    load(1);
    prepare(0);
    load(2);
    __syncthreads();
    for (int tile = 0; tile < tiles; tile++) {
        // Walkers are in `tile`; x_now is its x, next_x that of the tile behind it, x_last that of the one before.
        if (tile > 0) finish(tile - 1, x_last, z_last);
        prepare(tile + 1);
        load(tile + 3);
        __syncthreads();
    }
    finish(tiles - 1, x_last, z_last);
}

// One token of every stream. Grid (ceil(d_inner / heads / 32), heads, streams), block (32 channels, WAYS parts of the state).
template <class T, int WAYS>
__device__ __forceinline__ void scan_step(const Scan<T>& p) {
    __shared__ float sums[WAYS][32];
    const int per_head = p.d_inner / p.heads;
    const int in_head = blockIdx.x * 32 + threadIdx.x, e = blockIdx.y * per_head + in_head;
    const bool valid = in_head < per_head;
    const u64 row = blockIdx.z;
    float sum = 0.0f, x = 0.0f;
    if (valid) {
        u8* state = p.state + row * p.state_stride;
        const T *b = p.b + row * p.b_stride + blockIdx.y * p.d_state, *c = p.c + row * p.c_stride + blockIdx.y * p.d_state;
        x = to_f32(p.x[row * p.x_stride + e]);
        float step = softplus(to_f32(p.dt[row * p.dt_stride + e]) + p.dt_bias[e]) * (p.gaps ? p.gaps[row] : 1.0f);
        float input = step * x;
#pragma unroll 4
        for (int n = threadIdx.y; n < p.d_state; n += WAYS) {
            u64 at = (u64)n * p.d_inner + e;
            float h = exp2_approx(step * (p.a[at] * LOG2_E)) * load_state(state, p.state_is_half, at) + input * to_f32(b[n]);
            sum += to_f32(c[n]) * h;
            store_state(state, p.state_is_half, at, h);
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || !valid) return;
#pragma unroll
    for (int way = 1; way < WAYS; way++) sum += sums[way][threadIdx.x];
    sum += p.d[e] * x;
    if (p.z) sum *= silu(to_f32(p.z[row * p.z_stride + e]));
    from_f32(sum, p.y[row * p.y_stride + e]);
}

#define SCAN_PARAMETERS(T)                                                                                                                \
    const T *x, const T *dt, const T *b, const T *c, const T *z, T *y, int x_stride, int dt_stride, int b_stride, int c_stride,           \
        int z_stride, int y_stride, const float *a, const float *d, const float *dt_bias, const float *gaps, u8 *state, u64 state_stride, \
        int state_is_half, int tokens, int d_inner, int d_state, int heads, const u32 *gate
#define SCAN_OPERANDS(T)                                                                                      \
    Scan<T> p = {x,        dt,       b,    c, z,       y,    x_stride, dt_stride,    b_stride,      c_stride, \
                 z_stride, y_stride, a,    d, dt_bias, gaps, state,    state_stride, state_is_half, tokens,   \
                 d_inner,  d_state,  heads}

// The shapes of launches are in targets/cuda/src/launch/scan.rs.
#define SCAN_PREFILL(NAME, T, STATES, LANES, CHANNELS, TILE, BLOCKS)                                      \
    extern "C" __global__ void __launch_bounds__(2 * CHANNELS * LANES, BLOCKS) NAME(SCAN_PARAMETERS(T)) { \
        if (gate && *gate == 0) return;                                                                   \
        SCAN_OPERANDS(T);                                                                                 \
        scan_prefill<T, STATES, LANES, CHANNELS, TILE>(p);                                                \
    }
#define SCAN_STEP(NAME, T)                                                          \
    extern "C" __global__ void __launch_bounds__(32 * 8) NAME(SCAN_PARAMETERS(T)) { \
        if (gate && *gate == 0) return;                                             \
        SCAN_OPERANDS(T);                                                           \
        scan_step<T, 8>(p);                                                         \
    }

// scan_prefill_<type>_<states of a lane>x<lanes>: d_state up to their product.
SCAN_PREFILL(scan_prefill_f32_1x16, float, 1, 16, 8, 32, 2)
SCAN_PREFILL(scan_prefill_f32_2x8, float, 2, 8, 8, 32, 3)
SCAN_PREFILL(scan_prefill_f32_4x16, float, 4, 16, 8, 16, 1)
SCAN_PREFILL(scan_prefill_f32_8x32, float, 8, 32, 4, 8, 1)
SCAN_STEP(scan_step_f32, float)
// The runtime's frames are f32. With bf16 operands the kernels compare with those of others: tests/peers/recurrences.cu.
#ifdef BROOKLET_BF16
SCAN_PREFILL(scan_prefill_bf16_1x16, bf16, 1, 16, 8, 32, 2)
SCAN_PREFILL(scan_prefill_bf16_2x8, bf16, 2, 8, 8, 32, 5)
#endif
