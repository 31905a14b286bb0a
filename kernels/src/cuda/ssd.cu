// The state-space dual recurrence of Mamba-2, one scalar decay per head:
//
//   S[h][n][p] <- exp(dt[h] * a[h]) * S[h][n][p] + dt[h] * x[h][p] * b[g][n],   dt = clamp(softplus(dt + dt_bias)) * gap
//   y[h][p] = sum_n c[g][n] * S[h][n][p] + d[h] * x[h][p]
//
// Prefill takes chunks of CHUNK tokens (section 6 of the paper). With cum[i] the sum of dt * a up to token i of the chunk,
//
//   y[i]  = exp(cum[i]) c[i] S  +  sum_{j <= i} (c[i] . b[j]) exp(cum[i] - cum[j]) dt[j] x[j]
//   S'    = exp(cum[last]) S    +  sum_j exp(cum[last] - cum[j]) dt[j] b[j] x[j]
//
// Four matrix products, on tensor cores (mma.sync m16n8k16, bf16 operands, f32 sums). A block of eight warps walks the chunks of a head in
// order. The state stays in registers as f32, (channels, d_state): a warp has 16 channels and half of d_state. What passes through shared
// memory for all warps to read are the masked scores (c . b), with d on their diagonal, and the state rounded to bf16.
//
// Where heads alone do not fill the machine, a sequence is cut into segments, each walked by a block of its own: every block first walks
// its segment for the state alone from zero (one product of the four), publishes it, adds up what those before it published, and then
// walks again from its true state. No sum depends on timing.
//
// With SPLIT, operands are pairs of bf16, high and low, and a product is three: errors of about 2^-16 instead of 2^-8. For f32 frames.
#include "recurrence.cuh"

// The operands. Rows are tokens; a stream's tokens follow each other.
template <class T>
struct Ssd {
    const T* x;      // (tokens, heads, head_dim)
    const T* dt;     // (tokens, heads)
    const T *b, *c;  // (tokens, groups, d_state)
    T* y;            // (tokens, heads, head_dim)
    int x_stride, dt_stride, b_stride, c_stride, y_stride;
    const float *a, *d, *dt_bias;  // (heads), a negative
    float dt_lo, dt_hi;
    const float* gaps;  // (streams * tokens), or null for 1
    u8* state;          // (streams, heads, d_state, head_dim), streams `state_stride` bytes apart
    u64 state_stride;
    int state_is_half, tokens, heads, head_dim, groups, d_state;
    // Segments of a sequence, and if there are several: (blocks, N / 16, THREADS, 4) numbers of exchanged states, then (blocks) logarithms
    // of decays; and (blocks + 1) words, zero before and after.
    int segments;
    float* exchange;
    u32* flags;
};

template <class T>
static __device__ __forceinline__ float step_size(const Ssd<T>& p, float dt, float bias, float gap) {
    return fminf(fmaxf(softplus(dt + bias), p.dt_lo), p.dt_hi) * gap;
}

// ---- tensor cores ---------------------------------------------------------------------------------------------------------------

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

// sum (16, 8) += a (16, 16) * b (16, 8).
static __device__ __forceinline__ void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers as bf16 pairs: parts[0] the rounded ones, parts[1] (if PARTS is 2) what rounding left.
template <int PARTS>
static __device__ __forceinline__ void split(u32 (&parts)[PARTS], float low, float high) {
    parts[0] = pack_bf16(low, high);
    if constexpr (PARTS == 2) parts[1] = pack_bf16(low - low_bf16(parts[0]), high - high_bf16(parts[0]));
}

// The same in one or, for pairs, three products (low * low is below what is kept).
template <int PARTS>
static __device__ __forceinline__ void multiply_parts(float (&sum)[4], const u32 (&a)[PARTS][4], const u32 (&b0)[PARTS],
                                                      const u32 (&b1)[PARTS]) {
    multiply(sum, a[0], b0[0], b1[0]);
    if constexpr (PARTS == 2) {
        multiply(sum, a[0], b0[1], b1[1]);
        multiply(sum, a[1], b0[0], b1[0]);
    }
}

// The same where b is half of four matrices: the first two of them or the last.
template <int PARTS>
static __device__ __forceinline__ void multiply_half(float (&sum)[4], const u32 (&a)[PARTS][4], const u32 (&b)[PARTS][4], int half) {
    u32 b0[PARTS], b1[PARTS];
#pragma unroll
    for (int part = 0; part < PARTS; part++) b0[part] = b[part][2 * half], b1[part] = b[part][2 * half + 1];
    multiply_parts<PARTS>(sum, a, b0, b1);
}

