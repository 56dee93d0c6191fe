// x W^T for few rows of x, where the shared memory of the card holds all of W.
//
// A weight does not depend on the kernel before this one. So each program asks for its share of W and only then waits; while
// the predecessor finishes, W travels. What is left behind the wait is one trip for x, the tensor cores, and a sum over warps
// and programs. That works if the programs find room on the card beside those of the predecessor: registers and shared memory
// are to be kept low.
//
// Compiled by NVRTC or nvcc, which define: ROW_TILES (16 rows each); COLUMN_TILES (8 outputs each, of both weights if GATED)
// of a warp; COLUMN_WARPS beside each other, INPUT_WARPS that share inputs; SPLITS (programs of a cluster, which share the
// inputs of the same outputs); DEPTH (blocks of inputs that a warp has at most); GATED; HALF (float16 in place of bfloat16).
// Nothing is included.
//
// How operands lie: a block is 32 inputs. Lane l holds inputs 8 (l % 4) .. + 8 of row or output l / 4: 16 bytes, as they lie
// in memory. Tensor cores multiply 16 inputs at a time and do not care which, if both operands agree: of its 16 bytes a lane
// gives the first half to one product and the second to the next. So a lane reads of shared memory what lies as it was
// copied, without conflicts, and of W what it asked for itself.

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;

constexpr int kWarps = COLUMN_WARPS * INPUT_WARPS;
constexpr int kTiles = GATED ? 2 * COLUMN_TILES : COLUMN_TILES;
constexpr int kOctets = 2 * ROW_TILES;
constexpr int kItems = ROW_TILES * COLUMN_TILES * COLUMN_WARPS;  // tiles of results, a float4 for each of 32 lanes
constexpr int kParts = GATED ? 2 : 1;                            // sums that make one result
constexpr int kOwned = (kItems + SPLITS - 1) / SPLITS;           // items that a program of a cluster finishes
constexpr int kFragment = 512;                                   // bytes: 16 for each lane
constexpr int kShare = (DEPTH > ROW_TILES ? DEPTH : ROW_TILES) * kTiles * kFragment;  // of a warp: W, then partial sums
constexpr int kInbox = SPLITS > 1 ? SPLITS * kOwned * kParts * kFragment : 0;

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Past the first-level cache, which may still hold what was there before the kernel that wrote x. Zeros if not `given`.
__device__ __forceinline__ void copy_async(u32 to, const void* from, bool given = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(given ? 16 : 0) : "memory");
}

__device__ __forceinline__ uint4 load_shared(u32 from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
    return v;
}

__device__ __forceinline__ void multiply(float4& c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if HALF
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#endif
        : "+f"(c.x), "+f"(c.y), "+f"(c.z), "+f"(c.w)
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 v;
#if HALF
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
#endif
    return v;
}

__device__ __forceinline__ float widen(u32 v) {
#if HALF
    float f;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(f) : "r"(v));
    return f;
#else
    return __uint_as_float(v << 16);
#endif
}

__device__ __forceinline__ float rounded(float v) { return widen(pack(v, 0.0f) & 0xffff); }

__device__ __forceinline__ float gated(float gate, float beside) {
    gate = rounded(gate);
    return rounded(gate / (1.0f + __expf(-gate))) * rounded(beside);
}

__device__ __forceinline__ void add(float4& a, const float4& b) { a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w; }

__device__ __forceinline__ float4 load_sum(u32 from) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(from) : "memory");
    return v;
}

__device__ __forceinline__ void store_sum(u32 to, const float4& v) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

__device__ __forceinline__ void store_sum_of(u32 rank, u32 to, const float4& v) {
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(to), "r"(rank));
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(there), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

