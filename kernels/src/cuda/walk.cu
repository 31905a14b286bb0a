// Compiled with --fmad=false: the bits of the CPU.
// Recurrences of any shape, token by token: the general road. Common shapes have faster ones, of the same bits: exact_conv.cu, exact_scan.cu and
// exact_ssd.cu.
#include "walk.cuh"

// Causal depthwise convolution in place: kernels/src/portable/conv.rs. Weight (taps, channels), slot (taps - 1, channels), oldest first.
//
// Grid (ceil(channels / 128), streams), block 128; a thread walks its channel's tokens.
extern "C" __global__ void walk_conv1d(Batch b, u32 x_at, u32 channels, u32 taps, u32 has_silu, const float* weight, const float* bias, u64 slot) {
    u32 c = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (c >= channels || is_shut(b)) return;
    float* state = (float*)(state_of(b, stream) + slot) + c;
    for (u32 t = 0; t < b.tokens; t++) {
        float* x = frame_of(b, stream * b.tokens + t) + x_at + c;
        float newest = *x, acc = bias ? bias[c] : 0.0f;
        for (u32 tap = 0; tap + 1 < taps; tap++) {
            acc += weight[(u64)tap * channels + c] * state[(u64)tap * channels];
            state[(u64)tap * channels] = tap + 2 < taps ? state[(u64)(tap + 1) * channels] : newest;
        }
        acc += weight[(u64)(taps - 1) * channels + c] * newest;
        *x = has_silu ? silu_of(acc) : acc;
    }
}

// Numbers of a state that are loaded before the first of them is stored: the compiler cannot know that they are not the same.
#define AHEAD 16

// Selective scan (Mamba): kernels/src/portable/scan.rs. Grid (ceil(channels / 64), streams), block 64; a thread walks its channel's tokens.
extern "C" __global__ void walk_scan(Batch b, ScanShape s) {
    u32 c = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (c >= s.channels || is_shut(b)) return;
    u8* state = state_of(b, stream) + s.slot;
    u32 head = c / (s.channels / s.heads);
    for (u32 t = 0; t < b.tokens; t++) {
        u32 row = stream * b.tokens + t;
        float* frame = frame_of(b, row);
        float x = frame[s.x + c], dt = softplus_of(frame[s.dt + c] + s.dt_bias[c]) * gap_of(b, row), dx = dt * x, sum = 0.0f;
        const float *bs = frame + s.b + head * s.d_state, *cs = frame + s.c + head * s.d_state;
        for (u32 n = 0; n < s.d_state; n += AHEAD) {
            // All loads come before the first store: none waits for another.
            float h[AHEAD], a[AHEAD], bn[AHEAD], cn[AHEAD];
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) {
                if (n + i >= s.d_state) continue;
                u64 at = (u64)(n + i) * s.channels + c;
                h[i] = read_state(state, at, s.is_half);
                a[i] = s.a[at];
                bn[i] = bs[n + i];
                cn[i] = cs[n + i];
            }
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) {
                if (n + i >= s.d_state) continue;
                h[i] = exp_of(dt * a[i]) * h[i] + dx * bn[i];
                sum += cn[i] * h[i];
                write_state(state, (u64)(n + i) * s.channels + c, s.is_half, h[i]);
            }
        }
        sum += s.d[c] * x;
        if (s.has_z) sum *= silu_of(frame[s.z + c]);
        frame[s.out + c] = sum;
    }
}

