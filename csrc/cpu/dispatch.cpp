// Which table of kernels this machine runs.

#include <atomic>
#include <cstring>

#include "kernels.h"

namespace kvasir {

// The build compiles isa.cpp once per instruction set and defines KVASIR_HAS_<name> for those that compiled.
extern const Kernels kernels_baseline;
#ifdef KVASIR_HAS_avx2
extern const Kernels kernels_avx2;
#endif
#ifdef KVASIR_HAS_avx512
extern const Kernels kernels_avx512;
#endif
#ifdef KVASIR_HAS_avx512bf16
extern const Kernels kernels_avx512bf16;
#endif

namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avx512bf16() { return false; }
#endif

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels* kernels_of(int isa) {
    switch (isa) {
        case 0:
            return &kernels_baseline;
#ifdef KVASIR_HAS_avx2
        case 1:
            return has_avx2() ? &kernels_avx2 : nullptr;
#endif
#ifdef KVASIR_HAS_avx512
        case 2:
            return has_avx512() ? &kernels_avx512 : nullptr;
#endif
#ifdef KVASIR_HAS_avx512bf16
        case 3:
            return has_avx512bf16() ? &kernels_avx512bf16 : nullptr;
#endif
        default:
            return nullptr;
    }
}

const Kernels& kernels() {
    const Kernels* table = chosen.load(std::memory_order_acquire);
    for (int isa = kNumIsas - 1; table == nullptr; isa--) table = kernels_of(isa);
    chosen.store(table, std::memory_order_release);
    return *table;
}

bool use_isa(const char* name) {
    for (int isa = 0; isa < kNumIsas; isa++) {
        const Kernels* table = kernels_of(isa);
        if (table != nullptr && strcmp(table->isa, name) == 0) {
            chosen.store(table, std::memory_order_release);
            return true;
        }
    }
    return false;
}

}  // namespace kvasir
