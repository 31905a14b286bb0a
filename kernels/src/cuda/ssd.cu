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
// chunks into a ring of stages, one makes their scores (c . b, masked and decayed, with d on the diagonal), and one keeps the state. It has the state, transposed, as the sums of a product: (channels, d_state). So the state is the left operand of y's product as it
// is, and none but the first and the last passes through memory. y comes out transposed too: (channels, tokens).
//
// Heads that are fewer than multiprocessors are cut into segments of time, a block each, in a cluster (cluster.cuh). A block first makes of
// its chunks what they add to the state, which needs neither c nor scores, and how much they let it decay. Then the state before the first
// goes from block to block; and then each walks its chunks with the state that it was handed.
//
// With PARTS = 2, operands are pairs of bf16, high and low, and a product is three: errors of about 2^-16 instead of 2^-8. For f32 frames.
#include "cluster.cuh"
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
    int state_is_half, tokens, heads, head_dim, groups, d_state, stages, segments;
};

// What a chunk's step sizes become.
struct Steps {
    float reach[96];      // decay from behind token j to each later sixteen of the chunk, times dt: 16, 32 and 48 tokens before them
    float cum[CHUNK];     // log2 of the decay from the chunk's start up to and with this token
    float step[CHUNK];    // dt
    float weight[CHUNK];  // decay from behind this token to the chunk's end, times dt
    float entry[CHUNK];   // 2^cum
};

// All of a chunk that is in shared memory. (targets/cuda/src/launch/ssd.rs has the same sizes.)
template <class T, int PANELS>
struct Stage {
    static const int PARTS = sizeof(T) / 2;
    Panel b[PANELS][PARTS], c[PANELS][PARTS];  // (tokens, d_state)
    Panel x[PARTS];                            // (tokens, channels)
    Panel scores[PARTS];                       // (tokens, tokens before)
    Steps steps;
};

// The state before a segment, as the threads of a warpgroup have it in their sums.
template <int PANELS>
struct Carry {
    float4 sums[PANELS][8][WARPGROUP];
};

// Ends of the work on each stage, and of the arrival of each half of a panel of the carry.
struct Ends {
    u64 copied[STAGES], split[STAGES], scored[STAGES], walked[STAGES], carried[8];
};

