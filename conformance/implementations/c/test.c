/* test.c - checks of ternfmt.h on files built by hand from SPEC.md's rules and examples. `make test`
 * compiles it with sanitizers and runs it in build/, where it writes a few files. */
#define TERNFMT_IMPLEMENTATION
#define TERNFMT_FILES
#include "ternfmt.h"

static int checks, failures;

static void check(bool good, const char *what) {
    checks++;
    if (good) return;
    failures++;
    printf("FAIL %s\n", what);
}

static void expect(ternfmt_class got, const char *wanted, const char *what, const ternfmt_error *error) {
    checks++;
    if (strcmp(ternfmt_class_name(got), wanted) == 0) return;
    failures++;
    printf("FAIL %s: got %s, wanted %s (%s)\n", what, ternfmt_class_name(got), wanted,
           got == TERNFMT_OK ? "" : error->message);
}

/* ---- Building files ---------------------------------------------------------------------------- */

typedef struct buffer {
    uint8_t bytes[8192];
    size_t size;
} buffer;

static void add(buffer *b, const char *text) {
    memcpy(b->bytes + b->size, text, strlen(text));
    b->size += strlen(text);
}

static void add_hex(buffer *b, const char *hex) {
    for (; *hex != '\0'; hex++) {
        unsigned byte;
        if (*hex == ' ') continue;
        if (sscanf(hex++, "%2x", &byte) == 1) b->bytes[b->size++] = (uint8_t)byte;
    }
}

static void add_escaped(buffer *b, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') b->bytes[b->size++] = '\\';
        b->bytes[b->size++] = (uint8_t)*text;
    }
}

static void begin_file(buffer *b) { b->size = 8; }

/* Pads the header to a multiple of `alignment` and writes its length. */
static void end_header(buffer *b, size_t alignment) {
    while (b->size % alignment != 0) add(b, " ");
    for (size_t i = 0; i < 8; i++) b->bytes[i] = (uint8_t)((uint64_t)(b->size - 8) >> 8 * i);
}

static void make_raw(buffer *b, const char *header, const char *data) {
    begin_file(b);
    add(b, header);
    end_header(b, 8);
    add_hex(b, data);
}

/* A file of this document, these tensors and these bytes. */
static void make(buffer *b, const char *document, const char *tensors, const char *data) {
    begin_file(b);
    add(b, "{\"__metadata__\":{\"format\":\"pt\",\"ternfmt\":\"");
    add_escaped(b, document);
    add(b, "\"}");
    add(b, tensors);
    add(b, "}");
    end_header(b, 8);
    add_hex(b, data);
}

static ternfmt_class open_all(const buffer *b, ternfmt_read_as read_as, ternfmt_error *error) {
    ternfmt_model model;
    uint8_t *copy = malloc(b->size == 0 ? 1 : b->size); /* exact, so that sanitizers see its end */
    ternfmt_class outcome = TERNFMT_NO_MEMORY;
    if (copy == NULL) return outcome;
    memcpy(copy, b->bytes, b->size);
    outcome = ternfmt_open(&model, copy, b->size, read_as, error);
    if (outcome == TERNFMT_OK) {
        outcome = ternfmt_validate(&model, error);
        if (outcome == TERNFMT_OK) outcome = ternfmt_verify_digests(&model, NULL, error);
        ternfmt_close(&model);
    }
    free(copy);
    return outcome;
}

/* ---- Steps 1 to 14: headers -------------------------------------------------------------------- */

#define T_8(name, begin, end) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" begin "," end "]}"

