// The sine and cosine of vectors.
#pragma once

#include "simd.hpp"

#include <cstdint>
#include <cstring>

namespace mlip::MLIP_ISA {

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kFused = true;  // products that are added are not rounded
#else
constexpr bool kFused = false;
#endif

/// How they are made for a precision: x = n pi/2 + r with |r| <= pi/4, and polynomials in r^2 that were interpolated at
/// Chebyshev nodes. Where products are rounded, pi/2 has three parts, of which the first two are so short that n times
/// either is exact up to the largest n; else two, since x - n pi/2 is as short as the first.
template <class T>
struct Trigonometry;

template <>
struct Trigonometry<float> {
  using Bits = int32_t;
  static constexpr int kBits = 32, kMantissa = 23, kTerms = 3;
  static constexpr float kParts[3] = {1.5703125f, 4.837512969970703125e-4f, 7.549789954891882e-8f};  // n up to 4096
  static constexpr float kPair[2] = {1.57079637f, -4.37113900018624283e-8f};
  static constexpr float kSine[kTerms] = {-0.16666664661114839f, 0.0083327480375171464f, -1.9587840521305322e-4f};
  static constexpr float kCosine[kTerms] = {0.041666664658300421f, -0.0013888302802309160f, 2.4547891619813861e-5f};
};

template <>
struct Trigonometry<double> {
  using Bits = int64_t;
  static constexpr int kBits = 64, kMantissa = 52, kTerms = 6;
  static constexpr double kParts[3] = {1.570796326734125614166, 6.077100506303965976596e-11,
                                       2.0222662487959507324e-21};  // n up to 2^20
  static constexpr double kPair[2] = {1.5707963267948965580, 6.1232339957367658862e-17};
  static constexpr double kSine[kTerms] = {-0.16666666666666664621,    0.0083333333333309461029,
                                           -1.9841269836754970014e-4,  2.755731610068302914e-6,
                                           -2.5051131455427947391e-8,  1.5918101230274120348e-10};
  static constexpr double kCosine[kTerms] = {0.041666666666666665387,    -0.0013888888888887395746,
                                             2.4801587298763433164e-5,   -2.7557317270560324065e-7,
                                             2.0876146024689746601e-9,   -1.1382614868556324576e-11};
};

/// Returns a polynomial with the coefficients of the powers from 0 on.
template <int kTerms, class T, class V>
inline V horner(const T (&coefficients)[kTerms], V z) {
  V sum = V{} + coefficients[kTerms - 1];
  for (int k = kTerms - 2; k >= 0; --k) sum = sum * z + coefficients[k];
  return sum;
}

/// Makes sin x and cos x, to about one unit in the last place for |x| up to 6000 in float and 1e6 in double; beyond, the
/// error is about the spacing of x. NaN stays NaN.
template <class T>
inline void sine_cosine(Vec<T> x, Vec<T>& sine, Vec<T>& cosine) {
  using V = Vec<T>;
  using G = Trigonometry<T>;
  typedef typename G::Bits B __attribute__((vector_size(kBytes)));
  constexpr T kShift = T(3) * (typename G::Bits(1) << (G::kMantissa - 1));  // adding it rounds to whole numbers
  const V shift = V{} + kShift, shifted = x * T(0.63661977236758134308) + shift, n = shifted - shift;
  const V r = kFused ? (x - n * G::kPair[0]) - n * G::kPair[1]
                     : ((x - n * G::kParts[0]) - n * G::kParts[1]) - n * G::kParts[2];
  const V z = r * r;
  const V s = r + r * z * horner(G::kSine, z), c = T(1) + z * (T(-0.5) + z * horner(G::kCosine, z));
  B quadrant, sine_bits, cosine_bits;  // the lowest bits of `shifted` are those of n
  std::memcpy(&quadrant, &shifted, sizeof(V));
  const auto odd = (quadrant & 1) != 0;
  const V first = odd ? c : s, second = odd ? s : c;
  std::memcpy(&sine_bits, &first, sizeof(V));
  std::memcpy(&cosine_bits, &second, sizeof(V));
  const B sign = B{} + (typename G::Bits(1) << (G::kBits - 1));
  sine_bits ^= (quadrant << (G::kBits - 2)) & sign;
  cosine_bits ^= ((quadrant + 1) << (G::kBits - 2)) & sign;
  std::memcpy(&sine, &sine_bits, sizeof(V));
  std::memcpy(&cosine, &cosine_bits, sizeof(V));
}

}  // namespace mlip::MLIP_ISA