// A block's way through its chunks and its ring. If another block waits for the state behind them it goes twice, first for that alone.
struct Turn {
    int chunks, stages;
    bool is_whole;
    int chunk = 0, stage = 0, parity = 0;  // parity: how often the ring has gone round, modulo 2
    __device__ __forceinline__ bool is_left() const { return chunk < chunks; }
    __device__ __forceinline__ void next() {
        if (++chunk == chunks && !is_whole) chunk = 0, is_whole = true;
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

// A block's place: 64 channels of a head and a segment of time, in one stream.
template <class T, int PANELS>
struct Block {
    const Ssd<T>& p;
    Stage<T, PANELS>* stages;
    Carry<PANELS>* carry;
    Ends* ends;
    int head, first_channel, channels, segment, chunks, tokens;
    u64 first_row;
    __device__ __forceinline__ bool is_last() const { return segment + 1 == p.segments; }
    __device__ __forceinline__ Turn first_turn() const { return {chunks, p.stages, is_last()}; }
    // Until operands can be multiplied.
    __device__ __forceinline__ void wait_until_loaded(const Turn& turn) const {
        warpgroup_wait(sizeof(T) == 2 ? &ends->copied[turn.stage] : &ends->split[turn.stage], turn.parity);
        show_products();
    }
};


// ---- loading --------------------------------------------------------------------------------------------------------------------

// Rows of T into panels side by side, asynchronously, 16 rows a warp. Of 16 numbers of f32 eight go where the high parts of all will be, in
// the same 32 bytes, and eight to the low parts. What lies beyond `rows` or `width` becomes zero. If `aligned`, rows lie on multiples of 16
// bytes.
template <int PANELS, class T, int PARTS>
static __device__ __forceinline__ void copy_rows(Panel (*to)[PARTS], const T* from, int stride, int rows, int width, bool aligned) {
    const int UNIT = 16 / sizeof(T), ACROSS = PANELS * 64 / UNIT, AT_ONCE = ACROSS < 32 ? 32 / ACROSS : 1;
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + (ACROSS < 32 ? lane / ACROSS : 0);
#pragma unroll
    for (int along = 0; along < ACROSS; along += 32) {
        const int unit = along + lane % ACROSS, column = unit * UNIT, column_there = PARTS == 1 ? column % 64 : (unit % 16 / 4 * 2 + unit % 2) * 8;
        Panel& panel = to[column / 64][unit / 2 % PARTS];
        const T* source = from + (i64)first * stride + column;
        if (aligned) {
            const bool inside = column < width;
#pragma unroll
            for (int i = 0; i < 16; i += AT_ONCE, source += AT_ONCE * stride) {
                copy16_async(panel.numbers + place(first + i, column_there), inside ? source : from, inside && first + i < rows ? 16 : 0);
            }
        } else {
#pragma unroll 1
            for (int i = 0; i < 16; i += AT_ONCE, source += AT_ONCE * stride) {
                T* here = (T*)(panel.numbers + place(first + i, column_there));
                for (int k = 0; k < UNIT; k++) here[k] = first + i < rows && column + k < width ? source[k] : T{};
            }
        }
    }
}

// Makes pairs of 16 rows of f32 a warp, 16 numbers a lane at a time. Eight lanes, which are served together, have two rows and meet no bank
// twice.
template <int PANELS>
static __device__ __forceinline__ void split_rows(Panel (*panels)[2]) {
    const int AT_ONCE = 8 / PANELS, STEPS = 16 / AT_ONCE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32;
    const int first = warp * 16 + lane / 8 / PANELS * 2 + lane / 4 % 2, column = lane % 4 * 16;
    Panel(&pair)[2] = panels[lane / 8 % PANELS];
    auto fours = [&](int step, int k) { return (uint4*)(pair[k / 2].numbers + place(first + step * AT_ONCE, column + k % 2 * 8)); };
    float4 next[4];
#pragma unroll
    for (int k = 0; k < 4; k++) next[k] = *(const float4*)fours(0, k);
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        u32 parts[8][2];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float4 v = next[k];
            if (i + 1 < STEPS) next[k] = *(const float4*)fours(i + 1, k);
            split<2>(parts[2 * k], v.x, v.y), split<2>(parts[2 * k + 1], v.z, v.w);
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const u32(*from)[2] = parts + k % 2 * 4;
            *fours(i, k) = make_uint4(from[0][k / 2], from[1][k / 2], from[2][k / 2], from[3][k / 2]);
        }
    }
}

