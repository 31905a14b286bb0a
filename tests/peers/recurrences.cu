// The recurrences' kernels beside mamba-ssm's on one GPU: errors against an oracle in f64, and medians over replays of a graph of 20
// launches.
//
//   nvcc -std=c++17 -O3 -arch=sm_90 -I kernels/src/cuda tests/peers/recurrences.cu -o recurrences    # and with mamba-ssm's selective scan:
//   nvcc -std=c++17 -O3 -arch=sm_90 -I kernels/src/cuda -DBASE tests/peers/recurrences.cu mamba_ssm_scan.o -o recurrences
//   ./recurrences check [SEED]    # odd shapes; every line ends in ok
//   ./recurrences bench [SEED]    # the shapes of docs/benchmarks.md
//
// mamba_ssm_scan.o comes from mamba_ssm_scan.cu, which says how. Its layout keeps time innermost, ours channels. Both scans are timed in a graph
// and as plain launches, ours in turn and as programs launch it too.
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
// Both kernels have names of their own for their block and their steps.
#define Block ScanBlock
#include "scan.cu"
#undef Block
#undef STEPS
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

template <class T>
struct ScanK {
    const char* name;
    void (*f)(Scan<T>);
    u32 d_state, channels;
};
#define SK(T, NAME, P) \
    ScanK<T> { #NAME, NAME, P::D_STATE, P::ACROSS }
template <class T>
vector<ScanK<T>> scan_kernels();
template <>
vector<ScanK<float>> scan_kernels() {
    return {SK(float, scan_prefill_f32_2x8, Narrow), SK(float, scan_prefill_f32_8x8, Wide), SK(float, scan_prefill_f32_8x32, Widest)};
}
template <>
vector<ScanK<bf16>> scan_kernels() {
    return {SK(bf16, scan_prefill_bf16_2x8, Narrow)};
}
// Warps of a block that walk: targets/cuda/src/launch/scan.rs has the same.
static u32 walkers_of(u32 warps, u32 processors) {
    u32 each = (warps + processors - 1) / processors, rounds = (each + MOST_WALKERS - 1) / MOST_WALKERS;
    return (each + rounds - 1) / rounds;
}
static int fails = 0;
template <class T>
void scan_case(int streams, int L, int D, int N, int heads, bool z, bool half, bool gaps, int pad, bool bench) {
    int xs = D + pad, bs = heads * N + pad;
    size_t rows = (size_t)streams * L;
    auto x = rnd<T>(rows * xs, [] { return nrm(); }), dt = rnd<T>(rows * xs, [] { return nrm() - 2.f; }),
         zz = rnd<T>(rows * xs, [] { return nrm(); }), b = rnd<T>(rows * bs, [] { return nrm(); }),
         c = rnd<T>(rows * bs, [] { return nrm(); });
    vector<float> a((size_t)N * D), d(D), bias(D), g(rows);
    for (int n = 0; n < N; n++)
        for (int e = 0; e < D; e++) a[(size_t)n * D + e] = -(n + 1) * uni(.5, 1.5);
    for (auto& v : d) v = nrm();
    for (auto& v : bias) v = uni(-2, 0);
    for (auto& v : g) v = uni(.5, 2);
    vector<float> h0((size_t)streams * N * D);
    for (auto& v : h0) {
        v = nrm();
        if (half) {
            u16 q;
            v = roundf(v * 256) / 256;
        }
    }
    size_t cell = half ? 2 : 4;
    vector<u8> hb(h0.size() * cell);
    for (size_t i = 0; i < h0.size(); i++) {
        if (half) {
            __half q = __float2half(h0[i]);
            memcpy(&hb[i * 2], &q, 2);
        } else
            memcpy(&hb[i * 4], &h0[i], 4);
    }
    vector<double> want(rows * D), hw(h0.begin(), h0.end());
    par(streams * D, [&](int i) {
        int s = i / D, e = i % D, hd = e / (D / heads);
        vector<double> h(N);
        for (int n = 0; n < N; n++) h[n] = h0[((size_t)s * N + n) * D + e];
        for (int t = 0; t < L; t++) {
            size_t r = (size_t)s * L + t;
            double st = sp((double)val(dt[r * xs + e]) + bias[e]) * (gaps ? g[r] : 1), xv = val(x[r * xs + e]), y = 0;
            for (int n = 0; n < N; n++) {
                h[n] = exp(st * a[(size_t)n * D + e]) * h[n] + st * xv * val(b[r * bs + hd * N + n]);
                y += val(c[r * bs + hd * N + n]) * h[n];
            }
            y += d[e] * xv;
            if (z) y *= sil(val(zz[r * xs + e]));
            want[r * D + e] = y;
        }
        for (int n = 0; n < N; n++) hw[((size_t)s * N + n) * D + e] = h[n];
    });
    Dev<T> dx(x), ddt(dt), dz(zz), db(b), dc(c);
    Dev<float> da(a), dd(d), dbias(bias), dg(g);
    Dev<u8> st(hb);
    Dev<T> y(rows * xs);
    auto ks = scan_kernels<T>();
    auto run = [&](int which, u32 walkers, cudaStream_t s) {
        auto k = ks[which];
        u32 each = walkers * k.channels;
        Scan<T> p = {dx.p, ddt.p, db.p, dc.p, z ? dz.p : 0, y.p, da.p, dd.p, dbias.p, gaps ? dg.p : 0, st.p, (u64)N * D * cell,
                     (u32)xs, (u32)xs, (u32)bs, (u32)bs, (u32)xs, (u32)xs, half, (u32)L, (u32)D, (u32)N, (u32)heads, walkers};
        k.f<<<dim3((D / heads + each - 1) / each, heads, streams), 32 * (walkers + PREPARE + SHARED + FINISH), 0, s>>>(p);
        CK(cudaGetLastError());
    };
    for (int w = 0; w < (int)ks.size(); w++) {
        if (ks[w].d_state < N || (bench && w > 0)) continue;
        const u32 walkers = walkers_of((D / heads + ks[w].channels - 1) / ks[w].channels * heads * streams, 132);
        CK(cudaMemcpy(st.p, hb.data(), hb.size(), cudaMemcpyHostToDevice));
        CK(cudaMemset(y.p, 0xff, y.n * sizeof(T)));
        run(w, walkers, 0);
        CK(cudaDeviceSynchronize());
        auto out = y.get();
        auto hs = st.get();
        Err ey, eh;
        for (size_t r = 0; r < rows; r++)
            for (int e = 0; e < D; e++) ey.add(val(out[r * xs + e]), want[r * D + e]);
        bool stray = false;
        for (size_t r = 0; r < rows && pad; r++)
            for (int e = D; e < xs; e++) {
                T q = poison<T>();
                if (memcmp(&out[r * xs + e], &q, sizeof(T))) stray = true;
            }
        for (size_t i = 0; i < hw.size(); i++) {
            float v;
            if (half) {
                __half q;
                memcpy(&q, &hs[i * 2], 2);
                v = __half2float(q);
            } else
                memcpy(&v, &hs[i * 4], 4);
            eh.add(v, hw[i]);
        }
        double ty = sizeof(T) == 4 ? 2e-5 : 4e-3, th = half ? 1e-3 : 2e-5;
        bool ok = ey.rel() < ty && eh.rel() < th && !stray;
        if (!ok) fails++;
        printf("scan %s S%d L%d D%d N%d heads%d z%d half%d gaps%d pad%d %-22s %2u walkers y %.2e h %.2e %s", sizeof(T) == 4 ? "f32" : "bf16", streams,
               L, D, N, heads, z, half, gaps, pad, ks[w].name, walkers, ey.rel(), eh.rel(),
               ok ? "ok" : (stray ? "STRAY" : "FAIL"));
        if (bench) printf("  %.2f us", timed([&](cudaStream_t s) { run(w, walkers, s); }));
        printf("\n");
    }
#ifdef BASE
    if constexpr (sizeof(T) == 2)
        if (bench && L > 1 && L % 512 == 0) {
            vector<T> tx(x.size()), tdt(x.size()), tz(x.size()), tb(b.size()), tc(b.size());
            for (int t = 0; t < L; t++) {
                for (int e = 0; e < D; e++) {
                    tx[(size_t)e * L + t] = x[(size_t)t * xs + e];
                    tdt[(size_t)e * L + t] = dt[(size_t)t * xs + e];
                    tz[(size_t)e * L + t] = zz[(size_t)t * xs + e];
                }
                for (int n = 0; n < N; n++) {
                    tb[(size_t)n * L + t] = b[(size_t)t * bs + n];
                    tc[(size_t)n * L + t] = c[(size_t)t * bs + n];
                }
            }
            vector<float> ta(a.size());
            for (int e = 0; e < D; e++)
                for (int n = 0; n < N; n++) ta[(size_t)e * N + n] = a[(size_t)n * D + e];
            Dev<T> ux(tx), ud(tdt), uz(tz), ub(tb), uc(tc), uo(x.size()), uoz(x.size());
            Dev<float> ua(ta), ux2((size_t)D * N * 2 * 8);
            auto f = [&](cudaStream_t s) {
                mamba_ssm_scan(ux.p, ud.p, ua.p, ub.p, uc.p, dd.p, uz.p, dbias.p, uo.p, uoz.p, ux2.p, D, L, N, s);
                CK(cudaGetLastError());
            };
            f(0);
            CK(cudaDeviceSynchronize());
            auto o = uoz.get();
            Err e;
            vector<float> z0;  // from a zero state: compared only for sanity
            for (int t = L / 2; t < L; t++)
                for (int q = 0; q < D; q++) e.add(val(o[(size_t)q * L + t]), want[(size_t)t * D + q]);
            printf("mamba-ssm selective_scan_fwd D%d L%d: rel(second half) %.2e  %.1f us\n", D, L, e.rel(), timed(f));
        }
#endif
}
#define SARG(T)                                                                                                                  \
    const T*, const T*, const T*, const T*, T*, int, int, int, int, int, const float*, const float*, const float*, float, float, \
        const float*, u8*, u64, int, int, int, int, int, int, int, int
template <class T>
struct SsdK {
    const char* name;
    void (*f)(SARG(T));
    int n, fewest;
    size_t stage, carry;
};
template <class T>
vector<SsdK<T>> ssd_kernels();
template <>
vector<SsdK<bf16>> ssd_kernels() {
    return {{"ssd_prefill_bf16_128", ssd_prefill_bf16_128, 128, 2, sizeof(Stage<bf16, 2>) + sizeof(Steps), sizeof(Carry<2>)}};
}
template <>
vector<SsdK<float>> ssd_kernels() {
    return {{"ssd_prefill_f32_64", ssd_prefill_f32_64, 64, 1, sizeof(Stage<float, 1>) + sizeof(Steps), sizeof(Carry<1>)},
            {"ssd_prefill_f32_128", ssd_prefill_f32_128, 128, 1, sizeof(Stage<float, 2>) + sizeof(Steps), sizeof(Carry<2>)},
            {"ssd_prefill_f32_256", ssd_prefill_f32_256, 256, 1, sizeof(Stage<float, 4>) + sizeof(Steps), sizeof(Carry<4>)}};
}
template <class T>
void ssd_case(int streams, int L, int H, int P, int N, int G, bool half, bool gaps, int pad, bool bench, float lo = 0, float hi = INFINITY) {
    int xs = H * P + pad, bs = G * N + pad, ds = H + pad;
    size_t rows = (size_t)streams * L;
    auto x = rnd<T>(rows * xs, [] { return nrm(); }), dt = rnd<T>(rows * ds, [] { return nrm() - 1.f; }),
         b = rnd<T>(rows * bs, [] { return nrm(); }), c = rnd<T>(rows * bs, [] { return nrm(); });
    vector<float> a(H), d(H), bias(H), g(rows);
    for (auto& v : a) v = -expf(uni(-3, 2));
    for (auto& v : d) v = nrm();
    for (auto& v : bias) v = uni(-4, 0);
    for (auto& v : g) v = uni(.5, 2);
    size_t cells = (size_t)H * N * P, cell = half ? 2 : 4;
    vector<float> h0(streams * cells);
    for (auto& v : h0) {
        v = nrm();
        if (half) v = roundf(v * 256) / 256;
    }
    vector<u8> hb(h0.size() * cell);
    for (size_t i = 0; i < h0.size(); i++) {
        if (half) {
            __half q = __float2half(h0[i]);
            memcpy(&hb[i * 2], &q, 2);
        } else
            memcpy(&hb[i * 4], &h0[i], 4);
    }
    vector<double> want(rows * H * P), hw(h0.begin(), h0.end());
    par(streams * H, [&](int i) {
        int s = i / H, h = i % H, gr = h / (H / G);
        double* S = &hw[s * cells + (size_t)h * N * P];
        for (int t = 0; t < L; t++) {
            size_t r = (size_t)s * L + t;
            double st = sp((double)val(dt[r * ds + h]) + bias[h]);
            st = fmin(fmax(st, lo), hi) * (gaps ? g[r] : 1);
            double dec = exp(st * a[h]);
            double* y = &want[r * H * P + h * P];
            for (int p = 0; p < P; p++) y[p] = d[h] * val(x[r * xs + h * P + p]);
            vector<double> dxv(P);
            for (int p = 0; p < P; p++) dxv[p] = st * val(x[r * xs + h * P + p]);
            for (int n = 0; n < N; n++) {
                double bv = val(b[r * bs + gr * N + n]), cv = val(c[r * bs + gr * N + n]);
                double* q = S + (size_t)n * P;
                for (int p = 0; p < P; p++) {
                    q[p] = dec * q[p] + dxv[p] * bv;
                    y[p] += cv * q[p];
                }
            }
        }
    });
    Dev<T> dx(x), ddt(dt), db(b), dc(c), y(rows * xs);
    Dev<float> da(a), dd(d), dbias(bias), dg(g);
    Dev<u8> st(hb);
    auto ks = ssd_kernels<T>();
    auto shared_of = [&](const SsdK<T>& k, int stages, int segments) { return stages * k.stage + (segments > 1 ? k.carry : 0) + sizeof(Ends); };
    auto config_of = [&](const SsdK<T>& k, int stages, int segments, cudaLaunchAttribute* cluster) {
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(H * segments, (P + 63) / 64, streams), config.blockDim = 3 * WARPGROUP;
        config.dynamicSmemBytes = shared_of(k, stages, segments);
        cluster->id = cudaLaunchAttributeClusterDimension, cluster->val.clusterDim.x = segments, cluster->val.clusterDim.y = cluster->val.clusterDim.z = 1;
        config.attrs = cluster, config.numAttrs = segments > 1;
        return config;
    };
    auto run = [&](const SsdK<T>& k, int stages, int segments, cudaStream_t s) {
        cudaLaunchAttribute cluster;
        auto config = config_of(k, stages, segments, &cluster);
        config.stream = s;
        CK(cudaLaunchKernelEx(&config, k.f, (const T*)dx.p, (const T*)ddt.p, (const T*)db.p, (const T*)dc.p, y.p, xs, ds, bs, bs, xs, (const float*)da.p,
                              (const float*)dd.p, (const float*)dbias.p, lo, hi, (const float*)(gaps ? dg.p : 0), st.p, (u64)(cells * cell), (int)half,
                              L, H, P, G, N, stages, segments));
    };
    const int chunks = (L + CHUNK - 1) / CHUNK;
    for (auto& k : ks)
        for (int segments = 1; segments <= 8; segments++)
        for (int stages = k.fewest; stages <= STAGES; stages++) {
            const int each = (chunks + segments - 1) / segments;
            if ((chunks + each - 1) / each != segments) continue;  // none is empty
            size_t shared = shared_of(k, stages, segments);
            if (k.n < N || k.n > std::max(2 * N, 128) || shared > 227 << 10) continue;
            if (bench && (k.n > std::max(N, 64) || (stages < STAGES && shared + k.stage <= 227 << 10))) continue;
            CK(cudaFuncSetAttribute((void*)k.f, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
            int clusters = 0;
            cudaLaunchAttribute cluster;
            auto config = config_of(k, stages, segments, &cluster);
            if (segments > 1) CK(cudaOccupancyMaxActiveClusters(&clusters, (const void*)k.f, &config));
            if (bench && segments > 1 && H * ((P + 63) / 64) * streams > clusters) continue;
            Err ey, eh;
            bool stray = false;
            for (int rep = 0; rep < 2; rep++) {
                CK(cudaMemcpy(st.p, hb.data(), hb.size(), cudaMemcpyHostToDevice));
                CK(cudaMemset(y.p, 0xff, y.n * sizeof(T)));
                run(k, stages, segments, 0);
                CK(cudaDeviceSynchronize());
            }
            auto out = y.get();
            auto hs = st.get();
            for (size_t r = 0; r < rows; r++)
                for (int e = 0; e < H * P; e++) ey.add(val(out[r * xs + e]), want[r * H * P + e]);
            for (size_t r = 0; r < rows && pad; r++)
                for (int e = H * P; e < xs; e++) {
                    T q = poison<T>();
                    if (memcmp(&out[r * xs + e], &q, sizeof(T))) stray = true;
                }
            for (size_t i = 0; i < hw.size(); i++) {
                float v;
                if (half) {
                    __half q;
                    memcpy(&q, &hs[i * 2], 2);
                    v = __half2float(q);
                } else
                    memcpy(&v, &hs[i * 4], 4);
                eh.add(v, hw[i]);
            }
            double ty = sizeof(T) == 4 ? 5e-5 : 6e-3, th = half ? 1e-3 : sizeof(T) == 4 ? 5e-5 : 5e-3;
            if (half && sizeof(T) == 2) th = 5e-3;
            bool ok = ey.rel() < ty && eh.rel() < th && !stray;
            if (!ok) fails++;
            printf("ssd %s S%d L%d H%d P%d N%d G%d half%d gaps%d pad%d %-20s %d stages %d segments (%d at once) y %.2e (max %.1e) h %.2e %s",
                   sizeof(T) == 4 ? "f32" : "bf16", streams, L, H, P, N, G, half, gaps, pad, k.name, stages, segments, clusters, ey.rel(),
                   ey.worst / ey.mx, eh.rel(), ok ? "ok" : (stray ? "STRAY" : "FAIL"));
            if (bench) printf("  %.1f us", timed([&](cudaStream_t s) { run(k, stages, segments, s); }));
            printf("\n");
        }
}
int main(int argc, char** argv) {
    std::string what = argc > 1 ? argv[1] : "check";
    unsigned seed = argc > 2 ? atoi(argv[2]) : std::random_device{}();
    rng.seed(seed);
    printf("seed %u\n", seed);
    setvbuf(stdout, 0, _IOLBF, 0);
    if (what == "check" || what == "scans") {
        for (int i = 0; i < 40; i++) {
            auto below = [](int n) { return (int)(rng() % n); };
            int n = i % 5 == 0 ? 1 + below(256) : i % 5 == 1 ? 17 + below(48) : i % 5 == 2 ? 1 + below(16) : 16, heads = 1 + below(4) / 3;
            int d = heads * (1 + below(i % 4 == 0 ? 700 : 70)), tokens = i % 7 == 0 ? 1 + below(3) : 1 + below(i % 2 ? 64 : 300), pad = i % 3 == 0 ? 4 * below(4) : below(9);
            if (i % 3 == 2 && n <= 16)
                scan_case<bf16>(1 + below(3), tokens, d, n, heads, below(3), below(2), below(2), pad, false);
            else
                scan_case<float>(1 + below(3), tokens, d, n, heads, below(3), below(2), below(2), pad, false);
        }
        scan_case<float>(1, 92, 9, 40, 1, true, false, false, 0, false);
        scan_case<float>(2, 333, 7000, 16, 1, true, false, true, 0, false);
    }
    if (what == "check") {
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
    }
    if (what == "check" || what == "random") {
        auto below = [](int n) { return (int)(rng() % n); };
        for (int i = 0; i < 24; i++) {
            int groups = 1 + below(2), pad = i % 2 ? below(4) : 4 * below(3), n = i % 3 ? 1 + below(256) : 64 << below(3), heads = groups * (1 + below(4));
            int p = i % 4 ? 32 << below(3) : 1 + below(150), tokens = 2 + below(400), streams = 1 + below(2);
            if (i % 4 == 3) {
                ssd_case<bf16>(streams, tokens, heads, p, std::min(n, 128), groups, below(2), below(2), 2 * pad, false, .01, 1);
            } else {
                ssd_case<float>(streams, tokens, heads, p, n, groups, below(2), below(2), pad, false, .01, 1);
            }
        }
    }
    if (what == "bench" || what == "scan") {
        scan_case<bf16>(1, 2048, 5120, 16, 1, true, false, false, 0, true);
        scan_case<bf16>(1, 512, 1536, 16, 1, true, false, false, 0, true);
        scan_case<float>(1, 2048, 5120, 16, 1, true, false, false, 0, true);
        scan_case<float>(1, 512, 1536, 16, 1, true, false, false, 0, true);
    }
    if (what == "bench" || what == "ssd") {
        ssd_case<bf16>(1, 2048, 80, 64, 128, 1, false, false, 0, true);
        ssd_case<bf16>(1, 512, 80, 64, 128, 1, false, false, 0, true);
        ssd_case<bf16>(1, 512, 24, 64, 128, 1, false, false, 0, true);
        ssd_case<float>(1, 2048, 80, 64, 128, 1, false, false, 0, true);
        ssd_case<float>(1, 512, 80, 64, 128, 1, false, false, 0, true);
        ssd_case<float>(1, 2048, 24, 64, 128, 1, false, false, 0, true);
        ssd_case<float>(1, 512, 24, 64, 128, 1, false, false, 0, true);
        ssd_case<float>(1, 2048, 48, 64, 128, 1, false, false, 0, true);
        ssd_case<float>(1, 512, 32, 128, 256, 1, false, false, 0, true);
    }
    printf("fails %d\n", fails);
    return fails != 0;
}
