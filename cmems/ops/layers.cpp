// CPU kernels for maps of (pixels, channels), channels last, with a multiple of 16 channels, in float32 or bfloat16.
// Arithmetic is float32. Sums run over chunks that the number of pixels decides, so that no result depends on the number
// of threads.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "simd.h"

namespace {

typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));
constexpr int64_t BLOCK = 128;  // pixels whose sums are float32; sums of blocks are double

// What dropout multiplies a group of elements with: 0, or `scale`. The hash of (seed, element) decides.
struct Dropout {
  uint32_t low, high, threshold;
  float scale;

  Floats operator()(uint32_t group) const {
    Words lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i;
    Words x = (lanes + group * LANES) ^ low;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x = (x ^ (x >> 15) ^ high) * 0x735a2d97u;
    x = (x ^ (x >> 15)) * 0x85ebca6bu;
    x = x ^ (x >> 16);
    return x >= threshold ? broadcast(scale) : Floats{};
  }
};

Dropout make_dropout(double rate, uint64_t seed) {
  seed += 0x9e3779b97f4a7c15u;  // splitmix64: neighbouring seeds are to share nothing
  seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9u;
  seed = (seed ^ (seed >> 27)) * 0x94d049bb133111ebu;
  seed ^= seed >> 31;
  return {uint32_t(seed), uint32_t(seed >> 32), uint32_t(rate * 4294967296.0), float(1 / (1 - rate))};
}

// Adds, per channel, two sums over all pixels: function(pixel, channel, first, second) adds one pixel's share.
template <class Function>
void sum_twice(int64_t pixels, int channels, double* sums, int threads, Function function) {
  const int64_t chunks = std::min<int64_t>(64, (pixels + BLOCK - 1) / BLOCK);
  std::vector<double> parts(chunks * 2 * channels, 0.0);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    double* part = parts.data() + chunk * 2 * channels;
    const int64_t end = pixels * (chunk + 1) / chunks;
    for (int64_t block = pixels * chunk / chunks; block < end; block += BLOCK)
      for (int c = 0; c < channels; c += LANES) {
        Floats first{}, second{};
        for (int64_t p = block; p < end && p < block + BLOCK; p++) function(p, c, first, second);
        for (int i = 0; i < LANES; i++) part[c + i] += first[i], part[channels + c + i] += second[i];
      }
  }
  std::memset(sums, 0, 2 * channels * sizeof(double));
  for (int64_t chunk = 0; chunk < chunks; chunk++)
    for (int i = 0; i < 2 * channels; i++) sums[i] += parts[chunk * 2 * channels + i];
}

// Calls function(pixel, channel) for every group of elements.
template <class Function>
void each(int64_t pixels, int channels, int threads, Function function) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < pixels; p++)
    for (int c = 0; c < channels; c += LANES) function(p, c);
}

// Mean and biased variance per channel.
template <class T>
void moments(const T* x, int64_t pixels, int channels, float* mean, float* variance, int threads) {
  std::vector<float> shift(channels);  // keeps the sum of squares near the variance
  for (int c = 0; c < channels; c += LANES) store(shift.data() + c, load(x + c));
  std::vector<double> sums(2 * channels);
  sum_twice(pixels, channels, sums.data(), threads, [&](int64_t p, int c, Floats& first, Floats& second) {
    const Floats v = load(x + p * channels + c) - load(shift.data() + c);
    first += v;
    second += v * v;
  });
  for (int c = 0; c < channels; c++) {
    const double m = sums[c] / pixels, v = sums[channels + c] / pixels - m * m;
    mean[c] = float(m + shift[c]);
    variance[c] = v < 0 ? 0.f : float(v);
  }
}

// y = dropout(leaky_relu(x * gain + offset)).
template <class T>
void activate(const T* x, T* y, int64_t pixels, int channels, const float* gain, const float* offset, float slope,
              double rate, uint64_t seed, int threads) {
  const Dropout dropout = make_dropout(rate, seed);
  each(pixels, channels, threads, [&](int64_t p, int c) {
    const int64_t at = p * channels + c;
    Floats v = load(x + at) * load(gain + c) + load(offset + c);
    v = leaky_relu(v, slope);
    if (rate > 0) v *= dropout(at / LANES);
    store(y + at, v);
  });
}

