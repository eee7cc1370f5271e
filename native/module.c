/* ternfmt._native: the CPython side. Arguments are C-contiguous buffers and their dimensions; every function checks
 * that they fit before it gives up the GIL and works. ternfmt/native.py calls them, and nothing else should. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "contract.h"

static const Loops *chosen;

/* a * b, or -1 where it is negative or too large for a buffer. */
static Py_ssize_t product(Py_ssize_t a, Py_ssize_t b) {
    if (a < 0 || b < 0 || (b > 0 && a > PY_SSIZE_T_MAX / b))
        return -1;
    return a * b;
}

/* Whether a buffer has exactly rows * columns * size bytes; sets ValueError if not. */
static bool fits(const Py_buffer *buffer, const char *name, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t size) {
    Py_ssize_t expected = product(product(rows, columns), size);
    if (expected >= 0 && buffer->len == expected && (uintptr_t)buffer->buf % (size_t)size == 0)
        return true;
    PyErr_Format(PyExc_ValueError, "%s: expected %zd x %zd values of %zd aligned bytes, got %zd bytes", name, rows,
                 columns, size, buffer->len);
    return false;
}

static Py_ssize_t packed_width(Py_ssize_t columns) {
    return columns < 0 ? -1 : (Py_ssize_t)packed_bytes((size_t)columns);
}

/* pack(codes, rows, columns, packed) -> bool */
static PyObject *py_pack(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer codes, packed;
    Py_ssize_t rows, columns;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*nnw*:pack", &codes, &rows, &columns, &packed))
        return NULL;
    if (fits(&codes, "codes", rows, columns, 1) && fits(&packed, "packed", rows, packed_width(columns), 1)) {
        const Loops *loops = chosen;
        bool valid;
        Py_BEGIN_ALLOW_THREADS;
        valid = pack_rows(loops, codes.buf, (size_t)rows, (size_t)columns, packed.buf);
        Py_END_ALLOW_THREADS;
        result = PyBool_FromLong(valid);
    }
    PyBuffer_Release(&codes);
    PyBuffer_Release(&packed);
    return result;
}

/* unpack(packed, rows, columns, codes) -> None */
static PyObject *py_unpack(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer packed, codes;
    Py_ssize_t rows, columns;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*nnw*:unpack", &packed, &rows, &columns, &codes))
        return NULL;
    if (fits(&packed, "packed", rows, packed_width(columns), 1) && fits(&codes, "codes", rows, columns, 1)) {
        const Loops *loops = chosen;
        Py_BEGIN_ALLOW_THREADS;
        unpack_rows(loops, packed.buf, (size_t)rows, (size_t)columns, codes.buf);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&packed);
    PyBuffer_Release(&codes);
    return result;
}

/* valid(packed, rows, columns) -> bool */
static PyObject *py_valid(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer packed;
    Py_ssize_t rows, columns;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*nn:valid", &packed, &rows, &columns))
        return NULL;
    if (fits(&packed, "packed", rows, packed_width(columns), 1)) {
        const Loops *loops = chosen;
        bool valid;
        Py_BEGIN_ALLOW_THREADS;
        valid = valid_rows(loops, packed.buf, (size_t)rows, (size_t)columns);
        Py_END_ALLOW_THREADS;
        result = PyBool_FromLong(valid);
    }
    PyBuffer_Release(&packed);
    return result;
}

static const Format *format_named(const char *name) {
    if (strcmp(name, "bfloat16") == 0)
        return &BFLOAT16;
    if (strcmp(name, "float16") == 0)
        return &FLOAT16;
    if (strcmp(name, "float32") == 0)
        return &FLOAT32;
    PyErr_Format(PyExc_ValueError, "dtype: expected bfloat16, float16 or float32, got %s", name);
    return NULL;
}

/* Groups in a row; -1 and ValueError where the sizes make no sense. */
static Py_ssize_t group_count(Py_ssize_t columns, Py_ssize_t group_size) {
    bool whole_bytes = group_size % CODES_PER_BYTE == 0 || group_size >= columns;
    if (columns >= 1 && group_size >= 1 && whole_bytes)
        return columns / group_size + (columns % group_size != 0);
    PyErr_Format(PyExc_ValueError, "group_size: expected a multiple of 4, or at least the columns, got %zd of %zd",
                 group_size, columns);
    return -1;
}

/* The packed codes of 1 to PLANES_MAX planes. */
typedef struct {
    Py_ssize_t count;
    Py_buffer buffers[PLANES_MAX];
    uint8_t *bytes[PLANES_MAX];
} PlaneBuffers;