// ---- tiles ----------------------------------------------------------------------------------------------------------------------

// Threads of a block.
#define THREADS 256

// A tile (ROWS, WIDTH) of f32 into bf16 parts, `part` numbers apart, one row every WIDTH + 8 numbers (so that ldmatrix meets no bank
// twice). What lies beyond `rows` or `width` becomes zero. If `aligned`, `from`, `stride` and `width` are multiples of 16 bytes.
template <int PARTS, int ROWS, int WIDTH>
static __device__ __forceinline__ void fill_tile(bf16* to, int part, const float* from, int stride, int rows, int width, bool aligned) {
    const int ACROSS = WIDTH / 4, APART = THREADS > ACROSS ? THREADS / ACROSS : 1;
    const int column = (int)threadIdx.x % ACROSS * 4, first = (int)threadIdx.x / ACROSS;
    const float* source = from + (i64)first * stride + column;
#pragma unroll 8
    for (int row = first; row < ROWS; row += APART) {
        float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (row < rows && column < width) {
            if (aligned) {
                float4 all = *(const float4*)source;
                v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
            } else {
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (column + k < width) v[k] = source[k];
                }
            }
        }
        u32 low[PARTS], high[PARTS];
        split<PARTS>(low, v[0], v[1]);
        split<PARTS>(high, v[2], v[3]);
#pragma unroll
        for (int k = 0; k < PARTS; k++) *(uint2*)(to + k * part + row * (WIDTH + 8) + column) = make_uint2(low[k], high[k]);
        source += (i64)APART * stride;
    }
}

// The same for bf16; asynchronous if `aligned`.
template <int PARTS, int ROWS, int WIDTH>
static __device__ __forceinline__ void fill_tile(bf16* to, int, const bf16* from, int stride, int rows, int width, bool aligned) {
    const int ACROSS = WIDTH / 8, APART = THREADS / ACROSS;
    const int column = (int)threadIdx.x % ACROSS * 8, first = (int)threadIdx.x / ACROSS;
    const bf16* source = from + (i64)first * stride + column;
    to += first * (WIDTH + 8) + column;
    if (aligned) {
#pragma unroll
        for (int k = 0; k < (ROWS + APART - 1) / APART; k++) {
            bool valid = first + k * APART < rows && column < width;
            if (ROWS % APART == 0 || first + k * APART < ROWS)
                copy16_async(to + k * APART * (WIDTH + 8), valid ? source : from, valid ? 16 : 0);
            source += (i64)APART * stride;
        }
    } else {
        for (int row = first; row < ROWS; row += APART) {
            for (int k = 0; k < 8; k++) {
                bf16 x = {0};
                if (row < rows && column + k < width) x = source[k];
                to[k] = x;
            }
            to += APART * (WIDTH + 8), source += (i64)APART * stride;
        }
    }
}

// Most channels of a head in a block: 16 for each of four warps.
#define CHANNELS 64

// What a chunk's step sizes become: (4, CHUNK) floats.
template <int CHUNK>
struct Steps {
    float cum[CHUNK];     // log2 of the decay from the chunk's start up to and with this token
    float step[CHUNK];    // dt
    float weight[CHUNK];  // decay from behind this token to the chunk's end, times dt
    float entry[CHUNK];   // 2^cum
};

// Shared memory of a block. (targets/cuda/src/launch/ssd.rs has the same sizes.)
template <int N, int CHUNK, int PARTS>
struct SsdShared {
    // Of c and x two chunks: the next arrives while one is worked on. b is free, and fetched, before y is made.
    bf16 b[PARTS][CHUNK][N + 8], c[2][PARTS][CHUNK][N + 8], x[2][PARTS][CHUNK][CHANNELS + 8];
    bf16 scores[PARTS][CHUNK][CHUNK + 8];
    bf16 state[PARTS][CHANNELS][N + 8];
    Steps<CHUNK> steps[2];
};

