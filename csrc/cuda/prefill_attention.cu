// Attention of prompts over a paged cache, on Hopper: keys and values come by the copy engine (TMA), products are warpgroups'
// (wgmma), and the softmax of one tile of keys runs beside the product of the tile before it with its values.
//
// A program has 128 packed rows (query tokens x the heads that share a KV head) and three groups of four warps:
//
//     group 0     one warp asks for tiles of 128 keys and of 128 values, three and two of them ahead, and finds what is to do next
//     groups 1, 2 64 rows each. For each tile, from the last to the first, since the last ones need masks:
//                 begin the scores of this tile, begin the sums with the values of the tile before, wait for the scores,
//                 make weights of them while the sums go on, wait for the sums.
//
// The two groups take turns to begin products, so that one's softmax runs beside the other's products.
//
// Compiled by NVRTC or nvcc, which define: HEAD_SIZE (64, 128); GROUP (query heads of a KV head); BLOCK_SIZE (tokens of a
// block of the cache: 16, 32, 64, 128); HALF (float16 in place of bfloat16). Nothing is included.
//
// How tiles lie in shared memory: columns in halves of 64 (128 bytes), each half with its rows one after the other, and of
// a row's eight pieces of 16 bytes piece i at place i ^ (row % 8): as the copy engine writes and the tensor cores read it.

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;
typedef unsigned long long u64;

constexpr int kKeys = 128;  // of a tile
constexpr int kRows = 64;   // of a group
constexpr int kTokens = 2 * kRows / GROUP;  // of a program's work
constexpr int kHalves = HEAD_SIZE / 64;
constexpr int kPieces = HEAD_SIZE / 8;  // of 16 bytes, of a row
constexpr int kBlocks = kKeys / BLOCK_SIZE;
constexpr int kSums = HEAD_SIZE / 2;  // registers
constexpr int kKeyStages = 3, kValueStages = 2;
constexpr int kRowsHalf = 2 * kRows * 128;  // bytes, of query or result
constexpr int kTileHalf = kKeys * 128;
constexpr int kRowsBytes = kHalves * kRowsHalf;
constexpr int kTileBytes = kHalves * kTileHalf;
constexpr int kCopyRegisters = 40, kWorkRegisters = 232;  // of a thread, in group 0 and in the others
static_assert(kCopyRegisters + 2 * kWorkRegisters <= 3 * 168, "384 threads begin with 168 each, and would wait forever for more");
constexpr float kNothing = -1e30f;  // below every score

struct alignas(64) TensorMap { u64 words[16]; };

#if HALF
#define TYPE "f16"
#else
#define TYPE "bf16"
#endif
#define F4(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3])
#define F16(a, i) F4(a, i), F4(a, i + 4), F4(a, i + 8), F4(a, i + 12)
#define F32(a) F16(a, 0), F16(a, 16)
#define F64(a) F16(a, 0), F16(a, 16), F16(a, 32), F16(a, 48)
#define U4(a, i) "+r"(a[i]), "+r"(a[i + 1]), "+r"(a[i + 2]), "+r"(a[i + 3])
#define U32(a) U4(a, 0), U4(a, 4), U4(a, 8), U4(a, 12), U4(a, 16), U4(a, 20), U4(a, 24), U4(a, 28)
#define R32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R64 R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#if HEAD_SIZE == 128
#define SUMS(a) F64(a)
#else
#define SUMS(a) F32(a)
#endif

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
}

__device__ __forceinline__ void group_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

__device__ __forceinline__ void group_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// What threads wrote to shared memory is there for the tensor cores.
__device__ __forceinline__ void fence_for_tensor_cores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, u32 barrier, int column, int row, int block) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(block)
        : "memory");
}