static const struct { const char *wanted, *header, *data; } raw_cases[] = {
    {"ENCODING", "\xef\xbb\xbf{}", ""},
    {"ENCODING", "{\"a\":\"\xc0\x80\"}", ""},
    {"ENCODING", "{\"a\":\"\xed\xa0\x80\"}", ""},
    {"ENCODING", "{\"a\":\"\xf4\x90\x80\x80\"}", ""},
    {"ENCODING", "{\"a\":\"\\ud800\"}", ""},
    {"ENCODING", "{\"a\":\"\\udc00\\ud800\"}", ""},
    {"ENCODING", "{\"a\":\"\\ud800\",\"a\":1}", ""}, /* step 5 before step 6 */
    {"JSON", "{\"a\":\"\\ud800\"", ""},              /* step 4 before step 5 */
    {"JSON", " {}", ""}, {"JSON", "{}\n", ""}, {"JSON", "{}{}", ""}, {"JSON", "[]", ""}, {"JSON", "{", ""},
    {"JSON", "{\"a\":01}", ""}, {"JSON", "{\"a\":+1}", ""}, {"JSON", "{\"a\":1.}", ""},
    {"JSON", "{\"a\":.5}", ""}, {"JSON", "{\"a\":1e}", ""}, {"JSON", "{\"a\":NaN}", ""},
    {"JSON", "{\"a\":-Infinity}", ""}, {"JSON", "{\"a\":1,}", ""}, {"JSON", "{\"a\" 1}", ""},
    {"JSON", "{\"a\":\"\t\"}", ""}, {"JSON", "{\"a\":\"\\x\"}", ""}, {"JSON", "{\"a\":\"\\u12g4\"}", ""},
    {"JSON", "{\"a\":[1 2]}", ""}, {"JSON", "{\"a\":tru}", ""}, {"JSON", "{'a':1}", ""},
    {"JSON", "{\"a\":123456789012345678901234567890123}", ""},
    {"TENSOR_INFO", "{\"a\":12345678901234567890123456789012}", ""},
    {"TENSOR_INFO", "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", ""},
    {"JSON", "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", ""},
    {"DUPLICATE", "{\"a\":1,\"\\u0061\":2}", ""},
    {"DUPLICATE", "{\"b\":{\"x\":1,\"y\":{},\"x\":1}}", ""},
    {"NAME", "{\"\":1}", ""}, {"NAME", "{\"a b\":1}", ""}, {"NAME", "{\"\xc3\xa9\":1}", ""},
    {"NAME", "{\"a\\u0000\":1}", ""},
    {"TENSOR_INFO", "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"x\":1}}", "00"},
    {"TENSOR_INFO", "{\"a\":{\"dtype\":\"F4\",\"shape\":[],\"data_offsets\":[0,1]}}", "00"},
    {"TENSOR_INFO", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", "00"},
    {"TENSOR_INFO", "{\"a\":{\"dtype\":\"U8\",\"shape\":[-0],\"data_offsets\":[0,0]}}", ""},
    {"TENSOR_INFO", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", "00"},
    {"TENSOR_INFO", "{\"a\":{\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]}}", "00"},
    {"OVERFLOW", "{\"a\":{\"dtype\":\"U8\",\"shape\":[9007199254740992],\"data_offsets\":[0,1]}}", "00"},
    {"OVERFLOW", "{\"a\":{\"dtype\":\"F64\",\"shape\":[0,9007199254740991],\"data_offsets\":[0,0]}}", ""},
    {"OVERFLOW", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]}}", "00"},
    {"STRIPPED", "{\"a\":{\"dtype\":\"U8\",\"shape\":[0,9007199254740991],\"data_offsets\":[0,0]}}", ""},
    {"LAYOUT", "{" T_8("a", "1", "2") "}", "00 00"}, {"LAYOUT", "{" T_8("a", "0", "1") "}", "00 00"},
    {"LAYOUT", "{}", "00"}, {"LAYOUT", "{" T_8("a", "1", "0") "}", "00"},
    {"LAYOUT", "{" T_8("a", "0", "1") "," T_8("b", "0", "1") "}", "00"},
    {"LAYOUT", "{" T_8("a", "0", "1") ",\"b\":{\"dtype\":\"U16\",\"shape\":[1],\"data_offsets\":[1,3]}}",
     "00 00 00"},
    {"SIZE", "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,2]}}", "00 00"},
    {"SIZE", "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,1]}}", "00"},
    {"STRIPPED", "{" T_8("b", "1", "2") ", " T_8("\\u0061", "0", "1") "}   ", "00 00"},
    {"STRIPPED", "{}", ""}, {"STRIPPED", "{\"__metadata__\":{}}", ""},
    {"METADATA", "{\"__metadata__\":[]}", ""}, {"METADATA", "{\"__metadata__\":{\"a\":1}}", ""},
    {"JSON", "{\"__metadata__\":{\"ternfmt\":\"\"}}", ""},
    {"JSON", "{\"__metadata__\":{\"ternfmt\":\" {}\"}}", ""},
    {"ENCODING", "{\"__metadata__\":{\"ternfmt\":\"{\\\"a\\\":\\\"\\\\ud800\\\"}\"}}", ""},
    {"DUPLICATE", "{\"__metadata__\":{\"ternfmt\":\"{\\\"a\\\":1,\\\"a\\\":1}\"}}", ""},
};

