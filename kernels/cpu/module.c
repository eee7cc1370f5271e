/* ternfmt_kernels._cpu: the CPython side. Memory comes as (address, bytes that may be read or written from there on);
 * everything is checked against that before an address is used, and the GIL is given up for the work. Nobody can check
 * that an address is one: only ternfmt_kernels/cpu_backend/launch.py should call `matmul`, with those of tensors.
 */
#include "module.h"

typedef unsigned long long Address; /* as PyArg_ParseTuple's K wants it */

static bool wrong(const char *what, const char *expected, Py_ssize_t got) {
    PyErr_Format(PyExc_ValueError, "%s: expected %s, got %zd", what, expected, got);
    return false;
}

/* a * b + c of numbers that are not negative, or PY_SSIZE_T_MAX where it is too large. */
static Py_ssize_t multiply_add(Py_ssize_t a, Py_ssize_t b, Py_ssize_t c) {
    Py_ssize_t result;
    if (__builtin_mul_overflow(a, b, &result) || __builtin_add_overflow(result, c, &result))
        return PY_SSIZE_T_MAX;
    return result;
}

/* `count` values of `size` bytes, the last of them `last` values behind the first, must fit. */
static bool fits(const char *what, Address address, Address bytes, Py_ssize_t last, Py_ssize_t size) {
    Py_ssize_t expected = multiply_add(last, size, size);
    if (address == 0 || address > UINTPTR_MAX - bytes) {
        PyErr_Format(PyExc_ValueError, "%s: expected the address of %llu bytes, got %llu", what, bytes, address);
        return false;
    }
    if (bytes < (Address)expected) {
        PyErr_Format(PyExc_ValueError, "%s: expected at least %zd bytes, got %llu", what, expected, bytes);
        return false;
    }
    if (address % (Address)size == 0)
        return true;
    PyErr_Format(PyExc_ValueError, "%s: expected an address that is a multiple of %zd, got %llu", what, size, address);
    return false;
}

static bool parse_dtype(const char *what, const char *name, Dtype *dtype) {
    static const char *const names[] = {[FLOAT32] = "float32", [FLOAT16] = "float16", [BFLOAT16] = "bfloat16"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *dtype = (Dtype)i;
            return true;
        }
    PyErr_Format(PyExc_ValueError, "%s: expected float32, float16 or bfloat16, got %s", what, name);
    return false;
}

const Kernels *kernels_named(const char *name) {
    for (const Kernels *const *set = kernels_available(); *set; set++)
        if (strcmp((*set)->name, name) == 0)
            return *set;
    return NULL;
}

static bool parse_kernels(const char *name, const Kernels **kernels) {
    *kernels = kernels_named(name);
    if (*kernels)
        return true;
    PyObject *known = PyUnicode_FromString("");
    for (const Kernels *const *set = kernels_available(); known && *set; set++) {
        PyObject *before = known;
        known = PyUnicode_FromFormat("%U%s%s", before, set == kernels_available() ? "" : ", ", (*set)->name);
        Py_DECREF(before);
    }
    if (known)
        PyErr_Format(PyExc_ValueError, "instruction set: expected one of %U, got %s", known, name);
    Py_XDECREF(known);
    return false;
}

/* The activations: (address, bytes, dtype, rows, columns, row stride, column stride). */
static bool parse_x(PyObject *tuple, Matrix *x) {
    Address address, bytes;
    const char *dtype;
    Py_ssize_t m, k, row, column;
    if (!PyArg_ParseTuple(tuple, "KKsnnnn:x", &address, &bytes, &dtype, &m, &k, &row, &column) ||
        !parse_dtype("x", dtype, &x->dtype))
        return false;
    if (m < 0)
        return wrong("rows of x", "at least 0", m);
    if (k < 1 || k >= K_LIMIT)
        return wrong("columns", "1 to 2^24 - 1", k);
    if (row < 0 || column < 0)
        return wrong("strides of x", "none below 0", row < column ? row : column);
    if (m > 0 && !fits("x", address, bytes, multiply_add(m - 1, row, multiply_add(k - 1, column, 0)),
                       (Py_ssize_t)dtype_bytes(x->dtype)))
        return false;
    *x = (Matrix){(const void *)(uintptr_t)address, x->dtype, (size_t)m, (size_t)k, row, column};
    return true;
}

/* One (address, bytes) of every plane. */
static bool parse_planes(const char *what, PyObject *tuple, Py_ssize_t last, Py_ssize_t size, const void **data) {
    for (Py_ssize_t p = 0; p < PyTuple_GET_SIZE(tuple); p++) {
        Address address, bytes;
        PyObject *pair = PyTuple_GET_ITEM(tuple, p);
        if (!PyTuple_Check(pair)) {
            PyErr_Format(PyExc_TypeError, "%s: expected a tuple of pairs, got %.100s in it", what,
                         Py_TYPE(pair)->tp_name);
            return false;
        }
        if (!PyArg_ParseTuple(pair, "KK", &address, &bytes) || (last >= 0 && !fits(what, address, bytes, last, size)))
            return false;
        data[p] = (const void *)(uintptr_t)address;
    }
    return true;
}

