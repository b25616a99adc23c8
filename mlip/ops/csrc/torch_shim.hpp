// The part of torch's stable C interface that the kernels need, declared by hand: the extension is built without torch.
// The functions exist in libtorch_cpu from torch 2.10 on (torch/csrc/inductor/aoti_torch/c/shim.h, stable/c/shim.h).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

extern "C" {
struct AtenTensorOpaque;
class TorchLibraryOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using StableIValue = uint64_t;  // on the stack of a boxed call: a tensor handle, or an integer

int32_t aoti_torch_get_data_ptr(AtenTensorHandle, void**);
int32_t aoti_torch_get_dim(AtenTensorHandle, int64_t*);
int32_t aoti_torch_get_sizes(AtenTensorHandle, int64_t**);
int32_t aoti_torch_get_dtype(AtenTensorHandle, int32_t*);
int32_t aoti_torch_is_contiguous(AtenTensorHandle, bool*);
int32_t aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t,
                                 AtenTensorHandle*);
int32_t aoti_torch_copy_(AtenTensorHandle, AtenTensorHandle, int32_t);
int32_t aoti_torch_delete_tensor_object(AtenTensorHandle);
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_library_init_fragment(const char*, const char*, uint32_t, TorchLibraryHandle*);
int32_t aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t, TorchLibraryHandle*);
int32_t aoti_torch_library_def(TorchLibraryHandle, const char*);
int32_t aoti_torch_library_impl(TorchLibraryHandle, const char*, void (*)(StableIValue*, uint64_t, uint64_t));
int32_t torch_parallel_for(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
int32_t torch_get_num_threads(uint32_t*);
}

namespace mlip {

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::runtime_error("mlip: " + message);
}

inline void succeed(int32_t code) { require(code == 0, "a call of torch's C interface failed"); }

/// Owns one reference to a tensor of torch, contiguous and on the CPU.
class Tensor {
 public:
  /// Takes the reference a boxed call passed; copies a tensor that is not contiguous.
  explicit Tensor(StableIValue value) : handle_(reinterpret_cast<AtenTensorHandle>(value)) {
    bool contiguous = false;
    succeed(aoti_torch_is_contiguous(handle_, &contiguous));
    read_shape();
    if (contiguous) return;
    Tensor copy(shape_, dtype());
    succeed(aoti_torch_copy_(copy.handle_, handle_, 0));
    std::swap(handle_, copy.handle_);
  }

  /// Allocates; the values are not set.
  Tensor(std::vector<int64_t> shape, int32_t dtype) : shape_(std::move(shape)) {
    std::vector<int64_t> strides(shape_.size(), 1);
    for (size_t i = shape_.size(); i-- > 1;) strides[i - 1] = strides[i] * (shape_[i] > 0 ? shape_[i] : 1);
    succeed(aoti_torch_empty_strided(static_cast<int64_t>(shape_.size()), shape_.data(), strides.data(), dtype,
                                     aoti_torch_device_type_cpu(), 0, &handle_));
  }

  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  Tensor(Tensor&& other) noexcept : handle_(other.handle_), shape_(std::move(other.shape_)) {
    other.handle_ = nullptr;
  }
  ~Tensor() {
    if (handle_) aoti_torch_delete_tensor_object(handle_);
  }

  int64_t size(size_t dimension) const { return shape_.at(dimension); }
  size_t dim() const { return shape_.size(); }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t s : shape_) n *= s;
    return n;
  }
  int32_t dtype() const {
    int32_t found = 0;
    succeed(aoti_torch_get_dtype(handle_, &found));
    return found;
  }
  /// Pointer to the values; what is written through it reaches the caller only if the tensor came contiguous.
  template <class T>
  T* data() const {
    void* pointer = nullptr;
    succeed(aoti_torch_get_data_ptr(handle_, &pointer));
    return static_cast<T*>(pointer);
  }

  /// Gives the reference to the caller of a boxed kernel.
  StableIValue release() {
    auto value = reinterpret_cast<StableIValue>(handle_);
    handle_ = nullptr;
    return value;
  }

 private:
  void read_shape() {
    int64_t dimensions = 0, *sizes = nullptr;
    succeed(aoti_torch_get_dim(handle_, &dimensions));
    succeed(aoti_torch_get_sizes(handle_, &sizes));
    shape_.assign(sizes, sizes + dimensions);
  }

  AtenTensorHandle handle_ = nullptr;
  std::vector<int64_t> shape_;
};

inline int num_threads() {
  uint32_t n = 1;
  succeed(torch_get_num_threads(&n));
  return static_cast<int>(n);
}

/// Calls body(i) for i = 0..count-1 on the threads of torch, which `torch.set_num_threads` counts.
template <class Body>
void parallel(int64_t count, const Body& body) {
  auto run = [](int64_t begin, int64_t end, void* context) {
    for (int64_t i = begin; i < end; ++i) (*static_cast<const Body*>(context))(i);
  };
  succeed(torch_parallel_for(0, count, 1, run, const_cast<void*>(static_cast<const void*>(&body))));
}

/// Calls body(begin, end) for equal shares of 0..count-1, one for each thread, none below `least` items.
template <class Body>
void parallel_shares(int64_t count, int64_t least, const Body& body) {
  int64_t most = least > 0 ? (count + least - 1) / least : count;
  int64_t shares = most < num_threads() ? most : num_threads();
  if (shares <= 1) {
    body(int64_t(0), count);
    return;
  }
  parallel(shares, [&](int64_t s) { body(count * s / shares, count * (s + 1) / shares); });
}

using Boxed = void (*)(StableIValue*, uint64_t, uint64_t);

/// Defines operators of the namespace `mlip` and their kernels for the CPU, as a static object in each source file.
struct Registration {
  struct Op {
    const char* name;
    const char* signature;
    Boxed kernel;
  };
  Registration(std::initializer_list<Op> ops) {
    TorchLibraryHandle define = nullptr, implement = nullptr;  // never freed: that would undefine the operators
    succeed(aoti_torch_library_init_fragment("mlip", __FILE__, __LINE__, &define));
    succeed(aoti_torch_library_init_impl("mlip", "CPU", __FILE__, __LINE__, &implement));
    for (const Op& op : ops) {
      succeed(aoti_torch_library_def(define, (std::string(op.name) + op.signature).c_str()));
      succeed(aoti_torch_library_impl(implement, op.name, op.kernel));
    }
  }
};

/// Calls f(T()) with T = float or double as the tensor says.
template <class F>
void for_dtype(const Tensor& tensor, const F& f) {
  if (tensor.dtype() == aoti_torch_dtype_float32()) {
    f(float());
  } else if (tensor.dtype() == aoti_torch_dtype_float64()) {
    f(double());
  } else {
    require(false, "tensors must be float32 or float64");
  }
}

}  // namespace mlip
