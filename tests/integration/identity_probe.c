// SPDX-License-Identifier: Apache-2.0
// Runs in a guest and prints what must differ between clones, one "name value" a line; or, as "identity-probe clock", the
// guest's CLOCK_REALTIME and CLOCK_MONOTONIC in nanoseconds for each byte of its input.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RANDOM_BYTES = 16, CONNECTIONS = 6, SERVER_PORT = 5000, CLIENT_PORT = 6000 };

static void check(int good, const char *what) {
  if (good) return;
  perror(what);
  exit(1);
}

static void print_hex(const char *name, const unsigned char *bytes, size_t size) {
  printf("%s ", name);
  for (size_t i = 0; i < size; ++i) printf("%02x", bytes[i]);
  printf("\n");
}

static void print_file(const char *name, const char *path) {
  char text[256] = "";
  FILE *file = fopen(path, "r");
  check(file && fgets(text, sizeof(text), file), path);
  fclose(file);
  text[strcspn(text, "\n")] = 0;
  printf("%s %s\n", name, text);
}

static int64_t now_ns(clockid_t clock) {
  struct timespec now;
  check(clock_gettime(clock, &now) == 0, "clock_gettime");
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// The kernel keeps a generator per CPU.
static void print_random_of_each_cpu(void) {
  for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); ++cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    check(sched_setaffinity(0, sizeof(one), &one) == 0, "sched_setaffinity");
    unsigned char bytes[RANDOM_BYTES];
    char name[32];
    check(getrandom(bytes, sizeof(bytes), 0) == sizeof(bytes), "getrandom");
    snprintf(name, sizeof(name), "getrandom-cpu%d", cpu);
    print_hex(name, bytes, sizeof(bytes));
  }
}

static void print_random(void) {
  unsigned char bytes[RANDOM_BYTES];
  FILE *file = fopen("/dev/urandom", "r");
  check(file && fread(bytes, 1, sizeof(bytes), file) == sizeof(bytes), "/dev/urandom");
  fclose(file);
  print_hex("urandom", bytes, sizeof(bytes));
  print_random_of_each_cpu();
  const unsigned char *at_random = (const unsigned char *)getauxval(AT_RANDOM);
  print_hex("at-random", at_random, RANDOM_BYTES);
  unsigned seed;
  memcpy(&seed, at_random, sizeof(seed));
  srandom(seed);
  printf("prng %lx%lx%lx\n", random(), random(), random());
}

static void print_macs(void) {
  DIR *links = opendir("/sys/class/net");
  check(links != NULL, "/sys/class/net");
  for (struct dirent *link; (link = readdir(links));) {
    if (link->d_name[0] == '.' || strcmp(link->d_name, "lo") == 0) continue;
    char path[512];
    snprintf(path, sizeof(path), "/sys/class/net/%s/address", link->d_name);
    print_file("mac", path);
  }
  closedir(links);
}

static struct sockaddr_in loopback(int host, int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)host);
  return address;
}

static int local_port(int fd) {
  struct sockaddr_in address;
  socklen_t size = sizeof(address);
  check(getsockname(fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
  return ntohs(address.sin_port);
}

static int connect_from(int client_port, int host) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0, "SO_REUSEADDR");
  struct sockaddr_in from = loopback(0, client_port), to = loopback(host, SERVER_PORT);
  if (client_port) check(bind(fd, (struct sockaddr *)&from, sizeof(from)) == 0, "bind");
  check(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0, "connect");
  return fd;
}

// Of a connection that has sent nothing: one less than the next number to send (tcp_repair).
static uint32_t initial_sequence_number(int fd) {
  const int on = 1, off = TCP_REPAIR_OFF_NO_WP, queue = TCP_SEND_QUEUE;
  uint32_t number = 0;
  socklen_t size = sizeof(number);
  check(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) == 0, "TCP_REPAIR");
  check(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) == 0, "TCP_REPAIR_QUEUE");
  check(getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &number, &size) == 0, "TCP_QUEUE_SEQ");
  check(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)) == 0, "TCP_REPAIR off");
  return number - 1;
}

// Linux adds the time in units of 64 ns to a keyed hash of the addresses (secure_tcp_seq). The addresses are the same in
// each guest: without the time, a shared key shows.
static void print_sequence_numbers(void) {
  char numbers[256] = "", hashes[256] = "";
  for (int i = 0; i < CONNECTIONS; ++i) {
    const uint32_t time = (uint32_t)(now_ns(CLOCK_REALTIME) >> 6);
    const int fd = connect_from(CLIENT_PORT + i, 0);
    const uint32_t number = initial_sequence_number(fd);
    sprintf(numbers + strlen(numbers), ",%u", number);
    sprintf(hashes + strlen(hashes), " %u", number - time);
  }
  printf("isn %s\nisn-hash%s\n", numbers, hashes);
}

// A choice of port is of 28232: several, to different hosts because the next one to the same host is a near one.
static void print_ports(void) {
  printf("connect-ports ");
  for (int i = 0; i < CONNECTIONS; ++i) printf(",%d", local_port(connect_from(0, i)));
  printf("\nbind-ports ");
  for (int i = 0; i < CONNECTIONS; ++i) {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in any = loopback(0, 0);
    check(bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0, "bind to any port");
    printf(",%d", local_port(fd));
  }
  printf("\n");
}

static void listen_on_loopback(void) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(SERVER_PORT)};
  const int on = 1;
  check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0, "SO_REUSEADDR");
  check(bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0 && listen(fd, 64) == 0, "listen");
}

static int answer_clock(void) {
  for (char byte; read(STDIN_FILENO, &byte, 1) == 1;) {
    printf("%lld %lld\n", (long long)now_ns(CLOCK_REALTIME), (long long)now_ns(CLOCK_MONOTONIC));
    fflush(stdout);
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "clock") == 0) return answer_clock();
  char hostname[128] = "";
  check(gethostname(hostname, sizeof(hostname) - 1) == 0, "gethostname");
  printf("hostname %s\n", hostname);
  print_file("uuid", "/proc/sys/kernel/random/uuid");
  print_file("boot-id", "/proc/sys/kernel/random/boot_id");
  print_file("machine-id", "/etc/machine-id");
  print_random();
  print_macs();
  listen_on_loopback();
  print_sequence_numbers();
  print_ports();
  return 0;
}
