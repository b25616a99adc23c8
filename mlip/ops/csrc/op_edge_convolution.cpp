// The operators of the edge convolution: T(h, Y, w; g) by each of its arguments.
#include "edge_convolution.hpp"
#include "shares.hpp"

#include <algorithm>
#include <utility>

namespace mlip {
namespace {

constexpr int64_t kDegrees = 1000;  // more than any model has: keeps products of degrees far from overflow

/// Takes the arguments that all operators of the convolution share from the stack.
struct Arguments {
  Tensor sender, offsets, row, paths, terms, coefficients;

  explicit Arguments(StableIValue* s)
      : sender(s[0]), offsets(s[1]), row(s[2]), paths(s[3]), terms(s[4]), coefficients(s[5]) {
    for (const Tensor* t : {&sender, &offsets, &row, &paths, &terms})
      require(t->dtype() == aoti_torch_dtype_int64(), "indices of the edge convolution must be int64");
    require(coefficients.dtype() == aoti_torch_dtype_float64(), "coefficients must be float64");
    require(paths.dim() == 2 && paths.size(1) == 4 && terms.dim() == 2 && terms.size(1) == 2 && offsets.dim() == 1 &&
                offsets.size(0) > 0 && sender.shape() == row.shape() && coefficients.numel() == terms.size(0),
            "arguments of the edge convolution have wrong shapes");
  }

  void fit(const Tensor& h, const Tensor& y, const Tensor& w) const {
    require(h.dim() == 3 && y.dim() == 2 && w.dim() == 3 && w.size(2) == h.size(2) && y.size(0) == sender.size(0) &&
                h.dtype() == y.dtype() && h.dtype() == w.dtype(),
            "edge_convolution: features, harmonics, weights and edges do not fit each other");
  }

  template <class T>
  Convolution<T> problem(int64_t atoms, int64_t features, int64_t harmonics, const Tensor& w) const {
    Convolution<T> p{};
    p.atoms = atoms;
    p.receivers = offsets.size(0) - 1;
    p.edges = sender.size(0);
    p.rows = w.size(0);
    p.channels = narrow(w.size(2));
    p.weight_row = w.size(1) * w.size(2);
    p.features = narrow(features);
    p.harmonics = narrow(harmonics);
    narrow(features * p.channels);
    p.sender = sender.data<int64_t>();
    p.offsets = offsets.data<int64_t>();
    p.row = row.data<int64_t>();
    add_paths(p, w.size(1));
    check(p);
    return p;
  }

 private:
  template <class T>
  void add_paths(Convolution<T>& p, int64_t weights) const {
    const int64_t* rows = paths.data<int64_t>();  // l1, l3, weight, place
    std::vector<uint8_t> used(weights, 0);
    const int64_t count = paths.size(0);
    int64_t components = 0;  // of out, of one receiver, below the degree
    for (int64_t k = 0; k < count;) {
      int64_t last = k;
      const int64_t l3 = rows[4 * k + 1];
      int64_t places = 0;
      require(l3 >= 0 && l3 < kDegrees, "a degree of the messages is out of range");
      for (; last < count && rows[4 * last + 1] == l3; ++last) {
        require(rows[4 * last + 3] >= 0 && rows[4 * last + 3] < count, "a place of the messages is out of range");
        places = std::max(places, rows[4 * last + 3] + 1);
      }
      for (int64_t q = k; q < last; ++q) {
        Path path{};
        const int64_t l1 = rows[4 * q], weight = rows[4 * q + 2];
        require(l1 >= 0 && l1 < kDegrees && (l1 + 1) * (l1 + 1) <= p.features, "a path leaves the features");
        require(weight >= 0 && weight < weights, "a path has no weight");
        path.first = !used[weight];
        used[weight] = 1;
        path.l1 = static_cast<int>(l1);
        path.l3 = static_cast<int>(l3);
        path.matrix = p.matrices;
        path.weight = weight * p.channels;
        path.feature = int64_t(path.l1) * path.l1 * p.channels;
        path.stride = places * p.channels;
        path.receiver_stride = (2 * l3 + 1) * path.stride;
        path.out = components * p.receivers * p.channels + rows[4 * q + 3] * p.channels;
        p.matrices = narrow(p.matrices + (2 * path.l1 + 1) * (2 * l3 + 1));
        p.paths.push_back(path);
      }
      components += (2 * l3 + 1) * places;
      k = last;
    }
    require(std::find(used.begin(), used.end(), 0) == used.end(), "a weight belongs to no path");
    p.out_row = components * p.channels;
    const int64_t *pair = terms.data<int64_t>(), number = terms.size(0);
    const double* coefficient = coefficients.data<double>();
    for (int64_t t = 0; t < number; ++t)
      p.terms.push_back({narrow(pair[2 * t]), narrow(pair[2 * t + 1]), coefficient[t]});
  }

