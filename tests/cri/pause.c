// SPDX-License-Identifier: Apache-2.0
// The pause container of the reference runtime: waits for ever. Granary has none.
#include <unistd.h>

int main(void) {
  for (;;) pause();
}