// Grid (segments * heads, parts, streams), segments outermost; a part is `16 * ceil(ceil(head_dim / 16) / parts)` channels, at most 64.
// Block THREADS. d_state is at most N. All blocks must fit on the machine at once if there are several segments.
template <class T, int N, int CHUNK, bool SPLIT>
static __device__ __forceinline__ void ssd_prefill(const Ssd<T>& p) {
    const int PARTS = SPLIT ? 2 : 1, TOKENS = CHUNK / 16;
    const int HALF = N / 2, NT = HALF / 8;    // of d_state a warp keeps
    const int SHARE = CHANNELS * TOKENS / 8;  // channels of y a warp makes, for 16 tokens
    // How many operands are loaded before the first is used: loads take long, and the compiler does not move them.
    const int BATCH = N / 16 < 4 / PARTS ? N / 16 : 4 / PARTS, XS = 2 / PARTS;
    extern __shared__ __align__(16) unsigned char shared[];
    typedef SsdShared<N, CHUNK, PARTS> Shared;
    Shared& s = *(Shared*)shared;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int width = (p.head_dim + 15) / 16, part_width = (width + gridDim.y - 1) / gridDim.y * 16,
              first_channel = blockIdx.y * part_width;
    const int valid_channels = min(part_width, p.head_dim - first_channel);
    const int channel = warp % 4 * 16, first_n = warp / 4 * HALF;  // of the state this warp keeps
    const bool has_state = channel < valid_channels;

    const int segment = blockIdx.x / p.heads, head = blockIdx.x % p.heads, group = head / (p.heads / p.groups);
    const u64 first_row = (u64)blockIdx.z * p.tokens;
    const T* const x = p.x + first_row * p.x_stride + head * p.head_dim + first_channel;
    const T *const b = p.b + first_row * p.b_stride + group * p.d_state, *const c = p.c + first_row * p.c_stride + group * p.d_state;
    const T* const dt = p.dt + first_row * p.dt_stride + head;
    T* const y = p.y + first_row * p.y_stride + head * p.head_dim + first_channel;
    u8* const state = p.state + blockIdx.z * p.state_stride;
    const bool x_aligned = ((u64)x | (u64)p.x_stride * sizeof(T) | (u64)p.head_dim * sizeof(T)) % 16 == 0;
    const bool bc_aligned =
        ((u64)b | (u64)c | (u64)p.b_stride * sizeof(T) | (u64)p.c_stride * sizeof(T) | (u64)p.d_state * sizeof(T)) % 16 == 0;
    const bool y_aligned = ((u64)y | (u64)p.y_stride * sizeof(T) | (u64)p.head_dim * sizeof(T)) % 8 == 0;
    const float a = p.a[head] * LOG2_E, d = p.d[head], bias = p.dt_bias[head];

    const int chunks = (p.tokens + CHUNK - 1) / CHUNK;
    const int begin = (int)((i64)chunks * segment / p.segments), end = (int)((i64)chunks * (segment + 1) / p.segments);

    float h[NT][4];      // the state: channel lane / 4 (+ 8 in the upper two), n = first_n + 8 tile + 2 (lane % 4) + {0, 1}
    float raw[2];        // in the first warp: step sizes before softplus, of tokens 2 lane and 2 lane + 1 of the chunk to prepare next
    float total = 0.0f;  // log2 of the segment's decay

    auto fetch_b = [&](int chunk) {
        if (chunk >= end) return;
        i64 t = (i64)chunk * CHUNK;
        fill_tile<PARTS, CHUNK, N>(&s.b[0][0][0], CHUNK * (N + 8), b + t * p.b_stride, p.b_stride, p.tokens - (int)t, p.d_state,
                                   bc_aligned);
    };
    auto fetch_c = [&](int chunk) {
        if (chunk >= end) return;
        i64 t = (i64)chunk * CHUNK;
        fill_tile<PARTS, CHUNK, N>(&s.c[chunk % 2][0][0][0], CHUNK * (N + 8), c + t * p.c_stride, p.c_stride, p.tokens - (int)t, p.d_state,
                                   bc_aligned);
    };
    auto fetch_x = [&](int chunk) {
        if (chunk >= end) return;
        i64 t = (i64)chunk * CHUNK;
        fill_tile<PARTS, CHUNK, CHANNELS>(&s.x[chunk % 2][0][0][0], CHUNK * (CHANNELS + 8), x + t * p.x_stride, p.x_stride,
                                          p.tokens - (int)t, valid_channels, x_aligned);
    };
    // The first warp reads and prepares step sizes.
    auto fetch_steps = [&](int chunk) {
        if (warp != 0) return;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            int t = chunk * CHUNK + 2 * lane + k;
            raw[k] = chunk < end && 2 * lane < CHUNK && t < p.tokens ? to_f32(dt[(i64)t * p.dt_stride]) : 0.0f;
        }
    };
    auto prepare_steps = [&](int chunk) {
        if (warp != 0 || chunk >= end) return;
        Steps<CHUNK>& steps = s.steps[chunk % 2];
        float step[2], cum[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            int t = chunk * CHUNK + 2 * lane + k;
            // Behind the last token nothing decays and nothing enters.
            bool valid = 2 * lane < CHUNK && t < p.tokens;
            step[k] = valid ? step_size(p, raw[k], bias, p.gaps ? p.gaps[first_row + t] : 1.0f) : 0.0f;
            cum[k] = step[k] * a;
        }
        cum[1] += cum[0];
        float before = cum[1];
#pragma unroll
        for (int by = 1; by < 32; by *= 2) {
            float other = __shfl_up_sync(FULL, before, by);
            if (lane >= by) before += other;
        }
        float last = __shfl_sync(FULL, before, 31);
        before -= cum[1];
        cum[0] += before, cum[1] += before;
        if (2 * lane < CHUNK) {
            *(float2*)&steps.cum[2 * lane] = make_float2(cum[0], cum[1]);
            *(float2*)&steps.step[2 * lane] = make_float2(step[0], step[1]);
            *(float2*)&steps.weight[2 * lane] = make_float2(exp2_approx(last - cum[0]) * step[0], exp2_approx(last - cum[1]) * step[1]);
            *(float2*)&steps.entry[2 * lane] = make_float2(exp2_approx(cum[0]), exp2_approx(cum[1]));
        }
    };
    // Scores, a square of 16 x 16 at a time: (c . b) for j <= i, times decay and step size, and the skip on the diagonal.
    auto make_scores = [&](int chunk) {
        const Steps<CHUNK>& steps = s.steps[chunk % 2];
        for (int square = warp; square < TOKENS * (TOKENS + 1) / 2; square += 8) {
            int i0 = square >= 6 ? 3 : square >= 3 ? 2 : square >= 1 ? 1 : 0;
            int j0 = (square - i0 * (i0 + 1) / 2) * 16;
            i0 *= 16;
            float dots[2][2][4] = {};  // parity of the step, half of the columns
#pragma unroll
            for (int first = 0; first < N / 16; first += BATCH) {
                u32 left[BATCH][PARTS][4], right[BATCH][PARTS][4];
#pragma unroll
                for (int k = 0; k < BATCH; k++) {
#pragma unroll
                    for (int part = 0; part < PARTS; part++) {
                        load_matrices(left[k][part], &s.c[chunk % 2][part][i0 + lane % 16][(first + k) * 16 + lane / 16 * 8]);
                        load_matrices(right[k][part], &s.b[part][j0 + lane % 8 + lane / 16 * 8][(first + k) * 16 + lane / 8 % 2 * 8]);
                    }
                }
#pragma unroll
                for (int k = 0; k < BATCH; k++) {
#pragma unroll
                    for (int m = 0; m < 2; m++) multiply_half<PARTS>(dots[k % 2][m], left[k], right[k], m);
                }
            }
            float cum_i[2] = {steps.cum[i0 + lane / 4], steps.cum[i0 + lane / 4 + 8]};
#pragma unroll
            for (int m = 0; m < 2; m++) {
                int j = j0 + m * 8 + lane % 4 * 2;
                float2 cum_j = *(const float2*)&steps.cum[j], step_j = *(const float2*)&steps.step[j];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    int i = i0 + lane / 4 + r * 8;
                    float low = (dots[0][m][2 * r] + dots[1][m][2 * r]) * exp2_approx(cum_i[r] - cum_j.x) * step_j.x;
                    float high = (dots[0][m][2 * r + 1] + dots[1][m][2 * r + 1]) * exp2_approx(cum_i[r] - cum_j.y) * step_j.y;
                    low = j < i ? low : j == i ? low + d : 0.0f;
                    high = j + 1 < i ? high : j + 1 == i ? high + d : 0.0f;
                    u32 packed[PARTS];
                    split<PARTS>(packed, low, high);
#pragma unroll
                    for (int part = 0; part < PARTS; part++) *(u32*)&s.scores[part][i][j] = packed[part];
                }
            }
        }
    };
    // y of a chunk: this warp's 16 tokens and SHARE channels.
    auto make_y = [&](int chunk) {
        const Steps<CHUNK>& steps = s.steps[chunk % 2];
        const int i0 = warp % TOKENS * 16, share = warp / TOKENS * SHARE;
        if (share >= valid_channels) return;
        float sum[SHARE / 8][4] = {};
        u32 left[BATCH][PARTS][4], right[BATCH][SHARE / 16][PARTS][4];
#pragma unroll
        for (int first = 0; first < N / 16; first += BATCH) {
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    load_matrices(left[k][part], &s.c[chunk % 2][part][i0 + lane % 16][(first + k) * 16 + lane / 16 * 8]);
#pragma unroll
                    for (int m = 0; m < SHARE / 16; m++) {
                        load_matrices(right[k][m][part],
                                      &s.state[part][share + m * 16 + lane % 8 + lane / 16 * 8][(first + k) * 16 + lane / 8 % 2 * 8]);
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
#pragma unroll
                for (int m = 0; m < SHARE / 8; m++) multiply_half<PARTS>(sum[m], left[k], right[k][m / 2], m % 2);
            }
        }
        float entry[2] = {steps.entry[i0 + lane / 4], steps.entry[i0 + lane / 4 + 8]};
#pragma unroll
        for (int m = 0; m < SHARE / 8; m++) {
#pragma unroll
            for (int k = 0; k < 4; k++) sum[m][k] *= entry[k / 2];
        }
        // Scores behind i0 are not there; up to the next batch those are read too, and not used.
#pragma unroll
        for (int first = 0; first < TOKENS; first += XS) {
            if (first * 16 > i0) break;
            u32 left[XS][PARTS][4], right[XS][SHARE / 16][PARTS][4];
#pragma unroll
            for (int k = 0; k < XS; k++) {
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    load_matrices(left[k][part], &s.scores[part][i0 + lane % 16][(first + k) * 16 + lane / 16 * 8]);
#pragma unroll
                    for (int m = 0; m < SHARE / 16; m++) {
                        load_transposed(
                            right[k][m][part],
                            &s.x[chunk % 2][part][(first + k) * 16 + lane % 8 + lane / 8 % 2 * 8][share + m * 16 + lane / 16 * 8]);
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < XS; k++) {
                if ((first + k) * 16 > i0) break;
#pragma unroll
                for (int m = 0; m < SHARE / 8; m++) multiply_half<PARTS>(sum[m], left[k], right[k][m / 2], m % 2);
            }
        }
        const int rows = p.tokens - chunk * CHUNK, row = i0 + lane / 4;
        T* to = y + ((i64)chunk * CHUNK + row) * p.y_stride + share;
        const bool whole = y_aligned && i0 + 16 <= rows && share + SHARE <= valid_channels;
#pragma unroll
        for (int r = 0; r < 2; r++, to += 8 * (i64)p.y_stride) {
#pragma unroll
            for (int m = 0; m < SHARE / 8; m += 2) {
                float out[2][2] = {{sum[m][2 * r], sum[m][2 * r + 1]}, {sum[m + 1][2 * r], sum[m + 1][2 * r + 1]}};
                if (!whole) {
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        int column = (m + k / 2) * 8 + lane % 4 * 2 + k % 2;
                        if (row + 8 * r < rows && share + column < valid_channels) from_f32(out[k / 2][k % 2], to[column]);
                    }
                } else if constexpr (sizeof(T) == 2) {
                    // Neighbours swap, so that each writes four numbers in a row.
                    u32 first = pack_bf16(out[0][0], out[0][1]), second = pack_bf16(out[1][0], out[1][1]);
                    bool odd = lane % 2;
                    u32 other = __shfl_xor_sync(FULL, odd ? first : second, 1);
                    *(uint2*)(to + m * 8 + lane % 4 / 2 * 4 + (odd ? 8 : 0)) = make_uint2(odd ? other : first, odd ? second : other);
                } else {
#pragma unroll
                    for (int k = 0; k < 2; k++) *(float2*)(to + (m + k) * 8 + lane % 4 * 2) = make_float2(out[k][0], out[k][1]);
                }
            }
        }
    };
    // The state behind a chunk: h = decay * h + (weight * x)^T b.
    auto advance = [&](int chunk) {
        const Steps<CHUNK>& steps = s.steps[chunk % 2];
        float decay = exp2_approx(steps.cum[CHUNK - 1]);
        total += steps.cum[CHUNK - 1];
        if (!has_state) return;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int k = 0; k < 4; k++) h[n][k] *= decay;
        }
        u32 xs[TOKENS][PARTS][4];
