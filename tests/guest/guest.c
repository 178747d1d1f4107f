/*
 * A guest that checks its own memory.
 *
 * Each page above the guest itself has a generation: how often it was written. Number and generation of a page decide
 * all its bytes (one content in eight is all zero; generation 0 is zero too), so that a page of any other moment, or of
 * another place, is found. The generations stand in a table whose entries have check words, and their sum is the
 * number of all writes, so that an old page of the table is found as well.
 *
 * For ever: rewrite random pages, verify all pages in turn. What it reports, a line each, on the debug console:
 *
 *   ready pages=N                             memory is filled
 *   progress W                                each time `interval` more pages were written; W of them in all
 *   pass N writes=W mismatches=M              all pages were verified once more
 *   mismatch page=P word=I expected=X found=Y generation=G
 *   mismatch table page=P                     the table's entry for page P is damaged
 *   mismatch sum expected=W found=S           the generations do not sum up to the writes
 *   failed REASON                             it could not start
 *
 * Options on the command line, separated by blanks:
 *
 *   rewrite=N    pages rewritten per 64 verified ones (default 16; 0: an idle guest)
 *   used=N       percent of the pages that are written at all (default 100)
 *   dirty=N      rewrites stay within the first N pages that are used (default 0: all of them)
 *   interval=N   writes between two progress lines (default 4096)
 *   limit=N      MiB of memory to look at (default 0: all)
 */
#include "machine.h"

#define WORDS (PAGE_BYTES / 4)
#define WORD_STEP 0x9e3779b1u
#define PAGES_PER_TURN 64u
#define MISMATCH_LINES 16u

struct entry {
    uint32_t generation;
    uint32_t check;
};

struct options {
    uint32_t rewrite, used, dirty, interval, limit;
};

extern uint8_t image_end[];

static struct entry *table;
static uint8_t *pages_start;
static uint32_t pages, writes, mismatches;
static uint32_t random_state = 0x2545f491u;
static struct options options = { .rewrite = 16, .used = 100, .interval = 4096 };

static uint32_t mix(uint32_t value)
{
    value ^= value >> 16;
    value *= 0x7feb352du;
    value ^= value >> 15;
    value *= 0x846ca68bu;
    return value ^ value >> 16;
}

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % limit;
}

/* First word of a page, and the step from word to word; both 0 for a page of zeros. */
static uint32_t content(uint32_t page, uint32_t generation, uint32_t *step)
{
    uint32_t seed = mix(mix(page + 1) + generation);
    if (generation == 0 || (seed & 7) == 0) {
        *step = 0;
        return 0;
    }
    *step = WORD_STEP;
    return seed;
}

static volatile uint32_t *words_of(uint32_t page)
{
    return (volatile uint32_t *)(pages_start + page * PAGE_BYTES);
}

/* Clears a page that firmware may have used; one that is zero already is left untouched. */
static void clear(uint32_t page)
{
    volatile uint32_t *words = words_of(page);
    for (uint32_t i = 0; i < WORDS; i++)
        if (words[i])
            words[i] = 0;
}

static uint32_t check_word(uint32_t page, uint32_t generation)
{
    return mix(page ^ mix(~generation));
}

static void set_generation(uint32_t page, uint32_t generation)
{
    table[page].generation = generation;
    table[page].check = check_word(page, generation);
}

static void rewrite(uint32_t page)
{
    uint32_t step, generation = table[page].generation + 1;
    uint32_t value = content(page, generation, &step);
    volatile uint32_t *words = words_of(page);
    for (uint32_t i = 0; i < WORDS; i++, value += step)
        words[i] = value;
    set_generation(page, generation);
    if (++writes % options.interval == 0) {
        print("progress ");
        print_decimal(writes);
        print("\n");
    }
}

static int next_mismatch(void)
{
    if (mismatches++ >= MISMATCH_LINES)
        return 0;
    print("mismatch ");
    return 1;
}

