/* What direct.c uses of DLPack 1.3 (https://dmlc.github.io/dlpack): the layout of a tensor's description, and of the table
 * of C functions that a tensor's type has as `__dlpack_c_exchange_api__`.
 */
#ifndef TERNFMT_CPU_DLPACK_H
#define TERNFMT_CPU_DLPACK_H

#include <stdint.h>

#define DLPACK_CAPSULE "dlpack_exchange_api"
#define DLPACK_MAJOR 1

enum { DL_CPU = 1 };                             /* kinds of devices */
enum { DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4 }; /* kinds of types */

typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides; /* strides in elements */
    uint64_t byte_offset;
} DLTensor;

typedef struct {
    struct {
        uint32_t major, minor;
    } version;
    void *older;
    void (*allocate)(void), (*own)(void), (*to_object)(void); /* not used: their types are others */
    int (*describe)(void *object, DLTensor *to);              /* lends; 0, or -1 and an exception */
} DLPackExchange;

#endif
