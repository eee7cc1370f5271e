/* ternfmt.h - a reader of the ternfmt format, version 1.0, in one C99 header.
 *
 * Written from SPEC.md alone. Names are those of SPEC.md; every function cites the rules it carries
 * out (S-x.y), every limit its reason. It needs the C library and nothing else.
 *
 *   file      [ 8 bytes: header length H, little-endian ][ H bytes: JSON header ][ data section ]
 *
 *   header    { "__metadata__": {"format": "pt", "ternfmt": "<the metadata document, as JSON text>"},
 *               "X":       {"dtype": "U8",  "shape": [N, ceil(K/4)], "data_offsets": [b, e]},
 *               "X_scale": {"dtype": "F16", "shape": [N],            "data_offsets": [b, e]}, ... }
 *
 *   byte      bit   7 6    5 4    3 2    1 0         00 =  0      01 = +1
 *             code  k+3    k+2    k+1    k           11 = -1      10 = forbidden
 *
 *   value     W[n,k] = scale[n] * code[n,k]          (one plane, no groups, no low-rank term)
 *
 * Use: in ONE source file, before any other include,
 *
 *     #define TERNFMT_IMPLEMENTATION
 *     #define TERNFMT_FILES               // optional: ternfmt_open_path, which needs POSIX
 *     #include "ternfmt.h"
 *
 * and in others the plain include (with TERNFMT_FILES where ternfmt_open_path is called).
 *
 *     ternfmt_model model;
 *     ternfmt_error error;
 *     if (ternfmt_open(&model, bytes, size, TERNFMT_WHOLE, &error) != TERNFMT_OK)
 *         return complain(ternfmt_class_name(error.error_class), error.message);
 *     ternfmt_ternary *w = ternfmt_find(&model, "a.weight");
 *     if (w != NULL && ternfmt_dequantize(w, 0, w->rows, TERNFMT_F32, out, &error) == TERNFMT_OK) ...
 *     ternfmt_close(&model);
 *
 * The bytes are borrowed: they must stay as they are until ternfmt_close. Opening checks steps 1 to 23
 * of SPEC section 10. Functions that give values check step 24 for their tensor when first used, so
 * no forbidden code, padding or scale is ever delivered (S-10.4); that sets a flag in the tensor, so
 * threads that share a model call ternfmt_validate first. Memory: at most 20 times the header (S-9.1
 * allows 64) beside the file. Floating point: IEEE 754 float and double; no -ffast-math.
 *
 * Contents:  1 limits   2 errors   3 types   4 functions
 *            5 helpers  6 JSON text  7 container  8 metadata  9 model, structure  10 data checks
 *            11 digests  12 values  13 matrix multiplication  14 shards, config  15 files
 *
 * Licence: that of the ternfmt project.
 */

#ifndef TERNFMT_H
#define TERNFMT_H

#if defined(TERNFMT_FILES) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* lstat, mmap, opendir under -std=c99 */
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ==== 1. Limits (section 9) ==================================================================== */

#define TERNFMT_HEADER_MAX       33554432u             /* bytes: bounds what a hostile length costs */
#define TERNFMT_DEPTH_MAX        32u                   /* four levels are needed; the parser recurses */
#define TERNFMT_NUMBER_CHARS_MAX 32u                   /* 2^64 has 20 digits; long literals burn time */
#define TERNFMT_INTEGER_MAX      9007199254740991u     /* 2^53 - 1: exact in every JSON parser */
#define TERNFMT_RANK_MAX         32u                   /* the smallest limit of the array libraries */
#define TERNFMT_NAME_MAX         255u                  /* bytes: the limit of file systems */
#define TERNFMT_K_MAX            16777215u             /* 2^24 - 1: int32 sums of int8 stay exact */
#define TERNFMT_PLANES_MAX       4u                    /* four planes take 8 bits a weight */
#define TERNFMT_GROUP_MULTIPLE   16u                   /* sixteen codes fill a 32-bit word */
#define TERNFMT_DIGEST_CHARS     64u                   /* SHA-256 in hexadecimal (S-8.1) */

/* ==== 2. Errors (section 10) =================================================================== */

typedef enum ternfmt_class {
    TERNFMT_OK,
    TERNFMT_PREFIX, TERNFMT_HEADER_LEN, TERNFMT_ENCODING, TERNFMT_JSON, TERNFMT_DUPLICATE,
    TERNFMT_NAME, TERNFMT_TENSOR_INFO, TERNFMT_OVERFLOW, TERNFMT_LAYOUT, TERNFMT_SIZE,
    TERNFMT_METADATA, TERNFMT_STRIPPED, TERNFMT_VERSION, TERNFMT_FEATURE,
    TERNFMT_SCALE, TERNFMT_CODE, TERNFMT_PADDING, TERNFMT_DIGEST,
    TERNFMT_INDEX, TERNFMT_PATH, TERNFMT_CONFIG,
    /* Not format errors (S-10.6): */
    TERNFMT_SYSTEM,    /* the operating system failed: no such file, no permission */
    TERNFMT_NO_MEMORY, /* an allocation failed */
    TERNFMT_USAGE      /* the caller asked for what is not there: a plane, a row, a dtype */
} ternfmt_class;

typedef struct ternfmt_error {
    ternfmt_class error_class;
    char message[512]; /* printable ASCII: place, expected, got */
} ternfmt_error;

/* ==== 3. Types ================================================================================= */

/* The dtypes of S-1.9, by size. */
typedef enum ternfmt_dtype {
    TERNFMT_BOOL, TERNFMT_U8, TERNFMT_I8, TERNFMT_F8_E4M3, TERNFMT_F8_E5M2, TERNFMT_F8_E8M0,
    TERNFMT_U16, TERNFMT_I16, TERNFMT_F16, TERNFMT_BF16,
    TERNFMT_U32, TERNFMT_I32, TERNFMT_F32,
    TERNFMT_U64, TERNFMT_I64, TERNFMT_F64, TERNFMT_C64,
    TERNFMT_DTYPE_COUNT
} ternfmt_dtype;

/* How to read a file (S-7.2). */
typedef enum ternfmt_read_as {
    TERNFMT_AUTO,  /* by its name; only ternfmt_open_path knows one, ternfmt_open takes it as whole */
    TERNFMT_WHOLE, /* a whole model: what is described must be present */
    TERNFMT_SHARD  /* a shard: tensors that are described but absent are ignored */
} ternfmt_read_as;

/* A tensor of the container (section 1). */
typedef struct ternfmt_tensor {
    const char *name;      /* 1 to NAME_MAX printable characters, NUL-terminated */
    const uint64_t *shape; /* `rank` dimensions */
    const uint8_t *data;   /* where its bytes begin; aligned only if the file's bytes are */
    uint64_t begin, end;   /* data_offsets, from the first byte after the header */
    uint32_t name_length;
    uint32_t file;         /* which of the model's files holds it */
    uint8_t dtype, rank;
    bool ternary;          /* part of a ternary tensor: its codes, scales or low-rank factors */
} ternfmt_tensor;

/* A ternary tensor: an entry of the metadata document (S-2.4) and the tensors it calls for. */
typedef struct ternfmt_ternary {
    const char *name;
    const uint64_t *shape;     /* the logical shape */
    uint64_t rows;             /* N */
    uint32_t columns;          /* K */
    uint32_t row_bytes;        /* ceil(K/4) */
    uint32_t group_size;       /* g (S-5.2), or 0: one scale spans the row */
    uint32_t groups;           /* G = ceil(K/g), 1 without groups */
    uint32_t low_rank;         /* R (S-5.4), or 0 */
    uint32_t planes;           /* P (S-5.3), 1 without planes */
    const ternfmt_tensor *codes[TERNFMT_PLANES_MAX];  /* X, X_plane2, ... */
    const ternfmt_tensor *scales[TERNFMT_PLANES_MAX]; /* X_scale, X_plane2_scale, ... */
    const ternfmt_tensor *down, *up;                  /* X_lowrank_down, X_lowrank_up */
    uint32_t name_length;
    uint32_t rank;             /* of the logical shape */
    uint32_t file, node;       /* where the entry stands, for S-7.6 */
    bool checked;              /* step 24 has been performed (S-10.4) */
} ternfmt_ternary;

/* In a model read as a shard, the pointers to tensors of other shards are NULL. */

typedef struct ternfmt_digest {
    const char *name, *digits; /* 64 lower-case hexadecimal digits (S-8.1) */
    uint32_t name_length;
} ternfmt_digest;

typedef struct ternfmt_bytes { const void *bytes; size_t size; } ternfmt_bytes;

struct ternfmt_file;

/* A model: one file, or the union of several shards (section 7). */
typedef struct ternfmt_model {
    ternfmt_tensor *tensors;     /* all tensors of the container, by ascending name */
    size_t tensor_count;
    ternfmt_ternary *ternaries;  /* all declared ternary tensors, by ascending name */
    size_t ternary_count;
    ternfmt_digest *digests;     /* of tensors, by ascending name */
    size_t digest_count;
    bool shard;                  /* read as a shard (S-7.2) */
    struct ternfmt_file *files;  /* what each file holds: private */
    size_t file_count;
    ternfmt_bytes *mapped;       /* what ternfmt_open_path mapped: private */
    size_t mapped_count;
} ternfmt_model;

typedef struct ternfmt_json_node {
    uint32_t type;
    uint32_t at;   /* string, number: offset in `text`; object: offset in `order` */
    uint32_t size; /* string, number: bytes; object: members; array: elements */
    uint32_t next; /* the node after this value and all it contains */
} ternfmt_json_node;

/* A parsed JSON text (private). Nodes stand in the order of the text, the root first; a member of an
 * object is its key's node and then its value's. */
typedef struct ternfmt_json {
    char *text;               /* strings with escapes resolved, and numbers, each NUL-terminated */
    ternfmt_json_node *nodes;
    uint32_t *order;          /* for each object, its keys' nodes by ascending key (S-10.5) */
    uint32_t node_count, member_count;
} ternfmt_json;

/* An index (S-7.3). */
typedef struct ternfmt_index {
    const char **shards;      /* the names in weight_map, each once, ascending */
    size_t shard_count;
    ternfmt_json json;        /* private */
} ternfmt_index;

/* ==== 4. Functions ============================================================================= */

/* Every function that returns a class returns TERNFMT_OK or what it wrote to *error. Those that open
 * leave nothing to close when they fail. */

const char *ternfmt_class_name(ternfmt_class error_class);
const char *ternfmt_dtype_name(ternfmt_dtype dtype);
uint32_t ternfmt_dtype_bytes(ternfmt_dtype dtype);

/* Opens one file in memory: steps 1 to 23. */
ternfmt_class ternfmt_open(ternfmt_model *model, const void *bytes, size_t size,
                           ternfmt_read_as read_as, ternfmt_error *error);
void ternfmt_close(ternfmt_model *model);

/* Opens an index in memory: S-10.2 (a) and (b). The caller then finds the files `index->shards`
 * names, (c), and hands them over in that order: (d) to (g). */
ternfmt_class ternfmt_index_open(ternfmt_index *index, const void *bytes, size_t size,
                                 ternfmt_error *error);
ternfmt_class ternfmt_open_shards(ternfmt_model *model, const ternfmt_index *index,
                                  const ternfmt_bytes *shards, ternfmt_error *error);
void ternfmt_index_close(ternfmt_index *index);

/* Checks a folder's config.json against a model (S-7.8). */
ternfmt_class ternfmt_check_config(const ternfmt_model *model, const void *bytes, size_t size,
                                   ternfmt_error *error);

#ifdef TERNFMT_FILES
/* Opens a file, an index (*.safetensors.index.json) or a folder; `read_as` is for files, the others
 * are whole models. `strict_links`: a shard that is a
 * symbolic link is a PATH error (S-7.4). */
ternfmt_class ternfmt_open_path(ternfmt_model *model, const char *path, ternfmt_read_as read_as,
                                bool strict_links, ternfmt_error *error);
#endif

/* Step 24, for all ternary tensors and for one. */
ternfmt_class ternfmt_validate(ternfmt_model *model, ternfmt_error *error);
ternfmt_class ternfmt_check_values(ternfmt_ternary *ternary, ternfmt_error *error);

/* Step 25. `uncovered`, where not NULL, becomes the number of tensors without a digest (S-8.3). */
ternfmt_class ternfmt_verify_digests(const ternfmt_model *model, uint64_t *uncovered,
                                     ternfmt_error *error);

/* NULL where there is none of that name. */
ternfmt_ternary *ternfmt_find(const ternfmt_model *model, const char *name);
const ternfmt_tensor *ternfmt_find_tensor(const ternfmt_model *model, const char *name);

/* The codes of rows [first, last) of a plane (0 is the first), as -1, 0, +1: (last-first) * K. */
ternfmt_class ternfmt_unpack(ternfmt_ternary *ternary, uint32_t plane, uint64_t first, uint64_t last,
                             int8_t *out, ternfmt_error *error);

/* The values of rows [first, last) (S-4.6) in F32, F16 or BF16, in the machine's byte order. */
ternfmt_class ternfmt_dequantize(ternfmt_ternary *ternary, uint64_t first, uint64_t last,
                                 ternfmt_dtype dtype, void *out, ternfmt_error *error);

/* y[m,n] of S-12.1 for x[m,k]; `bias`, N values, may be NULL. */
ternfmt_class ternfmt_matmul(ternfmt_ternary *ternary, const float *x, uint64_t m, const float *bias,
                             float *y, ternfmt_error *error);

/* Between F32 and the 16-bit dtypes; narrowing rounds to nearest, ties to even. */
float ternfmt_f16_to_f32(uint16_t bits);
float ternfmt_bf16_to_f32(uint16_t bits);
uint16_t ternfmt_f32_to_f16(float value);
uint16_t ternfmt_f32_to_bf16(float value);

/* SHA-256 (FIPS 180-4). */
typedef struct ternfmt_sha256 {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[64];
} ternfmt_sha256;
void ternfmt_sha256_begin(ternfmt_sha256 *sha);
void ternfmt_sha256_add(ternfmt_sha256 *sha, const void *bytes, size_t size);
void ternfmt_sha256_end(ternfmt_sha256 *sha, char digits[TERNFMT_DIGEST_CHARS + 1]);

#ifdef __cplusplus
}
#endif

#endif /* TERNFMT_H */

/* =============================================================================================== */

#if defined(TERNFMT_IMPLEMENTATION) && !defined(TERNFMT_IMPLEMENTED)
#define TERNFMT_IMPLEMENTED

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ==== 5. Helpers =============================================================================== */

#define TERNFMT__TRY(call)                            \
    do {                                              \
        const ternfmt_class failed_ = (call);         \
        if (failed_ != TERNFMT_OK) return failed_;    \
    } while (0)

/* A string of known length; it may hold NUL. */
typedef struct ternfmt__string {
    const char *at;
    uint32_t size;
} ternfmt__string;

const char *ternfmt_class_name(ternfmt_class error_class) {
    static const char *const names[] = {
        "OK", "PREFIX", "HEADER_LEN", "ENCODING", "JSON", "DUPLICATE", "NAME", "TENSOR_INFO",
        "OVERFLOW", "LAYOUT", "SIZE", "METADATA", "STRIPPED", "VERSION", "FEATURE", "SCALE", "CODE",
        "PADDING", "DIGEST", "INDEX", "PATH", "CONFIG", "SYSTEM", "NO_MEMORY", "USAGE",
    };
    return names[error_class];
}

