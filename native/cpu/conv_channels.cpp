// conv and conv_dx with vectors along the channels that are made.
#include "cpu/conv_source.h"
#include "cpu/gemm.h"

namespace knet::cpu::conv {
namespace {

// y (O x P) = w (O x CK) patches (CK x P), or dx in the same way from dy, phase by phase. A tile of results is kept in
// registers, a vector for some channels of each; it adds up the elements of their patches, read where they lie, times
// rows of packed weights. The tiles of results that lie side by side, those of all phases, are turned together. No
// lanes are lost to the borders of rows, and no load of a vector crosses two cache lines: of a core's 179 GFLOP/s the
// loops reach 170 to 175 in 3x3 convolutions of 64 to 512 channels, where vectors along the positions reached 105 to
// 145. What is lost beside them: padding the image 1 to 9 % of the loops' time (with strides of 2 16 %), turning 2 to 3
// %, packing weights of 512 x 512 x 9 5 %.
template <class T>
class ConvChannels final : public Step {
 public:
  ConvChannels(const Geometry& g, bool back)
      : g_(g), back_(back), read_(back ? g.out_channels : g.in_channels), made_(back ? g.in_channels : g.out_channels),
        axes_(back ? all_phases(g) : axes(g)), source_(axes_, true, 0),
        tasks_(axes_, g.images * g.groups, image_ns<T>(g), most_per_share()) {
    for (size_t d = 0; d < 3; ++d) {
      to_[d] = back ? g.x[d] : g.y[d];
      stride_[d] = back ? g.stride[d] : 1;
      phases_n_[d] = back ? phases(g, d) : 1;
    }
    for (int64_t i = 0; i < phases_n_[0]; ++i)
      for (int64_t j = 0; j < phases_n_[1]; ++j)
        for (int64_t k = 0; k < phases_n_[2]; ++k) {
          const int64_t at[3] = {i, j, k};
          Phase p{{}, patch_, {}, {}, {}};
          const Axes a = back ? phase_axes(g, at, &p.taps) : axes_;
          for (size_t d = 0; d < 3; ++d) p.y[d] = a[d].y;
          p.off = source_.offsets(a, read_);
          p.at = source_.positions(a);
          patch_ += int64_t(p.off.size());
          list_.push_back(std::move(p));
        }
    double cycles = 0;
    for (int64_t lo = 0; lo < axes_[tasks_.d].y; lo += tasks_.per_share)
      cycles += add_share(lo, std::min(axes_[tasks_.d].y, lo + tasks_.per_share));
    first_.push_back(groups_.size());
    const int64_t width = 2 * micro_of<T>().lanes, panels = (made_ + width - 1) / width;
    packed_ = panels * width * patch_;
    scratch_bytes = size_t(g.groups * packed_) * sizeof(T);
    const double copy_ns = source_.in_place ? 0 : double(read_ * source_.channel) * kCopyNs<T>;
    cost_ns = double(tasks_.images) * (double(panels) * cycles / kGHz + copy_ns) + pack_ns() + 100;
  }
  static bool fits(const Geometry& g, bool back) {
    return (back ? g.in_channels : g.out_channels) > 3 && g.images > 0 && g.x_plane() > 0 && g.y_plane() > 0 &&
           g.window() > 0;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto x = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    auto packed = reinterpret_cast<T*>(scratch);
    if (back_) pack_back(w, packed);
    else pack(w, packed);
    const int64_t y_d = axes_[tasks_.d].y, plane = to_[0] * to_[1] * to_[2];
    const int64_t image_size = read_ * (back_ ? g_.y_plane() : g_.x_plane());
    tasks_.run(cost_ns, [&](int64_t image, int64_t share) {
      const size_t room = source_.bytes(read_);
      const int64_t width = 2 * micro_of<T>().lanes;
      auto* area = static_cast<char*>(workspace(1, room + size_t(most_turned_ * width) * sizeof(T)));
      const T* from = source_.prepare(
          x + image * image_size, read_, false, reinterpret_cast<T*>(area), tasks_.d,
          source_.reach(tasks_.d, share * tasks_.per_share, std::min(y_d, (share + 1) * tasks_.per_share), y_d));
      multiply(share, from, packed + image % g_.groups * packed_, y + image * made_ * plane, plane,
               reinterpret_cast<T*>(area + room));
    });
  }
  std::string text() const override {
    std::string s = "channels, " + std::to_string(tasks_.count()) + " tasks";
    if (list_.size() > 1) s += ", " + std::to_string(list_.size()) + " phases";
    return s;
  }

