// One image's results as a product with patches that are not written: Direct, Gathered or Lines (conv.h). Conv itself,
// and dx by turned weights.
#pragma once
#include "cpu/conv_source.h"

namespace knet::cpu::conv {

// y (O x P) = w (O x CK) patches (CK x P) for one image and group.
template <class T>
class Sweep {
 public:
  // A share is `per_share` of the results along dimension `d` (those before it have one).
  Sweep(const Source<T>& source, const Axes& a, int64_t in_channels, int64_t out_channels, size_t d, int64_t per_share)
      : out_channels_(out_channels), patch_(in_channels * taps(a)), plane_(results(a)), row_(a[2].y) {
    off_ = source.offsets(a, in_channels);
    at_ = source.positions(a);
    const int64_t lanes = micro_of<T>().lanes;
    share_ = per_share;
    for (size_t e = d + 1; e < 3; ++e) share_ *= a[e].y;
    share_ = std::max<int64_t>(1, share_);
    for (int64_t q = 0; q < plane_; q += share_) {
      first_.push_back(int64_t(pieces_.size()));
      cover(q, std::min(plane_, q + share_));
    }
    // Columns computed for each that is wanted: all that lie between, against a plane padded to vectors plus the
    // gathering, taken as 10 more rows of products (a panel row of 32 floats is copied in two to four pieces).
    const double wanted = double(std::max<int64_t>(plane_, 1));
    const double direct = double(int64_t(pieces_.size()) * lanes) / wanted;
    const double gathered =
        double(round_up(plane_, lanes)) / wanted * (1 + 10 / double(std::max<int64_t>(1, out_channels)));
    direct_ = out_channels <= kLines || direct <= gathered;
    if (!direct_) {
      first_.clear();
      pieces_.clear();
      orders_.clear();
      for (int64_t q = 0; q < plane_; q += share_) {
        first_.push_back(int64_t(pieces_.size()));
        for (int64_t i = q; i < std::min(plane_, q + share_); i += lanes)
          pieces_.push_back({0, i, int(std::min(lanes, std::min(plane_, q + share_) - i)), -1});
      }
    }
    first_.push_back(int64_t(pieces_.size()));
    block_ = direct_ && a[2].taps.size() >= 3 ? kWide : kBlock;
    // Four and a half vectors of multiply-adds a nanosecond; two and a half where each needs a load.
    cost_ns = double(out_channels * patch_) * (direct_ ? direct : gathered) * wanted /
              (double(lanes) * (out_channels <= 1 ? 2.5 : 4.5));
  }

  double cost_ns;  // of one image and group
  int64_t plane() const { return plane_; }
  // Of the results of a plane: the first of a share, and how many it has.
  int64_t begin(int64_t share) const { return std::min(plane_, share * share_); }
  int64_t size(int64_t share) const { return begin(share + 1) - begin(share); }
  size_t packed_bytes() const { return direct_ ? 0 : size_t(kBlock * 2 * micro_of<T>().lanes) * sizeof(T); }
  const char* text() const { return out_channels_ <= kLines ? "lines" : direct_ ? "direct" : "gathered"; }

