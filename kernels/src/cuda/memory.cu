// Compiled with --fmad=false: the bits of the CPU.
// What a stream remembers of its inputs: windows, delay lines, summaries, parts of a frame. A thread walks its own numbers' tokens in order.
#include "exact.cuh"

// out <- the last numbers before x, then x: runtime/src/ops/window.rs. Slot (kept), oldest first.
//
// Grid (streams), block up to 1024.
extern "C" __global__ void window(Batch b, u32 x_at, u32 out_at, u32 width, u32 kept, u64 slot) {
    if (is_shut(b)) return;
    float* past = (float*)(state_of(b, blockIdx.x) + slot);
    for (u32 t = 0; t < b.tokens; t++) {
        float* frame = frame_of(b, blockIdx.x * b.tokens + t);
        for (u32 i = threadIdx.x; i < kept + width; i += blockDim.x) frame[out_at + i] = i < kept ? past[i] : frame[x_at + i - kept];
        __syncthreads();
        for (u32 i = threadIdx.x; i < kept; i += blockDim.x) past[i] = frame[out_at + width + i];
        __syncthreads();
    }
}

// out <- x of `steps` steps ago: runtime/src/ops/delay.rs. Slot (steps, width), a ring. Grid (ceil(width / 128), streams), block 128.
extern "C" __global__ void delay(Batch b, u32 x_at, u32 out_at, u32 width, u32 steps, u64 slot) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (i >= width || is_shut(b)) return;
    float* ring = (float*)(state_of(b, stream) + slot);
    for (u32 t = 0; t < b.tokens; t++) {
        float* frame = frame_of(b, stream * b.tokens + t);
        float* past = ring + position_of(b, stream, t) % steps * width + i;
        float x = frame[x_at + i];
        frame[out_at + i] = *past;
        *past = x;
    }
}

// out <- part p of x, p = position modulo the parts: runtime/src/ops/depth_to_time.rs. Slot (parts, width). Grid (ceil(width / 128), streams),
// block 128.
extern "C" __global__ void depth_to_time(Batch b, u32 x_at, u32 out_at, u32 width, u32 parts, u64 slot) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (i >= width || is_shut(b)) return;
    float* kept = (float*)(state_of(b, stream) + slot);
    for (u32 t = 0; t < b.tokens; t++) {
        float* frame = frame_of(b, stream * b.tokens + t);
        u32 part = (u32)(position_of(b, stream, t) % parts);
        if (part == 0)
            for (u32 p = 0; p < parts; p++) kept[p * width + i] = frame[x_at + p * width + i];
        frame[out_at + i] = kept[part * width + i];
    }
}

// x <- the mean of all steps, or with alpha > 0 a moving average: runtime/src/ops/pool.rs. Slot (width). Grid (ceil(width / 128), streams), block 128.
extern "C" __global__ void pool(Batch b, u32 x_at, u32 width, float alpha, u64 slot) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (i >= width || is_shut(b)) return;
    float* summary = (float*)(state_of(b, stream) + slot) + i;
    float p = *summary;
    for (u32 t = 0; t < b.tokens; t++) {
        u64 position = position_of(b, stream, t);
        float weight = alpha > 0.0f ? (position == 0 ? 1.0f : alpha) : 1.0f / (float)((u32)min(position, 1ull << 24) + 1);
        float* x = frame_of(b, stream * b.tokens + t) + x_at + i;
        p += weight * (*x - p);
        *x = p;
    }
    *summary = p;
}
