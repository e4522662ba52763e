// Groups of LANES channels as float32 vectors of the machine's own length, loaded from and stored to float32 or bfloat16.
// Every exported function is an int: 0, or 1 if there was too little memory, for Python cannot catch what C++ throws.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

// Longer vectors than the registers would go through memory. All lengths divide the 16 that channels are a multiple of.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
struct BFloat16 {
  uint16_t bits;
};

inline Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline Floats load(const BFloat16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return (Floats)(__builtin_convertvector(halves, Words) << 16);
}

inline float scalar(float value) { return value; }

inline float scalar(BFloat16 value) {
  const uint32_t word = uint32_t(value.bits) << 16;
  float found;
  std::memcpy(&found, &word, sizeof found);
  return found;
}

inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

inline void store(BFloat16* to, Floats values) {
#ifdef __AVX512BF16__
  __m256bh halves = _mm512_cvtneps_pbh((__m512)values);
#else
  Words words = (Words)values;
  words += 0x7fff + ((words >> 16) & 1);  // to nearest, ties to even
  Halves halves = __builtin_convertvector(words >> 16, Halves);
#endif
  std::memcpy(to, &halves, sizeof halves);
}

// Memory is asked for outside the threads, from which nothing can be thrown.
template <class Function>
int guarded(Function function) {
  try {
    function();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

inline Floats broadcast(float value) { return value - Floats{}; }

inline Floats leaky_relu(Floats values, float slope) { return values > 0 ? values : values * slope; }

}  // namespace
