// The table of one instruction set. Compiled once for each, with its flags and -DKVASIR_ISA=<name>.

#include "attention.h"
#include "kernels.h"
#include "linear.h"
#include "rows.h"

#define KVASIR_STRING(x) KVASIR_STRING_(x)
#define KVASIR_STRING_(x) #x
#define KVASIR_JOIN(a, b) KVASIR_JOIN_(a, b)
#define KVASIR_JOIN_(a, b) a##b

namespace kvasir {
namespace KVASIR_ISA {

// One entry of the table: the instance for the call's dtype.
#define KVASIR_BY_DTYPE(name, kernel, Args)                                           \
    static void name(const Args& args) {                                              \
        args.dtype == Dtype::bfloat16 ? kernel<BFloat16>(args) : kernel<float>(args); \
    }
KVASIR_BY_DTYPE(rms_norm, rms_norm_rows, NormArgs)
KVASIR_BY_DTYPE(silu_and_mul, silu_and_mul_rows, SiluArgs)
KVASIR_BY_DTYPE(apply_rope, rope_rows, RopeArgs)
KVASIR_BY_DTYPE(reshape_and_cache, kv_write_rows, KvWriteArgs)

static void rope_and_cache(const RopeArgs& rope, const KvWriteArgs& write) {
    rope.dtype == Dtype::bfloat16 ? rope_and_cache_rows<BFloat16>(rope, write)
                                  : rope_and_cache_rows<float>(rope, write);
}

static void linear(const LinearArgs& args) {
    args.dtype == Dtype::bfloat16 ? linear_bfloat16(args) : linear_float32(args);
}

}  // namespace KVASIR_ISA

extern const Kernels KVASIR_JOIN(kernels_, KVASIR_ISA);
const Kernels KVASIR_JOIN(kernels_, KVASIR_ISA) = {
    KVASIR_STRING(KVASIR_ISA),     KVASIR_ISA::linear,         KVASIR_ISA::rms_norm,
    KVASIR_ISA::silu_and_mul,      KVASIR_ISA::apply_rope,     KVASIR_ISA::reshape_and_cache,
    KVASIR_ISA::rope_and_cache,    KVASIR_ISA::paged_attention,
};

}  // namespace kvasir
