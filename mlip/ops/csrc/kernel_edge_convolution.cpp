// The loops of the edge convolution; see edge_convolution.hpp.
#include "edge_convolution.hpp"
#include "simd.hpp"

#include <algorithm>
#include <array>

namespace mlip::MLIP_ISA {

namespace {

constexpr int kL1 = 4, kL3 = 5;  // degrees 0..3 of features and 0..4 of messages are unrolled; others take a plain loop

/// What a loop over channels sees of up to kTile edges.
template <class T>
struct Tile {
  int count = 0;
  const T* h[kTile];
  const T* w[kTile];
  const T* g[kTile];
  std::vector<T> matrices, harmonics;  // [entry][edge]

  explicit Tile(const Convolution<T>& p)
      : matrices(static_cast<size_t>(p.matrices) * kTile), harmonics(static_cast<size_t>(p.harmonics) * kTile) {}

  /// Makes M of edges given by their rows of Y.
  void make_matrices(const Convolution<T>& p, const int64_t* edges) {
    for (int e = 0; e < kTile; ++e) {
      const T* y = p.y + edges[std::min(e, count - 1)] * p.harmonics;
      for (int k = 0; k < p.harmonics; ++k) harmonics[k * kTile + e] = y[k];
    }
    std::fill(matrices.begin(), matrices.end(), T(0));
    for (const Term& term : p.terms) {
      T* m = &matrices[term.matrix * kTile];
      const T* y = &harmonics[term.harmonic * kTile];
      const T coefficient = static_cast<T>(term.coefficient);
      for (int e = 0; e < kTile; ++e) m[e] += coefficient * y[e];
    }
  }

  /// Turns the derivatives by M of the edges, [entry][edge], into those by their rows of Y.
  void harmonics_from(const Convolution<T>& p, const T* dm, const int64_t* edges, T* dy) {
    std::fill(harmonics.begin(), harmonics.end(), T(0));
    for (const Term& term : p.terms) {
      const T* m = dm + term.matrix * kTile;
      T* y = &harmonics[term.harmonic * kTile];
      const T coefficient = static_cast<T>(term.coefficient);
      for (int e = 0; e < kTile; ++e) y[e] += coefficient * m[e];
    }
    for (int e = 0; e < count; ++e)
      for (int k = 0; k < p.harmonics; ++k) dy[edges[e] * p.harmonics + k] = harmonics[k * kTile + e];
  }
};

// ---- out ----------------------------------------------------------------------------------------------------------

template <class T, class V, int kL1_, int kL3_, int kWide>
inline void out_columns(const Tile<T>& tile, const Path& p, const T* matrix, int c, int channels, T* out) {
  constexpr int k1 = 2 * kL1_ + 1, k3 = 2 * kL3_ + 1, kLanes = lanes<V, T>;
  V sum[k3][kWide];
  for (int m3 = 0; m3 < k3; ++m3)
    for (int u = 0; u < kWide; ++u) sum[m3][u] = load<V>(out + m3 * p.stride + c + u * kLanes);
  for (int e = 0; e < tile.count; ++e) {
    const T* h = tile.h[e] + p.feature + c;
    const T* w = tile.w[e] + p.weight + c;
    V weight[kWide];
    for (int u = 0; u < kWide; ++u) weight[u] = load<V>(w + u * kLanes);
    for (int m1 = 0; m1 < k1; ++m1) {
      V product[kWide];
      for (int u = 0; u < kWide; ++u) product[u] = weight[u] * load<V>(h + m1 * channels + u * kLanes);
      for (int m3 = 0; m3 < k3; ++m3) {
        const T m = matrix[(m1 * k3 + m3) * kTile + e];
        for (int u = 0; u < kWide; ++u) sum[m3][u] += product[u] * m;
      }
    }
  }
  for (int m3 = 0; m3 < k3; ++m3)
    for (int u = 0; u < kWide; ++u) store(out + m3 * p.stride + c + u * kLanes, sum[m3][u]);
}

template <class T, int kL1_, int kL3_>
void out_path(const Tile<T>& tile, const Path& p, const T* matrix, int channels, T* out) {
  constexpr int kLanes = lanes<Vec<T>, T>, kWide = (2 * kL3_ + 2) * 2 + 2 <= kRegisters ? 2 : 1;
  int c = 0;
  for (; c + kWide * kLanes <= channels; c += kWide * kLanes)
    out_columns<T, Vec<T>, kL1_, kL3_, kWide>(tile, p, matrix, c, channels, out);
  for (; c + kLanes <= channels; c += kLanes) out_columns<T, Vec<T>, kL1_, kL3_, 1>(tile, p, matrix, c, channels, out);
  for (; c < channels; ++c) out_columns<T, T, kL1_, kL3_, 1>(tile, p, matrix, c, channels, out);
}

template <class T>
void out_any(const Tile<T>& tile, const Path& p, const T* matrix, int channels, T* out) {
  const int n1 = 2 * p.l1 + 1, n3 = 2 * p.l3 + 1;
  for (int e = 0; e < tile.count; ++e)
    for (int m1 = 0; m1 < n1; ++m1)
      for (int m3 = 0; m3 < n3; ++m3) {
        const T m = matrix[(m1 * n3 + m3) * kTile + e];
        const T* h = tile.h[e] + p.feature + m1 * channels;
        const T* w = tile.w[e] + p.weight;
        T* o = out + m3 * p.stride;
        for (int c = 0; c < channels; ++c) o[c] += m * h[c] * w[c];
      }
}

// ---- dh, dY and dw of one edge -------------------------------------------------------------------------------------

/// The derivative by M: sums over the channels. Those of one edge are vectors of partial sums until it is finished.
template <class T>
struct MatrixSums {
  std::vector<T> partial, rest, sums;  // [entry][lane] of whole vectors; [entry] of channels left; [entry][edge of tile]
  explicit MatrixSums(int matrices)
      : partial((matrices + lanes<Vec<T>, T>) * lanes<Vec<T>, T>),
        rest(matrices + lanes<Vec<T>, T>),
        sums((matrices + lanes<Vec<T>, T>) * kTile) {}

