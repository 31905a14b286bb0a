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

// Once another block of the cluster has waited for the arrival of all of this one's threads, it may send to barriers that they have made.
static __device__ __forceinline__ void cluster_arrive() {
#if CLUSTERS
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
static __device__ __forceinline__ void cluster_wait() {
#if CLUSTERS
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// A barrier for what one thread expects and others send.
static __device__ __forceinline__ void cluster_barrier_init(u64* barrier) {
#if CLUSTERS
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Has the barrier end its first phase when so many bytes have been sent with it. Only behind what has a block wait for its barriers.
static __device__ __forceinline__ void cluster_barrier_expect(u64* barrier, int bytes) {
#if CLUSTERS
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#endif
}

// Writes to the same place of another block's shared memory, and tells its barrier; returns at once.
static __device__ __forceinline__ void cluster_send(float4* place, float4 numbers, u64* barrier, int block) {
#if CLUSTERS
    asm volatile(
        "{ .reg .u32 place, barrier; mapa.shared::cluster.u32 place, %0, %6; mapa.shared::cluster.u32 barrier, %5, %6; "
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [place], {%1, %2, %3, %4}, [barrier]; }"
        :
        : "r"(shared_address(place)), "f"(numbers.x), "f"(numbers.y), "f"(numbers.z), "f"(numbers.w), "r"(shared_address(barrier)),
          "r"(block)
        : "memory");
#endif
}