static void test_headers(void) {
    buffer b;
    ternfmt_error error;
    for (size_t i = 0; i < sizeof raw_cases / sizeof *raw_cases; i++) {
        make_raw(&b, raw_cases[i].header, raw_cases[i].data);
        expect(open_all(&b, TERNFMT_WHOLE, &error), raw_cases[i].wanted, raw_cases[i].header, &error);
    }
    b.size = 7;
    expect(open_all(&b, TERNFMT_WHOLE, &error), "PREFIX", "seven bytes", &error);
    make_raw(&b, "{}", "");
    b.bytes[7] = 0x80;
    expect(open_all(&b, TERNFMT_WHOLE, &error), "HEADER_LEN", "H is over 2^63", &error);
    make_raw(&b, "{}", "");
    b.bytes[0]++;
    expect(open_all(&b, TERNFMT_WHOLE, &error), "HEADER_LEN", "H is one past the end", &error);
}

/* ---- Steps 15 to 25: documents and data -------------------------------------------------------- */

#define W "{\"encoding\":\"int2\",\"shape\":[1,1]}"
#define DOC(rest) "{\"version\":\"1.0\",\"required\":[]," rest "}"
#define U8_(n, k, b, e) "{\"dtype\":\"U8\",\"shape\":[" n "," k "],\"data_offsets\":[" b "," e "]}"
#define F16_(n, b, e) "{\"dtype\":\"F16\",\"shape\":[" n "],\"data_offsets\":[" b "," e "]}"
#define PAIR ",\"w\":" U8_("1", "1", "2", "3") ",\"w_scale\":" F16_("1", "0", "2")
#define ONE "003c 01"
#define NUMBERS(n) DOC("\"tensors\":{\"w\":" W "},\"x\":[{\"y\":" n "}]")
#define ENTRY(shape, more) DOC("\"tensors\":{\"w\":{\"encoding\":\"int2\",\"shape\":" shape more "}}")

