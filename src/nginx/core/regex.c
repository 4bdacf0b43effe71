/*
 * For regex.rs: "ngx_regex_exec" is a macro with the old PCRE library, which only C can expand.
 */

#include <ngx_config.h>
#include <ngx_core.h>


#if (NGX_PCRE)

ngx_int_t
ngx_http_timer_regex_exec(ngx_regex_t *regex, u_char *data, size_t len)
{
    ngx_str_t  text;

    text.len = len;
    text.data = data;

    return ngx_regex_exec(regex, &text, NULL, 0);
}

#endif
