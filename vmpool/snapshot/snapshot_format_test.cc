// SPDX-License-Identifier: Apache-2.0
#include "vmpool/snapshot/snapshot_format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "vmpool/snapshot/snapshot_sample.h"

namespace granary::snapshot {
namespace {

bool is_any(const Error& error, std::initializer_list<Errc> codes) {
  return std::any_of(codes.begin(), codes.end(), [&](Errc code) { return error.is(code); });
}

template <class T>
bool same_bytes(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

TEST(SnapshotFormat, RoundTripKeepsEveryField) {
  const Snapshot before = sample_snapshot(3);
  const std::vector<std::byte> file = encode(before);
  const Result<Snapshot> after = decode(file);
  ASSERT_TRUE(after) << after.error().message();
  EXPECT_TRUE(same_bytes(before.shape, after->shape));
  EXPECT_EQ(before.extents, after->extents);
  EXPECT_TRUE(same_bytes(before.vm, after->vm));
  EXPECT_TRUE(same_bytes(before.serial, after->serial));
  ASSERT_EQ(after->vcpus.size(), 3U);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bytes(before.vcpus[i], after->vcpus[i])) << "vCPU " << i;
  ASSERT_EQ(after->transports.size(), 2U);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_bytes(before.transports[i], after->transports[i])) << "slot " << i;
  EXPECT_EQ(encode(*after), file);
}

TEST(SnapshotFormat, EveryFlippedByteIsRefused) {
  std::vector<std::byte> file = encode(sample_snapshot(1));
  for (size_t i = 0; i < file.size(); ++i) {
    for (const std::byte mask : {std::byte{0x01}, std::byte{0x80}, std::byte{0xff}}) {
      file[i] ^= mask;
      const Result<Snapshot> result = decode(file);
      ASSERT_FALSE(result) << "byte " << i;
      ASSERT_TRUE(is_any(result.error(), {Errc::kSnapshotCorrupt, Errc::kSnapshotVersion})) << result.error().message();
      file[i] ^= mask;
    }
  }
  EXPECT_TRUE(decode(file));
}

TEST(SnapshotFormat, EveryTruncationIsNamedSo) {
  const std::vector<std::byte> file = encode(sample_snapshot(1));
  for (size_t length = 0; length < file.size(); ++length) {
    const Result<Snapshot> result = decode(std::span(file).first(length));
    ASSERT_FALSE(result) << length;
    ASSERT_TRUE(result.error().is(Errc::kSnapshotTruncated)) << result.error().message();
  }
}

TEST(SnapshotFormat, BytesBehindTheEndAreRefused) {
  std::vector<std::byte> file = encode(sample_snapshot(1));
  file.push_back(std::byte{0});
  const Result<Snapshot> result = decode(file);
  ASSERT_FALSE(result);
  EXPECT_TRUE(result.error().is(Errc::kSnapshotCorrupt));
}

TEST(SnapshotFormat, OtherVersionIsNamedSo) {
  std::vector<std::byte> file = encode(sample_snapshot(1));
  const uint32_t version = kFormatVersion + 1;
  std::memcpy(file.data() + 8, &version, sizeof(version));
  const Result<Snapshot> result = decode(file);
  ASSERT_FALSE(result);
  EXPECT_TRUE(result.error().is(Errc::kSnapshotVersion));
}

// Well-formed files (right checksums) that say something impossible.
struct Lie {
  const char* name;
  std::function<void(Snapshot&)> tell;
};
class SnapshotLies : public testing::TestWithParam<Lie> {};

TEST_P(SnapshotLies, AreCorrupt) {
  Snapshot snapshot = sample_snapshot();
  GetParam().tell(snapshot);
  const Result<Snapshot> result = decode(encode(snapshot));
  ASSERT_FALSE(result);
  EXPECT_TRUE(result.error().is(Errc::kSnapshotCorrupt)) << result.error().message();
}

INSTANTIATE_TEST_SUITE_P(
    All, SnapshotLies,
    testing::Values(Lie{"ExtentUnaligned", [](Snapshot& s) { s.extents[0].offset = 1; }},
                    Lie{"ExtentLengthUnaligned", [](Snapshot& s) { s.extents[0].bytes = 4097; }},
                    Lie{"ExtentEmpty", [](Snapshot& s) { s.extents[1].bytes = 0; }},
                    Lie{"ExtentsOverlap", [](Snapshot& s) { s.extents[0].bytes = 5 * kPageSize; }},
                    Lie{"ExtentsUnsorted", [](Snapshot& s) { std::swap(s.extents[0], s.extents[1]); }},
                    Lie{"ExtentBeyondMemory", [](Snapshot& s) { s.extents[2].bytes = 2 * kPageSize; }},
                    Lie{"ExtentWrapsAround",
                        [](Snapshot& s) {
                          s.extents[2] = {16 * kMiB - kPageSize, ~0ULL - kPageSize + 1};
                        }},
                    Lie{"ExtentsTooMany",
                        [](Snapshot& s) {
                          s.extents.assign(kMaxExtents + 1, Extent{0, kPageSize});
                        }},
                    Lie{"NoVcpu", [](Snapshot& s) { s.vcpus.clear(); }},
                    Lie{"VcpusTooMany", [](Snapshot& s) { s.vcpus.resize(9); }},
                    Lie{"VcpusDifferFromShape", [](Snapshot& s) { s.shape.vcpus = 1; }},
                    Lie{"VcpuId", [](Snapshot& s) { s.vcpus[1].id = 0; }},
                    Lie{"NoTransport", [](Snapshot& s) { s.transports.clear(); }},
                    Lie{"TransportsTooMany", [](Snapshot& s) { s.transports.resize(20); }},
                    Lie{"QueuesTooMany", [](Snapshot& s) { s.transports[0].queue_count = virtio::kMaxQueues + 1; }},
                    Lie{"DeviceStateTooBig", [](Snapshot& s) { s.transports[1].device.size_bytes = 513; }}),
    [](const testing::TestParamInfo<Lie>& lie) { return lie.param.name; });

}  // namespace
}  // namespace granary::snapshot
