// Vectors of the instruction set a file is compiled for. The same code also takes plain numbers as vectors of one lane.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(MLIP_AVX512)
#define MLIP_ISA avx512
#elif defined(MLIP_AVX2)
#define MLIP_ISA avx2
#else
#define MLIP_ISA generic
#endif

namespace mlip::MLIP_ISA {

#if defined(MLIP_AVX512)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(MLIP_AVX2)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class V, class T>
constexpr int lanes = sizeof(V) / sizeof(T);

template <class V, class T>
inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class T>
inline void store(T* p, V v) {
  std::memcpy(p, &v, sizeof(V));
}

/// Returns a vector of one number. Taking away zero changes none, so that compilers leave it out, unlike adding to it.
template <class V, class T>
inline V broadcast(T number) {
  return number - V{};
}

/// Returns a vector whose lane k is the lane I[k] of a and b, counted in a row.
template <int... I, class V>
inline V shuffle(V a, V b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  using Index = std::conditional_t<sizeof(a[0]) == 4, int32_t, int64_t>;
  typedef Index Mask __attribute__((vector_size(sizeof...(I) * sizeof(Index))));
  return __builtin_shuffle(a, b, Mask{I...});
#endif
}

/// Calls body(c, V()) for whole vectors of channels, then body(c, T()) for those that are left.
template <class T, class Body>
inline void over_channels(int channels, const Body& body) {
  int c = 0;
  for (; c + lanes<Vec<T>, T> <= channels; c += lanes<Vec<T>, T>) body(c, Vec<T>());
  for (; c < channels; ++c) body(c, T());
}

namespace detail {
// Lane i of the sum holds, for groups of `size` lanes, the low half of a group of 2*size lanes of a, then of b.
constexpr int low(int i, int size, int n) {
  int group = i / size, within = i % size, groups = n / (2 * size);
  return (group % groups) * 2 * size + within + (group < groups ? 0 : n);
}
template <int kSize, int kLanes, class V, int... I>
inline V halve(V a, V b, std::integer_sequence<int, I...>) {
  return shuffle<low(I, kSize, kLanes)...>(a, b) + shuffle<(low(I, kSize, kLanes) + kSize)...>(a, b);
}
template <int kSize, int kLanes, class V>
inline V reduce(const V* v) {  // of 2 * kLanes / (2 * kSize) vectors, in lanes of kSize partial sums
  if constexpr (kSize == kLanes) {
    return *v;
  } else {
    constexpr int kHalf = kLanes / kSize / 2;  // vectors in each half
    return halve<kSize, kLanes>(reduce<kSize * 2, kLanes>(v), reduce<kSize * 2, kLanes>(v + kHalf),
                                std::make_integer_sequence<int, kLanes>());
  }
}
template <int kSize, class V, int... I>
inline V fold(V v, std::integer_sequence<int, I...> all) {
  v += shuffle<(I ^ kSize)...>(v, v);
  if constexpr (kSize > 1) v = fold<kSize / 2>(v, all);
  return v;
}
template <int kSize, class V, int... I>
inline V largest(V v, std::integer_sequence<int, I...> all) {
  const V other = shuffle<(I ^ kSize)...>(v, v);
  v = other > v ? other : v;
  if constexpr (kSize > 1) v = largest<kSize / 2>(v, all);
  return v;
}
}  // namespace detail

/// Returns the sum over the lanes of a vector, in all lanes.
template <class T>
inline Vec<T> lane_total(Vec<T> v) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  return detail::fold<kLanes / 2>(v, std::make_integer_sequence<int, kLanes>());
}

/// Returns the largest lane of a vector without NaN, in all lanes.
template <class T>
inline Vec<T> lane_largest(Vec<T> v) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  return detail::largest<kLanes / 2>(v, std::make_integer_sequence<int, kLanes>());
}

/// Returns the sums over the lanes of as many vectors as a vector has lanes.
template <class T>
inline Vec<T> lane_sums(const Vec<T>* v) {
  return detail::reduce<1, lanes<Vec<T>, T>>(v);
}

}  // namespace mlip::MLIP_ISA
