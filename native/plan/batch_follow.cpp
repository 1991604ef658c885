// batch: what follows a group.
#include <algorithm>

#include "plan/batcher.h"

namespace knet {

void Batcher::extend(const Values& group) {
  followers_.clear();
  claimed_.resize(g_.nodes.size());
  List<Values> todo(1);
  for (uint32_t i : group) todo[0].push_back(g_.nodes[i].out);
  while (!todo.empty()) {
    const Values vs = std::move(todo.back());
    todo.pop_back();
    for (Use u : uses(vs[0])) {
      Values nodes = followers_of(vs, u);
      if (nodes.empty()) continue;
      for (uint32_t k = 0; k < nodes.size(); ++k) claimed_[nodes[k]] = {uint32_t(followers_.size()), k};
      todo.emplace_back();
      for (uint32_t i : nodes) todo.back().push_back(g_.nodes[i].out);
      followers_.push_back({std::move(nodes)});
    }
  }
  // From the last to the first: a large value is batched only if whoever reads it is.
  for (size_t s = followers_.size(); s-- > 0;) followers_[s].kept = wanted(s);
  for (size_t s = 0; s < followers_.size(); ++s)
    if (followers_[s].kept) run_together(followers_[s].nodes);
  for (const Follower& f : followers_)
    for (uint32_t i : f.nodes) claimed_[i] = {};
}

// For each of the values a node that uses it as `first` uses vs[0]; empty if they are not alike or cannot run together.
Values Batcher::followers_of(const Values& vs, Use first) const {
  Values nodes;
  for (uint32_t v : vs) {
    uint32_t found = kNone;
    for (Use u : uses(v)) {
      if (u.at != first.at || g_.nodes[u.node].op != g_.nodes[first.node].op) continue;
      if (done_[u.node] || absorbed_[u.node] || claimed_[u.node].set != kNone) continue;
      if (role_[u.node] != kNone) continue;
      if (std::ranges::find(nodes, u.node) != nodes.end()) continue;
      found = u.node;
      break;
    }
    if (found == kNone || (nodes.empty() && found != first.node)) return {};
    nodes.push_back(found);
  }
  if (!alike(nodes)) return {};
  const auto& n = g_.nodes[nodes[0]];
  bool same[kMostOperands];
  if (n.n_in > kMostOperands) return {};
  for (size_t j = 0; j < n.n_in; ++j) {
    const Values in = operands(nodes, j);
    same[j] = all_same(in);
    if (j != first.at && !at_hand(in, same[j])) return {};
  }
  if (same[first.at] || !stackable(n, {same, n.n_in})) return {};
  return nodes;
}

// Could these be an operand of a group?
bool Batcher::at_hand(const Values& vs, bool same, int depth) const {
  auto there = [&](uint32_t v) { return available_[g_.maker[v]]; };
  if (same) return there(vs[0]);
  if (const uint32_t set = claimed_[g_.maker[vs[0]]].set; set != kNone) {
    for (uint32_t k = 0; k < vs.size(); ++k)
      if (const Claim c = claimed_[g_.maker[vs[k]]]; c.set != set || c.at != k) return false;
    return true;
  }
  if (!std::ranges::all_of(vs, there)) return false;
  if (in_order(vs) || small(vs[0])) return true;
  const Values makers = depth < kLiftDepth ? fresh_makers(vs) : Values{};
  if (makers.size() < vs.size()) return false;
  for (size_t j = 0; j < g_.nodes[makers[0]].n_in; ++j) {
    const Values in = operands(makers, j);
    if (!at_hand(in, all_same(in), depth + 1)) return false;
  }
  return true;
}

bool Batcher::wanted(size_t s) const {
  const Follower& f = followers_[s];
  const auto& n = g_.nodes[f.nodes[0]];
  if (small(n.out) || info(n.op).kind == Kind::Contraction || info(n.op).kind == Kind::Index) return true;
  for (uint32_t i : f.nodes) {
    if (result_[g_.nodes[i].out]) return false;
    for (Use u : uses(g_.nodes[i].out)) {
      if (in_sum(u.node)) continue;
      const uint32_t set = claimed_[u.node].set;
      if (set == kNone || !followers_[set].kept) return false;
    }
  }
  return true;
}

// Is it read as part of a sum of products or of columns, which wants a stack?
bool Batcher::in_sum(uint32_t i) const {
  if (absorbed_[i]) return g_.nodes[i].op != Op::add && g_.nodes[i].op != Op::slice_add;
  const auto& n = g_.nodes[i];
  if (n.op != Op::transpose && n.op != Op::reshape) return false;
  return std::ranges::all_of(uses(n.out), [&](Use u) { return in_sum(u.node); });
}

}  // namespace knet
