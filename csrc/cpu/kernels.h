// The kernels of one instruction set, as a table of plain functions over pointers, sizes and strides.
//
// Legend: T tokens, R requests, H query heads, K KV heads, D head size, N blocks, S block size, E width of a row.
// Strides count elements. The last dimension of every array is contiguous. Arithmetic is in float32; what is written
// is rounded to `dtype`, which all arrays of a call share unless said otherwise.
#pragma once

#include "types.h"

namespace kvasir {

struct LinearArgs {  // out[m, n] = sum over k of x[m, k] * weight[n, k], plus bias[n]
    Dtype dtype;
    const void* x;       // [rows, inputs]
    const void* weight;  // [outputs, inputs]; at least kMinOutputs rows
    const void* bias;    // [outputs] or null
    void* out;           // [rows, outputs], contiguous
    int64_t rows, inputs, outputs;
    int64_t x_stride, weight_stride;
};
constexpr int64_t kMinOutputs = 16;

struct NormArgs {  // out = x / sqrt(mean(x^2) + eps), rounded, times weight
    Dtype dtype;
    const void* x;         // [outer, inner, E], any strides of the first two
    const void* residual;  // like x, contiguous, or null: added first, the sum rounded
    const void* weight;    // [E]
    void* sum;             // where x + residual goes, contiguous; null without residual
    void* out;             // [outer, inner, E], contiguous
    int64_t outer, inner, width;
    int64_t outer_stride, inner_stride;  // of x
    float eps;
};

struct SiluArgs {  // out = silu(x[:, :width]), rounded, times x[:, width:]
    Dtype dtype;
    const void* x;  // [rows, 2 * width]
    void* out;      // [rows, width], contiguous
    int64_t rows, width, x_stride;
};

struct RopeArgs {  // dimension i of a head turns with dimension i + rot_dim / 2, for i < rot_dim / 2
    Dtype dtype;
    const int64_t* positions;  // [T]
    const float* cos_sin;      // [P, rot_dim], contiguous: cosines, then sines
    int64_t tokens, head_size, rot_dim;
    struct Heads {
        const void* x;       // [T, heads, D]
        const void* weight;  // [D]: heads are normalised first; or null
        void* out;           // [T, heads, D], contiguous; null: into the cache (keys only)
        int64_t heads, token_stride, head_stride;
    } q, k;
    float eps;  // of the norms
};

struct KvWriteArgs {  // cache[slot / S, slot % S] = token, where slot >= 0
    Dtype dtype;
    const void *key, *value;        // [T, K, D]
    void *key_cache, *value_cache;  // [N, S, K, D]
    const int64_t* slots;           // [T]
    int64_t tokens, kv_heads, head_size, block_size;
    int64_t key_stride, key_head_stride, value_stride, value_head_stride;
    int64_t block_stride, slot_stride, head_stride;  // of both caches
};

struct AttentionArgs {  // causal attention of each request's last tokens over its keys and values in the cache
    Dtype dtype;
    const void* query;                    // [T, H, D]
    const void *key_cache, *value_cache;  // [N, S, K, D]
    void* out;                            // [T, H, D], contiguous
    const int32_t* query_start;           // [R + 1]: request r owns query tokens [r, r + 1)
    const int32_t* seq_lens;              // [R]: tokens in the cache, the query's own included; 0: padding
    const int32_t* block_table;           // [M, >= blocks of a request]
    const int64_t* table_rows;            // [R]: each request's row of the block table
    int64_t tokens, requests, heads, kv_heads, head_size, block_size;
    int64_t query_stride, query_head_stride;
    int64_t block_stride, slot_stride, head_stride;  // of both caches
    int64_t table_stride;
    float scale;
    float soft_cap;  // scores become cap * tanh(score / cap); 0: no cap
    int64_t window;  // a token sees itself and the window - 1 before it; 0: all before it
};

struct Kernels {
    const char* isa;
    void (*linear)(const LinearArgs&);
    void (*rms_norm)(const NormArgs&);
    void (*silu_and_mul)(const SiluArgs&);
    void (*apply_rope)(const RopeArgs&);
    void (*reshape_and_cache)(const KvWriteArgs&);
    void (*rope_and_cache)(const RopeArgs&, const KvWriteArgs&);  // keys of the first go where the second says
    void (*paged_attention)(const AttentionArgs&);
};

// Best last. A null entry was not compiled, or this machine cannot run it; baseline is always there.
constexpr int kNumIsas = 4;
const Kernels* kernels_of(int isa);
// The one in use: the best there is, unless `use_isa` has chosen another. False when there is no such table.
const Kernels& kernels();
bool use_isa(const char* name);

}  // namespace kvasir