// State-space dual recurrence (Mamba-2): kernels/src/portable/ssd.rs. Grid (heads, streams), block: head_dim rounded up to whole warps, or 256
// for more; a thread walks its channels' tokens.
extern "C" __global__ void walk_ssd(Batch b, SsdShape s) {
    if (is_shut(b)) return;
    u32 head = blockIdx.x, stream = blockIdx.y, group = head / (s.heads / s.groups);
    u8* state = state_of(b, stream) + s.slot;
    for (u32 t = 0; t < b.tokens; t++) {
        u32 row = stream * b.tokens + t;
        float* frame = frame_of(b, row);
        float dt = softplus_of(frame[s.dt + head] + s.dt_bias[head]);
        dt = dt < s.dt_lo ? s.dt_lo : dt;
        dt = (dt > s.dt_hi ? s.dt_hi : dt) * gap_of(b, row);
        float decay = exp_of(dt * s.a[head]);
        const float *bs = frame + s.b + group * s.d_state, *cs = frame + s.c + group * s.d_state;
        for (u32 p = threadIdx.x; p < s.head_dim; p += blockDim.x) {
            float x = frame[s.x + head * s.head_dim + p], dx = dt * x, sum = 0.0f;
            for (u32 n = 0; n < s.d_state; n += AHEAD) {
                float h[AHEAD], bn[AHEAD], cn[AHEAD];
#pragma unroll
                for (u32 i = 0; i < AHEAD; i++) {
                    if (n + i >= s.d_state) continue;
                    h[i] = read_state(state, ((u64)head * s.d_state + n + i) * s.head_dim + p, s.is_half);
                    bn[i] = bs[n + i];
                    cn[i] = cs[n + i];
                }
#pragma unroll
                for (u32 i = 0; i < AHEAD; i++) {
                    if (n + i >= s.d_state) continue;
                    h[i] = decay * h[i] + dx * bn[i];
                    sum += cn[i] * h[i];
                    write_state(state, ((u64)head * s.d_state + n + i) * s.head_dim + p, s.is_half, h[i]);
                }
            }
            sum += s.d[head] * x;
            if (s.has_gate) sum *= silu_of(frame[s.z + head * s.head_dim + p]);
            frame[s.out + head * s.head_dim + p] = sum;
        }
    }
}

// Gated delta rule: kernels/src/portable/gated_delta.rs. Grid (heads, streams), block: whole warps. A thread walks its value channels'
// tokens.
extern "C" __global__ void walk_gated_delta(Batch b, DeltaShape s) {
    if (is_shut(b)) return;
    u32 head = blockIdx.x, stream = blockIdx.y, key = head / (s.heads / s.key_heads) * s.key_dim;
    u8* state = state_of(b, stream) + s.slot;
    u64 first = (u64)head * s.key_dim * s.value_dim;
    for (u32 t = 0; t < b.tokens; t++) {
        float* frame = frame_of(b, stream * b.tokens + t);
        const float *k = frame + s.k + key, *q = frame + s.q + key;
        float decay = exp_of(s.decay[head] * softplus_of(frame[s.a + head] + s.dt_bias[head]));
        float beta = s.beta_scale * sigmoid_of(frame[s.b + head]);
        // Every warp adds up the same.
        float k_factor = 1.0f / sqrtf(sum_of(s.key_dim, [&](u32 n) { return k[n] * k[n]; }) + s.eps);
        float q_factor = 1.0f / sqrtf(sum_of(s.key_dim, [&](u32 n) { return q[n] * q[n]; }) + s.eps) * s.scale;
        for (u32 p = threadIdx.x; p < s.value_dim; p += blockDim.x) {
            float held = 0.0f;
            for (u32 n = 0; n < s.key_dim; n++) held += k[n] * (read_state(state, first + (u64)n * s.value_dim + p, s.is_half) * decay);
            float change = beta * (frame[s.v + head * s.value_dim + p] - k_factor * held) * k_factor, sum = 0.0f;
            for (u32 n = 0; n < s.key_dim; n++) {
                u64 at = first + (u64)n * s.value_dim + p;
                float h = read_state(state, at, s.is_half) * decay + k[n] * change;
                sum += q[n] * h;
                write_state(state, at, s.is_half, h);
            }
            frame[s.out + head * s.value_dim + p] = sum * q_factor;
        }
    }
}
