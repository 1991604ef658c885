// Convolutions with a window of 1: panels of positions, or products of whole images.
#include "cpu/conv_source.h"
#include "cpu/gemm.h"

namespace knet::cpu::conv {
namespace {

// A window of 1 without padding and strides: y = w x for each image, or dx = w^T dy.
template <class T>
class ConvPlain final : public Step {
 public:
  ConvPlain(const Geometry& g, bool back)
      : rows_(back ? g.in_channels : g.out_channels), depth_(back ? g.out_channels : g.in_channels),
        plane_(g.y_plane()), groups_(g.groups), images_(g.images * g.groups), back_(back) {
    const int64_t images = std::max<int64_t>(1, images_);
    gemm_ = Gemm<T>(rows_, plane_, depth_, Gemm<T>::pieces(rows_ * images, plane_, depth_) / images, back);
    cost_ns = gemm_.cost_ns() * double(images);
  }
  static bool fits(const Geometry& g) {
    bool plain = g.window() == 1;
    for (int d = 0; d < 3; ++d) plain &= g.stride[d] == 1 && g.padding[d] == 0 && g.x[d] == g.y[d];
    return plain;
  }
  void run(char* const* out, const char* const* in, char*) const override {
    auto x = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    parallel(images_ * gemm_.tiles(), cost_ns, [&](int64_t task) {
      const int64_t image = task / gemm_.tiles(), group = image % groups_;
      const T* a = w + group * rows_ * depth_;
      gemm_.tile(task % gemm_.tiles(), back_ ? Mat<T>{a, 1, rows_} : Mat<T>{a, depth_, 1},
                 {x + image * depth_ * plane_, plane_, 1}, y + image * rows_ * plane_, plane_, false);
    });
  }
  std::string text() const override { return "product, " + std::to_string(images_) + " of " + gemm_.text(); }

 private:
  int64_t rows_, depth_, plane_, groups_, images_;
  bool back_;
  Gemm<T> gemm_;
};

// A window of 1 over many positions, y = w x for each image, or dx = w^T dy: weights packed once, and kept in L2; each
// panel of positions read once, while the panel before it is multiplied. What strides leave out is never read; of dx,
// a few rows at a time are spread into zeros. Results of 4 MiB and more are written around the caches: 256x56x56 from
// 64 took 7.4 ms, so 5.3 (to write 25 MB and read them again took 4.4 ms and so 3.0; 6 MB 0.85 and so 0.94).
template <class T>
class ConvPoint final : public Step {
 public:
  ConvPoint(const Geometry& g, bool back)
      : g_(g), back_(back), gathers_(!back && !plain(g)), spreads_(back && !plain(g)),
        rows_(back ? g.in_channels : g.out_channels), depth_(back ? g.out_channels : g.in_channels),
        plane_(g.y_plane()), images_(g.images * g.groups) {
    const Micro<T>& micro = micro_of<T>();
    const int64_t width = 2 * micro.lanes, line = g.y[2];
    blocks_ = (rows_ + micro.rows - 1) / micro.rows;
    packed_ = blocks_ * micro.rows * depth_;
    scratch_bytes = size_t(g.groups * packed_) * sizeof(T);
    group_ = std::clamp<int64_t>(kWeights / (micro.rows * depth_ * int64_t(sizeof(T))), 1, blocks_);
    group_ = (blocks_ + (blocks_ + group_ - 1) / group_ - 1) / ((blocks_ + group_ - 1) / group_);
    // Shares of an image: whole panels, or strips of whole rows where they are to be spread.
    unit_ = spreads_ ? std::clamp<int64_t>(kStrip / (rows_ * line * int64_t(sizeof(T))), 1, g.y[1]) * line : width;
    const int64_t units = (plane_ + unit_ - 1) / unit_;
    const double image_ns = double(rows_) * double(round_up(plane_, micro.lanes)) * double(depth_) /
                                (double(micro.lanes) * 5) + double(depth_ * in_plane() + rows_ * out_plane()) * 0.1;
    shares_ = std::clamp<int64_t>(std::min(int64_t(image_ns / 100e3), 32 / images_), 1, units);
    per_share_ = (units + shares_ - 1) / shares_ * unit_;
    shares_ = (plane_ + per_share_ - 1) / per_share_;
    if (shares_ == 1) together_ = std::clamp<int64_t>(int64_t(30e3 / image_ns), 1, images_);
    around_ = images_ * rows_ * out_plane() * int64_t(sizeof(T)) >= kAround &&
              (spreads_ || plane_ * int64_t(sizeof(T)) % 64 == 0);
    cost_ns = image_ns * double(images_) + double(g.groups * packed_) * 0.3 + 100;
  }
  static bool fits(const Geometry& g, bool back) {
    const int64_t rows = back ? g.in_channels : g.out_channels, depth = back ? g.out_channels : g.in_channels;
    bool fit = g.window() == 1 && rows > 3 && depth > 0 && depth <= kDeep && g.images > 0 && g.groups > 0 &&
               g.y_plane() >= micro_of<T>().lanes;
    for (int d = 0; d < 3; ++d) fit &= g.padding[d] == 0;
    if (!back || plain(g)) return fit;
    for (int d = 0; d < 3; ++d) fit &= g.x[d] <= g.y[d] * g.stride[d];
    return fit && g.x[0] == 1 && rows * g.y[2] * int64_t(sizeof(T)) <= 2 * kStrip;
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto x = reinterpret_cast<const T*>(in[0]), w = reinterpret_cast<const T*>(in[1]);
    auto y = reinterpret_cast<T*>(out[0]);
    auto packed = reinterpret_cast<T*>(scratch);
    pack(w, packed);
    const bool around = around_ && reinterpret_cast<uintptr_t>(y) % 64 == 0;
    parallel((images_ + together_ - 1) / together_ * shares_, cost_ns, [&](int64_t task) {
      const int64_t first = task / shares_ * together_, lo = task % shares_ * per_share_;
      const int64_t hi = std::min(plane_, lo + per_share_);
      for (int64_t image = first; image < std::min(images_, first + together_); ++image) {
        const T* weights = packed + image % g_.groups * packed_;
        T* to = y + image * rows_ * out_plane();
        if (spreads_) spread(x, image, lo, hi, weights, to, around);
        else multiply(x, image, lo, hi, weights, room(0), to + lo, plane_, around);
      }
      if (around) micro_of<T>().settle();
    });
  }
  std::string text() const override {
    return "points, " + std::to_string((images_ + together_ - 1) / together_ * shares_) + " tasks";
  }