  template <class T>
  static void check(const Convolution<T>& p) {
    for (const Term& t : p.terms)
      require(t.matrix < p.matrices && t.harmonic < p.harmonics,
              "a coefficient of the edge convolution points nowhere");
    check_offsets(p.offsets, p.receivers, p.edges);
    for (int64_t e = 0; e < p.edges; ++e)
      require(p.sender[e] >= 0 && p.sender[e] < p.atoms && p.row[e] >= 0 && p.row[e] < p.rows,
              "a sender or a row of the weights is out of range");
  }
};

template <class T>
int64_t out_size(const Convolution<T>& p) {
  return p.out_row * p.receivers;
}

void edge_convolution(StableIValue* stack, uint64_t, uint64_t) {
  Tensor h(stack[0]), y(stack[1]), w(stack[2]);
  const auto size = static_cast<int64_t>(stack[3]);
  Arguments a(stack + 4);
  a.fit(h, y, w);
  for_dtype(h, [&](auto zero) {
    using T = decltype(zero);
    auto p = a.problem<T>(h.size(0), h.size(1), y.size(1), w);
    p.h = h.data<T>(), p.y = y.data<T>(), p.w = w.data<T>();
    require(size == out_size(p), "edge_convolution: size is not that of the messages");
    Tensor out({size}, h.dtype());
    T* target = out.data<T>();
    const auto bounds = shares(p.offsets, p.receivers);
    parallel(int64_t(bounds.size()) - 1,
             [&](int64_t s) { MLIP_DISPATCH(convolve, p, bounds[s], bounds[s + 1], target); });
    stack[0] = out.release();
  });
}

/// What to do with each edge in two rounds: 0 nothing, 1 write its row of dw, 2 add to it. An edge whose row an edge
/// of another thread writes waits for the second round, so that no row is written by two threads at a time.
struct Rounds {
  std::vector<uint8_t> first, second;
  std::vector<uint8_t> used;  // rows that some edge has
  bool wait = false, alone = false;  // whether there is a second round; whether one thread must do it

  template <class T>
  Rounds(const Convolution<T>& p, const std::vector<int64_t>& bounds, bool rows_matter)
      : first(p.edges, 1), second(p.edges, 0), used(p.rows, 0) {
    if (!rows_matter) return;
    std::vector<int32_t> owner(p.rows, -1);
    std::vector<uint8_t> waiting(p.rows, 0);
    for (size_t s = 0; s + 1 < bounds.size(); ++s)
      for (int64_t e = p.offsets[bounds[s]]; e < p.offsets[bounds[s + 1]]; ++e) {
        const int64_t r = p.row[e];
        if (!used[r]) {
          used[r] = 1;
          owner[r] = static_cast<int32_t>(s);
        } else if (owner[r] == static_cast<int32_t>(s) && !waiting[r]) {
          first[e] = 2;
        } else {
          first[e] = 0;
          second[e] = 2;
          wait = true;
          alone = alone || waiting[r];
          waiting[r] = 1;
        }
      }
  }
};

enum Which { kByH = 1, kByY = 2, kByW = 4 };

template <class T>
void backward(const Convolution<T>& p, T* dh, T* dy, T* dw) {
  const auto bounds = shares(p.offsets, p.receivers);
  const int64_t size = p.atoms * p.features * p.channels, count = int64_t(bounds.size()) - 1;
  std::vector<T> others(dh ? size * (count - 1) : 0);
  if (dh) std::fill(dh, dh + size, T(0));
  const Rounds rounds(p, bounds, dw != nullptr);
  const auto run = [&](const std::vector<uint8_t>& action, int64_t share, int64_t begin, int64_t end) {
    T* mine = !dh || share == 0 ? dh : others.data() + (share - 1) * size;
    MLIP_DISPATCH(convolve_backward, p, begin, end, Gradients<T>{mine, dy, dw, action.data()});
  };
  parallel(count, [&](int64_t s) { run(rounds.first, s, bounds[s], bounds[s + 1]); });
  if (rounds.alone) run(rounds.second, 0, 0, p.receivers);
  else if (rounds.wait) parallel(count, [&](int64_t s) { run(rounds.second, s, bounds[s], bounds[s + 1]); });
  for (int64_t s = 1; dh && s < count; ++s) {
    const T* share = others.data() + (s - 1) * size;
    parallel_shares(size, 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) dh[i] += share[i];
    });
  }
  for (int64_t r = 0; dw && r < p.rows; ++r)
    if (!rounds.used[r]) std::fill(dw + r * p.weight_row, dw + (r + 1) * p.weight_row, T(0));
}

