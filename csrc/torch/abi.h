// The few C functions of torch that the binding calls, declared by hand and looked up when the library is loaded.
//
// So nothing of torch is needed to build, one build serves every torch that has these functions (2.11 and later), and
// a torch that lacks one gives a clear message instead of a library that cannot be loaded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../cpu/types.h"

namespace kvasir {

struct TensorObject;
struct LibraryObject;
using TensorHandle = TensorObject*;
using LibraryHandle = LibraryObject*;
using Stack = uint64_t*;  // arguments in order, 64 bits each; results replace them from the first on
using BoxedFunction = void (*)(Stack stack, uint64_t num_arguments, uint64_t num_results);

struct TorchFunctions {  // int results: 0 is success
    int (*library_init_fragment)(const char* ns, const char* file, uint32_t line, LibraryHandle*);
    int (*library_def)(LibraryHandle, const char* schema);
    int (*library_init_impl)(const char* ns, const char* key, const char* file, uint32_t line, LibraryHandle*);
    int (*library_impl)(LibraryHandle, const char* name, BoxedFunction);
    int (*get_data_ptr)(TensorHandle, void**);
    int (*get_sizes)(TensorHandle, int64_t**);
    int (*get_strides)(TensorHandle, int64_t**);
    int (*get_dim)(TensorHandle, int64_t*);
    int (*get_dtype)(TensorHandle, int32_t*);
    int (*empty_strided)(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t device_type,
                         int32_t device_index, TensorHandle*);
    int (*delete_tensor)(TensorHandle);
    int (*get_num_threads)(uint32_t*);
    int32_t (*dtype_float32)();
    int32_t (*dtype_bfloat16)();
    int32_t (*dtype_int32)();
    int32_t (*dtype_int64)();
    int32_t (*device_type_cpu)();
};

// Finds them in the torch that this process has loaded. Null, or what is missing.
const char* find_torch();
const TorchFunctions& torch();

// A tensor argument; torch hands over one reference, which is given back here.
class Tensor {
  public:
    explicit Tensor(uint64_t argument);
    ~Tensor();
    Tensor(const Tensor&) = delete;
    Tensor& operator=(const Tensor&) = delete;

    int64_t dim() const { return dim_; }
    int64_t size(int64_t i) const { return sizes_[i < 0 ? i + dim_ : i]; }
    int64_t stride(int64_t i) const { return strides_[i < 0 ? i + dim_ : i]; }
    void* data() const { return data_; }
    int32_t dtype() const { return dtype_; }
    // The element type of kernels; an error for any but float32 and bfloat16.
    Dtype element() const;
    bool contiguous() const;
    // Elements from one index to the next over all but the last dimension, if these are evenly spaced.
    int64_t row_stride() const;

  private:
    TensorHandle handle_;
    void* data_;
    int64_t *sizes_, *strides_, dim_;
    int32_t dtype_;
};

// A new contiguous tensor with the dtype of `like`; its handle is the result of the op.
class NewTensor {
  public:
    NewTensor(const Tensor& like, const int64_t* sizes, int64_t dim);
    void* data() const { return data_; }
    uint64_t result() const { return reinterpret_cast<uint64_t>(handle_); }

  private:
    TensorHandle handle_;
    void* data_;
};

// Throws with this message, which torch turns into a RuntimeError, when a call does not fit a kernel.
void require(bool condition, const char* message);

double to_double(uint64_t argument);

}  // namespace kvasir