#pragma unroll
        for (int k = 0; k < TOKENS; k++) {
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                load_transposed(xs[k][part], &s.x[chunk % 2][part][k * 16 + lane % 8 + lane / 16 * 8][channel + lane / 8 % 2 * 8]);
            }
        }
        const int NS = NT / 2 < 4 / PARTS ? NT / 2 : 4 / PARTS;  // pairs of tiles of d_state at once
#pragma unroll
        for (int k = 0; k < TOKENS; k++) {
            u32 left[PARTS][4];
#pragma unroll
            for (int first = 0; first < NT / 2; first += NS) {
                u32 right[NS][PARTS][4];
#pragma unroll
                for (int n = 0; n < NS; n++) {
#pragma unroll
                    for (int part = 0; part < PARTS; part++) {
                        load_transposed(right[n][part],
                                        &s.b[part][k * 16 + lane % 8 + lane / 8 % 2 * 8][first_n + (first + n) * 16 + lane / 16 * 8]);
                    }
                }
                if (first == 0) {
#pragma unroll
                    for (int half = 0; half < 2; half++) {  // tokens 0-7, 8-15 of these
                        float2 w = *(const float2*)&steps.weight[k * 16 + half * 8 + lane % 4 * 2];
#pragma unroll
                        for (int r = half * 2; r < half * 2 + 2; r++) {
                            float low = low_bf16(xs[k][0][r]), high = high_bf16(xs[k][0][r]);
                            if constexpr (SPLIT) low += low_bf16(xs[k][PARTS - 1][r]), high += high_bf16(xs[k][PARTS - 1][r]);
                            u32 scaled[PARTS];
                            split<PARTS>(scaled, low * w.x, high * w.y);
#pragma unroll
                            for (int part = 0; part < PARTS; part++) left[part][r] = scaled[part];
                        }
                    }
                }
#pragma unroll
                for (int n = 0; n < 2 * NS; n++) multiply_half<PARTS>(h[2 * first + n], left, right[n / 2], n % 2);
            }
        }
    };
    // The state for all warps to read.
    auto show_state = [&]() {
        if (!has_state) return;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                u32 packed[PARTS];
                split<PARTS>(packed, h[n][2 * r], h[n][2 * r + 1]);
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    *(u32*)&s.state[part][channel + lane / 4 + 8 * r][first_n + n * 8 + lane % 4 * 2] = packed[part];
                }
            }
        }
    };

    // The place of a number of the state, or -1.
    auto place = [&](int n, int k) -> i64 {
        int at_n = first_n + n * 8 + lane % 4 * 2 + k % 2, at_p = channel + lane / 4 + k / 2 * 8;
        return at_n < p.d_state && at_p < valid_channels ? ((i64)head * p.d_state + at_n) * p.head_dim + first_channel + at_p : -1;
    };
    auto load_first = [&]() {
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                i64 from = place(n, k);
                h[n][k] = from >= 0 ? load_state(state, p.state_is_half, from) : 0.0f;
            }
        }
    };
    // Where the state of a segment of these channels is exchanged: a number of the state after another, threads next to each other.
    const u64 blocks = (u64)gridDim.x * gridDim.y * gridDim.z, own = ((u64)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    auto block_of = [&](int of) { return own + (i64)(of - segment) * p.heads; };
    auto exchanged = [&](int of) { return (float4*)p.exchange + block_of(of) * NT * THREADS + threadIdx.x; };
    float* const decays = p.exchange + blocks * NT * THREADS * 4;
    auto publish = [&](int of) {
        float4* to = exchanged(of);
#pragma unroll
        for (int n = 0; n < NT; n++) __stcg(to + n * THREADS, make_float4(h[n][0], h[n][1], h[n][2], h[n][3]));
    };
    // What comes in: the states before, each decayed by the segments between.
    auto collect = [&]() {
        if (segment == 0) {
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float4 v = __ldcg(exchanged(p.segments - 1) + n * THREADS);
                h[n][0] = v.x, h[n][1] = v.y, h[n][2] = v.z, h[n][3] = v.w;
            }
            return;
        }
        for (int of = threadIdx.x; of < segment; of += THREADS) {
            volatile u32* flag = p.flags + block_of(of);
            while (*flag == 0) {
            }
        }
        __threadfence();
        __syncthreads();
#pragma unroll
        for (int n = 0; n < NT; n++) h[n][0] = h[n][1] = h[n][2] = h[n][3] = 0.0f;
#pragma unroll 2
        for (int of = 0; of < segment; of++) {
            float decay = exp2_approx(__ldcg(decays + block_of(of)));
            const float4* from = exchanged(of);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float4 v = __ldcg(from + n * THREADS);
                h[n][0] = decay * h[n][0] + v.x, h[n][1] = decay * h[n][1] + v.y;
                h[n][2] = decay * h[n][2] + v.z, h[n][3] = decay * h[n][3] + v.w;
            }
        }
    };
    // Ends the fetching of a chunk: it has arrived, and its steps are prepared, behind the next barrier.
    auto arrive = [&](int chunk) {
        commit_copies();
        prepare_steps(chunk);
        fetch_steps(chunk + 1);
        wait_copies<0>();
    };

    const bool publishes = segment < p.segments - 1;
    fetch_steps(begin);
    fetch_b(begin);
    fetch_x(begin);
    fetch_c(begin);
    if (segment == 0) {
        load_first();
        // The last block of these channels may write the state before this one is done: kept where the last publishes nothing.
        if (publishes) publish(p.segments - 1);
    } else {
#pragma unroll
        for (int n = 0; n < NT; n++) h[n][0] = h[n][1] = h[n][2] = h[n][3] = 0.0f;
    }
    arrive(begin);
    __syncthreads();
    if (publishes) {
        for (int chunk = begin; chunk < end; chunk++) {
            fetch_x(chunk + 1);
            advance(chunk);
            if (chunk + 1 == end) break;
            __syncthreads();
            fetch_b(chunk + 1);
            arrive(chunk + 1);
            __syncthreads();
        }
        publish(segment);
        if (threadIdx.x == 0) __stcg(decays + own, total);
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) atomicExch(p.flags + own, 1u);
        if (end - begin > 1) {
            // From the start again; c is still there.
            fetch_steps(begin);
            fetch_b(begin);
            fetch_x(begin);
            arrive(begin);
            __syncthreads();
        }
    }
    if (p.segments > 1) {
        make_scores(begin);  // while others publish
        collect();
        if (threadIdx.x == 0) {
            // The last block to come here leaves the flags as they were found.
            u32* done = p.flags + blocks;
            if (atomicAdd(done, 1u) == (u32)blocks - 1) {
                for (u64 i = 0; i < blocks; i++) p.flags[i] = 0;
                *done = 0;
            }
        }
    }
    for (int chunk = begin; chunk < end; chunk++) {
        show_state();
        fetch_x(chunk + 1);
        fetch_c(chunk + 1);
        if (chunk > begin || p.segments == 1) make_scores(chunk);
        advance(chunk);
        __syncthreads();  // Scores and the state before are complete; b is no longer read.
        fetch_b(chunk + 1);
        make_y(chunk);
        if (chunk + 1 == end) break;
        arrive(chunk + 1);
        __syncthreads();  // The chunk is done and the next is there.
    }
    if (segment != p.segments - 1 || !has_state) return;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            i64 to = place(n, k);
            if (to >= 0) store_state(state, p.state_is_half, to, h[n][k]);
        }
    }
}

