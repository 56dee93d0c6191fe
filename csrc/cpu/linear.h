// y = x w^T + bias for few rows of x: each weight is read once, in the order of memory, and used for all rows.
#pragma once

#include "dot.h"
#include "kernels.h"
#include "parallel.h"

namespace kvasir {
namespace KVASIR_ISA {

static inline void put(float sum, float bias, float* out) { *out = sum + bias; }

static inline void put(float sum, float bias, BFloat16* out) {
    Vec v = rounded_to<BFloat16>(splat(sum + bias));
    *out = BFloat16{uint16_t(((VecBits)v)[0] >> 16)};
}

static inline float widened(float x) { return x; }
static inline float widened(BFloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// Outputs [begin, end) of rows [row, row + num_rows) of x. end - begin is a multiple of 16, or more than 16.
template <typename Dot, int num_rows, typename X, typename T>
static inline void linear_tiles(
    const LinearArgs& args, const X* x, int64_t x_stride, int64_t row, int64_t begin, int64_t end, const T*) {
    constexpr int num_outputs = 16 / num_rows;
    const T* weight = static_cast<const T*>(args.weight);
    const T* bias = static_cast<const T*>(args.bias);
    T* out = static_cast<T*>(args.out);
    for (int64_t n = begin; n < end; n += num_outputs) {
        // The last tile is moved back so that it is whole: outputs that two tiles share come out the same twice.
        int64_t first = n + num_outputs <= end ? n : end - num_outputs;
        alignas(64) float sums[16];
        dot_tile<Dot, num_rows, num_outputs>(
            StridedRows<X>{x + row * x_stride, x_stride},
            StridedRows<T>{weight + first * args.weight_stride, args.weight_stride}, args.inputs, sums);
        for (int i = 0; i < num_rows; i++) {
            for (int j = 0; j < num_outputs; j++) {
                float b = bias ? widened(bias[first + j]) : 0.0f;
                put(sums[i * num_outputs + j], b, &out[(row + i) * args.outputs + first + j]);
            }
        }
    }
}

template <typename Dot, typename T, typename X>
static void linear_of(const LinearArgs& args, const X* x, int64_t x_stride) {
    constexpr int64_t tile = kMinOutputs;
    int64_t tiles = args.outputs / tile;  // what is over goes to the last
    int64_t work = args.inputs * tile * (args.rows + 3);
    int64_t per_chunk = 1 + (128 << 10) / work;
    int64_t most = tiles / (4 * num_threads());
    per_chunk = per_chunk > most ? per_chunk : most;
    int64_t num_chunks = tiles / per_chunk;  // what is over goes to the last
    if (num_chunks == 0) num_chunks = 1;
    auto chunk = [&](int64_t i) {
        int64_t begin = i * per_chunk * tile;
        int64_t end = i + 1 == num_chunks ? args.outputs : begin + per_chunk * tile;
        for (int64_t n = begin; n < end; n += tile) {
            // The weights of one pass stay in the nearest cache while all rows of x go by.
            int64_t stop = n + 2 * tile <= end ? n + tile : end;
            int64_t row = 0;
            for (; row + 4 <= args.rows; row += 4) linear_tiles<Dot, 4>(args, x, x_stride, row, n, stop, (T*)nullptr);
            for (; row + 2 <= args.rows; row += 2) linear_tiles<Dot, 2>(args, x, x_stride, row, n, stop, (T*)nullptr);
            for (; row < args.rows; row++) linear_tiles<Dot, 1>(args, x, x_stride, row, n, stop, (T*)nullptr);
            if (stop == end) break;
        }
    };
    parallel_for(num_chunks, chunk);
}

static void linear_float32(const LinearArgs& args) {
    linear_of<WidenedDot, float>(args, static_cast<const float*>(args.x), args.x_stride);
}

static void linear_bfloat16(const LinearArgs& args) {
    const BFloat16* x = static_cast<const BFloat16*>(args.x);
#if defined(__AVX512BF16__)
    linear_of<PairedDot, BFloat16>(args, x, args.x_stride);
#else
    float* wide = static_cast<float*>(scratch(Scratch::call, args.rows * args.inputs * sizeof(float)));
    for (int64_t row = 0; row < args.rows; row++)
        for (int64_t k = 0; k < args.inputs; k++) wide[row * args.inputs + k] = widened(x[row * args.x_stride + k]);
    linear_of<WidenedDot, BFloat16>(args, wide, args.inputs);
#endif
}

}  // namespace KVASIR_ISA
}  // namespace kvasir
