// The operator of the product on the sphere.
#include "reflections.hpp"
#include "sphere_product.hpp"
#include "torch_shim.hpp"

namespace mlip {
namespace {

void sphere_product(StableIValue* stack, uint64_t, uint64_t) {
  Tensor x(stack[0]), y(stack[1]), to_x(stack[2]), to_y(stack[3]), back(stack[4]), parity(stack[5]), zero(stack[6]);
  require(x.dim() == 3 && y.dim() == 3 && to_x.dim() == 2 && to_y.dim() == 2 && back.dim() == 2 &&
              x.size(0) == y.size(0) && x.size(2) == y.size(2) && x.size(1) == to_x.size(1) &&
              y.size(1) == to_y.size(1) && to_x.size(0) == to_y.size(0) && to_x.size(0) == back.size(0),
          "sphere_product: tensors do not fit each other");
  for (const Tensor* t : {&y, &to_x, &to_y, &back})
    require(t->dtype() == x.dtype(), "sphere_product: all tensors must have one precision");
  check_reflections(parity, zero, to_x.size(0), {x.size(1), y.size(1), back.size(1)});
  for_dtype(x, [&](auto number) {
    using T = decltype(number);
    SphereProduct<T> p{};
    p.samples = x.size(0), p.channels = x.size(2);
    p.representatives = narrow(to_x.size(0)), p.x_rows = narrow(x.size(1));
    p.y_rows = narrow(y.size(1)), p.rows = narrow(back.size(1));
    p.x = x.data<T>(), p.y = y.data<T>();
    p.to_x = to_x.data<T>(), p.to_y = to_y.data<T>(), p.back = back.data<T>();
    p.parity = parity.data<int64_t>(), p.zero = zero.data<int64_t>();
    Tensor out({p.samples, p.rows, p.channels}, x.dtype());
    T* target = out.data<T>();
    parallel_columns(p.samples * p.channels, int64_t(p.representatives) * (p.x_rows + p.y_rows + p.rows),
                     [&](int64_t begin, int64_t end) { MLIP_DISPATCH(sphere_product, p, begin, end, target); });
    stack[0] = out.release();
  });
}

const Registration registration{
    {"sphere_product",
     "(Tensor x, Tensor y, Tensor to_x, Tensor to_y, Tensor back, Tensor parity, Tensor zero) -> Tensor",
     sphere_product},
};

}  // namespace
}  // namespace mlip