  void finish(int matrices, int edge) {
    constexpr int kLanes = lanes<Vec<T>, T>;
    for (int first = 0; first < matrices; first += kLanes) {
      Vec<T> v[kLanes];
      for (int i = 0; i < kLanes; ++i) v[i] = load<Vec<T>>(&partial[(first + i) * kLanes]);
      const Vec<T> sum = lane_sums<T>(v) + load<Vec<T>>(&rest[first]);
      for (int i = 0; i < kLanes; ++i) sums[(first + i) * kTile + edge] = sum[i];
    }
  }
};

/// The rows of one edge and one path; dh and dw are null where they are not wanted.
template <class T>
struct EdgeRows {
  const T *h, *w, *g, *matrix;
  T *dh, *dw;
  bool add;  // to dw; else it is overwritten
};

template <class T, class V, int kL1_, int kL3_, bool kY>
inline void backward_columns(const Path& p, const EdgeRows<T>& r, int begin, int end, int channels, T* sums,
                             int sums_stride) {
  // Some rows m1 at a time, so that their sums fit the registers.
  constexpr int k1 = 2 * kL1_ + 1, k3 = 2 * kL3_ + 1, kLanes = lanes<V, T>;
  constexpr int kFit = kY ? std::max(1, (kRegisters - 8) / k3) : k1, kGroup = kFit < k1 ? kFit : k1;
  for (int first = 0; first < k1; first += kGroup) {
    const int count = k1 % kGroup == 0 ? kGroup : std::min(kGroup, k1 - first);
    V sum[kGroup][k3];
    for (int i = 0; i < kGroup; ++i)
      for (int m3 = 0; m3 < k3; ++m3) sum[i][m3] = V{};
    for (int c = begin; c + kLanes <= end; c += kLanes) {
      const V weight = load<V>(r.w + c);
      V feature[kGroup], product[kGroup], inner[kGroup];
      for (int i = 0; i < kGroup; ++i) {
        feature[i] = i < count ? load<V>(r.h + (first + i) * channels + c) : V{};
        product[i] = weight * feature[i];
        inner[i] = V{};
      }
      for (int m3 = 0; m3 < k3; ++m3) {
        const V gradient = load<V>(r.g + m3 * p.stride + c);
        for (int i = 0; i < kGroup; ++i) {
          if (i < count) inner[i] += gradient * r.matrix[((first + i) * k3 + m3) * kTile];
          if constexpr (kY) sum[i][m3] += product[i] * gradient;
        }
      }
      V total = V{};
      for (int i = 0; i < kGroup; ++i) total += feature[i] * inner[i];
      if (r.dh)
        for (int i = 0; i < kGroup; ++i)
          if (i < count) {
            T* dh = r.dh + (first + i) * channels + c;
            store(dh, load<V>(dh) + weight * inner[i]);
          }
      if (r.dw) store(r.dw + c, r.add || first > 0 ? load<V>(r.dw + c) + total : total);
    }
    if constexpr (kY)
      for (int i = 0; i < kGroup; ++i)
        for (int m3 = 0; m3 < k3; ++m3)
          if (i < count) store(sums + ((first + i) * k3 + m3) * sums_stride, sum[i][m3]);
  }
}

template <class T, int kL1_, int kL3_, bool kY>
void backward_path(const Path& p, const EdgeRows<T>& rows, int channels, MatrixSums<T>& sums) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  const int whole = channels - channels % kLanes;
  if (whole)
    backward_columns<T, Vec<T>, kL1_, kL3_, kY>(p, rows, 0, whole, channels, &sums.partial[p.matrix * kLanes], kLanes);
  if (whole < channels)
    backward_columns<T, T, kL1_, kL3_, kY>(p, rows, whole, channels, channels, &sums.rest[p.matrix], 1);
}

template <class T, bool kY>
void backward_any(const Path& p, const EdgeRows<T>& r, int channels, MatrixSums<T>& sums) {
  const int n1 = 2 * p.l1 + 1, n3 = 2 * p.l3 + 1;
  if (r.dw && !r.add) std::fill(r.dw, r.dw + channels, T(0));
  for (int m1 = 0; m1 < n1; ++m1)
    for (int m3 = 0; m3 < n3; ++m3) {
      const T* h = r.h + m1 * channels;
      const T* g = r.g + m3 * p.stride;
      const T m = r.matrix[(m1 * n3 + m3) * kTile];
      T sum = 0;
      for (int c = 0; c < channels; ++c) {
        if (r.dh) r.dh[m1 * channels + c] += m * r.w[c] * g[c];
        if (r.dw) r.dw[c] += m * h[c] * g[c];
        if (kY) sum += r.w[c] * h[c] * g[c];
      }
      if (kY) sums.rest[p.matrix + m1 * n3 + m3] = sum;
    }
}

// ---- the unrolled loops by degrees --------------------------------------------------------------------------------

template <class T, template <class, int, int> class Loop, class F, int... I>
constexpr std::array<F, sizeof...(I)> table_of(std::integer_sequence<int, I...>) {
  return {Loop<T, I / kL3, I % kL3>::function()...};
}

template <class T>
using OutLoop = void (*)(const Tile<T>&, const Path&, const T*, int, T*);
template <class T>
using BackwardLoop = void (*)(const Path&, const EdgeRows<T>&, int, MatrixSums<T>&);

template <class T, int a, int b>
struct Out {
  static constexpr OutLoop<T> function() { return out_path<T, a, b>; }
};
template <bool kY>
struct Backward {
  template <class T, int a, int b>
  struct Loop {
    static constexpr BackwardLoop<T> function() { return backward_path<T, a, b, kY>; }
  };
};

template <class T, template <class, int, int> class Loop, class F>
F loop_for(const Path& p, F any) {
  static constexpr auto table = table_of<T, Loop, F>(std::make_integer_sequence<int, kL1 * kL3>());
  return p.l1 < kL1 && p.l3 < kL3 ? table[p.l1 * kL3 + p.l3] : any;
}

template <class T, template <class, int, int> class Loop, class F>
std::vector<F> loops_for(const Convolution<T>& p, F any) {
  std::vector<F> loops;
  for (const Path& path : p.paths) loops.push_back(loop_for<T, Loop, F>(path, any));
  return loops;
}

}  // namespace

