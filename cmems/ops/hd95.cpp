// Voxel counts and the 95th-percentile Hausdorff distance of label volumes, all classes in one call.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <queue>
#include <vector>

#include "simd.h"

namespace {

typedef double Doubles __attribute__((vector_size(LANES * 4)));
constexpr int LEAF = 16, PARTS = LEAF * 2 / LANES;  // points of a leaf, vectors of them

// A voxel as one number, 21 bits an axis, so that masked numbers compare as coordinates.
using Point = uint64_t;
constexpr int SHIFT[3] = {42, 21, 0};
constexpr uint64_t MASK[3] = {0x1fffffull << 42, 0x1fffffull << 21, 0x1fffffull};

struct Box {
  double low[3], high[3];

  // Squared distance to another box; no two points of the two are nearer.
  double squared_distance(const Box& other, const double* weight) const {
    double sum = 0;
    for (int a = 0; a < 3; a++) {
      const double gap = std::max({0.0, low[a] - other.high[a], other.low[a] - high[a]});
      sum += gap * gap * weight[a];
    }
    return sum;
  }
};

// The border voxels of one mask, as a k-d tree whose leaves have 16 points; the last of them repeats in the last leaf.
class Tree {
 public:
  Tree(std::vector<Point>& points, const double* weight) : points_(points), weight_(weight) {
    const size_t leaves = (points.size() + LEAF - 1) / LEAF;
    coordinates_.resize(leaves * 3 * LEAF);
    boxes_.resize(leaves);
    size_t nodes = 1;
    while (nodes < leaves) nodes *= 2;
    nodes_.resize(2 * nodes);
    split(1, 0, leaves);
  }

  size_t leaves() const { return boxes_.size(); }

  // Points of a leaf; the last leaf may have fewer than the others.
  size_t count(size_t leaf) const { return std::min<size_t>(LEAF, points_.size() - leaf * LEAF); }

  // Bounds the squared distances of a leaf's points to the nearest of `other` by those to one leaf near; returns the
  // largest bound.
  double bound(size_t leaf, const Tree& other, double* nearest) const {
    std::fill(nearest, nearest + LEAF, std::numeric_limits<double>::infinity());
    size_t n = 1, first = 0, last = other.leaves();
    while (last - first > 1) {
      const size_t middle = (first + last) / 2;
      const bool right = other.nodes_[2 * n + 1].squared_distance(boxes_[leaf], weight_) <
                         other.nodes_[2 * n].squared_distance(boxes_[leaf], weight_);
      n = 2 * n + right;
      (right ? first : last) = middle;
    }
    return other.meet(first, coordinates(leaf), nearest);
  }

  // Lowers such bounds, of which `farthest` is the largest, to the distances.
  void search(size_t leaf, const Tree& other, double* nearest, double farthest) const {
    other.visit(1, 0, other.leaves(), boxes_[leaf], coordinates(leaf), nearest, farthest);
  }

 private:
  std::vector<Point>& points_;
  const double* weight_;
  std::vector<double> coordinates_;  // per leaf 16 of each axis
  std::vector<Box> boxes_, nodes_;   // of the leaves; of the nodes, whose children are at 2n and 2n + 1

  const double* coordinates(size_t leaf) const { return coordinates_.data() + leaf * 3 * LEAF; }

