// One vector of float32 in the width of the instruction set that this file is compiled for, and the few functions
// that kernels need of it. GCC's vector extension gives the arithmetic (`a * b + c` becomes a fused multiply-add where
// there is one), so the same source serves SSE, NEON, AVX2 and AVX-512.
//
// KVASIR_ISA names the namespace: each instruction set has its own copy of everything, or the linker would keep one
// copy of an inline function, perhaps one that the machine cannot run. For the same reason no template of the
// standard library may be used in these headers.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#ifndef KVASIR_ISA
#define KVASIR_ISA baseline
#endif
#if defined(__AVX512F__)
#define KVASIR_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define KVASIR_VECTOR_BYTES 32
#else
#define KVASIR_VECTOR_BYTES 16
#endif

#include "types.h"

namespace kvasir {
namespace KVASIR_ISA {

constexpr int kLanes = KVASIR_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(KVASIR_VECTOR_BYTES)));
typedef int32_t VecInt __attribute__((vector_size(KVASIR_VECTOR_BYTES)));
typedef uint32_t VecBits __attribute__((vector_size(KVASIR_VECTOR_BYTES)));
typedef uint16_t VecHalf __attribute__((vector_size(KVASIR_VECTOR_BYTES / 2)));

static inline Vec splat(float x) { return x - Vec{}; }

static inline Vec load(const float* p) {
    Vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline Vec load(const BFloat16* p) {
    VecHalf half;
    memcpy(&half, p, sizeof half);
    return (Vec)(__builtin_convertvector(half, VecBits) << 16);
}

// What v would be after a trip through memory as T.
template <typename T>
static inline Vec rounded_to(Vec v) {
    return v;
}

template <>
inline Vec rounded_to<BFloat16>(Vec v) {
#if defined(__AVX512BF16__)
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)), 16);
#endif
    VecBits bits = (VecBits)v;
    VecBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
    return (Vec)(v != v ? VecInt{} + 0x7fc00000 : (VecInt)rounded);
}

static inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

// Rounds to nearest, ties to even; any NaN becomes the quiet one.
static inline void store(BFloat16* p, Vec v) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i_u*)p, (__m256i)_mm512_cvtneps_pbh(v));
    return;
#endif
    VecHalf half = __builtin_convertvector((VecBits)rounded_to<BFloat16>(v) >> 16, VecHalf);
    memcpy(p, &half, sizeof half);
}

// The first n < kLanes elements; the others read as zero and are not written.
template <typename T>
static inline Vec load_some(const T* p, int n) {
    T whole[kLanes] = {};
    memcpy(whole, p, n * sizeof(T));
    return load(whole);
}

template <typename T>
static inline void store_some(T* p, Vec v, int n) {
    T whole[kLanes];
    store(whole, v);
    memcpy(p, whole, n * sizeof(T));
}

// Keeps a product out of a fused multiply-add: it is rounded by itself, as other implementations of the op do.
static inline Vec unfused(Vec product) {
#if defined(__x86_64__)
    asm("" : "+v"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#endif
    return product;
}

static inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

static inline VecInt lane_numbers() {
    VecInt lane = {};
    for (int i = 0; i < kLanes; i++) lane[i] = i;
    return lane;
}

// Lane l of the result is lane l ^ distance of v.
template <int distance>
static inline Vec crossed(Vec v) {
    return __builtin_shuffle(v, lane_numbers() ^ distance);
}

static inline float sum(Vec v) {
#if KVASIR_VECTOR_BYTES >= 64
    v += crossed<8>(v);
#endif
#if KVASIR_VECTOR_BYTES >= 32
    v += crossed<4>(v);
#endif
    v += crossed<2>(v);
    v += crossed<1>(v);
    return v[0];
}

static inline float largest(Vec v) {
#if KVASIR_VECTOR_BYTES >= 64
    v = max(v, crossed<8>(v));
#endif
#if KVASIR_VECTOR_BYTES >= 32
    v = max(v, crossed<4>(v));
#endif
    v = max(v, crossed<2>(v));
    v = max(v, crossed<1>(v));
    return v[0];
}

// Swaps lanes of a whose bit `distance` is set with lanes of b where it is clear: one step of a transposition.
template <int distance>
static inline void exchange(Vec& a, Vec& b) {
    VecInt lane = lane_numbers();  // in a shuffle, kLanes + l is lane l of b
    VecInt low = (lane & distance) == 0 ? lane : lane - distance + kLanes;
    VecInt high = (lane & distance) == 0 ? lane + distance : lane + kLanes;
    Vec first = __builtin_shuffle(a, b, low);
    b = __builtin_shuffle(a, b, high);
    a = first;
}

// rows[i][j] <-> rows[j][i]
static inline void transpose(Vec* rows) {
#if KVASIR_VECTOR_BYTES >= 64
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) exchange<8>(rows[i], rows[i + 8]);
#endif
#if KVASIR_VECTOR_BYTES >= 32
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; i++) exchange<4>(rows[i / 4 * 8 + i % 4], rows[i / 4 * 8 + i % 4 + 4]);
#endif
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; i++) exchange<2>(rows[i / 2 * 4 + i % 2], rows[i / 2 * 4 + i % 2 + 2]);
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; i++) exchange<1>(rows[2 * i], rows[2 * i + 1]);
}

// e^x within 2 units in the last place for x <= 88; anything below -87 gives a number below 1e-37 (0 for -inf).
static inline Vec exp(Vec x) {
    const float log2_e = 1.44269504088896f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits behind the point
    VecInt tiny = x < -87.3f;
    x = tiny ? splat(-87.3f) : x;
    Vec n = (x * log2_e + to_integer) - to_integer;
    Vec r = x - n * ln2_high;
    r = r - n * ln2_low;
    Vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    VecInt exponent = __builtin_convertvector(n, VecInt) << 23;
    return tiny ? Vec{} : (Vec)((VecInt)p + exponent);
}

static inline Vec tanh(Vec x) {
    Vec e = exp(x > 20.0f ? splat(40.0f) : x + x);
    return (e - 1.0f) / (e + 1.0f);
}

static inline Vec logistic(Vec x) { return 1.0f / (1.0f + exp(x < -87.0f ? splat(87.0f) : -x)); }

}  // namespace KVASIR_ISA
}  // namespace kvasir
