// The loops of the spherical harmonics; see harmonics.hpp. Each lane is an edge.
#include "harmonics.hpp"
#include "simd.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace mlip::MLIP_ISA {

namespace {

/// A number and its derivative along the tangent.
template <class V>
struct Dual {
  V value, slope;
};
template <class V>
inline Dual<V> operator+(Dual<V> a, Dual<V> b) { return {a.value + b.value, a.slope + b.slope}; }
template <class V>
inline Dual<V> operator-(Dual<V> a, Dual<V> b) { return {a.value - b.value, a.slope - b.slope}; }
template <class V>
inline Dual<V> operator*(Dual<V> a, Dual<V> b) { return {a.value * b.value, a.value * b.slope + a.slope * b.value}; }
template <class V, class S>  // S: a constant for all edges, or one for each
inline Dual<V> operator*(S a, Dual<V> b) { return {a * b.value, a * b.slope}; }

template <class V, class T>
inline void set(V& a, T constant) { a = V{} + constant; }
template <class V, class T>
inline void set(Dual<V>& a, T constant) { a = {V{} + constant, V{}}; }

template <class V>
inline V result(V a) { return a; }
template <class V>
inline V result(Dual<V> a) { return a.slope; }

template <class T>
inline Vec<T> inverse_root(Vec<T> a) {
  for (int i = 0; i < lanes<Vec<T>, T>; ++i) a[i] = std::sqrt(a[i]);
  return T(1) / a;
}
template <class T>
inline Dual<Vec<T>> inverse_root(Dual<Vec<T>> a) {
  const Vec<T> root = inverse_root<T>(a.value);
  return {root, T(-0.5) * root * root * root * a.slope};
}

template <int kStep, int kLanes, class V, int... I>
inline void exchange(V& a, V& b, std::integer_sequence<int, I...>) {
  const V first = shuffle<(I & kStep ? kLanes + I - kStep : I)...>(a, b);
  b = shuffle<(I & kStep ? kLanes + I : I + kStep)...>(a, b);
  a = first;
}
template <int kStep, int kLanes, class V>
inline void transpose_steps(V* v) {
  if constexpr (kStep < kLanes) {
    for (int i = 0; i < kLanes; ++i)
      if (!(i & kStep)) exchange<kStep, kLanes>(v[i], v[i + kStep], std::make_integer_sequence<int, kLanes>());
    transpose_steps<2 * kStep, kLanes>(v);
  }
}

/// Copies a matrix [lanes, size] with a row for each edge to columns [size] of vectors with a lane for each edge.
template <class T>
void to_columns(const T* rows, int size, Vec<T>* columns) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  if (size < kLanes) {
    for (int i = 0; i < kLanes; ++i)
      for (int k = 0; k < size; ++k) columns[k][i] = rows[i * size + k];
    return;
  }
  for (int next = 0; next < size; next += kLanes) {
    const int k = std::min(next, size - kLanes);  // the last square may overlap the one before
    Vec<T> square[kLanes];
    for (int i = 0; i < kLanes; ++i) square[i] = load<Vec<T>>(rows + i * size + k);
    transpose_steps<1, kLanes>(square);
    for (int i = 0; i < kLanes; ++i) columns[k + i] = square[i];
  }
}

/// The inverse of to_columns.
template <class T>
void to_rows(const Vec<T>* columns, int size, T* rows) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  if (size < kLanes) {
    for (int i = 0; i < kLanes; ++i)
      for (int k = 0; k < size; ++k) rows[i * size + k] = columns[k][i];
    return;
  }
  for (int next = 0; next < size; next += kLanes) {
    const int k = std::min(next, size - kLanes);
    Vec<T> square[kLanes];
    for (int i = 0; i < kLanes; ++i) square[i] = columns[k + i];
    transpose_steps<1, kLanes>(square);
    for (int i = 0; i < kLanes; ++i) store(rows + i * size + k, square[i]);
  }
}

/// As many edges as there are lanes, in numbers N: plain vectors, or dual ones where there are tangents.
template <class T, class N>
class Block {
 public:
  explicit Block(const Harmonics<T>& p)
      : p_(p), legendre_(p.rise.size()), cosine_(p.lmax + 1), sine_(p.lmax + 1), columns_(std::max(p.size(), 3)),
        rows_(columns_.size() * kLanes) {}

  void harmonics(int64_t first, int count, T* out) {
    polynomials(first, count);
    for (int m = 0; m <= p_.lmax; ++m)
      for (int l = m; l <= p_.lmax; ++l) {
        const N n = legendre_[p_.place(l, m)];
        columns_[l * l + l + m] = result(n * cosine_[m]);
        if (m > 0) columns_[l * l + l - m] = result(n * sine_[m]);
      }
    put(first, count, p_.size(), out);
  }

