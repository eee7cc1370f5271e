/* Rows of x in parts of about the same size: with at most 6 at once, 7 are 4 and 3, not 6 and 1. OF_PART(part, done) is
 * compiled for each number of rows a part may have, so that its loops over them are unrolled; `done` rows come before.
 */
#ifndef TERNFMT_CPU_PARTS_H
#define TERNFMT_CPU_PARTS_H

#define PART(ROWS, MOST, OF_PART)                                                                                      \
    case ROWS:                                                                                                         \
        if (ROWS <= MOST)                                                                                              \
            OF_PART(ROWS, done);                                                                                       \
        break;

/* MOST is a constant, at most 8. */
#define IN_PARTS(rows, MOST, OF_PART)                                                                                  \
    for (size_t parts = ceil_div(rows, MOST), done = 0, part; parts; parts--, done += part)                            \
        switch (part = ceil_div((rows) - done, parts)) {                                                               \
            PART(1, MOST, OF_PART)                                                                                     \
            PART(2, MOST, OF_PART)                                                                                     \
            PART(3, MOST, OF_PART)                                                                                     \
            PART(4, MOST, OF_PART)                                                                                     \
            PART(5, MOST, OF_PART)                                                                                     \
            PART(6, MOST, OF_PART)                                                                                     \
            PART(7, MOST, OF_PART)                                                                                     \
            PART(8, MOST, OF_PART)                                                                                     \
        }

#endif
