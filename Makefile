# "make help" lists what can be made and what steers it.

NGINX ?=
NGINX_SOURCE ?=
TESTS ?=
PROVE_FLAGS ?=
DESTDIR ?=
PORT ?=
export NGINX NGINX_SOURCE TESTS PROVE_FLAGS DESTDIR PORT

# A distribution's nginx is built against with its development package.
packages = tools/packages build \
    $(if $(NGINX_SOURCE),,$(if $(filter nginx /usr/sbin/nginx,$(NGINX)),distribution))

.PHONY: help build run test soak bench lint package install test-asan test-valgrind clean

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

## make build          build/ngx_http_timer_module.so, and build/nginx that goes with it
build:
	@$(packages)
	@tools/build-module build >/dev/null

## make run            nginx in the foreground with nginx-conf/quickstart.conf, until Ctrl-C; it
##                     listens on the ports 8090 to 8093, or PORT to PORT+3
run:
	@$(packages)
	@tools/run

## make test           the tests of the pure parts, then t/ against the vendored nginx and, where
##                     it is installed with its development package, the distribution's; what needs
##                     root or a program that is not there is skipped, and named at the end
test: test-rust
	@$(packages) prove
	@tools/packages --try test
	@tools/test

.PHONY: test-rust
test-rust:
	@tools/packages build
	cargo test --locked --no-default-features

## make test-newest    some of t/ (TESTS) against the newest nginx that Debian's archives carry
.PHONY: test-newest
test-newest:
	@tools/packages build test distribution newest
	@set -a; newest=$$(tools/nginx-newest) && eval "$$newest" && tools/test

## make test-asan      t/ with nginx under the address sanitizer
## make test-valgrind  t/ with nginx under valgrind
test-asan test-valgrind:
	@tools/packages build test $(if $(filter %-valgrind,$@),memory)
	@MEMORY=$(@:test-%=%) tools/test

## make soak           ten minutes of servers that come and go and reloads (SOAK_SECONDS=600)
soak:
	@$(packages) prove
	@tools/packages --try test
	@seconds=$${SOAK_SECONDS:-600}; NGINX=$${NGINX:-build/nginx} TESTS=t/serial/soak.t PROVE_FLAGS=-v \
	    SOAK_SECONDS=$$seconds TEST_LIMIT=$$((seconds + 300)) tools/test

## make bench          what a run, a timer and a takeover cost, into BENCHMARKS.md: takes some minutes
bench:
	@tools/bench --write

## make lint           formatting, clippy, layers, SAFETY comments, Perl and shell syntax
lint:
	@tools/packages build test lint
	@tools/lint

## make package        build/ngx_http_timer_module-VERSION-nginx-VERSION-ARCH.tar.gz
package:
	@$(packages)
	@tools/package

## make install        the module into that nginx's modules folder, below DESTDIR
install:
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