 private:
  static constexpr int64_t kTurned = 64;  // results that are turned together, where they can be
  static constexpr double kGHz = 2.6;
  // Results of stride 1, all of them where there are no strides to be undone.
  struct Phase {
    int64_t y[3];
    int64_t first;             // of the rows of a panel of weights
    std::vector<int64_t> off;  // of the elements of a patch
    std::vector<int64_t> at;   // of the patches
    std::vector<int64_t> taps;  // dx: which elements of the window they meet
  };
  // Results of one phase: runs of neighbours, from `to` of their group on.
  struct Tiled {
    int64_t to, from[kRuns];
    int phase, runs, len;
  };
  // n results from `to` on, and their last tile.
  struct Group {
    int64_t to, n;
    size_t last;
  };

  // What a share copies of an image is at most 512 KiB of L2, if that is 8 rows or more.
  int64_t most_per_share() const {
    const size_t d = axes_[0].y > 1 ? 0 : axes_[1].y > 1 ? 1 : 2;
    const int64_t bytes = read_ * source_.channel * int64_t(sizeof(T)) / axes_[d].y;
    return std::max<int64_t>(8, (512 << 10) / std::max<int64_t>(1, bytes));
  }
  double pack_ns() const { return double(g_.groups * packed_) * 0.3; }

  // Results lo to hi - 1 of the phases along the shares' dimension; the cycles that they take for each panel.
  double add_share(int64_t lo, int64_t hi) {
    int64_t begin[3] = {0, 0, 0}, end[3] = {axes_[0].y, axes_[1].y, axes_[2].y};
    begin[tasks_.d] = lo;
    end[tasks_.d] = hi;
    first_.push_back(groups_.size());
    double cycles = 0;
    for (int64_t m = begin[0]; m < end[0]; ++m)
      for (int64_t i = 0; i < phases_n_[0] && m * stride_[0] + i < to_[0]; ++i)
        for (int64_t r = begin[1]; r < end[1];) {
          const int64_t rows = rows_at_once(end[1] - r, end[2] - begin[2]);
          // Several rows of each phase make one group, a row of them one for each of its parts.
          const int64_t together = rows > 1 ? phases_n_[1] : 1;
          for (int64_t j = 0; j < phases_n_[1]; j += together)
            cycles += add_rows(m, i, r, rows, j, together, begin[2], end[2]);
          r += rows;
        }
    return cycles;
  }
  // Short rows are done several at once, if they are whole.
  int64_t rows_at_once(int64_t left, int64_t row) const {
    const int64_t most = micro_of<T>().rows;
    if (tasks_.d == 2 || 2 * row > most) return 1;
    return std::clamp<int64_t>(std::min(left, 4 * kTurned / (stride_[1] * to_[2])), 1,
                               std::min<int64_t>(kRuns, most / row));
  }
  // Rows r to r + rows - 1 of phases j to j + together - 1, their columns begin to end - 1, in parts of equal length.
  double add_rows(int64_t m, int64_t i, int64_t r, int64_t rows, int64_t j0, int64_t together, int64_t begin,
                  int64_t end) {
    const int64_t most = micro_of<T>().rows, parts = (end - begin + most - 1) / most;
    double cycles = 0;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t c = begin + (end - begin) * part / parts, length = begin + (end - begin) * (part + 1) / parts - c;
      const int64_t top = r * stride_[1] + j0;
      Group g{((m * stride_[0] + i) * to_[1] + top) * to_[2] + c * stride_[2], 0, 0};
      // Goes on where the one before ends.
      const bool joins = groups_.size() > first_.back() && groups_.back().to + groups_.back().n == g.to &&
                         groups_.back().n < kTurned;
      const int64_t before = joins ? groups_.back().n : 0;
      for (int64_t j = j0; j < j0 + together; ++j)
        for (int64_t k = 0; k < phases_n_[2]; ++k) {
          const int64_t phase = (i * phases_n_[1] + j) * phases_n_[2] + k;
          const Phase& p = list_[size_t(phase)];
          const int64_t runs = std::min(rows, p.y[1] - r), len = std::min(length, p.y[2] - c);
          if (runs <= 0 || len <= 0) continue;
          Tiled t{before + (j - j0) * to_[2] + k, {}, int(phase), int(runs), int(len)};
          for (int64_t n = 0; n < runs; ++n) t.from[n] = p.at[size_t((m * p.y[1] + r + n) * p.y[2] + c)];
          tiles_.push_back(t);
          g.n += runs * len;
          // A row of a tile takes a cycle for two vectors; fewer than 8 rows wait for each other. Then 40 cycles to
          // turn and write each result's.
          cycles += double(std::max<int64_t>(std::min<int64_t>(8, most), runs * len)) * double(p.off.size()) +
                    40 * double(runs * len) + 50;
        }
      if (g.n == 0) continue;
      if (joins) groups_.back().n += g.n;
      else groups_.push_back(g);
      groups_.back().last = tiles_.size();
      most_turned_ = std::max(most_turned_, groups_.back().n);
    }
    return cycles;
  }

