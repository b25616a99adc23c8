// The operators of attention over edges: value, gradient, and the derivative of the gradient along a direction.
#include "edge_attention.hpp"
#include "shares.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace mlip {
namespace {

constexpr int kInputs = 6;  // q, k, v, vectors, bias, frequencies; the bit 1 << i of `which` asks for the derivative by i
constexpr int64_t kAtoms = 7, kVectors = 8, kBias = 16, kFrequencies = 32, kGradient = 64;

struct Sizes {
  int64_t atoms, heads, channels, filled;  // channels: complex ones of a head, as they are and filled up

  std::vector<int64_t> shape() const { return {atoms, heads, 2 * channels}; }
  int64_t numel() const { return atoms * heads * 2 * filled; }
  bool whole() const { return channels == filled; }
};

/// A tensor as the kernels read it: itself where it is laid out so, or else a copy.
template <class T>
struct Input {
  std::vector<T> copy;
  const T* data = nullptr;
  int64_t row = 0;

  /// Takes [N, H, 2F]. An empty tensor is zero if it may be. Rows have no gaps if they must not.
  static Input heads(const Tensor& tensor, const Sizes& s, bool gaps, bool absent = false) {
    Input out;
    out.row = s.heads * 2 * s.filled;
    if (absent) {
      out.copy.resize(s.numel());
    } else if (s.whole() && tensor.stride(2) == 1 && tensor.stride(1) == 2 * s.channels &&
               (gaps || tensor.stride(0) == out.row)) {
      out.row = tensor.stride(0);
      out.data = tensor.pointer<const T>();
      return out;
    } else {
      out.copy.resize(s.numel());
      fill(tensor, s, out.copy.data());
    }
    out.data = out.copy.data();
    return out;
  }

  /// Takes w [H, F, 3] as [H, 3, F].
  static Input frequencies(const Tensor& tensor, const Sizes& s, bool absent = false) {
    Input out;
    out.copy.resize(s.heads * 3 * s.filled);
    const T* w = absent ? nullptr : tensor.data<T>();
    for (int64_t h = 0; w && h < s.heads; ++h)
      for (int64_t f = 0; f < s.channels; ++f)
        for (int64_t axis = 0; axis < 3; ++axis)
          out.copy[(h * 3 + axis) * s.filled + f] = w[(h * s.channels + f) * 3 + axis];
    out.data = out.copy.data();
    return out;
  }

  static Input plain(const Tensor& tensor, int64_t size, bool absent = false) {
    Input out;
    if (absent) out.copy.resize(size);
    out.data = absent ? out.copy.data() : tensor.data<T>();
    return out;
  }

 private:
  static void fill(const Tensor& tensor, const Sizes& s, T* to) {
    const T* from = tensor.pointer<const T>();
    const int64_t by_atom = tensor.stride(0), by_head = tensor.stride(1), by_channel = tensor.stride(2);
    parallel_shares(s.atoms, 64, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        for (int64_t h = 0; h < s.heads; ++h)
          for (int64_t z = 0; z < 2; ++z)
            for (int64_t f = 0; f < s.channels; ++f)
              to[((n * s.heads + h) * 2 + z) * s.filled + f] =
                  from[n * by_atom + h * by_head + (z * s.channels + f) * by_channel];
    });
  }
};

/// A tensor [N, H, 2F] that kernels write, without gaps but filled up.
template <class T>
struct Output {
  Tensor tensor;
  std::vector<T> filled;
  T* data;

  Output(const Sizes& s, int32_t dtype, bool wanted = true)
      : tensor(wanted ? s.shape() : std::vector<int64_t>{0}, dtype), sizes_(s), wanted_(wanted) {
    if (!wanted || !s.whole()) filled.resize(s.numel());
    data = filled.empty() ? tensor.data<T>() : filled.data();
  }

  StableIValue release() {
    if (wanted_ && !filled.empty()) {
      T* to = tensor.data<T>();
      for (int64_t n = 0; n < sizes_.atoms * sizes_.heads * 2; ++n)
        std::copy_n(filled.data() + n * sizes_.filled, sizes_.channels, to + n * sizes_.channels);
    }
    return tensor.release();
  }

 private:
  Sizes sizes_;
  bool wanted_;
};

