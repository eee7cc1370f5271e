/* Rows and groups. Where rows leave no pad lanes, all rows are one run to the loops. */
#include "contract.h"

#include <string.h>

size_t packed_bytes(size_t columns) { return columns / CODES_PER_BYTE + (columns % CODES_PER_BYTE != 0); }

/* Make one row of all that lie back to back. */
static void join(size_t *rows, size_t *columns) {
    if (*columns % CODES_PER_BYTE == 0) {
        *columns *= *rows;
        *rows = 1;
    }
}

bool pack_rows(const Loops *loops, const int8_t *codes, size_t rows, size_t columns, uint8_t *packed) {
    join(&rows, &columns);
    bool valid = true;
    for (size_t row = 0; row < rows && valid; row++)
        valid = loops->pack(codes + row * columns, columns, packed + row * packed_bytes(columns));
    return valid;
}

void unpack_rows(const Loops *loops, const uint8_t *packed, size_t rows, size_t columns, int8_t *codes) {
    join(&rows, &columns);
    for (size_t row = 0; row < rows; row++)
        loops->unpack(packed + row * packed_bytes(columns), columns, codes + row * columns);
}

bool valid_rows(const Loops *loops, const uint8_t *packed, size_t rows, size_t columns) {
    join(&rows, &columns);
    size_t bytes = packed_bytes(columns), lanes = columns % CODES_PER_BYTE;
    for (size_t row = 0; row < rows; row++, packed += bytes)
        if (loops->forbidden(packed, columns) || (lanes && packed[bytes - 1] >> 2 * lanes))
            return false;
    return true;
}

bool exact_rows(const Loops *loops, const Format *format, const void *weights, size_t rows, size_t columns,
                size_t group_size, double *scales, Scratch *scratch) {
    const char *row = weights;
    for (size_t r = 0; r < rows; r++, row += columns * format->bytes)
        for (size_t start = 0; start < columns; start += group_size) {
            size_t count = columns - start < group_size ? columns - start : group_size;
            double scale = exact_scale(loops, format, row + start * format->bytes, count, scratch);
            if (scale < 0)
                return false;
            *scales++ = scale;
        }
    return true;
}

void assign_rows(const Loops *loops, const Format *format, const void *weights, size_t rows, size_t columns,
                 size_t group_size, Grid grid, uint8_t *const packed[]) {
    const char *row = weights;
    for (size_t r = 0; r < rows; r++, row += columns * format->bytes)
        for (size_t start = 0; start < columns; start += group_size) {
            size_t count = columns - start < group_size ? columns - start : group_size;
            uint8_t *bytes[PLANES_MAX];
            for (int p = 0; p < grid.planes; p++)
                bytes[p] = packed[p] + r * packed_bytes(columns) + start / CODES_PER_BYTE;
            const void *part = row + start * format->bytes;
            if (format->bytes == 2)
                loops->assign16(part, count, &grid, bytes);
            else
                loops->assign32(part, count, &grid, bytes);
            grid.floors = (const char *)grid.floors + (size_t)grid.count * format->bytes;
            grid.changes += grid.count;
        }
}

uint64_t non_zero_rows(const Loops *loops, const uint8_t *packed, size_t rows, size_t columns) {
    join(&rows, &columns);
    uint64_t found = 0;
    for (size_t row = 0; row < rows; row++)
        found += loops->non_zero(packed + row * packed_bytes(columns), columns);
    return found;
}

/* One row's squares, added to those of the rows above. */
static void add_squares(const Loops *loops, const Format *format, const char *row, size_t columns, size_t group_size,
                        const Planes *packed, const float *const scales[], float *errors, float *norms) {
    for (size_t start = 0, group = 0; start < columns; start += group_size, group++) {
        size_t count = columns - start < group_size ? columns - start : group_size;
        Planes part = *packed;
        for (int p = 0; p < part.count; p++) {
            part.packed[p] += start / CODES_PER_BYTE;
            part.scales[p] = scales[p][group];
        }
        loops->squares(row + start * format->bytes, count, format, &part, errors + start, norms + start);
    }
}

static double sum_of(const float *values, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    return sum;
}

void squares_rows(const Loops *loops, const Format *format, const void *weights, size_t rows, size_t columns,
                  size_t group_size, size_t chunk_rows, int planes, const uint8_t *const packed[],
                  const float *scales, float *column_sums, double *errors, double *norms) {
    const size_t groups = columns / group_size + (columns % group_size != 0);
    float *column_norms = column_sums + columns;
    for (size_t start = 0; start < rows; start += chunk_rows) {
        size_t end = rows - start < chunk_rows ? rows : start + chunk_rows;
        memset(column_sums, 0, 2 * columns * sizeof *column_sums);
        for (size_t r = start; r < end; r++) {
            Planes row_planes = {.count = planes};
            const float *row_scales[PLANES_MAX];
            for (int p = 0; p < planes; p++) {
                row_planes.packed[p] = packed[p] + r * packed_bytes(columns);
                row_scales[p] = scales + ((size_t)p * rows + r) * groups;
            }
            add_squares(loops, format, (const char *)weights + r * columns * format->bytes, columns, group_size,
                        &row_planes, row_scales, column_sums, column_norms);
        }
        *errors++ = sum_of(column_sums, columns);
        *norms++ = sum_of(column_norms, columns);
    }
}
