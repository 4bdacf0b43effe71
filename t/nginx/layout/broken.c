/*
 * An nginx in which a run is not possible, for t/nginx/trial.t: internal requests end with what the
 * environment variable BROKEN says, those of clients as ever.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>


static ngx_uint_t   free_n;
static ngx_event_t  later;


static ngx_int_t
content(ngx_http_request_t *r, ngx_http_phase_handler_t *ph)
{
    char  *how;

    how = getenv("BROKEN");

    if (!r->internal || how == NULL) {
        return ngx_http_core_content_phase(r, ph);
    }

    if (ngx_strcmp(how, "hangs") == 0) {
        return NGX_OK;
    }

    if (ngx_strcmp(how, "status") == 0) {
        ngx_http_finalize_request(r, NGX_HTTP_CLOSE);
        return NGX_OK;
    }

    if (ngx_strcmp(how, "descriptor") == 0) {
        (void) close(r->connection->fd);
    }

    if (ngx_strcmp(how, "buffer") == 0) {
        r->connection->need_last_buf = 0;
    }

    return ngx_http_core_content_phase(r, ph);
}


static void
give_back(ngx_event_t *ev)
{
    ngx_cycle->free_connection_n = free_n;
}


static ngx_int_t
init_process(ngx_cycle_t *cycle)
{
    char                       *how;
    ngx_http_phase_handler_t   *ph;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_core_module);

    for (ph = cmcf->phase_engine.handlers; ph->checker; ph++) {
        if (ph->checker == ngx_http_core_content_phase) {
            ph->checker = content;
        }
    }

    how = getenv("BROKEN");

    if (how && ngx_strcmp(how, "connection") == 0) {
        /* all are in use for a second */
        free_n = cycle->free_connection_n;
        cycle->free_connection_n = cycle->reusable_connections_n = 0;

        later.handler = give_back;
        later.data = &later;
        later.log = cycle->log;
        later.cancelable = 1;
        ngx_add_timer(&later, 500);
    }

    return NGX_OK;
}


static ngx_http_module_t  context = {
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
};


ngx_module_t  ngx_http_timer_broken_module = {
    NGX_MODULE_V1,
    &context, NULL, NGX_HTTP_MODULE,
    NULL, NULL, init_process, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};


ngx_module_t *ngx_modules[] = { &ngx_http_timer_broken_module, NULL };
char *ngx_module_names[] = { "ngx_http_timer_broken_module", NULL };
char *ngx_module_order[] = { NULL };
