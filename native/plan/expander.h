// A graph in which other nodes are put in the place of some: gradients, and what compound operations stand for.
#pragma once
#include "plan/graph.h"
#include "trace/rulebook.h"

namespace knet {

class Expander : protected Rebuilder {
 public:
  using Rebuilder::Rebuilder;

  // put(node) for those of which replaced(node), the others as they are. `room`: its growth, about.
  template <class Replaced, class Put>
  Graph run(double room, const Replaced& replaced, const Put& put) {
    out_.reserve(g_, room);
    size_t kept = 0;
    for (size_t i = 0; i < g_.nodes.size(); ++i) {
      if (!replaced(g_.nodes[i])) continue;
      keep(kept, i);
      put(g_.nodes[i]);
      kept = i + 1;
    }
    keep(kept, g_.nodes.size());
    for (auto [v, leaf] : g_.known) out_.known.emplace_back(map_[v], map_[leaf]);
    return finish();
  }

  // Puts what a compound operation stands for.
  void expand(const Graph::Node& n) {
    in_.clear();
    specs_.clear();
    for (uint32_t v : g_.in(n)) {
      in_.push_back(map_[v]);
      specs_.push_back(&g_.values[v]);
    }
    expansion({n.op, g_.attr(n), specs_, {}, 0, 0})->instantiate(out_, in_, n.line, results_);
    for (uint32_t k = 0; k < n.n_out; ++k) map_[n.out + k] = uint32_t(results_[k]);
  }

 protected:
  List<uint32_t> in_;

 private:
  List<const Spec*> specs_;
  List<int64_t> results_;
};

}  // namespace knet
