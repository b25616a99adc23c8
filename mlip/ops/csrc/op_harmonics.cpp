// The operators of the spherical harmonics: values and gradients, and the derivatives of both along tangents.
#include "harmonics.hpp"
#include "torch_shim.hpp"

namespace mlip {
namespace {

constexpr int64_t kLeast = 1024;  // edges that are worth a thread
constexpr int kDegrees = 1000;

void check(const Tensor& vectors, const Tensor* tangents) {
  require(vectors.dim() == 2 && vectors.size(1) == 3, "spherical harmonics need vectors [edges, 3]");
  require(!tangents || (tangents->shape() == vectors.shape() && tangents->dtype() == vectors.dtype()),
          "tangents must fit vectors");
}

int degree_of(const Tensor& g, const Tensor& vectors) {
  require(g.dim() == 2 && g.size(0) == vectors.size(0), "the gradient of harmonics must be [edges, (lmax+1)^2]");
  int degree = 0;
  while (degree + 1 < kDegrees && int64_t(degree + 1) * (degree + 1) < g.size(1)) ++degree;
  require(int64_t(degree + 1) * (degree + 1) == g.size(1), "the gradient of harmonics must be [edges, (lmax+1)^2]");
  return degree;
}

/// Values, or with tangents their derivatives, [E, (lmax+1)^2].
Tensor values(const Tensor& vectors, const Tensor* tangents, int64_t lmax) {
  check(vectors, tangents);
  require(lmax >= 0 && lmax < kDegrees, "lmax must be from 0 to 999");
  Tensor out({vectors.size(0), (lmax + 1) * (lmax + 1)}, vectors.dtype());
  for_dtype(vectors, [&](auto zero) {
    using T = decltype(zero);
    Harmonics<T> p(static_cast<int>(lmax));
    p.vectors = vectors.data<T>();
    p.tangents = tangents ? tangents->data<T>() : nullptr;
    T* target = out.data<T>();
    parallel_shares(vectors.size(0), kLeast,
                    [&](int64_t begin, int64_t end) { MLIP_DISPATCH(harmonics, p, begin, end, target); });
  });
  return out;
}

/// The gradient of g . Y, or with tangents its derivative, [E, 3].
Tensor gradients(const Tensor& vectors, const Tensor& g, const Tensor* tangents) {
  check(vectors, tangents);
  require(g.dtype() == vectors.dtype(), "the gradient of harmonics must have the precision of the vectors");
  Tensor out(vectors.shape(), vectors.dtype());
  for_dtype(vectors, [&](auto zero) {
    using T = decltype(zero);
    Harmonics<T> p(degree_of(g, vectors));
    p.vectors = vectors.data<T>(), p.g = g.data<T>();
    p.tangents = tangents ? tangents->data<T>() : nullptr;
    T* target = out.data<T>();
    parallel_shares(vectors.size(0), kLeast,
                    [&](int64_t begin, int64_t end) { MLIP_DISPATCH(harmonics_backward, p, begin, end, target); });
  });
  return out;
}

void spherical_harmonics(StableIValue* stack, uint64_t, uint64_t) {
  Tensor vectors(stack[0]);
  stack[0] = values(vectors, nullptr, static_cast<int64_t>(stack[1])).release();
}

void spherical_harmonics_jvp(StableIValue* stack, uint64_t, uint64_t) {
  Tensor vectors(stack[0]), tangents(stack[1]);
  stack[0] = values(vectors, &tangents, static_cast<int64_t>(stack[2])).release();
}

void spherical_harmonics_backward(StableIValue* stack, uint64_t, uint64_t) {
  Tensor vectors(stack[0]), g(stack[1]);
  stack[0] = gradients(vectors, g, nullptr).release();
}

void spherical_harmonics_hvp(StableIValue* stack, uint64_t, uint64_t) {
  Tensor vectors(stack[0]), g(stack[1]), tangents(stack[2]);
  stack[0] = gradients(vectors, g, &tangents).release();
}

const Registration registration{
    {"spherical_harmonics", "(Tensor vectors, int lmax) -> Tensor", spherical_harmonics},
    {"spherical_harmonics_jvp", "(Tensor vectors, Tensor tangents, int lmax) -> Tensor", spherical_harmonics_jvp},
    {"spherical_harmonics_backward", "(Tensor vectors, Tensor g) -> Tensor", spherical_harmonics_backward},
    {"spherical_harmonics_hvp", "(Tensor vectors, Tensor g, Tensor tangents) -> Tensor", spherical_harmonics_hvp},
};

}  // namespace
}  // namespace mlip
