/*
 * Whether the nginx that loads the module lays its structures out as the headers do that the module
 * was built with. The signature of a module does not tell: a distribution may have added a field.
 *
 * Functions of nginx's are called with structures in memory of our own, and what they read and
 * write is compared. All other words of that memory hold the address of a block that is made of
 * its own address, so that a pointer that is read from a wrong place leads there. What is compared
 * first guards what is called later.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include <dlfcn.h>


/* more than any of the structures, and as much again */
#define BLOCK  8192
#define WORDS  (BLOCK / sizeof(void *))


typedef struct {
    void              *z[WORDS];
    void              *c[WORDS];
    void              *read[WORDS];
    void              *write[WORDS];
    void              *r[WORDS];
    void              *main[WORDS];
    void              *loc[WORDS];
    void              *confs[WORDS];
    void              *loc_confs[WORDS];
    ngx_log_t          log;
    void              *behind_log[16];
    ngx_http_log_ctx_t context;
    ngx_uint_t         called;
    void              *argument;
} memory_t;


static memory_t  *memory;


static void
fill(void **words, void *word, ngx_uint_t n)
{
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {
        words[i] = word;
    }
}


static void
refill(void)
{
    ngx_log_t  *log;

    fill(memory->z, memory->z, WORDS);

    /* a log that writes nothing, and an event that is in no tree */
    log = (ngx_log_t *) memory->z;
    log->handler = NULL;
    log->writer = NULL;
    log->next = NULL;
    memory->z[0] = NULL;
    memory->z[1] = NULL;

    fill(memory->c, memory->z, WORDS);
    fill(memory->read, NULL, WORDS);
    fill(memory->write, NULL, WORDS);
    fill(memory->r, memory->z, WORDS);
}


static ngx_int_t
is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}


/* one event of the connection is posted */

static const char *
close_connection(int fd, ngx_uint_t shared)
{
    ngx_uint_t         free_n, reusable_n, gone;
    ngx_queue_t        posted;
    ngx_event_t       *read, *write;
    ngx_connection_t  *c, *first;

    refill();

    c = (ngx_connection_t *) memory->c;
    read = (ngx_event_t *) memory->read;
    write = (ngx_event_t *) memory->write;

    /* around the links of its queue, too */
    fill((void **) &read->queue - 2, memory->z, 8);

    c->read = read;
    c->write = write;
    c->fd = fd;
    c->log = &memory->log;
    c->log_error = NGX_ERROR_INFO;

    /* its neighbours are what it is not */
    c->idle = !shared;
    c->reusable = 0;
    c->close = !shared;
    c->shared = shared;
    c->sendfile = !shared;
    c->sndlowat = !shared;

    read->log = write->log = &memory->log;
    read->active = write->active = 0;
    read->disabled = write->disabled = 0;
    read->timer_set = write->timer_set = 0;
    read->pending_eof = write->pending_eof = 0;
    read->posted = 1;
    write->posted = 0;
    read->closed = write->closed = 0;
    read->channel = write->channel = 0;

    ngx_queue_init(&posted);
    ngx_queue_insert_tail(&posted, &read->queue);

    first = ngx_cycle->free_connections;
    free_n = ngx_cycle->free_connection_n;
    reusable_n = ngx_cycle->reusable_connections_n;

    ngx_close_connection(c);

    gone = ngx_cycle->free_connections == c
           && ngx_cycle->free_connection_n == free_n + 1
           && ngx_cycle->reusable_connections_n == reusable_n;

    ngx_cycle->free_connections = first;
    ngx_cycle->free_connection_n = free_n;
    ngx_cycle->reusable_connections_n = reusable_n;

    if (!gone || c->data != first || c->fd != -1 || is_open(fd) != (ngx_int_t) shared) {
        return "ngx_connection_t";
    }

    if (!ngx_queue_empty(&posted) || read->posted || write->posted
        || !read->closed || !write->closed
        || read->pending_eof || write->pending_eof
        || read->channel || write->channel)
    {
        return "ngx_event_t";
    }

    return NULL;
}


static void
on_timer(ngx_event_t *ev)
{
    memory->called++;
    memory->argument = ev;
}


