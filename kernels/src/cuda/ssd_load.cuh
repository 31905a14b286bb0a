// Loading of chunks for ssd.cu: rows of b, c and x into a stage, pairs of bf16 of what is f32, and step sizes.
#pragma once
#include "ssd.cuh"

// Rows of T into panels side by side, asynchronously, 16 rows a warp. Of 16 numbers of f32 eight go where the high parts of all will be, in
// the same 32 bytes, and eight to the low parts. What lies beyond `rows` or `width` becomes zero. If `aligned`, rows lie on multiples of 16
// bytes.
template <int PANELS, class T, int PARTS>
static __device__ __forceinline__ void copy_rows(Panel (*to)[PARTS], const T* from, int stride, int rows, int width, bool aligned) {
    const int UNIT = 16 / sizeof(T), ACROSS = PANELS * 64 / UNIT, AT_ONCE = ACROSS < 32 ? 32 / ACROSS : 1;
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + (ACROSS < 32 ? lane / ACROSS : 0);
#pragma unroll
    for (int along = 0; along < ACROSS; along += 32) {
        const int unit = along + lane % ACROSS, column = unit * UNIT;
        const int column_there = PARTS == 1 ? column % 64 : (unit % 16 / 4 * 2 + unit % 2) * 8;
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
static __device__ __forceinline__ void prepare(Steps& steps, const Ssd<T>& p, float a, float bias, const T (&raw)[2],
                                               const float (&gap)[2]) {
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
    const bool x_aligned = ((u64)x | sizeof(T) * (p.x_stride | block.channels)) % 16 == 0;
    const bool bc_aligned = ((u64)b | (u64)c | sizeof(T) * (p.b_stride | p.c_stride | p.d_state)) % 16 == 0;
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
        warpgroup_wait(&block.ends->read[turn.stage], turn.parity ^ 1);
        if (turn.is_whole) copy_rows<PANELS>(s.c, c + (i64)first * p.c_stride, p.c_stride, rows, p.d_state, bc_aligned);
        warpgroup_wait(&block.ends->walked[turn.stage], turn.parity ^ 1);
        copy_rows<PANELS>(s.b, b + (i64)first * p.b_stride, p.b_stride, rows, p.d_state, bc_aligned);
        copy_rows<1>(&s.x, x + (i64)first * p.x_stride, p.x_stride, rows, block.channels, x_aligned);
        if (prepares) prepare(block.steps[turn.stage], p, a, bias, raw, gap);
        arrive_behind_copies(&block.ends->copied[turn.stage]);
        warpgroup_arrive(&block.ends->copied[turn.stage]);
        if constexpr (sizeof(T) == 4) {
            commit_copies();
            wait_copies<0>();
            __syncwarp();
            split_rows<PANELS>(s.b), split_rows<1>(&s.x);
            warpgroup_arrive(&block.ends->split[turn.stage]);
        }
    }
}