static const struct { const char *wanted, *document, *tensors, *data; } document_cases[] = {
    {"OK", DOC("\"tensors\":{\"w\":" W "}"), PAIR, ONE},
    {"OK", "{\"version\":\"1.99\",\"required\":[\"planes\"],\"tensors\":{\"w\":" W "}}  ", PAIR, ONE},
    {"OK", NUMBERS("-9007199254740991"), PAIR, ONE},
    {"METADATA", NUMBERS("-9007199254740992"), PAIR, ONE}, {"METADATA", NUMBERS("-0"), PAIR, ONE},
    {"METADATA", NUMBERS("1.0"), PAIR, ONE}, {"METADATA", NUMBERS("1e2"), PAIR, ONE},
    {"METADATA", "{\"required\":[],\"tensors\":{}}", "", ""},
    {"METADATA", "{\"version\":\"1\",\"required\":[],\"tensors\":{}}", "", ""},
    {"METADATA", "{\"version\":\"1.00\",\"required\":[],\"tensors\":{}}", "", ""},
    {"METADATA", "{\"version\":\"1.0.0\",\"required\":[],\"tensors\":{}}", "", ""},
    {"VERSION", "{\"version\":\"2.0\",\"required\":[\"x\"],\"tensors\":{}}", "", ""},
    {"VERSION", "{\"version\":\"11.0\",\"required\":7}", "", ""},
    {"METADATA", "{\"version\":\"1.0\",\"required\":[\"x\",\"x\"],\"tensors\":{}}", "", ""},
    {"FEATURE", "{\"version\":\"1.0\",\"required\":[\"x\"],\"tensors\":1}", "", ""},
    {"METADATA", DOC("\"x\":1"), "", ""}, {"METADATA", DOC("\"tensors\":{\"w\":1}"), PAIR, ONE},
    {"METADATA", ENTRY("[1]", ""), PAIR, ONE}, {"METADATA", ENTRY("[1,0]", ""), PAIR, ONE},
    {"METADATA", ENTRY("[1,16777216]", ""), PAIR, ONE},
    {"METADATA", ENTRY("[1,4096,4096]", ""), PAIR, ONE},
    {"METADATA", ENTRY("[9007199254740991,2]", ""), PAIR, ONE},
    {"METADATA", ENTRY("[1,1]", ",\"group_size\":8"), PAIR, ONE},
    {"METADATA", ENTRY("[1,1]", ",\"group_size\":null"), PAIR, ONE},
    {"METADATA", ENTRY("[1,1]", ",\"planes\":1"), PAIR, ONE},
    {"METADATA", ENTRY("[1,1]", ",\"planes\":5"), PAIR, ONE},
    {"METADATA", ENTRY("[1,1]", ",\"low_rank\":2"), PAIR, ONE},
    {"FEATURE", ENTRY("[1,1]", ",\"low_rank\":1"), PAIR, ONE},
    {"METADATA", DOC("\"tensors\":{\"w\":" W "},\"digests\":{\"header\":\"0\"}"), PAIR, ONE},
    {"OK", DOC("\"tensors\":{},\"producer\":\"me\",\"digests\":{\"x\":1}"), "", ""},
    {"JSON", "\xef\xbb\xbf{}", "", ""},
    {"NAME", DOC("\"tensors\":{\"w\":" W ",\"w_plane3\":" W "}"), PAIR, ONE},
    {"NAME", DOC("\"tensors\":{\"w\":" W "}"), PAIR ",\"w_plane2\":" U8_("1", "0", "2", "2"), ONE},
    {"NAME", DOC("\"tensors\":{\"w \":" W "}"), PAIR, ONE},
    {"METADATA", DOC("\"tensors\":{\"v\":" W "}"), "", ""},
    {"METADATA", DOC("\"tensors\":{\"w\":" W "}"),
     ",\"w\":" U8_("1", "2", "2", "4") ",\"w_scale\":" F16_("1", "0", "2"), "003c 01 00"},
    {"METADATA", DOC("\"tensors\":{}"), PAIR, ONE}, /* S-6.3 */
    {"METADATA", DOC("\"tensors\":{\"w\":" W "},\"digests\":{\"tensors\":{\"v\":"
     "\"0000000000000000000000000000000000000000000000000000000000000000\"}}"), PAIR, ONE},
    {"SCALE", DOC("\"tensors\":{\"w\":" W "}"), ",\"w\":" U8_("1", "1", "0", "1"), "01"},
    {"SCALE", DOC("\"tensors\":{\"w\":" W "}"),
     ",\"w\":" U8_("1", "1", "2", "3") ",\"w_scale\":" F16_("1,1", "0", "2"), ONE},
    {"SCALE", DOC("\"tensors\":{\"w\":" W "}"), PAIR, "0080 02"},
    {"SCALE", DOC("\"tensors\":{\"w\":" W "}"), PAIR, "007c 01"},
    {"CODE", DOC("\"tensors\":{\"w\":" W "}"), PAIR, "003c 0a"},
    {"PADDING", DOC("\"tensors\":{\"w\":" W "}"), PAIR, "003c 80"},
    {"OK", ENTRY("[1,4]", ""), PAIR, "003c 71"}, {"CODE", ENTRY("[1,4]", ""), PAIR, "003c b1"},
    {"PADDING", ENTRY("[1,3]", ""), PAIR, "003c b1"},
    {"DIGEST", DOC("\"tensors\":{\"w\":" W "},\"digests\":{\"tensors\":{\"w\":"
     "\"0000000000000000000000000000000000000000000000000000000000000000\"}}"), PAIR, ONE},
    {"OK", DOC("\"tensors\":{\"w\":" W "},\"digests\":{\"tensors\":{\"w\":"
     "\"4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a\"}}"), PAIR, ONE},
};

