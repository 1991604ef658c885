// conv_dw with vectors along the output channels.
#include <cmath>
#include <numeric>
#include "cpu/conv_source.h"
#include "cpu/gemm.h"

namespace knet::cpu::conv {
namespace {

// dw^T (CK x O) = sum of patches^T (CK x P) dy^T (P x O). dy is turned, a block of positions at a time; a tile of dw^T
// is kept in registers, some rows of the window at once, and reads the images where they lie, so that no patches are
// gathered: gathering took 5 to 15 % of the time (64 to 256 channels). A task has some of the positions (its chunk) and
// some of the input channels (its block).
template <class T>
class ConvDwChannels final : public Step {
 public:
  explicit ConvDwChannels(const Geometry& g) : g_(g), source_(axes(g), false, 0), width_(2 * micro_of<T>().lanes) {
    const Axes a = axes(g);
    const int64_t rows = micro_of<T>().rows, window = g.window(), plane = g.y_plane();
    d_ = g.y[0] > 1 ? 0 : g.y[1] > 1 ? 1 : 2;
    line_ = plane / g.y[d_];
    strip_ = std::max<int64_t>(1, kPositions / line_);
    joined_ = std::clamp<int64_t>(kPositions / plane, 1, g.images);
    strips_ = joined_ > 1 ? 1 : (g.y[d_] + strip_ - 1) / strip_;
    panels_ = (g.out_channels + width_ - 1) / width_;
    run_ = g.w[2];
    runs_ = std::min(int64_t(kRuns), rows / run_);
    const double cycles =
        double(round_up(g.patch(), run_) / (run_ * runs_) + 1) * double(std::max<int64_t>(8, runs_ * run_));
    cost_ns = double(g.images * g.groups) * double(plane) * double(panels_) * cycles / 2.5 + 200;
    // Channels whose sums, with all output channels, are 1 MiB at most, and whose part of a strip half of that.
    const double part = std::min(1.0, double((strip_ - 1) * g.stride[d_] + g.w[d_]) / double(g.x[d_]));
    const double sums = double(window * panels_ * width_) * sizeof(T);
    const double strip = part * double(source_.channel * joined_) * sizeof(T);
    auto most = int64_t(std::min(double(1 << 20) / sums, double(512 << 10) / strip));
    most = std::clamp<int64_t>(most, std::min<int64_t>(8, g.in_channels), g.in_channels);
    blocks_ = (g.in_channels + most - 1) / most;
    const double size = double(g.groups * g.out_channels * g.patch());
    // 8 tasks of 100 us or more, 16 of kTaskNs: chunks, while adding them takes 5 % or less (0.5 ns an element), then
    // blocks.
    const auto wanted = int64_t(std::clamp(cost_ns / kTaskNs, std::clamp(cost_ns / 100e3, 1.0, 8.0), 16.0));
    const int64_t tasks = blocks_ * g.groups, affordable = std::lround(0.05 * cost_ns / (0.5 * size));
    chunks_ = even_tasks(std::min((wanted + tasks - 1) / tasks, affordable));
    chunks_ = std::clamp<int64_t>(chunks_, 1, g.images * strips_);
    blocks_ = std::clamp<int64_t>(wanted / (chunks_ * g.groups), blocks_, g.in_channels);
    // Whole tiles: as many rows of the window as fit.
    const int64_t even = runs_ / std::gcd(runs_, window / run_);
    channels_ = std::min(g.in_channels, round_up((g.in_channels + blocks_ - 1) / blocks_, even));
    blocks_ = (g.in_channels + channels_ - 1) / channels_;
    off_ = source_.offsets(a, channels_);
    const auto at = source_.positions(a);
    for (int64_t i = 0; i < joined_; ++i)
      for (int64_t q : at) at_.push_back(i * channels_ * source_.channel + q);
    near_ = line_ % 2 == 0 && near(at_, 2) ? 2 : 1;
    scratch_bytes = sums_bytes();
    if (turned_first()) scratch_bytes += size_t(g.images * g.groups * panels_ * width_ * plane) * sizeof(T);
  }
  // Runs along the window of two or more; lanes of output channels that are worth it.
  static bool fits(const Geometry& g) {
    const int64_t width = 2 * micro_of<T>().lanes;
    return g.w[2] > 1 && g.w[2] <= micro_of<T>().rows && g.dilation[2] == 1 && !g.flip && g.images > 0 &&
           g.y_plane() > 0 && g.patch() > 0 && g.groups > 0 &&
           round_up(g.out_channels, width) * 3 <= g.out_channels * 4;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto dy = reinterpret_cast<const T*>(in[0]), x = reinterpret_cast<const T*>(in[1]);
    auto dw = reinterpret_cast<T*>(out[0]);
    auto sums = reinterpret_cast<T*>(scratch), turned = reinterpret_cast<T*>(scratch + sums_bytes());
    if (turned_first()) turn_all(dy, turned);
    const int64_t parts = g_.groups * blocks_;
    parallel(chunks_ * parts, cost_ns, [&](int64_t task) {
      const int64_t part = task % parts;
      T* own = chunks_ > 1 ? sums + task * part_size() : static_cast<T*>(workspace(0, size_t(part_size()) * sizeof(T)));
      accumulate(dy, x, turned, own, task / parts, part / blocks_, part % blocks_);
      if (chunks_ == 1)
        for (int64_t panel = 0; panel < panels_; ++panel) finish(own, dw, part, panel, 0, columns_of(part % blocks_));
    });
    if (chunks_ > 1) add_chunks(sums, dw);
  }
  std::string text() const override {
    return "channels, " + std::to_string(chunks_) + " chunks of positions, " + std::to_string(blocks_) +
           " blocks of channels";
  }

