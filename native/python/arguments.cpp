// Reads the arguments of a recording function: attributes become words, inputs values, of types that fit together.
#include <algorithm>

#include "python/function.h"

namespace knet {

namespace {

[[noreturn, gnu::cold]] void wrong_attr(const Entry& e, const Attribute& a, PyObject* o, const char* wants) {
  PyErr_Clear();
  Ref r(PyObject_Repr(o));
  throw Error(Error::Type, std::string("[") + e.about->name + "] " + text(a.name) + " must be " + wants + ", not " +
                               text(r).substr(0, 80) + ". It takes (" + parameters(e) + ").");
}

int64_t integer(const Entry& e, const Attribute& a, PyObject* o, const char* wants) {
  if (PyBool_Check(o) || !PyIndex_Check(o)) wrong_attr(e, a, o, wants);
  if (is_array(o)) refuse_tracked(handle_of(o), e.about->name);
  return to_int(o);
}

int64_t normal_axis(const Entry& e, const Attribute& a, PyObject* o, const Shape& s) {
  const int64_t axis = integer(e, a, o, "an integer");
  if (axis < -s.rank || axis >= s.rank)
    throw Error(Error::Index, std::string("[") + e.about->name + "] axis " + std::to_string(axis) +
                                  " is out of range for an array of shape " + str(s) + ". Use " +
                                  (s.rank ? "-" + std::to_string(s.rank) + " to " + std::to_string(s.rank - 1)
                                          : std::string("axis=None")) +
                                  ".");
  return axis < 0 ? axis + s.rank : axis;
}

}  // namespace

void encode(const Entry& e, const Attribute& a, PyObject* o, const Shape& first, Words& w) {
  switch (a.kind) {
    case AttrKind::Int: return w.push(e, integer(e, a, o, "an integer"));
    case AttrKind::Bool: {
      const int b = PyObject_IsTrue(o);
      if (b < 0) throw PyError{};
      return w.push(e, b);
    }
    case AttrKind::Axis:
      // None: the caller has flattened input 0.
      return w.push(e, o == Py_None ? 0 : normal_axis(e, a, o, first));
    case AttrKind::Ints:
    case AttrKind::Shape: {
      if (!is_sequence(o)) {
        w.push(e, 1);
        return w.push(e, integer(e, a, o, "an integer or a tuple of integers"));
      }
      const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
      w.push(e, n);
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i)
        w.push(e, integer(e, a, PySequence_Fast_GET_ITEM(o, i), "an integer or a tuple of integers"));
      return;
    }
    case AttrKind::Axes: {
      if (o == Py_None) {
        w.push(e, first.rank);
        for (int i = 0; i < first.rank; ++i) w.push(e, i);
        return;
      }
      bool on[kMaxRank] = {};
      int64_t n = 0;
      auto add = [&](PyObject* axis) {
        const int64_t i = normal_axis(e, a, axis, first);
        if (on[i])
          throw Error(Error::Value,
                      std::string("[") + e.about->name + "] axis " + std::to_string(i) + " is named twice.");
        on[i] = true;
        ++n;
      };
      if (is_sequence(o))
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i) add(PySequence_Fast_GET_ITEM(o, i));
      else
        add(o);
      w.push(e, n);
      for (int i = 0; i < first.rank; ++i)
        if (on[i]) w.push(e, i);
      return;
    }
    case AttrKind::DType: {
      if (o == Py_None) return w.push(e, -1);
      const DType t = parse_dtype(o);
      check_supported(t, e.about->name);
      return w.push(e, int64_t(t));
    }
  }
}