// The step sizes of a chunk, two tokens a lane.
template <class T>
static __device__ __forceinline__ void prepare(Steps& steps, const Ssd<T>& p, float a, float bias, const T (&raw)[2], const float (&gap)[2]) {
    const int lane = threadIdx.x % 32;
    float step[2], cum[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        // Behind the last token nothing decays and nothing enters: its gap is 0.
        step[k] = gap[k] == 0.0f ? 0.0f : fminf(fmaxf(softplus(to_f32(raw[k]) + bias), p.dt_lo), p.dt_hi) * gap[k];
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
#pragma unroll
    for (int sixteen = 1; sixteen < 4; sixteen++) {
        const float middle = __shfl_sync(FULL, cum[1], sixteen * 8 - 1);
        const float2 reach = make_float2(exp2_approx(middle - cum[0]) * step[0], exp2_approx(middle - cum[1]) * step[1]);
        if (lane < sixteen * 8) *(float2*)&steps.reach[8 * sixteen * (sixteen - 1) + 2 * lane] = reach;
    }
    *(float2*)&steps.cum[2 * lane] = make_float2(cum[0], cum[1]);
    *(float2*)&steps.step[2 * lane] = make_float2(step[0], step[1]);
    *(float2*)&steps.weight[2 * lane] = make_float2(exp2_approx(last - cum[0]) * step[0], exp2_approx(last - cum[1]) * step[1]);
    *(float2*)&steps.entry[2 * lane] = make_float2(exp2_approx(cum[0]), exp2_approx(cum[1]));
}

template <class T, int PANELS>
static __device__ __forceinline__ void load_chunks(const Block<T, PANELS>& block) {
    const Ssd<T>& p = block.p;
    const int lane = threadIdx.x % 32, group = block.head / (p.heads / p.groups);
    const T* x = p.x + block.first_row * p.x_stride + block.head * p.head_dim + block.first_channel;
    const T *b = p.b + block.first_row * p.b_stride + group * p.d_state, *c = p.c + block.first_row * p.c_stride + group * p.d_state;
    const T* dt = p.dt + block.first_row * p.dt_stride + block.head;
    const bool x_aligned = ((u64)x | (u64)p.x_stride * sizeof(T) | (u64)block.channels * sizeof(T)) % 16 == 0;
    const bool bc_aligned = ((u64)b | (u64)c | (u64)p.b_stride * sizeof(T) | (u64)p.c_stride * sizeof(T) | (u64)p.d_state * sizeof(T)) % 16 == 0;
    const float a = p.a[block.head] * LOG2_E, bias = p.dt_bias[block.head];
#pragma unroll 1
    for (Turn turn = block.first_turn(); turn.is_left(); turn.next()) {
        Stage<T, PANELS>& s = block.stages[turn.stage];
        const int first = turn.chunk * CHUNK, rows = block.tokens - first;
        const bool prepares = turn.chunk % 4 == threadIdx.x / 32;  // Warps prepare step sizes in turn.
        T raw[2] = {};
        float gap[2] = {};
        if (prepares) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int t = first + 2 * lane + k;
                if (t < block.tokens) raw[k] = dt[(i64)t * p.dt_stride], gap[k] = p.gaps ? p.gaps[block.first_row + t] : 1.0f;
            }
        }
        warpgroup_wait(&block.ends->walked[turn.stage], turn.parity ^ 1);
        copy_rows<PANELS>(s.b, b + (i64)first * p.b_stride, p.b_stride, rows, p.d_state, bc_aligned);
        copy_rows<1>(&s.x, x + (i64)first * p.x_stride, p.x_stride, rows, block.channels, x_aligned);
        commit_copies();
        if (turn.is_whole) copy_rows<PANELS>(s.c, c + (i64)first * p.c_stride, p.c_stride, rows, p.d_state, bc_aligned);
        commit_copies();
        if (prepares) prepare(s.steps, p, a, bias, raw, gap);
        arrive_behind_copies(&block.ends->copied[turn.stage]);
        warpgroup_arrive(&block.ends->copied[turn.stage]);
        if constexpr (sizeof(T) == 4) {
            wait_copies<1>();
            __syncwarp();
            split_rows<PANELS>(s.b), split_rows<1>(&s.x);
            warpgroup_arrive(&block.ends->split[turn.stage]);
        }
    }
}

// ---- scores ---------------------------------------------------------------------------------------------------------------------

// What (c . b) is multiplied by: from each token to the tokens behind it decay and step size, else 0. A warp has sixteen tokens: the ones
// before them reach to its first, and decay goes on from there, both at most 1; among themselves they have each their own.
static __device__ __forceinline__ void decays(Sums& factors, const Steps& steps) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32, row = warp * 16 + lane / 4;
    const float middle = warp > 0 ? steps.cum[warp * 16 - 1] : 0.0f, cum_i[2] = {steps.cum[row], steps.cum[row + 8]};
    const float decay_i[2] = {exp2_approx(cum_i[0] - middle), exp2_approx(cum_i[1] - middle)};
    float own[2][4];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const int tile = k / 4, r = k / 2 % 2, j = warp * 16 + tile * 8 + lane % 4 * 2 + k % 2;
        own[tile][k % 4] = j <= row + r * 8 ? exp2_approx(cum_i[r] - steps.cum[j]) * steps.step[j] : 0.0f;
    }
    const float* reach = steps.reach + 8 * warp * (warp - 1) + lane % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < 8; tile++) {
        const float2 before = tile < 2 * warp ? *(const float2*)(reach + tile * 8) : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            factors[tile][k] = tile / 2 == warp ? own[tile % 2][k] : (k % 2 == 0 ? before.x : before.y) * decay_i[k / 2];
        }
    }
}

