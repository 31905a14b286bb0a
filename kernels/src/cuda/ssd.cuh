// What the warpgroups of ssd.cu share: operands, a chunk's stage in shared memory, a block's place and its way through the chunks.
#pragma once
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

// A chunk's operands in shared memory. (targets/cuda/src/launch/ssd.rs has the same sizes.)
template <class T, int PANELS>
struct Stage {
    static const int PARTS = sizeof(T) / 2;
    Panel b[PANELS][PARTS], c[PANELS][PARTS];  // (tokens, d_state)
    Panel x[PARTS];                            // (tokens, channels)
    Panel scores[PARTS];                       // (tokens, tokens before)
};

// The state before a segment, as the threads of a warpgroup have it in their sums.
template <int PANELS>
struct Carry {
    float4 sums[PANELS][8][WARPGROUP];
};

// Ends of the work on each stage (`read` of that with c), and of the arrival of each half of a panel of the carry.
struct Ends {
    u64 copied[STAGES], split[STAGES], scored[STAGES], read[STAGES], walked[STAGES], carried[8];
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
    Steps* steps;  // of each stage
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