/// Takes the tensors of a problem, or a direction in their space, from the stack.
struct Inputs {
  std::array<Tensor, kInputs> t;

  explicit Inputs(StableIValue* s)
      : t{Tensor(s[0]), Tensor(s[1]), Tensor(s[2]), Tensor(s[3]), Tensor(s[4]), Tensor(s[5])} {}

  template <class T>
  Sizes sizes() const {
    int lanes = 1;
    MLIP_DISPATCH(attention_lanes<T>, &lanes);
    const int64_t channels = t[0].size(2) / 2;
    return {t[0].size(0), t[0].size(1), channels, (channels + lanes - 1) / lanes * lanes};
  }

  void check() const {
    const Tensor& q = t[0];
    require(q.dim() == 3 && q.size(1) > 0 && q.size(2) > 0 && q.size(2) % 2 == 0,
            "edge_attention: queries must be [atoms, heads, 2 * channels]");
    require(t[1].shape() == q.shape() && t[2].shape() == q.shape(),
            "edge_attention: queries, keys and values must have one shape");
    const int64_t edges = t[3].dim() == 2 ? t[3].size(0) : -1;
    require(edges >= 0 && t[3].size(1) == 3, "edge_attention: vectors must be [edges, 3]");
    require(t[4].shape() == std::vector<int64_t>{edges, q.size(1)}, "edge_attention: bias must be [edges, heads]");
    require(t[5].shape() == std::vector<int64_t>{q.size(1), q.size(2) / 2, 3},
            "edge_attention: frequencies must be [heads, channels, 3]");
    for (const Tensor& other : t) require(other.dtype() == q.dtype(), "edge_attention: all must have one precision");
  }
};

/// Takes the edges from the stack.
struct Graph {
  Tensor sender, offsets;

  explicit Graph(StableIValue* s) : sender(s[0]), offsets(s[1]) {}

  void check(int64_t atoms, int64_t edges) const {
    require(sender.dtype() == aoti_torch_dtype_int64() && offsets.dtype() == aoti_torch_dtype_int64(),
            "edge_attention: sender and offsets must be int64");
    require(sender.shape() == std::vector<int64_t>{edges} && offsets.shape() == std::vector<int64_t>{atoms + 1},
            "edge_attention: the edges do not fit the vectors and the atoms");
    check_offsets(offsets.data<int64_t>(), atoms, edges);
    const int64_t* j = sender.data<int64_t>();
    for (int64_t e = 0; e < edges; ++e) require(j[e] >= 0 && j[e] < atoms, "edge_attention: a sender is out of range");
  }
};

/// A problem of the kernels, and what it points to.
template <class T>
struct Problem {
  Attention<T> p{};
  Sizes sizes;
  std::vector<Input<T>> kept;
  std::vector<int64_t> bounds;

  Problem(const Inputs& in, const Graph& graph, const Inputs* direction = nullptr) : sizes(in.sizes<T>()) {
    p.atoms = sizes.atoms, p.edges = in.t[3].size(0);
    p.heads = narrow(sizes.heads), p.channels = narrow(sizes.filled);
    narrow(sizes.heads * sizes.filled * 3);
    p.dual = direction;
    p.sender = graph.sender.data<int64_t>(), p.offsets = graph.offsets.data<int64_t>();
    bounds = shares(p.offsets, p.atoms);
    kept.reserve(2 * kInputs);
    set(in, 0);
    if (direction) set(*direction, 1);
  }

  template <class Body>
  void over_shares(const Body& body) const {
    parallel(int64_t(bounds.size()) - 1, [&](int64_t s) { body(s, bounds[s], bounds[s + 1]); });
  }
  int64_t count() const { return int64_t(bounds.size()) - 1; }

 private:
  void set(const Inputs& in, int part) {
    const auto absent = [&](int i) { return part && in.t[i].numel() == 0; };
    const auto keep = [&](Input<T> input) -> const Input<T>& { return kept.emplace_back(std::move(input)); };
    Channels<const T>* heads[] = {&p.q, &p.k, &p.v};
    for (int i = 0; i < 3; ++i) {
      const Input<T>& found = keep(Input<T>::heads(in.t[i], sizes, !p.dual, absent(i)));
      heads[i]->part[part] = found.data, heads[i]->row = found.row;
    }
    p.vectors.part[part] = keep(Input<T>::plain(in.t[3], p.edges * 3, absent(3))).data;
    p.bias.part[part] = keep(Input<T>::plain(in.t[4], p.edges * sizes.heads, absent(4))).data;
    p.frequencies.part[part] = keep(Input<T>::frequencies(in.t[5], sizes, absent(5))).data;
  }
};