// The gradients of x, and of the norm's weight and bias.
template <class T>
void activate_backward(const T* x, const T* dy, T* dx, int64_t pixels, int channels, const float* mean,
                       const float* inverse, const float* gain, const float* offset, float slope, double rate,
                       uint64_t seed, float* dweight, float* dbias, int threads) {
  const Dropout dropout = make_dropout(rate, seed);
  const auto slopes = [&](Floats v, int64_t p, int c) {  // the gradient of the norm's output
    const int64_t at = p * channels + c;
    const Floats d = load(dy + at);
    v = v * load(gain + c) + load(offset + c) > 0 ? d : d * slope;
    return rate > 0 ? v * dropout(at / LANES) : v;
  };
  std::vector<double> sums(2 * channels);
  sum_twice(pixels, channels, sums.data(), threads, [&](int64_t p, int c, Floats& first, Floats& second) {
    const Floats v = load(x + p * channels + c), d = slopes(v, p, c);
    first += d;
    second += d * (v - load(mean + c));
  });
  // dx = gain (d - mean(d) - (x - mean) inverse^2 mean(d (x - mean))) = gain d + a x + b
  std::vector<float> a(channels), b(channels);
  for (int c = 0; c < channels; c++) {
    dbias[c] = float(sums[c]);
    dweight[c] = float(sums[channels + c] * inverse[c]);
    const double share = sums[channels + c] / pixels * inverse[c] * inverse[c];
    a[c] = float(-gain[c] * share);
    b[c] = float(gain[c] * (share * mean[c] - sums[c] / pixels));
  }
  each(pixels, channels, threads, [&](int64_t p, int c) {
    const Floats v = load(x + p * channels + c);
    store(dx + p * channels + c, slopes(v, p, c) * load(gain + c) + (v * load(a.data() + c) + load(b.data() + c)));
  });
}

// Where, in n coarse samples, fine sample i of 2n lies when the corners are aligned.
struct Place {
  int64_t left, right;
  float weight;  // of the right one
};

Place place(int64_t i, int64_t n) {
  const float at = n > 1 ? float(i) * (float(n - 1) / float(2 * n - 1)) : 0.f;
  const int64_t left = int64_t(at);
  return {left, left + 1 < n ? left + 1 : left, at - left};
}

std::vector<Place> places(int64_t n) {
  std::vector<Place> found(2 * n);
  for (int64_t i = 0; i < 2 * n; i++) found[i] = place(i, n);
  return found;
}

// fine (batch, 2 height, 2 width) of first + channels: the `first` channels of skip, then the upsampled ones.
template <class T>
void upsample(const T* coarse, const T* skip, T* fine, int64_t batch, int64_t height, int64_t width, int channels,
              int first, int threads) {
  const std::vector<Place> rows = places(height), columns = places(width);
  const std::unique_ptr<float[]> scratch(new float[threads * width * channels]);
#pragma omp parallel num_threads(threads)
  {
    float* row = scratch.get() + omp_get_thread_num() * width * channels;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < batch * 2 * height; k++) {
      const Place y = rows[k % (2 * height)];
      const T* image = coarse + k / (2 * height) * height * width * channels;
      const T *upper = image + y.left * width * channels, *lower = image + y.right * width * channels;
      for (int64_t e = 0; e < width * channels; e += LANES)
        store(row + e, load(upper + e) * (1 - y.weight) + load(lower + e) * y.weight);
      for (int64_t j = 0; j < 2 * width; j++) {
        const Place x = columns[j];
        const float *left = row + x.left * channels, *right = row + x.right * channels;
        T* to = fine + (k * 2 * width + j) * (first + channels);
        const T* beside = skip + (k * 2 * width + j) * first;
        for (int c = 0; c < first; c += LANES) std::memcpy(to + c, beside + c, LANES * sizeof(T));
        for (int c = 0; c < channels; c += LANES)
          store(to + first + c, load(left + c) * (1 - x.weight) + load(right + c) * x.weight);
      }
    }
  }
}

