// The recurrences' kernels beside mamba-ssm's on one GPU: errors against an oracle in f64, and medians over replays of a graph of 20
// launches.
//
//   nvcc -std=c++17 -O3 -arch=sm_90 -I kernels/src/cuda tests/peers/recurrences.cu -o recurrences    # and with mamba-ssm's selective scan:
//   nvcc -std=c++17 -O3 -arch=sm_90 -I kernels/src/cuda -DBASE tests/peers/recurrences.cu mamba_ssm_scan.o -o recurrences
//   ./recurrences check [SEED]    # odd shapes; every line ends in ok
//   ./recurrences bench [SEED]    # the shapes of docs/benchmarks.md
//
// mamba_ssm_scan.o is mamba-ssm 2.3.2's csrc/selective_scan compiled with --use_fast_math for bf16, behind the function declared below,
// which fills its SSMParamsBase: u, delta, z, out and out_z (D, L), B and C (N, L), A (D, N) f32. Its layout keeps time innermost, ours
// channels.
#define BROOKLET_BF16
#include <atomic>
#include <cuda_fp16.h>
#include <cstdio>
#include <cstdlib>
#include <cmath>
#include <vector>
#include <random>
#include <thread>
#include <functional>
#include <algorithm>
#include <string>
#include <cstring>
#include "scan.cu"
#include "ssd.cu"
#define CK(x)                                                                        \
    do {                                                                             \
        cudaError_t e = (x);                                                         \
        if (e != cudaSuccess) {                                                      \
            printf("CUDA %s at %s:%d\n", cudaGetErrorString(e), __FILE__, __LINE__); \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)
#ifdef BASE
extern "C" void mamba_ssm_scan(const void* u, const void* delta, const void* A, const void* B, const void* C, const void* D, const void* z,
                               const void* bias, void* out, void* out_z, void* x, int dim, int len, int n, cudaStream_t stream);
#endif
using std::vector;
static std::mt19937 rng;
static float uni(float a, float b) { return a + (b - a) * (rng() >> 8) * (1.f / 16777216.f); }
static float nrm() {
    static std::normal_distribution<float> d;
    return d(rng);
}
static u16 tobf(float x) {
    u32 u;
    memcpy(&u, &x, 4);
    u += 0x7fff + ((u >> 16) & 1);
    return u >> 16;
}
static float frombf(u16 b) {
    u32 u = (u32)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
template <class T>
struct Dev {
    T* p = 0;
    size_t n = 0;
    Dev(size_t n) : n(n) { CK(cudaMalloc(&p, (n ? n : 1) * sizeof(T))); }
    Dev(const vector<T>& v) : n(v.size()) {
        CK(cudaMalloc(&p, (n ? n : 1) * sizeof(T)));
        CK(cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~Dev() { cudaFree(p); }
    vector<T> get() {
        vector<T> v(n);
        CK(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
    Dev(const Dev&) = delete;
};
template <class T>
void put(T& t, float x);
template <>
void put(float& t, float x) {
    t = x;
}
template <>
void put(bf16& t, float x) {
    t.bits = tobf(x);
}
static float val(float x) { return x; }
static float val(bf16 b) { return frombf(b.bits); }
template <class T>
T poison() {
    T t;
    memset(&t, 0xff, sizeof t);
    return t;
}
template <class T>
vector<T> rnd(size_t n, std::function<float()> f) {
    vector<T> v(n);
    for (auto& x : v) put(x, f());
    return v;
}
static void par(int n, std::function<void(int)> f) {
    int k = std::thread::hardware_concurrency();
    vector<std::thread> t;
    std::atomic<int>* c = new std::atomic<int>(0);
    for (int i = 0; i < k; i++)
        t.emplace_back([&, c] {
            int j;
            while ((j = (*c)++) < n) f(j);
        });
    for (auto& x : t) x.join();
}
static double sp(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
static double sil(double x) { return x / (1 + exp(-x)); }
// median over graph replays of `reps` launches
template <class F>
float timed(F launch, int reps = 20, int rounds = 15) {
    cudaStream_t s;
    CK(cudaStreamCreate(&s));
    cudaGraph_t g;
    cudaGraphExec_t ge;
    launch(s);
    CK(cudaStreamSynchronize(s));
    CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < reps; i++) launch(s);
    CK(cudaStreamEndCapture(s, &g));
    CK(cudaGraphInstantiate(&ge, g, 0));
    cudaEvent_t a, b;
    cudaEventCreate(&a);
    cudaEventCreate(&b);
    vector<float> ts;
    for (int r = 0; r < rounds; r++) {
        cudaEventRecord(a, s);
        CK(cudaGraphLaunch(ge, s));
        cudaEventRecord(b, s);
        CK(cudaEventSynchronize(b));
        float ms;
        cudaEventElapsedTime(&ms, a, b);
        if (r >= 3) ts.push_back(ms * 1000 / reps);
    }
    std::sort(ts.begin(), ts.end());
    cudaGraphExecDestroy(ge);
    cudaGraphDestroy(g);
    cudaStreamDestroy(s);
    return ts[ts.size() / 2];
}
struct Err {
    double num = 0, den = 0, worst = 0, mx = 0;
    bool bad = false;
    void add(double got, double want) {
        if (!(fabs(got) < 1e30)) bad = true;
        num += (got - want) * (got - want);
        den += want * want;
        worst = fmax(worst, fabs(got - want));
        mx = fmax(mx, fabs(want));
    }
    double rel() { return bad ? NAN : sqrt(num / (den + 1e-300)); }
};
int main(int argc, char** argv) {
    std::string what = argc > 1 ? argv[1] : "check";
    unsigned seed = argc > 2 ? atoi(argv[2]) : std::random_device{}();
    rng.seed(seed);
    printf("seed %u\n", seed);
    setvbuf(stdout, 0, _IOLBF, 0);
    if (what == "check") {
        scan_case<float>(1, 1, 96, 16, 1, true, false, false, 0, false);
        scan_case<bf16>(2, 1, 72, 16, 2, true, true, true, 8, false);
        scan_case<float>(1, 1, 70, 5, 1, false, false, true, 3, false);
        scan_case<float>(1, 37, 70, 16, 1, true, false, false, 2, false);
        scan_case<float>(2, 65, 48, 8, 2, false, true, true, 0, false);
        scan_case<bf16>(1, 100, 136, 16, 1, true, false, false, 0, false);
        scan_case<bf16>(2, 33, 37, 3, 1, true, false, true, 1, false);
        scan_case<float>(1, 129, 40, 24, 1, true, false, false, 0, false);
        scan_case<float>(1, 66, 20, 100, 2, true, false, false, 0, false);
        scan_case<bf16>(1, 31, 24, 256, 1, true, false, false, 0, false);
        scan_case<float>(3, 7, 130, 64, 1, true, false, false, 0, false);
        ssd_case<float>(1, 1, 24, 64, 128, 1, false, false, 0, false);
        ssd_case<bf16>(2, 1, 6, 80, 100, 2, true, true, 8, false);
        ssd_case<float>(1, 3, 3, 7, 5, 1, false, true, 1, false);
        ssd_case<bf16>(1, 64, 2, 64, 128, 1, false, false, 0, false);
        ssd_case<bf16>(1, 200, 4, 64, 128, 2, false, false, 0, false);
        ssd_case<bf16>(2, 333, 4, 64, 128, 1, true, true, 8, false, .01, .3);
        ssd_case<bf16>(1, 130, 2, 80, 64, 1, false, false, 0, false);
        ssd_case<bf16>(1, 321, 4, 32, 100, 1, false, false, 1, false);
        ssd_case<bf16>(1, 190, 2, 128, 256, 1, false, false, 0, false);
        ssd_case<bf16>(1, 95, 3, 20, 16, 1, false, false, 3, false);
        ssd_case<float>(1, 64, 2, 64, 128, 1, false, false, 0, false);
        ssd_case<float>(2, 333, 4, 64, 128, 2, true, true, 3, false, .01, .3);
        ssd_case<float>(1, 130, 2, 96, 60, 1, false, false, 0, false);
        ssd_case<float>(1, 321, 4, 32, 16, 1, false, false, 1, false);
        ssd_case<float>(1, 190, 2, 64, 256, 1, false, false, 0, false);
        for (int taps = 2; taps <= 8; taps++)
    }
    if (what == "bench" || what == "scan") {
        scan_case<bf16>(1, 2048, 5120, 16, 1, true, false, false, 0, true);
        scan_case<bf16>(1, 512, 1536, 16, 1, true, false, false, 0, true);
        scan_case<float>(1, 512, 1536, 16, 1, true, false, false, 0, true);
        scan_case<float>(1, 1, 1536, 16, 1, true, false, false, 0, true);
    }
    if (what == "bench" || what == "ssd") {
        std::vector<int> sg = {1, 2, 3, 4, 5, 6, 8};
        ssd_case<bf16>(1, 2048, 80, 64, 128, 1, false, false, 0, true, 0, INFINITY, sg);
        ssd_case<bf16>(1, 512, 80, 64, 128, 1, false, false, 0, true, 0, INFINITY, sg);
        ssd_case<bf16>(1, 512, 24, 64, 128, 1, false, false, 0, true, 0, INFINITY, sg);
        ssd_case<float>(1, 512, 24, 64, 128, 1, false, false, 0, true, 0, INFINITY, sg);
        ssd_case<float>(1, 1, 24, 64, 128, 1, false, false, 0, true);
        ssd_case<float>(1, 1, 80, 64, 128, 1, false, false, 0, true);
    }
    printf("fails %d\n", fails);
    return fails != 0;
}