static void test_documents(void) {
    buffer b;
    ternfmt_error error;
    for (size_t i = 0; i < sizeof document_cases / sizeof *document_cases; i++) {
        make(&b, document_cases[i].document, document_cases[i].tensors, document_cases[i].data);
        expect(open_all(&b, TERNFMT_WHOLE, &error), document_cases[i].wanted,
               document_cases[i].document, &error);
    }
    make(&b, DOC("\"tensors\":{\"w\":" W "}"), ",\"w\":" U8_("1", "1", "0", "1"), "01");
    expect(open_all(&b, TERNFMT_SHARD, &error), "OK", "a shard without the scale", &error);
}

/* Appendix B.5, canonical but for the padding: the digest of the header, and one changed letter. */
static void test_header_digest(void) {
    static const char document[] =
        "{\"digests\":{\"header\":\"6429e284b55777d89a19dedb75c520c56b2d260aaeb2f692220a87522a346149\","
        "\"tensors\":{\"w\":\"4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a\","
        "\"w_scale\":\"505114fe537172ea35e17ca1a7516edac516a89b31f983f7c6387d5d2bb462aa\"}},"
        "\"required\":[],\"tensors\":{\"w\":" W "},\"version\":\"1.0\"}";
    buffer b;
    ternfmt_error error;
    make(&b, document, PAIR, ONE);
    expect(open_all(&b, TERNFMT_WHOLE, &error), "OK", "B.5", &error);
    for (size_t i = 0; i < b.size; i++)
        if (memcmp(b.bytes + i, "\"pt\"", 4) == 0) b.bytes[i + 1] = 'q';
    expect(open_all(&b, TERNFMT_WHOLE, &error), "DIGEST", "B.5, changed", &error);
}

/* ---- Values ------------------------------------------------------------------------------------ */

