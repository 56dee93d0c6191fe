// The kernels by themselves, without torch: random ragged shapes in buffers of exactly the size that is theirs, so that
// a sanitizer sees every read and write beyond them. Compared with plain loops in double.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/parallel.h"

using namespace kvasir;

namespace {

std::mt19937 engine(1);

int64_t number(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }

// An array on the heap with nothing around it, in one of the two types, and what it holds in double.
struct Array {
    Dtype dtype;
    std::vector<float> floats;
    std::vector<uint16_t> halves;

    Array(Dtype type, int64_t size, bool filled = true) : dtype(type) {
        type == Dtype::float32 ? floats.resize(size) : halves.resize(size);
        std::normal_distribution<float> normal;
        for (int64_t i = 0; filled && i < size; i++) set(i, normal(engine));
    }
    void set(int64_t i, float x) {
        if (dtype == Dtype::float32) {
            floats[i] = x;
        } else {
            uint32_t bits;
            memcpy(&bits, &x, 4);
            halves[i] = uint16_t(bits >> 16);
        }
    }
    double at(int64_t i) const {
        if (dtype == Dtype::float32) return floats[i];
        uint32_t bits = uint32_t(halves[i]) << 16;
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    void* data() { return dtype == Dtype::float32 ? static_cast<void*>(floats.data()) : halves.data(); }
};

void expect(const char* what, double got, double want, Dtype dtype, double scale = 1) {
    double tolerance = (dtype == Dtype::float32 ? 2e-5 : 2e-2) * scale;
    if (std::fabs(got - want) <= tolerance * (1 + std::fabs(want))) return;
    fprintf(stderr, "%s: %g instead of %g\n", what, got, want);
    exit(1);
}

void test_linear(Dtype dtype) {
    int64_t rows = number(1, 9), inputs = number(1, 130), outputs = number(16, 90);
    Array x(dtype, rows * inputs), weight(dtype, outputs * inputs), bias(dtype, outputs);
    Array out(dtype, rows * outputs, false);
    LinearArgs args = {dtype, x.data(), weight.data(), bias.data(), out.data(), rows, inputs, outputs, inputs, inputs};
    kernels().linear(args);
    for (int64_t m = 0; m < rows; m++)
        for (int64_t n = 0; n < outputs; n++) {
            double sum = bias.at(n);
            for (int64_t k = 0; k < inputs; k++) sum += x.at(m * inputs + k) * weight.at(n * inputs + k);
            expect("linear", out.at(m * outputs + n), sum, dtype, std::sqrt(double(inputs)));
        }
}

void test_rows(Dtype dtype) {
    int64_t rows = number(1, 40), width = number(1, 140);
    Array x(dtype, rows * width), weight(dtype, width), out(dtype, rows * width, false);
    NormArgs norm = {dtype, x.data(), nullptr, weight.data(), nullptr, out.data(), rows, 1, width, width, width, 1e-6f};
    kernels().rms_norm(norm);
    for (int64_t r = 0; r < rows; r++) {
        double squares = 0;
        for (int64_t i = 0; i < width; i++) squares += x.at(r * width + i) * x.at(r * width + i);
        double scale = 1 / std::sqrt(squares / double(width) + 1e-6);
        for (int64_t i = 0; i < width; i++)
            expect("rms_norm", out.at(r * width + i), x.at(r * width + i) * scale * weight.at(i), dtype);
    }
    Array gated(dtype, rows * 2 * width), product(dtype, rows * width, false);
    SiluArgs silu = {dtype, gated.data(), product.data(), rows, width, 2 * width};
    kernels().silu_and_mul(silu);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            double gate = gated.at(r * 2 * width + i), up = gated.at(r * 2 * width + width + i);
            expect("silu", product.at(r * width + i), gate / (1 + std::exp(-gate)) * up, dtype);
        }
}

// Rotation into the cache, then attention over it: caches [N, 2, K, S, D] as the engine lays them out.
void test_attention(Dtype dtype) {
    int64_t kv_heads = number(1, 3), group = number(1, 9), size = 2 * number(1, 70), block_size = number(1, 20);
    int64_t heads = kv_heads * group, requests = number(1, 4), blocks = 0, tokens = 0;
    std::vector<int32_t> starts = {0}, lens, table;
    std::vector<int64_t> table_rows, positions, slots;
    std::vector<std::vector<int32_t>> own;
    for (int64_t r = 0; r < requests; r++) {
        int64_t query = number(0, 2) ? 1 : number(1, 30), context = number(0, 3) ? number(0, 150) : number(500, 1100);
        lens.push_back(int32_t(query + context));
        starts.push_back(starts.back() + int32_t(query));
        own.emplace_back();
        for (int64_t b = 0; b * block_size < query + context; b++) own.back().push_back(int32_t(blocks++));
        for (int64_t p = context; p < query + context; p++) {
            positions.push_back(p);
            slots.push_back(own.back()[p / block_size] * block_size + p % block_size);
        }
        tokens += query;
        table_rows.push_back(requests - 1 - r);  // rows of the table in another order than the requests
    }
    size_t columns = 0;
    for (auto& list : own) columns = std::max(columns, list.size());
    table.resize(requests * columns);
    for (int64_t r = 0; r < requests; r++)
        std::copy(own[r].begin(), own[r].end(), table.begin() + table_rows[r] * int64_t(columns));

    int64_t cells = kv_heads * block_size * size;
    Array cache(dtype, blocks * 2 * cells), query(dtype, tokens * heads * size), key(dtype, tokens * kv_heads * size);
    Array value(dtype, tokens * kv_heads * size), turned(dtype, tokens * heads * size, false), weight(dtype, size);
    Array table_of_angles(Dtype::float32, 1200 * size);
    char* value_cache = static_cast<char*>(cache.data()) + cells * (dtype == Dtype::float32 ? 4 : 2);
    RopeArgs rope = {dtype, positions.data(), static_cast<float*>(table_of_angles.data()), tokens, size, size,
                     {query.data(), weight.data(), turned.data(), heads, heads * size, size},
                     {key.data(), weight.data(), nullptr, kv_heads, kv_heads * size, size}, 1e-6f};
    KvWriteArgs write = {dtype, key.data(), value.data(), cache.data(), value_cache, slots.data(), tokens, kv_heads,
                         size, block_size, kv_heads * size, size, kv_heads * size, size, 2 * cells, size, block_size * size};
    kernels().rope_and_cache(rope, write);

    int64_t window = number(0, 2) ? 0 : number(1, 60);
    float cap = number(0, 2) ? 0.0f : 3.0f, scale = 1 / std::sqrt(float(size));
    Array out(dtype, tokens * heads * size, false);
    AttentionArgs args = {dtype, turned.data(), cache.data(), value_cache, out.data(), starts.data(), lens.data(),
                          table.data(), table_rows.data(), tokens, requests, heads, kv_heads, size, block_size,
                          heads * size, size, 2 * cells, size, block_size * size, int64_t(columns), scale, cap, window};
    kernels().paged_attention(args);
    for (int64_t r = 0; r < requests; r++)
        for (int64_t t = starts[r]; t < starts[r + 1]; t++) {
            int64_t position = positions[t], h = number(0, heads - 1);
            int64_t low = window ? std::max<int64_t>(0, position - window + 1) : 0;
            auto cell = [&](int64_t p, int64_t kind) {
                int64_t block = (own[r][p / block_size] * 2 + kind) * kv_heads + h / group;
                return (block * block_size + p % block_size) * size;
            };
            std::vector<double> weights;
            double most = -INFINITY, total = 0;
            for (int64_t p = low; p <= position; p++) {
                double score = 0;
                for (int64_t d = 0; d < size; d++)
                    score += turned.at((t * heads + h) * size + d) * cache.at(cell(p, 0) + d);
                score *= scale;
                weights.push_back(cap > 0 ? cap * std::tanh(score / cap) : score);
                most = std::max(most, weights.back());
            }
            for (double& w : weights) total += w = std::exp(w - most);
            for (int64_t d = 0; d < size; d++) {
                double sum = 0;
                for (int64_t p = low; p <= position; p++) sum += weights[p - low] / total * cache.at(cell(p, 1) + d);
                expect("attention", out.at((t * heads + h) * size + d), sum, dtype, 3);
            }
        }
}

}  // namespace

int main(int argc, char** argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 20;
    for (int isa = 0; isa < kNumIsas; isa++) {
        if (kernels_of(isa) == nullptr || !use_isa(kernels_of(isa)->isa)) continue;
        for (int round = 0; round < rounds; round++) {
            set_num_threads(1 + round % 3);
            for (Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
                test_linear(dtype);
                test_rows(dtype);
                test_attention(dtype);
            }
        }
        printf("%s ok\n", kernels().isa);
    }
}