// ---- one token after another ----------------------------------------------------------------------------------------------------

// The same in f32 and in order, for steps and for shapes that the tensor cores do not take. A thread keeps EACH neighbouring channels of
// ROWS numbers of d_state in registers. Grid (ceil(head_dim / 16), heads, streams), block 128: 16 / EACH across channels, the rest along
// d_state, which is at most ROWS * 8 * EACH.
template <class T, int EACH, int ROWS>
static __device__ __forceinline__ void ssd_serial(const Ssd<T>& p) {
    const int ACROSS = 16 / EACH, ALONG = 128 / ACROSS;
    __shared__ float sums[2][4][16];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int across = threadIdx.x % ACROSS, along = threadIdx.x / ACROSS;
    const int head = blockIdx.y, group = head / (p.heads / p.groups), channel = blockIdx.x * 16 + across * EACH;
    const u64 first_row = (u64)blockIdx.z * p.tokens;
    u8* const state = p.state + blockIdx.z * p.state_stride;
    const u64 base = (u64)head * p.d_state * p.head_dim + channel;
    const float a = p.a[head] * LOG2_E, d = p.d[head], bias = p.dt_bias[head];
    const bool valid = channel < p.head_dim;
    float h[ROWS][EACH];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int n = r * ALONG + along;
        bool here = valid && n < p.d_state;
        u64 from = base + (u64)n * p.head_dim;
        if (EACH == 4 && here && !p.state_is_half) {
            float4 v = *(const float4*)((const float*)state + from);
            h[r][0] = v.x, h[r][1 % EACH] = v.y, h[r][2 % EACH] = v.z, h[r][3 % EACH] = v.w;
        } else {
#pragma unroll
            for (int k = 0; k < EACH; k++) h[r][k] = here ? load_state(state, p.state_is_half, from + k) : 0.0f;
        }
    }
    for (int t = 0; t < p.tokens; t++) {
        const u64 row = first_row + t;
        const T *b = p.b + row * p.b_stride + group * p.d_state, *c = p.c + row * p.c_stride + group * p.d_state;
        const T* x = p.x + row * p.x_stride + head * p.head_dim;
        float step = step_size(p, to_f32(p.dt[row * p.dt_stride + head]), bias, p.gaps ? p.gaps[row] : 1.0f);
        float decay = exp2_approx(step * a), input[EACH], sum[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            input[k] = valid ? step * to_f32(x[channel + k]) : 0.0f;
            sum[k] = 0.0f;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int n = r * ALONG + along;
            float at_b = n < p.d_state ? to_f32(b[n]) : 0.0f, at_c = n < p.d_state ? to_f32(c[n]) : 0.0f;
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                h[r][k] = decay * h[r][k] + input[k] * at_b;
                sum[k] += at_c * h[r][k];
            }
        }
