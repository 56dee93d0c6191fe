// Attention of prompts over a paged cache, on Hopper: keys and values come by the copy engine (TMA), products are warpgroups'
// (wgmma), and the softmax of one tile of keys runs beside the product of the tile before it with its values.
//
// A program has 128 packed rows (query tokens x the heads that share a KV head) and three groups of four warps:
//
//     group 0     one warp asks for tiles of 128 keys and of 128 values, two of each ahead, and does nothing else
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

constexpr int kKeys = 128;                   // of a tile
constexpr int kRows = 64;                    // of a group
constexpr int kHalves = HEAD_SIZE / 64;
constexpr int kTokens = 2 * kRows / GROUP;   // of a program
constexpr int kStages = 2;
constexpr int kQueryHalf = kRows * 128;      // bytes
constexpr int kKeyHalf = kKeys * 128;
constexpr int kQueryBytes = kHalves * kQueryHalf;  // of a group
constexpr int kTileBytes = kHalves * kKeyHalf;
constexpr int kBlocks = kKeys / BLOCK_SIZE;  // of a tile
constexpr int kSums = HEAD_SIZE / 2;         // registers
constexpr float kNothing = -1e30f;           // below every score

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

__device__ __forceinline__ void copy_block(u32 to, const TensorMap* map, u32 barrier, int column, int row, int block) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(block)
        : "memory");
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
__device__ __forceinline__ void sums_wait(float (&sums)[kSums], u32 (&weights)[32]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS(sums), U32(weights)::"memory");
}

// scores (+)= 64 rows of 16 elements x 128 keys of 16 elements
__device__ __forceinline__ void multiply_scores(float (&c)[64], u64 query, u64 keys, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE
        " {" R64 "}, %64, %65, p, 1, 1, 0, 0; }"
        : F64(c) : "l"(query), "l"(keys), "r"(add));
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
            for (int i = 0; i < 16; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    if (8 * i + j > seen0) s[4 * i + j] = __int_as_float(0xff800000);
                    if (8 * i + j > seen1) s[4 * i + 2 + j] = __int_as_float(0xff800000);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float high = s[2 * r];
#pragma unroll
            for (int i = 0; i < 16; i++) high = fmaxf(high, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
            const float now = fmaxf(top[r], max_of_quad(high) * scale);
            shrink[r] = exp2_of(top[r] - now);
            top[r] = now;
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < 16; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float& v = s[4 * i + 2 * r + j];
                    v = exp2_of(fmaf(v, scale, -now));
                    sum += v;
                }
            }
            total[r] = total[r] * shrink[r] + sum;
        }
    }
};