template <class T>
void convolve(const Convolution<T>& p, int64_t begin, int64_t end, T* out) {
  Tile<T> tile(p);
  const auto loops = loops_for<T, Out, OutLoop<T>>(p, out_any<T>);
  const int64_t feature_row = int64_t(p.features) * p.channels;
  for (int64_t i = begin; i < end; ++i) {
    for (const Path& path : p.paths)
      for (int m3 = 0; m3 < 2 * path.l3 + 1; ++m3) {
        T* row = out + path.out + i * path.receiver_stride + m3 * path.stride;
        std::fill(row, row + p.channels, T(0));
      }
    for (int64_t first = p.offsets[i]; first < p.offsets[i + 1]; first += kTile) {
      tile.count = static_cast<int>(std::min<int64_t>(kTile, p.offsets[i + 1] - first));
      int64_t edges[kTile];
      for (int e = 0; e < tile.count; ++e) {
        edges[e] = first + e;
        tile.h[e] = p.h + p.sender[first + e] * feature_row;
        tile.w[e] = p.w + p.row[first + e] * p.weight_row;
      }
      tile.make_matrices(p, edges);
      for (size_t k = 0; k < loops.size(); ++k) {
        const Path& path = p.paths[k];
        loops[k](tile, path, &tile.matrices[path.matrix * kTile], p.channels, out + path.out + i * path.receiver_stride);
      }
    }
  }
}

