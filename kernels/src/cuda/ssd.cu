// The state-space dual recurrence of Mamba-2 over many tokens, one scalar decay per head:
//
//   S[h][n][p] <- exp(dt[h] * a[h]) * S[h][n][p] + dt[h] * x[h][p] * b[g][n],   dt = clamp(softplus(dt + dt_bias)) * gap
//   y[h][p] = sum_n c[g][n] * S[h][n][p] + d[h] * x[h][p]
//
// in chunks of 64 tokens (section 6 of the paper). With cum[i] the sum of dt * a up to token i of the chunk,
//
//   y[i]  = exp(cum[i]) c[i] S  +  sum_{j <= i} (c[i] . b[j]) exp(cum[i] - cum[j]) dt[j] x[j]
//   S'    = exp(cum[last]) S    +  sum_j exp(cum[last] - cum[j]) dt[j] b[j] x[j]
//
// Four matrix products on tensor cores (warpgroup.cuh). A block walks the chunks of 64 channels of a head with three warpgroups: one loads
// chunks into a ring of stages, one makes their scores (c . b, masked and decayed, with d on the diagonal), and one keeps the state. It has
// the state, transposed, as the sums of a product: (channels, d_state). So the state is the left operand of y's product as it is, and no
// state but the first and the last passes through memory. y comes out transposed too: (channels, tokens).
//
// With PARTS = 2, operands are pairs of bf16, high and low, and a product is three: errors of about 2^-16 instead of 2^-8. For f32 frames.
#include "warpgroup.cuh"

// Tokens of a chunk, and channels of a block.
#define CHUNK 64
// Most stages of a block's ring.
#define STAGES 4

// The operands. Rows are tokens; a stream's tokens follow each other.
template <class T>
struct Ssd {
    const T* x;      // (tokens, heads, head_dim)
    const T* dt;     // (tokens, heads)
    const T *b, *c;  // (tokens, groups, d_state)
    T* y;            // (tokens, heads, head_dim)
    int x_stride, dt_stride, b_stride, c_stride, y_stride;
    const float *a, *d, *dt_bias;  // (heads), a negative
    float dt_lo, dt_hi;
    const float* gaps;  // (streams * tokens), or null for 1
    u8* state;          // (streams, heads, d_state, head_dim), streams `state_stride` bytes apart
    u64 state_stride;
    int state_is_half, tokens, heads, head_dim, groups, d_state, stages;
};

// What a chunk's step sizes become.
struct Steps {
    float cum[CHUNK];     // log2 of the decay from the chunk's start up to and with this token
    float step[CHUNK];    // dt
    float weight[CHUNK];  // decay from behind this token to the chunk's end, times dt
    float entry[CHUNK];   // 2^cum
};

// All of a chunk that is in shared memory. (targets/cuda/src/launch/ssd.rs has the same sizes.)
template <int PANELS, int PARTS>
struct Stage {
    Panel b[PANELS][PARTS], c[PANELS][PARTS];  // (tokens, d_state)
    Panel x[PARTS];                            // (tokens, channels)
    Panel scores[PARTS];                       // (tokens, tokens before)
    Steps steps;
};

// Ends of the work on each stage.
struct Ends {
    u64 loaded[STAGES], scored[STAGES], walked[STAGES];
};

// A block's place: 64 channels of a head, in one stream.
template <class T, int PANELS, int PARTS>
struct Block {
    const Ssd<T>& p;
    Stage<PANELS, PARTS>* stages;
    Ends* ends;
    int head, first_channel, channels;
    u64 first_row;
};