static const struct { const char *name; uint32_t bytes; } ternfmt__dtypes[TERNFMT_DTYPE_COUNT] = {
    {"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
    {"U16", 2}, {"I16", 2}, {"F16", 2}, {"BF16", 2},
    {"U32", 4}, {"I32", 4}, {"F32", 4},
    {"U64", 8}, {"I64", 8}, {"F64", 8}, {"C64", 8},
};

const char *ternfmt_dtype_name(ternfmt_dtype dtype) { return ternfmt__dtypes[dtype].name; }
uint32_t ternfmt_dtype_bytes(ternfmt_dtype dtype) { return ternfmt__dtypes[dtype].bytes; }

/* The dtypes of scales and low-rank factors (S-4.1, S-5.4). */
static bool ternfmt__is_scale_dtype(uint32_t dtype) {
    return dtype == TERNFMT_F32 || dtype == TERNFMT_F16 || dtype == TERNFMT_BF16;
}

/* Records an error. Names in messages come from strangers: only printable ASCII gets through. */
static ternfmt_class ternfmt__fail(ternfmt_error *error, ternfmt_class error_class,
                                   const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    for (char *c = error->message; *c != '\0'; c++)
        if (*c < 0x20 || *c > 0x7e) *c = '?';
    error->error_class = error_class;
    return error_class;
}

static ternfmt_class ternfmt__no_memory(ternfmt_error *error) {
    return ternfmt__fail(error, TERNFMT_NO_MEMORY, "an allocation failed");
}

/* Room for `count` zeroed elements; never NULL for a count of 0. */
static void *ternfmt__alloc(size_t count, size_t size) { return calloc(count == 0 ? 1 : count, size); }

/* By Unicode code point, which is the order of the UTF-8 bytes (S-10.5). */
static int ternfmt__compare(ternfmt__string a, ternfmt__string b) {
    const int order = memcmp(a.at, b.at, a.size < b.size ? a.size : b.size);
    if (order != 0) return order;
    return (a.size > b.size) - (a.size < b.size);
}

static bool ternfmt__equal(ternfmt__string a, const char *b) {
    return a.size == strlen(b) && memcmp(a.at, b, a.size) == 0;
}

typedef int ternfmt__order(const void *context, uint32_t a, uint32_t b);

/* Merge sort, bottom up and stable: n log n comparisons whatever the input (S-9.1), which the C
 * library's qsort does not promise. `scratch` has room for `count` items. */
static void ternfmt__sort(uint32_t *items, uint32_t *scratch, size_t count, ternfmt__order *compare,
                          const void *context) {
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t low = 0; low < count; low += 2 * width) {
            const size_t middle = low + width < count ? low + width : count;
            const size_t high = middle + width < count ? middle + width : count;
            size_t left = low, right = middle;
            for (size_t to = low; to < high; to++) {
                const bool from_left =
                    right == high ||
                    (left < middle && compare(context, items[left], items[right]) <= 0);
                scratch[to] = from_left ? items[left++] : items[right++];
            }
        }
        memcpy(items, scratch, count * sizeof *items);
    }
}

/* Items 0 .. count-1 in sorted order, or NULL without memory. */
static uint32_t *ternfmt__sorted(size_t count, ternfmt__order *compare, const void *context) {
    uint32_t *items = ternfmt__alloc(count, sizeof *items);
    uint32_t *scratch = ternfmt__alloc(count, sizeof *scratch);
    if (items != NULL && scratch != NULL) {
        for (size_t i = 0; i < count; i++) items[i] = (uint32_t)i;
        ternfmt__sort(items, scratch, count, compare, context);
    } else {
        free(items);
        items = NULL;
    }
    free(scratch);
    return items;
}

/* ==== 6. JSON text (S-1.3 to S-1.6) ============================================================ */

enum { /* the types of nodes */
    TERNFMT__NULL, TERNFMT__FALSE, TERNFMT__TRUE, TERNFMT__NUMBER, TERNFMT__STRING,
    TERNFMT__ARRAY, TERNFMT__OBJECT
};

/* What may surround the object, and what it may hold beyond JSON. */
typedef enum ternfmt__frame {
    TERNFMT__HEADER_TEXT, /* header and document: `{` first, spaces last (S-1.4) */
    TERNFMT__INDEX_TEXT,  /* JSON's whitespace around (S-7.3) */
    TERNFMT__CONFIG_TEXT  /* so too; NaN, Infinity and unpaired surrogates are let through (S-7.8) */
} ternfmt__frame;

typedef struct ternfmt__parser {
    const char *start, *at, *end;
    ternfmt_json *json;
    uint32_t text_size, node_limit;
    ternfmt__frame frame;
    bool unpaired; /* an unpaired surrogate was seen: step 5, so only an error once step 4 is done */
    ternfmt_error *error;
} ternfmt__parser;

/* The bytes from `at` that form one UTF-8 character, 0 if they do not: no overlong forms, nothing in
 * U+D800 .. U+DFFF or past U+10FFFF (S-1.3). */
static size_t ternfmt__utf8_length(const uint8_t *at, size_t left) {
    const uint8_t lead = at[0];
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (left < length) return 0;
    const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    return length;
}

/* Step 3: S-1.3, bytes. */
static ternfmt_class ternfmt__check_utf8(const uint8_t *bytes, size_t size, ternfmt_error *error) {
    if (size >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        return ternfmt__fail(error, TERNFMT_ENCODING, "the text starts with a byte order mark");
    for (size_t i = 0; i < size;) {
        const size_t length = ternfmt__utf8_length(bytes + i, size - i);
        if (length == 0)
            return ternfmt__fail(error, TERNFMT_ENCODING, "byte %zu of the text is not UTF-8", i);
        i += length;
    }
    return TERNFMT_OK;
}

static ternfmt_class ternfmt__syntax(const ternfmt__parser *p, const char *what) {
    return ternfmt__fail(p->error, TERNFMT_JSON, "byte %zu of the text: %s",
                         (size_t)(p->at - p->start), what);
}

static void ternfmt__skip_space(ternfmt__parser *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

static bool ternfmt__take(ternfmt__parser *p, char c) {
    if (p->at == p->end || *p->at != c) return false;
    p->at++;
    return true;
}

static bool ternfmt__take_word(ternfmt__parser *p, const char *word) {
    const size_t size = strlen(word);
    if ((size_t)(p->end - p->at) < size || memcmp(p->at, word, size) != 0) return false;
    p->at += size;
    return true;
}

/* Adds a node; ternfmt__json_parse made room for as many as the text can hold. */
static ternfmt_json_node *ternfmt__add_node(ternfmt__parser *p, uint32_t type) {
    ternfmt_json_node *node = &p->json->nodes[p->json->node_count++];
    node->type = type;
    node->at = p->text_size;
    node->size = 0;
    node->next = p->json->node_count;
    return node;
}

static void ternfmt__put(ternfmt__parser *p, uint32_t byte) {
    p->json->text[p->text_size++] = (char)(unsigned char)byte;
}

/* Ends the text of a string or number. */
static void ternfmt__end_text(ternfmt__parser *p, ternfmt_json_node *node) {
    node->size = p->text_size - node->at;
    ternfmt__put(p, 0);
}

static void ternfmt__put_utf8(ternfmt__parser *p, uint32_t c) {
    if (c < 0x80) {
        ternfmt__put(p, c);
        return;
    }
    if (c < 0x800) {
        ternfmt__put(p, 0xc0 | (c >> 6));
    } else {
        if (c < 0x10000) {
            ternfmt__put(p, 0xe0 | (c >> 12));
        } else {
            ternfmt__put(p, 0xf0 | (c >> 18));
            ternfmt__put(p, 0x80 | ((c >> 12) & 0x3f));
        }
        ternfmt__put(p, 0x80 | ((c >> 6) & 0x3f));
    }
    ternfmt__put(p, 0x80 | (c & 0x3f));
}

/* The four digits after `\u`. */
static bool ternfmt__take_hex(ternfmt__parser *p, uint32_t *unit) {
    if (p->end - p->at < 4) return false;
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        const char c = *p->at;
        uint32_t digit;
        if (c >= '0' && c <= '9') digit = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f') digit = (uint32_t)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F') digit = (uint32_t)(c - 'A') + 10;
        else return false;
        *unit = *unit << 4 | digit;
        p->at++;
    }
    return true;
}

/* What follows `\u`. A high surrogate joins with a low one right behind it; any other surrogate is
 * unpaired. */
static ternfmt_class ternfmt__unicode_escape(ternfmt__parser *p) {
    uint32_t unit, low;
    if (!ternfmt__take_hex(p, &unit)) return ternfmt__syntax(p, "\\u needs four hexadecimal digits");
    const char *behind = p->at;
    if (unit >= 0xd800 && unit <= 0xdbff && ternfmt__take_word(p, "\\u")) {
        if (!ternfmt__take_hex(p, &low))
            return ternfmt__syntax(p, "\\u needs four hexadecimal digits");
        if (low >= 0xdc00 && low <= 0xdfff) {
            ternfmt__put_utf8(p, 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
            return TERNFMT_OK;
        }
        p->at = behind;
    }
    if (unit >= 0xd800 && unit <= 0xdfff) p->unpaired = true;
    ternfmt__put_utf8(p, unit);
    return TERNFMT_OK;
}

static ternfmt_class ternfmt__escape(ternfmt__parser *p) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (p->at == p->end) return ternfmt__syntax(p, "the text ends in a string");
    const char letter = *p->at++;
    if (letter == 'u') return ternfmt__unicode_escape(p);
    const char *found = letter == '\0' ? NULL : strchr(letters, letter);
    if (found == NULL) return ternfmt__syntax(p, "an unknown escape");
    ternfmt__put(p, (unsigned char)meanings[found - letters]);
    return TERNFMT_OK;
}

static ternfmt_class ternfmt__parse_string(ternfmt__parser *p) {
    ternfmt_json_node *node = ternfmt__add_node(p, TERNFMT__STRING);
    if (!ternfmt__take(p, '"')) return ternfmt__syntax(p, "a string was expected");
    for (;;) {
        if (p->at == p->end) return ternfmt__syntax(p, "the text ends in a string");
        const unsigned char c = (unsigned char)*p->at;
        if (c < 0x20) return ternfmt__syntax(p, "a control character in a string");
        p->at++;
        if (c == '"') break;
        if (c == '\\') TERNFMT__TRY(ternfmt__escape(p));
        else ternfmt__put(p, c);
    }
    ternfmt__end_text(p, node);
    return TERNFMT_OK;
}

static bool ternfmt__take_digits(ternfmt__parser *p) {
    const char *start = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9') p->at++;
    return p->at != start;
}

/* RFC 8259's number, of at most NUMBER_CHARS_MAX characters (S-1.5). */
static ternfmt_class ternfmt__parse_number(ternfmt__parser *p) {
    const char *start = p->at;
    (void)ternfmt__take(p, '-');
    if (!ternfmt__take(p, '0') && !ternfmt__take_digits(p))
        return ternfmt__syntax(p, "a value was expected");
    if (ternfmt__take(p, '.') && !ternfmt__take_digits(p))
        return ternfmt__syntax(p, "digits were expected after the point");
    if (ternfmt__take(p, 'e') || ternfmt__take(p, 'E')) {
        if (!ternfmt__take(p, '-')) (void)ternfmt__take(p, '+');
        if (!ternfmt__take_digits(p)) return ternfmt__syntax(p, "an exponent without digits");
    }
    if ((size_t)(p->at - start) > TERNFMT_NUMBER_CHARS_MAX)
        return ternfmt__syntax(p, "a number of more than 32 characters");
    ternfmt_json_node *node = ternfmt__add_node(p, TERNFMT__NUMBER);
    while (start < p->at) ternfmt__put(p, (unsigned char)*start++);
    ternfmt__end_text(p, node);
    return TERNFMT_OK;
}

static ternfmt_class ternfmt__parse_value(ternfmt__parser *p, uint32_t depth);

/* An array or object inside `depth` others. */
static ternfmt_class ternfmt__parse_container(ternfmt__parser *p, uint32_t depth, uint32_t type) {
    const char close = type == TERNFMT__OBJECT ? '}' : ']';
    const uint32_t self = p->json->node_count;
    uint32_t size = 0;
    if (depth == TERNFMT_DEPTH_MAX) return ternfmt__syntax(p, "nested more than 32 deep");
    (void)ternfmt__add_node(p, type);
    p->at++; /* the opening bracket */
    ternfmt__skip_space(p);
    if (!ternfmt__take(p, close)) {
        do {
            ternfmt__skip_space(p);
            if (type == TERNFMT__OBJECT) {
                TERNFMT__TRY(ternfmt__parse_string(p));
                ternfmt__skip_space(p);
                if (!ternfmt__take(p, ':')) return ternfmt__syntax(p, "`:` was expected");
                ternfmt__skip_space(p);
                p->json->member_count++;
            }
            TERNFMT__TRY(ternfmt__parse_value(p, depth + 1));
            ternfmt__skip_space(p);
            size++;
        } while (ternfmt__take(p, ','));
        if (!ternfmt__take(p, close)) return ternfmt__syntax(p, "`,` or a closing bracket was expected");
    }
    p->json->nodes[self].size = size;
    p->json->nodes[self].next = p->json->node_count;
    return TERNFMT_OK;
}

static ternfmt_class ternfmt__parse_value(ternfmt__parser *p, uint32_t depth) {
    const char c = p->at < p->end ? *p->at : '\0';
    if (c == '{') return ternfmt__parse_container(p, depth, TERNFMT__OBJECT);
    if (c == '[') return ternfmt__parse_container(p, depth, TERNFMT__ARRAY);
    if (c == '"') return ternfmt__parse_string(p);
    uint32_t type = TERNFMT__NUMBER;
    if (ternfmt__take_word(p, "true")) type = TERNFMT__TRUE;
    else if (ternfmt__take_word(p, "false")) type = TERNFMT__FALSE;
    else if (ternfmt__take_word(p, "null")) type = TERNFMT__NULL;
    else if (p->frame == TERNFMT__CONFIG_TEXT &&
             (ternfmt__take_word(p, "NaN") || ternfmt__take_word(p, "Infinity") ||
              ternfmt__take_word(p, "-Infinity")))
        type = TERNFMT__NULL; /* nothing asks for its value */
    if (type == TERNFMT__NUMBER) return ternfmt__parse_number(p);
    (void)ternfmt__add_node(p, type);
    return TERNFMT_OK;
}

/* Steps 4 and 5: one object in its frame. */
static ternfmt_class ternfmt__parse_text(ternfmt__parser *p) {
    if (p->frame != TERNFMT__HEADER_TEXT) ternfmt__skip_space(p);
    if (p->at == p->end || *p->at != '{') return ternfmt__syntax(p, "`{` was expected");
    TERNFMT__TRY(ternfmt__parse_value(p, 0));
    if (p->frame != TERNFMT__HEADER_TEXT) ternfmt__skip_space(p);
    while (ternfmt__take(p, ' ')) {}
    if (p->at != p->end) return ternfmt__syntax(p, "more text after the object");
    if (p->unpaired && p->frame != TERNFMT__CONFIG_TEXT)
        return ternfmt__fail(p->error, TERNFMT_ENCODING, "an escape stands for an unpaired surrogate");
    return TERNFMT_OK;
}

static ternfmt__string ternfmt__text(const ternfmt_json *json, uint32_t node) {
    const ternfmt__string text = {json->text + json->nodes[node].at, json->nodes[node].size};
    return text;
}

static int ternfmt__compare_keys(const void *json, uint32_t a, uint32_t b) {
    return ternfmt__compare(ternfmt__text(json, a), ternfmt__text(json, b));
}

/* Step 6: sorts the keys of every object, and finds those that occur twice side by side (S-1.6). */
static ternfmt_class ternfmt__sort_keys(ternfmt_json *json, uint32_t *scratch, ternfmt_error *error) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < json->node_count; i++) {
        ternfmt_json_node *object = &json->nodes[i];
        if (object->type != TERNFMT__OBJECT) continue;
        uint32_t *keys = json->order + used;
        for (uint32_t k = 0, key = i + 1; k < object->size; k++, key = json->nodes[key + 1].next)
            keys[k] = key;
        ternfmt__sort(keys, scratch, object->size, ternfmt__compare_keys, json);
        for (uint32_t k = 1; k < object->size; k++)
            if (ternfmt__compare_keys(json, keys[k - 1], keys[k]) == 0)
                return ternfmt__fail(error, TERNFMT_DUPLICATE, "the key `%s` occurs twice",
                                     ternfmt__text(json, keys[k]).at);
        object->at = used;
        used += object->size;
    }
    return TERNFMT_OK;
}

static void ternfmt__json_free(ternfmt_json *json) {
    free(json->text);
    free(json->nodes);
    free(json->order);
    memset(json, 0, sizeof *json);
}

/* Steps 4 to 6 on a text of at most HEADER_MAX bytes. On failure the caller frees *json.
 * Room: a string's text needs no more than the string with its quotes, a number's no more than the
 * number and the byte behind it. Two bytes of text make at most one node, but for brackets that
 * are open. */