  void multiply(int64_t share, const T* x, const T* w, T* y, int64_t plane, T* turned) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t width = 2 * micro.lanes;
    const size_t first = first_[size_t(share)], last = first_[size_t(share) + 1];
    const size_t first_tile = first == 0 ? 0 : groups_[first - 1].last;
    if (first == last) return;
    for (int64_t o = 0; o < made_; o += width) {
      const T* panel = w + o * patch_;
      const int64_t channels = std::min(width, made_ - o);
      size_t tile = first_tile;
      for (size_t i = first; i < last; ++i) {
        const Group& g = groups_[i];
        T* to = y + o * plane + g.to;
        for (; tile < g.last; ++tile) {
          const Tiled& t = tiles_[tile];
          const Phase& p = list_[size_t(t.phase)];
          // What is written next is on its way while the sums are made.
          const int64_t length = (t.len - 1) * stride_[2];
          for (int64_t c = 0; c < channels; ++c) {
            __builtin_prefetch(to + c * plane + t.to, 1);
            __builtin_prefetch(to + c * plane + t.to + length, 1);
          }
          Tile<T> rows{{}, turned + t.to * width, stride_[1] * to_[2] * width, stride_[2] * width, t.runs, t.len};
          for (int r = 0; r < t.runs; ++r) rows.a[r] = x + t.from[r];
          micro.tile(rows, int64_t(p.off.size()), p.off.data(), panel + p.first * width, false);
        }
        micro.pack(to, channels, g.n, g.n, plane, turned, 1, width);
      }
    }
  }

  // Weights in panels of as many channels as two vectors have lanes, each a row for every element of a patch, zeros
  // beyond the last channel; so much of them at a time that what is read and written stays in L1.
  void pack(const T* w, T* to) const {
    const int64_t width = 2 * micro_of<T>().lanes, panels = (made_ + width - 1) / width, chunk = 64;
    parallel(g_.groups * panels, pack_ns(), [&](int64_t task) {
      const int64_t group = task / panels, o = task % panels * width;
      const T* from = w + (group * made_ + o) * patch_;
      for (int64_t p = 0; p < patch_; p += chunk)
        micro_of<T>().pack(to + group * packed_ + o * patch_ + p * width, std::min(chunk, patch_ - p),
                           std::min(width, made_ - o), width, width, from + p, 1, patch_);
    });
  }
  void pack_back(const T* w, T* to) const {
    const int64_t width = 2 * micro_of<T>().lanes, panels = (made_ + width - 1) / width, window = g_.window();
    parallel(g_.groups * panels, pack_ns(), [&](int64_t task) {
      const int64_t group = task / panels, c = task % panels * width;
      T* rows = static_cast<T*>(workspace(1, size_t(window * width) * sizeof(T)));
      for (int64_t o = 0; o < read_; ++o) {
        micro_of<T>().pack(rows, window, std::min(width, made_ - c), width, width,
                           w + ((group * read_ + o) * made_ + c) * window, 1, window);
        for (const Phase& p : list_) {
          const auto n = int64_t(p.taps.size());
          T* panel = to + group * packed_ + c * patch_ + (p.first + o * n) * width;
          for (int64_t i = 0; i < n; ++i)
            std::memcpy(panel + i * width, rows + p.taps[size_t(i)] * width, size_t(width) * sizeof(T));
        }
      }
    });
  }

  Geometry g_;
  bool back_;
  int64_t read_, made_;  // channels of a group
  Axes axes_;
  Source<T> source_;
  Tasks tasks_;
  int64_t to_[3], stride_[3], phases_n_[3];
  int64_t patch_ = 0, packed_ = 0, most_turned_ = 0;  // packed weights: elements of a group
  std::vector<Phase> list_;
  std::vector<Tiled> tiles_;
  std::vector<Group> groups_;
  std::vector<size_t> first_;  // group of each share
};

}  // namespace

template <class T>
std::unique_ptr<Step> make_channels(const Geometry& g, bool back) {
  return ConvChannels<T>::fits(g, back) ? std::make_unique<ConvChannels<T>>(g, back) : nullptr;
}
template std::unique_ptr<Step> make_channels<float>(const Geometry&, bool);
template std::unique_ptr<Step> make_channels<double>(const Geometry&, bool);

}  // namespace knet::cpu::conv