 private:
  static constexpr int64_t kPositions = 512;  // the sums are read and written once for each block
  static constexpr int64_t kTurned = 64;      // at once: they stay in L1 until all channels are there
  static constexpr int64_t kAdded = 64;       // rows of sums at once
  // With 8 tasks for four threads, whose cores are rarely equally fast, 64x56x56 took 5.0 ms, 128x28x28 5.5 and
  // 256x14x14 4.7; with 16 4.7, 5.1 and 4.3; on one thread they cost 1 to 3 %, 32 of them 4 to 8.
  static constexpr double kTaskNs = 700e3;
  // Images whose positions are joined.
  struct Set {
    int64_t first, count;
  };
  // dy^T of some positions: a panel's rows lie side by side, the next panel `apart` elements on.
  struct Turned {
    T* at;
    int64_t apart;
  };

  // Where many blocks would each turn dy, it is turned before: 512x7x7 in 16 blocks took 13.4 ms, so 12.4; 128x28x28 in
  // four the same either way.
  bool turned_first() const { return blocks_ > 4; }
  // Sums of a block of channels: a panel's rows side by side, then the next panel. Those of all chunks lie in the
  // scratch.
  int64_t columns_of(int64_t block) const {
    return std::min(channels_, g_.in_channels - block * channels_) * g_.window();
  }
  int64_t part_size() const { return panels_ * channels_ * g_.window() * width_; }
  size_t sums_bytes() const {
    return chunks_ == 1 ? 0 : size_t(round_up(chunks_ * g_.groups * blocks_ * part_size() * int64_t(sizeof(T)), 64));
  }

  // Strips, or images that are joined.
  int64_t units() const { return g_.images * strips_; }
  int64_t first_unit(int64_t chunk) const { return units() * chunk / chunks_; }
  Set set_from(int64_t image, int64_t end) const { return {image, std::min(joined_, end - image)}; }
  Set set_of(int64_t image) const {
    if (joined_ == 1) return {image, 1};
    const int64_t chunk = ((image + 1) * chunks_ - 1) / g_.images, begin = first_unit(chunk);
    return set_from(image - (image - begin) % joined_, first_unit(chunk + 1));
  }
  // In what was turned before.
  Turned of_set(T* turned, Set set, int64_t group) const {
    const int64_t plane = g_.y_plane(), panel = plane * width_;
    return {turned + (group * g_.images + set.first) * panels_ * panel, set.count * panel};
  }