void edge_attention(StableIValue* stack, uint64_t, uint64_t) {
  const Inputs in(stack);
  const Graph graph(stack + kInputs);
  in.check();
  graph.check(in.t[0].size(0), in.t[3].size(0));
  for_dtype(in.t[0], [&](auto number) {
    using T = decltype(number);
    const Problem<T> problem(in, graph);
    const Sizes& s = problem.sizes;
    Output<T> out(s, in.t[0].dtype());
    Tensor lse({s.atoms, s.heads}, in.t[0].dtype());
    const Attended<T> to{{{out.data, nullptr}, s.heads * 2 * s.filled}, {{lse.data<T>(), nullptr}}};
    problem.over_shares([&](int64_t, int64_t begin, int64_t end) { MLIP_DISPATCH(attend, problem.p, begin, end, to); });
    stack[0] = out.release();
    stack[1] = lse.release();
  });
}

/// Adds the sums of all shares but the first, which lie one after the other, to those of the first.
template <class T>
void add_shares(T* first, const std::vector<T>& others, int64_t size) {
  const int64_t count = size > 0 ? int64_t(others.size()) / size : 0;
  parallel_shares(size, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t s = 0; s < count; ++s)
      for (int64_t i = begin; i < end; ++i) first[i] += others[s * size + i];
  });
}

/// Calculates the six derivatives, or their tangents, and puts them on the stack.
template <class T>
void differentiate(const Problem<T>& problem, const Inputs& in, AttentionGradients<T> d, int64_t which,
                   StableIValue* stack) {
  const Sizes& s = problem.sizes;
  const int32_t dtype = in.t[0].dtype();
  const bool atoms = which & kAtoms, frequencies = which & kFrequencies;
  const int64_t size = atoms ? s.numel() : 0, waves = frequencies ? s.heads * 3 * s.filled : 0;
  const int64_t others = problem.count() - 1;
  const auto shape = [&](int i) { return which & (1 << i) ? in.t[i].shape() : std::vector<int64_t>{0}; };
  const Sizes none{0, s.heads, s.channels, s.filled};
  std::vector<Output<T>> heads;
  for (int i = 0; i < 3; ++i) heads.emplace_back(atoms ? s : none, dtype, which & (1 << i));
  Tensor vectors(shape(3), dtype), bias(shape(4), dtype), w(shape(5), dtype);
  std::vector<T> more_k(size * others), more_v(size * others), by_w(waves), more_w(waves * others);
  std::fill_n(heads[1].data, size, T(0));
  std::fill_n(heads[2].data, size, T(0));
  d.vectors = which & kVectors ? vectors.data<T>() : nullptr;
  d.bias = which & kBias ? bias.data<T>() : nullptr;
  if (which & ~kGradient) problem.over_shares([&](int64_t share, int64_t begin, int64_t end) {
    AttentionGradients<T> mine = d;
    mine.q = atoms ? heads[0].data : nullptr;
    mine.k = share ? more_k.data() + (share - 1) * size : heads[1].data;
    mine.v = share ? more_v.data() + (share - 1) * size : heads[2].data;
    if (frequencies) mine.frequencies = share ? more_w.data() + (share - 1) * waves : by_w.data();
    MLIP_DISPATCH(attend_backward, problem.p, begin, end, mine);
  });
  add_shares(heads[1].data, more_k, size);
  add_shares(heads[2].data, more_v, size);
  add_shares(by_w.data(), more_w, waves);
  T* to = w.data<T>();
  for (int64_t h = 0; frequencies && h < s.heads; ++h)
    for (int64_t f = 0; f < s.channels; ++f)
      for (int64_t axis = 0; axis < 3; ++axis) *to++ = by_w[(h * 3 + axis) * s.filled + f];
  for (int i = 0; i < 3; ++i) stack[i] = heads[i].release();
  stack[3] = vectors.release();
  stack[4] = bias.release();
  stack[5] = w.release();
}

