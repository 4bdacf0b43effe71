/*
 * The bit-fields of a request, for bits.rs: where the compiler that builds nginx has put them.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


#define GET(field)                                                            \
    ngx_uint_t                                                                \
    ngx_http_timer_get_##field(const ngx_http_request_t *r)                   \
    {                                                                         \
        return r->field;                                                      \
    }

#define SET(field)                                                            \
    void                                                                      \
    ngx_http_timer_set_##field(ngx_http_request_t *r, ngx_uint_t value)       \
    {                                                                         \
        r->field = value;                                                     \
    }


GET(count)
GET(buffered)
GET(header_only)

SET(count)
SET(http_major)
SET(http_minor)
SET(http_state)
SET(internal)
SET(keepalive)
SET(limit_rate_after_set)
SET(limit_rate_set)
SET(logged)
SET(stat_reading)
SET(stat_writing)
SET(valid_location)
SET(valid_unparsed_uri)