static ngx_event_t *
event_in_tree(ngx_rbtree_node_t *sentinel, ngx_uint_t cancelable)
{
    ngx_event_t  *ev;

    ngx_rbtree_init(&ngx_event_timer_rbtree, sentinel, ngx_rbtree_insert_timer_value);

    /* other bits are what it is not */
    fill(memory->read, cancelable ? NULL : (void *) -1, WORDS);

    /* in the middle, since nginx counts back from its node in the tree */
    ev = (ngx_event_t *) &memory->read[WORDS / 2];
    ngx_memzero(&ev->timer, sizeof(ngx_rbtree_node_t));

    ev->data = memory->z;
    ev->handler = on_timer;
    ev->index = (ngx_uint_t) on_timer;
    ev->log = &memory->log;
    ev->cancelable = cancelable;
    ev->timer.key = ngx_current_msec;

    ngx_rbtree_insert(&ngx_event_timer_rbtree, &ev->timer);

    return ev;
}


static const char *
events(void)
{
    ngx_int_t           left;
    ngx_event_t        *ev;
    const char         *differs;
    ngx_rbtree_t        tree;
    ngx_rbtree_node_t   sentinel;

    differs = NULL;
    tree = ngx_event_timer_rbtree;

    (void) event_in_tree(&sentinel, 0);
    left = ngx_event_no_timers_left();

    if (left != NGX_AGAIN) {
        differs = "ngx_event_t";
        goto done;
    }

    ev = event_in_tree(&sentinel, 1);

    if (ngx_event_no_timers_left() != NGX_OK) {
        differs = "ngx_event_t";
        goto done;
    }

    ev->error = 0;
    ev->timedout = 0;
    ev->timer_set = 1;
    ev->delayed = 0;
    memory->called = 0;

    ngx_event_expire_timers();

    if (memory->called != 1 || memory->argument != ev
        || ev->timer_set || !ev->timedout || ev->error || ev->delayed)
    {
        differs = "ngx_event_t";
    }

done:

    ngx_event_timer_rbtree = tree;

    return differs;
}


/* how many of nginx's conditions on a buffer hold: it is one to be skipped, or was sent whole */

static ngx_buf_t *
empty_buffer(void)
{
    ngx_memzero(memory->loc, BLOCK);

    return (ngx_buf_t *) memory->loc;
}


static ngx_int_t
is_sent(ngx_buf_t *b, off_t sent)
{
    ngx_chain_t  chain;

    chain.buf = b;
    chain.next = NULL;

    return ngx_chain_update_sent(&chain, sent) == NULL;
}


#define SPECIAL(field)                                                        \
    b = empty_buffer();                                                       \
    b->field = 1;                                                             \
    if (!is_sent(b, 0)) {                                                     \
        return "ngx_buf_t";                                                   \
    }

#define IN_MEMORY(field)                                                      \
    b = empty_buffer();                                                       \
    b->field = 1;                                                             \
    b->pos = text;                                                            \
    b->last = text + 5;                                                       \
    if (!is_sent(b, 5) || b->pos != b->last) {                                \
        return "ngx_buf_t";                                                   \
    }


static const char *
buffers(void)
{
    u_char      text[5];
    ngx_buf_t  *b;

    SPECIAL(flush)
    SPECIAL(sync)
    SPECIAL(last_buf)

    IN_MEMORY(temporary)
    IN_MEMORY(memory)
    IN_MEMORY(mmap)

    b = empty_buffer();
    b->in_file = 1;
    b->file_pos = 3;
    b->file_last = 8;

    if (!is_sent(b, 5) || b->file_pos != 8) {
        return "ngx_buf_t";
    }

    b = empty_buffer();
    b->recycled = 1;
    b->last_in_chain = 1;
    b->last_shadow = 1;
    b->temp_file = 1;

    if (is_sent(b, 0)) {
        return "ngx_buf_t";
    }

    return NULL;
}


static ngx_http_request_t *
empty_request(void)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    ngx_memzero(memory->c, BLOCK);
    ngx_memzero(memory->r, BLOCK);
    ngx_memzero(memory->main, BLOCK);
    ngx_memzero(memory->loc, BLOCK);
    ngx_memzero(memory->confs, BLOCK);
    ngx_memzero(memory->loc_confs, BLOCK);
    ngx_memzero(memory->write, BLOCK);

    c = (ngx_connection_t *) memory->c;
    r = (ngx_http_request_t *) memory->r;

    c->fd = -1;
    c->log = &memory->log;
    c->read = (ngx_event_t *) memory->write;
    c->write = (ngx_event_t *) memory->write;
    r->connection = c;
    r->main = r;
    r->main_conf = memory->confs;
    r->srv_conf = memory->confs;
    r->loc_conf = memory->loc_confs;
    memory->confs[ngx_http_core_module.ctx_index] = memory->main;
    memory->loc_confs[ngx_http_core_module.ctx_index] = memory->loc;
    memory->called = 0;

    return r;
}