/* The weight: (rows, group size or 0, bytes from row to row, pairs of codes, dtype of scales, pairs of scales). */
static bool parse_weight(PyObject *tuple, size_t k, Weight *weight) {
    Py_ssize_t n, group, row_bytes, packed = (Py_ssize_t)ceil_div(k, CODES_PER_BYTE);
    PyObject *codes, *scales;
    const char *dtype;
    const void *code_data[PLANES_MAX];
    char expected[64];
    if (!PyArg_ParseTuple(tuple, "nnnO!sO!:weight", &n, &group, &row_bytes, &PyTuple_Type, &codes, &dtype,
                          &PyTuple_Type, &scales) ||
        !parse_dtype("scales", dtype, &weight->scale_dtype))
        return false;
    const Py_ssize_t planes = PyTuple_GET_SIZE(codes);
    if (n < 0)
        return wrong("rows of codes", "at least 0", n);
    if (planes < 1 || planes > PLANES_MAX)
        return wrong("planes", "1 to 4", planes);
    if (PyTuple_GET_SIZE(scales) != planes) {
        PyOS_snprintf(expected, sizeof expected, "%zd, as many as planes of codes", planes);
        return wrong("scales", expected, PyTuple_GET_SIZE(scales));
    }
    if (group < 0 || group % WORD_CODES)
        return wrong("group size", "a multiple of 16", group);
    if (row_bytes < packed) {
        PyOS_snprintf(expected, sizeof expected, "at least %zd, a row", packed);
        return wrong("bytes from row to row of codes", expected, row_bytes);
    }
    weight->n = (size_t)n, weight->k = k, weight->planes = (int)planes, weight->row_bytes = (size_t)row_bytes;
    weight->group = group && (size_t)group < k ? (size_t)group : k;
    weight->groups = ceil_div(k, weight->group);
    Py_ssize_t last_code = n ? multiply_add(n - 1, row_bytes, packed - 1) : -1;
    Py_ssize_t last_scale = multiply_add(n, (Py_ssize_t)weight->groups, -1);
    if (!parse_planes("codes", codes, last_code, 1, code_data) ||
        !parse_planes("scales", scales, n ? last_scale : -1, (Py_ssize_t)dtype_bytes(weight->scale_dtype),
                      weight->scales))
        return false;
    for (Py_ssize_t p = 0; p < planes; p++)
        weight->codes[p] = code_data[p];
    return true;
}

/* The bias, None or (address, bytes, dtype), and the low-rank term, None or
 * (rank, address and bytes of its inner half, float32; address, bytes and dtype of `up`). */
static bool parse_extras(PyObject *bias, PyObject *low_rank, size_t m, size_t n, Extras *extras) {
    Address address, bytes, up, up_bytes;
    Py_ssize_t rank;
    const char *dtype;
    if (bias != Py_None) {
        if (!PyArg_ParseTuple(bias, "KKs:bias", &address, &bytes, &dtype) ||
            !parse_dtype("bias", dtype, &extras->bias_dtype) ||
            (n && !fits("bias", address, bytes, (Py_ssize_t)n - 1, (Py_ssize_t)dtype_bytes(extras->bias_dtype))))
            return false;
        extras->bias = (const void *)(uintptr_t)address;
    }
    if (low_rank == Py_None)
        return true;
    if (!PyArg_ParseTuple(low_rank, "nKKKKs:low_rank", &rank, &address, &bytes, &up, &up_bytes, &dtype) ||
        !parse_dtype("up", dtype, &extras->up_dtype))
        return false;
    if (rank < 0 || rank > RANK_LIMIT)
        return wrong("rank", "0 to 2^20", rank);
    if (rank == 0 || m == 0 || n == 0)
        return true;
    if (!fits("inner half of the low-rank term", address, bytes, multiply_add((Py_ssize_t)m, rank, -1), 4) ||
        !fits("up", up, up_bytes, multiply_add((Py_ssize_t)n, rank, -1), (Py_ssize_t)dtype_bytes(extras->up_dtype)))
        return false;
    extras->rank = (size_t)rank;
    extras->inner = (const void *)(uintptr_t)address;
    extras->up = (const void *)(uintptr_t)up;
    return true;
}