void convert(Trace& t, const Entry& e, PyObject* const* objects, size_t n, Values& out, DType element,
             bool has_element) {
  if (n > std::size(out.few)) {
    out.many.resize(n);
    out.v = out.many.data();
  }
  out.n = n;
  const bool compare = e.about->rule == DTypeRule::Compare;
  const bool where = e.about->rule == DTypeRule::Where;
  bool strong = false, loose = false, floats = false;
  DType common = DType::Bool;
  for (size_t i = 0; i < n; ++i) {
    PyObject* o = objects[i];
    const Operand kind = operand_kind(o);
    if (kind == Operand::Number || (kind == Operand::List && !has_knet_array(o))) {
      loose = true;
      floats |= PyFloat_Check(o);
      continue;
    }
    out.v[i] = value_of(t, o);
    const Spec& s = t.spec(out.v[i]);
    const Role role = e.inputs[std::min(i, e.inputs.size() - 1)].role;
    floats |= s.weak && is_float(s.dtype);
    if (!s.weak && role == Role::Data && !(where && i == 0)) {
      common = strong ? promote(common, s.dtype) : s.dtype;
      strong = true;
    }
  }
  if (loose)
    for (size_t i = 0; i < n; ++i) {
      PyObject* o = objects[i];
      const Operand kind = operand_kind(o);
      if (!(kind == Operand::Number || (kind == Operand::List && !has_knet_array(o)))) continue;
      static constexpr DType kIndex = DType::I64, kSeed = DType::U64, kTest = DType::Bool;
      // Numbers alone are made alike at once, because a cast would make the result strong.
      static constexpr DType kDouble = DType::F64;
      // A float among the numbers makes float64 of integer arrays, and then every number is one.
      const bool lifted = floats && kind == Operand::Number && !(strong && is_float(common));
      const DType* like = lifted ? &kDouble : strong ? &common : nullptr;
      DType into;
      switch (e.inputs[std::min(i, e.inputs.size() - 1)].role) {
        // Floats are no indices: they stay floats, and the shape rule says so.
        case Role::Index: like = PyFloat_Check(o) ? nullptr : &kIndex; break;
        case Role::Seed: like = &kSeed; break;
        case Role::Element: like = has_element ? &element : nullptr; break;
        case Role::Into:
          into = t.spec(out.v[0]).dtype;
          like = &into;
          break;
        case Role::Data:
          if (where && i == 0 && PyBool_Check(o)) like = &kTest;
          break;
      }
      if (e.about->rule == DTypeRule::Float && strong && as_float_number(t, o, common, out.v[i])) continue;
      out.v[i] = value_of(t, o, where && i == 0 && !PyBool_Check(o) ? nullptr : like, compare);
    }

  if (e.about->kind == Kind::Elementwise) return;  // Trace::elementwise promotes
  if (e.one_type && n > 1) {
    bool weak_only = true, first = true;
    DType d = DType::Bool, w = DType::Bool;
    // Floats first, as in NumPy: int8, uint16 and float32 meet in float32, though the first two alone would in int32.
    for (const bool floats_now : {true, false})
      for (size_t i = 0; i < n; ++i) {
        if (e.inputs[std::min(i, e.inputs.size() - 1)].role != Role::Data) continue;
        const Spec& s = t.spec(out.v[i]);
        if (is_float(s.dtype) != floats_now) continue;
        if (s.weak) {
          w = promote(w, s.dtype);
        } else {
          d = first ? s.dtype : promote(d, s.dtype);
          first = weak_only = false;
        }
      }
    if (weak_only)
      d = w;
    else if (is_float(w) && !is_float(d))
      d = DType::F64;
    else if (is_int(w) && d == DType::Bool)
      d = DType::I64;
    for (size_t i = 0; i < n; ++i)
      if (e.inputs[std::min(i, e.inputs.size() - 1)].role == Role::Data) out.v[i] = t.cast(out.v[i], d);
  }
  for (size_t i = 0; i < n; ++i) {
    const Spec& s = t.spec(out.v[i]);
    switch (e.inputs[std::min(i, e.inputs.size() - 1)].role) {
      case Role::Index:
        if (is_int(s.dtype)) out.v[i] = t.cast(out.v[i], DType::I64);
        break;
      case Role::Seed:
        if (is_int(s.dtype)) out.v[i] = t.cast(out.v[i], DType::U64);
        break;
      case Role::Into: out.v[i] = t.cast(out.v[i], t.spec(out.v[0]).dtype); break;
      case Role::Element:
        if (has_element) out.v[i] = t.cast(out.v[i], element);
        break;
      case Role::Data: break;
    }
  }
}

void settle(const Entry& e, PyObject** objects, size_t n, PyObject** attrs, std::vector<Ref>& kept) {
  for (size_t i = 0; i < n; ++i) {
    PyObject* o = objects[i];
    if (operand_kind(o) != Operand::None) continue;
    if (!PyObject_HasAttrString(o, "__dlpack__") && !PyObject_HasAttrString(o, "__array__"))
      wrong_call(e, text(e.inputs[std::min(i, e.inputs.size() - 1)].name) + " must be an array or a number, not a " +
                        Py_TYPE(o)->tp_name);
    kept.emplace_back(array_from(o, Py_None, Py_None));
    objects[i] = kept.back();
  }
  for (size_t i = 0; i < e.attrs.size(); ++i) {
    PyObject*& o = attrs[i];
    const Attribute& a = e.attrs[i];
    if (o == Py_None || PyLong_Check(o) || a.kind == AttrKind::DType) continue;
    if (a.kind == AttrKind::Bool) {
      const int b = PyObject_IsTrue(o);
      if (b < 0) throw PyError{};
      o = b ? Py_True : Py_False;
    } else if (is_sequence(o)) {
      bool plain = true;
      for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(o); ++k)
        plain &= PyLong_Check(PySequence_Fast_GET_ITEM(o, k));
      if (plain) continue;
      const Py_ssize_t count = PySequence_Fast_GET_SIZE(o);
      Ref tuple(PyTuple_New(count));
      for (Py_ssize_t k = 0; k < count; ++k) {
        // Counted again: an __index__ may change the list.
        if (k >= PySequence_Fast_GET_SIZE(o)) wrong_attr(e, a, o, "left alone while it is read");
        Ref item = Ref::borrow(PySequence_Fast_GET_ITEM(o, k));
        PyTuple_SET_ITEM(tuple.get(), k, PyLong_FromLongLong(integer(e, a, item, "an integer or a tuple of integers")));
      }
      kept.push_back(tuple);
      o = kept.back();
    } else {
      kept.emplace_back(PyLong_FromLongLong(integer(e, a, o, "an integer")));
      o = kept.back();
    }
  }
}

bool settled(const Entry& e, PyObject* const* objects, size_t n, PyObject* const* attrs) {
  for (size_t i = 0; i < n; ++i)
    if (!is_array(objects[i]) && operand_kind(objects[i]) == Operand::None) return false;
  for (size_t i = 0; i < e.attrs.size(); ++i) {
    PyObject* o = attrs[i];
    if (o == Py_None || PyLong_Check(o) || e.attrs[i].kind == AttrKind::DType) continue;
    if (!is_sequence(o)) return false;
    for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(o); ++k)
      if (!PyLong_Check(PySequence_Fast_GET_ITEM(o, k))) return false;
  }
  return true;
}

}  // namespace knet