// A chunk's stage, and how often the ring has gone round before it, modulo 2.
struct Turn {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void next(int stages) {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

// ---- loading --------------------------------------------------------------------------------------------------------------------

// Rows of f32 into panels side by side. What lies beyond `rows` or `width` becomes zero. If `aligned`, all rows lie on multiples of 16 bytes.
template <int PANELS, int PARTS>
static __device__ __forceinline__ void fill(Panel (*to)[PARTS], const float* from, int stride, int rows, int width, bool aligned) {
    const int ACROSS = PANELS * 16, APART = WARPGROUP / ACROSS, BATCH = 8;
    const int column = threadIdx.x % ACROSS * 4, first = threadIdx.x / ACROSS;
    for (int batch = first; batch < CHUNK; batch += BATCH * APART) {
        float v[BATCH][4] = {};
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int row = batch + i * APART;
            const float* source = from + (i64)row * stride + column;
            if (row >= rows || column >= width) continue;
            if (aligned) {
                float4 all = *(const float4*)source;
                v[i][0] = all.x, v[i][1] = all.y, v[i][2] = all.z, v[i][3] = all.w;
            } else {
#pragma unroll
                for (int k = 0; k < 4; k++) v[i][k] = column + k < width ? source[k] : 0.0f;
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int at = place(batch + i * APART, column % 64);
            u32 low[PARTS], high[PARTS];
            split<PARTS>(low, v[i][0], v[i][1]);
            split<PARTS>(high, v[i][2], v[i][3]);
#pragma unroll
            for (int part = 0; part < PARTS; part++) *(uint2*)(to[column / 64][part].numbers + at) = make_uint2(low[part], high[part]);
        }
    }
}

// The same for bf16; asynchronous if `aligned`.
template <int PANELS, int PARTS>
static __device__ __forceinline__ void fill(Panel (*to)[PARTS], const bf16* from, int stride, int rows, int width, bool aligned) {
    const int ACROSS = PANELS * 8, APART = WARPGROUP / ACROSS;
    const int column = threadIdx.x % ACROSS * 8;
#pragma unroll 4
    for (int row = threadIdx.x / ACROSS; row < CHUNK; row += APART) {
        bf16* place_here = to[column / 64][0].numbers + place(row, column % 64);
        const bf16* source = from + (i64)row * stride + column;
        if (aligned) {
            bool valid = row < rows && column < width;
            copy16_async(place_here, valid ? source : from, valid ? 16 : 0);
        } else {
            for (int k = 0; k < 8; k++) place_here[k] = row < rows && column + k < width ? source[k] : bf16{0};
        }
    }
}

// The step sizes of a chunk, two tokens a lane.
template <class T>
static __device__ __forceinline__ void prepare(Steps& steps, const Ssd<T>& p, int head, const float (&raw)[2], const float (&gap)[2]) {
    const int lane = threadIdx.x % 32;
    const float a = p.a[head] * LOG2_E, bias = p.dt_bias[head];
    float step[2], cum[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        // Behind the last token nothing decays and nothing enters: its gap is 0.
        step[k] = gap[k] == 0.0f ? 0.0f : fminf(fmaxf(softplus(raw[k] + bias), p.dt_lo), p.dt_hi) * gap[k];
        cum[k] = step[k] * a;
    }
    cum[1] += cum[0];
    float before = cum[1];
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
        float other = __shfl_up_sync(FULL, before, by);
        if (lane >= by) before += other;
    }
    float last = __shfl_sync(FULL, before, 31);
    before -= cum[1];
    cum[0] += before, cum[1] += before;
    *(float2*)&steps.cum[2 * lane] = make_float2(cum[0], cum[1]);
    *(float2*)&steps.step[2 * lane] = make_float2(step[0], step[1]);
    *(float2*)&steps.weight[2 * lane] = make_float2(exp2_approx(last - cum[0]) * step[0], exp2_approx(last - cum[1]) * step[1]);
    *(float2*)&steps.entry[2 * lane] = make_float2(exp2_approx(cum[0]), exp2_approx(cum[1]));
}

template <class T, int PANELS, int PARTS>
static __device__ __forceinline__ void load_chunks(const Block<T, PANELS, PARTS>& block) {
    const Ssd<T>& p = block.p;
    const int lane = threadIdx.x % 32, group = block.head / (p.heads / p.groups);
    const T* x = p.x + block.first_row * p.x_stride + block.head * p.head_dim + block.first_channel;
    const T *b = p.b + block.first_row * p.b_stride + group * p.d_state, *c = p.c + block.first_row * p.c_stride + group * p.d_state;
    const T* dt = p.dt + block.first_row * p.dt_stride + block.head;
    const bool x_aligned = ((u64)x | (u64)p.x_stride * sizeof(T) | (u64)block.channels * sizeof(T)) % 16 == 0;
    const bool bc_aligned = ((u64)b | (u64)c | (u64)p.b_stride * sizeof(T) | (u64)p.c_stride * sizeof(T) | (u64)p.d_state * sizeof(T)) % 16 == 0;
    // Copies of bf16 may still be under way when the next chunk's are begun.
    const bool LATE = sizeof(T) == 2;
    Turn turn, before;
    for (int first = 0; first < p.tokens; first += CHUNK) {
        Stage<PANELS, PARTS>& s = block.stages[turn.stage];
        const int rows = p.tokens - first;
        const bool prepares = first / CHUNK % 4 == threadIdx.x / 32;  // warps in turn
        float raw[2] = {}, gap[2] = {};
        if (prepares) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                if (2 * lane + k >= rows) continue;
                i64 t = first + 2 * lane + k;
                raw[k] = to_f32(dt[t * p.dt_stride]);
                gap[k] = p.gaps ? p.gaps[block.first_row + t] : 1.0f;
            }
        }
        warpgroup_wait(&block.ends->walked[turn.stage], turn.parity ^ 1);
        fill<PANELS, PARTS>(s.b, b, p.b_stride, rows, p.d_state, bc_aligned);
        fill<PANELS, PARTS>(s.c, c, p.c_stride, rows, p.d_state, bc_aligned);
        fill<1, PARTS>(&s.x, x, p.x_stride, rows, block.channels, x_aligned);
        if (prepares) prepare(s.steps, p, block.head, raw, gap);
        x += (i64)CHUNK * p.x_stride, b += (i64)CHUNK * p.b_stride, c += (i64)CHUNK * p.c_stride;
        if constexpr (LATE) {
            commit_copies();
            wait_copies<1>();
            if (first > 0) warpgroup_arrive(&block.ends->loaded[before.stage]), before.next(p.stages);
        } else {
            warpgroup_arrive(&block.ends->loaded[turn.stage]);
        }
        turn.next(p.stages);
    }
    if constexpr (LATE) {
        wait_copies<0>();
        warpgroup_arrive(&block.ends->loaded[before.stage]);
    }
}