/// Checks a gradient of the result, or the result.
void check_result(const Tensor& g, const Inputs& in) {
  require(g.shape() == in.t[0].shape() && g.dtype() == in.t[0].dtype(),
          "edge_attention_backward: the gradient does not fit the queries");
}

void edge_attention_backward(StableIValue* stack, uint64_t, uint64_t) {
  const Inputs in(stack);
  const Tensor out(stack[6]), lse(stack[7]), g(stack[8]);
  const auto which = static_cast<int64_t>(stack[9]);
  const Graph graph(stack + 10);
  in.check();
  check_result(out, in);
  check_result(g, in);
  graph.check(in.t[0].size(0), in.t[3].size(0));
  require(lse.shape() == std::vector<int64_t>{in.t[0].size(0), in.t[0].size(1)} && lse.dtype() == out.dtype(),
          "edge_attention_backward: the logarithms do not fit the queries");
  for_dtype(in.t[0], [&](auto number) {
    using T = decltype(number);
    const Problem<T> problem(in, graph);
    const auto result = Input<T>::heads(out, problem.sizes, true), gradient = Input<T>::heads(g, problem.sizes, true);
    AttentionGradients<T> d{};
    d.g = {{gradient.data, nullptr}, gradient.row};
    d.out = {{result.data, nullptr}, result.row};
    d.lse = {{lse.data<T>(), nullptr}};
    differentiate(problem, in, d, which, stack);
  });
}

void edge_attention_double(StableIValue* stack, uint64_t, uint64_t) {
  const Inputs in(stack);
  const Tensor g(stack[6]);
  const Inputs direction(stack + 7);
  const auto which = static_cast<int64_t>(stack[13]);
  const Graph graph(stack + 14);
  in.check();
  check_result(g, in);
  graph.check(in.t[0].size(0), in.t[3].size(0));
  for (int i = 0; i < kInputs; ++i)
    require(direction.t[i].dtype() == in.t[i].dtype() &&
                (direction.t[i].numel() == 0 || direction.t[i].shape() == in.t[i].shape()),
            "edge_attention_double: a direction does not fit its tensor");
  for_dtype(in.t[0], [&](auto number) {
    using T = decltype(number);
    const Problem<T> problem(in, graph, &direction);
    const Sizes& s = problem.sizes;
    const int64_t row = s.heads * 2 * s.filled, logs = s.atoms * s.heads;
    Output<T> tangent(s, g.dtype(), which & kGradient);
    std::vector<T> out(s.numel()), lse(2 * logs);
    const Attended<T> to{{{out.data(), tangent.data}, row}, {{lse.data(), lse.data() + logs}}};
    problem.over_shares([&](int64_t, int64_t begin, int64_t end) { MLIP_DISPATCH(attend, problem.p, begin, end, to); });
    const auto gradient = Input<T>::heads(g, s, true);
    AttentionGradients<T> d{};
    d.g = {{gradient.data, nullptr}, gradient.row};
    d.out = {{out.data(), tangent.data}, row};
    d.lse = {{lse.data(), lse.data() + logs}};
    differentiate(problem, in, d, which, stack);
    stack[6] = tangent.release();
  });
}

#define MLIP_INPUTS "Tensor q, Tensor k, Tensor v, Tensor vectors, Tensor bias, Tensor frequencies, "
#define MLIP_GRAPH "Tensor sender, Tensor offsets)"

const Registration registration{
    {"edge_attention", "(" MLIP_INPUTS MLIP_GRAPH " -> (Tensor, Tensor)", edge_attention},
    {"edge_attention_backward",
     "(" MLIP_INPUTS "Tensor out, Tensor lse, Tensor g, int which, " MLIP_GRAPH
     " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
     edge_attention_backward},
    {"edge_attention_double",
     "(" MLIP_INPUTS "Tensor g, Tensor vq, Tensor vk, Tensor vv, Tensor vvectors, Tensor vbias, Tensor vfrequencies, "
     "int which, " MLIP_GRAPH " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
     edge_attention_double},
};

}  // namespace
}  // namespace mlip