  // A panel of positions q to q + count - 1 of an image.
  void turn(const T* dy, int64_t panel, int64_t q, int64_t count, T* to) const {
    const int64_t plane = g_.y_plane(), o = panel * width_, lanes = std::min(width_, g_.out_channels - o);
    for (int64_t p = 0; p < count; p += kTurned)
      micro_of<T>().pack(to + p * width_, std::min(kTurned, count - p), lanes, width_, width_, dy + o * plane + q + p,
                         1, plane);
  }
  void turn_all(const T* dy, T* turned) const {
    const int64_t plane = g_.y_plane(), images = g_.images * g_.groups;
    parallel(images * panels_, double(images * panels_ * width_ * plane) * 0.4, [&](int64_t task) {
      const int64_t panel = task % panels_, image = task / panels_, n = image / g_.groups;
      const Set set = set_of(n);
      const Turned to = of_set(turned, set, image % g_.groups);
      turn(dy + image * g_.out_channels * plane, panel, 0, plane,
           to.at + panel * to.apart + (n - set.first) * plane * width_);
    });
  }

  // Adds the chunks' sums, in order.
  void add_chunks(T* sums, T* dw) const {
    const int64_t parts = g_.groups * blocks_, pieces = (channels_ * g_.window() + kAdded - 1) / kAdded;
    parallel(parts * panels_ * pieces, double(chunks_ * parts * part_size()) * 0.2, [&](int64_t task) {
      const int64_t part = task / (panels_ * pieces), panel = task / pieces % panels_, first = task % pieces * kAdded;
      const int64_t last = std::min(first + kAdded, columns_of(part % blocks_));
      T* to = sums + part * part_size() + panel * columns_of(part % blocks_) * width_;
      for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
        const T* from = to + chunk * parts * part_size();
        for (int64_t i = first * width_; i < last * width_; ++i) to[i] += from[i];
      }
      if (first < last) finish(sums + part * part_size(), dw, part, panel, first, last);
    });
  }
  // Turns rows first to last - 1 of a panel of sums into dw.
  void finish(const T* sums, T* dw, int64_t part, int64_t panel, int64_t first, int64_t last) const {
    const int64_t patch = g_.patch(), block = part % blocks_, o = panel * width_;
    micro_of<T>().pack(dw + (part / blocks_ * g_.out_channels + o) * patch + block * channels_ * g_.window() + first,
                       std::min(width_, g_.out_channels - o), last - first, last - first, patch,
                       sums + (panel * columns_of(block) + first) * width_, 1, width_);
  }

