// What decode and prefill share: a task, where keys lie, scores that become weights.
#pragma once

#include "dot.h"
#include "kernels.h"
#include "parallel.h"

namespace kvasir {
namespace KVASIR_ISA {

constexpr float kNothing = -__builtin_inff();  // the score of a key that is not seen

struct Task {
    int64_t request, kv_head;
    int64_t token, token_end;   // of the step's query tokens
    int64_t key, key_end;       // decode only: positions in the sequence
    int64_t partial;            // decode only: which partial result; -1: the output itself
    int64_t pieces;             // decode only: in the first piece of a request and head, how many there are
};

// Offset of a position's key (and value) from the start of its cache.
static inline int64_t cell_of(const AttentionArgs& args, const Task& task, int64_t position) {
    int64_t block = args.block_table[args.table_rows[task.request] * args.table_stride + position / args.block_size];
    return block * args.block_stride + position % args.block_size * args.slot_stride + task.kv_head * args.head_stride;
}

// rows[i] = the row of position first + i in `cache`, for i < n.
template <typename T>
static inline void list_rows(
    const AttentionArgs& args, const Task& task, const void* cache, int64_t first, int64_t n, const T** rows) {
    for (int64_t i = 0; i < n;) {
        const T* row = static_cast<const T*>(cache) + cell_of(args, task, first + i);
        int64_t left = args.block_size - (first + i) % args.block_size;
        for (int64_t stop = i + left < n ? i + left : n; i < stop; i++, row += args.slot_stride) rows[i] = row;
    }
}

static inline Vec scaled_scores(const AttentionArgs& args, Vec products) {
    Vec scores = products * args.scale;
    return args.soft_cap > 0 ? args.soft_cap * tanh(scores / args.soft_cap) : scores;
}

}  // namespace KVASIR_ISA
}  // namespace kvasir
