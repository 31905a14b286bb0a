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
// chunks into a ring of stages (ssd_load.cuh), one makes their scores (ssd_score.cuh: c . b, masked and decayed, with d on the diagonal),
// and one keeps the state. It has the state, transposed, as the sums of a product: (channels, d_state). So the state is the left operand of
// y's product as it is, and none but the first and the last passes through memory. y comes out transposed too: (channels, tokens).
//
// Heads that are fewer than multiprocessors are cut into segments of time, a block each, in a cluster (cluster.cuh). A block first makes of
// its chunks what they add to the state, which needs neither c nor scores, and how much they let it decay. Then the state before the first
// goes from block to block; and then each walks its chunks with the state that it was handed.
//
// With PARTS = 2, operands are pairs of bf16, high and low, and a product is three: errors of about 2^-16 instead of 2^-8. For f32 frames.
#include "ssd_load.cuh"
#include "ssd_score.cuh"

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
    const int token = threadIdx.x % 32 / 4, odd = threadIdx.x % 2;
    const int channel = threadIdx.x % WARPGROUP / 32 * 16 + odd * 8 + threadIdx.x % 4 / 2 * 4;
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
                const u32 pair = k < 2 ? fours[tile].x : fours[tile].y;
                if (token + tile * 8 < rows && channel + k < channels) to[k].bits = (u16)(pair >> k % 2 * 16);
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
    const Steps& steps = block.steps[turn.stage];
    block.wait_until_loaded(turn);
    const float decay = steps.entry[CHUNK - 1];
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
    if constexpr (!APART) weigh<PARTS>(weighted, x, steps);
    if constexpr (WHOLE) {
        await_products<0>();
#pragma unroll
        for (int i = 0; i < BATCH; i++) hold(before[i]);
        hold(y);
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            float2 entry = *(const float2*)&steps.entry[tile * 8 + lane % 4 * 2];
            y[tile][0] *= entry.x, y[tile][1] *= entry.y, y[tile][2] *= entry.x, y[tile][3] *= entry.y;
        }
    }
    T* to = p.y + (block.first_row + turn.chunk * CHUNK) * p.y_stride + block.head * p.head_dim + block.first_channel;
    // What the chunk's own tokens give, and the state behind it: h = decay * h + weighted x * b.
    warpgroup_wait(&block.ends->scored[turn.stage], turn.parity);
    warpgroup_arrive(&block.ends->read[turn.stage]);
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
        weigh<PARTS>(weighted, x, steps);
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
    if (CLUSTERS && p.segments > 1) {
#pragma unroll
        for (int i = 0; i < PANELS * 8; i++) {
            float(&sums)[4] = h[i / 8][i % 8];
            float4& carry = block.carry->sums[i / 8][i % 8][threadIdx.x % WARPGROUP];
            if (block.segment == 0) carry = make_float4(sums[0], sums[1], sums[2], sums[3]);
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

// Grid (heads * segments, ceil(head_dim / 64), streams), the segments of a head in one cluster; three warpgroups. d_state is at most
// 64 * PANELS; no segment is empty. Shared memory: as many stages as p.stages says (at least two of bf16), a Carry if there are segments,
// as many Steps as stages, then Ends.
template <class T, int PANELS>
static __device__ __forceinline__ void ssd_prefill(const Ssd<T>& p) {
    extern __shared__ __align__(1024) u8 ring[];
    Stage<T, PANELS>* stages = (Stage<T, PANELS>*)ring;
    Carry<PANELS>* carry = (Carry<PANELS>*)(stages + p.stages);
    Steps* steps = (Steps*)(carry + (p.segments > 1 ? 1 : 0));
    Ends* ends = (Ends*)(steps + p.stages);
    const int chunks = (p.tokens + CHUNK - 1) / CHUNK, each = (chunks + p.segments - 1) / p.segments;
    const int segment = blockIdx.x % p.segments, first_chunk = segment * each, first_channel = blockIdx.y * 64;
    const int channels = min(64, p.head_dim - first_channel), first_token = first_chunk * CHUNK;
    Block<T, PANELS> block = {p,
                              stages,
                              carry,
                              steps,
                              ends,
                              (int)blockIdx.x / p.segments,
                              first_channel,
                              channels,
                              segment,
                              min(each, chunks - first_chunk),
                              min(each * CHUNK, p.tokens - first_token),
                              (u64)blockIdx.z * p.tokens + first_token};
    if (threadIdx.x < 5 * STAGES) {
        // Each loader arrives once more behind its copies; two warpgroups make pairs.
        warpgroup_barrier_init(ends->copied + threadIdx.x, threadIdx.x < 2 * STAGES ? WARPGROUP : 0);
    } else if (p.segments > 1 && threadIdx.x < 5 * STAGES + 2 * PANELS) {
        cluster_barrier_init(ends->carried + threadIdx.x - 5 * STAGES);
    }
    __syncthreads();
    if (p.segments > 1) {
        if (threadIdx.x < 2 * PANELS) cluster_barrier_expect(ends->carried + threadIdx.x, sizeof(Carry<PANELS>) / (2 * PANELS));
        __syncwarp(); // The next instruction wants whole warps.
        cluster_arrive();
    }
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

#define SSD_PREFILL(NAME, T, PANELS)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(3 * WARPGROUP, 1)                                                                         \
        NAME(const T* x, const T* dt, const T* b, const T* c, T* y, int x_stride, int dt_stride, int b_stride, int c_stride, int y_stride, \
             const float* a, const float* d, const float* dt_bias, float dt_lo, float dt_hi, const float* gaps, u8* state,                 \
             u64 state_stride, int state_is_half, int tokens, int heads, int head_dim, int groups, int d_state, int stages, int segments) {\
        ssd_prefill<T, PANELS>({x, dt, b, c, y, x_stride, dt_stride, b_stride, c_stride, y_stride, a, d, dt_bias, dt_lo, dt_hi, gaps,      \
                                state, state_stride, state_is_half, tokens, heads, head_dim, groups, d_state, stages, segments});          \
    }

// ssd_prefill_<type>_<d_state up to>
SSD_PREFILL(ssd_prefill_f32_64, float, 1)
SSD_PREFILL(ssd_prefill_f32_128, float, 2)
SSD_PREFILL(ssd_prefill_f32_256, float, 4)
// The runtime's frames are f32. With bf16 operands the kernels compare with those of others: tests/peers/recurrences.cu.
#ifdef BROOKLET_BF16
SSD_PREFILL(ssd_prefill_bf16_128, bf16, 2)
#endif
