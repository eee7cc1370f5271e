/* adapter.c - the conformance adapter of ternfmt.h (conformance/PROTOCOL.md, version 1).
 *
 *   adapter                 JSON Lines on standard input and output
 *   adapter validate PATH   one-shot: exit code 0 if valid, 1 with the error class if not, 2 otherwise
 *
 * Requests are parsed with the reader's own JSON parser, the only use this program makes of names that
 * the header keeps private.
 */
#define TERNFMT_IMPLEMENTATION
#define TERNFMT_FILES
#include "ternfmt.h"

#define ADAPTER_LINE_MAX (1u << 20) /* bytes: a request holds a few paths and names */

/* ---- Requests ---------------------------------------------------------------------------------- */

typedef struct request {
    ternfmt_json json;
    const char *id; /* as it was written */
} request;

static const char *text_of(const request *r, const char *key) {
    const uint32_t node = ternfmt__get_named(&r->json, 0, key);
    return ternfmt__is(&r->json, node, TERNFMT__STRING) ? ternfmt__text(&r->json, node).at : NULL;
}

static bool flag_of(const request *r, const char *key) {
    return ternfmt__is(&r->json, ternfmt__get_named(&r->json, 0, key), TERNFMT__TRUE);
}

/* A count, a decimal string in this protocol; a number is let through. False if it is neither. */
static bool parse_count(const ternfmt_json *json, uint32_t node, uint64_t *value) {
    if (!ternfmt__is(json, node, TERNFMT__STRING) && !ternfmt__is(json, node, TERNFMT__NUMBER)) return false;
    const ternfmt__string text = ternfmt__text(json, node);
    if (text.size == 0 || strspn(text.at, "0123456789") != text.size) return false;
    *value = ternfmt__integer(text);
    return *value <= TERNFMT_INTEGER_MAX;
}

static bool count_of(const request *r, const char *key, uint64_t *value) {
    return parse_count(&r->json, ternfmt__get_named(&r->json, 0, key), value);
}

static bool dtype_of(const request *r, uint32_t *dtype) {
    *dtype = ternfmt__dtype(&r->json, ternfmt__get_named(&r->json, 0, "dtype"));
    return ternfmt__is_scale_dtype(*dtype);
}

/* ---- Answers ----------------------------------------------------------------------------------- */

/* Text is printable ASCII: names of tensors and messages are, other text is made so. */
static void print_string(const char *text) {
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar(*text >= 0x20 && *text <= 0x7e ? *text : '?');
    }
    putchar('"');
}

static void begin_answer(const request *r) { printf("{\"id\": %s, ", r->id); }

static void end_answer(void) {
    puts("}");
    fflush(stdout);
}

static void answer_ok(const request *r) {
    begin_answer(r);
    fputs("\"ok\": true", stdout);
    end_answer();
}

static void answer_text(const request *r, const char *kind, const char *key, const char *text) {
    begin_answer(r);
    printf("\"%s\": true, \"%s\": ", kind, key);
    print_string(text);
    end_answer();
}

static void answer_errored(const request *r, const char *text) { answer_text(r, "errored", "detail", text); }
static void answer_skipped(const request *r, const char *text) { answer_text(r, "skipped", "reason", text); }

/* A format error is a result; anything else is this program's own failure (S-10.6). */
static void answer_failure(const request *r, const ternfmt_error *error) {
    if (error->error_class >= TERNFMT_SYSTEM) {
        answer_errored(r, error->message);
        return;
    }
    begin_answer(r);
    printf("\"ok\": false, \"error\": {\"class\": \"%s\", \"detail\": ",
           ternfmt_class_name(error->error_class));
    print_string(error->message);
    putchar('}');
    end_answer();
}

/* ---- Files ------------------------------------------------------------------------------------- */

/* Steps 1 to 24; the model is open if the answer is true. */
static bool open_valid(const request *r, ternfmt_model *model, ternfmt_read_as read_as, bool strict_links,
                       ternfmt_error *error) {
    const char *path = text_of(r, "path");
    if (path == NULL) {
        (void)ternfmt__fail(error, TERNFMT_USAGE, "the request has no path");
        return false;
    }
    if (ternfmt_open_path(model, path, read_as, strict_links, error) != TERNFMT_OK) return false;
    if (ternfmt_validate(model, error) == TERNFMT_OK) return true;
    ternfmt_close(model);
    return false;
}

/* Writes an element of 1, 2 or 4 bytes, the lowest byte first. */
static void put_element(FILE *out, uint32_t bits, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++) putc((int)(bits >> (8 * i) & 0xff), out);
}

