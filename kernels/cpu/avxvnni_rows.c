#include "avxvnni.h"

#include "avx2_rows.c"
