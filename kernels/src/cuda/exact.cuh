// Elementary functions and sums with the bits of the CPU: kernels/src/portable/act.rs and reduce.rs, operation by operation, in the same order. Sources
// that include this are compiled with --fmad=false: a product that is rounded once less is another number.
#pragma once
#include "common.cuh"

// 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the low mantissa bits.
#define ROUND 12582912.0f

static __device__ __forceinline__ float from_exponent(i32 n) { return __int_as_float((n + 127) << 23); }

// e^x.
static __device__ __forceinline__ float exp_of(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 1.44269504088896340736f + ROUND;
    i32 n = __float_as_int(shifted) - __float_as_int(ROUND);
    float n_f = shifted - ROUND;
    float r = (x - n_f * 0.6933594f) - n_f * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 0.5f;
    float e_r = (p * (r * r) + r) + 1.0f;
    i32 half = n >> 1;
    return e_r * from_exponent(half) * from_exponent(n - half);
}

// e^x - 1.
static __device__ __forceinline__ float expm1_of(float x) {
    float p = 1.9875691e-4f;
    p = p * x + 1.3981999e-3f;
    p = p * x + 8.333452e-3f;
    p = p * x + 4.1665796e-2f;
    p = p * x + 1.6666665e-1f;
    p = p * x + 0.5f;
    float near = p * (x * x) + x, far = exp_of(x) - 1.0f;
    return fabsf(x) < 0.3465736f ? near : far;
}

// ln(1 + u) for u >= 0.
static __device__ __forceinline__ float log1p_of(float u) {
    float w = 1.0f + u;
    float lost = w >= 2.0f ? 1.0f - (w - u) : u - (w - 1.0f);
    u32 bits = __float_as_uint(w) - 0x3f3504f3u;
    i32 k = (i32)bits >> 23;
    float m = __uint_as_float((bits & 0x007fffffu) + 0x3f3504f3u);
    float f = m - 1.0f;
    float s = f / (2.0f + f);
    float z = s * s, z2 = z * z;
    float r = z2 * (0.4000097f + z2 * 0.2427908f) + z * (0.6666666f + z2 * 0.28498787f);
    float half_f2 = 0.5f * f * f;
    float k_f = __uint_as_float((u32)k + __float_as_uint(ROUND)) - ROUND;
    return s * (half_f2 + r) + (k_f * 9.058001e-6f + lost / w) - half_f2 + f + k_f * 6.931381e-1f;
}

static __device__ __forceinline__ float softplus_of(float x) {
    float y = log1p_of(exp_of(x));
    return x > 20.0f ? x : y;
}

static __device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }

static __device__ __forceinline__ float silu_of(float x) { return x / (1.0f + exp_of(-x)); }

static __device__ __forceinline__ float tanh_of(float x) {
    float a = fabsf(x), z = x * x;
    float p = -5.7049887e-3f;
    p = p * z + 2.063909e-2f;
    p = p * z - 5.3739715e-2f;
    p = p * z + 1.3331442e-1f;
    p = p * z - 3.333328e-1f;
    float near = x + x * (z * p);
    float far = copysignf(1.0f - 2.0f / (exp_of(2.0f * a) + 1.0f), x);
    return a < 0.625f ? near : far;
}

static __device__ __forceinline__ float erf_of(float x) {
    float t = fabsf(x), s = x * x;
    float high = -1.7285347e-5f * t + 3.8319713e-4f;
    float low = -3.8839644e-3f * t + 2.4254622e-2f;
    float p = high * s + low;
    p = p * t - 1.0677788e-1f;
    p = p * t - 6.3484687e-1f;
    p = p * t - 1.2871751e-1f;
    float far = copysignf(1.0f - exp_of(p * t - t), x);
    float q = -5.967617e-4f;
    q = q * s + 4.9911942e-3f;
    q = q * s - 2.6768135e-2f;
    q = q * s + 1.12819925e-1f;
    q = q * s - 3.7612533e-1f;
    q = q * s + 1.2837917e-1f;
    return t > 0.9277344f ? far : q * x + x;
}

static __device__ __forceinline__ float gelu_of(float x) { return 0.5f * x * (1.0f + erf_of(x * 0.707106781186547524400844362104849039f)); }

static __device__ __forceinline__ float gelu_tanh_of(float x) {
    return 0.5f * x * (1.0f + tanh_of(0.7978846f * (x + 0.044715f * (x * x * x))));
}

// sin and cos on [-pi/4, pi/4].
static __device__ __forceinline__ void sin_cos_near(float x, float* s, float* c) {
    float z = x * x;
    *s = ((-1.9515296e-4f * z + 8.332161e-3f) * z - 1.6666655e-1f) * z * x + x;
    *c = ((2.4433157e-5f * z - 1.3887316e-3f) * z + 4.1666646e-2f) * (z * z) - 0.5f * z + 1.0f;
}

// sin and cos of turns / 2^32 of a full turn.
static __device__ __forceinline__ void sin_cos_of_turns(u32 turns, float* sine, float* cosine) {
    u32 quadrant = (turns + (1u << 29)) >> 30;
    i32 rest = (i32)(turns - (quadrant << 30));
    float s, c;
    sin_cos_near((float)rest * (6.28318530717958647692f / 4294967296.0f), &s, &c);
    switch (quadrant & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s; break;
    }
}

// sin and cos of full turns; from 2^20 on, where a float has few fractions left, those of whole turns.
static __device__ __forceinline__ void sin_cos_of_turn(float turns, float* sine, float* cosine) {
    turns = fabsf(turns) < 1048576.0f ? turns : 0.0f;
    float shifted = turns * 4.0f + ROUND;
    u32 quadrant = __float_as_uint(shifted);
    float rest = turns - 0.25f * (shifted - ROUND), s, c;
    sin_cos_near(rest * 6.28318530717958647692f, &s, &c);
    float s1 = quadrant & 1 ? c : s, c1 = quadrant & 1 ? -s : c;
    *sine = quadrant & 2 ? -s1 : s1;
    *cosine = quadrant & 2 ? -c1 : c1;
}

// The numbers of brooklet::ops::Activation.
enum Function { SILU = 0, SIGMOID, TANH, RELU_SQUARED, GELU, GELU_TANH, SCALE, SOFT_CAP, RELU, SQUARE, SQRT };

static __device__ __forceinline__ float function_of(u32 f, float parameter, float x) {
    switch (f) {
    case SILU: return silu_of(x);
    case SIGMOID: return sigmoid_of(x);
    case TANH: return tanh_of(x);
    case RELU_SQUARED: return x > 0.0f ? x * x : 0.0f;
    case GELU: return gelu_of(x);
    case GELU_TANH: return gelu_tanh_of(x);
    case SCALE: return parameter * x;
    case SOFT_CAP: return parameter * tanh_of(x / parameter);
    case RELU: return x > 0.0f ? x : 0.0f;
    case SQUARE: return x * x;
    default: return sqrtf(x > 0.0f ? x : 0.0f);
    }
}

// Adds sixteen partial sums, one in each lane of a half warp, by the CPU's tree; every lane of the half gets it.
static __device__ __forceinline__ float tree_of(float lane_sum) {
    for (int by = 8; by > 0; by >>= 1) lane_sum += __shfl_xor_sync(FULL, lane_sum, by);
    return lane_sum;
}

// Sum of `count` numbers term(i), the way the CPU adds up vectors: sixteen partial sums, then the tree. Called by a whole warp; both halves do the same.
template <typename Term>
static __device__ __forceinline__ float sum_of(u32 count, Term term) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x & 15; i < count; i += 16) sum += term(i);
    return tree_of(sum);
}