  void backward(int64_t first, int count, T* out) {
    polynomials(first, count);
    take(p_.g, first, count, p_.size());
    N x{}, y{}, z{};
    for (int l = 1; l <= p_.lmax; ++l) y = y + columns_[l * l + l] * slope(l, 0);
    for (int m = 1; m <= p_.lmax; ++m) {
      N even{}, odd{}, even_y{}, odd_y{};  // sums of the components m and -m, and their derivatives by y
      for (int l = m; l <= p_.lmax; ++l) {
        const V plus = columns_[l * l + l + m], minus = columns_[l * l + l - m];
        const N n = legendre_[p_.place(l, m)];
        even = even + plus * n;
        odd = odd + minus * n;
        if (l == m) continue;
        even_y = even_y + plus * slope(l, m);
        odd_y = odd_y + minus * slope(l, m);
      }
      x = x + T(m) * (odd * cosine_[m - 1] - even * sine_[m - 1]);
      y = y + even_y * cosine_[m] + odd_y * sine_[m];
      z = z + T(m) * (even * cosine_[m - 1] + odd * sine_[m - 1]);
    }
    const N radial = x * x_ + y * y_ + z * z_;  // what moves along the vector does not count
    columns_[0] = result(inverse_ * (x - radial * x_));
    columns_[1] = result(inverse_ * (y - radial * y_));
    columns_[2] = result(inverse_ * (z - radial * z_));
    put(first, count, 3, out);
  }

 private:
  using V = Vec<T>;
  static constexpr int kLanes = lanes<V, T>;

  N slope(int l, int m) const { return p_.slope[p_.place(l, m)] * legendre_[p_.place(l, m + 1)]; }

  void polynomials(int64_t first, int count) {
    place_directions(first, count);
    set(cosine_[0], T(1));
    set(sine_[0], T(0));
    for (int m = 0; m < p_.lmax; ++m) {
      cosine_[m + 1] = z_ * cosine_[m] - x_ * sine_[m];
      sine_[m + 1] = z_ * sine_[m] + x_ * cosine_[m];
    }
    for (int m = 0; m <= p_.lmax; ++m) {
      N* n = &legendre_[p_.place(0, m)];
      const T *rise = &p_.rise[p_.place(0, m)], *fall = &p_.fall[p_.place(0, m)];
      set(n[m], rise[m]);
      if (m < p_.lmax) n[m + 1] = rise[m + 1] * (y_ * n[m]);
      for (int l = m + 2; l <= p_.lmax; ++l) n[l] = rise[l] * (y_ * n[l - 1] - fall[l] * n[l - 2]);
    }
  }

  void place_directions(int64_t first, int count) {
    take(p_.vectors, first, count, 3);
    V r[3] = {columns_[0], columns_[1], columns_[2]};
    if constexpr (std::is_same_v<N, V>) {
      x_ = r[0], y_ = r[1], z_ = r[2];
    } else {
      take(p_.tangents, first, count, 3);
      x_ = {r[0], columns_[0]}, y_ = {r[1], columns_[1]}, z_ = {r[2], columns_[2]};
    }
    inverse_ = inverse_root<T>(x_ * x_ + y_ * y_ + z_ * z_);
    x_ = inverse_ * x_, y_ = inverse_ * y_, z_ = inverse_ * z_;
  }

  /// Reads rows of `size` to columns_; edges that are missing in the last block are copies of the last one.
  void take(const T* from, int64_t first, int count, int size) {
    const T* rows = from + first * size;
    if (count < kLanes) {
      for (int i = 0; i < kLanes; ++i)
        std::copy_n(rows + std::min(i, count - 1) * size, size, &rows_[size_t(i) * size]);
      rows = rows_.data();
    }
    to_columns<T>(rows, size, columns_.data());
  }

  void put(int64_t first, int count, int size, T* out) {
    if (count == kLanes) {
      to_rows<T>(columns_.data(), size, out + first * size);
    } else {
      to_rows<T>(columns_.data(), size, rows_.data());
      std::copy_n(rows_.data(), count * size, out + first * size);
    }
  }

  const Harmonics<T>& p_;
  N x_, y_, z_, inverse_;  // the direction; one by the length
  std::vector<N> legendre_, cosine_, sine_;
  std::vector<V> columns_;  // of what is read or written
  std::vector<T> rows_;
};

template <class T, class N, class Body>
void over_blocks(const Harmonics<T>& p, int64_t begin, int64_t end, const Body& body) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  Block<T, N> block(p);
  for (int64_t first = begin; first < end; first += kLanes)
    body(block, first, static_cast<int>(std::min<int64_t>(kLanes, end - first)));
}

/// Calls body with blocks of numbers that fit the question: whether there are tangents.
template <class T, class Body>
void over_edges(const Harmonics<T>& p, int64_t begin, int64_t end, const Body& body) {
  if (p.tangents) over_blocks<T, Dual<Vec<T>>>(p, begin, end, body);
  else over_blocks<T, Vec<T>>(p, begin, end, body);
}

}  // namespace

template <class T>
void harmonics(const Harmonics<T>& p, int64_t begin, int64_t end, T* out) {
  over_edges(p, begin, end, [&](auto& block, int64_t first, int count) { block.harmonics(first, count, out); });
}

template <class T>
void harmonics_backward(const Harmonics<T>& p, int64_t begin, int64_t end, T* out) {
  over_edges(p, begin, end, [&](auto& block, int64_t first, int count) { block.backward(first, count, out); });
}

#define INSTANTIATE(T)                                                         \
  template void harmonics<T>(const Harmonics<T>&, int64_t, int64_t, T*);       \
  template void harmonics_backward<T>(const Harmonics<T>&, int64_t, int64_t, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace mlip::MLIP_ISA
