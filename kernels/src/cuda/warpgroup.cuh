// A warpgroup: four warps that multiply together and hand their work on through barriers in shared memory.
//
// Its product is (64, 64) += (64, 64) * (64, 64), operands bf16 and sums f32: on the left registers, on the right a panel of shared memory.
// sm_90a has an instruction that takes 16 of the 64 and runs on its own (wgmma); elsewhere ldmatrix and mma.sync do the same.
#pragma once
#include "recurrence.cuh"

#define WARPGROUP 128

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WGMMA 1
#else
#define WGMMA 0
#endif

// 64 rows of 64 numbers. The 16 bytes number i of row r lie at i ^ r % 8: so no bank is met twice, and so wgmma wants it.
struct __align__(1024) Panel {
    bf16 numbers[64 * 64];
};
static __device__ __forceinline__ int place(int row, int column) { return row * 64 + ((column / 8 ^ row % 8) * 8) + column % 8; }

// (64, 64) on the left, of which a warp has 16 rows: for every 16 columns the four registers of mma.m16n8k16.
typedef u32 Left[4][4];
// (64, 64) sums, of which a warp has 16 rows: of every 8 columns 2 (lane % 4) and the next, in row lane / 4 and then in row lane / 4 + 8.
typedef float Sums[8][4];

// ---- numbers as one bf16 or two -------------------------------------------------------------------------------------------------

// Two numbers as bf16 pairs: parts[0] the rounded ones, parts[1] (if PARTS is 2) what rounding left.
template <int PARTS>
static __device__ __forceinline__ void split(u32 (&parts)[PARTS], float low, float high) {
    parts[0] = pack_bf16(low, high);
    if constexpr (PARTS == 2) parts[1] = pack_bf16(low - low_bf16(parts[0]), high - high_bf16(parts[0]));
}

// Sums as the left operand of another product: 16 columns are two tiles of 8.
template <int PARTS>
static __device__ __forceinline__ void split_sums(Left (&left)[PARTS], const Sums& sums) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        u32 parts[PARTS];
        split<PARTS>(parts, sums[i / 2][i % 2 * 2], sums[i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int part = 0; part < PARTS; part++) left[part][i / 4][i % 4] = parts[part];
    }
}

