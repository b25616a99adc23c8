// Which of the compiled instruction sets this processor runs.
#pragma once

namespace mlip {

enum class Isa { generic, avx2, avx512 };

/// Returns the best instruction set of this processor that was compiled in.
Isa isa();

}  // namespace mlip

// Declares a kernel template in the namespace of each instruction set: MLIP_DECLARE(template <class T> void f(...);)
#if defined(MLIP_X86)
#define MLIP_DECLARE(...)                     \
  namespace mlip::generic { __VA_ARGS__ }     \
  namespace mlip::avx2 { __VA_ARGS__ }        \
  namespace mlip::avx512 { __VA_ARGS__ }
#define MLIP_DISPATCH(function, ...)                                  \
  switch (::mlip::isa()) {                                            \
    case ::mlip::Isa::avx512: ::mlip::avx512::function(__VA_ARGS__); break; \
    case ::mlip::Isa::avx2: ::mlip::avx2::function(__VA_ARGS__); break;     \
    default: ::mlip::generic::function(__VA_ARGS__);                  \
  }
#else
#define MLIP_DECLARE(...) namespace mlip::generic { __VA_ARGS__ }
#define MLIP_DISPATCH(function, ...) ::mlip::generic::function(__VA_ARGS__)
#endif
