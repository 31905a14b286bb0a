// mamba-ssm's selective scan behind the function that recurrences.cu calls, for bf16, with the options that its setup.py compiles it with.
// SOURCES is csrc/selective_scan of its package on PyPI (mamba_ssm-2.3.2.post1.tar.gz), TORCH an include folder of PyTorch (numbers' types; any build):
//
//   mkdir -p stub/c10/cuda && printf '#define C10_CUDA_CHECK(x) (x)\n#define C10_CUDA_KERNEL_LAUNCH_CHECK()\n' > stub/c10/cuda/CUDAException.h
//   nvcc -std=c++17 -O3 -arch=sm_90 --use_fast_math --expt-relaxed-constexpr --expt-extended-lambda -U__CUDA_NO_HALF_OPERATORS__ \
//       -U__CUDA_NO_HALF_CONVERSIONS__ -U__CUDA_NO_BFLOAT16_OPERATORS__ -U__CUDA_NO_BFLOAT16_CONVERSIONS__ -I stub -I SOURCES -I TORCH \
//       -c tests/peers/mamba_ssm_scan.cu -o mamba_ssm_scan.o
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <c10/util/complex.h>
namespace at {
using c10::BFloat16;
using c10::Half;
}  // namespace at
#include "selective_scan_fwd_kernel.cuh"

extern "C" void mamba_ssm_scan(const void* u, const void* delta, const void* A, const void* B, const void* C, const void* D, const void* z,
                               const void* bias, void* out, void* out_z, void* x, int dim, int len, int n, cudaStream_t stream) {
    SSMParamsBase p = {};
    p.batch = 1, p.dim = dim, p.seqlen = len, p.dstate = n, p.n_groups = 1, p.n_chunks = (len + 2047) / 2048, p.dim_ngroups_ratio = dim;
    p.is_variable_B = p.is_variable_C = p.delta_softplus = true;
    p.A_d_stride = n, p.A_dstate_stride = 1;
    p.B_batch_stride = p.B_group_stride = p.C_batch_stride = p.C_group_stride = (size_t)n * len;
    p.B_dstate_stride = p.C_dstate_stride = len;
    p.u_batch_stride = p.delta_batch_stride = p.z_batch_stride = p.out_batch_stride = p.out_z_batch_stride = (size_t)dim * len;
    p.u_d_stride = p.delta_d_stride = p.z_d_stride = p.out_d_stride = p.out_z_d_stride = len;
    p.A_ptr = (void*)A, p.B_ptr = (void*)B, p.C_ptr = (void*)C, p.D_ptr = (void*)D, p.u_ptr = (void*)u, p.delta_ptr = (void*)delta;
    p.delta_bias_ptr = (void*)bias, p.out_ptr = out, p.x_ptr = x, p.z_ptr = (void*)z, p.out_z_ptr = out_z;
    selective_scan_fwd_cuda<at::BFloat16, float>(p, stream);
}