/// The derivatives by h and y, if they are wanted, and that by w into `dw`, if it is not empty.
std::pair<Tensor, Tensor> differentiate(const Tensor& h, const Tensor& y, const Tensor& w, const Tensor& g,
                                        const Arguments& a, int64_t which, const Tensor& dw) {
  a.fit(h, y, w);
  require(h.dtype() == g.dtype(), "edge_convolution_backward: the gradient has another dtype");
  require(!(which & kByW) || (dw.shape() == w.shape() && dw.dtype() == w.dtype() && dw.contiguous()),
          "edge_convolution_backward: the derivative by w must be contiguous and have the shape of w");
  const auto result = [&](const Tensor& like, int bit) {
    return Tensor(which & bit ? like.shape() : std::vector<int64_t>{0}, like.dtype());
  };
  Tensor dh = result(h, kByH), dy = result(y, kByY);
  for_dtype(h, [&](auto zero) {
    using T = decltype(zero);
    auto p = a.problem<T>(h.size(0), h.size(1), y.size(1), w);
    require(g.numel() == out_size(p), "edge_convolution_backward: the gradient has a wrong size");
    p.h = h.data<T>(), p.y = y.data<T>(), p.w = w.data<T>(), p.g = g.data<T>();
    backward(p, which & kByH ? dh.data<T>() : nullptr, which & kByY ? dy.data<T>() : nullptr,
             which & kByW ? dw.data<T>() : nullptr);
  });
  return {std::move(dh), std::move(dy)};
}

void edge_convolution_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor h(stack[0]), y(stack[1]), w(stack[2]), g(stack[3]);
  const auto which = static_cast<int64_t>(stack[4]);
  const Arguments a(stack + 5);
  Tensor dw(which & kByW ? w.shape() : std::vector<int64_t>{0}, w.dtype());
  auto [dh, dy] = differentiate(h, y, w, g, a, which, dw);
  stack[0] = dh.release();
  stack[1] = dy.release();
  stack[2] = dw.release();
}

void edge_convolution_backward_into(StableIValue* stack, uint64_t, uint64_t) {
  Tensor h(stack[0]), y(stack[1]), w(stack[2]), g(stack[3]);
  const auto which = static_cast<int64_t>(stack[4]);
  const Tensor dw(stack[5]);
  const Arguments a(stack + 6);
  auto [dh, dy] = differentiate(h, y, w, g, a, which | kByW, dw);
  stack[0] = dh.release();
  stack[1] = dy.release();
}

const Registration registration{
    {"edge_convolution",
     "(Tensor h, Tensor y, Tensor w, SymInt size, Tensor sender, Tensor offsets, Tensor row, Tensor paths, "
     "Tensor terms, Tensor coefficients) -> Tensor",
     edge_convolution},
    {"edge_convolution_backward",
     "(Tensor h, Tensor y, Tensor w, Tensor g, int which, Tensor sender, Tensor offsets, Tensor row, Tensor paths, "
     "Tensor terms, Tensor coefficients) -> (Tensor, Tensor, Tensor)",
     edge_convolution_backward},
    {"edge_convolution_backward_into",
     "(Tensor h, Tensor y, Tensor w, Tensor g, int which, Tensor(a!) dw, Tensor sender, Tensor offsets, Tensor row, "
     "Tensor paths, Tensor terms, Tensor coefficients) -> (Tensor, Tensor)",
     edge_convolution_backward_into},
};

}  // namespace
}  // namespace mlip
