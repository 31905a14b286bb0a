// Times the three launches of a Mamba-2 layer's step on a GPU: 64 layers with weights of their own in one graph, as sessions capture them.
//
//     K=kernels/src/cuda
//     nvcc -std=c++17 -O3 -arch=sm_90 --fmad=false -I $K -c $K/matvec.cu && nvcc -std=c++17 -O3 -arch=sm_90 --fmad=false -I $K -c $K/exact_ssd.cu
//     nvcc -std=c++17 -O3 -arch=sm_90 -I $K -c tests/peers/layer.cu && nvcc -arch=sm_90 layer.o matvec.o exact_ssd.o -o layer && ./layer
//
// Weights are random bytes: what is timed, not what is computed. "Rounded before" leaves the norm and the rounding of a vector out, as if whoever
// made it had done both.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <vector>

#include "entering.cuh"
#include "product.cuh"
#include "walk.cuh"

extern "C" __global__ void matvec_4_one(Product product, Entering in, After after, u32 vectors, u32 pass_tile_rows);
extern "C" __global__ void exact_ssd_step_128(Batch b, SsdShape s);

#define CHECK(call)                                                        \
    do {                                                                   \
        cudaError_t error = (call);                                        \
        if (error != cudaSuccess) {                                        \
            printf("%s: %s\n", #call, cudaGetErrorString(error)), exit(1); \
        }                                                                  \
    } while (0)

// mamba2-2.7b.
const u32 LAYERS = 64, D_MODEL = 2560, D_INNER = 5120, D_STATE = 128, HEADS = 80, HEAD_DIM = 64, TAPS = 4;
const u32 CHANNELS = D_INNER + 2 * D_STATE, ROWS_IN = D_INNER + CHANNELS + HEADS;
// A frame: the residual stream, what the first product gives (gate, input, b, c, step sizes), what the recurrence gives.
const u32 Z = D_MODEL, X = Z + D_INNER, B = X + D_INNER, C = B + D_STATE, DT = C + D_STATE, Y = D_MODEL + ROWS_IN, FRAME = Y + D_INNER;

static __global__ void scramble(u32* words, u64 count, u32 seed) {
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
        u32 x = (u32)i * 2654435761u + seed;
        x ^= x >> 15, x *= 2246822519u, x ^= x >> 13;
        words[i] = x;
    }
}

// A table as the quantizer writes them, and scales that keep everything finite.
static __global__ void begin_matrix(u8* matrix, u32 tile_rows) {
    const signed char table[17] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113, 4};
    if (threadIdx.x < 17) matrix[threadIdx.x] = (u8)table[threadIdx.x];
    for (u32 row = threadIdx.x; row < tile_rows * 16; row += blockDim.x) ((float*)(matrix + 64))[row] = 1e-6f;
}

// A matrix (rows, cols) in 4 bits.
static u8* new_matrix(u32 rows, u32 cols, u32 seed) {
    u64 tile_rows = (rows + 15) / 16, tiles = tile_rows * (cols / 32), bytes = 64 + tile_rows * 64 + (tiles * 16 + 63) / 64 * 64 + tiles * 256;
    u8* matrix;
    CHECK(cudaMalloc(&matrix, bytes));
    scramble<<<512, 256>>>((u32*)matrix, bytes / 4, seed);
    begin_matrix<<<1, 256>>>(matrix, (u32)tile_rows);
    return matrix;
}

static float* new_numbers(u64 count, float size) {
    std::vector<float> numbers(count);
    for (u64 i = 0; i < count; i++) numbers[i] = size * (0.5f + (float)(i * 7919 % 101) / 101.0f);
    float* copy;
    CHECK(cudaMalloc(&copy, 4 * count));
    CHECK(cudaMemcpy(copy, numbers.data(), 4 * count, cudaMemcpyHostToDevice));
    return copy;
}

static u8* new_zeros(u64 bytes) {
    u8* zeros;
    CHECK(cudaMalloc(&zeros, bytes));
    CHECK(cudaMemset(zeros, 0, bytes));
    return zeros;
}

// Shared memory of a block, and how many tile rows it takes: targets/cuda/src/launch/matvec.rs.
static u32 room(u32 rows, u32 cols, bool is_made, u32 blocks, u32& tile_rows) {
    u32 groups = cols / 32, stride = ((cols + 63) / 64 * 4 + 31) / 32 * 32 + 4;
    tile_rows = ((rows + 15) / 16 + blocks - 1) / blocks;
    u32 rings = 16 * 2 * (8 * 272 + 8), vector = ((groups + 4) & ~1u) * 40, bases = 4 * 10 * std::min(tile_rows * 16, 512u);
    return rings + vector + 4 * 64 + bases + std::max(is_made ? 64 * stride : 0u, tile_rows * groups * 64);
}