// The transpose of upsample; dfine has pixels of `stride` elements, of which `channels` from its address on.
// Every coarse pixel is summed in one order.
template <class T>
void upsample_backward(const T* dfine, T* dcoarse, int64_t batch, int64_t height, int64_t width, int channels,
                       int64_t stride, int threads) {
  const std::vector<Place> rows = places(height), columns = places(width);
  const std::unique_ptr<float[]> scratch(new float[threads * 3 * width * channels]);
#pragma omp parallel num_threads(threads)
  {
    float *row = scratch.get() + omp_get_thread_num() * 3 * width * channels, *sums = row + 2 * width * channels;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < batch * height; k++) {
      const int64_t i = k % height, first = i > 0 ? 2 * i - 2 : 0, last = 2 * i + 3 < 2 * height ? 2 * i + 3 : 2 * height - 1;
      std::fill(row, sums, 0.f);
      for (int64_t r = first; r <= last; r++) {
        const Place y = rows[r];
        const float weight = (y.left == i ? 1 - y.weight : 0) + (y.right == i ? y.weight : 0);
        if (weight == 0) continue;
        const T* from = dfine + (k / height * 2 * height + r) * 2 * width * stride;
        for (int64_t j = 0; j < 2 * width; j++)
          for (int c = 0; c < channels; c += LANES)
            store(row + j * channels + c, load(row + j * channels + c) + load(from + j * stride + c) * weight);
      }
      std::fill(sums, sums + width * channels, 0.f);
      for (int64_t j = 0; j < 2 * width; j++) {
        const Place x = columns[j];
        float *left = sums + x.left * channels, *right = sums + x.right * channels;
        for (int c = 0; c < channels; c += LANES) {
          const Floats d = load(row + j * channels + c);
          store(left + c, load(left + c) + d * (1 - x.weight));
          store(right + c, load(right + c) + d * x.weight);
        }
      }
      T* to = dcoarse + k * width * channels;
      for (int64_t e = 0; e < width * channels; e += LANES) store(to + e, load(sums + e));
    }
  }
}

// The largest of every 2x2 pixels and, in `which`, its number; the first of equals, and a NaN before all.
template <class T>
void pool(const T* x, T* y, uint8_t* which, int64_t rows, int64_t width, int channels, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < rows * width; k++) {
    const int64_t corner = (k / width * 2 * 2 * width + k % width * 2) * channels;
    for (int c = 0; c < channels; c += LANES) {
      Floats best = load(x + corner + c);
      Ints winner{};
      for (int n = 1; n < 4; n++) {
        const Floats v = load(x + corner + (n / 2 * 2 * width + n % 2) * channels + c);
        const Ints better = (v > best) | (v != v);
        best = better ? v : best;
        winner = better ? n - Ints{} : winner;
      }
      store(y + k * channels + c, best);
      const Bytes bytes = __builtin_convertvector(winner, Bytes);
      std::memcpy(which + k * channels + c, &bytes, sizeof bytes);
    }
  }
}

template <class T>
void pool_backward(const T* dy, const uint8_t* which, T* dx, int64_t rows, int64_t width, int channels, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t k = 0; k < rows * width; k++) {
    const int64_t corner = (k / width * 2 * 2 * width + k % width * 2) * channels;
    for (int c = 0; c < channels; c += LANES) {
      const Floats d = load(dy + k * channels + c);
      Bytes bytes;
      std::memcpy(&bytes, which + k * channels + c, sizeof bytes);
      const Ints winner = __builtin_convertvector(bytes, Ints);
      for (int n = 0; n < 4; n++)
        store(dx + corner + (n / 2 * 2 * width + n % 2) * channels + c, winner == n ? d : Floats{});
    }
  }
}

