# "make help" lists what can be made and what steers it.

NGINX ?=
NGINX_SOURCE ?=
TESTS ?=
PROVE_FLAGS ?=
DESTDIR ?=
PORT ?=
DEBIAN ?=
export NGINX NGINX_SOURCE TESTS PROVE_FLAGS DESTDIR PORT DEBIAN

# A distribution's nginx is built against with its development package.
needed = build $(if $(NGINX_SOURCE),,$(if $(filter nginx /usr/sbin/nginx,$(NGINX)),distribution))
# What only builds names what is missing; what runs something installs it, as "make deps" does.
check = tools/packages $(needed)
deps = tools/packages --install $(needed)

.PHONY: help build run fleet test soak soak-fleet bench lint package install test-asan test-valgrind clean

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

## make deps           what make build, run and test need, by apt-get: as root on Debian. Those two do it
##                     themselves; make build, install and package install nothing, and name what is missing
.PHONY: deps
deps:
	@$(deps) prove
	@tools/packages --install --try test

## make build          build/ngx_http_timer_module.so, and build/nginx that goes with it; for another NGINX
##                     or NGINX_SOURCE in a folder of its own, which it names
build:
	@$(check)
	@tools/build-module build >/dev/null

## make run            nginx in the foreground with nginx-conf/quickstart.conf, until Ctrl-C; it
##                     listens on the ports 8090 to 8093, or PORT to PORT+3
run:
	@$(deps)
	@tools/run

## make fleet          three nginx with nginx-conf/fleet.conf and three etcd in the foreground, until
##                     Ctrl-C; they listen on the ports 8090 to 8101, or PORT to PORT+11
fleet:
	@$(deps) fleet
	@tools/fleet

## make test           the tests of the pure parts, then t/ against the vendored nginx and, where
##                     it is installed with its development package, the distribution's; what needs
##                     root or a program that is not there is skipped, and named at the end
test: deps test-rust
	@tools/test

.PHONY: test-rust
test-rust:
	@$(deps)
	cargo test --locked --no-default-features

## make test-newest    t/ against the newest nginx that Debian's archives carry, with Lua and njs
.PHONY: test-newest
test-newest:
	@tools/packages --install build test newest
	@set -a; newest=$$(tools/nginx-newest) && eval "$$newest" && QUICK=1 SUITES=parallel tools/test

## make test-static    t/ with an nginx into which the module is linked
.PHONY: test-static
test-static:
	@$(deps) test
	@STATIC=1 tools/test

## make test-configure nginx's own build of the module, with as little of nginx as the module can do with
.PHONY: test-configure
test-configure:
	@$(deps) test
	@tools/test-configure

## make test-asan      t/ with nginx under the address sanitizer
## make test-valgrind  t/ with nginx under valgrind
test-asan test-valgrind:
	@tools/packages --install build test $(if $(filter %-valgrind,$@),memory)
	@MEMORY=$(@:test-%=%) tools/test

## make soak           ten minutes of servers that come and go and reloads (SOAK_SECONDS=600)
soak: deps
	@seconds=$${SOAK_SECONDS:-600}; NGINX=$${NGINX:-build/nginx} TESTS=t/long/soak.t PROVE_FLAGS=-v \
	    SOAK_SECONDS=$$seconds TEST_LIMIT=$$((seconds + 300)) tools/test

## make soak-fleet     ten minutes of faults at random on five hosts (FLEET_SECONDS=600, FLEET_SEED)
soak-fleet: deps
	@seconds=$${FLEET_SECONDS:-600}; NGINX=$${NGINX:-build/nginx} TESTS=t/long/fleet.t PROVE_FLAGS=-v \
	    FLEET_SECONDS=$$seconds TEST_LIMIT=$$((seconds + 300)) tools/test

## make bench          what a run, a timer and a takeover cost, into BENCHMARKS.md: takes some minutes
bench:
	@tools/bench --write

## make lint           formatting, clippy, layers, SAFETY comments, Perl and shell syntax
lint:
	@tools/packages --install build test lint
	@tools/lint

## make advisories     known vulnerabilities of the crates: fetches the RustSec database, no part of the tests
.PHONY: advisories
advisories:
	@tools/packages build lint
	@$$(tools/cargo-deny) check advisories

## make package        build/ngx_http_timer_module-VERSION-nginx-VERSION-ARCH.tar.gz
package:
	@$(check) package
	@tools/package

## make test-package   that tarball made twice, in different directories: the same bytes, without their paths
.PHONY: test-package
test-package:
	@$(check) package
	@tools/test-package

## make deb            the Debian package libnginx-mod-http-timer for the distribution's nginx, in build/deb/
.PHONY: deb
deb:
	@tools/packages build distribution deb
	@tools/deb

## make test-deb       that package installed, used, upgraded, removed and purged in a chroot; as root.
##                     DEBIAN=trixie: made there, too, with that Debian's own Rust
.PHONY: test-deb
test-deb:
	@tools/packages --install build chroot
	@tools/test-deb

## make test-oldest-rust  the oldest Rust that will do, Debian 13's, checks all of it in a chroot; as root
.PHONY: test-oldest-rust
test-oldest-rust:
	@tools/packages --install build chroot
	@tools/test-oldest-rust

## make test-image     the Dockerfile carried out in chroots, without an engine; as root
.PHONY: test-image
test-image:
	@tools/packages --install chroot distribution
	@tools/test-image

## make install        the module into that nginx's modules folder, below DESTDIR
install:
	@! command -v cargo >/dev/null || $(check)
	@tools/install

## make clean          removes build/ and target/
clean:
	rm -rf build target

##
## NGINX=/usr/sbin/nginx  this installed nginx instead of the vendored one, with its development
##                        package (Debian: nginx-dev)
## NGINX_SOURCE=DIR       sources of that very version instead; without NGINX, of the nginx that
##                        is installed if it is this version, else an nginx built from them
## TESTS="t/a.t t/b.t"    these files only
## PROVE_FLAGS=-v         for prove