/* Open a tuple of buffers [rows, ceil(columns / 4)]; sets an exception if one does not fit. Close them in any case. */
static bool open_planes(PlaneBuffers *planes, PyObject *tuple, Py_ssize_t rows, Py_ssize_t columns, int flags) {
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    if (count < 1 || count > PLANES_MAX) {
        PyErr_Format(PyExc_ValueError, "packed: expected 1 to %d planes, got %zd", PLANES_MAX, count);
        return false;
    }
    while (planes->count < count) {
        Py_buffer *buffer = &planes->buffers[planes->count];
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(tuple, planes->count), buffer, flags) < 0)
            return false;
        planes->bytes[planes->count++] = buffer->buf;
        if (!fits(buffer, "packed", rows, packed_width(columns), 1))
            return false;
    }
    return true;
}

static void close_planes(PlaneBuffers *planes) {
    while (planes->count > 0)
        PyBuffer_Release(&planes->buffers[--planes->count]);
}

/* exact_scales(weights, rows, columns, group_size, dtype, scales) -> bool */
static PyObject *py_exact_scales(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer weights, scales;
    Py_ssize_t rows, columns, group_size, groups;
    const char *dtype;
    const Format *format;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*nnnsw*:exact_scales", &weights, &rows, &columns, &group_size, &dtype, &scales))
        return NULL;
    if (!(format = format_named(dtype)) || (groups = group_count(columns, group_size)) < 0)
        goto done;
    size_t longest = (size_t)(group_size < columns ? group_size : columns);
    if (longest > COLUMNS_MAX) {
        PyErr_Format(PyExc_ValueError, "group_size: expected at most %zu, got %zu", COLUMNS_MAX, longest);
        goto done;
    }
    if (!fits(&weights, "weights", rows, columns, format->bytes) ||
        !fits(&scales, "scales", rows, groups, sizeof(double)))
        goto done;
    Scratch *scratch = scratch_new(longest);
    if (!scratch) {
        PyErr_NoMemory();
        goto done;
    }
    const Loops *loops = chosen;
    bool finite;
    Py_BEGIN_ALLOW_THREADS;
    finite = exact_rows(loops, format, weights.buf, (size_t)rows, (size_t)columns, (size_t)group_size, scales.buf,
                        scratch);
    Py_END_ALLOW_THREADS;
    scratch_free(scratch);
    result = PyBool_FromLong(finite);
done:
    PyBuffer_Release(&weights);
    PyBuffer_Release(&scales);
    return result;
}

/* assign_codes(weights, rows, columns, group_size, dtype, floors, changes, packed) -> None */
static PyObject *py_assign_codes(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer weights, floors, changes;
    Py_ssize_t rows, columns, group_size, groups;
    const char *dtype;
    const Format *format;
    PyObject *tuple, *result = NULL;
    PlaneBuffers planes = {0};
    if (!PyArg_ParseTuple(args, "y*nnnsy*y*O!:assign_codes", &weights, &rows, &columns, &group_size, &dtype, &floors,
                          &changes, &PyTuple_Type, &tuple))
        return NULL;
    if (!(format = format_named(dtype)) || (groups = group_count(columns, group_size)) < 0)
        goto done;
    if (!open_planes(&planes, tuple, rows, columns, PyBUF_CONTIG))
        goto done;
    Py_ssize_t runs = product(rows, groups), thresholds = rows > 0 ? changes.len / rows / groups : 0;
    if (!fits(&weights, "weights", rows, columns, format->bytes) || !fits(&changes, "changes", runs, thresholds, 1) ||
        !fits(&floors, "floors", runs, thresholds, format->bytes))
        goto done;
    if (thresholds > THRESHOLDS_MAX) {
        PyErr_Format(PyExc_ValueError, "changes: expected at most %d thresholds, got %zd", THRESHOLDS_MAX, thresholds);
        goto done;
    }
    Grid grid = {(int)planes.count, (int)thresholds, floors.buf, changes.buf};
    const Loops *loops = chosen;
    Py_BEGIN_ALLOW_THREADS;
    assign_rows(loops, format, weights.buf, (size_t)rows, (size_t)columns, (size_t)group_size, grid,
                planes.bytes);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    close_planes(&planes);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&floors);
    PyBuffer_Release(&changes);
    return result;
}