template <class T, int PANELS>
static __device__ __forceinline__ void score_chunk(Stage<T, PANELS>& s, float d) {
    const int PARTS = sizeof(T) / 2, BATCH = PANELS * PARTS <= 4 ? PANELS : 1;  // panels of c at once in registers
    const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32, row = warp * 16 + lane / 4;
    Sums dots = {}, factors = {};
#pragma unroll
    for (int n = 0; n < PANELS; n += BATCH) {
        Left left[BATCH][PARTS];
#pragma unroll
        for (int i = 0; i < BATCH; i++) load_left<PARTS>(left[i], s.c[n + i]), hold(left[i]);
        hold(dots);
        begin_products();
#pragma unroll
        for (int i = 0; i < BATCH; i++) multiply<false>(dots, left[i], s.b[n + i]);
        end_products();
        if (n == 0) decays(factors, s.steps);
        await_products<0>();
        hold(dots);
#pragma unroll
        for (int i = 0; i < BATCH; i++) hold(left[i]);
    }
    const float diagonal[2] = {lane / 4 == lane % 4 * 2 ? d : 0.0f, lane / 4 == lane % 4 * 2 + 1 ? d : 0.0f};
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int tile = i / 2, r = i % 2;
        const bool has_diagonal = r == tile % 2 && tile / 2 == warp;
        u32 parts[PARTS];
        split<PARTS>(parts, dots[tile][2 * r] * factors[tile][2 * r] + (has_diagonal ? diagonal[0] : 0.0f),
                     dots[tile][2 * r + 1] * factors[tile][2 * r + 1] + (has_diagonal ? diagonal[1] : 0.0f));
        const int at = place(row + r * 8, tile * 8 + lane % 4 * 2);
#pragma unroll
        for (int part = 0; part < PARTS; part++) *(u32*)(s.scores[part].numbers + at) = parts[part];
    }
}

template <class T, int PANELS>
static __device__ __forceinline__ void score_chunks(const Block<T, PANELS>& block) {
    const float d = block.p.d[block.head];
#pragma unroll 1
    for (Turn turn = block.first_turn(); turn.is_left(); turn.next()) {
        Stage<T, PANELS>& s = block.stages[turn.stage];
        if constexpr (sizeof(T) == 4) {
            warpgroup_wait(&block.ends->copied[turn.stage], turn.parity);
            if (turn.is_whole) split_rows<PANELS>(s.c);
            warpgroup_arrive(&block.ends->split[turn.stage]);
        }
        block.wait_until_loaded(turn);
        if (turn.is_whole) score_chunk(s, d);
        warpgroup_arrive(&block.ends->scored[turn.stage]);
    }
}

// ---- the state ------------------------------------------------------------------------------------------------------------------

// Each number of these channels' state, which is of type S, with its place.
template <class S, class T, int PANELS, class F>
static __device__ __forceinline__ void each_of_state(const Block<T, PANELS>& block, Sums (&h)[PANELS], F f) {
    const Ssd<T>& p = block.p;
    const int n = threadIdx.x % 4 * 2, channel = threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4;
    const bool valid[2] = {channel < block.channels, channel + 8 < block.channels};
    S* place = (S*)(p.state + blockIdx.z * p.state_stride) + ((i64)block.head * p.d_state + n) * p.head_dim + block.first_channel + channel;
#pragma unroll
    for (int tile = 0; tile < PANELS * 8; tile++, place += 8 * p.head_dim) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (n + tile * 8 + k % 2 < p.d_state && valid[k / 2]) f(place[k % 2 * p.head_dim + k / 2 * 8], h[tile / 8][tile % 8][k]);
        }
    }
}