static const char *
parsers(void)
{
    ngx_buf_t           *b;
    ngx_http_request_t  *r;

    static u_char  line[] = "GET http://host/path?args HTTP/1.1\r\n";
    static u_char  quoted[] = "/a%41 ";
    static u_char  complex[] = "/a/../b ";

    refill();
    b = empty_buffer();
    b->pos = line;
    b->last = line + sizeof(line) - 1;

    r = (ngx_http_request_t *) memory->r;
    r->state = 0;
    r->args_start = NULL;

    if (ngx_http_parse_request_line(r, b) != NGX_OK
        || b->pos != b->last
        || r->method != NGX_HTTP_GET
        || r->http_version != NGX_HTTP_VERSION_11
        || r->http_major != 1 || r->http_minor != 1
        || r->host_start != line + 11 || r->host_end != line + 15
        || r->uri_start != line + 15 || r->uri_end != line + 25
        || r->args_start != line + 21)
    {
        return "ngx_http_request_t";
    }

    refill();
    r->uri_start = quoted;
    r->uri_end = quoted + sizeof(quoted) - 2;
    r->complex_uri = r->quoted_uri = r->plus_in_uri = r->valid_location = 0;

    if (ngx_http_parse_uri(r) != NGX_OK
        || !r->quoted_uri || r->complex_uri || r->plus_in_uri)
    {
        return "ngx_http_request_t";
    }

    refill();
    r->uri_start = complex;
    r->uri_end = complex + sizeof(complex) - 2;
    r->http_state = r->complex_uri = r->quoted_uri = 0;

    if (ngx_http_parse_uri(r) != NGX_OK
        || !r->complex_uri || r->quoted_uri || r->http_state)
    {
        return "ngx_http_request_t";
    }

    return NULL;
}


static ngx_int_t
checker(ngx_http_request_t *r, ngx_http_phase_handler_t *ph)
{
    memory->called++;
    memory->argument = ph;

    return NGX_OK;
}


static const char *
phases(void)
{
    ngx_http_request_t         *r;
    ngx_http_phase_handler_t    handlers[3];
    ngx_http_core_main_conf_t  *cmcf;

    ngx_memzero(handlers, sizeof(handlers));
    handlers[0].checker = checker;
    handlers[1].checker = checker;

    /* of a client */
    r = empty_request();
    cmcf = (ngx_http_core_main_conf_t *) memory->main;
    cmcf->phase_engine.handlers = handlers;
    cmcf->phase_engine.server_rewrite_index = 1;
    memory->log.action = "checking";
    r->http_version = NGX_HTTP_VERSION_11;
    r->headers_in.content_length_n = 5;
    r->phase_handler = 7;
    r->reading_body = 1;
    r->error_page = 1;

    ngx_http_handler(r);

    if (memory->called != 1 || memory->argument != &handlers[0]
        || r->phase_handler != 0 || memory->log.action != NULL
        || !r->keepalive || !r->lingering_close || r->expect_trailers || r->discard_body
        || !r->valid_location || r->add_uri_to_alias || r->valid_unparsed_uri
        || r->write_event_handler != ngx_http_core_run_phases)
    {
        return "ngx_http_request_t";
    }

    /* an internal one */
    r = empty_request();
    cmcf->phase_engine.handlers = handlers;
    cmcf->phase_engine.server_rewrite_index = 1;
    r->http_version = NGX_HTTP_VERSION_11;
    r->internal = 1;

    ngx_http_handler(r);

    if (memory->called != 1 || memory->argument != &handlers[1]
        || r->phase_handler != 1 || r->keepalive)
    {
        return "ngx_http_request_t";
    }

    /* three references, of which one is given up */
    r = empty_request();
    r->count = 3;

    ngx_http_finalize_request(r, NGX_DONE);

    if (r->count != 2) {
        return "ngx_http_request_t";
    }

    return NULL;
}


/* what is buffered is written later; two references, so that nothing else than that is done */