template <class Kernel, class... Arguments>
static void queue(cudaStream_t stream, Kernel kernel, dim3 grid, u32 block, u32 shared, Arguments... arguments) {
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared, config.stream = stream;
    config.attrs = &overlap, config.numAttrs = 1;
    CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

struct Layer {
    u8 *in, *out, *state, *window;
    float *norm_in, *norm_out, *conv_weight, *conv_bias;
};

int main() {
    std::vector<Layer> layers;
    for (u32 i = 0; i < LAYERS; i++) {
        layers.push_back({new_matrix(ROWS_IN, D_MODEL, i), new_matrix(D_MODEL, D_INNER, i + LAYERS), new_zeros(4ull * HEADS * HEAD_DIM * D_STATE),
                          new_zeros(4ull * (TAPS - 1) * CHANNELS), new_numbers(D_MODEL, 1), new_numbers(D_INNER, 1),
                          new_numbers(TAPS * CHANNELS, 0.3f), new_numbers(CHANNELS, 0.1f)});
    }
    float *a = new_numbers(HEADS, -1), *d = new_numbers(HEADS, 1), *dt_bias = new_numbers(HEADS, -2), *frame = new_numbers(FRAME, 0.5f);
    i8* codes = (i8*)new_zeros(D_INNER);
    float* scales = new_numbers(D_INNER / 32, 0.01f);
    i32* sums = (i32*)new_zeros(D_INNER / 8);
    u64* position = (u64*)new_zeros(8);
    int processors;
    CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    CHECK(cudaFuncSetAttribute(matvec_4_one, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 * 1024));
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));

    auto time = [&](const char* name, bool with_in, bool with_recurrence, bool with_out, bool rounded_in, bool rounded_out) {
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        auto product = [&](const u8* matrix, u32 rows, u32 cols, const float* x, const float* weight, bool is_rounded, float* residual, float* out, float scale,
                           const After& after) {
            Entering in = {x, nullptr, weight, codes, scales, sums, FRAME, FRAME, (u32)(is_rounded ? ROUNDED : RMS), 1, 0, 1e-5f};
            Product p = {matrix, nullptr, residual, out, nullptr, rows, cols, FRAME, FRAME, scale};
            u32 tile_rows, shared = room(rows, cols, !is_rounded, processors, tile_rows);
            queue(stream, matvec_4_one, processors, 512, shared, p, in, after, 1u, tile_rows);
        };
        for (const Layer& layer : layers) {
            After conv = {layer.conv_weight, layer.conv_bias, layer.window, 0, D_INNER, CHANNELS, TAPS, 1, 0};
            if (with_in) product(layer.in, ROWS_IN, D_MODEL, frame, layer.norm_in, rounded_in, nullptr, frame + Z, 1, conv);
            if (with_recurrence) {
                Batch batch = {};
                batch.frames = frame, batch.state = layer.state, batch.positions = position, batch.stride = FRAME;
                batch.tokens = batch.streams = batch.period = 1;
                SsdShape shape = {X, DT, B, C, Y, HEADS, HEAD_DIM, 1, D_STATE, 0, Z, 1, 0, 1e9f, a, d, dt_bias, 0};
                queue(stream, exact_ssd_step_128, dim3(HEAD_DIM / 16, HEADS), 128, 0, batch, shape);
            }
            if (with_out) product(layer.out, D_MODEL, D_INNER, frame + Y, layer.norm_out, rounded_out, frame, frame, 1e-3f, After{});
        }
        cudaGraph_t graph;
        cudaGraphExec_t ready;
        CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK(cudaGraphInstantiate(&ready, graph, 0));
        cudaEvent_t begin, end;
        CHECK(cudaEventCreate(&begin));
        CHECK(cudaEventCreate(&end));
        std::vector<float> runs_us;
        for (int run = 0; run < 41; run++) {
            float run_ms;
            CHECK(cudaEventRecord(begin, stream));
            CHECK(cudaGraphLaunch(ready, stream));
            CHECK(cudaEventRecord(end, stream));
            CHECK(cudaEventSynchronize(end));
            CHECK(cudaEventElapsedTime(&run_ms, begin, end));
            runs_us.push_back(run_ms * 1000 / LAYERS);
        }
        std::sort(runs_us.begin(), runs_us.end());
        printf("%-44s %6.2f us a layer\n", name, runs_us[runs_us.size() / 2]);
    };
    for (int round = 0; round < 2; round++) {
        time("as it is", true, true, true, false, false);
        time("the way in rounded before", true, true, true, true, false);
        time("the way out rounded before", true, true, true, false, true);
        time("both rounded before", true, true, true, true, true);
        time("the way in alone, rounded before", true, false, false, true, true);
        time("the recurrence alone", false, true, false, true, true);
        time("the way out alone, rounded before", false, false, true, true, true);
    }
}