// y of a chunk, (channels, tokens) as sums.
static __device__ __forceinline__ void store_y(float* to, int stride, const Sums& y, int rows, int channels) {
    const int token = threadIdx.x % 4 * 2, channel = threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4;
    to += (i64)token * stride + channel;
#pragma unroll
    for (int tile = 0; tile < 8; tile++, to += (i64)8 * stride) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (token + tile * 8 + k % 2 < rows && channel + k / 2 * 8 < channels) to[k % 2 * stride + k / 2 * 8] = y[tile][k];
        }
    }
}
// The same as bf16: matrices of 8 x 8 are turned, and lanes with neighbours exchange halves, so that four channels are written together.
static __device__ __forceinline__ void store_y(bf16* to, int stride, const Sums& y, int rows, int channels) {
    const int token = threadIdx.x % 32 / 4, odd = threadIdx.x % 2, channel = threadIdx.x % WARPGROUP / 32 * 16 + odd * 8 + threadIdx.x % 4 / 2 * 4;
    uint2 fours[8];
#pragma unroll
    for (int tile = 0; tile < 8; tile++) {
        u32 pairs[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            pairs[k] = pack_bf16(y[tile][2 * k], y[tile][2 * k + 1]);
            asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(pairs[k]));
        }
        u32 other = __shfl_xor_sync(FULL, odd ? pairs[0] : pairs[1], 1);
        fours[tile] = make_uint2(odd ? other : pairs[0], odd ? pairs[1] : other);
    }
    const bool aligned = (((u64)to | (u64)stride * 2 | (u64)channels * 2) & 7) == 0;
    to += (i64)token * stride + channel;
    if (aligned) {
        rows = channel < channels ? rows : 0;
#pragma unroll
        for (int tile = 0; tile < 8; tile++, to += (i64)8 * stride) {
            if (token + tile * 8 < rows) *(uint2*)to = fours[tile];
        }
    } else {
#pragma unroll
        for (int tile = 0; tile < 8; tile++, to += (i64)8 * stride) {
            for (int k = 0; k < 4; k++) {
                if (token + tile * 8 < rows && channel + k < channels) to[k].bits = (u16)((k < 2 ? fours[tile].x : fours[tile].y) >> k % 2 * 16);
            }
        }
    }
}

// x times what its tokens weigh in the state behind the chunk.
template <int PARTS>
static __device__ __forceinline__ void weigh(Left (&weighted)[PARTS], const Left (&x)[PARTS], const Steps& steps) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        float2 weight = *(const float2*)&steps.weight[i / 2 * 8 + threadIdx.x % 4 * 2];
        float low = low_bf16(x[0][i / 4][i % 4]), high = high_bf16(x[0][i / 4][i % 4]);
        if constexpr (PARTS == 2) low += low_bf16(x[1][i / 4][i % 4]), high += high_bf16(x[1][i / 4][i % 4]);
        u32 parts[PARTS];
        split<PARTS>(parts, low * weight.x, high * weight.y);
#pragma unroll
        for (int part = 0; part < PARTS; part++) weighted[part][i / 4][i % 4] = parts[part];
    }
}

