// Several query tokens of one request against all keys they see, for all query heads of one KV head at once.
//
// Keys and values are packed, one panel of them after another, into the order in which the products want them; each
// panel serves all rows (tokens x query heads) of the tile. Products run over "units" of 32 bits: one float, or, where
// the processor multiplies pairs of bfloat16, two neighbours along the dimension summed over.
#pragma once

#include "attention_decode.h"
#include "attention_task.h"

namespace kvasir {
namespace KVASIR_ISA {

constexpr int64_t kRowsPerTile = 96;
constexpr int kPanelVectors = 4;
constexpr int kPanelKeys = kPanelVectors * kLanes;
constexpr int kRowsPerProduct = KVASIR_VECTOR_BYTES >= 64 ? 6 : 2;  // 6 x 4 sums fill the registers of AVX-512

template <typename Element>
struct FloatUnits {
    using T = Element;
    static constexpr int elements = 1;
    static inline Vec multiply_add(Vec sum, float unit, Vec panel) { return sum + unit * panel; }
    static inline Vec units(const T* p, int n) { return n == kLanes ? load(p) : load_some(p, n); }
    static inline Vec rows_side_by_side(const T* row, const T*, int n) { return units(row, n); }
    static inline void store_weights(float* p, Vec v) { store(p, v); }
    static inline void copy_query(float* to, const T* from, int64_t n) {
        for (int64_t i = 0; i < n; i++) to[i] = widened(from[i]);
    }
};

#if defined(__AVX512BF16__)
struct PairUnits {
    using T = BFloat16;
    static constexpr int elements = 2;
    static inline Vec multiply_add(Vec sum, float unit, Vec panel) {
        int32_t bits;
        memcpy(&bits, &unit, sizeof bits);
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(bits), (__m512bh)panel);
    }
    static inline Vec units(const T* p, int n) {  // n elements, at most 32
        __mmask32 mask = n >= 32 ? ~__mmask32(0) : (__mmask32(1) << n) - 1;
        return (Vec)_mm512_maskz_loadu_epi16(mask, p);
    }
    // Lane d is the pair (row[d], next[d]); next may be null and counts as zeros.
    static inline Vec rows_side_by_side(const T* row, const T* next, int n) {
        VecBits first = (VecBits)(n == kLanes ? load(row) : load_some(row, n)) >> 16;
        if (next == nullptr) return (Vec)first;
        return (Vec)(first | (VecBits)(n == kLanes ? load(next) : load_some(next, n)));
    }
    static inline void store_weights(float* p, Vec v) { store(reinterpret_cast<BFloat16*>(p), v); }
    static inline void copy_query(float* to, const T* from, int64_t n) {
        to[(n - 1) / 2] = 0;  // the second half of an odd head's last pair
        memcpy(to, from, n * sizeof *from);
    }
};
#endif

// out[r][:] = out[r][:] * keep[r] + sum over u of a[r][u] * panel[u][:], for num_rows rows and num_vectors vectors.
// Without keep the sums replace what is there.
template <typename Units, int num_rows, int num_vectors>
static inline void product(const float* a, int64_t a_stride, const float* panel, int64_t panel_stride, int64_t units,
                           const float* keep, float* out, int64_t out_stride) {
    Vec sum[num_rows][num_vectors] = {};
    for (int64_t u = 0; u < units; u++) {
        Vec b[num_vectors];
#pragma GCC unroll 8
        for (int v = 0; v < num_vectors; v++) b[v] = load(panel + u * panel_stride + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < num_rows; r++)
#pragma GCC unroll 8
            for (int v = 0; v < num_vectors; v++)
                sum[r][v] = Units::multiply_add(sum[r][v], a[r * a_stride + u], b[v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < num_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < num_vectors; v++) {
            float* to = out + r * out_stride + v * kLanes;
            store(to, keep ? load(to) * keep[r] + sum[r][v] : sum[r][v]);
        }
}

// The same for any number of rows (padded to whole products) and vectors.
template <typename Units>
static inline void multiply(const float* a, int64_t a_stride, const float* panel, int64_t panel_stride, int64_t units,
                            const float* keep, float* out, int64_t out_stride, int64_t rows, int64_t vectors) {
    for (int64_t v = 0; v < vectors;) {
        int64_t width = vectors - v >= kPanelVectors ? kPanelVectors : 1;
        for (int64_t r = 0; r < rows; r += kRowsPerProduct) {
            const float *left = a + r * a_stride, *right = panel + v * kLanes;
            float* to = out + r * out_stride + v * kLanes;
            const float* kept = keep ? keep + r : nullptr;
            if (width == kPanelVectors) {
                product<Units, kRowsPerProduct, kPanelVectors>(
                    left, a_stride, right, panel_stride, units, kept, to, out_stride);
            } else {
                product<Units, kRowsPerProduct, 1>(left, a_stride, right, panel_stride, units, kept, to, out_stride);
            }
        }
        v += width;
    }
}

// panel[u][j] = unit u of key j; keys past the last are zeros.
template <typename Units>
static inline void pack_keys(
    const typename Units::T* const* keys, int64_t num_keys, int64_t head_size, int64_t units, float* panel) {
    for (int64_t j = 0; j < kPanelKeys; j += kLanes) {
        for (int64_t u = 0; u < units; u += kLanes) {
            int64_t left = head_size - u * Units::elements;
            int n = int(left < kLanes * Units::elements ? left : kLanes * Units::elements);
            Vec rows[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; i++)
                rows[i] = j + i < num_keys ? Units::units(keys[j + i] + u * Units::elements, n) : Vec{};
            transpose(rows);
            int64_t used = units - u < kLanes ? units - u : kLanes;
            for (int i = 0; i < used; i++) store(panel + (u + i) * kPanelKeys + j, rows[i]);
        }
    }
}

// panel[u][d] = element d of the value row(s) of unit u.
template <typename Units>
static inline void pack_values(
    const typename Units::T* const* rows, int64_t num_keys, int64_t head_size, int64_t width, float* panel) {
    for (int64_t j = 0; j < kPanelKeys; j += Units::elements, panel += width) {
        if (j >= num_keys) {
            memset(panel, 0, width * sizeof(float));
            continue;
        }
        auto next = Units::elements == 2 && j + 1 < num_keys ? rows[j + 1] : nullptr;
        for (int64_t d = 0; d < head_size; d += kLanes) {
            int n = int(head_size - d < kLanes ? head_size - d : kLanes);
            store(panel + d, Units::rows_side_by_side(rows[j] + d, next ? next + d : nullptr, n));
        }
    }
}

// Scores of one row become weights (in the form that the product with the values wants), of keys [low, high) only.
template <typename Units>
static inline float weigh_row(const AttentionArgs& args, float* scores, int64_t low, int64_t high, float* weights,
                              float* most, float* total) {
    Vec s[kPanelVectors], top = splat(*most);
    bool whole = low <= 0 && high >= kPanelKeys;
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; v++) {
        s[v] = scaled_scores(args, load(scores + v * kLanes));
        if (!whole) {
            VecInt key = lane_numbers() + v * kLanes;
            s[v] = ((key >= int32_t(low)) & (key < int32_t(high))) ? s[v] : splat(kNothing);
        }
        top = max(top, s[v]);
    }
    float now = largest(top);
    float base = now == kNothing ? 0.0f : now;  // nothing seen yet: weights of zero, no difference of infinities
    Vec sums = {};
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; v++) {
        Vec weight = exp(s[v] - base);
        sums += weight;
        Units::store_weights(weights + v * kLanes / Units::elements, weight);
    }
    float keep = exp(splat(*most - base))[0];
    *most = now;
    *total = *total * keep + sum(sums);
    return keep;
}

// Everything one tile works on, in one piece of scratch memory. Rows are padded to whole products.
struct Tile {
    int64_t rows, padded, units, weight_units, width;
    float *query;        // [padded, units]
    float *scores;       // [padded, kPanelKeys]
    float *weights;      // [padded, weight_units]
    float *values;       // [padded, width]: the result, not divided yet
    float *key_panel;    // [units, kPanelKeys]
    float *value_panel;  // [weight_units, width]
    float *most, *total, *keep;  // [padded]: largest score, sum of weights, what the last panel left of them

