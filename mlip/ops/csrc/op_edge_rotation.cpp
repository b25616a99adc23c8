// The operators of the rotations to edges and back: each trilinear form by its result and by its arguments.
#include "edge_rotation.hpp"
#include "shares.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

namespace mlip {
namespace {

constexpr int64_t kLeastWork = 500000;  // multiplications that are worth a thread
enum Which { kFirst = 1, kByWigner = 2, kLast = 4 };

/// Lays out kept components, m = 0 and then +m and -m each with ascending degrees, and the blocks of packed matrices.
Frame make_frame(int64_t lmax, int64_t mmax) {
  require(mmax >= 0 && mmax <= lmax && lmax <= kMostDegrees,
          "0 <= mmax <= lmax <= " + std::to_string(kMostDegrees) + " must hold for the compiled rotations of edges");
  const int most = static_cast<int>(lmax), kept = static_cast<int>(mmax);
  Frame f{(most + 1) * (most + 1), 0, 0, {}};
  for (int l = 0; l <= most; ++l) {
    Block b{l, 2 * l + 1, l * l, f.entries, l > kept ? std::sqrt((2 * l + 1.0) / (2 * kept + 1.0)) : 1.0, {l}};
    int below = most + 1;  // components of lesser |m|
    for (int m = 1; m <= std::min(l, kept); ++m) {
      const int degrees = most + 1 - m;
      b.place.push_back(below + l - m);
      b.place.push_back(below + degrees + l - m);
      below += 2 * degrees;
    }
    f.entries += b.columns * static_cast<int>(b.place.size());
    f.kept += static_cast<int>(b.place.size());
    f.blocks.push_back(std::move(b));
  }
  return f;
}

void check_index(const Tensor& index, int64_t edges, int64_t below) {
  require(index.dtype() == aoti_torch_dtype_int64() && index.shape() == std::vector<int64_t>{edges},
          "indices of the edges must be int64, one for each edge");
  const int64_t* number = index.data<int64_t>();
  for (int64_t e = 0; e < edges; ++e)
    require(number[e] >= 0 && number[e] < below, "an index of an edge is out of range");
}

void check_buffer(const Tensor& buffer, const std::vector<int64_t>& shape, int32_t dtype) {
  require(buffer.shape() == shape && buffer.dtype() == dtype && buffer.contiguous(),
          "a buffer of the rotations of edges must be contiguous and have the shape and dtype of what goes there");
}

/// A tensor like another, or an empty one where its derivative is not wanted.
Tensor result(const Tensor& like, bool wanted) {
  return Tensor(wanted ? like.shape() : std::vector<int64_t>{0}, like.dtype());
}

// ---- to edges ------------------------------------------------------------------------------------------------------

/// The arguments of all operators of the rotation to edges, from the stack.
struct To {
  Tensor x, wigner, radial;
  std::optional<Tensor> g;
  Tensor sender, receiver, row;
  int64_t lmax, mmax;
  int64_t which = 0;

  static constexpr size_t kEnd = 8, kBackwardInto = 9, kBackward = 10;  // places after the arguments

  explicit To(StableIValue* s, size_t end) : To(s, end == kEnd ? s + 3 : end == kBackward ? s + 5 : s + 4, end) {}

  /// Returns the problem; `frame` must outlive it.
  template <class T>
  ToEdges<T> problem(const Frame& f) const {
    require(x.dim() == 3 && wigner.dim() == 2 && radial.dim() == 3 && x.size(1) == f.components &&
                wigner.size(1) == f.entries && radial.size(1) == lmax + 1 && radial.size(2) == 2 * x.size(2) &&
                x.dtype() == wigner.dtype() && x.dtype() == radial.dtype(),
            "rotate_to_edges: features, matrices and weights do not fit each other");
    require(!g || (g->shape() == shape(f) && g->dtype() == x.dtype()), "rotate_to_edges: the gradient does not fit");
    ToEdges<T> p{};
    p.frame = &f;
    p.atoms = x.size(0), p.edges = wigner.size(0), p.rows = radial.size(0), p.channels = x.size(2);
    check_index(sender, p.edges, p.atoms);
    check_index(receiver, p.edges, p.atoms);
    check_index(row, p.edges, p.rows);
    p.x = x.data<T>(), p.wigner = wigner.data<T>(), p.radial = radial.data<T>(), p.g = g ? g->data<T>() : nullptr;
    p.sender = sender.data<int64_t>(), p.receiver = receiver.data<int64_t>(), p.row = row.data<int64_t>();
    return p;
  }

  std::vector<int64_t> shape(const Frame& f) const { return {wigner.size(0), f.kept, radial.size(2)}; }