static const char *
buffered(ngx_uint_t bit)
{
    ngx_http_request_t  *r;

    r = empty_request();
    r->count = 2;
    r->buffered = bit;
    r->connection->write->ready = 1;
    r->connection->write->delayed = 1;

    ngx_http_finalize_request(r, NGX_OK);

    if (r->http_state != NGX_HTTP_WRITING_REQUEST_STATE || r->done || r->count != 2) {
        return "ngx_http_request_t";
    }

    return NULL;
}


static ngx_int_t
on_log(ngx_http_request_t *r)
{
    memory->called++;

    return NGX_OK;
}


static void
on_cleanup(void *data)
{
    memory->argument = data;
}


static const char *
free_request(ngx_uint_t logged)
{
    ngx_atomic_t              **gauge[2], *shared[2], number[2];
    ngx_uint_t                  i;
    ngx_http_cleanup_t          cleanup;
    ngx_http_request_t         *r;
    ngx_http_handler_pt         handler;
    ngx_http_core_main_conf_t  *cmcf;

    r = empty_request();

    r->pool = ngx_create_pool(NGX_MIN_POOL_SIZE, &memory->log);
    if (r->pool == NULL) {
        return NULL;
    }

    handler = on_log;
    cmcf = (ngx_http_core_main_conf_t *) memory->main;
    cmcf->phases[NGX_HTTP_LOG_PHASE].handlers.elts = &handler;
    cmcf->phases[NGX_HTTP_LOG_PHASE].handlers.nelts = 1;

    cleanup.handler = on_cleanup;
    cleanup.data = r;
    cleanup.next = NULL;
    memory->argument = NULL;
    memory->context.request = r;
    memory->log.data = &memory->context;
    r->cleanup = &cleanup;
    r->done = !logged;
    r->logged = logged;
    r->headers_out.status = logged ? 200 : 0;
    r->connection->sent = logged;

    /* only an nginx with stub_status has the gauges, in memory that workers share */
    gauge[0] = dlsym(RTLD_DEFAULT, "ngx_stat_reading");
    gauge[1] = dlsym(RTLD_DEFAULT, "ngx_stat_writing");

    if (gauge[0] && gauge[1]) {
        for (i = 0; i < 2; i++) {
            number[i] = 1;
            shared[i] = *gauge[i];
            *gauge[i] = &number[i];
        }

        r->stat_reading = !logged;
        r->stat_writing = logged;
        r->disable_not_modified = r->stat_processing = 1;
    }

    ngx_http_free_request(r, 204);

    if (gauge[0] && gauge[1]) {
        *gauge[0] = shared[0];
        *gauge[1] = shared[1];

        if (number[0] != logged || number[1] != !logged) {
            return "ngx_http_request_t";
        }
    }

    if (memory->called != !logged || memory->argument != r
        || r->pool != NULL || r->cleanup != NULL
        || r->headers_out.status != (ngx_uint_t) (logged ? 200 : 204)
        || memory->context.request != NULL)
    {
        return "ngx_http_request_t";
    }

    if (!r->connection->destroyed || r->connection->error) {
        return "ngx_connection_t";
    }

    return NULL;
}


static ngx_int_t
body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    memory->called++;
    memory->argument = in->buf;

    return NGX_ERROR;
}


static ngx_int_t
header_filter(ngx_http_request_t *r)
{
    memory->called += 10;

    return NGX_OK;
}


/* a header that was sent is not sent again, and what consists of a header has no body */

static const char *
response(ngx_pool_t *pool, ngx_uint_t header_sent, ngx_uint_t header_only)
{
    ngx_int_t                         rc;
    ngx_str_t                         type;
    ngx_http_request_t               *r;
    ngx_http_complex_value_t          value;
    ngx_http_output_body_filter_pt    top_body;
    ngx_http_output_header_filter_pt  top_header;

    top_header = ngx_http_top_header_filter;
    top_body = ngx_http_top_body_filter;
    ngx_http_top_header_filter = header_filter;
    ngx_http_top_body_filter = body_filter;

    ngx_str_set(&type, "text/plain");
    ngx_memzero(&value, sizeof(ngx_http_complex_value_t));
    ngx_str_set(&value.value, "body");

    r = empty_request();
    r->pool = pool;
    r->header_sent = header_sent;
    r->header_only = header_only;
    r->chunked = r->expect_trailers = !header_only;
    r->request_output = r->expect_tested = !header_sent;
    r->discard_body = 1;

    rc = ngx_http_send_response(r, 200, &type, &value);

    ngx_http_top_header_filter = top_header;
    ngx_http_top_body_filter = top_body;

    if (memory->called != (ngx_uint_t) (header_sent ? 0 : header_only ? 10 : 11)
        || rc != (header_only && !header_sent ? NGX_OK : NGX_ERROR)
        || r->headers_out.status != 200 || r->headers_out.content_length_n != 4
        || r->headers_out.content_type.data != type.data
        || r->headers_out.content_type_len != type.len)
    {
        return "ngx_http_request_t";
    }

    return NULL;
}