static void report_word(uint32_t page, uint32_t word, uint32_t expected, uint32_t found)
{
    if (!next_mismatch())
        return;
    print("page=");
    print_decimal(page);
    print(" word=");
    print_decimal(word);
    print(" expected=");
    print_hex(expected);
    print(" found=");
    print_hex(found);
    print(" generation=");
    print_decimal(table[page].generation);
    print("\n");
}

static void verify(uint32_t page)
{
    uint32_t step, value = content(page, table[page].generation, &step);
    volatile uint32_t *words = words_of(page);
    if (table[page].check != check_word(page, table[page].generation)) {
        if (next_mismatch()) {
            print("table page=");
            print_decimal(page);
            print("\n");
        }
        return;
    }
    for (uint32_t i = 0; i < WORDS; i++, value += step) {
        uint32_t found = words[i];
        if (found != value) {
            report_word(page, i, value, found);
            return;
        }
    }
}

static void verify_sum(void)
{
    uint32_t sum = 0;
    for (uint32_t page = 0; page < pages; page++)
        sum += table[page].generation;
    if (sum != writes && next_mismatch()) {
        print("sum expected=");
        print_decimal(writes);
        print(" found=");
        print_decimal(sum);
        print("\n");
    }
}

static void run(uint32_t used)
{
    uint32_t dirty = options.dirty && options.dirty < used ? options.dirty : used;
    for (uint32_t pass = 1;; pass++) {
        for (uint32_t page = 0; page < pages; page++) {
            verify(page);
            if (page % PAGES_PER_TURN || !dirty)
                continue;
            for (uint32_t i = 0; i < options.rewrite; i++)
                rewrite(random_below(dirty));
        }
        verify_sum();
        print("pass ");
        print_decimal(pass);
        print(" writes=");
        print_decimal(writes);
        print(" mismatches=");
        print_decimal(mismatches);
        print("\n");
    }
}

static int take_option(const char **line, const char *name, uint32_t *value)
{
    const char *at = *line;
    while (*name)
        if (*at++ != *name++)
            return 0;
    for (*value = 0; *at >= '0' && *at <= '9'; at++)
        *value = *value * 10 + (uint32_t)(*at - '0');
    *line = at;
    return 1;
}

static void read_options(const char *line)
{
    while (*line) {
        if (!take_option(&line, "rewrite=", &options.rewrite) && !take_option(&line, "used=", &options.used)
            && !take_option(&line, "dirty=", &options.dirty) && !take_option(&line, "interval=", &options.interval)
            && !take_option(&line, "limit=", &options.limit))
            line++; /* The name of the kernel, which a loader puts first, or a blank. */
    }
    if (!options.interval || options.used > 100)
        give_up("bad option");
}

void guest_main(uint32_t mark, const uint32_t *information)
{
    char line[256];
    uint32_t end = read_machine(mark, information, line, sizeof line);
    read_options(line);
    if (options.limit && options.limit < end / MIB)
        end = options.limit * MIB;
    uint32_t start = (uint32_t)image_end;
    if (end < start + 16 * PAGE_BYTES)
        give_up("too little memory");
    /* A page costs its own bytes and a table entry; the table's last page may be partly unused. */
    pages = (end - start - PAGE_BYTES) / (PAGE_BYTES + (uint32_t)sizeof(struct entry));
    table = (struct entry *)start;
    uint32_t table_bytes = pages * (uint32_t)sizeof(struct entry);
    pages_start = (uint8_t *)start + (table_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

    for (uint32_t page = 0; page < pages; page++)
        set_generation(page, 0);
    uint32_t used = pages / 100 * options.used + pages % 100 * options.used / 100;
    for (uint32_t page = 0; page < used; page++)
        rewrite(page);
    for (uint32_t page = used; page < pages; page++)
        clear(page);
    print("ready pages=");
    print_decimal(pages);
    print("\n");
    run(used);
}
