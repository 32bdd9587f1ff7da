// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <span>

namespace granary::fs {

// libfuse trusts whoever sends it FUSE messages: it looks for the ends of names beyond the message, and believes every
// count in it. So each message is checked before libfuse sees it: that its operation is one that this server has, that
// its fixed part is complete, that each name in it ends inside it and is one name (no '/', neither "." nor "..", at
// most 255 bytes), that counts are those of what follows, and that INIT speaks of a protocol without older layouts.
//
// `message`: header included, its length equal to the header's. 0, or the errno to answer with: EPROTO for what no
// Linux sends, ENAMETOOLONG, EPERM for "." and ".." as names, ENOSYS for operations that are not served.
int check_message(std::span<const std::byte> message);

}  // namespace granary::fs