    Tile(int64_t num_rows, int64_t head_size, int elements) {
        rows = num_rows;
        padded = (rows + kRowsPerProduct - 1) / kRowsPerProduct * kRowsPerProduct;
        units = (head_size + elements - 1) / elements;
        weight_units = kPanelKeys / elements;
        width = (head_size + kLanes - 1) / kLanes * kLanes;
        int64_t sizes[] = {padded * units, padded * kPanelKeys, padded * weight_units, padded * width,
                           units * kPanelKeys, weight_units * width, padded, padded, padded};
        float** arrays[] = {&query, &scores, &weights, &values, &key_panel, &value_panel, &most, &total, &keep};
        int64_t floats = 0;
        for (int64_t& size : sizes) floats += size = (size + 15) / 16 * 16;
        float* memory = static_cast<float*>(scratch(Scratch::chunk, floats * sizeof(float)));
        for (int i = 0; i < 9; i++) {
            *arrays[i] = memory;
            memory += sizes[i];
        }
        memset(query, 0, padded * units * sizeof(float));
        memset(weights, 0, padded * weight_units * sizeof(float));
        memset(values, 0, padded * width * sizeof(float));
        memset(value_panel, 0, weight_units * width * sizeof(float));
        for (int64_t r = 0; r < padded; r++) most[r] = kNothing, total[r] = keep[r] = 0;
    }
};

template <typename T, typename Units>
static void prefill_tile(const AttentionArgs& args, const Task& task) {
    int64_t group = args.heads / args.kv_heads, size = args.head_size;
    Tile tile((task.token_end - task.token) * group, size, Units::elements);  // row = token * group + head
    for (int64_t r = 0; r < tile.rows; r++) {
        const T* from = static_cast<const T*>(args.query) + (task.token + r / group) * args.query_stride +
                        (task.kv_head * group + r % group) * args.query_head_stride;
        Units::copy_query(tile.query + r * tile.units, from, size);
    }
    // Positions in the sequence: of the tile's first query, and of the keys that any of its queries sees.
    int64_t first_position = args.seq_lens[task.request] - args.query_start[task.request + 1] + task.token;
    int64_t first = args.window > 0 && first_position >= args.window ? first_position - args.window + 1 : 0;
    int64_t last = first_position + task.token_end - task.token;

    const T *keys[kPanelKeys], *rows[kPanelKeys];
    for (int64_t key = first; key < last; key += kPanelKeys) {
        int64_t n = last - key < kPanelKeys ? last - key : kPanelKeys;
        list_rows(args, task, args.key_cache, key, n, keys);
        list_rows(args, task, args.value_cache, key, n, rows);
        pack_keys<Units>(keys, n, size, tile.units, tile.key_panel);
        multiply<Units>(tile.query, tile.units, tile.key_panel, kPanelKeys, tile.units, nullptr, tile.scores,
                        kPanelKeys, tile.padded, kPanelVectors);
        for (int64_t r = 0; r < tile.rows; r++) {
            int64_t position = first_position + r / group;
            int64_t low = args.window > 0 ? position - args.window + 1 - key : 0;
            tile.keep[r] = weigh_row<Units>(args, tile.scores + r * kPanelKeys, low, position + 1 - key,
                                            tile.weights + r * tile.weight_units, &tile.most[r], &tile.total[r]);
        }
        pack_values<Units>(rows, n, size, tile.width, tile.value_panel);
        multiply<Units>(tile.weights, tile.weight_units, tile.value_panel, tile.width, tile.weight_units, tile.keep,
                        tile.values, tile.width, tile.padded, tile.width / kLanes);
    }
    for (int64_t r = 0; r < tile.rows; r++) {
        T* out = static_cast<T*>(args.out) +
                 ((task.token + r / group) * args.heads + task.kv_head * group + r % group) * size;
        write_output(args, tile.values + r * tile.width, tile.total[r], out);
    }
}

}  // namespace KVASIR_ISA
}  // namespace kvasir
