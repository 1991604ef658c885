// conv_dw: the filters' gradient from dy and x. Here: patches gathered, positions block by block; windows of 1; few
// output channels to a group, positions along the vectors. The rest in conv_dw_channels.cpp.
#include "cpu/conv_planes.h"
#include "cpu/conv_source.h"
#include "cpu/gemm.h"

namespace knet::cpu::conv {
namespace {

// dw += the partial sums of the chunks after the first, in order.
template <class T>
void add_chunks(T* dw, const T* partial, int64_t size, int64_t chunks) {
  if (chunks == 1) return;
  const int64_t share = 4096;
  parallel((size + share - 1) / share, double(size * chunks) * 0.2, [&](int64_t task) {
    const int64_t first = task * share, last = std::min(size, first + share);
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      const T* from = partial + (chunk - 1) * size;
      for (int64_t i = first; i < last; ++i) dw[i] += from[i];
    }
  });
}

template <class T>
class ConvDw final : public Step {
 public:
  explicit ConvDw(const Geometry& g) : g_(g), source_(axes(g), g.window() == 1, 64) {
    const Micro<T>& micro = micro_of<T>();
    // A block of channels is at most 384 patch elements, gathered for up to 256 positions: 400 KiB at most, and as much
    // of dw. Long sums matter more than wide rows, for dw is read and written once for each. Small planes are joined,
    // as many images as make 256 positions (their rows of dy are copied together).
    const int64_t window = std::max<int64_t>(1, g.window()), plane = std::max<int64_t>(1, g.y_plane());
    const int64_t most = std::clamp<int64_t>(384 / window, 1, std::max<int64_t>(1, g.in_channels));
    blocks_ = (std::max<int64_t>(1, g.in_channels) + most - 1) / most;
    channels_ = (g.in_channels + blocks_ - 1) / blocks_;
    columns_ = channels_ * window;
    pitch_ = round_up(columns_ + 16, micro.lanes);
    positions_ = kPositions;
    joined_ = plane <= kPositions / 2 ? kPositions / plane : 1;
    off_ = source_.offsets(axes(g), channels_);
    at_ = source_.positions(axes(g));
    // Runs along the innermost dimension of the window lie side by side in the image, too.
    run_ = g.dilation[2] == 1 && !g.flip ? std::max<int64_t>(1, g.w[2]) : 1;
    plain_ = window == 1 && (at_.empty() || at_.back() == plane - 1);
    const double waste = double(round_up(columns_, micro.lanes)) / double(std::max<int64_t>(1, columns_));
    cost_ns = g.work() * waste / (double(micro.lanes) * 5) +
              double(g.images * g.groups * g.y_plane()) * double(g.patch()) * (run_ == 1 ? 0.5 : 0.12) + 200;
    // Chunks of images, each with a dw of its own: 100 us each or more, and no more than 16 tasks need.
    const double per_chunk = cost_ns / double(blocks_ * g.groups);
    chunks_ = std::min(int64_t(per_chunk / 100e3), 16 / (blocks_ * std::max<int64_t>(1, g.groups)));
    chunks_ = std::clamp<int64_t>(even_tasks(chunks_), 1, std::max<int64_t>(1, g.images));
    size_ = g.groups * g.out_channels * g.patch();
    scratch_bytes = chunks_ > 1 ? size_t(size_ * (chunks_ - 1)) * sizeof(T) : 0;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), x = reinterpret_cast<const T*>(in[1]);
    auto dw = reinterpret_cast<T*>(out[0]);
    auto partial = reinterpret_cast<T*>(scratch);
    if (size_ == 0) return;
    parallel(chunks_ * g_.groups * blocks_, cost_ns, [&](int64_t task) {
      const int64_t chunk = task / (g_.groups * blocks_), group = task / blocks_ % g_.groups, block = task % blocks_;
      accumulate(dy, x, chunk == 0 ? dw : partial + (chunk - 1) * size_, chunk, group, block);
    });
    add_chunks(dw, partial, size_, chunks_);
  }
  std::string text() const override {
    return std::to_string(chunks_) + " chunks of images, " + std::to_string(blocks_) + " blocks of channels";
  }

