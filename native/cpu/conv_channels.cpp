// conv and conv_dx with vectors along the channels that are made.
#include "cpu/conv_source.h"
#include "cpu/gemm.h"

namespace knet::cpu::conv {
namespace {

// y (O x P) = w (O x CK) patches (CK x P), or dx in the same way from dy, phase by phase. A tile of results is kept in
// registers, a vector for some channels of each; it adds up the elements of their patches, read where they lie, times
// rows of packed weights. The tiles of results that lie side by side, those of all phases, are turned together. No
// lanes are lost to the borders of rows, and no load of a vector crosses two cache lines: of a core's 179 GFLOP/s the
// loops reach 170 to 177 in 3x3 convolutions of 64 to 512 channels, where vectors along the positions reached 105 to
// 145. Beside a neighbour that takes half of what a core can issue, it counts how many instructions a sum takes: with
// every element of a patch read for itself the loops fell to 115 to 125 GFLOP/s, with neighbours read once for the
// three taps that meet them to 145. Images are not copied with their padding where windows are three wide (reads_rows):
// that took 4 to 6 % of the time, with strides of 2 15 %. What is read next, and what will be written to, is fetched
// evenly meanwhile (asked for at once before each tile it took 3 to 6 %); the weights 64 rows ahead, for those of 256
// channels and more come from beyond L2: 256x14x14 took 12.5 ms, so 12.0. Turning and writing takes 2 to 5 %. Weights
// in blocks that stay in L1 for 112 results, sums read and written for each, gained nothing.
template <class T>
class ConvChannels final : public Step {
 public:
  ConvChannels(const Geometry& g, bool back)
      : g_(g), back_(back), read_(back ? g.out_channels : g.in_channels), made_(back ? g.in_channels : g.out_channels),
        axes_(back ? all_phases(g) : axes(g)), source_(axes_, true, 0),
        in_rows_(reads_rows()), tasks_(axes_, g.images * g.groups, image_ns<T>(g), most_per_share()) {
    for (size_t d = 0; d < 3; ++d) {
      to_[d] = back ? g.x[d] : g.y[d];
      stride_[d] = back ? g.stride[d] : 1;
      phases_n_[d] = back ? phases(g, d) : 1;
    }
    for (int64_t i = 0; i < phases_n_[0]; ++i)
      for (int64_t j = 0; j < phases_n_[1]; ++j)
        for (int64_t k = 0; k < phases_n_[2]; ++k) {
          const int64_t at[3] = {i, j, k};
          Phase p{{}, patch_, {}, {}, {}, 1};
          Axes a = back ? phase_axes(g, at, &p.taps) : axes_;
          if (back) upwards(a, p.taps);
          for (size_t d = 0; d < 3; ++d) p.y[d] = a[d].y;
          p.off = source_.offsets(a, read_);
          p.at = source_.positions(a);
          for (const int n : {3, 2})
            if (p.near == 1 && near(p.off, n)) p.near = n;
          patch_ += int64_t(p.off.size());
          list_.push_back(std::move(p));
        }
    double cycles = 0;
    for (int64_t lo = 0; lo < axes_[tasks_.d].y; lo += tasks_.per_share)
      cycles += add_share(lo, std::min(axes_[tasks_.d].y, lo + tasks_.per_share));
    first_.push_back(groups_.size());
    const int64_t width = 2 * micro_of<T>().lanes, panels = (made_ + width - 1) / width;
    packed_ = panels * width * patch_;
    scratch_bytes = size_t(round_up(g.groups * packed_ * int64_t(sizeof(T)), 64));
    // Weights that do not stay in L2 are read once for several images, whose copies do: 512x7x7 by 512 took 15.4 ms.
    const int64_t image_bytes = int64_t(source_.bytes(read_));
    if (g.groups == 1 && tasks_.shares == 1 && packed_ * int64_t(sizeof(T)) > kWeights) {
      joined_ = std::min(g.images, std::max<int64_t>(1, kImages / image_bytes));
      if (joined_ > 1) {
        const int64_t sets = (g.images + joined_ - 1) / joined_;
        joined_ = (g.images + sets - 1) / sets;
        parts_ = std::min(panels, (kParted + sets - 1) / sets);
        scratch_bytes = copies() ? size_t(g.images * image_bytes) : 0;
      }
    }
    const double copy_ns = copies() ? double(read_ * source_.channel) * kCopyNs<T> : 0;
    cost_ns = double(tasks_.images) * (double(panels) * cycles / kGHz + copy_ns) + pack_ns() + 100;
    if (joined_ == 1 && !copies() && cost_ns > kPartedNs)
      parts_ = std::clamp<int64_t>(kParted / tasks_.count(), 1, panels);
  }
  static bool fits(const Geometry& g, bool back) {
    return (back ? g.in_channels : g.out_channels) > 3 && g.images > 0 && g.x_plane() > 0 && g.y_plane() > 0 &&
           g.window() > 0;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto x = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    auto packed = reinterpret_cast<T*>(scratch);
    const bool around = double(tasks_.images) * double(made_ * to_[0] * to_[1] * to_[2]) * sizeof(T) >= kAround;
    if (joined_ > 1) return run_joined(x, w, y, scratch, around);
    const int64_t panels = (made_ + 2 * micro_of<T>().lanes - 1) / (2 * micro_of<T>().lanes);
    parallel(g_.groups * panels, pack_ns(), [&](int64_t task) {
      pack(w, task / panels, task % panels,
           packed + task / panels * packed_ + task % panels * 2 * micro_of<T>().lanes * patch_);
    });
    const int64_t y_d = axes_[tasks_.d].y, plane = to_[0] * to_[1] * to_[2];
    const int64_t read_plane = back_ ? g_.y_plane() : g_.x_plane(), image_size = read_ * read_plane;
    const auto work = [&](int64_t image, int64_t share, int64_t part) {
      const size_t room = copies() ? source_.bytes(read_) : 0;
      const int64_t width = 2 * micro_of<T>().lanes;
      auto* area = static_cast<char*>(workspace(1, room + size_t(2 * most_turned_ * width) * sizeof(T)));
      const T* from = x + image * image_size;
      if (copies())
        from = source_.prepare(
            from, read_, 0, reinterpret_cast<T*>(area), tasks_.d,
            source_.reach(tasks_.d, share * tasks_.per_share, std::min(y_d, (share + 1) * tasks_.per_share), y_d));
      // What is read next, roughly: another share of this image, or of the image after it.
      Next<T> next;
      const int64_t after = (share + 1) % tasks_.shares, of = after ? image : image + 1;
      if ((in_rows_ || copies()) && of < tasks_.images) {
        const int64_t begin = read_plane * after / tasks_.shares, end = read_plane * (after + 1) / tasks_.shares;
        next = {x + of * image_size + begin, tasks_.shares == 1 ? image_size : end - begin, read_plane,
                tasks_.shares == 1 ? 1 : read_};
      }
      multiply(share, from, packed + image % g_.groups * packed_, y + image * made_ * plane,
               panels * part / parts_ * width, std::min(made_, panels * (part + 1) / parts_ * width),
               reinterpret_cast<T*>(area + room), next, around);
      if (around) micro_of<T>().settle();
    };
    parallel(parts_ * tasks_.count(), cost_ns, [&](int64_t task) {
      tasks_.each(task % tasks_.count(),
                  [&](int64_t image, int64_t share) { work(image, share, task / tasks_.count()); });
    });
  }
  std::string text() const override {
    const int64_t tasks = parts_ * (joined_ > 1 ? (g_.images + joined_ - 1) / joined_ : tasks_.count());
    std::string s = "channels, " + std::to_string(tasks) + " tasks";
    if (list_.size() > 1) s += ", " + std::to_string(list_.size()) + " phases";
    return s;
  }

