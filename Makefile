# SPDX-License-Identifier: Apache-2.0
# Thin: everything is done by CMake, ctest and the scripts named here. Run as root (packages, /dev/kvm, node).

BUILD := build

.PHONY: help setup setup-kernel build run test guest-kernel bench selftest matrix soak fuzz clean asan
help:        ## this text
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+: *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup:       ## install the Debian packages that are missing
	@deploy/install-packages deploy/packages.txt tests/node/host-packages.txt

build: setup ## compile everything into build/
	@test -f $(BUILD)/build.ninja || cmake --preset dev
	@cmake --build $(BUILD)

run: build   ## the main job: three commands, each in its own fresh microVM (first time ~6 min, then ~1 min)
	@tests/with-kvm --need linux deploy/demo $(CURDIR)/$(BUILD)

setup-kernel:
	@deploy/install-packages vmpool/guest/kernel/host-packages.txt

test: build setup-kernel ## all tests (first time <= 60 min, 8 CPU-minutes of it the minimal guest kernel; then <= 25 min)
	@deploy/run-tests $(BUILD)

guest-kernel: build setup-kernel ## the minimal guest kernel, from Debian's source: ~8 CPU-minutes, then cached -> build/guest/minimal
	@cmake --build $(BUILD) --target guest-image-minimal

bench: build ## benchmarks: make bench ROWS=restore_shell,reclaim (1 min on hardware, 10 in the node) -> build/bench.json
	@tests/bench/run $(if $(ROWS),ROWS=$(ROWS))

selftest: build ## on real KVM hardware: does Granary keep its promises here? -> build/selftest.json, build/selftest.txt
	@$(BUILD)/bin/granaryctl selftest --hardware --guest $(BUILD)/guest/distro --report $(BUILD)

matrix: build ## granaryd and granary-spawn killed at each named step, REPEAT=n times (default 5; 1 min each); then each process at each phase of a pod
	@$(BUILD)/bin/kill_matrix_test --gtest_repeat=$(or $(REPEAT),5) --gtest_break_on_failure --gtest_brief=1
	@tests/cri/run $(BUILD) granary --gtest_filter=Matrix/* || [ $$? -eq 77 ]

soak: build  ## clones taken and given back while things go wrong: 10 000 tiny, 200 Linux cycles (5 min on hardware, 40 in the node)
	@tests/soak/run

fuzz: setup  ## libFuzzer, each target for FUZZ_SECONDS (default 60) seconds
	@tests/fuzz/run $(or $(FUZZ_SECONDS),60)

asan: setup  ## unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@cmake --preset asan && cmake --build build/asan --target unit-tests corpora tiny-guests && ctest --test-dir build/asan -L 'unit|fuzz' --output-on-failure

clean:       ## remove build/ (the cache of node and kernel stays)
	@tests/node/down 2>/dev/null || true
	@rm -rf $(BUILD)