extern "C" __global__ void __launch_bounds__(kWarps * 32) skinny_linear(
    const u16* __restrict__ x,       // [rows, K], rows stride_x apart
    const u16* __restrict__ weight,  // [N, K]; gated: [2 N, K]
    const u16* __restrict__ bias,    // [N] or [2 N], or null
    u16* __restrict__ output,        // [rows, N]
    int rows, int stride_x, int N, int K) {
    extern __shared__ __align__(16) unsigned char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, octet = lane / 4, quad = lane % 4;
    const int input_warp = warp / COLUMN_WARPS, column_warp = warp % COLUMN_WARPS;
    const int column = blockIdx.x * (COLUMN_TILES * COLUMN_WARPS * 8);
    const int split = SPLITS > 1 ? blockIdx.y : 0;
    const int start = K / 32 * split / SPLITS, blocks = K / 32 * (split + 1) / SPLITS - start;  // of this program
    const int begin = blocks * input_warp / INPUT_WARPS;                                        // of this warp, from start
    const int count = blocks * (input_warp + 1) / INPUT_WARPS - begin;
    const u32 base = shared_address(shared), inbox = base + kWarps * kShare, xs = inbox + kInbox;
    const u32 mine = base + warp * kShare + lane * 16;

    const int first = column + column_warp * COLUMN_TILES * 8;
#pragma unroll
    for (int block = 0; block < DEPTH; block++) {
        if (block == count) break;
#pragma unroll
        for (int t = 0; t < kTiles; t++) {
            int row = first + (t % COLUMN_TILES) * 8 + octet;
            row = (row < N ? row : N - 1) + (t < COLUMN_TILES ? 0 : N);
            const u16* from = weight + (i64)row * K + (start + begin + block) * 32 + quad * 8;
            copy_async(mine + (block * kTiles + t) * kFragment, from);
        }
    }
#if SPLITS > 1
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");  // "I have begun": before anyone writes to others
#endif
    // The next kernel may begin, too: all it does before its own wait is to ask for what nobody writes.
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");

    for (int i = warp; i < blocks * kOctets; i += kWarps) {
        const int block = i / kOctets, row = i % kOctets * 8 + octet;
        const u16* from = x + (i64)(row < rows ? row : 0) * stride_x + (start + block) * 32 + quad * 8;
        copy_async(xs + i * kFragment + lane * 16, from, row < rows);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();

    float4 sums[ROW_TILES][kTiles] = {};
#pragma unroll 1
    for (int block = 0; block < count; block++) {
        uint4 a[kOctets];
#pragma unroll
        for (int r = 0; r < kOctets; r++) a[r] = load_shared(xs + ((begin + block) * kOctets + r) * kFragment + lane * 16);
#pragma unroll
        for (int t = 0; t < kTiles; t++) {
            const uint4 w = load_shared(mine + (block * kTiles + t) * kFragment);
#pragma unroll
            for (int m = 0; m < ROW_TILES; m++) {
                multiply(sums[m][t], a[2 * m].x, a[2 * m + 1].x, a[2 * m].y, a[2 * m + 1].y, w.x, w.y);
                multiply(sums[m][t], a[2 * m].z, a[2 * m + 1].z, a[2 * m].w, a[2 * m + 1].w, w.z, w.w);
            }
        }
    }

    __syncwarp();  // all lanes have read what the sums overwrite
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int t = 0; t < kTiles; t++) store_sum(mine + (m * kTiles + t) * kFragment, sums[m][t]);
    __syncthreads();

    // An item is a tile of results: 16 rows of 8 outputs, a float4 in each lane. Sums are taken in one order, always.
    auto row_of = [](int item) { return item / (COLUMN_TILES * COLUMN_WARPS) * 16; };
    auto column_of = [](int item) { return item % (COLUMN_TILES * COLUMN_WARPS) * 8; };
    auto of_warps = [&](int item, int part) {
        const int tile = item % COLUMN_TILES, of = item / COLUMN_TILES % COLUMN_WARPS, m = item / (COLUMN_TILES * COLUMN_WARPS);
        const u32 from = base + of * kShare + (m * kTiles + tile + part * COLUMN_TILES) * kFragment + lane * 16;
        float4 sum = load_sum(from);
#pragma unroll
        for (int w = 1; w < INPUT_WARPS; w++) add(sum, load_sum(from + w * COLUMN_WARPS * kShare));
        return sum;
    };
#if SPLITS > 1
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    for (int item = warp; item < kItems; item += kWarps)
#pragma unroll
        for (int part = 0; part < kParts; part++) {
            const int cell = (split * kOwned + item / SPLITS) * kParts + part;
            store_sum_of(item % SPLITS, inbox + cell * kFragment + lane * 16, of_warps(item, part));
        }
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    auto total = [&](int item, int part) {
        const u32 from = inbox + (item / SPLITS * kParts + part) * kFragment + lane * 16;
        float4 sum = load_sum(from);
#pragma unroll
        for (int s = 1; s < SPLITS; s++) add(sum, load_sum(from + s * kOwned * kParts * kFragment));
        return sum;
    };
#else
    auto total = of_warps;
#endif

    auto with_bias = [&](float4 sum, int out) {
        if (bias) {
            const u32 pair = *(const u32*)(bias + out);
            const float low = widen(pair & 0xffff), high = widen(pair >> 16);
            add(sum, make_float4(low, high, low, high));
        }
        return sum;
    };
    for (int item = warp * SPLITS + split; item < kItems; item += kWarps * SPLITS) {
        const int row = row_of(item) + octet, out = column + column_of(item) + quad * 2;
        if (out >= N) continue;
        float4 result = with_bias(total(item, 0), out);
#if GATED
        const float4 beside = with_bias(total(item, 1), N + out);
        result = make_float4(
            gated(result.x, beside.x), gated(result.y, beside.y), gated(result.z, beside.z), gated(result.w, beside.w));
#endif
        if (row < rows) *(u32*)(output + (i64)row * N + out) = pack(result.x, result.y);
        if (row + 8 < rows) *(u32*)(output + (i64)(row + 8) * N + out) = pack(result.z, result.w);
    }
}
