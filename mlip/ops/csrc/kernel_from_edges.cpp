// The loops of the rotation from edges; see edge_rotation.hpp.
#include "rotation_blocks.hpp"

namespace mlip::MLIP_ISA {

namespace {

constexpr int kEdges = 4;  // whose values are added while sums stay in registers

/// Copies the weight of each head to its channels.
template <class T>
void spread(const T* weights, int64_t heads, int64_t channels, T* out) {
  const int64_t size = channels / heads;
  for (int64_t h = 0; h < heads; ++h) std::fill(out + h * size, out + (h + 1) * size, weights[h]);
}

// ---- out -----------------------------------------------------------------------------------------------------------

/// Some edges of one receiver.
template <class T>
struct Group {
  int count;
  bool first;              // of their receiver: out is overwritten, else added to
  const T* values[kEdges];
  const T* matrix[kEdges];
  const T* weights;        // [edge][channel]
  int64_t channels;
  T* out;
};

template <class T, class V, int kL>
inline void out_columns(const Block& b, const Group<T>& e, int64_t c) {
  const int n = columns_of<kL>(b), rows = static_cast<int>(b.place.size());
  T* out = e.out + b.component * e.channels + c;
  V sum[kMostColumns<kL>];
  for (int m = 0; m < n; ++m) sum[m] = e.first ? V{} : load<V>(out + m * e.channels);
  for (int k = 0; k < e.count; ++k) {
    const T *values = e.values[k] + c, *d = e.matrix[k] + b.entry;
    const V w = load<V>(e.weights + k * e.channels + c) * T(b.scale);
    for (int r = 0; r < rows; ++r) {
      const V v = w * load<V>(values + b.place[r] * e.channels);
      for (int m = 0; m < n; ++m) sum[m] += v * d[r * n + m];
    }
  }
  for (int m = 0; m < n; ++m) store(out + m * e.channels, sum[m]);
}

template <class T>
using OutLoop = void (*)(const Block&, const Group<T>&);

template <class T, int kL>
struct Out {
  static void run(const Block& b, const Group<T>& e) {
    over_range<T>(0, e.channels, [&](int64_t c, auto v) { out_columns<T, decltype(v), kL>(b, e, c); });
  }
};

// ---- dv, dD and da of one edge -------------------------------------------------------------------------------------

template <class T>
struct Backward {
  const T *g, *values, *matrix, *weights;  // weights and dweights: [channel]
  T *dvalues, *dweights;                   // null where they are not wanted
  EntrySums<T>* sums;
  int64_t channels;
};

template <class T, class V, int kL>
inline void backward_columns(const Block& b, const Backward<T>& e, int64_t c) {
  const int n = columns_of<kL>(b), rows = static_cast<int>(b.place.size());
  V g[kMostColumns<kL>];
  for (int m = 0; m < n; ++m) g[m] = load<V>(e.g + (b.component + m) * e.channels + c);
  const V w = load<V>(e.weights + c) * T(b.scale);
  V sum = V{};
  for (int r = 0; r < rows; ++r) {
    const T* d = e.matrix + b.entry + r * n;
    const int64_t place = b.place[r] * e.channels + c;
    V t = g[0] * d[0];
    for (int m = 1; m < n; ++m) t += g[m] * d[m];
    if (e.dweights) sum += t * load<V>(e.values + place);
    if (e.dvalues) store(e.dvalues + place, t * w);
  }
  if (e.dweights) {
    sum *= T(b.scale);
    store(e.dweights + c, b.l == 0 ? sum : load<V>(e.dweights + c) + sum);
  }
}

template <class T>
using BackwardLoop = void (*)(const Block&, const Backward<T>&);

template <class T, int kL>
struct BackwardBlock {
  static void run(const Block& b, const Backward<T>& e) {
    if (e.dvalues || e.dweights)
      over_range<T>(0, e.channels, [&](int64_t c, auto v) { backward_columns<T, decltype(v), kL>(b, e, c); });
    if (!e.sums) return;
    const Outer<T> outer{e.g + b.component * e.channels, e.values, e.weights, e.channels, e.channels, T(b.scale)};
    e.sums->template add<kL>(b, &outer, 1, 0, e.channels);
  }
};

}  // namespace

template <class T>
void from_edges(const FromEdges<T>& p, int64_t begin, int64_t end, T* out) {
  const Frame& f = *p.frame;
  const auto loops = loops_for<OutLoop<T>, T, Out>(f);
  const int64_t atom = f.components * p.channels;
  std::vector<T> weights(kEdges * p.channels);
  Group<T> group{};
  group.channels = p.channels, group.weights = weights.data();
  for (int64_t i = begin; i < end; ++i) {
    group.out = out + i * atom;
    if (p.offsets[i] == p.offsets[i + 1]) std::fill(group.out, group.out + atom, T(0));
    for (int64_t first = p.offsets[i]; first < p.offsets[i + 1]; first += kEdges) {
      group.first = first == p.offsets[i];
      group.count = static_cast<int>(std::min<int64_t>(kEdges, p.offsets[i + 1] - first));
      for (int k = 0; k < group.count; ++k) {
        group.values[k] = p.values + (first + k) * f.kept * p.channels;
        group.matrix[k] = p.wigner + (first + k) * f.entries;
        spread(p.weights + (first + k) * p.heads, p.heads, p.channels, &weights[k * p.channels]);
      }
      for (size_t k = 0; k < loops.size(); ++k) loops[k](f.blocks[k], group);
    }
  }
}

/// The edges begin..end-1.
template <class T>
void from_edges_backward(const FromEdges<T>& p, int64_t begin, int64_t end, const FromEdgesGradients<T>& d) {
  const Frame& f = *p.frame;
  const auto loops = loops_for<BackwardLoop<T>, T, BackwardBlock>(f);
  const int64_t atom = f.components * p.channels, edge = f.kept * p.channels, size = p.channels / p.heads;
  EntrySums<T> sums(f.entries);
  std::vector<T> weights(p.channels), dweights(p.channels);
  int64_t i = std::upper_bound(p.offsets, p.offsets + p.receivers + 1, begin) - p.offsets - 1;
  for (int64_t e = begin; e < end; ++e) {
    while (p.offsets[i + 1] <= e) ++i;
    spread(p.weights + e * p.heads, p.heads, p.channels, weights.data());
    const Backward<T> inputs{p.g + i * atom,
                             p.values + e * edge,
                             p.wigner + e * f.entries,
                             weights.data(),
                             d.values ? d.values + e * edge : nullptr,
                             d.weights ? dweights.data() : nullptr,
                             d.wigner ? &sums : nullptr,
                             p.channels};
    for (size_t k = 0; k < loops.size(); ++k) loops[k](f.blocks[k], inputs);
    if (d.wigner) sums.finish(d.wigner + e * f.entries);
    for (int64_t h = 0; d.weights && h < p.heads; ++h) {
      T sum = 0;
      for (int64_t c = h * size; c < (h + 1) * size; ++c) sum += dweights[c];
      d.weights[e * p.heads + h] = sum;
    }
  }
}

#define INSTANTIATE(T)                                                     \
  template void from_edges<T>(const FromEdges<T>&, int64_t, int64_t, T*);  \
  template void from_edges_backward<T>(const FromEdges<T>&, int64_t, int64_t, const FromEdgesGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace mlip::MLIP_ISA