__device__ __forceinline__ void store_shared(u32 to, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ __forceinline__ uint4 load_shared(u32 from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
    return v;
}

// Four matrices of 8 x 8, as the tensor cores want a factor of theirs in registers. A lane gives the address of a row.
__device__ __forceinline__ void load_matrices(u32* to, u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}

__device__ __forceinline__ u64 descriptor(u32 address, u32 leading, u32 stride) {  // bytes; 128-byte swizzle
    return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | 1ull << 62;
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Registers of a product are named here, so that nothing that touches them moves to before the wait.
template <int ahead>
__device__ __forceinline__ void scores_wait(float (&scores)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned %64;" : F64(scores) : "n"(ahead) : "memory");
}
// Those of the scores, too, so that what is made of them is made beside the product.
__device__ __forceinline__ void sums_wait(float (&sums)[kSums], u32 (&weights)[32], float (&scores)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS(sums), U32(weights), F64(scores)::"memory");
}

// scores (+)= 64 rows of 16 elements x 128 keys of 16 elements
__device__ __forceinline__ void multiply_scores(float (&c)[64], const u32* q, u64 keys, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE
        " {" R64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0; }"
        : F64(c) : "r"(q[0]), "r"(q[1]), "r"(q[2]), "r"(q[3]), "l"(keys), "r"(add));
}

// sums += 64 rows of 16 weights x 16 values, whose columns are contiguous
__device__ __forceinline__ void multiply_values(float (&c)[kSums], const u32* w, u64 values) {
#if HEAD_SIZE == 128
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" R64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
        : F64(c) : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(values));
#else
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {" R32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
        : F32(c) : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(values));
#endif
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

__device__ __forceinline__ float exp2_of(float v) {
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v));
    return e;
}

__device__ __forceinline__ float max_of_quad(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffff, v, 2));
}

// Tensor cores give a thread, of two rows 8 apart, columns 8 i + 2 (lane % 4) + {0, 1}: elements 4 i + {0, 1} and 4 i + {2, 3}.
struct Softmax {
    float top[2] = {kNothing, kNothing};  // in units of log 2
    float total[2] = {0.0f, 0.0f};        // of this thread's columns
    float shrink[2];                      // the factor for what was summed before

    // Scores become weights. `seen`: the last column of the tile, counted from this thread's first, that each row sees.
    __device__ __forceinline__ void take(float (&s)[64], float scale, bool masked, int seen0, int seen1) {
        if (masked) {
#pragma unroll
            for (int i = 0; i < 64; i++)
                if (i / 4 * 8 + i % 2 > (i % 4 < 2 ? seen0 : seen1)) s[i] = __int_as_float(0xff800000);
        }
        // Each row's maximum and sum in two chains, since a chain is a latency after the other.
        float high[4] = {s[0], s[1], s[2], s[3]};
#pragma unroll
        for (int i = 4; i < 64; i++) high[i % 4] = fmaxf(high[i % 4], s[i]);
        float now[2], sum[4] = {};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            now[r] = fmaxf(top[r], max_of_quad(fmaxf(high[2 * r], high[2 * r + 1])) * scale);
            shrink[r] = exp2_of(top[r] - now[r]);
            top[r] = now[r];
        }
#pragma unroll
        for (int i = 0; i < 64; i++) {
            s[i] = exp2_of(fmaf(s[i], scale, -now[i % 4 / 2]));
            sum[i % 4] += s[i];
        }
#pragma unroll
        for (int r = 0; r < 2; r++) total[r] = total[r] * shrink[r] + (sum[2 * r] + sum[2 * r + 1]);
    }
};

// What a program does next: some tokens of a row, for the heads of one KV head.
struct alignas(16) Work {
    int kv_head, start, query_len, first, oldest, end, last, row;
    __device__ __forceinline__ bool exists() const { return last >= 0; }
    __device__ __forceinline__ static Work at(u32 slot) {
        const uint4 a = load_shared(slot), b = load_shared(slot + 16);
        return {(int)a.x, (int)a.y, (int)a.z, (int)a.w, (int)b.x, (int)b.y, (int)b.z, (int)b.w};
    }
};

struct Rows {
    const int* starts;
    const int* seq_lens;
    int rows, kv_heads, works;