 private:
  static constexpr int64_t kDeep = 4096;            // a panel of so many rows is 512 KiB with 64-byte vectors
  static constexpr int64_t kWeights = 1280 << 10;   // bytes that are used again for each panel: more than half of L2
  static constexpr int64_t kStrip = 256 << 10;      // bytes of results that wait to be spread
  static constexpr int64_t kAround = 4 << 20;       // bytes
  static constexpr int kLines = 16;                 // of what comes next, in each row

  static bool plain(const Geometry& g) {
    bool plain = true;
    for (int d = 0; d < 3; ++d) plain &= g.stride[d] == 1 && g.x[d] == g.y[d];
    return plain;
  }
  int64_t in_plane() const { return back_ ? g_.y_plane() : g_.x_plane(); }
  int64_t out_plane() const { return back_ ? g_.x_plane() : g_.y_plane(); }
  // The panel, `more` elements behind it.
  T* room(int64_t more) const {
    return static_cast<T*>(workspace(1, size_t(depth_ * 2 * micro_of<T>().lanes + more) * sizeof(T)));
  }

  void pack(const T* w, T* packed) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t rs = back_ ? 1 : depth_, cs = back_ ? rows_ : 1, chunk = 64;
    parallel(g_.groups * blocks_, double(g_.groups * packed_) * 0.3, [&](int64_t task) {
      const int64_t group = task / blocks_, block = task % blocks_;
      int64_t i = 0, r = 0;
      for (int64_t b = 0; b <= block; ++b) i += r, r = (rows_ - i + blocks_ - b - 1) / (blocks_ - b);
      const T* from = w + group * rows_ * depth_ + i * rs;
      T* to = packed + group * packed_ + block * micro.rows * depth_;
      for (int64_t p = 0; p < depth_; p += chunk)
        micro.pack(to + p * micro.rows, std::min(chunk, depth_ - p), r, r, micro.rows, from + p * cs, cs, rs);
    });
  }

