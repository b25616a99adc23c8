// The loops of the activation by a product on the sphere; see attention_activation.hpp.
#include "attention_activation.hpp"
#include "exponential.hpp"
#include "sphere_transform.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace mlip::MLIP_ISA {

namespace {

/// Representatives with the same coordinates 0, and where the values on their images begin in a grid.
struct Group {
  Representatives r;
  std::array<int, 8> image{};
};

/// The matrix [R, K] for some representatives, in both directions; on points, values stand class by class.
template <class T>
class ClassMatrix {
 public:
  ClassMatrix(const T* matrix, const Order& order, const std::array<std::vector<int>, 8>& rows) {
    int grid = 0;
    for (int c = 0; c < 8; ++c) {
      const int first = order.first[c], count = order.count(c), reps = static_cast<int>(rows[c].size());
      const auto entry = [&](int rep, int row) {
        return matrix[int64_t(rows[c][rep]) * order.rows() + order.component[first + row]];
      };
      classes_.push_back({first * kColumns<T>, grid, Panels<T>(reps, count, entry),
                          Panels<T>(count, reps, [&](int row, int rep) { return entry(rep, row); })});
      grid += reps * kColumns<T>;
    }
  }

  void to_points(const T* block, T* grid) const {
    for (const Class& c : classes_) c.to.template apply<Into::set>(block + c.first, grid + c.grid);
  }
  void add_from_points(const T* grid, T* block) const {
    for (const Class& c : classes_) c.from.template apply<Into::add>(grid + c.grid, block + c.first);
  }

 private:
  struct Class {
    int first, grid;
    Panels<T> to, from;
  };
  std::vector<Class> classes_;
};

/// Groups whose classes are treated together: few calls with many representatives each.
template <class T>
struct Batch {
  std::vector<Group> groups;
  ClassMatrix<T> to, back;
};

/// The matrices of all points.
template <class T>
struct Sphere {
  Order order;
  std::vector<Batch<T>> batches;
  size_t grid = 0;  // numbers in the values of some columns on the points of a batch

  explicit Sphere(const Swiglu<T>& p) : order(p.parity, p.rows) {
    std::vector<Group> groups;
    int points = 0;
    for (const Representatives& r : chunks_of(p.zero, p.representatives)) {
      if (points + r.points() > kPoints) add(p, groups, points);
      groups.push_back({r});
      points += r.points();
    }
    add(p, groups, points);
  }

 private:
  /// Makes a batch of groups, and forgets them.
  void add(const Swiglu<T>& p, std::vector<Group>& groups, int& points) {
    std::array<std::vector<int>, 8> rows;
    int size = 0;
    for (int c = 0; c < 8; ++c)
      for (Group& group : groups)
        for (size_t q = 0; q < group.r.classes.size(); ++q) {
          if (group.r.classes[q] != c) continue;
          group.image[q] = size * kColumns<T>;
          size += group.r.reps();
          rows[c].insert(rows[c].end(), group.r.rows.begin(), group.r.rows.end());
        }
    grid = std::max(grid, size_t(size) * kColumns<T>);
    if (size > 0) batches.push_back({std::move(groups), {p.to, order, rows}, {p.back, order, rows}});
    groups.clear();
    points = 0;
  }
};

template <int kAxes, class T>
[[gnu::always_inline]] inline void load_group(const T* grid, const std::array<int, 8>& image, Vec<T>* v) {
  for (int q = 0; q < 1 << kAxes; ++q) v[q] = load<Vec<T>>(grid + image[q]);
  butterfly<kAxes>(v);
}
template <int kAxes, class T>
[[gnu::always_inline]] inline void store_group(Vec<T>* v, const std::array<int, 8>& image, T* grid) {
  butterfly<kAxes>(v);
  for (int q = 0; q < 1 << kAxes; ++q) store(grid + image[q], v[q]);
}

/// Calls body(inside, edge, channel, length) for stretches of columns that lie in one edge.
template <class Body>
void over_edges(int64_t first, int count, int64_t channels, const Body& body) {
  for (int done = 0; done < count;) {
    const int64_t edge = (first + done) / channels, channel = (first + done) % channels;
    const int length = static_cast<int>(std::min<int64_t>(count - done, channels - channel));
    body(done, edge, channel, length);
    done += length;
  }
}

template <class T>
[[gnu::always_inline]] inline void copy(const T* from, int length, T* to) {
  if (length == kColumns<T>) std::memcpy(to, from, sizeof(T) * kColumns<T>);
  else for (int c = 0; c < length; ++c) to[c] = from[c];
}

/// Some columns: from tensors into blocks and back.
struct Columns {
  int64_t first, channels;
  int count;