static ternfmt_class ternfmt__json_parse(ternfmt_json *json, const char *text, size_t size,
                                         ternfmt__frame frame, ternfmt_error *error) {
    ternfmt__parser p = {text, text, text + size, json, 0, 0, frame, false, error};
    memset(json, 0, sizeof *json);
    json->text = malloc(size + 1);
    json->nodes = malloc((size / 2 + TERNFMT_DEPTH_MAX + 2) * sizeof *json->nodes);
    if (json->text == NULL || json->nodes == NULL) return ternfmt__no_memory(error);
    TERNFMT__TRY(ternfmt__parse_text(&p));
    ternfmt_json_node *fitted = realloc(json->nodes, json->node_count * sizeof *json->nodes);
    if (fitted != NULL) json->nodes = fitted;
    json->order = ternfmt__alloc(json->member_count, sizeof *json->order);
    uint32_t *scratch = ternfmt__alloc(json->member_count, sizeof *scratch);
    const ternfmt_class outcome = json->order == NULL || scratch == NULL
                                      ? ternfmt__no_memory(error)
                                      : ternfmt__sort_keys(json, scratch, error);
    free(scratch);
    return outcome;
}

/* The key's node of the i-th member of an object, by ascending key; its value is the next node. */
static uint32_t ternfmt__member(const ternfmt_json *json, uint32_t object, uint32_t i) {
    return json->order[json->nodes[object].at + i];
}

/* The value's node of a member, or 0, which is the root's and so no member's. */
static uint32_t ternfmt__get(const ternfmt_json *json, uint32_t object, ternfmt__string key) {
    uint32_t low = 0, high = json->nodes[object].size;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint32_t node = ternfmt__member(json, object, middle);
        const int order = ternfmt__compare(ternfmt__text(json, node), key);
        if (order == 0) return node + 1;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return 0;
}

static uint32_t ternfmt__get_named(const ternfmt_json *json, uint32_t object, const char *key) {
    const ternfmt__string string = {key, (uint32_t)strlen(key)};
    return ternfmt__get(json, object, string);
}

/* Is there such a value, and is it of this type? */
static bool ternfmt__is(const ternfmt_json *json, uint32_t node, uint32_t type) {
    return node != 0 && json->nodes[node].type == type;
}

/* Written as digits alone, with no sign, fraction or exponent (S-1.8). */
static bool ternfmt__is_digits(const ternfmt_json *json, uint32_t node) {
    if (!ternfmt__is(json, node, TERNFMT__NUMBER)) return false;
    const ternfmt__string text = ternfmt__text(json, node);
    for (uint32_t i = 0; i < text.size; i++)
        if (text.at[i] < '0' || text.at[i] > '9') return false;
    return true;
}

/* The integer that digits stand for; INTEGER_MAX + 1 for all beyond. */
static uint64_t ternfmt__integer(ternfmt__string digits) {
    uint64_t value = 0;
    for (uint32_t i = 0; i < digits.size && value <= TERNFMT_INTEGER_MAX; i++)
        value = value * 10 + (uint64_t)(digits.at[i] - '0');
    return value <= TERNFMT_INTEGER_MAX ? value : TERNFMT_INTEGER_MAX + 1;
}

/* Equal as JSON values (S-7.6), of documents that passed step 19: integers have one form there. */
static bool ternfmt__json_equal(const ternfmt_json *a, uint32_t x, const ternfmt_json *b, uint32_t y) {
    const ternfmt_json_node *p = &a->nodes[x], *q = &b->nodes[y];
    if (p->type != q->type || p->size != q->size) return false;
    if (p->type == TERNFMT__STRING || p->type == TERNFMT__NUMBER)
        return ternfmt__compare(ternfmt__text(a, x), ternfmt__text(b, y)) == 0;
    if (p->type == TERNFMT__ARRAY) {
        uint32_t s = x + 1, t = y + 1;
        for (uint32_t i = 0; i < p->size; i++, s = a->nodes[s].next, t = b->nodes[t].next)
            if (!ternfmt__json_equal(a, s, b, t)) return false;
    }
    if (p->type == TERNFMT__OBJECT)
        for (uint32_t i = 0; i < p->size; i++) {
            const uint32_t s = ternfmt__member(a, x, i), t = ternfmt__member(b, y, i);
            if (ternfmt__compare(ternfmt__text(a, s), ternfmt__text(b, t)) != 0) return false;
            if (!ternfmt__json_equal(a, s + 1, b, t + 1)) return false;
        }
    return true;
}

/* ==== 7. Container (section 1): steps 1 to 11 ================================================== */

/* One file and what it holds. The arrays point into `header` and `document`. */
typedef struct ternfmt_file {
    const uint8_t *bytes;
    size_t size;
    uint64_t data_start;         /* 8 + H */
    ternfmt_json header;
    ternfmt_json document;       /* the metadata document (S-2.2) */
    ternfmt__string version;     /* "major.minor" */
    uint32_t tensor_digests;     /* node of `digests.tensors`, or 0 */
    ternfmt__string header_digest;
    ternfmt_tensor *tensors;     /* by ascending name */
    size_t tensor_count;
    ternfmt_ternary *ternaries;  /* by ascending name */
    size_t ternary_count;
    uint64_t *shapes;            /* of all tensors */
    uint64_t *logical_shapes;    /* of all ternary tensors */
} ternfmt_file;

static void ternfmt__file_free(ternfmt_file *file) {
    ternfmt__json_free(&file->header);
    ternfmt__json_free(&file->document);
    free(file->tensors);
    free(file->ternaries);
    free(file->shapes);
    free(file->logical_shapes);
}

/* Steps 1 to 6: the header's length and its text (S-1.1 to S-1.6). */
static ternfmt_class ternfmt__read_header(ternfmt_file *file, ternfmt_error *error) {
    uint64_t length = 0;
    if (file->size < 8)
        return ternfmt__fail(error, TERNFMT_PREFIX, "the file has %zu bytes, fewer than 8", file->size);
    for (int i = 7; i >= 0; i--) length = length << 8 | file->bytes[i];
    if (length == 0 || length > TERNFMT_HEADER_MAX || length > file->size - 8)
        return ternfmt__fail(error, TERNFMT_HEADER_LEN,
                             "the header length is %llu in a file of %zu bytes",
                             (unsigned long long)length, file->size);
    file->data_start = 8 + length;
    TERNFMT__TRY(ternfmt__check_utf8(file->bytes + 8, (size_t)length, error));
    return ternfmt__json_parse(&file->header, (const char *)file->bytes + 8, (size_t)length,
                               TERNFMT__HEADER_TEXT, error);
}

/* S-1.7: 1 to NAME_MAX bytes, each 0x21 to 0x7E. */
static bool ternfmt__is_name(ternfmt__string name) {
    if (name.size < 1 || name.size > TERNFMT_NAME_MAX) return false;
    for (uint32_t i = 0; i < name.size; i++)
        if (name.at[i] < 0x21 || name.at[i] > 0x7e) return false;
    return true;
}

/* Step 7. Every key of the header but `__metadata__` is a tensor name. */
static ternfmt_class ternfmt__check_names(ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *header = &file->header;
    for (uint32_t i = 0; i < header->nodes[0].size; i++) {
        const ternfmt__string name = ternfmt__text(header, ternfmt__member(header, 0, i));
        if (ternfmt__equal(name, "__metadata__")) continue;
        if (!ternfmt__is_name(name))
            return ternfmt__fail(error, TERNFMT_NAME, "`%s` is not a tensor name", name.at);
        file->tensor_count++;
    }
    return TERNFMT_OK;
}

/* Is the node an array of at most `limit` integers written as digits alone? */
static bool ternfmt__is_integers(const ternfmt_json *json, uint32_t node, uint32_t limit) {
    if (!ternfmt__is(json, node, TERNFMT__ARRAY) || json->nodes[node].size > limit) return false;
    for (uint32_t i = 0; i < json->nodes[node].size; i++)
        if (!ternfmt__is_digits(json, node + 1 + i)) return false;
    return true;
}

/* The dtype's number; DTYPE_COUNT for none (S-1.9). */
static uint32_t ternfmt__dtype(const ternfmt_json *json, uint32_t node) {
    uint32_t dtype = 0;
    if (!ternfmt__is(json, node, TERNFMT__STRING)) return TERNFMT_DTYPE_COUNT;
    const ternfmt__string name = ternfmt__text(json, node);
    while (dtype < TERNFMT_DTYPE_COUNT && !ternfmt__equal(name, ternfmt__dtypes[dtype].name)) dtype++;
    return dtype;
}

/* Step 8, one tensor: S-1.8 and S-1.9. */
static const char *ternfmt__tensor_info_fault(const ternfmt_json *header, uint32_t node) {
    if (!ternfmt__is(header, node, TERNFMT__OBJECT)) return "the value is not an object";
    const uint32_t dtype = ternfmt__get_named(header, node, "dtype");
    const uint32_t shape = ternfmt__get_named(header, node, "shape");
    const uint32_t offsets = ternfmt__get_named(header, node, "data_offsets");
    if (header->nodes[node].size != 3 || dtype == 0 || shape == 0 || offsets == 0)
        return "the keys are not exactly dtype, shape and data_offsets";
    if (ternfmt__dtype(header, dtype) == TERNFMT_DTYPE_COUNT) return "the dtype is unknown";
    if (!ternfmt__is_integers(header, shape, TERNFMT_RANK_MAX))
        return "shape is not an array of at most 32 integers in digits";
    if (!ternfmt__is_integers(header, offsets, 2) || header->nodes[offsets].size != 2)
        return "data_offsets is not an array of two integers in digits";
    return NULL;
}

/* Step 8. Fills in what needs no arithmetic: names, dtypes and ranks. */
static ternfmt_class ternfmt__read_tensor_infos(ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *header = &file->header;
    size_t dimensions = 0;
    file->tensors = ternfmt__alloc(file->tensor_count, sizeof *file->tensors);
    if (file->tensors == NULL) return ternfmt__no_memory(error);
    ternfmt_tensor *tensor = file->tensors;
    for (uint32_t i = 0; i < header->nodes[0].size; i++) {
        const uint32_t key = ternfmt__member(header, 0, i), node = key + 1;
        const ternfmt__string name = ternfmt__text(header, key);
        if (ternfmt__equal(name, "__metadata__")) continue;
        const char *fault = ternfmt__tensor_info_fault(header, node);
        if (fault != NULL)
            return ternfmt__fail(error, TERNFMT_TENSOR_INFO, "`%s`: %s", name.at, fault);
        tensor->name = name.at;
        tensor->name_length = name.size;
        tensor->dtype = (uint8_t)ternfmt__dtype(header, ternfmt__get_named(header, node, "dtype"));
        tensor->rank = (uint8_t)header->nodes[ternfmt__get_named(header, node, "shape")].size;
        dimensions += tensor->rank;
        tensor++;
    }
    file->shapes = ternfmt__alloc(dimensions, sizeof *file->shapes);
    return file->shapes == NULL ? ternfmt__no_memory(error) : TERNFMT_OK;
}

/* The product of the dimensions and the dtype's bytes, zeros left out; over INTEGER_MAX if it does
 * not fit (S-1.10). */
static uint64_t ternfmt__product_of_non_zero(const ternfmt_tensor *tensor) {
    uint64_t product = ternfmt__dtypes[tensor->dtype].bytes;
    for (uint32_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] == 0) continue;
        if (product > TERNFMT_INTEGER_MAX / tensor->shape[i]) return TERNFMT_INTEGER_MAX + 1;
        product *= tensor->shape[i];
    }
    return product;
}

/* Step 9. Reads the integers: shapes and offsets (S-1.10). */
static ternfmt_class ternfmt__read_integers(ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *header = &file->header;
    uint64_t *shape = file->shapes;
    for (ternfmt_tensor *t = file->tensors; t < file->tensors + file->tensor_count; t++) {
        const ternfmt__string name = {t->name, t->name_length};
        const uint32_t node = ternfmt__get(header, 0, name);
        const uint32_t dims = ternfmt__get_named(header, node, "shape");
        const uint32_t offsets = ternfmt__get_named(header, node, "data_offsets");
        bool fits = true;
        t->shape = shape;
        for (uint32_t i = 0; i < t->rank; i++, shape++) {
            *shape = ternfmt__integer(ternfmt__text(header, dims + 1 + i));
            fits = fits && *shape <= TERNFMT_INTEGER_MAX;
        }
        t->begin = ternfmt__integer(ternfmt__text(header, offsets + 1));
        t->end = ternfmt__integer(ternfmt__text(header, offsets + 2));
        if (!fits || t->begin > TERNFMT_INTEGER_MAX || t->end > TERNFMT_INTEGER_MAX ||
            ternfmt__product_of_non_zero(t) > TERNFMT_INTEGER_MAX)
            return ternfmt__fail(error, TERNFMT_OVERFLOW, "`%s`: an integer or the size is over 2^53 - 1",
                                 t->name);
    }
    return TERNFMT_OK;
}

static int ternfmt__compare_offsets(const void *tensors, uint32_t a, uint32_t b) {
    const ternfmt_tensor *s = (const ternfmt_tensor *)tensors + a, *t = (const ternfmt_tensor *)tensors + b;
    if (s->begin != t->begin) return s->begin < t->begin ? -1 : 1;
    return (s->end > t->end) - (s->end < t->end);
}

/* Step 10: no hole, no overlap, no trailing byte (S-1.11), and aligned (S-1.12). */
static ternfmt_class ternfmt__check_layout(ternfmt_file *file, ternfmt_error *error) {
    ternfmt_class outcome = TERNFMT_OK;
    uint64_t position = 0;
    uint32_t *order = ternfmt__sorted(file->tensor_count, ternfmt__compare_offsets, file->tensors);
    if (order == NULL) return ternfmt__no_memory(error);
    for (size_t i = 0; i < file->tensor_count && outcome == TERNFMT_OK; i++) {
        const ternfmt_tensor *t = &file->tensors[order[i]];
        if (t->begin > t->end || t->begin != position)
            outcome = ternfmt__fail(error, TERNFMT_LAYOUT, "`%s` has bytes %llu to %llu, not from %llu on",
                                    t->name, (unsigned long long)t->begin, (unsigned long long)t->end,
                                    (unsigned long long)position);
        else if ((file->data_start + t->begin) % ternfmt__dtypes[t->dtype].bytes != 0)
            outcome = ternfmt__fail(error, TERNFMT_LAYOUT, "`%s` is misaligned at byte %llu of the file",
                                    t->name, (unsigned long long)(file->data_start + t->begin));
        position = t->end;
    }
    free(order);
    if (outcome == TERNFMT_OK && position != file->size - file->data_start)
        return ternfmt__fail(error, TERNFMT_LAYOUT, "tensors end at byte %llu of %llu of data",
                             (unsigned long long)position,
                             (unsigned long long)(file->size - file->data_start));
    return outcome;
}

/* Step 11: S-1.13. From here on a tensor has data. */
static ternfmt_class ternfmt__check_sizes(ternfmt_file *file, ternfmt_error *error) {
    for (ternfmt_tensor *t = file->tensors; t < file->tensors + file->tensor_count; t++) {
        uint64_t size = ternfmt__product_of_non_zero(t);
        for (uint32_t i = 0; i < t->rank; i++)
            if (t->shape[i] == 0) size = 0;
        if (t->end - t->begin != size)
            return ternfmt__fail(error, TERNFMT_SIZE, "`%s` spans %llu bytes, its shape %llu", t->name,
                                 (unsigned long long)(t->end - t->begin), (unsigned long long)size);
        t->data = file->bytes + file->data_start + t->begin;
    }
    return TERNFMT_OK;
}

/* Steps 1 to 11. */
static ternfmt_class ternfmt__read_container(ternfmt_file *file, ternfmt_error *error) {
    TERNFMT__TRY(ternfmt__read_header(file, error));
    TERNFMT__TRY(ternfmt__check_names(file, error));
    TERNFMT__TRY(ternfmt__read_tensor_infos(file, error));
    TERNFMT__TRY(ternfmt__read_integers(file, error));
    TERNFMT__TRY(ternfmt__check_layout(file, error));
    return ternfmt__check_sizes(file, error);
}

/* ==== 8. Metadata (section 2): steps 12 to 20 ================================================== */

