// Copies to shared memory that run on their own, and kernels that begin before the one before them has ended.
#pragma once
#include "common.cuh"

// From sm_90 on one thread has a whole stretch copied by a unit of its own, so that other loads need not queue behind it.
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ >= 12
#define BULK_COPIES 1
#else
#define BULK_COPIES 0
#endif

static __device__ __forceinline__ u32 shared_address(const void* p) {
    u32 address;
    asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(address) : "l"(p));
    return address;
}

// Copies 16 bytes; both addresses must be multiples of it. They are there after `copies_wait` and a barrier.
static __device__ __forceinline__ void copy_16(u32 shared, const void* global) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

// Ends a group of copies.
static __device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the last `LEFT` groups are under way.
template <int LEFT>
static __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#if BULK_COPIES
static __device__ __forceinline__ void barrier_init(u32 barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}

// Makes what was written to shared memory, barriers too, visible to bulk copies.
static __device__ __forceinline__ void fence_bulk() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Says how many bytes the barrier's next phase waits for.
static __device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Whether a phase of this parity has ended; may sleep a little before it says no.
static __device__ __forceinline__ bool barrier_passed(u32 barrier, u32 parity) {
    u32 done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done;
}

static __device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    while (!barrier_passed(barrier, parity)) {}
}

// Copies a multiple of 16 bytes, aligned so on both sides.
static __device__ __forceinline__ void copy_bulk(u32 shared, const void* global, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared), "l"(global), "r"(bytes),
                 "r"(barrier)
                 : "memory");
}
#endif

// Lets the next kernel of the stream start, if it was launched to overlap: it may read only what no kernel before it writes, until it has
// called `wait_for_previous`. A kernel so launched must call that before it ends. Before sm_90 kernels follow one another anyway.
static __device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
