// Scores of chunks for ssd.cu: c . b of each token with those up to it, times decay and step size, and d on the diagonal.
#pragma once
#include "ssd.cuh"

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
static __device__ __forceinline__ void score_chunk(Stage<T, PANELS>& s, const Steps& steps, float d) {
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
        if (n == 0) decays(factors, steps);
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
        if (turn.is_whole) score_chunk(s, block.steps[turn.stage], d);
        warpgroup_arrive(&block.ends->scored[turn.stage]);
    }
}