  // Each run of positions q to q + n - 1 that lie in one row: body(offset from q, length, place in the image's plane).
  template <class F>
  void pieces(int64_t q, int64_t n, const F& body) const {
    const int64_t line = g_.y[2];
    for (int64_t p = q; p < q + n;) {
      const int64_t row = p / line, column = p % line, length = std::min(q + n - p, line - column);
      body(p - q, length,
           (row / g_.y[1] * g_.stride[0] * g_.x[1] + row % g_.y[1] * g_.stride[1]) * g_.x[2], column * g_.stride[2]);
      p += length;
    }
  }
  // Positions q to q + n - 1 of an image as p.b.
  void bring(const T* x, int64_t q, int64_t n, T* panel, Point<T>& p) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t lanes = micro.lanes, width = 2 * lanes, whole = round_up(n, lanes);
    p.n = int(n);
    p.keep = nullptr;
    p.b = panel;
    p.ldb = width;
    if (gathers_) {
      std::vector<int64_t> phases(size_t(g_.stride[2]), -1);
      phases[0] = 0;
      pieces(q, n, [&](int64_t at, int64_t length, int64_t row, int64_t column) {
        micro.thin(panel + at, phases.data(), width, x + row, in_plane(), depth_, length, column, g_.x[2],
                   g_.stride[2]);
      });
      // Columns beyond the last are computed: they must be numbers that cost nothing, not stale denormals.
      for (int64_t s = 0; n < whole && s < depth_; ++s) std::fill_n(panel + s * width + n, whole - n, T(0));
    } else if (n < whole) {
      micro.pack(panel, depth_, n, whole, width, x + q, in_plane(), 1);
    } else {
      p.b = x + q;
      p.ldb = in_plane();
      p.keep = panel;
    }
  }
  // The lines that these positions reach, in each channel; where they begin within a line, what lies before them has
  // reached it.
  int64_t reach(int64_t q, int64_t n, int64_t* line) const {
    constexpr int64_t step = 64 / int64_t(sizeof(T));
    int64_t count = 0;
    auto run = [&](int64_t from, int64_t length) {
      for (int64_t j = step - 1; j < length + step - 1 && count < kLines; j += step)
        line[count++] = from + std::min(j, length - 1);
    };
    if (!gathers_) run(q, n);
    else
      pieces(q, n, [&](int64_t, int64_t length, int64_t row, int64_t column) {
        run(row + column, (length - 1) * g_.stride[2] + 1);
      });
    return count;
  }

  // Results lo to hi - 1 of an image, ldc from one channel to the next.
  void multiply(const T* x, int64_t image, int64_t lo, int64_t hi, const T* weights, T* panel, T* y, int64_t ldc,
                bool around) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t width = 2 * micro.lanes, size = depth_ * in_plane();
    Point<T> p;
    int64_t line[kLines];
    p.k = depth_;
    p.line = line;
    p.next_step = in_plane();
    p.ldc = ldc;
    int64_t row = 0;
    for (int64_t block = 0; block < blocks_; block += group_) {
      // Rows of the blocks, which are about equal.
      const int64_t end = std::min(blocks_, block + group_);
      int64_t after = row;
      for (int64_t b = block; b < end; ++b) after += (rows_ - after + blocks_ - b - 1) / (blocks_ - b);
      p.m = after - row;
      p.a = weights + block * micro.rows * depth_;
      for (int64_t q = lo; q < hi; q += width) {
        const int64_t n = std::min(width, hi - q);
        bring(x + image * size, q, n, panel, p);
        p.c = y + row * ldc + q - lo;
        p.around = around && n % micro.lanes == 0;
        int64_t next = q + width < hi ? q + width : end < blocks_ ? lo : hi, of = image;
        if (next == plane_) next = 0, ++of;
        p.next = x + of * size;
        p.lines = of < images_ ? reach(next, std::min(width, plane_ - next), line) : 0;
        micro.point(p);
      }
      row = after;
    }
  }

  // Rows of dy are multiplied and spread over rows of dx.
  void spread(const T* dy, int64_t image, int64_t lo, int64_t hi, const T* weights, T* dx, bool around) const {
    const Micro<T>& micro = micro_of<T>();
    const int64_t line = g_.y[2], length = g_.x[2], apart = g_.stride[1] * length, strip = unit_ / line;
    T* panel = room(rows_ * unit_ + strip * apart);
    T *made = panel + depth_ * 2 * micro.lanes, *wide = made + rows_ * unit_;
    std::vector<const T*> from(size_t(g_.stride[2]), nullptr);
    std::fill_n(wide, strip * apart, T(0));  // rows that no row of dy meets stay so
    for (; lo < hi; lo += unit_) {
      const int64_t n = std::min(unit_, hi - lo), first = lo / line * apart;
      multiply(dy, image, lo, lo + n, weights, panel, made, unit_, false);
      for (int64_t c = 0; c < rows_; ++c) {
        for (int64_t r = 0; r < n / line; ++r) {
          from[0] = made + c * unit_ + r * line;
          micro.weave(wide + r * apart, length, from.data(), g_.stride[2]);
        }
        T* to = dx + c * g_.x_plane() + first;
        const int64_t size = std::min(n / line * apart, g_.x_plane() - first);
        if (around) micro.around(to, wide, size);
        else std::memcpy(to, wide, size_t(size) * sizeof(T));
      }
    }
  }

  Geometry g_;
  bool back_, gathers_, spreads_, around_;
  int64_t rows_, depth_, plane_, images_, blocks_, group_, packed_, unit_, shares_, per_share_, together_ = 1;
};