  // Orders the points of leaves [first, last), of which node n is the root.
  void split(size_t n, size_t first, size_t last) {
    const auto begin = points_.begin() + first * LEAF, end = points_.begin() + std::min(last * LEAF, points_.size());
    Box& box = nodes_[n];
    int widest = 0;
    double most = -1;
    for (int a = 0; a < 3; a++) {
      Point low = ~Point(0), high = 0;
      for (auto p = begin; p < end; p++) {
        low = std::min(low, *p & MASK[a]);
        high = std::max(high, *p & MASK[a]);
      }
      box.low[a] = low >> SHIFT[a];
      box.high[a] = high >> SHIFT[a];
      const double width = (box.high[a] - box.low[a]) * (box.high[a] - box.low[a]) * weight_[a];
      if (width > most) most = width, widest = a;
    }
    if (last - first == 1) {
      boxes_[first] = box;
      for (int i = 0; i < LEAF; i++) {
        const Point point = points_[std::min(first * LEAF + i, points_.size() - 1)];
        for (int a = 0; a < 3; a++) coordinates_[(first * 3 + a) * LEAF + i] = (point & MASK[a]) >> SHIFT[a];
      }
      return;
    }
    const size_t middle = (first + last) / 2;
    std::nth_element(begin, points_.begin() + middle * LEAF, end,
                     [mask = MASK[widest]](Point p, Point q) { return (p & mask) < (q & mask); });
    split(2 * n, first, middle);
    split(2 * n + 1, middle, last);
  }

  // Lowers `nearest`, the squared distances of as many points as a leaf has, by what a leaf holds; returns the largest.
  double meet(size_t leaf, const double* points, double* nearest) const {
    Doubles from[3][PARTS], best[PARTS];
    std::memcpy(from, points, sizeof from);
    std::memcpy(best, nearest, sizeof best);
    const double* mine = coordinates(leaf);
    for (int i = 0; i < LEAF; i++)
      for (int v = 0; v < PARTS; v++) {
        const Doubles z = from[0][v] - mine[i], y = from[1][v] - mine[LEAF + i], x = from[2][v] - mine[2 * LEAF + i];
        const Doubles squared = z * z * weight_[0] + y * y * weight_[1] + x * x * weight_[2];
        best[v] = squared < best[v] ? squared : best[v];
      }
    std::memcpy(nearest, best, sizeof best);
    return *std::max_element(nearest, nearest + LEAF);
  }

  // Lowers `nearest`, and `farthest`, the largest of them, by what node n holds.
  void visit(size_t n, size_t first, size_t last, const Box& box, const double* points, double* nearest,
             double& farthest) const {
    if (last - first == 1) {
      farthest = meet(first, points, nearest);
      return;
    }
    const size_t middle = (first + last) / 2;
    const double left = nodes_[2 * n].squared_distance(box, weight_);
    const double right = nodes_[2 * n + 1].squared_distance(box, weight_);
    const bool swap = right < left;
    for (int turn = 0; turn < 2; turn++) {
      const bool second = (turn == 1) != swap;
      if ((second ? right : left) < farthest)
        visit(2 * n + second, second ? middle : first, second ? last : middle, box, points, nearest, farthest);
    }
  }
};

// The 95th percentile, between two ranks as numpy interpolates it, of the distances of either's points to the other's.
double percentile(const Tree& a, const Tree& b) {
  struct Leaf {
    const Tree *tree, *other;
    size_t number;
    double farthest, nearest[LEAF];
  };
  std::vector<Leaf> leaves(a.leaves() + b.leaves());
  size_t total = 0;
  for (size_t i = 0; i < leaves.size(); i++) {
    Leaf& leaf = leaves[i];
    leaf.tree = i < a.leaves() ? &a : &b;
    leaf.other = i < a.leaves() ? &b : &a;
    leaf.number = i < a.leaves() ? i : i - a.leaves();
    leaf.farthest = leaf.tree->bound(leaf.number, *leaf.other, leaf.nearest);
    total += leaf.tree->count(leaf.number);
  }
  std::vector<size_t> order(leaves.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return leaves[i].farthest > leaves[j].farthest; });
  // The largest distances, from the percentile's lower rank on, smallest on top. Leaves are searched until none of the
  // rest can have one of these.
  const double rank = 0.95 * (total - 1);
  const size_t below = size_t(rank), wanted = total - below;
  std::priority_queue<double, std::vector<double>, std::greater<>> largest;
  for (const size_t i : order) {
    Leaf& leaf = leaves[i];
    if (largest.size() == wanted && leaf.farthest <= largest.top()) break;
    leaf.tree->search(leaf.number, *leaf.other, leaf.nearest, leaf.farthest);
    for (size_t p = 0; p < leaf.tree->count(leaf.number); p++) {
      largest.push(leaf.nearest[p]);
      if (largest.size() > wanted) largest.pop();
    }
  }
  const double low = std::sqrt(largest.top());
  if (wanted == 1) return low;
  largest.pop();
  const double high = std::sqrt(largest.top());
  return rank - below < 0.5 ? low + (high - low) * (rank - below) : high - (high - low) * (1 - (rank - below));
}