/* nginx's own buffers, and those bits of a connection that sending looks at */

static const char *
sending(ngx_pool_t *pool)
{
    ngx_buf_t                       *b;
    ngx_http_request_t              *r;
    ngx_http_output_body_filter_pt   top;

    top = ngx_http_top_body_filter;
    ngx_http_top_body_filter = body_filter;

    r = empty_request();
    r->pool = pool;
    (void) ngx_http_send_special(r, NGX_HTTP_LAST|NGX_HTTP_FLUSH);

    ngx_http_top_body_filter = top;

    if (memory->called != 1) {
        return "ngx_http_request_t";
    }

    if (!r->connection->error || r->connection->timedout || r->connection->destroyed) {
        return "ngx_connection_t";
    }

    b = memory->argument;
    if (!b->last_buf || !b->flush || b->last_in_chain || b->sync || b->temporary) {
        return "ngx_buf_t";
    }

    ngx_http_top_body_filter = body_filter;

    r = empty_request();
    r->pool = pool;
    r->main = NULL;
    (void) ngx_http_send_special(r, NGX_HTTP_LAST);

    ngx_http_top_body_filter = top;

    if (memory->called != 1) {
        return "ngx_http_request_t";
    }

    b = memory->argument;
    if (b->last_buf || b->flush || !b->last_in_chain || !b->sync || b->last_shadow) {
        return "ngx_buf_t";
    }

    b = ngx_create_temp_buf(pool, 64);
    if (b != NULL
        && (b->start != b->pos || b->start != b->last || b->end != b->start + 64
            || !b->temporary || b->memory || b->mmap))
    {
        return "ngx_buf_t";
    }

    r = empty_request();
    r->connection->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    if (ngx_tcp_nodelay(r->connection) != NGX_OK) {
        return "ngx_connection_t";
    }

    /* no descriptor */
    r->connection->tcp_nodelay = NGX_TCP_NODELAY_UNSET;
    r->connection->sendfile = r->connection->sndlowat = 1;
    r->connection->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;
    if (ngx_tcp_nodelay(r->connection) == NGX_OK) {
        return "ngx_connection_t";
    }

    return NULL;
}


static ngx_chain_t *
send_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    memory->called++;
    memory->argument = in ? in->buf : NULL;

    return NULL;
}


/* the empty last buffer is sent if the connection asks for it, and not while its writing waits */

static const char *
last_buffer(ngx_pool_t *pool, ngx_uint_t need, ngx_uint_t delayed)
{
    ngx_buf_t            b;
    ngx_chain_t          out;
    ngx_http_request_t  *r;

    ngx_memzero(&b, sizeof(ngx_buf_t));
    b.last_buf = 1;
    out.buf = &b;
    out.next = NULL;

    r = empty_request();
    r->pool = pool;
    r->pipeline = r->chunked = !need;
    r->connection->send_chain = send_chain;
    r->connection->tcp_nopush = need ? NGX_TCP_NOPUSH_UNSET : 3;
    r->connection->need_last_buf = need;
    r->connection->write->delayed = delayed;
    r->connection->write->timer_set = r->connection->write->deferred_accept = !delayed;

    (void) ngx_http_write_filter(r, &out);

    if (memory->called != (need && !delayed)) {
        return delayed ? "ngx_event_t" : "ngx_connection_t";
    }

    if (r->connection->buffered != (delayed ? NGX_HTTP_WRITE_BUFFERED : 0)) {
        return "ngx_connection_t";
    }

    if (!memory->called) {
        return NULL;
    }

    if (memory->argument != &b) {
        return "ngx_buf_t";
    }

    if (!r->limit_rate_set || r->limit_rate_after_set || r->limit_req_status) {
        return "ngx_http_request_t";
    }

    return NULL;
}


