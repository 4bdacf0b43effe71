/*
 * The check of nginx's layout as a module of its own: t/nginx/layout.t compiles it with headers that
 * were changed. It refuses the configuration with the name of the structure that differs.
 */

#include "layout.c"


static ngx_int_t
check(ngx_conf_t *cf)
{
    const char  *differs;

    differs = ngx_http_timer_layout(cf);

    if (differs != NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "layout differs: %s", differs);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_http_module_t  context = {
    check, NULL, NULL, NULL, NULL, NULL, NULL, NULL
};


ngx_module_t  ngx_http_timer_layout_module = {
    NGX_MODULE_V1,
    &context, NULL, NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};


ngx_module_t *ngx_modules[] = { &ngx_http_timer_layout_module, NULL };
char *ngx_module_names[] = { "ngx_http_timer_layout_module", NULL };
char *ngx_module_order[] = { NULL };