  /// Copies into a block; the row i becomes the row place[i].
  template <class T>
  void take(const Slab<const T>& from, const std::vector<int>& place, T* block) const {
    over_edges(first, count, channels, [&](int inside, int64_t edge, int64_t channel, int length) {
      const T* source = from.data + edge * from.edge + channel;
      for (size_t i = 0; i < place.size(); ++i, source += from.row)
        copy(source, length, block + place[i] * kColumns<T> + inside);
    });
  }
  template <class T>
  void give(const T* block, const std::vector<int>& place, const Slab<T>& to) const {
    over_edges(first, count, channels, [&](int inside, int64_t edge, int64_t channel, int length) {
      T* target = to.data + edge * to.edge + channel;
      for (size_t i = 0; i < place.size(); ++i, target += to.row)
        copy(block + place[i] * kColumns<T> + inside, length, target);
    });
  }
};

/// Calls body(Columns) for blocks of the columns from `begin` to `end`.
template <class T, class Body>
void over_blocks(const Swiglu<T>& p, int64_t begin, int64_t end, const Body& body) {
  for (int64_t first = begin; first < end; first += kColumns<T>)
    body(Columns{first, p.channels, static_cast<int>(std::min<int64_t>(kColumns<T>, end - first))});
}

/// Multiplies each row of a block by one row.
template <class T>
void scale(const T* factor, int rows, T* block) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  Vec<T> f[kWide];
  for (int u = 0; u < kWide; ++u) f[u] = load<Vec<T>>(factor + u * kLanes);
  for (int i = 0; i < rows * kWide; i += kWide)
    for (int u = 0; u < kWide; ++u)
      store(block + (i + u) * kLanes, load<Vec<T>>(block + (i + u) * kLanes) * f[u]);
}

/// Multiplies class sums a and b point by point; the result, in a, is ready to be projected.
template <class T>
void multiply(const Group& group, T* a, const T* b) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  const int size = group.r.reps() * kColumns<T>;
  with_axes(group.r.axes(), [&](auto axes) {
    for (int at = 0; at < size; at += kLanes) {
      Vec<T> x[1 << axes], y[1 << axes];
      load_group<axes>(a + at, group.image, x);
      load_group<axes>(b + at, group.image, y);
      for (int q = 0; q < 1 << axes; ++q) x[q] *= y[q];
      store_group<axes>(x, group.image, a + at);
    }
  });
}

/// From class sums of a, b and g to those of g b, in the place of a, and g a, in that of b; adds a b g to `total`.
template <class T>
void differentiate(const Group& group, T* a, T* b, const T* g, T* total) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  const int size = group.r.reps() * kColumns<T>;
  with_axes(group.r.axes(), [&](auto axes) {
    for (int at = 0; at < size; at += kLanes) {
      Vec<T> x[1 << axes], y[1 << axes], z[1 << axes], sum{};
      load_group<axes>(a + at, group.image, x);
      load_group<axes>(b + at, group.image, y);
      load_group<axes>(g + at, group.image, z);
      for (int q = 0; q < 1 << axes; ++q) {
        const Vec<T> by_x = z[q] * y[q];
        sum += by_x * x[q];
        y[q] = z[q] * x[q];
        x[q] = by_x;
      }
      store_group<axes>(x, group.image, a + at);
      store_group<axes>(y, group.image, b + at);
      T* here = total + at % kColumns<T>;
      store(here, load<Vec<T>>(here) + sum);
    }
  });
}

/// What is not on the sphere: rows of one number for each column.
template <class T>
struct Gates {
  static constexpr int kLanes = lanes<Vec<T>, T>;
  T s1[kColumns<T>]{}, s2[kColumns<T>]{}, gate[kColumns<T>]{}, sigma[kColumns<T>], total[kColumns<T>];

  void take(const Swiglu<T>& p, const Columns& columns) {
    columns.take(p.s1, {0}, s1);
    columns.take(p.s2, {0}, s2);
    columns.take(p.gate, {0}, gate);
    for (int c = 0; c < kColumns<T>; c += kLanes) {
      store(sigma + c, sigmoid<T>(load<Vec<T>>(gate + c)));
      store(total + c, Vec<T>{});
    }
  }