  // x: the source; w: (O, CK); y: the share's first result, ldc from one channel to the next; packed: packed_bytes.
  void run(int64_t share, const T* x, const T* w, T* y, int64_t ldc, T* packed) const {
    if (size(share) == 0) return;
    const Micro<T>& micro = micro_of<T>();
    y -= begin(share);
    const int64_t first = first_[size_t(share)], last = first_[size_t(share) + 1];
    if (patch_ == 0) {
      for (int64_t o = 0; o < out_channels_; ++o) std::fill_n(y + begin(share) + o * ldc, size(share), T(0));
      return;
    }
    if (out_channels_ <= kLines) {
      micro.lines(out_channels_, patch_, w, patch_, off_.data(), x, y, ldc, pieces_.data() + first, last - first,
                  orders_.data());
      return;
    }
    const int64_t width = 2 * micro.lanes;
    int64_t rows[kBlock];
    if (!direct_)
      for (int64_t p = 0; p < std::min(kBlock, patch_); ++p) rows[p] = p * width;
    // Weights beyond L2's share are read once for a whole group of panels, a block of rows of patches at a time; the
    // block after that is fetched meanwhile.
    const int64_t group = out_channels_ * patch_ * int64_t(sizeof(T)) <= kWeights
                              ? 2
                              : 2 * std::max<int64_t>(1, kWeights / (out_channels_ * width * int64_t(sizeof(T))));
    for (int64_t begin = first; begin < last; begin += group)
      for (int64_t p0 = 0; p0 < patch_; p0 += block_)
        for (int64_t i = begin; i < std::min(last, begin + group); i += 2) {
          const bool two = i + 1 < last;
          const int64_t kk = std::min(block_, patch_ - p0);
          Panel<T> p;
          for (int v = 0; v < 2; ++v) {
            const Piece& piece = pieces_[size_t(two ? i + v : i)];
            p.b[v] = direct_ ? x + piece.from : packed + v * micro.lanes;
            p.c[v] = y + piece.to;
            p.n[v] = v == 0 || two ? piece.n : 0;
            if (piece.order >= 0) p.order[v] = orders_.data() + piece.order * micro.lanes;
          }
          const int64_t panels = (std::min(last, begin + group) - begin + 1) / 2, panel = (i - begin) / 2;
          if (group > 2 && p0 + block_ < patch_) {
            const int64_t o = out_channels_ * panel / panels;
            p.next[0] = {w + o * patch_ + p0 + block_, out_channels_ * (panel + 1) / panels - o, patch_,
                         std::min(block_, patch_ - p0 - block_)};
          }
          if (!direct_) gather(packed, x, pieces_[size_t(i)].to, p.n[0] + p.n[1], p0, kk, width);
          micro.panel(out_channels_, kk, w + p0, patch_, 1, direct_ ? off_.data() + p0 : rows, p, ldc, p0 > 0);
        }
  }

 private:
  static constexpr int64_t kLines = 3;            // rows of results that are too few for panels
  static constexpr int64_t kBlock = 256;          // rows of a panel: 256 x 32 floats are 32 KiB
  static constexpr int64_t kWide = 576;           // where rows of a panel share their lines in the source
  static constexpr int64_t kWeights = 512 << 10;  // bytes

  // Results q to end - 1, by as few vectors as reach them all from the first that is left.
  void cover(int64_t q, int64_t end) {
    const int64_t lanes = micro_of<T>().lanes;
    while (q < end) {
      const int64_t from = at_[size_t(q)];
      int64_t n = 1;
      while (q + n < end && at_[size_t(q + n)] - from < lanes) ++n;
      int order = -1;
      if (at_[size_t(q + n - 1)] - from != n - 1) {
        order = int(orders_.size() / size_t(lanes));
        for (int64_t j = 0; j < lanes; ++j)
          orders_.push_back(Lane<T>(at_[size_t(std::min(q + j, q + n - 1))] - from));
      }
      pieces_.push_back({from, q, int(n), order});
      q += n;
    }
  }
  // Results q .. q + n of rows p0 .. p0 + kk of the patches.
  void gather(T* to, const T* x, int64_t q, int64_t n, int64_t p0, int64_t kk, int64_t width) const {
    for (int64_t j = 0; j < n;) {
      const int64_t run = std::min(n - j, row_ - (q + j) % row_);
      micro_of<T>().columns(to + j, width, x + at_[size_t(q + j)], off_.data() + p0, kk, run);
      j += run;
    }
    // Columns beyond the last are computed (not stored): they must be numbers that cost nothing, not stale denormals.
    const int64_t whole = round_up(n, micro_of<T>().lanes);
    for (int64_t p = 0; n < whole && p < kk; ++p) std::fill_n(to + p * width + n, whole - n, T(0));
  }

  int64_t out_channels_, patch_, plane_, row_, share_, block_;  // a share: results
  std::vector<int64_t> off_, at_, first_;
  std::vector<Piece> pieces_;
  std::vector<Lane<T>> orders_;
  bool direct_;
};

}  // namespace knet::cpu::conv
