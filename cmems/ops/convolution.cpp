// 3x3 convolution of maps with channels last, by Winograd's minimal filtering F(4x4, 3x3) of Lavin and Gray (2016): a
// product per pair of channels for 36 numbers of a 6x6 tile of the input makes a 4x4 tile of the output, a quarter of
// what the definition takes. Maps are float32 or bfloat16; arithmetic is float32.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "simd.h"

namespace {

constexpr int POINTS = 36;
// Accumulators of the product, which are to fill the vector registers: rows (tiles) by groups of LANES output channels.
constexpr int ROWS = LANES == 16 ? 14 : 6, GROUPS = 2;

int groups(int channels) { return channels % (GROUPS * LANES) ? 1 : GROUPS; }

// One axis of the weights' transform, G w: three numbers `from` apart to six `to` apart.
inline void transform_weights(const Floats* w, int from, Floats* u, int to) {
  const Floats sum = w[0] + w[2 * from], wide = w[0] * (1 / 24.f) + w[2 * from] * (1 / 6.f);
  u[0] = w[0] * (1 / 4.f);
  u[to] = (sum + w[from]) * (-1 / 6.f);
  u[2 * to] = (sum - w[from]) * (-1 / 6.f);
  u[3 * to] = wide + w[from] * (1 / 12.f);
  u[4 * to] = wide - w[from] * (1 / 12.f);
  u[5 * to] = w[2 * from];
}

// One axis of the input's transform, B^T d: six to six.
inline void transform_input(const Floats* d, int from, Floats* v, int to) {
  const Floats d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
  const Floats even = d4 - d2 * 4.f, odd = d3 - d1 * 4.f, even2 = d4 - d2, odd2 = (d3 - d1) * 2.f;
  v[0] = d[0] * 4.f - d2 * 5.f + d4;
  v[to] = even + odd;
  v[2 * to] = even - odd;
  v[3 * to] = even2 + odd2;
  v[4 * to] = even2 - odd2;
  v[5 * to] = d1 * 4.f - d3 * 5.f + d[5 * from];
}

// One axis of the output's transform, A^T m: six to four.
inline void transform_output(const Floats* m, int from, Floats* y, int to) {
  const Floats sum = m[from] + m[2 * from], difference = m[from] - m[2 * from];
  const Floats sum2 = m[3 * from] + m[4 * from], difference2 = m[3 * from] - m[4 * from];
  y[0] = m[0] + sum + sum2;
  y[to] = difference + difference2 * 2.f;
  y[2 * to] = sum + sum2 * 4.f;
  y[3 * to] = difference + difference2 * 8.f + m[5 * from];
}

// u, of (out / W, 36, in, W) with W channels of `groups` vectors, from w of (out, in, 3, 3) and these strides.
void transform_all_weights(const float* w, const int64_t* strides, float* u, int in, int out, int threads) {
  const int width = groups(out) * LANES;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
  for (int k = 0; k < out; k += LANES)
    for (int c = 0; c < in; c++) {
      Floats taps[9], half[18], all[POINTS];
      for (int i = 0; i < 9; i++)
        for (int j = 0; j < LANES; j++) 
          taps[i][j] = w[(k + j) * strides[0] + c * strides[1] + i / 3 * strides[2] + i % 3 * strides[3]];
      for (int i = 0; i < 3; i++) transform_weights(taps + i * 3, 1, half + i * 6, 1);
      for (int j = 0; j < 6; j++) transform_weights(half + j, 6, all + j, 6);
      float* to = u + int64_t(k / width) * POINTS * in * width + c * width + k % width;
      for (int p = 0; p < POINTS; p++) store(to + int64_t(p) * in * width, all[p]);
    }
}

// m (ROWS, G groups) = v (ROWS, in) times u (in, G groups).
template <int G>
inline void multiply(const float* v, const float* u, float* m, int in) {
  Floats sums[ROWS][G] = {};
  for (int c = 0; c < in; c++) {
    Floats weights[G];
#pragma GCC unroll 2
    for (int g = 0; g < G; g++) weights[g] = load(u + (c * G + g) * LANES);
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
      for (int g = 0; g < G; g++) sums[r][g] += broadcast(v[r * in + c]) * weights[g];
  }
#pragma GCC unroll 14
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int g = 0; g < G; g++) store(m + (r * G + g) * LANES, sums[r][g]);
}

// What follows the sums of products: a convolution's bias, which may be null, and batch norm.
struct Norm {
  const float *bias, *weight, *offset, *mean, *variance;
  float epsilon;
};

