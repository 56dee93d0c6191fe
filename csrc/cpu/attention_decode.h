// One query token of one request against some of its keys, for all query heads of one KV head at once.
#pragma once

#include "attention_task.h"
#include "linear.h"

namespace kvasir {
namespace KVASIR_ISA {

constexpr int64_t kKeysPerPiece = 512;
constexpr int kKeysPerStep = 64;

// A partial result: [group, D] weighted values, not divided yet; then group largest scores; then group sums of weights.
static inline int64_t partial_size(int64_t group, int64_t head_size) {
    return (group * (head_size + 2) + 15) / 16 * 16;
}

// Rows are short and lie anywhere, so the processor does not guess which comes next: while keys are scored their values
// are asked for, and while values are added up the keys of the next step.
template <typename T>
static inline void prefetch(const T* row, int64_t elements) {
    const char* bytes = reinterpret_cast<const char*>(row);
    for (int64_t i = 0; i < int64_t(elements * sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

template <typename Dot, int num_heads, typename T, typename X>
static inline void score_heads(const X* query, const T* const* keys, const T* const* rows, int64_t head_size,
                               int64_t num_keys, float* scores) {
    constexpr int width = kPairs / num_heads;
    for (int64_t j = 0; j < num_keys; j += width) {  // both lists are filled up to whole tiles
        alignas(64) float tile[kPairs];
        for (int i = 0; i < width; i++) prefetch(rows[j + i], head_size);
        dot_tile<Dot, num_heads, width>(StridedRows<X>{query, head_size}, ListedRows<T>{keys + j}, head_size, tile);
        for (int h = 0; h < num_heads; h++)
            memcpy(scores + h * kKeysPerStep + j, tile + h * width, width * sizeof(float));
    }
}

// values[h] = values[h] * keep[h] + sum over j of weights[h][j] * rows[j], over some vectors of the head.
template <int num_heads, int num_vectors, typename T>
static inline void add_values(const T* const* rows, const T* const* ahead, int64_t offset, int64_t num_keys,
                              const float* weights, const float* keep, float* values, int64_t head_size) {
    Vec sum[num_heads][num_vectors];
#pragma GCC unroll 16
    for (int h = 0; h < num_heads; h++)
#pragma GCC unroll 16
        for (int v = 0; v < num_vectors; v++)
            sum[h][v] = load(values + h * head_size + offset + v * kLanes) * keep[h];
    for (int64_t j = 0; j < num_keys; j++) {
        prefetch(ahead[j] + offset, num_vectors * kLanes);
        Vec row[num_vectors];
#pragma GCC unroll 16
        for (int v = 0; v < num_vectors; v++) row[v] = load(rows[j] + offset + v * kLanes);
#pragma GCC unroll 16
        for (int h = 0; h < num_heads; h++)
#pragma GCC unroll 16
            for (int v = 0; v < num_vectors; v++) sum[h][v] += weights[h * kKeysPerStep + j] * row[v];
    }
#pragma GCC unroll 16
    for (int h = 0; h < num_heads; h++)
#pragma GCC unroll 16
        for (int v = 0; v < num_vectors; v++) store(values + h * head_size + offset + v * kLanes, sum[h][v]);
}

template <int num_heads, typename T>
static inline void add_values_of_heads(const T* const* rows, const T* const* ahead, int64_t num_keys,
                                       const float* weights, const float* keep, float* values, int64_t head_size) {
    constexpr int wide = kLanes == 16 ? 4 : 2;
    int64_t d = 0;
    for (; d + wide * kLanes <= head_size; d += wide * kLanes)
        add_values<num_heads, wide>(rows, ahead, d, num_keys, weights, keep, values, head_size);
    for (; d + kLanes <= head_size; d += kLanes)
        add_values<num_heads, 1>(rows, ahead, d, num_keys, weights, keep, values, head_size);
    for (; d < head_size; d++) {
        for (int h = 0; h < num_heads; h++) {
            float sum = values[h * head_size + d] * keep[h];
            for (int64_t j = 0; j < num_keys; j++) sum += weights[h * kKeysPerStep + j] * widened(rows[j][d]);
            values[h * head_size + d] = sum;
        }
    }
}

// Scores of one head become weights relative to the largest score so far. Returns what earlier results are worth now.
static inline float weigh(const AttentionArgs& args, float* scores, int64_t num_keys, float* most, float* total) {
    Vec top = splat(*most);
    for (int64_t j = 0; j < kKeysPerStep; j += kLanes) {
        Vec s = scaled_scores(args, load(scores + j));
        s = lane_numbers() + int32_t(j) < int32_t(num_keys) ? s : splat(kNothing);
        store(scores + j, s);
        top = max(top, s);
    }
    float now = largest(top);
    Vec sums = {};
    for (int64_t j = 0; j < kKeysPerStep; j += kLanes) {
        Vec weight = exp(load(scores + j) - now);
        store(scores + j, weight);
        sums += weight;
    }
    float keep = exp(splat(*most - now))[0];
    *most = now;
    *total = *total * keep + sum(sums);
    return keep;
}

template <typename T>
static inline void write_output(const AttentionArgs& args, const float* values, float total, T* out) {
    Vec factor = splat(1.0f / total);
    int64_t d = 0;
    for (; d + kLanes <= args.head_size; d += kLanes) store(out + d, load(values + d) * factor);
    if (d < args.head_size) {
        int n = int(args.head_size - d);
        store_some(out + d, load_some(values + d, n) * factor, n);
    }
}

// The query heads of one KV head as rows, in the type that Dot wants.
static inline void copy_query(BFloat16* to, const BFloat16* from, int64_t n) { memcpy(to, from, n * sizeof *to); }
static inline void copy_query(float* to, const float* from, int64_t n) { memcpy(to, from, n * sizeof *to); }
static inline void copy_query(float* to, const BFloat16* from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = widened(from[i]);
}

// Where the keys and values of one step lie; both lists are filled up with the last.
template <typename T>
struct Step {
    const T *keys[kKeysPerStep], *values[kKeysPerStep];
    int64_t num_keys;

    void list(const AttentionArgs& args, const Task& task, int64_t first) {
        num_keys = task.key_end - first < kKeysPerStep ? task.key_end - first : kKeysPerStep;
        list_rows(args, task, args.key_cache, first, num_keys, keys);
        list_rows(args, task, args.value_cache, first, num_keys, values);
        for (int64_t j = num_keys; j < kKeysPerStep; j++) {
            keys[j] = keys[num_keys - 1];
            values[j] = values[num_keys - 1];
        }
    }
};

template <typename T, typename Dot>
static void decode_piece(const AttentionArgs& args, const Task& task, float* partials) {
    using X = typename Dot::template Operand<T>;
    int64_t group = args.heads / args.kv_heads, size = args.head_size, result = partial_size(group, size);
    float* memory = static_cast<float*>(
        scratch(Scratch::chunk, (result + group * (kKeysPerStep + 1 + size)) * sizeof(float)));
    float* values = task.partial >= 0 ? partials + task.partial * result : memory;
    float *most = values + group * size, *total = most + group;
    float *scores = memory + result, *keep = scores + group * kKeysPerStep;
    X* query = reinterpret_cast<X*>(keep + group);
    for (int64_t h = 0; h < group; h++) {
        const T* from = static_cast<const T*>(args.query) + task.token * args.query_stride +
                        (task.kv_head * group + h) * args.query_head_stride;
        copy_query(query + h * size, from, size);
        most[h] = kNothing;
        total[h] = 0;
    }
    memset(values, 0, group * size * sizeof(float));

    Step<T> steps[2];
    steps[0].list(args, task, task.key);
    for (int64_t key = task.key, i = 0; key < task.key_end; key += kKeysPerStep, i ^= 1) {
        Step<T>&step = steps[i], &after = steps[i ^ 1];
        after.list(args, task, key + kKeysPerStep < task.key_end ? key + kKeysPerStep : key);
        const T *const *keys = step.keys, *const *rows = step.values, *const *ahead = after.keys;
        int64_t n = step.num_keys;
        in_fours(0, group, [&](auto count, int64_t h) {
            score_heads<Dot, count.value>(query + h * size, keys, rows, size, n, scores + h * kKeysPerStep);
        });
        for (int64_t h = 0; h < group; h++)
            keep[h] = weigh(args, scores + h * kKeysPerStep, n, &most[h], &total[h]);
        in_fours(0, group, [&](auto count, int64_t h) {
            add_values_of_heads<count.value>(
                rows, ahead, n, scores + h * kKeysPerStep, keep + h, values + h * size, size);
        });
    }
    if (task.partial >= 0) return;
    T* out = static_cast<T*>(args.out) + (task.token * args.heads + task.kv_head * group) * size;
    for (int64_t h = 0; h < group; h++) write_output(args, values + h * size, total[h], out + h * size);
}

// Pieces of one request and head, which lie one after another, become one output.
template <typename T>
static void merge_pieces(const AttentionArgs& args, const Task& task, float* partials) {
    int64_t group = args.heads / args.kv_heads, size = args.head_size, step = partial_size(group, size);
    float* first = partials + task.partial * step;
    for (int64_t h = 0; h < group; h++) {
        float *values = first + h * size, *most = first + group * size + h, *total = most + group;
        for (int64_t i = 1; i < task.pieces; i++) {
            float* others = values + i * step;
            float most_other = most[i * step], total_other = total[i * step];
            float now = *most > most_other ? *most : most_other;
            float keep = exp(splat(*most - now))[0], keep_other = exp(splat(most_other - now))[0];
            for (int64_t d = 0; d < size; d++) values[d] = values[d] * keep + others[d] * keep_other;
            *total = *total * keep + total_other * keep_other;
            *most = now;
        }
        T* out = static_cast<T*>(args.out) + (task.token * args.heads + task.kv_head * group + h) * size;
        write_output(args, values, *total, out);
    }
}

}  // namespace KVASIR_ISA
}  // namespace kvasir
