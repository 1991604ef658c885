// guard: what decides whether a run can fail comes first. The kernels that make the indices of others, where they are
// few and quick, move to the front; when they have run, these indices are checked, and from then on nothing can fail.
// So a step with labels or words in it may work in place, and beside the recording of the next step: if a label is out
// of range nothing has been overwritten.
#include <algorithm>

#include "plan/program.h"

namespace knet {

namespace {

// Checked twice, beforehand and by their kernels: about half a nanosecond each.
constexpr int64_t kMostIndices = 16384;
constexpr double kMostNs = 5e3;  // of all kernels that come first

class Guard {
 public:
  explicit Guard(Schedule& s) : s_(s), maker_(s.graph.values.size(), kNone), first_(s.kernels.size()) {
    for (uint32_t k = 0; k < s.kernels.size(); ++k)
      for (uint32_t v : s.out(s.kernels[k])) maker_[s.views[v].root] = k;
    for (uint32_t v : s.graph.outputs) fixed(v);
    for (const Joined& j : s.joined) fixed(j.whole);  // several kernels make it
  }

  void run() {
    List<uint32_t> checked;
    for (uint32_t k = 0; k < s_.kernels.size(); ++k) {
      const Kernel& kernel = s_.kernels[k];
      const auto in = s_.in(kernel);
      bool any = false, all = true;
      for (uint32_t i = 0; i < in.size() && all; ++i)
        if (kernel.step->decides(int(i))) any = true, all = few(in[i]) && comes_first(s_.views[in[i]].root);
      if (any && all) checked.push_back(k);
    }
    move(checked);
  }

 private:
  static constexpr uint32_t kNone = ~0u, kFixed = kNone - 1;
  Schedule& s_;
  List<uint32_t> maker_;  // per root: the kernel that makes it; kFixed: it may not come first
  List<bool> first_;      // per kernel
  double cost_ns_ = 0;

  // Results may lie where inputs were.
  void fixed(uint32_t v) {
    if (uint32_t& m = maker_[s_.views[v].root]; m != kNone) m = kFixed;
  }
  bool few(uint32_t v) const { return s_.graph.values[v].shape.size() <= kMostIndices; }

  // Marks the kernels that this value needs, if all of them may come first.
  bool comes_first(uint32_t root) {
    List<uint32_t> found, roots(1, root);
    double cost = cost_ns_;
    while (!roots.empty()) {
      const uint32_t k = maker_[roots.back()];
      roots.pop_back();
      if (k == kFixed) return false;
      if (k == kNone || first_[k] || std::find(found.begin(), found.end(), k) != found.end()) continue;
      found.push_back(k);
      if ((cost += s_.kernels[k].step->cost_ns) > kMostNs) return false;
      for (uint32_t v : s_.out(s_.kernels[k]))
        if (maker_[s_.views[v].root] == kFixed) return false;
      for (uint32_t v : s_.in(s_.kernels[k])) roots.push_back(s_.views[v].root);
    }
    for (uint32_t k : found) first_[k] = true;
    cost_ns_ = cost;
    return true;
  }

  void move(const List<uint32_t>& checked) {
    List<uint32_t> place(s_.kernels.size());
    std::vector<Kernel> kernels;
    kernels.reserve(s_.kernels.size());
    for (bool first : {true, false}) {
      for (uint32_t k = 0; k < place.size(); ++k)
        if (first_[k] == first) place[k] = uint32_t(kernels.size()), kernels.push_back(std::move(s_.kernels[k]));
      if (first) s_.guards = uint32_t(kernels.size());
    }
    s_.kernels = std::move(kernels);
    for (uint32_t k : checked) s_.checked.push_back(place[k]);
  }
};

}  // namespace

void guard(Schedule& schedule) {
  for (const Kernel& k : schedule.kernels) {
    const Op op = schedule.graph.nodes[schedule.nodes(k)[0]].op;
    if (!k.tile() && info(op).kind == Kind::Index) return Guard(schedule).run();
  }
}

}  // namespace knet