 private:
  void accumulate(const T* dy, const T* x, T* dw, int64_t chunk, int64_t group, int64_t block) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t plane = g_.y_plane(), o_n = g_.out_channels, patch = g_.patch(), window = g_.window();
    const int64_t c0 = block * channels_, c_n = std::min(channels_, g_.in_channels - c0), columns = c_n * window;
    const int64_t first = g_.images * chunk / chunks_, last = g_.images * (chunk + 1) / chunks_;
    T* to = dw + group * o_n * patch + c0 * window;
    if (c_n <= 0) return;
    if (first == last || plane == 0) {
      for (int64_t o = 0; o < o_n; ++o) std::fill_n(to + o * patch, columns, T(0));
      return;
    }
    const auto all = source_.reach(2, 0, g_.y[2], g_.y[2]);
    if (plain_) {
      const Gemm<T> product(o_n, c_n, plane);
      for (int64_t n = first; n < last; ++n) {
        const int64_t image = n * g_.groups + group;
        auto* room = static_cast<T*>(workspace(1, source_.bytes(channels_)));
        const T* from =
            source_.prepare(x + (image * g_.in_channels + c0) * g_.x_plane(), c_n, source_.slack, room, 2, all);
        product.run({dy + image * o_n * plane, plane, 1}, {from, 1, source_.channel}, to, patch, n > first);
      }
      return;
    }
    const size_t room = source_.bytes(channels_);
    const size_t gathered = size_t(round_up((positions_ * pitch_ + 16) * int64_t(sizeof(T)), 64));
    auto* area =
        static_cast<char*>(workspace(1, room + gathered + (joined_ > 1 ? size_t(o_n * positions_) * sizeof(T) : 0)));
    auto* rows = reinterpret_cast<T*>(area + room);
    auto* joined = reinterpret_cast<T*>(area + room + gathered);
    int64_t off[kPositions];
    for (int64_t p = 0; p < positions_; ++p) off[p] = p * pitch_;
    auto gather = [&](const T* source, int64_t q, int64_t count, T* to) {
      for (int64_t p = 0; p < count; ++p)
        micro.runs(to + p * pitch_, source + at_[size_t(q + p)], off_.data(), columns / run_, run_);
    };
    bool add = false;
    auto multiply = [&](const T* a, int64_t stride, int64_t count) {
      for (int64_t j = 0; j < columns; j += 2 * micro.lanes) {
        const int64_t n0 = std::min<int64_t>(micro.lanes, columns - j);
        const int64_t n1 = std::clamp<int64_t>(columns - j - micro.lanes, 0, micro.lanes);
        Panel<T> panel{{rows + j, rows + j + micro.lanes}, {to + j, to + j + micro.lanes}, {int(n0), int(n1)}};
        micro.panel(o_n, count, a, stride, 1, off, panel, patch, add);
      }
      add = true;
    };
    for (int64_t n = first; n < last; n += joined_) {
      const int64_t together = std::min(joined_, last - n);
      for (int64_t i = 0; i < together; ++i) {
        const int64_t image = (n + i) * g_.groups + group;
        const int64_t begin = image * g_.in_channels + c0, channels = g_.images * g_.groups * g_.in_channels;
        const T* source = source_.prepare(x + begin * g_.x_plane(), c_n, (channels - begin - c_n) * g_.x_plane(),
                                          reinterpret_cast<T*>(area), 2, all);
        const T* d = dy + image * o_n * plane;
        if (joined_ == 1) {
          for (int64_t q = 0; q < plane; q += positions_) {
            const int64_t count = std::min(positions_, plane - q);
            gather(source, q, count, rows);
            multiply(d + q, plane, count);
          }
        } else {
          gather(source, 0, plane, rows + i * plane * pitch_);
          for (int64_t o = 0; o < o_n; ++o)
            std::memcpy(joined + o * positions_ + i * plane, d + o * plane, size_t(plane) * sizeof(T));
        }
      }
      if (joined_ > 1) multiply(joined, positions_, together * plane);
    }
  }
  static constexpr int64_t kPositions = 256;
  Geometry g_;
  Source<T> source_;
  std::vector<int64_t> off_, at_;
  int64_t blocks_, channels_, columns_, pitch_, positions_, joined_, run_, chunks_, size_;
  bool plain_ = false;  // window 1: dy x^T, x thinned by the strides; no patches
};