extern "C" __global__ void __launch_bounds__(384, 1) prefill_attention(
    const __grid_constant__ TensorMap cache,  // [blocks, {keys, values} x KV heads x BLOCK_SIZE, HEAD_SIZE]
    const u16* __restrict__ query,            // [tokens, heads, HEAD_SIZE]
    const int* __restrict__ starts,           // [rows + 1], each row's first token
    const int* __restrict__ seq_lens,         // [rows], with the tokens of the query
    const int* __restrict__ table,            // [slots, ...] block ids
    const i64* __restrict__ table_rows,       // [rows], the slot of each
    u16* __restrict__ output,                 // [tokens, heads, HEAD_SIZE] contiguous
    i64 stride_table, i64 stride_token, i64 stride_head, int rows, int kv_heads, int num_blocks, float scale) {
    extern __shared__ unsigned char shared[];
    __shared__ u64 barriers[4 * kStages];
    const u32 base = (shared_address(shared) + 1023) & ~1023u;
    const u32 keys_at = base + 2 * kQueryBytes, values_at = keys_at + kStages * kTileBytes;
    const u32 keys_full = shared_address(barriers), keys_free = keys_full + 8 * kStages;
    const u32 values_full = keys_free + 8 * kStages, values_free = values_full + 8 * kStages;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(&cache) : "memory");
        for (int i = 0; i < kStages; i++) {
            barrier_init(keys_full + 8 * i, 1), barrier_init(values_full + 8 * i, 1);
            barrier_init(keys_free + 8 * i, 8), barrier_init(values_free + 8 * i, 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async;" ::: "memory");
    }

    // The heads of a tile are neighbours, since they read the same blocks. Late tiles see the most keys: they start first.
    const int kv_head = blockIdx.x % kv_heads;
    int tile = (gridDim.x - 1 - blockIdx.x) / kv_heads;
    const int begin = starts[0];
    int row = -1;  // row r's first tile is at most (its start) / kTokens + r
    for (int r = lane; r - lane < rows; r += 32)
        row += __popc(__ballot_sync(0xffffffff, r < rows && (starts[r < rows ? r : 0] - begin) / kTokens + r <= tile));
    const int start = starts[row], query_len = starts[row + 1] - start, seq_len = seq_lens[row];
    const int first = (tile - ((start - begin) / kTokens + row)) * kTokens;  // token of the row
    const int oldest = seq_len - query_len + first;                          // its position
    const int end = oldest + kTokens < seq_len ? oldest + kTokens : seq_len;
    const int last = (end - 1) / kKeys;  // tile of keys
    const int* blocks = table + table_rows[row] * stride_table;
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    if (first >= query_len) return;

    if (warp < 4) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp) return;
        // A lane copies one half of one block.
        const int block = lane % kBlocks, half = lane / kBlocks;
        const int row_keys = kv_head * BLOCK_SIZE, row_values = (kv_heads + kv_head) * BLOCK_SIZE;
        const bool copies = lane < kBlocks * kHalves;
        const u32 to = half * kKeyHalf + block * BLOCK_SIZE * 128;
        auto id_of = [&](int n) {  // what lies past the end is filled with zeros: there is no such block
            const int index = n * kBlocks + block;
            return copies && n >= 0 && index * BLOCK_SIZE < end ? blocks[index] : num_blocks;
        };
        auto ask = [&](u32 full, u32 free, u32 at, int i, int source_row, int id) {
            const int stage = i % kStages;
            barrier_wait(free + 8 * stage, (i / kStages & 1) ^ 1);
            if (lane == 0) barrier_expect(full + 8 * stage, kTileBytes);
            __syncwarp();
            if (copies) copy_block(at + stage * kTileBytes + to, &cache, full + 8 * stage, half * 64, source_row, id);
        };
        int id = id_of(last), next_id = id_of(last - 1);
        ask(keys_full, keys_free, keys_at, 0, row_keys, id);
        for (int i = 0; i <= last; i++) {  // the tile is last - i
            const int later = id_of(last - i - 2);
            if (i < last) ask(keys_full, keys_free, keys_at, i + 1, row_keys, next_id);
            ask(values_full, values_free, values_at, i, row_values, id);
            id = next_id, next_id = later;
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int group = warp / 4 - 1, thread = threadIdx.x % 128, quad = lane % 4;
    const u32 mine = base + group * kQueryBytes;
    const int mine_sync = 1 + group, my_turn = 3 + group, other_turn = 4 - group;  // numbers of barriers
    constexpr int kPieces = HEAD_SIZE / 8;                                          // of 16 bytes, of a row
    auto piece_at = [&](int r, int piece) { return mine + piece / 8 * kQueryHalf + r * 128 + ((piece % 8) ^ (r % 8)) * 16; };
    auto is_there = [&](int packed) { return packed < kTokens * GROUP && first + packed / GROUP < query_len; };
#pragma unroll
    for (int i = thread; i < kRows * kPieces; i += 128) {
        const int r = i / kPieces, piece = i % kPieces, packed = group * kRows + r;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (is_there(packed))
            v = *(const uint4*)(query + (start + first + packed / GROUP) * stride_token + (kv_head * GROUP + packed % GROUP) * stride_head + piece * 8);
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(piece_at(r, piece)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
    }
    fence_for_tensor_cores();
    group_sync(mine_sync, 128);

    float scores[64], sums[kSums];
    u32 weights[32];
    Softmax softmax;
    const int packed = group * kRows + warp % 4 * 16 + lane / 4;  // of this thread's first row
    const int seen0 = oldest + packed / GROUP - 2 * quad, seen1 = oldest + (packed + 8) / GROUP - 2 * quad;
    const u64 query_at = descriptor(mine, 16, 1024);

    auto begin_scores = [&](int stage) {
        const u64 at = descriptor(keys_at + stage * kTileBytes, 16, 1024);
        products_begin();
#pragma unroll
        for (int k = 0; k < HEAD_SIZE / 16; k++)
            multiply_scores(
                scores, query_at + (k / 4 * kQueryHalf + k % 4 * 32) / 16, at + (k / 4 * kKeyHalf + k % 4 * 32) / 16, k > 0);
        products_commit();
    };
    auto begin_sums = [&](int stage) {
        const u64 at = descriptor(values_at + stage * kTileBytes, kKeyHalf, 1024);
        products_begin();
#pragma unroll
        for (int k = 0; k < kKeys / 16; k++) multiply_values(sums, weights + 4 * k, at + k * (16 * 128 / 16));
        products_commit();
    };
    auto release = [&](u32 free, int stage) {
        if (lane == 0) barrier_arrive(free + 8 * stage);
    };
    auto pack_weights = [&] {
#pragma unroll
        for (int i = 0; i < 32; i++) weights[i] = pack(scores[2 * i], scores[2 * i + 1]);
    };

#pragma unroll
    for (int i = 0; i < kSums; i++) sums[i] = 0.0f;
    barrier_wait(keys_full, 0);
    begin_scores(0);
    scores_wait<0>(scores);
    release(keys_free, 0);
    softmax.take(scores, scale, true, seen0 - last * kKeys, seen1 - last * kKeys);
    pack_weights();

    // The values of the last block past the end are nobody's, or were another request's: weights of zero do not undo a NaN.
    barrier_wait(values_full, 0);
    const int past = end - last * kKeys, all = (past + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
    if (past < all) {
        for (int i = thread; i < (all - past) * kPieces; i += 128) {
            const int r = past + i / kPieces, piece = i % kPieces;
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(values_at + piece / 8 * kKeyHalf + r * 128 + piece % 8 * 16), "r"(0) : "memory");
        }
        fence_for_tensor_cores();
        group_sync(mine_sync, 128);
    }
    if (group == 1) group_arrive(other_turn, 256);

    // Tile last - i, and the values of tile last - i + 1.
    auto step = [&](int i, bool masked) __attribute__((always_inline)) {
        const int stage = i % kStages, before = (i - 1) % kStages, tile = last - i;
        barrier_wait(keys_full + 8 * stage, i / kStages & 1);
        group_sync(my_turn, 256);
        begin_scores(stage);
        barrier_wait(values_full + 8 * before, (i - 1) / kStages & 1);
        begin_sums(before);
        group_arrive(other_turn, 256);
        scores_wait<1>(scores);
        release(keys_free, stage);
        softmax.take(scores, scale, masked, seen0 - tile * kKeys, seen1 - tile * kKeys);
        sums_wait(sums, weights);
        release(values_free, before);
#pragma unroll
        for (int j = 0; j < kSums; j++) sums[j] *= softmax.shrink[j / 2 % 2];
        pack_weights();
    };
    const int whole = (oldest + 1) / kKeys;  // tiles that every row sees all of
    int i = 1;
#pragma unroll 1
    for (; i <= last && last - i >= whole; i++) step(i, true);
#pragma unroll 1
    for (; i <= last; i++) step(i, false);
    barrier_wait(values_full + 8 * (last % kStages), last / kStages & 1);
    begin_sums(last % kStages);
    sums_wait(sums, weights);

    // Results go through this group's part of the query, so that rows are written whole.
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = softmax.total[r];
        total += __shfl_xor_sync(0xffffffff, total, 1);
        total += __shfl_xor_sync(0xffffffff, total, 2);
        inverse[r] = 1.0f / total;
    }
    group_sync(mine_sync, 128);  // all products with the query are done
#pragma unroll
    for (int j = 0; j < kSums / 4; j++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const u32 v = pack(sums[4 * j + 2 * r] * inverse[r], sums[4 * j + 2 * r + 1] * inverse[r]);
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(piece_at(warp % 4 * 16 + lane / 4 + 8 * r, j) + quad * 4), "r"(v) : "memory");
        }
    group_sync(mine_sync, 128);
#pragma unroll
    for (int i = thread; i < kRows * kPieces; i += 128) {
        const int r = i / kPieces, piece = i % kPieces, packed = group * kRows + r;
        uint4 v;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(piece_at(r, piece)) : "memory");
        if (is_there(packed))
            *(uint4*)(output + ((i64)(start + first + packed / GROUP) * (kv_heads * GROUP) + kv_head * GROUP + packed % GROUP) * HEAD_SIZE + piece * 8) = v;
    }
    if (group == 0) group_sync(my_turn, 256);  // as many waits as arrivals
}