// Takes the state through a chunk, and gives the chunk's y if it is WHOLE. How much of the state before is left.
template <bool WHOLE, class T, int PANELS>
static __device__ __forceinline__ float walk_chunk(const Block<T, PANELS>& block, const Turn& turn, Sums (&h)[PANELS]) {
    const int PARTS = sizeof(T) / 2, BATCH = PANELS * PARTS <= 4 ? PANELS : 1;  // panels of the state at once as operands
    const bool APART = PANELS > 2;  // A wide state leaves no registers for both products of x at once.
    const Ssd<T>& p = block.p;
    const int lane = threadIdx.x % 32;
    Stage<T, PANELS>& s = block.stages[turn.stage];
    block.wait_until_loaded(turn);
    const float decay = s.steps.entry[CHUNK - 1];
    // What the state before gives: y = h c. The state is then free to decay.
    Sums y = {};
    Left before[BATCH][PARTS];
    if constexpr (WHOLE) hold(y);
#pragma unroll
    for (int n = 0; n < PANELS; n += BATCH) {
        if (WHOLE && n > 0) await_products<0>();
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            if constexpr (WHOLE) split_sums<PARTS>(before[i], h[n + i]), hold(before[i]);
#pragma unroll
            for (int k = 0; k < 32; k++) h[n + i][k / 4][k % 4] *= decay;
            hold(h[n + i]);
        }
        if constexpr (WHOLE) {
            begin_products();
#pragma unroll
            for (int i = 0; i < BATCH; i++) multiply<false>(y, before[i], s.c[n + i]);
            end_products();
        }
    }
    if (WHOLE && BATCH < PANELS) await_products<0>();
    Left x[PARTS], weighted[PARTS];
    load_left_transposed<PARTS>(x, s.x);
    if constexpr (!APART) weigh<PARTS>(weighted, x, s.steps);
    if constexpr (WHOLE) {
        await_products<0>();
#pragma unroll
        for (int i = 0; i < BATCH; i++) hold(before[i]);
        hold(y);
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            float2 entry = *(const float2*)&s.steps.entry[tile * 8 + lane % 4 * 2];
            y[tile][0] *= entry.x, y[tile][1] *= entry.y, y[tile][2] *= entry.x, y[tile][3] *= entry.y;
        }
    }
    T* to = p.y + (block.first_row + turn.chunk * CHUNK) * p.y_stride + block.head * p.head_dim + block.first_channel;
    // What the chunk's own tokens give, and the state behind it: h = decay * h + weighted x * b.
    warpgroup_wait(&block.ends->scored[turn.stage], turn.parity);
    if constexpr (WHOLE) {
        show_products();
        hold(x), hold(y);
    }
    if constexpr (!APART) hold(weighted);
    begin_products();
    if constexpr (WHOLE) {
        multiply<false>(y, x, s.scores);
        end_products();
    }
    if constexpr (APART) {
        await_products<0>();
        hold(x), hold(y);
        if constexpr (WHOLE) store_y(to, p.y_stride, y, block.tokens - turn.chunk * CHUNK, block.channels);
        weigh<PARTS>(weighted, x, s.steps);
        hold(weighted);
        begin_products();
    }
#pragma unroll
    for (int n = 0; n < PANELS; n++) multiply<true>(h[n], weighted, s.b[n]);
    end_products();
    if constexpr (WHOLE && !APART) {
        await_products<1>();
        hold(x), hold(y);
        store_y(to, p.y_stride, y, block.tokens - turn.chunk * CHUNK, block.channels);
    }
    await_products<0>();
    hold(weighted);
#pragma unroll
    for (int n = 0; n < PANELS; n++) hold(h[n]);
    warpgroup_arrive(&block.ends->walked[turn.stage]);
    return decay;
}

// From block to block of a cluster: h, which this block's chunks have made of nothing, becomes the state before them, and the next block
// is sent the state behind them, of which `decay` of the one before is left.
template <class T, int PANELS>
static __device__ __forceinline__ void hand_on(const Block<T, PANELS>& block, Sums (&h)[PANELS], float decay) {
    const int thread = threadIdx.x % WARPGROUP;
    cluster_wait();
#pragma unroll
    for (int n = 0; n < PANELS; n++) {
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            if (tile % 4 == 0 && block.segment > 0) warpgroup_wait(&block.ends->carried[2 * n + tile / 4], 0);
            const float4 before = block.carry->sums[n][tile][thread];
            float(&sums)[4] = h[n][tile];
            if (!block.is_last()) {
                const float4 behind = make_float4(decay * before.x + sums[0], decay * before.y + sums[1],  //
                                                  decay * before.z + sums[2], decay * before.w + sums[3]);
                cluster_send(&block.carry->sums[n][tile][thread], behind, &block.ends->carried[2 * n + tile / 4], block.segment + 1);
            }
            sums[0] = before.x, sums[1] = before.y, sums[2] = before.z, sums[3] = before.w;
        }
    }
}

template <class T, int PANELS>
static __device__ __forceinline__ void walk_chunks(const Block<T, PANELS>& block) {
    const Ssd<T>& p = block.p;
    Sums h[PANELS] = {};
    if (block.segment == 0) {
        if (p.state_is_half) {
            each_of_state<u16>(block, h, [](u16& place, float& number) { number = half_to_float(place); });
        } else {
            each_of_state<float>(block, h, [](float& place, float& number) { number = place; });
        }
    }
    Turn turn = block.first_turn();
    if (p.segments > 1) {
#pragma unroll
        for (int i = 0; i < PANELS * 8; i++) {
            float(&sums)[4] = h[i / 8][i % 8];
            if (block.segment == 0) block.carry->sums[i / 8][i % 8][threadIdx.x % WARPGROUP] = make_float4(sums[0], sums[1], sums[2], sums[3]);
            sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
        }
        float decay = 1.0f;
#pragma unroll 1
        for (; !turn.is_whole; turn.next()) decay *= walk_chunk<false>(block, turn, h);
        hand_on(block, h, decay);
    }
#pragma unroll 1
    for (; turn.is_left(); turn.next()) walk_chunk<true>(block, turn, h);
    if (!block.is_last()) return;
    if (p.state_is_half) {
        each_of_state<u16>(block, h, [](u16& place, float number) { place = float_to_half(number); });
    } else {
        each_of_state<float>(block, h, [](float& place, float number) { place = number; });
    }
}