// dw where the window is 1: dy x^T or, where there are fewer output channels, x dy^T. The narrower side is turned, a
// block of positions (or of small images) at a time; the other is read where it lies, the next block fetched meanwhile.
template <class T>
class ConvDwPoint final : public Step {
 public:
  explicit ConvDwPoint(const Geometry& g) : g_(g), source_(axes(g), true, 0), turns_x_(g.in_channels < g.out_channels) {
    const int64_t plane = g.y_plane(), width = 2 * micro_of<T>().lanes;
    narrow_ = turns_x_ ? g.in_channels : g.out_channels;
    wide_ = turns_x_ ? g.out_channels : g.in_channels;
    pitch_ = round_up(narrow_, width);
    size_ = g.groups * g.out_channels * g.in_channels;
    cost_ns = double(g.images * g.groups) * double(plane) * double(wide_) * double(pitch_) /
                  (double(micro_of<T>().lanes) * 5) +
              double(g.images * g.groups * plane) * double(narrow_) * 0.3 + 200;
    // 8 tasks of 100 us or more: chunks of images, each with a dw of its own, while adding them takes 3 % or less (1 ns
    // an element); then blocks of rows of the wider side. Their sums are 1 MiB at most.
    const int64_t wanted = std::clamp<int64_t>(int64_t(cost_ns / 100e3), 1, 8);
    chunks_ = std::min(int64_t(0.03 * cost_ns / double(size_)), wanted / g.groups);
    chunks_ = std::clamp<int64_t>(even_tasks(chunks_), 1, g.images);
    // Each block would copy the image again where strides are to be taken apart. Where there are several, the narrower
    // side is turned before: 1024x14x14 by 256 took 6.6 ms when each of 4 turned it, so 6.3.
    if (!source_.in_place)
      chunks_ = std::clamp<int64_t>(even_tasks(int64_t(0.06 * cost_ns / double(size_))), 1, g.images);
    blocks_ = source_.in_place ? std::clamp<int64_t>(wanted / (chunks_ * g.groups), 1, wide_ / narrow_) : 1;
    blocks_ = std::max(blocks_, wide_ * pitch_ * int64_t(sizeof(T)) / (1 << 20));
    joined_ = std::clamp<int64_t>(kJoined / plane, 1, (g.images + chunks_ - 1) / chunks_);
    if (!source_.in_place) joined_ = 1;
    scratch_bytes = size_t(round_up(size_ * (chunks_ - 1) * int64_t(sizeof(T)), 64));
    turned_first_ = blocks_ > 1;
    if (turned_first_) scratch_bytes += size_t(g.images * g.groups * pitch_ * plane) * sizeof(T);
  }
  // The copy of an image, if there is one, keeps what results meet alone.
  static bool fits(const Geometry& g) {
    const int64_t width = 2 * micro_of<T>().lanes, narrow = std::min(g.in_channels, g.out_channels);
    if (g.window() != 1 || g.images <= 0 || g.groups <= 0 || g.y_plane() < micro_of<T>().lanes || narrow < 4)
      return false;
    const Source<T> source(axes(g), true, 0);
    return source.channel == g.y_plane() && round_up(narrow, width) * 3 <= narrow * 4;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), x = reinterpret_cast<const T*>(in[1]);
    auto dw = reinterpret_cast<T*>(out[0]);
    auto partial = reinterpret_cast<T*>(scratch);
    auto* turned = reinterpret_cast<T*>(scratch + round_up(size_ * (chunks_ - 1) * int64_t(sizeof(T)), 64));
    const int64_t plane = g_.y_plane();
    if (turned_first_)
      parallel(g_.images * g_.groups, double(g_.images * g_.groups * pitch_ * plane) * 0.5, [&](int64_t image) {
        turn((turns_x_ ? x : dy) + image * narrow_ * plane, 0, plane, turned + image * pitch_ * plane, plane);
      });
    parallel(chunks_ * g_.groups * blocks_, cost_ns, [&](int64_t task) {
      const int64_t chunk = task / (g_.groups * blocks_), group = task / blocks_ % g_.groups, block = task % blocks_;
      accumulate(dy, x, turned, chunk == 0 ? dw : partial + (chunk - 1) * size_, chunk, group, block);
    });
    add_chunks(dw, partial, size_, chunks_);
  }
  std::string text() const override {
    return "points, " + std::to_string(chunks_) + " chunks of images, " + std::to_string(blocks_) + " blocks";
  }

 private:
  static constexpr int64_t kBlock = 256;   // positions: 16 lines of each channel
  static constexpr int64_t kJoined = 784;  // positions of small images
  static constexpr int64_t kTurned = 64;   // at once: they stay in L1 until all channels are there

  // Positions q to q + n - 1 of the narrower side, in panels that lie `apart` positions from each other.
  void turn(const T* b, int64_t q, int64_t n, T* to, int64_t apart) const {
    const int64_t plane = g_.y_plane(), width = 2 * micro_of<T>().lanes;
    for (int64_t j = 0; j < narrow_; j += width)
      for (int64_t p = 0; p < n; p += kTurned)
        micro_of<T>().pack(to + j * apart + p * width, std::min(kTurned, n - p), std::min(width, narrow_ - j), width,
                           width, b + j * plane + q + p, 1, plane);
  }

  void accumulate(const T* dy, const T* x, const T* before, T* dw, int64_t chunk, int64_t group, int64_t block) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t plane = g_.y_plane(), width = 2 * micro.lanes;
    const int64_t i0 = wide_ * block / blocks_, rows = wide_ * (block + 1) / blocks_ - i0;
    const int64_t first = g_.images * chunk / chunks_, last = g_.images * (chunk + 1) / chunks_;
    const int64_t count = plane <= kBlock ? plane * joined_ : std::min(kBlock, plane);
    const size_t room = source_.in_place ? 0 : source_.bytes(g_.in_channels);
    auto* area = static_cast<char*>(workspace(1, room + size_t(pitch_ * (rows + count)) * sizeof(T)));
    T* sums = reinterpret_cast<T*>(area + room);
    T* turned = sums + pitch_ * rows;
    bool add = false;
    // Positions q to q + n - 1 of `images` images of both sides; what comes after them in the wider one.
    auto multiply = [&](const T* a, int64_t a_image, const T* b, int64_t image, int64_t images, int64_t q, int64_t n) {
      const bool more = q + n < plane;
      const T* panels = before + image * pitch_ * plane + q * width;
      int64_t apart = plane, b_image = g_.groups * pitch_ * plane;
      if (!turned_first_) {
        panels = turned, apart = images * n, b_image = n * width;
        for (int64_t i = 0; i < images; ++i)
          turn(b + i * g_.groups * narrow_ * plane, q, n, turned + i * b_image, apart);
      }
      for (int64_t j = 0; j < narrow_; j += width) {
        Sums<T> t{rows, n, images, a + i0 * plane + q, plane, a_image, panels + j * apart, b_image, sums + j, pitch_,
                  add, nullptr, plane, rows};
        // The next block of the wider side, or the next rows; then the next block of the narrower.
        t.next = more ? t.a + n : t.a + std::min<int64_t>(rows - 1, micro.rows) * plane;
        if (more && j > 0 && !turned_first_) t.next = b + q + n, t.next_rows = narrow_;
        micro.sums(t);
      }
      add = true;
    };
    for (int64_t n = first; n < last; n += joined_) {
      const int64_t together = std::min(joined_, last - n), image = n * g_.groups + group;
      const T* d = dy + image * g_.out_channels * plane;
      const T* s = source_.prepare(x + image * g_.in_channels * g_.x_plane(), g_.in_channels, 0,
                                   reinterpret_cast<T*>(area), 2, source_.reach(2, 0, g_.y[2], g_.y[2]));
      const T *a = turns_x_ ? d : s, *b = turns_x_ ? s : d;
      const int64_t step = plane <= kBlock ? plane : kBlock;
      for (int64_t q = 0; q < plane; q += step)
        multiply(a, g_.groups * wide_ * plane, b, image, together, q, std::min(step, plane - q));
    }
    T* to = dw + group * g_.out_channels * g_.in_channels;
    if (turns_x_)
      for (int64_t i = 0; i < rows; ++i) std::copy_n(sums + i * pitch_, narrow_, to + (i0 + i) * narrow_);
    else
      micro.pack(to + i0, narrow_, rows, rows, wide_, sums, 1, pitch_);
  }

  Geometry g_;
  Source<T> source_;
  bool turns_x_, turned_first_;
  int64_t narrow_, wide_, pitch_, size_, chunks_, blocks_, joined_;
};