// ---- scores ---------------------------------------------------------------------------------------------------------------------

template <class T, int PANELS, int PARTS>
static __device__ __forceinline__ void score_chunks(const Block<T, PANELS, PARTS>& block) {
    const int lane = threadIdx.x % 32, row = threadIdx.x % WARPGROUP / 32 * 16 + lane / 4;
    const float d = block.p.d[block.head];
    Turn turn;
    for (int first = 0; first < block.p.tokens; first += CHUNK, turn.next(block.p.stages)) {
        Stage<PANELS, PARTS>& s = block.stages[turn.stage];
        warpgroup_wait(&block.ends->loaded[turn.stage], turn.parity);
        Sums dots = {};
#pragma unroll
        for (int n = 0; n < PANELS; n++) {
            Left left[PARTS];
            load_left<PARTS>(left, s.c[n]);
            hold(left), hold(dots);
            begin_products();
            multiply<false>(dots, left, s.b[n]);
            end_products();
            await_products<0>();
            hold(left), hold(dots);
        }
        const float cum_i[2] = {s.steps.cum[row], s.steps.cum[row + 8]};
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            const int j = tile * 8 + lane % 4 * 2;
            float2 cum_j = *(const float2*)&s.steps.cum[j], step_j = *(const float2*)&s.steps.step[j];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int i = row + r * 8;
                float low = dots[tile][2 * r] * exp2_approx(cum_i[r] - cum_j.x) * step_j.x;
                float high = dots[tile][2 * r + 1] * exp2_approx(cum_i[r] - cum_j.y) * step_j.y;
                low = j < i ? low : j == i ? low + d : 0.0f;
                high = j + 1 < i ? high : j + 1 == i ? high + d : 0.0f;
                u32 parts[PARTS];
                split<PARTS>(parts, low, high);
#pragma unroll
                for (int part = 0; part < PARTS; part++) *(u32*)(s.scores[part].numbers + place(i, j)) = parts[part];
            }
        }
        warpgroup_arrive(&block.ends->scored[turn.stage]);
    }
}

// ---- the state ------------------------------------------------------------------------------------------------------------------