static FILE *open_output(const request *r) {
    const char *path = text_of(r, "out");
    return path == NULL ? NULL : fopen(path, "wb");
}

/* Closes an output; did all of it get there? */
static bool close_output(FILE *out) {
    const bool good = ferror(out) == 0;
    return fclose(out) == 0 && good;
}

/* ---- Operations -------------------------------------------------------------------------------- */

static void do_start(const request *r) {
    uint64_t protocol = 0;
    if (!count_of(r, "protocol", &protocol) || protocol != 1) {
        answer_errored(r, "this adapter speaks protocol 1");
        return;
    }
    begin_answer(r);
    fputs("\"protocol\": 1, \"implementation\": {\"name\": \"ternfmt.h\", \"version\": \"0.1.0\", "
          "\"language\": \"C99\"}, \"levels\": [\"R0\", \"R1\", \"R2\", \"R3\", \"R4\"], "
          "\"features\": [\"group-scale\", \"low-rank\", \"planes\"]", stdout);
    end_answer();
}

static void do_validate(const request *r) {
    const char *name = text_of(r, "read_as");
    const ternfmt_read_as read_as = name != NULL && strcmp(name, "whole") == 0   ? TERNFMT_WHOLE
                                    : name != NULL && strcmp(name, "shard") == 0 ? TERNFMT_SHARD
                                                                                 : TERNFMT_AUTO;
    ternfmt_model model;
    ternfmt_error error;
    if (!open_valid(r, &model, read_as, flag_of(r, "strict_links"), &error)) {
        answer_failure(r, &error);
        return;
    }
    if (flag_of(r, "digests") && ternfmt_verify_digests(&model, NULL, &error) != TERNFMT_OK)
        answer_failure(r, &error);
    else
        answer_ok(r);
    ternfmt_close(&model);
}

static void print_shape(const uint64_t *shape, uint32_t rank) {
    fputs("\"shape\": [", stdout);
    for (uint32_t i = 0; i < rank; i++)
        printf("%s\"%llu\"", i == 0 ? "" : ", ", (unsigned long long)shape[i]);
    fputs("], ", stdout);
}

static void print_sha256(const ternfmt_tensor *tensor) {
    char digits[TERNFMT_DIGEST_CHARS + 1];
    ternfmt_sha256 sha;
    ternfmt_sha256_begin(&sha);
    ternfmt_sha256_add(&sha, tensor->data, (size_t)(tensor->end - tensor->begin));
    ternfmt_sha256_end(&sha, digits);
    printf("\"%s\"", digits);
}

/* Of a plane's codes as int8, row by row through a small buffer. */
static void print_codes_sha256(const ternfmt_ternary *t, uint32_t plane) {
    char digits[TERNFMT_DIGEST_CHARS + 1];
    int8_t codes[4096];
    size_t used = 0;
    ternfmt_sha256 sha;
    ternfmt_sha256_begin(&sha);
    for (uint64_t n = 0; n < t->rows; n++)
        for (uint32_t k = 0; k < t->columns; k++) {
            codes[used++] = (int8_t)ternfmt__code(t->codes[plane]->data + n * t->row_bytes, k);
            if (used == sizeof codes) {
                ternfmt_sha256_add(&sha, codes, used);
                used = 0;
            }
        }
    ternfmt_sha256_add(&sha, codes, used);
    ternfmt_sha256_end(&sha, digits);
    printf("\"%s\"", digits);
}

static void print_number_or_null(const char *key, uint32_t number) {
    if (number == 0) printf("\"%s\": null, ", key);
    else printf("\"%s\": %lu, ", key, (unsigned long)number);
}

static void print_ternary(const ternfmt_ternary *t) {
    fputs("{\"name\": ", stdout);
    print_string(t->name);
    fputs(", \"ternary\": true, ", stdout);
    print_shape(t->shape, t->rank);
    printf("\"dtype\": \"%s\", \"planes\": %lu, ",
           ternfmt_dtype_name((ternfmt_dtype)t->scales[0]->dtype), (unsigned long)t->planes);
    print_number_or_null("group_size", t->group_size);
    print_number_or_null("low_rank", t->low_rank);
    fputs("\"codes_sha256\": [", stdout);
    for (uint32_t p = 0; p < t->planes; p++) {
        if (p > 0) fputs(", ", stdout);
        print_codes_sha256(t, p);
    }
    fputs("], \"scale_sha256\": [", stdout);
    for (uint32_t p = 0; p < t->planes; p++) {
        if (p > 0) fputs(", ", stdout);
        print_sha256(t->scales[p]);
    }
    fputs("]}", stdout);
}

