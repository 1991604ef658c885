#include "trace/rulebook.h"

#include <algorithm>
#include <array>

#include "trace/op.h"
#include "words.h"

namespace knet {

Capture::Capture() : outer_(Trace::here_) {
  trace_.capturing_ = true;
  Trace::here_ = &trace_;
}

Capture::~Capture() { Trace::here_ = outer_; }

uint32_t Capture::formal(const Spec& s, Handle& h) {
  uint32_t id = uint32_t(trace_.values_.size());
  trace_.values_.emplace_back(s, s.bytes(), 0, false);
  ++formals_;
  trace_.give(id, h);
  return id;
}

Template Capture::finish(std::span<const int64_t> results) {
  Template t;
  if (!trace_.bound_.empty())
    throw Error(Error::Value,
                "[knet] a derivative rule may use only its own arguments, but this one uses an array of its own, " +
                    std::string(name(trace_.values_[trace_.bound_[0].value].spec.dtype)) +
                    str(trace_.values_[trace_.bound_[0].value].spec.shape) + ". Pass it to the operation as an argument.");
  t.formals = formals_;
  t.words = trace_.words_;
  t.scalars = trace_.scalars_;
  for (const auto& v : trace_.values_) t.specs.push_back(v.spec);
  for (int64_t r : results) t.results.push_back(int32_t(r));
  for (size_t w = 0; w < t.words.size();) {
    Head h = Head::unpack(t.words[w]);
    t.can_fail |= info(h.op).kind == Kind::Index;
    w += 1 + h.n_in + h.n_attr;
  }
  return t;
}

void Template::instantiate(Graph& g, std::span<const uint32_t> operands, int32_t line, List<int64_t>& into) const {
  constexpr size_t kFew = 8;
  uint32_t few[kFew];
  List<uint32_t> map, many;
  map.reserve(specs.size());
  map.assign(operands.begin(), operands.end());
  const bool known = exact && std::ranges::none_of(operands, [&](uint32_t v) { return g.values[v].weak; });
  size_t scalar = 0;
  for (size_t w = 0; w < words.size();) {
    Head h = Head::unpack(words[w]);
    std::span<const int64_t> attrs(words.data() + w + 1 + h.n_in, h.n_attr);
    if (h.n_in > kFew) many.resize(h.n_in);
    const std::span in(h.n_in > kFew ? many.data() : few, h.n_in);
    for (uint32_t i = 0; i < h.n_in; ++i) in[i] = map[size_t(words[w + 1 + i])];
    if (h.op == Op::scalar) {
      map.push_back(g.constant(scalars[scalar++], DType(attrs[0] & 0xff)));
    } else if (info(h.op).kind == Kind::Compound) {
      List<const Spec*> s;
      for (uint32_t v : in) s.push_back(&g.values[v]);
      List<int64_t> inner;
      expansion({h.op, attrs, s, {}, 0, 0})->instantiate(g, in, line, inner);
      for (int64_t r : inner) map.push_back(uint32_t(r));
    } else {
      const std::span<const Spec> made(specs.data() + map.size(), h.n_out);
      const uint32_t out = known ? g.add(h.op, in, attrs, made, line) : g.add(h.op, in, attrs, line);
      for (uint32_t i = 0; i < h.n_out; ++i) map.push_back(out + i);
    }
    w += 1 + h.n_in + h.n_attr;
  }
  into.clear();
  for (int32_t v : results) into.push_back(v < 0 ? -1 : int64_t(map[size_t(v)]));
}

RuleSource& rule_source() {
  static auto& s = *new RuleSource;
  return s;
}

namespace {

struct Book {
  std::unordered_map<std::vector<int64_t>, TemplateRef, WordsHash, SameWords> all;
  // For each operation the one that was found last: a network has many layers of a kind.
  std::array<const decltype(all)::value_type*, size_t(Op::Count_)> last{};
};

// What of its operands a template depends on.
struct Sees {
  bool weak, shapes;
};

// A signature as words, on the stack if they are few.
class Key {
 public:
  Key(const Signature& s, Sees sees) : sees_(sees) {
    const size_t most = 3 + s.attrs.size() + (s.in.size() + s.out.size()) * (1 + kMaxRank);
    if (most > kFew) many_.resize(most), words_ = many_.data();
    push(int64_t(s.op) | int64_t(s.attrs.size()) << 16 | int64_t(s.in.size()) << 32);
    push(int64_t(s.has_dy));
    push(int64_t(s.needs));
    for (int64_t a : s.attrs) push(a);
    for (auto* p : s.in) push(*p);
    for (auto* p : s.out) push(*p);
  }
  Words words() const { return {words_, size_}; }

 private:
  static constexpr size_t kFew = 128;
  int64_t few_[kFew];
  std::vector<int64_t> many_;
  int64_t* words_ = few_;
  size_t size_ = 0;
  Sees sees_;

