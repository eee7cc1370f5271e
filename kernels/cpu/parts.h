/* Rows of x in parts of about the same size: with at most 6 at once, 7 are 4 and 3, not 6 and 1. RUN(part, done) is
 * compiled for each number of rows a part may have, so that its loops over them are unrolled; `done` rows come before.
 */
#ifndef TERNFMT_CPU_PARTS_H
#define TERNFMT_CPU_PARTS_H

#define PART(ROWS, MOST, RUN)                                                                                          \
    case ROWS:                                                                                                         \
        if (ROWS <= MOST)                                                                                              \
            RUN(ROWS, done);                                                                                           \
        break;

/* MOST is a constant, at most 8. */
#define IN_PARTS(rows, MOST, RUN)                                                                                      \
    for (size_t parts = ceil_div(rows, MOST), done = 0, part; parts; parts--, done += part)                            \
        switch (part = ceil_div((rows) - done, parts)) {                                                               \
            PART(1, MOST, RUN)                                                                                         \
            PART(2, MOST, RUN)                                                                                         \
            PART(3, MOST, RUN)                                                                                         \
            PART(4, MOST, RUN)                                                                                         \
            PART(5, MOST, RUN)                                                                                         \
            PART(6, MOST, RUN)                                                                                         \
            PART(7, MOST, RUN)                                                                                         \
            PART(8, MOST, RUN)                                                                                         \
        }

#endif
