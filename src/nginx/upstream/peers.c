/*
 * What of a group's lists only some versions and builds of nginx have.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* 1 if nginx's own locks are taken for the list, which is in shared memory then */

ngx_uint_t
ngx_http_timer_peers_shared(const ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE)
    return peers->shpool != NULL;
#else
    return 0;
#endif
}


void
ngx_http_timer_peers_rlock(ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE)
    ngx_http_upstream_rr_peers_rlock(peers);
#endif
}


void
ngx_http_timer_peers_wlock(ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE)
    ngx_http_upstream_rr_peers_wlock(peers);
#endif
}


void
ngx_http_timer_peers_unlock(ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE)
    ngx_http_upstream_rr_peers_unlock(peers);
#endif
}


/* what changes with the servers that the list has; without "resolve" nothing does */

const ngx_uint_t *
ngx_http_timer_peers_config(const ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE && nginx_version >= 1027003)
    return peers->config;
#else
    return NULL;
#endif
}


/* the templates of servers that are found by "resolve" */

ngx_http_upstream_rr_peer_t *
ngx_http_timer_peers_resolve(const ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE && nginx_version >= 1027003)
    return peers->resolve;
#else
    return NULL;
#endif
}


/* the memory that the lists of a group are in */

void
ngx_http_timer_group_memory(const ngx_http_upstream_srv_conf_t *uscf,
    u_char **start, size_t *size)
{
    *start = NULL;
    *size = 0;

#if (NGX_HTTP_UPSTREAM_ZONE)
    if (uscf->shm_zone) {
        *start = uscf->shm_zone->shm.addr;
        *size = uscf->shm_zone->shm.size;
    }
#endif
}