// Each number of these channels' state with its place in memory.
template <class T, int PANELS, int PARTS, class F>
static __device__ __forceinline__ void each_of_state(const Block<T, PANELS, PARTS>& block, Sums (&h)[PANELS], F f) {
    const Ssd<T>& p = block.p;
    const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32;
#pragma unroll
    for (int i = 0; i < PANELS * 32; i++) {
        int n = i / 4 * 8 + lane % 4 * 2 + i % 2, channel = warp * 16 + lane / 4 + i / 2 % 2 * 8;
        if (n < p.d_state && channel < block.channels)
            f(((i64)block.head * p.d_state + n) * p.head_dim + block.first_channel + channel, h[i / 32][i / 4 % 8][i % 4]);
    }
}

// y of a chunk, (channels, tokens) as sums.
static __device__ __forceinline__ void store_y(float* to, int stride, const Sums& y, int rows, int channels) {
    const int lane = threadIdx.x % 32, channel = threadIdx.x % WARPGROUP / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 32; i++) {
        int token = i / 4 * 8 + lane % 4 * 2 + i % 2, at = channel + i / 2 % 2 * 8;
        if (token < rows && at < channels) to[(i64)token * stride + at] = y[i / 4][i % 4];
    }
}
// The same as bf16: matrices of 8 x 8 are turned, so that neighbours are written together.
static __device__ __forceinline__ void store_y(bf16* to, int stride, const Sums& y, int rows, int channels) {
    const int lane = threadIdx.x % 32, channel = threadIdx.x % WARPGROUP / 32 * 16 + lane % 4 * 2;
    const bool aligned = ((u64)to | (u64)stride * 2) % 4 == 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        u32 pair = pack_bf16(y[i / 2][i % 2 * 2], y[i / 2][i % 2 * 2 + 1]);
        asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pair));
        int token = i / 2 * 8 + lane / 4, at = channel + i % 2 * 8;
        bf16* here = to + (i64)token * stride + at;
        if (token >= rows) continue;
        if (aligned && at + 1 < channels) {
            *(u32*)here = pair;
        } else {
            if (at < channels) here[0].bits = (u16)pair;
            if (at + 1 < channels) here[1].bits = (u16)(pair >> 16);
        }
    }
}

template <class T, int PANELS, int PARTS>
static __device__ __forceinline__ void walk_chunks(const Block<T, PANELS, PARTS>& block) {
    const Ssd<T>& p = block.p;
    const int lane = threadIdx.x % 32;
    u8* const state = p.state + blockIdx.z * p.state_stride;
    T* to = p.y + block.first_row * p.y_stride + block.head * p.head_dim + block.first_channel;
    Sums h[PANELS] = {};
    each_of_state(block, h, [&](i64 at, float& number) { number = load_state(state, p.state_is_half, at); });
    Turn turn;
    for (int first = 0; first < p.tokens; first += CHUNK, turn.next(p.stages)) {
        Stage<PANELS, PARTS>& s = block.stages[turn.stage];
        warpgroup_wait(&block.ends->loaded[turn.stage], turn.parity);
        // What the state before gives: y = h c.
        Sums y = {};
#pragma unroll
        for (int n = 0; n < PANELS; n++) {
            Left before[PARTS];
            split_sums<PARTS>(before, h[n]);
            hold(before), hold(y);
            begin_products();
            multiply<false>(y, before, s.c[n]);
            end_products();
            await_products<0>();
            hold(before), hold(y);
        }
        Left x[PARTS], weighted[PARTS];
        load_left_transposed<PARTS>(x, s.x);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float2 weight = *(const float2*)&s.steps.weight[i / 2 * 8 + lane % 4 * 2];
            float low = low_bf16(x[0][i / 4][i % 4]), high = high_bf16(x[0][i / 4][i % 4]);
            if constexpr (PARTS == 2) low += low_bf16(x[1][i / 4][i % 4]), high += high_bf16(x[1][i / 4][i % 4]);
            u32 parts[PARTS];
            split<PARTS>(parts, low * weight.x, high * weight.y);
#pragma unroll
            for (int part = 0; part < PARTS; part++) weighted[part][i / 4][i % 4] = parts[part];
        }
        // The state behind the chunk: h = decay * h + weighted x * b.
        const float decay = s.steps.entry[CHUNK - 1];
#pragma unroll
        for (int i = 0; i < PANELS * 32; i++) h[i / 32][i / 4 % 8][i % 4] *= decay;
        hold(weighted);
#pragma unroll
        for (int n = 0; n < PANELS; n++) hold(h[n]);
        begin_products();
#pragma unroll
        for (int n = 0; n < PANELS; n++) multiply<true>(h[n], weighted, s.b[n]);
        end_products();
        // y, and what the chunk's own tokens give.
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            float2 entry = *(const float2*)&s.steps.entry[tile * 8 + lane % 4 * 2];
            y[tile][0] *= entry.x, y[tile][1] *= entry.y, y[tile][2] *= entry.x, y[tile][3] *= entry.y;
        }
        warpgroup_wait(&block.ends->scored[turn.stage], turn.parity);
        hold(x), hold(y);
        begin_products();
        multiply<false>(y, x, s.scores);
        end_products();
        await_products<0>();
        hold(x), hold(weighted), hold(y);
