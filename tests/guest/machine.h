/* The machine as the guest sees it: ports, the debug console, the size of memory, the command line. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdint.h>

#define PAGE_BYTES 4096u
#define MIB 0x100000u

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* Prints to the debug console: text, a decimal number, a number in hex. */
void print(const char *text);
void print_decimal(uint32_t value);
void print_hex(uint32_t value);

/* Ends the guest: it says why, and stands still. */
void give_up(const char *reason) __attribute__((noreturn));

/*
 * Where memory ends, in bytes from address 0, and the command line, copied to `line` (at most `line_bytes` with its
 * NUL): as a multiboot loader left them at `information`, or, with another `mark`, from the machine's own registers.
 */
uint32_t read_machine(uint32_t mark, const uint32_t *information, char *line, uint32_t line_bytes);

#endif
