// Results with vectors along the output channels (Channels, conv.h), and weights as they want them.
#pragma once
#include "cpu/conv_source.h"

namespace knet::cpu::conv {

// Weights for Channels: panels of as many output channels as two vectors have lanes, each a row for every element of a
// patch, zeros beyond the last channel. Elements of one group of O channels and patches of CK.
template <class T>
int64_t packed_weights(int64_t out_channels, int64_t patch) {
  return round_up(out_channels, 2 * micro_of<T>().lanes) * patch;
}

// y (O x P) = w (O x CK) patches (CK x P) for one image and group: a tile of results in registers, a vector for some
// channels of each, adds up the elements of their patches, read where they lie, times rows of packed weights. No lanes
// are lost to the borders of rows, whatever the strides; the tiles are turned when they are done. Of a core's 179
// GFLOP/s 170 to 175 in 3x3 convolutions of 64 to 512 channels with everything in place, where vectors along the
// positions had 140: most of their loads cross two cache lines, and rows of 14 and 7 leave lanes.
template <class T>
class Channels {
 public:
  // A share is `per_share` of the results along dimension `d` (those before it have one).
  Channels(const Source<T>& source, const Axes& a, int64_t in_channels, int64_t out_channels, size_t d,
           int64_t per_share)
      : out_channels_(out_channels), patch_(in_channels * taps(a)) {
    const Micro<T>& micro = micro_of<T>();
    off_ = source.offsets(a, in_channels);
    const auto at = source.positions(a);
    const int64_t plane = results(a), width = 2 * micro.lanes;
    int64_t share = per_share;
    for (size_t e = d + 1; e < 3; ++e) share *= a[e].y;
    share = std::max<int64_t>(1, share);
    double rows = 0;
    for (int64_t q = 0; q < plane; q += share) {
      first_.push_back(tiles_.size());
      const int64_t end = std::min(plane, q + share), row = std::min(end - q, a[2].y);
      for (int64_t p = q; p < end;) rows += add_tiles(p, end, row, at);
    }
    first_.push_back(tiles_.size());
    // A row of a tile takes a cycle for two vectors, the results 16 to be turned and written.
    cost_ns = double(round_up(out_channels, width) / width) * (rows * double(patch_) + double(plane) * 16) / kGHz;
  }

  double cost_ns;  // of one image and group

  // The scratch that it wants.
  static size_t bytes() { return size_t((kTurned + micro_of<T>().rows) * 2 * micro_of<T>().lanes) * sizeof(T); }

  // x: the source; w: packed; y: the plane's first result, ldc from one channel to the next; turned: `bytes`.
  // `ahead` is fetched meanwhile.
  void run(int64_t share, const T* x, const T* w, T* y, int64_t ldc, T* turned, const Ahead<T>& ahead) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t width = 2 * micro.lanes;
    const size_t first = first_[size_t(share)], last = first_[size_t(share) + 1];
    int64_t done = 0;
    const int64_t all = (out_channels_ + width - 1) / width * int64_t(last - first);
    for (int64_t o = 0; o < out_channels_; o += width) {
      const T* panel = w + o * patch_;
      const int64_t channels = std::min(width, out_channels_ - o);
      for (size_t t = first; t < last;) {
        const int64_t to = tiles_[t].to;
        int64_t n = 0;
        for (; t < last && n < kTurned; ++t) {
          const Tile& tile = tiles_[t];
          const T* a[kRuns];
          for (int r = 0; r < tile.runs; ++r) a[r] = x + tile.from[r];
          ahead.fetch(done, all);
          ++done;
          // What is written next is on its way while the sums are made.
          const int64_t length = tile.runs * tile.len;
          for (int64_t c = 0; c < channels; ++c) {
            __builtin_prefetch(y + (o + c) * ldc + tile.to, 1);
            __builtin_prefetch(y + (o + c) * ldc + tile.to + length - 1, 1);
          }
          micro.tile(tile.runs, tile.len, patch_, a, off_.data(), panel, turned + n * width, false);
          n += length;
        }
        micro.pack(y + o * ldc + to, channels, n, n, ldc, turned, 1, width);
      }
    }
  }

 private:
  static constexpr int64_t kTurned = 64;  // results that are turned together
  static constexpr double kGHz = 2.6;
  // `runs` runs of `len` neighbours each; their results are one run from `to` on.
  struct Tile {
    int64_t to;
    int runs, len;
    int64_t from[kRuns];
  };
  // What is left of a row from result q on, in tiles of about equal length, or, of short rows, as many as fit. Returns
  // the cycles for an element of the patch: sums of fewer than 8 rows wait for each other.
  double add_tiles(int64_t& q, int64_t end, int64_t row, const std::vector<int64_t>& at) {
    const int64_t most = micro_of<T>().rows;
    double cycles = 0;
    auto add = [&](int64_t runs, int64_t len) {
      Tile t{q, int(runs), int(len), {}};
      for (int64_t r = 0; r < runs; ++r, q += len) t.from[r] = at[size_t(q)];
      tiles_.push_back(t);
      cycles += double(std::max<int64_t>(std::min<int64_t>(8, most), runs * len));
    };
    if (2 * row <= most) {
      add(std::min({int64_t(kRuns), most / row, (end - q) / row}), row);
    } else {
      const int64_t parts = (row + most - 1) / most;
      for (int64_t i = 0; i < parts; ++i) add(1, row * (i + 1) / parts - row * i / parts);
    }
    return cycles;
  }

  int64_t out_channels_, patch_;
  std::vector<int64_t> off_;
  std::vector<Tile> tiles_;
  std::vector<size_t> first_;
};

}  // namespace knet::cpu::conv
