/* for bindgen: what threads.rs needs */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_thread_pool.h>