/* matmul(instruction set, int8, threads, x, weight, bias, low_rank, (address, bytes, dtype) of the result) -> None */
static PyObject *py_matmul(PyObject *module, PyObject *args) {
    (void)module;
    const char *set, *dtype;
    int int8, threads;
    PyObject *x, *weight, *bias, *low_rank;
    Address out, out_bytes;
    Product product = {0};
    bool done;
    if (!PyArg_ParseTuple(args, "spiO!O!OO(KKs):matmul", &set, &int8, &threads, &PyTuple_Type, &x, &PyTuple_Type,
                          &weight, &bias, &low_rank, &out, &out_bytes, &dtype))
        return NULL;
    if ((bias != Py_None && !PyTuple_Check(bias)) || (low_rank != Py_None && !PyTuple_Check(low_rank)))
        return PyErr_Format(PyExc_TypeError, "bias, low_rank: expected tuples or None, got %.100s, %.100s",
                            Py_TYPE(bias)->tp_name, Py_TYPE(low_rank)->tp_name);
    if (!parse_kernels(set, &product.kernels) || !parse_dtype("out", dtype, &product.out_dtype) ||
        !parse_x(x, &product.x) || !parse_weight(weight, product.x.columns, &product.weight) ||
        !parse_extras(bias, low_rank, product.x.rows, product.weight.n, &product.extras))
        return NULL;
    const size_t m = product.x.rows, n = product.weight.n;
    if (m && n && !fits("out", out, out_bytes, multiply_add((Py_ssize_t)m, (Py_ssize_t)n, -1),
                        (Py_ssize_t)dtype_bytes(product.out_dtype)))
        return NULL;
    product.int8 = int8;
    product.threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
    product.out = (void *)(uintptr_t)out;
    Py_BEGIN_ALLOW_THREADS;
    done = multiply(&product);
    Py_END_ALLOW_THREADS;
    if (!done)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *names_of(const Kernels *const *sets) {
    PyObject *names = PyList_New(0), *result;
    for (; names && *sets; sets++) {
        PyObject *pair = Py_BuildValue("(ss)", (*sets)->name, (*sets)->features);
        if (!pair || PyList_Append(names, pair) < 0)
            Py_CLEAR(names);
        Py_XDECREF(pair);
    }
    result = names ? PyList_AsTuple(names) : NULL;
    Py_XDECREF(names);
    return result;
}

/* built(), available() -> (name, features it needs) of instruction sets, fastest first */
static PyObject *py_built(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return names_of(kernels_built());
}

static PyObject *py_available(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return names_of(kernels_available());
}

/* probe(instruction set, "int8" or "float", steps) -> multiply-accumulates done */
static PyObject *py_probe(PyObject *module, PyObject *args) {
    (void)module;
    const char *set, *kind;
    const Kernels *kernels;
    Py_ssize_t steps;
    double done;
    if (!PyArg_ParseTuple(args, "ssn:probe", &set, &kind, &steps) || !parse_kernels(set, &kernels))
        return NULL;
    const bool int8 = strcmp(kind, "int8") == 0;
    if (!int8 && strcmp(kind, "float"))
        return PyErr_Format(PyExc_ValueError, "probe: expected int8 or float, got %s", kind);
    Py_BEGIN_ALLOW_THREADS;
    done = (int8 ? kernels->probe_int8 : kernels->probe_float)(steps < 0 ? 0 : (size_t)steps);
    Py_END_ALLOW_THREADS;
    return PyFloat_FromDouble(done);
}

/* read(instruction set, buffer, streams) -> None: reads all of it, once, in so many parts side by side */
static PyObject *py_read(PyObject *module, PyObject *args) {
    (void)module;
    const char *set;
    const Kernels *kernels;
    Py_buffer buffer;
    Py_ssize_t streams;
    if (!PyArg_ParseTuple(args, "sy*n:read", &set, &buffer, &streams))
        return NULL;
    bool valid = parse_kernels(set, &kernels) && (streams >= 1 || wrong("streams", "at least 1", streams));
    if (valid) {
        Py_BEGIN_ALLOW_THREADS;
        kernels->probe_read(buffer.buf, (size_t)buffer.len, (size_t)streams);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&buffer);
    if (!valid)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"matmul", py_matmul, METH_VARARGS, NULL},
    {"use_tensors", (PyCFunction)(void (*)(void))py_use_tensors, METH_FASTCALL, NULL},
    {"linear", (PyCFunction)(void (*)(void))py_linear, METH_FASTCALL, NULL},
    {"probe", py_probe, METH_VARARGS, NULL},
    {"read", py_read, METH_VARARGS, NULL},
    {"built", py_built, METH_NOARGS, NULL},
    {"available", py_available, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module) {
    (void)module;
    kernels_available(); /* made once, before there are threads */
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
    .m_name = "_cpu",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__cpu(void) { return PyModuleDef_Init(&definition); }