static void test_packing(void) { /* Appendix B.2 */
    static const float wanted[10] = {1, 0, -1, 1, -1, 0.5f, -0.5f, 0.5f, 0, 0.5f};
    buffer b;
    ternfmt_model model;
    ternfmt_error error;
    float values[10] = {0}, y[4] = {0};
    int8_t codes[5] = {0};
    static const float x[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, bias[2] = {0.25f, 0};
    make(&b, ENTRY("[2,5]", ""),
         ",\"w\":" U8_("2", "2", "4", "8") ",\"w_scale\":" F16_("2", "0", "4"), "003c0038 71031d01");
    expect(ternfmt_open(&model, b.bytes, b.size, TERNFMT_WHOLE, &error), "OK", "B.2", &error);
    ternfmt_ternary *w = ternfmt_find(&model, "w");
    if (w == NULL) return;
    expect(ternfmt_dequantize(w, 0, 2, TERNFMT_F32, values, &error), "OK", "B.2 values", &error);
    check(memcmp(values, wanted, sizeof values) == 0, "B.2: the values");
    expect(ternfmt_unpack(w, 0, 1, 2, codes, &error), "OK", "B.2 codes", &error);
    check(memcmp(codes, "\1\377\1\0\1", 5) == 0, "B.2: the codes of row 1");
    expect(ternfmt_matmul(w, x, 2, bias, y, &error), "OK", "B.2 product", &error);
    check(y[0] == -2.75f && y[1] == 3.5f && y[2] == -2.75f + -0.0f && y[3] == 8.5f, "B.2: the product");
    expect(ternfmt_unpack(w, 1, 0, 1, codes, &error), "USAGE", "a plane too many", &error);
    expect(ternfmt_unpack(w, 0, 1, 3, codes, &error), "USAGE", "a row too many", &error);
    ternfmt_close(&model);
}

#define PLANES_DOC(planes, more) \
    "{\"version\":\"1.0\",\"required\":[\"low-rank\",\"group-scale\",\"planes\"],\"tensors\":" \
    "{\"w\":{\"encoding\":\"int2\",\"group_size\":16,\"planes\":" planes ",\"shape\":[1,18]" more "}}}"

static void test_planes(void) { /* Appendix B.3 */
    static const float wanted[18] = {1.5f, -0.5f, -1, 1.5f, -0.5f, 0, 0, -0.5f, 1,
                                     -0.5f, 0.5f, 0, 0.5f, 0, 0, 0.5f, 1.75f, -1.75f};
    static const char tensors[] =
        ",\"w_scale\":" F16_("1,2", "0", "4") ",\"w_plane2_scale\":" F16_("1,2", "4", "8")
        ",\"w\":" U8_("1", "5", "8", "13") ",\"w_plane2\":" U8_("1", "5", "13", "18");
    buffer b;
    ternfmt_model model;
    ternfmt_error error;
    float values[18] = {0};
    make(&b, PLANES_DOC("2", ""), tensors, "003c0040 00380034 71031d010d 4dc1344307");
    expect(ternfmt_open(&model, b.bytes, b.size, TERNFMT_WHOLE, &error), "OK", "B.3", &error);
    ternfmt_ternary *w = ternfmt_find(&model, "w");
    if (w == NULL) return;
    expect(ternfmt_dequantize(w, 0, 1, TERNFMT_F32, values, &error), "OK", "B.3 values", &error);
    check(memcmp(values, wanted, sizeof values) == 0, "B.3: the values");
    ternfmt_close(&model);
    make(&b, PLANES_DOC("3", ""), tensors, "003c0040 00380034 71031d010d 4dc1344307");
    expect(open_all(&b, TERNFMT_WHOLE, &error), "METADATA", "a plane is absent", &error);
    expect(open_all(&b, TERNFMT_SHARD, &error), "OK", "a plane is in another shard", &error);
}

static void test_low_rank(void) {
    static const char document[] = "{\"version\":\"1.0\",\"required\":[\"low-rank\"],\"tensors\":"
        "{\"w\":{\"encoding\":\"int2\",\"low_rank\":1,\"shape\":[2,2]}}}";
    static const char tensors[] =
        ",\"w_scale\":" F16_("2", "0", "4") ",\"w_lowrank_down\":" F16_("1,2", "4", "8")
        ",\"w_lowrank_up\":" F16_("2,1", "8", "12") ",\"w\":" U8_("2", "1", "12", "14");
    static const float wanted[4] = {1.5f, -2, -0.5f, 3}, x[2] = {2, 3};
    buffer b;
    ternfmt_model model;
    ternfmt_error error;
    float values[4] = {0}, y[2] = {0};
    make(&b, document, tensors, "003c003c 0038 00c0 003c 00bc 01 04");
    expect(ternfmt_open(&model, b.bytes, b.size, TERNFMT_WHOLE, &error), "OK", "low rank", &error);
    ternfmt_ternary *w = ternfmt_find(&model, "w");
    if (w == NULL) return;
    /* down = (0.5, -2), up = (1, -1); codes (+1, 0) and (0, +1) */
    expect(ternfmt_dequantize(w, 0, 2, TERNFMT_F32, values, &error), "OK", "low rank values", &error);
    check(memcmp(values, wanted, sizeof values) == 0, "low rank: the values");
    expect(ternfmt_matmul(w, x, 1, NULL, y, &error), "OK", "low rank product", &error);
    check(y[0] == -3 && y[1] == 8, "low rank: the product");
    ternfmt_close(&model);
}

static void test_floats(void) {
    bool same = true;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        const bool nan = (bits & 0x7fff) > 0x7c00;
        const float value = ternfmt_f16_to_f32((uint16_t)bits);
        same = same && (nan ? value != value : ternfmt_f32_to_f16(value) == bits);
        if ((bits & 0x7fff) <= 0x7f80)
            same = same && ternfmt_f32_to_bf16(ternfmt_bf16_to_f32((uint16_t)bits)) == bits;
    }
    check(same, "16-bit values survive the way through F32");
    check(ternfmt_f32_to_f16(65519.0f) == 0x7bff && ternfmt_f32_to_f16(65520.0f) == 0x7c00, "F16: overflow");
    check(ternfmt_f32_to_f16(2049.0f) == 0x6800 && ternfmt_f32_to_f16(2051.0f) == 0x6802, "F16: ties");
    check(ternfmt_f32_to_f16(2.98023224e-8f) == 0 && ternfmt_f32_to_f16(2.9802326e-8f) == 1 &&
          ternfmt_f32_to_f16(6.103515e-5f) == 0x0400, "F16: subnormals");
    check(ternfmt_f32_to_bf16(3.4e38f) == 0x7f80 && ternfmt_f32_to_bf16(257.0f) == 0x4380 &&
          ternfmt_f32_to_bf16(259.0f) == 0x4382, "BF16: overflow and ties");
}

