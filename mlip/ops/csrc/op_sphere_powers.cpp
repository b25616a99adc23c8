// The operators of powers on the sphere: value, gradient, and the derivative of each along a direction.
#include "reflections.hpp"
#include "sphere_powers.hpp"

namespace mlip {
namespace {

constexpr int64_t kOrders = 64;  // more than any model has

/// Takes the arguments that all operators share from the stack.
struct Arguments {
  Tensor to, back, parity, zero;
  int64_t first, last;

  explicit Arguments(StableIValue* s)
      : to(s[0]), back(s[1]), parity(s[2]), zero(s[3]), first(static_cast<int64_t>(s[4])),
        last(static_cast<int64_t>(s[5])) {}

  StableIValue run(const Tensor& x, const Tensor* v, const Tensor* g) const {
    check(x, v, g);
    StableIValue result = 0;
    for_dtype(x, [&](auto number) {
      using T = decltype(number);
      SpherePowers<T> p{};
      p.samples = x.size(0), p.channels = x.size(2);
      p.representatives = narrow(to.size(0)), p.x_rows = narrow(x.size(1)), p.rows = narrow(back.size(1));
      p.first = narrow(first), p.orders = narrow(last - first + 1);
      p.x = x.data<T>(), p.v = v ? v->data<T>() : nullptr, p.g = g ? g->data<T>() : nullptr;
      p.to = to.data<T>(), p.back = back.data<T>();
      p.parity = parity.data<int64_t>(), p.zero = zero.data<int64_t>();
      Tensor out(g ? x.shape() : std::vector<int64_t>{p.samples, p.orders, p.rows, p.channels}, x.dtype());
      T* target = out.data<T>();
      parallel_columns(p.samples * p.channels, int64_t(p.representatives) * (p.x_rows + p.orders * (p.rows + 8)),
                       [&](int64_t begin, int64_t end) { MLIP_DISPATCH(sphere_powers, p, begin, end, target); });
      result = out.release();
    });
    return result;
  }

 private:
  void check(const Tensor& x, const Tensor* v, const Tensor* g) const {
    require(x.dim() == 3 && to.dim() == 2 && back.dim() == 2 && x.size(1) == to.size(1) && to.size(0) == back.size(0) &&
                x.dtype() == to.dtype() && x.dtype() == back.dtype(),
            "sphere_powers: tensors do not fit each other");
    require(first >= 1 && last >= first && last < kOrders, "sphere_powers: powers must be ascending from 1 on");
    require(!v || (v->shape() == x.shape() && v->dtype() == x.dtype()),
            "sphere_powers: a direction does not fit the signal");
    require(!g || (g->shape() == std::vector<int64_t>{x.size(0), last - first + 1, back.size(1), x.size(2)} &&
                   g->dtype() == x.dtype()),
            "sphere_powers: the gradient does not fit the powers");
    check_reflections(parity, zero, to.size(0), {to.size(1), back.size(1)});
  }
};

void sphere_powers(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]);
  const Arguments a(stack + 1);
  stack[0] = a.run(x, nullptr, nullptr);
}

void sphere_powers_jvp(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), v(stack[1]);
  const Arguments a(stack + 2);
  stack[0] = a.run(x, &v, nullptr);
}

void sphere_powers_backward(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), g(stack[1]);
  const Arguments a(stack + 2);
  stack[0] = a.run(x, nullptr, &g);
}

void sphere_powers_backward_jvp(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), g(stack[1]), v(stack[2]);
  const Arguments a(stack + 3);
  stack[0] = a.run(x, &v, &g);
}

#define MLIP_REST "Tensor to, Tensor back, Tensor parity, Tensor zero, int first, int last) -> Tensor"

const Registration registration{
    {"sphere_powers", "(Tensor x, " MLIP_REST, sphere_powers},
    {"sphere_powers_jvp", "(Tensor x, Tensor v, " MLIP_REST, sphere_powers_jvp},
    {"sphere_powers_backward", "(Tensor x, Tensor g, " MLIP_REST, sphere_powers_backward},
    {"sphere_powers_backward_jvp", "(Tensor x, Tensor g, Tensor v, " MLIP_REST, sphere_powers_backward_jvp},
};

}  // namespace
}  // namespace mlip