 private:
  // Results that are turned together, where they can be: parts of rows of 14, 28, 56, 112 are then whole lines.
  static constexpr int64_t kTurned = 112;
  static constexpr double kAround = 4 << 20;  // bytes of results that are written around the caches (ConvPoint)
  static constexpr double kGHz = 2.6;
  // Parts of the panels, where images and their shares are fewer tasks than these, and of more work in all: cores are
  // rarely equally fast. 256x14x14 on four threads in 8 tasks 4.1 to 5.5 ms, in 16 3.9 to 4.4, in 32 3.8 to 4.2; on one
  // 1 % more.
  static constexpr int64_t kParted = 32;
  static constexpr double kPartedNs = 5e6;
  static constexpr int64_t kWeights = 4 << 20;   // bytes: 256x14x14 by 256, 2.4 MB, took 12.0 ms as it was, 12.3 joined
  static constexpr int64_t kImages = 1536 << 10;   // bytes that stay in L2 beside a panel of weights
  // Results of stride 1, all of them where there are no strides to be undone.
  struct Phase {
    int64_t y[3];
    int64_t first;             // of the rows of a panel of weights
    std::vector<int64_t> off;  // of the elements of a patch
    std::vector<int64_t> at;   // of the patches
    std::vector<int64_t> taps;  // dx: which elements of the window they meet
    int near;                   // so many elements of a patch at a time are neighbours
  };
  // Results of one phase: runs of neighbours, from `to` of their group on.
  struct Tiled {
    int64_t to, from[kRuns];
    int phase, runs, len;
    int top = 0, rows = 0;  // in rows: of the window, those that lie in the image
    bool first = true, last = true;
  };
  // n results from `to` on, and their last tile.
  struct Group {
    int64_t to, n;
    size_t last;
  };

