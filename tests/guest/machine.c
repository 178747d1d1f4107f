#include "machine.h"

#define DEBUG_CONSOLE 0xe9
#define MULTIBOOT_MARK 0x2BADB002u
#define CMOS_INDEX 0x70
#define CMOS_DATA 0x71

/* QEMU's fw_cfg device (docs/specs/fw_cfg): a 16-bit selector, then bytes from the data port. */
#define FW_CFG_SELECTOR 0x510
#define FW_CFG_DATA 0x511
#define FW_CFG_FILE_DIR 0x19
#define FW_CFG_NAME_BYTES 56
#define FW_CFG_FILES_LIMIT 256
#define COMMAND_LINE_FILE "opt/guest"

void print(const char *text)
{
    while (*text)
        out8(DEBUG_CONSOLE, (uint8_t)*text++);
}

void print_decimal(uint32_t value)
{
    char digits[11];
    uint32_t at = sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    print(digits + at);
}

void print_hex(uint32_t value)
{
    print("0x");
    for (int shift = 28; shift >= 0; shift -= 4)
        out8(DEBUG_CONSOLE, (uint8_t)"0123456789abcdef"[(value >> shift) & 15]);
}

void give_up(const char *reason)
{
    print("failed ");
    print(reason);
    print("\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

static uint32_t cmos16(uint8_t index)
{
    out8(CMOS_INDEX, index);
    uint32_t low = in8(CMOS_DATA);
    out8(CMOS_INDEX, (uint8_t)(index + 1));
    return low | (uint32_t)in8(CMOS_DATA) << 8;
}

static uint32_t fw_cfg_be(uint32_t bytes)
{
    uint32_t value = 0;
    while (bytes--)
        value = value << 8 | in8(FW_CFG_DATA);
    return value;
}

/* Copies the fw_cfg file with the guest's command line; an empty one if there is none. */
static void read_fw_cfg(char *line, uint32_t line_bytes)
{
    const char *wanted = COMMAND_LINE_FILE;
    line[0] = 0;
    out16(FW_CFG_SELECTOR, FW_CFG_FILE_DIR);
    uint32_t files = fw_cfg_be(4);
    for (uint32_t file = 0; file < files && file < FW_CFG_FILES_LIMIT; file++) {
        uint32_t size = fw_cfg_be(4);
        uint32_t selector = fw_cfg_be(2);
        fw_cfg_be(2);
        int same = 1, ended = 0;
        for (uint32_t i = 0; i < FW_CFG_NAME_BYTES; i++) {
            char found = (char)in8(FW_CFG_DATA);
            if (!ended) {
                same = same && i < sizeof COMMAND_LINE_FILE && found == wanted[i];
                ended = !found;
            }
        }
        if (!same)
            continue;
        out16(FW_CFG_SELECTOR, (uint16_t)selector);
        uint32_t i = 0;
        for (; i < size && i < line_bytes - 1; i++)
            line[i] = (char)in8(FW_CFG_DATA);
        line[i] = 0;
        return;
    }
}

uint32_t read_machine(uint32_t mark, const uint32_t *information, char *line, uint32_t line_bytes)
{
    if (mark != MULTIBOOT_MARK) {
        read_fw_cfg(line, line_bytes);
        /* Registers 0x34: units of 64 KiB above 16 MiB; 0x30: KiB above 1 MiB, for smaller machines. */
        uint32_t above = cmos16(0x34);
        return above ? 16 * MIB + above * 0x10000 : MIB + cmos16(0x30) * 1024;
    }
    uint32_t flags = information[0];
    line[0] = 0;
    if (flags & 4) {
        const char *from = (const char *)information[4];
        uint32_t i = 0;
        for (; from[i] && i < line_bytes - 1; i++)
            line[i] = from[i];
        line[i] = 0;
    }
    if (!(flags & 1))
        give_up("no memory size");
    return MIB + information[2] * 1024;
}
