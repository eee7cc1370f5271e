/* A whole call of `linear` on torch's tensors, which are described through DLPack: what cpu_backend/launch.py does step
 * by step. Reading one row's weight takes no longer than those steps do in Python when their code is not in the cache.
 *
 * Only calls that can be nothing but right are served. Whatever else arguments may be, wrong included, is Python's: it
 * gets None, and goes its own way.
 */
#include "module.h"

#include "dlpack.h"

#include <stdlib.h>

static PyTypeObject *tensor_type, *parameter_type;
static PyObject *name_is_neg, *name_new_empty, *name_offset, *name_storage, *name_nbytes;
static const DLPackExchange *exchange;

/* An int itself: what else converts to one, Python does. */
static bool read_number(PyObject *object, int64_t *number) {
    int overflow = 0;
    if (!PyLong_CheckExact(object))
        return false;
    *number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0;
}

/* What a method without arguments answers, a number that is not negative, or -1. */
static int64_t ask(PyObject *object, PyObject *name) {
    PyObject *answer = object ? PyObject_CallMethodNoArgs(object, name) : NULL;
    const int64_t number = answer ? PyLong_AsLongLong(answer) : -1;
    Py_XDECREF(answer);
    PyErr_Clear();
    return number;
}

/* Whether all of the tensor lies in its storage, which can be cut without the tensor being told. */
static bool is_whole(PyObject *object, const DLTensor *tensor) {
    PyObject *storage = PyObject_CallMethodNoArgs(object, name_storage);
    const int64_t bytes = ask(storage, name_nbytes), offset = ask(object, name_offset);
    int64_t values = offset + 1;
    Py_XDECREF(storage);
    for (int32_t d = 0; d < tensor->ndim; d++)
        values += (tensor->shape[d] - 1) * tensor->strides[d];
    return bytes >= 0 && offset >= 0 && values <= bytes / (tensor->dtype.bits / 8);
}

/* A tensor in memory whose bytes are its values, and which is at least one. */
static bool describe(PyObject *object, DLTensor *tensor) {
    if (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type)
        return false;
    PyObject *negated = PyObject_CallMethodNoArgs(object, name_is_neg);
    Py_XDECREF(negated); /* True and False live on */
    if (!negated || exchange->describe(object, tensor) != 0) {
        PyErr_Clear();
        return false;
    }
    if (negated != Py_False || tensor->device.type != DL_CPU || !tensor->data || !tensor->strides || tensor->ndim < 1)
        return false;
    tensor->data = (char *)tensor->data + tensor->byte_offset;
    for (int32_t d = 0; d < tensor->ndim; d++)
        if (tensor->shape[d] < 1)
            return false;
    const uint8_t bits = tensor->dtype.bits;
    return tensor->dtype.lanes == 1 && bits >= 8 && (uintptr_t)tensor->data % (bits / 8u) == 0 &&
           is_whole(object, tensor);
}

static bool float_dtype(const DLTensor *tensor, Dtype *dtype) {
    const uint8_t code = tensor->dtype.code, bits = tensor->dtype.bits;
    *dtype = code == DL_BFLOAT ? BFLOAT16 : bits == 16 ? FLOAT16 : FLOAT32;
    return (code == DL_FLOAT && (bits == 16 || bits == 32)) || (code == DL_BFLOAT && bits == 16);
}

/* Whether the tensor is [rows, columns] in one piece, or [rows] where columns is 0. */
static bool is_matrix(const DLTensor *tensor, int64_t rows, int64_t columns) {
    if (tensor->shape[0] != rows)
        return false;
    if (columns == 0)
        return tensor->ndim == 1 && (rows == 1 || tensor->strides[0] == 1);
    return tensor->ndim == 2 && tensor->shape[1] == columns && (columns == 1 || tensor->strides[1] == 1) &&
           (rows == 1 || tensor->strides[0] == columns);
}

