// Loops over channels that both directions of the rotations share, by degrees.
#pragma once

#include "edge_rotation.hpp"
#include "simd.hpp"

#include <algorithm>
#include <array>

namespace mlip::MLIP_ISA {

constexpr int kDegreesUnrolled = 7;  // degrees 0..6
constexpr int kAny = -1;             // as a degree: known at run time only

template <int kL>
constexpr int kMostColumns = 2 * (kL == kAny ? kMostDegrees : kL) + 1;

template <int kL>
inline int columns_of(const Block& b) {
  return kL == kAny ? b.columns : 2 * kL + 1;
}

/// Calls body(c, V()) for whole vectors of the channels first..last-1, then body(c, T()) for those that are left.
template <class T, class Body>
inline void over_range(int64_t first, int64_t last, const Body& body) {
  int64_t c = first;
  for (; c + lanes<Vec<T>, T> <= last; c += lanes<Vec<T>, T>) body(c, Vec<T>());
  for (; c < last; ++c) body(c, T());
}

/// Rows that enter the derivative by a matrix: D[r, m] += sum over c of w[c] g[place[r], c] x[m, c], times the scale.
template <class T>
struct Outer {
  const T *x, *g, *w;
  int64_t x_stride, g_stride;
  T scale;
};

/// The derivative by the matrix of one edge: vectors of partial sums until the edge is finished.
template <class T>
class EntrySums {
 public:
  static constexpr int kLanes = lanes<Vec<T>, T>;

  explicit EntrySums(int entries)
      : entries_(entries), partial_((entries + kLanes) * kLanes), rest_(entries + kLanes) {}

  /// Takes the sums of a block over the channels first..last-1 of one or two outer products.
  template <int kL>
  void add(const Block& b, const Outer<T>* outer, int count, int64_t first, int64_t last) {
    const int64_t whole = first + (last - first) / kLanes * kLanes;
    rows<Vec<T>, kL>(b, outer, count, first, whole, &partial_[b.entry * kLanes]);
    if (whole < last) rows<T, kL>(b, outer, count, whole, last, &rest_[b.entry]);
  }

  /// Writes the sums over channels.
  void finish(T* out) const {
    for (int first = 0; first < entries_; first += kLanes) {
      Vec<T> v[kLanes];
      for (int i = 0; i < kLanes; ++i) v[i] = load<Vec<T>>(&partial_[(first + i) * kLanes]);
      const Vec<T> sum = lane_sums<T>(v) + load<Vec<T>>(&rest_[first]);
      if (first + kLanes <= entries_) store(out + first, sum);
      else for (int i = 0; first + i < entries_; ++i) out[first + i] = sum[i];
    }
  }

 private:
  /// Some rows of the block at a time, so that their sums fit the registers.
  template <class V, int kL>
  static void rows(const Block& b, const Outer<T>* outer, int count, int64_t first, int64_t last, T* sums) {
    constexpr int kGroup = kL == kAny ? 1 : std::clamp((kRegisters - 5) / kMostColumns<kL>, 1, 5);
    const int number = static_cast<int>(b.place.size());
    int r = 0;
    for (; r + kGroup <= number; r += kGroup) group<V, kL, kGroup>(b, r, outer, count, first, last, sums);
    remaining<V, kL, kGroup - 1>(b, r, number - r, outer, count, first, last, sums);
  }

  template <class V, int kL, int kGroup>
  static void remaining(const Block& b, int r, int left, const Outer<T>* outer, int count, int64_t first, int64_t last,
                        T* sums) {
    if constexpr (kGroup > 0) {
      if (left == kGroup) group<V, kL, kGroup>(b, r, outer, count, first, last, sums);
      else remaining<V, kL, kGroup - 1>(b, r, left, outer, count, first, last, sums);
    }
  }

  template <class V, int kL, int kGroup>
  static void group(const Block& b, int r, const Outer<T>* outer, int count, int64_t first, int64_t last, T* sums) {
    const int n = columns_of<kL>(b);
    constexpr int kStep = lanes<V, T>;
    V sum[kGroup][kMostColumns<kL>];
    for (int i = 0; i < kGroup; ++i)
      for (int m = 0; m < n; ++m) sum[i][m] = V{};
    for (int k = 0; k < count; ++k) {
      const Outer<T>& o = outer[k];
      for (int64_t c = first; c < last; c += kStep) {
        const V w = load<V>(o.w + c) * o.scale;
        V g[kGroup];
        for (int i = 0; i < kGroup; ++i) g[i] = w * load<V>(o.g + b.place[r + i] * o.g_stride + c);
        for (int m = 0; m < n; ++m) {
          const V x = load<V>(o.x + m * o.x_stride + c);
          for (int i = 0; i < kGroup; ++i) sum[i][m] += g[i] * x;
        }
      }
    }
    for (int i = 0; i < kGroup; ++i)
      for (int m = 0; m < n; ++m) store(sums + ((r + i) * n + m) * kStep, sum[i][m]);
  }

  int entries_;
  std::vector<T> partial_, rest_;  // [entry][lane] of whole vectors; [entry] of channels left
};

/// The function that Loop<T, l>::run is for the degree of each block.
template <class F, class T, template <class, int> class Loop, int... l>
F loop_for(int degree, std::integer_sequence<int, l...>) {
  static constexpr std::array<F, sizeof...(l)> table{Loop<T, l>::run...};
  return degree < kDegreesUnrolled ? table[degree] : Loop<T, kAny>::run;
}

template <class F, class T, template <class, int> class Loop>
std::vector<F> loops_for(const Frame& frame) {
  std::vector<F> loops;
  for (const Block& b : frame.blocks)
    loops.push_back(loop_for<F, T, Loop>(b.l, std::make_integer_sequence<int, kDegreesUnrolled>()));
  return loops;
}

}  // namespace mlip::MLIP_ISA
