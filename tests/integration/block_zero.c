// SPDX-License-Identifier: Apache-2.0
// Runs in a guest: block-zero DEVICE zero|punch OFFSET LENGTH. What busybox has no applet for: asks Linux for zeroes on
// a block device, which a virtio-blk driver turns into WRITE_ZEROES; "punch" lets the device unmap.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const int fd = open(argv[1], O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    perror(argv[1]);
    return 1;
  }
  const uint64_t range[2] = {strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10)};
  const int done = strcmp(argv[2], "punch") == 0
                       ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)range[0], (off_t)range[1])
                       : ioctl(fd, BLKZEROOUT, range);
  if (done != 0) perror(argv[2]);
  return done != 0;
}