// y = leaky_relu(norm(convolution(x))), with a zero beyond every edge.
template <class T>
void convolve(const T* x, const float* w, const int64_t* strides, const Norm& norm, T* y, int64_t batch, int64_t height,
              int64_t width, int in, int out, float slope, int threads) {
  std::vector<float> gain(out), offset(out);
  for (int k = 0; k < out; k++) {
    gain[k] = norm.weight[k] / std::sqrt(norm.variance[k] + norm.epsilon);
    offset[k] = norm.offset[k] + ((norm.bias ? norm.bias[k] : 0) - norm.mean[k]) * gain[k];
  }
  const std::unique_ptr<float[]> u(new float[size_t(POINTS) * in * out]);  // left unset, unlike a vector
  transform_all_weights(w, strides, u.get(), in, out, threads);
  const int64_t down = (height + 3) / 4, across = (width + 3) / 4, tiles = batch * down * across;
  // Tiles transformed at once: as many as half a MiB takes, but no fewer than the product's rows.
  const int most = std::max(1, int((512 << 10) / (POINTS * sizeof(float) * in * ROWS))) * ROWS, G = groups(out);
  const int chunk = std::min<int64_t>({most, 6 * ROWS, (tiles / threads / ROWS + 1) * ROWS});
  // Rows of a point's own stride: at a multiple of 4 KiB all points would share one set of the cache.
  const int64_t vs = chunk * in + LANES, ms = chunk * G * LANES + LANES;
  const std::unique_ptr<float[]> scratch(new float[threads * POINTS * (vs + ms)]);
#pragma omp parallel num_threads(threads)
  {
    float *v = scratch.get() + omp_get_thread_num() * POINTS * (vs + ms), *m = v + POINTS * vs;
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < tiles; first += chunk) {
      const int count = std::min<int64_t>(chunk, tiles - first);
      for (int t = 0; t < count; t++) {
        const int64_t tile = first + t, top = tile / across % down * 4 - 1, left = tile % across * 4 - 1;
        const T* image = x + tile / (down * across) * height * width * in;
        const bool inside = top >= 0 && left >= 0 && top + 6 <= height && left + 6 <= width;
        for (int c = 0; c < in; c += LANES) {
          Floats half[POINTS];
          for (int i = 0; i < 6; i++) {
            Floats row[6] = {};
            for (int j = 0; j < 6; j++)
              if (inside || (top + i >= 0 && top + i < height && left + j >= 0 && left + j < width))
                row[j] = load(image + ((top + i) * width + left + j) * in + c);
            transform_input(row, 1, half + i * 6, 1);
          }
          for (int j = 0; j < 6; j++) {
            Floats column[6];
            transform_input(half + j, 6, column, 1);
            for (int i = 0; i < 6; i++) store(v + (i * 6 + j) * vs + t * in + c, column[i]);
          }
        }
      }
      for (int k = 0; k < out; k += G * LANES) {
        for (int p = 0; p < POINTS; p++)
          for (int r = 0; r < count; r += ROWS) {  // rows beyond `count` are there, and not read
            const float *rows = v + p * vs + r * in, *mine = u.get() + (int64_t(k) * POINTS + p * G * LANES) * in;
            float* to = m + p * ms + r * G * LANES;
            G == GROUPS ? multiply<GROUPS>(rows, mine, to, in) : multiply<1>(rows, mine, to, in);
          }
        for (int t = 0; t < count; t++) {
          const int64_t tile = first + t, top = tile / across % down * 4, left = tile % across * 4;
          T* image = y + tile / (down * across) * height * width * out;
          for (int g = 0; g < G; g++) {
            const int c = k + g * LANES;
            Floats half[24];
            for (int i = 0; i < 6; i++) {
              Floats row[6];
              for (int j = 0; j < 6; j++) row[j] = load(m + (i * 6 + j) * ms + (t * G + g) * LANES);
              transform_output(row, 1, half + i * 4, 1);
            }
            for (int j = 0; j < 4 && left + j < width; j++) {
              Floats column[4];
              transform_output(half + j, 4, column, 1);
              for (int i = 0; i < 4 && top + i < height; i++)
                store(image + ((top + i) * width + left + j) * out + c,
                      leaky_relu(column[i] * load(gain.data() + c) + load(offset.data() + c), slope));
            }
          }
        }
      }
    }
  }
}

}  // namespace

#define CONVOLVE(T, NAME)                                                                                             \
  extern "C" int convolve_##NAME(const T* x, const float* w, const int64_t* strides, const float* bias,               \
                                 const float* weight, const float* offset, const float* mean, const float* variance,  \
                                 float epsilon, T* y, int64_t batch, int64_t height, int64_t width, int in, int out,  \
                                 float slope, int threads) {                                                          \
    const Norm norm{bias, weight, offset, mean, variance, epsilon};                                                   \
    return guarded([&] { convolve(x, w, strides, norm, y, batch, height, width, in, out, slope, threads); });         \
  }
CONVOLVE(float, float32)
CONVOLVE(BFloat16, bfloat16)
