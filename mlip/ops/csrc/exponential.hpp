// The exponential function of vectors, and the functions of neural networks that are made of it.
#pragma once

#include "simd.hpp"

#include <cstdint>
#include <type_traits>

namespace mlip::MLIP_ISA {

/// How e^x is made for a precision: x = n ln 2 + r with |r| <= ln 2 / 2, a Taylor polynomial in r, and 2^n as bits.
template <class T>
struct Exponential;

template <>
struct Exponential<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23, kBias = 127, kDegree = 7;  // the next term is below 6e-9
  static constexpr float kLow = -87, kHigh = 88;                  // where the result is a normal number
  static constexpr float kLn2 = 355.0f / 512, kRest = -2.1219444005469057e-4f;  // n times the first is exact
};

template <>
struct Exponential<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kDegree = 13;  // the next term is below 5e-18
  static constexpr double kLow = -708, kHigh = 709;
  static constexpr double kLn2 = 0.693147180369123816490173339844, kRest = 1.9082149292705877e-10;
};

/// Returns 1 / k!.
constexpr double inverse_factorial(int k) { return k < 2 ? 1.0 : inverse_factorial(k - 1) / k; }

/// Returns e^x, to about one unit in the last place; x is clamped to where that is a normal number, NaN stays NaN.
template <class T>
inline Vec<T> exponential(Vec<T> x) {
  using V = Vec<T>;
  using E = Exponential<T>;
  typedef typename E::Bits B __attribute__((vector_size(kBytes)));
  constexpr T kShift = T(3) * (typename E::Bits(1) << (E::kMantissa - 1));  // adding it rounds to whole numbers
  x = x < E::kLow ? V{} + E::kLow : x;
  x = x > E::kHigh ? V{} + E::kHigh : x;
  const V shift = V{} + kShift, shifted = x * T(1.442695040888963407) + shift, n = shifted - shift;
  const V r = (x - n * E::kLn2) - n * E::kRest;
  V sum = V{} + T(inverse_factorial(E::kDegree));
  for (int k = E::kDegree - 1; k >= 0; --k) sum = sum * r + T(inverse_factorial(k));
  B power, zero;
  std::memcpy(&power, &shifted, sizeof(V));
  std::memcpy(&zero, &shift, sizeof(V));
  power = (power - zero + E::kBias) << E::kMantissa;
  V scale;
  std::memcpy(&scale, &power, sizeof(V));
  return sum * scale;
}

/// Returns 1 / (1 + e^-x).
template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
  return T(1) / (T(1) + exponential<T>(-x));
}

/// Returns the derivative of x sigmoid(x), given x and sigmoid(x).
template <class V>
inline V silu_slope(V x, V sigma) {
  return sigma + x * sigma * (1 - sigma);
}

}  // namespace mlip::MLIP_ISA
