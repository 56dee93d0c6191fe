// Kernels that go over rows: norms, the gated activation, rotation of heads, writes into the cache.
#pragma once

#include "kernels.h"
#include "parallel.h"
#include "vec.h"

namespace kvasir {
namespace KVASIR_ISA {

// A chunk of less than this many elements is not worth handing to another thread.
constexpr int64_t kElementsPerChunk = 8192;

template <typename Body>
static inline void for_rows(int64_t rows, int64_t elements_per_row, const Body& body) {
    int64_t per_chunk = kElementsPerChunk / (elements_per_row + 1) + 1;
    auto chunk = [&](int64_t i) {
        int64_t end = (i + 1) * per_chunk < rows ? (i + 1) * per_chunk : rows;
        for (int64_t row = i * per_chunk; row < end; row++) body(row);
    };
    parallel_for((rows + per_chunk - 1) / per_chunk, chunk);
}

// body(first, n) for each vector's worth of a row; n < kLanes only for the last.
template <typename Body>
static inline void for_lanes(int64_t width, const Body& body) {
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) body(i, kLanes);
    if (i < width) body(i, int(width - i));
}

template <typename T>
static inline Vec load(const T* p, int n) {
    return n == kLanes ? load(p) : load_some(p, n);
}

template <typename T>
static inline void store(T* p, Vec v, int n) {
    n == kLanes ? store(p, v) : store_some(p, v, n);
}

// out = x / sqrt(mean(x^2) + eps), rounded, times weight. out may be x.
template <typename T>
static inline void norm_row(const T* x, const T* weight, float eps, int64_t width, T* out) {
    Vec squares[4] = {};  // four sums, since one would wait for each addition
    for_lanes(width, [&](int64_t i, int n) {
        Vec v = load(x + i, n);
        squares[i / kLanes % 4] += v * v;
    });
    float mean = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / float(width);
    float scale = 1.0f / __builtin_sqrtf(mean + eps);
    for_lanes(width, [&](int64_t i, int n) {
        store(out + i, rounded_to<T>(load(x + i, n) * scale) * load(weight + i, n), n);
    });
}

template <typename T>
static void rms_norm_rows(const NormArgs& args) {
    int64_t width = args.width;
    const T* weight = static_cast<const T*>(args.weight);
    for_rows(args.outer * args.inner, width, [&](int64_t row) {
        const T* x = static_cast<const T*>(args.x) + row / args.inner * args.outer_stride +
                     row % args.inner * args.inner_stride;
        if (args.residual) {
            const T* residual = static_cast<const T*>(args.residual) + row * width;
            T* sum = static_cast<T*>(args.sum) + row * width;
            for_lanes(width, [&](int64_t i, int n) { store(sum + i, load(x + i, n) + load(residual + i, n), n); });
            x = sum;
        }
        norm_row(x, weight, args.eps, width, static_cast<T*>(args.out) + row * width);
    });
}

template <typename T>
static void silu_and_mul_rows(const SiluArgs& args) {
    int64_t width = args.width;
    for_rows(args.rows, 4 * width, [&](int64_t row) {
        const T* gate = static_cast<const T*>(args.x) + row * args.x_stride;
        const T* up = gate + width;
        T* out = static_cast<T*>(args.out) + row * width;
        for_lanes(width, [&](int64_t i, int n) {
            Vec x = load(gate + i, n);
            store(out + i, rounded_to<T>(x * logistic(x)) * load(up + i, n), n);
        });
    });
}

// One head, normalised if there is a weight, and turned.
template <typename T>
static inline void rope_head(const RopeArgs& args, const T* x, const void* weight, const float* cosines, T* out) {
    int64_t half = args.rot_dim / 2;
    const float* sines = cosines + half;
    if (weight) {
        norm_row(x, static_cast<const T*>(weight), args.eps, args.head_size, out);
        x = out;
    } else {
        memcpy(out + args.rot_dim, x + args.rot_dim, (args.head_size - args.rot_dim) * sizeof(T));
    }
    for_lanes(half, [&](int64_t i, int n) {
        Vec first = load(x + i, n), second = load(x + half + i, n);
        Vec c = load(cosines + i, n), s = load(sines + i, n);
        store(out + i, unfused(first * c) - unfused(second * s), n);
        store(out + half + i, unfused(second * c) + unfused(first * s), n);
    });
}

// The heads of one token: head h goes to out + h * out_stride.
template <typename T>
static inline void rope_heads(
    const RopeArgs& args, const RopeArgs::Heads& heads, int64_t token, T* out, int64_t out_stride) {
    const float* cosines = args.cos_sin + args.positions[token] * args.rot_dim;
    const T* x = static_cast<const T*>(heads.x) + token * heads.token_stride;
    for (int64_t head = 0; head < heads.heads; head++)
        rope_head(args, x + head * heads.head_stride, heads.weight, cosines, out + head * out_stride);
}

template <typename T>
static inline T* row_of(const RopeArgs& args, const RopeArgs::Heads& heads, int64_t token) {
    return static_cast<T*>(heads.out) + token * heads.heads * args.head_size;
}

template <typename T>
static void rope_rows(const RopeArgs& args) {
    for_rows(args.tokens, (args.q.heads + args.k.heads) * args.head_size, [&](int64_t token) {
        rope_heads(args, args.q, token, row_of<T>(args, args.q, token), args.head_size);
        rope_heads(args, args.k, token, row_of<T>(args, args.k, token), args.head_size);
    });
}

// Where a slot's keys (and values) of the first head lie, in elements.
static inline int64_t cell_of(const KvWriteArgs& args, int64_t slot) {
    return slot / args.block_size * args.block_stride + slot % args.block_size * args.slot_stride;
}

template <typename T>
static inline void copy_heads(
    const KvWriteArgs& args, const void* from, int64_t stride, int64_t head_stride, int64_t token, void* cache) {
    const T* row = static_cast<const T*>(from) + token * stride;
    T* cell = static_cast<T*>(cache) + cell_of(args, args.slots[token]);
    for (int64_t head = 0; head < args.kv_heads; head++)
        memcpy(cell + head * args.head_stride, row + head * head_stride, args.head_size * sizeof(T));
}

template <typename T>
static void kv_write_rows(const KvWriteArgs& args) {
    for_rows(args.tokens, 2 * args.kv_heads * args.head_size, [&](int64_t token) {
        if (args.slots[token] < 0) return;
        copy_heads<T>(args, args.key, args.key_stride, args.key_head_stride, token, args.key_cache);
        copy_heads<T>(args, args.value, args.value_stride, args.value_head_stride, token, args.value_cache);
    });
}

template <typename T>
static void rope_and_cache_rows(const RopeArgs& rope, const KvWriteArgs& write) {
    for_rows(rope.tokens, (rope.q.heads + 2 * rope.k.heads) * rope.head_size, [&](int64_t token) {
        rope_heads(rope, rope.q, token, row_of<T>(rope, rope.q, token), rope.head_size);
        int64_t slot = write.slots[token];
        if (slot < 0) return;
        rope_heads(rope, rope.k, token, static_cast<T*>(write.key_cache) + cell_of(write, slot), write.head_stride);
        copy_heads<T>(write, write.value, write.value_stride, write.value_head_stride, token, write.value_cache);
    });
}

}  // namespace KVASIR_ISA
}  // namespace kvasir