// Calls function(voxel) for every voxel whose label is not 0.
template <class Function>
void each_labelled(const uint8_t* labels, int64_t voxels, Function function) {
  for (int64_t i = 0; i < voxels; i++) {
    uint64_t eight;
    while (i + 8 <= voxels && (std::memcpy(&eight, labels + i, 8), eight == 0)) i += 8;
    if (i < voxels && labels[i]) function(i);
  }
}

// Per class, the voxels with a face neighbour of another label, or on the face of the volume.
std::vector<std::vector<Point>> borders(const uint8_t* labels, const int64_t* shape, int classes) {
  std::vector<std::vector<Point>> points(classes);
  const int64_t row = shape[2], slice = shape[1] * row;
  each_labelled(labels, shape[0] * slice, [&](int64_t i) {
    const int label = labels[i];
    if (label >= classes) return;
    const int64_t z = i / slice, y = i % slice / row, x = i % row;
    const bool face = z == 0 || z == shape[0] - 1 || y == 0 || y == shape[1] - 1 || x == 0 || x == row - 1;
    if (face || labels[i - slice] != label || labels[i + slice] != label || labels[i - row] != label ||
        labels[i + row] != label || labels[i - 1] != label || labels[i + 1] != label)
      points[label].push_back(uint64_t(z) << SHIFT[0] | uint64_t(y) << SHIFT[1] | uint64_t(x));
  });
  return points;
}

// Per prediction counts (3, classes), the voxels of the reference, of the prediction and of both; and hd95 (classes),
// unless it is null: nan where either has no voxel.
void score(const uint8_t* reference, const uint8_t* const* predictions, int models, const int64_t* shape, int classes,
           const double* spacing, int64_t* counts, double* hd95) {
  const int64_t voxels = shape[0] * shape[1] * shape[2];
  const double weight[3] = {spacing[0] * spacing[0], spacing[1] * spacing[1], spacing[2] * spacing[2]};
  std::memset(counts, 0, size_t(models) * 3 * classes * sizeof *counts);
  std::vector<std::vector<Point>> theirs;
  std::vector<std::unique_ptr<Tree>> trees(classes);
  if (hd95) theirs = borders(reference, shape, classes);
  for (int m = 0; m < models; m++, counts += 3 * classes) {
    const uint8_t* prediction = predictions[m];
    each_labelled(reference, voxels, [&](int64_t i) {
      const int label = reference[i];
      if (label >= classes) return;
      counts[label]++;
      if (prediction[i] == label) counts[2 * classes + label]++;
    });
    each_labelled(prediction, voxels, [&](int64_t i) {
      if (prediction[i] < classes) counts[classes + prediction[i]]++;
    });
    if (!hd95) continue;
    auto ours = borders(prediction, shape, classes);
    for (int k = 0; k < classes; k++, hd95++) {
      *hd95 = std::numeric_limits<double>::quiet_NaN();
      if (theirs[k].empty() || ours[k].empty()) continue;
      if (!trees[k]) trees[k].reset(new Tree(theirs[k], weight));
      *hd95 = percentile(*trees[k], Tree(ours[k], weight));
    }
  }
}

}  // namespace

extern "C" int score_labels(const uint8_t* reference, const uint8_t* const* predictions, int models,
                            const int64_t* shape, int classes, const double* spacing, int64_t* counts, double* hd95) {
  return guarded([&] { score(reference, predictions, models, shape, classes, spacing, counts, hd95); });
}
