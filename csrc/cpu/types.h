// Element types, by name and as numbers that cross the table of kernels.
#pragma once

#include <cstdint>

namespace kvasir {

struct BFloat16 {
    uint16_t bits;
};

enum class Dtype { float32, bfloat16 };

}  // namespace kvasir