static void print_dense(const ternfmt_tensor *t) {
    fputs("{\"name\": ", stdout);
    print_string(t->name);
    fputs(", \"ternary\": false, ", stdout);
    print_shape(t->shape, t->rank);
    printf("\"dtype\": \"%s\", \"data_sha256\": ", ternfmt_dtype_name((ternfmt_dtype)t->dtype));
    print_sha256(t);
    putchar('}');
}

/* Logical tensors by ascending name, of a shard those it holds whole: two sorted lists, merged. */
static void print_tensors(const ternfmt_model *model) {
    size_t i = 0, j = 0;
    const char *comma = "";
    ternfmt_error error;
    for (;;) {
        while (j < model->tensor_count && model->tensors[j].ternary) j++;
        while (i < model->ternary_count &&
               ternfmt__check_complete(&model->ternaries[i], &error) != TERNFMT_OK)
            i++;
        if (i == model->ternary_count && j == model->tensor_count) return;
        fputs(comma, stdout);
        comma = ", ";
        if (j == model->tensor_count ||
            (i < model->ternary_count && strcmp(model->ternaries[i].name, model->tensors[j].name) < 0))
            print_ternary(&model->ternaries[i++]);
        else
            print_dense(&model->tensors[j++]);
    }
}

static void do_describe(const request *r, ternfmt_model *model) {
    begin_answer(r);
    fputs("\"ok\": true, \"tensors\": [", stdout);
    print_tensors(model);
    putchar(']');
    end_answer();
}

static void do_unpack(const request *r, ternfmt_ternary *t) {
    const uint32_t rows = ternfmt__get_named(&r->json, 0, "rows");
    uint64_t plane = 0, first = 0, last = 0;
    ternfmt_error error;
    if (!count_of(r, "plane", &plane) || plane == 0 || plane > t->planes ||
        !ternfmt__is(&r->json, rows, TERNFMT__ARRAY) || r->json.nodes[rows].size != 2 ||
        !parse_count(&r->json, rows + 1, &first) || !parse_count(&r->json, rows + 2, &last)) {
        answer_errored(r, "`plane` or `rows` is malformed");
        return;
    }
    int8_t *codes = malloc(t->columns);
    FILE *out = open_output(r);
    bool good = codes != NULL && out != NULL && first <= last && last <= t->rows;
    for (uint64_t n = first; good && n < last; n++)
        good = ternfmt_unpack(t, (uint32_t)plane - 1, n, n + 1, codes, &error) == TERNFMT_OK &&
               fwrite(codes, 1, t->columns, out) == t->columns;
    if (out != NULL) good = close_output(out) && good;
    free(codes);
    if (good) answer_ok(r);
    else answer_errored(r, "the codes could not be written");
}

static void do_dequantize(const request *r, ternfmt_ternary *t) {
    uint32_t dtype;
    ternfmt_error error = {TERNFMT_OK, "the values could not be written"};
    if (!dtype_of(r, &dtype)) {
        answer_skipped(r, "this dtype is not implemented");
        return;
    }
    void *values = malloc((size_t)t->columns * sizeof(float));
    FILE *out = open_output(r);
    bool good = values != NULL && out != NULL;
    for (uint64_t n = 0; good && n < t->rows; n++) {
        good = ternfmt_dequantize(t, n, n + 1, (ternfmt_dtype)dtype, values, &error) == TERNFMT_OK;
        for (uint32_t k = 0; good && k < t->columns; k++) {
            if (dtype == TERNFMT_F32) put_element(out, ternfmt__bits(((const float *)values)[k]), 4);
            else put_element(out, ((const uint16_t *)values)[k], 2);
        }
    }
    if (out != NULL) good = close_output(out) && good;
    free(values);
    if (good) answer_ok(r);
    else answer_errored(r, error.message);
}

/* Reads `count` elements, as F32. */
static bool read_row(FILE *in, uint32_t dtype, float *x, uint32_t count) {
    const size_t bytes = ternfmt_dtype_bytes((ternfmt_dtype)dtype);
    uint8_t element[4] = {0, 0, 0, 0};
    ternfmt_tensor tensor = {0};
    tensor.data = element;
    tensor.dtype = (uint8_t)dtype;
    for (uint32_t k = 0; k < count; k++) {
        if (fread(element, 1, bytes, in) != bytes) return false;
        x[k] = ternfmt__element(&tensor, 0);
    }
    return true;
}

