// A cluster: blocks that run at the same time and can write to each other's shared memory.
//
// Used by the archives' code for sm_90a only: elsewhere kernels are launched without clusters, and nothing here is reached.
#pragma once
#include "recurrence.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CLUSTERS 1
#else
#define CLUSTERS 0
#endif

// Another block of the cluster may write to this one's shared memory once it has waited for the arrival of all of this one's threads.
static __device__ __forceinline__ void cluster_arrive() {
#if CLUSTERS
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
static __device__ __forceinline__ void cluster_wait() {
#if CLUSTERS
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// A barrier that ends its first phase when so many bytes have been sent with it.
static __device__ __forceinline__ void cluster_barrier_init(u64* barrier, int bytes) {
#if CLUSTERS
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Writes to the same place of another block's shared memory, and tells its barrier; returns at once.
static __device__ __forceinline__ void cluster_send(float4* place, float4 numbers, u64* barrier, int block) {
#if CLUSTERS
    asm volatile(
        "{ .reg .u32 place, barrier; mapa.shared::cluster.u32 place, %0, %6; mapa.shared::cluster.u32 barrier, %5, %6; "
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [place], {%1, %2, %3, %4}, [barrier]; }" ::"r"(shared_address(place)),
        "f"(numbers.x), "f"(numbers.y), "f"(numbers.z), "f"(numbers.w), "r"(shared_address(barrier)), "r"(block)
        : "memory");
#endif
}

// Waits for all that was sent with a barrier.
static __device__ __forceinline__ void cluster_await(u64* barrier) {
#if CLUSTERS
    u32 passed;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                     : "=r"(passed)
                     : "r"(shared_address(barrier))
                     : "memory");
    } while (!passed);
#endif
}
