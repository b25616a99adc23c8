// The operators of what an attention layer does between its two linear maps.
#include "attention_activation.hpp"
#include "reflections.hpp"
#include "torch_shim.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mlip {
namespace {

constexpr int64_t kLeastWork = 500000;  // multiplications that are worth a thread
constexpr int64_t kSigmoid = 30;        // multiplications that take as long as one

/// Requires a matrix to write to, which need not be contiguous.
void check_target(const Tensor& target, const std::vector<int64_t>& shape, int32_t dtype) {
  require(target.shape() == shape && target.dtype() == dtype && target.whole_rows() &&
              (shape[0] <= 1 || target.stride(0) >= shape[1]),
          "a buffer of the attention must have the shape and dtype of what goes there, and rows without gaps");
}

/// Returns the columns of a matrix from `begin` on.
template <class T>
Slab<T> part(const Rows<T>& rows, int64_t begin) {
  return {rows.data + begin, rows.stride, 0};
}

// ---- swiglu --------------------------------------------------------------------------------------------------------

/// The arguments of both operators, from the stack.
struct Arguments {
  Tensor hidden, scalars, gate, to, back, parity, zero;

  explicit Arguments(StableIValue* s)
      : hidden(s[0]), scalars(s[1]), gate(s[2]), to(s[3]), back(s[4]), parity(s[5]), zero(s[6]) {}

  template <class T>
  Swiglu<T> problem() const {
    require(hidden.dim() == 3 && scalars.dim() == 2 && gate.dim() == 2 && to.dim() == 2 && back.shape() == to.shape() &&
                hidden.size(0) == scalars.size(0) && hidden.size(0) == gate.size(0) && hidden.size(1) > 0 &&
                hidden.size(1) == to.size(1) && hidden.size(2) == 2 * gate.size(1) &&
                hidden.size(2) == scalars.size(1),
            "swiglu: tensors do not fit each other");
    for (const Tensor* t : {&scalars, &gate, &to, &back})
      require(t->dtype() == hidden.dtype(), "swiglu: all tensors must have one precision");
    check_reflections(parity, zero, to.size(0), {to.size(1)});
    Swiglu<T> p{};
    p.edges = hidden.size(0), p.channels = gate.size(1);
    p.representatives = narrow(to.size(0)), p.rows = narrow(to.size(1));
    const auto wide = slabs(hidden.data<const T>());
    p.a = wide.first, p.b = wide.second;
    const auto rows = scalars.rows<const T>();
    p.s1 = part(rows, 0), p.s2 = part(rows, p.channels), p.gate = part(gate.rows<const T>(), 0);
    p.to = to.data<T>(), p.back = back.data<T>();
    p.parity = parity.data<int64_t>(), p.zero = zero.data<int64_t>();
    return p;
  }

  /// Returns the halves of a tensor like `hidden`.
  template <class T>
  std::pair<Slab<T>, Slab<T>> slabs(T* values) const {
    const int64_t channels = gate.size(1), row = 2 * channels, edge = hidden.size(1) * row;
    return {{values, edge, row}, {values + channels, edge, row}};
  }

  std::vector<int64_t> shape() const { return {hidden.size(0), hidden.size(1), gate.size(1)}; }
};

void swiglu(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments a(stack);
  for_dtype(a.hidden, [&](auto number) {
    using T = decltype(number);
    const auto p = a.problem<T>();
    Tensor out(a.shape(), a.hidden.dtype());
    const Slab<T> target{out.data<T>(), p.rows * p.channels, p.channels};
    parallel_columns(p.edges * p.channels, int64_t(p.representatives) * p.rows * 3,
                     [&](int64_t begin, int64_t end) { MLIP_DISPATCH(swiglu, p, begin, end, target); });
    stack[0] = out.release();
  });
}

void swiglu_backward(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments a(stack);
  const Tensor g(stack[7]), dscalars(stack[8]), dgate(stack[9]);
  for_dtype(a.hidden, [&](auto number) {
    using T = decltype(number);
    const auto p = a.problem<T>();
    require(g.shape() == a.shape() && g.dtype() == a.hidden.dtype(), "swiglu: the gradient does not fit");
    check_target(dscalars, a.scalars.shape(), a.hidden.dtype());
    check_target(dgate, a.gate.shape(), a.hidden.dtype());
    Tensor dhidden(a.hidden.shape(), a.hidden.dtype());
    const auto halves = a.slabs(dhidden.data<T>());
    const auto rows = dscalars.rows<T>();
    const SwigluGradients<T> d{{g.data<const T>(), p.rows * p.channels, p.channels}, halves.first, halves.second,
                               part(rows, 0), part(rows, p.channels), part(dgate.rows<T>(), 0)};
    parallel_columns(p.edges * p.channels, int64_t(p.representatives) * p.rows * 5,
                     [&](int64_t begin, int64_t end) { MLIP_DISPATCH(swiglu_backward, p, begin, end, d); });
    stack[0] = dhidden.release();
  });
}

// ---- logits --------------------------------------------------------------------------------------------------------

/// Calls body(begin, end) for shares of the edges.
template <class T, class Body>
void over_edges(const HeadLogits<T>& p, const Body& body) {
  const int64_t work = std::max<int64_t>(1, int64_t(p.heads) * p.channels * kSigmoid);
  parallel_shares(p.edges, (kLeastWork + work - 1) / work, body);
}

struct Logits {
  Tensor alpha, weight, bias, dot;
  double eps;