  bool copies() const { return !in_rows_ && !source_.in_place; }
  // Windows of three neighbours in a row, of which one is beyond the image at most: what the padding is can be told to
  // the loops, which read the image where it lies. Rows are long enough to be done one at a time. With 16 registers
  // copied images are 8 % faster where the stride is 1.
  bool reads_rows() const {
    const Axis& a = axes_[2];
    if (axes_[0].x != 1 || axes_[0].y != 1 || axes_[0].taps != std::vector<int64_t>{0} || a.taps.size() != 3 ||
        2 * a.y <= micro_of<T>().rows || (a.stride == 1 && micro_of<T>().lanes * int(sizeof(T)) < 64))
      return false;
    for (size_t d = 0; d < 3; ++d)
      if (back_ && g_.stride[d] != 1) return false;
    const int64_t step = a.taps[1] - a.taps[0], least = std::min(a.taps[0], a.taps[2]);
    return (step == 1 || (back_ && step == -1)) && a.taps[2] - a.taps[1] == step && a.stride <= 2 && least >= -1 &&
           (a.y - 1) * a.stride + least + 2 <= a.x;
  }
  // The window of dx, in the order in which it lies in dy.
  static void upwards(Axes& a, std::vector<int64_t>& which) {
    const auto& taps = a[2].taps;
    if (taps.size() < 2 || taps.front() < taps.back()) return;
    for (Axis& axis : a) std::reverse(axis.taps.begin(), axis.taps.end());
    std::reverse(which.begin(), which.end());
  }
  // What a tile of results from row r, column c on meets.
  void meet(Tiled& t, int64_t r, int64_t c) const {
    const Axis &rows = axes_[1], &columns = axes_[2];
    const auto n = int64_t(rows.taps.size());
    const int64_t apart = n > 1 ? std::abs(rows.taps[1] - rows.taps[0]) : 1;
    const int64_t top = r * rows.stride + std::min(rows.taps.front(), rows.taps.back());
    const int64_t left = c * columns.stride + std::min(columns.taps.front(), columns.taps.back());
    const int64_t lo = std::clamp<int64_t>((apart - 1 - top) / apart, 0, n);
    const int64_t hi = std::clamp<int64_t>((rows.x - top + apart - 1) / apart, lo, n);
    t.top = int(lo);
    t.rows = int(hi - lo);
    t.first = left >= 0;
    t.last = left + (t.len - 1) * columns.stride + 2 < columns.x;
    t.from[0] = (top + lo * apart) * columns.x + left;
  }

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
          if (in_rows_) meet(t, r, c);
          for (int64_t n = 0; n < runs && !in_rows_; ++n) t.from[n] = p.at[size_t((m * p.y[1] + r + n) * p.y[2] + c)];
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