  /// Adds s1 sigmoid(s1) s2.
  void add_scalars(T* row) const {
    for (int c = 0; c < kColumns<T>; c += kLanes) {
      const Vec<T> x = load<Vec<T>>(s1 + c);
      store(row + c, load<Vec<T>>(row + c) + x * sigmoid<T>(x) * load<Vec<T>>(s2 + c));
    }
  }

  /// Puts the derivatives in the places of s1, s2 and gate, given that of the first component of the result.
  void differentiate(const T* row) {
    for (int c = 0; c < kColumns<T>; c += kLanes) {
      const Vec<T> x = load<Vec<T>>(s1 + c), y = load<Vec<T>>(s2 + c), g = load<Vec<T>>(row + c);
      const Vec<T> open = sigmoid<T>(x), factor = load<Vec<T>>(sigma + c);
      store(s1 + c, g * y * silu_slope(x, open));
      store(s2 + c, g * x * open);
      store(gate + c, load<Vec<T>>(total + c) * factor * (1 - factor));
    }
  }
};

}  // namespace

template <class T>
void swiglu(const Swiglu<T>& p, int64_t begin, int64_t end, const Slab<T>& out) {
  const Sphere<T> sphere(p);
  const std::vector<int>& place = sphere.order.place;
  const size_t block = size_t(p.rows) * kColumns<T>;
  std::vector<T> a(block), b(block), sums(block), a_grid(sphere.grid), b_grid(sphere.grid);
  Gates<T> gates;
  over_blocks(p, begin, end, [&](const Columns& columns) {
    columns.take(p.a, place, a.data());
    columns.take(p.b, place, b.data());
    gates.take(p, columns);
    std::fill(sums.begin(), sums.end(), T(0));
    for (const Batch<T>& batch : sphere.batches) {
      batch.to.to_points(a.data(), a_grid.data());
      batch.to.to_points(b.data(), b_grid.data());
      for (const Group& group : batch.groups) multiply(group, a_grid.data(), b_grid.data());
      batch.back.add_from_points(a_grid.data(), sums.data());
    }
    scale(gates.sigma, p.rows, sums.data());
    gates.add_scalars(sums.data() + place[0] * kColumns<T>);
    columns.give(sums.data(), place, out);
  });
}

template <class T>
void swiglu_backward(const Swiglu<T>& p, int64_t begin, int64_t end, const SwigluGradients<T>& d) {
  const Sphere<T> sphere(p);
  const std::vector<int>& place = sphere.order.place;
  const size_t block = size_t(p.rows) * kColumns<T>;
  std::vector<T> a(block), b(block), g(block), a_grid(sphere.grid), b_grid(sphere.grid), g_grid(sphere.grid);
  std::vector<T> da(block), db(block);
  Gates<T> gates;
  over_blocks(p, begin, end, [&](const Columns& columns) {
    columns.take(p.a, place, a.data());
    columns.take(p.b, place, b.data());
    columns.take(d.g, place, g.data());
    gates.take(p, columns);
    std::fill(da.begin(), da.end(), T(0));
    std::fill(db.begin(), db.end(), T(0));
    for (const Batch<T>& batch : sphere.batches) {
      batch.to.to_points(a.data(), a_grid.data());
      batch.to.to_points(b.data(), b_grid.data());
      batch.back.to_points(g.data(), g_grid.data());
      for (const Group& group : batch.groups)
        differentiate(group, a_grid.data(), b_grid.data(), g_grid.data(), gates.total);
      batch.to.add_from_points(a_grid.data(), da.data());
      batch.to.add_from_points(b_grid.data(), db.data());
    }
    scale(gates.sigma, p.rows, da.data());
    scale(gates.sigma, p.rows, db.data());
    gates.differentiate(g.data() + place[0] * kColumns<T>);
    columns.give(da.data(), place, d.a);
    columns.give(db.data(), place, d.b);
    columns.give(gates.s1, {0}, d.s1);
    columns.give(gates.s2, {0}, d.s2);
    columns.give(gates.gate, {0}, d.gate);
  });
}

template void swiglu<float>(const Swiglu<float>&, int64_t, int64_t, const Slab<float>&);
template void swiglu<double>(const Swiglu<double>&, int64_t, int64_t, const Slab<double>&);
template void swiglu_backward<float>(const Swiglu<float>&, int64_t, int64_t, const SwigluGradients<float>&);
template void swiglu_backward<double>(const Swiglu<double>&, int64_t, int64_t, const SwigluGradients<double>&);

}  // namespace mlip::MLIP_ISA