#pragma unroll
        for (int by = ACROSS; by < 32; by *= 2) {
#pragma unroll
            for (int k = 0; k < EACH; k++) sum[k] += __shfl_xor_sync(FULL, sum[k], by);
        }
        if (lane < ACROSS) {
#pragma unroll
            for (int k = 0; k < EACH; k++) sums[t % 2][warp][across * EACH + k] = sum[k];
        }
        __syncthreads();
        int e = blockIdx.x * 16 + threadIdx.x;
        if (threadIdx.x < 16 && e < p.head_dim) {
            float out = d * to_f32(x[e]);
#pragma unroll
            for (int w = 0; w < 4; w++) out += sums[t % 2][w][threadIdx.x];
            from_f32(out, p.y[row * p.y_stride + head * p.head_dim + e]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int n = r * ALONG + along;
        if (!valid || n >= p.d_state) continue;
        u64 to = base + (u64)n * p.head_dim;
        if (EACH == 4 && !p.state_is_half) {
            *(float4*)((float*)state + to) = make_float4(h[r][0], h[r][1 % EACH], h[r][2 % EACH], h[r][3 % EACH]);
        } else {
#pragma unroll
            for (int k = 0; k < EACH; k++) store_state(state, p.state_is_half, to + k, h[r][k]);
        }
    }
}

