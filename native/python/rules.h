// The Python side of rulebook.h: runs derivative rules and expansions under a Capture.
#pragma once
#include <Python.h>

namespace knet {

// derive(name, words, dys, ys, xs, needs) and expand(name, words, xs) of the package.
void set_rules(PyObject* derive, PyObject* expand);
// A user's derivative (knet.primitive): kept for good, found by number.
int64_t add_user_rule(PyObject* rule);

}  // namespace knet