static void do_matmul(const request *r, ternfmt_ternary *t) {
    uint32_t dtype;
    uint64_t m = 0;
    ternfmt_error error = {TERNFMT_OK, "`x` could not be read or y not written"};
    if (!dtype_of(r, &dtype)) {
        answer_skipped(r, "activations of this dtype are not implemented");
        return;
    }
    const char *x_path = text_of(r, "x");
    FILE *in = x_path == NULL ? NULL : fopen(x_path, "rb");
    FILE *out = open_output(r);
    float *x = malloc((size_t)t->columns * sizeof *x), *y = malloc((size_t)t->rows * sizeof *y);
    bool good = in != NULL && out != NULL && x != NULL && y != NULL && count_of(r, "m", &m);
    for (uint64_t i = 0; good && i < m; i++) {
        good = read_row(in, dtype, x, t->columns) &&
               ternfmt_matmul(t, x, 1, NULL, y, &error) == TERNFMT_OK;
        for (uint64_t n = 0; good && n < t->rows; n++) put_element(out, ternfmt__bits(y[n]), 4);
    }
    if (in != NULL) (void)fclose(in);
    if (out != NULL) good = close_output(out) && good;
    free(x);
    free(y);
    if (good) answer_ok(r);
    else answer_errored(r, error.message);
}

/* Operations on the values of a valid file. */
static void do_values(const request *r, const char *op) {
    ternfmt_model model;
    ternfmt_error error;
    if (!open_valid(r, &model, TERNFMT_AUTO, false, &error)) {
        answer_failure(r, &error);
        return;
    }
    const char *name = text_of(r, "tensor");
    ternfmt_ternary *t = name == NULL ? NULL : ternfmt_find(&model, name);
    if (strcmp(op, "describe") == 0) do_describe(r, &model);
    else if (t == NULL) answer_errored(r, "there is no ternary tensor of that name");
    else if (strcmp(op, "unpack") == 0) do_unpack(r, t);
    else if (strcmp(op, "dequantize") == 0) do_dequantize(r, t);
    else do_matmul(r, t);
    ternfmt_close(&model);
}

/* ---- The two ways of taking part --------------------------------------------------------------- */

static bool is_one_of(const char *op, const char *const *names) {
    for (; *names != NULL; names++)
        if (strcmp(op, *names) == 0) return true;
    return false;
}

/* Answers one request; false means stop. */
static bool answer(const char *line, size_t size) {
    static const char *const values[] = {"describe", "unpack", "dequantize", "matmul", NULL};
    request r = {{NULL, NULL, NULL, 0, 0}, "null"};
    ternfmt_error error;
    bool go_on = true;
    if (size > ADAPTER_LINE_MAX ||
        ternfmt__json_parse(&r.json, line, size, TERNFMT__INDEX_TEXT, &error) != TERNFMT_OK) {
        answer_errored(&r, "the request is not a JSON object");
        ternfmt__json_free(&r.json);
        return true;
    }
    const uint32_t id = ternfmt__get_named(&r.json, 0, "id");
    if (ternfmt__is(&r.json, id, TERNFMT__NUMBER)) r.id = ternfmt__text(&r.json, id).at;
    const char *op = text_of(&r, "op");
    if (op == NULL) answer_errored(&r, "the request has no `op`");
    else if (strcmp(op, "start") == 0) do_start(&r);
    else if (strcmp(op, "validate") == 0) do_validate(&r);
    else if (is_one_of(op, values)) do_values(&r, op);
    else if (strcmp(op, "stop") == 0) {
        answer_ok(&r);
        go_on = false;
    } else answer_skipped(&r, "this operation is not implemented");
    ternfmt__json_free(&r.json);
    return go_on;
}

static int serve(void) {
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    bool go_on = true;
    while (go_on && (size = getline(&line, &room, stdin)) >= 0) go_on = answer(line, (size_t)size);
    free(line);
    return 0;
}

static int validate_path(const char *path) {
    ternfmt_model model;
    ternfmt_error error;
    ternfmt_class outcome = ternfmt_open_path(&model, path, TERNFMT_AUTO, false, &error);
    if (outcome == TERNFMT_OK) {
        outcome = ternfmt_validate(&model, &error);
        ternfmt_close(&model);
    }
    if (outcome == TERNFMT_OK) return 0;
    if (outcome < TERNFMT_SYSTEM) puts(ternfmt_class_name(outcome));
    fprintf(stderr, "%s\n", error.message);
    return outcome < TERNFMT_SYSTEM ? 1 : 2;
}

int main(int argc, char **argv) {
    if (argc == 1) return serve();
    if (argc == 3 && strcmp(argv[1], "validate") == 0) return validate_path(argv[2]);
    fprintf(stderr, "usage: %s [validate PATH]\n", argv[0]);
    return 2;
}
