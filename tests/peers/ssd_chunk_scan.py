# mamba-ssm 2.3.2's SSD chunk scan (Triton), captured in a CUDA graph; medians over graph replays of 10 calls.
import torch, statistics, sys
from mamba_ssm.ops.triton.ssd_combined import _mamba_chunk_scan_combined_fwd as fwd
def bench(L, H, P, N, chunk):
    torch.manual_seed(0)
    x = torch.randn(1, L, H, P, device='cuda', dtype=torch.bfloat16); dt = torch.randn(1, L, H, device='cuda', dtype=torch.bfloat16)
    A = -torch.rand(H, device='cuda') - 0.5; B = torch.randn(1, L, 1, N, device='cuda', dtype=torch.bfloat16); C = torch.randn_like(B)
    D = torch.randn(H, device='cuda'); bias = torch.randn(H, device='cuda') - 2; s0 = torch.randn(1, H, P, N, device='cuda')
    f = lambda: fwd(x, dt, A, B, C, chunk, D=D, dt_bias=bias, initial_states=s0, dt_softplus=True)
    for _ in range(3): f()
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        for _ in range(10): f()
    ts = []
    for i in range(15):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); g.replay(); b.record(); torch.cuda.synchronize()
        if i >= 3: ts.append(a.elapsed_time(b) * 100)
    return statistics.median(ts)
for L, H in ((2048, 80), (512, 80), (512, 24)):
    print(f"mamba-ssm ssd chunk scan (Triton, graph) bf16 L{L} H{H} P64 N128: " + ", ".join(f"chunk {c} {bench(L, H, 64, 128, c):.1f} us" for c in (128, 256)), flush=True)
