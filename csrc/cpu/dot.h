// Tiles of inner products: a few rows of x with a few rows of w, both contiguous along the dimension summed over.
//
// A tile keeps one accumulator per pair of rows; their lanes are added up at the end, all together, so that a short
// inner dimension does not drown in single sums. Which rows share a tile does not change a sum: lane l of a pair
// always adds elements l, l + step, ... in this order.
#pragma once

#include "vec.h"

namespace kvasir {
namespace KVASIR_ISA {

// Accumulators of a tile: half of the registers there are.
constexpr int kPairs = KVASIR_VECTOR_BYTES >= 64 ? 16 : 8;

// How two rows are multiplied: `step` elements at a time, from memory types X and W.
struct WidenedDot {  // any W, x in float32
    template <typename T>
    using Operand = float;
    template <typename X>
    static inline Vec x(const X* p) { return load(p); }
    template <typename W>
    static inline Vec w(const W* p) { return load(p); }
    static inline Vec add(Vec sum, Vec x, Vec w) { return sum + x * w; }
    static constexpr int step = kLanes;
};

#if defined(__AVX512BF16__)
struct PairedDot {  // both in bfloat16: one instruction multiplies 32 pairs and adds neighbours in float32
    template <typename T>
    using Operand = T;
    static inline __m512bh x(const BFloat16* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static inline __m512bh w(const BFloat16* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static inline Vec add(Vec sum, __m512bh x, __m512bh w) { return _mm512_dpbf16_ps(sum, x, w); }
    static constexpr int step = 32;
};
#endif

// Lane l of the result is a[l] + a[l + distance] where bit `distance` of l is clear, b[l] + b[l - distance] where set.
template <int distance>
static inline Vec fold(Vec a, Vec b) {
    exchange<distance>(a, b);
    return a + b;
}

// sums[i] = all lanes of v[i] added up, for i < kLanes.
static inline Vec sums_of(Vec* v) {
#if KVASIR_VECTOR_BYTES >= 64
    for (int i = 0; i < 8; i++) v[i] = fold<8>(v[i], v[i + 8]);
#endif
#if KVASIR_VECTOR_BYTES >= 32
    for (int i = 0; i < 4; i++) v[i] = fold<4>(v[i], v[i + 4]);
#endif
    for (int i = 0; i < 2; i++) v[i] = fold<2>(v[i], v[i + 2]);
    return fold<1>(v[0], v[1]);
}

template <int n>
struct Count {
    static constexpr int value = n;
};

// body(Count<k>, i) for groups [i, i + k) of `begin` to `end`: fours first, then what is left as a two and a one.
template <typename Body>
static inline void in_fours(int64_t begin, int64_t end, const Body& body) {
    for (; begin + 4 <= end; begin += 4) body(Count<4>{}, begin);
    for (; begin + 2 <= end; begin += 2) body(Count<2>{}, begin);
    for (; begin < end; begin++) body(Count<1>{}, begin);
}

// Where the rows of an operand are: at a fixed distance, or anywhere.
template <typename T>
struct StridedRows {
    const T* first;
    int64_t stride;
    const T* operator[](int i) const { return first + i * stride; }
};

template <typename T>
struct ListedRows {
    const T* const* rows;
    const T* operator[](int i) const { return rows[i]; }
};

// out[i * num_w + j] = x row i . w row j, over k elements. num_x * num_w = kPairs.
// fetches: behind each row of w, `ahead` elements on, lies one that comes next: it is asked for meanwhile.
template <typename Dot, int num_x, int num_w, bool fetches = false, typename RowsX, typename RowsW>
static inline void dot_tile(RowsX x, RowsW w, int64_t k, float* out, int64_t ahead = 0) {
    static_assert(num_x * num_w == kPairs);
    Vec sum[kPairs] = {};
    int64_t i = 0;
    for (; i + Dot::step <= k; i += Dot::step) {
        decltype(Dot::x(x[0])) left[num_x];
#pragma GCC unroll 16
        for (int a = 0; a < num_x; a++) left[a] = Dot::x(x[a] + i);
#pragma GCC unroll 16
        for (int b = 0; b < num_w; b++) {
            auto right = Dot::w(w[b] + i);
            if (fetches) __builtin_prefetch(w[b] + i + ahead, 0, 2);
#pragma GCC unroll 16
            for (int a = 0; a < num_x; a++) sum[a * num_w + b] = Dot::add(sum[a * num_w + b], left[a], right);
        }
    }
    for (; i < k; i += kLanes) {  // the last, incomplete step
        int n = k - i < kLanes ? int(k - i) : kLanes;
#pragma GCC unroll 16
        for (int b = 0; b < num_w; b++) {
            Vec right = load_some(w[b] + i, n);
#pragma GCC unroll 16
            for (int a = 0; a < num_x; a++) sum[a * num_w + b] += load_some(x[a] + i, n) * right;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPairs; i += kLanes) store(out + i, sums_of(sum + i));
}

}  // namespace KVASIR_ISA
}  // namespace kvasir
