// Causal depthwise convolution over time:
//
//   y[t][e] = act(bias[e] + sum_j weight[j][e] * x[t - (taps - 1) + j][e])
//
// where the inputs before the first token are the state: the last taps - 1 of the call before, oldest first. A thread walks a piece of
// time of one channel with the window in registers, so that every input is read once; neighbouring threads have neighbouring channels.
//
// In place, a piece would find the last inputs of the piece before overwritten: conv_halo saves them beforehand.
#include "recurrence.cuh"

template <class T>
struct Conv {
    const T* x;  // (tokens, channels)
    T* y;        // the same; may be x
    int x_stride, y_stride;
    const float* weight;  // (taps, channels), oldest tap first
    const float* bias;    // (channels) or null
    u8* state;            // (streams, taps - 1, channels) f32, streams `state_stride` bytes apart
    u64 state_stride;
    T* halo;  // (streams, pieces, taps - 1, channels): the last inputs of each piece; null if y is not x or there is one piece
    int tokens, channels, taps, silu, piece;  // `piece`: tokens a thread walks, at least taps - 1
};

// Grid (ceil(channels / 128), pieces, streams), block 128.
template <class T>
static __device__ __forceinline__ void conv_halo(const Conv<T>& p) {
    const int e = blockIdx.x * 128 + threadIdx.x, kept = p.taps - 1;
    if (e >= p.channels) return;
    const int end = min(((int)blockIdx.y + 1) * p.piece, p.tokens);
    const u64 first_row = (u64)blockIdx.z * p.tokens, slot = (u64)blockIdx.z * gridDim.y + blockIdx.y;
    for (int j = 0; j < kept; j++) p.halo[(slot * kept + j) * p.channels + e] = p.x[(first_row + end - kept + j) * p.x_stride + e];
}

// Grid (ceil(channels / 128), pieces, streams), block 128. With one piece of one token: a step.
template <class T, int TAPS>
static __device__ __forceinline__ void conv(const Conv<T>& p) {
    const int e = blockIdx.x * 128 + threadIdx.x, KEPT = TAPS - 1, AHEAD = 8;
    if (e >= p.channels) return;
    const int begin = blockIdx.y * p.piece, end = min(begin + p.piece, p.tokens);
    const u64 first_row = (u64)blockIdx.z * p.tokens;
    const T* x = p.x + first_row * p.x_stride + e;
    T* y = p.y + first_row * p.y_stride + e;
    float* state = (float*)(p.state + blockIdx.z * p.state_stride) + e;
    const T* halo = p.halo ? p.halo + (u64)blockIdx.z * gridDim.y * KEPT * p.channels + e : (const T*)0;
    float weight[TAPS], window[TAPS];  // the last of the window is the newest
#pragma unroll
    for (int j = 0; j < TAPS; j++) weight[j] = p.weight[j * p.channels + e];
    const float bias = p.bias ? p.bias[e] : 0.0f;
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        if (begin == 0) {
            window[j + 1] = state[j * p.channels];
        } else if (halo) {
            window[j + 1] = to_f32(halo[((u64)(blockIdx.y - 1) * KEPT + j) * p.channels]);
        } else {
            window[j + 1] = to_f32(x[(u64)(begin - KEPT + j) * p.x_stride]);
        }
    }
    for (int t = begin; t < end; t += AHEAD) {
        float next[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) next[k] = t + k < end ? to_f32(x[(u64)(t + k) * p.x_stride]) : 0.0f;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (t + k >= end) break;
#pragma unroll
            for (int j = 0; j < KEPT; j++) window[j] = window[j + 1];
            window[KEPT] = next[k];
            float sum = bias;
#pragma unroll
            for (int j = 0; j < TAPS; j++) sum += weight[j] * window[j];
            from_f32(p.silu ? silu(sum) : sum, y[(u64)(t + k) * p.y_stride]);
        }
    }
    // The first piece has read the state, so that it also writes it.
    if (begin != 0) return;
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        float last = window[j + 1];
        if (end < p.tokens) {
            last = to_f32(halo ? halo[((u64)(gridDim.y - 1) * KEPT + j) * p.channels] : x[(u64)(p.tokens - KEPT + j) * p.x_stride]);
        }
        state[j * p.channels] = last;
    }
}

#define CONV_PARAMETERS(T)                                                                                                      \
    const T *x, T *y, int x_stride, int y_stride, const float *weight, const float *bias, u8 *state, u64 state_stride, T *halo, \
        int tokens, int channels, int taps, int silu, int piece, const u32 *gate
#define CONV_OPERANDS(T) \
    Conv<T> p = {x, y, x_stride, y_stride, weight, bias, state, state_stride, halo, tokens, channels, taps, silu, piece}

// conv_<type>_<taps>
#define CONV(NAME, T, TAPS)                                                      \
    extern "C" __global__ void __launch_bounds__(128) NAME(CONV_PARAMETERS(T)) { \
        if (gate && *gate == 0) return;                                          \
        CONV_OPERANDS(T);                                                        \
        conv<T, TAPS>(p);                                                        \
    }
#define CONV_HALO(NAME, T)                                                       \
    extern "C" __global__ void __launch_bounds__(128) NAME(CONV_PARAMETERS(T)) { \
        if (gate && *gate == 0) return;                                          \
        CONV_OPERANDS(T);                                                        \
        conv_halo<T>(p);                                                         \
    }

CONV(conv_f32_2, float, 2)
CONV(conv_f32_3, float, 3)
CONV(conv_f32_4, float, 4)
CONV(conv_f32_5, float, 5)
CONV(conv_f32_6, float, 6)
CONV(conv_f32_7, float, 7)
CONV(conv_f32_8, float, 8)
CONV_HALO(conv_halo_f32, float)
