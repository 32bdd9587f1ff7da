// SPDX-License-Identifier: Apache-2.0
#include "agent/cgroup_path.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace granary::agent {
namespace {

std::string parsed(const std::string& text) {
  const auto path = parse_cgroup_parent(text);
  return path ? *path : "error: " + path.error().message();
}

TEST(CgroupPathTest, TakesPathsOfCgroupfs) {
  EXPECT_EQ(parsed("/kubepods/burstable/pod1234"), "/kubepods/burstable/pod1234");
  EXPECT_EQ(parsed("/kubepods.slice/kubepods-pod1_2.slice"), "/kubepods.slice/kubepods-pod1_2.slice");
  EXPECT_EQ(parsed("/a..b"), "/a..b");
  EXPECT_EQ(parsed("/granary.slice-not"), "/granary.slice-not");
}

TEST(CgroupPathTest, ExpandsSlicesAsSystemdNestsThem) {
  EXPECT_EQ(parsed("kubepods-burstable-pod1234.slice:cri-containerd:abc"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234.slice");
  EXPECT_EQ(parsed("system.slice:x:y"), "/system.slice");
}

TEST(CgroupPathTest, KnowsASlicesGroup) {
  EXPECT_EQ(slice_of("/kubepods.slice/kubepods-pod1.slice"), "kubepods-pod1.slice");
  EXPECT_EQ(slice_of("/system.slice"), "system.slice");
  for (const char* other :
       {"/kubepods/pod1", "/kubepods-pod1.slice", "/a.slice/b.slice", "/.slice", "/-.slice", "/", ""}) {
    EXPECT_FALSE(slice_of(other)) << other;
  }
}

TEST(CgroupPathTest, RefusesEverythingElse) {
  const std::string hostile[] = {"",
                                 "/",
                                 "//",
                                 "/a/",
                                 "/a//b",
                                 "/..",
                                 "/a/../b",
                                 "/a/.",
                                 "/./a",
                                 "a/b",
                                 "a",
                                 "a.slice",
                                 "a.slice:b",
                                 "a.slice:b:c:d",
                                 ":a:b",
                                 ".slice:a:b",
                                 "-.slice:a:b",
                                 "a--b.slice:c:d",
                                 "-a.slice:b:c",
                                 "a-.slice:b:c",
                                 "a:b:c",
                                 "../a.slice:b:c",
                                 "a/b.slice:c:d",
                                 "/a b",
                                 "/a\nb",
                                 std::string("/a\0b", 4),
                                 "/\xc3\xa4",
                                 "/" + std::string(256, 'a'),
                                 "/" + std::string(1024, 'a'),
                                 "/granary.slice",
                                 "/granary.slice/pool",
                                 "granary.slice:a:b",
                                 "granary-x.slice:a:b"};
  for (const std::string& text : hostile) {
    const auto path = parse_cgroup_parent(text);
    ASSERT_FALSE(path) << text << " -> " << *path;
    EXPECT_TRUE(path.error().is(Errc::kInvalidArgument)) << path.error().message();
    EXPECT_THAT(path.error().message(), testing::HasSubstr("give the pod's cgroup"));
    EXPECT_LT(path.error().message().size(), 500u);
  }
}

}  // namespace
}  // namespace granary::agent