/* ---- Shards, folders, damage ------------------------------------------------------------------- */

static ternfmt_class open_two(const char *index_text, const buffer *a, const buffer *b,
                              ternfmt_error *error) {
    ternfmt_index index;
    ternfmt_model model;
    ternfmt_class outcome = ternfmt_index_open(&index, index_text, strlen(index_text), error);
    if (outcome != TERNFMT_OK) return outcome;
    const ternfmt_bytes shards[2] = {{a->bytes, a->size}, {b->bytes, b->size}};
    outcome = ternfmt_open_shards(&model, &index, shards, error);
    ternfmt_index_close(&index);
    if (outcome == TERNFMT_OK) ternfmt_close(&model);
    return outcome;
}

#define MAP(rest) "\n{\"weight_map\":{\"w\":\"1\",\"w_scale\":\"2\"}" rest "}\r\n"

static void test_shards(void) {
    buffer a, b, other;
    ternfmt_error error;
    make(&a, DOC("\"tensors\":{\"w\":" W "}"), ",\"w\":" U8_("1", "1", "0", "1"), "01");
    make(&b, DOC("\"tensors\":{\"w\":{\"shape\":[1,1],\"encoding\":\"int2\"}}"),
         ",\"w_scale\":" F16_("1", "0", "2"), "003c");
    make(&other, ENTRY("[1,1]", ",\"note\":1"), ",\"w_scale\":" F16_("1", "0", "2"), "003c");
    expect(open_two(MAP(""), &a, &b, &error), "OK", "two shards", &error);
    expect(open_two(MAP(",\"metadata\":{\"total_size\":3}"), &a, &b, &error), "OK", "total_size", &error);
    expect(open_two(MAP(",\"metadata\":{\"total_size\":4}"), &a, &b, &error), "INDEX", "total_size", &error);
    expect(open_two(MAP(",\"metadata\":{\"total_size\":0.030E+2}"), &a, &b, &error), "OK", "0.030E+2", &error);
    expect(open_two(MAP(",\"metadata\":{\"total_size\":30e-1}"), &a, &b, &error), "OK", "30e-1", &error);
    expect(open_two(MAP(",\"metadata\":{\"total_size\":-3}"), &a, &b, &error), "INDEX", "-3", &error);
    expect(open_two(MAP(",\"metadata\":{\"total_size\":3e999999999999999999999}"), &a, &b, &error), "INDEX",
           "an exponent past sense", &error);
    expect(open_two(MAP(",\"metadata\":{\"total_size\":\"3\"}"), &a, &b, &error), "INDEX", "a string", &error);
    expect(open_two(MAP(",\"metadata\":[]"), &a, &b, &error), "INDEX", "metadata", &error);
    expect(open_two(MAP(",\"x\":1,\"x\":1"), &a, &b, &error), "DUPLICATE", "the index repeats a key", &error);
    expect(open_two(MAP(""), &a, &other, &error), "METADATA", "different entries", &error);
    expect(open_two("{\"weight_map\":{\"w\":\"../1\"}}", &a, &b, &error), "PATH", "a way out", &error);
    expect(open_two("{\"weight_map\":{\"w\":1}}", &a, &b, &error), "INDEX", "a name that is none", &error);
    expect(open_two("[]", &a, &b, &error), "JSON", "an index that is an array", &error);
    expect(open_two("{\"weight_map\":{\"w\":\"2\",\"w_scale\":\"1\"}}", &a, &b, &error), "INDEX",
           "the wrong shards", &error);
}

static void write_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    check(file != NULL && fwrite(bytes, 1, size, file) == size, path);
    if (file != NULL) (void)fclose(file);
}

static ternfmt_class open_path(const char *path, ternfmt_read_as read_as, bool strict,
                               ternfmt_error *error) {
    ternfmt_model model;
    const ternfmt_class outcome = ternfmt_open_path(&model, path, read_as, strict, error);
    if (outcome == TERNFMT_OK) ternfmt_close(&model);
    return outcome;
}

