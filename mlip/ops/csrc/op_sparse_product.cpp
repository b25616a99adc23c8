// The operator of the sparse product.
#include "sparse_product.hpp"
#include "torch_shim.hpp"

#include <algorithm>

namespace mlip {
namespace {

constexpr int64_t kLeastWork = 250000;  // multiplications that are worth a thread

/// Sorts the entries by the columns `target`, then `first` of their index, and fills the tables of the product.
template <class T>
void fill(SparseProduct<T>& p, const Tensor& index, const Tensor& coefficient, int target, int first) {
  const int second = 3 - target - first;
  const int64_t* row = index.data<int64_t>();
  const double* value = coefficient.data<double>();
  const int64_t count = index.size(0);
  const auto at = [&](int64_t t, int column, int limit) {
    const int64_t i = row[3 * t + column];
    require(i >= 0 && i < limit, "sparse_product: an entry points nowhere");
    return static_cast<int>(i);
  };
  std::vector<int> begin(size_t(p.rows) * p.x_rows + 1, 0);  // of each pair (k, i)
  for (int64_t t = 0; t < count; ++t) ++begin[at(t, target, p.rows) * p.x_rows + at(t, first, p.x_rows) + 1];
  p.run_of.push_back(0);
  for (int k = 0; k < p.rows; ++k) {
    for (int i = 0; i < p.x_rows; ++i) {
      int* bound = &begin[k * p.x_rows + i];
      const int entries = bound[1];
      bound[1] += bound[0];
      if (entries) p.runs.push_back({i, bound[1]});
    }
    p.run_of.push_back(static_cast<int>(p.runs.size()));
  }
  p.entries.resize(count);
  for (int64_t t = 0; t < count; ++t) {
    int& place = begin[at(t, target, p.rows) * p.x_rows + at(t, first, p.x_rows)];
    p.entries[place++] = {at(t, second, p.y_rows), static_cast<T>(value[t])};
  }
}

void sparse_product(StableIValue* stack, uint64_t, uint64_t) {
  Tensor x(stack[0]), y(stack[1]), index(stack[2]), coefficient(stack[3]);
  const auto rows = static_cast<int64_t>(stack[4]), target = static_cast<int64_t>(stack[5]);
  const auto first = static_cast<int64_t>(stack[6]);
  require(x.dim() == 3 && y.dim() == 3 && x.size(0) == y.size(0) && x.size(2) == y.size(2) && x.dtype() == y.dtype(),
          "sparse_product: x and y do not fit each other");
  require(index.dim() == 2 && index.size(1) == 3 && index.dtype() == aoti_torch_dtype_int64() &&
              coefficient.dim() == 1 && coefficient.size(0) == index.size(0) &&
              coefficient.dtype() == aoti_torch_dtype_float64(),
          "sparse_product: entries must be [T, 3] int64 and [T] float64");
  require(target >= 0 && target < 3 && first >= 0 && first < 3 && target != first,
          "sparse_product: target and first must be two different columns of the index");
  for_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    SparseProduct<T> p{};
    p.samples = x.size(0), p.channels = x.size(2);
    p.x_rows = narrow(x.size(1)), p.y_rows = narrow(y.size(1)), p.rows = narrow(rows);
    p.x = x.data<T>(), p.y = y.data<T>();
    fill(p, index, coefficient, static_cast<int>(target), static_cast<int>(first));
    Tensor out({p.samples, p.rows, p.channels}, x.dtype());
    T* result = out.data<T>();
    const auto work = int64_t(p.entries.size() + p.runs.size() + 1) * std::max<int64_t>(1, p.channels);
    parallel_shares(p.samples, std::max<int64_t>(1, kLeastWork / work),
                    [&](int64_t begin, int64_t end) { MLIP_DISPATCH(sparse_product, p, begin, end, result); });
    stack[0] = out.release();
  });
}

const Registration registration{
    {"sparse_product",
     "(Tensor x, Tensor y, Tensor index, Tensor coefficient, int rows, int target, int first) -> Tensor",
     sparse_product},
};

}  // namespace
}  // namespace mlip
