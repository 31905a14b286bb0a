// Compiled with --fmad=false: the bits of the CPU.
// One step of the gated recurrent cells, around their recurrent products: kernels/src/portable/gates.rs. Batches have one token of each stream.
#include "exact.cuh"

// out <- the previous output, the first `hidden` numbers of the slot: what the recurrent product multiplies. Grid (ceil(hidden / 128), streams), block 128.
extern "C" __global__ void recall(Batch b, u32 out_at, u32 hidden, u64 slot) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (i < hidden && !is_shut(b)) frame_of(b, stream)[out_at + i] = ((const float*)(state_of(b, stream) + slot))[i];
}

// LSTM: input and recurrent (4, hidden) ordered i, f, g, o; slot (2, hidden): the output, then the cell. Grid (ceil(hidden / 128), streams), block 128.
extern "C" __global__ void lstm(Batch b, u32 input, u32 recurrent, u32 out_at, u32 hidden, u64 slot) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (i >= hidden || is_shut(b)) return;
    float* frame = frame_of(b, stream);
    float* state = (float*)(state_of(b, stream) + slot);
    float gates[4];
    for (u32 part = 0; part < 4; part++) gates[part] = frame[input + part * hidden + i] + frame[recurrent + part * hidden + i];
    float cell = sigmoid_of(gates[1]) * state[hidden + i] + sigmoid_of(gates[0]) * tanh_of(gates[2]);
    float h = sigmoid_of(gates[3]) * tanh_of(cell);
    state[hidden + i] = cell;
    state[i] = h;
    frame[out_at + i] = h;
}

// GRU: input and recurrent (3, hidden) ordered r, z, n; bias (hidden) or null; slot (hidden). Grid (ceil(hidden / 128), streams), block 128.
extern "C" __global__ void gru(Batch b, u32 input, u32 recurrent, u32 out_at, u32 hidden, const float* bias, u64 slot) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (i >= hidden || is_shut(b)) return;
    float* frame = frame_of(b, stream);
    float* state = (float*)(state_of(b, stream) + slot) + i;
    float r = frame[input + i] + frame[recurrent + i], z = frame[input + hidden + i] + frame[recurrent + hidden + i];
    float past = frame[recurrent + 2 * hidden + i] + (bias ? bias[i] : 0.0f);
    float n = tanh_of(frame[input + 2 * hidden + i] + sigmoid_of(r) * past);
    float h = n + sigmoid_of(z) * (*state - n);
    *state = h;
    frame[out_at + i] = h;
}