  explicit Logits(StableIValue* s) : alpha(s[0]), weight(s[1]), bias(s[2]), dot(s[3]), eps(number(s[4])) {}

  template <class T>
  HeadLogits<T> problem() const {
    require(alpha.dim() == 2 && dot.dim() == 2 && dot.size(1) > 0 && alpha.size(1) == dot.numel() &&
                weight.shape() == std::vector<int64_t>{dot.size(1)} && bias.shape() == weight.shape(),
            "head_logits: tensors do not fit each other");
    for (const Tensor* t : {&weight, &bias, &dot})
      require(t->dtype() == alpha.dtype(), "head_logits: all tensors must have one precision");
    const auto rows = alpha.rows<const T>();
    return {alpha.size(0), narrow(dot.size(0)), narrow(dot.size(1)), rows.data, rows.stride, weight.data<T>(),
            bias.data<T>(), dot.data<T>(), static_cast<T>(eps)};
  }

  std::vector<int64_t> shape() const { return {alpha.size(0), dot.size(0)}; }

 private:
  static double number(StableIValue value) {
    double out;
    std::memcpy(&out, &value, sizeof out);
    return out;
  }
};

void head_logits(StableIValue* stack, uint64_t, uint64_t) {
  const Logits a(stack);
  for_dtype(a.alpha, [&](auto number) {
    using T = decltype(number);
    const auto p = a.problem<T>();
    Tensor out(a.shape(), a.alpha.dtype());
    T* target = out.data<T>();
    over_edges(p, [&](int64_t begin, int64_t end) { MLIP_DISPATCH(head_logits, p, begin, end, target); });
    stack[0] = out.release();
  });
}

void head_logits_backward(StableIValue* stack, uint64_t, uint64_t) {
  const Logits a(stack);
  const Tensor g(stack[5]), dalpha(stack[6]);
  for_dtype(a.alpha, [&](auto number) {
    using T = decltype(number);
    const auto p = a.problem<T>();
    require(g.shape() == a.shape() && g.dtype() == a.alpha.dtype(), "head_logits: the gradient does not fit");
    check_target(dalpha, a.alpha.shape(), a.alpha.dtype());
    const T* gradient = g.data<T>();
    const auto rows = dalpha.rows<T>();
    over_edges(p, [&](int64_t begin, int64_t end) {
      MLIP_DISPATCH(head_logits_backward, p, begin, end, gradient, rows.data, rows.stride);
    });
  });
}

#define MLIP_SWIGLU \
  "(Tensor hidden, Tensor scalars, Tensor gate, Tensor to, Tensor back, Tensor parity, Tensor zero"
#define MLIP_LOGITS "(Tensor alpha, Tensor weight, Tensor bias, Tensor dot, float eps"

const Registration registration{
    {"swiglu", MLIP_SWIGLU ") -> Tensor", swiglu},
    {"swiglu_backward", MLIP_SWIGLU ", Tensor g, Tensor(a!) dscalars, Tensor(b!) dgate) -> Tensor", swiglu_backward},
    {"head_logits", MLIP_LOGITS ") -> Tensor", head_logits},
    {"head_logits_backward", MLIP_LOGITS ", Tensor g, Tensor(a!) dalpha) -> ()", head_logits_backward},
};

}  // namespace
}  // namespace mlip
