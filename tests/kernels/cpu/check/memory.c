#define _DEFAULT_SOURCE
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

bool at_end;

static struct {
    char *start; /* behind the first guard page */
    size_t bytes;
} slots[SLOTS];

static char *map(size_t bytes, size_t page) {
    char *memory = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || (bytes && mprotect(memory + page, bytes, PROT_READ | PROT_WRITE)))
        perror("mmap"), exit(2);
    return memory + page;
}

void *guarded(Slot slot, size_t bytes, size_t alignment) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), room = round_up(bytes, page);
    if (slots[slot].bytes < room) {
        if (slots[slot].start)
            munmap(slots[slot].start - page, slots[slot].bytes + 2 * page);
        slots[slot].start = map(room, page);
        slots[slot].bytes = room;
    }
    char *memory = slots[slot].start + (at_end ? slots[slot].bytes - round_up(bytes, alignment) : 0);
    memset(memory, 0xFF, bytes);
    return memory;
}

const void *inaccessible(void) {
    static const char *page;
    if (!page)
        page = map(0, (size_t)sysconf(_SC_PAGESIZE));
    return page;
}
