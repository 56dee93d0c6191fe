// Attention over the paged cache: a plan of tasks made by the caller, each run by whoever takes it.
//
//   decode    one request, one KV head, up to kKeysPerPiece keys; pieces of a longer request are merged at the end
//   prefill   one request, one KV head, some query tokens; all keys they see
//
// How a request is cut depends on that request alone, so its result does not depend on its neighbours.
#pragma once

#include "attention_decode.h"
#include "attention_prefill.h"

namespace kvasir {
namespace KVASIR_ISA {

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Calls body(task) for every task of the step; `partial` counts up over pieces that must be merged.
template <typename Body>
static void for_tasks(const AttentionArgs& args, const Body& body) {
    int64_t group = args.heads / args.kv_heads;
    int64_t tokens_per_tile = group < kRowsPerTile ? kRowsPerTile / group : 1;
    int64_t partial = 0;
    for (int64_t request = 0; request < args.requests; request++) {
        int64_t begin = args.query_start[request], end = args.query_start[request + 1];
        int64_t length = args.seq_lens[request];
        if (length <= 0 || end <= begin) continue;
        for (int64_t head = 0; head < args.kv_heads; head++) {
            if (end - begin > 1) {
                for (int64_t token = begin; token < end; token += tokens_per_tile)
                    body(Task{request, head, token, least(token + tokens_per_tile, end), 0, 0, -1, 0});
                continue;
            }
            int64_t first = args.window > 0 && args.window < length ? length - args.window : 0;
            int64_t pieces = (length - first + kKeysPerPiece - 1) / kKeysPerPiece;
            for (int64_t i = 0; i < pieces; i++) {
                int64_t key = first + i * kKeysPerPiece;
                int64_t stop = least(key + kKeysPerPiece, length);
                body(Task{request, head, begin, end, key, stop, pieces > 1 ? partial++ : -1, i == 0 ? pieces : 0});
            }
        }
    }
}

template <typename T, typename Dot, typename Units>
static void paged_attention_of(const AttentionArgs& args) {
    int64_t num_tasks = 0, num_partials = 0, num_covered = 0;
    for_tasks(args, [&](const Task& task) {
        num_tasks++;
        num_partials += task.partial >= 0;
    });
    for (int64_t request = 0; request < args.requests; request++)
        if (args.seq_lens[request] > 0) num_covered += args.query_start[request + 1] - args.query_start[request];
    if (num_covered < args.tokens)  // padding comes out as zeros
        memset(args.out, 0, args.tokens * args.heads * args.head_size * sizeof(T));
    if (num_tasks == 0) return;

    int64_t group = args.heads / args.kv_heads;
    int64_t partial_floats = partial_size(group, args.head_size);
    char* memory = static_cast<char*>(
        scratch(Scratch::call, num_tasks * sizeof(Task) + 64 + num_partials * partial_floats * sizeof(float)));
    float* partials = reinterpret_cast<float*>(memory);
    Task* tasks = reinterpret_cast<Task*>(memory + num_partials * partial_floats * sizeof(float));
    num_tasks = 0;
    for_tasks(args, [&](const Task& task) { tasks[num_tasks++] = task; });

    int64_t per_chunk = 1 + num_tasks / (32 * num_threads());
    auto chunk = [&](int64_t i) {
        int64_t stop = least((i + 1) * per_chunk, num_tasks);
        for (int64_t t = i * per_chunk; t < stop; t++) {
            if (tasks[t].key_end == 0) {
                prefill_tile<T, Units>(args, tasks[t]);
            } else {
                decode_piece<T, Dot>(args, tasks[t], partials);
            }
        }
    };
    parallel_for((num_tasks + per_chunk - 1) / per_chunk, chunk);
    if (num_partials == 0) return;
    for (int64_t t = 0; t < num_tasks; t++)
        if (tasks[t].pieces > 1) merge_pieces<T>(args, tasks[t], partials);
}

static void paged_attention(const AttentionArgs& args) {
    if (args.dtype == Dtype::float32) {
        paged_attention_of<float, WidenedDot, FloatUnits<float>>(args);
    } else {
#if defined(__AVX512BF16__)
        paged_attention_of<BFloat16, PairedDot, PairUnits>(args);
#else
        paged_attention_of<BFloat16, WidenedDot, FloatUnits<BFloat16>>(args);
#endif
    }
}

}  // namespace KVASIR_ISA
}  // namespace kvasir
