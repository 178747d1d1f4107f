/*
 * Entry of the guest: from a multiboot loader (eax holds the loader's mark, ebx the address of its information), or
 * from firmware.S, which leaves eax at zero. The machine is in 32-bit protected mode with flat segments, interrupts off.
 */
    .section .head, "ax"
    .code32
    .global _start
_start:
    jmp     1f

    /* Multiboot header: mark, flags (bit 1: memory size wanted), checksum. */
    .align  4
    .long   0x1BADB002
    .long   0x00000002
    .long   -(0x1BADB002 + 0x00000002)

1:  cli
    cld
    movl    %eax, %edx
    /* A loader of ELF files does this, one that copies the flat image does not. */
    movl    $bss_start, %edi
    movl    $bss_end, %ecx
    subl    %edi, %ecx
    xorl    %eax, %eax
    rep stosb
    movl    $stack_top, %esp
    pushl   %ebx
    pushl   %edx
    call    guest_main
2:  hlt
    jmp     2b

    .section .bss.stack, "aw", @nobits
    .align  16
    .skip   8192
stack_top:

    .section .note.GNU-stack, "", @progbits
