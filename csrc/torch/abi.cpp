#include "abi.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

namespace kvasir {
namespace {

TorchFunctions functions;

void check(int error, const char* what) {
    if (error != 0) throw std::runtime_error(std::string("kvasir: torch refused to ") + what);
}

}  // namespace

const TorchFunctions& torch() { return functions; }

const char* find_torch() {
    static char message[256];
    void* library = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) return "torch is not loaded (import torch first)";
    const struct {
        const char* name;
        void* entry;
    } wanted[] = {
        {"aoti_torch_library_init_fragment", &functions.library_init_fragment},
        {"aoti_torch_library_def", &functions.library_def},
        {"aoti_torch_library_init_impl", &functions.library_init_impl},
        {"aoti_torch_library_impl", &functions.library_impl},
        {"aoti_torch_get_data_ptr", &functions.get_data_ptr},
        {"aoti_torch_get_sizes", &functions.get_sizes},
        {"aoti_torch_get_strides", &functions.get_strides},
        {"aoti_torch_get_dim", &functions.get_dim},
        {"aoti_torch_get_dtype", &functions.get_dtype},
        {"aoti_torch_empty_strided", &functions.empty_strided},
        {"aoti_torch_delete_tensor_object", &functions.delete_tensor},
        {"torch_get_num_threads", &functions.get_num_threads},
        {"aoti_torch_dtype_float32", &functions.dtype_float32},
        {"aoti_torch_dtype_bfloat16", &functions.dtype_bfloat16},
        {"aoti_torch_dtype_int32", &functions.dtype_int32},
        {"aoti_torch_dtype_int64", &functions.dtype_int64},
        {"aoti_torch_device_type_cpu", &functions.device_type_cpu},
    };
    for (const auto& function : wanted) {
        void* address = dlsym(library, function.name);
        if (address == nullptr) {
            snprintf(message, sizeof message, "this torch has no function %s", function.name);
            return message;
        }
        memcpy(function.entry, &address, sizeof address);
    }
    return nullptr;
}

Tensor::Tensor(uint64_t argument) : handle_(reinterpret_cast<TensorHandle>(argument)) {
    check(torch().get_data_ptr(handle_, &data_) | torch().get_sizes(handle_, &sizes_) |
              torch().get_strides(handle_, &strides_) | torch().get_dim(handle_, &dim_) |
              torch().get_dtype(handle_, &dtype_),
          "describe a tensor");
}

Tensor::~Tensor() { torch().delete_tensor(handle_); }

Dtype Tensor::element() const {
    if (dtype_ == torch().dtype_bfloat16()) return Dtype::bfloat16;
    require(dtype_ == torch().dtype_float32(), "a tensor is neither float32 nor bfloat16");
    return Dtype::float32;
}

bool Tensor::contiguous() const {
    int64_t step = 1;
    for (int64_t i = dim_ - 1; i >= 0; i--) {
        if (sizes_[i] != 1 && strides_[i] != step) return false;
        step *= sizes_[i];
    }
    return true;
}

int64_t Tensor::row_stride() const {
    int64_t step = 0, first = 0;
    for (int64_t i = dim_ - 2; i >= 0; i--) {
        if (sizes_[i] == 1) continue;
        if (step == 0) {
            first = strides_[i];
        } else {
            require(strides_[i] == step, "rows of a tensor are not evenly spaced");
        }
        step = strides_[i] * sizes_[i];
    }
    return step == 0 ? sizes_[dim_ - 1] : first;
}

NewTensor::NewTensor(const Tensor& like, const int64_t* sizes, int64_t dim) {
    int64_t strides[8], step = 1;
    require(dim <= 8, "a tensor has more than 8 dimensions");
    for (int64_t i = dim - 1; i >= 0; i--) {
        strides[i] = step;
        step *= sizes[i];
    }
    check(torch().empty_strided(dim, sizes, strides, like.dtype(), torch().device_type_cpu(), 0, &handle_),
          "allocate a tensor");
    check(torch().get_data_ptr(handle_, &data_), "describe a tensor");
}

void require(bool condition, const char* message) {
    if (!condition) throw std::runtime_error(std::string("kvasir: ") + message);
}

double to_double(uint64_t argument) {
    double value;
    memcpy(&value, &argument, sizeof value);
    return value;
}

}  // namespace kvasir
