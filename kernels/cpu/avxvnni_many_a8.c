#include "avxvnni.h"

#include "avx2_many_a8.c"