  // All images are padded first, then tasks are sets of images and parts of the panels of weights, packed by each.
  void run_joined(const T* x, const T* w, T* y, char* scratch, bool around) const {
    const int64_t width = 2 * micro_of<T>().lanes, panels = (made_ + width - 1) / width, n = g_.images;
    const int64_t read_size = read_ * (back_ ? g_.y_plane() : g_.x_plane());
    const int64_t made_size = made_ * to_[0] * to_[1] * to_[2];
    const auto bytes = int64_t(source_.bytes(read_));
    std::vector<const T*> from(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) from[size_t(i)] = x + i * read_size;
    parallel(copies() ? n : 0, double(n * read_ * source_.channel) * kCopyNs<T>, [&](int64_t i) {
      from[size_t(i)] = source_.prepare(x + i * read_size, read_, 0, reinterpret_cast<T*>(scratch + i * bytes),
                                        tasks_.d, source_.reach(tasks_.d, 0, axes_[tasks_.d].y, axes_[tasks_.d].y));
    });
    parallel((n + joined_ - 1) / joined_ * parts_, cost_ns, [&](int64_t task) {
      const int64_t first = task / parts_ * joined_, part = task % parts_;
      auto* turned = static_cast<T*>(workspace(1, size_t((2 * most_turned_ + patch_) * width) * sizeof(T)));
      T* packed = turned + 2 * most_turned_ * width;
      for (int64_t panel = panels * part / parts_; panel < panels * (part + 1) / parts_; ++panel) {
        pack(w, 0, panel, packed);
        for (int64_t i = first; i < std::min(n, first + joined_); ++i)
          multiply(0, from[size_t(i)], packed - panel * width * patch_, y + i * made_size, panel * width,
                   std::min(made_, (panel + 1) * width), turned, {}, around);
      }
      if (around) micro_of<T>().settle();
    });
  }