// dw where there are few output channels to a group (depthwise above all): positions along the vectors, so that neither
// dy nor x is rearranged; the lanes are added at the end.
template <class T>
class ConvDwLines final : public Step {
 public:
  explicit ConvDwLines(const Geometry& g) : g_(g), source_(axes(g), true, kSlack<T>), planes_(axes(g)) {
    const Axes a = axes(g);
    in_planes_ = g.in_channels == 1 && Planes::fit(a);
    const int64_t lanes = micro_of<T>().lanes, row = g.y[2];
    off_ = source_.offsets(a, g.in_channels);
    const auto at = source_.positions(a);
    for (int64_t q = 0; q < int64_t(at.size()); q += row)
      for (int64_t j = 0; j < row; j += lanes)
        pieces_.push_back({at[size_t(q + j)], q + j, int(std::min(lanes, row - j)), -1});
    // A load for each vector of multiply-adds.
    const double each = double(g.out_channels * g.patch()) * (double(pieces_.size()) * 0.8 + double(lanes)) +
                        (in_planes_ ? 0 : double(g.in_channels * source_.channel) * kCopyNs<T>);
    cost_ns = each * double(g.images * g.groups) + 100;
    // Chunks of images, each with a dw of its own: 100 us each or more, and no more than 16 tasks need.
    const int64_t groups = std::max<int64_t>(1, g.groups), images = std::max<int64_t>(1, g.images);
    chunks_ = std::clamp<int64_t>(even_tasks(std::min(int64_t(each * double(images) / 100e3), 16 / groups)), 1, images);
    together_ = std::clamp<int64_t>(int64_t(30e3 / (each * double(images / chunks_) + 1)), 1, groups);
    size_ = g.groups * g.out_channels * g.patch();
    scratch_bytes = size_t(size_ * (chunks_ - 1)) * sizeof(T);
  }
  static bool fits(const Geometry& g) { return g.out_channels <= 3; }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), x = reinterpret_cast<const T*>(in[1]);
    auto dw = reinterpret_cast<T*>(out[0]);
    auto partial = reinterpret_cast<T*>(scratch);
    if (size_ == 0) return;
    const int64_t blocks = (g_.groups + together_ - 1) / together_;
    parallel(chunks_ * blocks, cost_ns, [&](int64_t task) {
      const int64_t chunk = task / blocks, first = task % blocks * together_;
      for (int64_t group = first; group < std::min(g_.groups, first + together_); ++group)
        accumulate(dy, x, chunk == 0 ? dw : partial + (chunk - 1) * size_, chunk, group);
    });
    add_chunks(dw, partial, size_, chunks_);
  }
  std::string text() const override { return "lines, " + std::to_string(chunks_) + " chunks of images"; }

 private:
  void accumulate(const T* dy, const T* x, T* dw, int64_t chunk, int64_t group) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t plane = g_.y_plane(), patch = g_.patch(), sums = g_.out_channels * patch;
    const size_t room = source_.bytes(g_.in_channels);
    auto* area = static_cast<char*>(workspace(1, room + size_t(sums * micro.lanes) * sizeof(T)));
    auto* sum = reinterpret_cast<T*>(area + room);
    std::fill_n(sum, sums * micro.lanes, T(0));
    const Filter filter = planes_.filter();
    for (int64_t n = g_.images * chunk / chunks_; plane > 0 && n < g_.images * (chunk + 1) / chunks_; ++n) {
      const int64_t image = n * g_.groups + group;
      if (in_planes_) {
        const bool more = n + 1 < g_.images * (chunk + 1) / chunks_;
        const int64_t next = more ? image + g_.groups : g_.images * chunk / chunks_ * g_.groups + group + 1;
        for (int64_t o = 0; o < g_.out_channels; ++o)
          micro.filter_sums(filter, x + image * g_.x_plane(), dy + (image * g_.out_channels + o) * plane,
                            sum + o * patch * micro.lanes, x + next * g_.x_plane(),
                            dy + (next * g_.out_channels + o) * plane);
        continue;
      }
      const T* source = source_.prepare(x + image * g_.in_channels * g_.x_plane(), g_.in_channels,
                                        (g_.images * g_.groups - image - 1) * g_.in_channels * g_.x_plane(),
                                        reinterpret_cast<T*>(area), 2,
                                        source_.reach(2, 0, g_.y[2], g_.y[2]));
      for (int64_t o = 0; o < g_.out_channels; ++o)
        micro.traces(patch, sum + o * patch * micro.lanes, off_.data(), source,
                     dy + (image * g_.out_channels + o) * plane, pieces_.data(), int64_t(pieces_.size()));
    }
    for (int64_t i = 0; i < sums; ++i) {
      T* lane = sum + i * micro.lanes;
      for (int half = micro.lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
      dw[group * sums + i] = lane[0];
    }
  }

  Geometry g_;
  Source<T> source_;
  Planes planes_;
  bool in_planes_;
  std::vector<int64_t> off_;
  std::vector<Piece> pieces_;
  int64_t chunks_, together_, size_;
};

}  // namespace

template <class T>
std::unique_ptr<Step> make_dw(const Geometry& g) {
  if (ConvDwLines<T>::fits(g)) return std::make_unique<ConvDwLines<T>>(g);
  if (ConvDwPoint<T>::fits(g)) return std::make_unique<ConvDwPoint<T>>(g);
  if (auto channels = make_dw_channels<T>(g)) return channels;
  return std::make_unique<ConvDw<T>>(g);
}
template std::unique_ptr<Step> make_dw<float>(const Geometry&);
template std::unique_ptr<Step> make_dw<double>(const Geometry&);

}  // namespace knet::cpu::conv