 private:
  To(StableIValue* s, StableIValue* rest, size_t end)
      : x(s[0]), wigner(s[1]), radial(s[2]), sender(rest[0]), receiver(rest[1]), row(rest[2]),
        lmax(static_cast<int64_t>(rest[3])), mmax(static_cast<int64_t>(rest[4])) {
    if (end != kEnd) g.emplace(s[3]);
    if (end == kBackward) which = static_cast<int64_t>(s[4]);
  }
};

template <class T>
void run_to_edges(const ToEdges<T>& p, T* out) {
  const int64_t work = std::max<int64_t>(1, 2 * p.frame->entries * p.channels);
  parallel_shares(p.edges, (kLeastWork + work - 1) / work,
                  [&](int64_t begin, int64_t end) { MLIP_DISPATCH(to_edges, p, begin, end, out); });
}

/// Shares out channels: each thread has its own of dx and of the weights, and sums dD over its channels.
template <class T>
void run_to_edges_backward(const ToEdges<T>& p, const ToEdgesGradients<T>& d) {
  constexpr int64_t kUnit = 64 / sizeof(T);
  const int64_t units = (p.channels + kUnit - 1) / kUnit, size = p.edges * p.frame->entries;
  const int64_t most = std::min<int64_t>({num_threads(), units, 4 * size * p.channels / kLeastWork});
  const int64_t count = std::max<int64_t>(1, most);
  std::vector<T> others(d.wigner ? size * (count - 1) : 0);
  parallel(count, [&](int64_t s) {
    auto mine = d;
    if (d.wigner && s > 0) mine.wigner = others.data() + (s - 1) * size;
    const int64_t first = units * s / count * kUnit, last = std::min(p.channels, units * (s + 1) / count * kUnit);
    MLIP_DISPATCH(to_edges_backward, p, first, last, mine);
  });
  for (int64_t s = 1; d.wigner && s < count; ++s)
    for (int64_t i = 0; i < size; ++i) d.wigner[i] += others[(s - 1) * size + i];
}

void rotate_to_edges(StableIValue* stack, uint64_t, uint64_t) {
  const To a(stack, To::kEnd);
  const Frame f = make_frame(a.lmax, a.mmax);
  for_dtype(a.x, [&](auto zero) {
    using T = decltype(zero);
    const auto p = a.problem<T>(f);
    Tensor out(a.shape(f), a.x.dtype());
    run_to_edges(p, out.data<T>());
    stack[0] = out.release();
  });
}

void rotate_to_edges_into(StableIValue* stack, uint64_t, uint64_t) {
  const To a(stack, To::kEnd);
  const Tensor out(stack[To::kEnd]);
  const Frame f = make_frame(a.lmax, a.mmax);
  for_dtype(a.x, [&](auto zero) {
    using T = decltype(zero);
    const auto p = a.problem<T>(f);
    check_buffer(out, a.shape(f), a.x.dtype());
    run_to_edges(p, out.data<T>());
  });
}

void rotate_to_edges_backward(StableIValue* stack, uint64_t, uint64_t) {
  const To a(stack, To::kBackward);
  const Frame f = make_frame(a.lmax, a.mmax);
  for_dtype(a.x, [&](auto zero) {
    using T = decltype(zero);
    const auto p = a.problem<T>(f);
    Tensor dx = result(a.x, a.which & kFirst), dwigner = result(a.wigner, a.which & kByWigner),
           dradial = result(a.radial, a.which & kLast);
    std::fill_n(dx.data<T>(), dx.numel(), T(0));
    std::fill_n(dradial.data<T>(), dradial.numel(), T(0));
    run_to_edges_backward<T>(p, {a.which & kFirst ? dx.data<T>() : nullptr,
                                 a.which & kByWigner ? dwigner.data<T>() : nullptr,
                                 a.which & kLast ? dradial.data<T>() : nullptr, true});
    stack[0] = dx.release();
    stack[1] = dwigner.release();
    stack[2] = dradial.release();
  });
}

void rotate_to_edges_backward_into(StableIValue* stack, uint64_t, uint64_t) {
  const To a(stack, To::kBackwardInto);
  const Tensor dx(stack[To::kBackwardInto]);
  const Frame f = make_frame(a.lmax, a.mmax);
  for_dtype(a.x, [&](auto zero) {
    using T = decltype(zero);
    const auto p = a.problem<T>(f);
    check_buffer(dx, a.x.shape(), a.x.dtype());
    Tensor dwigner = result(a.wigner, true), dradial({p.edges, a.lmax + 1, 2 * p.channels}, a.x.dtype());
    run_to_edges_backward<T>(p, {dx.data<T>(), dwigner.data<T>(), dradial.data<T>(), false});
    stack[0] = dwigner.release();
    stack[1] = dradial.release();
  });
}

// ---- from edges ----------------------------------------------------------------------------------------------------

/// The arguments of both operators of the rotation from edges, from the stack.
struct From {
  Tensor values, wigner, weights;
  std::optional<Tensor> g;
  Tensor offsets;
  int64_t lmax, mmax;
  int64_t which = 0;

  From(StableIValue* s, bool backward)
      : values(s[0]), wigner(s[1]), weights(s[2]), offsets(s[backward ? 5 : 3]),
        lmax(static_cast<int64_t>(s[backward ? 6 : 4])), mmax(static_cast<int64_t>(s[backward ? 7 : 5])) {
    if (!backward) return;
    g.emplace(s[3]);
    which = static_cast<int64_t>(s[4]);
  }