  void push(int64_t w) { words_[size_++] = w; }
  void push(const Spec& s) {
    const int rank = sees_.shapes ? s.shape.rank : 0;
    push(int64_t(s.dtype) | int64_t(s.weak && sees_.weak) << 8 | int64_t(s.device.kind) << 16 |
         int64_t(s.device.index) << 24 | int64_t(rank) << 32);
    for (int i = 0; i < rank; ++i) push(s.shape[i]);
  }
};

// The same signature with nothing in it that the template must not see.
template <class Make>
Template made_of(const Signature& s, Sees sees, const Make& make) {
  std::vector<Spec> specs;
  std::vector<const Spec*> pointers;
  for (auto of : {s.in, s.out})
    for (auto* p : of) specs.push_back(*p);
  for (Spec& p : specs) {
    p.weak &= sees.weak;
    if (!sees.shapes) p.shape.rank = 0;
    pointers.push_back(&p);
  }
  Signature seen = s;
  seen.in = {pointers.data(), s.in.size()};
  seen.out = {pointers.data() + s.in.size(), s.out.size()};
  return make(seen);
}

// See Template::onto.
TemplateRef added_into_operand(const Template& t) {
  struct Made {
    Head by;
    size_t at, number;  // where its words begin; of a number, which it is
  };
  std::vector<Made> made(t.specs.size(), Made{});
  uint32_t v = t.formals;
  size_t numbers = 0;
  for (size_t w = 0; w < t.words.size();) {
    const Head h = Head::unpack(t.words[w]);
    for (uint32_t k = 0; k < h.n_out; ++k) made[v++] = {h, w, numbers};
    numbers += h.op == Op::scalar;
    w += 1 + h.n_in + h.n_attr;
  }
  if (t.results.size() != 1 || t.results[0] < int32_t(t.formals)) return nullptr;
  const auto input = [&](uint32_t of, size_t i) { return uint32_t(t.words[made[of].at + 1 + i]); };
  const auto is = [&](uint32_t u, Op op) { return u >= t.formals && made[u].by.op == op; };
  const uint32_t sum = uint32_t(t.results[0]);
  if (!is(sum, Op::slice_add) && !is(sum, Op::scatter_add) && !is(sum, Op::scatter_along_axis)) return nullptr;
  const uint32_t zeros = input(sum, 0);
  if (!is(zeros, Op::broadcast_to)) return nullptr;
  uint32_t zero = input(zeros, 0);
  if (is(zero, Op::cast)) zero = input(zero, 0);
  if (!is(zero, Op::scalar) || t.scalars[made[zero].number].i != 0) return nullptr;

  std::vector<bool> needed(t.specs.size());
  needed[sum] = true;
  int readers = 0;  // of the zeros
  for (uint32_t u = uint32_t(t.specs.size()); u-- > t.formals;)
    for (uint32_t i = 0; needed[u] && i < made[u].by.n_in; ++i) {
      if (input(u, i) == zeros) ++readers;
      else needed[input(u, i)] = true;
    }
  if (readers != 1) return nullptr;
  auto onto = std::make_shared<Template>();
  std::vector<int64_t> map(t.specs.size());
  const auto value = [&](uint32_t u) {
    map[u] = int64_t(onto->specs.size());
    onto->specs.push_back(t.specs[u]);
  };
  for (uint32_t u = 0; u < t.formals; ++u) value(u);
  value(zeros);
  onto->formals = t.formals + 1;
  onto->can_fail = t.can_fail;
  onto->exact = t.exact;
  for (uint32_t u = t.formals; u < t.specs.size();) {
    const auto& [h, w, number] = made[u];
    bool any = false;
    for (uint32_t k = 0; k < h.n_out; ++k) any = any || needed[u + k];
    if (any) {
      const auto attrs = t.words.begin() + ptrdiff_t(w + 1 + h.n_in);
      if (h.op == Op::scalar) onto->scalars.push_back(t.scalars[number]);
      onto->words.push_back(t.words[w]);
      for (uint32_t i = 0; i < h.n_in; ++i) onto->words.push_back(map[input(u, i)]);
      onto->words.insert(onto->words.end(), attrs, attrs + h.n_attr);
      for (uint32_t k = 0; k < h.n_out; ++k) value(u + k);
    }
    u += h.n_out;
  }
  onto->results.push_back(int32_t(map[sum]));
  return onto;
}

TemplateRef lookup(Book& book, const Signature& s, Sees sees, const std::function<Template(const Signature&)>& make) {
  const Key key(s, sees);
  auto& last = book.last[size_t(s.op)];
  if (last && same_words<int64_t>(last->first, key.words())) return last->second;
  if (auto it = book.all.find(key.words()); it != book.all.end()) {
    last = &*it;
    return it->second;
  }
  // A program of ever new shapes must not grow the book for ever; a rule costs some 50 us to run again.
  if (book.all.size() > 100000) {
    book.all.clear();
    book.last = {};
  }
  auto made = std::make_shared<Template>(made_of(s, sees, make));
  made->exact = sees.shapes && !sees.weak;
  if (made->exact)  // the numbers that are written in it become constants, which are not weak, and nor is what comes of them
    for (Spec& spec : made->specs) spec.weak = false;
  made->onto = added_into_operand(*made);
  std::vector<int64_t> words(key.words().begin(), key.words().end());
  return book.all.emplace(std::move(words), std::move(made)).first->second;
}

Book derivatives, expansions;

}  // namespace

TemplateRef derivative(const Signature& s) {
  return lookup(derivatives, s, {.weak = false, .shapes = info(s.op).kind != Kind::Elementwise}, rule_source().derivative);
}
TemplateRef expansion(const Signature& s) {
  return lookup(expansions, s, {.weak = true, .shapes = true}, rule_source().expansion);
}
size_t templates() { return derivatives.all.size() + expansions.all.size(); }

}  // namespace knet
