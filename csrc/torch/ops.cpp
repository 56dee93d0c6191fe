// torch.ops.kvasir.*: from boxed arguments to pointers, sizes and strides. What the arguments mean is said, and most
// of it checked, by the faces in kvasir/ops; checks here are those that keep a wrong call from reading other memory.

#include <cstring>
#include <initializer_list>

#include "../cpu/kernels.h"
#include "../cpu/parallel.h"
#include "abi.h"

namespace kvasir {
namespace {

// The kernels, with as many threads as torch would use.
const Kernels& ready() {
    uint32_t threads = 1;
    torch().get_num_threads(&threads);
    set_num_threads(int(threads));
    return kernels();
}

void require_last_contiguous(const Tensor& x) {
    require(x.dim() >= 1 && (x.size(-1) <= 1 || x.stride(-1) == 1), "the last dimension of a tensor is not contiguous");
}

void require_indices(const Tensor& x, bool wide) {
    require(x.dtype() == (wide ? torch().dtype_int64() : torch().dtype_int32()), "indices have the wrong dtype");
    require(x.size(-1) <= 1 || x.stride(-1) == 1, "indices are not contiguous");
}

// linear(Tensor x, Tensor weight) -> Tensor, and with a bias
void linear(Stack stack, const Tensor& x, const Tensor& weight, const Tensor* bias) {
    require_last_contiguous(x);
    require_last_contiguous(weight);
    require(weight.dim() == 2 && weight.size(1) == x.size(-1), "linear: x does not fit the weight");
    require(weight.size(0) >= kMinOutputs, "linear: the weight has too few rows");
    require(weight.dtype() == x.dtype() && (!bias || bias->dtype() == x.dtype()), "linear: dtypes differ");
    require(!bias || (bias->contiguous() && bias->size(-1) == weight.size(0)), "linear: the bias does not fit");
    int64_t sizes[8], rows = 1;
    require(x.dim() <= 8, "linear: x has more than 8 dimensions");
    for (int64_t i = 0; i + 1 < x.dim(); i++) rows *= sizes[i] = x.size(i);
    sizes[x.dim() - 1] = weight.size(0);
    LinearArgs args = {};
    args.dtype = x.element();
    args.x_stride = x.row_stride();
    NewTensor out(x, sizes, x.dim());
    args.x = x.data();
    args.weight = weight.data();
    args.bias = bias ? bias->data() : nullptr;
    args.out = out.data();
    args.rows = rows;
    args.inputs = x.size(-1);
    args.outputs = weight.size(0);
    args.weight_stride = weight.stride(0);
    if (rows > 0) ready().linear(args);
    stack[0] = out.result();
}

void linear(Stack stack, uint64_t, uint64_t) {
    Tensor x(stack[0]), weight(stack[1]);
    linear(stack, x, weight, nullptr);
}

void linear_bias(Stack stack, uint64_t, uint64_t) {
    Tensor x(stack[0]), weight(stack[1]), bias(stack[2]);
    linear(stack, x, weight, &bias);
}

NormArgs norm_args(const Tensor& x, const Tensor& weight, uint64_t eps) {
    require_last_contiguous(x);
    require(weight.dtype() == x.dtype() && weight.contiguous(), "rms_norm: the weight does not fit x");
    require(weight.size(-1) == x.size(-1), "rms_norm: the weight does not fit x");
    require(x.dim() <= 3, "rms_norm: x is not [rows, E] or [T, H, E]");
    NormArgs args = {};
    args.dtype = x.element();
    args.x = x.data();
    args.weight = weight.data();
    args.width = x.size(-1);
    args.inner = x.dim() == 3 ? x.size(1) : 1;
    args.inner_stride = x.dim() == 3 ? x.stride(1) : 0;
    args.outer = x.dim() >= 2 ? x.size(0) : 1;
    args.outer_stride = x.dim() >= 2 ? x.stride(0) : 0;
    args.eps = float(to_double(eps));
    return args;
}

// rms_norm(Tensor x, Tensor weight, float eps) -> Tensor
void rms_norm(Stack stack, uint64_t, uint64_t) {
    Tensor x(stack[0]), weight(stack[1]);
    NormArgs args = norm_args(x, weight, stack[2]);
    int64_t sizes[3];
    for (int64_t i = 0; i < x.dim(); i++) sizes[i] = x.size(i);
    NewTensor out(x, sizes, x.dim());
    args.out = out.data();
    if (args.outer * args.inner > 0) ready().rms_norm(args);
    stack[0] = out.result();
}

// add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)
void add_rms_norm(Stack stack, uint64_t, uint64_t) {
    Tensor x(stack[0]), residual(stack[1]), weight(stack[2]);
    NormArgs args = norm_args(x, weight, stack[3]);
    require(x.dim() == 2 && residual.dim() == 2 && residual.size(0) == x.size(0) && residual.size(1) == x.size(1) &&
                residual.dtype() == x.dtype() && residual.contiguous(),
            "add_rms_norm: x and residual must be alike and [T, E], residual contiguous");
    int64_t sizes[2] = {x.size(0), x.size(1)};
    NewTensor out(x, sizes, 2), sum(x, sizes, 2);
    args.residual = residual.data();
    args.out = out.data();
    args.sum = sum.data();
    if (args.outer > 0) ready().rms_norm(args);
    stack[0] = out.result();
    stack[1] = sum.result();
}

// silu_and_mul(Tensor x) -> Tensor
void silu_and_mul(Stack stack, uint64_t, uint64_t) {
    Tensor x(stack[0]);
    require_last_contiguous(x);
    require(x.dim() == 2 && x.size(1) % 2 == 0, "silu_and_mul: x is not [T, 2 * I]");
    int64_t sizes[2] = {x.size(0), x.size(1) / 2};
    SiluArgs args = {};
    args.dtype = x.element();
    NewTensor out(x, sizes, 2);
    args.x = x.data();
    args.out = out.data();
    args.rows = sizes[0];
    args.width = sizes[1];
    args.x_stride = x.stride(0);
    if (args.rows > 0) ready().silu_and_mul(args);
    stack[0] = out.result();
}

// Everything but where the results go.
RopeArgs rope_args(const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& cos_sin) {
    require_last_contiguous(q);
    require_last_contiguous(k);
    require_indices(positions, true);
    require(q.dim() == 3 && k.dim() == 3 && q.dtype() == k.dtype() && q.size(2) == k.size(2) && q.size(0) == k.size(0),
            "rope: q and k are not [T, H, D] and [T, K, D]");
    require(cos_sin.dim() == 2 && cos_sin.contiguous() && cos_sin.element() == Dtype::float32,
            "rope: the table is not float32 and contiguous");
    RopeArgs args = {};
    args.dtype = q.element();
    args.positions = static_cast<const int64_t*>(positions.data());
    args.cos_sin = static_cast<const float*>(cos_sin.data());
    args.tokens = q.size(0);
    args.head_size = q.size(2);
    args.rot_dim = cos_sin.size(1);
    require(positions.size(-1) >= args.tokens && args.rot_dim <= args.head_size, "rope: sizes do not fit");
    for (int64_t t = 0; t < args.tokens; t++)
        require(uint64_t(args.positions[t]) < uint64_t(cos_sin.size(0)), "rope: a position is outside the table");
    args.q = {q.data(), nullptr, nullptr, q.size(1), q.stride(0), q.stride(1)};
    args.k = {k.data(), nullptr, nullptr, k.size(1), k.stride(0), k.stride(1)};
    return args;
}

NewTensor like_heads(const Tensor& x) {
    int64_t sizes[3] = {x.size(0), x.size(1), x.size(2)};
    return NewTensor(x, sizes, 3);
}

// apply_rope(Tensor positions, Tensor q, Tensor k, Tensor cos_sin) -> (Tensor, Tensor)
void apply_rope(Stack stack, uint64_t, uint64_t) {
    Tensor positions(stack[0]), q(stack[1]), k(stack[2]), cos_sin(stack[3]);
    RopeArgs args = rope_args(positions, q, k, cos_sin);
    NewTensor new_q = like_heads(q), new_k = like_heads(k);
    args.q.out = new_q.data();
    args.k.out = new_k.data();
    if (args.tokens > 0) ready().apply_rope(args);
    stack[0] = new_q.result();
    stack[1] = new_k.result();
}

void require_cache(const Tensor& keys, const Tensor& values, int32_t dtype) {
    require_last_contiguous(keys);
    require(keys.dim() == 4 && values.dim() == 4 && keys.dtype() == dtype && values.dtype() == dtype,
            "caches are not [N, S, K, D] of the dtype of what is written or asked");
    for (int i = 0; i < 4; i++)
        require(keys.size(i) == values.size(i) && keys.stride(i) == values.stride(i), "key and value cache differ");
}

KvWriteArgs write_args(const Tensor& key, const Tensor& value, const Tensor& key_cache, const Tensor& value_cache,
                       const Tensor& slots) {
    require_last_contiguous(key);
    require_last_contiguous(value);
    require_indices(slots, true);
    require_cache(key_cache, value_cache, key.dtype());
    require(key.dim() == 3 && value.dim() == 3 && value.dtype() == key.dtype(), "keys and values are not [T, K, D]");
    KvWriteArgs args = {};
    args.dtype = key.element();
    args.key = key.data();
    args.value = value.data();
    args.key_cache = key_cache.data();
    args.value_cache = value_cache.data();
    args.slots = static_cast<const int64_t*>(slots.data());
    args.tokens = key.size(0);
    args.kv_heads = key.size(1);
    args.head_size = key.size(2);
    args.block_size = key_cache.size(1);
    args.key_stride = key.stride(0);
    args.key_head_stride = key.stride(1);
    args.value_stride = value.stride(0);
    args.value_head_stride = value.stride(1);
    args.block_stride = key_cache.stride(0);
    args.slot_stride = key_cache.stride(1);
    args.head_stride = key_cache.stride(2);
    int64_t num_slots = key_cache.size(0) * args.block_size;
    require(slots.size(-1) >= args.tokens && value.size(0) == args.tokens && value.size(1) == args.kv_heads &&
                key_cache.size(2) == args.kv_heads && key_cache.size(3) == args.head_size &&
                value.size(2) == args.head_size,
            "keys and values do not fit the cache");
    for (int64_t t = 0; t < args.tokens; t++) require(args.slots[t] < num_slots, "a slot is outside the cache");
    return args;
}

// reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor slots) -> ()
void reshape_and_cache(Stack stack, uint64_t, uint64_t) {
    Tensor key(stack[0]), value(stack[1]), key_cache(stack[2]), value_cache(stack[3]), slots(stack[4]);
    KvWriteArgs args = write_args(key, value, key_cache, value_cache, slots);
    if (args.tokens > 0) ready().reshape_and_cache(args);
}

// rope_and_cache(Tensor positions, Tensor query, Tensor key, Tensor value, Tensor cos_sin, Tensor(a!) key_cache,
//                Tensor(b!) value_cache, Tensor slots) -> Tensor, and with head norms before the rotation
void rope_and_cache(Stack stack, const Tensor* query_weight, const Tensor* key_weight, float eps) {
    Tensor positions(stack[0]), query(stack[1]), key(stack[2]), value(stack[3]), cos_sin(stack[4]), key_cache(stack[5]),
        value_cache(stack[6]), slots(stack[7]);
    RopeArgs rope = rope_args(positions, query, key, cos_sin);
    KvWriteArgs write = write_args(key, value, key_cache, value_cache, slots);
    if (query_weight) {
        for (const Tensor* weight : {query_weight, key_weight})
            require(weight->dtype() == query.dtype() && weight->contiguous() && weight->size(-1) == rope.head_size,
                    "rope_and_cache: a norm's weight does not fit");
        rope.q.weight = query_weight->data();
        rope.k.weight = key_weight->data();
        rope.eps = eps;
    }
    NewTensor out = like_heads(query);
    rope.q.out = out.data();
    if (rope.tokens > 0) ready().rope_and_cache(rope, write);
    stack[0] = out.result();
}

void rope_and_cache(Stack stack, uint64_t, uint64_t) { rope_and_cache(stack, nullptr, nullptr, 0); }

void norm_rope_and_cache(Stack stack, uint64_t, uint64_t) {
    Tensor query_weight(stack[8]), key_weight(stack[9]);
    rope_and_cache(stack, &query_weight, &key_weight, float(to_double(stack[10])));
}

// Every request's tokens, row of the table and blocks are there.
void require_requests(const AttentionArgs& args, int64_t num_blocks, const Tensor& table) {
    for (int64_t r = 0; r < args.requests; r++) {
        int64_t begin = args.query_start[r], end = args.query_start[r + 1], length = args.seq_lens[r];
        int64_t row = args.table_rows[r];
        require(begin >= 0 && end <= args.tokens, "paged_attention: a request's tokens are outside the query");
        if (length <= 0) continue;
        require(end - begin <= length, "paged_attention: a request has more new tokens than tokens");
        require(row >= 0 && row < table.size(0), "paged_attention: no such row of the block table");
        require(length <= table.size(1) * args.block_size, "paged_attention: a request is longer than its blocks");
        const int32_t* blocks = args.block_table + row * args.table_stride;
        for (int64_t i = 0; i * args.block_size < length; i++)
            require(blocks[i] >= 0 && blocks[i] < num_blocks, "paged_attention: no such block in the cache");
    }
}

// paged_attention(Tensor query, Tensor key_cache, Tensor value_cache, Tensor query_start_loc, Tensor seq_lens,
//                 Tensor block_table, Tensor table_rows, float scale, int sliding_window, float soft_cap) -> Tensor
void paged_attention(Stack stack, uint64_t, uint64_t) {
    Tensor query(stack[0]), key_cache(stack[1]), value_cache(stack[2]), starts(stack[3]), lens(stack[4]),
        table(stack[5]), table_rows(stack[6]);
    require_last_contiguous(query);
    require_indices(starts, false);
    require_indices(lens, false);
    require_indices(table, false);
    require_indices(table_rows, true);
    require_cache(key_cache, value_cache, query.dtype());
    require(query.dim() == 3 && table.dim() == 2,
            "paged_attention: query is not [T, H, D] or the table not [M, blocks]");
    AttentionArgs args = {};
    args.dtype = query.element();
    args.query = query.data();
    args.key_cache = key_cache.data();
    args.value_cache = value_cache.data();
    args.query_start = static_cast<const int32_t*>(starts.data());
    args.seq_lens = static_cast<const int32_t*>(lens.data());
    args.block_table = static_cast<const int32_t*>(table.data());
    args.table_rows = static_cast<const int64_t*>(table_rows.data());
    args.tokens = query.size(0);
    args.requests = lens.size(0);
    args.heads = query.size(1);
    args.kv_heads = key_cache.size(2);
    args.head_size = query.size(2);
    args.block_size = key_cache.size(1);
    args.query_stride = query.stride(0);
    args.query_head_stride = query.stride(1);
    args.block_stride = key_cache.stride(0);
    args.slot_stride = key_cache.stride(1);
    args.head_stride = key_cache.stride(2);
    args.table_stride = table.stride(0);
    args.scale = float(to_double(stack[7]));
    args.window = int64_t(stack[8]);
    args.soft_cap = float(to_double(stack[9]));
    require(args.head_size == key_cache.size(3) && args.kv_heads > 0 && args.heads % args.kv_heads == 0 &&
                starts.size(0) == args.requests + 1 && table_rows.size(0) >= args.requests,
            "paged_attention: sizes do not fit");
    require_requests(args, key_cache.size(0), table);
    int64_t sizes[3] = {args.tokens, args.heads, args.head_size};
    NewTensor out(query, sizes, 3);
    args.out = out.data();
    if (args.tokens > 0) ready().paged_attention(args);
    stack[0] = out.result();
}

struct Op {
    const char* name;
    const char* schema;
    BoxedFunction function;
};

const Op ops[] = {
    {"linear", "linear(Tensor x, Tensor weight) -> Tensor", linear},
    {"linear_bias", "linear_bias(Tensor x, Tensor weight, Tensor bias) -> Tensor", linear_bias},
    {"rms_norm", "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rms_norm},
    {"add_rms_norm", "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
     add_rms_norm},
    {"silu_and_mul", "silu_and_mul(Tensor x) -> Tensor", silu_and_mul},
    {"apply_rope", "apply_rope(Tensor positions, Tensor q, Tensor k, Tensor cos_sin) -> (Tensor, Tensor)", apply_rope},
    {"reshape_and_cache",
     "reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor slots) -> ()",
     reshape_and_cache},
    {"rope_and_cache",
     "rope_and_cache(Tensor positions, Tensor query, Tensor key, Tensor value, Tensor cos_sin, Tensor(a!) key_cache, "
     "Tensor(b!) value_cache, Tensor slots) -> Tensor",
     rope_and_cache},
    {"norm_rope_and_cache",
     "norm_rope_and_cache(Tensor positions, Tensor query, Tensor key, Tensor value, Tensor cos_sin, "
     "Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor slots, Tensor query_weight, Tensor key_weight, float eps) "
     "-> Tensor",
     norm_rope_and_cache},
    {"paged_attention",
     "paged_attention(Tensor query, Tensor key_cache, Tensor value_cache, Tensor query_start_loc, Tensor seq_lens, "
     "Tensor block_table, Tensor table_rows, float scale, int sliding_window, float soft_cap) -> Tensor",
     paged_attention},
};

}  // namespace
}  // namespace kvasir

#define KVASIR_EXPORT extern "C" __attribute__((visibility("default")))

// Called once, after `import torch`. Null when all ops are registered, else why not.
KVASIR_EXPORT const char* kvasir_register_ops() {
    using namespace kvasir;
    if (const char* missing = find_torch()) return missing;
    LibraryHandle definitions, implementations;
    if (torch().library_init_fragment("kvasir", __FILE__, __LINE__, &definitions) ||
        torch().library_init_impl("kvasir", "CPU", __FILE__, __LINE__, &implementations))
        return "torch refused a library named kvasir";
    for (const Op& op : ops)
        if (torch().library_def(definitions, op.schema) || torch().library_impl(implementations, op.name, op.function))
            return op.name;
    return nullptr;
}

KVASIR_EXPORT const char* kvasir_isa() { return kvasir::kernels().isa; }

KVASIR_EXPORT int kvasir_use_isa(const char* name) { return kvasir::use_isa(name); }