/* x [..., k], whose leading dimensions must be one: equal steps from row to row. */
static bool read_x(PyObject *object, int64_t k, Matrix *x, DLTensor *tensor) {
    if (!describe(object, tensor) || !float_dtype(tensor, &x->dtype) || tensor->shape[tensor->ndim - 1] != k)
        return false;
    int64_t rows = 1, row_stride = k;
    for (int32_t d = tensor->ndim - 2; d >= 0; d--) {
        if (tensor->shape[d] == 1)
            continue;
        if (rows == 1)
            row_stride = tensor->strides[d];
        else if (tensor->strides[d] != rows * row_stride)
            return false;
        rows *= tensor->shape[d];
    }
    x->data = tensor->data, x->rows = (size_t)rows, x->columns = (size_t)k;
    x->row_stride = row_stride, x->column_stride = tensor->strides[tensor->ndim - 1];
    return true;
}

/* Tuples of codes and scales, a tensor a plane. */
static bool read_weight(PyObject *codes, PyObject *scales, int64_t k, int64_t group, Weight *weight) {
    const Py_ssize_t planes = PyTuple_GET_SIZE(codes);
    if (planes < 1 || planes > PLANES_MAX || PyTuple_GET_SIZE(scales) != planes)
        return false;
    const int64_t row_bytes = (int64_t)ceil_div((size_t)k, CODES_PER_BYTE);
    weight->k = (size_t)k, weight->planes = (int)planes, weight->row_bytes = (size_t)row_bytes;
    weight->group = group && group < k ? (size_t)group : (size_t)k;
    weight->groups = ceil_div(weight->k, weight->group);
    for (Py_ssize_t p = 0; p < planes; p++) {
        DLTensor of_codes, of_scales;
        Dtype dtype;
        if (!describe(PyTuple_GET_ITEM(codes, p), &of_codes) || !describe(PyTuple_GET_ITEM(scales, p), &of_scales) ||
            of_codes.dtype.code != DL_UINT || of_codes.dtype.bits != 8 || !float_dtype(&of_scales, &dtype))
            return false;
        if (p == 0)
            weight->n = (size_t)of_codes.shape[0], weight->scale_dtype = dtype;
        if (dtype != weight->scale_dtype || !is_matrix(&of_codes, (int64_t)weight->n, row_bytes) ||
            !is_matrix(&of_scales, (int64_t)weight->n, group ? (int64_t)weight->groups : 0))
            return false;
        weight->codes[p] = of_codes.data, weight->scales[p] = of_scales.data;
    }
    return true;
}

static bool read_bias(PyObject *object, size_t n, Extras *extras) {
    DLTensor tensor;
    if (object == Py_None)
        return true;
    if (!describe(object, &tensor) || !float_dtype(&tensor, &extras->bias_dtype) || !is_matrix(&tensor, (int64_t)n, 0))
        return false;
    extras->bias = tensor.data;
    return true;
}

/* The instruction set, unless the environment wants another backend; it is asked at every call, as Python does. */
static const Kernels *chosen(void) {
    const char *backend = getenv("TERNFMT_KERNEL"), *set = getenv("TERNFMT_CPU_ISA");
    const char *interpreted = getenv("TRITON_INTERPRET");
    if (backend && *backend ? strcmp(backend, "cpu") != 0 : interpreted && *interpreted)
        return NULL;
    return set && *set ? kernels_named(set) : *kernels_available();
}

/* [..., n] as x is [..., k]. */
static PyObject *result_for(PyObject *x, const DLTensor *like, size_t n) {
    PyObject *shape = PyTuple_New(like->ndim), *result = NULL;
    for (int32_t d = 0; shape && d < like->ndim; d++) {
        PyObject *size = PyLong_FromLongLong(d < like->ndim - 1 ? like->shape[d] : (int64_t)n);
        if (!size)
            Py_CLEAR(shape);
        else
            PyTuple_SET_ITEM(shape, d, size);
    }
    if (shape)
        result = PyObject_CallMethodOneArg(x, name_new_empty, shape);
    Py_XDECREF(shape);
    return result;
}