// A window of 1 with strides or padding: what of the images it meets is copied together first. A sweep over 256x56x56
// by 512 with strides of 2 took 15.4 ms, so 13.2.
template <class T>
class ConvThinned final : public Step {
 public:
  explicit ConvThinned(const Geometry& g) : g_(g), source_(axes(g), true, 0), product_(thinned(g), false) {
    scratch_bytes = size_t(g.images * g.groups * g.in_channels * g.y_plane()) * sizeof(T);
    copy_ns_ = double(scratch_bytes) / double(sizeof(T)) * 4 * kCopyNs<T>;
    cost_ns = copy_ns_ + product_.cost_ns;
  }
  static bool fits(const Geometry& g) {
    return g.window() == 1 && g.out_channels > 3 && g.y_plane() > 0 &&
           Source<T>(axes(g), true, 0).channel == g.y_plane();
  }
  void run(char* const* out, const char* const* in, char* scratch) const override {
    auto x = reinterpret_cast<const T*>(in[0]);
    const int64_t c = g_.in_channels;
    parallel(g_.images * g_.groups, copy_ns_, [&](int64_t image) {
      source_.prepare(x + image * c * g_.x_plane(), c, Source<T>::kCopy,
                      reinterpret_cast<T*>(scratch) + image * c * g_.y_plane(), 2,
                      source_.reach(2, 0, g_.y[2], g_.y[2]));
    });
    const char* const product_in[] = {scratch, in[1]};
    product_.run(out, product_in, nullptr);
  }
  std::string text() const override { return "thinned, " + product_.text(); }

 private:
  static Geometry thinned(Geometry g) {
    for (int d = 0; d < 3; ++d) g.x[d] = g.y[d], g.stride[d] = 1, g.padding[d] = 0;
    return g;
  }
  Geometry g_;
  Source<T> source_;
  ConvPlain<T> product_;
  double copy_ns_;
};

}  // namespace

template <class T>
std::unique_ptr<Step> make_product(const Geometry& g, bool back) {
  if (ConvPoint<T>::fits(g, back)) return std::make_unique<ConvPoint<T>>(g, back);
  return ConvPlain<T>::fits(g) ? std::make_unique<ConvPlain<T>>(g, back) : nullptr;
}
template std::unique_ptr<Step> make_product<float>(const Geometry&, bool);
template std::unique_ptr<Step> make_product<double>(const Geometry&, bool);

template <class T>
std::unique_ptr<Step> make_thinned(const Geometry& g) {
  return ConvThinned<T>::fits(g) ? std::make_unique<ConvThinned<T>>(g) : nullptr;
}
template std::unique_ptr<Step> make_thinned<float>(const Geometry&);
template std::unique_ptr<Step> make_thinned<double>(const Geometry&);

}  // namespace knet::cpu::conv