// labels (networks, pixels), or (networks + 1, pixels) for several: the class of the largest logit, the first of equals,
// and that of the largest sum of the networks' probabilities. Where all agree on a class, so do the sums.
template <class T>
void label(const T* const* logits, int networks, int64_t pixels, int classes, uint8_t* labels, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t p = 0; p < pixels; p++) {
    bool agree = true;
    for (int m = 0; m < networks; m++) {
      const T* mine = logits[m] + p * classes;
      int best = 0;
      for (int k = 1; k < classes; k++)
        if (scalar(mine[k]) > scalar(mine[best])) best = k;
      labels[m * pixels + p] = best;
      agree &= best == labels[p];
    }
    if (networks == 1) continue;
    uint8_t& both = labels[networks * pixels + p];
    both = labels[p];
    if (agree) continue;
    float sums[256] = {};
    for (int m = 0; m < networks; m++) {
      const T* mine = logits[m] + p * classes;
      const float top = scalar(mine[labels[m * pixels + p]]);
      float powers[256], total = 0;
      for (int k = 0; k < classes; k++) total += powers[k] = std::exp(scalar(mine[k]) - top);
      for (int k = 0; k < classes; k++) sums[k] += powers[k] / total;
    }
    both = std::max_element(sums, sums + classes) - sums;
  }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                              \
  extern "C" int moments_##NAME(const T* x, int64_t pixels, int channels, float* mean, float* variance, int threads) { \
    return guarded([&] { moments(x, pixels, channels, mean, variance, threads); });                                   \
  }                                                                                                                   \
  extern "C" int activate_##NAME(const T* x, T* y, int64_t pixels, int channels, const float* gain,                   \
                                 const float* offset, float slope, double rate, uint64_t seed, int threads) {         \
    return guarded([&] { activate(x, y, pixels, channels, gain, offset, slope, rate, seed, threads); });              \
  }                                                                                                                   \
  extern "C" int activate_backward_##NAME(const T* x, const T* dy, T* dx, int64_t pixels, int channels,               \
                                          const float* mean, const float* inverse, const float* gain,                 \
                                          const float* offset, float slope, double rate, uint64_t seed,               \
                                          float* dweight, float* dbias, int threads) {                                \
    return guarded([&] {                                                                                              \
      activate_backward(x, dy, dx, pixels, channels, mean, inverse, gain, offset, slope, rate, seed, dweight, dbias,  \
                        threads);                                                                                     \
    });                                                                                                               \
  }                                                                                                                   \
  extern "C" int upsample_##NAME(const T* coarse, const T* skip, T* fine, int64_t batch, int64_t height,              \
                                 int64_t width, int channels, int first, int threads) {                               \
    return guarded([&] { upsample(coarse, skip, fine, batch, height, width, channels, first, threads); });            \
  }                                                                                                                   \
  extern "C" int upsample_backward_##NAME(const T* dfine, T* dcoarse, int64_t batch, int64_t height, int64_t width,   \
                                          int channels, int64_t stride, int threads) {                                \
    return guarded([&] { upsample_backward(dfine, dcoarse, batch, height, width, channels, stride, threads); });      \
  }                                                                                                                   \
  extern "C" int pool_##NAME(const T* x, T* y, uint8_t* which, int64_t rows, int64_t width, int channels,             \
                             int threads) {                                                                           \
    return guarded([&] { pool(x, y, which, rows, width, channels, threads); });                                       \
  }                                                                                                                   \
  extern "C" int pool_backward_##NAME(const T* dy, const uint8_t* which, T* dx, int64_t rows, int64_t width,          \
                                      int channels, int threads) {                                                    \
    return guarded([&] { pool_backward(dy, which, dx, rows, width, channels, threads); });                            \
  }                                                                                                                   \
  extern "C" int label_##NAME(const T* const* logits, int networks, int64_t pixels, int classes, uint8_t* labels,     \
                              int threads) {                                                                          \
    return guarded([&] { label(logits, networks, pixels, classes, labels, threads); });                               \
  }
KERNELS(float, float32)
KERNELS(BFloat16, bfloat16)
