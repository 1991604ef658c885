#include "python/rules.h"

#include <vector>
#include "python/array.h"
#include "trace/rulebook.h"

namespace knet {

namespace {

PyObject *derive_ = nullptr, *expand_ = nullptr;
std::vector<PyObject*>& user_rules() {
  static auto& r = *new std::vector<PyObject*>;
  return r;
}

// A stand-in for an operand of a rule.
Ref stand_in(Capture& c, const Spec& s) {
  Ref array(reinterpret_cast<PyObject*>(new_array()));
  c.formal(s, handle_of(array));
  return array;
}

Ref words_of(std::span<const int64_t> attrs) {
  Ref t(PyTuple_New(Py_ssize_t(attrs.size())));
  for (size_t i = 0; i < attrs.size(); ++i) PyTuple_SetItem(t, Py_ssize_t(i), Ref(PyLong_FromLongLong(attrs[i])).release());
  return t;
}

Ref list_of(const std::vector<Ref>& items, size_t from, size_t n) {
  Ref l(PyList_New(Py_ssize_t(n)));
  for (size_t i = 0; i < n; ++i) PyList_SetItem(l, Py_ssize_t(i), Ref(items[from + i]).release());
  return l;
}

// What a rule returned, as values of the capturing trace; None is -1.
int64_t result(PyObject* o, DType like) {
  if (o == Py_None) return -1;
  return value_of(Trace::current(), o, &like);
}

// A Python exception raised by a rule becomes an Error, so that it can cross the planner and be raised again at each
// use.
[[noreturn]] void rethrow(const char* op) {
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  std::string what = std::string("[") + op + "] its derivative or expansion failed";
  if (value) {
    if (PyObject* s = PyObject_Str(value)) {
      if (const char* c = PyUnicode_AsUTF8(s)) what = c;
      Py_DECREF(s);
    }
    if (what.rfind("[", 0) != 0) what = std::string("[") + op + "] in its derivative rule: " + what;
  }
  Error::Kind kind = Error::Runtime;
  if (type) {
    if (PyErr_GivenExceptionMatches(type, PyExc_TypeError)) kind = Error::Type;
    else if (PyErr_GivenExceptionMatches(type, PyExc_ValueError)) kind = Error::Value;
    else if (PyErr_GivenExceptionMatches(type, PyExc_IndexError)) kind = Error::Index;
  }
  PyErr_Clear();
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(trace);
  throw Error(kind, what);
}

Template make_derivative(const Signature& s) try {
  Capture c;
  std::vector<Ref> dys, ys, xs;
  for (size_t i = 0; i < s.out.size(); ++i) {
    Spec dy = *s.out[i];
    dys.push_back(s.has_dy >> i & 1 ? stand_in(c, dy) : Ref::borrow(Py_None));
  }
  for (auto* spec : s.out) ys.push_back(stand_in(c, *spec));
  for (auto* spec : s.in) xs.push_back(stand_in(c, *spec));
  auto needed = [&](size_t i) { return s.in.size() > 64 || (s.needs >> i & 1); };
  std::vector<int64_t> results;

  if (s.op == Op::custom) {
    // y, then the user's arguments: the rule is called as rule(dy, y, *xs) and gives one gradient for each of xs.
    PyObject* rule = user_rules().at(size_t(s.attrs[0]));
    std::vector<PyObject*> args{dys[0], ys[0]};
    for (size_t i = 1; i < xs.size(); ++i) args.push_back(xs[i]);
    Ref r(PyObject_Vectorcall(rule, args.data(), args.size(), nullptr));
    bool many = PyTuple_Check(r.get()) || PyList_Check(r.get());
    if ((many ? size_t(PySequence_Size(r)) : 1) != xs.size() - 1)
      throw Error(Error::Value, "[primitive] a derivative returned " + std::to_string(many ? PySequence_Size(r) : 1) +
                                    " gradients for " + std::to_string(xs.size() - 1) + " arguments. Return one for each, or None.");
    for (size_t i = 0; i < xs.size(); ++i) {
      if (!needed(i)) continue;
      if (i == 0) {
        results.push_back(-1);
        continue;
      }
      Ref item = many ? Ref(PySequence_GetItem(r, Py_ssize_t(i - 1))) : r;
      results.push_back(result(item, s.in[i]->dtype));
    }
  } else {
    Ref needs(PyList_New(Py_ssize_t(xs.size())));
    for (size_t i = 0; i < xs.size(); ++i) PyList_SetItem(needs, Py_ssize_t(i), Ref(PyBool_FromLong(needed(i))).release());
    Ref name(PyUnicode_FromString(info(s.op).name)), words = words_of(s.attrs);
    Ref dl = list_of(dys, 0, dys.size()), yl = list_of(ys, 0, ys.size()), xl = list_of(xs, 0, xs.size());
    PyObject* args[] = {name, words, dl, yl, xl, needs};
    Ref r(PyObject_Vectorcall(derive_, args, 6, nullptr));
    for (size_t i = 0; i < xs.size(); ++i)
      if (needed(i)) results.push_back(result(Ref(PySequence_GetItem(r, Py_ssize_t(i))), s.in[i]->dtype));
  }
  return c.finish(results);
} catch (const PyError&) {
  rethrow(info(s.op).name);
}

Template make_expansion(const Signature& s) try {
  Capture c;
  std::vector<Ref> xs;
  for (auto* spec : s.in) xs.push_back(stand_in(c, *spec));
  Ref name(PyUnicode_FromString(info(s.op).name)), words = words_of(s.attrs), xl = list_of(xs, 0, xs.size());
  PyObject* args[] = {name, words, xl};
  Ref r(PyObject_Vectorcall(expand_, args, 3, nullptr));
  std::vector<int64_t> results;
  for (Py_ssize_t i = 0; i < PySequence_Size(r); ++i)
    results.push_back(value_of(Trace::current(), Ref(PySequence_GetItem(r, i))));
  return c.finish(results);
} catch (const PyError&) {
  rethrow(info(s.op).name);
}

}  // namespace

void set_rules(PyObject* derive, PyObject* expand) {
  Py_XINCREF(derive);
  Py_XINCREF(expand);
  derive_ = derive;
  expand_ = expand;
  rule_source().derivative = make_derivative;
  rule_source().expansion = make_expansion;
}

int64_t add_user_rule(PyObject* rule) {
  Py_INCREF(rule);
  user_rules().push_back(rule);
  return int64_t(user_rules().size()) - 1;
}

}  // namespace knet
