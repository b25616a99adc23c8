// The loops of the product on the sphere; see sphere_product.hpp.
#include "sphere_product.hpp"
#include "sphere_transform.hpp"

namespace mlip::MLIP_ISA {

namespace {

/// The three matrices for some of the points.
template <class T>
struct Chunk {
  Representatives r;
  PointMatrix<T> to_x, to_y, back;
};

/// Multiplies class sums x and y point by point; the result, in x, is ready to be projected.
template <class T>
void multiply_points(const Representatives& r, T* x, const T* y) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  const int size = r.reps() * kColumns<T>;
  with_axes(r.axes(), [&](auto axes) {
    for (int at = 0; at < size; at += kLanes) {
      Vec<T> a[1 << axes], b[1 << axes];
      load_images<axes>(x + at, size, a);
      load_images<axes>(y + at, size, b);
      for (int q = 0; q < 1 << axes; ++q) a[q] *= b[q];
      store_images<axes>(a, size, x + at);
    }
  });
}

}  // namespace

template <class T>
void sphere_product(const SphereProduct<T>& p, int64_t begin, int64_t end, T* out) {
  constexpr int kBlock = kColumns<T>;
  const bool square = p.x == p.y && p.to_x == p.to_y && p.x_rows == p.y_rows;
  const Order x_order(p.parity, p.x_rows), y_order(p.parity, p.y_rows), order(p.parity, p.rows);
  std::vector<Chunk<T>> chunks;
  int points = 0;
  for (const Representatives& r : chunks_of(p.zero, p.representatives)) {
    chunks.push_back({r, {p.to_x, x_order, r}, {p.to_y, y_order, r}, {p.back, order, r}});
    points = std::max(points, r.points());
  }
  std::vector<T> x(size_t(p.x_rows) * kBlock), y(size_t(p.y_rows) * kBlock), sums(size_t(p.rows) * kBlock);
  std::vector<T> x_grid(size_t(points) * kBlock), y_grid(square ? 0 : size_t(points) * kBlock);
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(std::min<int64_t>(kBlock, end - first));
    gather(p.x, x_order.place.data(), p.x_rows, p.channels, first, count, x.data());
    if (!square) gather(p.y, y_order.place.data(), p.y_rows, p.channels, first, count, y.data());
    std::fill(sums.begin(), sums.end(), T(0));
    for (const Chunk<T>& chunk : chunks) {
      chunk.to_x.to_points(x.data(), x_grid.data());
      if (!square) chunk.to_y.to_points(y.data(), y_grid.data());
      multiply_points(chunk.r, x_grid.data(), square ? x_grid.data() : y_grid.data());
      chunk.back.add_from_points(x_grid.data(), sums.data());
    }
    scatter(sums.data(), order.place.data(), p.rows, p.channels, first, count, out);
  }
}

template void sphere_product<float>(const SphereProduct<float>&, int64_t, int64_t, float*);
template void sphere_product<double>(const SphereProduct<double>&, int64_t, int64_t, double*);

}  // namespace mlip::MLIP_ISA