static u_char *
log_handler(ngx_log_t *log, u_char *buf, size_t len)
{
    memory->called++;

    return buf;
}


static void
log_writer(ngx_log_t *log, ngx_uint_t level, u_char *buf, size_t len)
{
    memory->called += 10;
}


static const char *
logs(void)
{
    memory->called = 0;
    memory->log.log_level = NGX_LOG_NOTICE;
    memory->log.handler = log_handler;
    memory->log.writer = log_writer;

    ngx_log_error_core(NGX_LOG_NOTICE, &memory->log, 0, "checking");

    ngx_memzero(&memory->log, sizeof(ngx_log_t));

    return memory->called == 11 ? NULL : "ngx_log_t";
}


typedef struct {
    ngx_module_t  *module;
    const char    *structure;
    const char    *directive;
    size_t         offset;
} directive_t;


#define LOCATION(directive, field)                                            \
    { &ngx_http_core_module, "ngx_http_core_loc_conf_t", directive,           \
      offsetof(ngx_http_core_loc_conf_t, field) }

#define SERVER(directive, field)                                              \
    { &ngx_http_core_module, "ngx_http_core_srv_conf_t", directive,           \
      offsetof(ngx_http_core_srv_conf_t, field) }

#define MAIN(directive, field)                                                \
    { &ngx_http_core_module, "ngx_http_core_main_conf_t", directive,          \
      offsetof(ngx_http_core_main_conf_t, field) }

#define CORE(directive, field)                                                \
    { &ngx_core_module, "ngx_core_conf_t", directive,                         \
      offsetof(ngx_core_conf_t, field) }


/* nginx's own tables of directives name the places of their fields */

static directive_t  directives[] = {
    LOCATION("client_max_body_size", client_max_body_size),
    LOCATION("send_timeout", send_timeout),
    LOCATION("send_lowat", send_lowat),
    LOCATION("log_subrequest", log_subrequest),
    LOCATION("types_hash_max_size", types_hash_max_size),
    LOCATION("types_hash_bucket_size", types_hash_bucket_size),
    SERVER("connection_pool_size", connection_pool_size),
    SERVER("request_pool_size", request_pool_size),
    SERVER("merge_slashes", merge_slashes),
    SERVER("underscores_in_headers", underscores_in_headers),
    MAIN("variables_hash_max_size", variables_hash_max_size),
    MAIN("variables_hash_bucket_size", variables_hash_bucket_size),
    MAIN("server_names_hash_max_size", server_names_hash_max_size),
    CORE("daemon", daemon),
    CORE("master_process", master),
    CORE("worker_shutdown_timeout", shutdown_timeout),
    CORE("working_directory", working_directory),
    CORE("pid", pid),
    CORE("lock_file", lock_file),
};


static const char *
configurations(void)
{
    size_t          i;
    ngx_command_t  *cmd;

    for (i = 0; i < sizeof(directives) / sizeof(directives[0]); i++) {

        for (cmd = directives[i].module->commands; cmd->name.len; cmd++) {

            if (ngx_strcmp(cmd->name.data, directives[i].directive) == 0) {
                break;
            }
        }

        if (cmd->name.len && cmd->offset != directives[i].offset) {
            return directives[i].structure;
        }
    }

    return NULL;
}


#if (NGX_PCRE)
#define EXACT_LOCATIONS  4
#else
#define EXACT_LOCATIONS  3
#endif

/* without a name, named, exact, with a regular expression where there are any; and two prefixes or one */

static const char *
locations(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_queue_t                *queue;
    ngx_http_core_loc_conf_t   *clcf;
    ngx_http_location_queue_t  *lq;

    for (i = 0; i < 5; i++) {
        ngx_memzero(memory->loc, BLOCK);

        clcf = (ngx_http_core_loc_conf_t *) memory->loc;
        ngx_str_set(&clcf->name, "/a");

        switch (i) {
        case 0:
            clcf->noname = 1;
            break;

        case 1:
            clcf->named = 1;
            break;

        case 2:
            clcf->exact_match = 1;
            break;

#if (NGX_PCRE)
        case 3:
            clcf->regex = (void *) memory->z;
            break;
#endif

        default:
            clcf->lmt_excpt = 1;
            clcf->noregex = 1;
            clcf->auto_redirect = 1;
            clcf->loc_conf = memory->confs;
            clcf->handler = on_log;
            break;
        }

        queue = NULL;

        if (ngx_http_add_location(cf, &queue, clcf) != NGX_OK) {
            return NULL;
        }

        lq = (ngx_http_location_queue_t *) ngx_queue_head(queue);

        if (lq->name != &clcf->name
            || (lq->exact == clcf) != (i < EXACT_LOCATIONS)
            || (lq->inclusive == clcf) != (i >= EXACT_LOCATIONS))
        {
            return "ngx_http_core_loc_conf_t";
        }
    }

    return NULL;
}


