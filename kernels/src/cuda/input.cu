// Compiled with --fmad=false: the bits of the CPU.
// Where a step meets the world: a token's row of the embedding, or a sensor frame, normalised, with something in the place of missing samples; outputs in the
// vocabulary's order.
#include "exact.cuh"
#include "matrix.cuh"

// out <- scale * table[token]; the rows that a matrix does not have are in the next of `pieces` matrices. `places` (rows of the table) says where each row
// lies, null if in order. Grid (ceil(d_model / 256), rows), block 256.
extern "C" __global__ void embed(Batch b, const Matrix* matrices, u32 table, u32 pieces, const u32* places, const u32* tokens, u32 out_at, float scale) {
    if (is_shut(b)) return;
    Matrix m = matrices[table];
    u32 col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y, token = places ? places[tokens[row]] : tokens[row];
    for (u32 piece = 1; piece < pieces && token >= m.rows; piece++) {
        token -= m.rows;
        m = matrices[table + piece];
    }
    if (col < m.cols) frame_of(b, row)[out_at + col] = weight_of(m, token, col) * scale;
}

// outputs[i] <- made[places[i]]: output i is made where row i of the head lies. made and outputs (rows, count). Grid (ceil(count / 256), rows), block 256.
extern "C" __global__ void into_order(const float* made, const u32* places, u32 count, float* outputs) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u64 row = (u64)blockIdx.y * count;
    if (i < count) outputs[row + i] = made[row + places[i]];
}

// out <- (sample - mean) * inv_std, samples (rows, channels). Grid (ceil(channels / 256), rows), block 256.
extern "C" __global__ void normalise(Batch b, const float* samples, u32 channels, const float* mean, const float* inv_std, u32 out_at) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (i < channels) frame_of(b, row)[out_at + i] = (samples[(u64)row * channels + i] - mean[i]) * inv_std[i];
}

// What stands in for a NaN: the last number (a slot of the state, (channels)), else `zeros`, (channels), else 0.
//
// Grid (ceil(channels / 256), streams), block 256; a thread walks its channel's tokens.
extern "C" __global__ void missing(Batch b, u32 x_at, u32 channels, u32 holds, u64 slot, const float* zeros) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (i >= channels) return;
    float* last = (float*)(state_of(b, stream) + slot) + i;
    float held = holds ? *last : zeros ? zeros[i] : 0.0f;
    for (u32 t = 0; t < b.tokens; t++) {
        float* x = frame_of(b, stream * b.tokens + t) + x_at + i;
        if (isnan(*x)) *x = held;
        if (holds) held = *x;
    }
    if (holds) *last = held;
}
