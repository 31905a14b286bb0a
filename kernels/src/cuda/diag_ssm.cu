// Compiled with --fmad=false: the bits of the CPU.
// Diagonal state-space models: complex modes that do not see each other (S4D, S5, Hyena's poles): kernels/src/portable/diag.rs.
#include "exact.cuh"

// The numbers of brooklet::ops::Stepping.
enum Stepping { FIXED = 0, HOLD = 1, BILINEAR = 2, IMPULSE = 3 };

// e^(re + 2 pi i turns) - 1, without the cancellation near zero.
static __device__ void exp_minus_one(float re, float turns, float* e_re, float* e_im) {
    float s, c, grown = expm1_of(re);
    sin_cos_of_turn(0.5f * turns, &s, &c);
    float fallen = 2.0f * s * s;
    *e_re = grown * (1.0f - fallen) - fallen;
    *e_im = (grown + 1.0f) * (2.0f * s * c);
}

// Beyond these the value below is -2 to the last bit, and its squares would overflow.
static __device__ __forceinline__ float clamp(float x) { return x < -1.0e15f ? -1.0e15f : x > 1.0e15f ? 1.0e15f : x; }

// z / (1 - z/2) of z = re + 2 pi i turns.
static __device__ void bilinear_minus_one(float re, float turns, float* e_re, float* e_im) {
    re = clamp(re);
    float im = clamp(turns * 6.28318530717958647692f);
    float den_re = 1.0f - 0.5f * re, den_im = -0.5f * im, inverse = 1.0f / (den_re * den_re + den_im * den_im);
    *e_re = (re * den_re + im * den_im) * inverse;
    *e_im = (im * den_re - re * den_im) * inverse;
}

// Slot (modes, 2, channels), a and c likewise; c and d may be null. x (channels), or (2, channels) if it is complex; out (channels), or the states without c.
//
// Grid (ceil(channels / 64), streams), block 64; a thread walks its channel's tokens.
extern "C" __global__ void diag_ssm(Batch b, u32 x_at, u32 is_complex, u32 out_at, u32 channels, u32 modes, u32 stepping, const float* a,
                                    const float* c, const float* d, u64 slot) {
    u32 h = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (h >= channels || is_shut(b)) return;
    float* state = (float*)(state_of(b, stream) + slot);
    for (u32 t = 0; t < b.tokens; t++) {
        u32 row = stream * b.tokens + t;
        float* frame = frame_of(b, row);
        float gap = gap_of(b, row), x_re = frame[x_at + h], x_im = is_complex ? frame[x_at + channels + h] : 0.0f, sum = 0.0f;
        bool is_held = stepping == HOLD || stepping == BILINEAR;
        for (u32 n = 0; n < modes; n++) {
            u64 re = (u64)2 * n * channels + h, im = re + channels;
            float e_re = a[re], e_im = a[im], s_re = state[re], s_im = state[im];
            if (stepping == BILINEAR) bilinear_minus_one(a[re] * gap, a[im] * gap, &e_re, &e_im);
            else if (stepping != FIXED) exp_minus_one(a[re] * gap, a[im] * gap, &e_re, &e_im);
            float t_re = is_held ? s_re + x_re : s_re, t_im = is_held ? s_im + x_im : s_im;
            s_re += e_re * t_re - e_im * t_im;
            s_im += e_re * t_im + e_im * t_re;
            if (!is_held) {
                s_re += x_re;
                s_im += x_im;
            }
            state[re] = s_re;
            state[im] = s_im;
            if (c) sum += c[re] * s_re - c[im] * s_im;
            else {
                frame[out_at + re] = s_re;
                frame[out_at + im] = s_im;
            }
        }
        if (c) frame[out_at + h] = d ? sum + d[h] * x_re : sum;
    }
}
