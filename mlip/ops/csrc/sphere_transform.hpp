// From coefficients to values on points of the sphere and back, for blocks of columns.
//
// Points come as representatives under the reflections of the three axes, and every component is even or odd under
// each (its class, three bits). The values on all images of a representative are sums of its eight class sums with
// signs, made by butterflies. So the matrices are needed for the representatives only, and each falls apart into one
// for each class: an eighth of the multiplications. Of a representative with coordinates 0 there are fewer images and
// classes.
#pragma once

#include "columns.hpp"

#include <array>
#include <type_traits>
#include <utility>
#include <vector>

namespace mlip::MLIP_ISA {

constexpr int kPanel = kRegisters == 32 ? 14 : 6;  // rows of a matrix at a time: their sums fit the registers
constexpr int kPoints = 96;                        // points at a time: their values fit the first cache

/// What becomes of matrix times columns.
enum class Into { set, add };

/// Calls body(0), ..., body(kCount - 1) with constants, so that what they index can stay in registers from the start.
template <class Body, int... I>
[[gnu::always_inline]] inline void unrolled(std::integer_sequence<int, I...>, const Body& body) {
  (body(std::integral_constant<int, I>()), ...);
}
template <int kCount, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  unrolled(std::make_integer_sequence<int, kCount>(), body);
}

/// Multiplies a panel [inner][kRows] by `in` [inner][columns].
template <class T, int kRows, Into kInto>
void multiply_panel(const T* panel, const T* in, int inner, T* out) {
  using V = Vec<T>;
  constexpr int kLanes = lanes<V, T>;
  V sum[kRows * kWide];
  unrolled<kRows * kWide>([&](auto k) { sum[k] = kInto == Into::add ? load<V>(out + k * kLanes) : V{}; });
  for (int i = 0; i < inner; ++i, panel += kRows, in += kColumns<T>) {
    V column[kWide];
    unrolled<kWide>([&](auto u) { column[u] = load<V>(in + u * kLanes); });
    unrolled<kRows * kWide>([&](auto k) { sum[k] += panel[k / kWide] * column[k % kWide]; });
  }
  unrolled<kRows * kWide>([&](auto k) { store(out + k * kLanes, sum[k]); });
}

template <class T>
using MultiplyPanel = void (*)(const T*, const T*, int, T*);
template <class T, Into kInto, int... I>
constexpr std::array<MultiplyPanel<T>, sizeof...(I)> panel_loops(std::integer_sequence<int, I...>) {
  return {multiply_panel<T, I + 1, kInto>...};
}

/// Returns where a part begins if `total` things are divided into about equal parts.
inline int first_of(int total, int part, int parts) { return static_cast<int>(int64_t(total) * part / parts); }

/// A matrix [rows, inner] in panels of about equal numbers of rows.
template <class T>
class Panels {
 public:
  template <class Entry>
  Panels(int rows, int inner, const Entry& entry) : rows_(rows), inner_(inner), values_(size_t(rows) * inner) {
    for (int k = 0; k < count(); ++k) {
      T* panel = values_.data() + size_t(first(k)) * inner;
      for (int i = 0; i < inner; ++i)
        for (int r = first(k); r < first(k + 1); ++r) *panel++ = entry(r, i);
    }
  }

  template <Into kInto>
  void apply(const T* in, T* out) const {
    static constexpr auto loops = panel_loops<T, kInto>(std::make_integer_sequence<int, kPanel>());
    for (int k = 0; k < count(); ++k)
      loops[first(k + 1) - first(k) - 1](values_.data() + size_t(first(k)) * inner_, in, inner_,
                                         out + first(k) * kColumns<T>);
  }

 private:
  int count() const { return (rows_ + kPanel - 1) / kPanel; }
  int first(int panel) const { return first_of(rows_, panel, count()); }

  int rows_, inner_;
  std::vector<T> values_;
};

/// The components of a signal in the order of a block: class by class.
struct Order {
  std::vector<int> place;        // row in the block of each component
  std::vector<int> component;    // the other way round
  std::array<int, 9> first{};    // row at which each class begins

  Order(const int64_t* parity, int rows) : place(rows), component(rows) {
    for (int i = 0; i < rows; ++i) ++first[parity[i] + 1];
    for (int c = 0; c < 8; ++c) first[c + 1] += first[c];
    std::array<int, 9> next = first;
    for (int i = 0; i < rows; ++i) component[place[i] = next[parity[i]]++] = i;
  }

