# "make help" lists what can be made and how it can be steered.

NGINX ?=
NGINX_SOURCE ?=
DESTDIR ?=
export NGINX NGINX_SOURCE DESTDIR

MODULE = ngx_http_timer_module.so

.PHONY: help build

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

## make build      build/ngx_http_timer_module.so, and the build/nginx it belongs to
build:
	@tools/packages build $(if $(NGINX_SOURCE),,$(if $(filter nginx /usr/sbin/nginx,$(NGINX)),distribution))
	@tools/build-module build >/dev/null
