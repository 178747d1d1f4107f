/* The only program of a Linux guest with a NIC: does what the lines on its serial port say, and answers each with one line.
 *
 *   mac ADDRESS    the NIC gets this MAC, as `ip link set dev eth0 address` does it
 *   ip ADDRESS     the NIC gets this IP address (/24)
 *   ping ADDRESS   one ICMP echo, by the kernel's own ARP; answers with the MAC that ARP has for it, or "lost"
 *   who            answers with the MAC that the driver uses
 *   forget         empties the table of ARP
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const char *const modules[] = {"virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev",
                                      "virtio_pci", "failover", "net_failover", "virtio_net"};
static int console, control;

static struct ifreq nic(void)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "eth0");
    return request;
}

static void answer(const char *text)
{
    dprintf(console, "%s\n", text);
}

static int up(int is_up)
{
    struct ifreq request = nic();
    request.ifr_flags = is_up ? IFF_UP | IFF_RUNNING : 0;
    return ioctl(control, SIOCSIFFLAGS, &request);
}

static int parse_mac(const char *text, unsigned char *mac)
{
    return sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) == 6;
}

static void print_mac(const unsigned char *mac)
{
    dprintf(console, "%02x:%02x:%02x:%02x:%02x:%02x\n", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static int set_mac(const char *text)
{
    struct ifreq request = nic();
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    return !parse_mac(text, (unsigned char *)request.ifr_hwaddr.sa_data) || up(0) ||
           ioctl(control, SIOCSIFHWADDR, &request) || up(1);
}

static int set_ip(const char *text)
{
    struct ifreq request = nic();
    struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
    address->sin_family = AF_INET;
    if (inet_aton(text, &address->sin_addr) == 0 || ioctl(control, SIOCSIFADDR, &request))
        return 1;
    inet_aton("255.255.255.0", &address->sin_addr);
    return ioctl(control, SIOCSIFNETMASK, &request) || up(1);
}

static struct arpreq arp_of(struct in_addr to)
{
    struct arpreq arp;
    memset(&arp, 0, sizeof arp);
    struct sockaddr_in *address = (struct sockaddr_in *)&arp.arp_pa;
    address->sin_family = AF_INET;
    address->sin_addr = to;
    strcpy(arp.arp_dev, "eth0");
    return arp;
}

static void forget(void)
{
    for (int last = 1; last < 255; last++) {
        struct in_addr to = {htonl(0x0a000200 | last)};
        struct arpreq arp = arp_of(to);
        ioctl(control, SIOCDARP, &arp);
    }
}

static unsigned short checksum(const unsigned short *words, int count)
{
    unsigned sum = 0;
    while (count-- > 0)
        sum += *words++;
    sum = (sum >> 16) + (sum & 0xffff);
    return ~(sum + (sum >> 16));
}

static void ping(const char *text)
{
    static unsigned short number;
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (inet_aton(text, &to.sin_addr) == 0)
        return answer("what?");
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    struct icmphdr echo = {.type = ICMP_ECHO, .un.echo = {.id = 7, .sequence = ++number}};
    echo.checksum = checksum((unsigned short *)&echo, sizeof echo / 2);
    sendto(raw, &echo, sizeof echo, 0, (struct sockaddr *)&to, sizeof to);
    struct pollfd ready = {.fd = raw, .events = POLLIN};
    time_t end = time(0) + 4;
    while (time(0) < end && poll(&ready, 1, 1000) >= 0) {
        unsigned char packet[512];
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(raw, packet, sizeof packet, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
        struct icmphdr *reply = (struct icmphdr *)(packet + 4 * (packet[0] & 15));
        if (got < 28 || reply->type != ICMP_ECHOREPLY || reply->un.echo.sequence != number ||
            from.sin_addr.s_addr != to.sin_addr.s_addr)
            continue;
        struct arpreq arp = arp_of(to.sin_addr);
        close(raw);
        if (ioctl(control, SIOCGARP, &arp))
            return answer("no ARP");
        return print_mac((unsigned char *)arp.arp_ha.sa_data);
    }
    close(raw);
    answer("lost");
}

static void obey(const char *line)
{
    if (!strncmp(line, "mac ", 4))
        return answer(set_mac(line + 4) ? "failed" : "done");
    if (!strncmp(line, "ip ", 3))
        return answer(set_ip(line + 3) ? "failed" : "done");
    if (!strncmp(line, "ping ", 5))
        return ping(line + 5);
    if (!strcmp(line, "forget")) {
        forget();
        return answer("done");
    }
    struct ifreq request = nic();
    if (!strcmp(line, "who") && !ioctl(control, SIOCGIFHWADDR, &request))
        return print_mac((unsigned char *)request.ifr_hwaddr.sa_data);
    answer("what?");
}

int main(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    for (unsigned at = 0; at < sizeof modules / sizeof *modules; at++) {
        char path[64];
        snprintf(path, sizeof path, "/%s.ko", modules[at]);
        int module = open(path, O_RDONLY);
        if (module >= 0)
            syscall(SYS_finit_module, module, "", 0);
    }
    console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    struct termios raw;
    tcgetattr(console, &raw);
    cfmakeraw(&raw);
    tcsetattr(console, TCSANOW, &raw);
    control = socket(AF_INET, SOCK_DGRAM, 0);
    for (int tries = 0; tries < 100 && up(1); tries++)
        usleep(50000);
    answer(up(1) ? "no NIC" : "ready");
    char line[128];
    size_t length = 0;
    for (;;) {
        char byte;
        if (read(console, &byte, 1) != 1)
            continue;
        if (byte == '\n') {
            line[length] = 0;
            length = 0;
            obey(line);
        } else if (length + 1 < sizeof line) {
            line[length++] = byte;
        }
    }
}