namespace {

/// The edges of one receiver.
template <class T, bool kY>
void backward_receiver(const Convolution<T>& p, const std::vector<BackwardLoop<T>>& loops, Tile<T>& tile,
                       MatrixSums<T>& sums, int64_t receiver, const Gradients<T>& d) {
  const int64_t feature_row = int64_t(p.features) * p.channels;
  for (int64_t first = p.offsets[receiver], end = p.offsets[receiver + 1]; first < end;) {
    int64_t edges[kTile];
    tile.count = 0;
    for (; first < end && tile.count < kTile; ++first)
      if (d.action[first]) edges[tile.count++] = first;
    if (!tile.count) break;
    tile.make_matrices(p, edges);
    for (int e = 0; e < tile.count; ++e) {
      const int64_t edge = edges[e], h = p.sender[edge] * feature_row, w = p.row[edge] * p.weight_row;
      for (size_t k = 0; k < loops.size(); ++k) {
        const Path& path = p.paths[k];
        const EdgeRows<T> rows{p.h + h + path.feature,
                               p.w + w + path.weight,
                               p.g + path.out + receiver * path.receiver_stride,
                               &tile.matrices[path.matrix * kTile + e],
                               d.h ? d.h + h + path.feature : nullptr,
                               d.w ? d.w + w + path.weight : nullptr,
                               d.action[edge] == 2 || !path.first};
        loops[k](path, rows, p.channels, sums);
      }
      if constexpr (kY) sums.finish(p.matrices, e);
    }
    if constexpr (kY) tile.harmonics_from(p, sums.sums.data(), edges, d.y);
  }
}

template <class T, bool kY>
void backward_receivers(const Convolution<T>& p, int64_t begin, int64_t end, const Gradients<T>& d) {
  Tile<T> tile(p);
  MatrixSums<T> sums(p.matrices);
  const auto loops = loops_for<T, Backward<kY>::template Loop, BackwardLoop<T>>(p, backward_any<T, kY>);
  for (int64_t i = begin; i < end; ++i) backward_receiver<T, kY>(p, loops, tile, sums, i, d);
}

}  // namespace

template <class T>
void convolve_backward(const Convolution<T>& p, int64_t begin, int64_t end, const Gradients<T>& d) {
  if (d.y) backward_receivers<T, true>(p, begin, end, d);
  else backward_receivers<T, false>(p, begin, end, d);
}

#define INSTANTIATE(T)                                                            \
  template void convolve<T>(const Convolution<T>&, int64_t, int64_t, T*);         \
  template void convolve_backward<T>(const Convolution<T>&, int64_t, int64_t, const Gradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace mlip::MLIP_ISA