  /// Returns the problem; `frame` must outlive it.
  template <class T>
  FromEdges<T> problem(const Frame& f) const {
    require(values.dim() == 3 && wigner.dim() == 2 && weights.dim() == 2 && values.size(1) == f.kept &&
                wigner.size(1) == f.entries && values.size(0) == wigner.size(0) && values.size(0) == weights.size(0) &&
                values.dtype() == wigner.dtype() && values.dtype() == weights.dtype(),
            "rotate_from_edges: values, matrices and weights do not fit each other");
    require(weights.size(1) > 0 && values.size(2) % weights.size(1) == 0,
            "rotate_from_edges: the number of heads must divide that of channels");
    require(offsets.dtype() == aoti_torch_dtype_int64() && offsets.dim() == 1 && offsets.size(0) > 0,
            "rotate_from_edges: offsets must be int64, one more than receivers");
    require(!g || (g->shape() == shape(f) && g->dtype() == values.dtype()),
            "rotate_from_edges: the gradient does not fit");
    FromEdges<T> p{};
    p.frame = &f;
    p.receivers = offsets.size(0) - 1, p.edges = values.size(0);
    p.channels = values.size(2), p.heads = weights.size(1);
    p.offsets = offsets.data<int64_t>();
    check_offsets(p.offsets, p.receivers, p.edges);
    p.values = values.data<T>(), p.wigner = wigner.data<T>(), p.weights = weights.data<T>();
    p.g = g ? g->data<T>() : nullptr;
    return p;
  }

  std::vector<int64_t> shape(const Frame& f) const { return {offsets.size(0) - 1, f.components, values.size(2)}; }
};

void rotate_from_edges(StableIValue* stack, uint64_t, uint64_t) {
  const From a(stack, false);
  const Frame f = make_frame(a.lmax, a.mmax);
  for_dtype(a.values, [&](auto zero) {
    using T = decltype(zero);
    const auto p = a.problem<T>(f);
    Tensor out(a.shape(f), a.values.dtype());
    T* target = out.data<T>();
    const auto bounds = shares(p.offsets, p.receivers);
    parallel(int64_t(bounds.size()) - 1,
             [&](int64_t s) { MLIP_DISPATCH(from_edges, p, bounds[s], bounds[s + 1], target); });
    stack[0] = out.release();
  });
}

void rotate_from_edges_backward(StableIValue* stack, uint64_t, uint64_t) {
  const From a(stack, true);
  const Frame f = make_frame(a.lmax, a.mmax);
  for_dtype(a.values, [&](auto zero) {
    using T = decltype(zero);
    const auto p = a.problem<T>(f);
    Tensor dvalues = result(a.values, a.which & kFirst), dwigner = result(a.wigner, a.which & kByWigner),
           dweights = result(a.weights, a.which & kLast);
    const FromEdgesGradients<T> d{a.which & kFirst ? dvalues.data<T>() : nullptr,
                                  a.which & kByWigner ? dwigner.data<T>() : nullptr,
                                  a.which & kLast ? dweights.data<T>() : nullptr};
    const int64_t work = std::max<int64_t>(1, 2 * f.entries * p.channels);
    parallel_shares(p.edges, (kLeastWork + work - 1) / work,
                    [&](int64_t begin, int64_t end) { MLIP_DISPATCH(from_edges_backward, p, begin, end, d); });
    stack[0] = dvalues.release();
    stack[1] = dwigner.release();
    stack[2] = dweights.release();
  });
}

#define MLIP_TO "Tensor sender, Tensor receiver, Tensor row, int lmax, int mmax"
#define MLIP_FROM "Tensor offsets, int lmax, int mmax"

const Registration registration{
    {"rotate_to_edges", "(Tensor x, Tensor wigner, Tensor radial, " MLIP_TO ") -> Tensor", rotate_to_edges},
    {"rotate_to_edges_into", "(Tensor x, Tensor wigner, Tensor radial, " MLIP_TO ", Tensor(a!) out) -> ()",
     rotate_to_edges_into},
    {"rotate_to_edges_backward",
     "(Tensor x, Tensor wigner, Tensor radial, Tensor g, int which, " MLIP_TO ") -> (Tensor, Tensor, Tensor)",
     rotate_to_edges_backward},
    {"rotate_to_edges_backward_into",
     "(Tensor x, Tensor wigner, Tensor radial, Tensor g, " MLIP_TO ", Tensor(a!) dx) -> (Tensor, Tensor)",
     rotate_to_edges_backward_into},
    {"rotate_from_edges", "(Tensor values, Tensor wigner, Tensor weights, " MLIP_FROM ") -> Tensor",
     rotate_from_edges},
    {"rotate_from_edges_backward",
     "(Tensor values, Tensor wigner, Tensor weights, Tensor g, int which, " MLIP_FROM ") -> (Tensor, Tensor, Tensor)",
     rotate_from_edges_backward},
};

}  // namespace
}  // namespace mlip
