// y = x w^T + bias for few rows of x: each weight is read once, in the order of memory, and used for all rows.
#pragma once

#include "dot.h"
#include "kernels.h"
#include "parallel.h"

namespace kvasir {
namespace KVASIR_ISA {

static inline float widened(float x) { return x; }
static inline float widened(BFloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// The kMinOutputs outputs from `first` on, of rows [row, row + num_rows) of x.
// fetches: the weights of the next tile are asked for; pays where few rows of weights are read at a time.
template <typename Dot, int num_rows, bool fetches, typename T, typename X>
static inline void linear_tile(const LinearArgs& args, const X* x, int64_t x_stride, int64_t row, int64_t first) {
    constexpr int width = kPairs / num_rows;
    const T* weight = static_cast<const T*>(args.weight) + first * args.weight_stride;
    alignas(64) float sums[num_rows][kMinOutputs];
    for (int n = 0; n < kMinOutputs; n += width) {
        alignas(64) float tile[kPairs];
        dot_tile<Dot, num_rows, width, fetches>(
            StridedRows<X>{x + row * x_stride, x_stride},
            StridedRows<T>{weight + n * args.weight_stride, args.weight_stride}, args.inputs, tile,
            kMinOutputs * args.weight_stride);
        for (int i = 0; i < num_rows; i++) memcpy(&sums[i][n], tile + i * width, width * sizeof(float));
    }
    for (int n = 0; n < kMinOutputs; n += kLanes) {
        Vec bias = args.bias ? load(static_cast<const T*>(args.bias) + first + n) : Vec{};
        for (int i = 0; i < num_rows; i++)
            store(static_cast<T*>(args.out) + (row + i) * args.outputs + first + n, load(&sums[i][n]) + bias);
    }
}

template <typename Dot, typename T, typename X>
static void linear_of(const LinearArgs& args, const X* x, int64_t x_stride) {
    constexpr int64_t tile = kMinOutputs;
    int64_t tiles = args.outputs / tile;
    int64_t per_chunk = 1 + (128 << 10) / (args.inputs * tile * (args.rows + 3));
    int64_t most = tiles / (4 * num_threads());
    per_chunk = per_chunk > most ? per_chunk : most;
    int64_t num_chunks = tiles / per_chunk;
    if (num_chunks == 0) num_chunks = 1;
    auto chunk = [&](int64_t i) {
        int64_t end = i + 1 == num_chunks ? args.outputs : (i + 1) * per_chunk * tile;  // the last takes what is over
        for (int64_t n = i * per_chunk * tile; n < end; n += tile) {
            // A tile that would be cut is moved back: outputs it shares with its neighbour come out the same twice.
            int64_t first = n + tile <= end ? n : end - tile;
            // The tile's weights stay in the nearest cache while all rows of x go by.
            int64_t row = args.rows >= 4 ? 4 : args.rows >= 2 && kPairs < 16 ? 2 : 0;
            if (row == 4) linear_tile<Dot, 4, true, T>(args, x, x_stride, 0, first);
            if (row == 2) linear_tile<Dot, 2, true, T>(args, x, x_stride, 0, first);
            in_fours(row, args.rows, [&](auto count, int64_t row) {
                linear_tile<Dot, count.value, false, T>(args, x, x_stride, row, first);
            });
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
