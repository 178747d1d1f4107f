/* The only program of the Linux guest: lets the kernel tell QEMU where its VMCOREINFO is, says so, and waits. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    int module = open("/qemu_fw_cfg.ko", O_RDONLY);
    long failed = syscall(SYS_finit_module, module, "", 0);
    int console = open("/dev/ttyS0", O_WRONLY);
    dprintf(console, "\n%s\n", failed ? "no module" : "ready");
    for (;;)
        pause();
}
