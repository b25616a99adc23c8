// The part of torch's stable C interface that the kernels need, declared by hand: the extension is built without torch.
// The functions exist in libtorch_cpu from torch 2.10 on (torch/csrc/inductor/aoti_torch/c/shim.h, stable/c/shim.h).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
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
int32_t aoti_torch_get_numel(AtenTensorHandle, int64_t*);
int32_t aoti_torch_get_sizes(AtenTensorHandle, int64_t**);
int32_t aoti_torch_get_strides(AtenTensorHandle, int64_t**);
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
inline void require(bool condition, const char* message) {  // makes no string where nothing is wrong
  if (!condition) require(false, std::string(message));
}

inline void succeed(int32_t code) {
  require(code == 0, "torch reported an error, most often that memory is short; it wrote the details to stderr");
}

/// Returns a number as int, which sizes and places within one row are.
inline int narrow(int64_t number) {
  require(number >= 0 && number <= std::numeric_limits<int>::max(), "a tensor has too many rows or channels");
  return static_cast<int>(number);
}

/// The values of a matrix whose rows begin `stride` numbers apart.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
};

/// Owns one reference to a tensor of torch on the CPU.
class Tensor {
 public:
  /// Takes the reference a boxed call passed. It cannot throw: an operator first takes all of its tensors, so that none
  /// is lost where a check fails.
  explicit Tensor(StableIValue value) noexcept : handle_(reinterpret_cast<AtenTensorHandle>(value)) {}

  /// Allocates; the values are not set.
  Tensor(const std::vector<int64_t>& shape, int32_t dtype) {
    std::vector<int64_t> strides(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * (shape[i] > 0 ? shape[i] : 1);
    succeed(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), dtype,
                                     aoti_torch_device_type_cpu(), 0, &handle_));
  }

  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  ~Tensor() {
    if (handle_) aoti_torch_delete_tensor_object(handle_);
  }

  int64_t size(size_t dimension) const { return shape().at(dimension); }
  size_t dim() const { return shape().size(); }
  std::vector<int64_t> shape() const {
    int64_t dimensions = 0, *sizes = nullptr;
    succeed(aoti_torch_get_dim(handle_, &dimensions));
    succeed(aoti_torch_get_sizes(handle_, &sizes));
    return {sizes, sizes + dimensions};
  }
  int64_t numel() const {
    int64_t n = 0;
    succeed(aoti_torch_get_numel(handle_, &n));
    return n;
  }
  int32_t dtype() const {
    int32_t found = 0;
    succeed(aoti_torch_get_dtype(handle_, &found));
    return found;
  }
  bool contiguous() const {
    bool found = false;
    succeed(aoti_torch_is_contiguous(handle_, &found));
    return found;
  }
  /// Returns the values, row by row; first copies a tensor that is not contiguous, and what is written to that is lost.
  template <class T>
  T* data() const {
    make_contiguous();
    return pointer<T>();
  }

  /// Returns the distance in memory between neighbours along a dimension.
  int64_t stride(size_t dimension) const {
    int64_t* strides = nullptr;
    succeed(aoti_torch_get_strides(handle_, &strides));
    return strides[dimension];
  }
  /// Returns the values of a matrix whose rows may be parts of those of a wider one. First copies a matrix with gaps
  /// within its rows, and what is written to that is lost.
  template <class T>
  Rows<T> rows() const {
    T* first = whole_rows() ? pointer<T>() : data<T>();
    return {first, stride(0)};
  }
  /// Whether a tensor is a matrix whose rows have no gaps.
  bool whole_rows() const { return dim() == 2 && (size(1) <= 1 || stride(1) == 1); }

  /// Returns where the first value lies, whatever the strides.
  template <class T>
  T* pointer() const {
    void* found = nullptr;
    succeed(aoti_torch_get_data_ptr(handle_, &found));
    return static_cast<T*>(found);
  }

  /// Gives the reference to the caller of a boxed kernel.
  StableIValue release() { return reinterpret_cast<StableIValue>(std::exchange(handle_, nullptr)); }

 private:
  void make_contiguous() const {
    if (contiguous()) return;
    Tensor copy(shape(), dtype());
    succeed(aoti_torch_copy_(copy.handle_, handle_, 0));
    std::swap(handle_, copy.handle_);
  }

  mutable AtenTensorHandle handle_ = nullptr;
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

/// Calls body(begin, end) for shares of columns 0..count-1, each of which takes so many multiplications. Shares begin at
/// whole blocks of every instruction set.
template <class Body>
void parallel_columns(int64_t count, int64_t multiplications, const Body& body) {
  constexpr int64_t kUnit = 64, kLeastWork = 500000;  // columns of the largest block; work that is worth a thread
  const int64_t work = kUnit * multiplications > 0 ? kUnit * multiplications : 1;
  parallel_shares((count + kUnit - 1) / kUnit, (kLeastWork + work - 1) / work, [&](int64_t begin, int64_t end) {
    body(begin * kUnit, end * kUnit < count ? end * kUnit : count);
  });
}

using Boxed = void (*)(StableIValue*, uint64_t, uint64_t);

/// Whether every operator could be defined: not so where another copy of this library is in the process already.
inline bool all_registered = true;

/// Defines operators of the namespace `mlip` and their kernels for the CPU, as a static object in each source file.
struct Registration {
  struct Op {
    const char* name;
    const char* signature;
    Boxed kernel;
  };
  Registration(std::initializer_list<Op> ops) noexcept {
    try {
      define(ops);
    } catch (const std::exception&) {  // it would end the process, which is loading this library
      all_registered = false;
    }
  }

 private:
  static void define(std::initializer_list<Op> ops) {
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
