// The loops of the rotation to edges; see edge_rotation.hpp.
#include "rotation_blocks.hpp"

namespace mlip::MLIP_ISA {

namespace {

// ---- out -----------------------------------------------------------------------------------------------------------

/// The rows of one edge and degree.
template <class T>
struct Inputs {
  const T *sender, *receiver, *matrix, *radial;
};

template <class T, class V, int kL>
inline void out_columns(const Block& b, const Inputs<T>& e, int64_t c, int64_t channels, T* out) {
  const int n = columns_of<kL>(b), rows = static_cast<int>(b.place.size());
  V x[kMostColumns<kL>], y[kMostColumns<kL>];
  for (int m = 0; m < n; ++m) {
    x[m] = load<V>(e.sender + m * channels + c);
    y[m] = load<V>(e.receiver + m * channels + c);
  }
  const V u = load<V>(e.radial + c), v = load<V>(e.radial + channels + c);
  for (int r = 0; r < rows; ++r) {
    const T* d = e.matrix + r * n;
    V s = x[0] * d[0], t = y[0] * d[0];
    for (int m = 1; m < n; ++m) {
      s += x[m] * d[m];
      t += y[m] * d[m];
    }
    T* o = out + b.place[r] * 2 * channels + c;
    store(o, s * u);
    store(o + channels, t * v);
  }
}

template <class T>
using OutLoop = void (*)(const Block&, const Inputs<T>&, int64_t, T*);

template <class T, int kL>
struct Out {
  static void run(const Block& b, const Inputs<T>& e, int64_t channels, T* out) {
    over_range<T>(0, channels, [&](int64_t c, auto v) { out_columns<T, decltype(v), kL>(b, e, c, channels, out); });
  }
};

// ---- dx, dD and dR -------------------------------------------------------------------------------------------------

/// The rows of one edge, one degree and one of its atoms; dx and dradial are null where they are not wanted.
template <class T>
struct Half {
  const T *x, *g, *radial;
  T *dx, *dradial;
};

template <class T>
struct Backward {
  const T* matrix;
  Half<T> half[2];
  int64_t channels, first, last;  // of x; those of this thread
  bool add;                       // to dradial; else it is overwritten
  EntrySums<T>* sums;             // null where it is not wanted
};

template <class T, class V, int kL>
inline void backward_columns(const Block& b, const Backward<T>& e, const Half<T>& h, int64_t c) {
  const int n = columns_of<kL>(b), rows = static_cast<int>(b.place.size());
  V t[kMostColumns<kL>];  // D^T g
  for (int m = 0; m < n; ++m) t[m] = V{};
  for (int r = 0; r < rows; ++r) {
    const V g = load<V>(h.g + b.place[r] * 2 * e.channels + c);
    for (int m = 0; m < n; ++m) t[m] += g * e.matrix[r * n + m];
  }
  if (h.dradial) {
    V sum = V{};
    for (int m = 0; m < n; ++m) sum += t[m] * load<V>(h.x + m * e.channels + c);
    store(h.dradial + c, e.add ? load<V>(h.dradial + c) + sum : sum);
  }
  if (h.dx) {
    const V w = load<V>(h.radial + c);
    for (int m = 0; m < n; ++m) {
      T* dx = h.dx + m * e.channels + c;
      store(dx, load<V>(dx) + w * t[m]);
    }
  }
}

template <class T>
using BackwardLoop = void (*)(const Block&, const Backward<T>&);

template <class T, int kL>
struct BackwardBlock {
  static void run(const Block& b, const Backward<T>& e) {
    if (e.half[0].dx || e.half[0].dradial)
      for (const Half<T>& h : e.half)
        over_range<T>(e.first, e.last,
                      [&](int64_t c, auto v) { backward_columns<T, decltype(v), kL>(b, e, h, c); });
    if (!e.sums) return;
    Outer<T> outer[2];
    for (int k = 0; k < 2; ++k)
      outer[k] = {e.half[k].x, e.half[k].g, e.half[k].radial, e.channels, 2 * e.channels, T(1)};
    e.sums->template add<kL>(b, outer, 2, e.first, e.last);
  }
};

}  // namespace

template <class T>
void to_edges(const ToEdges<T>& p, int64_t begin, int64_t end, T* out) {
  const Frame& f = *p.frame;
  const auto loops = loops_for<OutLoop<T>, T, Out>(f);
  const int64_t atom = f.components * p.channels, edge = f.kept * 2 * p.channels, channels = p.channels;
  const int64_t radial = int64_t(loops.size()) * 2 * channels;
  for (int64_t e = begin; e < end; ++e)
    for (size_t k = 0; k < loops.size(); ++k) {
      const Block& b = f.blocks[k];
      const int64_t first = b.component * channels;
      const Inputs<T> inputs{p.x + p.sender[e] * atom + first, p.x + p.receiver[e] * atom + first,
                             p.wigner + e * f.entries + b.entry, p.radial + p.row[e] * radial + b.l * 2 * channels};
      loops[k](b, inputs, channels, out + e * edge);
    }
}

/// All edges, the channels first..last-1 of senders and of receivers.
template <class T>
void to_edges_backward(const ToEdges<T>& p, int64_t first, int64_t last, const ToEdgesGradients<T>& d) {
  const Frame& f = *p.frame;
  const auto loops = loops_for<BackwardLoop<T>, T, BackwardBlock>(f);
  const int64_t atom = f.components * p.channels, edge = f.kept * 2 * p.channels, channels = p.channels;
  const int64_t radial = int64_t(loops.size()) * 2 * channels;
  EntrySums<T> sums(f.entries);
  for (int64_t e = 0; e < p.edges; ++e) {
    const int64_t atoms[2] = {p.sender[e] * atom, p.receiver[e] * atom};
    const int64_t row = p.row[e] * radial, drow = d.by_row ? row : e * radial;
    for (size_t k = 0; k < loops.size(); ++k) {
      const Block& b = f.blocks[k];
      Backward<T> inputs{p.wigner + e * f.entries + b.entry, {}, channels, first, last, d.by_row,
                         d.wigner ? &sums : nullptr};
      for (int h = 0; h < 2; ++h) {
        const int64_t x = atoms[h] + b.component * channels, side = b.l * 2 * channels + h * channels;
        inputs.half[h] = {p.x + x, p.g + e * edge + h * channels, p.radial + row + side, d.x ? d.x + x : nullptr,
                          d.radial ? d.radial + drow + side : nullptr};
      }
      loops[k](b, inputs);
    }
    if (d.wigner) sums.finish(d.wigner + e * f.entries);
  }
}

#define INSTANTIATE(T)                                                   \
  template void to_edges<T>(const ToEdges<T>&, int64_t, int64_t, T*);    \
  template void to_edges_backward<T>(const ToEdges<T>&, int64_t, int64_t, const ToEdgesGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace mlip::MLIP_ISA