    // By a whole warp. The heads of a tile are neighbours, since they read the same blocks. Late tiles see the most keys:
    // they come first.
    __device__ __forceinline__ Work find(int number) const {
        Work w;
        w.last = -1;
        if (number >= works) return w;
        const int lane = threadIdx.x % 32;
        int tile = (works - 1 - number) / kv_heads;
        w.kv_head = number % kv_heads;
        w.row = -1;
        for (int r = lane; w.row < 0; r += 32) {  // each lane has a row, until the tile is one of these rows'
            const int start = r < rows ? starts[r] : 0, length = r < rows ? starts[r + 1] - start : 0;
            const int own = (length + kTokens - 1) / kTokens;
            int past = own;  // tiles of the rows up to this one
#pragma unroll
            for (int d = 1; d < 32; d *= 2) {
                const int before = __shfl_up_sync(0xffffffff, past, d);
                if (lane >= d) past += before;
            }
            const u32 later = __ballot_sync(0xffffffff, tile < past);
            if (!later) {
                tile -= __shfl_sync(0xffffffff, past, 31);
                continue;
            }
            const int owner = __ffs(later) - 1;
            w.row = __shfl_sync(0xffffffff, r, owner);
            w.start = __shfl_sync(0xffffffff, start, owner);
            w.query_len = __shfl_sync(0xffffffff, length, owner);
            w.first = (tile - __shfl_sync(0xffffffff, past - own, owner)) * kTokens;  // token of the row
        }
        const int seq_len = seq_lens[w.row];
        w.oldest = seq_len - w.query_len + w.first;  // position
        w.end = w.oldest + kTokens < seq_len ? w.oldest + kTokens : seq_len;
        w.last = (w.end - 1) / kKeys;  // tile of keys
        return w;
    }
};

// A ring of buffers: barriers that say when buffer i is full, then those that say when it is free.
template <int stages>
struct Ring {
    u32 barriers, buffers;  // addresses

    __device__ __forceinline__ u32 full(int i) const { return barriers + 8 * (i % stages); }
    __device__ __forceinline__ u32 free(int i) const { return barriers + 8 * (stages + i % stages); }
    __device__ __forceinline__ u32 buffer(int i, u32 bytes) const { return buffers + i % stages * bytes; }
    __device__ __forceinline__ void wait_full(int i) const { barrier_wait(full(i), i / stages & 1); }
    __device__ __forceinline__ void wait_free(int i) const { barrier_wait(free(i), (i / stages & 1) ^ 1); }
    __device__ __forceinline__ void expect(int i, u32 bytes) const {  // by the warp that then asks for the copies
        wait_free(i);
        if (threadIdx.x % 32 == 0) barrier_expect(full(i), bytes);
        __syncwarp();
    }
    __device__ __forceinline__ void release(int i) const {  // by each of eight warps
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(free(i));
    }
    __device__ __forceinline__ void init() const {
        for (int i = 0; i < stages; i++) barrier_init(full(i), 1), barrier_init(free(i), 8);
    }
};

