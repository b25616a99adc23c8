// The operators of tabulated functions.
#include "radial_table.hpp"
#include "torch_shim.hpp"

#include <algorithm>
#include <vector>

namespace mlip {
namespace {

constexpr int64_t kMostPoints = 64;  // of a group: more would leave the fast caches, and threads without work

/// Points ordered by interval, in groups that share one.
struct Order {
  std::vector<int64_t> begin{0}, point, interval;

  Order(const int64_t* intervals, int64_t points, int64_t count) : point(points) {
    std::vector<int64_t> next(count + 1, 0);
    for (int64_t n = 0; n < points; ++n) {
      require(intervals[n] >= 0 && intervals[n] < count, "radial_table: an interval is out of range");
      ++next[intervals[n] + 1];
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t size = next[i + 1];
      next[i + 1] += next[i];
      for (int64_t done = 0; done < size; done += kMostPoints) {
        begin.push_back(next[i] + std::min(size, done + kMostPoints));
        interval.push_back(i);
      }
    }
    for (int64_t n = 0; n < points; ++n) point[next[intervals[n]]++] = n;
  }
};

template <class T>
RadialTable<T> table_of(const Tensor& t, const Tensor& coefficients, const Order& order) {
  return {coefficients.size(2), t.data<T>(), coefficients.data<T>(), order.begin.data(), order.point.data(),
          order.interval.data()};
}

Order checked(const Tensor& t, const Tensor& interval, const Tensor& coefficients) {
  require(interval.dtype() == aoti_torch_dtype_int64() && t.dim() == 1 && interval.shape() == t.shape() &&
              coefficients.dim() == 3 && coefficients.size(1) == kCoefficients && t.dtype() == coefficients.dtype(),
          "radial_table: fractions, intervals and coefficients do not fit each other");
  return Order(interval.data<int64_t>(), t.size(0), coefficients.size(0));
}

void evaluate(const Tensor& t, const Tensor& interval, const Tensor& coefficients, const Tensor& out) {
  const Order order = checked(t, interval, coefficients);
  require(out.numel() == t.size(0) * coefficients.size(2) && out.dtype() == t.dtype() && out.contiguous(),
          "radial_table: the output must be contiguous and have the size of the values");
  for_dtype(t, [&](auto zero) {
    using T = decltype(zero);
    const auto p = table_of<T>(t, coefficients, order);
    T* target = out.data<T>();
    parallel_shares(int64_t(order.interval.size()), 4, [&](int64_t first, int64_t last) {
      MLIP_DISPATCH(table_values, p, first, last, target);
    });
  });
}

void radial_table(StableIValue* stack, uint64_t, uint64_t) {
  Tensor t(stack[0]), interval(stack[1]), coefficients(stack[2]);
  require(t.dim() == 1 && coefficients.dim() == 3, "radial_table: fractions or coefficients have wrong shapes");
  Tensor out({t.size(0), coefficients.size(2)}, t.dtype());
  evaluate(t, interval, coefficients, out);
  stack[0] = out.release();
}

void radial_table_into(StableIValue* stack, uint64_t, uint64_t) {
  Tensor t(stack[0]), interval(stack[1]), coefficients(stack[2]), out(stack[3]);
  evaluate(t, interval, coefficients, out);
}

void radial_table_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor t(stack[0]), interval(stack[1]), coefficients(stack[2]), g(stack[3]);
  const Order order = checked(t, interval, coefficients);
  require(g.dtype() == t.dtype() && g.numel() == t.size(0) * coefficients.size(2),
          "radial_table_backward: the gradient has a wrong size");
  for_dtype(t, [&](auto zero) {
    using T = decltype(zero);
    const auto p = table_of<T>(t, coefficients, order);
    Tensor dt(t.shape(), t.dtype());
    T* target = dt.data<T>();
    const T* gradient = g.data<T>();
    parallel_shares(int64_t(order.interval.size()), 4, [&](int64_t first, int64_t last) {
      MLIP_DISPATCH(table_slopes, p, gradient, first, last, target);
    });
    stack[0] = dt.release();
  });
}

const Registration registration{
    {"radial_table", "(Tensor t, Tensor interval, Tensor coefficients) -> Tensor", radial_table},
    {"radial_table_into", "(Tensor t, Tensor interval, Tensor coefficients, Tensor(a!) out) -> ()", radial_table_into},
    {"radial_table_backward", "(Tensor t, Tensor interval, Tensor coefficients, Tensor g) -> Tensor",
     radial_table_backward},
};

}  // namespace
}  // namespace mlip