/* Steps 12 to 14: `__metadata__` (S-2.1) and the text of the document (S-2.2). */
static ternfmt_class ternfmt__read_document(ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *header = &file->header;
    const uint32_t metadata = ternfmt__get_named(header, 0, "__metadata__");
    if (metadata != 0) {
        if (!ternfmt__is(header, metadata, TERNFMT__OBJECT))
            return ternfmt__fail(error, TERNFMT_METADATA, "`__metadata__` is not an object");
        for (uint32_t i = 0; i < header->nodes[metadata].size; i++)
            if (header->nodes[metadata + 2 + 2 * i].type != TERNFMT__STRING)
                return ternfmt__fail(error, TERNFMT_METADATA, "a value of `__metadata__` is no string");
    }
    const uint32_t document = metadata == 0 ? 0 : ternfmt__get_named(header, metadata, "ternfmt");
    if (document == 0)
        return ternfmt__fail(error, TERNFMT_STRIPPED,
                             "the key `ternfmt` is missing in `__metadata__`: a tool that rewrote the file "
                             "dropped it; restore the metadata from the original file, or encode again");
    const ternfmt__string text = ternfmt__text(header, document);
    return ternfmt__json_parse(&file->document, text.at, text.size, TERNFMT__HEADER_TEXT, error);
}

/* Decimal without leading zeros: how many digits, 0 if it does not start so. */
static uint32_t ternfmt__decimal_length(ternfmt__string text, uint32_t from) {
    uint32_t to = from;
    while (to < text.size && text.at[to] >= '0' && text.at[to] <= '9') to++;
    return to - from > 1 && text.at[from] == '0' ? 0 : to - from;
}

/* Steps 15 and 16: `version` (S-2.3, S-13.1). */
static ternfmt_class ternfmt__check_version(ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *document = &file->document;
    const uint32_t node = ternfmt__get_named(document, 0, "version");
    if (!ternfmt__is(document, node, TERNFMT__STRING))
        return ternfmt__fail(error, TERNFMT_METADATA, "`version` is not a string");
    const ternfmt__string version = ternfmt__text(document, node);
    const uint32_t major = ternfmt__decimal_length(version, 0);
    const bool dotted = major > 0 && major < version.size && version.at[major] == '.';
    const uint32_t minor = dotted ? ternfmt__decimal_length(version, major + 1) : 0;
    if (minor == 0 || major + 1 + minor != version.size)
        return ternfmt__fail(error, TERNFMT_METADATA, "`version` is `%s`, not major.minor", version.at);
    if (major != 1 || version.at[0] != '1')
        return ternfmt__fail(error, TERNFMT_VERSION, "version %s; this reader knows 1.x", version.at);
    file->version = version;
    return TERNFMT_OK;
}

static int ternfmt__compare_array_strings(const void *context, uint32_t a, uint32_t b) {
    const ternfmt_json *document = context;
    const uint32_t array = ternfmt__get_named(document, 0, "required");
    return ternfmt__compare_keys(document, array + 1 + a, array + 1 + b);
}

/* Step 17: `required` is an array of distinct strings (S-2.3). */
static ternfmt_class ternfmt__check_required(const ternfmt_json *document, ternfmt_error *error) {
    const uint32_t array = ternfmt__get_named(document, 0, "required");
    if (!ternfmt__is(document, array, TERNFMT__ARRAY))
        return ternfmt__fail(error, TERNFMT_METADATA, "`required` is not an array");
    const uint32_t count = document->nodes[array].size;
    for (uint32_t i = 0, node = array + 1; i < count; i++, node = document->nodes[node].next)
        if (document->nodes[node].type != TERNFMT__STRING)
            return ternfmt__fail(error, TERNFMT_METADATA, "`required` holds what is not a string");
    uint32_t *order = ternfmt__sorted(count, ternfmt__compare_array_strings, document);
    if (order == NULL) return ternfmt__no_memory(error);
    bool distinct = true;
    for (uint32_t i = 1; i < count; i++)
        if (ternfmt__compare_array_strings(document, order[i - 1], order[i]) == 0) distinct = false;
    free(order);
    return distinct ? TERNFMT_OK
                    : ternfmt__fail(error, TERNFMT_METADATA, "`required` lists a feature twice");
}

static const struct { const char *feature, *key; } ternfmt__features[] = {
    {"group-scale", "group_size"}, {"planes", "planes"}, {"low-rank", "low_rank"},
};
enum { TERNFMT__FEATURE_COUNT = 3 };

/* Step 18: features that this reader does not know (S-5.1). */
static ternfmt_class ternfmt__check_features_known(const ternfmt_json *document, ternfmt_error *error) {
    const uint32_t array = ternfmt__get_named(document, 0, "required");
    for (uint32_t i = 0; i < document->nodes[array].size; i++) {
        const ternfmt__string name = ternfmt__text(document, array + 1 + i);
        uint32_t f = 0;
        while (f < TERNFMT__FEATURE_COUNT && !ternfmt__equal(name, ternfmt__features[f].feature)) f++;
        if (f == TERNFMT__FEATURE_COUNT)
            return ternfmt__fail(error, TERNFMT_FEATURE, "the file requires `%s`", name.at);
    }
    return TERNFMT_OK;
}

/* Step 19: every number in the document is an integer, without fraction, exponent or `-0` (S-2.3). */
static ternfmt_class ternfmt__check_numbers(const ternfmt_json *document, ternfmt_error *error) {
    for (uint32_t i = 0; i < document->node_count; i++) {
        if (document->nodes[i].type != TERNFMT__NUMBER) continue;
        const ternfmt__string text = ternfmt__text(document, i);
        ternfmt__string digits = text;
        if (*digits.at == '-') {
            digits.at++;
            digits.size--;
        }
        bool good = text.size == digits.size || *digits.at != '0';
        for (uint32_t c = 0; c < digits.size; c++)
            good = good && digits.at[c] >= '0' && digits.at[c] <= '9';
        if (!good || ternfmt__integer(digits) > TERNFMT_INTEGER_MAX)
            return ternfmt__fail(error, TERNFMT_METADATA, "the number %s is not an integer of the form "
                                 "that the document needs", text.at);
    }
    return TERNFMT_OK;
}

/* The integer at `key` of an entry within [low, high]; 0 where it is anything else. */
static uint32_t ternfmt__entry_integer(const ternfmt_json *document, uint32_t entry, const char *key,
                                       uint32_t low, uint32_t high) {
    const uint32_t node = ternfmt__get_named(document, entry, key);
    if (!ternfmt__is_digits(document, node)) return 0;
    const uint64_t value = ternfmt__integer(ternfmt__text(document, node));
    return value >= low && value <= high ? (uint32_t)value : 0;
}

/* Step 19: the logical shape and its limits (S-2.4). `shape` has room for it. */
static const char *ternfmt__read_logical_shape(const ternfmt_json *document, uint32_t entry,
                                               ternfmt_ternary *ternary, uint64_t *shape) {
    const uint32_t node = ternfmt__get_named(document, entry, "shape");
    if (!ternfmt__is_integers(document, node, TERNFMT_RANK_MAX) || document->nodes[node].size < 2)
        return "`shape` is not an array of 2 to 32 integers";
    uint64_t columns = 1;
    ternary->shape = shape;
    ternary->rank = document->nodes[node].size;
    for (uint32_t i = 0; i < ternary->rank; i++) {
        shape[i] = ternfmt__integer(ternfmt__text(document, node + 1 + i));
        if (shape[i] == 0) return "`shape` holds a 0";
        if (i == 0) continue;
        if (columns > TERNFMT_K_MAX / shape[i]) return "K is over K_MAX";
        columns *= shape[i];
    }
    ternary->rows = shape[0];
    ternary->columns = (uint32_t)columns;
    ternary->row_bytes = (ternary->columns + 3) / 4;
    return ternary->rows > TERNFMT_INTEGER_MAX / columns ? "N * K is over 2^53 - 1" : NULL;
}

/* Step 19: the keys of features, where present (S-5.2 to S-5.4). */
static const char *ternfmt__read_feature_keys(const ternfmt_json *document, uint32_t entry,
                                              ternfmt_ternary *ternary) {
    ternary->groups = 1;
    ternary->planes = 1;
    if (ternfmt__get_named(document, entry, "group_size") != 0) {
        const uint32_t g = ternfmt__entry_integer(document, entry, "group_size", 1, TERNFMT_K_MAX);
        if (g == 0 || g % TERNFMT_GROUP_MULTIPLE != 0) return "`group_size` is not a multiple of 16";
        ternary->group_size = g;
        ternary->groups = (ternary->columns - 1) / g + 1;
    }
    if (ternfmt__get_named(document, entry, "planes") != 0) {
        ternary->planes = ternfmt__entry_integer(document, entry, "planes", 2, TERNFMT_PLANES_MAX);
        if (ternary->planes == 0) return "`planes` is not 2, 3 or 4";
    }
    if (ternfmt__get_named(document, entry, "low_rank") != 0) {
        ternary->low_rank = ternfmt__entry_integer(document, entry, "low_rank", 1, ternary->columns);
        if (ternary->low_rank == 0) return "`low_rank` is not from 1 to K";
    }
    return NULL;
}

static const char *ternfmt__read_entry(const ternfmt_json *document, uint32_t entry,
                                       ternfmt_ternary *ternary, uint64_t *shape) {
    if (!ternfmt__is(document, entry, TERNFMT__OBJECT)) return "the entry is not an object";
    const uint32_t encoding = ternfmt__get_named(document, entry, "encoding");
    if (!ternfmt__is(document, encoding, TERNFMT__STRING) ||
        !ternfmt__equal(ternfmt__text(document, encoding), "int2"))
        return "`encoding` is not `int2`";
    const char *fault = ternfmt__read_logical_shape(document, entry, ternary, shape);
    return fault != NULL ? fault : ternfmt__read_feature_keys(document, entry, ternary);
}

/* Step 19: checks the entries of `tensors` (S-2.3, S-2.4) before anything is allocated for them, and
 * counts the dimensions of all logical shapes. */
static ternfmt_class ternfmt__check_entries(const ternfmt_json *document, uint32_t entries,
                                            size_t *dimensions, ternfmt_error *error) {
    ternfmt_ternary ternary = {0};
    uint64_t shape[TERNFMT_RANK_MAX];
    *dimensions = 0;
    if (!ternfmt__is(document, entries, TERNFMT__OBJECT))
        return ternfmt__fail(error, TERNFMT_METADATA, "`tensors` is not an object");
    for (uint32_t i = 0; i < document->nodes[entries].size; i++) {
        const uint32_t key = ternfmt__member(document, entries, i);
        const char *fault = ternfmt__read_entry(document, key + 1, &ternary, shape);
        if (fault != NULL)
            return ternfmt__fail(error, TERNFMT_METADATA, "`%s`: %s", ternfmt__text(document, key).at,
                                 fault);
        *dimensions += ternary.rank;
    }
    return TERNFMT_OK;
}

static ternfmt_class ternfmt__read_entries(ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *document = &file->document;
    const uint32_t entries = ternfmt__get_named(document, 0, "tensors");
    size_t dimensions;
    TERNFMT__TRY(ternfmt__check_entries(document, entries, &dimensions, error));
    file->ternary_count = document->nodes[entries].size;
    file->ternaries = ternfmt__alloc(file->ternary_count, sizeof *file->ternaries);
    file->logical_shapes = ternfmt__alloc(dimensions, sizeof *file->logical_shapes);
    if (file->ternaries == NULL || file->logical_shapes == NULL) return ternfmt__no_memory(error);
    uint64_t *shape = file->logical_shapes;
    for (uint32_t i = 0; i < file->ternary_count; i++) {
        ternfmt_ternary *ternary = &file->ternaries[i];
        const uint32_t key = ternfmt__member(document, entries, i);
        (void)ternfmt__read_entry(document, key + 1, ternary, shape);
        ternary->name = ternfmt__text(document, key).at;
        ternary->name_length = ternfmt__text(document, key).size;
        ternary->node = key + 1;
        shape += ternary->rank;
    }
    return TERNFMT_OK;
}

/* 64 lower-case hexadecimal digits (S-8.1). */
static bool ternfmt__is_digest(const ternfmt_json *document, uint32_t node) {
    if (!ternfmt__is(document, node, TERNFMT__STRING)) return false;
    const ternfmt__string digits = ternfmt__text(document, node);
    return digits.size == TERNFMT_DIGEST_CHARS && strspn(digits.at, "0123456789abcdef") == digits.size;
}

/* Step 19: `digests` (S-8.1). */
static ternfmt_class ternfmt__read_digests(ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *document = &file->document;
    const uint32_t digests = ternfmt__get_named(document, 0, "digests");
    if (digests == 0) return TERNFMT_OK;
    if (!ternfmt__is(document, digests, TERNFMT__OBJECT))
        return ternfmt__fail(error, TERNFMT_METADATA, "`digests` is not an object");
    const uint32_t header = ternfmt__get_named(document, digests, "header");
    const uint32_t tensors = ternfmt__get_named(document, digests, "tensors");
    if (header != 0) {
        if (!ternfmt__is_digest(document, header))
            return ternfmt__fail(error, TERNFMT_METADATA, "the digest of the header is malformed");
        file->header_digest = ternfmt__text(document, header);
    }
    if (tensors == 0) return TERNFMT_OK;
    if (!ternfmt__is(document, tensors, TERNFMT__OBJECT))
        return ternfmt__fail(error, TERNFMT_METADATA, "`digests.tensors` is not an object");
    for (uint32_t i = 0; i < document->nodes[tensors].size; i++) {
        const uint32_t key = ternfmt__member(document, tensors, i);
        if (!ternfmt__is_digest(document, key + 1))
            return ternfmt__fail(error, TERNFMT_METADATA, "the digest of `%s` is malformed",
                                 ternfmt__text(document, key).at);
    }
    file->tensor_digests = tensors;
    return TERNFMT_OK;
}

/* Step 20: features in use that `required` does not list (S-5.1). */
static ternfmt_class ternfmt__check_features_listed(const ternfmt_file *file, ternfmt_error *error) {
    const ternfmt_json *document = &file->document;
    const uint32_t array = ternfmt__get_named(document, 0, "required");
    bool listed[TERNFMT__FEATURE_COUNT] = {false, false, false};
    for (uint32_t f = 0; f < TERNFMT__FEATURE_COUNT; f++)
        for (uint32_t i = 0; i < document->nodes[array].size; i++)
            if (ternfmt__equal(ternfmt__text(document, array + 1 + i), ternfmt__features[f].feature))
                listed[f] = true;
    for (size_t t = 0; t < file->ternary_count; t++)
        for (uint32_t f = 0; f < TERNFMT__FEATURE_COUNT; f++)
            if (!listed[f] &&
                ternfmt__get_named(document, file->ternaries[t].node, ternfmt__features[f].key) != 0)
                return ternfmt__fail(error, TERNFMT_FEATURE, "`%s` uses `%s`, which `required` lacks",
                                     file->ternaries[t].name, ternfmt__features[f].feature);
    return TERNFMT_OK;
}

/* Steps 12 to 20. */
static ternfmt_class ternfmt__read_metadata(ternfmt_file *file, ternfmt_error *error) {
    TERNFMT__TRY(ternfmt__read_document(file, error));
    TERNFMT__TRY(ternfmt__check_version(file, error));
    TERNFMT__TRY(ternfmt__check_required(&file->document, error));
    TERNFMT__TRY(ternfmt__check_features_known(&file->document, error));
    TERNFMT__TRY(ternfmt__check_numbers(&file->document, error));
    TERNFMT__TRY(ternfmt__read_entries(file, error));
    TERNFMT__TRY(ternfmt__read_digests(file, error));
    return ternfmt__check_features_listed(file, error);
}

/* Steps 1 to 20: one file by itself. On failure the caller frees *file. */
static ternfmt_class ternfmt__read_file(ternfmt_file *file, const void *bytes, size_t size,
                                        ternfmt_error *error) {
    memset(file, 0, sizeof *file);
    file->bytes = bytes;
    file->size = size;
    TERNFMT__TRY(ternfmt__read_container(file, error));
    return ternfmt__read_metadata(file, error);
}

/* ==== 9. Model and structure (sections 5 and 6): steps 21 to 23 ================================ */

static ternfmt__string ternfmt__tensor_name(const ternfmt_tensor *tensor) {
    const ternfmt__string name = {tensor->name, tensor->name_length};
    return name;
}

static ternfmt__string ternfmt__ternary_name(const ternfmt_ternary *ternary) {
    const ternfmt__string name = {ternary->name, ternary->name_length};
    return name;
}

static ternfmt__string ternfmt__digest_name(const ternfmt_digest *digest) {
    const ternfmt__string name = {digest->name, digest->name_length};
    return name;
}