/* non_zero(packed, rows, columns) -> int */
static PyObject *py_non_zero(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer packed;
    Py_ssize_t rows, columns;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*nn:non_zero", &packed, &rows, &columns))
        return NULL;
    if (fits(&packed, "packed", rows, packed_width(columns), 1)) {
        const Loops *loops = chosen;
        uint64_t found;
        Py_BEGIN_ALLOW_THREADS;
        found = non_zero_rows(loops, packed.buf, (size_t)rows, (size_t)columns);
        Py_END_ALLOW_THREADS;
        result = PyLong_FromUnsignedLongLong(found);
    }
    PyBuffer_Release(&packed);
    return result;
}

/* squares(weights, rows, columns, group_size, dtype, chunk_rows, packed, scales, errors, norms) -> None */
static PyObject *py_squares(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer weights, scales, errors, norms;
    Py_ssize_t rows, columns, group_size, chunk_rows, groups;
    const char *dtype;
    const Format *format;
    PyObject *tuple, *result = NULL;
    PlaneBuffers planes = {0};
    if (!PyArg_ParseTuple(args, "y*nnnsnO!y*w*w*:squares", &weights, &rows, &columns, &group_size, &dtype, &chunk_rows,
                          &PyTuple_Type, &tuple, &scales, &errors, &norms))
        return NULL;
    if (!(format = format_named(dtype)) || (groups = group_count(columns, group_size)) < 0)
        goto done;
    if (chunk_rows < 1) {
        PyErr_Format(PyExc_ValueError, "chunk_rows: expected at least 1, got %zd", chunk_rows);
        goto done;
    }
    if (!open_planes(&planes, tuple, rows, columns, PyBUF_CONTIG_RO))
        goto done;
    Py_ssize_t runs = product(rows, groups), chunks = rows / chunk_rows + (rows % chunk_rows != 0);
    if (!fits(&weights, "weights", rows, columns, format->bytes) ||
        !fits(&scales, "scales", planes.count, runs, sizeof(float)) ||
        !fits(&errors, "errors", chunks, 1, sizeof(double)) || !fits(&norms, "norms", chunks, 1, sizeof(double)))
        goto done;
    float *column_sums = PyMem_Malloc(2 * (size_t)columns * sizeof *column_sums);
    if (!column_sums) {
        PyErr_NoMemory();
        goto done;
    }
    const Loops *loops = chosen;
    const uint8_t *packed[PLANES_MAX];
    memcpy(packed, planes.bytes, sizeof packed);
    Py_BEGIN_ALLOW_THREADS;
    squares_rows(loops, format, weights.buf, (size_t)rows, (size_t)columns, (size_t)group_size, (size_t)chunk_rows,
                 (int)planes.count, packed, scales.buf, column_sums, errors.buf, norms.buf);
    Py_END_ALLOW_THREADS;
    PyMem_Free(column_sums);
    result = Py_NewRef(Py_None);
done:
    close_planes(&planes);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&scales);
    PyBuffer_Release(&errors);
    PyBuffer_Release(&norms);
    return result;
}

/* available() -> names of the instruction sets this machine can run, fastest first */
static PyObject *py_available(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *names = PyList_New(0), *result;
    for (const Loops *const *loops = loops_available(); names && *loops; loops++) {
        PyObject *name = PyUnicode_FromString((*loops)->name);
        if (!name || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    result = names ? PyList_AsTuple(names) : NULL;
    Py_XDECREF(names);
    return result;
}

/* select(name) -> None: the loops that all functions use from now on */
static PyObject *py_select(PyObject *module, PyObject *name) {
    (void)module;
    const char *text = PyUnicode_AsUTF8(name);
    if (!text)
        return NULL;
    for (const Loops *const *loops = loops_available(); *loops; loops++)
        if (strcmp((*loops)->name, text) == 0) {
            chosen = *loops;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "instruction set: %R is not available", name);
}

static PyMethodDef methods[] = {
    {"pack", py_pack, METH_VARARGS, NULL},
    {"unpack", py_unpack, METH_VARARGS, NULL},
    {"valid", py_valid, METH_VARARGS, NULL},
    {"exact_scales", py_exact_scales, METH_VARARGS, NULL},
    {"assign_codes", py_assign_codes, METH_VARARGS, NULL},
    {"non_zero", py_non_zero, METH_VARARGS, NULL},
    {"squares", py_squares, METH_VARARGS, NULL},
    {"available", py_available, METH_NOARGS, NULL},
    {"select", py_select, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module) {
    (void)module;
    chosen = loops_available()[0];
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