  void accumulate(const T* dy, const T* x, T* turned, T* sums, int64_t chunk, int64_t group, int64_t block) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t plane = g_.y_plane(), x_plane = g_.x_plane(), o_n = g_.out_channels;
    const int64_t c0 = block * channels_, columns = columns_of(block), c_n = columns / g_.window();
    const int64_t first = first_unit(chunk), last = first_unit(chunk + 1);
    const int64_t together = std::min(kPositions, joined_ * plane), image_room = channels_ * source_.channel;
    const int64_t room = int64_t(source_.bytes(channels_ * joined_)), own = turned_first() ? 0 : together;
    auto* source =
        static_cast<T*>(workspace(1, size_t(room) + size_t(panels_ * width_ * own) * sizeof(T)));
    T* area = source + room / int64_t(sizeof(T));
    const auto dy_of = [&](int64_t n) { return dy + (n * g_.groups + group) * o_n * plane; };
    const auto x_of = [&](int64_t n) { return x + ((n * g_.groups + group) * g_.in_channels + c0) * x_plane; };
    // `count` positions of what lies at `from`; what is turned and copied next is fetched meanwhile.
    bool add = false;
    const int64_t tiles = panels_ * ((columns / run_ + runs_ - 1) / runs_);
    std::vector<const T*> lines;
    auto multiply = [&](const T* from, int64_t q, int64_t count, Turned b, Next<T> next_dy, Next<T> next_x) {
      lines.resize(size_t((next_dy.lines() + next_x.lines()) / tiles + 3));
      for (int64_t panel = 0; panel < panels_; ++panel)
        for (int64_t row = 0; row < columns;) {
          const int64_t runs = std::min(runs_, (columns - row) / run_);
          Tile<T> t{{}, sums + (panel * columns + row) * width_, run_ * width_, width_, int(runs), int(run_),
                    near_, nullptr, nullptr};
          for (int64_t r = 0; r < runs; ++r) t.a[r] = from + off_[size_t(row + r * run_)];
          const T** line = lines.data();
          next_dy.part_of(tiles, [&](const T* at) { *line++ = at; });
          next_x.part_of(tiles, [&](const T* at) { *line++ = at; });
          *line = from;
          t.next = lines.data();
          t.next_end = line;
          micro.tile(t, count, at_.data() + q, b.at + panel * b.apart, add);
          row += runs * run_;
        }
      add = true;
    };
    if (joined_ > 1) {
      for (Set set = set_from(first, last); set.count > 0; set = set_from(set.first + set.count, last)) {
        for (int64_t i = 0; i < set.count; ++i)
          source_.prepare(x_of(set.first + i), c_n, Source<T>::kCopy, source + i * image_room, 2, everything());
        Turned b{area, set.count * plane * width_};
        if (turned_first()) b = of_set(turned, set, group);
        else
          for (int64_t i = 0; i < set.count; ++i)
            for (int64_t panel = 0; panel < panels_; ++panel)
              turn(dy_of(set.first + i), panel, 0, plane, area + panel * b.apart + i * plane * width_);
        Next<T> next_dy, next_x;
        if (const Set next = set_from(set.first + set.count, last); next.count > 0) {
          next_dy = {dy_of(next.first), o_n * plane, g_.groups * o_n * plane, next.count};
          if (turned_first()) next_dy = {of_set(turned, next, group).at, panels_ * next.count * plane * width_, 0, 1};
          next_x = {x_of(next.first), c_n * x_plane, g_.groups * g_.in_channels * x_plane, next.count};
        }
        multiply(source, 0, set.count * plane, b, next_dy, next_x);
      }
    } else {
      // Strips of an image, each with what the one before it did not copy.
      for (int64_t unit = first, copied = 0; unit < last; ++unit) {
        const int64_t n = unit / strips_, lo = unit % strips_ * strip_, hi = std::min(g_.y[d_], lo + strip_);
        auto strip = source_.reach(d_, lo, hi, g_.y[d_]);
        if (lo > 0 && unit > first) strip.first = std::max(strip.first, copied);
        copied = strip.second = std::max(strip.first, strip.second);
        const T* from = source_.prepare(x_of(n), c_n, 0, source, d_, strip);
        for (int64_t q = lo * line_; q < hi * line_; q += kPositions) {
          const int64_t count = std::min(kPositions, hi * line_ - q), end = q + count;
          Turned b{area, count * width_};
          if (turned_first()) {
            b = of_set(turned, {n, 1}, group);
            b.at += q * width_;
          } else {
            for (int64_t panel = 0; panel < panels_; ++panel) turn(dy_of(n), panel, q, count, area + panel * b.apart);
          }
          // The next positions, of this image or the next, and roughly what of the image these are the first to meet.
          Next<T> next_dy, next_x;
          if (end < hi * line_ || unit + 1 < last) {
            const int64_t ahead = end < plane ? n : n + 1, at = end % plane, most = std::min(together, plane - at);
            const int64_t row = g_.x[d_], line = x_plane / row;
            const int64_t begin = row * at / plane * line, until = row * (at + most) / plane * line;
            next_dy = {dy_of(ahead) + at, most, plane, o_n};
            if (turned_first()) {
              const Turned t = of_set(turned, {ahead, 1}, group);
              next_dy = {t.at + at * width_, most * width_, t.apart, panels_};
            }
            next_x = {x_of(ahead) + begin, until - begin, x_plane, c_n};
          }
          multiply(from, q, count, b, next_dy, next_x);
        }
      }
    }
  }
  std::pair<int64_t, int64_t> everything() const { return source_.reach(2, 0, g_.y[2], g_.y[2]); }

  Geometry g_;
  Source<T> source_;
  int64_t width_;  // of a panel of output channels: two vectors
  std::vector<int64_t> off_, at_;
  size_t d_;  // strips are so many results along it, `line_` results each
  int64_t strip_, strips_, line_, panels_, blocks_, channels_, joined_, run_, runs_, chunks_;
  int near_;
};

}  // namespace

template <class T>
std::unique_ptr<Step> make_dw_channels(const Geometry& g) {
  return ConvDwChannels<T>::fits(g) ? std::make_unique<ConvDwChannels<T>>(g) : nullptr;
}
template std::unique_ptr<Step> make_dw_channels<float>(const Geometry&);
template std::unique_ptr<Step> make_dw_channels<double>(const Geometry&);

}  // namespace knet::cpu::conv