#define SSD_PARAMETERS(T)                                                                                                               \
    const T *x, const T *dt, const T *b, const T *c, T *y, int x_stride, int dt_stride, int b_stride, int c_stride, int y_stride,       \
        const float *a, const float *d, const float *dt_bias, float dt_lo, float dt_hi, const float *gaps, u8 *state, u64 state_stride, \
        int state_is_half, int tokens, int heads, int head_dim, int groups, int d_state, int segments, float *exchange, u32 *flags,     \
        const u32 *gate
#define SSD_OPERANDS(T)                                                                                                  \
    Ssd<T> p = {x,     dt,       b,       c,       y,        x_stride, dt_stride, b_stride,     c_stride,      y_stride, \
                a,     d,        dt_bias, dt_lo,   dt_hi,    gaps,     state,     state_stride, state_is_half, tokens,   \
                heads, head_dim, groups,  d_state, segments, exchange, flags}

#define SSD_PREFILL(NAME, T, N, CHUNK, SPLIT, BLOCKS)                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(SSD_PARAMETERS(T)) { \
        if (gate && *gate == 0) return;                                                     \
        SSD_OPERANDS(T);                                                                    \
        ssd_prefill<T, N, CHUNK, SPLIT>(p);                                                 \
    }
#define SSD_SERIAL(NAME, T, EACH, ROWS)                                         \
    extern "C" __global__ void __launch_bounds__(128) NAME(SSD_PARAMETERS(T)) { \
        if (gate && *gate == 0) return;                                         \
        SSD_OPERANDS(T);                                                        \
        ssd_serial<T, EACH, ROWS>(p);                                           \
    }

// ssd_prefill_<type>_<d_state up to>, ssd_serial_<type>_<channels of a thread>
SSD_PREFILL(ssd_prefill_f32_32, float, 32, 32, true, 2)
SSD_PREFILL(ssd_prefill_f32_64, float, 64, 32, true, 2)
SSD_PREFILL(ssd_prefill_f32_128, float, 128, 32, true, 2)
SSD_PREFILL(ssd_prefill_f32_256, float, 256, 32, true, 1)
SSD_SERIAL(ssd_serial_f32_4, float, 4, 8)
SSD_SERIAL(ssd_serial_f32_1, float, 1, 32)
// The runtime's frames are f32. With bf16 operands the kernels compare with those of others: tests/peers/recurrences.cu.
#ifdef BROOKLET_BF16
SSD_PREFILL(ssd_prefill_bf16_128, bf16, 128, 64, false, 2)
#endif
