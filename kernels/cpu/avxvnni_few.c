#include "avxvnni.h"

#include "avx2_few.c"
