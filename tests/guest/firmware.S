/*
 * A machine's whole firmware: 64 KiB that copy the guest to 1 MiB and jump to it. A guest that starts with
 * `-bios` from this image has nobody else's code or tables in its memory, so its migration stream may be published.
 */
    .set    GUEST_ADDRESS, 0x100000

    .section .start, "ax"
    .code16
start16:
    cli
    cld
    /* The code segment's base is still 0xffff0000 here, so the offset of the GDT's address is its low half. */
    movl    $(gdt_pointer - 0xffff0000), %ebx
    lgdtl   %cs:(%ebx)
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $8, $start32

    .code32
start32:
    movw    $16, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    $image, %esi
    movl    $GUEST_ADDRESS, %edi
    movl    $(image_end - image), %ecx
    rep movsb
    xorl    %eax, %eax
    xorl    %ebx, %ebx
    movl    $GUEST_ADDRESS, %edx
    jmp     *%edx

    .align  8
gdt:
    .quad   0
    .quad   0x00cf9a000000ffff      /* code: base 0, limit 4 GiB */
    .quad   0x00cf92000000ffff      /* data: base 0, limit 4 GiB */
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .long   gdt

    .section .text, "ax"
image:
    .incbin "guest.flat"
image_end:

    /* The processor starts here; the builder of the image fills it up to 64 KiB. */
    .section .reset, "ax"
    .code16
    .global reset
reset:
    jmp     start16

    .section .note.GNU-stack, "", @progbits
