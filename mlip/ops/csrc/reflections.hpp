// Reflections of the axes, which share out points and components of functions on the sphere; see sphere_transform.hpp.
#pragma once

#include "torch_shim.hpp"

#include <algorithm>

namespace mlip {

/// Checks the tensors `parity` and `zero` for so many representatives and, in any signal, components.
inline void check_reflections(const Tensor& parity, const Tensor& zero, int64_t representatives,
                              std::initializer_list<int64_t> components) {
  for (const Tensor* t : {&parity, &zero}) {
    require(t->dim() == 1 && t->dtype() == aoti_torch_dtype_int64(), "parity and zero must be one-dimensional int64");
    const int64_t* value = t->data<int64_t>();
    for (int64_t i = 0; i < t->size(0); ++i)
      require(value[i] >= 0 && value[i] < 8, "parity and zero must be from 0 to 7");
  }
  require(zero.size(0) == representatives && parity.size(0) >= std::max(components),
          "parity and zero do not fit the matrices");
}

}  // namespace mlip