  int rows() const { return static_cast<int>(place.size()); }
  int count(int parity) const { return first[parity + 1] - first[parity]; }
};

/// Some representatives with the same coordinates 0.
struct Representatives {
  std::vector<int> rows;     // of the matrices
  std::vector<int> classes;  // that do not vanish there; the image q is a reflection of the axes in classes[q]

  int axes() const { return classes.size() == 8 ? 3 : classes.size() == 4 ? 2 : classes.size() == 2 ? 1 : 0; }
  int reps() const { return static_cast<int>(rows.size()); }
  int points() const { return static_cast<int>(rows.size() * classes.size()); }
};

/// Returns all representatives in groups of at most kPoints points.
inline std::vector<Representatives> chunks_of(const int64_t* zero, int count) {
  std::vector<Representatives> out;
  for (int mask = 0; mask < 8; ++mask) {
    Representatives all;
    for (int r = 0; r < count; ++r)
      if (zero[r] == mask) all.rows.push_back(r);
    for (int c = 0; c < 8; ++c)
      if (!(c & mask)) all.classes.push_back(c);
    const int parts = (all.points() + kPoints - 1) / kPoints;
    for (int k = 0; k < parts; ++k)
      out.push_back({{all.rows.begin() + first_of(all.reps(), k, parts),
                      all.rows.begin() + first_of(all.reps(), k + 1, parts)}, all.classes});
  }
  return out;
}

/// A matrix [representatives, components] for some representatives, in both directions. On points, values stand as
/// [class, later image][representative][columns].
template <class T>
class PointMatrix {
 public:
  PointMatrix(const T* matrix, const Order& order, const Representatives& r) : size_(r.reps() * kColumns<T>) {
    for (int c : r.classes) {
      const int first = order.first[c], count = order.count(c);
      const auto entry = [&](int rep, int row) {
        return matrix[int64_t(r.rows[rep]) * order.rows() + order.component[first + row]];
      };
      classes_.push_back({first * kColumns<T>, Panels<T>(r.reps(), count, entry),
                          Panels<T>(count, r.reps(), [&](int row, int rep) { return entry(rep, row); })});
    }
  }

  /// Makes the class sums on the points from a block of coefficients.
  void to_points(const T* block, T* grid) const {
    for (const Class& c : classes_) {
      c.to.template apply<Into::set>(block + c.first, grid);
      grid += size_;
    }
  }

  /// Adds the projections of class sums on the points to a block of coefficients.
  void add_from_points(const T* grid, T* block) const {
    for (const Class& c : classes_) {
      c.from.template apply<Into::add>(grid, block + c.first);
      grid += size_;
    }
  }

 private:
  struct Class {
    int first;
    Panels<T> to, from;
  };
  int size_;
  std::vector<Class> classes_;
};

/// Turns class sums into values on the images, and sums over values with the signs of each class into those.
template <int kAxes, class V>
[[gnu::always_inline]] inline void butterfly(V* v) {
  for (int h = 1; h < 1 << kAxes; h *= 2)
    for (int i = 0; i < 1 << kAxes; ++i)
      if (!(i & h)) {
        const V a = v[i], b = v[i | h];
        v[i] = a + b;
        v[i | h] = a - b;
      }
}

/// Loads the values of the images of a representative.
template <int kAxes, class T>
[[gnu::always_inline]] inline void load_images(const T* grid, int size, Vec<T>* v) {
  for (int q = 0; q < 1 << kAxes; ++q) v[q] = load<Vec<T>>(grid + q * size);
  butterfly<kAxes>(v);
}

/// Stores what is to be projected.
template <int kAxes, class T>
[[gnu::always_inline]] inline void store_images(Vec<T>* v, int size, T* grid) {
  butterfly<kAxes>(v);
  for (int q = 0; q < 1 << kAxes; ++q) store(grid + q * size, v[q]);
}

/// Calls body(axes) with the number of reflected axes as a constant.
template <class Body>
void with_axes(int axes, const Body& body) {
  switch (axes) {
    case 3: body(std::integral_constant<int, 3>()); break;
    case 2: body(std::integral_constant<int, 2>()); break;
    case 1: body(std::integral_constant<int, 1>()); break;
    default: body(std::integral_constant<int, 0>());
  }
}

}  // namespace mlip::MLIP_ISA
