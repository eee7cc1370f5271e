/* What the files that face CPython share. */
#ifndef TERNFMT_CPU_MODULE_H
#define TERNFMT_CPU_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "contract.h"

/* module.c: the instruction set of this name, or NULL where this machine has none. */
const Kernels *kernels_named(const char *name);

/* direct.c */
PyObject *py_use_tensors(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_linear(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