#if (NGX_HTTP_GZIP && NGX_PCRE)

/* the bit-field behind "auto_redirect", which nothing looks at before a configuration was read */

static const char *
gzip_disable(ngx_conf_t *cf)
{
    ngx_str_t                  words[2];
    ngx_conf_t                 conf;
    ngx_array_t                args;
    ngx_command_t             *cmd;
    ngx_http_core_loc_conf_t  *clcf;

    ngx_memzero(memory->loc, BLOCK);
    clcf = (ngx_http_core_loc_conf_t *) memory->loc;

    ngx_str_set(&words[0], "gzip_disable");
    ngx_str_set(&words[1], "msie6");
    args.elts = words;
    args.nelts = 2;
    conf = *cf;
    conf.args = &args;

    for (cmd = ngx_http_core_module.commands; cmd->name.len; cmd++) {

        if (ngx_strcmp(cmd->name.data, words[0].data) != 0) {
            continue;
        }

        if (cmd->set(&conf, cmd, clcf) != NGX_CONF_OK
            || clcf->gzip_disable_msie6 != 1
            || clcf->auto_redirect || clcf->noregex || clcf->gzip_disable_degradation)
        {
            return "ngx_http_core_loc_conf_t";
        }
    }

    return NULL;
}

#endif


static const char *
others(ngx_conf_t *cf)
{
    void                      **confs;
    ngx_http_variable_value_t  *v;

    confs = (void **) cf->cycle->conf_ctx;
    if (confs[ngx_http_module.index] != cf->ctx || cf->pool != cf->cycle->pool) {
        return "ngx_conf_t";
    }

    v = &ngx_http_variable_true_value;
    if (v->len != 1 || !v->valid || v->no_cacheable || v->not_found || v->data[0] != '1') {
        return "ngx_variable_value_t";
    }

    return NULL;
}


static const char *
structures(ngx_conf_t *cf)
{
    int          fd;
    const char  *differs;
    ngx_pool_t  *pool;

    if ((differs = others(cf)) != NULL
        || (differs = logs()) != NULL
        || (differs = configurations()) != NULL)
    {
        return differs;
    }

    if ((differs = events()) != NULL) {
        return differs;
    }

    fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);

    if (fd != -1) {
        differs = close_connection(fd, 1);

        if (differs == NULL) {
            differs = close_connection(fd, 0);
        }

        if (is_open(fd)) {
            (void) close(fd);
        }

        if (differs != NULL) {
            return differs;
        }
    }

    if ((differs = buffers()) != NULL
        || (differs = locations(cf)) != NULL
        || (differs = parsers()) != NULL
#if (NGX_HTTP_GZIP && NGX_PCRE)
        || (differs = gzip_disable(cf)) != NULL
#endif
        || (differs = phases()) != NULL
        || (differs = buffered(1)) != NULL
        || (differs = buffered(8)) != NULL
        || (differs = free_request(1)) != NULL
        || (differs = free_request(0)) != NULL)
    {
        return differs;
    }

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, &memory->log);
    if (pool == NULL) {
        return NULL;
    }

    if ((differs = response(pool, 0, 0)) == NULL
        && (differs = response(pool, 0, 1)) == NULL
        && (differs = response(pool, 1, 0)) == NULL
        && (differs = sending(pool)) == NULL
        && (differs = last_buffer(pool, 1, 0)) == NULL
        && (differs = last_buffer(pool, 0, 0)) == NULL)
    {
        differs = last_buffer(pool, 1, 1);
    }

    ngx_destroy_pool(pool);

    return differs;
}


/* the name of a structure that differs, or null; called in preconfiguration */

const char *
ngx_http_timer_layout(ngx_conf_t *cf)
{
    const char  *differs;

    memory = ngx_calloc(sizeof(memory_t), cf->log);
    if (memory == NULL) {
        return NULL;
    }

    differs = structures(cf);

    ngx_free(memory);
    memory = NULL;

    return differs;
}