#pragma unroll
        for (int n = 0; n < PANELS; n++) hold(h[n]);
        warpgroup_arrive(&block.ends->walked[turn.stage]);
        store_y(to, p.y_stride, y, p.tokens - first, block.channels);
        to += (i64)CHUNK * p.y_stride;
    }
    each_of_state(block, h, [&](i64 at, float& number) { store_state(state, p.state_is_half, at, number); });
}

// Grid (heads, ceil(head_dim / 64), streams), three warpgroups. d_state is at most 64 * PANELS. Shared memory: as many stages as p.stages says,
// at least two of bf16, then Ends.
template <class T, int PANELS, int PARTS>
static __device__ __forceinline__ void ssd_prefill(const Ssd<T>& p) {
    extern __shared__ __align__(1024) u8 ring[];
    Stage<PANELS, PARTS>* stages = (Stage<PANELS, PARTS>*)ring;
    Ends* ends = (Ends*)(stages + p.stages);
    const int first_channel = blockIdx.y * 64;
    Block<T, PANELS, PARTS> block = {p, stages, ends, (int)blockIdx.x, first_channel, min(64, p.head_dim - first_channel), (u64)blockIdx.z * p.tokens};
    if (threadIdx.x < 3 * STAGES) warpgroup_barrier_init(ends->loaded + threadIdx.x);
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        take_registers<104, true>();
        load_chunks(block);
    } else if (threadIdx.x < 2 * WARPGROUP) {
        take_registers<152, true>();
        score_chunks(block);
    } else {
        take_registers<240, false>();
        walk_chunks(block);
    }
}

#define SSD_PREFILL(NAME, T, PANELS, PARTS)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(3 * WARPGROUP, 1)                                                                                \
        NAME(const T* x, const T* dt, const T* b, const T* c, T* y, int x_stride, int dt_stride, int b_stride, int c_stride, int y_stride,        \
             const float* a, const float* d, const float* dt_bias, float dt_lo, float dt_hi, const float* gaps, u8* state, u64 state_stride,      \
             int state_is_half, int tokens, int heads, int head_dim, int groups, int d_state, int stages) {                                       \
        ssd_prefill<T, PANELS, PARTS>({x,       dt,    b,     c,    y,     x_stride,     dt_stride,     b_stride, c_stride, y_stride, a,       d,  \
                                       dt_bias, dt_lo, dt_hi, gaps, state, state_stride, state_is_half, tokens,   heads,    head_dim, groups, \
                                       d_state, stages});                                                                                     \
    }

// ssd_prefill_<type>_<d_state up to>
SSD_PREFILL(ssd_prefill_f32_64, float, 1, 2)
SSD_PREFILL(ssd_prefill_f32_128, float, 2, 2)
SSD_PREFILL(ssd_prefill_f32_256, float, 4, 2)
// The runtime's frames are f32. With bf16 operands the kernels compare with those of others: tests/peers/recurrences.cu.
#ifdef BROOKLET_BF16
SSD_PREFILL(ssd_prefill_bf16_128, bf16, 2, 1)
#endif