// Grid (heads * segments, ceil(head_dim / 64), streams), the segments of a head in one cluster; three warpgroups.
// d_state is at most 64 * PANELS; no segment is empty. Shared memory: as many stages as p.stages says, at least two of bf16, a Carry if there
// are segments, then Ends.
template <class T, int PANELS>
static __device__ __forceinline__ void ssd_prefill(const Ssd<T>& p) {
    extern __shared__ __align__(1024) u8 ring[];
    Stage<T, PANELS>* stages = (Stage<T, PANELS>*)ring;
    Carry<PANELS>* carry = (Carry<PANELS>*)(stages + p.stages);
    Ends* ends = (Ends*)(carry + (p.segments > 1 ? 1 : 0));
    const int chunks = (p.tokens + CHUNK - 1) / CHUNK, each = (chunks + p.segments - 1) / p.segments;
    const int segment = blockIdx.x % p.segments, first_chunk = segment * each, first_channel = blockIdx.y * 64;
    Block<T, PANELS> block = {p, stages, carry, ends, (int)blockIdx.x / p.segments, first_channel, min(64, p.head_dim - first_channel), segment,
                              min(each, chunks - first_chunk), min(each * CHUNK, p.tokens - first_chunk * CHUNK),
                              (u64)blockIdx.z * p.tokens + first_chunk * CHUNK};
    if (threadIdx.x < 4 * STAGES) {
        // Each loader arrives once more behind its copies; two warpgroups make pairs.
        const int others = threadIdx.x < STAGES ? WARPGROUP : threadIdx.x < 2 * STAGES ? 4 : 0;
        warpgroup_barrier_init(ends->copied + threadIdx.x, others);
    } else if (p.segments > 1 && threadIdx.x < 4 * STAGES + 2 * PANELS) {
        cluster_barrier_init(ends->carried + threadIdx.x - 4 * STAGES, sizeof(Carry<PANELS>) / (2 * PANELS));
    }
    __syncthreads();
    if (p.segments > 1) cluster_arrive();
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

#define SSD_PREFILL(NAME, T, PANELS)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(3 * WARPGROUP, 1)                                                                          \
        NAME(const T* x, const T* dt, const T* b, const T* c, T* y, int x_stride, int dt_stride, int b_stride, int c_stride, int y_stride,  \
             const float* a, const float* d, const float* dt_bias, float dt_lo, float dt_hi, const float* gaps, u8* state,                  \
             u64 state_stride, int state_is_half, int tokens, int heads, int head_dim, int groups, int d_state, int stages, int segments) { \
        ssd_prefill<T, PANELS>({x,        dt,    b,     c,    y,     x_stride,     dt_stride,     b_stride, c_stride, y_stride,             \
                                a,        d,     dt_bias, dt_lo, dt_hi, gaps,      state,         state_stride, state_is_half, tokens,      \
                                heads,    head_dim, groups, d_state, stages, segments});                                                    \
    }

// ssd_prefill_<type>_<d_state up to>
SSD_PREFILL(ssd_prefill_f32_64, float, 1)
SSD_PREFILL(ssd_prefill_f32_128, float, 2)
SSD_PREFILL(ssd_prefill_f32_256, float, 4)
// The runtime's frames are f32. With bf16 operands the kernels compare with those of others: tests/peers/recurrences.cu.
#ifdef BROOKLET_BF16
SSD_PREFILL(ssd_prefill_bf16_128, bf16, 2)
#endif
