/* Every kernel of every instruction set, and whole products, against obvious loops: random and extreme shapes and
 * values, in memory between inaccessible pages. No Python, so that it runs where there is none: on emulated
 * instructions, under qemu, under sanitizers.
 *
 *   check            all sets that this machine (or its emulation) has
 *   check NAME ...   these; it is an error if one of them cannot run
 *   check threads    of the fastest set, what runs on several threads, which is the same for all
 */
#include "check.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const Kernels *kernels;
size_t cases;
static char description[256];
static uint64_t state = 1;

uint64_t random_bits(void) { /* splitmix64 */
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

size_t between(size_t low, size_t high) { return low + random_bits() % (high - low + 1); }

float normal(void) {
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(random_bits() >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7f;
}

void begin_case(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(description, sizeof description, format, arguments);
    va_end(arguments);
    cases++;
}

static void outside(int number) {
    (void)number;
    printf("%s: %s, memory that %s at a guard page: a byte outside was touched\n", kernels->name, description,
           at_end ? "ends" : "begins");
    fflush(stdout);
    _Exit(1);
}

void fail(size_t index, double expected, double actual) {
    printf("%s: %s, memory that %s at a guard page: [%zu]: expected %.17g, got %.17g\n", kernels->name, description,
           at_end ? "ends" : "begins", index, expected, actual);
    exit(1);
}

int code_at(const uint8_t *row, size_t i) {
    int bits = row[i / 4] >> 2 * (i % 4) & 3;
    return bits == 1 ? 1 : bits == 3 ? -1 : 0;
}

void random_codes(uint8_t *codes, size_t row_bytes, size_t count, size_t k, int sign) {
    static const uint8_t bits[] = {0, 1, 3};
    for (size_t row = 0; row < count; row++, codes += row_bytes) {
        memset(codes, sign > 0 ? 0x55 : 0xFF, ceil_div(k, 4));
        for (size_t i = sign ? k : 0; i < round_up(k, 4); i++) {
            unsigned code = i < k ? bits[between(0, 2)] : (unsigned)between(0, 3);
            codes[i / 4] = (uint8_t)((codes[i / 4] & ~(3u << 2 * (i % 4))) | code << 2 * (i % 4));
        }
    }
}

Exact exact_sum(const uint8_t *row, const float *x, size_t first, size_t end) {
    Exact result = {0, 0};
    for (size_t i = first; i < end; i++) {
        result.sum += code_at(row, i) * (double)x[i];
        result.magnitude += abs(code_at(row, i)) * fabs((double)x[i]);
    }
    return result;
}

static void check_set(const Kernels *set, bool only_threads) {
    kernels = set;
    cases = 0;
    for (int end = 0; end < 2 && !only_threads; end++) {
        at_end = end;
        state = 1;
        check_rows();
        check_streams();
        check_tiles();
        check_longest();
        check_products();
    }
    check_threads();
    printf("%-10s %zu cases: ok\n", set->name, cases);
    fflush(stdout);
}

int main(int count, char **names) {
    const bool only_threads = count == 2 && strcmp(names[1], "threads") == 0, asked = count > 1 && !only_threads;
    signal(SIGSEGV, outside);
    signal(SIGBUS, outside);
    for (const Kernels *const *set = kernels_available(); *set; set++) {
        bool wanted = !asked;
        for (int i = 1; i < count; i++)
            if (names[i] && strcmp(names[i], (*set)->name) == 0)
                wanted = true, names[i] = NULL;
        if (wanted)
            check_set(*set, only_threads);
        if (only_threads)
            break;
    }
    for (int i = 1; asked && i < count; i++)
        if (names[i]) {
            printf("%s: not in this build, or not on this machine\n", names[i]);
            return 2;
        }
    return 0;
}