extern "C" __global__ void __launch_bounds__(384, 1) prefill_attention(
    const __grid_constant__ TensorMap queries,  // [tokens, heads, HEAD_SIZE]
    const __grid_constant__ TensorMap cache,    // [blocks, {keys, values} x KV heads x BLOCK_SIZE, HEAD_SIZE]
    const int* __restrict__ starts,             // [rows + 1], each row's first token
    const int* __restrict__ seq_lens,           // [rows], with the tokens of the query
    const int* __restrict__ table,              // [slots, ...] block ids
    const i64* __restrict__ table_rows,         // [rows], the slot of each
    u16* __restrict__ output,                   // [tokens, heads, HEAD_SIZE] contiguous
    int* __restrict__ counters,                 // [2] zeros, and zeros again in the end
    i64 stride_table, int rows, int kv_heads, int works, int num_blocks, float scale) {
    extern __shared__ unsigned char shared[];
    __shared__ u64 barriers[2 * (1 + kKeyStages + kValueStages + 2)];
    __shared__ Work slots[2];
    const u32 base = (shared_address(shared) + 1023) & ~1023u, results_at = base + kRowsBytes, keys_at = results_at + kRowsBytes;
    const Ring<1> query{shared_address(barriers), base};
    const Ring<kKeyStages> keys{query.barriers + 16, keys_at};
    const Ring<kValueStages> values{keys.barriers + 16 * kKeyStages, keys_at + kKeyStages * kTileBytes};
    const Ring<2> next{values.barriers + 16 * kValueStages, 0};  // of slots
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(&cache) : "memory");
        asm volatile("prefetch.tensormap [%0];" ::"l"(&queries) : "memory");
        query.init(), keys.init(), values.init(), next.init();
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async;" ::: "memory");
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    int done = 0;  // tiles so far

    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCopyRegisters));
        if (warp) return;
        // A lane copies one half of one block.
        const int block = lane % kBlocks, half = lane / kBlocks;
        const bool copies = lane < kBlocks * kHalves;
        const u32 place = half * kTileHalf + block * BLOCK_SIZE * 128;
        const Rows work_of{starts, seq_lens, rows, kv_heads, works};
        int number = blockIdx.x;
        for (int round = 0;; round++) {
            const Work w = work_of.find(number);
            next.wait_free(round);
            if (lane == 0) {
                slots[round % 2] = w;
                barrier_arrive(next.full(round));
            }
            if (!w.exists()) break;
            if (lane == 0) number = gridDim.x + atomicAdd(&counters[0], 1);  // its answer is wanted at the end of this work
            const int row_keys = w.kv_head * BLOCK_SIZE, row_values = (kv_heads + w.kv_head) * BLOCK_SIZE;
            const int* blocks = table + table_rows[w.row] * stride_table;
            auto id_of = [&](int n) {  // what lies past the end is filled with zeros: there is no such block
                const int index = n * kBlocks + block;
                return copies && n >= 0 && index * BLOCK_SIZE < w.end ? blocks[index] : num_blocks;
            };
            auto ask_keys = [&](int i, int id) {
                keys.expect(i, kTileBytes);
                if (copies) copy_box(keys.buffer(i, kTileBytes) + place, &cache, keys.full(i), half * 64, row_keys, id);
            };
            auto ask_values = [&](int i, int id) {
                values.expect(i, kTileBytes);
                if (copies) copy_box(values.buffer(i, kTileBytes) + place, &cache, values.full(i), half * 64, row_values, id);
            };
            int id = id_of(w.last), next_id = id_of(w.last - 1);
            query.expect(round, kHalves * kTokens * GROUP * 128);
            if (lane < kHalves)
                copy_box(base + lane * kRowsHalf, &queries, query.full(round), lane * 64, w.kv_head * GROUP, w.start + w.first);
            ask_keys(done, id);
            for (int n = w.last; n >= 0; n--, done++) {
                const int later = id_of(n - 2);
                if (n) ask_keys(done + 1, next_id);
                ask_values(done, id);
                id = next_id, next_id = later;
            }
            number = __shfl_sync(0xffffffff, number, 0);
        }
        if (lane == 0 && atomicAdd(&counters[1], 1) == gridDim.x - 1) counters[0] = counters[1] = 0;  // nobody asks any more
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kWorkRegisters));
    const int group = warp / 4 - 1, thread = threadIdx.x % 128, quad = lane % 4;
    const int all_of_group = 1 + group, my_turn = 3 + group, other_turn = 4 - group;  // numbers of barriers
    const int warp_row = group * kRows + warp % 4 * 16, own_row = warp_row + lane / 4;
    auto piece_at = [](u32 at, int r, int piece) { return at + piece / 8 * kRowsHalf + r * 128 + ((piece % 8) ^ (r % 8)) * 16; };
    float scores[64], sums[kSums];
    u32 weights[32], query_of_row[HEAD_SIZE / 4];
    if (group == 1) group_arrive(other_turn, 256);

    for (int round = 0;; round++) {
        next.wait_full(round);
        const u32 slot = shared_address(slots + round % 2);
        const Work w = Work::at(slot);
        if (!w.exists()) break;
        const int seen0 = w.oldest + own_row / GROUP - 2 * quad, seen1 = w.oldest + (own_row + 8) / GROUP - 2 * quad;
        const int whole = (w.oldest + 1) / kKeys;  // tiles that every row sees all of
        Softmax softmax;
        auto begin_scores = [&](int tile) {
            const u64 at = descriptor(keys.buffer(tile, kTileBytes), 16, 1024);
            products_begin();
#pragma unroll
            for (int k = 0; k < HEAD_SIZE / 16; k++)
                multiply_scores(scores, query_of_row + 4 * k, at + (k / 4 * kTileHalf + k % 4 * 32) / 16, k > 0);
            products_commit();
        };
        auto begin_sums = [&](int tile) {
            const u64 at = descriptor(values.buffer(tile, kTileBytes), kTileHalf, 1024);
            products_begin();
#pragma unroll
            for (int k = 0; k < kKeys / 16; k++) multiply_values(sums, weights + 4 * k, at + k * (16 * 128 / 16));
            products_commit();
        };
        auto pack_weights = [&] {
#pragma unroll
            for (int i = 0; i < 32; i++) weights[i] = pack(scores[2 * i], scores[2 * i + 1]);
        };

        query.wait_full(round);
#pragma unroll
        for (int k = 0; k < HEAD_SIZE / 16; k++)
            load_matrices(query_of_row + 4 * k, piece_at(base, warp_row + lane % 16, 2 * k + lane / 16));
        query.release(round);
        keys.wait_full(done);
        begin_scores(done);
#pragma unroll
        for (int i = 0; i < kSums; i++) sums[i] = 0.0f;
        scores_wait<0>(scores);
        keys.release(done);
        softmax.take(scores, scale, true, seen0 - w.last * kKeys, seen1 - w.last * kKeys);
        pack_weights();

        // The values of the last block past the end are nobody's, or were another request's: weights of zero do not undo a NaN.
        values.wait_full(done);
        const int past = w.end - w.last * kKeys, all = (past + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
        if (past < all) {
            for (int i = thread; i < (all - past) * kPieces; i += 128)
                store_shared(values.buffer(done, kTileBytes) + i % kPieces / 8 * kTileHalf + (past + i / kPieces) * 128 + i % 8 * 16, make_uint4(0, 0, 0, 0));
            fence_for_tensor_cores();
            group_sync(all_of_group, 128);
        }

        // The scores of tile n, the sums of the tile before it with its values, and beside those the weights of tile n.
        auto begin = [&](int n, bool masked) __attribute__((always_inline)) {
            keys.wait_full(done + 1);
            group_sync(my_turn, 256);
            begin_scores(done + 1);
            values.wait_full(done);
            begin_sums(done);
            group_arrive(other_turn, 256);
            scores_wait<1>(scores);
            keys.release(done + 1);
            softmax.take(scores, scale, masked, seen0 - n * kKeys, seen1 - n * kKeys);
        };
        auto finish = [&]() __attribute__((always_inline)) {
            sums_wait(sums, weights, scores);
            values.release(done);
            if (__any_sync(0xffffffff, softmax.shrink[0] != 1.0f || softmax.shrink[1] != 1.0f)) {
#pragma unroll
                for (int j = 0; j < kSums; j++) sums[j] *= softmax.shrink[j / 2 % 2];
            }
            pack_weights();
            done++;
        };
        // Between `begin` and `finish` a loop comes round, or the assembler would move the weights behind the wait.
        int n = w.last - 1;
        auto tiles_down_to = [&](int stop, bool masked) __attribute__((always_inline)) {
            if (n < stop) return;
            begin(n, masked);
#pragma unroll 1
            while (true) {
                finish();
                if (--n < stop) break;
                begin(n, masked);
            }
        };
        tiles_down_to(whole, true);
        tiles_down_to(0, false);
        values.wait_full(done);
        begin_sums(done);
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float total = softmax.total[r];
            total += __shfl_xor_sync(0xffffffff, total, 1);
            total += __shfl_xor_sync(0xffffffff, total, 2);
            inverse[r] = 1.0f / total;
        }
        sums_wait(sums, weights, scores);
        values.release(done);
        done++;

        // Results go through shared memory, so that rows are written whole. A warp reads what it has written itself.
        u32 at = results_at, own = own_row, first = warp_row;
        asm volatile("" : "+r"(at), "+r"(own), "+r"(first));  // or all places would be kept in registers through the loops above
        const Work of_rows = Work::at(slot);        // for the same reason
        next.release(round);
#pragma unroll
        for (int j = 0; j < kSums / 4; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                asm volatile("st.shared.u32 [%0], %1;" ::"r"(piece_at(at, own + 8 * r, j) + quad * 4),
                    "r"(pack(sums[4 * j + 2 * r] * inverse[r], sums[4 * j + 2 * r + 1] * inverse[r])) : "memory");
        __syncwarp();
#pragma unroll
        for (int i = lane; i < 16 * kPieces; i += 32) {
            const int packed = first + i / kPieces, piece = i % kPieces;
            const int token = of_rows.first + packed / GROUP, head = of_rows.kv_head * GROUP + packed % GROUP;
            const uint4 v = load_shared(piece_at(at, packed, piece));
            if (packed < kTokens * GROUP && token < of_rows.query_len)
                *(uint4*)(output + ((i64)(of_rows.start + token) * (kv_heads * GROUP) + head) * HEAD_SIZE + piece * 8) = v;
        }
        __syncwarp();
    }
    if (group == 0) group_sync(my_turn, 256);  // as many waits as arrivals
}