  // Channels begin to end - 1 (begin: the first of a panel) of a share's results.
  void multiply(int64_t share, const T* x, const T* w, T* y, int64_t begin, int64_t end, T* turned, Next<T> next,
                bool around) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t width = 2 * micro.lanes, plane = to_[0] * to_[1] * to_[2];
    const size_t first = first_[size_t(share)], last = first_[size_t(share) + 1];
    const size_t first_tile = first == 0 ? 0 : groups_[first - 1].last;
    if (first == last) return;
    const int64_t parts = (end - begin + width - 1) / width * int64_t(groups_[last - 1].last - first_tile);
    const int64_t read_plane = back_ ? g_.y_plane() : g_.x_plane();
    const Axis& down = axes_[1];
    const int64_t row = (down.taps.size() > 1 ? std::abs(down.taps[1] - down.taps[0]) : 1) * axes_[2].x;
    T* rows_turned = turned + most_turned_ * width;
    // That are used next: of what is read, and of each channel's results.
    const int64_t reach = micro.rows * stride_[2] / Next<T>::kLine + 2;
    std::vector<const T*> lines(size_t(next.lines() / parts + 2 + reach * width));
    for (int64_t o = begin; o < end; o += width) {
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
          const T** line = lines.data();
          const int64_t apart = Next<T>::kLine, length = (t.len - 1) * stride_[2];
          if (!around)
            for (int64_t e = length; e > (t.to ? 0 : -apart); e -= apart)
              for (int64_t c = 0; c < channels; ++c) *line++ = to + c * plane + t.to + std::max<int64_t>(0, e);
          next.part_of(parts, [&](const T* at) { *line++ = at; });
          *line = x;
          if (in_rows_) {
            micro.triples({x + t.from[0], panel + t.top * 3 * width, turned + t.to * width, read_, read_plane, t.rows,
                           row, taps(axes_) * width, width, int(axes_[2].stride), t.len, t.first, t.last,
                           lines.data(), line});
            continue;
          }
          Tile<T> rows{{}, turned + t.to * width, stride_[1] * to_[2] * width, stride_[2] * width, t.runs, t.len,
                       p.near, lines.data(), line};
          for (int r = 0; r < t.runs; ++r) rows.a[r] = x + t.from[r];
          micro.tile(rows, int64_t(p.off.size()), p.off.data(), panel + p.first * width, false);
        }
        if (!around) {
          micro.pack(to, channels, g.n, g.n, plane, turned, 1, width);
          continue;
        }
        micro.pack(rows_turned, channels, g.n, g.n, g.n, turned, 1, width);
        for (int64_t c = 0; c < channels; ++c) micro.around(to + c * plane, rows_turned + c * g.n, g.n);
      }
    }
  }

  // A panel of a group's weights: as many channels as two vectors have lanes, a row for every element of a patch, zeros
  // beyond the last channel; so much of it at a time that what is read and written stays in L1.
  void pack(const T* w, int64_t group, int64_t panel, T* to) const {
    const int64_t width = 2 * micro_of<T>().lanes, chunk = 64, o = panel * width, n = std::min(width, made_ - o);
    if (back_) return pack_back(w, group, o, n, to);
    const T* from = w + (group * made_ + o) * patch_;
    for (int64_t p = 0; p < patch_; p += chunk)
      micro_of<T>().pack(to + p * width, std::min(chunk, patch_ - p), n, width, width, from + p, 1, patch_);
  }
  void pack_windows(const T* w, int64_t group, int64_t c, int64_t n, T* to, int64_t step) const {
    const int64_t width = 2 * micro_of<T>().lanes, window = g_.window();
    for (int64_t o = 0; o < read_; ++o)
      micro_of<T>().pack(to + o * window * width, window, n, width, step,
                         w + ((group * read_ + o) * made_ + c) * window, 1, window);
  }
  void pack_back(const T* w, int64_t group, int64_t c, int64_t n, T* to) const {
    const int64_t width = 2 * micro_of<T>().lanes, window = g_.window();
    // The window as it is, or from its end on.
    if (const auto& taps = list_[0].taps; int64_t(taps.size()) == window && std::is_sorted(taps.begin(), taps.end()))
      return pack_windows(w, group, c, n, to, width);
    else if (int64_t(taps.size()) == window && std::is_sorted(taps.rbegin(), taps.rend()))
      return pack_windows(w, group, c, n, to + (window - 1) * width, -width);
    T* rows = static_cast<T*>(workspace(0, size_t(window * width) * sizeof(T)));
    for (int64_t o = 0; o < read_; ++o) {
      micro_of<T>().pack(rows, window, n, width, width, w + ((group * read_ + o) * made_ + c) * window, 1, window);
      for (const Phase& p : list_) {
        const auto taps = int64_t(p.taps.size());
        T* row = to + (p.first + o * taps) * width;
        for (int64_t i = 0; i < taps; ++i)
          std::memcpy(row + i * width, rows + p.taps[size_t(i)] * width, size_t(width) * sizeof(T));
      }
    }
  }

  Geometry g_;
  bool back_;
  int64_t read_, made_;  // channels of a group
  Axes axes_;
  Source<T> source_;
  bool in_rows_;  // images are read where they lie, row by row
  Tasks tasks_;
  int64_t to_[3], stride_[3], phases_n_[3];
  int64_t patch_ = 0, packed_ = 0, most_turned_ = 0;  // packed weights: elements of a group
  int64_t joined_ = 1, parts_ = 1;
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