// ---- left operands from panels --------------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of bf16; lane l gives the address of row l % 8 of matrix l / 8.
static __device__ __forceinline__ void load_matrices(u32 (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
static __device__ __forceinline__ void load_transposed(u32 (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

template <int PARTS>
static __device__ __forceinline__ void load_left(Left (&left)[PARTS], const Panel (&panel)[PARTS]) {
    const int lane = threadIdx.x % 32, first_row = threadIdx.x % WARPGROUP / 32 * 16;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int at = place(first_row + lane % 16, k * 16 + lane / 16 * 8);
#pragma unroll
        for (int part = 0; part < PARTS; part++) load_matrices(left[part][k], panel[part].numbers + at);
    }
}

// The panel's columns as rows.
template <int PARTS>
static __device__ __forceinline__ void load_left_transposed(Left (&left)[PARTS], const Panel (&panel)[PARTS]) {
    const int lane = threadIdx.x % 32, first_row = threadIdx.x % WARPGROUP / 32 * 16;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int at = place(k * 16 + lane % 8 + lane / 16 * 8, first_row + lane / 8 % 2 * 8);
#pragma unroll
        for (int part = 0; part < PARTS; part++) load_transposed(left[part][k], panel[part].numbers + at);
    }
}

// ---- products -------------------------------------------------------------------------------------------------------------------

// Between `begin_products` and `await_products` what takes part may be neither read nor written: `hold` keeps the compiler from it.
static __device__ __forceinline__ void hold(Sums& sums) {
#pragma unroll
    for (int i = 0; i < 32; i++) asm volatile("" : "+f"(sums[i / 4][i % 4])::"memory");
}
template <int PARTS>
static __device__ __forceinline__ void hold(Left (&left)[PARTS]) {
#pragma unroll
    for (int i = 0; i < PARTS * 16; i++) asm volatile("" : "+r"(left[i / 16][i / 4 % 4][i % 4])::"memory");
}

// What other threads wrote to shared memory, and this one has waited for, becomes visible to its products.
static __device__ __forceinline__ void show_products() {
#if WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
static __device__ __forceinline__ void begin_products() {
#if WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
static __device__ __forceinline__ void end_products() {
#if WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Waits until at most `LEFT` groups are under way.
template <int LEFT>
static __device__ __forceinline__ void await_products() {
#if WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
#endif
}

#if WGMMA
// sums += 16 columns of the left operand * 16 rows of the panel, or, if not BY_ROWS, 16 columns of its transpose.
template <bool BY_ROWS>
static __device__ __forceinline__ void multiply_16(Sums& s, const u32 (&left)[4], const Panel& panel, int k) {
    // Groups of 8 rows, 1024 bytes apart, each with 16 bytes of a row spread over it (128-byte swizzle).
    u64 right = ((shared_address(panel.numbers) + k * (BY_ROWS ? 2048 : 32)) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
    asm volatile(
        "{ .reg .pred p; setp.eq.u32 p, 0, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, %37; }"
        : "+f"(s[0][0]), "+f"(s[0][1]), "+f"(s[0][2]), "+f"(s[0][3]), "+f"(s[1][0]), "+f"(s[1][1]), "+f"(s[1][2]), "+f"(s[1][3]),
          "+f"(s[2][0]), "+f"(s[2][1]), "+f"(s[2][2]), "+f"(s[2][3]), "+f"(s[3][0]), "+f"(s[3][1]), "+f"(s[3][2]), "+f"(s[3][3]),
          "+f"(s[4][0]), "+f"(s[4][1]), "+f"(s[4][2]), "+f"(s[4][3]), "+f"(s[5][0]), "+f"(s[5][1]), "+f"(s[5][2]), "+f"(s[5][3]),
          "+f"(s[6][0]), "+f"(s[6][1]), "+f"(s[6][2]), "+f"(s[6][3]), "+f"(s[7][0]), "+f"(s[7][1]), "+f"(s[7][2]), "+f"(s[7][3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "n"(BY_ROWS ? 1 : 0));
}
#else
// sum (16, 8) += a (16, 16) * b (16, 8).
static __device__ __forceinline__ void multiply_8(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <bool BY_ROWS>
static __device__ __forceinline__ void multiply_16(Sums& s, const u32 (&left)[4], const Panel& panel, int k) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        u32 right[4];
        if constexpr (BY_ROWS)
            load_transposed(right, panel.numbers + place(k * 16 + lane % 16, n * 16 + lane / 16 * 8));
        else
            load_matrices(right, panel.numbers + place(n * 16 + lane % 8 + lane / 16 * 8, k * 16 + lane / 8 % 2 * 8));
        multiply_8(s[2 * n], left, right[0], right[1]);
        multiply_8(s[2 * n + 1], left, right[2], right[3]);
    }
}
#endif

// sums += left * panel, or, if not BY_ROWS, left * its transpose; of pairs three products (low * low is below what is kept).
template <bool BY_ROWS, int PARTS>
static __device__ __forceinline__ void multiply(Sums& sums, const Left (&left)[PARTS], const Panel (&panel)[PARTS]) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        multiply_16<BY_ROWS>(sums, left[0][k], panel[0], k);
        if constexpr (PARTS == 2) {
            multiply_16<BY_ROWS>(sums, left[0][k], panel[1], k);
            multiply_16<BY_ROWS>(sums, left[1][k], panel[0], k);
        }
    }
}

// ---- registers ------------------------------------------------------------------------------------------------------------------

// By all threads of a warpgroup: from here on each has COUNT registers, where that can be chosen; FEWER than it had or more.
template <int COUNT, bool FEWER>
static __device__ __forceinline__ void take_registers() {
#if WGMMA
    if constexpr (FEWER)
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
    else
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

// ---- barriers -------------------------------------------------------------------------------------------------------------------

// A phase ends with one arrival of each thread of a warpgroup and `others`.
static __device__ __forceinline__ void warpgroup_barrier_init(u64* barrier, int others) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(WARPGROUP + others) : "memory");
}
// By all threads of a warpgroup: what they did before can be relied on behind the barrier.
static __device__ __forceinline__ void warpgroup_arrive(u64* barrier) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(barrier)) : "memory");
}
// Another arrival, of this thread's, as soon as the copies that it has begun have ended.
static __device__ __forceinline__ void arrive_behind_copies(u64* barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Waits for the end of a phase: the first has parity 0, and before it parity 1 has passed.
static __device__ __forceinline__ void warpgroup_wait(u64* barrier, int parity) {
#if __CUDA_ARCH__ >= 900
#define BARRIER_WAIT "mbarrier.try_wait.parity.shared.b64"
#else
#define BARRIER_WAIT "mbarrier.test_wait.parity.shared.b64"
#endif
    u32 passed;
    do {
        asm volatile("{ .reg .pred p; " BARRIER_WAIT " p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(passed)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (!passed);
}