/* The product, of codes and scales that nobody else can take away meanwhile. */
static PyObject *multiply_tensors(Product *product, PyObject *const *args, PyObject *codes, PyObject *scales, int64_t k,
                                  int64_t group) {
    DLTensor x, out;
    if (!read_x(args[1], k, &product->x, &x) || !read_weight(codes, scales, k, group, &product->weight) ||
        !read_bias(args[6], product->weight.n, &product->extras))
        Py_RETURN_NONE;
    PyObject *result = result_for(args[1], &x, product->weight.n);
    if (!result)
        return NULL;
    if (!describe(result, &out)) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    product->out = out.data, product->out_dtype = product->x.dtype;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = multiply(product);
    Py_END_ALLOW_THREADS;
    if (done)
        return result;
    Py_DECREF(result);
    return PyErr_NoMemory();
}

/* linear(threads, x, codes, scales, k, group_size, bias, int8) -> tensor, or None where Python must see to it */
PyObject *py_linear(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 8)
        return PyErr_Format(PyExc_TypeError, "linear: expected 8 arguments, got %zd", count);
    const long threads = PyLong_AsLong(args[0]);
    if (threads == -1 && PyErr_Occurred())
        return NULL;
    Product product = {.kernels = chosen(), .int8 = args[7] == Py_True};
    int64_t k, group = 0;
    if (!exchange || !product.kernels || !read_number(args[4], &k) || k < 1 || k >= K_LIMIT ||
        (args[5] != Py_None && (!read_number(args[5], &group) || group < 1 || group % WORD_CODES)) ||
        (args[7] != Py_True && args[7] != Py_False) || !PyList_Check(args[2]) || !PyList_Check(args[3]))
        Py_RETURN_NONE;
    product.threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : (int)threads;
    /* Lists may be changed by others while the GIL is not held. */
    PyObject *codes = PyList_AsTuple(args[2]), *scales = PyList_AsTuple(args[3]), *result = NULL;
    if (codes && scales)
        result = multiply_tensors(&product, args, codes, scales, k, group);
    Py_XDECREF(codes);
    Py_XDECREF(scales);
    return result;
}

/* use_tensors(torch.Tensor, torch.nn.Parameter) -> whether `linear` can read them */
PyObject *py_use_tensors(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "use_tensors: expected 2 types, got %zd arguments", count);
    if (!PyType_Check(args[0]) || !PyType_Check(args[1]))
        return PyErr_Format(PyExc_TypeError, "use_tensors: expected 2 types, got objects of %.100s, %.100s",
                            Py_TYPE(args[0])->tp_name, Py_TYPE(args[1])->tp_name);
    PyObject *capsule = PyObject_GetAttrString(args[0], "__dlpack_c_exchange_api__");
    const DLPackExchange *table = capsule ? PyCapsule_GetPointer(capsule, DLPACK_CAPSULE) : NULL;
    Py_XDECREF(capsule); /* the table outlives it */
    if (!table || table->version.major != DLPACK_MAJOR || !table->describe) {
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    name_is_neg = PyUnicode_InternFromString("is_neg");
    name_new_empty = PyUnicode_InternFromString("new_empty");
    name_offset = PyUnicode_InternFromString("storage_offset");
    name_storage = PyUnicode_InternFromString("untyped_storage");
    name_nbytes = PyUnicode_InternFromString("nbytes");
    if (!name_is_neg || !name_new_empty || !name_offset || !name_storage || !name_nbytes)
        return NULL;
    tensor_type = (PyTypeObject *)Py_NewRef(args[0]), parameter_type = (PyTypeObject *)Py_NewRef(args[1]);
    exchange = table;
    Py_RETURN_TRUE;
}