static void test_folder(void) {
    static const char config[] = "{\"a\":[NaN,-Infinity],\"quantization_config\":{\"quant_method\":"
        "\"ternfmt\",\"format_version\":\"1.0\"}}";
    static const char bad[] = "{\"quantization_config\":{\"quant_method\":\"bitnet\"}}";
    static const char index[] = "{\"weight_map\":{\"w\":\"m-00001-of-00002.safetensors\","
        "\"w_scale\":\"m-00002-of-00002.safetensors\"}}";
    buffer a, b;
    ternfmt_error error;
    (void)mkdir("folder", 0777);
    (void)unlink("folder/m.safetensors.index.json");
    (void)unlink("folder/config.json");
    (void)rmdir("folder/config.json");
    (void)unlink("folder/m-00001-of-00002.safetensors");
    (void)unlink("folder/m-00002-of-00002.safetensors");
    expect(open_path("folder", TERNFMT_AUTO, false, &error), "INDEX", "an empty folder", &error);
    expect(open_path("nowhere", TERNFMT_AUTO, false, &error), "SYSTEM", "no such path", &error);
    make(&a, DOC("\"tensors\":{\"w\":" W "}"), ",\"w\":" U8_("1", "1", "0", "1"), "01");
    make(&b, DOC("\"tensors\":{\"w\":" W "}"), ",\"w_scale\":" F16_("1", "0", "2"), "003c");
    write_file("folder/m-00001-of-00002.safetensors", a.bytes, a.size);
    expect(open_path("folder/m-00001-of-00002.safetensors", TERNFMT_AUTO, false, &error), "OK",
           "a shard by its name", &error);
    expect(open_path("folder/m-00001-of-00002.safetensors", TERNFMT_WHOLE, false, &error), "SCALE",
           "a shard as a whole", &error);
    expect(open_path("folder", TERNFMT_AUTO, false, &error), "SCALE",
           "a folder is a whole model, whatever its file is called", &error);
    write_file("folder/m.safetensors.index.json", index, sizeof index - 1);
    expect(open_path("folder", TERNFMT_AUTO, false, &error), "INDEX", "a missing shard", &error);
    write_file("m-target", b.bytes, b.size);
    check(symlink("../m-target", "folder/m-00002-of-00002.safetensors") == 0, "symlink");
    expect(open_path("folder", TERNFMT_AUTO, false, &error), "OK", "a folder", &error);
    expect(open_path("folder", TERNFMT_AUTO, true, &error), "PATH", "strict links", &error);
    check(mkdir("folder/config.json", 0777) == 0, "mkdir");
    expect(open_path("folder", TERNFMT_AUTO, false, &error), "OK", "a folder for a config", &error);
    check(rmdir("folder/config.json") == 0, "rmdir");
    write_file("folder/config.json", config, sizeof config - 1);
    expect(open_path("folder", TERNFMT_AUTO, false, &error), "OK", "a config", &error);
    write_file("folder/config.json", bad, sizeof bad - 1);
    expect(open_path("folder/", TERNFMT_AUTO, false, &error), "CONFIG", "another method", &error);
    expect(open_path("folder/m.safetensors.index.json", TERNFMT_AUTO, false, &error), "OK",
           "an index: its folder's config is not read", &error);
}

/* Every bit flipped and every length cut: an answer, and no step out of bounds. */
static void test_damage(void) {
    buffer b, damaged;
    ternfmt_error error;
    size_t accepted = 0;
    make(&b, DOC("\"tensors\":{\"w\":" W "}"), PAIR, ONE);
    for (size_t i = 0; i < b.size * 8; i++) {
        damaged = b;
        damaged.bytes[i / 8] = (uint8_t)(damaged.bytes[i / 8] ^ 1u << i % 8);
        if (open_all(&damaged, TERNFMT_WHOLE, &error) == TERNFMT_OK) accepted++;
    }
    check(accepted > 0 && accepted < b.size, "few flipped bits are harmless");
    for (damaged = b; damaged.size > 0;) {
        damaged.size--;
        check(open_all(&damaged, TERNFMT_WHOLE, &error) != TERNFMT_OK, "a cut file");
    }
}

int main(void) {
    test_headers();
    test_documents();
    test_header_digest();
    test_packing();
    test_planes();
    test_low_rank();
    test_floats();
    test_shards();
    test_folder();
    test_damage();
    printf("%d checks, %d failures\n", checks, failures);
    return failures == 0 ? 0 : 1;
}