static ternfmt_tensor *ternfmt__find_tensor(const ternfmt_tensor *tensors, size_t count,
                                            ternfmt__string name) {
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = ternfmt__compare(ternfmt__tensor_name(&tensors[middle]), name);
        if (order == 0) return (ternfmt_tensor *)&tensors[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

static ternfmt_ternary *ternfmt__find_ternary(const ternfmt_model *model, ternfmt__string name) {
    size_t low = 0, high = model->ternary_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = ternfmt__compare(ternfmt__ternary_name(&model->ternaries[middle]), name);
        if (order == 0) return &model->ternaries[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

ternfmt_ternary *ternfmt_find(const ternfmt_model *model, const char *name) {
    const ternfmt__string string = {name, (uint32_t)strlen(name)};
    return ternfmt__find_ternary(model, string);
}

const ternfmt_tensor *ternfmt_find_tensor(const ternfmt_model *model, const char *name) {
    const ternfmt__string string = {name, (uint32_t)strlen(name)};
    return ternfmt__find_tensor(model->tensors, model->tensor_count, string);
}

static int ternfmt__compare_tensors(const void *tensors, uint32_t a, uint32_t b) {
    return ternfmt__compare(ternfmt__tensor_name((const ternfmt_tensor *)tensors + a),
                            ternfmt__tensor_name((const ternfmt_tensor *)tensors + b));
}

static int ternfmt__compare_ternaries(const void *ternaries, uint32_t a, uint32_t b) {
    return ternfmt__compare(ternfmt__ternary_name((const ternfmt_ternary *)ternaries + a),
                            ternfmt__ternary_name((const ternfmt_ternary *)ternaries + b));
}

static int ternfmt__compare_digests(const void *digests, uint32_t a, uint32_t b) {
    return ternfmt__compare(ternfmt__digest_name((const ternfmt_digest *)digests + a),
                            ternfmt__digest_name((const ternfmt_digest *)digests + b));
}

/* Puts the elements of an array in sorted order; false without memory. */
static bool ternfmt__sort_array(void **array, size_t count, size_t size, ternfmt__order *compare) {
    uint32_t *order = ternfmt__sorted(count, compare, *array);
    char *sorted = ternfmt__alloc(count, size);
    const bool good = order != NULL && sorted != NULL;
    for (size_t i = 0; good && i < count; i++)
        memcpy(sorted + i * size, (const char *)*array + order[i] * size, size);
    if (good) {
        free(*array);
        *array = sorted;
    } else {
        free(sorted);
    }
    free(order);
    return good;
}

/* Takes over the tensors of all files. They are distinct: in one file by step 6, in shards by S-7.5. */
static ternfmt_class ternfmt__join_tensors(ternfmt_model *model, ternfmt_error *error) {
    for (size_t f = 0; f < model->file_count; f++) model->tensor_count += model->files[f].tensor_count;
    model->tensors = ternfmt__alloc(model->tensor_count, sizeof *model->tensors);
    if (model->tensors == NULL) return ternfmt__no_memory(error);
    size_t used = 0;
    for (size_t f = 0; f < model->file_count; f++) {
        ternfmt_file *file = &model->files[f];
        for (size_t i = 0; i < file->tensor_count; i++) {
            file->tensors[i].file = (uint32_t)f;
            model->tensors[used++] = file->tensors[i];
        }
        free(file->tensors);
        file->tensors = NULL;
    }
    void *array = model->tensors;
    const bool good = model->file_count < 2 || /* one file's are in order */
                      ternfmt__sort_array(&array, used, sizeof *model->tensors, ternfmt__compare_tensors);
    model->tensors = array;
    return good ? TERNFMT_OK : ternfmt__no_memory(error);
}

/* Takes over the entries of all files; those that several shards give are equal (S-7.6). */
static ternfmt_class ternfmt__join_entries(ternfmt_model *model, ternfmt_error *error) {
    size_t count = 0, used = 0;
    for (size_t f = 0; f < model->file_count; f++) count += model->files[f].ternary_count;
    model->ternaries = ternfmt__alloc(count, sizeof *model->ternaries);
    if (model->ternaries == NULL) return ternfmt__no_memory(error);
    for (size_t f = 0; f < model->file_count; f++) {
        ternfmt_file *file = &model->files[f];
        for (size_t i = 0; i < file->ternary_count; i++) {
            file->ternaries[i].file = (uint32_t)f;
            model->ternaries[used++] = file->ternaries[i];
        }
        free(file->ternaries);
        file->ternaries = NULL;
    }
    void *array = model->ternaries;
    const bool good = model->file_count < 2 || ternfmt__sort_array(&array, used, sizeof *model->ternaries,
                                                                   ternfmt__compare_ternaries);
    model->ternaries = array;
    if (!good) return ternfmt__no_memory(error);
    for (size_t i = 0; i < used; i++) {
        const ternfmt_ternary *next = &model->ternaries[i];
        ternfmt_ternary *kept = &model->ternaries[model->ternary_count - (model->ternary_count != 0)];
        if (model->ternary_count == 0 || ternfmt__compare(ternfmt__ternary_name(kept),
                                                          ternfmt__ternary_name(next)) != 0) {
            model->ternaries[model->ternary_count++] = *next;
        } else if (!ternfmt__json_equal(&model->files[kept->file].document, kept->node,
                                        &model->files[next->file].document, next->node)) {
            return ternfmt__fail(error, TERNFMT_METADATA, "two shards give different entries for `%s`",
                                 next->name);
        }
    }
    return TERNFMT_OK;
}

/* Collects the digests of all files; those that several shards give are equal (S-7.6). */
static ternfmt_class ternfmt__join_digests(ternfmt_model *model, ternfmt_error *error) {
    size_t count = 0, used = 0;
    for (size_t f = 0; f < model->file_count; f++)
        if (model->files[f].tensor_digests != 0)
            count += model->files[f].document.nodes[model->files[f].tensor_digests].size;
    model->digests = ternfmt__alloc(count, sizeof *model->digests);
    if (model->digests == NULL) return ternfmt__no_memory(error);
    for (size_t f = 0; f < model->file_count; f++) {
        const ternfmt_json *document = &model->files[f].document;
        const uint32_t digests = model->files[f].tensor_digests;
        for (uint32_t i = 0; digests != 0 && i < document->nodes[digests].size; i++, used++) {
            const uint32_t key = ternfmt__member(document, digests, i);
            model->digests[used].name = ternfmt__text(document, key).at;
            model->digests[used].name_length = ternfmt__text(document, key).size;
            model->digests[used].digits = ternfmt__text(document, key + 1).at;
        }
    }
    void *array = model->digests;
    const bool good = model->file_count < 2 || ternfmt__sort_array(&array, used, sizeof *model->digests,
                                                                   ternfmt__compare_digests);
    model->digests = array;
    if (!good) return ternfmt__no_memory(error);
    for (size_t i = 0; i < used; i++) {
        const ternfmt_digest *next = &model->digests[i];
        const ternfmt_digest *kept = &model->digests[model->digest_count - (model->digest_count != 0)];
        if (model->digest_count == 0 ||
            ternfmt__compare(ternfmt__digest_name(kept), ternfmt__digest_name(next)) != 0)
            model->digests[model->digest_count++] = *next;
        else if (memcmp(kept->digits, next->digits, TERNFMT_DIGEST_CHARS) != 0)
            return ternfmt__fail(error, TERNFMT_METADATA, "two shards give different digests for `%s`",
                                 next->name);
    }
    return TERNFMT_OK;
}

/* The derived names of S-6.1, in the order of the enumeration. */
static const char *const ternfmt__suffixes[] = {
    "", "_scale", "_plane2", "_plane2_scale", "_plane3", "_plane3_scale", "_plane4", "_plane4_scale",
    "_lowrank_down", "_lowrank_up",
};
enum {
    TERNFMT__SUFFIX_DOWN = 2 * TERNFMT_PLANES_MAX,
    TERNFMT__SUFFIX_UP,
    TERNFMT__SUFFIX_COUNT,
    TERNFMT__SUFFIX_ROOM = 16 /* more than the longest suffix */
};

typedef struct ternfmt__name_buffer {
    char text[TERNFMT_NAME_MAX + TERNFMT__SUFFIX_ROOM];
} ternfmt__name_buffer;

/* X with a suffix. X is a name by S-1.7 and fits. */
static ternfmt__string ternfmt__derive(ternfmt__name_buffer *buffer, const ternfmt_ternary *x,
                                       uint32_t suffix) {
    const uint32_t length = (uint32_t)strlen(ternfmt__suffixes[suffix]);
    const ternfmt__string name = {buffer->text, x->name_length + length};
    memcpy(buffer->text, x->name, x->name_length);
    memcpy(buffer->text + x->name_length, ternfmt__suffixes[suffix], length + 1);
    return name;
}

/* Does the entry call for the tensor with this suffix? */
static bool ternfmt__calls_for(const ternfmt_ternary *x, uint32_t suffix) {
    if (suffix >= TERNFMT__SUFFIX_DOWN) return x->low_rank != 0;
    return suffix / 2 < x->planes;
}

/* Step 21, one ternary tensor: S-6.1 and S-6.2. Marks the tensors that belong to it. */
static ternfmt_class ternfmt__check_derived_names(ternfmt_model *model, const ternfmt_ternary *x,
                                                  ternfmt_error *error) {
    ternfmt__name_buffer buffer;
    if (!ternfmt__is_name(ternfmt__ternary_name(x)))
        return ternfmt__fail(error, TERNFMT_NAME, "the declared `%s` is not a tensor name", x->name);
    for (uint32_t suffix = 0; suffix < TERNFMT__SUFFIX_COUNT; suffix++) {
        const ternfmt__string name = ternfmt__derive(&buffer, x, suffix);
        ternfmt_tensor *tensor = ternfmt__find_tensor(model->tensors, model->tensor_count, name);
        const bool called_for = ternfmt__calls_for(x, suffix);
        if (called_for && name.size > TERNFMT_NAME_MAX)
            return ternfmt__fail(error, TERNFMT_NAME, "`%s` is longer than 255 bytes", name.at);
        if (suffix != 0 && ternfmt__find_ternary(model, name) != NULL)
            return ternfmt__fail(error, TERNFMT_NAME, "`%s` is declared, but derived from `%s`", name.at,
                                 x->name);
        if (tensor != NULL && !called_for)
            return ternfmt__fail(error, TERNFMT_NAME, "`%s` is present, but the entry of `%s` does not "
                                 "call for it", name.at, x->name);
        if (tensor != NULL) tensor->ternary = true;
    }
    return TERNFMT_OK;
}

static bool ternfmt__has_shape(const ternfmt_tensor *tensor, uint32_t rank, uint64_t a, uint64_t b) {
    return tensor->rank == rank && tensor->shape[0] == a && (rank == 1 || tensor->shape[1] == b);
}

/* The tensor with this suffix; absent is an error but in a shard (S-7.2). */
static ternfmt_class ternfmt__get_derived(const ternfmt_model *model, const ternfmt_ternary *x,
                                          uint32_t suffix, ternfmt_class absent,
                                          const ternfmt_tensor **tensor, ternfmt_error *error) {
    ternfmt__name_buffer buffer;
    const ternfmt__string name = ternfmt__derive(&buffer, x, suffix);
    *tensor = ternfmt__find_tensor(model->tensors, model->tensor_count, name);
    if (*tensor == NULL && !model->shard)
        return ternfmt__fail(error, absent, "`%s` is absent", name.at);
    return TERNFMT_OK;
}

/* Step 22: the codes, U8 of shape [N, ceil(K/4)] (S-3.3, S-5.3). */
static ternfmt_class ternfmt__link_codes(const ternfmt_model *model, ternfmt_ternary *x,
                                         ternfmt_error *error) {
    for (uint32_t p = 0; p < x->planes; p++) {
        TERNFMT__TRY(ternfmt__get_derived(model, x, 2 * p, TERNFMT_METADATA, &x->codes[p], error));
        const ternfmt_tensor *t = x->codes[p];
        if (t != NULL && (t->dtype != TERNFMT_U8 || !ternfmt__has_shape(t, 2, x->rows, x->row_bytes)))
            return ternfmt__fail(error, TERNFMT_METADATA, "`%s` is not U8 of shape [%llu, %lu]", t->name,
                                 (unsigned long long)x->rows, (unsigned long)x->row_bytes);
    }
    return TERNFMT_OK;
}

/* Step 22: the low-rank factors, [R, K] and [N, R] (S-5.4). */
static ternfmt_class ternfmt__link_low_rank(const ternfmt_model *model, ternfmt_ternary *x,
                                            ternfmt_error *error) {
    if (x->low_rank == 0) return TERNFMT_OK;
    TERNFMT__TRY(ternfmt__get_derived(model, x, TERNFMT__SUFFIX_DOWN, TERNFMT_METADATA, &x->down, error));
    TERNFMT__TRY(ternfmt__get_derived(model, x, TERNFMT__SUFFIX_UP, TERNFMT_METADATA, &x->up, error));
    if (x->down != NULL && (!ternfmt__is_scale_dtype(x->down->dtype) ||
                            !ternfmt__has_shape(x->down, 2, x->low_rank, x->columns)))
        return ternfmt__fail(error, TERNFMT_METADATA, "`%s` has not the dtype or shape [R, K] it needs",
                             x->down->name);
    if (x->up != NULL && (!ternfmt__is_scale_dtype(x->up->dtype) ||
                          !ternfmt__has_shape(x->up, 2, x->rows, x->low_rank)))
        return ternfmt__fail(error, TERNFMT_METADATA, "`%s` has not the dtype or shape [N, R] it needs",
                             x->up->name);
    if (x->down != NULL && x->up != NULL && x->down->dtype != x->up->dtype)
        return ternfmt__fail(error, TERNFMT_METADATA, "the low-rank factors of `%s` differ in dtype",
                             x->name);
    return TERNFMT_OK;
}

/* Step 22: a digest of a tensor that is absent (S-8.4). */
static ternfmt_class ternfmt__check_digest_names(const ternfmt_model *model, ternfmt_error *error) {
    for (size_t i = 0; i < model->digest_count && !model->shard; i++)
        if (ternfmt__find_tensor(model->tensors, model->tensor_count,
                                 ternfmt__digest_name(&model->digests[i])) == NULL)
            return ternfmt__fail(error, TERNFMT_METADATA, "a digest names `%s`, which is absent",
                                 model->digests[i].name);
    return TERNFMT_OK;
}

/* Step 22: a ternary tensor that somebody forgot to declare (S-6.3). */
static ternfmt_class ternfmt__check_undeclared(const ternfmt_model *model, ternfmt_error *error) {
    ternfmt__name_buffer buffer;
    for (size_t i = 0; i < model->tensor_count; i++) {
        const ternfmt_tensor *y = &model->tensors[i];
        if (y->ternary || y->dtype != TERNFMT_U8 || y->rank != 2) continue;
        memcpy(buffer.text, y->name, y->name_length);
        memcpy(buffer.text + y->name_length, "_scale", sizeof "_scale");
        const ternfmt_tensor *scale = ternfmt_find_tensor(model, buffer.text);
        if (scale != NULL && ternfmt__is_scale_dtype(scale->dtype) && scale->rank >= 1 &&
            scale->shape[0] == y->shape[0])
            return ternfmt__fail(error, TERNFMT_METADATA, "`%s` looks ternary, but is not declared",
                                 y->name);
    }
    return TERNFMT_OK;
}

/* Step 23: the scales, [N] or [N, G], all of one dtype (S-4.1, S-5.2, S-5.3). */
static ternfmt_class ternfmt__link_scales(const ternfmt_model *model, ternfmt_ternary *x,
                                          ternfmt_error *error) {
    const uint32_t rank = x->group_size == 0 ? 1 : 2;
    const ternfmt_tensor *first = NULL; /* of those present: a shard may lack X_scale */
    for (uint32_t p = 0; p < x->planes; p++) {
        TERNFMT__TRY(ternfmt__get_derived(model, x, 2 * p + 1, TERNFMT_SCALE, &x->scales[p], error));
        const ternfmt_tensor *t = x->scales[p];
        if (t == NULL) continue;
        if (!ternfmt__is_scale_dtype(t->dtype) || !ternfmt__has_shape(t, rank, x->rows, x->groups))
            return ternfmt__fail(error, TERNFMT_SCALE, "`%s` has not the dtype or shape it needs", t->name);
        if (first == NULL) first = t;
        if (first->dtype != t->dtype)
            return ternfmt__fail(error, TERNFMT_SCALE, "`%s` and `%s` differ in dtype", t->name,
                                 first->name);
    }
    return TERNFMT_OK;
}

/* Steps 21 to 23, over the union of all files. */
static ternfmt_class ternfmt__check_structure(ternfmt_model *model, ternfmt_error *error) {
    for (size_t i = 0; i < model->ternary_count; i++)
        TERNFMT__TRY(ternfmt__check_derived_names(model, &model->ternaries[i], error));
    for (size_t i = 0; i < model->ternary_count; i++) {
        TERNFMT__TRY(ternfmt__link_codes(model, &model->ternaries[i], error));
        TERNFMT__TRY(ternfmt__link_low_rank(model, &model->ternaries[i], error));
    }
    TERNFMT__TRY(ternfmt__check_digest_names(model, error));
    TERNFMT__TRY(ternfmt__check_undeclared(model, error));
    for (size_t i = 0; i < model->ternary_count; i++)
        TERNFMT__TRY(ternfmt__link_scales(model, &model->ternaries[i], error));
    return TERNFMT_OK;
}

static ternfmt_class ternfmt__start_model(ternfmt_model *model, size_t files, bool shard,
                                          ternfmt_error *error) {
    memset(model, 0, sizeof *model);
    memset(error, 0, sizeof *error);
    model->shard = shard;
    model->files = ternfmt__alloc(files, sizeof *model->files);
    if (model->files == NULL) return ternfmt__no_memory(error);
    model->file_count = files;
    return TERNFMT_OK;
}

/* Steps 21 to 23, after S-7.6, which one file cannot break. */
static ternfmt_class ternfmt__join(ternfmt_model *model, ternfmt_error *error) {
    TERNFMT__TRY(ternfmt__join_entries(model, error));
    TERNFMT__TRY(ternfmt__join_digests(model, error));
    TERNFMT__TRY(ternfmt__join_tensors(model, error));
    return ternfmt__check_structure(model, error);
}

ternfmt_class ternfmt_open(ternfmt_model *model, const void *bytes, size_t size,
                           ternfmt_read_as read_as, ternfmt_error *error) {
    ternfmt_class outcome = ternfmt__start_model(model, 1, read_as == TERNFMT_SHARD, error);
    if (outcome == TERNFMT_OK) outcome = ternfmt__read_file(&model->files[0], bytes, size, error);
    if (outcome == TERNFMT_OK) outcome = ternfmt__join(model, error);
    if (outcome != TERNFMT_OK) ternfmt_close(model);
    return outcome;
}

/* ==== 10. Data checks: step 24 ================================================================= */

static float ternfmt__float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t ternfmt__bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float ternfmt_bf16_to_f32(uint16_t bits) { return ternfmt__float((uint32_t)bits << 16); }

float ternfmt_f16_to_f32(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, exponent = (bits >> 10) & 0x1fu;
    const uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0x1f) return ternfmt__float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return ternfmt__float(sign | (exponent + 112) << 23 | fraction << 13);
    const float magnitude = (float)fraction / 16777216.0f; /* subnormal: units of 2^-24, exact */
    return ternfmt__float(sign | ternfmt__bits(magnitude));
}

/* Element `i` of a tensor of F32, F16 or BF16, as F32, which is exact. */
static float ternfmt__element(const ternfmt_tensor *tensor, uint64_t i) {
    if (tensor->dtype == TERNFMT_F32) {
        const uint8_t *b = tensor->data + 4 * i;
        return ternfmt__float((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
                              (uint32_t)b[3] << 24);
    }
    const uint8_t *b = tensor->data + 2 * i;
    const uint16_t bits = (uint16_t)(b[0] | b[1] << 8);
    return tensor->dtype == TERNFMT_F16 ? ternfmt_f16_to_f32(bits) : ternfmt_bf16_to_f32(bits);
}

/* S-4.2: every scale is finite and its sign bit is clear, so its bits as F32 are below infinity's. */
static ternfmt_class ternfmt__check_scales(const ternfmt_ternary *x, uint32_t plane,
                                           ternfmt_error *error) {
    const ternfmt_tensor *t = x->scales[plane];
    if (t == NULL) return TERNFMT_OK;
    for (uint64_t i = 0; i < x->rows * x->groups; i++)
        if (ternfmt__bits(ternfmt__element(t, i)) >= 0x7f800000u)
            return ternfmt__fail(error, TERNFMT_SCALE, "`%s`: scale %llu is negative or not finite",
                                 t->name, (unsigned long long)i);
    return TERNFMT_OK;
}

/* Is there a code 10 (high bit set, low bit clear) in these bytes? Eight at a time. */
static bool ternfmt__has_forbidden(const uint8_t *bytes, uint64_t count) {
    const uint64_t high_bits = 0xaaaaaaaaaaaaaaaau;
    uint64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, sizeof word);
        if ((word & ~(word << 1) & high_bits) != 0) return true;
    }
    for (; i < count; i++)
        if ((bytes[i] & ~((uint32_t)bytes[i] << 1) & 0xaau) != 0) return true;
    return false;
}

/* S-3.2: no forbidden code in a code lane. */
static ternfmt_class ternfmt__check_codes(const ternfmt_ternary *x, uint32_t plane,
                                          ternfmt_error *error) {
    const ternfmt_tensor *t = x->codes[plane];
    if (t == NULL) return TERNFMT_OK;
    const uint32_t whole_bytes = x->columns / 4, lanes = x->columns % 4;
    for (uint64_t n = 0; n < x->rows; n++) {
        const uint8_t *row = t->data + n * x->row_bytes;
        bool forbidden = ternfmt__has_forbidden(row, whole_bytes);
        if (lanes != 0) {
            const uint8_t last = (uint8_t)(row[whole_bytes] & ((1u << 2 * lanes) - 1));
            forbidden = forbidden || ternfmt__has_forbidden(&last, 1);
        }
        if (forbidden)
            return ternfmt__fail(error, TERNFMT_CODE, "`%s`: row %llu holds the forbidden code 10",
                                 t->name, (unsigned long long)n);
    }
    return TERNFMT_OK;
}

/* S-3.5: pad lanes are 00. */
static ternfmt_class ternfmt__check_padding(const ternfmt_ternary *x, uint32_t plane,
                                            ternfmt_error *error) {
    const ternfmt_tensor *t = x->codes[plane];
    const uint32_t lanes = x->columns % 4;
    if (t == NULL || lanes == 0) return TERNFMT_OK;
    for (uint64_t n = 0; n < x->rows; n++)
        if (t->data[(n + 1) * x->row_bytes - 1] >> (2 * lanes) != 0)
            return ternfmt__fail(error, TERNFMT_PADDING, "`%s`: row %llu has pad lanes that are not 00",
                                 t->name, (unsigned long long)n);
    return TERNFMT_OK;
}

ternfmt_class ternfmt_check_values(ternfmt_ternary *ternary, ternfmt_error *error) {
    for (uint32_t p = 0; p < ternary->planes && !ternary->checked; p++) {
        TERNFMT__TRY(ternfmt__check_scales(ternary, p, error));
        TERNFMT__TRY(ternfmt__check_codes(ternary, p, error));
        TERNFMT__TRY(ternfmt__check_padding(ternary, p, error));
    }
    ternary->checked = true;
    return TERNFMT_OK;
}

ternfmt_class ternfmt_validate(ternfmt_model *model, ternfmt_error *error) {
    for (size_t i = 0; i < model->ternary_count; i++)
        TERNFMT__TRY(ternfmt_check_values(&model->ternaries[i], error));
    return TERNFMT_OK;
}

/* ==== 11. Digests (section 8): step 25 ========================================================= */

static const uint32_t ternfmt__sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t ternfmt__rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void ternfmt__sha256_block(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | (uint32_t)block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ternfmt__rotate(a, 7) ^ ternfmt__rotate(a, 18) ^ a >> 3) +
               (ternfmt__rotate(b, 17) ^ ternfmt__rotate(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        const uint32_t e = s[4], a = s[0];
        const uint32_t t1 = s[7] + (ternfmt__rotate(e, 6) ^ ternfmt__rotate(e, 11) ^ ternfmt__rotate(e, 25)) +
                            ((e & s[5]) ^ (~e & s[6])) + ternfmt__sha256_constants[i] + w[i];
        const uint32_t t2 = (ternfmt__rotate(a, 2) ^ ternfmt__rotate(a, 13) ^ ternfmt__rotate(a, 22)) +
                            ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

void ternfmt_sha256_begin(ternfmt_sha256 *sha) {
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->state, initial, sizeof initial);
    sha->length = 0;
}

void ternfmt_sha256_add(ternfmt_sha256 *sha, const void *bytes, size_t size) {
    const uint8_t *at = bytes;
    size_t held = (size_t)(sha->length % 64);
    sha->length += size;
    while (size > 0) {
        if (held == 0 && size >= 64) {
            ternfmt__sha256_block(sha->state, at);
            at += 64;
            size -= 64;
            continue;
        }
        const size_t taken = size < 64 - held ? size : 64 - held;
        memcpy(sha->block + held, at, taken);
        at += taken;
        size -= taken;
        held += taken;
        if (held == 64) {
            ternfmt__sha256_block(sha->state, sha->block);
            held = 0;
        }
    }
}

void ternfmt_sha256_end(ternfmt_sha256 *sha, char digits[TERNFMT_DIGEST_CHARS + 1]) {
    static const uint8_t padding[64] = {0x80};
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(sha->length * 8 >> (56 - 8 * i));
    ternfmt_sha256_add(sha, padding, 1 + (size_t)((119 - sha->length % 64) % 64));
    ternfmt_sha256_add(sha, length, sizeof length);
    for (int i = 0; i < 64; i++)
        digits[i] = "0123456789abcdef"[sha->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    digits[64] = '\0';
}

static void ternfmt__add_text(ternfmt_sha256 *sha, const char *text) {
    ternfmt_sha256_add(sha, text, strlen(text));
}

/* One character of a canonical string (S-11.1). */
static void ternfmt__add_character(ternfmt_sha256 *sha, uint32_t c) {
    static const char letters[] = "btnXfr"; /* U+0008 to U+000D; U+000B has none */
    char text[16] = {(char)(c & 0x7f), '\0'};
    if (c == '"' || c == '\\')
        (void)snprintf(text, sizeof text, "\\%c", (int)c);
    else if (c >= 0x20 && c <= 0x7e)
        ; /* stands for itself */
    else if (c >= 0x08 && c <= 0x0d && c != 0x0b)
        (void)snprintf(text, sizeof text, "\\%c", letters[c - 0x08]);
    else if (c < 0x10000)
        (void)snprintf(text, sizeof text, "\\u%04lx", (unsigned long)c);
    else
        (void)snprintf(text, sizeof text, "\\u%04lx\\u%04lx", (unsigned long)(0xd800 + ((c - 0x10000) >> 10)),
                       (unsigned long)(0xdc00 + ((c - 0x10000) & 0x3ff)));
    ternfmt__add_text(sha, text);
}

/* The UTF-8 character at `at`; `*length` is how many bytes it takes. The text is known to be valid. */
static uint32_t ternfmt__character(const char *at, size_t left, size_t *length) {
    const uint8_t *b = (const uint8_t *)at;
    *length = ternfmt__utf8_length(b, left);
    if (*length == 1) return b[0];
    uint32_t c = b[0] & (0xffu >> (*length + 1));
    for (size_t i = 1; i < *length; i++) c = c << 6 | (b[i] & 0x3fu);
    return c;
}

/* A canonical string, with every occurrence of `digits` (none if empty) as zeros (S-8.2). */
static void ternfmt__add_string(ternfmt_sha256 *sha, ternfmt__string text, ternfmt__string digits) {
    size_t length;
    ternfmt__add_text(sha, "\"");
    for (size_t i = 0; i < text.size; i += length) {
        if (digits.size != 0 && text.size - i >= digits.size &&
            memcmp(text.at + i, digits.at, digits.size) == 0) {
            length = digits.size;
            for (size_t d = 0; d < length; d++) ternfmt__add_text(sha, "0");
        } else {
            ternfmt__add_character(sha, ternfmt__character(text.at + i, text.size - i, &length));
        }
    }
    ternfmt__add_text(sha, "\"");
}

/* `__metadata__`, an object of strings, by ascending key. */
static void ternfmt__add_metadata(ternfmt_sha256 *sha, const ternfmt_file *file, uint32_t metadata) {
    static const ternfmt__string none = {"", 0};
    const ternfmt_json *header = &file->header;
    for (uint32_t i = 0; i < header->nodes[metadata].size; i++) {
        const uint32_t key = ternfmt__member(header, metadata, i);
        const bool document = ternfmt__equal(ternfmt__text(header, key), "ternfmt");
        ternfmt__add_text(sha, i == 0 ? "{" : ",");
        ternfmt__add_string(sha, ternfmt__text(header, key), none);
        ternfmt__add_text(sha, ":");
        ternfmt__add_string(sha, ternfmt__text(header, key + 1), document ? file->header_digest : none);
    }
    ternfmt__add_text(sha, "}");
}

/* A tensor's value without `data_offsets`; dtypes and digits need no escapes. */
static void ternfmt__add_tensor(ternfmt_sha256 *sha, const ternfmt_json *header, uint32_t node) {
    const uint32_t shape = ternfmt__get_named(header, node, "shape");
    ternfmt__add_text(sha, "{\"dtype\":\"");
    ternfmt__add_text(sha, ternfmt__text(header, ternfmt__get_named(header, node, "dtype")).at);
    ternfmt__add_text(sha, "\",\"shape\":[");
    for (uint32_t i = 0; i < header->nodes[shape].size; i++) {
        if (i > 0) ternfmt__add_text(sha, ",");
        ternfmt__add_text(sha, ternfmt__text(header, shape + 1 + i).at);
    }
    ternfmt__add_text(sha, "]}");
}

/* S-8.2, on a file that passed step 20. */
static void ternfmt__header_digest(const ternfmt_file *file, char digits[TERNFMT_DIGEST_CHARS + 1]) {
    static const ternfmt__string none = {"", 0};
    const ternfmt_json *header = &file->header;
    ternfmt_sha256 sha;
    ternfmt_sha256_begin(&sha);
    for (uint32_t i = 0; i < header->nodes[0].size; i++) {
        const uint32_t key = ternfmt__member(header, 0, i);
        ternfmt__add_text(&sha, i == 0 ? "{" : ",");
        ternfmt__add_string(&sha, ternfmt__text(header, key), none);
        ternfmt__add_text(&sha, ":");
        if (ternfmt__equal(ternfmt__text(header, key), "__metadata__"))
            ternfmt__add_metadata(&sha, file, key + 1);
        else
            ternfmt__add_tensor(&sha, header, key + 1);
    }
    ternfmt__add_text(&sha, "}");
    ternfmt_sha256_end(&sha, digits);
}

/* S-8.1, S-8.3. In a shard a digest for an absent tensor is ignored (S-8.4). */
ternfmt_class ternfmt_verify_digests(const ternfmt_model *model, uint64_t *uncovered,
                                     ternfmt_error *error) {
    char digits[TERNFMT_DIGEST_CHARS + 1];
    uint64_t covered = 0;
    for (size_t f = 0; f < model->file_count; f++) {
        const ternfmt_file *file = &model->files[f];
        if (file->header_digest.size == 0) continue;
        ternfmt__header_digest(file, digits);
        if (memcmp(digits, file->header_digest.at, TERNFMT_DIGEST_CHARS) != 0)
            return ternfmt__fail(error, TERNFMT_DIGEST, "the header has digest %s, not %s", digits,
                                 file->header_digest.at);
    }
    for (size_t i = 0; i < model->digest_count; i++) {
        const ternfmt_digest *digest = &model->digests[i];
        const ternfmt_tensor *t = ternfmt__find_tensor(model->tensors, model->tensor_count,
                                                       ternfmt__digest_name(digest));
        ternfmt_sha256 sha;
        if (t == NULL) continue;
        ternfmt_sha256_begin(&sha);
        ternfmt_sha256_add(&sha, t->data, (size_t)(t->end - t->begin));
        ternfmt_sha256_end(&sha, digits);
        if (memcmp(digits, digest->digits, TERNFMT_DIGEST_CHARS) != 0)
            return ternfmt__fail(error, TERNFMT_DIGEST, "`%s` has digest %s, not %s", t->name, digits,
                                 digest->digits);
        covered++;
    }
    if (uncovered != NULL) *uncovered = model->tensor_count - covered;
    return TERNFMT_OK;
}

/* ==== 12. Values (S-3.4, S-4.6, Appendix A) ==================================================== */

/* The code in a lane of a byte. 10 never gets here: step 24 came first. */
static int ternfmt__code(const uint8_t *row, uint32_t column) {
    static const int8_t codes[4] = {0, 1, 0, -1};
    return codes[row[column / 4] >> (2 * (column % 4)) & 3];
}

/* Checks a request for rows, and performs step 24 (S-10.4). */
static ternfmt_class ternfmt__check_rows(ternfmt_ternary *x, uint64_t first, uint64_t last,
                                         ternfmt_error *error) {
    if (first > last || last > x->rows)
        return ternfmt__fail(error, TERNFMT_USAGE, "`%s` has no rows %llu to %llu", x->name,
                             (unsigned long long)first, (unsigned long long)last);
    return ternfmt_check_values(x, error);
}

/* Values need all parts of the tensor; a shard may lack some. */
static ternfmt_class ternfmt__check_complete(const ternfmt_ternary *x, ternfmt_error *error) {
    bool complete = x->low_rank == 0 || (x->down != NULL && x->up != NULL);
    for (uint32_t p = 0; p < x->planes; p++)
        complete = complete && x->codes[p] != NULL && x->scales[p] != NULL;
    return complete ? TERNFMT_OK
                    : ternfmt__fail(error, TERNFMT_USAGE, "parts of `%s` are in other shards", x->name);
}

ternfmt_class ternfmt_unpack(ternfmt_ternary *ternary, uint32_t plane, uint64_t first, uint64_t last,
                             int8_t *out, ternfmt_error *error) {
    if (plane >= ternary->planes || ternary->codes[plane] == NULL)
        return ternfmt__fail(error, TERNFMT_USAGE, "`%s` has no plane %lu here", ternary->name,
                             (unsigned long)plane);
    TERNFMT__TRY(ternfmt__check_rows(ternary, first, last, error));
    for (uint64_t n = first; n < last; n++)
        for (uint32_t k = 0; k < ternary->columns; k++)
            *out++ = (int8_t)ternfmt__code(ternary->codes[plane]->data + n * ternary->row_bytes, k);
    return TERNFMT_OK;
}

/* F32 product and sum, each rounded once. In double the product of two floats is exact, and the sum
 * of two rounds to the same float as the exact sum; so neither extended precision nor a contraction
 * to fused multiply-add can change a bit. */
static float ternfmt__times(float a, float b) { return (float)((double)a * (double)b); }
static float ternfmt__plus(float a, float b) { return (float)((double)a + (double)b); }

/* The product `up * down` at one place, summed in order of r from the first product. */
static float ternfmt__low_rank_value(const ternfmt_ternary *x, uint64_t n, uint32_t k) {
    const uint64_t ranks = x->low_rank;
    float sum = ternfmt__times(ternfmt__element(x->up, n * ranks), ternfmt__element(x->down, k));
    for (uint64_t r = 1; r < ranks; r++)
        sum = ternfmt__plus(sum, ternfmt__times(ternfmt__element(x->up, n * ranks + r),
                                                ternfmt__element(x->down, r * x->columns + k)));
    return sum;
}

static float ternfmt__scale(const ternfmt_ternary *x, uint32_t plane, uint64_t n, uint32_t group) {
    return ternfmt__element(x->scales[plane], n * x->groups + group);
}

/* W[n,k] in F32: planes from the first to the last, then the low-rank term (S-4.6). */
static float ternfmt__value(const ternfmt_ternary *x, uint64_t n, uint32_t k) {
    const uint32_t group = x->group_size == 0 ? 0 : k / x->group_size;
    float sum = 0.0f;
    for (uint32_t p = 0; p < x->planes; p++) {
        const int code = ternfmt__code(x->codes[p]->data + n * x->row_bytes, k);
        const float product = ternfmt__times(ternfmt__scale(x, p, n, group), (float)code);
        sum = p == 0 ? product : ternfmt__plus(sum, product);
    }
    return x->low_rank == 0 ? sum : ternfmt__plus(sum, ternfmt__low_rank_value(x, n, k));
}

uint16_t ternfmt_f32_to_bf16(float value) {
    const uint32_t bits = ternfmt__bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* a quiet NaN */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint16_t ternfmt_f32_to_f16(float value) {
    const uint32_t bits = ternfmt__bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu)); /* NaN */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and up: infinity */
    if (magnitude >= 0x38800000u)                                    /* 2^-14 and up: normal */
        return (uint16_t)(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
    if (magnitude <= 0x33000000u) return (uint16_t)sign; /* 2^-25 and down: zero */
    const uint32_t shift = 126u - (magnitude >> 23);     /* subnormal: to units of 2^-24 */
    const uint32_t whole = (magnitude & 0x7fffffu) | 0x800000u, half = 1u << (shift - 1);
    const uint32_t quotient = whole >> shift, rest = whole & ((1u << shift) - 1);
    return (uint16_t)(sign | (quotient + (rest > half || (rest == half && (quotient & 1u) != 0))));
}

ternfmt_class ternfmt_dequantize(ternfmt_ternary *ternary, uint64_t first, uint64_t last,
                                 ternfmt_dtype dtype, void *out, ternfmt_error *error) {
    if (!ternfmt__is_scale_dtype(dtype))
        return ternfmt__fail(error, TERNFMT_USAGE, "values come in F32, F16 or BF16");
    TERNFMT__TRY(ternfmt__check_complete(ternary, error));
    TERNFMT__TRY(ternfmt__check_rows(ternary, first, last, error));
    uint64_t i = 0;
    for (uint64_t n = first; n < last; n++)
        for (uint32_t k = 0; k < ternary->columns; k++, i++) {
            const float value = ternfmt__value(ternary, n, k);
            if (dtype == TERNFMT_F32) ((float *)out)[i] = value;
            if (dtype == TERNFMT_F16) ((uint16_t *)out)[i] = ternfmt_f32_to_f16(value);
            if (dtype == TERNFMT_BF16) ((uint16_t *)out)[i] = ternfmt_f32_to_bf16(value);
        }
    return TERNFMT_OK;
}

/* ==== 13. Matrix multiplication (section 12) =================================================== */

/* The terms of the planes in y[m,n]: the scale is applied after the sum over its group. Lanes past K
 * are never read (S-12.5). */
static double ternfmt__row_times(const ternfmt_ternary *w, uint64_t n, const float *x) {
    double total = 0.0;
    for (uint32_t p = 0; p < w->planes; p++) {
        const uint8_t *row = w->codes[p]->data + n * w->row_bytes;
        for (uint32_t g = 0, k = 0; g < w->groups; g++) {
            const uint64_t group_end = (uint64_t)k + (w->group_size == 0 ? w->columns : w->group_size);
            const uint32_t end = group_end < w->columns ? (uint32_t)group_end : w->columns;
            double sum = 0.0;
            for (; k < end; k++) sum += ternfmt__code(row, k) * (double)x[k];
            total += (double)ternfmt__scale(w, p, n, g) * sum;
        }
    }
    return total;
}

/* down * x, R sums. */
static void ternfmt__down_times(const ternfmt_ternary *w, const float *x, double *sums) {
    for (uint64_t r = 0; r < w->low_rank; r++) {
        sums[r] = 0.0;
        for (uint64_t k = 0; k < w->columns; k++)
            sums[r] += (double)ternfmt__element(w->down, r * w->columns + k) * (double)x[k];
    }
}

/* Accumulates in double, and rounds once at the end (S-12.2). */
ternfmt_class ternfmt_matmul(ternfmt_ternary *ternary, const float *x, uint64_t m, const float *bias,
                             float *y, ternfmt_error *error) {
    TERNFMT__TRY(ternfmt__check_complete(ternary, error));
    TERNFMT__TRY(ternfmt__check_rows(ternary, 0, ternary->rows, error));
    double *sums = ternfmt__alloc(ternary->low_rank, sizeof *sums);
    if (sums == NULL) return ternfmt__no_memory(error);
    for (uint64_t i = 0; i < m; i++, x += ternary->columns) {
        ternfmt__down_times(ternary, x, sums);
        for (uint64_t n = 0; n < ternary->rows; n++) {
            double total = ternfmt__row_times(ternary, n, x);
            for (uint64_t r = 0; r < ternary->low_rank; r++)
                total += (double)ternfmt__element(ternary->up, n * ternary->low_rank + r) * sums[r];
            *y++ = (float)(bias == NULL ? total : total + (double)bias[n]);
        }
    }
    free(sums);
    return TERNFMT_OK;
}

/* ==== 14. Shards, index and config (section 7; S-10.2, S-10.3) ================================= */

/* S-7.4: a plain file name, free of separators and of control characters. */
static bool ternfmt__is_shard_name(ternfmt__string name) {
    if (name.size < 1 || name.size > TERNFMT_NAME_MAX) return false;
    if (ternfmt__equal(name, ".") || ternfmt__equal(name, "..")) return false;
    for (uint32_t i = 0; i < name.size; i++) {
        const uint8_t c = (uint8_t)name.at[i];
        if (c < 0x20 || c == 0x7f || c == '/' || c == '\\' || c == ':') return false;
    }
    return true;
}

/* S-10.2 (a): the text and its form (S-7.3). */
static ternfmt_class ternfmt__read_index(ternfmt_json *json, const void *bytes, size_t size,
                                         ternfmt_error *error) {
    if (size > TERNFMT_HEADER_MAX)
        return ternfmt__fail(error, TERNFMT_INDEX, "the index has %zu bytes, over HEADER_MAX", size);
    TERNFMT__TRY(ternfmt__check_utf8(bytes, size, error));
    TERNFMT__TRY(ternfmt__json_parse(json, bytes, size, TERNFMT__INDEX_TEXT, error));
    const uint32_t map = ternfmt__get_named(json, 0, "weight_map");
    const uint32_t metadata = ternfmt__get_named(json, 0, "metadata");
    if (!ternfmt__is(json, map, TERNFMT__OBJECT))
        return ternfmt__fail(error, TERNFMT_INDEX, "`weight_map` is not an object");
    for (uint32_t i = 0; i < json->nodes[map].size; i++)
        if (json->nodes[map + 2 + 2 * i].type != TERNFMT__STRING)
            return ternfmt__fail(error, TERNFMT_INDEX, "a value of `weight_map` is not a string");
    if (metadata == 0) return TERNFMT_OK;
    if (json->nodes[metadata].type != TERNFMT__OBJECT)
        return ternfmt__fail(error, TERNFMT_INDEX, "`metadata` is not an object");
    const uint32_t total = ternfmt__get_named(json, metadata, "total_size");
    if (total != 0 && json->nodes[total].type != TERNFMT__NUMBER)
        return ternfmt__fail(error, TERNFMT_INDEX, "`total_size` is not a number");
    return TERNFMT_OK;
}

static int ternfmt__compare_shards(const void *context, uint32_t a, uint32_t b) {
    const ternfmt_json *json = context;
    const uint32_t map = ternfmt__get_named(json, 0, "weight_map");
    return ternfmt__compare_keys(json, map + 2 + 2 * a, map + 2 + 2 * b);
}

/* S-10.2 (b): the names of the shards, each once, by ascending name. */
static ternfmt_class ternfmt__list_shards(ternfmt_index *index, ternfmt_error *error) {
    const ternfmt_json *json = &index->json;
    const uint32_t map = ternfmt__get_named(json, 0, "weight_map"), count = json->nodes[map].size;
    for (uint32_t i = 0; i < count; i++) {
        const ternfmt__string name = ternfmt__text(json, map + 2 + 2 * i);
        if (!ternfmt__is_shard_name(name))
            return ternfmt__fail(error, TERNFMT_PATH, "`%s` is not a plain file name", name.at);
    }
    index->shards = ternfmt__alloc(count, sizeof *index->shards);
    uint32_t *order = ternfmt__sorted(count, ternfmt__compare_shards, json);
    if (index->shards == NULL || order == NULL) {
        free(order);
        return ternfmt__no_memory(error);
    }
    for (uint32_t i = 0; i < count; i++) {
        const char *name = ternfmt__text(json, map + 2 + 2 * order[i]).at;
        if (i == 0 || strcmp(index->shards[index->shard_count - 1], name) != 0)
            index->shards[index->shard_count++] = name;
    }
    free(order);
    return TERNFMT_OK;
}

ternfmt_class ternfmt_index_open(ternfmt_index *index, const void *bytes, size_t size,
                                 ternfmt_error *error) {
    memset(index, 0, sizeof *index);
    memset(error, 0, sizeof *error);
    ternfmt_class outcome = ternfmt__read_index(&index->json, bytes, size, error);
    if (outcome == TERNFMT_OK) outcome = ternfmt__list_shards(index, error);
    if (outcome != TERNFMT_OK) ternfmt_index_close(index);
    return outcome;
}

void ternfmt_index_close(ternfmt_index *index) {
    ternfmt__json_free(&index->json);
    free(index->shards);
    memset(index, 0, sizeof *index);
}

/* S-10.2 (e), first half: every tensor of `weight_map` is in its shard. */
static ternfmt_class ternfmt__check_weight_map(const ternfmt_model *model, const ternfmt_index *index,
                                               ternfmt_error *error) {
    const ternfmt_json *json = &index->json;
    const uint32_t map = ternfmt__get_named(json, 0, "weight_map");
    for (uint32_t i = 0; i < json->nodes[map].size; i++) {
        const uint32_t key = map + 1 + 2 * i;
        const char *shard = ternfmt__text(json, key + 1).at;
        size_t low = 0, high = index->shard_count - 1; /* it is among them */
        while (low < high) {
            const size_t middle = low + (high - low) / 2;
            if (strcmp(index->shards[middle], shard) < 0) low = middle + 1;
            else high = middle;
        }
        const ternfmt_file *file = &model->files[low];
        if (ternfmt__find_tensor(file->tensors, file->tensor_count, ternfmt__text(json, key)) == NULL)
            return ternfmt__fail(error, TERNFMT_INDEX, "the index says that `%s` is in %s, but it is not",
                                 ternfmt__text(json, key).at, shard);
    }
    return TERNFMT_OK;
}

/* Does a JSON number, in any of its forms, have exactly this value? 3, 3.0, 0.3e1 and 30e-1 are equal. */
static bool ternfmt__number_is(ternfmt__string text, uint64_t value) {
    char digits[TERNFMT_NUMBER_CHARS_MAX + 1], wanted[24];
    size_t count = 0;
    uint32_t i = 0;
    long exponent = 0;
    for (; i < text.size && text.at[i] != '.' && text.at[i] != 'e' && text.at[i] != 'E'; i++)
        if (text.at[i] >= '1' || (text.at[i] == '0' && count > 0)) digits[count++] = text.at[i];
    if (i < text.size && text.at[i] == '.')
        for (i++; i < text.size && text.at[i] != 'e' && text.at[i] != 'E'; i++, exponent--)
            if (text.at[i] >= '1' || count > 0) digits[count++] = text.at[i];
    if (i < text.size) { /* an exponent past any sense stays past it */
        const long written = strtol(text.at + i + 1, NULL, 10);
        exponent += written > 1000 ? 1000 : written < -1000 ? -1000 : written;
    }
    while (count > 0 && digits[count - 1] == '0') {
        count--;
        exponent++;
    }
    if (count == 0) return value == 0;
    if (text.at[0] == '-' || exponent < 0 || (long)count + exponent > 20) return false;
    digits[count] = '\0';
    const int zeros = (int)exponent;
    (void)snprintf(wanted, sizeof wanted, "%llu", (unsigned long long)value);
    const size_t length = strlen(wanted);
    return length == count + (size_t)zeros && memcmp(wanted, digits, count) == 0 &&
           strspn(wanted + count, "0") == (size_t)zeros;
}

/* S-10.2 (e), second half: every tensor of a shard is in `weight_map` with that shard; `total_size`
 * is the sum of the bytes of all tensors. */
static ternfmt_class ternfmt__check_shard_tensors(const ternfmt_model *model, const ternfmt_index *index,
                                                  ternfmt_error *error) {
    const ternfmt_json *json = &index->json;
    const uint32_t map = ternfmt__get_named(json, 0, "weight_map");
    const uint32_t metadata = ternfmt__get_named(json, 0, "metadata");
    const uint32_t total = metadata == 0 ? 0 : ternfmt__get_named(json, metadata, "total_size");
    uint64_t sum = 0;
    for (size_t f = 0; f < model->file_count; f++)
        for (size_t i = 0; i < model->files[f].tensor_count; i++) {
            const ternfmt_tensor *t = &model->files[f].tensors[i];
            const uint32_t node = ternfmt__get(json, map, ternfmt__tensor_name(t));
            if (node == 0 || strcmp(ternfmt__text(json, node).at, index->shards[f]) != 0)
                return ternfmt__fail(error, TERNFMT_INDEX, "`%s` is in %s, but the index does not say so",
                                     t->name, index->shards[f]);
            sum += t->end - t->begin;
        }
    if (total != 0 && !ternfmt__number_is(ternfmt__text(json, total), sum))
        return ternfmt__fail(error, TERNFMT_INDEX, "`total_size` is not the sum of the tensors, %llu",
                             (unsigned long long)sum);
    return TERNFMT_OK;
}

/* Puts the file's name in front of a message. */
static void ternfmt__add_place(ternfmt_error *error, const char *name) {
    const ternfmt_error cause = *error;
    (void)ternfmt__fail(error, cause.error_class, "%.255s: %s", name, cause.message);
}

static ternfmt_class ternfmt__read_shards(ternfmt_model *model, const ternfmt_index *index,
                                          const ternfmt_bytes *shards, ternfmt_error *error) {
    for (size_t f = 0; f < model->file_count; f++) {
        const ternfmt_class outcome =
            ternfmt__read_file(&model->files[f], shards[f].bytes, shards[f].size, error);
        if (outcome != TERNFMT_OK) {
            ternfmt__add_place(error, index->shards[f]);
            return outcome;
        }
    }
    TERNFMT__TRY(ternfmt__check_weight_map(model, index, error));
    TERNFMT__TRY(ternfmt__check_shard_tensors(model, index, error));
    return ternfmt__join(model, error);
}

ternfmt_class ternfmt_open_shards(ternfmt_model *model, const ternfmt_index *index,
                                  const ternfmt_bytes *shards, ternfmt_error *error) {
    ternfmt_class outcome = ternfmt__start_model(model, index->shard_count, false, error);
    if (outcome == TERNFMT_OK) outcome = ternfmt__read_shards(model, index, shards, error);
    if (outcome != TERNFMT_OK) ternfmt_close(model);
    return outcome;
}

/* S-7.8, on the parsed config.json. */
static const char *ternfmt__config_fault(const ternfmt_model *model, const ternfmt_json *config) {
    const uint32_t quantization = ternfmt__get_named(config, 0, "quantization_config");
    if (quantization == 0) return NULL;
    if (!ternfmt__is(config, quantization, TERNFMT__OBJECT))
        return "`quantization_config` is not an object";
    const uint32_t method = ternfmt__get_named(config, quantization, "quant_method");
    const uint32_t version = ternfmt__get_named(config, quantization, "format_version");
    if (!ternfmt__is(config, method, TERNFMT__STRING) ||
        !ternfmt__equal(ternfmt__text(config, method), "ternfmt"))
        return "`quant_method` is not `ternfmt`";
    for (size_t f = 0; version != 0 && f < model->file_count; f++)
        if (!ternfmt__is(config, version, TERNFMT__STRING) ||
            ternfmt__compare(ternfmt__text(config, version), model->files[f].version) != 0)
            return "`format_version` is not the version of the files";
    return NULL;
}

/* The text of config.json is read as an index's is, but for what TERNFMT__CONFIG_TEXT lets through. */
ternfmt_class ternfmt_check_config(const ternfmt_model *model, const void *bytes, size_t size,
                                   ternfmt_error *error) {
    ternfmt_json config = {NULL, NULL, NULL, 0, 0};
    if (size > TERNFMT_HEADER_MAX)
        return ternfmt__fail(error, TERNFMT_CONFIG, "config.json has %zu bytes, over HEADER_MAX", size);
    ternfmt_class outcome = ternfmt__check_utf8(bytes, size, error);
    if (outcome == TERNFMT_OK)
        outcome = ternfmt__json_parse(&config, bytes, size, TERNFMT__CONFIG_TEXT, error);
    const char *fault = outcome == TERNFMT_OK ? ternfmt__config_fault(model, &config) : NULL;
    ternfmt__json_free(&config);
    if (outcome == TERNFMT_NO_MEMORY) return outcome;
    if (outcome != TERNFMT_OK) {
        ternfmt__add_place(error, "config.json");
        return error->error_class = TERNFMT_CONFIG;
    }
    return fault == NULL ? TERNFMT_OK : ternfmt__fail(error, TERNFMT_CONFIG, "config.json: %s", fault);
}

/* ==== 15. Files (POSIX; S-7.2, S-7.4, S-7.7) =================================================== */

#ifdef TERNFMT_FILES

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static ternfmt_class ternfmt__system_error(ternfmt_error *error, const char *path) {
    return ternfmt__fail(error, TERNFMT_SYSTEM, "%.255s: %s", path, strerror(errno));
}

/* Maps a regular file for reading; an empty one becomes zero bytes. Who changes a mapped file under
 * its reader breaks it (section 14): validate the copy you use. */
static ternfmt_class ternfmt__map(const char *path, ternfmt_bytes *bytes, ternfmt_error *error) {
    struct stat status;
    bytes->bytes = "";
    bytes->size = 0;
    const int descriptor = open(path, O_RDONLY | O_NONBLOCK);
    if (descriptor < 0) return ternfmt__system_error(error, path);
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) ||
        (off_t)(size_t)status.st_size != status.st_size) {
        (void)close(descriptor);
        return ternfmt__fail(error, TERNFMT_SYSTEM, "%.255s is not a file that can be mapped", path);
    }
    void *at = status.st_size == 0 ? NULL : mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE,
                                                 descriptor, 0);
    (void)close(descriptor);
    if (at == MAP_FAILED) return ternfmt__system_error(error, path);
    if (at == NULL) return TERNFMT_OK;
    bytes->bytes = at;
    bytes->size = (size_t)status.st_size;
    return TERNFMT_OK;
}

static void ternfmt__unmap(const ternfmt_bytes *bytes) {
    if (bytes->size != 0) (void)munmap((void *)bytes->bytes, bytes->size);
}

static void ternfmt__unmap_all(ternfmt_bytes *mapped, size_t count) {
    for (size_t i = 0; i < count; i++) ternfmt__unmap(&mapped[i]);
    free(mapped);
}

/* `folder`/`name`, to be freed; NULL without memory. */
static char *ternfmt__path(const char *folder, size_t folder_length, const char *name) {
    const size_t name_size = strlen(name) + 1;
    char *path = malloc(folder_length + 1 + name_size);
    if (path == NULL) return NULL;
    memcpy(path, folder, folder_length);
    path[folder_length] = '/';
    memcpy(path + folder_length + 1, name, name_size);
    return path;
}

static bool ternfmt__ends_in(const char *text, const char *end) {
    const size_t size = strlen(text), tail = strlen(end);
    return size >= tail && strcmp(text + size - tail, end) == 0;
}

/* S-7.2: does the name end in -ddddd-of-ddddd.safetensors? */
static bool ternfmt__is_shard_path(const char *path) {
    static const char pattern[] = "-ddddd-of-ddddd.safetensors";
    const size_t size = strlen(path), tail = sizeof pattern - 1;
    if (size < tail) return false;
    for (size_t i = 0; i < tail; i++) {
        const char c = path[size - tail + i];
        const bool is_digit_place = pattern[i] == 'd'; /* no other d is in the pattern */
        if (is_digit_place ? c < '0' || c > '9' : c != pattern[i]) return false;
    }
    return true;
}

static ternfmt_class ternfmt__open_file(ternfmt_model *model, const char *path, ternfmt_read_as read_as,
                                        ternfmt_error *error) {
    ternfmt_bytes *mapped = ternfmt__alloc(1, sizeof *mapped);
    if (mapped == NULL) return ternfmt__no_memory(error);
    if (read_as == TERNFMT_AUTO) read_as = ternfmt__is_shard_path(path) ? TERNFMT_SHARD : TERNFMT_WHOLE;
    ternfmt_class outcome = ternfmt__map(path, mapped, error);
    if (outcome == TERNFMT_OK)
        outcome = ternfmt_open(model, mapped->bytes, mapped->size, read_as, error);
    if (outcome != TERNFMT_OK) {
        ternfmt__unmap_all(mapped, 1);
        return outcome;
    }
    model->mapped = mapped;
    model->mapped_count = 1;
    return TERNFMT_OK;
}

/* S-7.4, strict mode: PATH if the shard is a symbolic link. */
static ternfmt_class ternfmt__refuse_link(const char *path, ternfmt_error *error) {
    struct stat status;
    if (lstat(path, &status) == 0 && S_ISLNK(status.st_mode))
        return ternfmt__fail(error, TERNFMT_PATH, "%.255s is a symbolic link", path);
    return TERNFMT_OK;
}

/* Is there no regular file, links followed? Where the system cannot tell, opening it says why. */
static bool ternfmt__is_no_file(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 ? !S_ISREG(status.st_mode)
                                    : errno == ENOENT || errno == ENOTDIR || errno == ELOOP;
}

/* S-10.2 (c): INDEX for what is not a regular file. */
static ternfmt_class ternfmt__map_shard(const char *path, ternfmt_bytes *bytes, ternfmt_error *error) {
    if (ternfmt__is_no_file(path))
        return ternfmt__fail(error, TERNFMT_INDEX, "there is no shard %.255s", path);
    return ternfmt__map(path, bytes, error);
}

/* S-10.2 (b), links, and (c): each for all shards before the next. */
static ternfmt_class ternfmt__map_shards(const ternfmt_index *index, const char *folder,
                                         size_t folder_length, bool strict_links, ternfmt_bytes *mapped,
                                         ternfmt_error *error) {
    for (int pass = strict_links ? 0 : 1; pass < 2; pass++)
        for (size_t i = 0; i < index->shard_count; i++) {
            char *path = ternfmt__path(folder, folder_length, index->shards[i]);
            const ternfmt_class outcome = path == NULL ? ternfmt__no_memory(error)
                                          : pass == 0  ? ternfmt__refuse_link(path, error)
                                                       : ternfmt__map_shard(path, &mapped[i], error);
            free(path);
            if (outcome != TERNFMT_OK) return outcome;
        }
    return TERNFMT_OK;
}

/* S-10.2, the index being known by its path: shards lie in the folder that holds it as named. */
static ternfmt_class ternfmt__open_index(ternfmt_model *model, const char *path, bool strict_links,
                                         ternfmt_error *error) {
    const char *slash = strrchr(path, '/');
    const char *folder = slash == NULL ? "." : path;
    const size_t folder_length = slash == NULL ? 1 : (size_t)(slash - path);
    ternfmt_bytes text;
    ternfmt_index index;
    TERNFMT__TRY(ternfmt__map(path, &text, error));
    ternfmt_class outcome = ternfmt_index_open(&index, text.bytes, text.size, error);
    ternfmt__unmap(&text);
    if (outcome != TERNFMT_OK) return outcome;
    ternfmt_bytes *mapped = ternfmt__alloc(index.shard_count, sizeof *mapped);
    if (mapped == NULL) outcome = ternfmt__no_memory(error);
    if (outcome == TERNFMT_OK)
        outcome = ternfmt__map_shards(&index, folder, folder_length, strict_links, mapped, error);
    if (outcome == TERNFMT_OK) outcome = ternfmt_open_shards(model, &index, mapped, error);
    if (outcome == TERNFMT_OK) {
        model->mapped = mapped;
        model->mapped_count = index.shard_count;
    } else if (mapped != NULL) {
        ternfmt__unmap_all(mapped, index.shard_count);
    }
    ternfmt_index_close(&index);
    return outcome;
}

/* What a folder offers: regular files, links followed (S-7.7). */
typedef struct ternfmt__candidates {
    unsigned indexes, files;
    char name[TERNFMT_NAME_MAX + 1]; /* the index, or else the file, that was seen last */
    char names[256];                 /* as many as fit, for the message */
} ternfmt__candidates;

static void ternfmt__consider(ternfmt__candidates *found, const char *folder, const char *name) {
    const bool is_index = ternfmt__ends_in(name, ".safetensors.index.json");
    struct stat status;
    if (!is_index && !ternfmt__ends_in(name, ".safetensors")) return;
    char *path = ternfmt__path(folder, strlen(folder), name);
    const bool is_file = path != NULL && stat(path, &status) == 0 && S_ISREG(status.st_mode);
    free(path);
    if (!is_file) return;
    if (is_index) found->indexes++;
    else found->files++;
    if (is_index || found->indexes == 0)
        (void)snprintf(found->name, sizeof found->name, "%.255s", name);
    size_t used = strlen(found->names);
    if (used + 1 < sizeof found->names) found->names[used++] = ' ';
    while (used + 1 < sizeof found->names && *name != '\0') found->names[used++] = *name++;
}

/* S-7.7: one index, or, having none, one *.safetensors file. */
static ternfmt_class ternfmt__choose(ternfmt__candidates *found, const char *folder,
                                     ternfmt_error *error) {
    DIR *directory = opendir(folder);
    if (directory == NULL) return ternfmt__system_error(error, folder);
    memset(found, 0, sizeof *found);
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        ternfmt__consider(found, folder, entry->d_name);
    (void)closedir(directory);
    if (found->indexes == 1 || (found->indexes == 0 && found->files == 1)) return TERNFMT_OK;
    return ternfmt__fail(error, TERNFMT_INDEX, "%u indexes and %u *.safetensors files, not one:%s",
                         found->indexes, found->files, found->names);
}

/* S-7.8: the folder's config.json, if there is one: what is not a regular file counts as absent. */
static ternfmt_class ternfmt__check_config_file(const ternfmt_model *model, const char *folder,
                                                ternfmt_error *error) {
    ternfmt_bytes text;
    char *path = ternfmt__path(folder, strlen(folder), "config.json");
    if (path == NULL) return ternfmt__no_memory(error);
    if (ternfmt__is_no_file(path)) {
        free(path);
        return TERNFMT_OK;
    }
    ternfmt_class outcome = ternfmt__map(path, &text, error);
    free(path);
    if (outcome != TERNFMT_OK) return outcome;
    outcome = ternfmt_check_config(model, text.bytes, text.size, error);
    ternfmt__unmap(&text);
    return outcome;
}

/* A folder is a whole model, whatever its files are called (S-7.2). */
static ternfmt_class ternfmt__open_folder(ternfmt_model *model, const char *folder, bool strict_links,
                                          ternfmt_error *error) {
    ternfmt__candidates found;
    TERNFMT__TRY(ternfmt__choose(&found, folder, error));
    char *path = ternfmt__path(folder, strlen(folder), found.name);
    if (path == NULL) return ternfmt__no_memory(error);
    ternfmt_class outcome = found.indexes == 1 ? ternfmt__open_index(model, path, strict_links, error)
                                               : ternfmt__open_file(model, path, TERNFMT_WHOLE, error);
    free(path);
    if (outcome != TERNFMT_OK) return outcome;
    outcome = ternfmt__check_config_file(model, folder, error);
    if (outcome != TERNFMT_OK) ternfmt_close(model);
    return outcome;
}

ternfmt_class ternfmt_open_path(ternfmt_model *model, const char *path, ternfmt_read_as read_as,
                                bool strict_links, ternfmt_error *error) {
    struct stat status;
    memset(model, 0, sizeof *model);
    memset(error, 0, sizeof *error);
    if (stat(path, &status) != 0) return ternfmt__system_error(error, path);
    if (S_ISDIR(status.st_mode))
        return ternfmt__open_folder(model, path, strict_links, error);
    if (ternfmt__ends_in(path, ".safetensors.index.json"))
        return ternfmt__open_index(model, path, strict_links, error);
    return ternfmt__open_file(model, path, read_as, error);
}

#endif /* TERNFMT_FILES */

void ternfmt_close(ternfmt_model *model) {
    for (size_t f = 0; f < model->file_count; f++) ternfmt__file_free(&model->files[f]);
    free(model->files);
    free(model->tensors);
    free(model->ternaries);
    free(model->digests);
#ifdef TERNFMT_FILES
    ternfmt__unmap_all(model->mapped, model->mapped_count);
#endif
    memset(model, 0, sizeof *model);
}

#endif /* TERNFMT_IMPLEMENTATION */
